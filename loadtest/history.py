"""A run's history: what a service logged and what its clients saw, as JSON lines in one file.

Every line has `from` (`service` or `client`), `at` (seconds since the run began, when the line was taken down, by one
clock) and `event`. Lines of one side are in the order in which that side wrote them; across the sides `at` is only
about right. The service's lines are its log at the level debug, field by field. The clients' are these:

| event | fields |
|---|---|
| `run.configured` | `seed`, `profiles`: name -> {`workers`, `surge`, `slots`, `queue_budget_s`, `retry_ratio`, \
`retry_reserve`, `attempts`}, `seats`: tenant -> its cap |
| `request.sent` | `request` (our number), `tenant`, `stream`, `priority`, `deadline_ms`, `chunks`, `repeat`, `tail`, \
`fault`, `client` (how it behaves: `reads`, `leaves`, `slow`) |
| `request.headed` | `request`, `status`, `id` (the service's own: `x-request-id`) |
| `request.ended` | `request`, `how`, `code` of the error, and what was received: `chars`, `sha256`, `stamps`, `head` |
| `fault.injected` | `kind`, `worker` if it concerns one |
| `run.quiet` | `gauges`, `children`, `rss_bytes` and `descriptors`, each beside its value `_before` |
| `service.exited` | `code`, `processes_left`, `files_left` |

A request's `how` is `answered` (whole and well-formed, a stream to its [DONE]), `refused` (an error, before or inside a
stream), `left` (the client went away), `broken` (the connection ended too soon), `malformed` or `overdue` (no end in a
long time). The expected text is `chunks` times `repeat`, and `tail`. An answer says in stamps, one in each delta, which
turn of which worker it comes from (`stamp` in loadtest.script); they are taken out before the text is digested.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

SERVICE = "service"
CLIENT = "client"
HEAD_CHARS = 80

_STAMP = re.compile(r"<([^<>]*)>")
_encode = msgspec.json.encode


class Line(NamedTuple):
    """One line; `fields` are all but the three that every line has, `number` counts from 1."""

    number: int
    source: str
    at: float
    event: str
    fields: Mapping[str, Any]

    def __str__(self) -> str:
        common = {"from": self.source, "at": round(self.at, 4), "event": self.event}
        return _encode(common | dict(self.fields)).decode()


class Received(NamedTuple):
    """What a client got, without its stamps: how much, which, by whom, and how it begins."""

    chars: int
    sha256: str
    stamps: tuple[str, ...]
    head: str


def received(text: str) -> Received:
    """The digest of a stamped text. What was not stamped stays in it, and makes it another text."""
    plain = _STAMP.sub("", text)
    stamps = tuple(dict.fromkeys(_STAMP.findall(text)))
    return Received(len(plain), digest(plain), stamps, plain[:HEAD_CHARS])


def digest(text: str) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def stamp_of(worker: str) -> str:
    """How the answers of `profile/slot.epoch` are stamped, but for the turn's number: by the name of its home."""
    profile, _, incarnation = worker.rpartition("/")
    return f"{profile}-{incarnation.replace('.', '-')}"


class Recorder:
    """Takes a history down; it is kept in `lines`, and written to `file` if there is one."""

    def __init__(self, file: BinaryIO | None = None) -> None:
        self.lines: list[Line] = []
        self._file = file
        self._began_at = time.perf_counter()

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self._began_at

    def tell(self, event: str, **fields: Any) -> None:
        """A line of the clients' side."""
        self._take(CLIENT, event, fields)

    def hear(self, raw: bytes) -> Line:
        """A line that the service logged; one that is no JSON object is an event of its own, `log.unreadable`."""
        try:
            fields = msgspec.json.decode(raw, type=dict[str, Any])
            event = str(fields.pop("event"))
        except (msgspec.MsgspecError, KeyError):
            event, fields = "log.unreadable", {"raw": raw.decode(errors="replace")[:1000]}
        return self._take(SERVICE, event, fields)

    def _take(self, source: str, event: str, fields: Mapping[str, Any]) -> Line:
        line = Line(len(self.lines) + 1, source, self.now, event, fields)
        self.lines.append(line)
        if self._file is not None:
            self._file.write(str(line).encode() + b"\n")
        return line


def read(path: Path) -> list[Line]:
    """The lines of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: a line is not of a history.
    """
    with path.open("rb") as file:
        return parse(file)


def parse(raw: Iterable[bytes]) -> list[Line]:
    """Likewise, of lines."""
    lines = []
    for number, text in enumerate(raw, 1):
        try:
            fields = msgspec.json.decode(text, type=dict[str, Any])
            line = Line(number, str(fields.pop("from")), float(fields.pop("at")), str(fields.pop("event")), fields)
        except (msgspec.MsgspecError, KeyError) as error:
            raise ValueError(f"line {number} is not of a history: {error}") from error
        lines.append(line)
    return lines

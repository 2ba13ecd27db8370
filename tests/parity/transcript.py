"""What a scenario looked like from outside, as text that is the same each time, and what differs between two."""

from __future__ import annotations

import difflib
import json
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from service import __version__

GOLDEN = Path(__file__).parent / "golden"
CONTEXT_LINES = 3
LINE_CHARS = 120

Json = dict[str, Any]


class Asked(NamedTuple):
    """A request as a client sent it; `body` is None where there is none."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Json | None


class Answered(NamedTuple):
    """What came back, as far as the client stayed to read it."""

    status: int
    headers: Mapping[str, str]
    raw: bytes


# --- text --------------------------------------------------------------------------------------------------------


def asked_text(asked: Asked) -> str:
    """The request."""
    lines = [f">>> {asked.method} {asked.path}", *(f"{name}: {value}" for name, value in asked.headers.items())]
    if asked.body is not None:
        lines += ["", _pretty(asked.body)]
    return "\n".join(lines)


def answered_text(answered: Answered, *, version: str, keeps_alive: bool) -> str:
    """The answer without what differs each time; `version` is the CLI's, which has to be in the fingerprint.

    Comments that only keep a connection alive are left out unless they are what it is about: how many there are depends
    on the machine.
    """
    headers = sorted((name.lower(), value) for name, value in answered.headers.items())
    lines = [f"<<< {answered.status}"]
    lines += [f"{name}: {_VARYING.get(name, value)}" for name, value in headers if _is_told(name)]
    body = answered.raw.decode()
    if answered.headers.get("Content-Type", "").startswith("text/event-stream"):
        body = "\n\n".join(_in_order(_without_keepalives(body, keeps_alive)))
    elif body:
        body = _pretty(json.loads(body))
    text = "\n".join([*lines, "", body]).rstrip("\n")
    text = text.replace(f"fp_codex_{version}", "fp_codex_<version>")
    for pattern, placeholder in _PLACEHOLDERS:
        text = pattern.sub(placeholder, text)
    return text


def model_text(body: Json, *, is_cut: bool) -> str:
    """What reached the model, without what the CLI adds for its own books."""
    told = {name: _without_ids(body[name]) for name in _TOLD_TO_MODEL if body.get(name)}
    return (
        "--- the model was asked" + (", and left before its answer was over" if is_cut else "") + f"\n{_pretty(told)}"
    )


class Ids:
    """The ids of responses and, in them, of items, as the numbers in which they came: `resp_<1>` is the first."""

    def __init__(self) -> None:
        self._numbers: dict[str, str] = {}

    def told(self, text: str) -> str:
        """The text as it is each time."""
        return _OF_RESPONSE.sub(lambda found: self._numbers.setdefault(found[0], f"<{len(self._numbers) + 1}>"), text)

    def meant(self, text: str) -> str:
        """A text with numbers, as it is this time."""
        for found, number in self._numbers.items():
            text = text.replace(f"_{number}", f"_{found}")
        return text


_VARYING = {
    "x-request-id": "<id>",
    "retry-after": "<seconds>",
    "retry-after-ms": "<milliseconds>",
    "x-ratelimit-reset-requests": "<duration>",
    "x-ratelimit-reset-tokens": "<duration>",
}
_UNTOLD = frozenset({"date", "content-length", "transfer-encoding", "server", "vary"})
_TOLD_TO_MODEL = ("model", "instructions", "input", "tools", "reasoning", "text")
_PLACEHOLDERS = (
    (re.compile(r"chatcmpl-[0-9a-f]{24}"), "chatcmpl-<id>"),
    (re.compile(r'("(?:created|created_at|completed_at)": ?)\d{10}\b'), r"\1<time>"),
    (re.compile(r"^: keepalive \d{13}$", re.MULTILINE), ": keepalive <time>"),
)
_OF_RESPONSE = re.compile(r"(?<=_)[0-9a-f]{48}(?![0-9a-f])")
_KEEPALIVES = re.compile(r"(?:^: keepalive \d{13}\n\n)+", re.MULTILINE)
_CHOICE = re.compile(r'^data: \{[^\[]*"choices":\[\{"index":(\d+),"delta":\{[^}]')


def _is_told(header: str) -> bool:
    """Those for browsers are the same everywhere: tests/service/test_cors.py."""
    return header not in _UNTOLD and not header.startswith("access-control-")


def _without_keepalives(stream: str, keeps_alive: bool) -> str:
    return _KEEPALIVES.sub(lambda found: found[0].split("\n\n")[0] + "\n\n" if keeps_alive else "", stream)


def _in_order(stream: str) -> list[str]:
    """The events; those of several choices, which come as they come, one choice after the other."""
    events = stream.removesuffix("\n\n").split("\n\n")
    pieces = [place for place, event in enumerate(events) if _is_piece(event)]
    if pieces:
        first, last = pieces[0], pieces[-1] + 1
        events[first:last] = sorted(events[first:last], key=_choice_of)
    return events


def _is_piece(event: str) -> bool:
    """It belongs to one choice, and says something."""
    return _CHOICE.match(event) is not None and '"delta":{"role"' not in event


def _choice_of(event: str) -> int:
    found = _CHOICE.match(event)
    return int(found[1]) if found else 0


def _without_ids(value: Any) -> Any:
    """The same without the ids that the CLI gives to items."""
    if isinstance(value, dict):
        return {name: _without_ids(each) for name, each in value.items() if name != "id"}
    return [_without_ids(each) for each in value] if isinstance(value, list) else value


def _pretty(value: Any, indent: str = "") -> str:
    """JSON, each part on one line if it fits there."""
    line = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(line) <= LINE_CHARS or not isinstance(value, dict | list) or not value:
        return line
    deeper = indent + "  "
    if isinstance(value, dict):
        parts = [f"{json.dumps(name, ensure_ascii=False)}: {_pretty(each, deeper)}" for name, each in value.items()]
    else:
        parts = [_pretty(each, deeper) for each in value]
    inside = ",\n".join(deeper + part for part in parts)
    begin, end = "{}" if isinstance(value, dict) else "[]"
    return f"{begin}\n{inside}\n{indent}{end}"


# --- files -------------------------------------------------------------------------------------------------------


def path_of(name: str) -> Path:
    """The golden transcript of the scenario `name`."""
    return GOLDEN / f"{name}.txt"


def read(name: str) -> str | None:
    """The golden transcript without its head; None if there is none."""
    path = path_of(name)
    return path.read_text().partition("\n\n")[2] if path.exists() else None


def provenance(name: str) -> str:
    """The line of a golden transcript that says what recorded it and when."""
    return path_of(name).read_text().splitlines()[1]


def write(name: str, says: str, text: str, *, version: str, today: str) -> bool:
    """Keep `text` as the golden transcript; whether anything but the day is new."""
    python = ".".join(platform.python_version_tuple()[:2])
    by = f"codex-completions {__version__}, Codex CLI {version}, Python {python}"
    if read(name) == text and by in provenance(name):
        return False
    path_of(name).write_text(f"# {says}\n# Recorded on {today} by {by}.\n\n{text}")
    return True


def differences(found: Mapping[str, str], *, version: str) -> dict[str, str]:
    """What is not as it was recorded, by name: only of those that differ."""
    diffs = {name: difference(name, text, version=version) for name, text in found.items()}
    return {name: text for name, text in diffs.items() if text}


def difference(name: str, found: str, *, version: str) -> str:
    """What is not as it was recorded, as a unified diff; empty if nothing is."""
    golden = read(name)
    if golden is None:
        return f"{name}: there is no golden transcript; python -m tests.parity --record makes it\n"
    return diff(golden, found, f"golden/{name}.txt", f"Codex CLI {version}")


def diff(before: str, after: str, before_name: str, after_name: str) -> str:
    """The lines that differ, with what is around them."""
    lines: Sequence[str] = list(
        difflib.unified_diff(
            before.splitlines(), after.splitlines(), before_name, after_name, n=CONTEXT_LINES, lineterm=""
        )
    )
    return "".join(f"{line}\n" for line in lines)

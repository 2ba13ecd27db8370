"""How log lines are written, ours and those of the libraries: JSON on stderr, bounded, and no prompt or answer in them.

Writing never waits and never fails, whatever becomes of stderr: a disk that is full, or a reader that has stopped.
"""

from __future__ import annotations

import atexit
import logging
import select
import sys
import threading
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import MutableMapping
from datetime import UTC, datetime
from os import write
from types import TracebackType
from typing import Any

import msgspec
import structlog

from pool.errors import IllegalTransition

DETAILS = logging.getLogger("codex-completions")
"""Never written to: it is asked, for a twentieth of what structlog takes to drop a line, whether details are logged."""

MAX_PENDING_BYTES = 1024 * 1024
"""Of lines that stderr does not take now."""
LAST_WORDS_S = 1.0
"""How long the end of the process waits for whoever reads stderr."""

_encode = msgspec.json.Encoder(enc_hook=str).encode


class LineWriter:
    """Lines to a file descriptor: at once if it takes them, else as soon as it does, as many as there is room for.

    A pipe that is ready takes `PIPE_BUF` bytes without blocking, so nothing is changed about the descriptor: others may
    share it.

    Source: POSIX, `write` and `poll`.
    """

    def __init__(self, fd: int, room_bytes: int = MAX_PENDING_BYTES) -> None:
        self.dropped = 0
        """Lines for which there was no room, ever."""
        self._fd = fd
        self._room_bytes = room_bytes
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def msg(self, line: bytes) -> None:
        """Write this line, or keep it, or count it."""
        if self._pending_bytes + len(line) > self._room_bytes:
            self.dropped += 1
        else:
            self._pending.append(line + b"\n")
            self._pending_bytes += len(line) + 1
        self.flush()

    debug = info = warning = error = critical = msg

    def flush(self, timeout_s: float = 0.0) -> None:
        """Write what is taken within this time."""
        end_at = time.monotonic() + timeout_s
        while self._pending and self._is_ready(end_at - time.monotonic()):
            line = self._pending[0]
            try:
                count = write(self._fd, line[: select.PIPE_BUF])
            except OSError:  # no space, or nobody there: this line is lost, and the next may be luckier
                self.dropped += 1
                count = len(line)
            self._pending_bytes -= count
            if count < len(line):
                self._pending[0] = line[count:]
            else:
                self._pending.popleft()

    def _is_ready(self, timeout_s: float) -> bool:
        try:
            return bool(self._poll.poll(max(0.0, timeout_s * 1000)))
        except OSError:
            return False


_writers: dict[int, LineWriter] = {}


def writer(fd: int = 2) -> LineWriter:
    """Where lines go that are written to this descriptor; there is one for each."""
    if fd not in _writers:
        _writers[fd] = LineWriter(fd)
        atexit.register(_writers[fd].flush, LAST_WORDS_S)
    return _writers[fd]


def forget(fd: int) -> None:
    """Nothing more will be written to this descriptor."""
    found = _writers.pop(fd, None)
    if found is not None:
        atexit.unregister(found.flush)


def configure_logging(level: str, fd: int = 2) -> None:
    """JSON lines on stderr, ours and those of the libraries."""
    number = logging.getLevelNamesMapping()[level.upper()]
    DETAILS.setLevel(number)
    structlog.configure(
        processors=[_rendered],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: writer(fd),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_LibraryLines()], level=max(number, logging.WARNING), force=True)


def _rendered(_logger: Any, method: str, line: MutableMapping[str, Any]) -> bytes:
    """One step for what the library does in three: every request comes through here."""
    line["level"] = method
    line["timestamp"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    try:
        return _encode(line)
    except UnicodeEncodeError:  # half of a surrogate pair, in a file's name for example
        return _encode({name: ascii(value) for name, value in line.items()})


class Repeats:
    """Keeps lines that say the same from filling the log: of each kind `first` are said within `window_s`.

    How many were not is told when that time is over; beyond `most` kinds at a time all others are one.
    """

    def __init__(self, first: int = 50, window_s: float = 60.0, most: int = 1000) -> None:
        self._first = first
        self._window_s = window_s
        self._most = most
        self._kinds: OrderedDict[tuple[object, ...], tuple[float, int]] = OrderedDict()
        """Until when it is counted, and how often it was said or not; in the order of their ends."""

    def lets(self, now: float, *kind: object) -> bool:
        """Whether one more line of this kind is said."""
        if kind not in self._kinds and len(self._kinds) >= self._most:
            kind = ("others",)
        until, count = self._kinds.get(kind, (now + self._window_s, 0))
        self._kinds[kind] = (until, count + 1)
        return count < self._first

    def over(self, now: float) -> list[tuple[tuple[object, ...], int]]:
        """The kinds whose time is over, of which lines were not said, and how many."""
        told = []
        while self._kinds and (first := next(iter(self._kinds.items())))[1][0] <= now:
            kind, (_, count) = first
            del self._kinds[kind]
            if count > self._first:
                told.append((kind, count - self._first))
        return told


class _LibraryLines(logging.Handler):
    """What libraries log, as lines like ours."""

    def __init__(self) -> None:
        super().__init__()
        self._repeats = Repeats()

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        now = time.monotonic()
        for (name, _), times in self._repeats.over(now):
            log.warning("log.repeated", of="library.logged", logger=name, times=times)
        if self._repeats.lets(now, record.name, record.msg):
            error = record.exc_info[1] if record.exc_info else None
            log.log(
                record.levelno,
                "library.logged",
                logger=record.name,
                message=record.getMessage().partition("\n")[0][:500],  # asyncio's next lines quote the exception
                **error_fields(error),
            )


def error_fields(error: BaseException | None) -> dict[str, Any]:
    """An exception without its message, which may quote a prompt: its type and where it was raised."""
    if error is None:
        return {}
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    fields: dict[str, Any] = {
        "error": type(error).__name__,
        "where": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
    if isinstance(error, IllegalTransition):
        fields["story"] = error.story.splitlines()
    return fields


def catch_strays() -> None:
    """From now on what nobody catches is a line like all others, too, and its message is not told."""

    def crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            return
        structlog.get_logger().critical("service.crashed", **error_fields(error.with_traceback(trace)))

    def thread_crashed(stray: threading.ExceptHookArgs) -> None:
        name = stray.thread.name if stray.thread is not None else None
        structlog.get_logger().error("thread.crashed", thread=name, **error_fields(stray.exc_value))

    def unraisable(stray: sys.UnraisableHookArgs) -> None:
        structlog.get_logger().error("exception.ignored", **error_fields(stray.exc_value))

    logging.captureWarnings(capture=True)
    sys.excepthook, threading.excepthook, sys.unraisablehook = crashed, thread_crashed, unraisable

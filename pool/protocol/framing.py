"""Newline framing with a limit that costs one line, never the pipe."""

from __future__ import annotations

from typing import NamedTuple

MAX_LINE_BYTES = 32 * 1024 * 1024
"""The prompt is echoed in one line, so a line can be as large as the largest request."""

HEAD_BYTES = 4096
"""How much of an oversized line is kept: enough to find out whose it was."""


class Oversized(NamedTuple):
    """A line that was too long and was skipped; `head` is its beginning."""

    head: bytes


class LineSplitter:
    """Turns chunks of bytes into lines without their newline."""

    __slots__ = ("_limit", "_parts", "_size", "_skipping")

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._skipping: bytes | None = None

    @property
    def pending_bytes(self) -> int:
        """Bytes held of a line whose newline has not come yet."""
        return self._size

    def feed(self, data: bytes) -> list[bytes | Oversized]:
        """The lines that `data` completes, in order."""
        out: list[bytes | Oversized] = []
        if not self._parts and self._skipping is None:
            lines = data.split(b"\n")
            rest = lines.pop()
            if lines and max(map(len, lines)) > self._limit:
                out.extend(line if len(line) <= self._limit else Oversized(line[:HEAD_BYTES]) for line in lines)
            else:
                out.extend(lines)
            self._keep(rest)
            return out
        newline = data.find(b"\n")
        if newline < 0:
            self._keep(data)
            return out
        self._keep(data[:newline])
        if self._skipping is not None:
            out.append(Oversized(self._skipping))
        else:
            out.append(b"".join(self._parts))
        self._parts.clear()
        self._size = 0
        self._skipping = None
        rest = data[newline + 1 :]
        if rest:
            out.extend(self.feed(rest))
        return out

    def _keep(self, piece: bytes) -> None:
        """Hold a piece of an unfinished line, or only count it once the line is known to be too long."""
        if not piece or self._skipping is not None:
            return
        self._parts.append(piece)
        self._size += len(piece)
        if self._size > self._limit:
            self._skipping = b"".join(self._parts)[:HEAD_BYTES]
            self._parts.clear()
            self._size = 0

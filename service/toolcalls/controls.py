"""How many of the calls of an answer are shown, what of the text after them, and when nothing more is waited for."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from service.toolcalls.aggregator import Called, Piece, Said

MAX_TAIL_CHARS = 1 << 20
"""Text after a call that is kept until another call shows that it was not the last. What is more is dropped."""


class StopMode(StrEnum):
    """When an answer that calls has called enough."""

    BURST = "burst"
    """When no call has come for a while."""
    FIRST = "first"
    """With its first call."""


class Controls(msgspec.Struct, frozen=True):
    """What an operator may set. Source: the predecessor's PROXY_STOP_AFTER_TOOLS and its companions.

    `stops` ends an answer after its calls; FIRST and a limit do so, too. `max_calls` 0: no limit. `drops_tail`: no text
    after the last call. `drops_equal`: no call twice.
    """

    stops: bool = False
    mode: StopMode = StopMode.BURST
    grace_s: float = 0.3
    drops_tail: bool = False
    max_calls: int = 0
    drops_equal: bool = False


class Gate:
    """Give it what the aggregator tells of one choice, calls whole, and it gives what is shown of that.

    From `full_at` on, a monotonic instant, nothing more is shown and the turn may as well be interrupted. `call_count`
    is of those shown; `is_truncated`: a call was left out that was none of those shown before.
    """

    __slots__ = ("_controls", "_limit", "_seen", "_tail", "_tail_chars", "call_count", "full_at", "is_truncated")

    def __init__(self, controls: Controls) -> None:
        self._controls = controls
        self._limit = 1 if controls.mode is StopMode.FIRST else controls.max_calls
        self._seen: set[tuple[str | None, str]] = set()
        self._tail: list[Piece] = []
        self._tail_chars = 0
        self.call_count = 0
        self.is_truncated = False
        self.full_at: float | None = None

    def is_full(self, now: float) -> bool:
        """Nothing more is shown."""
        return self.full_at is not None and now >= self.full_at

    def take(self, pieces: Iterable[Piece], now: float) -> list[Piece]:
        """What is shown of the next pieces, which came at `now`."""
        shown: list[Piece] = []
        for piece in pieces:
            if isinstance(piece, Called):
                self._call(piece, now, shown)
            elif not self.is_full(now):
                self._say(piece, shown)
        return shown

    def _say(self, piece: Said, shown: list[Piece]) -> None:
        if not (self._controls.drops_tail and self.call_count):
            shown.append(piece)
        elif self._tail_chars + len(piece.text) <= MAX_TAIL_CHARS:
            self._tail.append(piece)
            self._tail_chars += len(piece.text)

    def _call(self, call: Called, now: float, shown: list[Piece]) -> None:
        key = call.name, call.arguments
        if self._controls.drops_equal and key in self._seen:
            return
        if self.is_full(now) or 0 < self._limit <= self.call_count:
            self.is_truncated = True
            self.full_at = now if self.full_at is None else min(now, self.full_at)
            return
        if self._controls.drops_equal:
            self._seen.add(key)
        shown += self._tail
        self._tail, self._tail_chars = [], 0
        shown.append(msgspec.structs.replace(call, index=self.call_count))
        self.call_count += 1
        if self._controls.mode is StopMode.FIRST:
            self.full_at = now
        elif self._controls.stops or self._limit:
            self.full_at = now + self._controls.grace_s

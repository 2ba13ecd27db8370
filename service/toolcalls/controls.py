"""How many of the calls of an answer are shown, what of the text after them, and when nothing more is waited for."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from pool.events import TextDelta, ToolCall

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
    after the last call. `drops_equal`: no call twice. `delimiter` is what is written between two blocks.
    """

    stops: bool = False
    mode: StopMode = StopMode.BURST
    grace_s: float = 0.3
    drops_tail: bool = False
    max_calls: int = 0
    drops_equal: bool = False
    delimiter: str = ""


class Gate:
    """Give it the text and the calls of one choice, in order, and it gives what is shown of them.

    `is_full`: nothing more is shown, and the turn may as well be interrupted. Until then `full_at`, a monotonic
    instant, is when it will be if no call comes; whoever has waited for one until then calls `tick`. What has come
    before that is shown, however late it is read. `call_count` is of the calls shown; `is_truncated`: one was left out
    that was none of those shown before.
    """

    __slots__ = (
        "_controls",
        "_limit",
        "_seen",
        "_tail",
        "_tail_chars",
        "call_count",
        "full_at",
        "is_full",
        "is_truncated",
    )

    def __init__(self, controls: Controls, *, is_parallel: bool = True) -> None:
        self._controls = controls
        self._limit = controls.max_calls if is_parallel and controls.mode is StopMode.BURST else 1
        self._seen: set[tuple[str, str]] = set()
        self._tail: list[TextDelta | ToolCall] = []
        self._tail_chars = 0
        self.call_count = 0
        self.is_truncated = False
        self.is_full = False
        self.full_at: float | None = None

    def say(self, piece: TextDelta) -> bool:
        """Whether this text is shown now; else it is when another call comes, or never."""
        if self.is_full:
            return False
        if not (self._controls.drops_tail and self.call_count):
            return True
        if piece.text and self._tail_chars + len(piece.text) <= MAX_TAIL_CHARS:
            self._tail.append(piece)
            self._tail_chars += len(piece.text)
        return False

    def call(self, call: ToolCall, now: float) -> list[TextDelta | ToolCall]:
        """What is shown now that this call has come."""
        key = call.name, call.arguments
        if self._controls.drops_equal and key in self._seen:
            return []
        if self.is_full or 0 < self._limit <= self.call_count:
            self.is_truncated = True
            self.is_full = self.full_at is not None
            return []
        if self._controls.drops_equal:
            self._seen.add(key)
        shown, self._tail, self._tail_chars = [*self._tail, call], [], 0
        self.call_count += 1
        if self._controls.mode is StopMode.FIRST:
            self.is_full = True
        elif self._controls.stops or self._controls.max_calls:
            self.full_at = now + self._controls.grace_s
        return shown

    def tick(self, now: float) -> None:
        """Nothing has come that was not given yet."""
        self.is_full = self.is_full or (self.full_at is not None and now >= self.full_at)

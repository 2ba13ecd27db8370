"""A turn's audience that remembers, and holds the turn to the contract of `TurnSink`."""

from __future__ import annotations

from collections.abc import Sequence

from pool.events import Finish, ReasoningDelta, Tap, TextDelta, ToolCall, TurnEnd, TurnEvent


class RecordingSink:
    """Everything that was pushed, and the one end."""

    tap: Tap | None = None

    def __init__(self) -> None:
        self.events: list[TurnEvent] = []
        self.ended: TurnEnd | None = None

    def push(self, events: Sequence[TurnEvent]) -> None:
        assert self.ended is None, f"{events} after the end"
        self.events += events

    def end(self, end: TurnEnd) -> None:
        assert self.ended is None, f"{end} after {self.ended}"
        assert (end.finish is None) is not (end.fault is None), end
        self.ended = end

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def reasoning(self) -> str:
        """The reasoning summary so far."""
        return "".join(event.text for event in self.events if isinstance(event, ReasoningDelta))

    @property
    def calls(self) -> list[ToolCall]:
        """The tool calls so far."""
        return [event for event in self.events if isinstance(event, ToolCall)]

    @property
    def outcome(self) -> str | None:
        """The end in one word."""
        if self.ended is None:
            return None
        return str(
            self.ended.finish if isinstance(self.ended.finish, Finish) else self.ended.fault and self.ended.fault.kind
        )

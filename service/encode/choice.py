"""One choice of an answer: what it shows of its turn's events, and how it ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pool.events import Finish, TextDelta, ToolCall, TurnEvent, Usage
from scheduler.model import Ended, Outcome
from service.api.chat import ChatRequest
from service.api.errors import from_outcome, unfollowed
from service.encode.usage import counted

Piece = TextDelta | ToolCall


class Choice:
    """Give it all events of one turn with `take`, and the outcome with `end`; then `finish` says why it ended.

    `text` and `calls` are the answer, where `keeps` says that it is needed once more; `call_count` and `is_truncated`
    (calls were left out) are told in any case.
    """

    __slots__ = ("_chars", "_keeps", "_request", "_texts", "call_count", "calls", "finish", "is_truncated", "usage")

    def __init__(self, request: ChatRequest, *, keeps: bool) -> None:
        self._request = request
        self._keeps = keeps
        self._texts: list[str] = []
        self._chars = 0
        self.calls: list[ToolCall] = []
        self.call_count = 0
        self.is_truncated = False
        self.finish = ""
        self.usage: Usage | None = None

    @property
    def text(self) -> str:
        """What it has said."""
        return "".join(self._texts)

    @property
    def kept_chars(self) -> int:
        """How much of it is kept."""
        return self._chars if self._keeps else 0

    def take(self, events: Iterable[TurnEvent]) -> list[Piece]:
        """What is shown of the next events. Reasoning is not."""
        shown: list[Piece] = []
        for event in events:
            if isinstance(event, TextDelta):
                self._chars += len(event.text)
                shown.append(event)
                if self._keeps:
                    self._texts.append(event.text)
            elif isinstance(event, ToolCall):
                if self.call_count and not self._request.tools.is_parallel:
                    self.is_truncated = True
                    continue
                self._chars += len(event.name) + len(event.arguments)
                self.call_count += 1
                shown.append(event)
                if self._keeps:
                    self.calls.append(event)
        return shown

    def end(self, outcome: Outcome) -> None:
        """Nothing more will come.

        Raises:
            ApiError: it is no answer, or not one that the client can use.
        """
        error = from_outcome(outcome)
        if error is not None:
            raise error
        assert isinstance(outcome, Ended)  # noqa: S101 - `from_outcome` knows all others as errors
        self.usage = outcome.end.usage
        finish = outcome.end.finish or Finish.STOP
        if self.call_count and finish not in (Finish.LENGTH, Finish.CONTENT_FILTER):
            self.finish = "function_call" if self._request.tools.is_legacy else "tool_calls"
            return
        self.finish = finish
        if self._request.tools.must_call and finish is Finish.STOP:
            raise unfollowed("tool_choice_not_followed", "the model did not call a function")

    def counted(self) -> tuple[Usage, bool]:
        """Its tokens, and whether they are an estimate."""
        return counted(self.usage, prompt_chars=self._request.prompt_chars, completion_chars=self._chars)


def total(choices: Sequence[Choice]) -> tuple[Usage, bool]:
    """The tokens of all of them, and whether any is an estimate."""
    usages, estimates = zip(*(choice.counted() for choice in choices), strict=True)
    names = Usage.__struct_fields__
    return Usage(*(sum(getattr(usage, name) for usage in usages) for name in names)), any(estimates)


def call_counts(choices: Sequence[Choice]) -> tuple[int, bool]:
    """How many calls there are in all, and whether any was left out."""
    return sum(choice.call_count for choice in choices), any(choice.is_truncated for choice in choices)

"""One choice of an answer: what it shows of its turn's events, and how it ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from pool.events import Finish, Reasoning, ReasoningDelta, TextDelta, ToolCall, TurnEvent, Usage
from scheduler.model import Ended, Outcome
from service.api.errors import from_outcome, unfollowed
from service.encode.cut import Cut
from service.encode.terms import Terms
from service.encode.usage import counted

Piece = TextDelta | ToolCall | ReasoningDelta | Reasoning
"""The last two only where the terms say so."""


class Choice:
    """Give it all events of one turn with `take`, and the outcome with `end`; then `finish` says why it ended.

    `is_full` once it needs nothing more of its turn, which may as well be interrupted. `text` and `calls` are the
    answer, where it is needed once more: by the terms, or because it is checked. `call_count` and `is_truncated`
    (calls were left out) are told in any case.
    """

    __slots__ = (
        "_call_chars",
        "_chars",
        "_cut",
        "_keeps",
        "_terms",
        "_texts",
        "call_count",
        "calls",
        "finish",
        "is_truncated",
        "usage",
    )

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._keeps = bool(terms.output.check) or terms.keeps
        self._texts: list[str] = []
        self._chars = 0
        self._call_chars = 0
        self._cut: Cut | None = None
        if terms.stop or terms.max_tokens is not None:
            self._cut = Cut(terms.stop, terms.max_tokens)
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
        return self._chars + self._call_chars if self._keeps else 0

    @property
    def is_full(self) -> bool:
        """Nothing more of the turn will be shown."""
        return self._cut is not None and self._cut.verdict is not None

    def take(self, events: Iterable[TurnEvent]) -> list[Piece]:
        """What is shown of the next events.

        Raises:
            ApiError: a function was called that must not be.
        """
        shown: list[Piece] = []
        for event in events:
            if isinstance(event, TextDelta):
                self._say(event if self._cut is None else TextDelta(self._cut.feed(event.text)), shown)
            elif self.is_full:
                continue
            elif isinstance(event, ToolCall):
                self._call(event, shown)
            elif self._terms.shows_reasoning and self._flush(shown):
                shown.append(event)
        return shown

    def end(self, outcome: Outcome) -> list[Piece]:
        """What is shown last. Nothing more will come.

        Raises:
            ApiError: it is no answer, or not one that the client can use.
        """
        shown: list[Piece] = []
        error = from_outcome(outcome)
        if isinstance(outcome, Ended):
            self.usage = outcome.end.usage
        if error is None and self._cut is not None:
            self._say(TextDelta(self._cut.flush()), shown)
        if self._cut is not None and self._cut.verdict is not None:
            self.finish = self._cut.verdict  # whatever became of the turn then
        elif error is not None:
            raise error
        else:
            assert isinstance(outcome, Ended)  # noqa: S101 - `from_outcome` knows all others as errors
            self.finish = outcome.end.finish or Finish.STOP
        self._judge()
        return shown

    def _say(self, piece: TextDelta, shown: list[Piece]) -> None:
        if piece.text:
            self._chars += len(piece.text)
            shown.append(piece)
            if self._keeps:
                self._texts.append(piece.text)

    def _flush(self, shown: list[Piece]) -> bool:
        """Say what is held back, before something else is shown; whether anything else may be."""
        if self._cut is not None:
            self._say(TextDelta(self._cut.flush()), shown)
        return not self.is_full

    def _call(self, call: ToolCall, shown: list[Piece]) -> None:
        if self.call_count and not self._terms.tools.is_parallel:
            self.is_truncated = True
            return
        if call.name in self._terms.tools.withheld:
            raise unfollowed("tool_choice_not_followed", "the model called a function that it was not offered")
        if not self._flush(shown):
            return
        self._call_chars += len(call.name) + len(call.arguments)
        self.call_count += 1
        shown.append(call)
        if self._keeps:
            self.calls.append(call)

    def _judge(self) -> None:
        """An answer that was cut off is what it is; of any other the client may expect what it asked for."""
        if self.finish in (Finish.LENGTH, Finish.CONTENT_FILTER):
            return
        if self.call_count:
            self.finish = "function_call" if self._terms.tools.is_legacy else "tool_calls"
        elif self._terms.tools.must_call:
            raise unfollowed("tool_choice_not_followed", "the model did not call a function")
        elif (check := self._terms.output.check) and not self.is_full and not _is_what_was_asked(check, self.text):
            raise unfollowed("response_format_not_followed", "the model did not answer in JSON as it was asked to")

    def counted(self) -> tuple[Usage, bool]:
        """Its tokens, and whether they are an estimate."""
        tokens = 0 if self._cut is None else self._cut.tokens
        chars = self._call_chars + (self._chars if self._cut is None else 0)
        return counted(self.usage, prompt_chars=self._terms.prompt_chars, tokens=tokens, chars=chars)


def total(choices: Sequence[Choice]) -> tuple[Usage, bool]:
    """The tokens of all of them, and whether any is an estimate."""
    usages, estimates = zip(*(choice.counted() for choice in choices), strict=True)
    names = Usage.__struct_fields__
    return Usage(*(sum(getattr(usage, name) for usage in usages) for name in names)), any(estimates)


def call_counts(choices: Sequence[Choice]) -> tuple[int, bool]:
    """How many calls there are in all, and whether any was left out."""
    return sum(choice.call_count for choice in choices), any(choice.is_truncated for choice in choices)


_JSON = {"json": msgspec.json.Decoder(), "object": msgspec.json.Decoder(dict)}


def _is_what_was_asked(check: str, text: str) -> bool:
    try:
        _JSON[check].decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True

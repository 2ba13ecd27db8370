"""One choice of an answer: what it shows of its turn's events, and how it ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from pool.events import Finish, Reasoning, ReasoningDelta, TextDelta, ToolCall, TurnEvent, Usage
from scheduler.model import Ended, Outcome
from service.api.errors import from_outcome, too_long, unfollowed
from service.encode.cut import Cut
from service.encode.terms import Terms
from service.encode.usage import counted, summed
from service.toolcalls.aggregator import Said, TooLargeError, ToolCallAggregator
from service.toolcalls.canon import to_obsidian_xml
from service.toolcalls.controls import Gate

Piece = TextDelta | ToolCall | ReasoningDelta | Reasoning
"""The last two only where the terms say so."""


class WrittenCall(ToolCall, frozen=True):
    """A call that the model wrote into its text, as `block`."""

    block: str


class Choice:
    """Give it all events of one turn with `take`, and the outcome with `end`; then `finish` says why it ended.

    `is_full` once it needs nothing more of its turn, which may as well be interrupted. Until then it may be so at
    `full_at`, a monotonic instant: `take` when nothing has come by then. `text` and `calls` are the answer, where it is
    needed once more: by the terms, or because it is checked. `call_count` and `is_truncated` (calls were left out) are
    told in any case.

    What comes passes, in this order: blocks in the text are found, the text is cut, and calls are counted.
    """

    __slots__ = (
        "_block_chars",
        "_call_chars",
        "_calls",
        "_chars",
        "_cut",
        "_gate",
        "_keeps",
        "_number",
        "_reads_blocks",
        "_terms",
        "_texts",
        "_thought_chars",
        "call_count",
        "calls",
        "finish",
        "usage",
    )

    def __init__(self, terms: Terms, number: int = 0) -> None:
        self._terms = terms
        self._number = number
        self._keeps = bool(terms.output.check) or terms.keeps
        self._texts: list[str] = []
        self._chars = 0
        self._call_chars = 0
        self._thought_chars = 0
        self._block_chars = 0
        self._reads_blocks = terms.reads_blocks
        self._calls: ToolCallAggregator | None = None
        """Most answers call nothing."""
        self._gate = Gate(terms.controls, is_parallel=terms.tools.is_parallel)
        self._cut: Cut | None = None
        if terms.stop or terms.max_tokens is not None:
            self._cut = Cut(terms.stop, terms.max_tokens)
        self.calls: list[ToolCall] = []
        self.call_count = 0
        self.finish = ""
        self.usage: Usage | None = None

    @property
    def text(self) -> str:
        """What it has said."""
        return "".join(self._texts)

    @property
    def kept_chars(self) -> int:
        """How much of it is kept."""
        if not self._keeps:
            return 0
        return self._chars + self._call_chars + self._block_chars + self._thought_chars

    @property
    def is_truncated(self) -> bool:
        """Calls were left out."""
        return self._gate.is_truncated or (self._calls is not None and self._calls.is_truncated(self._number))

    @property
    def is_full(self) -> bool:
        """Nothing more of the turn will be shown."""
        return self._gate.is_full or (self._cut is not None and self._cut.verdict is not None)

    @property
    def full_at(self) -> float | None:
        """When it will be full if nothing comes; None when it is, or will not be."""
        full_at = self._gate.full_at
        return None if full_at is None or self.is_full else full_at

    def take(self, events: Iterable[TurnEvent], now: float) -> list[Piece]:
        """What is shown of the next events, which are all that has come by `now`.

        Raises:
            ApiError: a function was called that must not be, or calls are too long.
        """
        shown: list[Piece] = []
        is_plain = self._cut is None and not self._reads_blocks
        for event in events:
            if is_plain and isinstance(event, TextDelta) and not self.call_count:  # nearly always: `_say`, in short
                self._show_text(event, shown)
            elif isinstance(event, TextDelta) and not self._reads_blocks:
                self._say(event, shown)
            elif isinstance(event, TextDelta | ToolCall):
                self._find(event, now, shown)
            elif self._terms.shows_reasoning:
                self._flush(shown)
                if not self.is_full:
                    self._thought_chars += len(event.text if isinstance(event, ReasoningDelta) else event.encrypted)
                    shown.append(event)
        if self._gate.full_at is not None and not self.is_full:
            self._gate.tick(now)
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
        if error is None:
            self._flush(shown)
        if self.is_full:
            self.finish = self._why_full  # whatever became of the turn then
        elif error is not None:
            raise error
        else:
            assert isinstance(outcome, Ended)  # noqa: S101 - `from_outcome` knows all others as errors
            self.finish = outcome.end.finish or Finish.STOP
        self._judge()
        return shown

    # --- inside, in the order in which everything passes -----------------------------------------------------

    def _find(self, event: TextDelta | ToolCall, now: float, shown: list[Piece]) -> None:
        """What is text and what is a call."""
        if self._calls is None:
            self._calls = ToolCallAggregator(names=self._terms.names if self._reads_blocks else None)
        delta = event.text if isinstance(event, TextDelta) else event
        try:
            found = self._calls.ingest_delta(delta, choice=self._number)
        except TooLargeError:
            raise too_long() from None
        for piece in found:
            if isinstance(piece, Said):
                self._say(TextDelta(piece.text), shown)
            elif piece.id is not None and piece.name is not None:  # else it is told once more
                self._call(_whole(piece.id, piece.name, piece.arguments, piece.block), now, shown)

    def _say(self, piece: TextDelta, shown: list[Piece]) -> None:
        if self._cut is not None and not self._gate.is_full:
            piece = TextDelta(self._cut.feed(piece.text))
        if not self.call_count or self._gate.say(piece):  # only text after a call is in question
            self._show_text(piece, shown)

    def _call(self, call: ToolCall, now: float, shown: list[Piece]) -> None:
        self._flush_cut(shown)
        if self._cut is not None and self._cut.verdict is not None:
            return
        for piece in self._gate.call(call, now):
            if isinstance(piece, TextDelta):
                self._show_text(piece, shown)
            else:
                self._show_call(piece, shown)

    def _flush(self, shown: list[Piece]) -> None:
        """What is held back comes before whatever comes now."""
        for held in self._calls.flush(self._number) if self._calls is not None else ():
            if isinstance(held, Said):
                self._say(TextDelta(held.text), shown)
        self._flush_cut(shown)

    def _flush_cut(self, shown: list[Piece]) -> None:
        if self._cut is not None and not self._gate.is_full:
            piece = TextDelta(self._cut.flush())
            if self._gate.say(piece):
                self._show_text(piece, shown)

    def _show_text(self, piece: TextDelta, shown: list[Piece]) -> None:
        if piece.text:
            self._chars += len(piece.text)
            shown.append(piece)
            if self._keeps:
                self._texts.append(piece.text)

    def _show_call(self, call: ToolCall, shown: list[Piece]) -> None:
        if call.name in self._terms.tools.withheld:
            raise unfollowed("tool_choice_not_followed", "the model called a function that it was not offered")
        block = call.block if isinstance(call, WrittenCall) else ""
        self._call_chars += len(block) or len(call.name) + len(call.arguments)
        shown.append(call)
        if self._keeps:
            self.calls.append(call)
        if self._terms.writes_blocks:
            between = self._terms.controls.delimiter if self.call_count else ""
            text = between + (block or to_obsidian_xml(call.name, call.arguments))
            self._block_chars += len(text)
            shown.append(TextDelta(text))
            if self._keeps:
                self._texts.append(text)
        self.call_count += 1

    # --- the end ---------------------------------------------------------------------------------------------

    @property
    def _why_full(self) -> Finish:
        is_unseen = self._terms.controls.drops_tail and self.call_count  # what was cut comes after the last call
        if self._cut is None or self._cut.verdict is None or is_unseen:
            return Finish.TOOL_CALLS
        return self._cut.verdict

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
    return summed(usages), any(estimates)


def call_counts(choices: Sequence[Choice]) -> tuple[int, bool]:
    """How many calls there are in all, and whether any was left out."""
    return sum(choice.call_count for choice in choices), any(choice.is_truncated for choice in choices)


def _whole(call_id: str, name: str, arguments: str, block: str | None) -> ToolCall:
    if block is None:
        return ToolCall(call_id, name, arguments)
    return WrittenCall(call_id, name, arguments, block)


_JSON = {"json": msgspec.json.Decoder(), "object": msgspec.json.Decoder(dict)}


def _is_what_was_asked(check: str, text: str) -> bool:
    try:
        _JSON[check].decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True

"""The calls of a turn, put together from whatever tells of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec

from pool.events import ToolCall
from service.toolcalls.canon import to_obsidian_xml
from service.toolcalls.scanner import MAX_BLOCK_CHARS, USE_TOOL, Scanner, extract_use_tool_blocks

MAX_CALLS = 128
MAX_CHOICES = 128
MAX_ARGUMENTS_CHARS = 8 << 20
"""Of all calls of a choice together."""

_IDS = ("call_id", "tool_call_id", "toolCallId", "id", "item_id")
"""Where the id is, the one that an answer to the call must name first."""

_PLACE = "place "
"""Before what a call is known by until another one takes it; an id is for good."""


class TooLargeError(Exception):
    """The calls of a turn are more than may be kept."""


class Said(msgspec.Struct, frozen=True):
    """The next piece of a choice's text; no part of a block."""

    choice: int
    text: str


class Called(msgspec.Struct, frozen=True):
    """The next piece of a call: `id` and `name` in its first, and in each what is appended to its arguments.

    `block` is the text of a call that was written into the text, exactly as it came; such a call is whole.
    """

    choice: int
    index: int
    arguments: str
    id: str | None = None
    name: str | None = None
    block: str | None = None


Piece = Said | Called


class Call(msgspec.Struct, frozen=True):
    """A call as far as it is known. `index` is its place among the calls of its choice."""

    index: int
    id: str
    name: str
    arguments: str
    block: str | None = None


class ToolCallAggregator:
    """Give it all that comes with `ingest_delta` and `ingest_message`: they say what is new, in order.

    `flush` when a text has ended. Nothing that they give is ever changed or taken back. A call that is told twice, in
    the structure and in the text, or again as a whole, is one call. Calls after the first `max_calls` of a choice are
    left out, and `is_truncated` says so. A block that calls anything but `names` (None: any) is text.
    """

    __slots__ = ("_choices", "_max_block_chars", "_max_calls", "_names", "_tags")

    def __init__(
        self,
        *,
        max_calls: int = MAX_CALLS,
        max_block_chars: int = MAX_BLOCK_CHARS,
        names: Collection[str] | None = None,
    ) -> None:
        self._names = names
        self._max_calls = max_calls
        self._max_block_chars = max_block_chars
        self._tags: tuple[str, ...] = (USE_TOOL,)
        self._choices: dict[int, _Choice] = {}

    def register_text_pattern(self, tag: str) -> None:
        """From the next turn on `<tag>` begins a block as `<use_tool>` does."""
        if tag not in self._tags:
            self._tags = (*self._tags, tag)

    def ingest_delta(self, delta: str | ToolCall | Mapping[str, Any], *, choice: int = 0) -> tuple[Piece, ...]:
        """What is new. `delta` is text, a whole call, a chunk or delta of a chat, or an event of the Responses API.

        `choice` counts where the delta names none.

        Raises:
            TooLargeError: it is more than may be kept.
        """
        if isinstance(delta, str):
            return tuple(self._of(choice).say(delta))
        if isinstance(delta, ToolCall):
            entry = {"id": delta.call_id, "function": {"name": delta.name, "arguments": delta.arguments}}
            return tuple(self._of(choice).call(_Fragment.read(entry, is_whole=True, is_only=True)))
        return tuple(self._ingest(delta, choice, is_message=False))

    def ingest_message(self, message: Mapping[str, Any], *, choice: int = 0, emit: bool = True) -> tuple[Piece, ...]:
        """What is new in a whole message or completion: what was already told of it is not told again.

        Its arguments replace those of the same call in `snapshot`; what was told of them cannot be taken back. Without
        `emit` nothing is told, now or later.

        Raises:
            TooLargeError: it is more than may be kept.
        """
        pieces = tuple(self._ingest(message, choice, is_message=True))
        return pieces if emit else ()

    def flush(self, choice: int | None = None) -> tuple[Piece, ...]:
        """The text that might have become a block and did not, as its text has ended; of one choice or of all."""
        numbers = sorted(self._choices) if choice is None else [choice]
        return tuple(piece for number in numbers for piece in self._of(number).flush())

    def snapshot(self, choice: int = 0) -> tuple[Call, ...]:
        """The calls of a choice so far, in the order in which they began."""
        found = self._choices.get(choice)
        return () if found is None else tuple(call.seen() for call in found.calls)

    def has_calls(self, choice: int = 0) -> bool:
        """Whether there is any."""
        return choice in self._choices and bool(self._choices[choice].calls)

    def is_truncated(self, choice: int = 0) -> bool:
        """Whether calls were left out."""
        return choice in self._choices and self._choices[choice].is_truncated

    def reset_turn(self) -> None:
        """As new, but for the registered patterns."""
        self._choices.clear()

    # --- inside ----------------------------------------------------------------------------------------------

    def _of(self, number: int) -> _Choice:
        if number not in self._choices:
            if not 0 <= number < MAX_CHOICES:
                raise TooLargeError(f"there is no choice {number}")
            self._choices[number] = _Choice(
                number, self._max_calls, Scanner(self._tags, self._max_block_chars, self._names)
            )
        return self._choices[number]

    def _ingest(self, event: Mapping[str, Any], choice: int, *, is_message: bool) -> Iterator[Piece]:
        choice = _integer(event, "choice_index", "choiceIndex", "index", default=choice)
        if "choices" in event:
            for number, each in enumerate(_mappings(event["choices"])):
                yield from self._ingest(each, number if is_message else choice, is_message=is_message)
            return
        if str(event.get("type", "")).startswith("response."):
            yield from self._of(choice).respond(event)
            return
        for key in ("delta", "message"):
            if isinstance(inner := event.get(key), Mapping):
                yield from self._take(inner, choice, is_message=is_message or key == "message")
                return
        yield from self._take(event, choice, is_message=is_message)

    def _take(self, message: Mapping[str, Any], number: int, *, is_message: bool) -> Iterator[Piece]:
        choice = self._of(number)
        entries = [
            _Fragment.read(entry, is_whole=is_message, place=place if is_message else None)
            for place, entry in enumerate(_mappings(message.get("tool_calls")))
        ]
        if isinstance(legacy := message.get("function_call"), Mapping):
            entries.append(_Fragment.read({"function": legacy}, is_whole=is_message, keys=(f"{_PLACE}function",)))
        # The calls of a message are made first, so that its text is known to repeat them; they are told after it.
        called = [piece for entry in entries for piece in choice.call(entry, flushes=False)] if is_message else []
        if isinstance(text := message.get("content"), str):
            yield from choice.say(text[choice.heard_chars :] if is_message else text)
            if is_message:
                yield from choice.flush()
        yield from called
        if not is_message:
            for entry in entries:
                yield from choice.call(entry)


class _Fragment(msgspec.Struct, frozen=True):
    """What one entry tells of a call. `keys` are the names under which it may be known.

    `is_only`: nothing else tells of it, so what tells another thing under its name is another call.
    """

    id: str
    name: str
    arguments: str
    keys: tuple[str, ...]
    is_whole: bool
    is_only: bool = False

    @classmethod
    def read(
        cls,
        entry: Mapping[str, Any],
        *,
        is_whole: bool,
        is_only: bool = False,
        place: int | None = None,
        keys: tuple[str, ...] = (),
    ) -> _Fragment:
        function = entry.get("function")
        function = function if isinstance(function, Mapping) else entry
        ids = [value for key in _IDS if isinstance(value := entry.get(key), str) and value]
        index = _integer(entry, "index", "output_index", default=-1 if place is None else place)
        return cls(
            id=ids[0] if ids else "",
            name=_string(function.get("name")),
            arguments=_string(function.get("arguments")),
            keys=(*(f"id {value}" for value in ids), *keys, *((f"{_PLACE}{index}",) if index >= 0 else ())),
            is_whole=is_whole,
            is_only=is_only,
        )


class _Call:
    """A call that has begun. `is_revised`: its arguments are not those that were told, so no more of them is."""

    __slots__ = ("_parts", "block", "has_id", "id", "index", "is_revised", "is_structured", "name")

    def __init__(self, choice: int, index: int, id: str, name: str, block: str | None = None) -> None:  # noqa: A002 - OpenAI's word
        self.index = index
        self.id = id or f"tool_{choice}_{index}"
        self.has_id = bool(id)
        self.name = name
        self.block = block
        self.is_structured = block is None
        self.is_revised = False
        self._parts: list[str] = []

    @property
    def arguments(self) -> str:
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return "".join(self._parts)

    @arguments.setter
    def arguments(self, text: str) -> None:
        self._parts = [text]

    def append(self, text: str) -> None:
        self._parts.append(text)

    def seen(self) -> Call:
        return Call(self.index, self.id, self.name, self.arguments, self.block)

    def is_told_by(self, name: str, arguments: str) -> bool:
        """Whether it is the same when both are written as text."""
        return self.name == name and (
            self.arguments == arguments or _as_text(name, self.arguments) == _as_text(name, arguments)
        )


class _Choice:
    """The text and the calls of one choice."""

    __slots__ = (
        "_calls_chars",
        "_known",
        "_latest",
        "_max_calls",
        "_number",
        "_scanner",
        "calls",
        "heard_chars",
        "is_truncated",
    )

    def __init__(self, number: int, max_calls: int, scanner: Scanner) -> None:
        self._number = number
        self._max_calls = max_calls
        self._scanner = scanner
        self._known: dict[str, _Call] = {}
        self._latest: _Call | None = None
        self._calls_chars = 0
        self.calls: list[_Call] = []
        self.heard_chars = 0
        self.is_truncated = False

    def say(self, text: str) -> Iterator[Piece]:
        self.heard_chars += len(text)
        for piece in self._scanner.feed(text):
            if isinstance(piece, str):
                yield Said(self._number, piece)
            else:
                yield from self._written(piece.name, piece.arguments, piece.text)

    def flush(self) -> Iterator[Piece]:
        if held := self._scanner.flush():
            yield Said(self._number, held)

    def respond(self, event: Mapping[str, Any]) -> Iterator[Piece]:
        """Source: the streaming events of OpenAI's Responses API."""
        match event["type"], event.get("item"):
            case "response.output_text.delta", _:
                yield from self.say(_string(event.get("delta")))
            case "response.output_item.added" | "response.output_item.done" as kind, {"type": "function_call"}:
                place = _integer(event, "output_index", default=-1)
                yield from self.call(_Fragment.read(event["item"], is_whole=kind.endswith("done"), place=place))
            case "response.function_call_arguments.delta", _:
                yield from self.call(_Fragment.read({**event, "arguments": event.get("delta")}, is_whole=False))
            case "response.function_call_arguments.done", _:
                yield from self.call(_Fragment.read(event, is_whole=True))

    def call(self, told: _Fragment, *, flushes: bool = True) -> Iterator[Piece]:
        call = self._find(told)
        if call is None:
            self._latest = None
            if not told.name:
                return
            if told.is_whole and (call := self._same(told.name, told.arguments, is_structured=False)) is not None:
                call.is_structured = True
            else:
                if flushes:
                    yield from self.flush()  # what came before it stays before it
                if len(self.calls) >= self._max_calls:
                    self.is_truncated = True
                    for key in told.keys:
                        self._known.pop(key, None)
                    return
                call = self._begin(told.id, told.name)
                yield from self._tell(call, told, is_first=True)
        else:
            yield from self._tell(call, told, is_first=False)
        self._latest = call
        self._keep(sum(len(key) for key in told.keys if key not in self._known))
        self._known.update(dict.fromkeys(told.keys, call))

    def _find(self, told: _Fragment) -> _Call | None:
        """The call that a fragment belongs to, or None for one that begins."""
        if not told.keys:
            return None if told.name else self._latest
        known = [key for key in told.keys if key in self._known]
        for key in known:
            if not key.startswith(_PLACE):
                found = self._known[key]
                return None if told.is_only and not found.is_told_by(told.name, told.arguments) else found
        call = self._known[known[0]] if known else None
        if call is not None and told.name and (told.name != call.name or (told.id and call.has_id)):
            return None  # another one in its place: some number every call 0
        return call

    def _begin(self, id: str, name: str, block: str | None = None) -> _Call:  # noqa: A002 - OpenAI's word
        call = _Call(self._number, len(self.calls), id, name, block)
        self.calls.append(call)
        return call

    def _tell(self, call: _Call, told: _Fragment, *, is_first: bool) -> Iterator[Piece]:
        new = told.arguments
        if told.is_whole and not is_first:
            before = call.arguments
            if not new or new == before:
                return
            self._keep(len(new) - len(before))
            call.arguments = new
            call.is_revised = call.is_revised or not new.startswith(before)
            new = new[len(before) :]
        else:
            self._keep(len(new))
            call.append(new)
        if is_first:
            yield Called(self._number, call.index, new, call.id, call.name)
        elif new and not call.is_revised:
            yield Called(self._number, call.index, new)

    def _written(self, name: str, arguments: str, block: str) -> Iterator[Piece]:
        same = self._same(name, arguments, is_structured=True)
        if same is not None:
            same.block = block
        elif len(self.calls) >= self._max_calls:
            self.is_truncated = True
        else:
            self._keep(len(arguments) + len(block))
            call = self._begin("", name, block)
            call.arguments = arguments
            yield Called(self._number, call.index, arguments, call.id, name, block)

    def _same(self, name: str, arguments: str, *, is_structured: bool) -> _Call | None:
        """A call that was told so far only in the structure, or only in the text."""
        for call in self.calls:
            is_told_once = call.block is None if is_structured else not call.is_structured
            if is_told_once and call.is_told_by(name, arguments):
                return call
        return None

    def _keep(self, chars: int) -> None:
        self._calls_chars += chars
        if self._calls_chars > MAX_ARGUMENTS_CHARS:
            raise TooLargeError("the arguments of the calls are too long")


def _as_text(name: str, arguments: str) -> str:
    """What is left of the arguments when they are written as text and read again."""
    (found,) = extract_use_tool_blocks(to_obsidian_xml(name, arguments)) or (None,)
    return arguments if found is None else found.block.arguments


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _integer(source: Mapping[str, Any], *keys: str, default: int) -> int:
    found = (source[key] for key in keys if isinstance(source.get(key), int) and not isinstance(source[key], bool))
    return next(found, default)

"""The output items of a response and the events that tell of them, from the pieces of one answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from pool.events import Reasoning, ReasoningDelta, TextDelta, ToolCall
from service.api.flat_tools import Alias, custom_input
from service.encode.choice import Piece

_json = msgspec.json.Encoder().encode

IN_PROGRESS, COMPLETED, INCOMPLETE = b"in_progress", b"completed", b"incomplete"

_PART = b'{"type":"output_text","annotations":[],"logprobs":[],"text":%b}'
_MESSAGE = b'{"id":%b,"type":"message","status":"%b","role":"assistant","content":[%b]}'
_TEXT_DELTA = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":%d%b'
    b',"delta":%b,"logprobs":[]}\n\n'
)
"""The one event of which there are many."""
_SUMMARY = b'{"type":"summary_text","text":%b}'


class Event:
    """How the bytes of one event begin and end; between them is its number."""

    __slots__ = ("_head",)

    def __init__(self, name: str) -> None:
        self._head = b'event: %b\ndata: {"type":"%b","sequence_number":' % (name.encode(), name.encode())

    def __call__(self, number: int, *rest: bytes) -> bytes:
        """The event; `rest` are its other members, each with a comma before it."""
        return b"".join((self._head, b"%d" % number, *rest, b"}\n\n"))


ITEM_ADDED, ITEM_DONE = Event("response.output_item.added"), Event("response.output_item.done")
PART_ADDED, PART_DONE = Event("response.content_part.added"), Event("response.content_part.done")
TEXT_DONE = Event("response.output_text.done")
CALL_DELTA = Event("response.function_call_arguments.delta")
CALL_DONE = Event("response.function_call_arguments.done")
INPUT_DELTA = Event("response.custom_tool_call_input.delta")
INPUT_DONE = Event("response.custom_tool_call_input.done")
SUMMARY_ADDED = Event("response.reasoning_summary_part.added")
SUMMARY_PART_DONE = Event("response.reasoning_summary_part.done")
SUMMARY_DELTA = Event("response.reasoning_summary_text.delta")
SUMMARY_DONE = Event("response.reasoning_summary_text.done")


class _Message:
    """A message that is being said."""

    def __init__(self, item_id: bytes, index: int) -> None:
        self.id = item_id
        self.at = b',"item_id":%b,"output_index":%d,"content_index":0' % (item_id, index)
        self.texts: list[str] = []


class _Thought:
    """A piece of reasoning that is being told: its parts so far, and where the last of them stands."""

    def __init__(self, item_id: bytes, index: int, upstream_id: str) -> None:
        self.id = item_id
        self.upstream_id = upstream_id
        self.at = b',"item_id":%b,"output_index":%d' % (item_id, index)
        self.parts: list[list[str]] = []
        self.number = -1

    @property
    def part_at(self) -> bytes:
        """Where an event of the open part is."""
        return b'%b,"summary_index":%d' % (self.at, len(self.parts) - 1)


class OutputItems:
    """Feed it the pieces of an answer with `grow`, and `close` it: each returns the events that tell of them, whose
    numbers follow each other from `first_number` on.

    `done` are the items that are whole, encoded; `unfinished` is the one that is not. `kept` are those that are whole
    once more, each with its id, as a later request needs them: with what only the provider can read, whether that is
    shown or not. `chars` is how much of the answer is held.
    """

    __slots__ = ("_aliases", "_open", "_out", "_shows_encrypted", "_suffix", "chars", "done", "kept", "number")

    def __init__(self, suffix: str, aliases: Mapping[str, Alias], first_number: int, *, shows_encrypted: bool) -> None:
        self._suffix = suffix
        self._aliases = aliases
        self._shows_encrypted = shows_encrypted
        self._open: _Message | _Thought | None = None
        self._out: list[bytes] = []
        self.number = first_number
        """Of the next event."""
        self.done: list[bytes] = []
        self.kept: list[tuple[str, bytes]] = []
        self.chars = 0

    def grow(self, pieces: Iterable[Piece]) -> list[bytes]:
        """The next pieces."""
        for piece in pieces:
            if isinstance(piece, TextDelta):
                self._text(piece.text)
                continue
            match piece:
                case ReasoningDelta():
                    self._summary(piece)
                case Reasoning():
                    self._whole_thought(piece)
                case ToolCall():
                    self._close(COMPLETED)
                    self._call(piece)
        return self._take()

    def close(self, *, is_whole: bool) -> list[bytes]:
        """Nothing more comes."""
        self._close(COMPLETED if is_whole else INCOMPLETE)
        return self._take()

    def unfinished(self, *, is_over: bool) -> list[bytes]:
        """The item that is still open, or none; when it `is_over`, nothing more will come of it."""
        match self._open:
            case _Message() as message:
                part = _PART % _json("".join(message.texts))
                return [_MESSAGE % (message.id, INCOMPLETE if is_over else IN_PROGRESS, part)]
            case _Thought() as thought:
                return [_reasoning_item(thought.id, _summary(thought), b"null")]
            case _:
                return []

    # --- inside ----------------------------------------------------------------------------------------------

    def _take(self) -> list[bytes]:
        out, self._out = self._out, []
        return out

    def _emit(self, event: Event, *rest: bytes) -> None:
        self._out.append(event(self.number, *rest))
        self.number += 1

    def _new_id(self, prefix: str) -> bytes:
        return b'"%b_%b_%d"' % (prefix.encode(), self._suffix.encode(), len(self.done))

    def _added(self, item: bytes) -> None:
        self._emit(ITEM_ADDED, b',"output_index":%d,"item":' % len(self.done), item)

    def _done(self, item_id: bytes, item: bytes, kept: bytes | None = None) -> None:
        self._emit(ITEM_DONE, b',"output_index":%d,"item":' % len(self.done), item)
        self.done.append(item)
        self.kept.append((item_id[1:-1].decode(), kept or item))
        self._open = None

    def _close(self, status: bytes) -> None:
        if isinstance(self._open, _Message):
            self._close_message(self._open, status)
        elif isinstance(self._open, _Thought):
            self._close_thought(self._open, "")

    # --- messages --------------------------------------------------------------------------------------------

    def _text(self, text: str) -> None:
        message = self._open
        if not isinstance(message, _Message):
            self._close(COMPLETED)
            message = self._open = _Message(self._new_id("msg"), len(self.done))
            self._added(_MESSAGE % (message.id, IN_PROGRESS, b""))
            self._emit(PART_ADDED, message.at, b',"part":', _PART % b'""')
        message.texts.append(text)
        self.chars += len(text)
        self._out.append(_TEXT_DELTA % (self.number, message.at, _json(text)))
        self.number += 1

    def _close_message(self, message: _Message, status: bytes) -> None:
        text = _json("".join(message.texts))
        part = _PART % text
        self._emit(TEXT_DONE, message.at, b',"text":', text, b',"logprobs":[]')
        self._emit(PART_DONE, message.at, b',"part":', part)
        self._done(message.id, _MESSAGE % (message.id, status, part))

    # --- calls -----------------------------------------------------------------------------------------------

    def _call(self, call: ToolCall) -> None:
        alias = self._aliases.get(call.name) or Alias(call.name)
        self.chars += len(call.arguments)
        named = b'"call_id":%b,"name":%b' % (_json(call.call_id), _json(alias.name))
        if alias.namespace is not None:
            named += b',"namespace":%b' % _json(alias.namespace)
        if alias.is_custom:
            self._custom(named, custom_input(call.arguments))
        else:
            self._function(named, _json(alias.name), call.arguments)

    def _function(self, named: bytes, name: bytes, text: str) -> None:
        item_id, arguments = self._new_id("fc"), _json(text)
        item = b'{"id":%b,"type":"function_call","status":"%b",%b,"arguments":%b}'
        at = b',"item_id":%b,"output_index":%d' % (item_id, len(self.done))
        self._added(item % (item_id, IN_PROGRESS, named, b'""'))
        if text:
            self._emit(CALL_DELTA, at, b',"delta":', arguments)
        self._emit(CALL_DONE, at, b',"name":', name, b',"arguments":', arguments)
        self._done(item_id, item % (item_id, COMPLETED, named, arguments))

    def _custom(self, named: bytes, text: str) -> None:
        item_id, typed = self._new_id("ctc"), _json(text)
        item = b'{"id":%b,"type":"custom_tool_call",%b,"input":%b}'
        at = b',"item_id":%b,"output_index":%d' % (item_id, len(self.done))
        self._added(item % (item_id, named, b'""'))
        if text:
            self._emit(INPUT_DELTA, at, b',"delta":', typed)
        self._emit(INPUT_DONE, at, b',"input":', typed)
        self._done(item_id, item % (item_id, named, typed))

    # --- reasoning -------------------------------------------------------------------------------------------

    def _summary(self, delta: ReasoningDelta) -> None:
        thought = self._thought(delta.item_id)
        if delta.part != thought.number:
            self._open_part(thought, delta.part)
        self._tell(thought, delta.text)

    def _whole_thought(self, whole: Reasoning) -> None:
        """It repeats what was told of it in pieces, if that was told."""
        thought = self._thought(whole.item_id)
        for number, text in enumerate(whole.summary):
            if number > thought.number:
                self._open_part(thought, number)
                self._tell(thought, text)
        self._close_thought(thought, whole.encrypted)

    def _thought(self, upstream_id: str) -> _Thought:
        thought = self._open
        if not isinstance(thought, _Thought) or thought.upstream_id != upstream_id:
            self._close(COMPLETED)
            thought = self._open = _Thought(self._new_id("rs"), len(self.done), upstream_id)
            self._added(_reasoning_item(thought.id, b"", b"null"))
        return thought

    def _open_part(self, thought: _Thought, number: int) -> None:
        self._close_part(thought)
        thought.number = number
        thought.parts.append([])
        self._emit(SUMMARY_ADDED, thought.part_at, b',"part":', _SUMMARY % b'""')

    def _tell(self, thought: _Thought, text: str) -> None:
        thought.parts[-1].append(text)
        self.chars += len(text)
        self._emit(SUMMARY_DELTA, thought.part_at, b',"delta":', _json(text))

    def _close_part(self, thought: _Thought) -> None:
        if thought.parts:
            text = _json("".join(thought.parts[-1]))
            self._emit(SUMMARY_DONE, thought.part_at, b',"text":', text)
            self._emit(SUMMARY_PART_DONE, thought.part_at, b',"part":', _SUMMARY % text)

    def _close_thought(self, thought: _Thought, encrypted: str) -> None:
        self._close_part(thought)
        self.chars += len(encrypted)
        summary, secret = _summary(thought), _json(encrypted or None)
        kept = _reasoning_item(thought.id, summary, secret)
        shown = kept if self._shows_encrypted else _reasoning_item(thought.id, summary, b"null")
        self._done(thought.id, shown, kept)


def _summary(thought: _Thought) -> bytes:
    return b",".join(_SUMMARY % _json("".join(part)) for part in thought.parts)


def _reasoning_item(item_id: bytes, summary: bytes, encrypted: bytes) -> bytes:
    return b'{"id":%b,"type":"reasoning","summary":[%b],"encrypted_content":%b}' % (item_id, summary, encrypted)

"""The server-sent events of one answer of the Responses API, as bytes, without I/O."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from loadtest.script import Deltas, Script, Tokens, ToolCall

_encode = msgspec.json.Encoder().encode

# The hot frame: everything but the number, the item, its place and the words is always the same.
_DELTA: Final = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":%d,'
    b'"item_id":"%b","output_index":%d,"content_index":0,"delta":%b}\n\n'
)


class ResponseStream:
    """Builds the events of one response in order; every event takes the next sequence number.

    `response_id` is plain ASCII without quotes; item ids are made from it. `created_wall` is in seconds.
    """

    def __init__(self, response_id: str, model: str, created_wall: int) -> None:
        self._id = response_id
        self._model = model
        self._created_wall = created_wall
        self._numbers = itertools.count()
        self._output: list[dict[str, Any]] = []

    def head(self) -> bytes:
        """The events before the first item."""
        return self._response("response.created", "in_progress") + self._response("response.in_progress", "in_progress")

    def reasoning(self, deltas: Deltas) -> bytes:
        """A whole reasoning item with one summary part and an opaque `encrypted_content`."""
        item_id, index = f"rs_{self._id}", len(self._output)
        at = {"item_id": item_id, "output_index": index, "summary_index": 0}
        text = "".join(deltas)
        part = {"type": "summary_text", "text": text}
        item: dict[str, Any] = {"type": "reasoning", "id": item_id, "summary": []}
        frames = [
            self._event("response.output_item.added", output_index=index, item=item),
            self._event("response.reasoning_summary_part.added", **at, part={"type": "summary_text", "text": ""}),
            *(self._event("response.reasoning_summary_text.delta", **at, delta=delta) for delta in deltas),
            self._event("response.reasoning_summary_text.done", **at, text=text),
            self._event("response.reasoning_summary_part.done", **at, part=part),
            self._item_done({**item, "summary": [part], "encrypted_content": "c3RhbmQtaW4="}),
        ]
        return b"".join(frames)

    def message(self, deltas: Deltas) -> Iterator[tuple[bytes, bool]]:
        """The frames of an assistant message, each with whether it is a delta."""
        index = len(self._output)
        item_id = f"msg_{self._id}" if index == 0 else f"msg_{self._id}_{index}"
        item = {"type": "message", "id": item_id, "role": "assistant", "status": "in_progress", "content": []}
        part = {"type": "output_text", "text": "", "annotations": []}
        at = {"item_id": item_id, "output_index": index, "content_index": 0}
        added = self._event("response.output_item.added", output_index=index, item=item)
        yield added + self._event("response.content_part.added", **at, part=part), False
        name = item_id.encode()
        for delta in deltas:
            yield _DELTA % (next(self._numbers), name, index, _encode(delta)), True
        text = "".join(deltas)
        whole = {**part, "text": text}
        done = self._event("response.output_text.done", **at, text=text)
        done += self._event("response.content_part.done", **at, part=whole)
        yield done + self._item_done({**item, "status": "completed", "content": [whole]}), False

    def tool_call(self, call: ToolCall) -> bytes:
        """A whole function call."""
        index = len(self._output)
        item_id = f"fc_{self._id}_{index}"
        call_id = call.call_id or f"call_{self._id}_{index}"
        arguments = call.arguments_text
        item = {
            "type": "function_call",
            "id": item_id,
            "call_id": call_id,
            "name": call.name,
            "arguments": "",
            "status": "in_progress",
        }
        at = {"item_id": item_id, "output_index": index}
        frames = [
            self._event("response.output_item.added", output_index=index, item=item),
            self._event("response.function_call_arguments.delta", **at, delta=arguments),
            self._event("response.function_call_arguments.done", **at, arguments=arguments),
            self._item_done({**item, "arguments": arguments, "status": "completed"}),
        ]
        return b"".join(frames)

    def tail(self, script: Script, tokens: Tokens) -> bytes:
        """The last event: completed, incomplete or failed."""
        usage = tokens.as_upstream()
        failure = script.failure
        if failure is not None:
            error = {"code": failure.code, "message": failure.message}
            return self._response("response.failed", "failed", error=error)
        if script.incomplete is not None:
            details = {"reason": script.incomplete}
            return self._response("response.incomplete", "incomplete", incomplete_details=details, usage=usage)
        return self._response("response.completed", "completed", usage=usage)

    def _item_done(self, item: dict[str, Any]) -> bytes:
        index = len(self._output)
        self._output.append(item)
        return self._event("response.output_item.done", output_index=index, item=item)

    def _response(self, kind: str, status: str, **fields: object) -> bytes:
        response = {
            "id": self._id,
            "object": "response",
            "created_at": self._created_wall,
            "status": status,
            "model": self._model,
            "output": self._output,
            "error": None,
            "incomplete_details": None,
            "usage": None,
            **fields,
        }
        return self._event(kind, response=response)

    def _event(self, kind: str, **fields: object) -> bytes:
        data = _encode({"type": kind, "sequence_number": next(self._numbers), **fields})
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def frames(
    stream: ResponseStream,
    script: Script,
    *,
    thoughts: Deltas,
    messages: Iterable[Deltas],
    calls: Iterable[ToolCall],
    tokens: Tokens,
) -> Iterator[tuple[bytes, bool]]:
    """All bytes of the answer in order, each piece with whether it is a delta of the answer's text."""
    yield stream.head(), False
    if thoughts:
        yield stream.reasoning(thoughts), False
    for deltas in messages:
        yield from stream.message(deltas)
    for call in calls:
        yield stream.tool_call(call), False
    yield stream.tail(script, tokens), False

"""A chat stream as bytes: what is the same in every chunk is formatted once, and only the text is escaped."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pool.events import TextDelta, ToolCall
from service.api.chat import ChatRequest
from service.api.errors import ApiError
from service.encode.choice import Choice, Piece, WrittenCall, call_counts, total
from service.encode.usage import usage_object
from service.toolcalls.controls import StopMode

DONE = b"data: [DONE]\n\n"

ESTIMATED = b": x-codex-usage: estimated\n\n"
"""Before a usage chunk that is an estimate: its headers are long gone."""

_json = msgspec.json.Encoder().encode


def keepalive(wall_ms: int) -> bytes:
    """A comment that no client shows and no idle timer survives; `wall_ms` is the wall clock in milliseconds."""
    return b": keepalive %d\n\n" % wall_ms


class ChatStream:
    """The chunks of one answer. Call in this order: `begin`, any number of `pieces`, `finish`; or `error` at any time,
    and nothing after it.

    Each method returns whole events, so the bytes of several may be joined into one write. Source: OpenAI's
    CreateChatCompletionStreamResponse.
    """

    __slots__ = ("_calls", "_head", "_heads", "_indices", "_request", "_stop_mode", "_tail")

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - OpenAI's word
        created: int,
        fingerprint: str,
        request: ChatRequest,
        stop_mode: StopMode = StopMode.BURST,
        service_tier: str = "default",
    ) -> None:
        same = b'"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"system_fingerprint":%b'
        same %= (_json(id), created, _json(request.model), _json(fingerprint))
        if request.service_tier is not None:
            same += b',"service_tier":' + _json(service_tier)
        self._head = b"data: {" + same + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if request.include_usage else b"]}\n\n"
        self._request = request
        self._stop_mode = stop_mode
        self._indices = range(request.n)
        self._heads = [self._head + b'{"index":%d,"delta":{' % index for index in self._indices]
        self._calls = [0] * request.n

    def begin(self) -> bytes:
        """The first chunk."""
        return self._of_all(
            [b'{"index":%d,"delta":{"role":"assistant"},"finish_reason":null}' % i for i in self._indices]
        )

    def pieces(self, pieces: Sequence[Piece], index: int = 0) -> bytes:
        """A chunk for each piece of text, and two for each call: the second has its arguments, all at once.

        A call that was written into the text is one chunk.
        """
        head, tail = self._heads[index], b'},"finish_reason":null}' + self._tail
        out: list[bytes] = []
        for piece in pieces:
            if isinstance(piece, TextDelta):
                out += (head, b'"content":', _json(piece.text), tail)
            elif isinstance(piece, ToolCall):
                for delta in self._call(piece, index):
                    out += (head, delta, tail)
        return b"".join(out)

    def finish(self, choices: Sequence[Choice]) -> bytes:
        """Why each choice ended, how many calls there were if there were any, the usage if it was asked for, [DONE].

        A usage that the upstream did not report is estimated, and a comment before it says so.
        """
        finishes = [
            b'{"index":%d,"delta":{},"finish_reason":"%b"}' % (index, choice.finish.encode())
            for index, choice in enumerate(choices)
        ]
        return self._of_all(finishes) + self._calls_comment(choices) + self._usage(choices) + DONE

    def error(self, error: ApiError) -> bytes:
        """The failure of a stream whose status is already sent. Nothing may follow: a `DONE` would say all is well."""
        return b"data: " + error.body() + b"\n\n"

    # --- inside ----------------------------------------------------------------------------------------------

    def _of_all(self, choices: Sequence[bytes]) -> bytes:
        return self._head + b",".join(choices) + self._tail

    def _call(self, call: ToolCall, index: int) -> tuple[bytes, ...]:
        """The deltas of a call. Source: OpenAI's ChatCompletionMessageToolCallChunk."""
        name, arguments = _json(call.name), _json(call.arguments)
        if self._request.tools.is_legacy:
            return b'"function_call":{"name":%b,"arguments":""}' % name, b'"function_call":{"arguments":%b}' % arguments
        number = self._calls[index]
        self._calls[index] += 1
        begin = b'"tool_calls":[{"index":%d,"id":%b,"type":"function","function":{"name":%b,"arguments":%b}}]'
        if isinstance(call, WrittenCall):
            return (begin % (number, _json(call.call_id), name, arguments),)
        rest = b'"tool_calls":[{"index":%d,"function":{"arguments":%b}}]'
        return begin % (number, _json(call.call_id), name, b'""'), rest % (number, arguments)

    def _calls_comment(self, choices: Sequence[Choice]) -> bytes:
        """Source: the predecessor's stream, between its finish and its usage."""
        count, is_truncated = call_counts(choices)
        if not count:
            return b""
        facts = {
            "tool_call_count": count,
            "tool_call_truncated": is_truncated,
            "stop_after_tools_mode": self._stop_mode,
        }
        return b": " + _json(facts) + b"\n\n"

    def _usage(self, choices: Sequence[Choice]) -> bytes:
        if not self._request.include_usage:
            return b""
        usage, is_estimate = total(choices)
        chunk = self._head + b'],"usage":' + _json(usage_object(usage)) + b"}\n\n"
        return ESTIMATED + chunk if is_estimate else chunk

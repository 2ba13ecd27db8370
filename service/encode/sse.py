"""A chat stream as bytes: what is the same in every chunk is formatted once, and only the text is escaped."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pool.events import Finish, TextDelta, TurnEvent, Usage
from service.api.errors import ApiError
from service.encode.usage import usage_object

DONE = b"data: [DONE]\n\n"

ESTIMATED = b": x-codex-usage: estimated\n\n"
"""Before a usage chunk that is an estimate: its headers are long gone."""

_json = msgspec.json.Encoder().encode


def keepalive(wall_ms: int) -> bytes:
    """A comment that no client shows and no idle timer survives; `wall_ms` is the wall clock in milliseconds."""
    return b": keepalive %d\n\n" % wall_ms


class ChatStream:
    """The chunks of one answer. Call in this order: `role`, any number of `text` or `events`, `finish`, `usage`, then
    write `DONE`; or `error`, and nothing after it.

    Each method returns whole events, so the bytes of several may be joined into one write. `prompt_chars` is what an
    estimate of the prompt's tokens goes by. Source: OpenAI's CreateChatCompletionStreamResponse.
    """

    __slots__ = ("_between", "_chars", "_head", "_include_usage", "_prompt_chars", "_tail", "_text_head", "_text_tail")

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - OpenAI's word
        created: int,
        model: str,
        fingerprint: str,
        include_usage: bool,
        prompt_chars: int = 0,
    ) -> None:
        same = b'"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"system_fingerprint":%b'
        self._head = b"data: {" + same % (_json(id), created, _json(model), _json(fingerprint)) + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._text_head = self._head + b'{"index":0,"delta":{"content":'
        self._text_tail = b'},"finish_reason":null}' + self._tail
        self._between = self._text_tail + self._text_head
        self._include_usage = include_usage
        self._prompt_chars = prompt_chars
        self._chars = 0

    def role(self) -> bytes:
        """The first chunk."""
        return self._head + b'{"index":0,"delta":{"role":"assistant"},"finish_reason":null}' + self._tail

    def text(self, text: str) -> bytes:
        """The next piece of the answer."""
        self._chars += len(text)
        return self._text_head + _json(text) + self._text_tail

    def events(self, events: Iterable[TurnEvent]) -> bytes:
        """A chunk for each piece of the answer among `events`; b"" when there is none. Reasoning is not streamed."""
        texts = [event.text for event in events if isinstance(event, TextDelta)]
        if not texts:
            return b""
        self._chars += sum(map(len, texts))
        return self._text_head + self._between.join(map(_json, texts)) + self._text_tail

    def finish(self, reason: Finish) -> bytes:
        """The chunk that says why the answer ends."""
        return self._head + b'{"index":0,"delta":{},"finish_reason":"%b"}' % reason.encode() + self._tail

    def usage(self, usage: Usage | None) -> bytes:
        """The chunk with the token counts, b"" when the client did not ask for it.

        What the upstream did not report is estimated, and a comment before the chunk says so.
        """
        if not self._include_usage:
            return b""
        counts, is_estimate = usage_object(usage, prompt_chars=self._prompt_chars, completion_chars=self._chars)
        chunk = self._head + b'],"usage":' + _json(counts) + b"}\n\n"
        return ESTIMATED + chunk if is_estimate else chunk

    def error(self, error: ApiError) -> bytes:
        """The failure of a stream whose status is already sent. Nothing may follow: a `DONE` would say all is well."""
        return b"data: " + error.body() + b"\n\n"

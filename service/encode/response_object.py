"""The response object of the Responses API, and what it is made of, as bytes."""

from __future__ import annotations

from typing import Any

import msgspec

from pool.events import Finish, Usage
from service.api.errors import ApiError
from service.api.responses import ResponsesRequest

_json = msgspec.json.Encoder().encode

INCOMPLETE = {str(Finish.LENGTH): "max_output_tokens", str(Finish.CONTENT_FILTER): "content_filter"}
"""Why an answer is not whole, by its finish."""

_ERROR_CODES = {400: "invalid_prompt", 422: "invalid_prompt", 429: "rate_limit_exceeded"}
"""Source: OpenAI's ResponseErrorCode, a closed set in which little of ours has a place."""


def usage_object(usage: Usage) -> dict[str, Any]:
    """Source: OpenAI's ResponseUsage."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_input_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_output_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def error_object(error: ApiError) -> dict[str, str]:
    """Our error in the words that there are for a response; its own code stands in the message.

    Source: OpenAI's ResponseError.
    """
    code = _ERROR_CODES.get(error.status, "server_error")
    return {"code": code, "message": error.message if code == error.code else f"{error.message} ({error.code})"}


_STORED, _NOT_STORED = b',"store":true}', b',"store":false}'
"""How an object ends. It is no string's end: quotes in strings are escaped."""


def disowned(told: bytes) -> bytes:
    """An object, or the end of a stream, that said that the response is stored: now it says that it is not."""
    head, found, tail = told.rpartition(_STORED)
    return head + _NOT_STORED + tail if found else told


class ResponseObject:
    """The object at any time: what never changes is encoded once. `output` are encoded items. Give it to a client by
    calling it with what does change.

    Source: OpenAI's Response; `store` is not in its document, but in its answers.
    """

    __slots__ = ("_end", "_same", "output")

    def __init__(self, *, id: str, created: int, request: ResponsesRequest) -> None:  # noqa: A002 - OpenAI's word
        same = {"id": id, "object": "response", "created_at": created, "model": request.model, **request.echo}
        self._same = _json(same)[:-1]
        self._end = _STORED if request.store else _NOT_STORED
        self.output: list[bytes] = []

    def encode(
        self,
        status: str,
        *,
        completed: int | None = None,
        error: ApiError | None = None,
        reason: str | None = None,
        usage: Usage | None = None,
    ) -> bytes:
        """The object with this status; `reason` is why it is incomplete, `completed` when it was completed."""
        return b'%b,"status":"%b","completed_at":%b,"error":%b,"incomplete_details":%b,"output":[%b]%b%b' % (
            self._same,
            status.encode(),
            _json(completed),
            _json(None if error is None else error_object(error)),
            _json(None if reason is None else {"reason": reason}),
            b",".join(self.output),
            b"" if usage is None else b',"usage":' + _json(usage_object(usage)),
            self._end,
        )

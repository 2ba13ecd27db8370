"""A whole chat answer as one object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from service.api.chat import ChatRequest
from service.encode.choice import Choice, total
from service.encode.usage import usage_object


def chat_completion(
    *,
    id: str,  # noqa: A002 - OpenAI's word
    created: int,
    fingerprint: str,
    request: ChatRequest,
    choices: Sequence[Choice],
    service_tier: str = "default",
) -> tuple[bytes, bool]:
    """A `chat.completion` object of choices that have ended, and whether its token counts are an estimate.

    Source: OpenAI's CreateChatCompletionResponse; `metadata` and `service_tier` are left out when the client sent none.
    """
    usage, is_estimate = total(choices)
    answer: dict[str, Any] = {
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": request.model,
        "choices": [
            {"index": index, "message": _message(choice, request), "logprobs": None, "finish_reason": choice.finish}
            for index, choice in enumerate(choices)
        ],
        "usage": usage_object(usage),
        "system_fingerprint": fingerprint,
    }
    if request.metadata is not None:
        answer["metadata"] = request.metadata
    if request.service_tier is not None:
        answer["service_tier"] = service_tier
    return msgspec.json.encode(answer), is_estimate


def _message(choice: Choice, request: ChatRequest) -> dict[str, Any]:
    """Source: OpenAI's ChatCompletionResponseMessage."""
    text = choice.text
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if choice.calls and not text else text,
        "refusal": None,
    }
    if choice.calls and request.tools.is_legacy:
        (call,) = choice.calls
        message["function_call"] = {"name": call.name, "arguments": call.arguments}
    elif choice.calls:
        message["tool_calls"] = [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.calls
        ]
    return message

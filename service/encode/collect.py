"""A whole chat answer as one object."""

from __future__ import annotations

from typing import Any

import msgspec

from pool.events import Finish, Usage
from service.encode.usage import usage_object


def chat_completion(
    *,
    id: str,  # noqa: A002 - OpenAI's word
    created: int,
    model: str,
    fingerprint: str,
    text: str,
    finish: Finish,
    usage: Usage | None,
    prompt_chars: int = 0,
    metadata: dict[str, str] | None = None,
) -> tuple[bytes, bool]:
    """A `chat.completion` object, and whether its token counts are an estimate.

    Source: OpenAI's CreateChatCompletionResponse; `metadata` is left out when the client sent none.
    """
    counts, is_estimate = usage_object(usage, prompt_chars=prompt_chars, completion_chars=len(text))
    answer: dict[str, Any] = {
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": finish,
            }
        ],
        "usage": counts,
        "system_fingerprint": fingerprint,
    }
    if metadata is not None:
        answer["metadata"] = metadata
    return msgspec.json.encode(answer), is_estimate

"""Token counts in the shape clients read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pool.events import Usage

CHARS_PER_TOKEN = 4
"""The usual rule of thumb for English text, and the predecessor's."""


def counted(usage: Usage | None, *, prompt_chars: int, tokens: int, chars: int) -> tuple[Usage, bool]:
    """The counts of one turn, and whether they are an estimate: that is all there is when the upstream told nothing.

    Of its answer, `tokens` were counted here, and `chars` were not.
    """
    if usage is not None:
        return usage, False
    return Usage(input_tokens=estimated_tokens(prompt_chars), output_tokens=tokens + estimated_tokens(chars)), True


def summed(usages: Sequence[Usage]) -> Usage:
    """All of them together."""
    if len(usages) == 1:  # nearly always: an answer of one choice
        return usages[0]
    return Usage(*(sum(getattr(usage, name) for usage in usages) for name in Usage.__struct_fields__))


def usage_object(usage: Usage) -> dict[str, Any]:
    """The `usage` object. Source: OpenAI's CompletionUsage. Details that the upstream does not tell apart are zero."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_input_tokens,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_output_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def estimated_tokens(chars: int) -> int:
    """About how many tokens so many characters are."""
    return -(-chars // CHARS_PER_TOKEN)

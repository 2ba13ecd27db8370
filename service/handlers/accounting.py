"""What is recorded of a request that was served."""

from __future__ import annotations

from typing import Any, NamedTuple

from service.api.question import Question
from service.encode.choice import call_counts
from service.handlers.voices import Voices
from service.toolcalls.mode import OutputMode
from service.usage.record import Record


class Served(NamedTuple):
    """What HTTP knows of it."""

    request_id: str
    route: str
    status: int
    seconds: float
    key: str
    mode: OutputMode


def record(served: Served, question: Question, voices: Voices, at_ms: int) -> Record:
    """What these voices have said, and what it took. Names are the predecessor's where it had one, numbers measured."""
    usage, is_estimate = voices.spent()
    total = usage.input_tokens + usage.output_tokens
    known = voices.facts()
    first_text_s = known.get("first_text_s")
    calls, is_truncated = call_counts(voices.choices)
    finishes = dict.fromkeys(choice.finish for choice in voices.choices if choice.finish)
    event: dict[str, Any] = {
        "phase": "usage_summary",
        "ts": at_ms,
        "req_id": served.request_id,
        "key": served.key,
        "route": served.route,
        "mode": f"{'chat' if 'chat' in served.route else 'responses'}_{'stream' if question.stream else 'nonstream'}",
        "method": "POST",
        "status_code": served.status,
        "status": served.status,
        "outcome": known["outcome"],
        "requested_model": question.model,
        "effective_model": voices.model,
        "profile": known["profile"],
        "stream": question.stream,
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": total,
        "cached_tokens": usage.cached_input_tokens,
        "reasoning_tokens": usage.reasoning_output_tokens,
        "prompt_tokens_est": usage.input_tokens,
        "completion_tokens_est": usage.output_tokens,
        "total_tokens_est": total,
        "counts_source": "estimate" if is_estimate else "provider",
        "provider_supplied": not is_estimate,
        "duration_ms": round(served.seconds * 1000),
        "time_to_first_token_ms": round(first_text_s * 1000) if isinstance(first_text_s, float) else None,
        "finish_reason": ",".join(finishes) or None,
        "choice_count": len(voices.choices),
        "has_tool_calls": calls > 0,
        "tool_call_count_total": calls,
        "tool_calls_truncated": is_truncated,
        "output_mode": str(served.mode),
    }
    return Record(at_ms, served.key, usage, is_estimate, event)

"""What `litellm` makes of services: `python with_litellm.py KEY MODEL BASE_URL...` prints a JSON object for each.

It runs in an environment of its own, because litellm wants an older `openai` than everybody else.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import litellm

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
USAGE = {"input_tokens": 9, "cached_tokens": 4, "output_tokens": 5, "reasoning_tokens": 2}
CALLS = [{"name": "weather", "arguments": {"city": city}, "call_id": f"call_{city}"} for city in ("Rome", "Oslo")]


def asked(**directive: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"@@{json.dumps(directive)}"}]


def shown(answer: Any) -> dict[str, Any]:
    """What a caller looks at."""
    message = answer.choices[0].message
    return {
        "content": message.content,
        "calls": [[call.id, call.function.name, call.function.arguments] for call in message.tool_calls or []],
        "finish": answer.choices[0].finish_reason,
        "tokens": [answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens],
    }


async def used(base_url: str, key: str, model: str) -> dict[str, Any]:
    where: dict[str, Any] = {"model": f"openai/{model}", "api_base": base_url, "api_key": key, "num_retries": 0}
    streamed: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    found: dict[str, Any] = {}

    said = asked(text="Hello there.", usage=USAGE)
    found["whole"] = shown(litellm.completion(messages=said, **where))
    found["streamed"] = shown(
        litellm.stream_chunk_builder(list(litellm.completion(messages=said, **streamed, **where)))
    )
    found["async whole"] = shown(await litellm.acompletion(messages=said, **where))
    stream = await litellm.acompletion(messages=said, **streamed, **where)
    found["async streamed"] = shown(litellm.stream_chunk_builder([chunk async for chunk in stream]))

    called = asked(tool_calls=CALLS, usage=USAGE)
    with_tools = where | {"tools": [TOOL]}
    first = litellm.completion(messages=called, **with_tools)
    found["calls"] = shown(first)
    stream = await litellm.acompletion(messages=called, **streamed, **with_tools)
    found["streamed calls"] = shown(litellm.stream_chunk_builder([chunk async for chunk in stream]))
    message = first.choices[0].message
    told = [{"role": "tool", "tool_call_id": call.id, "content": f"sun in {call.id}"} for call in message.tool_calls]
    found["answered calls"] = shown(litellm.completion(messages=[*called, message, *told], **with_tools))["content"]

    for name, messages in {"a wrong request": [], "a limit": asked(status=429), "a failure": asked(status=500)}.items():
        try:
            litellm.completion(messages=messages, **where)
        except litellm.exceptions.APIError as error:
            found[name] = [type(error).__name__, error.status_code]
        except Exception as error:  # noqa: BLE001 - its other classes have no base of their own
            found[name] = [type(error).__name__, getattr(error, "status_code", None)]
    return found


async def main(key: str, model: str, *services: str) -> None:
    litellm.suppress_debug_info = True  # it advertises on stdout
    for service in services:
        print(json.dumps(await used(service, key, model)))  # noqa: T201 - the result


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

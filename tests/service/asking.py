"""Asking `parse_chat`, for the tests of everything it checks."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from service.api.chat import ChatRequest, parse_chat
from service.api.errors import ApiError

HELLO = [{"role": "user", "content": "Say hello."}]
GENERIC = "invalid_request_error"
UNSUPPORTED = "unsupported_parameter"


class Known(NamedTuple):
    """The one model that there is."""

    max_prompt_chars: int | None = None


def parse(body: bytes, *, max_prompt_chars: int | None = None) -> ChatRequest:
    """The request in `body`, to a service that knows one model."""
    models = {"codex-5": Known(max_prompt_chars)}
    request, model = parse_chat(body, find=lambda name: models.get(name.lower()), max_choices=5)
    assert model is models["codex-5"]
    return request


def ask(**fields: Any) -> ChatRequest:
    """A plain request with `fields` added."""
    return parse(json.dumps({"model": "codex-5", "messages": HELLO} | fields).encode())


def refusal(**fields: Any) -> ApiError:
    """Why such a request is refused."""
    with pytest.raises(ApiError) as caught:
        ask(**fields)
    return caught.value


def user(content: Any = "go on") -> dict[str, Any]:
    """A message of the user."""
    return {"role": "user", "content": content}


def call(call_id: Any = "call_1", name: Any = "look", arguments: Any = "{}") -> dict[str, Any]:
    """A call in a message of the assistant."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls: Any, **fields: Any) -> dict[str, Any]:
    """A message of the assistant that makes `calls`."""
    return {"role": "assistant", "content": None, "tool_calls": list(calls)} | fields


def result(call_id: Any = "call_1", content: Any = "found") -> dict[str, Any]:
    """The answer to a call."""
    return {"role": "tool", "tool_call_id": call_id, "content": content}

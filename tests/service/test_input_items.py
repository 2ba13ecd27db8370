"""What is kept of a request is the same history again, in the shape in which OpenAI lists it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import ResponseItem
from pydantic import TypeAdapter

from service.encode.input_items import listed
from tests.service.test_responses_request import ask

_ADAPTER: TypeAdapter[Any] = TypeAdapter(ResponseItem)

INPUTS: list[Any] = [
    "hi",
    [
        {"role": "system", "content": "a"},
        {"role": "developer", "content": [{"type": "input_text", "text": "b"}], "id": None},
        {"role": "assistant", "content": "c", "status": "completed"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "type": "message", "id": "msg_own"},
        {"type": "reasoning", "encrypted_content": "E"},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "a cat"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "y"}]},
    ],
]


@pytest.mark.parametrize("value", INPUTS)
def test_what_is_kept_is_the_same_history(value: Any) -> None:
    request = ask(input=value)
    kept = [json.loads(body) for _, body in listed(request.items, "0123")]
    assert ask(input=kept).messages == request.messages
    assert ask(before=tuple(kept), previous_response_id="resp_1", input=None).messages == request.messages


@pytest.mark.parametrize("value", INPUTS)
def test_every_kept_item_has_an_id_of_its_own_and_the_sdks_shape(value: Any) -> None:
    kept = listed(ask(input=value).items, "0123")
    assert len({item_id for item_id, _ in kept}) == len(kept)
    for item_id, body in kept:
        item = json.loads(body)
        assert item["id"] == item_id
        _ADAPTER.validate_python(item, strict=True)


def test_an_item_keeps_its_own_id_and_gets_one_where_it_has_none() -> None:
    value = [{"role": "user", "content": "a", "id": "msg_own"}, {"role": "user", "content": "b"}]
    assert [item_id for item_id, _ in listed(ask(input=value).items, "0123")] == ["msg_own", "msg_0123_in1"]

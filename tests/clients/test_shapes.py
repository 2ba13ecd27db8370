"""Every object and every chunk has what OpenAI's schema requires, and nothing that it does not know.

The SDK's models are held against them too, strictly, which the SDK itself never does.
"""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from tests.service.test_encode import SCHEMAS, conforms
from tests.support.services import Json, scripted
from tests.support.serving import Served

BOTH = pytest.mark.parametrize("served", ["fakes", pytest.param("cli", marks=pytest.mark.codex)], indirect=True)
USAGE: Json = {"usage": {"input_tokens": 9, "cached_tokens": 4, "output_tokens": 5, "reasoning_tokens": 2}}
TOOLS: list[Json] = [{"type": "function", "function": {"name": "look"}}]
CALLS: Json = {"tool_calls": [{"name": "look", "call_id": "call_a"}, {"name": "look", "call_id": "call_b"}]}
TALK: Json = {"chunks": ["one ", "two ", "three"]}
JSON: Json = {"text": '{"a": 1}'}
SCHEMA: Json = {"type": "object", "properties": {"a": {"type": "integer"}}}

REQUESTS: dict[str, tuple[Json, Json]] = {
    "plain": (TALK, {}),
    "nothing said": ({"text": ""}, {}),
    "counted": (TALK | USAGE, {"stream_options": {"include_usage": True}}),
    "estimated": (TALK | {"repeat": 50}, {"max_tokens": 1, "stream_options": {"include_usage": True}}),
    "stopped": (TALK, {"stop": ["two"]}),
    "too long": (TALK | {"incomplete": "max_output_tokens"}, {}),
    "filtered": (TALK | {"incomplete": "content_filter"}, {}),
    "thought": (TALK | {"reasoning": "Hm."}, {"reasoning_effort": "high"}),
    "choices": (TALK | USAGE, {"n": 3, "stream_options": {"include_usage": True}}),
    "calls": (CALLS | USAGE, {"tools": TOOLS, "stream_options": {"include_usage": True}}),
    "calls after words": (CALLS | TALK, {"tools": TOOLS}),
    "one call": (CALLS, {"tools": TOOLS, "parallel_tool_calls": False}),
    "calls of choices": (CALLS, {"tools": TOOLS, "n": 2}),
    "a legacy call": (CALLS, {"functions": [{"name": "look"}]}),
    "json": (JSON, {"response_format": {"type": "json_object"}}),
    "json of a schema": (JSON, {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}),
    "metadata": (TALK, {"metadata": {"who": "me"}}),
    "a tier": (TALK, {"service_tier": "priority"}),
    "ignored": (TALK, {"temperature": 1, "seed": 1, "user": "me", "logit_bias": {}, "store": False}),
}


def strictly(model: type[BaseModel], value: Json, beyond: frozenset[str] = frozenset()) -> None:
    """`value` is this model without any conversion, and has no field that it does not know, but `beyond`."""
    _assert_known(model.model_validate(value, strict=True), beyond)


def _assert_known(value: Any, beyond: frozenset[str]) -> None:
    if isinstance(value, BaseModel):
        assert (value.model_extra or {}).keys() <= beyond, type(value)
        for name in value.model_fields_set:
            _assert_known(getattr(value, name, None), frozenset())
    elif isinstance(value, list):
        for member in value:
            _assert_known(member, beyond)


def test_the_strict_check_can_fail() -> None:
    model = {"id": "a", "created": 1, "object": "model", "owned_by": "b"}
    strictly(Model, model)
    for wrong in (model | {"created": "1"}, model | {"more": 1}, {"id": "a"}):
        with pytest.raises((ValueError, AssertionError)):
            strictly(Model, wrong)


@BOTH
@pytest.mark.parametrize("asked", REQUESTS.values(), ids=REQUESTS.keys())
def test_an_object_is_what_openai_says(served: Served, asked: tuple[Json, Json]) -> None:
    directive, fields = asked
    answer = served.chat(scripted(**directive), **{key: fields[key] for key in fields if key != "stream_options"})
    assert answer.status == 200, answer.raw
    conforms(answer.json, SCHEMAS["CreateChatCompletionResponse"])
    strictly(ChatCompletion, answer.json, frozenset({"metadata"}))
    usage = answer.json["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@BOTH
@pytest.mark.parametrize("asked", REQUESTS.values(), ids=REQUESTS.keys())
def test_every_chunk_is_what_openai_says(served: Served, asked: tuple[Json, Json]) -> None:
    directive, fields = asked
    answer = served.chat(scripted(**directive), stream=True, **fields)
    assert answer.status == 200, answer.raw
    stream = answer.stream
    for chunk in stream.chunks:
        conforms(chunk, SCHEMAS["CreateChatCompletionStreamResponse"])
        strictly(ChatCompletionChunk, chunk)
    assert stream.is_done
    assert stream.errors == []
    for name in ("id", "created", "model", "system_fingerprint", "object"):
        assert len({chunk[name] for chunk in stream.chunks}) == 1, name
    if "stream_options" in fields:
        *others, last = stream.chunks
        assert all(chunk["usage"] is None for chunk in others)
        assert (last["choices"], last["usage"]["total_tokens"] > 0) == ([], True)
    else:
        assert not any("usage" in chunk for chunk in stream.chunks)


@BOTH
def test_a_model_is_what_openai_says(served: Served) -> None:
    listed = served.get("/v1/models").json
    assert listed.keys() == {"object", "data"}
    assert listed["object"] == "list"
    for model in listed["data"]:
        strictly(Model, model)
        strictly(Model, served.get(f"/v1/models/{model['id']}").json)


FAILURES: dict[str, tuple[Json, Json, int]] = {
    "a wrong request": ({}, {"n": 0}, 400),
    "no such model": ({}, {"model": "none"}, 404),
    "a refusal": ({"status": 400, "error": {"message": "bad words"}}, {}, 400),
    "a limit": ({"status": 429}, {}, 429),
    "a failure": ({"status": 500}, {}, 502),
    "no login": ({"status": 401}, {}, 503),
    "a broken line": ({"disconnect": "first"}, {}, 502),
    "a full context": ({"failed": "context_length_exceeded"}, {}, 400),
    "no json": ({"text": "no"}, {"response_format": {"type": "json_object"}}, 502),
}


@BOTH
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("asked", FAILURES.values(), ids=FAILURES.keys())
def test_an_error_is_what_openai_says(served: Served, asked: tuple[Json, Json, int], stream: bool) -> None:
    directive, fields, status = asked
    answer = served.chat(scripted(**directive), stream=stream, **fields)
    assert answer.headers["x-request-id"].startswith("req_")
    if answer.status == 200:  # it was told too late for a status
        assert (len(answer.stream.errors), answer.stream.finishes, answer.stream.is_done) == (1, [], False)
        return
    assert answer.status == status
    assert answer.error["message"]
    if status in (429, 503):
        assert int(answer.headers["Retry-After"]) * 1000 >= int(answer.headers["retry-after-ms"]) > 0

"""What goes out is what OpenAI's contract requires, and the text is the model's to the last character."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from pool.events import Finish, ReasoningDelta, TextDelta, Usage
from service.api.errors import ApiError
from service.encode.collect import chat_completion
from service.encode.sse import DONE, ESTIMATED, ChatStream, keepalive
from service.encode.usage import usage_object

SCHEMAS = json.loads((Path(__file__).parent / "data" / "chat_schema.json").read_text())["schemas"]
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "null": type(None)}
USAGE = Usage(100, 40, 7, 20, 5)
MODEL = 'codex-"5"'
ANSWERS = [finish for finish in Finish if finish is not Finish.INTERRUPTED]


def conforms(value: Any, schema: dict[str, Any], where: str = "$") -> None:
    """A small part of JSON Schema, and stricter in one thing: a field that the schema does not name is an error."""
    if value is None and schema.get("nullable"):
        return
    if "$ref" in schema:
        conforms(value, SCHEMAS[schema["$ref"].rsplit("/", 1)[1]], where)
        return
    if "anyOf" in schema:
        failures = []
        for option in schema["anyOf"]:
            try:
                conforms(value, option, where)
            except AssertionError as failure:
                failures.append(failure)
            else:
                return
        pytest.fail(f"{where}: {failures}")
    assert type(value) is TYPES[schema["type"]], where
    assert value in schema.get("enum", [value]), where
    if isinstance(value, list):
        for index, member in enumerate(value):
            conforms(member, schema["items"], f"{where}[{index}]")
    if isinstance(value, dict):
        assert set(schema.get("required", ())) <= value.keys(), where
        for key, member in value.items():
            inner = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            assert inner, f"{where}.{key} is not in the schema"
            conforms(member, inner, f"{where}.{key}")


def stream(include_usage: bool = False) -> ChatStream:
    return ChatStream(
        id="chatcmpl-1",
        created=1_700_000_000,
        model=MODEL,
        fingerprint="fp_1",
        include_usage=include_usage,
        prompt_chars=9,
    )


def chunks(data: bytes) -> list[dict[str, Any]]:
    events = data.decode().split("\n\n")
    assert events.pop() == ""
    return [json.loads(event.removeprefix("data: ")) for event in events if not event.startswith(":")]


def completion(**fields: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "id": "chatcmpl-1",
        "created": 1_700_000_000,
        "model": MODEL,
        "fingerprint": "fp_1",
        "text": "hi",
        "finish": Finish.STOP,
        "usage": USAGE,
    }
    body, _ = chat_completion(**known | fields)
    answer = json.loads(body)
    assert isinstance(answer, dict)
    return answer


def test_the_schema_check_can_fail() -> None:
    answer = completion()
    del answer["choices"][0]["message"]["refusal"]
    with pytest.raises(AssertionError):
        conforms(answer, SCHEMAS["CreateChatCompletionResponse"])
    with pytest.raises(AssertionError):
        conforms(completion() | {"extra": 1}, SCHEMAS["CreateChatCompletionResponse"])


# --- streams -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("include_usage", [False, True])
def test_a_stream_is_role_text_finish_usage_and_done(include_usage: bool) -> None:
    encoder = stream(include_usage)
    written = [
        encoder.role(),
        encoder.text("Hel"),
        encoder.events([TextDelta("lo"), ReasoningDelta("hm"), TextDelta("!")]),
        encoder.finish(Finish.STOP),
        encoder.usage(USAGE),
    ]
    expected: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {"content": "lo"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {"content": "!"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]
    if include_usage:
        counts, _ = usage_object(USAGE, prompt_chars=0, completion_chars=0)
        expected = [chunk | {"usage": None} for chunk in expected] + [{"choices": [], "usage": counts}]
    same = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": MODEL,
        "system_fingerprint": "fp_1",
    }
    assert chunks(b"".join(written)) == [same | chunk for chunk in expected]
    assert DONE == b"data: [DONE]\n\n"


@pytest.mark.parametrize("finish", ANSWERS)
@pytest.mark.parametrize("include_usage", [False, True])
def test_every_chunk_is_one_that_openai_would_send(finish: Finish, include_usage: bool) -> None:
    encoder = stream(include_usage)
    written = encoder.role() + encoder.text("a\n\n") + encoder.finish(finish) + encoder.usage(USAGE)
    for chunk in chunks(written):
        conforms(chunk, SCHEMAS["CreateChatCompletionStreamResponse"])
        assert not ChatCompletionChunk.model_validate(chunk).model_extra


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"])))))
def test_the_deltas_of_a_stream_add_up_to_the_text(reads: list[list[str]]) -> None:
    encoder = stream()
    data = b"".join(encoder.events(TextDelta(text) for text in texts) for texts in reads)
    deltas = [chunk["choices"][0]["delta"]["content"] for chunk in chunks(data)]
    assert deltas == [text for texts in reads for text in texts]
    assert data == b"".join(stream().text(text) for texts in reads for text in texts)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_text_can_break_an_event(text: str) -> None:
    data = stream().text(text)
    assert data.count(b"\n") == 2
    assert b"\r" not in data


def test_a_read_without_text_writes_nothing() -> None:
    assert stream().events([ReasoningDelta("hm")]) == b""


def test_an_estimated_usage_is_marked_and_counts_what_was_streamed() -> None:
    encoder = stream(include_usage=True)
    encoder.text("12345")
    encoder.events([TextDelta("678"), TextDelta("9")])
    data = encoder.usage(None)
    assert data.startswith(ESTIMATED)
    usage = chunks(data)[0]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 3, 6)


def test_an_error_is_the_last_event_and_looks_like_no_finish() -> None:
    data = stream().error(ApiError(status=503, message="gone", type="backend_unavailable", code="worker_lost"))
    assert chunks(data) == [
        {"error": {"message": "gone", "type": "backend_unavailable", "param": None, "code": "worker_lost"}}
    ]


def test_a_keepalive_is_a_comment() -> None:
    assert keepalive(1_700_000_000_123) == b": keepalive 1700000000123\n\n"


# --- whole answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finish", ANSWERS)
@pytest.mark.parametrize("usage", [USAGE, None])
def test_a_completion_is_one_that_openai_would_send(finish: Finish, usage: Usage | None) -> None:
    answer = completion(finish=finish, usage=usage, metadata={"a": "b"})
    conforms(answer, SCHEMAS["CreateChatCompletionResponse"])
    parsed = ChatCompletion.model_validate(answer)
    assert not parsed.model_extra
    assert parsed.choices[0].finish_reason == finish.value
    assert parsed.choices[0].message.content == "hi"


def test_a_completion_keeps_the_predecessors_order_of_fields() -> None:
    assert list(completion())[:6] == ["id", "object", "created", "model", "choices", "usage"]
    assert "metadata" not in completion()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_text_of_a_completion_is_verbatim(text: str) -> None:
    assert completion(text=text)["choices"][0]["message"]["content"] == text


def test_usage_is_what_the_upstream_counted() -> None:
    assert usage_object(USAGE, prompt_chars=1, completion_chars=1) == (
        {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "total_tokens": 120,
            "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 7, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 5,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        False,
    )


@pytest.mark.parametrize(("chars", "tokens"), [(0, 0), (1, 1), (4, 1), (5, 2)])
def test_without_a_report_usage_is_a_marked_estimate_of_four_characters_a_token(chars: int, tokens: int) -> None:
    counts, is_estimate = usage_object(None, prompt_chars=chars, completion_chars=chars)
    assert is_estimate
    assert (counts["prompt_tokens"], counts["completion_tokens"]) == (tokens, tokens)
    _, is_marked = chat_completion(
        id="", created=0, model="", fingerprint="", text="", finish=Finish.STOP, usage=None, prompt_chars=chars
    )
    assert is_marked

"""What goes out is what OpenAI's contract requires, and the text is the model's to the last character."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from pool.events import (
    Fault,
    FaultKind,
    Finish,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolSpec,
    TurnEnd,
    TurnEvent,
    Usage,
)
from scheduler.model import Ended
from service.api.chat import ChatRequest
from service.api.errors import ApiError
from service.api.tools import Tools
from service.encode.choice import Choice, Piece, call_counts, total
from service.encode.collect import chat_completion
from service.encode.sse import DONE, ESTIMATED, ChatStream, keepalive
from service.encode.terms import Terms
from service.encode.usage import usage_object

SCHEMAS = json.loads((Path(__file__).parent / "data" / "chat_schema.json").read_text())["schemas"]
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "null": type(None)}
USAGE = Usage(100, 40, 7, 20, 5)
NOW = 1000.0
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


REQUEST = ChatRequest(model=MODEL, messages=())
TERMS = Terms(keeps=True, prompt_chars=9)
LOOK = ToolSpec("look", "", {})
CALLS = [ToolCall("call_1", "look", '{"at":  "a"}'), ToolCall("call_2", "look", 'not "json"\n')]
HI: list[TurnEvent] = [TextDelta("hi")]


def asking(**fields: Any) -> ChatRequest:
    return replace(REQUEST, **fields)


def held_to(**fields: Any) -> Terms:
    return replace(TERMS, **fields)


def choice(
    events: Sequence[TurnEvent] = HI,
    terms: Terms = TERMS,
    *,
    finish: Finish = Finish.STOP,
    usage: Usage | None = USAGE,
) -> Choice:
    """One that has ended."""
    made = Choice(terms)
    made.take(events, NOW)
    made.end(Ended(TurnEnd(finish=finish, usage=usage)))
    return made


def stream(**fields: Any) -> ChatStream:
    return ChatStream(id="chatcmpl-1", created=1_700_000_000, fingerprint="fp_1", request=asking(**fields))


def chunks(data: bytes) -> list[dict[str, Any]]:
    events = data.decode().split("\n\n")
    assert events.pop() == ""
    shown = [event for event in events if not event.startswith(":") and event != "data: [DONE]"]
    return [json.loads(event.removeprefix("data: ")) for event in shown]


def deltas(data: bytes) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in chunks(data)]


def completion(*choices: Choice, **fields: Any) -> dict[str, Any]:
    body, _ = chat_completion(
        id="chatcmpl-1",
        created=1_700_000_000,
        fingerprint="fp_1",
        request=asking(**fields),
        choices=choices or (choice(),),
    )
    answer = json.loads(body)
    assert isinstance(answer, dict)
    return answer


def test_the_tier_is_told_where_one_was_asked_for() -> None:
    assert completion(service_tier="auto")["service_tier"] == "default"
    assert "service_tier" not in completion()
    assert chunks(stream(service_tier="auto").begin())[0]["service_tier"] == "default"
    assert "service_tier" not in chunks(stream().begin())[0]


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
    encoder = stream(include_usage=include_usage)
    written = [encoder.begin(), encoder.pieces([TextDelta("Hel"), TextDelta("lo")]), encoder.finish([choice()])]
    expected: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {"content": "lo"}, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    ]
    if include_usage:
        expected = [chunk | {"usage": None} for chunk in expected] + [{"choices": [], "usage": usage_object(USAGE)}]
    same = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": MODEL,
        "system_fingerprint": "fp_1",
    }
    assert chunks(b"".join(written)) == [same | chunk for chunk in expected]
    assert b"".join(written).endswith(DONE)
    assert DONE == b"data: [DONE]\n\n"


def test_a_call_is_begun_with_its_name_and_completed_with_its_arguments() -> None:
    encoder = stream(tools=Tools((LOOK,)))
    begun = {"type": "function", "function": {"name": "look", "arguments": ""}}
    data = encoder.pieces([TextDelta("I look."), CALLS[0]]) + encoder.pieces([CALLS[1]])
    assert deltas(data) == [
        {"content": "I look."},
        {"tool_calls": [{"index": 0, "id": "call_1"} | begun]},
        {"tool_calls": [{"index": 0, "function": {"arguments": CALLS[0].arguments}}]},
        {"tool_calls": [{"index": 1, "id": "call_2"} | begun]},
        {"tool_calls": [{"index": 1, "function": {"arguments": CALLS[1].arguments}}]},
    ]


def test_a_legacy_call_is_a_function_call() -> None:
    encoder = stream(tools=Tools((LOOK,), is_parallel=False, is_legacy=True))
    assert deltas(encoder.pieces([CALLS[0]])) == [
        {"function_call": {"name": "look", "arguments": ""}},
        {"function_call": {"arguments": CALLS[0].arguments}},
    ]


def test_the_number_of_calls_is_told_between_the_finish_and_the_usage() -> None:
    written = stream(include_usage=True).finish([choice(CALLS)]).split(b"\n\n")
    assert b'"finish_reason":"tool_calls"' in written[0]
    assert written[1] == b': {"tool_call_count":2,"tool_call_truncated":false,"stop_after_tools_mode":"burst"}'
    assert b'"prompt_tokens"' in written[2]
    assert written[3:] == [b"data: [DONE]", b""]
    assert b"tool_call_count" not in stream().finish([choice()])


def test_choices_are_kept_apart_in_a_stream() -> None:
    encoder = stream(n=2, include_usage=True)
    first, second = choice(CALLS[:1]), choice(finish=Finish.LENGTH)
    data = [
        encoder.begin(),
        encoder.pieces(CALLS[:1], 1),
        encoder.pieces(CALLS[1:], 0),
        encoder.finish([first, second]),
    ]
    role, begun, rest, other, _, finish, usage = chunks(b"".join(data))
    assert role["choices"] == [
        {"index": 0, "delta": {"role": "assistant"}, "finish_reason": None},
        {"index": 1, "delta": {"role": "assistant"}, "finish_reason": None},
    ]
    assert [chunk["choices"][0]["index"] for chunk in (begun, rest, other)] == [1, 1, 0]
    assert other["choices"][0]["delta"]["tool_calls"][0]["index"] == 0
    assert finish["choices"] == [
        {"index": 0, "delta": {}, "finish_reason": "tool_calls"},
        {"index": 1, "delta": {}, "finish_reason": "length"},
    ]
    assert usage["usage"]["total_tokens"] == 240


@pytest.mark.parametrize("finish", ANSWERS)
@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("is_legacy", [False, True])
def test_every_chunk_is_one_that_openai_would_send(finish: Finish, include_usage: bool, is_legacy: bool) -> None:
    encoder = stream(include_usage=include_usage, tools=Tools((LOOK,), is_legacy=is_legacy))
    pieces: list[Piece] = [TextDelta("a\n\n"), *CALLS]
    written = encoder.begin() + encoder.pieces(pieces) + encoder.finish([choice(finish=finish)])
    for chunk in chunks(written):
        conforms(chunk, SCHEMAS["CreateChatCompletionStreamResponse"])
        assert not ChatCompletionChunk.model_validate(chunk).model_extra


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.lists(TEXTS)))
def test_the_deltas_of_a_stream_add_up_to_the_text(reads: list[list[str]]) -> None:
    encoder = stream()
    data = b"".join(encoder.pieces([TextDelta(text) for text in texts]) for texts in reads)
    assert [delta["content"] for delta in deltas(data)] == [text for texts in reads for text in texts]


@given(TEXTS, TEXTS, TEXTS)
def test_no_text_can_break_an_event(text: str, name: str, arguments: str) -> None:
    data = stream().pieces([TextDelta(text), ToolCall(name, name, arguments)])
    assert data.count(b"\n") == 6
    assert b"\r" not in data
    assert deltas(data)[2]["tool_calls"][0]["function"]["arguments"] == arguments


def test_nothing_to_show_writes_nothing() -> None:
    assert stream().pieces([]) == b""


def test_an_estimated_usage_is_marked_and_counts_what_was_said() -> None:
    said = choice([TextDelta("12345"), ReasoningDelta("hm"), ToolCall("c", "f", "{}")], usage=None)
    data = stream(include_usage=True).finish([said])
    assert ESTIMATED in data
    usage = chunks(data)[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 2, 5)


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
    answer = completion(choice(finish=finish, usage=usage), metadata={"a": "b"})
    conforms(answer, SCHEMAS["CreateChatCompletionResponse"])
    parsed = ChatCompletion.model_validate(answer)
    assert not parsed.model_extra
    assert parsed.choices[0].finish_reason == finish.value
    assert parsed.choices[0].message.content == "hi"


@pytest.mark.parametrize("said", [[], HI])
def test_calls_are_a_message_whose_content_is_null_when_nothing_was_said(said: list[TurnEvent]) -> None:
    answer = completion(choice([*said, *CALLS], finish=Finish.TOOL_CALLS))
    conforms(answer, SCHEMAS["CreateChatCompletionResponse"])
    assert not ChatCompletion.model_validate(answer).model_extra
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": "hi" if said else None,
        "refusal": None,
        "tool_calls": [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in CALLS
        ],
    }


def test_a_legacy_call_in_a_completion_is_a_function_call() -> None:
    legacy = held_to(tools=Tools((LOOK,), is_parallel=False, is_legacy=True))
    answer = completion(choice(CALLS, legacy, finish=Finish.TOOL_CALLS), tools=legacy.tools)
    conforms(answer, SCHEMAS["CreateChatCompletionResponse"])
    assert answer["choices"][0]["finish_reason"] == "function_call"
    message = answer["choices"][0]["message"]
    assert message["function_call"] == {"name": "look", "arguments": CALLS[0].arguments}
    assert "tool_calls" not in message


def test_an_answer_that_says_nothing_is_empty_and_not_null() -> None:
    assert completion(choice([]))["choices"][0]["message"]["content"] == ""


def test_a_completion_keeps_the_predecessors_order_of_fields() -> None:
    assert list(completion())[:6] == ["id", "object", "created", "model", "choices", "usage"]
    assert "metadata" not in completion()


@given(TEXTS)
def test_the_text_of_a_completion_is_verbatim(text: str) -> None:
    assert completion(choice([TextDelta(text)]))["choices"][0]["message"]["content"] == text


def test_usage_is_what_the_upstream_counted_of_all_choices() -> None:
    expected = {
        "prompt_tokens": 200,
        "completion_tokens": 40,
        "total_tokens": 240,
        "prompt_tokens_details": {"cached_tokens": 80, "cache_write_tokens": 14, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 10,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    assert total([choice(), choice()]) == (Usage(200, 80, 14, 40, 10), False)
    answer = completion(choice(), choice())
    assert answer["usage"] == expected
    assert [each["index"] for each in answer["choices"]] == [0, 1]


@pytest.mark.parametrize(("chars", "tokens"), [(0, 0), (1, 1), (4, 1), (5, 2)])
def test_without_a_report_usage_is_a_marked_estimate_of_four_characters_a_token(chars: int, tokens: int) -> None:
    said = choice([TextDelta("x" * chars)], held_to(prompt_chars=chars), usage=None)
    assert total([said]) == (Usage(input_tokens=tokens, output_tokens=tokens), True)
    assert total([said, choice()])[1], "one estimate makes the sum one"


# --- choices -----------------------------------------------------------------------------------------------------


def test_what_is_shown_is_text_and_calls_in_their_order() -> None:
    made = Choice(held_to(keeps=False))
    assert made.take([ReasoningDelta("hm"), TextDelta("a"), CALLS[0], TextDelta("b")], NOW) == [
        TextDelta("a"),
        CALLS[0],
        TextDelta("b"),
    ]
    assert (made.text, made.calls, made.kept_chars) == ("", [], 0)
    assert call_counts([made]) == (1, False)


def test_without_parallel_calls_the_first_is_kept() -> None:
    made = Choice(held_to(tools=Tools((LOOK,), is_parallel=False)))
    assert made.take(CALLS, NOW) == CALLS[:1]
    assert made.take(CALLS, NOW) == []
    assert made.calls == CALLS[:1]
    assert call_counts([made]) == (1, True)


@pytest.mark.parametrize("finish", [Finish.STOP, Finish.TOOL_CALLS])
def test_calls_decide_why_an_answer_ended(finish: Finish) -> None:
    assert choice(CALLS, finish=finish).finish == "tool_calls"


@pytest.mark.parametrize("finish", [Finish.LENGTH, Finish.CONTENT_FILTER])
def test_calls_of_an_answer_that_was_cut_off_do_not_hide_that(finish: Finish) -> None:
    assert choice(CALLS, finish=finish).finish == finish


def test_an_answer_that_had_to_call_and_did_not_is_an_error() -> None:
    with pytest.raises(ApiError) as caught:
        choice(HI, held_to(tools=Tools((LOOK,), must_call=True)))
    assert (caught.value.status, caught.value.code) == (502, "tool_choice_not_followed")
    assert choice(CALLS, held_to(tools=Tools((LOOK,), must_call=True))).finish == "tool_calls"
    assert choice(HI, held_to(tools=Tools((LOOK,), must_call=True)), finish=Finish.LENGTH).finish == "length"


def test_a_call_of_a_function_that_was_not_offered_is_an_error() -> None:
    made = Choice(held_to(tools=Tools((LOOK,), withheld=frozenset({"listen"}))))
    made.take([*CALLS, ToolCall("c", "unheard_of", "{}")], NOW)
    with pytest.raises(ApiError) as caught:
        made.take([ToolCall("c", "listen", "{}")], NOW)
    assert caught.value.code == "tool_choice_not_followed"


def test_text_before_a_call_stays_before_it_and_a_call_after_the_end_is_none() -> None:
    made = Choice(held_to(stop=("END",), max_tokens=3))
    assert made.take([TextDelta("EN"), CALLS[0], TextDelta("Do")], NOW) == [TextDelta("EN"), CALLS[0], TextDelta("Do")]
    assert not made.is_full
    assert made.take([TextDelta(" it EN"), CALLS[1]], NOW) == [TextDelta(" it")]
    assert made.is_full
    assert made.end(Ended(TurnEnd(finish=Finish.INTERRUPTED))) == []
    assert (made.call_count, made.finish) == (1, "length")


def test_a_turn_that_failed_after_a_call_is_no_answer() -> None:
    made = Choice(TERMS)
    made.take(CALLS, NOW)
    with pytest.raises(ApiError) as caught:
        made.end(Ended(TurnEnd(fault=Fault(FaultKind.WORKER_LOST, "it was killed"))))
    assert caught.value.code == "worker_lost"

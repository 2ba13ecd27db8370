"""The `openai` SDK in front, the real CLI behind, and a real service process between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import (
    ChatCompletionChunk,
    ChatCompletionContentPartParam,
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageParam,
)
from pydantic import BaseModel, Field

from tests.support.images import data_url, png
from tests.support.pools import script
from tests.support.services import KEY
from tests.support.serving import MODEL, serving_cli


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service on the real CLI and a stand-in model."""
    with serving_cli(tmp_path_factory.mktemp("service")) as served:
        yield served.base_url


@pytest.fixture
def client(base_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=base_url, api_key=KEY, max_retries=0) as sdk:
        yield sdk


def user(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


def test_a_whole_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=user(script(text="Hello there.")))
    assert answer.choices[0].message.content == "Hello there."
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == MODEL
    assert answer.object == "chat.completion"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    assert answer.system_fingerprint == "fp_codex_0.163.0"
    assert answer._request_id is not None
    assert answer._request_id.startswith("req_")


def test_a_streamed_answer_with_usage(client: OpenAI) -> None:
    usage = {"input_tokens": 7, "output_tokens": 3, "cached_tokens": 2}
    prompt = user(script(chunks=["Hel", "lo ", "there."], usage=usage))
    stream = client.chat.completions.create(
        model=MODEL, messages=prompt, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert [chunk.choices[0].delta.content for chunk in chunks[1:-2]] == ["Hel", "lo ", "there."]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    counted = chunks[-1].usage
    assert counted is not None
    assert (counted.prompt_tokens, counted.completion_tokens, counted.total_tokens) == (7, 3, 10)
    assert counted.prompt_tokens_details is not None
    assert counted.prompt_tokens_details.cached_tokens == 2
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_stream_helper(client: OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=user(script(text="One two three."))) as stream:
        texts = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(texts) == "One two three."
    assert final.choices[0].message.content == "One two three."


async def test_the_async_client(base_url: str) -> None:
    async with AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=user(script(text="whole")))
        assert answer.choices[0].message.content == "whole"
        stream = await client.chat.completions.create(model=MODEL, messages=user(script(text="in pieces")), stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "in pieces"


def test_all_roles_reach_the_model(client: OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "Be terse."},
        {"role": "user", "content": "What is the weather?"},
        {
            "role": "assistant",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "assistant", "content": "Sunny."},
        {"role": "developer", "content": "Now be kind."},
        {"role": "user", "content": [{"type": "text", "text": 'And now? @@{"text": "Still sunny."}'}]},
    ]
    answer = client.chat.completions.create(model=MODEL, messages=messages)
    assert answer.choices[0].message.content == "Still sunny."


class Weather(BaseModel):
    """The weather in a city."""

    city: str = Field(pattern="^[A-Z]")
    days: int = 1


WEATHER = openai.pydantic_function_tool(Weather)
SHELL: ChatCompletionFunctionToolParam = {"type": "function", "function": {"name": "exec_command"}}
CALLING = [
    {"name": "_exec_command", "arguments": "{}", "call_id": "call_a"},
    {"name": "Weather", "arguments": '{"city": "Rome",  "days": 3}', "call_id": "call_b"},
]


def test_functions_are_called_and_their_answers_come_back(client: OpenAI) -> None:
    asked = user(script(tool_calls=CALLING))
    answer = client.chat.completions.create(model=MODEL, messages=asked, tools=[WEATHER, SHELL])
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    assert message.tool_calls is not None
    assert [
        (call.id, call.function.name, call.function.arguments) for call in message.tool_calls if call.type == "function"
    ] == [
        ("call_a", "exec_command", "{}"),
        ("call_b", "Weather", '{"city": "Rome",  "days": 3}'),
    ]
    told: list[ChatCompletionMessageParam] = [
        {"role": "tool", "tool_call_id": call.id, "content": f"answer to {call.id}"} for call in message.tool_calls
    ]
    made: Any = message.to_dict()
    again = client.chat.completions.create(model=MODEL, messages=[*asked, made, *told], tools=[WEATHER, SHELL])
    assert again.choices[0].message.content == "The tools answered: answer to call_a | answer to call_b"


def test_the_stream_helper_puts_calls_together_and_reads_their_arguments(client: OpenAI) -> None:
    prompt = user(script(text="I look.", tool_calls=CALLING[1:]))
    with client.chat.completions.stream(model=MODEL, messages=prompt, tools=[WEATHER]) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()
    assert [(event.name, event.parsed_arguments) for event in done] == [("Weather", Weather(city="Rome", days=3))]
    assert final.choices[0].message.content == "I look."
    assert final.choices[0].finish_reason == "tool_calls"


BLOCK = "<use_tool>\n  <name>readNote</name>\n  <notePath>Projects/plan.md</notePath>\n</use_tool>"
WEATHER_BLOCK = "<use_tool>\n  <name>Weather</name>\n  <city>Rome</city>\n  <days>3</days>\n</use_tool>"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_calls_of_both_kinds_are_blocks_for_who_reads_them(client: OpenAI, *, stream: bool) -> None:
    prompt = user(BLOCK + " then " + script(echo=True, chunk_size=7, tool_calls=CALLING[1:]))
    asked: dict[str, Any] = {"model": MODEL, "messages": prompt, "tools": [WEATHER]}
    asked["extra_headers"] = {"x-proxy-output-mode": "obsidian-xml"}
    if stream:
        with client.chat.completions.stream(**asked) as events:
            choice: Any = events.get_final_completion().choices[0]
            headers = events._response.headers
    else:
        answer = client.chat.completions.with_raw_response.create(**asked)
        choice, headers = answer.parse().choices[0], answer.headers
        assert headers["x-codex-tool-call-count"] == "2"
    assert headers["x-proxy-output-mode"] == "obsidian-xml"
    assert choice.message.content == f"{BLOCK} then{WEATHER_BLOCK}"
    assert [(call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls] == [
        ("tool_0_0", "readNote", '{"notePath": "Projects/plan.md"}'),
        ("call_b", "Weather", '{"city": "Rome",  "days": 3}'),
    ]
    assert choice.finish_reason == "tool_calls"


def test_a_block_is_text_for_who_knows_nothing_of_blocks(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=user(BLOCK + script(echo=True, chunk_size=7)))
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (BLOCK, "stop")


def test_parsed_arguments_are_the_callers_own_types(client: OpenAI) -> None:
    answer = client.chat.completions.parse(model=MODEL, messages=user(script(tool_calls=CALLING[1:])), tools=[WEATHER])
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == Weather(city="Rome", days=3)


def test_a_schema_that_is_none_is_a_bad_request(client: OpenAI) -> None:
    wrong: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": []}}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=user("Hi."), tools=[wrong])
    assert "look" in str(caught.value)


def test_an_answer_is_parsed_into_the_callers_own_type(client: OpenAI) -> None:
    prompt = user(script(text='{"city": "Rome", "days": 3}'))
    answer = client.chat.completions.parse(model=MODEL, messages=prompt, response_format=Weather)
    assert answer.choices[0].message.parsed == Weather(city="Rome", days=3)
    with client.chat.completions.stream(model=MODEL, messages=prompt, response_format=Weather) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == Weather(city="Rome", days=3)


def test_json_that_the_model_does_not_give_is_an_error(client: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(
            model=MODEL, messages=user(script(text="Sure!")), response_format={"type": "json_object"}
        )
    assert caught.value.code == "response_format_not_followed"


def test_several_choices(client: OpenAI) -> None:
    usage = {"input_tokens": 7, "output_tokens": 3}
    prompt = user(script(text="One two.", usage=usage))
    answer = client.chat.completions.create(model=MODEL, messages=prompt, n=3)
    assert [(choice.index, choice.message.content) for choice in answer.choices] == [
        (index, "One two.") for index in range(3)
    ]
    assert answer.usage is not None
    assert answer.usage.total_tokens == 30
    with client.chat.completions.stream(model=MODEL, messages=prompt, n=2) as stream:
        final = stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == ["One two."] * 2


@pytest.mark.parametrize(
    ("fields", "text", "finish"),
    [({"stop": ["k ti"]}, "tic", "stop"), ({"max_completion_tokens": 2}, "tick tick", "length")],
)
def test_an_answer_ends_where_it_was_to_end(client: OpenAI, fields: dict[str, Any], text: str, finish: str) -> None:
    prompt = user(script(chunks=["tick "], repeat=10_000, interval_s=0.01))
    answer = client.chat.completions.create(model=MODEL, messages=prompt, **fields)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (text, finish)
    stream = client.chat.completions.create(model=MODEL, messages=prompt, stream=True, **fields)
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    assert chunks[-1].choices[0].finish_reason == finish


def test_models(client: OpenAI) -> None:
    models = client.models.list().data
    assert models[0].id == MODEL
    assert client.models.retrieve(MODEL.upper()).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_a_wrong_key_is_an_authentication_error(base_url: str) -> None:
    with (
        OpenAI(base_url=base_url, api_key="sk-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.chat.completions.create(model=MODEL, messages=user("Hi."))
    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize(
    ("fields", "error", "code", "param"),
    [
        ({"model": "no-such-model"}, openai.NotFoundError, "model_not_found", "model"),
        ({"messages": []}, openai.BadRequestError, "invalid_request_error", "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, openai.BadRequestError, None, "messages[0].role"),
        ({"n": 6}, openai.BadRequestError, None, "n"),
        ({"extra_body": {"stream": "yes"}}, openai.BadRequestError, None, "stream"),
        ({"stop": ["x"] * 5}, openai.BadRequestError, None, "stop"),
        ({"audio": {"format": "wav", "voice": "ash"}}, openai.BadRequestError, "unsupported_parameter", "audio"),
        ({"temperature": 3}, openai.BadRequestError, None, "temperature"),
    ],
)
def test_a_bad_request_is_its_own_class(
    client: OpenAI, fields: dict[str, Any], error: type[openai.APIStatusError], code: str | None, param: str
) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**({"model": MODEL, "messages": user("Hi.")} | fields))
    assert caught.value.param == param
    assert code in (None, caught.value.code)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("fields", "error", "code"),
    [
        ({"status": 400, "error": {"message": "bad words"}}, openai.BadRequestError, "invalid_request_error"),
        ({"status": 429, "error": {"message": "slow"}}, openai.RateLimitError, "rate_limit_exceeded"),
        ({"status": 401, "error": {"message": "no"}}, openai.InternalServerError, "worker_auth_required"),
        ({"status": 500, "error": {"message": "oops"}}, openai.InternalServerError, None),
        ({"failed": {"code": "context_length_exceeded", "message": "long"}}, openai.BadRequestError, None),
        ({"disconnect": "first"}, openai.InternalServerError, None),
    ],
)
def test_a_failure_of_the_provider_is_its_own_class_also_for_streams(
    client: OpenAI, fields: dict[str, Any], error: type[openai.APIStatusError], code: str | None, *, stream: bool
) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(model=MODEL, messages=user(script(**fields)), stream=stream)
    assert code in (None, caught.value.code)
    assert "127.0.0.1" not in str(caught.value)
    if caught.value.status_code in (429, 503):
        assert int(caught.value.response.headers["retry-after"]) >= 1


def test_a_failure_in_mid_stream_raises_and_is_not_taken_for_an_end(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=user(script(text="half of it", disconnect="middle")), stream=True
    )
    chunks: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APIError):
        chunks.extend(iter(stream))
    assert all(choice.finish_reason is None for chunk in chunks for choice in chunk.choices)


def test_an_image_is_seen(client: OpenAI) -> None:
    content: list[ChatCompletionContentPartParam] = [
        {"type": "image_url", "image_url": {"url": data_url(png()), "detail": "high"}},
        {"type": "text", "text": script(text="Red.")},
    ]
    answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content == "Red."
    content[0] = {"type": "image_url", "image_url": {"url": "https://localhost/secret.png"}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}])
    assert caught.value.code == "failed_to_download_image"
    assert caught.value.param == "messages[0].content[0].image_url.url"

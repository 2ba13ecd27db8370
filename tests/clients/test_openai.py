"""The `openai` SDK beyond a plain answer: retries, timeouts, errors, headers, helpers; both of its clients.

What it does on the real CLI is in tests/codex/test_sdk.py.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from tests.support.services import KEY, Json, scripted
from tests.support.serving import MODEL, Served, wait_until

Messages = list[ChatCompletionMessageParam]


@pytest.fixture
def client(served: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=served.base_url, api_key=KEY, max_retries=0) as sdk:
        yield sdk


@pytest.fixture
async def aclient(served: Served) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=served.base_url, api_key=KEY, max_retries=0) as sdk:
        yield sdk


def asked(**directive: Any) -> Messages:
    return [{"role": "user", "content": scripted(**directive)}]


def retried(caplog: pytest.LogCaptureFixture) -> list[float]:
    """How long the SDK waited before each of its retries, in seconds."""
    found = (re.match(r"Retrying request in ([0-9.]+) seconds", record.getMessage()) for record in caplog.records)
    return [float(waited[1]) for waited in found if waited is not None]


@pytest.fixture(autouse=True)
def _told_of_retries(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="openai._base_client")


# --- retries -----------------------------------------------------------------------------------------------------

SLOW: Json = {"failed": {"code": "rate_limit_exceeded", "message": "Rate limit reached. Please try again in 40ms."}}


def test_a_retry_comes_when_it_was_told_to(client: OpenAI, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        client.with_options(max_retries=2).chat.completions.create(model=MODEL, messages=asked(**SLOW))
    assert caught.value.response.headers["retry-after"] == "1"
    assert 40 <= int(caught.value.response.headers["retry-after-ms"]) <= 50
    waits = retried(caplog)
    assert len(waits) == 2
    assert all(0.04 <= wait <= 0.05 for wait in waits), "neither whole seconds nor the SDK's own half"


async def test_the_async_client_retries_a_stream_likewise(
    aclient: AsyncOpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(openai.RateLimitError):
        await aclient.with_options(max_retries=1).chat.completions.create(
            model=MODEL, messages=asked(**SLOW), stream=True
        )
    (wait,) = retried(caplog)
    assert 0.04 <= wait <= 0.05


def test_what_cannot_get_better_is_not_tried_again(client: OpenAI, caplog: pytest.LogCaptureFixture) -> None:
    spent = asked(status=429, error={"message": "You are out of credits.", "code": "insufficient_quota"})
    with pytest.raises(openai.RateLimitError) as caught:
        client.with_options(max_retries=2).chat.completions.create(model=MODEL, messages=spent)
    assert caught.value.code == "insufficient_quota"
    assert retried(caplog) == []


def test_a_full_queue_is_waited_out_and_the_answer_comes(
    client: OpenAI, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    def occupy() -> None:
        client.chat.completions.create(model="narrow", messages=asked(text="first", delay_s=0.3))

    others = [threading.Thread(target=occupy) for _ in range(2)]
    for other in others:
        other.start()
    wait_until(lambda: served.metric("jobs_waiting") == 1)
    answer = client.with_options(max_retries=5).chat.completions.create(model="narrow", messages=asked(text="second"))
    assert answer.choices[0].message.content == "second"
    assert retried(caplog), "it was refused at first"
    for other in others:
        other.join()


# --- timeouts, and clients that leave ----------------------------------------------------------------------------

ENDLESS: Json = {"chunks": ["tick "], "repeat": 100_000, "interval_s": 0.01}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_timeout_is_its_own_class_and_its_turn_goes_on_for_nobody(
    client: OpenAI, served: Served, stream: bool
) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model=MODEL, messages=asked(hang="first"), stream=stream, timeout=0.2)
    served.until_at_rest()


def test_a_stream_that_stalls_in_the_middle_times_out(client: OpenAI, served: Served) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=asked(text="one two", hang="middle"), stream=True, timeout=0.3
    )
    said = []
    with pytest.raises(openai.APIError):
        said += [chunk.choices[0].delta.content for chunk in stream]
    served.until_at_rest()


def test_a_stream_that_is_closed_early_frees_its_seat(client: OpenAI, served: Served) -> None:
    with client.chat.completions.create(model=MODEL, messages=asked(**ENDLESS), stream=True) as stream:
        said = [chunk.choices[0].delta.content for chunk, _ in zip(stream, range(3), strict=False)]
    assert said[-1] == "tick "
    served.until_at_rest()


async def test_an_async_call_that_is_cancelled_frees_its_seat(aclient: AsyncOpenAI, served: Served) -> None:
    async def ask() -> None:
        await aclient.chat.completions.create(model=MODEL, messages=asked(hang="first"))

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await ask()
    await asyncio.to_thread(served.until_at_rest)


# --- errors ------------------------------------------------------------------------------------------------------

ERRORS: list[tuple[Json, type[openai.APIStatusError], int, str]] = [
    ({"messages": []}, openai.BadRequestError, 400, "invalid_request_error"),
    ({"model": "none-such"}, openai.NotFoundError, 404, "model_not_found"),
    ({"extra_headers": {"Authorization": "Bearer sk-wrong"}}, openai.AuthenticationError, 401, "invalid_api_key"),
    ({"model": "short"}, openai.PermissionDeniedError, 403, "context_length_exceeded"),
    ({"messages": asked(**SLOW)}, openai.RateLimitError, 429, "rate_limit_exceeded"),
    ({"messages": asked(status=500)}, openai.InternalServerError, 502, "upstream_error"),
    ({"messages": asked(status=401)}, openai.InternalServerError, 503, "worker_auth_required"),
    ({"extra_headers": {"x-request-deadline-ms": "50"}}, openai.InternalServerError, 504, "deadline_exceeded"),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("wanted", ERRORS, ids=[error[3] for error in ERRORS])
def test_every_class_of_error_is_the_sdks_own(
    client: OpenAI, wanted: tuple[Json, type[openai.APIStatusError], int, str], stream: bool
) -> None:
    fields, kind, status, code = wanted
    request: Any = {"model": MODEL, "messages": asked(text="late", delay_s=0.3), "stream": stream} | fields
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**request)
    error = caught.value
    assert type(error) is kind
    assert (error.status_code, error.code) == (status, code)
    assert error.request_id is not None
    assert error.request_id.startswith("req_")
    assert isinstance(error.body, dict)
    assert {"message", "type", "param", "code"} <= error.body.keys()


def test_an_unknown_address_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model=MODEL, input="Hello.")
    assert caught.value.code == "unknown_url"


# --- headers -----------------------------------------------------------------------------------------------------


def test_the_headers_of_a_raw_response_can_be_read(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=asked(text="Hi."), temperature=0.5, seed=7, user="somebody"
    )
    assert raw.headers["content-type"].startswith("application/json")
    assert set(raw.headers["x-codex-ignored-params"].split(", ")) == {"temperature", "seed", "user"}
    assert raw.headers["x-codex-tool-call-count"] == "0"
    assert raw.request_id == raw.headers["x-request-id"]
    assert raw.parse().choices[0].message.content == "Hi."


def test_a_streaming_response_is_read_line_by_line(client: OpenAI) -> None:
    request: Any = {"model": MODEL, "messages": asked(chunks=["a", "b"]), "stream": True}
    with client.chat.completions.with_streaming_response.create(**request) as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["cache-control"] == "no-cache, no-transform"
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: {") for line in lines[:-1])


# --- helpers of the async client ---------------------------------------------------------------------------------


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    days: int = 1


WEATHER = openai.pydantic_function_tool(Weather, name="weather")
CALLS = [
    {"name": "weather", "arguments": {"city": city, "days": days}, "call_id": f"call_{city}"}
    for city, days in (("Rome", 3), ("Oslo", 1))
]


async def test_parallel_calls_are_parsed_answered_and_the_answer_comes(aclient: AsyncOpenAI) -> None:
    messages = asked(tool_calls=CALLS)
    first = await aclient.chat.completions.parse(model=MODEL, messages=messages, tools=[WEATHER])
    calls = first.choices[0].message.tool_calls or []
    assert [call.function.parsed_arguments for call in calls] == [
        Weather(city="Rome", days=3),
        Weather(city="Oslo", days=1),
    ]
    made: Any = first.choices[0].message.to_dict()
    told: Messages = [{"role": "tool", "tool_call_id": call.id, "content": f"sun in {call.id}"} for call in calls]
    second = await aclient.chat.completions.create(model=MODEL, messages=[*messages, made, *told], tools=[WEATHER])
    assert second.choices[0].message.content == "The tools answered: sun in call_Rome | sun in call_Oslo"
    assert second.choices[0].finish_reason == "stop"


async def test_streamed_calls_are_put_together(aclient: AsyncOpenAI) -> None:
    async with aclient.chat.completions.stream(
        model=MODEL,
        messages=asked(text="I look.", tool_calls=CALLS, usage={"input_tokens": 7, "output_tokens": 3}),
        tools=[WEATHER],
        stream_options={"include_usage": True},
    ) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_completion()
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert [(event.index, event.parsed_arguments) for event in done] == [
        (0, Weather(city="Rome", days=3)),
        (1, Weather(city="Oslo", days=1)),
    ]
    assert [event.content for event in events if event.type == "content.done"] == ["I look."]
    assert final.usage is not None
    assert final.usage.total_tokens == 10
    assert final.choices[0].finish_reason == "tool_calls"


async def test_a_legacy_function_is_called_through_the_sdk(aclient: AsyncOpenAI) -> None:
    answer = await aclient.chat.completions.create(
        model=MODEL, messages=asked(tool_calls=CALLS), functions=[{"name": "weather"}], function_call="auto"
    )
    called = answer.choices[0].message.function_call
    assert called is not None
    assert (called.name, called.arguments) == ("weather", '{"city":"Rome","days":3}')
    assert answer.choices[0].finish_reason == "function_call"


async def test_an_answer_cut_short_is_not_parsed(aclient: AsyncOpenAI) -> None:
    cut: Json = {"text": '{"city": "Rome", "days": 3}'}
    with pytest.raises(openai.LengthFinishReasonError):
        await aclient.chat.completions.parse(
            model=MODEL, messages=asked(**cut), response_format=Weather, max_completion_tokens=2
        )
    with pytest.raises(openai.ContentFilterFinishReasonError):
        await aclient.chat.completions.parse(
            model=MODEL, messages=asked(**cut, incomplete="content_filter"), response_format=Weather
        )


async def test_each_of_many_calls_at_once_gets_its_own_answer(aclient: AsyncOpenAI) -> None:
    async def ask(number: int) -> str | None:
        request = asked(text=f"This is {number}.", delay_s=0.02)
        answer = await aclient.chat.completions.create(model=MODEL, messages=request)
        return answer.choices[0].message.content

    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(ask(number)) for number in range(40)]
    assert [task.result() for task in asking] == [f"This is {number}." for number in range(40)]


def test_the_models_are_listed_page_by_page(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL, "narrow", "short"]
    assert {model.object for model in client.models.list()} == {"model"}

"""`langchain-openai`: answers, streams, tools, structured output and token counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from tests.support.services import KEY, Json, scripted
from tests.support.serving import MODEL, Served

BOTH = pytest.mark.parametrize("served", ["fakes", pytest.param("cli", marks=pytest.mark.codex)], indirect=True)
USAGE: Json = {"input_tokens": 9, "cached_tokens": 4, "output_tokens": 5, "reasoning_tokens": 2}


@asynccontextmanager
async def chat(served: Served, **fields: Any) -> AsyncIterator[ChatOpenAI]:
    """A model whose connections are closed afterwards."""
    with openai.DefaultHttpxClient() as client:
        async with openai.DefaultAsyncHttpxClient() as async_client:
            yield ChatOpenAI(
                model=MODEL,
                base_url=served.base_url,
                api_key=SecretStr(KEY),
                max_retries=0,
                http_client=client,
                http_async_client=async_client,
                **fields,
            )


@pytest.fixture
async def model(served: Served) -> AsyncIterator[ChatOpenAI]:
    async with chat(served, use_responses_api=False) as made:
        yield made


@pytest.fixture
async def by_default(served: Served) -> AsyncIterator[ChatOpenAI]:
    """What LangChain makes of a model of this name when nobody tells it otherwise: it speaks the Responses API."""
    async with chat(served) as made:
        yield made


@tool
def weather(city: str, days: int = 1) -> str:
    """The weather in a city."""
    return f"{days} days of sun in {city}"


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    days: int


CALLS = [
    {"name": "weather", "arguments": {"city": city, "days": days}, "call_id": f"call_{city}"}
    for city, days in (("Rome", 3), ("Oslo", 1))
]


def added(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    """A stream put together, as LangChain does it."""
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    return total


def counted(message: AIMessage) -> tuple[int, int, int, int, int]:
    usage = message.usage_metadata
    assert usage is not None
    details = (usage["input_token_details"]["cache_read"], usage["output_token_details"]["reasoning"])
    return (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"], *details)


@BOTH
def test_an_answer_and_its_tokens(model: ChatOpenAI) -> None:
    answer = model.invoke([SystemMessage("Be kind."), HumanMessage(scripted(text="Hello there.", usage=USAGE))])
    assert answer.content == "Hello there."
    assert counted(answer) == (9, 5, 14, 4, 2)
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.response_metadata["model_name"] == MODEL


@BOTH
def test_a_stream_and_its_tokens(model: ChatOpenAI) -> None:
    total = added(list(model.stream(scripted(chunks=["Hel", "lo ", "there."], usage=USAGE), stream_usage=True)))
    assert total.content == "Hello there."
    assert counted(total) == (9, 5, 14, 4, 2)
    assert total.response_metadata["finish_reason"] == "stop"


@BOTH
def test_tools_are_called_and_their_answers_come_back(model: ChatOpenAI) -> None:
    asked = HumanMessage(scripted(tool_calls=CALLS))
    with_tools = model.bind_tools([weather])
    made = with_tools.invoke([asked])
    assert [call["args"] for call in made.tool_calls] == [{"city": "Rome", "days": 3}, {"city": "Oslo", "days": 1}]
    told: list[ToolMessage] = [weather.invoke(call) for call in made.tool_calls]
    answer = with_tools.invoke([asked, made, *told])
    assert answer.content == "The tools answered: 3 days of sun in Rome | 1 days of sun in Oslo"


async def test_streamed_calls_are_put_together(model: ChatOpenAI) -> None:
    with_tools = model.bind_tools([weather], tool_choice="any")
    asked = scripted(text="I look.", tool_calls=CALLS)
    total = added([chunk async for chunk in with_tools.astream(asked)])  # type: ignore[misc]
    assert total.content == "I look."
    assert [(call["id"], call["args"]["city"]) for call in total.tool_calls] == [
        ("call_Rome", "Rome"),
        ("call_Oslo", "Oslo"),
    ]


@BOTH
@pytest.mark.parametrize("method", ["json_schema", "json_mode", "function_calling"])
def test_structured_output_is_the_callers_own_type(model: ChatOpenAI, method: Any) -> None:
    given: Json = {"text": '{"city": "Rome", "days": 3}'}
    if method == "function_calling":
        given = {"tool_calls": [{"name": "Weather", "arguments": {"city": "Rome", "days": 3}}]}
    structured = model.with_structured_output(Weather, method=method)
    assert structured.invoke(f"As json. {scripted(**given)}") == Weather(city="Rome", days=3)


async def test_a_batch_is_answered_in_its_order(model: ChatOpenAI) -> None:
    answers = await model.abatch([scripted(text=f"This is {number}.") for number in range(12)])
    assert [answer.content for answer in answers] == [f"This is {number}." for number in range(12)]


def test_a_refused_request_is_the_sdks_own_error(model: ChatOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        model.bind(n=6).invoke("Hello.")
    assert caught.value.param == "n"


@BOTH
def test_by_default_answers_calls_and_tokens_are_the_same(by_default: ChatOpenAI) -> None:
    answer = by_default.invoke([SystemMessage("Be kind."), HumanMessage(scripted(text="Hello there.", usage=USAGE))])
    assert answer.text == "Hello there."
    assert counted(answer) == (9, 5, 14, 4, 2)
    assert answer.response_metadata["object"] == "response"
    total = added(list(by_default.stream(scripted(chunks=["Hel", "lo ", "there."], usage=USAGE))))
    assert total.text == "Hello there."
    assert counted(total) == (9, 5, 14, 4, 2)
    asked = HumanMessage(scripted(tool_calls=CALLS))
    with_tools = by_default.bind_tools([weather])
    made = with_tools.invoke([asked])
    assert [call["args"]["city"] for call in made.tool_calls] == ["Rome", "Oslo"]
    told: list[ToolMessage] = [weather.invoke(call) for call in made.tool_calls]
    answer = with_tools.invoke([asked, made, *told])
    assert answer.text == "The tools answered: 3 days of sun in Rome | 1 days of sun in Oslo"
    structured = by_default.with_structured_output(Weather)
    assert structured.invoke(scripted(text='{"city": "Rome", "days": 3}')) == Weather(city="Rome", days=3)

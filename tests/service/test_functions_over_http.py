"""Functions of a caller and the calls of them, from a client's side of the wire."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.services import Json, RunningService, Stream, running_service, scripted, until


def tool(name: str = "look", **fields: Any) -> Json:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}} | fields}


TOOLS = [tool("look"), tool("listen")]
CALLS = [
    {"name": "listen", "arguments": '{"at":  "a"}', "call_id": "call_a"},
    {"name": "look", "arguments": "not json\n", "call_id": "call_b"},
]


def message(answer: Json) -> Json:
    made = answer["choices"][0]["message"]
    assert isinstance(made, dict)
    return made


def gathered(stream: Stream) -> list[Json]:
    """The calls that a client puts together: everything of an index added up."""
    calls: list[Json] = []
    for chunk in stream.chunks:
        for part in (part for choice in chunk["choices"] for part in choice["delta"].get("tool_calls", ())):
            if part["index"] == len(calls):
                assert part.keys() == {"index", "id", "type", "function"}
                assert part["function"].keys() == {"name", "arguments"}
                calls.append({"id": part["id"], "type": part["type"], "function": dict(part["function"])})
            else:
                assert part.keys() == {"index", "function"}
                calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
    return calls


CALLED = [
    {"id": call["call_id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
    for call in CALLS
]


async def test_calls_are_the_answer_in_the_models_own_words_and_order(api: RunningService) -> None:
    answer = await api.chat(scripted(tool_calls=CALLS, usage={"input_tokens": 9, "output_tokens": 4}), tools=TOOLS)
    assert answer.status == 200
    assert message(answer.json) == {"role": "assistant", "content": None, "refusal": None, "tool_calls": CALLED}
    assert answer.json["choices"][0]["finish_reason"] == "tool_calls"
    assert answer.json["usage"]["total_tokens"] == 13
    assert answer.headers["x-codex-tool-call-count"] == "2"
    assert answer.headers["x-codex-tool-call-truncated"] == "false"
    await api.until_at_rest()


async def test_a_stream_of_calls_adds_up_to_the_same(api: RunningService) -> None:
    prompt = scripted(text="I look.", tool_calls=CALLS, usage={"input_tokens": 9, "output_tokens": 4})
    answer = await api.chat(prompt, tools=TOOLS, stream=True, stream_options={"include_usage": True})
    stream = answer.stream
    assert stream.text == "I look."
    assert gathered(stream) == CALLED
    assert stream.finishes == ["tool_calls"]
    assert stream.events[-3] == ': {"tool_call_count":2,"tool_call_truncated":false,"stop_after_tools_mode":"burst"}'
    assert stream.chunks[-1]["usage"]["total_tokens"] == 13
    assert stream.is_done
    await api.until_at_rest()


async def test_text_before_a_call_is_the_content(api: RunningService) -> None:
    answer = await api.chat(scripted(text="I look.", tool_calls=CALLS[:1]), tools=TOOLS)
    assert message(answer.json)["content"] == "I look."
    assert message(answer.json)["tool_calls"] == CALLED[:1]


async def test_an_answer_without_a_call_is_an_answer(api: RunningService) -> None:
    answer = await api.chat(scripted(text="No need."), tools=TOOLS)
    assert message(answer.json) == {"role": "assistant", "content": "No need.", "refusal": None}
    assert answer.json["choices"][0]["finish_reason"] == "stop"
    assert answer.headers["x-codex-tool-call-count"] == "0"


async def test_the_answer_to_a_call_goes_back_to_the_model(api: RunningService) -> None:
    asked: Json = {"role": "user", "content": scripted(tool_calls=CALLS[:1])}
    first = await api.chat(messages=[asked], tools=TOOLS)
    call_id = message(first.json)["tool_calls"][0]["id"]
    told: Json = {"role": "tool", "tool_call_id": call_id, "content": "a bell"}
    second = await api.chat(messages=[asked, message(first.json), told], tools=TOOLS)
    assert second.text == "The tools answered: a bell"
    assert second.json["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
async def test_without_parallel_calls_the_first_counts_and_the_client_is_told(
    api: RunningService, stream: bool
) -> None:
    answer = await api.chat(scripted(tool_calls=CALLS), tools=TOOLS, parallel_tool_calls=False, stream=stream)
    if stream:
        assert gathered(answer.stream) == CALLED[:1]
        assert answer.stream.comments[-1].startswith(': {"tool_call_count":1,"tool_call_truncated":true,')
    else:
        assert message(answer.json)["tool_calls"] == CALLED[:1]
        assert answer.headers["x-codex-tool-call-truncated"] == "true"


async def test_a_legacy_function_is_called_in_the_legacy_way(api: RunningService) -> None:
    asked: Json = {"role": "user", "content": scripted(tool_calls=CALLS)}
    functions = [{"name": "listen"}, {"name": "look"}]
    answer = await api.chat(messages=[asked], functions=functions)
    called = {"name": "listen", "arguments": '{"at":  "a"}'}
    assert message(answer.json) == {"role": "assistant", "content": None, "refusal": None, "function_call": called}
    assert answer.json["choices"][0]["finish_reason"] == "function_call"
    stream = (await api.chat(messages=[asked], functions=functions, stream=True)).stream
    parts = [chunk["choices"][0]["delta"].get("function_call") for chunk in stream.chunks]
    assert [part for part in parts if part] == [
        {"name": "listen", "arguments": ""},
        {"arguments": '{"at":  "a"}'},
    ]
    assert stream.finishes == ["function_call"]
    told: Json = {"role": "function", "name": "listen", "content": "a bell"}
    second = await api.chat(messages=[asked, message(answer.json), told], functions=functions)
    assert second.text == "The tools answered: a bell"


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "look"}}], ids=["required", "named"]
)
async def test_a_model_that_does_not_call_as_it_must_is_an_error_and_never_an_answer(
    api: RunningService, choice: Any
) -> None:
    prompt = scripted(text="I had rather not.")
    answer = await api.chat(prompt, tools=TOOLS, tool_choice=choice)
    assert (answer.status, answer.code) == (502, "tool_choice_not_followed")
    stream = (await api.chat(prompt, tools=TOOLS, tool_choice=choice, stream=True)).stream
    assert [error["code"] for error in stream.errors] == ["tool_choice_not_followed"]
    assert (stream.finishes, stream.is_done) == ([], False)
    called = await api.chat(scripted(tool_calls=CALLS[1:]), tools=TOOLS, tool_choice=choice)
    assert called.json["choices"][0]["finish_reason"] == "tool_calls"
    await api.until_at_rest()


@pytest.mark.parametrize("name", ["exec_command", "mcp__github__search"])
async def test_a_name_that_the_cli_keeps_for_itself_works_like_any_other(api: RunningService, name: str) -> None:
    asked: Json = {"role": "user", "content": scripted(tool_calls=[{"name": f"_{name}", "call_id": "c"}])}
    first = await api.chat(messages=[asked], tools=[tool(name)])
    (called,) = message(first.json)["tool_calls"]
    assert called["function"]["name"] == name
    told: Json = {"role": "tool", "tool_call_id": "c", "content": "done"}
    second = await api.chat(messages=[asked, message(first.json), told], tools=[tool(name)])
    assert second.text == "The tools answered: done"


async def test_what_is_not_done_for_a_function_is_named(api: RunningService) -> None:
    answer = await api.chat(tools=[tool(strict=True)])
    assert answer.status == 200
    assert answer.headers["x-codex-ignored-params"] == "tools.function.strict"


async def test_a_call_after_which_the_provider_fails_is_no_answer(api: RunningService) -> None:
    prompt = scripted(tool_calls=CALLS[:1], failed="server_error")
    answer = await api.chat(prompt, tools=TOOLS)
    assert (answer.status, answer.code) == (502, "upstream_error")
    stream = (await api.chat(prompt, tools=TOOLS, stream=True)).stream
    assert gathered(stream) == CALLED[:1]
    assert [error["code"] for error in stream.errors] == ["upstream_error"]
    assert (stream.finishes, stream.is_done) == ([], False)
    await api.until_at_rest()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_turn_that_is_lost_before_its_calls_is_run_again_and_calls_once(tmp_path: Path, stream: bool) -> None:
    async with running_service(tmp_path, profile={"workers": 2}) as api:
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(api.chat(scripted(tool_calls=CALLS, delay_s=0.5), tools=TOOLS, stream=stream))
            await until(lambda: api.running == 1)
            (busy,) = api.busy_pids()
            os.kill(busy, signal.SIGKILL)
        answer = asked.result()
        called = gathered(answer.stream) if stream else message(answer.json)["tool_calls"]
        assert called == CALLED
        assert api.counted("redispatched_total", profile="default", outcome="tool_calls") == 1
        await api.until_at_rest()

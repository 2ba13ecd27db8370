"""/v1/responses on the real CLI: OpenAI's SDK in front of it, and the CLI itself."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, NotFoundError
from openai.types.responses import ResponseFunctionToolCall, ResponseReasoningItem
from pydantic import BaseModel

from loadtest.model_standin import ModelStandin
from pool.binary import resolve
from tests.support.pools import script
from tests.support.response_events import check_event, check_response, check_stream
from tests.support.services import KEY, RunningService, running_service

MODEL = "codex-5"


@pytest.fixture
async def api(standin: ModelStandin, tmp_path: Path) -> AsyncIterator[RunningService]:
    """One real worker."""
    profile = {"base_url": standin.base_url, "codex_bin": None}
    models: dict[str, dict[str, Any]] = {name: {} for name in (MODEL, "gpt-5.5", "gpt-5.6-sol")}
    async with running_service(tmp_path, profile=profile, models=models) as running:
        yield running


@pytest.fixture
async def sdk(api: RunningService) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{api.base_url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def plain(value: BaseModel) -> Any:
    """What the SDK was sent."""
    return json.loads(value.model_dump_json(exclude_unset=True, by_alias=True))


async def test_a_whole_answer(sdk: AsyncOpenAI) -> None:
    usage = {"input_tokens": 7, "output_tokens": 3, "cached_tokens": 2, "reasoning_tokens": 1}
    answer = await sdk.responses.create(model=MODEL, input=script(text="Hello there.", usage=usage))
    check_response(plain(answer))
    assert (answer.status, answer.output_text) == ("completed", "Hello there.")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (7, 3)
    assert answer.usage.input_tokens_details.cached_tokens == 2
    assert answer.usage.output_tokens_details.reasoning_tokens == 1


async def test_a_stream_is_put_together_by_the_sdk(sdk: AsyncOpenAI) -> None:
    prompt = script(reasoning="hm, well", chunks=["Hel", "lo"])
    async with sdk.responses.stream(model=MODEL, input=prompt, reasoning={"summary": "auto"}) as stream:
        kinds = [event.type async for event in stream]
        answer = await stream.get_final_response()
    assert kinds.count("response.output_text.delta") == 2
    assert kinds[-1] == "response.completed"
    assert answer.output_text == "Hello"


class Weather(BaseModel):
    city: str
    days: int


async def test_an_answer_is_parsed(sdk: AsyncOpenAI, standin: ModelStandin) -> None:
    prompt = script(text='{"city": "Rome", "days": 2}')
    answer = await sdk.responses.parse(model=MODEL, input=prompt, text_format=Weather)
    assert answer.output_parsed == Weather(city="Rome", days=2)
    assert standin.requests[-1].body["text"]["format"]["type"] == "json_schema"


async def test_a_call_and_its_answer_make_a_round_trip_with_the_reasoning(
    sdk: AsyncOpenAI, standin: ModelStandin
) -> None:
    look = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}, "strict": False}
    first: list[Any] = [{"role": "user", "content": script(reasoning="hm", tool_calls=[{"name": "look"}])}]
    options: Any = {"model": MODEL, "tools": [look], "include": ["reasoning.encrypted_content"], "store": False}
    answer = await sdk.responses.create(input=first, **options)
    thought, call = answer.output
    assert isinstance(thought, ResponseReasoningItem)
    assert isinstance(call, ResponseFunctionToolCall)
    done: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "a cat"}
    answer = await sdk.responses.create(input=[*first, *answer.output, done], **options)
    assert answer.output_text == "The tools answered: a cat"
    kinds = [item["type"] for item in standin.requests[-1].body["input"]]
    assert kinds == ["message", "reasoning", "function_call", "function_call_output"]
    assert standin.requests[-1].body["input"][1]["encrypted_content"] == thought.encrypted_content


async def test_a_stored_conversation_goes_on_with_its_call_and_its_reasoning(
    sdk: AsyncOpenAI, standin: ModelStandin
) -> None:
    look = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}, "strict": False}
    options: Any = {"model": MODEL, "tools": [look]}
    prompt = script(reasoning="hm", tool_calls=[{"name": "look"}])
    first = await sdk.responses.create(input=prompt, instructions="Be brief.", **options)
    thought, call = first.output
    assert isinstance(thought, ResponseReasoningItem)
    assert isinstance(call, ResponseFunctionToolCall)
    assert thought.encrypted_content is None, "it was not asked for"
    done: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "a cat"}]
    second = await sdk.responses.create(input=done, previous_response_id=first.id, **options)
    assert second.output_text == "The tools answered: a cat"
    asked = standin.requests[-1].body
    replayed = ["message", "reasoning", "function_call", "function_call_output"]
    assert [item["type"] for item in asked["input"]] == replayed
    assert asked["input"][1]["encrypted_content"], "the provider gets back what only it can read"
    assert "Be brief." not in json.dumps(asked)
    third = await sdk.responses.create(input=script(text="Yes."), previous_response_id=second.id, model=MODEL)
    assert third.output_text == "Yes."
    kinds = [item["type"] for item in standin.requests[-1].body["input"]]
    assert kinds[:4] == replayed
    assert kinds[-2:] == ["message", "message"]
    listed = [item.type async for item in sdk.responses.input_items.list(third.id, order="asc")]
    assert listed == kinds


async def test_a_background_response_is_polled_and_streamed_again(sdk: AsyncOpenAI) -> None:
    prompt = script(reasoning="hm, well", chunks=["Hel", "lo"])
    stream = await sdk.responses.create(
        model=MODEL, input=prompt, reasoning={"summary": "auto"}, background=True, stream=True
    )
    events = [plain(event) async for event in stream]
    check_stream(events)
    id = events[0]["response"]["id"]  # noqa: A001 - OpenAI's word
    again = await sdk.responses.retrieve(id, stream=True, starting_after=4)
    assert [plain(event) async for event in again] == events[5:]
    found = await sdk.responses.retrieve(id)
    assert (found.status, found.output_text) == ("completed", "Hello")


async def test_responses_are_cancelled_polled_and_deleted(sdk: AsyncOpenAI, api: RunningService) -> None:
    endless = await sdk.responses.create(model=MODEL, input=script(text="one two", hang="middle"), background=True)
    async with asyncio.timeout(20):
        while not (found := await sdk.responses.retrieve(endless.id)).output_text:
            assert found.status in ("queued", "in_progress")
    cancelled = await sdk.responses.cancel(endless.id)
    assert (cancelled.status, cancelled.output_text) == ("cancelled", "one")
    assert await sdk.responses.retrieve(endless.id) == cancelled
    await sdk.responses.delete(endless.id)
    with pytest.raises(NotFoundError):
        await sdk.responses.retrieve(endless.id)
    await api.until_at_rest()


async def test_every_event_is_one_of_the_sdks(sdk: AsyncOpenAI) -> None:
    tools: Any = [{"type": "custom", "name": "patch"}]
    prompt = script(reasoning="hm, well", text="I patch.", tool_calls=[{"name": "patch", "arguments": {"input": "x"}}])
    stream = await sdk.responses.create(
        model=MODEL, input=prompt, tools=tools, reasoning={"summary": "auto"}, stream=True
    )
    events = [plain(event) async for event in stream]
    for event in events:
        check_event(event)
    check_stream(events)
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["reasoning", "message", "custom_tool_call"]


# --- the CLI as a client -------------------------------------------------------------------------------------------


async def codex_exec(api: RunningService, folder: Path, prompt: str, model: str) -> tuple[list[dict[str, Any]], str]:
    """What `codex exec` says, with this service as its provider, and what it complains of."""
    home, work = folder / "client", folder / "work"
    home.mkdir()
    work.mkdir()
    (home / "config.toml").write_text(
        f'model = "{model}"\nmodel_provider = "ours"\ncheck_for_update_on_startup = false\n'
        f'[model_providers.ours]\nname = "ours"\nbase_url = "{api.base_url}/v1"\nwire_api = "responses"\n'
        'env_key = "OUR_KEY"\nrequest_max_retries = 0\nstream_max_retries = 0\n'
    )
    environment = {"PATH": os.defpath, "HOME": str(folder), "CODEX_HOME": str(home), "OUR_KEY": KEY}
    arguments = ("exec", "--json", "--skip-git-repo-check", "--sandbox", "workspace-write", prompt)
    process = await asyncio.create_subprocess_exec(  # noqa: TID251 - a client, not a worker
        str(resolve(None)),
        *arguments,
        cwd=work,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode == 0, (out, err)
    return [json.loads(line) for line in out.splitlines()], err.decode()


def items(said: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    done = [line["item"] for line in said if line["type"] == "item.completed"]
    return [item for item in done if item["type"] == kind]


@pytest.mark.parametrize("model", [MODEL, "gpt-5.5"])
async def test_the_cli_runs_a_command_through_us(
    api: RunningService, standin: ModelStandin, tmp_path: Path, model: str
) -> None:
    call = {"name": "_exec_command", "arguments": {"cmd": "echo through $((40 + 2))"}}
    said, _ = await codex_exec(api, tmp_path, script(reasoning="hm", tool_calls=[call]), model)
    (command,) = items(said, "command_execution")
    assert (command["exit_code"], command["aggregated_output"]) == (0, "through 42\n")
    (answer,) = items(said, "agent_message")
    assert "through 42" in answer["text"]
    assert said[-1]["type"] == "turn.completed"
    second = standin.requests[-1].body["input"]
    assert [item["type"] for item in second[-3:]] == ["reasoning", "function_call", "function_call_output"]


async def test_the_cli_applies_a_patch_through_us(api: RunningService, standin: ModelStandin, tmp_path: Path) -> None:
    patch = "*** Begin Patch\n*** Add File: made.txt\n+through us\n*** End Patch\n"
    call = {"name": "apply_patch", "arguments": {"input": patch}}
    said, _ = await codex_exec(api, tmp_path, script(tool_calls=[call]), "gpt-5.5")
    assert (tmp_path / "work" / "made.txt").read_text() == "through us\n"
    assert items(said, "file_change")[0]["status"] == "completed"
    assert said[-1]["type"] == "turn.completed"


async def test_the_cli_runs_code_through_us(api: RunningService, standin: ModelStandin, tmp_path: Path) -> None:
    call = {"name": "functions__exec", "arguments": {"input": 'text("through " + (40 + 2));'}}
    said, _ = await codex_exec(api, tmp_path, script(tool_calls=[call]), "gpt-5.6-sol")
    (answer,) = items(said, "agent_message")
    assert "through 42" in answer["text"]
    assert said[-1]["type"] == "turn.completed"

"""What of a caller's functions reaches the model through the real CLI."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loadtest.model_standin import ModelStandin
from pool.events import FaultKind, Finish, ToolCall, ToolSpec, TurnRequest
from pool.protocol.functions import MAX_SCHEMA_BYTES, adapted
from tests.pool.test_functions import LONG_NUMBERS, LOSSY, PLAIN
from tests.support.pools import RunningPool, script, user

NAMES = (
    *("exec_command", "shell_command", "mcp", "mcp__github__search", "_exec_command", "shell", "local_shell"),
    *("apply_patch", "update_plan", "view_image", "web_search", "tool_search", "write_stdin", "request_user_input"),
    *("image_generation", "spawn_agent", "exec", "unified_exec", "code_interpreter", "x" * 64, "0", "-", "_"),
)
SAID = "The exact JSON Schema of its arguments: "


async def sent(real: RunningPool, model: ModelStandin, schema: dict[str, Any]) -> dict[str, Any]:
    """The function with this schema, as the model gets it."""
    tool = ToolSpec("look", "", schema)
    _, end = await real.turn(TurnRequest("gpt-5.5", "", (user(script(text="x")),), (tool,)))
    assert end.finish is Finish.STOP, end
    (function,) = json.loads(model.requests[-1].raw)["tools"]
    assert isinstance(function, dict)
    return function


async def test_every_name_can_be_offered_called_and_answered(real: RunningPool, standin: ModelStandin) -> None:
    tools = tuple(ToolSpec(name, "", PLAIN) for name in NAMES)
    calls = [{"name": tool.name} for tool in adapted(TurnRequest("m", "", (), tools)).request.tools]
    items: tuple[dict[str, Any], ...] = (
        user("Go."),
        {"type": "function_call", "call_id": "c", "name": "mcp", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "done"},
        user(script(tool_calls=calls)),
    )
    sink, end = await real.turn(TurnRequest("gpt-5.5", "", items, tools))
    assert end.finish is Finish.TOOL_CALLS
    assert [call.name for call in sink.calls] == list(NAMES)
    body = json.loads(standin.requests[-1].raw)
    assert [tool["name"] for tool in body["tools"]] == [call["name"] for call in calls]
    assert body["input"][1]["name"] == "_mcp"
    assert body["parallel_tool_calls"] is True


async def test_a_schema_that_is_said_to_come_through_does(real: RunningPool, standin: ModelStandin) -> None:
    function = await sent(real, standin, PLAIN)
    assert function["description"] == ""
    properties = dict(PLAIN["properties"]) | {
        "unit": {"type": "string", "enum": ["C", "F"]},
        "kind": {"type": "string", "enum": ["now"]},
    }
    without_title = {key: value for key, value in PLAIN.items() if key != "title"}
    more = {"More": {"type": "object", "properties": {}, "additionalProperties": {"type": "number"}}}
    assert function["parameters"] == without_title | {"properties": properties, "$defs": more}


async def test_a_schema_of_nearly_the_limit_keeps_its_descriptions(real: RunningPool, standin: ModelStandin) -> None:
    inner = {"type": "string", "description": "d" * 80}
    schema = {"type": "object", "properties": {f"p{number}": inner for number in range(37)}}
    size = len(json.dumps(schema, separators=(",", ":")))
    assert MAX_SCHEMA_BYTES - 150 < size <= MAX_SCHEMA_BYTES
    function = await sent(real, standin, schema)
    assert (function["description"], function["parameters"]) == ("", schema)


@pytest.mark.parametrize("number", range(len(LOSSY)))
async def test_what_is_lost_of_a_schema_reaches_the_model_in_words(
    real: RunningPool, standin: ModelStandin, number: int
) -> None:
    schema = {"type": "object", "properties": {"a": LOSSY[number]}}
    function = await sent(real, standin, schema)
    assert function["parameters"] != schema, "it is lost, or need not be said"
    assert json.loads(function["description"].removeprefix(SAID)) == schema


async def test_a_large_schema_reaches_the_model_in_words(real: RunningPool, standin: ModelStandin) -> None:
    inner = {"type": "string", "description": "d" * 100}
    schema = {"type": "object", "properties": {f"p{number}": inner for number in range(300)}}
    function = await sent(real, standin, schema)
    assert "description" not in function["parameters"]["properties"]["p0"]
    assert json.loads(function["description"].removeprefix(SAID)) == schema


@pytest.mark.parametrize("number", [number for number, _ in LONG_NUMBERS])
async def test_a_schema_may_hold_any_number(real: RunningPool, standin: ModelStandin, number: int) -> None:
    inner = {"type": "integer", "enum": [1, number]}
    schema = {"type": "object", "properties": {"a": inner}, "required": ["a"], "additionalProperties": False}
    function = await sent(real, standin, schema)
    assert function["parameters"]["properties"]["a"]["enum"] == pytest.approx([1, number])
    _, end = await real.turn(TurnRequest("gpt-5.5", "", (user(script(text="x")),), output_schema=schema))
    assert end.finish is Finish.STOP, end


@pytest.mark.parametrize("schema", [{"type": "object", "properties": []}, {"type": "null"}, {"required": "a"}])
async def test_a_schema_that_is_none_is_the_clients_mistake(real: RunningPool, schema: dict[str, Any]) -> None:
    _, end = await real.turn(TurnRequest("gpt-5.5", "", (user("Hi."),), (ToolSpec("look", "", schema),)))
    assert end.fault is not None
    assert end.fault.kind is FaultKind.BAD_REQUEST
    assert "look" in end.fault.message


@pytest.mark.parametrize(("name", "arguments"), [("look", "{bad"), ("unheard_of", "{}")])
async def test_a_call_that_the_cli_would_answer_itself_is_the_callers_too(
    real: RunningPool, standin: ModelStandin, name: str, arguments: str
) -> None:
    calls = [{"name": name, "arguments": arguments, "call_id": "c"}]
    tool = ToolSpec("look", "", PLAIN)
    sink, end = await real.turn(TurnRequest("gpt-5.5", "", (user(script(tool_calls=calls)),), (tool,)))
    assert (sink.calls, end.finish) == ([ToolCall("c", name, arguments)], Finish.TOOL_CALLS)
    await real.until_free(real.profile.slots)
    first, *more = standin.requests
    assert not first.disconnected
    assert len(more) <= 1, "the CLI goes on at once, if it is quicker than we are"

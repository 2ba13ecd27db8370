"""What is done to a caller's functions so that the app-server passes them on whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.events import ToolSpec, TurnRequest
from pool.protocol.functions import MAX_NAME_CHARS, MAX_SCHEMA_BYTES, adapted

PLAIN: dict[str, Any] = {
    "type": "object",
    "title": "Weather",
    "properties": {
        "city": {"type": "string", "description": "Which."},
        "unit": {"enum": ["C", "F"]},
        "kind": {"const": "now"},
        "days": {"type": "array", "items": {"type": ["integer", "null"]}, "minItems": 1},
        "more": {"anyOf": [{"$ref": "#/$defs/More"}, {"type": "null"}]},
    },
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"More": {"type": "object", "additionalProperties": {"type": "number"}}},
}


def asking(*names: str, items: tuple[dict[str, Any], ...] = ()) -> TurnRequest:
    return TurnRequest("m", "", items, tuple(ToolSpec(name, "d", PLAIN) for name in names))


def names(request: TurnRequest) -> list[str]:
    return [tool.name for tool in request.tools]


def description(schema: dict[str, Any], said: str = "Looks.") -> str:
    request, _ = adapted(TurnRequest("m", "", (), (ToolSpec("look", said, schema),)))
    assert request.tools[0].input_schema == schema
    return request.tools[0].description


def test_a_request_that_comes_through_is_left_as_it_is() -> None:
    request = asking("look", "exec_commands", "mcp_a", "amcp__b", items=({"type": "function_call", "name": "look"},))
    assert adapted(request) == (request, {})
    assert adapted(asking()) == (asking(), {})


@pytest.mark.parametrize("name", ["exec_command", "shell_command", "mcp", "mcp__github__search"])
def test_a_name_that_is_swallowed_is_changed_and_known_by_its_own(name: str) -> None:
    request, known = adapted(asking(name, "look"))
    assert names(request) == [f"_{name}", "look"]
    assert known == {f"_{name}": name}


def test_calls_in_the_history_bear_the_name_that_the_function_has() -> None:
    called = {"type": "function_call", "call_id": "c", "name": "exec_command", "arguments": "{}"}
    other = called | {"name": "look"}
    message = {"type": "message", "role": "user", "name": "exec_command", "content": []}
    request, _ = adapted(asking("exec_command", items=(called, other, message)))
    assert request.items == (called | {"name": "_exec_command"}, other, message)


NAMES = st.sampled_from(["exec_command", "_exec_command", "__exec_command", "mcp", "_mcp", "mcp__" + "x" * 59, "a"])


@given(st.lists(NAMES | st.from_regex(r"(mcp__)?[a-z_]{1,59}", fullmatch=True), unique=True, max_size=9))
def test_names_stay_different_and_lead_back(wanted: list[str]) -> None:
    request, known = adapted(asking(*wanted))
    assert [known.get(name, name) for name in names(request)] == wanted
    assert len(set(names(request))) == len(wanted)
    assert all(len(name) <= MAX_NAME_CHARS and not name.startswith("mcp__") for name in names(request))


def test_a_schema_that_comes_through_is_not_repeated() -> None:
    assert description(PLAIN) == "Looks."


LOSSY: list[dict[str, Any]] = [
    {"type": "string", "pattern": "^a"},
    {"type": "string", "format": "date"},
    {"type": "integer", "minimum": 1},
    {"type": "string", "default": "a"},
    {"type": "array"},
    {"type": "array", "items": {"type": "string"}, "maxItems": 2},
    {"type": "array", "items": False},
    {"const": 5},
    {"enum": ["a", 5]},
    {"type": "date"},
    {"not": {"type": "string"}},
    {"description": "anything"},
    {"anyOf": [{"type": "string", "maxLength": 3}]},
    {"type": "object", "additionalProperties": {"type": "string", "minLength": 1}},
    {"type": "object", "patternProperties": {"^x": {}}},
]


@pytest.mark.parametrize("inner", LOSSY)
@pytest.mark.parametrize("place", ["properties", "$defs"])
def test_what_is_lost_of_a_schema_is_said_in_words(inner: dict[str, Any], place: str) -> None:
    schema = {"type": "object", place: {"a": inner}}
    before, _, said = description(schema).partition("\n\nThe exact JSON Schema of its arguments: ")
    assert before == "Looks."
    assert json.loads(said) == schema


def test_a_function_without_a_description_gets_only_its_schema() -> None:
    assert description({"type": "object", "maxProperties": 1}, "").startswith(
        "The exact JSON Schema of its arguments: {"
    )


def test_a_large_schema_is_repeated_because_its_descriptions_are_left_out() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "description": "d" * MAX_SCHEMA_BYTES}}}
    assert description(schema).endswith(json.dumps(schema, separators=(",", ":")))


@pytest.mark.parametrize(
    "broken", [{"anyOf": 5}, {"enum": 5}, {"properties": []}, {"properties": {"a": 5}}, {"items": 5}]
)
def test_what_is_no_schema_does_no_harm(broken: dict[str, Any]) -> None:
    assert description(broken).startswith("Looks.")


LONG_NUMBERS = [
    (2**63, 2**63),
    (-(2**63), -(2**63)),
    (2**64 - 1, 2**64 - 1),
    (2**64, 2.0**64),
    (-(2**63) - 1, -(2.0**63)),
    (2**128 - 1, 2.0**128),
    (2**128, 2**128),
    (10**400, 10**400),
]


@pytest.mark.parametrize(("number", "passed_on"), LONG_NUMBERS)
def test_a_number_that_would_be_refused_becomes_a_float(number: int, passed_on: float) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "enum": [1, number]}}}
    wanted = {"type": "object", "properties": {"a": {"type": "integer", "enum": [1, passed_on]}}}
    asked = TurnRequest("m", "", (), (ToolSpec("look", "Looks.", schema),), output_schema=schema)
    request, _ = adapted(asked)
    (tool,) = request.tools
    for got in (tool.input_schema, request.output_schema):
        assert got == wanted
        assert type(got["properties"]["a"]["enum"][1]) is type(passed_on)
    assert (tool.description == "Looks.") == (number == passed_on), "what is changed is said in words"

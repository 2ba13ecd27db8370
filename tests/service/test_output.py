"""How the text of an answer is given its form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pool.events import Finish, TextDelta, ToolCall, TurnEnd
from scheduler.model import Ended
from service.api.errors import ApiError
from service.api.output import JSON_OBJECT, JSON_OF_SCHEMA, Output, read_output
from service.encode.choice import Choice
from service.encode.terms import Terms

STRICT: dict[str, Any] = {
    "type": "object",
    "title": "Weather",
    "properties": {
        "city": {"type": "string", "pattern": "^[A-Z]"},
        "days": {"type": "array", "items": {"$ref": "#/$defs/Day"}, "maxItems": 3},
    },
    "required": ["days", "city"],
    "additionalProperties": False,
    "$defs": {"Day": {"type": "object", "properties": {}, "required": [], "additionalProperties": False}},
}
LOOSE: list[dict[str, Any]] = [
    {},
    {"type": "object"},
    STRICT | {"required": ["city"]},
    STRICT | {"additionalProperties": True},
    {key: value for key, value in STRICT.items() if key != "additionalProperties"},
    STRICT | {"allOf": []},
    STRICT | {"$defs": {"Day": {"type": "object", "properties": {}}}},
    STRICT | {"properties": {"city": {"type": "string", "default": "Rome"}, "days": {"type": "string"}}},
    STRICT | {"properties": []},
    STRICT | {"properties": {"city": True, "days": {}}},
]


def of_schema(schema: dict[str, Any], **fields: Any) -> Output:
    return read_output({"type": "json_schema", "json_schema": {"name": "x", "schema": schema} | fields})


def test_text_needs_nothing() -> None:
    assert read_output(None) == read_output({"type": "text"}) == Output()


def test_a_strict_schema_is_the_providers_business() -> None:
    assert of_schema(STRICT) == of_schema(STRICT, strict=False) == Output(schema=STRICT)


@pytest.mark.parametrize("schema", LOOSE)
def test_a_schema_that_is_called_strict_is_the_providers_business_to_refuse(schema: dict[str, Any]) -> None:
    assert of_schema(schema, strict=True) == Output(schema=schema)


@pytest.mark.parametrize("schema", LOOSE)
def test_a_schema_that_the_provider_would_not_take_as_strict_is_asked_for(schema: dict[str, Any]) -> None:
    output = of_schema(schema)
    assert (output.schema, output.check) == (None, "json")
    assert json.loads(output.wish.removeprefix(JSON_OF_SCHEMA)) == schema


def test_a_description_beside_the_schema_goes_into_it() -> None:
    assert of_schema(STRICT, description="It rains.").schema == STRICT | {"description": "It rains."}
    described = STRICT | {"description": "It shines."}
    assert of_schema(described, description="It rains.").schema == described


def test_an_object_of_any_kind_is_asked_for() -> None:
    assert read_output({"type": "json_object"}) == Output(wish=JSON_OBJECT, check="object")


# --- what comes of it --------------------------------------------------------------------------------------------


def judged(text: str, output: Output, finish: Finish = Finish.STOP, **fields: Any) -> Choice:
    choice = Choice(Terms(output=output, **fields))
    choice.take([TextDelta(text[:3]), TextDelta(text[3:])], NOW)
    choice.end(Ended(TurnEnd(finish=finish)))
    return choice


NOW = 1000.0
OBJECT, ANY = Output(check="object"), Output(check="json")


@pytest.mark.parametrize(
    ("text", "output"),
    [('{"a": [1]}', OBJECT), (' {"a": 1}\n', OBJECT), ("{}", ANY), ("[1]", ANY), ('"x"', ANY), ("anything", Output())],
)
def test_an_answer_in_the_form_that_was_asked_for_is_one(text: str, output: Output) -> None:
    assert judged(text, output).finish == "stop"


@pytest.mark.parametrize(
    ("text", "output"),
    [("", OBJECT), ("[1]", OBJECT), ('{"a": ', OBJECT), ("Sure! {}", OBJECT), ("```json\n{}\n```", ANY), ("", ANY)],
)
def test_an_answer_in_another_form_is_an_error(text: str, output: Output) -> None:
    with pytest.raises(ApiError) as caught:
        judged(text, output)
    assert (caught.value.status, caught.value.code) == (502, "response_format_not_followed")


def test_an_answer_that_was_cut_off_cannot_be_whole() -> None:
    assert judged('{"a": ', OBJECT, Finish.LENGTH).finish == "length"
    assert judged('{"a": 1}', OBJECT, stop=("1",)).finish == "stop"
    assert judged('{"a": 1}', OBJECT, max_tokens=1).finish == "length"


def test_a_call_need_not_be_in_a_form() -> None:
    choice = Choice(Terms(output=OBJECT))
    choice.take([ToolCall("c", "look", "{}")], NOW)
    choice.end(Ended(TurnEnd(finish=Finish.TOOL_CALLS)))
    assert choice.finish == "tool_calls"

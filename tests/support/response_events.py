"""What a stream of the Responses API must be, by the SDK's models and by OpenAI's own document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

_FILE = json.loads((Path(__file__).parents[1] / "service" / "data" / "responses_schema.json").read_text())
SCHEMAS: dict[str, Any] = _FILE["schemas"]
EVENTS: dict[str, str] = _FILE["events"]
TERMINAL = {"response.completed", "response.incomplete", "response.failed"}
_TYPES = {"object": dict, "array": list, "string": str, "integer": int, "null": type(None), "boolean": bool}
_ADAPTER: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
_ONLY_IN_THE_SCHEMA = {"response.function_call_arguments.done": {"name"}}
"""Members that OpenAI's document requires, and its SDK does not know yet."""
_ONLY_IN_PRACTICE = {"store"}
"""Members of a response that are in OpenAI's answers, and neither in its document nor in its SDK."""

Event = dict[str, Any]


def parse_events(data: bytes) -> list[Event]:
    """The events of a stream, whose names are their types; comments and the predecessor's end are left out."""
    found = []
    *blocks, rest = data.decode().split("\n\n")
    assert rest == ""
    for block in blocks:
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        if not lines or lines == ["event: done", "data: [DONE]"]:
            continue
        name, body = lines
        event = json.loads(body.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def check_response(value: Any) -> None:
    """It is a response object for the SDK and for OpenAI's document, and has no member that they do not know."""
    known = _documented(value)
    _has_no_extras(Response.model_validate(known, strict=True))
    conforms(known, SCHEMAS["Response"])


def check_event(event: Event) -> None:
    """Likewise, for one event."""
    more = _ONLY_IN_THE_SCHEMA.get(event["type"], set())
    if "response" in event:
        event = event | {"response": _documented(event["response"])}
    known = {key: value for key, value in event.items() if key not in more}
    _has_no_extras(_ADAPTER.validate_python(known, strict=True))
    conforms(event, SCHEMAS[EVENTS[event["type"]]])


def _documented(response: Any) -> Any:
    assert type(response["store"]) is bool
    return {key: value for key, value in response.items() if key not in _ONLY_IN_PRACTICE}


def check_stream(events: list[Event]) -> None:
    """They are numbered, one is the last, and what they tell piece by piece is what they tell as a whole."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] in TERMINAL for event in events] == [False] * (len(events) - 1) + [True]
    assert events[0]["type"] == "response.created"
    for event in events:
        check_event(event)
    _check_items(events)


def _check_items(events: list[Event]) -> None:
    done: list[Any] = []
    open_item: Event | None = None
    texts: dict[tuple[str, int], str] = {}
    for event in events:
        kind = event["type"]
        if kind == "response.output_item.added":
            assert open_item is None
            open_item = event["item"]
            texts = {}
            assert event["output_index"] == len(done)
        elif kind == "response.output_item.done":
            assert open_item is not None
            assert event["item"]["id"] == open_item["id"]
            assert event["output_index"] == len(done)
            assert _texts(event["item"]) == texts
            done.append(event["item"])
            open_item = None
        elif "item_id" in event:
            assert open_item is not None
            assert (event["item_id"], event["output_index"]) == (open_item["id"], len(done))
            part = event.get("summary_index", 0) + event.get("content_index", 0)
            place = (kind.split(".")[1], part)
            if kind.endswith(".delta"):
                texts[place] = texts.get(place, "") + event["delta"]
            elif kind.endswith(".done") and "part" not in event:
                whole = event.get("text", event.get("arguments", event.get("input")))
                assert texts.setdefault(place, "") == whole
    last = events[-1]["response"]
    assert last["output"][: len(done)] == done
    assert [item["id"] for item in last["output"][len(done) :]] == ([open_item["id"]] if open_item else [])
    ids = [item["id"] for item in last["output"]]
    assert len(set(ids)) == len(ids)


def _texts(item: Any) -> dict[tuple[str, int], str]:
    match item["type"]:
        case "message":
            return {("output_text", n): part["text"] for n, part in enumerate(item["content"])}
        case "reasoning":
            return {("reasoning_summary_text", n): part["text"] for n, part in enumerate(item["summary"])}
        case "function_call":
            return {("function_call_arguments", 0): item["arguments"]}
        case _:
            return {("custom_tool_call_input", 0): item["input"]}


def _has_no_extras(value: Any) -> None:
    if isinstance(value, BaseModel):
        assert not value.model_extra, f"{type(value).__name__}: {value.model_extra}"
        for name in type(value).model_fields:
            _has_no_extras(getattr(value, name))
    elif isinstance(value, list):
        for member in value:
            _has_no_extras(member)


# --- a small part of JSON Schema, and stricter in one thing: a member that the schema does not name is an error ------


def conforms(value: Any, schema: dict[str, Any], where: str = "$") -> None:
    """Raises an AssertionError where it does not."""
    if not schema:
        return
    if "$ref" in schema:
        conforms(value, SCHEMAS[schema["$ref"].rsplit("/", 1)[1]], where)
    elif "allOf" in schema:
        conforms(value, _merged(schema), where)
    elif options := schema.get("anyOf") or schema.get("oneOf"):
        failures = []
        for option in options:
            try:
                conforms(value, option, where)
            except AssertionError as failure:
                failures.append(str(failure))
            else:
                return
        raise AssertionError(f"{where}: {failures}")
    else:
        _conforms_itself(value, schema, where)


def _conforms_itself(value: Any, schema: dict[str, Any], where: str) -> None:
    if schema["type"] == "number":
        assert type(value) in (int, float), where
    else:
        assert type(value) is _TYPES[schema["type"]], where
    assert value in schema.get("enum", [value]), where
    if isinstance(value, list):
        for index, member in enumerate(value):
            conforms(member, schema["items"], f"{where}[{index}]")
    if isinstance(value, dict):
        missing = set(schema.get("required", ())) - value.keys()
        assert not missing, f"{where} lacks {missing}"
        for key, member in value.items():
            inner = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
            assert inner is not None, f"{where}.{key} is not in the schema"
            conforms(member, inner if isinstance(inner, dict) else {}, f"{where}.{key}")


def _merged(schema: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []
    for part in _parts(schema):
        properties |= part.get("properties", {})
        required += part.get("required", [])
    return {"type": "object", "properties": properties, "required": required}


def _parts(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for part in schema["allOf"]:
        yield SCHEMAS[part["$ref"].rsplit("/", 1)[1]] if "$ref" in part else part

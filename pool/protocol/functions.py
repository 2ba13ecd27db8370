"""A caller's functions and schemas as the app-server passes them on whole: it drops names, and parts of many schemas.

Source: measured on 0.163.0; tests/codex/test_functions.py holds us to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from pool.events import ToolSpec, TurnRequest

MAX_NAME_CHARS = 64
MAX_SCHEMA_BYTES = 4500
"""From about 5000 on it leaves out descriptions, then definitions, then whatever lies deep."""

_SWALLOWED = re.compile(r"exec_command|shell_command|mcp|mcp__.*")
"""The first two it drops without a word, the others it refuses."""

_TO_SCHEMA = ("items", "additionalProperties")
_TO_SCHEMAS = ("anyOf", "oneOf", "allOf")
_TO_NAMED = ("properties", "$defs", "definitions")
_KEPT = frozenset({"description", "enum", "required", "minItems", "$ref", *_TO_SCHEMA, *_TO_SCHEMAS, *_TO_NAMED})
_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_SAYS_NOTHING = frozenset({"title", "$schema", "$id", "$comment"})

_LONG = re.compile(rb"[0-9]{19}")
_READABLE = range(-(2**63), 2**64)
"""Integers beyond these it refuses, with the whole request; those of more than 128 bits it takes for floats."""

REFUSAL = "dynamic tool "
"""How the message begins when it refuses a thread for the caller's functions."""


class Adapted(NamedTuple):
    """A request as the app-server should get it, and the caller's name of each function whose name had to change."""

    request: TurnRequest
    names: Mapping[str, str]


def adapted(request: TurnRequest) -> Adapted:
    """The same request, with functions, calls in the history and an output schema that come through.

    A name that does not gets underscores in front. What is lost of a function's schema is said in its description,
    which comes through at any length.
    """
    if request.output_schema is not None:
        schema = _readable(request.output_schema, msgspec.json.encode(request.output_schema))
        request = msgspec.structs.replace(request, output_schema=schema)
    if not request.tools:
        return Adapted(request, {})
    aliases = _aliases([tool.name for tool in request.tools])
    tools = tuple(_passed_on(tool, aliases.get(tool.name, tool.name)) for tool in request.tools)
    items = tuple(_renamed(item, aliases) for item in request.items) if aliases else request.items
    return Adapted(
        msgspec.structs.replace(request, tools=tools, items=items), {alias: name for name, alias in aliases.items()}
    )


def _aliases(names: list[str]) -> dict[str, str]:
    taken = set(names)
    aliases: dict[str, str] = {}
    for name in names:
        if _SWALLOWED.fullmatch(name):
            alias = name
            while alias in taken:
                alias = f"_{alias}"[:MAX_NAME_CHARS]
            taken.add(alias)
            aliases[name] = alias
    return aliases


def _renamed(item: dict[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    alias = aliases.get(item.get("name", "")) if item.get("type") == "function_call" else None
    return item if alias is None else {**item, "name": alias}


def _passed_on(tool: ToolSpec, name: str) -> ToolSpec:
    text = msgspec.json.encode(tool.input_schema)
    schema = _readable(tool.input_schema, text)
    if len(text) <= MAX_SCHEMA_BYTES and schema == tool.input_schema and _comes_through(schema):
        return ToolSpec(name, tool.description, schema)
    said = f"The exact JSON Schema of its arguments: {text.decode()}"
    return ToolSpec(name, f"{tool.description}\n\n{said}" if tool.description else said, schema)


def _readable(schema: dict[str, Any], text: bytes) -> dict[str, Any]:
    """The schema, which is `text` in JSON, without integers that are refused: floats have room for them."""
    if _LONG.search(text) is None:
        return schema
    readable: dict[str, Any] = json.loads(text, parse_int=_number)
    return readable


def _number(text: str) -> int | float:
    value = int(text)
    return value if value in _READABLE or value.bit_length() > 128 else float(value)


def _comes_through(schema: Any) -> bool:
    """Whether the app-server leaves out nothing of this schema; what is no schema at all it refuses by itself."""
    if type(schema) is not dict or not all(_is_kept(key, value) for key, value in schema.items()):
        return False
    if schema.keys() == {"description"} or (schema.get("type") == "array" and "items" not in schema):
        return False
    values = schema.get("enum")
    if "type" not in schema and type(values) is list and any(type(value) is not str for value in values):
        return False  # it would say that they are strings
    return all(_comes_through(inner) for inner in subschemas(schema))


def _is_kept(key: str, value: Any) -> bool:
    if key == "type":
        return type(value) is not str or value in _TYPES
    if key == "const":
        return type(value) is str
    return key in _KEPT or key in _SAYS_NOTHING


def subschemas(schema: dict[str, Any]) -> Iterable[Any]:
    """What should be schemas right inside this one."""
    for key, value in schema.items():
        if key in _TO_SCHEMA and not (key == "additionalProperties" and type(value) is bool):
            yield value
        elif key in _TO_SCHEMAS and type(value) is list:
            yield from value
        elif key in _TO_NAMED and type(value) is dict:
            yield from value.values()

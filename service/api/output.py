"""The form that an answer's text must have: rows 9 to 11 of the validation order."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from pool.protocol.functions import subschemas
from service.api.errors import invalid

JSON_OBJECT = "When you answer in text, answer with one JSON object and with nothing else."
JSON_OF_SCHEMA = (
    "When you answer in text, answer with JSON that is valid against this JSON Schema, and with nothing else:"
)

_STRICT = frozenset(
    {
        *("type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "const"),
        *("$ref", "$defs", "definitions", "title", "description"),
        *("pattern", "format", "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
        *("minItems", "maxItems"),
    }
)
"""Source: OpenAI's guide to structured outputs, supported schemas."""


class Output(msgspec.Struct, frozen=True):
    """How the text is given its form.

    `schema` is enforced by the provider, who knows only strict ones. Else `wish` is what the model is asked for, and
    `check` what its answer must be, or there is none: JSON, or one JSON object.
    """

    schema: dict[str, Any] | None = None
    wish: str = ""
    check: Literal["", "json", "object"] = ""


_FORMATS = ("text", "json_object", "json_schema")


def count_schema_chars(value: Any) -> int:
    """Characters of the schema in a `response_format` that nobody has checked yet: the model reads it too."""
    definition = value.get("json_schema") if type(value) is dict else None
    return 0 if definition is None else len(msgspec.json.encode(definition))


def read_output(value: Any) -> Output:
    """What `response_format` asks for.

    Raises:
        ApiError: 400, when it is not well formed.
    """
    if value is None:
        return Output()
    if type(value) is str and value in _FORMATS:
        raise invalid("response_format must be an object when provided", "response_format")
    kind = value.get("type") if type(value) is dict else ""
    if kind is None:
        raise invalid("response_format.type must be provided when response_format is set", "response_format.type")
    if type(kind) is not str or kind not in _FORMATS:
        raise invalid(
            'response_format.type must be "text", "json_object", or "json_schema" when provided', "response_format"
        )
    return _of_kind(kind, value.get("json_schema"), "response_format.json_schema")


def read_format(value: Any) -> Output:
    """What `text.format` of the Responses API asks for: the definition of a schema is not nested there.

    Raises:
        ApiError: 400, when it is not well formed.
    """
    if value is None:
        return Output()
    kind = value.get("type") if type(value) is dict else None
    if type(kind) is not str or kind not in _FORMATS:
        raise invalid(
            'text.format.type must be "text", "json_object", or "json_schema"',
            "text.format.type" if type(value) is dict else "text.format",
        )
    if kind == "json_schema" and not value.get("name"):
        raise invalid("text.format.name is required", "text.format.name")
    return _of_kind(kind, value, "text.format")


def _of_kind(kind: str, definition: Any, where: str) -> Output:
    if kind == "json_schema":
        return _of_schema(definition, where)
    return Output() if kind == "text" else Output(wish=JSON_OBJECT, check="object")


def _of_schema(definition: Any, where: str) -> Output:
    if type(definition) is not dict:
        raise invalid("json_schema must be an object or null when provided", where)
    schema, strict, description = (definition.get(key) for key in ("schema", "strict", "description"))
    if type(schema) is not dict:
        raise invalid(f"{where}.schema must be a JSON object", f"{where}.schema")
    if type(strict) is not bool and strict is not None:
        raise invalid(f"{where}.strict must be a boolean", f"{where}.strict")
    for key in ("name", "description"):
        if type(definition.get(key)) is not str and definition.get(key) is not None:
            raise invalid(f"{where}.{key} must be a string", f"{where}.{key}")
    if description and "description" not in schema:
        schema = schema | {"description": description}
    if strict or (schema.get("type") == "object" and _is_strict(schema)):
        return Output(schema=schema)
    return Output(wish=f"{JSON_OF_SCHEMA} {msgspec.json.encode(schema).decode()}", check="json")


def _is_strict(schema: Any) -> bool:
    """Whether the provider takes it as strict: every object is closed, and has all its properties."""
    if type(schema) is not dict or not schema.keys() <= _STRICT:
        return False
    if "properties" in schema or schema.get("type") == "object":
        properties, required = schema.get("properties"), schema.get("required")
        if schema.get("additionalProperties") is not False or type(properties) is not dict:
            return False
        if type(required) is not list or sorted(map(str, required)) != sorted(properties):
            return False
    return all(_is_strict(inner) for inner in subschemas(schema))

"""What this service uses of the app-server's protocol, as a CLI describes it, and how two CLIs differ in that.

What is used is not listed here: it is the requests that the dialect makes, and the types that it decodes. The CLI's
schema has hundreds of methods and changes with every release; what is used is some hundred lines of it.

`used.json` is what the packaged CLI says; `python -m tests.codex.test_schema` writes it anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from typing import Any

import msgspec
from msgspec import inspect

from pool.events import ToolSpec, TurnRequest
from pool.protocol import dialect_v2 as dialect

Names = dict[str, Any]
"""The fields that are used of an object, each with those that are used of it."""
Used = dict[str, list[str]]
"""Each thing that is used, and what the CLI says of it, in words; nothing of what it does not have."""

THERE = "there"
DEPTH = 3
"""So many levels of a value are described that is taken as a whole."""

_EXAMPLE = TurnRequest(
    model="m",
    instructions="i",
    items=(),
    tools=(ToolSpec("t", "d", {}),),
    effort="low",
    summary="auto",
    verbosity="low",
    output_schema={},
    reasoning_items=True,
)
"""All that a request can have."""

_REQUESTS: tuple[tuple[dialect.Method, type[msgspec.Struct] | None], ...] = (
    (dialect.initialize("0"), dialect.InitializeResult),
    (dialect.LOADED_THREADS, None),
    (dialect.thread_start(_EXAMPLE), dialect.ThreadStartResult),
    (dialect.inject_items("t", ()), None),
    (dialect.turn_start("t", _EXAMPLE), dialect.TurnStartResult),
    (dialect.turn_interrupt("t", "u"), None),
    (dialect.thread_unsubscribe("t"), None),
)
"""Each request, and what is read of its answer."""

_VARIANTS = frozenset({"function", "agentMessage", "function_call", "reasoning"})
"""Of what comes in many kinds, told apart by a constant in a field, those that are sent or read."""

_UNLISTED = {
    "rawResponse/completed": "RawResponseCompletedNotification",
    "rawResponseItem/completed": "RawResponseItemCompletedNotification",
}
"""Notifications that the CLI describes without saying that it sends them."""


def pinned() -> Used:
    """What the packaged CLI says."""
    found: Used = json.loads((files("pool.protocol") / "used.json").read_text())
    return found


def drift(before: Used, after: Used) -> list[str]:
    """One line for each thing that is used and of which `after` says something else than `before`."""
    out = []
    for thing in sorted(before.keys() | after.keys()):
        old, new = before.get(thing, []), after.get(thing, [])
        gone = [f"no longer {word}" for word in old if word not in new]
        come = [f"now {word}" for word in new if word not in old]
        if gone or come:
            out.append(f"{thing}: {', '.join(gone + come)}")
    return out


def used(schema: Any) -> Used:
    """What `schema` (the CLI's own) says of all that is used.

    Raises:
        ValueError: it is no schema of this protocol.
    """
    try:
        return dict(_used(_Schema(schema)))
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError("it is no schema of the app-server's protocol") from error


def _used(schema: _Schema) -> Iterator[tuple[str, list[str]]]:
    for method, result in _REQUESTS:
        params = schema.params("ClientRequest", method.name)
        yield f"request {method.name}", _presence(params)
        yield from schema.needs(f"{method.name} needs", params)
        yield from schema.told(method.name, params, _sent(method.params))
        if result is not None:
            yield from schema.told(f"{method.name} result", schema.answer(params), _read(inspect.type_info(result)))
    name = dialect.INITIALIZED["method"]
    yield f"notification {name}", _presence(schema.params("ClientNotification", name))
    for name in sorted(dialect.IGNORED):
        yield f"notification {name}", _presence(schema.params("ServerNotification", name))
    for name, kind in dialect.NOTIFICATIONS.items():
        node = schema.definition(_UNLISTED[name]) if name in _UNLISTED else schema.params("ServerNotification", name)
        yield f"notification {name}", _presence(node)
        yield from schema.told(name, node, _read(inspect.type_info(kind)))
    yield f"request {dialect.TOOL_CALL_REQUEST}", _presence(schema.params("ServerRequest", dialect.TOOL_CALL_REQUEST))
    for name, refusal in dialect.REFUSALS.items():
        asked = schema.params("ServerRequest", name)
        yield f"request {name}", _presence(asked)
        words = dict(schema.told(name, schema.answer(asked), _sent(refusal)))
        for field, word in refusal.items():
            yield f"{name} result.{field}", [own for own in words.get(f"{name}.{field}", ()) if own == json.dumps(word)]


def _presence(node: Any) -> list[str]:
    return [] if node is None else [THERE]


def _sent(value: Any) -> Names:
    """The fields of what is sent."""
    if isinstance(value, Mapping):
        return {name: _sent(inner) for name, inner in value.items()}
    return _merged(map(_sent, value)) if isinstance(value, list | tuple) else {}


def _read(kind: inspect.Type) -> Names:
    """The fields that are decoded."""
    match kind:
        case inspect.StructType(fields=fields):
            return {field.encode_name: _read(field.type) for field in fields}
        case inspect.ListType(item_type=item):
            return _read(item)
        case inspect.UnionType(types=types):
            return _merged(map(_read, types))
    return {}


def _merged(parts: Iterable[Names]) -> Names:
    return {name: inner for part in parts for name, inner in part.items()}


class _Schema:
    """The CLI's schema, by name."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._definitions = root["definitions"]

    def params(self, union: str, method: str) -> Any:
        """The params of a method; None when there is no such method, True when it has none."""
        for variant in self._definitions[union]["oneOf"]:
            properties = variant["properties"]
            if method in properties["method"]["enum"]:
                return properties.get("params", True)
        return None

    def answer(self, params: Any) -> Any:
        """What answers a request with these params: it is named after them."""
        reference = params.get("$ref", "") if isinstance(params, dict) else ""
        return self.definition(reference.rpartition("/")[2].removesuffix("Params") + "Response")

    def definition(self, name: str) -> Any:
        """The definition of this name; None when there is none."""
        return self._definitions["v2"].get(name, self._definitions.get(name))

    def needs(self, path: str, params: Any) -> Iterator[tuple[str, list[str]]]:
        """The fields without which a request is refused."""
        names = {name for variant in self._variants(params) for name in variant.get("required", ())}
        yield path, sorted(names)

    def told(self, path: str, node: Any, names: Names) -> Iterator[tuple[str, list[str]]]:
        """What is said of each of these fields of `node`, and of theirs."""
        objects = self._objects(node)
        for name, inner in names.items():
            having = [variant for variant in objects if name in variant.get("properties", ())]
            where = f"{path}.{name}"
            if not having:
                yield where, ["any"] if any(variant.get("additionalProperties") for variant in objects) else []
                continue
            field = {"anyOf": [variant["properties"][name] for variant in having]}
            certain = all(name in variant.get("required", ()) for variant in having)
            yield where, ([] if certain else ["optional"]) + self._kinds(field, 0 if inner else DEPTH)
            yield from self.told(where, field, inner)

    def _objects(self, node: Any) -> list[dict[str, Any]]:
        """The objects that `node`, or what is in its list, may be; of many kinds those that are used."""
        flat = [
            item for variant in self._variants(node) for item in (variant, *self._variants(variant.get("items", False)))
        ]
        objects = [variant for variant in flat if "properties" in variant or "object" in variant.get("type", ())]
        tags = (variant.get("properties", {}).get("type", {}).get("enum", ()) for variant in objects)
        used = [variant for variant, tag in zip(objects, tags, strict=True) if not _VARIANTS.isdisjoint(tag)]
        return used or objects

    def _variants(self, node: Any) -> list[dict[str, Any]]:
        """All that `node` may be, references followed; nothing for one of which nothing is said."""
        if not isinstance(node, dict):
            return []
        if "$ref" in node:
            found = self._root
            for part in node["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            return self._variants(found)
        parts = [part for word in ("anyOf", "oneOf", "allOf") for part in node.get(word, ())]
        return [variant for part in parts for variant in self._variants(part)] if parts else [node]

    def _kinds(self, node: Any, depth: int) -> list[str]:
        """The types and constants that a value may have; with `depth`, what is in its objects."""
        words = set()
        for variant in self._variants(node):
            kinds = variant.get("type", "any")
            for kind in [kinds] if isinstance(kinds, str) else kinds:
                if kind == "object" and depth and "properties" in variant:
                    words.add(self._inside(variant["properties"], depth - 1))
                elif kind == "string" and "enum" in variant:
                    words |= {json.dumps(word) for word in variant["enum"]}
                else:
                    words.add(kind)
        return sorted(words) or ["any"]

    def _inside(self, properties: Mapping[str, Any], depth: int) -> str:
        fields = (f"{name}: {' | '.join(self._kinds(inner, depth))}" for name, inner in sorted(properties.items()))
        return f"{{{', '.join(fields)}}}"

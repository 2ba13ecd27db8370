"""The functions a caller offers to the model: rows 19 to 22 of the validation order."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from pool.events import ToolSpec
from service.api.errors import invalid
from service.api.history import is_absent

MAX_FUNCTIONS = 128
"""Source: OpenAI's limit."""

_NEEDS_NAME = 'function definitions must include a non-empty "name"'
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_YES, _NO = ("true", "1", "yes"), ("false", "0", "no")
_FIELDS = frozenset({"name", "description", "parameters", "strict"})


class Tools(msgspec.Struct, frozen=True):
    """The functions that the model may call, and what is made of its calls.

    With `must_call` an answer without a call is none. Without `is_parallel` only the first call counts. `is_legacy`:
    the caller speaks of `functions`, and gets a `function_call`. `withheld` are the names of those that are defined,
    and must not be called this time: the model may know them from the history.
    """

    specs: tuple[ToolSpec, ...] = ()
    must_call: bool = False
    is_parallel: bool = True
    is_legacy: bool = False
    withheld: frozenset[str] = frozenset()


def count_tool_chars(body: dict[str, Any]) -> int:
    """Characters of the definitions, which the model reads too; nobody has checked them yet."""
    return sum(len(msgspec.json.encode(body[key])) for key in ("tools", "functions") if not is_absent(body.get(key)))


def read_tools(body: dict[str, Any]) -> tuple[Tools, tuple[str, ...]]:
    """What the model may call, and the names of the fields without effect.

    Raises:
        ApiError: 400, for a definition or a choice that is not well formed.
    """
    ignored: set[str] = set()
    tools = _tools(body.get("tools"), ignored)
    functions = _functions(body.get("functions"), ignored)
    offered, must_call = _chosen(body.get("tool_choice"), tools)
    legacy, must_call_legacy = _chosen_legacy(body.get("function_call"), functions)
    is_parallel = read_switch(body.get("parallel_tool_calls"))
    if tools and functions:
        raise invalid("tools and functions must not be given together", "functions")
    if functions:
        offered, must_call, is_parallel = legacy, must_call_legacy, False
    chosen = chosen_tools(
        tools or functions, offered, must_call=must_call, is_parallel=is_parallel, is_legacy=bool(functions)
    )
    return chosen, tuple(sorted(ignored)) if offered else ()


def chosen_tools(
    defined: dict[str, ToolSpec],
    offered: tuple[ToolSpec, ...],
    *,
    must_call: bool,
    is_parallel: bool,
    is_legacy: bool = False,
) -> Tools:
    """Those that are offered, and what is to be known of the others."""
    if not offered:
        return Tools()
    withheld = frozenset(defined) - {spec.name for spec in offered}
    return Tools(offered, must_call=must_call, is_parallel=is_parallel, is_legacy=is_legacy, withheld=withheld)


# --- definitions -------------------------------------------------------------------------------------------------


def _tools(tools: Any, ignored: set[str]) -> dict[str, ToolSpec]:
    if tools is None:
        return {}
    if type(tools) is not list:
        raise invalid("tools must be an array of definitions", "tools")
    found: dict[str, ToolSpec] = {}
    for index, tool in enumerate(tools):
        if type(tool) is not dict:
            raise invalid('tool definition must be an object with type "function"', f"tools[{index}]")
        if tool.get("type") != "function":
            raise invalid('tool type must be "function"', f"tools[{index}].type")
        note_unread("tools", tool, {"type", "function"}, ignored)
        where = f"tools[{index}].function"
        add_function(found, tool.get("function"), where, ignored, of="tools", named_as="tools.function")
    return found


def _functions(functions: Any, ignored: set[str]) -> dict[str, ToolSpec]:
    if functions is None:
        return {}
    if type(functions) is not list:
        raise invalid("functions must be an array of function definitions", "functions")
    found: dict[str, ToolSpec] = {}
    for index, function in enumerate(functions):
        if type(function) is not dict:
            raise invalid("function definition must be an object", f"functions[{index}]")
        add_function(found, function, f"functions[{index}]", ignored, of="functions", named_as="functions")
    return found


def add_function(
    found: dict[str, ToolSpec], function: Any, where: str, ignored: set[str], *, of: str, named_as: str
) -> None:
    """Add the definition at `where` to those that were `found` in the array `of`. What of it has no effect is `ignored`
    by the name `named_as`, and its own.

    Raises:
        ApiError: 400, it is not well formed.
    """
    name = read_name(function, where)
    description, parameters = function.get("description"), function.get("parameters")
    if type(description) is not str and description is not None:
        raise invalid(f"{where}.description must be a string", f"{where}.description")
    if type(parameters) is not dict and parameters is not None:
        raise invalid(f"{where}.parameters must be a JSON Schema object", f"{where}.parameters")
    strict = function.get("strict")
    if type(strict) is not bool and strict is not None:
        raise invalid(f"{where}.strict must be a boolean", f"{where}.strict")
    if strict:
        ignored.add(f"{named_as}.strict")
    note_unread(named_as, function, _FIELDS, ignored)
    schema = {"type": "object", "properties": {}} if parameters is None else parameters
    add_spec(found, ToolSpec(name, description or "", schema), where, of=of)


def add_spec(found: dict[str, ToolSpec], spec: ToolSpec, where: str, *, of: str) -> None:
    """Add it, if there is room for it and its name is its own.

    Raises:
        ApiError: 400, otherwise.
    """
    if len(found) == MAX_FUNCTIONS:
        raise invalid(f"{of} must hold at most {MAX_FUNCTIONS} functions", of)
    if spec.name in found:
        raise invalid(f'the function "{spec.name}" is defined twice', f"{where}.name")
    found[spec.name] = spec


def read_name(definition: Any, where: str) -> str:
    """The name in a definition.

    Raises:
        ApiError: 400, it has none that may be one.
    """
    name = _name(definition, _NEEDS_NAME, f"{where}.name")
    if _NAME.fullmatch(name) is None:
        raise invalid(
            "function names must be 1 to 64 letters, digits, underscores and dashes of ASCII", f"{where}.name"
        )
    return name


def note_unread(where: str, value: dict[str, Any], fields: frozenset[str] | set[str], ignored: set[str]) -> None:
    """Add the names of the fields that nobody reads, and that say something."""
    ignored.update(f"{where}.{key}" for key in value if key not in fields and not is_absent(value[key]))


def _name(holder: Any, message: str, param: str) -> str:
    name = holder.get("name") if type(holder) is dict else None
    if type(name) is not str or not name:
        raise invalid(message, param)
    return name


# --- choices -----------------------------------------------------------------------------------------------------

Chosen = tuple[tuple[ToolSpec, ...], bool]
"""What is offered, and whether it must be called."""


def _chosen(choice: Any, tools: dict[str, ToolSpec]) -> Chosen:
    every = tuple(tools.values())
    if is_absent(choice):
        return every, False
    if type(choice) is str:
        if choice not in ("auto", "none", "required"):
            raise invalid('tool_choice must be "auto", "none", "required", or a function selector', "tool_choice")
        if choice == "required" and not tools:
            raise invalid("tool_choice requires tools definitions", "tool_choice")
        return () if choice == "none" else every, choice == "required"
    if type(choice) is not dict:
        raise invalid(
            'tool_choice must be a string ("auto" | "none" | "required") or { type: "function", function: { name } }',
            "tool_choice",
        )
    if choice.get("type") == "allowed_tools":
        return _allowed(choice.get("allowed_tools"), tools)
    if choice.get("type") != "function":
        raise invalid('tool_choice.type must be "function"', "tool_choice.type")
    where = "tool_choice.function.name"
    name = _name(choice.get("function"), "tool_choice.function.name is required", where)
    if not tools:
        raise invalid("tool_choice requires tools definitions", "tool_choice")
    return (_declared(name, tools, where),), True


def _allowed(allowed: Any, tools: dict[str, ToolSpec]) -> Chosen:
    """Source: OpenAI's ChatCompletionAllowedTools."""
    where = "tool_choice.allowed_tools"
    if type(allowed) is not dict:
        raise invalid(f"{where} must be an object", where)
    if allowed.get("mode") not in ("auto", "required"):
        raise invalid(f'{where}.mode must be "auto" or "required"', f"{where}.mode")
    named = allowed.get("tools")
    if type(named) is not list or not named:
        raise invalid(f"{where}.tools must be a non-empty array", f"{where}.tools")
    chosen: dict[str, ToolSpec] = {}
    for index, tool in enumerate(named):
        place = f"{where}.tools[{index}]"
        if type(tool) is not dict or tool.get("type") != "function":
            raise invalid(f'{place}.type must be "function"', f"{place}.type")
        name = _name(tool.get("function"), f"{place}.function.name is required", f"{place}.function.name")
        chosen[name] = _declared(name, tools, f"{place}.function.name")
    return tuple(chosen.values()), allowed["mode"] == "required"


def _declared(name: str, tools: dict[str, ToolSpec], where: str) -> ToolSpec:
    if name not in tools:
        raise invalid(f"{where} must reference a declared tool", where)
    return tools[name]


def _chosen_legacy(choice: Any, functions: dict[str, ToolSpec]) -> Chosen:
    if choice is None or choice == "auto":
        return tuple(functions.values()), False
    if choice == "none":
        return (), False
    name = _name(choice, 'function_call must be "auto", "none", or { name }', "function_call")
    if not functions:
        raise invalid("function_call requires functions definitions", "function_call")
    if name not in functions:
        raise invalid("function_call.name must reference a declared function", "function_call.name")
    return (functions[name],), True


def read_switch(value: Any) -> bool:
    """`parallel_tool_calls`.

    Raises:
        ApiError: 400, it is nothing that means yes or no.
    """
    if value is None:
        return True
    if type(value) is bool or (type(value) is int and value in (0, 1)):
        return bool(value)
    word = value.strip().lower() if type(value) is str else ""
    if word not in _YES and word not in _NO:
        raise invalid("parallel_tool_calls must be a boolean when provided", "parallel_tool_calls")
    return word in _YES

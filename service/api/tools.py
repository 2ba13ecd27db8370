"""The functions a caller offers to the model: rows 19 to 22 of the validation order."""

from __future__ import annotations

from typing import Any

from service.api.errors import invalid
from service.api.history import is_absent

_NEEDS_NAME = 'function definitions must include a non-empty "name"'
_SWITCHES = ("true", "1", "yes", "false", "0", "no")


def tools_parameter(body: dict[str, Any]) -> str | None:
    """Which parameter offers functions that the model may call, if one does.

    Raises:
        ApiError: 400, for a definition or a choice that is not well formed.
    """
    tools = _tool_names(body.get("tools"))
    functions = _function_names(body.get("functions"))
    _check_tool_choice(body.get("tool_choice"), tools)
    _check_function_call(body.get("function_call"), functions)
    _check_parallel(body.get("parallel_tool_calls"))
    if tools and body.get("tool_choice") != "none":
        return "tools"
    return "functions" if functions and body.get("function_call") != "none" else None


def _tool_names(tools: Any) -> set[str]:
    if tools is None:
        return set()
    if type(tools) is not list:
        raise invalid("tools must be an array of definitions", "tools")
    names = set()
    for index, tool in enumerate(tools):
        if type(tool) is not dict:
            raise invalid('tool definition must be an object with type "function"', f"tools[{index}]")
        if tool.get("type") != "function":
            raise invalid('tool type must be "function"', f"tools[{index}].type")
        names.add(_name(tool.get("function"), f"tools[{index}].function.name"))
    return names


def _function_names(functions: Any) -> set[str]:
    if functions is None:
        return set()
    if type(functions) is not list:
        raise invalid("functions must be an array of function definitions", "functions")
    names = set()
    for index, function in enumerate(functions):
        if type(function) is not dict:
            raise invalid("function definition must be an object", f"functions[{index}]")
        names.add(_name(function, f"functions[{index}].name"))
    return names


def _name(function: Any, param: str) -> str:
    name = function.get("name") if type(function) is dict else None
    if type(name) is not str or not name:
        raise invalid(_NEEDS_NAME, param)
    return name


def _check_tool_choice(choice: Any, names: set[str]) -> None:
    if is_absent(choice):
        return
    name = None
    if type(choice) is str:
        if choice not in ("auto", "none", "required"):
            raise invalid('tool_choice must be "auto", "none", "required", or a function selector', "tool_choice")
    elif type(choice) is not dict:
        raise invalid(
            'tool_choice must be a string ("auto" | "none" | "required") or { type: "function", function: { name } }',
            "tool_choice",
        )
    elif choice.get("type") != "function":
        raise invalid('tool_choice.type must be "function"', "tool_choice.type")
    else:
        function = choice.get("function")
        name = function.get("name") if type(function) is dict else None
        if type(name) is not str or not name:
            raise invalid("tool_choice.function.name is required", "tool_choice.function.name")
    if not names and choice not in ("auto", "none"):
        raise invalid("tool_choice requires tools definitions", "tool_choice")
    if name is not None and name not in names:
        raise invalid("tool_choice.function.name must reference a declared tool", "tool_choice.function.name")


def _check_function_call(choice: Any, names: set[str]) -> None:
    if choice is None or choice in ("auto", "none"):
        return
    name = choice.get("name") if type(choice) is dict else None
    if type(name) is not str or not name:
        raise invalid('function_call must be "auto", "none", or { name }', "function_call")
    if not names:
        raise invalid("function_call requires functions definitions", "function_call")
    if name not in names:
        raise invalid("function_call.name must reference a declared function", "function_call.name")


def _check_parallel(value: Any) -> None:
    if value is None or type(value) is bool or (type(value) is int and value in (0, 1)):
        return
    if type(value) is not str or value.strip().lower() not in _SWITCHES:
        raise invalid("parallel_tool_calls must be a boolean when provided", "parallel_tool_calls")

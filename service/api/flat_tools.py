"""The tools of the Responses API: functions, custom tools, and namespaces of both. To the model all are functions.

The app-server can offer a model nothing but functions with arguments in JSON. What the caller calls otherwise has an
alias there, and is given back to the caller as it was defined.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from pool.events import ToolSpec
from pool.protocol.functions import MAX_NAME_CHARS
from service.api.errors import ApiError, invalid, unsupported
from service.api.history import is_absent
from service.api.tools import Tools, add_function, add_spec, chosen_tools, note_unread, read_name, read_switch

_LEFT_OUT = re.compile(r"web_search(_preview)?(_[0-9_]+)?|tool_search")
"""An answer without them is still one. Source: the Codex CLI offers both to every model, whatever is asked of it."""

_CUSTOM_FIELDS = frozenset({"type", "name", "description", "format"})
_INPUT = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The whole input of the tool, verbatim."}},
    "required": ["input"],
    "additionalProperties": False,
}


class Alias(NamedTuple):
    """What the caller calls a function that the model knows by another name, or as a function only."""

    name: str
    namespace: str | None = None
    is_custom: bool = False


class FlatTools(NamedTuple):
    """The tools, and how to tell the caller of their calls.

    `aliases` has those whose calls are not a plain `function_call` of the same name. `echo` are the definitions that
    have an effect, as the response object shows them. `ignored` names what has none.
    """

    tools: Tools
    aliases: dict[str, Alias]
    echo: tuple[dict[str, Any], ...]
    ignored: tuple[str, ...]


def alias_of(name: str, namespace: str | None) -> str:
    """What the model calls it: always the same, so that calls in the history fit the tools."""
    if not namespace:
        return name
    full = f"{namespace}__{name}"
    if len(full) <= MAX_NAME_CHARS:
        return full
    return f"{full[: MAX_NAME_CHARS - 9]}_{hashlib.sha256(full.encode()).hexdigest()[:8]}"


def custom_arguments(text: str) -> str:
    """The arguments of the function that stands for a custom tool."""
    return msgspec.json.encode({"input": text}).decode()


class _Input(msgspec.Struct):
    input: str


_decode_input = msgspec.json.Decoder(_Input).decode


def custom_input(arguments: str) -> str:
    """The input of a custom tool, from the arguments of the function that stands for it, or else all of them."""
    try:
        return _decode_input(arguments).input
    except (msgspec.MsgspecError, RecursionError):
        return arguments


def read_flat_tools(fields: dict[str, Any], more: Iterable[tuple[str, Any]] = ()) -> FlatTools:
    """What the model may call. `more` are arrays of tools from elsewhere in the request, each with its place.

    Raises:
        ApiError: 400, for a definition or a choice that is not well formed, or not done.
    """
    reader = _Reader()
    reader.read_all(fields.get("tools"), "tools")
    for where, tools in more:
        reader.read_all(tools, where)
    offered, must_call = reader.chosen(fields.get("tool_choice"))
    tools = chosen_tools(
        reader.found, offered, must_call=must_call, is_parallel=read_switch(fields.get("parallel_tool_calls"))
    )
    return FlatTools(tools, reader.aliases, tuple(reader.echo), tuple(sorted(reader.ignored)))


class _Reader:
    def __init__(self) -> None:
        self.found: dict[str, ToolSpec] = {}
        self.aliases: dict[str, Alias] = {}
        self.echo: list[dict[str, Any]] = []
        self.ignored: set[str] = set()

    def read_all(self, tools: Any, where: str) -> None:
        if tools is None:
            return
        if type(tools) is not list:
            raise invalid(f"{where} must be an array of definitions", where)
        for index, tool in enumerate(tools):
            self._read(tool, f"{where}[{index}]")

    def _read(self, tool: Any, where: str) -> None:
        kind = tool.get("type") if type(tool) is dict else None
        if type(kind) is not str:
            raise invalid("tool definition must be an object with a type", where)
        if kind == "namespace":
            self.echo.append(self._namespace(tool, where))
        elif kind in ("function", "custom"):
            self.echo.append(self._tool(tool, where, None))
        elif _LEFT_OUT.fullmatch(kind):
            self.ignored.add(f"tools.{kind}")
        else:
            raise unsupported(f"{where}.type", f'tools of type "{kind[:100]}" are not supported')

    def _namespace(self, tool: dict[str, Any], where: str) -> dict[str, Any]:
        name, inner, description = read_name(tool, where), tool.get("tools"), tool.get("description")
        if type(inner) is not list or not inner:
            raise invalid(f"{where}.tools must be a non-empty array", f"{where}.tools")
        if type(description) is not str and description is not None:
            raise invalid(f"{where}.description must be a string", f"{where}.description")
        note_unread("tools", tool, {"type", "name", "description", "tools"}, self.ignored)
        echo = []
        for index, each in enumerate(inner):
            place = f"{where}.tools[{index}]"
            if type(each) is not dict or each.get("type") not in ("function", "custom"):
                raise invalid(f'{place}.type must be "function" or "custom"', f"{place}.type")
            echo.append(self._tool(each, place, name))
        return {"type": "namespace", "name": name, "description": description or "", "tools": echo}

    def _tool(self, tool: dict[str, Any], where: str, namespace: str | None) -> dict[str, Any]:
        name = read_name(tool, where)
        alias = alias_of(name, namespace)
        is_custom = tool["type"] == "custom"
        if is_custom:
            add_spec(self.found, ToolSpec(alias, _described(tool, where), _INPUT), where, of="tools")
            note_unread("tools", tool, _CUSTOM_FIELDS, self.ignored)
        else:
            rest = {key: value for key, value in tool.items() if key != "type"}
            add_function(self.found, rest | {"name": alias}, where, self.ignored, of="tools", named_as="tools")
        if is_custom or alias != name:
            self.aliases[alias] = Alias(name, namespace, is_custom)
        if is_custom:
            return {key: value for key, value in tool.items() if key in _CUSTOM_FIELDS and value is not None}
        echo: dict[str, Any] = {"type": "function", "name": name, "parameters": tool.get("parameters")}
        echo["strict"] = bool(tool.get("strict"))
        if tool.get("description"):
            echo["description"] = tool["description"]
        return echo

    # --- choices ---------------------------------------------------------------------------------------------

    def chosen(self, choice: Any) -> tuple[tuple[ToolSpec, ...], bool]:
        """What is offered, and whether it must be called."""
        every = tuple(self.found.values())
        if is_absent(choice) or choice == "auto":
            return every, False
        if choice == "none":
            return (), False
        if choice == "required":
            if not every:
                raise invalid("tool_choice requires tools definitions", "tool_choice")
            return every, True
        if type(choice) is not dict:
            raise invalid('tool_choice must be "auto", "none", "required", or an object with a type', "tool_choice")
        if choice.get("type") == "allowed_tools":
            return self._allowed(choice)
        return (self._named(choice, "tool_choice"),), True

    def _allowed(self, choice: dict[str, Any]) -> tuple[tuple[ToolSpec, ...], bool]:
        """Source: OpenAI's ToolChoiceAllowed."""
        if choice.get("mode") not in ("auto", "required"):
            raise invalid('tool_choice.mode must be "auto" or "required"', "tool_choice.mode")
        tools = choice.get("tools")
        if type(tools) is not list or not tools:
            raise invalid("tool_choice.tools must be a non-empty array", "tool_choice.tools")
        named = [self._named(tool, f"tool_choice.tools[{index}]") for index, tool in enumerate(tools)]
        return tuple({spec.name: spec for spec in named}.values()), choice["mode"] == "required"

    def _named(self, choice: Any, where: str) -> ToolSpec:
        kind = choice.get("type") if type(choice) is dict else None
        if kind not in ("function", "custom"):
            raise _bad_choice(kind, where)
        name = choice.get("name")
        if type(name) is not str or not name:
            raise invalid(f"{where}.name is required", f"{where}.name")
        for alias, spec in self.found.items():
            public = self.aliases.get(alias, Alias(alias))
            if name in (public.name, alias) and public.is_custom is (kind == "custom"):
                return spec
        raise invalid(f"{where}.name must reference a declared tool", f"{where}.name")


def _bad_choice(kind: Any, where: str) -> ApiError:
    if type(kind) is str:
        return unsupported(f"{where}.type", f'a choice of type "{kind[:100]}" is not supported')
    return invalid(f'{where} must be an object with the type "function" or "custom"', where)


def _described(tool: dict[str, Any], where: str) -> str:
    """The description of a custom tool, with the grammar of its input: nothing else of it reaches the model."""
    description, form = tool.get("description"), tool.get("format")
    if type(description) is not str and description is not None:
        raise invalid(f"{where}.description must be a string", f"{where}.description")
    said = [description] if description else []
    if form is not None:
        kind = form.get("type") if type(form) is dict else None
        if kind == "grammar":
            syntax, definition = form.get("syntax"), form.get("definition")
            if syntax not in ("lark", "regex") or type(definition) is not str:
                raise invalid(f"{where}.format must have a syntax and a definition", f"{where}.format")
            said.append(f"The input must be one that this {syntax} grammar accepts:\n{definition}")
        elif kind != "text":
            raise invalid(f'{where}.format.type must be "text" or "grammar"', f"{where}.format.type")
    return "\n\n".join(said)

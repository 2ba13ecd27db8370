"""What the app-server refuses, and in which words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from loadtest.fake_frames import Json

MAX_INPUT_CHARS: Final = 1_048_576
INVALID_REQUEST: Final = -32600
INVALID_PARAMS: Final = -32602
OVERLOADED: Final = -32001
REQUIRED: Final = {
    "initialize": ("clientInfo",),
    "thread/inject_items": ("threadId", "items"),
    "thread/unsubscribe": ("threadId",),
    "turn/start": ("threadId", "input"),
    "turn/interrupt": ("threadId", "turnId"),
}

_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_BUILT_IN_TOOLS: Final = frozenset({"exec_command", "shell_command"})


class RpcError(Exception):
    """What a request is refused with."""

    def __init__(self, message: str, code: int = INVALID_REQUEST, data: Json | None = None) -> None:
        super().__init__(message)
        more = {} if data is None else {"data": data}
        self.body: Json = {"code": code, **more, "message": message}


def required_params(method: str, params: object) -> Json:
    """The params of a request, with everything `method` needs."""
    if not isinstance(params, dict):
        raise RpcError("Invalid request: missing field `params`")
    for name in REQUIRED.get(method, ()):
        if name not in params:
            raise RpcError(f"Invalid request: missing field `{name}`")
    return params


def sequence(value: object) -> list[Json]:
    """`value`, if it is a list of objects."""
    if not isinstance(value, list):
        raise RpcError(f"Invalid request: {_wrong_type(value)}, expected a sequence")
    for part in value:
        if not isinstance(part, dict):
            raise RpcError(f"Invalid request: {_wrong_type(part)}, expected a map")
    return value


def check_item(index: int, item: Json) -> None:
    """Refuses an item to inject which has no content parts, or a remote image."""
    content = item.get("content")
    if item.get("type", "message") == "message" and not isinstance(content, list):
        raise RpcError(f"items[{index}] is not a valid response item: {_wrong_type(content)}, expected a sequence")
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict) or "type" not in part:
            raise RpcError(f"items[{index}] is not a valid response item: missing field `type`")
        _refuse_remote_image(part.get("image_url") or "")


def check_inputs(inputs: list[Json]) -> None:
    """Refuses the input of a turn which is too long, or has a remote image."""
    chars = 0
    for part in inputs:
        if part.get("type") == "text":
            chars += len(part.get("text") or "")
        elif part.get("type") == "image":
            _refuse_remote_image(part.get("url") or "")
    if chars > MAX_INPUT_CHARS:
        data = {"input_error_code": "input_too_large", "max_chars": MAX_INPUT_CHARS, "actual_chars": chars}
        message = f"Input exceeds the maximum length of {MAX_INPUT_CHARS} characters."
        raise RpcError(message, INVALID_PARAMS, data)


def _refuse_remote_image(url: str) -> None:
    if url.startswith(("http://", "https://")):
        raise RpcError("remote image URLs are not supported; use an inline data URL instead")


def tool_names(tools: list[Json]) -> frozenset[str]:
    """The names of the dynamic tools the model will see."""
    names: set[str] = set()
    for tool in tools:
        for field in ("name", "description", "inputSchema"):
            if field not in tool:
                raise RpcError(f"Invalid request: missing field `{field}`")
        name = tool["name"]
        if not _TOOL_NAME.fullmatch(name):
            raise RpcError(f"dynamic tool name must match ^[a-zA-Z0-9_-]+$ to match Responses API: {name}")
        if name.startswith("mcp__"):
            raise RpcError(f"dynamic tool name is reserved: {name}")
        if name in names:
            raise RpcError(f"duplicate dynamic tool name: {name}")
        names.add(name)
    return frozenset(names - _BUILT_IN_TOOLS)


def _wrong_type(value: object) -> str:
    match value:
        case None:
            return "invalid type: null"
        case bool():
            return f"invalid type: boolean `{str(value).lower()}`"
        case int():
            return f"invalid type: integer `{value}`"
        case str():
            return f'invalid type: string "{value}"'
        case list():
            return "invalid type: sequence"
        case _:
            return "invalid type: map"

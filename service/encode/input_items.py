"""The input items of a request as they are listed and kept: each with its id, its type and its parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from service.api.items import Item

_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
    "additional_tools": "at",
}
_WITHOUT_STATUS = ("reasoning", "additional_tools")


def listed(items: Iterable[Item], suffix: str) -> list[tuple[str, bytes]]:
    """The items of a request that was read, each with its id and encoded; one that has no id gets one of the response
    that ends with `suffix`.

    Source: OpenAI's ItemResource.
    """
    return [_listed(item, f"{suffix}_in{index}") for index, item in enumerate(items)]


def _listed(item: Item, suffix: str) -> tuple[str, bytes]:
    kind = item.get("type") or "message"
    item_id = item.get("id")
    if type(item_id) is not str or not item_id:
        item_id = f"{_PREFIXES[kind]}_{suffix}"
    whole = {key: value for key, value in item.items() if value is not None} | {"id": item_id, "type": kind}
    if kind not in _WITHOUT_STATUS:
        whole.setdefault("status", "completed")
    if kind == "message":
        whole["content"] = _parts(item["content"], is_output=item["role"] == "assistant")
    elif kind == "reasoning":
        whole.setdefault("summary", [])
    return item_id, msgspec.json.encode(whole)


def _parts(content: Any, *, is_output: bool) -> list[Any]:
    parts = [{"type": "text", "text": content}] if type(content) is str else content
    return [_part(part, is_output=is_output) for part in parts]


def _part(part: dict[str, Any], *, is_output: bool) -> dict[str, Any]:
    if part["type"] not in ("text", "input_text", "output_text"):
        return part
    if is_output:
        return {"annotations": [], "logprobs": []} | part | {"type": "output_text"}
    return part | {"type": "input_text"}

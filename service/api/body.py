"""From the bytes of a request body to a JSON object, whatever the bytes are."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import msgspec

from pool.protocol.messages import replace_surrogates
from service.api.errors import ApiError

MAX_DEPTH = 64
"""Deeper JSON is nobody's question, and the app-server gives no answer at all beyond about 128."""


def json_object(body: bytes) -> dict[str, Any]:
    """The object in a request body; a lone surrogate in it becomes U+FFFD, as no UTF-8 can carry one.

    Raises:
        ApiError: 400 `invalid_json`, for anything that is not one JSON object in UTF-8 of at most `MAX_DEPTH` levels.
    """
    try:
        value = _decode(body)
    except (ValueError, RecursionError):
        raise _invalid_json("Invalid JSON") from None
    if not isinstance(value, dict):
        raise _invalid_json("Invalid JSON: the body must be an object")
    if _is_deeper_than(value, MAX_DEPTH):
        raise _invalid_json(f"Invalid JSON: more than {MAX_DEPTH} levels deep")
    return value


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        # Valid JSON all the same if it holds lone surrogates or numbers beyond a float.
        return replace_surrogates(json.loads(body.decode(), parse_constant=_refuse_constant))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _is_deeper_than(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [
            child
            for node in level
            for child in (node.values() if type(node) is dict else node)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return True


def _invalid_json(message: str) -> ApiError:
    return ApiError(status=400, message=message, type="invalid_request_error", code="invalid_json")

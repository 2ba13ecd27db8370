"""From the bytes of a request body to a JSON object, whatever the bytes are."""

from __future__ import annotations

import json
import zlib
from typing import Any, NoReturn

import msgspec

from pool.protocol.messages import replace_surrogates
from service.api.errors import ApiError, invalid, too_large

MAX_MEMBERS = 100_000
"""Of all arrays and objects of a body: making more would hold up everybody else's streams."""
SMALL_BYTES = 256 * 1024
"""Too small to hold as many."""
MAX_RATIO = 100
"""How far a body may unpack beyond `SMALL_BYTES`: text gives about 10, what is made to hurt 1000."""
MAX_DEPTH = 64
"""Deeper JSON is nobody's question, and the app-server gives no answer at all beyond about 128."""


EITHER_HEADER = 32 + zlib.MAX_WBITS
"""Tells zlib to find out by itself whether it is gzip or deflate."""


def unpacked(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """The body as it was before the client compressed it; never more than `max_bytes` of it are made.

    Raises:
        ApiError: 415 for an encoding other than gzip and deflate, 400 when it is not that, 413 when it is too large.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ApiError(
            status=415, message="Unsupported encoding", type="invalid_request_error", code="unsupported_encoding"
        )
    max_bytes = min(max_bytes, SMALL_BYTES + MAX_RATIO * len(body))
    unpacker = zlib.decompressobj(EITHER_HEADER)
    try:
        plain = unpacker.decompress(body, max_bytes + 1)
    except zlib.error:
        plain = b""
    if len(plain) > max_bytes:
        raise too_large()
    if not unpacker.eof or unpacker.unused_data:
        raise invalid("the body is not what its Content-Encoding says", None)
    return plain


def json_object(body: bytes) -> dict[str, Any]:
    """The object in a request body; a lone surrogate in it becomes U+FFFD, as no UTF-8 can carry one.

    Raises:
        ApiError: 400 `invalid_json`, for anything that is not one JSON object in UTF-8 of at most `MAX_DEPTH` levels.
    """
    if len(body) > SMALL_BYTES and _members(body) > MAX_MEMBERS:
        raise _invalid_json(f"Invalid JSON: more than {MAX_MEMBERS} values")
    try:
        value = _decode(body)
    except (ValueError, RecursionError):
        raise _invalid_json("Invalid JSON") from None
    if not isinstance(value, dict):
        raise _invalid_json("Invalid JSON: the body must be an object")
    if _is_deeper_than(value, MAX_DEPTH):
        raise _invalid_json(f"Invalid JSON: more than {MAX_DEPTH} levels deep")
    return value


def _members(body: bytes) -> int:
    """About how many values a body holds, without making them; commas and braces within strings do not count."""
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = plain.count(b'"') // 2
    if strings > MAX_MEMBERS:
        return strings
    structure = b"".join(plain.split(b'"')[::2])
    return structure.count(b",") + structure.count(b"[") + structure.count(b"{")


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

"""The four JSON-RPC shapes on the app-server's pipe, decoded once and encoded safely.

The app-server writes no `jsonrpc` member and needs none. Two kinds of text would hurt it, so nothing leaves here
unchecked: an invalid UTF-8 byte ends the process, a lone surrogate gets no answer at all.
Source: the vendor's app-server README, "Protocol"; behaviour pinned by tests/codex/test_wire.py.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from pool.protocol.framing import HEAD_BYTES

RequestId = int | str


class RpcError(msgspec.Struct, frozen=True):
    """The error member of a failure."""

    code: int = 0
    message: str = ""


class _Frame(msgspec.Struct, gc=False):
    id: RequestId | None = None
    method: str | None = None
    params: msgspec.Raw = msgspec.Raw(b"null")
    result: msgspec.Raw = msgspec.Raw()
    error: RpcError | None = None


class Request(msgspec.Struct, frozen=True):
    """The app-server asks us; `id` is from its own id space."""

    id: RequestId
    method: str
    params: msgspec.Raw


class Notification(msgspec.Struct, frozen=True, gc=False):
    """Something happened; `params` is still undecoded."""

    method: str
    params: msgspec.Raw


class Reply(msgspec.Struct, frozen=True):
    """Our request `id` succeeded."""

    id: RequestId
    result: msgspec.Raw


class Failure(msgspec.Struct, frozen=True):
    """Our request `id` failed."""

    id: RequestId
    error: RpcError


class Garbage(msgspec.Struct, frozen=True):
    """A line that is none of the four shapes; `head` is its beginning."""

    head: bytes


Message = Request | Notification | Reply | Failure | Garbage

_decode = msgspec.json.Decoder(_Frame).decode
_encoder = msgspec.json.Encoder()
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def decode(line: bytes) -> Message:
    """The message in one line; never raises."""
    try:
        frame = _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Garbage(line[:HEAD_BYTES])
    if frame.method is not None:
        if frame.id is None:
            return Notification(frame.method, frame.params)
        return Request(frame.id, frame.method, frame.params)
    if frame.id is None:
        return Garbage(line[:HEAD_BYTES])
    if frame.error is not None:
        return Failure(frame.id, frame.error)
    if len(frame.result):
        return Reply(frame.id, frame.result)
    return Garbage(line[:HEAD_BYTES])


def encode(frame: dict[str, Any]) -> bytes:
    """One line, newline included: valid UTF-8 whatever the caller's text holds.

    A lone surrogate becomes U+FFFD; every control character, NUL included, is escaped by JSON itself.
    """
    try:
        return _encoder.encode(frame) + b"\n"
    except UnicodeEncodeError:
        return _encoder.encode(replace_surrogates(frame)) + b"\n"


def replace_surrogates(value: Any) -> Any:
    """A copy of a JSON value in which lone surrogates are U+FFFD."""
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {replace_surrogates(key): replace_surrogates(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_surrogates(item) for item in value]
    return value

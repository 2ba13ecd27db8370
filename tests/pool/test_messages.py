from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pool.protocol.framing import HEAD_BYTES
from pool.protocol.messages import Failure, Garbage, Notification, Reply, Request, RpcError, decode, encode

any_text = st.text(st.characters(exclude_categories=()), max_size=20)
"""Python text as a client can send it through JSON: lone surrogates and NUL included."""

any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)


def replaced(value: Any) -> Any:
    """The same value as the app-server may see it."""
    if isinstance(value, str):
        return "".join("\ufffd" if 0xD800 <= ord(char) <= 0xDFFF else char for char in value)
    if isinstance(value, list):
        return [replaced(item) for item in value]
    if isinstance(value, dict):
        return {replaced(key): replaced(item) for key, item in value.items()}
    return value


# --- the four shapes ---------------------------------------------------------------------------------------------


def test_a_request_has_a_method_and_an_id() -> None:
    message = decode(b'{"method":"item/tool/call","id":0,"params":{"tool":"t"}}')
    assert isinstance(message, Request)
    assert (message.id, message.method, bytes(message.params)) == (0, "item/tool/call", b'{"tool":"t"}')


def test_a_notification_has_a_method_and_no_id() -> None:
    message = decode(b'{"method":"thread/closed","params":{"threadId":"T"},"emittedAtMs":1}')
    assert isinstance(message, Notification)
    assert (message.method, bytes(message.params)) == ("thread/closed", b'{"threadId":"T"}')


def test_a_reply_has_an_id_and_a_result() -> None:
    message = decode(b'{"id":7,"result":{"status":"unsubscribed"}}')
    assert isinstance(message, Reply)
    assert (message.id, bytes(message.result)) == (7, b'{"status":"unsubscribed"}')


def test_a_failure_has_an_id_and_an_error_in_any_order_of_keys() -> None:
    error = RpcError(-32001, "Server overloaded; retry later.")
    for line in (
        b'{"error":{"code":-32001,"message":"Server overloaded; retry later."},"id":3}',
        b'{"id":3,"error":{"message":"Server overloaded; retry later.","data":{"a":[1]},"code":-32001}}',
    ):
        assert decode(line) == Failure(3, error)


@pytest.mark.parametrize(
    ("line", "shape"),
    [
        (b'{"jsonrpc":"2.0","id":"a","result":null}', Reply),
        (b'{"id":1,"error":null,"result":{}}', Reply),
        (b'{"id":1,"result":null,"error":{}}', Failure),
        (b'{"method":"m"}', Notification),
        (b'{"method":"m","id":null}', Notification),
        (b'{"method":"m","id":"x"}', Request),
        (b' {"id" : 1 , "result" : 1 }\r', Reply),
    ],
)
def test_the_shape_is_told_by_the_members(line: bytes, shape: type) -> None:
    assert isinstance(decode(line), shape)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"this is not JSON",
        b"[]",
        b'[{"id":1,"result":1}]',
        b"{}",
        b'{"id":1}',
        b'{"id":null,"result":1}',
        b'{"id":1.5,"result":1}',
        b'{"id":true,"result":1}',
        b'{"id":[1],"result":1}',
        b'{"id":1,"error":"text"}',
        b'{"id":1,"result":1} trailing',
        b'{"id":1,"result":',
        b'{"method":5}',
        b'{"method":"\xff"}',
        b'{"method":"m","params":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"\x00",
    ],
)
def test_anything_else_is_garbage_that_shows_its_beginning(line: bytes) -> None:
    assert decode(line) == Garbage(line[:HEAD_BYTES])


@given(st.binary(max_size=60))
def test_decoding_never_raises_whatever_the_bytes(line: bytes) -> None:
    decode(line)


@given(any_json, st.integers(0, 80), st.binary(min_size=1, max_size=2))
def test_decoding_never_raises_when_a_frame_is_damaged(value: Any, place: int, damage: bytes) -> None:
    line = bytearray(encode({"id": 1, "method": "m", "params": value}))
    line[place : place + len(damage)] = damage
    decode(bytes(line))


# --- what leaves -------------------------------------------------------------------------------------------------


@given(st.dictionaries(any_text, any_json, max_size=4))
@example({"text": "a\ud800b\x00c\u2028\n"})
@example({"\udfff": ["\ud800"]})
def test_what_is_sent_is_one_line_of_valid_utf8_that_means_the_same(frame: dict[str, Any]) -> None:
    line = encode(frame)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert b"\x00" not in line
    assert json.loads(line.decode("utf-8")) == replaced(frame)


@given(st.integers(0) | any_text, any_json)
def test_what_is_sent_can_be_received(request_id: int | str, value: Any) -> None:
    received = decode(encode({"id": request_id, "result": value}).rstrip(b"\n"))
    assert isinstance(received, Reply)
    assert received.id == replaced(request_id)
    assert json.loads(bytes(received.result)) == replaced(value)


def test_a_lone_surrogate_leaves_the_text_around_it_alone() -> None:
    line = encode({"deep": [{"text": "caf\u00e9 \ud83d \U0001f600"}]})
    assert json.loads(line) == {"deep": [{"text": "caf\u00e9 \ufffd \U0001f600"}]}

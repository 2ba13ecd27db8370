"""Whatever the bytes are, they are a JSON object or a clear 400."""

from __future__ import annotations

import gzip
import json
import os
import string
import time

import pytest

from service.api.body import SMALL_BYTES, unpacked
from service.api.errors import ApiError
from service.api.history import Said
from tests.service.asking import ask, parse

PLAIN = b'{"model":"codex-5","messages":[{"role":"user","content":"%b"}]}'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Invalid JSON"),
        (b"{bad", "Invalid JSON"),
        (PLAIN % b"\xff", "Invalid JSON"),
        (PLAIN % b"\xed\xa0\x80", "Invalid JSON"),
        (PLAIN % b"\x00", "Invalid JSON"),
        (b"\xef\xbb\xbf" + PLAIN % b"x", "Invalid JSON"),
        (PLAIN % b"x" + b"x", "Invalid JSON"),
        (b'{"model":NaN}', "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON"),
        (b'{"a":%b}' % (b"[" * 100_000 + b"]" * 100_000), "Invalid JSON"),
        (b'{"seed":%b}' % (b"9" * 5000), "Invalid JSON"),
        (b"42", "Invalid JSON: the body must be an object"),
        (b"[1,2]", "Invalid JSON: the body must be an object"),
        (b'{"a":%b}' % (b"[" * 64 + b"]" * 64), "Invalid JSON: more than 64 levels deep"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(body)
    error = caught.value
    assert (error.status, error.param, error.code, error.message) == (400, None, "invalid_json", message)


@pytest.mark.parametrize(
    "filler",
    [b"{},", b"1,", b"[],", b'"",', b'{"a":1},', b'"\\ud800",'],
    ids=["objects", "numbers", "arrays", "strings", "members", "surrogates"],
)
def test_a_body_of_too_many_values_is_refused_before_they_are_made(filler: bytes) -> None:
    body = b'{"model":"codex-5","messages":[%b1]}' % (filler * (8 * 2**20 // len(filler)))
    began_at = time.process_time()
    with pytest.raises(ApiError) as caught:
        parse(body)
    assert caught.value.message == "Invalid JSON: more than 100000 values"
    assert time.process_time() - began_at < 0.5


def test_a_long_text_of_commas_braces_and_quotes_is_one_value() -> None:
    text = 'a,{"b"}[],\\' * 400_000
    body = json.dumps({"model": "codex-5", "messages": [{"role": "user", "content": text}]}).encode()
    assert parse(body).messages == (Said("user", (text,)),)


def test_a_body_may_unpack_to_so_much_more_than_it_was() -> None:
    limit = 16 * 2**20
    for size in (SMALL_BYTES, 10**6):
        text = (string.ascii_letters * (size // 52 + 1))[:size].encode() + os.urandom(size // 20)
        assert unpacked(gzip.compress(text), "gzip", limit) == text
    with pytest.raises(ApiError) as caught:
        unpacked(gzip.compress(b"{}," * 5 * 10**6), "gzip", limit)
    assert caught.value.status == 413


def test_a_body_of_64_levels_is_accepted() -> None:
    assert ask(a=json.loads("[" * 63 + "]" * 63)).ignored == ("a",)


def test_a_lone_surrogate_becomes_the_replacement_character() -> None:
    assert parse(PLAIN % rb"a\ud800b").messages == (Said("user", ("a\ufffdb",)),)


def test_a_surrogate_pair_and_an_escaped_nul_are_text() -> None:
    assert parse(PLAIN % rb"\ud83d\ude00\u0000").messages == (Said("user", ("\U0001f600\x00",)),)


def test_a_number_beyond_a_float_is_a_wrong_value_and_not_a_crash() -> None:
    with pytest.raises(ApiError) as caught:
        parse(b'{"model":"codex-5","messages":[{"role":"user","content":"x"}],"temperature":1e400}')
    assert caught.value.message == "temperature must be a finite number between 0 and 2"

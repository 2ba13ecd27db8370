"""A credential is hidden wherever it stands, and words are left alone."""

from __future__ import annotations

import pytest

from pool.veil import HIDDEN, Veil


@pytest.mark.parametrize(
    "text",
    [
        "the key SECRET is not valid",
        "SECRET",
        "HTTPS_PROXY=http://someone:SECRET@proxy:3128",
        "Authorization: Bearer SECRET",
        '{"access_token": "SECRET", "expires": 5}',
        "OPENAI_API_KEY=SECRET",
        "password: SECRET",
    ],
)
@pytest.mark.parametrize("secret", ["sk-proj-abcdef0123456789", "a-word/of+another=kind", "eyJhbGciOi.J9.abc-def"])
def test_what_a_worker_was_given_is_hidden(text: str, secret: str) -> None:
    hidden = Veil((secret,))(text.replace("SECRET", secret))
    assert secret not in hidden
    assert HIDDEN in hidden


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-proj-abcdef0123456789.",
        "token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "refresh rt_0123456789abcdef failed",
        "authorization: Bearer abcdef0123456789",
        "http://someone:abcdef0123456789@proxy/",
    ],
)
def test_what_looks_like_a_credential_is_hidden_though_nobody_knows_it(text: str) -> None:
    hidden = Veil()(text)
    assert "abcdef0123456789" not in hidden
    assert "eyJ" not in hidden
    assert HIDDEN in hidden


@pytest.mark.parametrize(
    "text",
    [
        "Error: No such file or directory (os error 2)",
        "failed to load /etc/codex/config.toml: missing field `model`",
        "thread 'main' panicked at src/main.rs:42:7",
        "tokens are counted by the provider; the key question is why",
        "http://127.0.0.1:8080/v1/responses?x=1",
        "it took 1 s, then 2 s",
    ],
)
def test_words_are_left_alone(text: str) -> None:
    assert Veil(("1", "", "main"))(text) == text


def test_of_two_secrets_the_longer_is_hidden_whole() -> None:
    assert Veil(("abcdefgh", "abcdefgh-and-more"))("it is abcdefgh-and-more") == f"it is {HIDDEN}"

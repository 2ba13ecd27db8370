"""A key is held to what was agreed with it, and can tell from its headers what the next request will find."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.services import Answer, RunningService, key, running_service, scripted, until

ALICE, BOB = "alices-key-0123456789-abcdef", "bobs-key-0123456789-abcdefgh"
SLOW = scripted(chunks=["tick "], repeat=100_000, interval_s=0.01)


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def answering(tokens: int) -> str:
    """A prompt whose answer takes so many tokens in all, whatever is in it."""
    return scripted(text="Yes.", usage={"input_tokens": tokens - 1, "output_tokens": 1})


def left(headers: Mapping[str, str], unit: str = "tokens") -> int:
    return int(headers[f"x-ratelimit-remaining-{unit}"])


async def left_of(api: RunningService) -> int:
    """Tokens that Alice may have at once, now."""
    tenant = api.service.current.keyring.named("alice")
    assert tenant is not None
    assert tenant.tokens is not None
    return tenant.tokens.remaining(asyncio.get_running_loop().time())


def with_alice(tmp_path: Path, **fields: Any) -> Any:
    return running_service(tmp_path, keys=[key("alice", ALICE, **fields), key("bob", BOB)])


@pytest.fixture
async def thrifty(tmp_path: Path) -> AsyncIterator[RunningService]:
    """Alice has 6000 tokens a minute, a hundred each second, and 600 requests."""
    async with with_alice(tmp_path, tokens_per_minute=6000, requests_per_minute=600) as api:
        yield api


async def test_who_follows_the_headers_is_never_refused_and_who_does_not_is_told_when(thrifty: RunningService) -> None:
    answer = await thrifty.chat(answering(2000), headers=bearer(ALICE))
    assert answer.status == 200
    assert answer.headers["x-ratelimit-limit-tokens"] == "6000"
    assert 4000 <= left(answer.headers) <= 4100
    for tokens in (1000, 1000, 900):
        before = left(answer.headers)
        answer = await thrifty.chat(answering(tokens), headers=bearer(ALICE), max_tokens=before - 200)
        assert answer.status == 200
        assert before - tokens <= left(answer.headers) <= before - tokens + 200
    refused = await thrifty.chat(answering(1), headers=bearer(ALICE), max_tokens=left(answer.headers) + 200)
    assert (refused.status, refused.code) == (429, "rate_limited")
    wait_s = int(refused.headers["retry-after-ms"]) / 1000
    assert 0 < wait_s < 5
    assert int(refused.headers["Retry-After"]) == max(1, -int(-wait_s // 1))
    clock = asyncio.get_running_loop().time
    over_at = clock() + wait_s
    await until(lambda: clock() >= over_at)
    again = await thrifty.chat(answering(1), headers=bearer(ALICE), max_tokens=left(answer.headers) + 200)
    assert again.status == 200


async def test_what_was_expected_comes_back_when_it_was_not_used(thrifty: RunningService) -> None:
    answer = await thrifty.chat(answering(50), headers=bearer(ALICE), max_tokens=5000)
    assert left(answer.headers) >= 5950


async def test_a_stream_is_settled_when_it_has_ended(thrifty: RunningService) -> None:
    answer = await thrifty.chat(answering(3000), headers=bearer(ALICE), stream=True, max_tokens=5000)
    assert left(answer.headers) < 1100, "as of its beginning"
    assert 3000 <= await left_of(thrifty) <= 3300


async def test_every_choice_is_paid_for(thrifty: RunningService) -> None:
    answer = await thrifty.chat(answering(500), headers=bearer(ALICE), n=3)
    assert 4500 <= left(answer.headers) <= 4600


@pytest.mark.parametrize(
    "prompt",
    [scripted(http_status=503, http_error={"message": "no"}), scripted(http_status=400, http_error={"message": "no"})],
    ids=["overloaded", "refused"],
)
async def test_what_failed_before_the_provider_did_anything_costs_no_tokens(
    thrifty: RunningService, prompt: str
) -> None:
    answer = await thrifty.chat(prompt, headers=bearer(ALICE), max_tokens=3000)
    assert answer.status >= 400
    assert await left_of(thrifty) >= 5990
    assert left(answer.headers, "requests") <= 599, "but it was a request"


async def test_what_never_got_a_seat_costs_no_tokens(tmp_path: Path) -> None:
    slots = {"slots": 1, "queue_max": 1, "queue_budget_s": 0.2}
    keys = [key("alice", ALICE, tokens_per_minute=6000), key("bob", BOB)]
    async with running_service(tmp_path, keys=keys, profile=slots) as api:
        running = await api.begin(SLOW, key=BOB)
        answer = await api.chat(headers=bearer(ALICE), max_tokens=5000)
        assert answer.status == 503
        assert await left_of(api) >= 5990
        running.close()
        await api.until_at_rest()


async def test_who_leaves_pays_for_what_was_said_until_then(thrifty: RunningService) -> None:
    running = await thrifty.begin(SLOW, key=ALICE, max_tokens=5000)
    assert left(running.headers) < 1100
    await running.content.readuntil(b"tick")
    running.close()
    await thrifty.until_at_rest()
    assert 5800 <= await left_of(thrifty) < 6000


async def test_a_response_in_the_background_is_paid_for_when_it_ends(thrifty: RunningService) -> None:
    asked = {"model": "codex-5", "input": answering(2500), "background": True, "max_output_tokens": 3000}
    answer = await thrifty.call("POST", "/v1/responses", json=asked, headers=bearer(ALICE))
    assert answer.status == 200
    await until(lambda: thrifty.counted("background_jobs") == 0)
    assert 3500 <= await left_of(thrifty) <= 3800


async def test_a_reload_loses_no_tokens_and_changes_the_contract_at_once(thrifty: RunningService) -> None:
    await thrifty.chat(answering(3000), headers=bearer(ALICE))
    await thrifty.reload(keys=[key("alice", ALICE, tokens_per_minute=4000), key("bob", BOB)])
    answer = await thrifty.chat(answering(10), headers=bearer(ALICE))
    assert answer.headers["x-ratelimit-limit-tokens"] == "4000"
    assert 900 <= left(answer.headers) <= 1200
    assert "x-ratelimit-limit-requests" not in answer.headers


# --- dates and models --------------------------------------------------------------------------------------------


async def test_a_key_ends_at_its_date(tmp_path: Path) -> None:
    async with with_alice(tmp_path, expires="2001-01-01T00:00:00Z") as api:
        answer = await api.chat(headers=bearer(ALICE))
        assert (answer.status, answer.code) == (401, "expired_api_key")
        assert answer.headers["WWW-Authenticate"] == "Bearer realm=api"
        assert (await api.chat(headers=bearer(BOB))).status == 200
        assert (await api.call("HEAD", "/v1/chat/completions", headers=bearer(ALICE))).status == 401


async def names(api: RunningService, headers: Mapping[str, str] | None = None) -> list[str]:
    answer = await api.get("/v1/models", headers=headers)
    assert answer.headers["Cache-Control"] == "private, max-age=60"
    return [model["id"] for model in answer.json["data"]]


async def asked(api: RunningService, model: str, text: str) -> Answer:
    return await api.chat(headers=bearer(text), model=model)


async def test_a_model_that_a_key_may_not_use_is_not_there_for_it(tmp_path: Path) -> None:
    models = {"one": {"aliases": ["uno"], "effort_suffixes": True}, "two": {}}
    keys = [key("alice", ALICE, models=["one"]), key("bob", BOB)]
    async with running_service(tmp_path, keys=keys, models=models) as api:
        assert await names(api) == await names(api, bearer(BOB)) == ["one", "uno", "two"]
        assert await names(api, bearer(ALICE)) == ["one", "uno"]
        assert (await api.get("/v1/models/two", headers=bearer(ALICE))).code == "model_not_found"
        assert (await api.get("/v1/models/TWO", headers=bearer(BOB))).json["id"] == "two"
        for model in ("one", "UNO", "one-high"):
            assert (await asked(api, model, ALICE)).status == 200
        hidden, unknown = await asked(api, "two", ALICE), await asked(api, "three", ALICE)
        assert hidden.status == unknown.status == 404
        assert hidden.error | {"message": ""} == unknown.error | {"message": ""}
        assert (await asked(api, "two", BOB)).status == 200
        wanted = {"model": "two", "input": "Hello."}
        answer = await api.call("POST", "/v1/responses", json=wanted, headers=bearer(ALICE))
        assert (answer.status, answer.code) == (404, "model_not_found")
        await api.reload(models=models, keys=[key("alice", ALICE, models=["two"])])
        assert await names(api, bearer(ALICE)) == ["two"]
        assert (await asked(api, "two", ALICE)).status == 200

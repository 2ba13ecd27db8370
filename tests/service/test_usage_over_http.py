"""Each key can see what it has used, as it was measured; nobody waits for that to be written down."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from service.usage import ledger as shell
from service.usage.file import UsageFile
from tests.service.test_usage_file import full
from tests.support.services import AUTHORIZED, Json, RunningService, key, running_service, scripted, until

ALICE, BOSS = "alices-key-0123456789-abcdef", "the-boss-key-0123456789-abcd"
USAGE = {"input_tokens": 100, "cached_tokens": 40, "output_tokens": 20, "reasoning_tokens": 5}
SAID = scripted(text="Yes.", usage=USAGE)
SLOW = scripted(chunks=["tick "], repeat=100_000, interval_s=0.01)


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


@pytest.fixture(autouse=True)
def is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "FLUSH_S", 0.01)
    monkeypatch.setattr(shell, "RETRY_S", 0.01)


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[RunningService]:
    """Alice, who sees her own, and the boss, who sees all."""
    async with running_service(tmp_path, keys=[key("alice", ALICE), key("boss", BOSS, usage="all")]) as api:
        yield api


async def used(api: RunningService, text: str = ALICE, **query: Any) -> Json:
    return (await api.get("/v1/usage", headers=bearer(text), params=query)).json


async def events(api: RunningService, text: str = ALICE, **query: Any) -> list[Json]:
    answer = (await api.get("/v1/usage/raw", headers=bearer(text), params=query)).json
    found: list[Json] = answer["events"]
    assert answer["count"] == len(found)
    return found


async def test_what_the_provider_counted_is_summed(shared: RunningService) -> None:
    before_ms = time.time_ns() // 1_000_000
    await shared.chat(SAID, headers=bearer(ALICE))
    await shared.chat(SAID, headers=bearer(ALICE), stream=True, n=2)
    await shared.call("POST", "/v1/responses", json={"model": "codex-5", "input": SAID}, headers=bearer(ALICE))
    found = await used(shared)
    assert before_ms <= found["end"] <= time.time_ns() / 1_000_000
    assert found | {"end": 0} == {
        "start": 0,
        "end": 0,
        "total_requests": 3,
        "prompt_tokens": 400,
        "completion_tokens": 80,
        "total_tokens": 480,
        "cached_tokens": 160,
        "reasoning_tokens": 20,
        "prompt_tokens_est": 400,
        "completion_tokens_est": 80,
        "total_tokens_est": 480,
        "estimated_requests": 0,
        "tool_buffer_metrics": {},
    }
    for group in ("hour", "day"):
        found = await used(shared, group=group)
        assert found["group"] == group
        assert sum(bucket["requests"] for bucket in found["buckets"]) == 3
        assert all(bucket["ts"].endswith(":00:00.000Z") for bucket in found["buckets"])
    assert (await used(shared, start=before_ms))["total_requests"] == 3
    assert (await used(shared, end=before_ms))["total_requests"] == 0
    assert (await used(shared, start="2020-01-01", end="2020-01-02T00:00:00Z"))["total_requests"] == 0


async def test_each_request_is_an_event_that_says_how_it_went(shared: RunningService) -> None:
    answer = await shared.chat(SAID, headers=bearer(ALICE), model="CODEX-5-high")
    call = {"name": "f", "arguments": {}}
    tools = [{"type": "function", "function": {"name": "f"}}]
    prompt = scripted(tool_calls=[call], usage=USAGE)
    await shared.chat(prompt, headers=bearer(ALICE), stream=True, tools=tools)
    await shared.chat(scripted(http_status=400, http_error={"message": "no"}), headers=bearer(ALICE))
    first, second, third = await events(shared)
    assert first | {"ts": 0, "duration_ms": 0, "time_to_first_token_ms": 0} == {
        "phase": "usage_summary",
        "ts": 0,
        "req_id": answer.headers["x-request-id"],
        "key": "alice",
        "route": "/v1/chat/completions",
        "mode": "chat_nonstream",
        "method": "POST",
        "status_code": 200,
        "status": 200,
        "outcome": "stop",
        "requested_model": "CODEX-5-high",
        "effective_model": "gpt-5.2",
        "profile": "default",
        "stream": False,
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "cached_tokens": 40,
        "reasoning_tokens": 5,
        "prompt_tokens_est": 100,
        "completion_tokens_est": 20,
        "total_tokens_est": 120,
        "counts_source": "provider",
        "provider_supplied": True,
        "duration_ms": 0,
        "time_to_first_token_ms": 0,
        "finish_reason": "stop",
        "choice_count": 1,
        "has_tool_calls": False,
        "tool_call_count_total": 0,
        "tool_calls_truncated": False,
        "output_mode": "openai-json",
    }
    assert (second["mode"], second["finish_reason"], second["tool_call_count_total"]) == (
        "chat_stream",
        "tool_calls",
        1,
    )
    assert (third["status_code"], third["outcome"], third["total_tokens"]) == (400, "bad_request", 0)
    assert third["finish_reason"] is None
    assert [event["req_id"] for event in await events(shared, limit=1)] == [third["req_id"]]


async def test_who_leaves_has_used_what_was_said_and_it_is_an_estimate(shared: RunningService) -> None:
    running = await shared.begin(SLOW, key=ALICE)
    await running.content.readuntil(b"tick")
    running.close()
    await shared.until_at_rest()
    await until(lambda: shared.counted("usage_records_total", result="stored") == 1)
    (event,) = await events(shared)
    assert (event["status_code"], event["outcome"], event["counts_source"]) == (499, "abandoned", "estimate")
    assert event["prompt_tokens"] > 0
    assert (await used(shared))["estimated_requests"] == 1


async def test_what_is_refused_at_the_door_is_no_use(shared: RunningService) -> None:
    await shared.chat(headers=bearer(ALICE), model="none")
    await shared.post(b"{", headers=bearer(ALICE))
    await shared.chat(headers=bearer("nobody"))
    await shared.get("/v1/models", headers=bearer(ALICE))
    assert await events(shared) == []


async def test_a_response_in_the_background_is_recorded_when_it_ends(shared: RunningService) -> None:
    asked = {"model": "codex-5", "input": SAID, "background": True}
    answer = await shared.call("POST", "/v1/responses", json=asked, headers=bearer(ALICE))
    await until(lambda: shared.counted("usage_records_total", result="stored") == 1)
    (event,) = await events(shared)
    assert event["req_id"] == answer.headers["x-request-id"]
    assert (event["route"], event["total_tokens"], event["outcome"]) == ("/v1/responses", 120, "stop")


async def test_a_key_sees_its_own_and_one_that_may_sees_all(shared: RunningService) -> None:
    for text, times in ((ALICE, 2), (BOSS, 1)):
        for _ in range(times):
            await shared.chat(SAID, headers=bearer(text))
    assert (await used(shared))["total_requests"] == len(await events(shared)) == 2
    assert "keys" not in await used(shared)
    everything = await used(shared, BOSS)
    assert everything["total_requests"] == len(await events(shared, BOSS)) == 3
    assert [(row["key"], row["requests"]) for row in everything["keys"]] == [("alice", 2), ("boss", 1)]
    assert (
        (await used(shared, BOSS, key="alice"))["total_requests"] == len(await events(shared, BOSS, key="alice")) == 2
    )
    assert (await used(shared, key="alice"))["total_requests"] == 2
    for path in ("/v1/usage", "/v1/usage/raw"):
        refused = await shared.get(path, headers=bearer(ALICE), params={"key": "boss"})
        assert (refused.status, refused.code) == (403, "insufficient_permissions")
        assert (await shared.get(path)).code == "invalid_api_key"


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/v1/usage", {"group": "minute"}),
        ("/v1/usage", {"start": "yesterday"}),
        ("/v1/usage", {"end": "-1"}),
        ("/v1/usage/raw", {"limit": "0"}),
        ("/v1/usage/raw", {"limit": "many"}),
    ],
)
async def test_a_wrong_query_names_its_parameter(shared: RunningService, path: str, query: dict[str, str]) -> None:
    answer = await shared.get(path, headers=bearer(ALICE), params=query)
    assert (answer.status, answer.error["param"]) == (400, next(iter(query)))


async def test_more_than_may_be_asked_for_is_as_much_as_may(shared: RunningService) -> None:
    await shared.chat(SAID, headers=bearer(ALICE))
    assert len(await events(shared, limit=10**9)) == 1


async def test_a_full_disk_costs_no_request_anything(shared: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(UsageFile, "add", full)
        assert (await shared.chat(SAID, headers=bearer(ALICE))).status == 200
        await until(lambda: shared.counted("usage_up") == 0)
    await until(lambda: shared.counted("usage_up") == 1)
    assert len(await events(shared)) == 1


async def test_where_it_is_not_kept_it_says_so(tmp_path: Path) -> None:
    async with running_service(tmp_path, usage={"enabled": False}) as api:
        assert (await api.chat(SAID)).status == 200
        answer = await api.get("/v1/usage", headers=AUTHORIZED)
        assert (answer.status, answer.code) == (404, "usage_not_kept")
        assert not list((tmp_path / "state").glob("usage*"))

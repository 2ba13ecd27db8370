"""Who answers, how soon and how long at most: what routes, keys and headers decide, as clients see it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pool.roster import Outlook
from tests.service.conftest import Log
from tests.support.services import Answer, RunningService, key, running_service, scripted, until

SLOW = scripted(chunks=["tick "], repeat=100_000, interval_s=0.01)
HEARD = scripted(echo=True)
ALICE, BOB = "alices-key-0123456789-abcdef", "bobs-key-0123456789-abcdefgh"


def bearer(text: str, **headers: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"} | headers


@asynccontextmanager
async def with_spare(tmp_path: Path, **tables: Any) -> AsyncIterator[RunningService]:
    """A service with one seat and one place in the queue of `default`, and a profile `spare` beside it."""
    spare = {"codex_bin": tmp_path / "codex", "anonymous": True, "workers": 1, "probation_s": 0}
    profile = {"slots": 1, "queue_max": 1, "queue_budget_s": 60} | tables.pop("profile", {})
    tables.setdefault("models", {"m": {"fallback": ["spare"]}, "alone": {}, "spare": {"profile": "spare"}})
    async with running_service(tmp_path, profile=profile, others={"spare": spare}, **tables) as api:
        await until(lambda: api.ready_workers_of("spare") == 1)
        yield api


def profiles(log: Log) -> list[str]:
    """Whose workers answered, request by request."""
    return [line["profile"] for line in log.of("request.answered")]


# --- canaries ----------------------------------------------------------------------------------------------------


async def test_a_canary_answers_its_share_and_a_sticky_key_is_always_on_one_side(tmp_path: Path, log: Log) -> None:
    targets = [{"profile": "default", "weight": 50}, {"profile": "spare", "weight": 50}]
    models = {"drawn": {"targets": targets}, "sticky": {"targets": targets, "sticky": True}}
    async with with_spare(tmp_path, profile={"slots": 4}, models=models) as api:
        for _ in range(30):
            assert (await api.chat(model="drawn")).status == 200
        for _ in range(10):
            assert (await api.chat(model="sticky")).status == 200
        await until(lambda: len(log.of("request.answered")) == 40)
    by_chance, sticky = Counter(profiles(log)[:30]), set(profiles(log)[30:])
    assert by_chance.keys() == {"default", "spare"}
    assert len(sticky) == 1


async def test_an_alias_and_an_effort_suffix_answer_under_their_own_names(tmp_path: Path) -> None:
    models = {"m": {"aliases": ["gpt-4o"], "effort_suffixes": True}}
    async with running_service(tmp_path, models=models) as api:
        for name in ("m", "gpt-4o", "m-high", "M-XHIGH"):
            answer = await api.chat(model=name)
            assert (answer.status, answer.json["model"]) == (200, name)
        assert (await api.chat(model="m-huge")).code == "model_not_found"
        assert [model["id"] for model in (await api.get("/v1/models")).json["data"]] == ["m", "gpt-4o"]
        assert (await api.get("/v1/models/M-High")).json["id"] == "m-high"


# --- fallback ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue_sends_a_job_to_the_fallback_unseen(tmp_path: Path, log: Log, stream: bool) -> None:
    async with with_spare(tmp_path) as api:
        running = await api.begin(SLOW, model="m")
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(api.chat(model="m"))
            await until(lambda: api.waiting == 1)
            answer = await api.chat(scripted(text="from elsewhere"), model="m", stream=stream)
            assert answer.status == 200
            assert (answer.stream.text if stream else answer.text) == "from elsewhere"
            refused = await api.chat(model="alone")
            assert (refused.status, refused.code) == (503, "queue_full"), "it has no fallback"
            running.close()
        assert waiting.result().status == 200
        await api.until_at_rest()
        assert api.counted("fallbacks_total", profile="default", reason="queue_full") == 1
        assert sorted(profiles(log)) == ["default", "default", "default", "spare"]


async def test_a_profile_without_workers_sends_its_jobs_to_the_fallback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with with_spare(tmp_path) as api:
        pool = api.service.pool
        genuine = pool.outlook
        down = Outlook(0, 1, 3.0)
        monkeypatch.setattr(pool, "free", lambda name: 0 if name == "default" else 1)
        monkeypatch.setattr(pool, "outlook", lambda name: down if name == "default" else genuine(name))
        assert (await api.chat(model="m")).status == 200
        refused = await api.chat(model="alone")
        assert (refused.status, refused.code) == (503, "worker_not_ready")
        assert 3000 <= int(refused.headers["retry-after-ms"]) <= 3750
        assert api.counted("fallbacks_total", profile="default", reason="worker_not_ready") == 1


async def test_when_all_refuse_the_shortest_wait_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with with_spare(tmp_path) as api:
        waits = {"default": Outlook(0, 1, 9.0), "spare": Outlook(0, 1, 2.0)}
        monkeypatch.setattr(api.service.pool, "free", lambda _name: 0)
        monkeypatch.setattr(api.service.pool, "outlook", waits.__getitem__)
        refused = await api.chat(model="m")
        assert (refused.status, refused.code) == (503, "worker_not_ready")
        assert 2000 <= int(refused.headers["retry-after-ms"]) <= 2500


async def test_a_drain_and_a_key_that_takes_too_much_are_nobody_elses_business(tmp_path: Path) -> None:
    keys = [key("alice", ALICE, queue_max=1)]
    async with with_spare(tmp_path, keys=keys, profile={"queue_max": 10}) as api:
        running = await api.begin(SLOW, model="m")
        async with asyncio.TaskGroup() as tasks:
            queued = tasks.create_task(api.chat(model="m", headers=bearer(ALICE)))
            await until(lambda: api.waiting == 1)
            refused = await api.chat(model="m", headers=bearer(ALICE))
            assert (refused.status, refused.code) == (429, "tenant_queue_full")
            assert refused.error["type"] == "rate_limit_error"
            assert int(refused.headers["Retry-After"]) >= 1
            running.close()
        assert queued.result().status == 200
        api.service.scheduler.drain()
        assert (await api.chat(model="m")).code == "draining"
        assert api.counted("fallbacks_total", profile="default", reason="draining") == 0


# --- keys --------------------------------------------------------------------------------------------------------


async def test_one_of_several_keys_fills_its_part_of_the_queue_and_no_more(tmp_path: Path) -> None:
    keys = [key("alice", ALICE), key("bob", BOB)]
    profile = {"slots": 1, "queue_max": 4, "queue_budget_s": 60}
    async with running_service(tmp_path, keys=keys, profile=profile) as api:
        running = await api.begin(SLOW)
        async with asyncio.TaskGroup() as tasks:
            queued = [tasks.create_task(api.chat(headers=bearer(ALICE))) for _ in range(2)]
            await until(lambda: api.waiting == 2)
            assert (await api.chat(headers=bearer(ALICE))).code == "tenant_queue_full"
            queued += [tasks.create_task(api.chat(headers=bearer(BOB))) for _ in range(2)]
            await until(lambda: api.waiting == 4)
            assert (await api.chat(headers=bearer(BOB))).code == "tenant_queue_full"
            queued.append(tasks.create_task(api.chat()))  # whose key has less than its part of the places
            await until(lambda: api.waiting == 5)
            running.close()
        assert [task.result().status for task in queued] == [200] * 5


async def test_a_key_that_is_alone_has_the_whole_queue(tmp_path: Path) -> None:
    async with running_service(tmp_path, profile={"slots": 1, "queue_max": 2, "queue_budget_s": 60}) as api:
        running = await api.begin(SLOW)
        async with asyncio.TaskGroup() as tasks:
            queued = [tasks.create_task(api.chat()) for _ in range(2)]
            await until(lambda: api.waiting == 2)
            assert (await api.chat()).code == "queue_full"
            running.close()
        assert [task.result().status for task in queued] == [200, 200]


async def test_a_key_runs_as_many_turns_as_it_has_seats_while_others_are_free(tmp_path: Path) -> None:
    async with running_service(tmp_path, keys=[key("alice", ALICE, seats=1)]) as api:
        first = await api.begin(SLOW, key=ALICE)
        async with asyncio.TaskGroup() as tasks:
            second = tasks.create_task(api.chat(headers=bearer(ALICE)))
            await until(lambda: api.waiting == 1)
            assert (await api.chat()).status == 200, "there are seats for others"
            assert api.waiting == 1
            assert api.counted("tenant_running", tenant="alice") == 1
            first.close()
        assert second.result().status == 200


# --- classes -----------------------------------------------------------------------------------------------------


async def classes(api: RunningService, log: Log, *asked: dict[str, Any]) -> list[tuple[str, str | None]]:
    """The class that each of these requests got, and what the answer said of it."""
    answers: list[Answer] = []
    for fields in asked:
        answers.append(await api.chat(**fields))
        assert answers[-1].status == 200
    await until(lambda: len(log.of("request.answered")) == len(asked))
    got = [line["priority"] for line in log.of("request.answered")]
    assert got == [line["priority"] for line in log.of("job.admitted")]
    return [(each, answer.headers.get("x-priority-applied")) for each, answer in zip(got, answers, strict=True)]


async def test_a_class_is_asked_for_lowered_to_what_the_key_may_and_the_answer_says_so(
    tmp_path: Path, log: Log
) -> None:
    keys = [key("alice", ALICE, max_priority="interactive"), key("bob", BOB, priority="batch")]
    async with running_service(tmp_path, keys=keys) as api:
        got = await classes(
            api,
            log,
            {"headers": {"x-priority": "batch"}},
            {"headers": {"X-Priority": "Interactive"}},
            {"headers": {"X-Priority": "Interactive"}, "stream": True},
            {"headers": {"x-priority": "standard"}},
            {"headers": bearer(ALICE, **{"x-priority": "interactive"})},
            {"headers": bearer(ALICE)},
            {"headers": bearer(BOB)},
            {"headers": bearer(BOB, **{"x-priority": "standard"})},
        )
    assert got == [
        ("batch", None),
        ("standard", "standard"),
        ("standard", "standard"),
        ("standard", None),
        ("interactive", None),
        ("standard", None),
        ("batch", None),
        ("batch", "batch"),
    ]


async def test_a_service_tier_asks_for_a_class_and_the_answer_has_the_one_that_was_used(
    tmp_path: Path, log: Log
) -> None:
    keys = [key("alice", ALICE, max_priority="interactive"), key("bob", BOB, priority="batch")]
    urgently = bearer(ALICE, **{"x-priority": "interactive"})
    asked: list[tuple[dict[str, Any], tuple[str, str | None], str | None]] = [
        ({}, ("standard", None), None),
        ({"service_tier": None}, ("standard", None), None),
        ({"service_tier": "auto"}, ("standard", None), "default"),
        ({"service_tier": "default"}, ("standard", None), "default"),
        ({"service_tier": "scale"}, ("standard", None), "default"),
        ({"service_tier": "flex"}, ("batch", None), "flex"),
        ({"service_tier": "priority"}, ("standard", "standard"), "default"),
        ({"service_tier": "priority", "headers": bearer(ALICE)}, ("interactive", None), "priority"),
        ({"service_tier": "fast", "headers": bearer(ALICE)}, ("interactive", None), "priority"),
        ({"service_tier": "auto", "headers": bearer(BOB)}, ("batch", None), "flex"),
        ({"service_tier": "flex", "headers": urgently}, ("interactive", None), "priority"),
        ({"service_tier": "flex", "model": "urgent"}, ("batch", None), "flex"),
        ({"service_tier": "auto", "model": "urgent", "headers": bearer(ALICE)}, ("interactive", None), "priority"),
    ]
    models = {"codex-5": {}, "urgent": {"priority": "interactive"}}
    async with running_service(tmp_path, keys=keys, models=models) as api:
        assert await classes(api, log, *(fields for fields, _, _ in asked)) == [got for _, got, _ in asked]
        for fields, _, tier in asked:
            whole, streamed = await api.chat(**fields), await api.chat(**fields, stream=True)
            assert whole.json.get("service_tier") == tier
            assert {chunk.get("service_tier") for chunk in streamed.stream.chunks} == {tier}
        refused = await api.chat(service_tier="gold")
        assert (refused.status, refused.error["param"]) == (400, "service_tier")


async def test_a_routes_class_is_for_who_asks_for_none_and_never_above_the_keys(tmp_path: Path, log: Log) -> None:
    models = {"quick": {"priority": "interactive"}, "slow": {"priority": "batch"}}
    keys = [key("alice", ALICE, max_priority="interactive")]
    async with running_service(tmp_path, models=models, keys=keys) as api:
        got = await classes(
            api,
            log,
            {"model": "slow"},
            {"model": "slow", "headers": {"x-priority": "standard"}},
            {"model": "quick"},
            {"model": "quick", "headers": bearer(ALICE)},
        )
    assert got == [("batch", None), ("standard", None), ("standard", None), ("interactive", None)]


async def test_waiting_jobs_are_counted_by_class(tmp_path: Path) -> None:
    async with running_service(tmp_path, profile={"slots": 1, "queue_budget_s": 60}) as api:
        running = await api.begin(SLOW)
        async with asyncio.TaskGroup() as tasks:
            for name in ("batch", "standard", "batch"):
                tasks.create_task(api.chat(headers={"x-priority": name}))
            await until(lambda: api.waiting == 3)
            waiting = {
                name: api.counted("jobs_waiting", profile="default", priority=name)
                for name in ("interactive", "standard", "batch")
            }
            assert api.counted("oldest_wait_seconds", profile="default") > 0
            running.close()
    assert waiting == {"interactive": 0, "standard": 1, "batch": 2}


@pytest.mark.parametrize("header", ["x-priority", "x-request-deadline-ms"])
async def test_a_header_that_makes_no_sense_is_a_400_that_names_it_before_the_body(
    api: RunningService, header: str
) -> None:
    for data in (b"not JSON", b'{"model": "codex-5"}'):
        refused = await api.post(data, headers={header: "soon"})
        assert (refused.status, refused.code, refused.error["param"]) == (400, "invalid_request_error", header)
    wrong_key = await api.post(b"", headers={header: "soon", "Authorization": "Bearer wrong"})
    assert wrong_key.status == 401


# --- deadlines ---------------------------------------------------------------------------------------------------


async def overdue(api: RunningService, **options: Any) -> float:
    """After how long a request that would take for ever is told that its deadline has passed."""
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    answer = await api.chat(SLOW, **options)
    assert (answer.status, answer.code) == (504, "deadline_exceeded")
    assert answer.error["type"] == "timeout_error"
    await api.until_at_rest()
    return loop.time() - began_at


async def test_a_turn_is_interrupted_at_the_clients_deadline(api: RunningService) -> None:
    assert 0.3 <= await overdue(api, headers={"x-request-deadline-ms": "300"}) < 5
    assert api.counted("turns_total", profile="default", outcome="deadline_exceeded") == 1


async def test_a_stream_ends_at_the_clients_deadline_with_an_error(api: RunningService) -> None:
    answer = await api.chat(SLOW, stream=True, headers={"x-request-deadline-ms": "300"})
    assert answer.status == 200
    assert [error["code"] for error in answer.stream.errors] == ["deadline_exceeded"]
    assert (answer.stream.finishes, answer.stream.is_done) == ([], False)
    await api.until_at_rest()


async def test_the_shortest_of_all_deadlines_holds_with_and_without_the_header(tmp_path: Path) -> None:
    models = {"m": {"deadline_s": 0.3}, "free": {}}
    async with running_service(tmp_path, models=models, keys=[key("alice", ALICE, max_deadline_s=0.2)]) as api:
        assert 0.3 <= await overdue(api, model="m") < 5
        assert 0.3 <= await overdue(api, model="m", headers={"x-request-deadline-ms": "60000"}) < 5
        assert 0.1 <= await overdue(api, model="m", headers={"x-request-deadline-ms": "100"}) < 5
        assert 0.2 <= await overdue(api, model="free", headers=bearer(ALICE)) < 5
        assert 0.2 <= await overdue(api, model="m", headers=bearer(ALICE)) < 5
        assert (await api.chat(model="free", headers={"x-request-deadline-ms": "60000"})).status == 200


async def test_a_job_does_not_wait_beyond_its_deadline(tmp_path: Path) -> None:
    async with running_service(tmp_path, profile={"slots": 1, "queue_budget_s": 60}) as api:
        running = await api.begin(SLOW)
        refused = await api.chat(headers={"x-request-deadline-ms": "200"})
        assert refused.status in (503, 504)
        assert api.waiting == 0
        running.close()
        await api.until_at_rest()


async def test_a_route_may_have_a_shorter_queue_budget_and_a_smaller_prompt(tmp_path: Path) -> None:
    models = {"m": {"queue_budget_s": 0.1, "max_prompt_chars": 5}, "free": {}}
    async with running_service(tmp_path, models=models, profile={"slots": 1, "queue_budget_s": 60}) as api:
        refused = await api.chat("x" * 6, model="m")
        assert (refused.status, refused.code) == (403, "context_length_exceeded")
        assert (await api.chat("x" * 6, model="free")).status == 200
        running = await api.begin(SLOW, model="free")
        late = await api.chat("x", model="m")
        assert (late.status, late.code) in ((503, "queue_timeout"), (503, "queue_wait_too_long"))
        running.close()
        await api.until_at_rest()


# --- what a profile or a model cannot do -------------------------------------------------------------------------


async def test_a_strict_profile_refuses_what_would_have_no_effect(tmp_path: Path) -> None:
    async with running_service(tmp_path, profile={"reject_unsupported": True}) as api:
        assert (await api.chat()).status == 200
        answer = await api.chat(temperature=0.5)
        assert (answer.status, answer.code, answer.error["param"]) == (400, "unsupported_parameter", "temperature")
        assert (await api.chat(temperature=7)).code == "invalid_request_error", "what is wrong is wrong first"


async def test_an_effort_that_the_model_does_not_know_is_refused(tmp_path: Path) -> None:
    models = {"m": {"efforts": ["low", "high"], "effort_suffixes": True}}
    async with running_service(tmp_path, models=models) as api:
        assert (await api.chat(model="m", reasoning_effort="high")).status == 200
        assert (await api.chat(model="m-low")).status == 200
        answer = await api.chat(model="m", reasoning_effort="xhigh")
        assert (answer.status, answer.error["param"]) == (400, "reasoning.effort")
        assert answer.error["message"] == "reasoning.effort must be one of: low, high"
        assert (await api.chat(model="m-medium")).code == "model_not_found"


async def test_a_history_goes_to_each_profile_in_the_form_that_suits_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": HEARD},
    ]
    models = {"m": {"fallback": ["spare"]}}
    async with with_spare(tmp_path, profile={"prompt": "transcript"}, models=models) as api:
        assert (await api.chat(model="m", messages=messages)).text == "[user] one\n[assistant] two\n[user]"
        pool = api.service.pool
        genuine = pool.outlook
        down = Outlook(0, 1, 3.0)
        monkeypatch.setattr(pool, "free", lambda name: 0 if name == "default" else 1)
        monkeypatch.setattr(pool, "outlook", lambda name: down if name == "default" else genuine(name))
        assert (await api.chat(model="m", messages=messages)).text == ""

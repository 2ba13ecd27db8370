"""What clients notice of a reload: the new configuration from the next request on, and nothing of the change itself."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

from loadtest.fake_app_server import write_launcher
from service.lifecycle import serve
from tests.service.conftest import Log
from tests.support.services import (
    ENVIRON,
    RunningService,
    Stream,
    key,
    running_service,
    scripted,
    settings,
    until,
)

SLOW = scripted(chunks=["tick "], repeat=100_000, interval_s=0.01)
A_WHILE = scripted(chunks=["tick "], repeat=60, interval_s=0.01)
ALICE, BOB = "alices-key-0123456789-abcdef", "bobs-key-0123456789-abcdefgh"


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


async def names(api: RunningService) -> list[str]:
    return [model["id"] for model in (await api.get("/v1/models")).json["data"]]


async def test_the_next_request_sees_the_new_models_and_a_running_one_keeps_its_own(api: RunningService) -> None:
    running = await api.begin(A_WHILE, model="codex-5-high")
    await api.reload(models={"new": {}})
    assert await names(api) == ["new"]
    assert (await api.chat(model="new")).status == 200
    assert (await api.chat(model="codex-5-high")).code == "model_not_found"
    assert (await running.read()).endswith(b"data: [DONE]\n\n")
    await api.until_at_rest()


async def test_keys_come_go_and_keep_their_counts(tmp_path: Path) -> None:
    async with running_service(tmp_path, keys=[key("alice", ALICE, requests_per_minute=1)]) as api:
        running = await api.begin(A_WHILE, key=ALICE)
        await api.reload(keys=[key("alice", ALICE, requests_per_minute=1), key("bob", BOB)])
        assert (await api.chat(headers=bearer(ALICE))).code == "rate_limited"
        assert (await api.chat(headers=bearer(BOB))).status == 200
        await api.reload(keys=[key("bob", BOB)])
        assert (await api.chat(headers=bearer(ALICE))).status == 401
        assert (await running.read()).endswith(b"data: [DONE]\n\n"), "who was let in may finish"


async def test_limits_of_the_server_and_of_queues_change(api: RunningService) -> None:
    assert (await api.chat("x" * 11)).status == 200
    await api.reload(server={"max_prompt_chars": 10, "protect_models": True})
    assert (await api.chat("x" * 11)).status == 403
    assert (await api.get("/v1/models")).status == 401
    await api.reload(profile={"seats_limit": 1})
    assert (await api.get("/v1/models")).status == 200
    assert api.counted("seats_limit", profile="default") == 1
    running = await api.begin(SLOW)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(api.chat())
        await until(lambda: api.waiting == 1)
        assert (api.running, api.seats) == (1, 4)
        running.close()
    assert waiting.result().status == 200


async def test_what_is_wrong_changes_nothing_for_anybody(api: RunningService, log: Log) -> None:
    before = await names(api)
    await api.reload(models={"new": {}}, server={"port": 1})
    assert await names(api) == before
    assert (await api.chat()).status == 200
    assert log.of("configuration.refused")[0]["reason"] == "server.port: only a restart can change this"
    assert api.counted("config_reload_failures_total") == 1
    assert api.counted("config_generation") == 1


async def test_workers_are_replaced_one_by_one_and_no_answer_is_lost(tmp_path: Path, log: Log) -> None:
    async with running_service(tmp_path, profile={"workers": 2}) as api:
        before = api.worker_pids()
        asked: list[asyncio.Task[Any]] = []
        async with asyncio.TaskGroup() as tasks:
            asked += [tasks.create_task(api.chat(A_WHILE)) for _ in range(4)]
            await until(lambda: api.running == 4)
            await api.reload(profile={"workers": 2, "upstream_idle_s": 77})
            asked += [tasks.create_task(api.chat(A_WHILE)) for _ in range(4)]
        assert {task.result().status for task in asked} == {200}
        await until(lambda: not before & api.worker_pids() and api.ready_workers == 2)
        assert log.of("configuration.reloaded")[0]["replaced"] == ["default"]
        assert api.counted("turns_total", profile="default", outcome="stop") == 8
        await api.until_at_rest()


async def test_while_a_new_cli_rolls_in_each_answer_says_which_version_gave_it(tmp_path: Path) -> None:
    newer = write_launcher(tmp_path / "newer", "--version-string", "0.169.0")
    async with running_service(tmp_path, profile={"workers": 1}) as api:
        assert (await api.chat()).json["system_fingerprint"] == "fp_codex_0.163.0"
        running = await api.begin(A_WHILE)
        await api.reload(profile={"workers": 1, "codex_bin": newer})
        await until(lambda: api.counted("workers", profile="default", state="retiring") == 1)
        assert (await api.chat()).json["system_fingerprint"] == "fp_codex_0.169.0"
        said = Stream.of(await running.read())
        assert {chunk["system_fingerprint"] for chunk in said.chunks} == {"fp_codex_0.163.0"}
        assert said.is_done
        await api.until_at_rest()


async def test_a_new_cli_that_does_not_boot_leaves_the_old_one_in_service(tmp_path: Path) -> None:
    broken = write_launcher(tmp_path / "broken", "--exit-at-once", "1")
    async with running_service(tmp_path, profile={"workers": 2}) as api:
        before = api.worker_pids()
        await api.reload(profile={"workers": 2, "codex_bin": broken})
        await until(lambda: api.counted("worker_boots_total", profile="default", result="failed") >= 2)
        assert before <= api.worker_pids()
        assert (await api.get("/readyz")).status == 200
        assert [(await api.chat()).status for _ in range(4)] == [200] * 4
        await api.reload(profile={"workers": 2})
        await until(lambda: api.ready_workers == 2 and not before & api.worker_pids())


async def test_a_profile_comes_and_goes_with_its_workers(tmp_path: Path) -> None:
    other = {"codex_bin": tmp_path / "codex", "anonymous": True, "workers": 1, "slots": 1, "probation_s": 0}
    both = {"others": {"other": other}, "models": {"m": {}, "n": {"profile": "other"}}}
    async with running_service(tmp_path, models={"m": {}}) as api:
        await api.reload(**both)
        await until(lambda: api.ready_workers_of("other") == 1)
        running = await api.begin(A_WHILE, model="n")
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(api.chat(scripted(text="in time"), model="n"))
            await until(lambda: api.waiting == 1)
            await api.reload(models={"m": {}})
            assert (await api.chat(model="n")).code == "model_not_found"
            assert (await running.read()).endswith(b"data: [DONE]\n\n")
        assert waiting.result().text == "in time", "who waited for it still got it"
        await until(lambda: len(api.worker_pids()) == 1)
        assert {row.profile for row in api.service.scheduler.snapshot()} == {"default"}
        await api.until_at_rest()


async def test_reloads_under_load_fail_nobody_who_asks_for_what_there_is(tmp_path: Path) -> None:
    other = {"codex_bin": tmp_path / "codex", "anonymous": True, "workers": 1, "slots": 2, "probation_s": 0}
    both = {"others": {"other": other}, "models": {"m": {"fallback": ["other"]}, "n": {"profile": "other"}}}
    async with running_service(tmp_path, models={"m": {}}) as api:
        seen: dict[str, set[int]] = {"m": set(), "n": set()}
        is_over = False

        async def ask(model: str) -> None:
            while not is_over:
                answer = await api.chat(scripted(chunks=["tick "], repeat=5, interval_s=0.002), model=model)
                seen[model].add(answer.status)
                assert answer.status in (200, 404), answer.raw

        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(ask("m"))
                tasks.create_task(ask("n"))
            for number in range(20):
                has_other = number % 2 == 1
                await api.reload(**(both if has_other else {"models": {"m": {}}}))
                seen["n"].clear()
                awaited = 200 if has_other else 404
                await until(partial(seen["n"].__contains__, awaited))
            is_over = True
        assert seen["m"] == {200}
        assert api.counted("config_generation") == 21
        await api.until_at_rest()


# --- the signal --------------------------------------------------------------------------------------------------


async def test_sighup_takes_the_next_configuration_and_sigterm_still_stops(tmp_path: Path, log: Log) -> None:
    new, wrong = settings(tmp_path, models={"new": {}}), settings(tmp_path, server={"host": "::1"})
    coming = iter([new, wrong])

    async def ask(base_url: str) -> bool:
        os.kill(os.getpid(), signal.SIGHUP)
        return base_url.startswith("http://127.0.0.1:")

    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(serve(settings(tmp_path), ENVIRON, ask, lambda: next(coming)))
        await until(lambda: log.of("configuration.reloaded"))
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: log.of("configuration.refused"))
        assert not serving.done()
        os.kill(os.getpid(), signal.SIGTERM)
    assert "models.new" in log.of("configuration.reloaded")[0]["changed"]
    assert log.of("service.stopped")

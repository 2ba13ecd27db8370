"""Turns on the real CLI: usage, ends, interrupts, parallel streams, and the loss of a worker."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtest.model_standin import ModelStandin
from pool.events import Fault, FaultKind, Finish, ToolCall, ToolSpec, TurnRequest, Usage
from pool.health import ProbeLimits
from pool.profile import Credentials, Profile
from pool.state import PROBATION_SEATS
from pool.worker_state import WorkerState
from tests.support.pools import WAIT_S, RunningPool, asking, running_pool, script, user
from tests.support.services import until


async def test_usage_is_what_the_provider_counted(real: RunningPool) -> None:
    usage = {"input_tokens": 100, "cached_tokens": 40, "output_tokens": 20, "reasoning_tokens": 5}
    _, end = await real.turn(asking(script(text="x", usage=usage)))
    assert end.usage == Usage(100, 40, 0, 20, 5)


@pytest.mark.parametrize(
    ("reason", "finish"), [("max_output_tokens", Finish.LENGTH), ("content_filter", Finish.CONTENT_FILTER)]
)
async def test_an_answer_that_was_cut_off_is_an_answer(real: RunningPool, reason: str, finish: Finish) -> None:
    sink, end = await real.turn(asking(script(text="cut", incomplete=reason)))
    assert (sink.text, end.finish, end.fault) == ("cut", finish, None)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"status": 400, "error": {"message": "bad", "code": "invalid_value"}}, FaultKind.BAD_REQUEST),
        ({"status": 400, "error": {"message": "long", "code": "context_length_exceeded"}}, FaultKind.CONTEXT_LENGTH),
        ({"status": 401, "error": {"message": "no", "code": "invalid_api_key"}}, FaultKind.CREDENTIALS),
        ({"status": 404, "error": {"message": "no such model", "code": "model_not_found"}}, FaultKind.MODEL_NOT_FOUND),
        ({"status": 404, "error": {"message": "no such page"}}, FaultKind.UPSTREAM),
        ({"status": 429, "error": {"message": "slow", "code": "rate_limit_exceeded"}}, FaultKind.RATE_LIMIT),
        ({"status": 429, "error": {"message": "none", "code": "insufficient_quota"}}, FaultKind.QUOTA),
        ({"status": 500, "error": {"message": "oops", "code": "server_error"}}, FaultKind.UPSTREAM),
        ({"failed": {"code": "rate_limit_exceeded", "message": "try later"}}, FaultKind.RATE_LIMIT),
        ({"failed": {"code": "context_length_exceeded", "message": "long"}}, FaultKind.CONTEXT_LENGTH),
        ({"failed": {"code": "server_is_overloaded", "message": "full"}}, FaultKind.OVERLOADED),
        ({"failed": {"code": "server_error", "message": "oops"}}, FaultKind.UPSTREAM),
        ({"disconnect": "first"}, FaultKind.UPSTREAM),
        ({"text": "some text", "disconnect": "middle"}, FaultKind.UPSTREAM),
    ],
)
async def test_a_failure_of_the_provider_has_its_kind(
    real: RunningPool, fields: dict[str, Any], kind: FaultKind
) -> None:
    _, end = await real.turn(asking(script(**fields)))
    assert end.fault is not None
    assert end.fault.kind is kind, end.fault
    assert end.finish is None


async def test_a_provider_that_cannot_be_reached_is_told_at_once(profile: Profile, tmp_path: Path) -> None:
    nowhere = replace(profile, base_url="http://127.0.0.1:9/v1")
    async with running_pool(nowhere, tmp_path) as real:
        async with asyncio.timeout(5):
            _, end = await real.turn(asking("Hi."))
    assert end.fault is not None
    assert end.fault.kind is FaultKind.UPSTREAM_UNREACHABLE


async def test_a_worker_without_a_key_says_so(profile: Profile, standin: ModelStandin, tmp_path: Path) -> None:
    async with running_pool(replace(profile, credentials=Credentials()), tmp_path) as real:
        _, end = await real.turn(asking(script(text="fine")))
    (request,) = standin.requests
    assert "authorization" not in request.headers
    assert end.finish is Finish.STOP


async def test_tool_calls_end_the_turn_in_upstream_order_and_nothing_more_is_asked(
    real: RunningPool, standin: ModelStandin
) -> None:
    tool = ToolSpec("look", "Looks.", {"type": "object", "properties": {"at": {"type": "string"}}})
    calls = [{"name": "look", "arguments": '{"at":  "a"}'}, {"name": "look", "arguments": '{"at": "b"}'}]
    request = TurnRequest("gpt-5.5", "", (user(script(tool_calls=calls)),), (tool,))
    sink, end = await real.turn(request)
    assert end.finish is Finish.TOOL_CALLS
    assert [(call.name, call.arguments) for call in sink.calls] == [
        ("look", '{"at":  "a"}'),
        ("look", '{"at": "b"}'),
    ]
    assert all(isinstance(event, ToolCall) for event in sink.events)
    assert end.usage is not None
    await real.until_free(real.profile.slots)
    assert len(standin.requests) == 1


async def test_one_of_eight_turns_is_interrupted_and_seven_go_on(real: RunningPool) -> None:
    slow = script(chunks=["tick "], repeat=40, interval_s=0.02)
    turns = [real.start(asking(slow)) for _ in range(8)]
    victim_lease, victim = turns[3]
    async with asyncio.timeout(WAIT_S):
        await victim.first.wait()
        real.pool.interrupt(victim_lease)
        end = await victim.ended
        others = [(sink, await sink.ended) for lease, sink in turns if lease is not victim_lease]
    assert end.finish is Finish.INTERRUPTED
    assert len(victim.text) < len("tick " * 40)
    for sink, other in others:
        assert other.finish is Finish.STOP
        assert sink.text == "tick " * 40
    await real.until_free(8)


async def test_sixteen_parallel_streams_arrive_in_order_without_cross_talk(profile: Profile, tmp_path: Path) -> None:
    async with running_pool(replace(profile, workers=2), tmp_path) as real:
        turns = []
        for number in range(16):
            chunks = [f"{number}:{position} " for position in range(60)]
            turns.append(real.start(asking(script(chunks=chunks, interval_s=0.002)))[1])
        async with asyncio.timeout(WAIT_S):
            ends = [await sink.ended for sink in turns]
    assert all(end.finish is Finish.STOP for end in ends)
    for number, sink in enumerate(turns):
        assert sink.text == "".join(f"{number}:{position} " for position in range(60))


async def test_a_killed_worker_loses_its_turns_and_is_replaced(profile: Profile, tmp_path: Path) -> None:
    async with running_pool(replace(profile, workers=2, slots=1), tmp_path) as real:
        lease, lost = real.start(asking(script(text="never more", hang="middle")))
        _, kept = real.start(asking(script(text="slow", delay_s=1.0)))
        async with asyncio.timeout(WAIT_S):
            await lost.first.wait()
            pid = real.pool._workers[lease.worker]._child.pid  # type: ignore[union-attr]
            os.kill(pid, signal.SIGKILL)
            end = await lost.ended
            kept_end = await kept.ended
        assert end.fault == Fault(FaultKind.WORKER_LOST, "it was killed by signal 9")
        assert kept_end.finish is Finish.STOP
        assert kept.text == "slow"
        await real.until_free(2)
        sink, end = await real.turn(asking(script(text="back")))
        assert sink.text == "back"
        assert [exit_.code for exit_ in real.observer.exits] == [-9]


async def test_both_probes_are_questions_that_the_real_worker_answers(profile: Profile, tmp_path: Path) -> None:
    quick = replace(profile, probes=ProbeLimits(idle_s=0.1, timeout_s=2.0, fast_s=0.1))
    async with running_pool(quick, tmp_path) as real, asyncio.timeout(WAIT_S):
        (worker,) = real.pool._workers.values()
        before = worker.session.counters["frames"]
        await until(lambda: worker.session.counters["frames"] >= before + 6)
        assert worker.session.counters["probe_missed"] == worker.session.counters["unknown"] == 0
        sink, _ = await real.turn(asking(script(text="still here")))
        assert sink.text == "still here"
        assert len(real.observer.booted) == 1


async def test_nothing_of_finished_turns_stays_loaded(real: RunningPool) -> None:
    for _ in range(5):
        await real.turn(asking(script(text="x")))
    await real.until_free(real.profile.slots)
    assert real.observer.frames.get("malformed", 0) == real.observer.frames.get("garbage", 0) == 0


async def test_a_real_worker_that_is_frozen_for_a_while_is_suspect_and_comes_back(
    profile: Profile, tmp_path: Path
) -> None:
    quick = replace(profile, probes=ProbeLimits(idle_s=0.2, timeout_s=0.5, fast_s=0.2, hung_s=15.0))
    async with running_pool(quick, tmp_path) as real, asyncio.timeout(WAIT_S):
        sink = real.start(asking(script(chunks=["tick "], repeat=40, interval_s=0.05)))[1]
        await sink.first.wait()
        (pid,) = real.worker_pids()
        os.killpg(pid, signal.SIGSTOP)
        await until(lambda: real.pool.snapshot()[0].workers[WorkerState.SUSPECT] == 1)
        os.killpg(pid, signal.SIGCONT)
        end = await sink.ended
        assert (end.finish, sink.text) == (Finish.STOP, "tick " * 40)
        await real.until_free(real.profile.slots)


async def test_a_new_real_worker_gets_all_its_seats_with_the_first_word(profile: Profile, tmp_path: Path) -> None:
    trial = replace(profile, probation_s=3600.0)
    async with running_pool(trial, tmp_path, booted=0) as real:
        await real.until_free(PROBATION_SEATS)
        assert real.pool.free("real") == PROBATION_SEATS
        sink, _ = await real.turn(asking(script(text="a word")))
        assert sink.text == "a word"
        await real.until_free(real.profile.slots)

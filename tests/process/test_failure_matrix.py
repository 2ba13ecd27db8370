"""Every failure that is to be expected, with real processes, the pool and the scheduler above it.

Each test says when the failure was noticed, what its client saw, and what the other turns on that worker saw. The
table is docs/failure-matrix.md. Limits and intervals are shorter than in life.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from loadtest.fake_app_server import write_launcher
from loadtest.fake_catalogue import catalogue
from pool.health import ProbeLimits
from pool.profile import RetireLimits
from pool.transport import Child
from pool.turn import TurnLimits
from pool.worker_state import WorkerState
from scheduler.again import BASE_S
from scheduler.model import NotReady, QueueFull, QueuePolicy, WaitTooLong
from tests.process.stage import FIRST, LATE, SLOTS, TALK, Stage, seen, staged, worker_of
from tests.support.services import until

AT_ONCE_S = 0.5
"""What a busy machine may need to run a callback."""
SOON_S = 3.0
"""And to boot a worker besides."""

LIMITS = TurnLimits(start_s=0.3, first_event_s=0.3, idle_s=0.3, total_s=10.0, interrupt_s=0.2)
PROBES = ProbeLimits(idle_s=0.2, timeout_s=0.2, fast_s=0.1, hung_s=0.4)
SUSPECT_S = PROBES.idle_s + PROBES.timeout_s + AT_ONCE_S
VERDICT_S = SUSPECT_S + PROBES.hung_s

Staged = Callable[..., AbstractAsyncContextManager[Stage]]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Staged:
    """`staged` in a directory of its own; ticks and the waits before boots are shorter than in life."""
    monkeypatch.setattr("pool.binary.bundled_models", lambda _binary, _scratch: catalogue()["models"])
    monkeypatch.setattr("pool.pool.TICK_S", 0.02)
    monkeypatch.setattr("pool.backoff.BASE_S", 0.02)
    return partial(staged, tmp_path)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that do not go by themselves are killed soon."""
    monkeypatch.setattr(Child.stop, "__kwdefaults__", {"close_s": 0.1, "term_s": 0.1, "kill_s": 5.0})


# --- the process ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "flags"),
    [({"exit": 3}, ()), ({"kill_self": True}, ()), ({"stdout_eof": True}, ()), ({"exit": 3}, ("--hold-pipe",))],
    ids=["exit", "sigkill", "stdout-eof", "child-holds-the-pipe"],
)
async def test_of_a_worker_that_ends_only_turns_that_have_spoken_are_lost(
    stage: Staged, fault: dict[str, Any], flags: tuple[str, ...]
) -> None:
    async with stage(*flags) as on:
        company = await on.company()
        victim = on.ask(chunks=["before", "after"], **fault)
        struck = worker_of(victim)
        fault_at = await on.until_spoken(victim)
        assert (await on.moved(struck, WorkerState.STOPPING)).at - fault_at < AT_ONCE_S
        assert await on.assert_cut(victim, "worker_lost") == "before"
        assert on.watch.settled[victim.job.id] - fault_at < 2 * AT_ONCE_S
        beside = company.pop(struck)
        await on.assert_talk_lost(beside.talker)
        await on.assert_moved(LATE, beside.silent, "worker_lost")
        for other, turns in company.items():
            await on.assert_unharmed(turns, on=other)
        await on.until_at_rest()


async def test_a_job_that_ends_two_workers_is_not_given_a_third(stage: Staged) -> None:
    async with stage(workers=3) as on:
        company = await on.company()
        asked_at = on.now
        victim = on.ask(text="never said", exit=3, at="first")
        first = worker_of(victim)
        assert (await on.returned(victim)).at - asked_at < AT_ONCE_S
        assert await seen(victim) == ("", "worker_lost"), "those beside it may as well have been the cause"
        second = worker_of(victim)
        assert second != first
        assert on.watch.settled[victim.job.id] - asked_at < 2 * AT_ONCE_S
        for lost in (company.pop(first), company.pop(second)):
            await on.assert_talk_lost(lost.talker)
            await on.assert_moved(LATE, lost.silent, "worker_lost")
        for third, turns in company.items():
            await on.assert_unharmed(turns, on=third)
        await on.until_at_rest()


async def test_a_job_that_ends_two_workers_with_nobody_beside_it_is_found_guilty(stage: Staged) -> None:
    async with stage(workers=3) as on:
        asked_at = on.now
        victim = on.ask(text="never said", exit=3, at="first")
        first = worker_of(victim)
        assert (await on.returned(victim)).at - asked_at < AT_ONCE_S
        assert await seen(victim) == ("", "CrashesWorker")
        assert worker_of(victim) != first
        assert on.watch.settled[victim.job.id] - asked_at < 2 * AT_ONCE_S
        await on.until_at_rest()


# --- nothing comes any more --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [{"stop_self": True}, {"half_line": True}], ids=["frozen", "half-a-line"])
async def test_a_worker_that_freezes_gets_nothing_new_and_is_given_up_when_it_stays_so(
    stage: Staged, impatient: None, fault: dict[str, Any]
) -> None:
    async with stage(probes=PROBES) as on:
        company = await on.company()
        victim = on.ask(chunks=["before", "after"], **fault)
        struck = worker_of(victim)
        fault_at = await on.until_spoken(victim)
        suspect = await on.moved(struck, WorkerState.SUSPECT)
        assert suspect.at - fault_at < SUSPECT_S
        new = on.ask(text="elsewhere")
        verdict = await on.moved(struck, WorkerState.QUARANTINED)
        assert PROBES.hung_s <= verdict.at - suspect.at + 0.05
        assert verdict.at - fault_at < VERDICT_S
        assert await on.assert_cut(victim, "worker_lost") == "before"
        assert on.watch.settled[victim.job.id] - fault_at < VERDICT_S
        await on.assert_whole("elsewhere", new)
        assert worker_of(new) != struck
        beside = company.pop(struck)
        await on.assert_talk_lost(beside.talker)
        await on.assert_moved(LATE, beside.silent, "worker_lost")
        for other, turns in company.items():
            await on.assert_unharmed(turns, on=other)
        await on.until_at_rest()


async def test_a_handshake_that_is_not_answered_costs_no_more_than_the_seats_of_that_worker(stage: Staged) -> None:
    async with stage("--initialize", "hang", others=(), booted=1, init_timeout_s=0.5) as on:
        began_at = on.now
        turns = [on.talk() for _ in range(SLOTS)]
        waiting = on.ask(text="after a while")
        assert waiting.lease is None
        stopping = await on.moved(FIRST, WorkerState.STOPPING)
        assert stopping.reason == "initialize was not answered"
        assert stopping.at - began_at < 0.5 + AT_ONCE_S
        await on.assert_whole("after a while", waiting)
        await on.assert_whole(TALK, *turns, on=FIRST._replace(slot=1))
        assert on.watch.settled[waiting.job.id] - began_at < SOON_S
        await on.until_at_rest()


async def test_a_worker_on_which_turns_cannot_begin_loses_those_unseen_and_runs_the_others_on(stage: Staged) -> None:
    async with stage("--lose-reply", "thread/start:2", others=(), limits=replace(LIMITS, first_event_s=5.0)) as on:
        asked_at = on.now
        turns = [on.talk() for _ in range(6)]
        silent = [on.ask(text="at last", delay_s=1.0) for _ in range(2)]
        *lost, neighbour = [turn for turn in turns if worker_of(turn) == FIRST]
        struck, spared = sorted(silent, key=worker_of)
        verdict = await on.moved(FIRST, WorkerState.QUARANTINED)
        assert verdict.reason == "turns cannot begin on it"
        assert verdict.at - asked_at < LIMITS.start_s + AT_ONCE_S
        for ticket in lost:
            assert (await on.returned(ticket)).at - asked_at < LIMITS.start_s + AT_ONCE_S
            await on.assert_moved(TALK, ticket, "start_timeout")
        await on.assert_moved("at last", struck, "quarantined")
        await on.assert_whole(TALK, neighbour, on=FIRST)
        await on.assert_whole("at last", spared)
        await on.assert_whole(TALK, *(turn for turn in turns if turn not in (*lost, neighbour)))
        assert (await on.moved(FIRST, WorkerState.STOPPING)).at >= on.watch.settled[neighbour.job.id]
        await on.until_at_rest()


@pytest.mark.parametrize("method", ["thread/start", "thread/inject_items"])
async def test_a_lost_answer_costs_its_client_a_moment_and_nobody_anything_else(stage: Staged, method: str) -> None:
    limits = replace(LIMITS, first_event_s=5.0)
    async with stage("--lose-reply", f"{method}:1", others=(), limits=limits) as on:
        asked_at = on.now
        both = [on.ask(text="all the same") for _ in range(2)]
        victim, spared = sorted(both, key=worker_of)
        beside = [on.talk() for _ in range(2)]
        assert {worker_of(ticket) for ticket in beside} == {worker_of(ticket) for ticket in both}
        assert (await on.returned(victim)).at - asked_at < LIMITS.start_s + AT_ONCE_S
        await on.assert_moved("all the same", victim, "start_timeout")
        await on.assert_whole("all the same", spared)
        await on.assert_whole(TALK, *beside)
        await on.until_at_rest()
        assert on.ready() == [FIRST, FIRST._replace(slot=1)]


@pytest.mark.parametrize(
    ("silence", "kind"),
    [({"hang": "first"}, "first_event_timeout"), ({"chunks": ["before", "after"], "hang": "middle"}, "idle_timeout")],
    ids=["after-its-start", "after-a-word"],
)
async def test_a_turn_that_falls_silent_is_interrupted_alone(stage: Staged, silence: dict[str, Any], kind: str) -> None:
    async with stage(limits=replace(LIMITS, first_event_s=0.7, idle_s=0.7)) as on:
        company = await on.company()
        asked_at = on.now
        victim = on.ask(**silence)
        first = worker_of(victim)
        text, end = await seen(victim)
        assert (text, end) == ("before" if "chunks" in silence else "", kind)
        if "chunks" in silence:
            assert victim.attempts == 1
            assert on.watch.settled[victim.job.id] - asked_at < 0.7 + AT_ONCE_S
        else:
            assert (on.returns_of(victim)[0].reason, victim.attempts) == (kind, 2)
            assert on.returns_of(victim)[0].at - asked_at < 0.7 + AT_ONCE_S
            assert worker_of(victim) != first
        for worker, turns in company.items():
            await on.assert_unharmed(turns, on=worker)
        await on.until_at_rest()
        assert on.ready() == sorted(company)


async def test_after_an_ignored_interrupt_the_seat_stays_taken_and_the_worker_is_replaced_in_peace(
    stage: Staged,
) -> None:
    async with stage(limits=replace(LIMITS, first_event_s=5.0)) as on:
        company = await on.company()
        victim = on.ask(deadline_s=0.2, chunks=["tick "], repeat=100_000, interval_s=0.01, ignore_interrupt=True)
        struck, asked_at = worker_of(victim), on.now
        assert (await on.assert_cut(victim, "Overdue")).startswith("tick ")
        assert on.watch.settled[victim.job.id] - asked_at < 0.2 + AT_ONCE_S
        retiring = await on.moved(struck, WorkerState.RETIRING)
        assert retiring.reason == "it ignored an interrupt"
        assert retiring.at - asked_at < 0.2 + LIMITS.interrupt_s + SOON_S
        assert len(on.ready()) == 2, "its successor serves already"
        for worker, turns in company.items():
            await on.assert_unharmed(turns, on=worker)
        await on.until_at_rest()


# --- refusals and failures that are told -------------------------------------------------------------------------


async def test_a_worker_that_is_overloaded_is_spared_and_its_job_runs_elsewhere(stage: Staged) -> None:
    async with stage("--overloaded", "turn/start:1", others=()) as on:
        asked_at = on.now
        turns = [on.talk() for _ in range(4)]
        victim = next(turn for turn in turns if worker_of(turn) == FIRST)
        assert (await on.returned(victim)).at - asked_at < AT_ONCE_S
        assert on.seats == SLOTS, "it gets nothing new"
        await on.assert_moved(TALK, victim, "worker_overloaded")
        for ticket in turns:
            if ticket is not victim:
                await on.assert_whole(TALK, ticket)
        await on.until_at_rest()
        assert len(on.ready()) == 2
        assert not on.moves_of(FIRST, WorkerState.SUSPECT)


@pytest.mark.parametrize(
    ("failure", "kind", "within_s"),
    [
        ({"status": 429, "error": {"message": "slow", "code": "rate_limit_exceeded"}}, "rate_limit_exceeded", 0.0),
        ({"status": 500, "error": {"message": "oops", "code": "server_error"}}, "upstream_error", BASE_S),
        ({"failed": "server_is_overloaded"}, "upstream_overloaded", BASE_S),
    ],
    ids=["429", "500", "overloaded"],
)
async def test_what_the_provider_fails_with_is_told_after_another_try_at_most_and_no_worker_is_blamed(
    stage: Staged, failure: dict[str, Any], kind: str, within_s: float
) -> None:
    async with stage() as on:
        company = await on.company()
        for _ in range(12):  # more in a row than a worker may fail by itself
            asked_at = on.now
            victim = on.ask(**failure)
            assert await on.assert_ended(victim, kind) == ""
            assert victim.attempts <= 1 + bool(within_s)
            assert on.watch.settled[victim.job.id] - asked_at < within_s + AT_ONCE_S
        for worker, turns in company.items():
            await on.assert_unharmed(turns, on=worker)
        await on.until_at_rest()
        assert on.ready() == sorted(company)


# --- the pipe carries something else -----------------------------------------------------------------------------


async def test_a_worker_that_talks_nonsense_finishes_what_has_begun_and_nothing_else(stage: Staged) -> None:
    async with stage() as on:
        company = await on.company()
        fault_at = on.now
        for _ in range(3):  # two of them on one of the two workers
            await on.assert_whole("all of it", on.ask(text="all of it", garbage=True))
        (verdict,) = [move for move in on.moves if move.target is WorkerState.QUARANTINED]
        struck = verdict.worker
        assert verdict.reason == "it talks nonsense"
        assert verdict.at - fault_at < 2 * AT_ONCE_S
        beside = company.pop(struck)
        await on.assert_whole(TALK, beside.talker, on=struck)
        await on.assert_moved(LATE, beside.silent, "quarantined")
        for other, turns in company.items():
            await on.assert_unharmed(turns, on=other)
        await on.until_at_rest()
        assert (await on.moved(struck, WorkerState.STOPPING)).at >= on.watch.settled[beside.talker.job.id]


async def test_a_line_over_the_limit_fails_its_own_turn_and_no_other(stage: Staged) -> None:
    async with stage() as on:
        company = await on.company()
        noise = on.ask(chunks=["before", " after"], big_line=33 * 2**20)
        await on.assert_whole("before after", noise)
        assert on.counted("oversized") == 1
        victim = on.ask(messages=["y" * (33 * 2**20)], chunk_size=2**26)
        await until(lambda: on.counted("oversized") > 1)
        skipped_at = on.now
        assert await on.assert_cut(victim, "frame_too_large") == ""
        assert on.watch.settled[victim.job.id] - skipped_at < AT_ONCE_S
        for worker, turns in company.items():
            await on.assert_unharmed(turns, on=worker)
        await on.until_at_rest()


async def test_frames_of_a_turn_that_is_over_reach_nobody(stage: Staged) -> None:
    async with stage(workers=1) as on:
        company = await on.company()
        for number in range(5):
            victim = on.ask(text=f"turn {number}", late_frames=20)
            asked_at = on.now
            await on.assert_whole(f"turn {number}", victim)
            assert on.watch.settled[victim.job.id] - asked_at < AT_ONCE_S
        for worker, turns in company.items():
            await on.assert_unharmed(turns, on=worker)
        await on.until_at_rest()
        assert on.ready() == [FIRST]


# --- workers that have to go -------------------------------------------------------------------------------------


async def test_a_worker_that_has_grown_too_large_serves_until_another_does(
    stage: Staged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pool.pool.MEASURE_EVERY", 1)
    retire = RetireLimits(max_rss_bytes=128 * 2**20)
    async with stage("--grow-bytes", str(256 * 2**20), others=(), retire=retire, workers=1) as on:
        company = await on.company()
        victim = on.ask(text="grown")
        await on.assert_whole("grown", victim, on=FIRST)
        grown_at = on.watch.settled[victim.job.id]
        retiring = await on.moved(FIRST, WorkerState.RETIRING)
        assert retiring.reason == "it is too large"
        assert retiring.at - grown_at < SOON_S
        (ready,) = on.moves_of(FIRST._replace(epoch=2), WorkerState.READY)
        assert ready.at <= retiring.at, "nobody was without a worker"
        await on.assert_unharmed(company[FIRST], on=FIRST)
        await on.until_at_rest()


async def test_a_worker_that_ignores_every_polite_request_is_killed_and_nobody_waits_for_it(
    stage: Staged, impatient: None
) -> None:
    async with stage("--ignore-sigterm", "--ignore-stdin-eof", others=(), workers=1) as on:
        company = await on.company()
        changed_at = on.now
        profile = replace(on.real.profile, upstream_idle_s=77.0)
        on.pool.reconfigure(on.pool.specs([profile]))
        retiring = await on.moved(FIRST, WorkerState.RETIRING)
        assert retiring.at - changed_at < SOON_S
        assert (await on.moved(FIRST._replace(epoch=2), WorkerState.READY)).at <= retiring.at
        await on.assert_whole("served", on.ask(text="served"), on=FIRST._replace(epoch=2))
        await on.assert_unharmed(company[FIRST], on=FIRST)
        stopping = await on.moved(FIRST, WorkerState.STOPPING)
        assert (await on.moved(FIRST, WorkerState.DEAD)).at - stopping.at < 0.2 + AT_ONCE_S
        assert [exit_.code for exit_ in on.real.observer.exits] == [-signal.SIGKILL]
        await on.until_at_rest()


# --- boots that come to nothing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags", [("--exit-at-once", "1"), ("--initialize", "exit")], ids=["exits-at-once", "exits-in-the-handshake"]
)
async def test_of_a_deployment_that_does_not_come_up_nobody_notices(
    stage: Staged, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    async with stage() as on:
        company = await on.company()
        bad = replace(on.real.profile, codex_bin=write_launcher(tmp_path / "bad", *flags))
        changed_at = on.now
        on.pool.reconfigure(on.pool.specs([bad]))
        failed = await on.moved(FIRST._replace(epoch=2), WorkerState.STOPPING)
        assert failed.at - changed_at < SOON_S
        await until(lambda: on.pool.snapshot()[0].is_broken, 10.0)
        (row,) = on.pool.snapshot()
        assert row.boots == 2 + 6, "then one at a time, every five seconds"
        assert row.outdated == 2
        assert on.ready() == sorted(company)
        assert on.seats == 2 * SLOTS
        await on.assert_whole("by an old one", on.ask(text="by an old one"))
        for worker, turns in company.items():
            await on.assert_unharmed(turns, on=worker)


async def test_of_a_deployment_on_which_no_turn_begins_only_canaries_are_lost_and_run_elsewhere(
    stage: Staged, tmp_path: Path
) -> None:
    async with stage(limits=replace(LIMITS, first_event_s=5.0)) as on:
        company = await on.company()
        bad_binary = write_launcher(tmp_path / "bad", "--thread-start", "hang")
        bad = replace(on.real.profile, codex_bin=bad_binary, probation_s=10.0)
        changed_at = on.now
        on.pool.reconfigure(on.pool.specs([bad]))
        canary = FIRST._replace(epoch=2)
        await on.moved(canary, WorkerState.PROBATION)
        asked_at = on.now
        turns = [on.ask(text="all the same", delay_s=0.2) for _ in range(6)]
        lost = [turn for turn in turns if worker_of(turn) == canary]
        assert len(lost) == 2
        verdict = await on.moved(canary, WorkerState.QUARANTINED)
        assert verdict.at - asked_at < LIMITS.start_s + AT_ONCE_S
        assert verdict.at - changed_at < SOON_S
        for ticket in lost:
            await on.assert_moved("all the same", ticket, "start_timeout")
        await on.assert_whole("all the same", *(turn for turn in turns if turn not in lost))
        for worker, beside in company.items():
            await on.assert_unharmed(beside, on=worker)
        assert on.ready() == sorted(company)


async def test_canaries_on_which_no_turn_begins_are_tried_less_and_less_often(stage: Staged, tmp_path: Path) -> None:
    async with stage(limits=LIMITS) as on:
        bad = write_launcher(tmp_path / "bad", "--thread-start", "hang")
        on.pool.reconfigure(on.pool.specs([replace(on.real.profile, codex_bin=bad, probation_s=10.0)]))
        began_at, asked = on.now, []
        while on.now - began_at < 4.0:
            asked.append(on.ask(text="x", delay_s=0.05))
            now = on.now
            await until(lambda: on.now > now + 0.02)  # noqa: B023 - it is awaited at once
        await until(lambda: all(ticket.outcome for ticket in asked))
        assert sum(move.target is WorkerState.QUARANTINED for move in on.moves) <= 7
        ends = Counter([await seen(ticket) for ticket in asked])
        assert ends == {("x", "stop"): len(asked)}


async def test_where_no_worker_comes_up_jobs_are_refused_and_told_when_to_ask_again(stage: Staged) -> None:
    async with stage("--exit-at-once", "1", booted=0) as on:
        began_at = on.now
        waiting = on.ask(text="never run", queue_budget_s=0.2)
        assert await seen(waiting) == ("", "Expired")
        assert on.now - began_at < 0.2 + AT_ONCE_S
        await until(lambda: on.pool.snapshot()[0].is_broken, 10.0)
        with pytest.raises(NotReady) as refused:
            on.ask(text="never run")
        assert 0 < refused.value.retry_after_s <= 5.0


async def test_a_process_limit_keeps_one_worker_out_and_troubles_no_other(stage: Staged) -> None:
    async with stage() as on:
        company = await on.company()
        with no_descriptors():
            struck, fault_at = FIRST, on.signal(FIRST, signal.SIGKILL)
            assert (await on.moved(struck, WorkerState.STOPPING)).at - fault_at < AT_ONCE_S
            beside = company.pop(struck)
            await on.assert_talk_lost(beside.talker)
            await on.assert_moved(LATE, beside.silent, "worker_lost")
            await until(lambda: len(on.real.observer.exits) > 3, 2.0)
            reasons = {exit_.reason for exit_ in on.real.observer.exits[1:]}
            assert reasons == {"it could not be started: Too many open files"}
        for other, turns in company.items():
            await on.assert_unharmed(turns, on=other)
        await on.until_at_rest()
        assert on.pool.snapshot()[0].boots < 12, "with longer and longer waits between them"


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """No file can be opened but in the place of one that is closed."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(taken[0]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for number in taken:
            os.close(number)


# --- what is not the worker's doing ------------------------------------------------------------------------------


async def test_workers_that_all_fall_silent_at_once_are_not_judged(stage: Staged) -> None:
    async with stage(of_first="fake-[0-9]-1", others=("--initialize", "hang"), workers=3, probes=PROBES) as on:
        company = await on.company()
        fault_at = on.now
        for worker in company:
            on.signal(worker, signal.SIGSTOP)
        await until(lambda: on.pool.snapshot()[0].is_panicking)
        assert on.now - fault_at < SUSPECT_S
        await until(lambda: on.now - fault_at > VERDICT_S)
        for worker in company:
            on.signal(worker, signal.SIGCONT)
        for worker, turns in company.items():
            await on.assert_unharmed(turns, on=worker)
        await on.until_at_rest()
        assert on.ready() == sorted(company)
        assert not [move for move in on.moves if move.target is WorkerState.QUARANTINED]


async def test_our_own_stall_is_noticed_and_held_against_nobody(stage: Staged) -> None:
    async with stage(probes=PROBES, limits=replace(LIMITS, first_event_s=1.0, idle_s=1.0)) as on:
        company = await on.company()
        asyncio.get_running_loop().call_soon(time.sleep, 1.5)
        await until(lambda: on.stalls)
        stalled_at = on.now
        assert 1.5 <= on.stalls[0] < 1.5 + AT_ONCE_S
        for worker, turns in company.items():
            await on.assert_unharmed(turns, on=worker)
        assert on.now - stalled_at < SOON_S
        await on.until_at_rest()
        assert on.ready() == sorted(company)
        assert not [move for move in on.moves if move.target is WorkerState.SUSPECT]


# --- clients -----------------------------------------------------------------------------------------------------


async def test_a_client_that_does_not_read_is_cut_and_the_pipe_flows_on(stage: Staged) -> None:
    async with stage(workers=1) as on:
        company = await on.company()
        asked_at = on.now
        victim = on.ask(chunks=["x" * 1000], repeat=60_000)
        await until(lambda: victim.outcome is not None)
        assert on.now - asked_at < SOON_S
        text = await on.assert_cut(victim, "Overrun")
        assert 2**19 < len(text) <= 2**20 + 1000
        await on.assert_unharmed(company[FIRST], on=FIRST)
        assert on.watch.settled[company[FIRST].talker.job.id] - asked_at < SOON_S
        await on.until_at_rest()


async def test_a_client_that_leaves_takes_its_place_or_its_seat_with_it(stage: Staged) -> None:
    async with stage(workers=1) as on:
        company = await on.company()
        running = [on.talk(100_000) for _ in range(SLOTS - 2)]
        queued, next_one = on.ask(text="never run"), on.ask(text="my turn")
        left_at = on.now
        queued.abandon()
        assert await seen(queued) == ("", "Abandoned")
        assert (queued.lease, next_one.lease) == (None, None)
        running[0].abandon()
        assert (await seen(running[0]))[1] == "Abandoned"
        await on.assert_whole("my turn", next_one, on=FIRST)
        assert on.watch.settled[next_one.job.id] - left_at < AT_ONCE_S
        await on.assert_unharmed(company[FIRST], on=FIRST)
        assert [ticket.outcome for ticket in running[1:]] == [None, None]


# --- too much to do ----------------------------------------------------------------------------------------------


async def test_what_cannot_be_served_in_time_is_refused_or_given_up_in_time(stage: Staged) -> None:
    async with stage(workers=1, slots=3, policy=QueuePolicy(queue_max=1, codel_target_s=0.0)) as on:
        company = await on.company()
        running = on.talk(100_000)
        waiting = on.ask(text="in the end", queue_budget_s=0.3)
        asked_at = on.now
        with pytest.raises(QueueFull) as full:
            on.ask(text="never run")
        assert full.value.retry_after_s > 0
        assert on.now - asked_at < 0.1
        assert await seen(waiting) == ("", "Expired")
        assert 0.3 <= on.watch.settled[waiting.job.id] - waiting.submitted_at < 0.3 + AT_ONCE_S
        await on.assert_unharmed(company[FIRST], on=FIRST)
        await until(lambda: on.free == 2)
        others = [on.talk(100_000) for _ in range(2)]
        asked_at = on.now
        with pytest.raises(WaitTooLong) as hopeless:
            on.ask(text="never run", queue_budget_s=0.01)
        assert hopeless.value.retry_after_s > 0
        assert on.now - asked_at < 0.1
        assert [ticket.outcome for ticket in (running, *others)] == [None] * 3


# --- the table ---------------------------------------------------------------------------------------------------


def test_the_table_names_every_test_here_and_no_test_that_does_not_exist() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs/failure-matrix.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| failure")]
    named = [re.findall(r"`(\w+)\.py::(test_\w+)`", row.split(" | ")[-1]) for row in rows]
    assert all(named), "every row names a test"
    for module, name in {pair for pairs in named for pair in pairs}:
        (path,) = (root / "tests").rglob(f"{module}.py")
        assert re.search(rf"^(async )?def {name}\(", path.read_text(), re.MULTILINE), f"{module}.py::{name}"
    here = set(re.findall(r"^async def (test_\w+)\(", Path(__file__).read_text(), re.MULTILINE))
    assert here == {name for pairs in named for module, name in pairs if module == "test_failure_matrix"}

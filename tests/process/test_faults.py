"""What a worker can do wrong, on both event loops: who notices, what its client sees, and what its neighbours see.

A neighbour is a turn on the same worker that does nothing wrong.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from loadtest.fake_app_server import write_launcher
from loadtest.fake_catalogue import catalogue
from pool.events import Fault, FaultKind, Finish, TurnEnd, TurnRequest
from pool.health import ProbeLimits
from pool.profile import Credentials, Profile
from pool.stimuli import Lease
from pool.transport import Child
from pool.turn import TurnLimits
from pool.worker_state import WorkerState
from tests.support.pools import WAIT_S, RecordingSink, RunningPool, asking, running_pool
from tests.support.real_loops import RunReal
from tests.support.services import alive_in_sessions, children_of, scripted, until

SLOTS = 5
LIMITS = TurnLimits(start_s=0.15, first_event_s=0.15, idle_s=0.15, total_s=10.0, interrupt_s=0.15)
PATIENT = TurnLimits()

NEIGHBOUR_TEXT = "tick " * 25
NEIGHBOUR = scripted(chunks=["tick "], repeat=25, interval_s=0.01)
FOREVER = scripted(chunks=["tick "], repeat=100_000, interval_s=0.01)

Scenario = Callable[[RunningPool], Awaitable[None]]
Fakes = Callable[..., None]


@pytest.fixture
def fakes(run_real: RunReal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """Runs a scenario on a pool of one scripted worker; afterwards nothing of it lives on.

    The pool looks at its limits more often than in life, boots again sooner, and knows the one catalogue of all the
    scripted workers: only the waits are shorter for it.
    """
    monkeypatch.setattr("pool.binary.bundled_models", lambda _binary, _scratch: catalogue()["models"])
    monkeypatch.setattr("pool.pool.TICK_S", 0.02)
    monkeypatch.setattr("pool.backoff.BASE_S", 0.02)

    def run(scenario: Scenario, *flags: str, limits: TurnLimits = PATIENT, probes: ProbeLimits | None = None) -> None:
        profile = Profile(
            "fake",
            "http://upstream.invalid/v1",
            "gpt-5.5",
            Credentials(),
            codex_bin=write_launcher(tmp_path / "codex", *flags),
            workers=1,
            slots=SLOTS,
            probation_s=0.0,
            limits=limits,
            probes=probes or ProbeLimits(),
        )

        async def main() -> None:
            async with running_pool(profile, tmp_path / "state") as pool:
                sessions = set(pool.worker_pids())
                await scenario(pool)
                sessions |= set(pool.worker_pids())
            await until(lambda: not alive_in_sessions(sessions), 1.0)

        before = children_of(os.getpid())
        run_real(main())
        assert children_of(os.getpid()) <= before

    return run


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that do not go by themselves are killed soon."""
    monkeypatch.setattr(Child.stop, "__kwdefaults__", {"close_s": 0.1, "term_s": 0.1, "kill_s": 5.0})


def ask(pool: RunningPool, **directive: Any) -> RecordingSink:
    """A turn that was begun, of which the worker does as the directive says."""
    return pool.start(asking(scripted(**directive)))[1]


async def end_of(sink: RecordingSink, bound_s: float = WAIT_S) -> TurnEnd:
    """The turn's end, within the bound."""
    async with asyncio.timeout(bound_s):
        return await sink.ended


async def fault_of(sink: RecordingSink, bound_s: float = WAIT_S) -> Fault:
    """Why the turn failed."""
    end = await end_of(sink, bound_s)
    assert end.fault is not None, end
    return end.fault


async def assert_unharmed(neighbour: RecordingSink) -> None:
    end = await end_of(neighbour)
    assert (end.finish, end.fault) == (Finish.STOP, None)
    assert neighbour.text == NEIGHBOUR_TEXT


async def assert_serves(pool: RunningPool) -> None:
    """Every seat is free again, and good for a turn."""
    await pool.until_free(SLOTS)
    sinks = [ask(pool, text=f"good {number}") for number in range(SLOTS)]
    assert [(await end_of(sink)).finish for sink in sinks] == [Finish.STOP] * SLOTS
    assert [sink.text for sink in sinks] == [f"good {number}" for number in range(SLOTS)]
    await pool.until_free(SLOTS)


async def assert_same_worker(pool: RunningPool) -> None:
    """It serves, and it was not replaced."""
    await assert_serves(pool)
    assert [str(worker) for worker in pool.observer.booted] == ["fake/0.1"]
    assert pool.observer.exits == []


async def assert_replaced(pool: RunningPool, reason: str, code: int) -> None:
    """Another worker serves; the first one ended like this."""
    await until(lambda: len(pool.observer.booted) == 2 and len(pool.observer.exits) == 1)
    await assert_serves(pool)
    assert [str(worker) for worker in pool.observer.booted] == ["fake/0.1", "fake/0.2"]
    assert [(exit_.reason, exit_.code) for exit_ in pool.observer.exits] == [(reason, code)]


def workers(pool: RunningPool, state: WorkerState) -> int:
    """How many workers are in this state."""
    (row,) = pool.pool.snapshot()
    return row.workers[state]


def counted(pool: RunningPool, kind: str) -> int:
    """Frames of this kind, up to now."""
    live = sum(worker.session.counters[kind] for worker in pool.pool._workers.values())
    return max(live, pool.observer.frames.get(kind, 0))


# --- the process ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason", "code"),
    [
        ({"exit": 3}, "it exited with code 3", 3),
        ({"exit": 0}, "it exited with code 0", 0),
        ({"kill_self": True}, "it was killed by signal 9", -9),
        ({"exit": 3, "at": "start"}, "it exited with code 3", 3),
        ({"stdout_eof": True}, "it closed its stdout", 0),
    ],
)
def test_a_worker_that_ends_loses_its_turns_at_once_and_is_replaced(
    fakes: Fakes, fault: dict[str, Any], reason: str, code: int
) -> None:
    async def scenario(pool: RunningPool) -> None:
        neighbour = ask(pool, text="never the end", hang="middle")
        async with asyncio.timeout(WAIT_S):
            await neighbour.first.wait()
        victim = ask(pool, chunks=["before", "after"], **fault)
        for sink in (victim, neighbour):
            assert await fault_of(sink, 2.0) == Fault(FaultKind.WORKER_LOST, reason)
        assert victim.text == ("before" if "at" not in fault else "")
        await assert_replaced(pool, reason, code)

    fakes(scenario)


def test_a_worker_whose_child_holds_the_pipe_is_seen_to_end_and_the_child_goes_too(fakes: Fakes) -> None:
    async def scenario(pool: RunningPool) -> None:
        session = set(pool.worker_pids())
        assert len(alive_in_sessions(session)) == 2, "the worker and its child"
        neighbour, victim = ask(pool, hang="first"), ask(pool, text="before", exit=3)
        for sink in (victim, neighbour):
            assert await fault_of(sink, 2.0) == Fault(FaultKind.WORKER_LOST, "it exited with code 3")
        await until(lambda: not alive_in_sessions(session), 2.0)
        await assert_replaced(pool, "it exited with code 3", 3)

    fakes(scenario, "--hold-pipe")


def test_the_last_words_of_a_worker_that_ends_are_heard(fakes: Fakes) -> None:
    async def scenario(pool: RunningPool) -> None:
        sink = ask(pool, chunks=["word "], repeat=5000)
        end = await end_of(sink)
        assert (end.finish, sink.text) == (Finish.STOP, "word " * 5000)
        await until(lambda: len(pool.observer.booted) == 2)
        assert pool.observer.exits[0].code == 1

    fakes(scenario, "--exit-after-turns", "1")


def test_a_worker_that_ignores_every_polite_request_is_killed(fakes: Fakes, impatient: None) -> None:
    ended: list[int | None] = []

    async def scenario(pool: RunningPool) -> None:
        ask(pool, hang="first")
        pool.observer.worker_exited = lambda end: ended.append(end.code)  # type: ignore[method-assign]

    fakes(scenario, "--ignore-sigterm", "--ignore-stdin-eof")
    assert ended == [-9]


# --- the pipe carries something else -----------------------------------------------------------------------------


def test_half_a_line_and_silence_end_every_turn_as_idle_and_the_worker_is_replaced(
    fakes: Fakes, impatient: None
) -> None:
    async def scenario(pool: RunningPool) -> None:
        neighbour = ask(pool, text="some words", hang="middle")
        victim = ask(pool, chunks=["before", "after"], half_line=True)
        assert (await fault_of(victim, 2.0)).kind is FaultKind.IDLE_TIMEOUT
        assert (await fault_of(neighbour, 2.0)).kind is FaultKind.IDLE_TIMEOUT
        assert victim.text == "before"
        await assert_replaced(pool, "it ignored an interrupt", 0)

    fakes(scenario, limits=LIMITS)


@pytest.mark.parametrize("at", ["start", "first", "middle"])
def test_one_line_that_is_not_json_harms_nobody(fakes: Fakes, at: str) -> None:
    async def scenario(pool: RunningPool) -> None:
        neighbour = pool.start(asking(NEIGHBOUR))[1]
        victim = ask(pool, text="all of it", garbage=True, at=at)
        assert (await end_of(victim)).finish is Finish.STOP
        assert victim.text == "all of it"
        await assert_unharmed(neighbour)
        assert counted(pool, "garbage") == 1
        await assert_same_worker(pool)

    fakes(scenario)


def test_a_second_line_that_is_not_json_puts_the_worker_in_quarantine_and_its_neighbours_finish(fakes: Fakes) -> None:
    doubted: list[Lease] = []

    async def scenario(pool: RunningPool) -> None:
        def move_elsewhere(leases: tuple[Lease, ...]) -> None:
            doubted.extend(leases)
            for lease in leases:
                pool.pool.interrupt(lease)

        pool.pool.on_quarantined = move_elsewhere
        neighbour = ask(pool, chunks=["tick "], repeat=25, interval_s=0.1)
        untouched_lease, untouched = pool.start(asking(scripted(hang="first")))
        async with asyncio.timeout(WAIT_S):
            await neighbour.first.wait()
        for number in range(2):
            victim = ask(pool, text=f"said {number}", garbage=True)
            assert (await end_of(victim)).finish is Finish.STOP
            assert victim.text == f"said {number}"
        await until(lambda: workers(pool, WorkerState.QUARANTINED) == 1)
        assert doubted == [untouched_lease], "nothing has come of it: it may as well run elsewhere"
        assert (await end_of(untouched)).finish is Finish.INTERRUPTED
        await pool.until_free(SLOTS)
        lease, sink = pool.start(asking(scripted(text="from the other one")))
        assert str(lease.worker) == "fake/0.2"
        assert (await end_of(sink)).finish is Finish.STOP
        assert not neighbour.ended.done()
        assert workers(pool, WorkerState.QUARANTINED) == 1
        await assert_unharmed(neighbour)
        await assert_replaced(pool, "it talks nonsense", 0)

    fakes(scenario)


def test_a_line_over_the_limit_that_is_nobodys_harms_nobody(fakes: Fakes) -> None:
    async def scenario(pool: RunningPool) -> None:
        neighbour = pool.start(asking(NEIGHBOUR))[1]
        victim = ask(pool, chunks=["before", " after"], big_line=33 * 2**20)
        assert (await end_of(victim)).finish is Finish.STOP
        assert victim.text == "before after"
        await assert_unharmed(neighbour)
        assert counted(pool, "oversized") == 1
        await assert_same_worker(pool)

    fakes(scenario)


def test_a_line_over_the_limit_fails_the_turn_it_belongs_to_and_no_other(fakes: Fakes) -> None:
    async def scenario(pool: RunningPool) -> None:
        neighbour = pool.start(asking(NEIGHBOUR))[1]
        huge = "x" * (33 * 2**20) + scripted(echo=True, chunk_size=2**26, hang="middle")
        victim = pool.start(asking(huge))[1]
        assert (await fault_of(victim)).kind is FaultKind.FRAME_TOO_LARGE
        assert victim.text == ""
        await assert_unharmed(neighbour)
        assert counted(pool, "oversized") == 1
        await assert_same_worker(pool)

    fakes(scenario)


def test_frames_after_a_turns_end_reach_nobody(fakes: Fakes) -> None:
    async def scenario(pool: RunningPool) -> None:
        neighbour = pool.start(asking(NEIGHBOUR))[1]
        for number in range(5):
            sink = ask(pool, text=f"turn {number}", late_frames=20)
            assert (await end_of(sink)).finish is Finish.STOP
            assert sink.text == f"turn {number}"
        await assert_unharmed(neighbour)
        await assert_same_worker(pool)

    fakes(scenario)


RPCS = ("thread/inject_items", "turn/start", "turn/interrupt", "thread/unsubscribe")


def test_a_reply_that_comes_twice_counts_once(fakes: Fakes) -> None:
    async def scenario(pool: RunningPool) -> None:
        for method in RPCS:
            lease, sink = pool.start(
                asking(scripted(chunks=["tick "], repeat=20, interval_s=0.01, duplicate_reply=method))
            )
            if method == "turn/interrupt":
                async with asyncio.timeout(WAIT_S):
                    await sink.first.wait()
                pool.pool.interrupt(lease)
                assert (await end_of(sink)).finish is Finish.INTERRUPTED
            else:
                assert (await end_of(sink)).finish is Finish.STOP
                assert sink.text == "tick " * 20
        await pool.until_free(SLOTS)
        assert counted(pool, "unmatched") == 5, "one of each, and of the first thread/start"
        await assert_same_worker(pool)

    fakes(scenario, "--duplicate-reply", "thread/start:1")


# --- answers that do not come ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "fields", "flags"),
    [
        ("thread_start", {"text": "x"}, ("--lose-reply", "thread/start:1")),
        ("inject_items", {"text": "x", "lose_reply": "thread/inject_items"}, ()),
        ("turn_start", {"hang": "first", "lose_reply": "turn/start"}, ()),
    ],
)
def test_a_lost_reply_of_the_opening_fails_that_turn_alone(
    fakes: Fakes, step: str, fields: dict[str, Any], flags: tuple[str, ...]
) -> None:
    async def scenario(pool: RunningPool) -> None:
        victim = ask(pool, **fields)
        neighbour = pool.start(asking(NEIGHBOUR))[1]
        assert await fault_of(victim, 2.0) == Fault(FaultKind.START_TIMEOUT, f"no answer to {step}")
        assert victim.text == ""
        await assert_unharmed(neighbour)
        await assert_same_worker(pool)

    fakes(scenario, *flags, limits=LIMITS)


def test_a_turn_that_is_seen_to_run_does_not_need_the_reply_to_its_start(fakes: Fakes) -> None:
    async def scenario(pool: RunningPool) -> None:
        victim = ask(pool, chunks=["tick "], repeat=25, interval_s=0.01, lose_reply="turn/start")
        assert (await end_of(victim)).finish is Finish.STOP
        assert victim.text == NEIGHBOUR_TEXT
        await assert_same_worker(pool)

    fakes(scenario, limits=LIMITS)


def test_a_lost_reply_to_an_interrupt_that_was_obeyed_does_not_matter(fakes: Fakes) -> None:
    async def scenario(pool: RunningPool) -> None:
        lease, victim = pool.start(
            asking(scripted(chunks=["tick "], repeat=100_000, interval_s=0.01, lose_reply="turn/interrupt"))
        )
        neighbour = pool.start(asking(NEIGHBOUR))[1]
        async with asyncio.timeout(WAIT_S):
            await victim.first.wait()
        pool.pool.interrupt(lease)
        assert (await end_of(victim)).finish is Finish.INTERRUPTED
        await assert_unharmed(neighbour)
        await assert_same_worker(pool)

    fakes(scenario, limits=LIMITS)


def test_a_lost_reply_to_the_closing_delays_the_seat_and_nothing_else(fakes: Fakes) -> None:
    async def scenario(pool: RunningPool) -> None:
        victim = ask(pool, text="all of it", lose_reply="thread/unsubscribe")
        assert (await end_of(victim)).finish is Finish.STOP
        assert victim.text == "all of it"
        assert pool.pool.free("fake") == SLOTS - 1
        await assert_same_worker(pool)

    fakes(scenario, limits=LIMITS)


@pytest.mark.parametrize("flags", [("--thread-start", "hang"), ("--stop-reading",)])
def test_a_worker_that_answers_nothing_fails_its_turns_in_time_and_is_replaced(
    fakes: Fakes, impatient: None, flags: tuple[str, ...]
) -> None:
    async def scenario(pool: RunningPool) -> None:
        sinks = [pool.start(TurnRequest("gpt-5.5", "x" * 200_000, ()))[1] for _ in range(SLOTS)]
        for sink in sinks:
            assert await fault_of(sink, 2.0) == Fault(FaultKind.START_TIMEOUT, "no answer to thread_start")
        await until(lambda: len(pool.observer.booted) == 2)
        await until(lambda: len(pool.observer.exits) == 1)
        await pool.until_free(SLOTS)

    fakes(scenario, *flags, limits=LIMITS)


def test_a_worker_that_loses_replies_runs_its_other_turns_to_their_end_before_it_goes(fakes: Fakes) -> None:
    async def scenario(pool: RunningPool) -> None:
        neighbour = ask(pool, chunks=["tick "], repeat=25, interval_s=0.02)
        async with asyncio.timeout(WAIT_S):
            await neighbour.first.wait()
        victims = [ask(pool, hang="first", lose_reply="turn/start") for _ in range(2)]
        for victim in victims:
            assert (await fault_of(victim, 2.0)).kind is FaultKind.START_TIMEOUT
        assert not neighbour.ended.done()
        assert workers(pool, WorkerState.QUARANTINED) == 1
        await until(lambda: len(pool.observer.booted) == 2)
        await assert_unharmed(neighbour)
        await assert_serves(pool)

    fakes(scenario, limits=LIMITS)


def test_a_turn_that_falls_silent_is_interrupted_and_no_other(fakes: Fakes) -> None:
    async def scenario(pool: RunningPool) -> None:
        victims = [
            (ask(pool, hang="headers"), FaultKind.FIRST_EVENT_TIMEOUT),
            (ask(pool, hang="first"), FaultKind.FIRST_EVENT_TIMEOUT),
            (ask(pool, server_request="item/tool/call"), FaultKind.FIRST_EVENT_TIMEOUT),
            (ask(pool, text="some words", hang="middle"), FaultKind.IDLE_TIMEOUT),
        ]
        neighbour = pool.start(asking(NEIGHBOUR))[1]
        for victim, kind in victims:
            assert (await fault_of(victim, 2.0)).kind is kind
        await assert_unharmed(neighbour)
        await assert_same_worker(pool)

    fakes(scenario, limits=LIMITS)


def test_a_turn_that_goes_on_for_too_long_is_interrupted_and_no_other(fakes: Fakes) -> None:
    async def scenario(pool: RunningPool) -> None:
        victim = pool.start(asking(FOREVER))[1]
        async with asyncio.timeout(WAIT_S):
            await victim.first.wait()
        assert (await fault_of(victim, 2.0)).kind is FaultKind.TURN_TIMEOUT
        assert victim.text.startswith("tick tick ")
        await assert_same_worker(pool)

    fakes(scenario, limits=TurnLimits(total_s=0.3))


# --- interrupts and stops that are ignored -----------------------------------------------------------------------


def test_after_an_ignored_interrupt_a_successor_serves_first_and_then_the_worker_retires(fakes: Fakes) -> None:
    async def scenario(pool: RunningPool) -> None:
        deaf = scripted(chunks=["tick "], repeat=100_000, interval_s=0.01, ignore_interrupt=True)
        lease, victim = pool.start(asking(deaf))
        neighbour = ask(pool, chunks=["tick "], repeat=25, interval_s=0.1)
        async with asyncio.timeout(WAIT_S):
            await victim.first.wait()
        pool.pool.interrupt(lease)
        assert (await end_of(victim, 2.0)).finish is Finish.INTERRUPTED
        assert workers(pool, WorkerState.READY) == 1, "it serves until another does"
        assert pool.pool.free("fake") == SLOTS - 2, "the stuck turn keeps its seat"
        await until(lambda: workers(pool, WorkerState.RETIRING) == 1)
        assert workers(pool, WorkerState.READY) == 1
        assert pool.pool.free("fake") == SLOTS
        other, sink = pool.start(asking(scripted(text="from the other one")))
        assert str(other.worker) == "fake/0.2"
        assert (await end_of(sink)).finish is Finish.STOP
        assert not neighbour.ended.done()
        await assert_unharmed(neighbour)
        await assert_replaced(pool, "it ignored an interrupt", 0)

    fakes(scenario, limits=TurnLimits(interrupt_s=0.15))


PROBES = ProbeLimits(idle_s=0.2, timeout_s=0.2, fast_s=0.1, hung_s=0.5)


def test_a_frozen_worker_is_found_by_its_probes_and_its_turns_are_told_at_once(fakes: Fakes) -> None:
    async def scenario(pool: RunningPool) -> None:
        waiting = ask(pool, text="some words", hang="middle")
        victim = ask(pool, text="some words", stop_self=True)
        lost = Fault(FaultKind.WORKER_LOST, "it answers no probe")
        assert [await fault_of(sink, 3.0) for sink in (victim, waiting)] == [lost, lost]
        await assert_replaced(pool, "it answers no probe", -9)

    fakes(scenario, probes=PROBES)


def test_a_worker_that_freezes_while_it_has_nothing_to_do_is_replaced_too(fakes: Fakes) -> None:
    async def scenario(pool: RunningPool) -> None:
        (pid,) = pool.worker_pids()
        os.kill(pid, signal.SIGSTOP)
        await assert_replaced(pool, "it answers no probe", -9)

    fakes(scenario, probes=PROBES)


def test_a_worker_that_thaws_in_time_is_suspect_for_a_while_and_keeps_its_turns(fakes: Fakes) -> None:
    moves: list[tuple[WorkerState, WorkerState]] = []

    async def scenario(pool: RunningPool) -> None:
        pool.observer.worker_moved = (  # type: ignore[method-assign]
            lambda worker, source, target, reason: moves.append((source, target))  # noqa: ARG005 - the caller's names
        )
        neighbour = ask(pool, chunks=["tick "], repeat=25, interval_s=0.02)
        async with asyncio.timeout(WAIT_S):
            await neighbour.first.wait()
        (pid,) = pool.worker_pids()
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: workers(pool, WorkerState.SUSPECT) == 1)
        assert pool.pool.free("fake") == 0, "no new turn on it"
        os.kill(pid, signal.SIGCONT)
        await assert_unharmed(neighbour)
        await until(lambda: workers(pool, WorkerState.READY) == 1)
        await assert_serves(pool)
        assert (WorkerState.READY, WorkerState.SUSPECT) in moves
        assert (WorkerState.SUSPECT, WorkerState.QUARANTINED) not in moves

    fakes(scenario, probes=ProbeLimits(idle_s=0.2, timeout_s=0.2, fast_s=0.1, hung_s=10.0))


def test_an_idle_worker_answers_its_probes_and_stays(fakes: Fakes) -> None:
    async def scenario(pool: RunningPool) -> None:
        before = counted(pool, "frames")
        await until(lambda: counted(pool, "frames") >= before + 3)
        assert counted(pool, "probe_missed") == 0
        await assert_same_worker(pool)

    fakes(scenario, probes=PROBES)


def test_a_worker_that_is_stopped_by_a_signal_is_replaced(fakes: Fakes, impatient: None) -> None:
    async def scenario(pool: RunningPool) -> None:
        neighbour = ask(pool, text="some words", hang="middle")
        victim = ask(pool, text="some words", stop_self=True)
        assert (await fault_of(victim, 2.0)).kind is FaultKind.IDLE_TIMEOUT
        assert (await fault_of(neighbour, 2.0)).kind is FaultKind.IDLE_TIMEOUT
        await assert_replaced(pool, "it ignored an interrupt", -9)

    fakes(scenario, limits=LIMITS)


# --- refusals ----------------------------------------------------------------------------------------------------


def test_what_the_worker_asks_of_us_is_declined_and_the_turn_goes_on(fakes: Fakes) -> None:
    async def scenario(pool: RunningPool) -> None:
        neighbour = pool.start(asking(NEIGHBOUR))[1]
        victim = ask(pool, text="Well.", server_request="item/commandExecution/requestApproval")
        assert (await end_of(victim)).finish is Finish.STOP
        assert victim.text == f"Well. The client answered {json.dumps({'decision': 'decline'}, separators=(',', ':'))}."
        assert counted(pool, "declined") == 1
        await assert_unharmed(neighbour)
        await assert_same_worker(pool)

    fakes(scenario)


def test_an_overloaded_worker_refuses_one_turn_and_keeps_the_others(fakes: Fakes) -> None:
    async def scenario(pool: RunningPool) -> None:
        victims = [ask(pool, text="x"), ask(pool, text="x"), ask(pool, text="x", overloaded="turn/start")]
        neighbour = pool.start(asking(NEIGHBOUR))[1]
        for victim in victims:
            assert (await fault_of(victim, 2.0)).kind is FaultKind.WORKER_OVERLOADED
            assert victim.text == ""
        await assert_unharmed(neighbour)
        await assert_same_worker(pool)

    fakes(scenario, "--overloaded", "thread/start:1", "--overloaded", "thread/inject_items:1")


def test_a_worker_that_refuses_every_thread_says_so(fakes: Fakes) -> None:
    async def scenario(pool: RunningPool) -> None:
        victim = ask(pool, text="x")
        fault = await fault_of(victim, 2.0)
        assert fault.kind is FaultKind.WORKER_REFUSED
        assert "failed to load configuration" in fault.message
        await pool.until_free(SLOTS)

    fakes(scenario, "--thread-start", "error")

"""The three worst things that a real worker can do, with the scheduler above it: who notices, when, and who pays."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from pool.events import FaultKind, Finish, TextDelta
from pool.profile import Profile
from pool.turn import TurnLimits
from pool.worker_state import WorkerId, WorkerState
from scheduler.model import Ended, Job, QueuePolicy
from scheduler.scheduler import Scheduler
from scheduler.ticket import Ticket
from tests.support.pools import WAIT_S, RunningPool, asking, running_pool, script
from tests.support.services import until

SLOTS = 4
SEATS = 2 * SLOTS


class Desk:
    """A scheduler on a running pool of two real workers."""

    def __init__(self, real: RunningPool) -> None:
        self.real = real
        self.scheduler = Scheduler(real.pool, {real.profile.name: QueuePolicy(queue_max=64)})
        real.pool.on_freed = self.scheduler.seats_freed
        real.pool.on_quarantined = self.scheduler.leases_doubted
        self.jobs = 0

    def ask(self, **directive: object) -> Ticket:
        self.jobs += 1
        turn = asking(script(**directive))
        return self.scheduler.submit(Job(f"job-{self.jobs}", self.real.profile.name, "tenant", turn, 30.0))

    async def both_busy(self) -> tuple[list[Ticket], list[Ticket], list[Ticket]]:
        """On each worker a turn that speaks for ever and two that will speak in two seconds; the speakers spoke."""
        speakers = [self.ask(text="words without an end", hang="middle") for _ in range(2)]
        silent = [self.ask(text=f"late {number}", delay_s=2.0) for number in range(4)]
        async with asyncio.timeout(WAIT_S):
            for speaker in speakers:
                assert await speaker.read()
        victim = worker_of(speakers[0])
        assert worker_of(speakers[1]) != victim
        return speakers, [t for t in silent if worker_of(t) == victim], [t for t in silent if worker_of(t) != victim]

    def state(self, worker: WorkerId) -> WorkerState | None:
        (row,) = self.real.pool.snapshot()
        return next((each.state for each in row.each if each.worker == worker), None)

    def seats(self) -> int:
        (row,) = self.real.pool.snapshot()
        return row.seats


def worker_of(ticket: Ticket) -> WorkerId:
    assert ticket.lease is not None
    return ticket.lease.worker


async def text_of(ticket: Ticket) -> str:
    parts: list[str] = []
    async with asyncio.timeout(WAIT_S):
        while events := await ticket.read():
            parts += [event.text for event in events if isinstance(event, TextDelta)]
    return "".join(parts)


def fault_of(ticket: Ticket) -> FaultKind | None:
    assert isinstance(ticket.outcome, Ended), ticket.outcome
    return ticket.outcome.end.fault.kind if ticket.outcome.end.fault is not None else None


@pytest.fixture
async def desk(profile: Profile, tmp_path: Path) -> AsyncIterator[Desk]:
    two = replace(profile, workers=2, slots=SLOTS, probation_s=0.0, limits=TurnLimits(first_event_s=3.0))
    async with running_pool(two, tmp_path) as real:
        await until(lambda: real.pool.free(two.name) == SEATS)
        yield Desk(real)


async def assert_answered(tickets: list[Ticket]) -> None:
    for ticket in tickets:
        assert (await text_of(ticket)).startswith("late ")
        assert isinstance(ticket.outcome, Ended)
        assert ticket.outcome.end.finish is Finish.STOP


async def test_a_killed_worker_costs_only_who_had_spoken_and_serves_again_within_two_seconds(desk: Desk) -> None:
    speakers, struck, spared = await desk.both_busy()
    victim = worker_of(speakers[0])
    child = desk.real.pool._workers[victim]._child
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    await until(lambda: desk.seats() == SLOTS, 0.5)
    await until(lambda: desk.seats() == SEATS, 2.0)
    await text_of(speakers[0])
    assert fault_of(speakers[0]) is FaultKind.WORKER_LOST
    await assert_answered([*struck, *spared])
    assert all(worker_of(ticket) != victim for ticket in struck)
    assert speakers[1].outcome is None
    speakers[1].abandon()


async def test_a_frozen_worker_is_out_within_five_seconds_replaced_within_fifteen_and_its_silent_turns_move(
    desk: Desk,
) -> None:
    speakers, struck, spared = await desk.both_busy()
    victim = worker_of(speakers[0])
    child = desk.real.pool._workers[victim]._child
    assert child is not None
    loop = asyncio.get_running_loop()
    frozen_at = loop.time()
    os.kill(child.pid, signal.SIGSTOP)
    await until(lambda: desk.state(victim) is WorkerState.SUSPECT, 5.0)
    await until(lambda: desk.seats() == SEATS, 15.0 - (loop.time() - frozen_at))
    assert loop.time() - frozen_at < 15.0
    await assert_answered([desk.ask(text="late to come") for _ in range(SLOTS)])
    await assert_answered([*struck, *spared])
    assert loop.time() - frozen_at < 17.0
    assert all(worker_of(ticket) != victim for ticket in struck)
    await text_of(speakers[0])
    assert fault_of(speakers[0]) is FaultKind.WORKER_LOST
    assert speakers[1].outcome is None
    speakers[1].abandon()


async def test_a_turn_that_stays_silent_is_tried_again_and_fails_alone(desk: Desk) -> None:
    stuck = desk.ask(hang="first")
    first = worker_of(stuck)
    others = [desk.ask(chunks=["late ", "and long "], repeat=40, interval_s=0.05) for _ in range(SEATS - 2)]
    assert await text_of(stuck) == ""
    assert fault_of(stuck) is FaultKind.FIRST_EVENT_TIMEOUT
    assert worker_of(stuck) != first
    await assert_answered(others)
    await until(lambda: desk.real.pool.free(desk.real.profile.name) == SEATS)
    assert sorted(map(str, desk.real.observer.booted)) == ["real/0.1", "real/1.1"]
    assert desk.real.observer.exits == []

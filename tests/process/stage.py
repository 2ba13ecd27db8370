"""A scheduler on a pool of scripted workers; when a fault was noticed there, and who lost what by it."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from loadtest.fake_app_server import write_launcher
from pool.events import TextDelta
from pool.observer import PoolObserver
from pool.profile import Credentials, Profile
from pool.stimuli import Lease
from pool.worker_state import WorkerId, WorkerState
from scheduler.model import Ended, Job, Outcome, QueuePolicy
from scheduler.observer import SchedulerObserver
from scheduler.scheduler import Scheduler
from scheduler.ticket import Ticket
from tests.support.pools import WAIT_S, RunningPool, asking, running_pool
from tests.support.services import alive_in_sessions, children_of, scripted, until

SLOTS = 5
FIRST = WorkerId("fake", 0, 1)
"""The first worker on the first place, which may be another kind than all others."""
TICKS = 25
TALK = "tick " * TICKS
"""What a talker says in half a second, piece by piece."""
LATE = "late, but all of it"
"""What a silent turn says after 0.35 s."""


class Move(NamedTuple):
    """A worker's change of state, and when."""

    at: float
    worker: WorkerId
    target: WorkerState
    reason: str


class Returned(NamedTuple):
    """A job that was taken off a worker to be run on another, and when."""

    at: float
    job: str
    worker: WorkerId
    reason: str


class Beside(NamedTuple):
    """Two turns that run on a worker besides the one in trouble: one that has spoken, one that has not."""

    talker: Ticket
    silent: Ticket


class Watch(SchedulerObserver):
    """Remembers when jobs were returned and settled."""

    def __init__(self) -> None:
        self.returned: list[Returned] = []
        self.settled: dict[str, float] = {}

    def turn_returned(self, job: Job, lease: Lease, attempt: int, reason: str, rest_s: float) -> None:
        self.returned.append(Returned(asyncio.get_running_loop().time(), job.id, lease.worker, reason))

    def ticket_settled(self, job: Job, outcome: Outcome, waited_s: float, ran_s: float, attempts: int) -> None:
        self.settled[job.id] = asyncio.get_running_loop().time()


class Stage:
    """What a scenario does and looks at."""

    def __init__(self, real: RunningPool, policy: QueuePolicy) -> None:
        self.real = real
        self.pool = real.pool
        self.watch = Watch()
        self.moves: list[Move] = []
        self.stalls: list[float] = []
        self.scheduler = Scheduler(real.pool, {"fake": policy}, self.watch)
        self._loop = asyncio.get_running_loop()
        self._jobs = 0
        self._tickets: list[Ticket] = []
        real.pool.on_freed = self.scheduler.seats_freed
        real.pool.on_quarantined = self.scheduler.leases_doubted
        observer: PoolObserver = real.observer
        observer.worker_moved = self._on_moved  # type: ignore[method-assign]
        observer.stalled = self._on_stalled  # type: ignore[method-assign]

    # --- what happens ----------------------------------------------------------------------------------------

    def ask(self, *, queue_budget_s: float = WAIT_S, deadline_s: float | None = None, **directive: Any) -> Ticket:
        """A job, of which whatever worker gets it does as the directive says."""
        self._jobs += 1
        turn = asking(scripted(**directive))
        job = Job(f"job-{self._jobs}", "fake", "tenant", turn, queue_budget_s, deadline_s=deadline_s)
        ticket = self.scheduler.submit(job)
        self._tickets.append(ticket)
        return ticket

    def talk(self, ticks: int = TICKS) -> Ticket:
        """A job whose answer comes piece by piece."""
        return self.ask(chunks=["tick "], repeat=ticks, interval_s=0.02)

    async def company(self) -> dict[WorkerId, Beside]:
        """On each worker a turn that has begun to talk, and one that is silent so far."""
        workers = len(self.pids())
        talkers = [self.talk() for _ in range(workers)]
        silent = {worker_of(each): each for each in [self.ask(text=LATE, delay_s=0.35) for _ in range(workers)]}
        company = {worker_of(talker): Beside(talker, silent[worker_of(talker)]) for talker in talkers}
        assert len(company) == workers, "they are spread"
        for talker in talkers:
            await self.until_spoken(talker)
        return company

    async def until_spoken(self, ticket: Ticket) -> float:
        """When its first event came, or at least not long before."""
        await until(lambda: ticket._has_spoken)
        return self.now

    def signal(self, worker: WorkerId, number: signal.Signals) -> float:
        """Sends a signal to a worker; the moment."""
        os.kill(self.pids()[worker], number)
        return self.now

    # --- what can be seen ------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self._loop.time()

    def pids(self) -> dict[WorkerId, int]:
        """The processes."""
        children = {worker.id: worker._child for worker in self.pool._workers.values()}
        return {worker: child.pid for worker, child in children.items() if child is not None}

    @property
    def free(self) -> int:
        return self.pool.free("fake")

    @property
    def seats(self) -> int:
        return self.pool.outlook("fake").seats

    def ready(self) -> list[WorkerId]:
        """Those in full service."""
        (row,) = self.pool.snapshot()
        return sorted(each.worker for each in row.each if each.state is WorkerState.READY)

    def counted(self, kind: str) -> int:
        """Frames of this kind, on the workers that live."""
        return sum(worker.session.counters[kind] for worker in self.pool._workers.values())

    async def moved(self, worker: WorkerId, target: WorkerState) -> Move:
        """The worker's move into this state; waits for it."""
        await until(lambda: self.moves_of(worker, target))
        return self.moves_of(worker, target)[0]

    def moves_of(self, worker: WorkerId, target: WorkerState) -> list[Move]:
        return [move for move in self.moves if (move.worker, move.target) == (worker, target)]

    async def returned(self, ticket: Ticket) -> Returned:
        """Its loss of a turn, unseen by its client; waits for it."""
        await until(lambda: self.returns_of(ticket))
        return self.returns_of(ticket)[0]

    def returns_of(self, ticket: Ticket) -> list[Returned]:
        return [each for each in self.watch.returned if each.job == ticket.job.id]

    async def until_at_rest(self) -> None:
        """Every seat of every worker that is wanted is free."""
        profile = self.real.profile
        seats = profile.workers * profile.slots
        await until(lambda: (self.free, self.seats) == (seats, seats) and self.scheduler._state.is_idle())
        self.scheduler._state.validate()
        self.pool._state.validate()

    # --- what clients see ------------------------------------------------------------------------------------

    async def assert_whole(self, text: str, *tickets: Ticket, on: WorkerId | None = None) -> None:
        """Their answers are whole, each from one turn (`on` that worker)."""
        for ticket in tickets:
            assert await seen(ticket) == (text, "stop")
            assert ticket.attempts == 1
            assert on in (None, worker_of(ticket))

    async def assert_unharmed(self, beside: Beside, on: WorkerId) -> None:
        """Both turns ran to their end where they were."""
        await self.assert_whole(TALK, beside.talker, on=on)
        await self.assert_whole(LATE, beside.silent, on=on)

    async def assert_moved(self, text: str, ticket: Ticket, reason: str) -> None:
        """Its answer is whole, from another worker than the one that it lost a turn on for this reason."""
        assert await seen(ticket) == (text, "stop")
        assert ticket.attempts == 2
        (lost,) = self.returns_of(ticket)
        assert lost.reason == reason
        assert worker_of(ticket) != lost.worker

    async def assert_cut(self, ticket: Ticket, end: str) -> str:
        """It ended like this, and was not tried again; the text so far."""
        text = await self.assert_ended(ticket, end)
        assert self.returns_of(ticket) == []
        return text

    async def assert_ended(self, ticket: Ticket, end: str) -> str:
        """It ended like this; the text so far."""
        text, found = await seen(ticket)
        assert found == end
        return text

    async def assert_talk_lost(self, talker: Ticket) -> None:
        """A talker lost its worker when it had said something."""
        text = await self.assert_cut(talker, "worker_lost")
        assert text
        assert TALK.startswith(text)

    # --- inside ----------------------------------------------------------------------------------------------

    def _on_moved(self, worker: WorkerId, source: WorkerState, target: WorkerState, reason: str) -> None:
        self.moves.append(Move(self.now, worker, target, reason))

    def _on_stalled(self, seconds: float) -> None:
        self.stalls.append(seconds)

    async def _end(self) -> None:
        for ticket in self._tickets:
            ticket.abandon()
        async with asyncio.timeout(WAIT_S):
            await self.scheduler.idle()
        self.scheduler._state.validate()
        self.pool._state.validate()


def worker_of(ticket: Ticket) -> WorkerId:
    """Where its latest turn runs or ran."""
    assert ticket.lease is not None
    return ticket.lease.worker


async def seen(ticket: Ticket) -> tuple[str, str]:
    """All that the client sees: the text, and how it ended: a finish, a fault's kind or the outcome's name."""
    parts: list[str] = []
    async with asyncio.timeout(WAIT_S):
        while events := await ticket.read():
            parts += [event.text for event in events if isinstance(event, TextDelta)]
    outcome = ticket.outcome
    if not isinstance(outcome, Ended):
        return "".join(parts), type(outcome).__name__
    end = outcome.end
    return "".join(parts), str(end.fault.kind if end.fault is not None else end.finish)


def two_kinds(folder: Path, of_first: str, first: tuple[str, ...], others: tuple[str, ...]) -> Path:
    """An executable that is one fake app-server in the homes of that pattern, and another in all others."""
    mine = shlex.quote(str(write_launcher(folder / "codex-first", *first)))
    theirs = shlex.quote(str(write_launcher(folder / "codex-others", *others)))
    path = folder / "codex"
    path.write_text(f'#!/bin/sh\ncase "$HOME" in */{of_first}) exec {mine} "$@";; *) exec {theirs} "$@";; esac\n')
    path.chmod(0o755)
    return path


@asynccontextmanager
async def staged(
    folder: Path,
    *flags: str,
    others: tuple[str, ...] | None = None,
    policy: QueuePolicy | None = None,
    booted: int | None = None,
    of_first: str = "fake-0-1",
    **fields: Any,
) -> AsyncIterator[Stage]:
    """A stage with ready workers: `FIRST` has these flags, all others too, or `others` if that is given.

    `of_first` is a pattern of homes, if `FIRST` is not to be the only one with them. `fields` are the profile's.
    Afterwards no process of it is left, and neither core contradicts itself.
    """
    before = children_of(os.getpid())
    binary = two_kinds(folder, of_first, flags, flags if others is None else others)
    fields = {"workers": 2, "slots": SLOTS, "probation_s": 0.0} | fields
    profile = Profile("fake", "http://upstream.invalid/v1", "gpt-5.5", Credentials(), codex_bin=binary, **fields)
    async with running_pool(profile, folder / "state", booted=booted) as real:
        await until(lambda: real.pool._loop is not None)
        stage = Stage(real, policy or QueuePolicy(queue_max=64, codel_target_s=0.0))
        sessions = set(stage.pids().values())
        yield stage
        await stage._end()
        sessions |= set(stage.pids().values())
    await until(lambda: not alive_in_sessions(sessions), 1.0)
    assert children_of(os.getpid()) <= before

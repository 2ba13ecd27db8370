"""What faults of workers cost, and how soon a crashed worker serves again."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
from collections.abc import Iterable
from dataclasses import replace
from itertools import dropwhile
from math import inf
from typing import NamedTuple

from loadtest.desk import (
    PATIENT,
    PROFILE,
    USUAL,
    Desk,
    fault_of,
    is_answered,
    opened,
    settled,
    until,
    worker_of,
)
from loadtest.model_standin import ModelStandin
from loadtest.promises import Effort, Row
from pool.health import ProbeLimits
from pool.profile import Credentials, Profile
from pool.turn import TurnLimits
from pool.worker_state import IN_SERVICE, WorkerId, WorkerState
from scheduler.ticket import Ticket

SLOTS = PROFILE.slots


async def stuck_turns(effort: Effort) -> list[Row]:
    """A turn that goes silent and one that ignores its interrupt, on a worker full of turns, with a queue behind."""
    rounds = [await _stick() for _ in range(effort.stuck_rounds)]
    healthy = [ticket for tickets in rounds for ticket in tickets]
    failed = sum(not is_answered(ticket.outcome) for ticket in healthy)
    how = (
        "a full fake worker, one turn silent from its start and one that ignores its interrupt;"
        f" {len(healthy)} healthy turns of 4 s beside and behind them in {len(rounds)} round(s)"
    )
    return [Row("stuck_turn", "healthy turns failed by a stuck one", failed, "turns", 0, how, is_correctness=True)]


async def _stick() -> list[Ticket]:
    """The healthy turns, when all is over."""
    limits = TurnLimits(first_event_s=1.5, idle_s=1.5, interrupt_s=0.5)
    async with opened(replace(PROFILE, workers=1, limits=limits), PATIENT) as desk:
        sick = [desk.ask(hang="first"), desk.ask(text="never again", hang="middle", ignore_interrupt=True)]
        well = [desk.ask(chunks=["on and "], repeat=40, interval_s=0.1) for _ in range(2 * SLOTS)]
        for ticket in (*sick, *well):
            await settled(ticket)
        faults = [fault_of(ticket.outcome) for ticket in sick]
        left = [move for move in desk.moves if move.target is WorkerState.RETIRING]
        if faults != ["first_event_timeout", "idle_timeout"] or not left:
            raise RuntimeError(f"the faults did not happen as they should: {faults}, {len(left)} worker(s) retired")
        return well


class Crash(NamedTuple):
    """Who was there when a worker was killed: `spoken` are those on it whose clients had been told something."""

    spoken: list[Ticket]
    silent: list[Ticket]
    waiting: list[Ticket]


async def crashes(effort: Effort) -> list[Row]:
    """kill -9 on one of two full workers, with a queue behind."""
    rounds = [await _crash() for _ in range(effort.crash_rounds)]
    spoken, silent, waiting = ([ticket for crash in rounds for ticket in crash[each]] for each in range(3))
    lost_silent, lost_waiting = (sum(not is_answered(t.outcome) for t in tickets) for tickets in (silent, waiting))
    how = (
        f"{len(rounds)} x kill -9 on one of two full fake workers: {len(silent)} silent turns on it, {len(waiting)}"
        f" jobs queued; the {len(spoken)} turns on it that had spoken are lost, as they must be"
    )
    return [
        Row("crash_silent", "turns lost that had not spoken", lost_silent, "turns", 0, how, is_correctness=True),
        Row("crash_queued", "queued jobs lost", lost_waiting, "jobs", 0, how, is_correctness=True),
    ]


async def _crash() -> Crash:
    async with opened(PROFILE, PATIENT) as desk:
        speakers = [desk.ask(chunks=["on and "], repeat=20, interval_s=0.1) for _ in range(SLOTS)]
        await until(lambda: desk.have_spoken(speakers))
        mute = [desk.ask(text="late", delay_s=0.5) for _ in range(SLOTS)]
        queued = [desk.ask(text="later", delay_s=0.05) for _ in range(4 * SLOTS)]
        await asyncio.sleep(0.1)
        victim = worker_of(speakers[0])
        spoken, silent = ([t for t in tickets if worker_of(t) == victim] for tickets in (speakers, mute))
        if len(spoken) + len(silent) != SLOTS or not silent or any(ticket.lease for ticket in queued):
            raise RuntimeError(f"{len(spoken)} and {len(silent)} turns on the worker: not as full as it should be")
        os.kill(desk.pid(victim), signal.SIGKILL)
        for ticket in (*speakers, *mute, *queued):
            await settled(ticket)
        if any(is_answered(ticket.outcome) for ticket in spoken):
            raise RuntimeError("the worker was not killed")
        return Crash(spoken, silent, queued)


class Freeze(NamedTuple):
    """Seconds from SIGSTOP until what a frozen worker's clients can notice."""

    out: float
    replaced: float
    told: float


async def freezes(effort: Effort) -> list[Row]:
    """SIGSTOP on one of two half full workers, by the default probes."""
    rounds = [await _freeze() for _ in range(effort.freezes)]
    out, replaced, told = map(max, zip(*rounds, strict=True))
    probes = ProbeLimits()
    verdict_s = probes.idle_s + probes.timeout_s + probes.hung_s
    how = f"worst of {len(rounds)} SIGSTOP(s) of one of two fake workers with turns on both, default probes"
    bound = f"{how}: {verdict_s:g} s from the last byte to the verdict, and the ticks"
    return [
        Row("freeze_out", "frozen worker: out of rotation", out, "s", 5.0, how),
        Row("freeze_replaced", "frozen worker: its replacement serves", replaced, "s", 15.0, how),
        Row("freeze_told", "frozen worker: its last turn was told", told, "s", 15.5, bound),
    ]


async def _freeze() -> Freeze:
    async with opened(PROFILE, USUAL) as desk:
        speakers = [desk.ask(text="never again", hang="middle") for _ in range(4)]
        await until(lambda: desk.have_spoken(speakers))
        tickets = [*speakers, *(desk.ask(text="late", delay_s=1.0) for _ in range(4))]
        await asyncio.sleep(0.1)
        victim = worker_of(speakers[0])
        successor = victim._replace(epoch=victim.epoch + 1)
        struck = [ticket.job.id for ticket in tickets if worker_of(ticket) == victim]
        began_at = asyncio.get_running_loop().time()
        os.kill(desk.pid(victim), signal.SIGSTOP)
        await until(lambda: all(name in desk.told for name in struck))
        await until(lambda: _moved_at(desk, successor, IN_SERVICE) is not None)
        out_at = _moved_at(desk, victim, {WorkerState.SUSPECT})
        served_at = _moved_at(desk, successor, IN_SERVICE)
        if out_at is None or served_at is None:
            raise RuntimeError("the frozen worker was never under suspicion")
        return Freeze(out_at - began_at, served_at - began_at, max(desk.told[name] for name in struck) - began_at)


def _moved_at(desk: Desk, worker: WorkerId, targets: Iterable[WorkerState]) -> float | None:
    """When a worker first came into one of these states."""
    return next((move.at for move in desk.moves if move.worker == worker and move.target in targets), None)


async def recoveries(effort: Effort, *, is_real: bool) -> list[Row]:
    """kill -9 under load, until every seat is in service again."""
    four = replace(PROFILE, workers=4)
    plain: list[float] = []
    spared: list[float] = []
    for _ in range(effort.kill_rounds):
        plain += await _recover(four, effort.kills)
        spared += await _recover(replace(four, spares=1), effort.kills)
    load = "four workers, 8 clients with turns of 200 ms; spares have waited for as long as a probation"
    rows = [
        _recovery("crash_fake", "fake worker: kill -9 to full seats", plain, 1.0, load),
        _recovery("crash_spare", "fake worker with a spare: kill -9 to full seats", spared, 0.1, load),
    ]
    if is_real:
        async with ModelStandin() as model:
            real = replace(four, base_url=model.base_url, credentials=Credentials(api_key="sk-none"))
            times = await _recover(real, effort.kills)
            rows.append(_recovery("crash_real", "real worker: kill -9 to full seats", times, 2.0, load))
            times = await _recover(replace(real, spares=1), effort.kills)
            rows.append(_recovery("crash_real_spare", "real worker with a spare", times, 0.1, load))
    return rows


SPARE_PROBATION_S = 0.5
"""A spare's wait is its probation: for the bench it is as short as this, and has passed before each kill."""


async def _recover(profile: Profile, kills: int) -> list[float]:
    """Seconds from each kill of a worker of the first epoch to full seats."""
    if profile.spares:
        profile = replace(profile, probation_s=SPARE_PROBATION_S)
    times = []
    async with opened(profile, USUAL) as desk, desk.clients(8, chunks=["one ", "two"], interval_s=0.2):
        for slot in range(kills):
            if profile.spares:
                await asyncio.sleep(2 * SPARE_PROBATION_S)
            times.append(await _kill(desk, WorkerId(profile.name, slot, 1)))
    return times


async def _kill(desk: Desk, worker: WorkerId) -> float:
    pid = desk.pid(worker)
    before = len(desk.moves)
    began_at = asyncio.get_running_loop().time()
    os.kill(pid, signal.SIGKILL)
    await until(lambda: _full_again(desk, worker, before) != inf)
    await desk.until_full()
    return _full_again(desk, worker, before) - began_at


def _full_again(desk: Desk, lost: WorkerId, before: int) -> float:
    """When all seats were in service again, after this worker had left it; `inf`: they are not yet.

    With a spare that is in the very same step.
    """
    since = dropwhile(lambda move: move.worker != lost, desk.moves[before:])
    return next((move.at for move in since if move.seats == desk.seats), inf)


def _recovery(name: str, text: str, times: list[float], goal: float, load: str) -> Row:
    median = statistics.median(times)
    how = f"worst of {len(times)} kill(s), median {median:.3f} s; {load}; first faults, their backoff included"
    return Row(name, text, max(times), "s", goal, how, details={"median": median})

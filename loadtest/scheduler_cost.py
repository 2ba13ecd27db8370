"""What one job costs the scheduler: microseconds of CPU with so many jobs waiting.

Admission is `submit` with every seat taken, dispatch the start of whoever is next when a seat comes free, the end that
of a turn; a refusal is a job turned away for its predicted wait. Observers hear nothing and seats cost little. The best
of several rounds counts, without the collector of garbage. `python -m loadtest.bench scheduler` prints it.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import NamedTuple

import uvloop

from pool.events import Finish, TurnEnd, TurnRequest, TurnSink
from pool.roster import Outlook
from pool.stimuli import Lease
from pool.worker_state import WorkerId
from scheduler.model import Job, Priority, QueuePolicy, WaitTooLong
from scheduler.scheduler import Scheduler

ROUNDS = 200
SEATS = 64
TENANTS = 100
WORKER = WorkerId("main", 0, 1)
OUTLOOK = Outlook(SEATS, SEATS, None)
END = TurnEnd(finish=Finish.STOP)
TURN = TurnRequest("m", "", ())
POLICY = QueuePolicy(1_000_000, codel_target_s=0.0)


class CheapSeats:
    """As many seats as it is told, for next to nothing."""

    def __init__(self) -> None:
        self.spare = 0
        self.running: deque[TurnSink] = deque()
        self._ids = itertools.count(1)

    def free(self, profile: str) -> int:
        return self.spare

    def outlook(self, profile: str) -> Outlook:
        return OUTLOOK

    def try_start(
        self, profile: str, request: TurnRequest, sink: TurnSink, avoid: Collection[WorkerId] = ()
    ) -> Lease | None:
        if not self.spare:
            return None
        self.spare -= 1
        self.running.append(sink)
        return Lease(next(self._ids), WORKER)

    def interrupt(self, lease: Lease) -> None:
        pass


def a_job(number: int) -> Job:
    priority = (Priority.INTERACTIVE, Priority.STANDARD, Priority.BATCH)[number % 3]
    return Job("job", "main", f"tenant-{number % TENANTS}", TURN, 1e9, 100, 1.0, priority, 1e9, 1000, 1_000_000)


class Costs(NamedTuple):
    """Microseconds of CPU for one job."""

    admission: float
    dispatch: float
    end: float
    refusal: float


def measure(waiting: int, rounds: int = ROUNDS) -> Costs:
    """With so many jobs waiting, on a loop of its own like the service's."""
    gc.disable()
    try:
        return uvloop.run(_costs(waiting, rounds))
    finally:
        gc.enable()


async def _costs(waiting: int, rounds: int) -> Costs:
    seats = CheapSeats()
    scheduler = Scheduler(seats, {"main": POLICY})
    seats.spare = SEATS
    numbers = itertools.count()
    for _ in range(waiting + SEATS):
        scheduler.submit(a_job(next(numbers)))
    hopeless = Job("job", "main", "tenant-0", TURN, 0.0)

    def admit() -> None:
        scheduler.submit(jobs.pop())

    def end() -> None:
        seats.running.popleft().end(END)

    def dispatch() -> None:
        seats.spare += 1
        scheduler.seats_freed("main")

    def refuse() -> None:
        with contextlib.suppress(WaitTooLong):
            scheduler.submit(hopeless)

    times = []
    for _ in range(rounds):
        jobs = [a_job(next(numbers)) for _ in range(SEATS)]
        times.append([timed(step) for step in (admit, end, dispatch, refuse)])
    admission, ended, dispatched, refused = map(min, zip(*times, strict=True))
    return Costs(admission, dispatched, ended, refused)


def timed(step: Callable[[], None]) -> float:
    """Microseconds of CPU that one of `SEATS` steps takes."""
    began_at = time.process_time()
    for _ in range(SEATS):
        step()
    return (time.process_time() - began_at) / SEATS * 1e6

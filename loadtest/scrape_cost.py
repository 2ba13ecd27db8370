"""What a scrape costs: milliseconds of the loop's time, in a service of fifty profiles and fifty keys.

Every key has used every model, every profile has jobs that run and jobs that wait, and every metric has been counted.
The workers are those of the pool's core: there are no processes. `python -m loadtest.bench scrape` prints it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from logging import CRITICAL
from pathlib import Path
from statistics import median
from typing import NamedTuple

import structlog
import uvloop

from loadtest.promises import Row, told
from pool.events import Finish, TextDelta, TurnEnd, TurnRequest, TurnSink, Usage
from pool.observer import WorkerExit
from pool.profile import Credentials, Profile
from pool.roster import Outlook, ProfileSnapshot
from pool.state import PoolState
from pool.stimuli import Boot, Booted, Lease, Proved, Started, Ticked
from pool.worker_state import WorkerId, WorkerState
from scheduler.model import Abandoned, Expired, Job, NotReady, QueuePolicy
from scheduler.scheduler import Scheduler
from service.observability import Observability
from service.store.protocol import NoStore

PROFILES = 50
KEYS = 50
WORKERS = 4
SLOTS = 8
ROUNDS = 50
ROUTES = 16
STATUSES = (200, 400, 401, 404, 429, 499, 500, 502, 503, 504)
END = TurnEnd(finish=Finish.STOP, usage=Usage(1000, 400, 7, 200, 0))
TURN = TurnRequest("m", "", ())


class Cost(NamedTuple):
    """CPU time of each scrape's thread in milliseconds, how many numbers were told, and in how many bytes."""

    took_ms: list[float]
    numbers: int
    text_bytes: int


class _House:
    """Seats of workers that are only decided about, which is what a scrape reads of them."""

    def __init__(self, profiles: list[Profile]) -> None:
        self.sinks: list[TurnSink] = []
        self._state = PoolState(profiles, lambda: 0.5)
        booting = [effect for effect in self._state.handle(Started(), 0.0) if isinstance(effect, Boot)]
        while booting:
            worker = booting.pop().worker
            for stimulus in (Booted(worker), Proved(worker), Ticked()):
                booting += [effect for effect in self._state.handle(stimulus, 0.0) if isinstance(effect, Boot)]

    def free(self, profile: str) -> int:
        return self._state.free(profile)

    def outlook(self, profile: str) -> Outlook:
        return self._state.outlook(profile, 0.0)

    def try_start(
        self, profile: str, request: TurnRequest, sink: TurnSink, avoid: Collection[WorkerId] = ()
    ) -> Lease | None:
        lease = self._state.try_lease(profile, 0.0, avoid)
        if lease is not None:
            self.sinks.append(sink)
        return lease

    def interrupt(self, lease: Lease) -> None:
        pass

    def snapshot(self) -> list[ProfileSnapshot]:
        return self._state.snapshot(0.0)

    def unread_bytes(self) -> dict[str, int]:
        return {}


def measure(*, profiles: int = PROFILES, keys: int = KEYS, rounds: int = ROUNDS) -> Cost:
    """Scrape so often, on a loop of its own like the service's."""
    return uvloop.run(_cost(profiles, keys, rounds))


async def _cost(profiles: int, keys: int, rounds: int) -> Cost:
    names = [f"profile-{number}" for number in range(profiles)]
    specs = [Profile(name, "http://x", "m", Credentials(), workers=WORKERS, slots=SLOTS) for name in names]
    house = _House(specs)
    watching = Observability()
    scheduler = Scheduler(house, dict.fromkeys(names, QueuePolicy(queue_max=1000)), watching)
    watching.watch(house, scheduler, NoStore())
    try:
        _live(watching, scheduler, house, names, keys)
        took_ms = []
        text = b""
        for _ in range(rounds):
            began_at = time.thread_time()
            text = watching.numbers.text()
            took_ms.append((time.thread_time() - began_at) * 1000)
    finally:
        scheduler.cut_off()
        watching.close()
    numbers = sum(not line.startswith(b"#") for line in text.splitlines())
    return Cost(took_ms, numbers, len(text))


def run(*, is_quick: bool, json_file: Path | None) -> int:
    """Measure, print the row, write the JSON; the exit code."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(CRITICAL))
    return told(_rows(3 if is_quick else ROUNDS), is_quick=is_quick, json_file=json_file)


def _rows(rounds: int) -> Iterator[list[Row]]:
    cost = measure(rounds=rounds)
    took = sorted(cost.took_ms)
    how = f"{cost.numbers:,} numbers in {cost.text_bytes / 1e6:.1f} MB; {took[0]:.2f} to {took[-1]:.2f}"
    text = f"loop time of a scrape, {PROFILES} profiles and {KEYS} keys"
    yield [Row("scrape_ms", text, median(took), "ms", 5.0, how)]


def _live(watching: Observability, scheduler: Scheduler, house: _House, names: list[str], keys: int) -> None:
    """Let everything happen to every profile."""
    for route in range(ROUTES):
        for status in STATUSES:
            watching.request_answered(f"/v1/route-{route}", status, 0.1)
    for name in names:
        jobs = [Job("", name, f"key-{key}", TURN, 60.0, model=f"model-of-{name}") for key in range(keys)]
        for number, job in enumerate(jobs):
            watching.turn_ended(job, END)
            scheduler.submit(Job(f"{name}.{number}", name, job.tenant, TURN, 60.0, model=job.model))
        _happen(watching, jobs[0])
    for sink in house.sinks[::2]:
        sink.push([TextDelta("x")])
        sink.end(END)


def _happen(watching: Observability, job: Job) -> None:
    """What the scheduler and the pool tell of one profile when it has a bad day."""
    worker = WorkerId(job.profile, 0, 1)
    for reason in ("draining", "not_ready", "queue_full", "wait_too_long"):
        watching.job_rejected(job, reason)
    watching.fell_back(job.profile, NotReady("", 1.0))
    watching.first_text(job.profile, 0.5)
    for reason in ("worker_lost", "quarantined"):
        watching.turn_returned(job, Lease(1, worker), 1, reason, 0.0)
    for outcome in (Abandoned(), Expired(1.0, 1.0)):
        watching.ticket_settled(job, outcome, 1.0, 0.0, 0)
        watching.ticket_settled(job, outcome, 1.0, 0.0, 2)
    watching.worker_booted(worker, "0.163.0", 1.0)
    watching.boot_failed(worker, "it exited", 1, 0.25)
    for code in (0, 1, -9):
        watching.worker_exited(WorkerExit(worker, "it exited", code, ""))
    watching.frames_counted(worker, dict.fromkeys(("frames", "late", "stale", "unknown", "probe_missed", "strike"), 1))
    watching.times_taken(worker, [0.1], [0.1])
    for source, target in zip(WorkerState, [*WorkerState][1:], strict=False):
        watching.worker_moved(worker, source, target, "it is old")

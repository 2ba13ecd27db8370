"""A pool of app-servers with a scheduler above it in this process, and notes of what both tell, with the time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from loadtest.fake_app_server import write_launcher
from pool.events import Finish, TurnRequest
from pool.observer import PoolObserver
from pool.pool import Pool
from pool.profile import Credentials, Profile
from pool.stimuli import Lease
from pool.worker_state import WorkerId, WorkerState
from scheduler.model import Ended, Job, Outcome, QueuePolicy, Rejected
from scheduler.observer import SchedulerObserver
from scheduler.scheduler import Scheduler
from scheduler.ticket import Ticket

MODEL = "gpt-5.5"
PROFILE = Profile("bench", "http://127.0.0.1:9/v1", MODEL, Credentials())
"""Nobody listens there, and the fake app-server never asks."""
PATIENT = QueuePolicy(queue_max=1000, codel_target_s=0.0)
"""Sheds nobody: a job that is given up for its wait is no job that was lost."""
USUAL = QueuePolicy(queue_max=64)
WAIT_S = 60.0
"""How long anything may take."""
POLL_S = 0.005
BUDGET_S = 60.0
PAUSE_S = 0.02


class Move(NamedTuple):
    """A worker changed its state; `seats` is how many there were in service when it had."""

    at: float
    worker: WorkerId
    target: WorkerState
    seats: int


class Desk(PoolObserver, SchedulerObserver):
    """Where a measurement submits jobs and reads what became of them. Made by `opened`."""

    def __init__(self, profile: Profile, policy: QueuePolicy, directory: Path) -> None:
        self.profile = profile
        self.seats = profile.workers * profile.slots
        self.pool = Pool([profile], directory, "0.0.0", observer=self)
        self.scheduler = Scheduler(self.pool, {profile.name: policy}, self)
        self.pool.on_freed = self.scheduler.seats_freed
        self.pool.on_quarantined = self.scheduler.leases_doubted
        self.moves: list[Move] = []
        self.waits: dict[str, float] = {}
        """How long each job waited for its first seat."""
        self.spoken: set[str] = set()
        """Jobs whose client was told something."""
        self.told: dict[str, float] = {}
        """When a job had its outcome, or lost its turn, for the last time."""
        self.finished = 0
        """Jobs answered to the end."""
        self.bugs: list[str] = []
        self._directory = directory
        self._loop = asyncio.get_running_loop()
        self._jobs = 0

    # --- what the observers hear -----------------------------------------------------------------------------------

    def worker_moved(self, worker: WorkerId, source: WorkerState, target: WorkerState, reason: str) -> None:
        self.moves.append(Move(self._loop.time(), worker, target, self._seats()))

    def bug_found(self, where: str, error: Exception) -> None:
        self.bugs.append(f"{where}: {error!r}")

    def turn_started(self, job: Job, lease: Lease, attempt: int, waited_s: float) -> None:
        if attempt == 1:
            self.waits[job.id] = waited_s

    def turn_spoke(self, job: Job, attempt: int) -> None:
        self.spoken.add(job.id)

    def turn_returned(self, job: Job, lease: Lease, attempt: int, reason: str, rest_s: float) -> None:
        self.told[job.id] = self._loop.time()

    def ticket_settled(self, job: Job, outcome: Outcome, waited_s: float, ran_s: float, attempts: int) -> None:
        self.told[job.id] = self._loop.time()
        self.finished += is_answered(outcome)

    # --- what a measurement does -----------------------------------------------------------------------------------

    def ask(self, **directive: object) -> Ticket:
        """A ticket whose turn obeys the directive (see `loadtest.script`).

        Raises:
            Rejected: the scheduler does not take it.
        """
        return self.submit("tenant", None, directive)

    def submit(self, tenant: str, queue_share: int | None, directive: Mapping[str, object]) -> Ticket:
        """Likewise, for a tenant of which so many jobs may wait."""
        self._jobs += 1
        text = f"@@{json.dumps(directive)}"
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        turn = TurnRequest(MODEL, "", (item,))
        name = f"job-{self._jobs}"
        return self.scheduler.submit(
            Job(name, self.profile.name, tenant, turn, BUDGET_S, len(text), queue_share=queue_share)
        )

    async def client(self, **directive: object) -> None:
        """Asks the same again and again, until it is cancelled."""
        while True:
            with contextlib.suppress(Rejected):
                await settled(self.ask(**directive))
                continue
            await asyncio.sleep(PAUSE_S)

    @asynccontextmanager
    async def clients(self, count: int, **directive: object) -> AsyncIterator[None]:
        """So many clients for as long as this lasts."""
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self.client(**directive)) for _ in range(count)]
            yield
            for task in running:
                task.cancel()

    async def until_full(self) -> None:
        """Every seat is in service, and every spare waits."""
        await until(lambda: self._seats() == self.seats and self._spares() == self.profile.spares)

    def have_spoken(self, tickets: Collection[Ticket]) -> bool:
        """The clients of all of these were told something."""
        return all(ticket.job.id in self.spoken for ticket in tickets)

    def pid(self, worker: WorkerId) -> int:
        """The process of a worker, known by its home. Linux only.

        Raises:
            RuntimeError: there is no such process.
        """
        home = f"{worker.profile}-{worker.slot}-{worker.epoch}"
        for path in Path("/proc").glob("[0-9]*/cwd"):
            with contextlib.suppress(OSError):
                cwd = path.readlink()
                if home in cwd.parts and cwd.is_relative_to(self._directory.resolve()):
                    return int(path.parent.name)
        raise RuntimeError(f"worker {worker} has no process")

    def _seats(self) -> int:
        return self.pool.outlook(self.profile.name).seats

    def _spares(self) -> int:
        (row,) = self.pool.snapshot()
        return row.workers[WorkerState.SPARE]


@asynccontextmanager
async def opened(profile: Profile, policy: QueuePolicy) -> AsyncIterator[Desk]:
    """A desk whose workers all have proved themselves; a profile without a provider gets fake app-servers.

    Nothing of it is left afterwards.

    Raises:
        RuntimeError: our own code failed meanwhile.
    """
    with tempfile.TemporaryDirectory(prefix="codex-completions-bench-") as temporary:
        directory = Path(temporary)
        if profile.base_url == PROFILE.base_url:
            profile = replace(profile, codex_bin=write_launcher(directory / "codex"))
        desk = Desk(profile, policy, directory / "state")
        desk.pool.prepare()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(desk.pool.run())
            try:
                await desk.pool.first_boots()
                async with desk.clients(desk.seats, text="warm"):
                    await desk.until_full()
                await until(lambda: desk.pool.free(profile.name) == desk.seats)
                yield desk
            finally:
                desk.scheduler.drain()
                desk.scheduler.cut_off()
                desk.pool.stop()
        if desk.bugs:
            raise RuntimeError(f"bugs of ours: {desk.bugs}")


def is_answered(outcome: Outcome | None) -> bool:
    """The turn ran to its proper end."""
    return isinstance(outcome, Ended) and outcome.end.finish is Finish.STOP


def fault_of(outcome: Outcome | None) -> str:
    """Why a turn failed, in a word; of what did not fail, the outcome's name."""
    if isinstance(outcome, Ended) and outcome.end.fault is not None:
        return str(outcome.end.fault.kind)
    return type(outcome).__name__


def worker_of(ticket: Ticket) -> WorkerId:
    """Where the ticket's turn runs, or ran last.

    Raises:
        RuntimeError: it has had none.
    """
    if ticket.lease is None:
        raise RuntimeError("a turn that should run has no seat")
    return ticket.lease.worker


async def settled(ticket: Ticket) -> Ticket:
    """The ticket, once it has its outcome; what it says is read and dropped."""
    async with asyncio.timeout(WAIT_S):
        while await ticket.read():
            pass
    return ticket


async def until(condition: Callable[[], object], bound_s: float = WAIT_S) -> None:
    """Wait until `condition()` holds.

    Raises:
        TimeoutError: it did not, within `bound_s`.
    """
    async with asyncio.timeout(bound_s):
        while not condition():  # noqa: ASYNC110 - processes and observers set no event
            await asyncio.sleep(POLL_S)

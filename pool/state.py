"""The pool's core: which worker exists where, who holds a seat on it, and what has to be done next.

Synchronous and without a clock, I/O or logging: stimuli and `now` (monotonic seconds) go in, effects come out, and
the shell (`pool.pool`) carries them out in order.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, assert_never

from pool import backoff
from pool.errors import IllegalTransition
from pool.least_loaded import LeastLoaded
from pool.profile import Profile
from pool.story import Story
from pool.worker_state import TRANSITIONS, WorkerId, WorkerState

SPAWN_CONCURRENCY = 2
"""Boots at a time over all profiles: boots that overlap have been seen to hang."""


class Lease(NamedTuple):
    """The right to one seat on one worker incarnation."""

    id: int
    worker: WorkerId


# --- stimuli -----------------------------------------------------------------------------------------------------


class Started(NamedTuple):
    """The shell is up: boot."""


class Booted(NamedTuple):
    """The handshake is done and the version will do."""

    worker: WorkerId


class Released(NamedTuple):
    """The worker has let go of this lease's turn."""

    lease: Lease


class InterruptIgnored(NamedTuple):
    """The worker did not end this lease's turn when asked to."""

    lease: Lease


class Unresponsive(NamedTuple):
    """The worker leaves requests unanswered; what runs on it may still be fine."""

    worker: WorkerId


class Broken(NamedTuple):
    """The worker can serve no (more) turns: its boot failed, it exited, its stdout closed. Its leases are over."""

    worker: WorkerId
    reason: str


class Exited(NamedTuple):
    """The worker's process and home are gone."""

    worker: WorkerId
    reason: str


class Ticked(NamedTuple):
    """Time has passed."""


class Stopped(NamedTuple):
    """The service is stopping: end every worker, boot none."""


Stimulus = Started | Booted | Released | InterruptIgnored | Unresponsive | Broken | Exited | Ticked | Stopped


# --- effects -----------------------------------------------------------------------------------------------------


class Boot(NamedTuple):
    """Start this worker incarnation."""

    worker: WorkerId


class Stop(NamedTuple):
    """End this worker; harmless if it is ending."""

    worker: WorkerId
    reason: str


class Freed(NamedTuple):
    """This profile has free seats that it did not have before."""

    profile: str


class Moved(NamedTuple):
    """A worker changed its state."""

    worker: WorkerId
    source: WorkerState
    target: WorkerState


Effect = Boot | Stop | Freed | Moved


@dataclass(slots=True)
class _Worker:
    id: WorkerId
    state: WorkerState = WorkerState.STARTING
    leases: set[int] = field(default_factory=set)
    stuck: set[int] = field(default_factory=set)
    ready_at: float | None = None
    retires_because: str = ""
    story: Story = field(default_factory=Story)


@dataclass(slots=True)
class _Slot:
    index: int
    epoch: int = 0
    failures: int = 0
    boot_at: float = 0.0
    worker: _Worker | None = None


@dataclass(slots=True)
class _Pool:
    profile: Profile
    slots: list[_Slot]
    ready: LeastLoaded[WorkerId]
    boots: int = 0
    last_failure: str | None = None


class ProfileSnapshot(NamedTuple):
    """One profile in numbers: configured size, workers by state, seats on ready workers, leases, boots ever begun."""

    profile: str
    size: int
    workers: dict[WorkerState, int]
    seats: int
    free: int
    leased: int
    boots: int
    last_failure: str | None


class Outlook(NamedTuple):
    """What a profile has to offer: `seats`, free or taken, on workers in service, and `nominal` ones as configured.

    `down_s` is None, or, when no worker serves and boots keep failing, the seconds until the next one is tried.
    """

    seats: int
    nominal: int
    down_s: float | None


class PoolState:
    """Slots, workers and leases of every profile. `jitter` returns a number in [0, 1)."""

    def __init__(self, profiles: Iterable[Profile], jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._pools = {
            profile.name: _Pool(
                profile, [_Slot(index) for index in range(profile.workers)], LeastLoaded[WorkerId](profile.slots)
            )
            for profile in profiles
        }
        self._leases: dict[int, _Worker] = {}
        self._next_lease = 1
        self._starting = 0
        self._is_running = False

    # --- questions -------------------------------------------------------------------------------------------

    def free(self, profile: str) -> int:
        """Free seats on ready workers."""
        return self._pools[profile].ready.free

    def snapshot(self) -> list[ProfileSnapshot]:
        """Every profile in numbers."""
        out = []
        for name, pool in self._pools.items():
            workers = [slot.worker for slot in pool.slots if slot.worker is not None]
            states = dict.fromkeys(WorkerState, 0)
            for worker in workers:
                states[worker.state] += 1
            leased = sum(len(worker.leases) for worker in workers)
            seats = len(pool.ready) * pool.profile.slots
            free, size = pool.ready.free, pool.profile.workers
            out.append(ProfileSnapshot(name, size, states, seats, free, leased, pool.boots, pool.last_failure))
        return out

    def is_idle(self) -> bool:
        """No worker is left."""
        return all(slot.worker is None for pool in self._pools.values() for slot in pool.slots)

    def story(self, worker: WorkerId) -> str:
        """What happened to this worker; "" when it is not known any more."""
        record = self._find(worker)
        return str(record.story) if record is not None else ""

    # --- decisions -------------------------------------------------------------------------------------------

    def outlook(self, profile: str) -> Outlook:
        """What a profile has to offer."""
        pool = self._pools[profile]
        return Outlook(len(pool.ready) * pool.profile.slots, pool.profile.workers * pool.profile.slots, None)

    def try_lease(self, profile: str, now: float, avoid: Container[WorkerId] = ()) -> Lease | None:
        """A seat on the least loaded ready worker outside `avoid`, taken at once; None when there is none."""
        worker_id = self._pools[profile].ready.take(avoid)
        if worker_id is None:
            return None
        worker = self._find(worker_id)
        assert worker is not None  # noqa: S101 - `ready` holds live workers only; `validate` checks it
        lease = Lease(self._next_lease, worker_id)
        self._next_lease += 1
        worker.leases.add(lease.id)
        self._leases[lease.id] = worker
        worker.story.tell(now, f"lease {lease.id}")
        return lease

    def handle(self, stimulus: Stimulus, now: float) -> tuple[Effect, ...]:
        """What has to be done now, in order."""
        effects: list[Effect] = []
        match stimulus:
            case Started():
                self._is_running = True
                self._boot_due(now, effects)
            case Ticked():
                self._boot_due(now, effects)
            case Stopped():
                self._on_stopped(now, effects)
            case Released(lease):
                self._on_released(lease, now, effects)
            case InterruptIgnored(lease):
                self._on_interrupt_ignored(lease, now, effects)
            case Booted(worker_id) | Unresponsive(worker_id) | Broken(worker_id, _) | Exited(worker_id, _):
                worker = self._find(worker_id)
                if worker is not None:
                    self._on_worker(worker, stimulus, now, effects)
            case _:
                assert_never(stimulus)
        return tuple(effects)

    def validate(self) -> None:
        """Raise AssertionError when the state contradicts itself; for tests."""
        starting = 0
        for pool in self._pools.values():
            ready = {slot.worker.id for slot in pool.slots if slot.worker and slot.worker.state is WorkerState.READY}
            assert len(pool.ready) == len(ready)  # noqa: S101
            assert all(worker_id in pool.ready for worker_id in ready)  # noqa: S101
            seats_used = 0
            for slot in pool.slots:
                worker = slot.worker
                if worker is None:
                    continue
                starting += worker.state is WorkerState.STARTING
                assert len(worker.leases) <= pool.profile.slots  # noqa: S101
                assert worker.stuck <= worker.leases  # noqa: S101
                assert all(self._leases[lease] is worker for lease in worker.leases)  # noqa: S101
                seats_used += len(worker.leases) if worker.state is WorkerState.READY else 0
            assert pool.ready.free == len(ready) * pool.profile.slots - seats_used  # noqa: S101
        assert self._starting == starting <= SPAWN_CONCURRENCY  # noqa: S101
        assert all(lease in worker.leases for lease, worker in self._leases.items())  # noqa: S101

    # --- inside ----------------------------------------------------------------------------------------------

    def _find(self, worker_id: WorkerId) -> _Worker | None:
        """The worker, unless its epoch is over: what comes of an earlier one is a ghost's."""
        slot = self._pools[worker_id.profile].slots[worker_id.slot]
        return slot.worker if slot.worker is not None and slot.worker.id == worker_id else None

    def _on_worker(
        self, worker: _Worker, stimulus: Booted | Unresponsive | Broken | Exited, now: float, effects: list[Effect]
    ) -> None:
        match stimulus:
            case Booted():
                self._on_booted(worker, now, effects)
            case Unresponsive():
                self._retire(worker, "it left requests unanswered", now, effects)
            case Broken(_, reason):
                self._stop(worker, reason, now, effects)
            case Exited(_, reason):
                self._on_exited(worker, reason, now, effects)
            case _:
                assert_never(stimulus)

    def _on_stopped(self, now: float, effects: list[Effect]) -> None:
        self._is_running = False
        for pool in self._pools.values():
            for slot in pool.slots:
                if slot.worker is not None:
                    self._stop(slot.worker, "the service is stopping", now, effects)

    def _boot_due(self, now: float, effects: list[Effect]) -> None:
        if not self._is_running or self._starting >= SPAWN_CONCURRENCY:
            return
        empty = [(pool, slot) for pool in self._pools.values() for slot in pool.slots if slot.worker is None]
        due = [(pool, slot) for pool, slot in empty if slot.boot_at <= now]
        due.sort(key=lambda pair: pair[1].boot_at)  # or a profile whose boots hang keeps the others from theirs
        for pool, slot in due[: SPAWN_CONCURRENCY - self._starting]:
            slot.epoch += 1
            slot.worker = _Worker(WorkerId(pool.profile.name, slot.index, slot.epoch))
            slot.worker.story.tell(now, "boot")
            pool.boots += 1
            self._starting += 1
            effects.append(Boot(slot.worker.id))

    def _on_booted(self, worker: _Worker, now: float, effects: list[Effect]) -> None:
        if worker.state is not WorkerState.STARTING:
            return
        self._move(worker, WorkerState.READY, now, effects)
        worker.ready_at = now
        self._pools[worker.id.profile].ready.add(worker.id)
        effects.append(Freed(worker.id.profile))
        self._boot_due(now, effects)

    def _on_released(self, lease: Lease, now: float, effects: list[Effect]) -> None:
        worker = self._leases.pop(lease.id, None)
        if worker is None:
            return
        worker.leases.discard(lease.id)
        worker.stuck.discard(lease.id)
        worker.story.tell(now, f"released {lease.id}")
        if worker.state is WorkerState.READY:
            self._pools[worker.id.profile].ready.give_back(worker.id)
            effects.append(Freed(worker.id.profile))
        self._stop_if_spent(worker, now, effects)

    def _on_interrupt_ignored(self, lease: Lease, now: float, effects: list[Effect]) -> None:
        worker = self._leases.get(lease.id)
        if worker is None:
            return
        worker.stuck.add(lease.id)
        self._retire(worker, "it ignored an interrupt", now, effects)

    def _retire(self, worker: _Worker, reason: str, now: float, effects: list[Effect]) -> None:
        if worker.state is WorkerState.READY:
            worker.retires_because = reason
            self._move(worker, WorkerState.RETIRING, now, effects)
        self._stop_if_spent(worker, now, effects)

    def _stop_if_spent(self, worker: _Worker, now: float, effects: list[Effect]) -> None:
        """A retiring worker goes when every turn that still moves has ended."""
        if worker.state is WorkerState.RETIRING and worker.leases <= worker.stuck:
            self._stop(worker, worker.retires_because, now, effects)

    def _stop(self, worker: _Worker, reason: str, now: float, effects: list[Effect]) -> None:
        if worker.state is WorkerState.STOPPING:
            return
        worker.story.tell(now, reason)
        self._move(worker, WorkerState.STOPPING, now, effects)
        for lease in worker.leases:
            del self._leases[lease]
        worker.leases.clear()
        worker.stuck.clear()
        effects.append(Stop(worker.id, reason))
        self._boot_due(now, effects)

    def _on_exited(self, worker: _Worker, reason: str, now: float, effects: list[Effect]) -> None:
        if worker.state not in (WorkerState.STARTING, WorkerState.STOPPING):
            self._stop(worker, reason, now, effects)
        self._move(worker, WorkerState.DEAD, now, effects)
        pool = self._pools[worker.id.profile]
        if self._is_running:
            pool.last_failure = reason
        slot = pool.slots[worker.id.slot]
        steady = worker.ready_at is not None and now - worker.ready_at >= backoff.STEADY_S
        slot.failures = 0 if steady else slot.failures + 1
        slot.boot_at = now + backoff.delay(slot.failures, self._jitter())
        slot.worker = None
        self._boot_due(now, effects)

    def _move(self, worker: _Worker, target: WorkerState, now: float, effects: list[Effect]) -> None:
        source = worker.state
        if (source, target) not in TRANSITIONS:
            raise IllegalTransition(f"worker {worker.id}", source, target, str(worker.story))
        if source is WorkerState.STARTING:
            self._starting -= 1
        if source is WorkerState.READY:
            self._pools[worker.id.profile].ready.remove(worker.id)
        worker.state = target
        worker.story.tell(now, target)
        effects.append(Moved(worker.id, source, target))

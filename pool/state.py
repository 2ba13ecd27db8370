"""The pool's core: which worker exists where, who holds a seat on it, and what has to be done next.

Synchronous and without a clock, I/O or logging: stimuli and `now` (monotonic seconds) go in, effects come out, and
the shell (`pool.pool`) carries them out in order.

A profile has a fixed number of places ("slots"), and each is filled by exactly one worker: one that serves, waits as a
spare, boots, or waits for its boot. A worker that is on its way out, or under suspicion, has lost its place to a
successor; it stays until it is empty, and until the successor serves if nothing is wrong with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from itertools import count
from typing import assert_never

from pool import backoff
from pool.breaker import Breaker
from pool.errors import IllegalTransition
from pool.health import STALL_S
from pool.profile import Profile
from pool.roster import Outlook, PoolRecord, ProfileSnapshot, WorkerRecord, WorkerSnapshot
from pool.stimuli import (
    Boot,
    Booted,
    Broken,
    Cleared,
    Command,
    Commanded,
    Condemned,
    Doubted,
    Effect,
    Exited,
    Freed,
    InterruptIgnored,
    Lease,
    Measured,
    Moved,
    Overloaded,
    Proved,
    Reconfigured,
    Released,
    Started,
    Stimulus,
    Stop,
    Stopped,
    Struck,
    Suspected,
    Ticked,
)
from pool.story import Line
from pool.worker_state import IN_SERVICE, TRANSITIONS, Verdict, WorkerId, WorkerState

SPAWN_CONCURRENCY = 2
"""Boots at a time over all profiles: boots that overlap have been seen to hang."""
PROBATION_SEATS = 2
"""What a bad deployment may burn."""
PAUSE_S = 0.2
MAX_PAUSE_S = 2.0
"""How long a worker that said it was overloaded is spared, the first time and at most."""
AGE_SPREAD = 0.1
TURNS_SPREAD = 0.1

BURIED = 64
"""Workers whose stories are kept when they are gone."""

_S = WorkerState
_COMMANDABLE: dict[Command, frozenset[WorkerState]] = {
    Command.QUARANTINE: frozenset({_S.PROBATION, _S.READY, _S.SUSPECT}),
    Command.RETIRE: frozenset({_S.SPARE, _S.PROBATION, _S.READY}),
    Command.RESTART: frozenset(WorkerState) - {_S.STOPPING, _S.DEAD},
}
"""Of which workers an operator may want what."""
COMMANDED: dict[Command, str] = {
    Command.QUARANTINE: "an operator quarantined it",
    Command.RETIRE: "an operator retired it",
    Command.RESTART: "an operator restarted it",
}
"""Their reason to go."""
_USE = (_S.BACKOFF, _S.STARTING, _S.SPARE, _S.PROBATION, _S.READY)
"""Who fills a place, the most dispensable first."""
_GONE = frozenset({_S.STOPPING, _S.DEAD})


class PoolState:
    """Places, workers and leases of every profile. `jitter` returns a number in [0, 1)."""

    def __init__(self, profiles: Iterable[Profile], jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._pools = {profile.name: PoolRecord(profile) for profile in profiles}
        self._epochs: dict[tuple[str, int], int] = {}
        self._leases: dict[int, WorkerRecord] = {}
        self._next_lease = 1
        self._buried: deque[tuple[WorkerId, tuple[Line, ...]]] = deque(maxlen=BURIED)
        self._starting = 0
        self._is_running = False
        self._ticked_at: float | None = None
        self._free_before: dict[str, int] = {}
        self._effects: list[Effect] = []

    # --- questions -------------------------------------------------------------------------------------------

    def free(self, profile: str) -> int:
        """Free seats on workers in service; none in a profile that is not (any more) there."""
        pool = self._pools.get(profile)
        return pool.in_service.free if pool is not None else 0

    def outlook(self, profile: str, now: float) -> Outlook:
        """What this profile has to offer."""
        pool = self._pools.get(profile)
        if pool is None:
            return Outlook(0, 0, backoff.CAP_S)
        is_down = pool.breaker.is_open and not any(worker.state in IN_SERVICE for worker in pool.workers.values())
        nominal = pool.profile.workers * pool.profile.slots
        return Outlook(pool.in_service.seats, nominal, pool.breaker.wait_s(now) if is_down else None)

    def snapshot(self, now: float) -> list[ProfileSnapshot]:
        """Every profile in numbers."""
        out = []
        for name, pool in self._pools.items():
            states = dict.fromkeys(WorkerState, 0)
            for worker in pool.workers.values():
                states[worker.state] += 1
            out.append(
                ProfileSnapshot(
                    name,
                    pool.wanted,
                    states,
                    pool.in_service.seats,
                    pool.in_service.free,
                    sum(len(worker.leases) for worker in pool.workers.values()),
                    pool.boots,
                    pool.last_failure,
                    pool.breaker.is_open,
                    pool.panic.is_on(now),
                    sum(0 < worker.generation < pool.generation for worker in pool.workers.values()),
                    tuple(
                        WorkerSnapshot(w.id, w.state, len(w.leases), w.turns, w.rss_bytes, w.why)
                        for w in pool.workers.values()
                    ),
                )
            )
        return out

    def next_boot(self, worker: WorkerId, now: float) -> tuple[int, float | None]:
        """How many starts in a row have failed on this worker's place, and in how many seconds the next is tried."""
        pool = self._pools.get(worker.profile)
        successor = pool.places.get(worker.slot) if pool is not None else None
        if pool is None or successor is None or successor.state is not _S.BACKOFF:
            return 0, None
        return successor.failures, max(successor.boot_at - now, pool.breaker.wait_s(now))

    def troubles(self, now: float) -> frozenset[tuple[str, str]]:
        """Profiles, and what is wrong with all of them."""
        broken = ((name, "breaker") for name, pool in self._pools.items() if pool.breaker.is_open)
        sick = ((name, "panic") for name, pool in self._pools.items() if pool.panic.is_on(now))
        return frozenset((*broken, *sick))

    def spill(self) -> tuple[Effect, ...]:
        """What had been decided when a bug of ours ended a decision in the middle."""
        return tuple(self._effects)

    def is_idle(self) -> bool:
        """No worker is left."""
        return not any(pool.workers for pool in self._pools.values())

    def story(self, worker: WorkerId) -> tuple[Line, ...]:
        """What happened to this worker, and to one that is gone, as far as it is remembered; oldest first."""
        record = self._find(worker)
        if record is not None:
            return record.story.lines()
        return next((lines for each, lines in self._buried if each == worker), ())

    def buried(self) -> tuple[WorkerId, ...]:
        """Workers that are gone, and have a story; the last of them first."""
        return tuple(worker for worker, _ in reversed(self._buried))

    def objection(self, worker: WorkerId, command: Command) -> str | None:
        """Why an operator cannot have this of the worker; None: `Commanded` does it.

        Raises:
            KeyError: there is no such worker (any more).
        """
        record = self._find(worker)
        if record is None:
            raise KeyError(worker)
        if record.state not in _COMMANDABLE[command]:
            return f"it is {record.state}"
        return (
            f"it is to be replaced already: {record.outworn}" if command is Command.RETIRE and record.outworn else None
        )

    # --- decisions -------------------------------------------------------------------------------------------

    def try_lease(self, profile: str, now: float, avoid: Collection[WorkerId] = ()) -> Lease | None:
        """A seat on the least loaded worker in service, taken at once; None when there is none outside `avoid`."""
        pool = self._pools.get(profile)
        worker_id = pool.in_service.take(avoid) if pool is not None else None
        if pool is None or worker_id is None:
            return None
        worker = pool.workers[worker_id]
        lease = Lease(self._next_lease, worker_id)
        self._next_lease += 1
        worker.leases.add(lease.id)
        worker.turns += 1
        self._leases[lease.id] = worker
        worker.story.tell(now, f"lease {lease.id}")
        return lease

    def handle(self, stimulus: Stimulus, now: float) -> tuple[Effect, ...]:
        """What has to be done now, in order."""
        effects = self._effects = []
        self._forgive_stall(now)
        match stimulus:
            case Started():
                self._on_started(now)
            case Ticked():
                self._on_ticked(now)
            case Stopped():
                self._on_stopped(now)
            case Reconfigured(profiles, changed):
                self._on_reconfigured(profiles, changed, now)
            case Released(lease):
                self._on_released(lease, now)
            case InterruptIgnored(lease):
                self._on_interrupt_ignored(lease, now)
            case _:
                worker = self._find(stimulus.worker)
                if worker is not None:
                    self._on_worker(worker, stimulus, now)
        if not isinstance(stimulus, Released):
            self._boot_due(now)
        if self._free_before:
            self._effects += [Freed(name) for name, before in self._free_before.items() if self.free(name) > before]
            self._free_before.clear()
        return tuple(effects)

    def validate(self) -> None:
        """Raise AssertionError when the state contradicts itself; for tests."""
        starting = 0
        for pool in self._pools.values():
            if self._is_running:
                assert len(pool.places) == pool.wanted  # noqa: S101
            free = seats = 0
            for worker in pool.workers.values():
                starting += worker.state is _S.STARTING
                assert worker.state is not _S.DEAD  # noqa: S101
                assert worker.stuck <= worker.leases  # noqa: S101
                assert all(self._leases[lease] is worker for lease in worker.leases)  # noqa: S101
                assert not (worker.leases and worker.state in (_S.BACKOFF, _S.STARTING, _S.SPARE, _S.STOPPING))  # noqa: S101
                limit = self._seats_of(pool, worker)
                assert (worker.id in pool.in_service) == (limit > 0)  # noqa: S101
                seats += limit
                free += max(0, limit - len(worker.leases))
            assert (pool.in_service.seats, pool.in_service.free) == (seats, free)  # noqa: S101
            assert all(pool.workers[worker.id] is worker for worker in pool.places.values())  # noqa: S101
            fills = (_S.BACKOFF, _S.STARTING, _S.SPARE, *IN_SERVICE)
            assert all(worker.state in fills for worker in pool.places.values())  # noqa: S101
            homeless = [w for w in pool.workers.values() if not pool.holds_place(w)]
            assert not any(w.state in (_S.BACKOFF, _S.STARTING, _S.SPARE) for w in homeless)  # noqa: S101
        assert self._starting == starting <= SPAWN_CONCURRENCY  # noqa: S101
        assert all(lease in worker.leases for lease, worker in self._leases.items())  # noqa: S101

    # --- stimuli ---------------------------------------------------------------------------------------------

    def _on_started(self, now: float) -> None:
        self._is_running = True
        for pool in self._pools.values():
            self._fit(pool, now)

    def _find(self, worker_id: WorkerId) -> WorkerRecord | None:
        """The worker, unless its epoch is over: what comes of an earlier one is a ghost's."""
        pool = self._pools.get(worker_id.profile)
        return pool.workers.get(worker_id) if pool is not None else None

    def _on_worker(
        self,
        worker: WorkerRecord,
        stimulus: Booted
        | Proved
        | Struck
        | Suspected
        | Cleared
        | Condemned
        | Commanded
        | Overloaded
        | Measured
        | Broken
        | Exited,
        now: float,
    ) -> None:
        pool = self._pools[worker.id.profile]
        if worker.state in _GONE and not isinstance(stimulus, Exited):
            return
        match stimulus:
            case Booted():
                self._on_booted(pool, worker, now)
            case Proved() | Struck():
                self._on_trial(pool, worker, stimulus, now)
            case Suspected(_, reason):
                self._on_suspected(pool, worker, reason, now)
            case Cleared():
                self._on_cleared(pool, worker, now)
            case Condemned(_, verdict, reason):
                self._on_condemned(pool, worker, verdict, reason, now)
            case Commanded(_, command):
                self._on_commanded(pool, worker, command, now)
            case Overloaded():
                self._on_overloaded(pool, worker, now)
            case Measured(_, rss_bytes):
                worker.rss_bytes = rss_bytes
            case Broken(_, reason):
                self._stop(pool, worker, reason, now, is_fault=True)
            case Exited(_, reason):
                self._on_exited(pool, worker, reason, now)
            case _:
                assert_never(stimulus)

    def _on_booted(self, pool: PoolRecord, worker: WorkerRecord, now: float) -> None:
        if worker.state is not _S.STARTING:
            return
        profile = pool.profile
        worker.booted_at = now
        pool.panic.end()
        worker.jitter = self._jitter(), self._jitter()
        if pool.serving >= profile.workers:
            self._move(pool, worker, _S.SPARE, "enough others serve", now)
            pool.breaker.succeeded()
        else:
            self._admit(pool, worker, "it answered initialize", now)

    def _on_trial(self, pool: PoolRecord, worker: WorkerRecord, stimulus: Proved | Struck, now: float) -> None:
        """Who is on probation passes with the first answer, and fails with the first fault."""
        worker.has_proved |= isinstance(stimulus, Proved)
        if worker.state is not _S.PROBATION:
            return
        if isinstance(stimulus, Proved):
            self._pass_probation(pool, worker, "a turn on it has begun to answer", now)
        else:
            self._on_condemned(pool, worker, Verdict.POISONED, stimulus.reason, now)

    def _on_suspected(self, pool: PoolRecord, worker: WorkerRecord, reason: str, now: float) -> None:
        if worker.state is _S.SPARE:
            self._stop(pool, worker, reason, now, is_hung=True)
        elif worker.state in IN_SERVICE:
            pool.panic.sick(worker.id.slot, pool.profile.workers, now)
            worker.doubt = reason
            if not pool.panic.is_on(now):
                self._move(pool, worker, _S.SUSPECT, reason, now)
                self._replace(pool, worker, now)

    def _on_cleared(self, pool: PoolRecord, worker: WorkerRecord, now: float) -> None:
        """It takes its place back, or serves on until its successor does, if that has come further than a boot."""
        worker.doubt, worker.verdict = "", None
        pool.panic.well(worker.id.slot)
        if worker.state is not _S.SUSPECT:
            return
        successor = pool.places.get(worker.id.slot)
        is_needed = successor is not None and successor.state in (_S.BACKOFF, _S.STARTING)
        if successor is not None and is_needed and not worker.outworn:
            pool.places[worker.id.slot] = worker
            self._dismiss(pool, successor, "it is not needed any more", now)
        elif not is_needed:
            worker.outworn = worker.outworn or "a successor serves already"
        if worker.ready_at is not None:
            self._move(pool, worker, _S.READY, "it answered again", now)
        else:
            self._admit(pool, worker, "it answered again", now)
        self._relieve(pool, now)

    def _on_condemned(self, pool: PoolRecord, worker: WorkerRecord, verdict: Verdict, reason: str, now: float) -> None:
        if worker.state is _S.SPARE or (verdict is Verdict.HUNG and worker.state in (_S.QUARANTINED, _S.RETIRING)):
            self._stop(pool, worker, reason, now, is_fault=True, is_hung=True)
        elif worker.state in IN_SERVICE or worker.state is _S.SUSPECT:
            pool.panic.sick(worker.id.slot, pool.profile.workers, now)
            worker.verdict = (verdict, reason)
            self._execute(pool, worker, now)

    def _on_commanded(self, pool: PoolRecord, worker: WorkerRecord, command: Command, now: float) -> None:
        """No guard holds an operator back: who commands knows more than we do."""
        reason = COMMANDED[command]
        if worker.state not in _COMMANDABLE[command]:
            return
        if command is Command.QUARANTINE:
            worker.verdict = None
            worker.is_condemned = True
            self._move(pool, worker, _S.QUARANTINED, reason, now)
            self._expel(pool, worker, reason, now)
        elif command is Command.RETIRE and worker.state is not _S.SPARE:
            worker.outworn = worker.outworn or reason
            self._relieve(pool, now)
        elif worker.state is _S.BACKOFF:
            worker.boot_at = now
            worker.story.tell(now, reason)
        else:
            self._stop(pool, worker, reason, now)

    def _on_overloaded(self, pool: PoolRecord, worker: WorkerRecord, now: float) -> None:
        if worker.state not in IN_SERVICE or worker.is_paused:
            return
        is_again = now - worker.paused_until <= MAX_PAUSE_S
        worker.pause_s = min(MAX_PAUSE_S, 2 * worker.pause_s) if is_again else PAUSE_S
        worker.paused_until = now + worker.pause_s
        worker.is_paused = True
        worker.story.tell(now, f"overloaded: spared for {worker.pause_s} s")
        self._seat(pool, worker)

    def _on_released(self, lease: Lease, now: float) -> None:
        worker = self._leases.pop(lease.id, None)
        if worker is None:
            return
        worker.leases.discard(lease.id)
        worker.stuck.discard(lease.id)
        worker.story.tell(now, f"released {lease.id}")
        pool = self._pools[worker.id.profile]
        if worker.id in pool.in_service:
            before = pool.in_service.free
            pool.in_service.give_back(worker.id)
            if pool.in_service.free > before:
                self._effects.append(Freed(worker.id.profile))
        else:
            self._stop_if_spent(pool, worker, now)

    def _on_interrupt_ignored(self, lease: Lease, now: float) -> None:
        worker = self._leases.get(lease.id)
        if worker is None:
            return
        pool = self._pools[worker.id.profile]
        worker.stuck.add(lease.id)
        worker.outworn = worker.outworn or "it ignored an interrupt"
        self._relieve(pool, now)
        self._stop_if_spent(pool, worker, now)

    def _on_exited(self, pool: PoolRecord, worker: WorkerRecord, reason: str, now: float) -> None:
        if worker.state is not _S.STOPPING:
            self._stop(pool, worker, reason, now, is_fault=True)
        self._move(pool, worker, _S.DEAD, reason, now)
        if worker.has_failed:
            pool.last_failure = reason  # at first it was only known that it ended
        del pool.workers[worker.id]
        self._buried.append((worker.id, worker.story.lines()))
        if pool.is_removed and not pool.workers:
            del self._pools[pool.profile.name]

    def _on_ticked(self, now: float) -> None:
        self._ticked_at = now
        for pool in list(self._pools.values()):
            for worker in list(pool.workers.values()):
                self._look_at(pool, worker, now)
            self._relieve(pool, now)

    def _forgive_stall(self, now: float) -> None:
        """We were stopped: nobody is held to a deadline for it, and whatever begins now gets no more than its time."""
        late_s = now - self._ticked_at if self._ticked_at is not None else 0.0
        if late_s > STALL_S:
            self._ticked_at = now
            for pool in self._pools.values():
                for worker in pool.workers.values():
                    if worker.deadline_at is not None:
                        worker.deadline_at += late_s

    def _look_at(self, pool: PoolRecord, worker: WorkerRecord, now: float) -> None:
        """Hold one worker to its limits."""
        if worker.is_paused and now >= worker.paused_until:
            worker.is_paused = False
            self._seat(pool, worker)
        if worker.doubt and worker.state in IN_SERVICE and not pool.panic.is_on(now):
            self._on_suspected(pool, worker, worker.doubt, now)
        if worker.verdict is not None:
            self._execute(pool, worker, now)
        if not worker.outworn and worker.state in (*IN_SERVICE, _S.SPARE):
            worker.outworn = self._outworn(pool, worker, now)
        if worker.state is _S.SPARE and worker.outworn:
            self._stop(pool, worker, worker.outworn, now)
        elif worker.deadline_at is not None and now >= worker.deadline_at:
            if worker.state is _S.PROBATION:
                self._pass_probation(pool, worker, "its probation passed without a fault", now)
            elif worker.state in (_S.QUARANTINED, _S.RETIRING):
                self._stop(pool, worker, worker.leaves_because, now)

    def _outworn(self, pool: PoolRecord, worker: WorkerRecord, now: float) -> str:
        limits, (by_turns, by_age) = pool.profile.retire, worker.jitter
        if worker.generation < pool.generation:
            return "its profile has changed"
        if worker.turns >= limits.max_turns * (1 + TURNS_SPREAD * (2 * by_turns - 1)):
            return "it has run its turns"
        if now - worker.booted_at >= limits.max_age_s * (1 - AGE_SPREAD * by_age):
            return "it is old"
        return "it is too large" if worker.rss_bytes > limits.max_rss_bytes else ""

    def _on_reconfigured(self, profiles: tuple[Profile, ...], changed: frozenset[str], now: float) -> None:
        for profile in profiles:
            pool = self._pools.get(profile.name)
            if pool is None:
                pool = self._pools[profile.name] = PoolRecord(profile)
            pool.profile = profile
            pool.is_removed = False
            if profile.name in changed:
                pool.generation += 1
                pool.breaker = Breaker()
            for worker in pool.workers.values():
                self._seat(pool, worker)
        names = {profile.name for profile in profiles}
        for name, pool in list(self._pools.items()):
            pool.is_removed = name not in names
            self._fit(pool, now)
            for worker in list(pool.workers.values()):
                self._look_at(pool, worker, now)
            self._relieve(pool, now)
            if pool.is_removed and not pool.workers:
                del self._pools[name]

    def _on_stopped(self, now: float) -> None:
        self._is_running = False
        for pool in self._pools.values():
            pool.places.clear()
            for worker in list(pool.workers.values()):
                self._dismiss(pool, worker, "the service is stopping", now)

    # --- places ----------------------------------------------------------------------------------------------

    def _fit(self, pool: PoolRecord, now: float) -> None:
        """As many places as are wanted, each of them filled."""
        if not self._is_running:
            return
        for slot in count():
            if len(pool.places) >= pool.wanted:
                break
            if slot not in pool.places:
                self._fill(pool, slot, now, failures=0, wait_s=0.0)
        by_use = sorted(pool.places.values(), key=lambda worker: (_USE.index(worker.state), -worker.id.slot))
        for worker in by_use[: len(pool.places) - pool.wanted]:
            del pool.places[worker.id.slot]
            if worker.state in IN_SERVICE:
                self._retire(pool, worker, "its place is not needed any more", now)
            else:
                self._dismiss(pool, worker, "its place is not needed any more", now)
        self._promote(pool, now)

    def _fill(self, pool: PoolRecord, slot: int, now: float, *, failures: int, wait_s: float) -> None:
        place = (pool.profile.name, slot)
        epoch = self._epochs[place] = self._epochs.get(place, 0) + 1
        worker = WorkerRecord(WorkerId(*place, epoch), failures, now + wait_s)
        worker.story.tell(now, f"boots in {wait_s:.3f} s")
        pool.places[slot] = pool.workers[worker.id] = worker

    def _replace(self, pool: PoolRecord, worker: WorkerRecord, now: float, *, failures: int = 0) -> None:
        """Give the worker's place to a successor, if it still has it."""
        if not self._is_running or not pool.holds_place(worker):
            return
        wait_s = backoff.delay(failures, self._jitter())
        self._fill(pool, worker.id.slot, now, failures=failures, wait_s=wait_s)
        self._promote(pool, now)

    def _promote(self, pool: PoolRecord, now: float) -> None:
        """Spares serve where workers in service are missing."""
        spares = [worker for worker in pool.places.values() if worker.state is _S.SPARE]
        for worker in spares[: max(0, pool.profile.workers - pool.serving)]:
            self._admit(pool, worker, "a worker has left its service", now)

    def _admit(self, pool: PoolRecord, worker: WorkerRecord, reason: str, now: float) -> None:
        self._move(pool, worker, _S.PROBATION, reason, now)
        worker.deadline_at = worker.booted_at + pool.profile.probation_s
        if now >= worker.deadline_at:  # a spare's wait was its probation
            self._pass_probation(pool, worker, "its probation passed without a fault", now)

    def _pass_probation(self, pool: PoolRecord, worker: WorkerRecord, reason: str, now: float) -> None:
        self._move(pool, worker, _S.READY, reason, now)
        worker.ready_at = now
        pool.breaker.succeeded()
        self._relieve(pool, now)

    def _relieve(self, pool: PoolRecord, now: float) -> None:
        """Replace outworn workers one at a time: the successor serves first, then the old one takes no more turns."""
        ready = sum(worker.state is _S.READY for worker in pool.places.values())
        leaving = pool.leaving_in_service
        for worker in leaving:
            if pool.is_removed or ready + len(leaving) > pool.profile.workers:
                self._retire(pool, worker, worker.outworn, now)
                leaving = leaving[1:]
        retiring = sum(worker.state is _S.RETIRING for worker in pool.workers.values())
        if not leaving and self._is_running and retiring < pool.surge:
            outworn = [w for w in pool.places.values() if w.outworn and w.state in IN_SERVICE]
            if outworn:
                outworn[0].story.tell(now, f"to be replaced: {outworn[0].outworn}")
                self._replace(pool, outworn[0], now)

    # --- the way out -----------------------------------------------------------------------------------------

    def _execute(self, pool: PoolRecord, worker: WorkerRecord, now: float) -> None:
        """Carry a verdict out, unless everybody looks sick, or too many are out already."""
        if worker.verdict is None or pool.panic.is_on(now):
            return
        verdict, reason = worker.verdict
        if pool.condemned >= max(1, int(pool.profile.eject_max * pool.profile.workers)):
            if worker.state in IN_SERVICE:
                self._move(pool, worker, _S.SUSPECT, reason, now)
                self._replace(pool, worker, now)
            return
        worker.verdict = None
        worker.is_condemned = True
        self._move(pool, worker, _S.QUARANTINED, reason, now)
        if verdict is Verdict.HUNG:
            self._stop(pool, worker, reason, now, is_fault=True, is_hung=True)
            return
        pool.last_failure = reason
        if not worker.has_proved:
            pool.breaker.failed(now)
        self._expel(pool, worker, reason, now, failures=self._failures(worker, now))

    def _expel(self, pool: PoolRecord, worker: WorkerRecord, reason: str, now: float, *, failures: int = 0) -> None:
        """One that is in quarantine now goes when its turns have ended, or its time is over; a successor boots."""
        worker.leaves_because = reason
        worker.deadline_at = now + pool.profile.retire.quarantine_s
        self._replace(pool, worker, now, failures=failures)
        self._effects.append(Doubted(worker.id))
        self._stop_if_spent(pool, worker, now)

    def _failures(self, worker: WorkerRecord, now: float) -> int:
        """How many in a row on this place have come to nothing, this one included; one that ran steadily has not."""
        is_steady = worker.ready_at is not None and now - worker.ready_at >= backoff.STEADY_S
        return 0 if is_steady else worker.failures + 1

    def _retire(self, pool: PoolRecord, worker: WorkerRecord, reason: str, now: float) -> None:
        limits = pool.profile.limits
        self._move(pool, worker, _S.RETIRING, reason, now)
        worker.doubt, worker.verdict = "", None
        worker.leaves_because = reason
        worker.deadline_at = now + limits.total_s + limits.interrupt_s
        self._stop_if_spent(pool, worker, now)

    def _stop_if_spent(self, pool: PoolRecord, worker: WorkerRecord, now: float) -> None:
        """One that is leaving goes when every turn that still moves has ended."""
        if worker.state in (_S.RETIRING, _S.QUARANTINED) and worker.leases <= worker.stuck:
            self._stop(pool, worker, worker.leaves_because, now)

    def _dismiss(self, pool: PoolRecord, worker: WorkerRecord, reason: str, now: float) -> None:
        """End a worker that nobody needs; one that never had a process is forgotten."""
        if worker.state is _S.BACKOFF:
            self._move(pool, worker, _S.DEAD, reason, now)
            del pool.workers[worker.id]
        elif worker.state is not _S.STOPPING:
            self._stop(pool, worker, reason, now)

    def _stop(
        self,
        pool: PoolRecord,
        worker: WorkerRecord,
        reason: str,
        now: float,
        *,
        is_fault: bool = False,
        is_hung: bool = False,
    ) -> None:
        if worker.state is _S.STOPPING:
            return
        failures = 0
        if is_fault:
            failures = self._failures(worker, now)
            worker.has_failed = True
            pool.last_failure = reason
            if worker.ready_at is None and not worker.is_condemned:
                pool.breaker.failed(now)
        self._move(pool, worker, _S.STOPPING, reason, now)
        worker.verdict = None
        for lease in worker.leases:
            del self._leases[lease]
        worker.leases.clear()
        worker.stuck.clear()
        self._effects.append(Stop(worker.id, reason, is_fault, is_hung))
        self._replace(pool, worker, now, failures=failures)

    # --- boots and moves -------------------------------------------------------------------------------------

    def _boot_due(self, now: float) -> None:
        if not self._is_running or self._starting >= SPAWN_CONCURRENCY:
            return
        due = [
            (worker.boot_at, pool, worker)
            for pool in self._pools.values()
            for worker in pool.places.values()
            if worker.state is _S.BACKOFF and worker.boot_at <= now
        ]
        due.sort(key=lambda row: row[0])  # or a profile whose boots hang keeps the others from theirs
        for _, pool, worker in due:
            if self._starting >= SPAWN_CONCURRENCY:
                return
            if not pool.has_room or not self._may_try(pool, now):
                continue
            worker.generation = pool.generation
            pool.boots += 1
            pool.breaker.tried(now)
            self._move(pool, worker, _S.STARTING, "a boot is free", now)
            self._effects.append(Boot(worker.id))

    def _may_try(self, pool: PoolRecord, now: float) -> bool:
        if not pool.breaker.is_open:
            return True
        is_trying = any(worker.state is _S.STARTING for worker in pool.places.values())
        return not is_trying and pool.breaker.wait_s(now) == 0.0

    def _seats_of(self, pool: PoolRecord, worker: WorkerRecord) -> int:
        """How many turns the worker may have now."""
        if worker.is_paused:
            return 0
        if worker.state is _S.READY:
            return pool.profile.slots
        return min(PROBATION_SEATS, pool.profile.slots) if worker.state is _S.PROBATION else 0

    def _seat(self, pool: PoolRecord, worker: WorkerRecord) -> None:
        """Lease it as its state allows."""
        self._free_before.setdefault(pool.profile.name, pool.in_service.free)
        seats = self._seats_of(pool, worker)
        if seats:
            pool.in_service.put(worker.id, seats, len(worker.leases))
        else:
            pool.in_service.remove(worker.id)

    def _move(self, pool: PoolRecord, worker: WorkerRecord, target: WorkerState, reason: str, now: float) -> None:
        source = worker.state
        if (source, target) not in TRANSITIONS:
            raise IllegalTransition(f"worker {worker.id}", source, target, str(worker.story))
        self._starting += (target is _S.STARTING) - (source is _S.STARTING)
        worker.state = target
        worker.deadline_at = None
        worker.story.tell(now, f"{target}: {reason}")
        self._seat(pool, worker)
        self._effects.append(Moved(worker.id, source, target, reason))

"""The pool's core against a model of the world: processes that boot, run and die, and turns that hold seats on them."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pool import backoff
from pool.state import (
    SPAWN_CONCURRENCY,
    Boot,
    Booted,
    Broken,
    Exited,
    Freed,
    InterruptIgnored,
    Lease,
    Moved,
    PoolState,
    Released,
    Started,
    Stimulus,
    Stop,
    Stopped,
    Ticked,
    Unresponsive,
)
from pool.worker_state import TRANSITIONS, WorkerId, WorkerState
from tests.support.examples import trying
from tests.support.profiles import a_profile

PROFILES = {"wide": (2, 3), "long": (4, 1)}
"""Workers and slots."""

picks = st.integers(0, 10**6)


@dataclass
class Process:
    """A worker as the kernel and its clients see it."""

    id: WorkerId
    is_ready: bool = False
    is_doomed: bool = False
    """It has been told to go."""
    ready_at: float | None = None
    leases: dict[int, Lease] = field(default_factory=dict)
    stuck: set[int] = field(default_factory=set)
    has_ignored: bool = False
    state: WorkerState = WorkerState.STARTING

    @property
    def is_booting(self) -> bool:
        return not self.is_ready and not self.is_doomed

    @property
    def takes_leases(self) -> bool:
        return self.is_ready and not self.is_doomed and not self.has_ignored

    @property
    def should_go(self) -> bool:
        """It has ignored an interrupt or lets turns not begin, and nothing on it moves any more."""
        return self.has_ignored and not self.is_doomed and set(self.leases) <= self.stuck


class PoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        jitters = itertools.cycle((0.0, 0.5, 0.99))
        profiles = [a_profile(name, workers=workers, slots=slots) for name, (workers, slots) in PROFILES.items()]
        self.core = PoolState(profiles, lambda: next(jitters))
        self.world: dict[WorkerId, Process] = {}
        self.epochs: Counter[tuple[str, int]] = Counter()
        self.empty_since: dict[tuple[str, int], float] = {}
        self.ghosts: list[Stimulus] = []
        self.is_running = False

    # --- the world ---------------------------------------------------------------------------------------------

    def tell(self, stimulus: Stimulus, *, stops: set[WorkerId] | None = None) -> list[WorkerId]:
        """Give the core a stimulus and do what it wants; `stops` is whom it has to stop. Returns whom it boots."""
        free_before = {profile: self.core.free(profile) for profile in PROFILES}
        booted: list[WorkerId] = []
        stopped: set[WorkerId] = set()
        freed: set[str] = set()
        for effect in self.core.handle(stimulus, self.now):
            match effect:
                case Boot(worker):
                    self.boot(worker)
                    booted.append(worker)
                case Stop(worker, reason):
                    assert reason
                    self.doom(self.world[worker])
                    stopped.add(worker)
                case Freed(profile):
                    freed.add(profile)
                case Moved(worker, source, target):
                    self.moved(worker, source, target)
        assert stopped == (stops or set()), self.core.story(next(iter(stopped), WorkerId("wide", 0, 0)))
        rose = {profile for profile in PROFILES if self.core.free(profile) > free_before[profile]}
        assert freed == rose
        return booted

    def boot(self, worker: WorkerId) -> None:
        place = (worker.profile, worker.slot)
        assert self.is_running
        assert worker.slot < PROFILES[worker.profile][0]
        assert worker.epoch > self.epochs[place]
        assert all(other[:2] != worker[:2] for other in self.world)
        self.epochs[place] = worker.epoch
        self.world[worker] = Process(worker)
        del self.empty_since[place]
        assert sum(process.is_booting for process in self.world.values()) <= SPAWN_CONCURRENCY

    def doom(self, process: Process) -> None:
        assert not process.is_doomed
        process.is_doomed = True
        for lease in process.leases.values():
            self.ghosts += [Released(lease), InterruptIgnored(lease)]
        process.leases.clear()
        process.stuck.clear()
        self.ghosts += [Booted(process.id), Broken(process.id, "late"), Unresponsive(process.id)]

    def moved(self, worker: WorkerId, source: WorkerState, target: WorkerState) -> None:
        process = self.world[worker]
        assert process.state is source
        assert (source, target) in TRANSITIONS
        process.state = target
        if target is WorkerState.DEAD:
            del self.world[worker]

    def bury(self, process: Process) -> None:
        """Its process is gone; what the core boots at once is held against what the wait must be."""
        place = (process.id.profile, process.id.slot)
        was_steady = process.ready_at is not None and self.now - process.ready_at >= backoff.STEADY_S
        may_boot = self.is_running and sum(other.is_booting for other in self.world.values()) < SPAWN_CONCURRENCY
        self.empty_since[place] = self.now
        self.ghosts += [Exited(process.id, "late"), Broken(process.id, "late"), Booted(process.id)]
        is_expected = process.is_doomed or process.is_booting
        booted = self.tell(Exited(process.id, "it exited"), stops=set() if is_expected else {process.id})
        assert process.id not in self.world
        if was_steady and may_boot:
            assert booted, "a steady worker's slot was left empty"
        if not was_steady:
            assert all((worker.profile, worker.slot) != place for worker in booted)

    def some(self, pick: int, processes: list[Process]) -> Process:
        return processes[pick % len(processes)]

    @property
    def booting(self) -> list[Process]:
        return [process for process in self.world.values() if process.is_booting]

    @property
    def alive(self) -> list[Process]:
        return [process for process in self.world.values() if not process.is_doomed]

    @property
    def leases(self) -> list[tuple[Process, Lease]]:
        return [(process, lease) for process in self.world.values() for lease in process.leases.values()]

    # --- what can happen ---------------------------------------------------------------------------------------

    @initialize(is_warm=st.booleans())
    def start(self, is_warm: bool) -> None:
        self.is_running = True
        for name, (workers, _) in PROFILES.items():
            self.empty_since.update({(name, slot): -1.0 for slot in range(workers)})
        self.tell(Started())
        while is_warm and self.booting:
            self.boot_succeeds(0)
            self.lease_all()

    def lease_all(self) -> None:
        for profile in PROFILES:
            while self.core.free(profile):
                self.lease_one(profile)

    @precondition(lambda self: self.booting)
    @rule(pick=picks)
    def boot_succeeds(self, pick: int) -> None:
        process = self.some(pick, self.booting)
        process.is_ready, process.ready_at = True, self.now
        self.tell(Booted(process.id))
        assert process.state is WorkerState.READY
        self.ghosts.append(Booted(process.id))

    @precondition(lambda self: self.alive)
    @rule(pick=picks, rarely=st.integers(0, 3))
    def breaks(self, pick: int, rarely: int) -> None:
        if rarely == 1:
            process = self.some(pick, self.alive)
            self.tell(Broken(process.id, "it broke"), stops={process.id})

    @precondition(lambda self: self.world)
    @rule(pick=picks, rarely=st.integers(0, 3))
    def exits(self, pick: int, rarely: int) -> None:
        doomed = [process for process in self.world.values() if process.is_doomed]
        if doomed:
            self.bury(self.some(pick, doomed))
        elif rarely == 1:
            self.bury(self.some(pick, list(self.world.values())))

    @rule(profile=st.sampled_from(sorted(PROFILES)), count=st.integers(1, 4))
    def lease(self, profile: str, count: int) -> None:
        for _ in range(count):
            self.lease_one(profile)

    @rule(picks=st.lists(picks, min_size=1, max_size=4))
    def turns_close(self, picks: list[int]) -> None:
        for pick in picks:
            if self.leases:
                self.turn_closes(pick)

    def lease_one(self, profile: str) -> None:
        slots = PROFILES[profile][1]
        fits = [p for p in self.world.values() if p.id.profile == profile and p.takes_leases and len(p.leases) < slots]
        lease = self.core.try_lease(profile, self.now)
        if lease is None:
            assert not fits
            return
        process = self.world[lease.worker]
        assert process in fits
        assert len(process.leases) == min(len(other.leases) for other in fits)
        process.leases[lease.id] = lease

    def turn_closes(self, pick: int) -> None:
        process, lease = self.leases[pick % len(self.leases)]
        del process.leases[lease.id]
        process.stuck.discard(lease.id)
        self.ghosts += [Released(lease), InterruptIgnored(lease)]
        self.tell(Released(lease), stops={process.id} if process.should_go else set())

    @precondition(lambda self: self.leases)
    @rule(pick=picks)
    def interrupt_is_ignored(self, pick: int) -> None:
        process, lease = self.leases[pick % len(self.leases)]
        process.stuck.add(lease.id)
        process.has_ignored = True
        self.tell(InterruptIgnored(lease), stops={process.id} if process.should_go else set())

    @precondition(lambda self: any(process.takes_leases for process in self.world.values()))
    @rule(pick=picks)
    def turns_do_not_begin(self, pick: int) -> None:
        ready = [process for process in self.world.values() if process.takes_leases]
        process = ready[pick % len(ready)]
        process.has_ignored = True
        self.tell(Unresponsive(process.id), stops={process.id} if process.should_go else set())

    @precondition(lambda self: self.ghosts)
    @rule(pick=picks)
    def a_ghost_speaks(self, pick: int) -> None:
        assert self.core.handle(self.ghosts[pick % len(self.ghosts)], self.now) == ()

    @rule(seconds=st.sampled_from([0.0, 0.125, 0.25, 1.0, backoff.CAP_S, backoff.STEADY_S]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tell(Ticked())

    @precondition(lambda self: self.is_running)
    @rule(rarely=st.integers(0, 19))
    def stop(self, rarely: int) -> None:
        if rarely == 7:
            self.is_running = False
            self.tell(Stopped(), stops={process.id for process in self.alive})

    # --- what must always hold ---------------------------------------------------------------------------------

    @invariant()
    def the_core_agrees_with_itself(self) -> None:
        self.core.validate()

    @invariant()
    def the_numbers_are_the_worlds(self) -> None:
        for row in self.core.snapshot():
            workers, slots = PROFILES[row.profile]
            mine = [process for process in self.world.values() if process.id.profile == row.profile]
            taking = [process for process in mine if process.takes_leases]
            assert row.size == workers
            assert row.seats == len(taking) * slots
            assert row.leased == sum(len(process.leases) for process in mine) <= workers * slots
            assert row.free == self.core.free(row.profile) == sum(slots - len(p.leases) for p in taking)
            assert row.boots == sum(epoch for place, epoch in self.epochs.items() if place[0] == row.profile)
            states = Counter(process.state for process in mine)
            assert {state: count for state, count in row.workers.items() if count} == dict(states)

    @invariant()
    def no_boot_is_put_off_for_nothing(self) -> None:
        if self.is_running and len(self.booting) < SPAWN_CONCURRENCY:
            assert all(self.now - since < backoff.CAP_S for since in self.empty_since.values())

    @invariant()
    def every_process_has_a_story(self) -> None:
        assert all(self.core.story(worker) for worker in self.world)

    def teardown(self) -> None:
        self.is_running = False
        self.tell(Stopped(), stops={process.id for process in self.alive})
        for process in list(self.world.values()):
            self.bury(process)
        self.time_passes(3600.0)
        assert self.core.is_idle()
        assert all((row.seats, row.free, row.leased) == (0, 0, 0) for row in self.core.snapshot())
        self.core.validate()


TestPoolState = PoolMachine.TestCase
TestPoolState.settings = trying(2)

"""The pool's core against a model of the world: processes that boot, run, fall ill and die, and turns on their seats.

The numbers in the names of the rules are those of the invariants in docs/architecture.md.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pool import backoff
from pool.breaker import FAILURES, PANIC_S, TRIAL_S
from pool.health import STALL_S
from pool.profile import Profile, RetireLimits
from pool.state import MAX_PAUSE_S, PROBATION_SEATS, SPAWN_CONCURRENCY, PoolState
from pool.stimuli import (
    Boot,
    Booted,
    Broken,
    Cleared,
    Command,
    Commanded,
    Condemned,
    Doubted,
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
from pool.turn import TurnLimits
from pool.worker_state import IN_SERVICE, TRANSITIONS, Verdict, WorkerId, WorkerState
from tests.support.examples import trying
from tests.support.profiles import a_profile

TICK_S = 0.25
LIMITS = TurnLimits(total_s=20.0, interrupt_s=1.0)
RETIRE = RetireLimits(max_turns=8, max_age_s=90.0, max_rss_bytes=1000, quarantine_s=5.0)
PROFILES = {
    "wide": replace(a_profile("wide", workers=2, slots=3, limits=LIMITS), retire=RETIRE),
    "long": replace(
        a_profile("long", workers=4, slots=1, limits=LIMITS), retire=RETIRE, spares=1, probation_s=2.0, surge=0.5
    ),
}
LEAVING = (WorkerState.QUARANTINED, WorkerState.RETIRING)
MORTAL = (WorkerState.STARTING, WorkerState.SPARE, *IN_SERVICE, WorkerState.SUSPECT, *LEAVING)

picks = st.integers(0, 10**6)


@dataclass
class Process:
    """A worker as the kernel and its clients see it."""

    id: WorkerId
    is_doomed: bool = False
    """It has been told to go."""
    leases: dict[int, Lease] = field(default_factory=dict)
    stuck: set[int] = field(default_factory=set)
    state: WorkerState = WorkerState.STARTING
    left_at: float = 0.0
    """Since when it takes no more turns."""
    is_judged: bool = False
    is_ordered: bool = False
    """A verdict on it may wait for its turn, or for the end of a panic."""


class PoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        jitters = itertools.cycle((0.0, 0.5, 0.99))
        self.profiles: dict[str, Profile] = dict(PROFILES)
        self.core = PoolState(self.profiles.values(), lambda: next(jitters))
        self.world: dict[WorkerId, Process] = {}
        self.seen: set[WorkerId] = set()
        self.ghosts: deque[Stimulus] = deque(maxlen=200)
        self.boots: dict[str, deque[float]] = {name: deque(maxlen=8) for name in PROFILES}
        self.is_running = False
        self.is_told: Stimulus = Started()

    # --- the world ---------------------------------------------------------------------------------------------

    def tell(self, stimulus: Stimulus) -> None:
        """Give the core a stimulus and do what it wants."""
        self.is_told = stimulus
        free_before = {name: self.core.free(name) for name in PROFILES}
        freed: set[str] = set()
        for effect in self.core.handle(stimulus, self.now):
            match effect:
                case Boot(worker):
                    self.boot(worker)
                case Stop(worker, reason, _, is_hung):
                    assert reason
                    self.stop(self.world[worker], is_hung=is_hung)
                case Freed(profile):
                    freed.add(profile)
                case Moved(worker, source, target, reason):
                    assert reason
                    self.moved(worker, source, target)
                case Doubted(worker):
                    assert self.world[worker].state is WorkerState.QUARANTINED
        rose = {name for name in PROFILES if self.core.free(name) > free_before[name]}
        assert freed == rose

    def boot(self, worker: WorkerId) -> None:
        assert self.is_running
        assert worker not in self.seen
        self.seen.add(worker)
        self.boots[worker.profile].append(self.now)
        assert len(self.of(WorkerState.STARTING)) <= SPAWN_CONCURRENCY

    def moved(self, worker: WorkerId, source: WorkerState, target: WorkerState) -> None:
        assert (source, target) in TRANSITIONS
        if source is WorkerState.BACKOFF:
            if target is WorkerState.STARTING:
                self.world[worker] = Process(worker)
            return
        process = self.world[worker]
        assert process.state is source
        process.state = target
        if target in LEAVING:
            process.left_at = self.now
        if target is WorkerState.RETIRING:
            self.retired_14(process)
        if target is WorkerState.DEAD:
            del self.world[worker]

    def retired_14(self, process: Process) -> None:
        """14: whoever retires leaves as many in service as there should be, unless fewer are wanted."""
        profile = self.profiles.get(process.id.profile)
        if profile is not None and not isinstance(self.is_told, Reconfigured):
            assert len(self.of(*IN_SERVICE, profile=profile.name)) >= profile.workers

    def stop(self, process: Process, *, is_hung: bool) -> None:
        """10: turns that still move are lost only with a worker that has failed, or after all the time they had."""
        assert not process.is_doomed
        process.is_doomed = True
        moving = set(process.leases) - process.stuck
        match self.is_told:
            case (
                Broken(worker, _)
                | Exited(worker, _)
                | Condemned(worker, Verdict.HUNG, _)
                | Commanded(worker, Command.RESTART)
            ):
                is_fair = worker == process.id
            case Stopped():
                is_fair = True
            case Ticked() | Reconfigured() | Exited() if is_hung:
                is_fair = True  # a verdict that had to wait
            case Ticked():
                waited_s = self.now - process.left_at
                is_fair = not moving or waited_s >= RETIRE.quarantine_s
            case _:
                is_fair = not moving
        assert is_fair, (self.is_told, self.core.story(process.id))
        self.ghosts += [
            ghost for lease in process.leases.values() for ghost in (Released(lease), InterruptIgnored(lease))
        ]
        process.leases.clear()
        process.stuck.clear()
        self.ghosts += [
            Booted(process.id),
            Proved(process.id),
            Cleared(process.id),
            Suspected(process.id, "late"),
            Condemned(process.id, Verdict.HUNG, "late"),
            Overloaded(process.id),
            Measured(process.id, 10**9),
            Broken(process.id, "late"),
            *(Commanded(process.id, command) for command in Command),
        ]

    def of(self, *states: WorkerState, profile: str | None = None) -> list[Process]:
        return [p for p in self.world.values() if p.state in states and profile in (None, p.id.profile)]

    @property
    def doomed(self) -> list[Process]:
        return [process for process in self.world.values() if process.is_doomed]

    @property
    def leases(self) -> list[tuple[Process, Lease]]:
        return [(process, lease) for process in self.world.values() for lease in process.leases.values()]

    @property
    def is_moving(self) -> bool:
        """Workers come and go anyway."""
        return len(self.of(*IN_SERVICE)) != len(self.world)

    def tick(self, seconds: float) -> None:
        """Time passes, and we look as often as in life."""
        until = self.now + seconds
        while self.now < until:
            self.now += min(1.0, until - self.now)
            self.tell(Ticked())

    # --- what can happen ---------------------------------------------------------------------------------------

    @initialize(is_warm=st.booleans())
    def start(self, is_warm: bool) -> None:
        self.is_running = True
        self.tell(Started())
        while is_warm and self.of(WorkerState.STARTING):
            self.boot_succeeds(0)

    @precondition(lambda self: self.of(WorkerState.STARTING))
    @rule(pick=picks)
    def boot_succeeds(self, pick: int) -> None:
        booting = self.of(WorkerState.STARTING)
        process = booting[pick % len(booting)]
        self.tell(Booted(process.id))
        assert process.state in (WorkerState.SPARE, *IN_SERVICE)
        self.ghosts.append(Booted(process.id))

    @precondition(lambda self: self.of(*MORTAL))
    @rule(pick=picks, rarely=st.integers(0, 3))
    def breaks(self, pick: int, rarely: int) -> None:
        if rarely == 1:
            mortal = self.of(*MORTAL)
            process = mortal[pick % len(mortal)]
            self.tell(Broken(process.id, "it broke"))
            assert process.is_doomed

    @precondition(lambda self: self.world)
    @rule(pick=picks, rarely=st.integers(0, 3))
    def exits(self, pick: int, rarely: int) -> None:
        candidates = self.doomed or (list(self.world.values()) if rarely == 1 else [])
        if candidates:
            process = candidates[pick % len(candidates)]
            self.ghosts += [Exited(process.id, "late"), Broken(process.id, "late"), Booted(process.id)]
            self.tell(Exited(process.id, "it exited"))
            assert process.id not in self.world

    @rule(profile=st.sampled_from(sorted(PROFILES)), count=st.integers(1, 4), pick=picks)
    def lease(self, profile: str, count: int, pick: int) -> None:
        in_service = [process.id for process in self.of(*IN_SERVICE, profile=profile)]
        avoid = {in_service[pick % len(in_service)]} if in_service and pick % 3 == 0 else set()
        for _ in range(count):
            free = self.core.free(profile)
            lease = self.core.try_lease(profile, self.now, avoid)
            if lease is None:
                assert avoid or not free
                return
            process = self.world[lease.worker]
            assert process.state in IN_SERVICE, "5: only workers in service are leased"
            assert lease.worker not in avoid
            process.leases[lease.id] = lease

    @rule(picked=st.lists(picks, min_size=1, max_size=4))
    def turns_close(self, picked: list[int]) -> None:
        for pick in picked:
            if self.leases:
                process, lease = self.leases[pick % len(self.leases)]
                del process.leases[lease.id]
                process.stuck.discard(lease.id)
                self.ghosts += [Released(lease), InterruptIgnored(lease)]
                self.tell(Released(lease))

    @precondition(lambda self: self.leases)
    @rule(pick=picks)
    def interrupt_is_ignored(self, pick: int) -> None:
        process, lease = self.leases[pick % len(self.leases)]
        process.stuck.add(lease.id)
        self.tell(InterruptIgnored(lease))

    @precondition(lambda self: self.of(*IN_SERVICE))
    @rule(pick=picks)
    def turn_begins_to_answer(self, pick: int) -> None:
        process = self.pick(pick, *IN_SERVICE)
        self.tell(Proved(process.id))
        assert process.state is WorkerState.READY

    def pick(self, pick: int, *states: WorkerState) -> Process:
        found = self.of(*states)
        return found[pick % len(found)]

    @precondition(lambda self: self.of(WorkerState.SPARE, *IN_SERVICE, WorkerState.SUSPECT, *LEAVING))
    @rule(pick=picks, comes_back=st.booleans())
    def falls_silent(self, pick: int, comes_back: bool) -> None:
        process = self.pick(pick, WorkerState.SPARE, *IN_SERVICE, WorkerState.SUSPECT, *LEAVING)
        self.tell(Suspected(process.id, "it answers no probe"))
        if comes_back:
            self.tick(1.0)
            self.tell(Cleared(process.id))
            assert process.state is not WorkerState.SUSPECT

    @precondition(lambda self: self.of(WorkerState.SPARE, *IN_SERVICE, WorkerState.SUSPECT, *LEAVING))
    @rule(pick=picks, verdict=st.sampled_from(list(Verdict)))
    def is_condemned(self, pick: int, verdict: Verdict) -> None:
        process = self.pick(pick, WorkerState.SPARE, *IN_SERVICE, WorkerState.SUSPECT, *LEAVING)
        process.is_judged = True
        self.tell(Condemned(process.id, verdict, "it is condemned"))

    @precondition(lambda self: self.world)
    @rule(pick=picks, command=st.sampled_from(list(Command)), rarely=st.integers(0, 3))
    def an_operator_commands(self, pick: int, command: Command, rarely: int) -> None:
        process = list(self.world.values())[pick % len(self.world)]
        if rarely == 1 and self.core.objection(process.id, command) is None:
            process.is_ordered = process.is_judged = True
            self.tell(Commanded(process.id, command))
            assert process.is_doomed or command is not Command.RESTART
            assert process.is_doomed or process.state is WorkerState.QUARANTINED or command is not Command.QUARANTINE

    @precondition(lambda self: self.of(*IN_SERVICE))
    @rule(pick=picks)
    def is_struck(self, pick: int) -> None:
        process = self.pick(pick, *IN_SERVICE)
        was_tried = process.state is WorkerState.PROBATION
        process.is_judged |= was_tried
        self.tell(Struck(process.id, "a turn could not begin on it"))
        assert was_tried or process.state is WorkerState.READY

    @precondition(lambda self: self.of(*IN_SERVICE))
    @rule(pick=picks)
    def is_overloaded(self, pick: int) -> None:
        process = self.pick(pick, *IN_SERVICE)
        self.tell(Overloaded(process.id))
        before = self.core.outlook(process.id.profile, self.now).seats
        self.tick(MAX_PAUSE_S)
        after = self.core.outlook(process.id.profile, self.now).seats
        assert after > before or not self.of(*IN_SERVICE, profile=process.id.profile) or self.is_moving

    @precondition(lambda self: self.of(WorkerState.SPARE, *IN_SERVICE))
    @rule(pick=picks)
    def grows(self, pick: int) -> None:
        process = self.pick(pick, WorkerState.SPARE, *IN_SERVICE)
        self.tell(Measured(process.id, RETIRE.max_rss_bytes + 1))

    @precondition(lambda self: self.ghosts)
    @rule(pick=picks)
    def a_ghost_speaks_11(self, pick: int) -> None:
        """11: whoever is gone, or is going, changes nothing."""
        self.tell(Ticked())
        assert self.core.handle(self.ghosts[pick % len(self.ghosts)], self.now) == ()

    @rule(seconds=st.sampled_from([0.0, 0.125, TICK_S, 1.0, backoff.CAP_S, backoff.STEADY_S]))
    def time_passes(self, seconds: float) -> None:
        self.tick(seconds) if seconds else self.tell(Ticked())

    @rule(seconds=st.floats(STALL_S + 1.0, 10_000.0))
    def we_are_stopped_17(self, seconds: float) -> None:
        """17: a pause of ours condemns nobody, and ends no turn."""
        self.tell(Ticked())
        before = [(process.id, set(process.leases)) for process in self.world.values() if not process.is_judged]
        self.now += seconds
        self.tell(Ticked())
        for worker, leases in before:
            process = self.world[worker]
            assert set(process.leases) == leases
            assert process.state is not WorkerState.QUARANTINED or process.left_at < self.now

    @rule(workers=st.integers(1, 4), slots=st.integers(1, 3), is_changed=st.booleans(), is_there=st.booleans())
    def is_reconfigured(self, workers: int, slots: int, is_changed: bool, is_there: bool) -> None:
        wide = replace(PROFILES["wide"], workers=workers, slots=slots)
        self.profiles = {"long": PROFILES["long"]} | ({"wide": wide} if is_there else {})
        self.tell(Reconfigured(tuple(self.profiles.values()), frozenset({"wide"} if is_changed else ())))

    @precondition(lambda self: self.is_running)
    @rule(rarely=st.integers(0, 29))
    def is_stopped(self, rarely: int) -> None:
        if rarely == 7:
            self.is_running = False
            self.tell(Stopped())
            assert all(process.is_doomed for process in self.world.values())

    # --- what must always hold ---------------------------------------------------------------------------------

    @invariant()
    def the_core_agrees_with_itself(self) -> None:
        self.core.validate()

    @invariant()
    def no_worker_has_more_turns_than_it_may_1(self) -> None:
        for process in self.of(*IN_SERVICE):
            slots = max(3, PROFILES[process.id.profile].slots)
            assert len(process.leases) <= slots
        for profile in self.profiles.values():
            ready = self.of(WorkerState.READY, profile=profile.name)
            tried = self.of(WorkerState.PROBATION, profile=profile.name)
            most = len(ready) * profile.slots + len(tried) * min(PROBATION_SEATS, profile.slots)
            row = next(row for row in self.core.snapshot(self.now) if row.profile == profile.name)
            assert row.seats <= most
            assert row.free <= row.seats

    @invariant()
    def the_numbers_are_the_worlds(self) -> None:
        rows = {row.profile: row for row in self.core.snapshot(self.now)}
        assert set(self.profiles) <= set(rows)
        for name, row in rows.items():
            mine = [process for process in self.world.values() if process.id.profile == name]
            states = Counter(process.state for process in mine)
            assert row.leased == sum(len(process.leases) for process in mine)
            assert {
                state: count for state, count in row.workers.items() if count and state is not WorkerState.BACKOFF
            } == dict(states)
            if self.is_running and name in self.profiles:
                assert row.size == self.profiles[name].workers + self.profiles[name].spares

    @invariant()
    def boots_and_verdicts_are_bounded_12(self) -> None:
        for profile in PROFILES.values():
            boots = self.boots[profile.name]
            row = next((row for row in self.core.snapshot(self.now) if row.profile == profile.name), None)
            if row is not None and row.is_broken and len(boots) > FAILURES:
                assert len(self.of(WorkerState.STARTING, profile=profile.name)) <= SPAWN_CONCURRENCY
            condemned = [p for p in self.of(WorkerState.QUARANTINED, profile=profile.name) if not p.is_ordered]
            assert len(condemned) <= max(1, int(profile.eject_max * 4))

    @invariant()
    def the_spent_go_at_once(self) -> None:
        for process in self.of(*LEAVING):
            assert process.is_doomed or set(process.leases) - process.stuck

    @invariant()
    def every_worker_has_a_story(self) -> None:
        assert all(self.core.story(worker) for worker in self.world)

    def teardown(self) -> None:
        if self.is_running:
            self.all_is_well_again_16()
        self.is_running = False
        self.tell(Stopped())
        for process in list(self.world.values()):
            assert process.is_doomed
            self.tell(Exited(process.id, "it exited"))
        self.tick(60.0)
        assert self.core.is_idle()
        assert all((row.seats, row.free, row.leased) == (0, 0, 0) for row in self.core.snapshot(self.now))
        self.core.validate()

    def all_is_well_again_16(self) -> None:
        """16: once nothing goes wrong any more, everything is as configured before long."""
        bound_s = PANIC_S + LIMITS.total_s + len(PROFILES) * 10 * (backoff.CAP_S + TRIAL_S)
        until = self.now + bound_s
        while self.now < until and not self.is_as_configured():
            for process in self.doomed:
                self.tell(Exited(process.id, "it exited"))
            for process in self.of(WorkerState.STARTING):
                self.tell(Booted(process.id))
            for process in self.of(WorkerState.SUSPECT, *IN_SERVICE):
                self.tell(Cleared(process.id))
            for _, lease in self.leases:
                process = self.world[lease.worker]
                if lease.id in process.leases:
                    del process.leases[lease.id]
                    process.stuck.discard(lease.id)
                    self.tell(Released(lease))
            self.tick(TICK_S)
        assert self.is_as_configured(), self.core.snapshot(self.now)

    def is_as_configured(self) -> bool:
        rows = {row.profile: row for row in self.core.snapshot(self.now)}
        return set(rows) == set(self.profiles) and all(
            rows[name].free == profile.workers * profile.slots
            and rows[name].workers[WorkerState.READY] == profile.workers
            and rows[name].workers[WorkerState.SPARE] == profile.spares
            and sum(rows[name].workers.values()) == profile.workers + profile.spares
            for name, profile in self.profiles.items()
        )


TestPoolState = PoolMachine.TestCase
TestPoolState.settings = trying(2)

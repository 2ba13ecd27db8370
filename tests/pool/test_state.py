from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pool import backoff
from pool.breaker import FAILURES, PANIC_S, TRIAL_S
from pool.errors import IllegalTransition
from pool.profile import RetireLimits
from pool.roster import Outlook, ProfileSnapshot
from pool.state import BURIED, COMMANDED, MAX_PAUSE_S, PAUSE_S, PROBATION_SEATS, SPAWN_CONCURRENCY, PoolState
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
from pool.worker_state import TRANSITIONS, Verdict, WorkerId, WorkerState
from tests.support.profiles import a_profile

NOW = 1000.0
_S = WorkerState


class World:
    """A core, and what it did: every worker is what its last move says."""

    def __init__(self, workers: int = 1, slots: int = 2, *, jitter: float = 0.0, boots: bool = True, **fields: Any):
        self.profile = replace(a_profile("main", workers=workers, slots=slots), **fields)
        self.core = PoolState([self.profile], lambda: jitter)
        self.now = NOW
        self.states: dict[WorkerId, WorkerState] = {}
        self.seen: set[tuple[WorkerState, WorkerState]] = set()
        self.stops: list[Stop] = []
        if boots:
            self.tell(Started())
            self.boot_all()

    def tell(self, stimulus: Stimulus) -> tuple[Effect, ...]:
        effects = self.core.handle(stimulus, self.now)
        for effect in effects:
            if isinstance(effect, Moved):
                assert self.states.get(effect.worker, _S.BACKOFF) is effect.source
                self.states[effect.worker] = effect.target
                self.seen.add((effect.source, effect.target))
            elif isinstance(effect, Stop):
                self.stops.append(effect)
        self.core.validate()
        return effects

    def boot_all(self) -> None:
        while booting := self.of(_S.STARTING):
            self.tell(Booted(booting[0]))

    def tick(self, seconds: float = 0.25) -> None:
        """Time passes, and we look every second."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(self.now + 1.0, until)
            self.tell(Ticked())

    def of(self, *states: WorkerState) -> list[WorkerId]:
        return [worker for worker, state in self.states.items() if state in states]

    def lease(self, avoid: tuple[WorkerId, ...] = ()) -> Lease:
        lease = self.core.try_lease("main", self.now, avoid)
        assert lease is not None
        return lease

    def bury(self) -> None:
        for worker in self.of(_S.STOPPING):
            self.tell(Exited(worker, "it exited with code 0"))

    @property
    def free(self) -> int:
        return self.core.free("main")

    @property
    def row(self) -> ProfileSnapshot:
        (row,) = self.core.snapshot(self.now)
        return row


def one(workers: list[WorkerId]) -> WorkerId:
    (worker,) = workers
    return worker


def boots(effects: tuple[Effect, ...]) -> list[WorkerId]:
    return [effect.worker for effect in effects if isinstance(effect, Boot)]


def freed(effects: tuple[Effect, ...]) -> list[str]:
    return [effect.profile for effect in effects if isinstance(effect, Freed)]


# --- boots -----------------------------------------------------------------------------------------------------


def test_two_workers_boot_at_a_time_and_the_next_when_one_is_through() -> None:
    world = World(4, boots=False)
    first = boots(world.tell(Started()))
    assert first == [WorkerId("main", 0, 1), WorkerId("main", 1, 1)]
    assert len(first) == SPAWN_CONCURRENCY
    world.tick(5.0)
    assert boots(world.tell(Booted(first[1]))) == [WorkerId("main", 2, 1)]
    assert boots(world.tell(Broken(first[0], "no"))) == [WorkerId("main", 3, 1)]


def test_nothing_boots_before_the_start() -> None:
    assert World(2, boots=False).tell(Ticked()) == ()


def test_a_boot_that_succeeds_frees_seats_and_says_so() -> None:
    world = World(1, 3, boots=False)
    (worker,) = boots(world.tell(Started()))
    assert world.free == 0
    assert freed(world.tell(Booted(worker))) == ["main"]
    assert world.free == 3


def test_a_boot_that_fails_is_tried_again_after_a_growing_wait() -> None:
    world = World(1, boots=False)
    (worker,) = boots(world.tell(Started()))
    waits = []
    for _ in range(FAILURES):
        world.tell(Broken(worker, "it exited with code 1"))
        world.tell(Exited(worker, "it exited with code 1"))
        gone_at = world.now
        while not world.of(_S.STARTING):
            world.now += 0.0625
            world.tell(Ticked())
        worker = one(world.of(_S.STARTING))
        waits.append(world.now - gone_at)
    assert waits == [0.125, 0.25, 0.5, 1.0, 2.0]
    assert worker == WorkerId("main", 0, 1 + FAILURES)


def test_a_worker_that_ran_steadily_is_replaced_at_once() -> None:
    world = World()
    world.tick(backoff.STEADY_S)
    assert boots(world.tell(Broken(WorkerId("main", 0, 1), "it exited with code 0"))) == [WorkerId("main", 0, 2)]


def test_a_worker_that_ran_briefly_is_replaced_after_a_wait() -> None:
    world = World()
    world.tick(backoff.STEADY_S - 1.0)
    assert boots(world.tell(Broken(WorkerId("main", 0, 1), "it exited with code 0"))) == []
    assert world.row.workers[_S.BACKOFF] == 1
    world.tick(backoff.BASE_S)
    assert world.of(_S.STARTING) == [WorkerId("main", 0, 2)]


def test_processes_that_will_not_go_do_not_keep_their_successors_from_booting_but_there_is_an_end_to_it() -> None:
    world = World(4, 1, surge=0.5)
    for _ in range(3):
        for worker in world.of(_S.READY):
            world.tell(Broken(worker, "killed"))
            world.tick(10.0)
            world.boot_all()
    assert len(world.of(_S.STOPPING, _S.READY)) == 4 + 4 + 2
    assert world.row.workers[_S.BACKOFF] > 0
    world.bury()
    world.tick(10.0)
    world.boot_all()
    assert len(world.of(_S.READY)) == 4


def test_workers_that_leave_with_long_turns_hold_back_further_replacements() -> None:
    world = World(4, 1, surge=0.5)
    leases = [world.lease() for _ in range(4)]
    world.tell(Reconfigured((world.profile,), frozenset({"main"})))
    for _ in range(5):
        world.boot_all()
        world.tick(1.0)
    assert (len(world.of(_S.RETIRING)), len(world.of(_S.READY))) == (2, 4)
    world.tell(Released(leases[0]))
    world.bury()
    world.tick(1.0)
    world.boot_all()
    assert len(world.of(_S.RETIRING)) == 2


def test_a_profile_whose_boots_hang_does_not_keep_another_from_booting() -> None:
    profiles = [a_profile("hanging", workers=6, slots=1), a_profile("healthy", workers=1, slots=1)]
    state = PoolState(profiles, lambda: 0.0)
    now, running = NOW, boots(state.handle(Started(), NOW))
    booted_profiles = {worker.profile for worker in running}
    for _ in range(6):
        now += 10.0
        running = [
            booted
            for worker in running
            for stimulus in (Broken(worker, "no answer"), Exited(worker, "no answer"))
            for booted in boots(state.handle(stimulus, now))
        ]
        booted_profiles |= {worker.profile for worker in running}
    assert booted_profiles == {"hanging", "healthy"}


def test_what_was_last_wrong_is_remembered() -> None:
    world = World()
    world.tell(Broken(WorkerId("main", 0, 1), "it ended by itself"))
    world.tell(Exited(WorkerId("main", 0, 1), "it exited with code 3"))
    assert world.row.last_failure == "it exited with code 3"


# --- the breaker -----------------------------------------------------------------------------------------------


def failing_world() -> World:
    """A profile none of whose boots succeeds, until its breaker opens."""
    world = World(1, boots=False)
    world.tell(Started())
    while not world.row.is_broken:
        assert world.core.outlook("main", world.now).down_s is None
        for worker in world.of(_S.STARTING):
            world.tell(Broken(worker, "it exited with code 1"))
        world.bury()
        world.tick()
    return world


def test_boots_that_keep_failing_open_the_breaker_and_one_is_tried_from_time_to_time() -> None:
    world = failing_world()
    assert world.row.boots == FAILURES + 1
    down_s = world.core.outlook("main", world.now).down_s
    assert down_s is not None
    assert 0 < down_s <= TRIAL_S
    began, boots_before = world.now, world.row.boots
    while world.now < began + 10 * TRIAL_S:
        for worker in world.of(_S.STARTING):
            world.tell(Broken(worker, "it exited with code 1"))
        world.bury()
        world.tick()
    assert 5 <= world.row.boots - boots_before <= 10


def test_a_trial_that_succeeds_closes_the_breaker() -> None:
    world = failing_world()
    world.tick(TRIAL_S + 1.0)
    world.boot_all()
    assert not world.row.is_broken
    assert world.core.outlook("main", world.now) == Outlook(2, 2, None)


def test_a_profile_that_is_not_there_has_nothing_to_offer() -> None:
    outlook = World().core.outlook("other", NOW)
    assert (outlook.seats, outlook.nominal) == (0, 0)
    assert outlook.down_s is not None


# --- probation and spares --------------------------------------------------------------------------------------


def test_a_new_worker_gets_few_turns_until_one_has_begun_to_answer() -> None:
    world = World(1, 8, probation_s=10.0)
    worker = one(world.of(_S.PROBATION))
    assert world.free == PROBATION_SEATS
    world.lease()
    assert freed(world.tell(Proved(worker))) == ["main"]
    assert world.free == 7


def test_a_probation_that_passes_without_a_fault_ends_by_itself() -> None:
    world = World(1, 8, probation_s=10.0)
    world.tick(9.0)
    assert world.free == PROBATION_SEATS
    world.tick(1.0)
    assert (world.free, len(world.of(_S.READY))) == (8, 1)


def test_a_spare_takes_a_lost_workers_place_in_the_same_step() -> None:
    world = World(2, 2, spares=1)
    spare = one(world.of(_S.SPARE))
    assert world.free == 4
    effects = world.tell(Broken(WorkerId("main", 0, 1), "killed"))
    assert world.states[spare] is _S.READY
    assert world.free == 4
    assert freed(effects) == []
    world.tick(1.0)
    world.boot_all()
    assert world.of(_S.SPARE) == [WorkerId("main", 0, 2)]


def test_a_spare_that_has_waited_for_long_needs_no_probation() -> None:
    for waited_s, seats in ((5.0, PROBATION_SEATS), (10.0, 8)):
        world = World(1, 8, spares=1, probation_s=10.0)
        world.tick(waited_s)
        world.tell(Broken(WorkerId("main", 0, 1), "killed"))
        assert world.free == seats


def test_a_silent_or_outworn_spare_goes_at_once() -> None:
    for fault in (Suspected, Measured):
        world = World(1, spares=1)
        spare = one(world.of(_S.SPARE))
        world.tell(fault(spare, "silent") if fault is Suspected else Measured(spare, 2**40))
        world.tick(1.0)
        assert world.states[spare] is _S.STOPPING
        world.boot_all()
        assert len(world.of(_S.SPARE)) == 1


# --- leases ----------------------------------------------------------------------------------------------------


def test_leases_go_to_the_least_loaded_worker_until_all_are_full() -> None:
    world = World(2, 2)
    assert [world.lease().worker.slot for _ in range(4)] == [0, 1, 0, 1]
    assert world.core.try_lease("main", NOW) is None


def test_a_lease_avoids_whom_it_is_told_to() -> None:
    world = World(2, 2)
    first = WorkerId("main", 0, 1)
    assert [world.lease((first,)).worker.slot for _ in range(2)] == [1, 1]
    assert world.core.try_lease("main", NOW, (first,)) is None
    assert world.free == 2


def test_lease_ids_are_never_used_twice() -> None:
    world = World(1, 1)
    seen = set()
    for _ in range(5):
        lease = world.lease()
        seen.add(lease.id)
        world.tell(Released(lease))
    assert len(seen) == 5


def test_a_released_seat_is_free_once_and_said_to_be() -> None:
    world = World(1, 1)
    lease = world.lease()
    assert freed(world.tell(Released(lease))) == ["main"]
    assert world.tell(Released(lease)) == ()
    assert world.free == 1


def test_with_a_worker_its_leases_are_over() -> None:
    world = World()
    lease = world.lease()
    world.tell(Broken(lease.worker, "killed"))
    assert (world.free, world.row.leased, world.row.seats) == (0, 0, 0)
    assert world.core.try_lease("main", NOW) is None
    assert world.tell(Released(lease)) == ()


def test_a_worker_that_says_it_is_overloaded_is_spared_for_a_moment_and_longer_the_next_time() -> None:
    world = World(1, 2)
    worker = one(world.of(_S.READY))
    waits = []
    for _ in range(6):
        world.tell(Overloaded(worker))
        world.tell(Overloaded(worker))
        assert world.free == 0
        began = world.now
        while not world.free:
            world.now += 0.0625
            world.tell(Ticked())
        waits.append(world.now - began)
    assert waits[0] == pytest.approx(PAUSE_S, abs=0.07)
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(MAX_PAUSE_S, abs=0.07)


# --- suspicion -------------------------------------------------------------------------------------------------


def test_a_silent_worker_takes_no_more_turns_and_its_successor_boots_at_once() -> None:
    world = World(1, 2)
    lease = world.lease()
    assert boots(world.tell(Suspected(lease.worker, "it answers no probe"))) == [WorkerId("main", 0, 2)]
    assert (world.free, world.row.leased) == (0, 1)


def test_a_suspect_that_answers_again_takes_its_place_back_and_the_boot_is_given_up() -> None:
    world = World(1, 2)
    lease = world.lease()
    world.tell(Suspected(lease.worker, "silent"))
    assert freed(world.tell(Cleared(lease.worker))) == ["main"]
    assert world.states == {lease.worker: _S.READY, WorkerId("main", 0, 2): _S.STOPPING}
    assert world.free == 1


def test_a_suspect_that_answers_again_when_its_successor_serves_retires_with_its_turns() -> None:
    world = World(1, 2)
    lease = world.lease()
    world.tell(Suspected(lease.worker, "silent"))
    world.boot_all()
    world.tell(Cleared(lease.worker))
    assert world.states[lease.worker] is _S.RETIRING
    assert world.row.leased == 1
    world.tell(Released(lease))
    assert world.states[lease.worker] is _S.STOPPING


def test_a_suspect_that_had_not_proved_itself_is_on_probation_again() -> None:
    world = World(1, 8, probation_s=10.0)
    worker = one(world.of(_S.PROBATION))
    world.tell(Suspected(worker, "silent"))
    world.tell(Cleared(worker))
    assert world.states[worker] is _S.PROBATION
    world.tick(10.0)
    assert world.states[worker] is _S.READY


def test_a_hung_worker_is_killed_and_its_turns_are_lost_with_it() -> None:
    world = World(1, 2)
    lease = world.lease()
    world.tell(Suspected(lease.worker, "silent"))
    world.tell(Condemned(lease.worker, Verdict.HUNG, "it answers no probe"))
    assert world.stops == [Stop(lease.worker, "it answers no probe", is_fault=True, is_hung=True)]
    assert world.row.leased == 0


# --- quarantine ------------------------------------------------------------------------------------------------


def test_a_poisoned_worker_is_replaced_at_once_and_its_turns_run_on() -> None:
    world = World(1, 3)
    world.tick(backoff.STEADY_S)
    lease, other = world.lease(), world.lease()
    effects = world.tell(Condemned(lease.worker, Verdict.POISONED, "turns cannot begin on it"))
    assert Doubted(lease.worker) in effects
    assert boots(effects) == [WorkerId("main", 0, 2)]
    world.tick(30.0)
    world.tell(Released(lease))
    assert world.states[lease.worker] is _S.QUARANTINED
    world.tell(Released(other))
    assert world.stops == [Stop(lease.worker, "turns cannot begin on it")]


def test_a_quarantine_does_not_last_for_ever() -> None:
    world = World(1, 3, retire=RetireLimits(quarantine_s=60.0))
    lease = world.lease()
    world.tell(Condemned(lease.worker, Verdict.ERRORS, "its turns fail"))
    world.tick(59.0)
    assert world.stops == []
    world.tick(1.0)
    assert [stop.worker for stop in world.stops] == [lease.worker]


def test_a_pause_of_ours_does_not_shorten_a_quarantine() -> None:
    world = World(1, 3, retire=RetireLimits(quarantine_s=60.0))
    lease = world.lease()
    world.tell(Condemned(lease.worker, Verdict.ERRORS, "its turns fail"))
    world.tick(1.0)
    world.now += 3600.0
    world.tell(Ticked())
    assert world.stops == []
    world.tick(60.0)
    assert [stop.worker for stop in world.stops] == [lease.worker]


def test_only_so_many_are_condemned_at_once_and_the_others_wait_out_of_service() -> None:
    world = World(4, 2, eject_max=0.34, surge=1.0)
    world.tick(backoff.STEADY_S)
    leases = [world.lease() for _ in range(2)]
    for lease in leases:
        world.tell(Condemned(lease.worker, Verdict.POISONED, "turns cannot begin on it"))
    first, second = leases
    assert (world.states[first.worker], world.states[second.worker]) == (_S.QUARANTINED, _S.SUSPECT)
    world.boot_all()
    assert world.row.workers[_S.READY] == 4
    world.tell(Released(first))
    world.bury()
    world.tick()
    assert world.states[second.worker] is _S.QUARANTINED


def test_a_retiring_worker_that_hangs_is_killed() -> None:
    world = World(1, 2)
    lease = world.lease()
    world.tell(Measured(lease.worker, 2**40))
    world.tick()
    world.boot_all()
    assert world.states[lease.worker] is _S.RETIRING
    world.tell(Condemned(lease.worker, Verdict.HUNG, "it answers no probe"))
    assert world.stops[-1].is_hung


def test_a_worker_on_probation_is_condemned_by_its_first_fault_and_its_successors_wait_longer_and_longer() -> None:
    world = World(1, 2, probation_s=10.0)
    boots_before = world.row.boots
    began = world.now
    while world.now < began + 30.0:
        for worker in world.of(_S.PROBATION):
            world.tell(Struck(worker, "a turn could not begin on it"))
            assert world.states[worker] is _S.STOPPING
        world.bury()
        world.boot_all()
        world.tick()
    assert world.row.is_broken
    assert world.row.boots - boots_before <= 12


def test_a_worker_that_has_answered_is_not_condemned_by_one_fault() -> None:
    world = World(1, 2, probation_s=10.0)
    worker = one(world.of(_S.PROBATION))
    world.tell(Proved(worker))
    assert world.tell(Struck(worker, "a turn failed on it")) == ()


# --- panic -----------------------------------------------------------------------------------------------------


def test_when_more_than_half_look_sick_nobody_else_is_judged() -> None:
    world = World(4, 2, surge=1.0)
    workers = world.of(_S.READY)
    for worker in workers:
        world.tell(Suspected(worker, "silent"))
    assert world.row.is_panicking
    assert [world.states[worker] for worker in workers] == [_S.SUSPECT, _S.SUSPECT, _S.READY, _S.READY]
    for worker in workers:
        world.tell(Condemned(worker, Verdict.HUNG, "it answers no probe"))
    assert world.stops == []
    for worker in workers[2:]:
        world.tell(Cleared(worker))
    world.tick(PANIC_S)
    stopped = {stop.worker for stop in world.stops}
    assert stopped <= set(workers[:2]), "those that came back are left alone"
    world.bury()
    world.tick()
    assert {stop.worker for stop in world.stops} == set(workers[:2])


def test_a_verdict_that_waits_is_void_once_its_worker_leaves() -> None:
    world = World(4, 2, surge=1.0)
    workers = world.of(_S.READY)
    leases = [world.lease() for _ in range(4)]
    for worker in workers:
        world.tell(Suspected(worker, "silent"))
        world.tell(Condemned(worker, Verdict.POISONED, "turns cannot begin on it"))
    world.tell(Reconfigured((replace(world.profile, workers=1),), frozenset()))
    assert world.of(_S.RETIRING)
    world.tick(PANIC_S + 5.0)
    for lease in leases:
        world.tell(Released(lease))
    world.bury()
    world.boot_all()
    world.tick(5.0)
    assert len(world.of(_S.READY)) == 1


def test_two_workers_that_are_silent_together_are_no_reason_to_panic() -> None:
    world = World(2, 2)
    for worker in world.of(_S.READY):
        world.tell(Suspected(worker, "silent"))
    assert not world.row.is_panicking
    assert world.of(_S.READY) == []


# --- replacement on purpose ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retire", "wear"),
    [
        (RetireLimits(max_turns=1), lambda world: world.tell(Released(world.lease()))),
        (RetireLimits(max_age_s=100.0), lambda world: world.tick(100.0)),
        (RetireLimits(max_rss_bytes=100), lambda world: world.tell(Measured(WorkerId("main", 0, 1), 101))),
    ],
)
def test_an_outworn_worker_serves_until_its_successor_does(retire: RetireLimits, wear: Any) -> None:
    world = World(1, 2, retire=retire)
    old = one(world.of(_S.READY))
    wear(world)
    world.tick(1.0)
    assert (world.states[old], world.free) == (_S.READY, 2)
    lease = world.lease()
    assert lease.worker == old
    world.boot_all()
    assert world.states[old] is _S.RETIRING
    assert world.free == 2
    world.tell(Released(lease))
    assert [stop.is_fault for stop in world.stops] == [False]


def test_ages_and_turns_are_jittered() -> None:
    for jitter, age_s, turns in ((0.999, 90.0, 110), (0.0, 100.0, 90)):
        world = World(1, jitter=jitter, retire=RetireLimits(max_age_s=100.0))
        world.tick(age_s - 1.0)
        assert world.of(_S.STARTING) == []
        world.tick(1.25)
        assert len(world.of(_S.STARTING)) == 1
        world = World(1, jitter=jitter, retire=RetireLimits(max_turns=100))
        for _ in range(turns - 1):
            world.tell(Released(world.lease()))
        world.tick()
        assert world.of(_S.STARTING) == []
        world.tell(Released(world.lease()))
        world.tick()
        assert len(world.of(_S.STARTING)) == 1


def test_limits_of_age_and_turns_apply_to_workers_that_run_already() -> None:
    world = World(1, 2)
    world.tick(5.0)
    world.tell(Reconfigured((replace(world.profile, retire=RetireLimits(max_age_s=1.0)),), frozenset()))
    assert len(world.of(_S.STARTING)) == 1


def test_outworn_workers_are_replaced_one_at_a_time() -> None:
    world = World(3, 1)
    old = world.of(_S.READY)
    for worker in old:
        world.tell(Measured(worker, 2**40))
    for replaced in range(1, 4):
        world.tick(1.0)
        assert len(world.of(_S.STARTING)) == 1
        world.boot_all()
        world.bury()
        assert sum(world.states[worker] is _S.DEAD for worker in old) == replaced
        assert world.free == 3


def test_a_stuck_turn_costs_its_worker_when_a_successor_serves_and_the_others_have_ended() -> None:
    world = World(1, 3)
    stuck, moving = world.lease(), world.lease()
    assert boots(world.tell(InterruptIgnored(stuck))) == [WorkerId("main", 0, 2)]
    assert world.free == 1
    world.boot_all()
    assert world.states[stuck.worker] is _S.RETIRING
    world.tell(Released(moving))
    assert world.stops == [Stop(stuck.worker, "it ignored an interrupt")]


def test_a_retirement_does_not_last_for_ever() -> None:
    world = World(1, 3)
    lease = world.lease()
    world.tell(Measured(lease.worker, 2**40))
    world.tick()
    world.boot_all()
    world.tick(world.profile.limits.total_s)
    assert world.stops == []
    world.tick(world.profile.limits.interrupt_s + 1.0)
    assert [stop.worker for stop in world.stops] == [lease.worker]


# --- another configuration -------------------------------------------------------------------------------------


def test_a_changed_profile_rolls_one_worker_at_a_time_new_before_old() -> None:
    world = World(3, 2)
    old = set(world.of(_S.READY))
    world.tell(Reconfigured((world.profile,), frozenset({"main"})))
    assert world.row.outdated == 3
    for _ in range(3):
        assert world.free == 6
        assert len(world.of(_S.STARTING)) == 1
        world.boot_all()
        world.bury()
        world.tick(1.0)
    assert old.isdisjoint(world.of(_S.READY))
    assert (world.row.outdated, world.free) == (0, 6)


def test_a_roll_to_something_that_does_not_boot_leaves_the_old_workers_in_service() -> None:
    world = World(2, 2)
    old = set(world.of(_S.READY))
    world.tell(Reconfigured((world.profile,), frozenset({"main"})))
    for _ in range(400):
        for worker in world.of(_S.STARTING):
            world.tell(Broken(worker, "it exited with code 1"))
        world.bury()
        world.tick()
    assert set(world.of(_S.READY)) == old
    assert world.free == 4
    assert world.row.is_broken
    assert world.core.outlook("main", world.now).down_s is None


def test_knobs_apply_at_once() -> None:
    world = World(1, 2)
    lease = world.lease()
    assert freed(world.tell(Reconfigured((replace(world.profile, slots=5),), frozenset()))) == ["main"]
    assert world.free == 4
    world.tell(Reconfigured((replace(world.profile, slots=1),), frozenset()))
    assert world.free == 0
    world.tell(Released(lease))
    assert world.free == 1


def test_workers_are_added_and_the_superfluous_retire() -> None:
    world = World(2, 1)
    world.tell(Reconfigured((replace(world.profile, workers=3, spares=1),), frozenset()))
    world.boot_all()
    assert (world.free, len(world.of(_S.SPARE))) == (3, 1)
    leases = [world.lease() for _ in range(3)]
    world.tell(Reconfigured((replace(world.profile, workers=1),), frozenset()))
    assert len(world.of(_S.RETIRING)) == 2
    for lease in leases:
        world.tell(Released(lease))
    world.bury()
    assert world.free == 1
    assert world.row.workers[_S.READY] == sum(world.row.workers.values()) == 1


def test_of_the_superfluous_those_go_first_that_do_not_serve() -> None:
    world = World(4, 1)
    for slot in (0, 1):
        world.tell(Broken(WorkerId("main", slot, 1), "killed"))
    world.tell(Reconfigured((replace(world.profile, workers=2),), frozenset()))
    assert world.of(_S.READY) == [WorkerId("main", 2, 1), WorkerId("main", 3, 1)]
    assert world.free == 2
    world.bury()
    world.tick(10.0)
    assert sum(world.row.workers.values()) == 2


def test_the_last_worker_is_replaced_however_many_are_on_their_way_out() -> None:
    world = World(4, 1)
    for _ in range(4):
        world.lease()
    world.tell(Reconfigured((replace(world.profile, workers=1),), frozenset()))
    assert len(world.of(_S.RETIRING)) == 3
    world.tell(Broken(one(world.of(_S.READY)), "killed"))
    world.tick(1.0)
    world.boot_all()
    assert world.free == 1


def test_a_removed_profile_lets_its_turns_end_and_is_gone() -> None:
    world = World(1, 2)
    lease = world.lease()
    world.tell(Reconfigured((), frozenset()))
    assert world.free == 0
    assert world.core.try_lease("main", world.now) is None
    world.tell(Released(lease))
    world.bury()
    assert world.core.snapshot(world.now) == []
    world.tell(Reconfigured((world.profile,), frozenset()))
    assert world.of(_S.STARTING) == [lease.worker._replace(epoch=2)], "an id is never used again"


def test_a_profile_that_comes_back_before_it_is_gone_starts_afresh() -> None:
    world = World(1, 2)
    lease = world.lease()
    world.tell(Reconfigured((), frozenset()))
    world.tell(Reconfigured((world.profile,), frozenset()))
    world.boot_all()
    assert world.free == 2
    assert world.states[lease.worker] is _S.RETIRING


# --- ghosts ----------------------------------------------------------------------------------------------------


def test_what_comes_of_an_earlier_epoch_changes_nothing() -> None:
    world = World()
    lease = world.lease()
    old = lease.worker
    world.tell(Broken(old, "killed"))
    world.bury()
    world.tick(10.0)
    world.boot_all()
    late: list[Stimulus] = [Booted(old), Proved(old), Suspected(old, "x"), Cleared(old), Overloaded(old)]
    late += [Condemned(old, Verdict.HUNG, "x"), Measured(old, 2**40), Broken(old, "x"), Exited(old, "x")]
    late += [Released(lease), InterruptIgnored(lease)]
    assert [world.tell(stimulus) for stimulus in late] == [()] * len(late)
    assert world.free == 2


def test_a_second_handshake_adds_no_seats() -> None:
    world = World(1, 2)
    assert world.tell(Booted(WorkerId("main", 0, 1))) == ()
    assert world.free == 2


# --- the end ---------------------------------------------------------------------------------------------------


def test_a_stop_ends_every_worker_and_boots_none() -> None:
    world = World(3, boots=False)
    first, second = boots(world.tell(Started()))
    world.tell(Booted(first))
    world.tell(Stopped())
    assert [stop.worker for stop in world.stops] == [first, second, WorkerId("main", 2, 1)]
    assert world.tell(Stopped()) == ()
    assert not world.core.is_idle()
    world.bury()
    assert world.core.is_idle()
    world.tick(3600.0)
    assert (world.row.last_failure, world.row.leased, world.row.seats) == (None, 0, 0)


# --- the table -------------------------------------------------------------------------------------------------


def test_the_table_has_no_move_that_never_happens() -> None:
    seen: set[tuple[WorkerState, WorkerState]] = set()
    faults: list[list[Any]] = [
        [lambda w: Broken(w, "it broke")],
        [lambda w: Suspected(w, "silent")],
        [lambda w: Suspected(w, "silent"), Cleared],
        [lambda w: Suspected(w, "silent"), lambda w: Condemned(w, Verdict.HUNG, "hung")],
        [lambda w: Suspected(w, "silent"), lambda w: Broken(w, "it broke")],
        [lambda w: Condemned(w, Verdict.POISONED, "poisoned")],
        [lambda w: Measured(w, 2**40)],
    ]
    for probation_s in (0.0, 10.0):
        for fault in faults:
            for spares in (0, 1):
                world = World(1, 2, probation_s=probation_s, spares=spares)
                world.lease()
                for worker in world.of(_S.READY, _S.PROBATION):
                    for stimulus in fault:
                        world.tell(stimulus(worker))
                world.tick(2.0)
                for worker in world.of(_S.STARTING):
                    world.tell(Booted(worker))
                world.tick(12.0)
                world.tell(Stopped())
                world.bury()
                seen |= world.seen
    world = World(3, boots=False)
    world.tell(Started())
    world.tell(Stopped())
    young = World(2, probation_s=10.0)
    young.tell(Reconfigured((replace(young.profile, workers=1),), frozenset()))
    assert seen | world.seen | young.seen == set(TRANSITIONS)


def test_a_move_that_is_not_in_the_table_is_our_bug_and_tells_the_story() -> None:
    world = World()
    pool = world.core._pools["main"]
    with pytest.raises(IllegalTransition, match=r"main/0\.1: ready -> starting(.|\n)*boot"):
        world.core._move(pool, pool.places[0], _S.STARTING, "a mistake", NOW)


def test_a_worker_has_a_story_while_it_lives() -> None:
    world = World()
    lease = world.lease()
    story = [line.what for line in world.core.story(lease.worker)]
    assert story[0] == "boots in 0.000 s"
    assert story[-2:] == ["ready: its probation passed without a fault", f"lease {lease.id}"]
    world.tell(Exited(lease.worker, "gone"))
    assert world.core.story(lease.worker)[-1].what == "dead: gone"
    assert world.core.buried() == (lease.worker,)


def test_only_the_last_workers_that_are_gone_are_remembered() -> None:
    world = World()
    first = one(world.of(_S.READY))
    for _ in range(BURIED + 1):
        world.tell(Commanded(one(world.of(_S.READY)), Command.RESTART))
        world.bury()
        world.boot_all()
    assert len(world.core.buried()) == BURIED
    assert world.core.story(first) == ()


# --- operators -------------------------------------------------------------------------------------------------


def test_a_worker_in_quarantine_by_command_has_a_successor_at_once_and_its_turns_end() -> None:
    world = World(2)
    lease = world.lease()
    assert world.core.objection(lease.worker, Command.QUARANTINE) is None
    effects = world.tell(Commanded(lease.worker, Command.QUARANTINE))
    assert Doubted(lease.worker) in effects
    assert len(boots(effects)) == 1
    assert world.states[lease.worker] is _S.QUARANTINED
    assert world.stops == []
    assert [each.reason for each in world.row.each if each.worker == lease.worker] == ["an operator quarantined it"]
    world.tell(Released(lease))
    assert one(world.of(_S.STOPPING)) == lease.worker
    assert world.row.last_failure is None, "nothing has failed"


def test_no_guard_holds_an_operator_back() -> None:
    world = World(3)
    leases = [world.lease() for _ in range(3)]
    for lease in leases:
        world.tell(Commanded(lease.worker, Command.QUARANTINE))
    assert len(world.of(_S.QUARANTINED)) == 3
    assert not world.row.is_broken
    assert not world.row.is_panicking


def test_a_worker_that_is_retired_by_command_serves_until_its_successor_does() -> None:
    world = World(1)
    lease = world.lease()
    (successor,) = boots(world.tell(Commanded(lease.worker, Command.RETIRE)))
    assert world.states[lease.worker] is _S.READY
    world.tell(Booted(successor))
    world.tell(Proved(successor))
    assert world.states[lease.worker] is _S.RETIRING
    world.tell(Released(lease))
    assert world.stops[-1] == Stop(lease.worker, COMMANDED[Command.RETIRE])


def test_a_worker_is_restarted_by_command_whatever_runs_on_it() -> None:
    world = World(1)
    lease = world.lease()
    effects = world.tell(Commanded(lease.worker, Command.RESTART))
    assert world.stops == [Stop(lease.worker, COMMANDED[Command.RESTART])]
    assert boots(effects) == [WorkerId("main", 0, 2)]
    assert world.tell(Released(lease)) == ()


def test_a_worker_that_waits_for_its_boot_need_not_wait_when_it_is_told_to_restart() -> None:
    world = World(1, jitter=0.5)
    world.tell(Broken(one(world.of(_S.READY)), "it exited with code 1"))
    world.bury()
    waiting = WorkerId("main", 0, 2)
    assert not world.of(_S.STARTING, _S.READY)
    assert boots(world.tell(Commanded(waiting, Command.RESTART))) == [waiting]


def test_a_spare_that_is_retired_by_command_goes_and_another_boots() -> None:
    world = World(1, spares=1)
    spare = one(world.of(_S.SPARE))
    assert len(boots(world.tell(Commanded(spare, Command.RETIRE)))) == 1
    assert one(world.of(_S.STOPPING)) == spare


@pytest.mark.parametrize(
    ("state", "refused"),
    [
        (_S.BACKOFF, {Command.QUARANTINE, Command.RETIRE}),
        (_S.STARTING, {Command.QUARANTINE, Command.RETIRE}),
        (_S.SPARE, {Command.QUARANTINE}),
        (_S.PROBATION, set()),
        (_S.READY, set()),
        (_S.SUSPECT, {Command.RETIRE}),
        (_S.QUARANTINED, {Command.QUARANTINE, Command.RETIRE}),
        (_S.RETIRING, {Command.QUARANTINE, Command.RETIRE}),
        (_S.STOPPING, set(Command)),
    ],
)
def test_what_a_worker_cannot_be_told_changes_nothing_and_the_objection_says_so(
    state: WorkerState, refused: set[Command]
) -> None:
    world = World(1)
    worker = one(world.of(_S.READY))
    record = world.core._pools["main"].workers[worker]
    record.state, record.boot_at = state, NOW + 1.0
    objections = {command: world.core.objection(worker, command) for command in Command}
    assert objections == {command: f"it is {state}" if command in refused else None for command in Command}
    for command in refused:
        assert world.core.handle(Commanded(worker, command), NOW) == ()


def test_a_worker_that_is_to_be_replaced_cannot_be_retired_again() -> None:
    world = World(1)
    worker = one(world.of(_S.READY))
    world.tell(Commanded(worker, Command.RETIRE))
    objection = world.core.objection(worker, Command.RETIRE)
    assert objection == "it is to be replaced already: an operator retired it"
    with pytest.raises(KeyError):
        world.core.objection(WorkerId("main", 0, 77), Command.RETIRE)

from __future__ import annotations

import pytest

from pool import backoff
from pool.errors import IllegalTransition
from pool.state import (
    SPAWN_CONCURRENCY,
    Boot,
    Booted,
    Broken,
    Effect,
    Exited,
    Freed,
    InterruptIgnored,
    Lease,
    Moved,
    PoolState,
    Released,
    Started,
    Stop,
    Stopped,
    Ticked,
    Unresponsive,
)
from pool.worker_state import TRANSITIONS, WorkerId, WorkerState
from tests.support.profiles import a_profile

NOW = 1000.0


def state_of(*profiles: tuple[str, int, int], jitter: float = 0.0) -> PoolState:
    """A pool of profiles given as (name, workers, slots)."""
    return PoolState(
        [a_profile(name, workers=workers, slots=slots) for name, workers, slots in profiles], lambda: jitter
    )


def boots(effects: tuple[Effect, ...]) -> list[WorkerId]:
    return [effect.worker for effect in effects if isinstance(effect, Boot)]


def stops(effects: tuple[Effect, ...]) -> list[WorkerId]:
    return [effect.worker for effect in effects if isinstance(effect, Stop)]


def freed(effects: tuple[Effect, ...]) -> list[str]:
    return [effect.profile for effect in effects if isinstance(effect, Freed)]


def ready_pool(workers: int = 1, slots: int = 2) -> tuple[PoolState, list[WorkerId]]:
    """A pool of one profile, all of whose workers are ready."""
    state = state_of(("main", workers, slots))
    todo, ready = boots(state.handle(Started(), NOW)), []
    while todo:
        worker = todo.pop(0)
        ready.append(worker)
        todo += boots(state.handle(Booted(worker), NOW))
    state.validate()
    return state, ready


def leased(state: PoolState, now: float = NOW) -> Lease:
    lease = state.try_lease("main", now)
    assert lease is not None
    return lease


# --- boots -----------------------------------------------------------------------------------------------------


def test_two_workers_boot_at_a_time_and_the_next_when_one_is_through() -> None:
    state = state_of(("main", 4, 2))
    first = boots(state.handle(Started(), NOW))
    assert first == [WorkerId("main", 0, 1), WorkerId("main", 1, 1)]
    assert len(first) == SPAWN_CONCURRENCY
    assert state.handle(Ticked(), NOW + 5.0) == ()
    assert boots(state.handle(Booted(first[1]), NOW)) == [WorkerId("main", 2, 1)]
    assert boots(state.handle(Broken(first[0], "no"), NOW)) == [WorkerId("main", 3, 1)]
    state.validate()


def test_nothing_boots_before_the_start() -> None:
    assert state_of(("main", 2, 2)).handle(Ticked(), NOW) == ()


def test_a_boot_that_succeeds_frees_seats_and_says_so() -> None:
    state = state_of(("main", 1, 3))
    (worker,) = boots(state.handle(Started(), NOW))
    assert state.free("main") == 0
    effects = state.handle(Booted(worker), NOW)
    assert effects == (Moved(worker, WorkerState.STARTING, WorkerState.READY), Freed("main"))
    assert state.free("main") == 3


def test_a_boot_that_fails_is_tried_again_after_a_growing_wait() -> None:
    state = state_of(("main", 1, 2))
    (worker,) = boots(state.handle(Started(), NOW))
    now, waits = NOW, []
    for epoch in range(2, 12):
        state.handle(Broken(worker, "it exited with code 1"), now)
        state.handle(Exited(worker, "it exited with code 1"), now)
        gone_at = now
        again: list[WorkerId] = []
        while not again:
            now += 0.0625
            again = boots(state.handle(Ticked(), now))
        (worker,) = again
        assert worker.epoch == epoch
        waits.append(now - gone_at)
    assert waits == sorted(waits)
    assert waits[0] == backoff.BASE_S / 2
    assert waits[-1] == backoff.CAP_S / 2


def test_a_worker_that_ran_steadily_is_replaced_at_once() -> None:
    state, (worker,) = ready_pool()
    now = NOW + backoff.STEADY_S
    state.handle(Broken(worker, "it exited with code 0"), now)
    assert boots(state.handle(Exited(worker, "it exited with code 0"), now)) == [worker._replace(epoch=2)]


def test_a_worker_that_ran_briefly_is_replaced_after_a_wait() -> None:
    state, (worker,) = ready_pool()
    now = NOW + backoff.STEADY_S - 0.1
    state.handle(Broken(worker, "it exited with code 0"), now)
    assert boots(state.handle(Exited(worker, "it exited with code 0"), now)) == []
    assert boots(state.handle(Ticked(), now + backoff.BASE_S)) == [worker._replace(epoch=2)]


def test_a_slot_is_not_filled_before_its_last_worker_is_gone() -> None:
    state, (worker,) = ready_pool()
    state.handle(Broken(worker, "its stdout closed"), NOW)
    assert boots(state.handle(Ticked(), NOW + 3600.0)) == []
    assert boots(state.handle(Exited(worker, "gone"), NOW + 3600.0)) == [worker._replace(epoch=2)]


def test_a_profile_whose_boots_hang_does_not_keep_another_from_booting() -> None:
    state = state_of(("hanging", 6, 1), ("healthy", 1, 1))
    now, running = NOW, boots(state.handle(Started(), NOW))
    for _ in range(6):
        now += 10.0
        for worker in running:
            if worker.profile == "healthy":
                return
        effects = [effect for worker in running for effect in state.handle(Broken(worker, "no answer"), now)]
        effects += [effect for worker in running for effect in state.handle(Exited(worker, "no answer"), now)]
        running = boots(tuple(effects))
    pytest.fail("the healthy profile was never given a boot")


def test_what_was_last_wrong_is_remembered() -> None:
    state = state_of(("main", 1, 2))
    (worker,) = boots(state.handle(Started(), NOW))
    state.handle(Broken(worker, "it ended by itself"), NOW)
    state.handle(Exited(worker, "it exited with code 3"), NOW)
    (row,) = state.snapshot()
    assert row.last_failure == "it exited with code 3"


# --- leases ----------------------------------------------------------------------------------------------------


def test_leases_go_to_the_least_loaded_worker_until_all_are_full() -> None:
    state, _ = ready_pool(workers=2, slots=2)
    assert [leased(state).worker.slot for _ in range(4)] == [0, 1, 0, 1]
    assert state.try_lease("main", NOW) is None
    state.validate()


def test_lease_ids_are_never_used_twice() -> None:
    state, _ = ready_pool(slots=1)
    seen = set()
    for _ in range(5):
        lease = leased(state)
        seen.add(lease.id)
        state.handle(Released(lease), NOW)
    assert len(seen) == 5


def test_a_released_seat_is_free_once_and_said_to_be() -> None:
    state, _ = ready_pool(slots=1)
    lease = leased(state)
    assert freed(state.handle(Released(lease), NOW)) == ["main"]
    assert state.handle(Released(lease), NOW) == ()
    assert state.free("main") == 1
    state.validate()


def test_with_a_worker_its_leases_are_over() -> None:
    state, (worker,) = ready_pool()
    lease = leased(state)
    assert stops(state.handle(Broken(worker, "killed"), NOW)) == [worker]
    assert state.free("main") == 0
    assert state.try_lease("main", NOW) is None
    assert state.handle(Released(lease), NOW) == ()
    (row,) = state.snapshot()
    assert (row.leased, row.seats, row.workers[WorkerState.STOPPING]) == (0, 0, 1)
    state.validate()


def test_a_late_release_does_not_free_a_seat_of_the_next_worker() -> None:
    state, (worker,) = ready_pool(slots=1)
    old = leased(state)
    state.handle(Broken(worker, "killed"), NOW)
    (successor,) = boots(state.handle(Exited(worker, "killed"), NOW + 60.0))
    state.handle(Booted(successor), NOW + 60.0)
    leased(state)
    assert state.handle(Released(old), NOW + 60.0) == ()
    assert state.free("main") == 0
    state.validate()


# --- an ignored interrupt --------------------------------------------------------------------------------------


def test_a_worker_that_ignores_an_interrupt_takes_no_more_but_its_other_turns_run_on() -> None:
    state, (worker,) = ready_pool(slots=3)
    stuck, moving = leased(state), leased(state)
    effects = state.handle(InterruptIgnored(stuck), NOW)
    assert effects == (Moved(worker, WorkerState.READY, WorkerState.RETIRING),)
    assert (state.free("main"), state.try_lease("main", NOW)) == (0, None)
    effects = state.handle(Released(moving), NOW)
    assert stops(effects) == [worker]
    assert freed(effects) == []
    state.validate()


def test_a_worker_whose_only_turn_is_stuck_goes_at_once() -> None:
    state, (worker,) = ready_pool()
    assert stops(state.handle(InterruptIgnored(leased(state)), NOW)) == [worker]


def test_two_stuck_turns_do_not_wait_for_each_other() -> None:
    state, (worker,) = ready_pool(slots=3)
    first, second = leased(state), leased(state)
    assert stops(state.handle(InterruptIgnored(first), NOW)) == []
    assert stops(state.handle(InterruptIgnored(second), NOW)) == [worker]
    state.validate()


def test_a_stuck_turn_that_ends_after_all_does_not_save_its_worker() -> None:
    state, (worker,) = ready_pool(slots=3)
    stuck, moving = leased(state), leased(state)
    state.handle(InterruptIgnored(stuck), NOW)
    assert stops(state.handle(Released(stuck), NOW)) == []
    state.validate()
    assert state.try_lease("main", NOW) is None
    assert stops(state.handle(Released(moving), NOW)) == [worker]
    state.validate()


def test_an_unresponsive_worker_takes_no_more_and_goes_when_its_turns_have_ended() -> None:
    state, (worker,) = ready_pool(slots=3)
    moving = leased(state)
    assert state.handle(Unresponsive(worker), NOW) == (Moved(worker, WorkerState.READY, WorkerState.RETIRING),)
    assert state.try_lease("main", NOW) is None
    assert stops(state.handle(Released(moving), NOW)) == [worker]
    state.validate()


def test_an_unresponsive_worker_without_turns_goes_at_once() -> None:
    state, (worker,) = ready_pool()
    assert stops(state.handle(Unresponsive(worker), NOW)) == [worker]
    assert stops(state.handle(Unresponsive(worker), NOW)) == []


# --- ghosts ----------------------------------------------------------------------------------------------------


def test_what_comes_of_an_earlier_epoch_changes_nothing() -> None:
    state, (old,) = ready_pool()
    old_lease = leased(state)
    state.handle(Broken(old, "killed"), NOW)
    (young,) = boots(state.handle(Exited(old, "killed"), NOW + 60.0))
    for stimulus in (Booted(old), Broken(old, "x"), Exited(old, "x"), Unresponsive(old), Released(old_lease)):
        assert state.handle(stimulus, NOW + 60.0) == ()
    assert state.handle(InterruptIgnored(old_lease), NOW + 60.0) == ()
    assert boots(state.handle(Ticked(), NOW + 60.0)) == []
    assert freed(state.handle(Booted(young), NOW + 61.0)) == ["main"]
    state.validate()


def test_a_handshake_that_comes_after_the_stop_changes_nothing() -> None:
    state = state_of(("main", 1, 2))
    (worker,) = boots(state.handle(Started(), NOW))
    state.handle(Broken(worker, "too old"), NOW)
    assert state.handle(Booted(worker), NOW) == ()
    assert state.free("main") == 0


def test_a_second_handshake_adds_no_seats() -> None:
    state, (worker,) = ready_pool(slots=2)
    assert state.handle(Booted(worker), NOW) == ()
    assert state.free("main") == 2


# --- the end ---------------------------------------------------------------------------------------------------


def test_a_stop_ends_every_worker_and_boots_none() -> None:
    state = state_of(("main", 3, 2))
    first, second = boots(state.handle(Started(), NOW))
    (third,) = boots(state.handle(Booted(first), NOW))
    assert stops(state.handle(Stopped(), NOW)) == [first, second, third]
    assert state.handle(Stopped(), NOW) == ()
    for worker in (first, second, third):
        assert not state.is_idle()
        assert boots(state.handle(Exited(worker, "stopped"), NOW)) == []
    assert state.is_idle()
    assert state.handle(Ticked(), NOW + 3600.0) == ()
    (row,) = state.snapshot()
    assert (row.last_failure, row.leased, row.seats) == (None, 0, 0)


# --- the table -------------------------------------------------------------------------------------------------


def test_the_table_has_no_move_that_never_happens() -> None:
    seen: set[tuple[WorkerState, WorkerState]] = set()

    def note(effects: tuple[Effect, ...]) -> None:
        seen.update((effect.source, effect.target) for effect in effects if isinstance(effect, Moved))

    for story in range(4):
        state = state_of(("main", 1, 2))
        (worker,) = boots(state.handle(Started(), NOW))
        if story == 0:  # it cannot be spawned, and says so in one breath
            note(state.handle(Exited(worker, "no such file"), NOW))
        if story == 1:
            note(state.handle(Broken(worker, "the boot failed"), NOW))
        if story >= 2:
            note(state.handle(Booted(worker), NOW))
        if story == 2:
            lease, other = leased(state), leased(state)
            note(state.handle(InterruptIgnored(lease), NOW))
            note(state.handle(Released(other), NOW))
        note(state.handle(Exited(worker, "gone"), NOW))
    assert seen == set(TRANSITIONS)


def test_a_move_that_is_not_in_the_table_is_our_bug_and_tells_the_story() -> None:
    state, (worker,) = ready_pool()
    record = state._find(worker)
    assert record is not None
    with pytest.raises(IllegalTransition, match=r"main/0\.1: ready -> starting(.|\n)*boot"):
        state._move(record, WorkerState.STARTING, NOW, [])


def test_a_worker_has_a_story_while_it_lives() -> None:
    state, (worker,) = ready_pool()
    lease = leased(state)
    assert state.story(worker).splitlines() == ["1000.000 boot", "1000.000 ready", f"1000.000 lease {lease.id}"]
    state.handle(Exited(worker, "gone"), NOW)
    assert state.story(worker) == ""

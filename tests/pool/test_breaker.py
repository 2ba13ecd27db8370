from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pool.breaker import FAILURES, FEWEST, PANIC_S, SICK_WINDOW_S, TRIAL_S, Breaker, Panic
from tests.support.examples import trying

NOW = 1000.0


def broken(at: float = NOW) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker()
    for _ in range(FAILURES + 1):
        breaker.failed(at)
    return breaker


# --- the breaker -------------------------------------------------------------------------------------------------


def test_it_opens_with_the_failure_that_is_one_too_many() -> None:
    breaker = Breaker()
    for number in range(FAILURES):
        breaker.failed(NOW + number)
    assert (breaker.is_open, breaker.wait_s(NOW + FAILURES)) == (False, 0.0)
    breaker.failed(NOW + FAILURES)
    assert (breaker.is_open, breaker.wait_s(NOW + FAILURES)) == (True, TRIAL_S)


def test_it_opens_however_long_each_failure_took() -> None:
    breaker = Breaker()
    for number in range(FAILURES + 1):
        assert not breaker.is_open
        breaker.failed(NOW + 600.0 * number)
    assert breaker.is_open


def test_while_it_is_open_one_boot_is_tried_in_five_seconds() -> None:
    breaker = broken()
    assert breaker.wait_s(NOW + TRIAL_S - 1.0) == 1.0
    assert breaker.wait_s(NOW + TRIAL_S) == breaker.wait_s(NOW + 1e6) == 0.0
    breaker.tried(NOW + 20.0)
    assert breaker.wait_s(NOW + 21.0) == TRIAL_S - 1.0
    breaker.failed(NOW + 22.0)
    assert breaker.wait_s(NOW + 22.0) == TRIAL_S - 2.0, "from the beginning of the last trial"


def test_time_alone_does_not_close_it() -> None:
    breaker = broken()
    assert breaker.wait_s(NOW + 1e6) == 0.0
    assert breaker.is_open


def test_a_start_that_succeeds_closes_it_and_what_failed_before_is_forgotten() -> None:
    breaker = broken()
    breaker.succeeded()
    assert (breaker.is_open, breaker.wait_s(NOW)) == (False, 0.0)
    for _ in range(FAILURES):
        breaker.failed(NOW + 1.0)
    assert not breaker.is_open
    breaker.failed(NOW + 1.0)
    assert breaker.is_open


def test_a_start_that_succeeds_between_failures_keeps_it_closed() -> None:
    breaker = Breaker()
    for _ in range(10):
        for _ in range(FAILURES):
            breaker.failed(NOW)
        breaker.succeeded()
    assert not breaker.is_open


@given(st.lists(st.booleans(), max_size=60))
@trying(1)
def test_it_is_open_exactly_if_too_many_in_a_row_have_failed_since_the_last_success(starts: list[bool]) -> None:
    breaker, in_a_row = Breaker(), 0
    for number, is_success in enumerate(starts):
        if is_success:
            breaker.succeeded()
        else:
            breaker.failed(NOW + number)
        in_a_row = 0 if is_success else in_a_row + 1
        assert breaker.is_open == (in_a_row > FAILURES)


# --- panic -------------------------------------------------------------------------------------------------------


def sicken(panic: Panic, count: int, workers: int, now: float = NOW) -> None:
    for number in range(count):
        panic.sick(number, workers, now)


def test_more_than_half_of_the_workers_sick_at_once_is_a_panic_for_half_a_minute() -> None:
    panic = Panic()
    sicken(panic, 4, 8)
    assert not panic.is_on(NOW), "half is not more than half"
    panic.sick("another", 8, NOW)
    assert panic.is_on(NOW)
    assert panic.is_on(NOW + PANIC_S - 0.1)
    assert not panic.is_on(NOW + PANIC_S)


def test_few_workers_prove_nothing_about_what_they_share() -> None:
    panic = Panic()
    sicken(panic, FEWEST - 1, FEWEST - 1)
    assert not panic.is_on(NOW)
    sicken(panic, FEWEST, FEWEST)
    assert panic.is_on(NOW)


def test_one_worker_that_is_sick_again_and_again_is_one() -> None:
    panic = Panic()
    for _ in range(100):
        panic.sick("the same", 3, NOW)
    assert not panic.is_on(NOW)


def test_workers_that_fall_sick_one_after_the_other_are_no_panic() -> None:
    panic = Panic()
    for number in range(100):
        panic.sick(number, 3, NOW + number * (SICK_WINDOW_S / 2 + 0.1))
        assert not panic.is_on(NOW + number * (SICK_WINDOW_S / 2 + 0.1))


def test_one_that_is_well_again_does_not_count() -> None:
    panic = Panic()
    sicken(panic, 2, 4)
    panic.well(0)
    panic.well("nobody")
    panic.sick("another", 4, NOW)
    assert not panic.is_on(NOW)


def test_a_panic_is_not_prolonged_while_it_is_on_and_may_begin_again_after_it() -> None:
    panic = Panic()
    sicken(panic, 3, 3)
    sicken(panic, 3, 3, NOW + PANIC_S - 1.0)
    assert not panic.is_on(NOW + PANIC_S)
    sicken(panic, 3, 3, NOW + PANIC_S + SICK_WINDOW_S)
    assert panic.is_on(NOW + PANIC_S + SICK_WINDOW_S)


def test_a_panic_ends_when_what_they_share_is_seen_to_work_and_the_sick_are_counted_anew() -> None:
    panic = Panic()
    sicken(panic, 3, 3)
    panic.end()
    assert not panic.is_on(NOW)
    sicken(panic, 2, 3)
    assert not panic.is_on(NOW)
    sicken(panic, 3, 3)
    assert panic.is_on(NOW)


def test_nobody_is_remembered_for_longer_than_the_window() -> None:
    panic = Panic()
    for number in range(1000):
        panic.sick(number, 1000, NOW + number)
    assert len(panic._sick_at) <= SICK_WINDOW_S + 1

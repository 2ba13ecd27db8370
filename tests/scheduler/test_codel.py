from __future__ import annotations

from scheduler.codel import Codel

TARGET_S = 0.5
INTERVAL_S = 5.0


def test_long_waits_are_borne_for_an_interval_and_then_the_longest_are_shed() -> None:
    codel = Codel()
    for at in range(5):
        assert not codel.sheds(3.0, TARGET_S, 100.0 + at)
    assert codel.is_overloaded(TARGET_S, 100.0 + INTERVAL_S)
    assert codel.sheds(1.1, TARGET_S, 100.0 + INTERVAL_S)


def test_who_waited_twice_the_target_at_most_is_served_under_overload_too() -> None:
    codel = Codel()
    codel.sheds(3.0, TARGET_S, 100.0)
    assert not codel.sheds(1.0, TARGET_S, 110.0)
    assert codel.is_overloaded(TARGET_S, 110.0)


def test_one_short_wait_within_the_interval_says_that_nothing_stands() -> None:
    codel = Codel()
    codel.sheds(3.0, TARGET_S, 100.0)
    assert not codel.sheds(0.5, TARGET_S, 104.0)
    assert not codel.sheds(3.0, TARGET_S, 106.0)
    assert codel.sheds(3.0, TARGET_S, 111.0)


def test_a_queue_that_was_empty_starts_anew() -> None:
    codel = Codel()
    codel.sheds(3.0, TARGET_S, 100.0)
    codel.restart()
    assert not codel.sheds(3.0, TARGET_S, 200.0)


def test_a_target_of_zero_sheds_nobody() -> None:
    codel = Codel()
    assert not any(codel.sheds(1000.0, 0.0, float(at)) for at in range(100))

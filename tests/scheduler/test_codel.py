from __future__ import annotations

from scheduler.backlog import Backlog, Place

TARGET_S = 0.5
INTERVAL_S = 5.0
HEAD = 1


class Flow:
    """One flow, of which a test says how long its head has waited when its turn comes."""

    def __init__(self) -> None:
        self.backlog = Backlog()
        self.backlog.push(HEAD, Place())

    def sheds(self, waited_s: float, now: float) -> bool:
        return self.backlog.sheds(HEAD, now - waited_s, TARGET_S, now)


def test_long_waits_are_borne_for_an_interval_and_then_the_longest_are_shed() -> None:
    flow = Flow()
    for at in range(5):
        assert not flow.sheds(3.0, 100.0 + at)
        assert not flow.backlog.is_overloaded(TARGET_S, 100.0 + at)
    assert flow.backlog.is_overloaded(TARGET_S, 100.0 + INTERVAL_S)
    assert flow.sheds(1.1, 100.0 + INTERVAL_S)


def test_who_waited_twice_the_target_at_most_is_served_under_overload_too() -> None:
    flow = Flow()
    flow.sheds(3.0, 100.0)
    assert not flow.sheds(1.0, 110.0)
    assert flow.backlog.is_overloaded(TARGET_S, 110.0)


def test_one_short_wait_within_the_interval_says_that_nothing_stands() -> None:
    flow = Flow()
    flow.sheds(3.0, 100.0)
    assert not flow.sheds(0.5, 104.0)
    assert not flow.sheds(3.0, 106.0)
    assert flow.sheds(3.0, 111.0)


def test_a_flow_that_was_empty_starts_anew() -> None:
    flow = Flow()
    flow.sheds(3.0, 100.0)
    flow.backlog.remove(HEAD)
    flow.backlog.push(HEAD, Place())
    assert not flow.sheds(3.0, 200.0)


def test_the_time_at_the_tenants_own_cap_is_no_wait() -> None:
    flow = Flow()
    capped = Place(seats=1)
    flow.sheds(3.0, 100.0)
    flow.backlog.occupy(capped)
    flow.backlog.vacate(capped, now=109.0)
    assert not flow.sheds(50.0, 109.4)
    assert not flow.sheds(50.0, 113.0)
    assert flow.sheds(50.0, 118.0)

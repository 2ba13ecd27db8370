from __future__ import annotations

from scheduler.limit import SeatLimit

NOMINAL = 20


def aimd(configured: int | None = None, floor: int = 1) -> SeatLimit:
    limit = SeatLimit(configured, aimd=True, floor=floor)
    limit.see(NOMINAL)
    return limit


def test_without_aimd_the_limit_is_what_is_configured_whatever_is_said() -> None:
    for configured in (None, 7):
        limit = SeatLimit(configured)
        limit.overloaded(10, 100.0)
        assert limit.now == configured


def test_a_sign_of_overload_takes_away_three_tenths_and_no_more_for_five_seconds() -> None:
    limit = aimd()
    assert limit.now is None
    limit.overloaded(20, 100.0)
    limit.overloaded(20, 104.9)
    assert limit.now == 14
    limit.overloaded(14, 105.0)
    assert limit.now == 9


def test_the_floor_holds() -> None:
    limit = aimd(floor=4)
    for step in range(20):
        limit.overloaded(20, 100.0 + 5 * step)
    assert limit.now == 4


def test_a_configured_limit_below_the_floor_wins() -> None:
    limit = aimd(configured=2, floor=4)
    limit.overloaded(2, 100.0)
    assert limit.now == 2


def test_a_limit_that_is_used_grows_by_one_in_ten_seconds_up_to_the_ceiling() -> None:
    limit = aimd(configured=10)
    limit.overloaded(10, 100.0)
    seen = []
    for step in range(1, 6):
        limit.used(7 + step, 100.0 + 10 * step)
        seen.append(limit.now)
    assert seen == [8, 9, 10, 10, 10]


def test_a_limit_that_is_hardly_used_does_not_grow() -> None:
    limit = aimd(configured=20)
    limit.overloaded(10, 100.0)
    for step in range(11, 20):
        limit.used(11, 10.0 * step)
    assert limit.now == 14


def test_where_the_seats_are_not_known_those_in_use_are_the_measure() -> None:
    limit = SeatLimit(None, aimd=True)
    limit.overloaded(10, 100.0)
    assert limit.now == 7


def test_what_aimd_took_away_is_given_back_when_it_is_switched_off_or_the_ceiling_sinks() -> None:
    limit = aimd(configured=10)
    limit.overloaded(10, 100.0)
    limit.configure(5)
    assert limit.now == 5
    limit.overloaded(5, 110.0)
    assert limit.now == 3
    limit.adopt(aimd=False, floor=1)
    assert limit.now == 5

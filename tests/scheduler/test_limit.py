from __future__ import annotations

from scheduler.limit import SeatLimit

NOMINAL = 20


def aimd(configured: int | None = None, floor: int = 1) -> SeatLimit:
    return SeatLimit(configured, aimd=True, floor=floor)


def test_without_aimd_the_limit_is_what_is_configured_whatever_is_said() -> None:
    for configured in (None, 7):
        limit = SeatLimit(configured)
        limit.overloaded(10, NOMINAL, 100.0)
        assert limit.now(NOMINAL) == configured


def test_a_sign_of_overload_takes_away_three_tenths_and_no_more_for_five_seconds() -> None:
    limit = aimd()
    assert limit.now(NOMINAL) is None
    limit.overloaded(20, NOMINAL, 100.0)
    limit.overloaded(20, NOMINAL, 104.9)
    assert limit.now(NOMINAL) == 14
    limit.overloaded(14, NOMINAL, 105.0)
    assert limit.now(NOMINAL) == 9


def test_the_floor_holds() -> None:
    limit = aimd(floor=4)
    for step in range(20):
        limit.overloaded(20, NOMINAL, 100.0 + 5 * step)
    assert limit.now(NOMINAL) == 4


def test_a_configured_limit_below_the_floor_wins() -> None:
    limit = aimd(configured=2, floor=4)
    limit.overloaded(2, NOMINAL, 100.0)
    assert limit.now(NOMINAL) == 2


def test_a_limit_that_is_used_grows_by_one_in_ten_seconds_up_to_the_ceiling() -> None:
    limit = aimd(configured=10)
    limit.overloaded(10, NOMINAL, 100.0)
    seen = []
    for step in range(1, 6):
        limit.used(7 + step, NOMINAL, 100.0 + 10 * step)
        seen.append(limit.now(NOMINAL))
    assert seen == [8, 9, 10, 10, 10]


def test_a_limit_that_is_hardly_used_does_not_grow() -> None:
    limit = aimd(configured=20)
    limit.overloaded(10, NOMINAL, 100.0)
    for step in range(11, 20):
        limit.used(11, NOMINAL, 10.0 * step)
    assert limit.now(NOMINAL) == 14


def test_where_the_seats_are_not_known_those_in_use_are_the_measure() -> None:
    limit = aimd()
    limit.overloaded(10, 0, 100.0)
    assert limit.now(0) == 7

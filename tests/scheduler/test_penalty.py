from __future__ import annotations

import pytest

from pool.events import TurnRequest
from scheduler.penalty import PenaltyBox, fingerprint

TURN = TurnRequest("m", "be brief", ({"role": "user"},))


def test_a_fingerprint_is_the_same_for_the_same_request_of_the_same_tenant() -> None:
    same = TurnRequest("m", "be brief", ({"role": "user"},))
    assert fingerprint(b"k", "a", TURN) == fingerprint(b"k", "a", same)
    others = [(b"k", "b", TURN), (b"j", "a", TURN), (b"k", "a", TurnRequest("m", "be long", ({"role": "user"},)))]
    assert len({fingerprint(b"k", "a", TURN), *(fingerprint(*other) for other in others)}) == 4


@pytest.mark.parametrize("odd", ["\ud800", 2**70])
def test_any_request_has_a_fingerprint(odd: object) -> None:
    turn = TurnRequest("m", "", ({"odd": odd},))
    assert len(fingerprint(b"", "a", turn)) == 16
    assert fingerprint(b"", "a", turn) != fingerprint(b"", "b", turn)


def test_what_is_in_the_box_is_refused_until_its_time_is_over() -> None:
    box = PenaltyBox()
    assert not box.has_any("a", 0.0)
    box.add("a", b"x", 10.0)
    assert box.has_any("a", 9.9)
    assert box.until("a", b"x", 9.9) == 10.0
    assert box.until("a", b"y", 9.9) is None
    assert box.until("a", b"x", 10.0) is None
    assert not box.has_any("a", 10.0)


def test_a_tenant_pays_for_no_other_tenants_penalties() -> None:
    box = PenaltyBox()
    box.add("a", b"x", 10.0)
    assert not box.has_any("b", 0.0)


def test_a_full_box_lets_the_oldest_go() -> None:
    box = PenaltyBox(limit=2)
    for tenant, mark in (("a", b"1"), ("b", b"2"), ("a", b"1"), ("a", b"3")):
        box.add(tenant, mark, 10.0)
    assert [box.until("a", mark, 0.0) for mark in (b"1", b"3")] == [10.0, 10.0]
    assert not box.has_any("b", 0.0)
    assert box.has_any("a", 0.0)
    assert not box.has_any("a", 10.0)

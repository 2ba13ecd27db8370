from __future__ import annotations

from pool.events import TurnRequest
from scheduler.penalty import PenaltyBox, fingerprint

TURN = TurnRequest("m", "be brief", ({"role": "user"},))


def test_a_fingerprint_is_the_same_for_the_same_request_of_the_same_tenant() -> None:
    same = TurnRequest("m", "be brief", ({"role": "user"},))
    assert fingerprint(b"k", "a", TURN) == fingerprint(b"k", "a", same)
    others = [(b"k", "b", TURN), (b"j", "a", TURN), (b"k", "a", TurnRequest("m", "be long", ({"role": "user"},)))]
    assert len({fingerprint(b"k", "a", TURN), *(fingerprint(*other) for other in others)}) == 4


def test_any_text_has_a_fingerprint() -> None:
    assert len(fingerprint(b"", "a", TurnRequest("m", "\ud800", ()))) == 16


def test_what_is_in_the_box_is_refused_until_its_time_is_over() -> None:
    box = PenaltyBox()
    assert box.is_empty(0.0)
    box.add(b"x", 10.0)
    assert not box.is_empty(9.9)
    assert box.until(b"x", 9.9) == 10.0
    assert box.until(b"y", 9.9) is None
    assert box.until(b"x", 10.0) is None
    assert box.is_empty(10.0)


def test_a_full_box_lets_the_oldest_go() -> None:
    box = PenaltyBox(limit=2)
    for mark in (b"1", b"2", b"1", b"3"):
        box.add(mark, 10.0)
    assert [box.until(mark, 0.0) for mark in (b"1", b"2", b"3")] == [10.0, None, 10.0]

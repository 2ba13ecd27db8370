from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pool.least_loaded import LeastLoaded

MOST = 3
keys = st.sampled_from("abcde")


class LeastLoadedMachine(RuleBasedStateMachine):
    """Against a list of (key, load, limit), in which a key moves to the end whenever something about it changes."""

    def __init__(self) -> None:
        super().__init__()
        self.real: LeastLoaded[str] = LeastLoaded()
        self.model: list[tuple[str, int, int]] = []

    def _find(self, key: str) -> tuple[int, int] | None:
        return next(((load, limit) for other, load, limit in self.model if other == key), None)

    def _set(self, key: str, load: int | None, limit: int = 0) -> None:
        self.model = [row for row in self.model if row[0] != key]
        if load is not None:
            self.model.append((key, load, limit))

    @rule(key=keys, limit=st.integers(0, MOST), load=st.integers(0, MOST + 2))
    def put(self, key: str, limit: int, load: int) -> None:
        self.real.put(key, limit, load)
        self._set(key, load, limit)

    @rule(key=keys, limit=st.integers(0, MOST))
    def put_with_another_limit(self, key: str, limit: int) -> None:
        found = self._find(key)
        if found is not None:
            self.put(key, limit, found[0])

    @rule(key=keys)
    def remove(self, key: str) -> None:
        self.real.remove(key)
        self._set(key, None)

    @rule(avoid=st.frozensets(keys, max_size=3))
    def take(self, avoid: frozenset[str]) -> None:
        rows = enumerate(self.model)
        fits = [(load, place, key) for place, (key, load, limit) in rows if load < limit and key not in avoid]
        expected = min(fits)[2] if fits else None
        assert self.real.take(avoid) == expected
        if expected is not None:
            load, limit = self._find(expected) or (0, 0)
            self._set(expected, load + 1, limit)

    @rule(key=keys)
    def give_back(self, key: str) -> None:
        self.real.give_back(key)
        load, limit = self._find(key) or (0, 0)
        if load:
            self._set(key, load - 1, limit)

    @invariant()
    def what_can_be_asked_agrees(self) -> None:
        assert len(self.real) == len(self.model)
        assert self.real.seats == sum(limit for _, _, limit in self.model)
        assert self.real.free == sum(max(0, limit - load) for _, load, limit in self.model)
        assert all((key in self.real) == (self._find(key) is not None) for key in "abcde")


TestLeastLoaded = LeastLoadedMachine.TestCase


def filled(limits: dict[str, int]) -> LeastLoaded[str]:
    """These keys, without any load."""
    out: LeastLoaded[str] = LeastLoaded()
    for key, limit in limits.items():
        out.put(key, limit, 0)
    return out


def test_turns_are_spread_evenly_and_in_rotation() -> None:
    ready = filled(dict.fromkeys("abc", 2))
    assert [ready.take() for _ in range(7)] == ["a", "b", "c", "a", "b", "c", None]


def test_the_worker_that_was_freed_first_is_taken_first() -> None:
    ready = filled(dict.fromkeys("abc", 1))
    for _ in "abc":
        ready.take()
    ready.give_back("b")
    ready.give_back("a")
    assert [ready.take() for _ in range(3)] == ["b", "a", None]


def test_each_key_is_filled_up_to_its_own_limit() -> None:
    ready = filled({"new": 1, "proven": 3, "closed": 0})
    assert (ready.free, ready.seats) == (4, 4)
    assert [ready.take() for _ in range(5)] == ["new", "proven", "proven", "proven", None]


def test_a_limit_may_rise_and_fall_under_load() -> None:
    ready = filled({"a": 2})
    ready.take()
    ready.put("a", 8, 1)
    assert (ready.free, ready.seats) == (7, 8)
    for _ in range(7):
        ready.take()
    ready.put("a", 2, 8)
    assert (ready.take(), ready.free, ready.seats) == (None, 0, 2)
    for _ in range(6):
        ready.give_back("a")
        assert ready.free == 0
    ready.give_back("a")
    assert (ready.take(), ready.take()) == ("a", None)


def test_a_key_that_is_to_be_avoided_is_passed_over_though_it_has_the_least_load() -> None:
    ready = filled(dict.fromkeys("abc", 2))
    assert [ready.take({"a"}) for _ in range(5)] == ["b", "c", "b", "c", None]
    assert (ready.free, ready.take("bc"), ready.take("abc")) == (2, "a", None)

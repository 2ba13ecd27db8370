from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pool.least_loaded import LeastLoaded

LIMIT = 3
keys = st.sampled_from("abcde")


class LeastLoadedMachine(RuleBasedStateMachine):
    """Against a list of (key, load), in which a key moves to the end whenever its load changes."""

    def __init__(self) -> None:
        super().__init__()
        self.real: LeastLoaded[str] = LeastLoaded(LIMIT)
        self.model: list[tuple[str, int]] = []

    def _load(self, key: str) -> int | None:
        return dict(self.model).get(key)

    def _set(self, key: str, load: int | None) -> None:
        self.model = [(other, its) for other, its in self.model if other != key]
        if load is not None:
            self.model.append((key, load))

    @rule(key=keys, load=st.integers(0, LIMIT))
    def add(self, key: str, load: int) -> None:
        if self._load(key) is None:
            self.real.add(key, load)
            self._set(key, load)

    @rule(key=keys)
    def remove(self, key: str) -> None:
        self.real.remove(key)
        self._set(key, None)

    @rule()
    def take(self) -> None:
        fits = [(load, place, key) for place, (key, load) in enumerate(self.model) if load < LIMIT]
        expected = min(fits)[2] if fits else None
        assert self.real.take() == expected
        if expected is not None:
            self._set(expected, (self._load(expected) or 0) + 1)

    @rule(key=keys)
    def give_back(self, key: str) -> None:
        self.real.give_back(key)
        load = self._load(key)
        if load:
            self._set(key, load - 1)

    @invariant()
    def what_can_be_asked_agrees(self) -> None:
        assert len(self.real) == len(self.model)
        assert self.real.free == sum(LIMIT - load for _, load in self.model)
        assert all((key in self.real) == (self._load(key) is not None) for key in "abcde")


TestLeastLoaded = LeastLoadedMachine.TestCase


def test_turns_are_spread_evenly_and_in_rotation() -> None:
    ready: LeastLoaded[str] = LeastLoaded(2)
    for key in "abc":
        ready.add(key)
    assert [ready.take() for _ in range(7)] == ["a", "b", "c", "a", "b", "c", None]


def test_the_worker_that_was_freed_first_is_taken_first() -> None:
    ready: LeastLoaded[str] = LeastLoaded(1)
    for key in "abc":
        ready.add(key)
        ready.take()
    ready.give_back("b")
    ready.give_back("a")
    assert [ready.take() for _ in range(3)] == ["b", "a", None]

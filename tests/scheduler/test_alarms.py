from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from scheduler.alarms import Alarms
from tests.support.examples import trying

keys = st.integers(1, 6)


class AlarmsMachine(RuleBasedStateMachine):
    """Against a plain dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.real = Alarms()
        self.model: dict[int, float] = {}
        self.now = 0.0

    @rule(key=keys, after=st.none() | st.integers(0, 10))
    def set(self, key: int, after: int | None) -> None:
        at = None if after is None else self.now + after
        self.real.set(key, at)
        self.model.pop(key, None)
        if at is not None:
            self.model[key] = at

    @rule(seconds=st.integers(0, 6))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        due = self.real.pop_due(self.now)
        assert [self.model[key] for key in due] == sorted(at for at in self.model.values() if at <= self.now)
        self.model = {key: at for key, at in self.model.items() if at > self.now}
        assert not self.model.keys() & set(due)

    @invariant()
    def what_can_be_asked_agrees(self) -> None:
        assert len(self.real) == len(self.model)
        assert self.real.next_at() == min(self.model.values(), default=None)


TestAlarms = AlarmsMachine.TestCase
TestAlarms.settings = trying(1, steps=40)


def test_times_of_keys_long_gone_take_no_memory() -> None:
    alarms = Alarms()
    for key in range(10_000):
        alarms.set(key, 1e9)
        alarms.set(key, None)
    assert len(alarms._heap) < 100
    assert alarms.next_at() is None


def test_the_tidied_times_are_those_of_the_keys_that_are_left() -> None:
    alarms = Alarms()
    for key in range(500):
        alarms.set(key, 1000.0 - key)
    for key in range(490):
        alarms.set(key, None)
    alarms.set(500, 600.0)
    assert alarms.next_at() == 1000.0 - 499
    assert alarms.pop_due(600.0) == [*range(499, 489, -1), 500]

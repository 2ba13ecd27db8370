from __future__ import annotations

import itertools

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scheduler.backlog import Backlog, Place
from tests.support.examples import trying

LIMIT = 4
picks = st.integers(0, 10**6)


class BacklogMachine(RuleBasedStateMachine):
    """Against a plain list of (ticket, deadline) in order of arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.real = Backlog(LIMIT)
        self.model: list[tuple[int, float]] = []
        self.ids = itertools.count(1)
        self.now = 0.0

    @rule(budget=st.integers(0, 10))
    def push(self, budget: int) -> None:
        ticket = next(self.ids)
        self.real.push(ticket, Place(self.now + budget))
        self.model.append((ticket, self.now + budget))

    @rule()
    def pop(self) -> None:
        expected = self.model.pop(0)[0] if self.model else None
        assert self.real.pop() == expected

    @precondition(lambda self: self.model)
    @rule(pick=picks)
    def remove(self, pick: int) -> None:
        ticket, _ = self.model.pop(pick % len(self.model))
        assert self.real.remove(ticket)
        assert not self.real.remove(ticket)

    @rule(seconds=st.integers(0, 6))
    def expire(self, seconds: int) -> None:
        self.now += seconds
        expired = self.real.pop_expired(self.now)
        assert set(expired) == {ticket for ticket, at in self.model if at <= self.now}
        deadlines = dict(self.model)
        assert [deadlines[ticket] for ticket in expired] == sorted(deadlines[ticket] for ticket in expired)
        self.model = [(ticket, at) for ticket, at in self.model if at > self.now]

    @invariant()
    def what_can_be_asked_agrees(self) -> None:
        assert len(self.real) == len(self.model)
        assert self.real.is_full == (len(self.model) >= LIMIT)
        assert all(ticket in self.real for ticket, _ in self.model)
        assert 0 not in self.real
        assert self.real.next_deadline() == min((at for _, at in self.model), default=None)


TestBacklog = BacklogMachine.TestCase
TestBacklog.settings = trying(1, steps=40)


def test_a_backlog_of_no_places_is_always_full() -> None:
    assert Backlog(0).is_full


def test_deadlines_of_tickets_long_gone_take_no_memory() -> None:
    backlog = Backlog(10)
    for ticket in range(10_000):
        backlog.push(ticket, Place(1e9))
        assert backlog.pop() == ticket
    assert len(backlog._deadlines) < 100
    assert backlog.next_deadline() is None


def test_the_tidied_deadlines_are_those_of_the_tickets_that_wait() -> None:
    backlog = Backlog(1000)
    for ticket in range(500):
        backlog.push(ticket, Place(1000.0 - ticket))
    for ticket in range(490):
        backlog.remove(ticket)
    backlog.push(500, Place(600.0))
    assert backlog.next_deadline() == 1000.0 - 499
    assert backlog.pop_expired(600.0) == [*range(499, 489, -1), 500]

from __future__ import annotations

import itertools
from dataclasses import dataclass
from statistics import mean

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scheduler.backlog import REMEMBERED, Backlog, Place
from scheduler.model import SHARES, Priority
from tests.support.examples import trying

picks = st.integers(0, 10**6)
CAPS = {"free": None, "one": 1, "two": 2}


@dataclass
class Waiting:
    """A ticket that waits, as the model sees it."""

    ticket: int
    place: Place


class BacklogMachine(RuleBasedStateMachine):
    """Against a plain list in order of arrival, and a list of turns."""

    def __init__(self) -> None:
        super().__init__()
        self.real = Backlog()
        self.waiting: list[Waiting] = []
        self.running: list[Place] = []
        self.ids = itertools.count(1)

    def may_run(self, tenant: str) -> bool:
        cap = CAPS[tenant]
        return cap is None or sum(place.tenant == tenant for place in self.running) < cap

    @initialize(credit=st.sampled_from([0.0, 20.0, 200.0]))
    def let_there_be_credit(self, credit: float) -> None:
        self.real.credit = credit

    @rule(tenant=st.sampled_from(sorted(CAPS)), priority=st.sampled_from(Priority), cost=st.integers(1, 50))
    def push(self, tenant: str, priority: Priority, cost: int) -> None:
        one = Waiting(next(self.ids), Place(tenant, priority, SHARES[priority], float(cost), CAPS[tenant]))
        self.real.push(one.ticket, one.place)
        self.waiting.append(one)

    @rule(count=st.integers(1, 3), is_undone=st.booleans())
    def take(self, count: int, is_undone: bool) -> None:
        """Invariants 4 and 7: whoever may run is found, the first of its flow; also when seats turn out to be gone."""
        taken = [one for one in (self.take_one() for _ in range(count)) if one is not None]
        if is_undone:
            for one in taken:
                self.running.remove(one.place)
                self.real.put_back(one.ticket, one.place)
            self.waiting = sorted([*self.waiting, *taken], key=lambda one: one.ticket)
        if is_undone and len(taken) == 1:
            assert self.real.head() == taken[0].ticket

    def take_one(self) -> Waiting | None:
        head = self.real.head()
        able = [one for one in self.waiting if self.may_run(one.place.tenant)]
        assert (head is None) is (not able)
        if head is None:
            return None
        (one,) = (each for each in able if each.ticket == head)
        flow = (one.place.tenant, one.place.priority)
        assert one is next(each for each in self.waiting if (each.place.tenant, each.place.priority) == flow)
        self.real.take(head)
        self.waiting.remove(one)
        self.running.append(one.place)
        return one

    @rule(tenant=st.sampled_from(sorted(CAPS)))
    def occupy(self, tenant: str) -> None:
        if self.may_run(tenant):
            place = Place(tenant, seats=CAPS[tenant])
            self.real.occupy(place)
            self.running.append(place)

    @precondition(lambda self: self.running)
    @rule(pick=picks, surplus=st.integers(-5, 50))
    def vacate(self, pick: int, surplus: int) -> None:
        self.real.vacate(self.running.pop(pick % len(self.running)), float(surplus))

    @precondition(lambda self: self.waiting)
    @rule(pick=picks)
    def remove(self, pick: int) -> None:
        self.real.remove(self.waiting.pop(pick % len(self.waiting)).ticket)

    @invariant()
    def what_can_be_asked_agrees(self) -> None:
        tickets = [one.ticket for one in self.waiting]
        assert self.real.size == len(tickets)
        assert all(ticket in self.real for ticket in tickets)
        assert 0 not in self.real
        assert self.real.oldest() == min(tickets, default=None)
        for priority, count in self.real.by_priority().items():
            assert count == sum(one.place.priority is priority for one in self.waiting)
        for tenant, cap in CAPS.items():
            assert self.real.waiting(tenant) == sum(one.place.tenant == tenant for one in self.waiting)
            assert self.real.running(tenant) == sum(place.tenant == tenant for place in self.running)
            assert self.real.is_capped(Place(tenant, seats=cap)) is not self.may_run(tenant)

    @invariant()
    def whoever_may_be_next_has_one_place_in_the_order_and_the_right_one(self) -> None:
        for tenant in self.real._tenants.values():
            if tenant.entry:
                ranks = [rank for rank, entry, each in self.real._order if each is tenant and entry == tenant.entry]
                assert ranks == [self.real._rank(tenant)]
                assert not tenant.has_credit or tenant.served < self.real._level

    @invariant()
    def a_new_ticket_is_expected_behind_its_own_and_not_behind_everybody(self) -> None:
        flows = {(one.place.tenant, one.place.priority) for one in self.waiting}
        for tenant, priority in itertools.product(CAPS, Priority):
            after = {*flows, (tenant, priority)}
            total = sum(self.mean_share(after, each) for each in {name for name, _ in after})
            own = sum((one.place.tenant, one.place.priority) == (tenant, priority) for one in self.waiting)
            classes = sum(name == tenant for name, _ in after)
            position = self.real.position(tenant, priority, SHARES[priority])
            expected = (own + 1) * classes * total / SHARES[priority]
            assert abs(position - min(len(self.waiting) + 1, expected)) < 1e-9

    def mean_share(self, flows: set[tuple[str, Priority]], tenant: str) -> float:
        return mean(SHARES[priority] for name, priority in flows if name == tenant)

    @invariant()
    def whoever_has_no_job_is_resting(self) -> None:
        busy = {one.place.tenant for one in self.waiting} | {place.tenant for place in self.running}
        assert self.real._tenants.keys() - self.real._resting.keys() == busy


TestBacklog = BacklogMachine.TestCase
TestBacklog.settings = trying(2, steps=40)


def test_tenants_that_are_gone_take_no_memory() -> None:
    backlog = Backlog()
    for ticket in range(10_000):
        place = Place(f"tenant-{ticket}", cost=1.0 + ticket % 7)
        backlog.push(ticket, place)
        backlog.take(ticket)
        backlog.vacate(place)
    assert len(backlog._tenants) <= REMEMBERED + 1
    assert len(backlog._resting) <= REMEMBERED
    assert len(backlog._order) < 100
    assert backlog.head() is None


def test_jobs_whose_seats_have_gone_have_their_old_order() -> None:
    backlog = Backlog()
    for ticket in (1, 2, 3):
        backlog.push(ticket, Place("tenant"))
    for ticket in (1, 2):
        assert backlog.head() == ticket
        backlog.take(ticket)
    for ticket in (1, 2):
        backlog.put_back(ticket, Place("tenant"))
    for ticket in (1, 2, 3):
        assert backlog.head() == ticket
        backlog.take(ticket)

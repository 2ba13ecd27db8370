"""The scheduler's core against a model of the world: seats that come and go, turns on them, and clients who wait."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pool.events import Fault, FaultKind, Finish, TurnEnd
from scheduler.model import Abandoned, CutOff, Ended, Expired, Outcome, Overrun
from scheduler.state import (
    BufferFilled,
    ClientLeft,
    CutOffReached,
    Forget,
    Interrupt,
    SchedulerState,
    SeatsFreed,
    Settle,
    Start,
    Stimulus,
    Submitted,
    Ticked,
    TurnEnded,
)
from tests.support.examples import trying

LIMITS = {"a": 3, "b": 1}
ENDS = [TurnEnd(finish=Finish.STOP), TurnEnd(fault=Fault(FaultKind.WORKER_LOST, "gone"))]

picks = st.integers(0, 10**6)
profiles = st.sampled_from(sorted(LIMITS))


@dataclass
class Client:
    """Somebody with a ticket, and what has become of it."""

    ticket: int
    profile: str
    submitted_at: float
    deadline: float
    is_served: bool = False
    """A turn was started for it."""
    has_turn: bool = False
    """That turn has not ended yet."""
    was_interrupted: bool = False
    outcome: Outcome | None = None
    is_forgotten: bool = False

    @property
    def waits(self) -> bool:
        return self.outcome is None and not self.is_served


class SchedulerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.core = SchedulerState(LIMITS)
        self.free: Counter[str] = Counter(dict.fromkeys(LIMITS, 1))
        self.held: Counter[str] = Counter()
        """Seats whose turn has ended, and which the worker has not let go of."""
        self.clients: dict[int, Client] = {}
        self.ids = itertools.count(1)

    def tell(self, stimulus: Stimulus, due: Outcome | None = None) -> None:
        """Give the core a stimulus and do what it wants; `due` is what a ticket may be told because of it."""
        for effect in self.core.handle(stimulus, self.now):
            client = self.clients[effect.ticket]
            match effect:
                case Start():
                    self.start(client)
                case Interrupt():
                    assert client.has_turn
                    assert not client.was_interrupted
                    client.was_interrupted = True
                case Settle(_, outcome):
                    self.settle(client, outcome, due)
                case Forget():
                    assert not client.is_forgotten
                    assert client.outcome is not None
                    assert not client.has_turn
                    client.is_forgotten = True

    def start(self, client: Client) -> None:
        assert client.waits
        assert self.now < client.deadline
        assert self.free[client.profile] > 0
        ahead = [
            other
            for other in self.clients.values()
            if other.waits and other.profile == client.profile and other.ticket < client.ticket
        ]
        assert not ahead, "somebody was overtaken"
        self.free[client.profile] -= 1
        client.is_served = client.has_turn = True

    def settle(self, client: Client, outcome: Outcome, due: Outcome | None) -> None:
        assert client.outcome is None, f"{outcome} after {client.outcome}"
        if isinstance(outcome, Expired):
            assert client.waits
            assert self.now >= client.deadline
            assert outcome.waited_s == self.now - client.submitted_at
            assert outcome.retry_after_s > 0
        else:
            assert outcome == due
        client.outcome = outcome

    def of(self, pick: int, clients: list[Client]) -> Client:
        return clients[pick % len(clients)]

    @property
    def running(self) -> list[Client]:
        return [client for client in self.clients.values() if client.has_turn]

    # --- what can happen ---------------------------------------------------------------------------------------

    @initialize(clients=st.integers(0, 4))
    def begin(self, clients: int) -> None:
        for number in range(clients):
            self.submit_one("a", 1.0 + number)

    @rule(profile=profiles, budgets=st.lists(st.sampled_from([0.5, 1.0, 5.0, 60.0]), min_size=1, max_size=4))
    def submit(self, profile: str, budgets: list[float]) -> None:
        for budget in budgets:
            self.submit_one(profile, budget)

    def submit_one(self, profile: str, budget: float) -> None:
        waiting = sum(client.waits for client in self.clients.values() if client.profile == profile)
        has_room = waiting < LIMITS[profile] or self.free[profile] > waiting
        assert self.core.would_overflow(profile, self.free[profile]) is not has_room
        if has_room:
            ticket = next(self.ids)
            self.clients[ticket] = Client(ticket, profile, self.now, self.now + budget)
            self.tell(Submitted(ticket, profile, self.now + budget, self.free[profile]))

    @precondition(lambda self: self.running)
    @rule(pick=picks, end=st.sampled_from(ENDS))
    def turn_ends(self, pick: int, end: TurnEnd) -> None:
        client = self.of(pick, self.running)
        client.has_turn = False
        if end.fault is None:
            self.held[client.profile] += 1
        self.tell(TurnEnded(client.ticket, end), due=Ended(end) if client.outcome is None else None)
        assert client.is_forgotten

    @rule(profile=profiles, new=st.integers(0, 2))
    def seats_are_freed(self, profile: str, new: int) -> None:
        seats = self.held.pop(profile, 0) + new
        if not seats:
            return
        self.free[profile] += seats
        self.tell(SeatsFreed(profile, self.free[profile]))

    @rule(profile=profiles)
    def free_seats_are_lost(self, profile: str) -> None:
        self.free[profile] = 0

    @precondition(lambda self: self.clients)
    @rule(pick=picks)
    def client_leaves(self, pick: int) -> None:
        client = self.of(pick, list(self.clients.values()))
        self.tell(ClientLeft(client.ticket), due=Abandoned())
        assert client.outcome is not None
        assert client.is_forgotten or client.was_interrupted

    @precondition(lambda self: self.running)
    @rule(pick=picks)
    def buffer_fills(self, pick: int) -> None:
        client = self.of(pick, self.running)
        self.tell(BufferFilled(client.ticket), due=Overrun())
        assert client.was_interrupted

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 10.0]), is_seen=st.booleans())
    def time_passes(self, seconds: float, is_seen: bool) -> None:
        self.now += seconds
        if is_seen:
            self.tell(Ticked())
            assert not any(client.waits and client.deadline <= self.now for client in self.clients.values())

    @rule(rarely=st.integers(0, 19))
    def cut_off(self, rarely: int) -> None:
        if rarely == 7:
            self.tell(CutOffReached(), due=CutOff())
            assert all(client.outcome is not None for client in self.clients.values())

    @precondition(lambda self: self.clients)
    @rule(pick=picks)
    def a_turn_that_is_over_ends_again(self, pick: int) -> None:
        client = self.of(pick, list(self.clients.values()))
        if not client.has_turn:
            assert self.core.handle(TurnEnded(client.ticket, ENDS[0]), self.now) == ()

    # --- what must always hold ---------------------------------------------------------------------------------

    @invariant()
    def the_core_agrees_with_itself(self) -> None:
        self.core.validate()

    @invariant()
    def nobody_waits_while_a_seat_is_free(self) -> None:
        for profile in LIMITS:
            if self.free[profile]:
                assert not any(client.waits for client in self.clients.values() if client.profile == profile)

    @invariant()
    def the_numbers_are_the_worlds(self) -> None:
        for row in self.core.snapshot():
            mine = [client for client in self.clients.values() if client.profile == row.profile]
            assert row.waiting == sum(client.waits for client in mine) <= LIMITS[row.profile]
            assert row.running == sum(client.has_turn for client in mine)
            assert row.hold_s >= 0
        deadlines = [client.deadline for client in self.clients.values() if client.waits]
        assert self.core.next_deadline() == min(deadlines, default=None)
        assert self.core.is_idle() is all(client.is_forgotten for client in self.clients.values())

    @invariant()
    def who_was_given_up_has_been_interrupted(self) -> None:
        assert all(client.was_interrupted for client in self.running if client.outcome is not None)

    def teardown(self) -> None:
        self.tell(CutOffReached(), due=CutOff())
        for client in self.running:
            client.has_turn = False
            self.tell(TurnEnded(client.ticket, ENDS[0]))
        assert all(client.outcome is not None and client.is_forgotten for client in self.clients.values())
        assert self.core.is_idle()
        assert self.core.next_deadline() is None


TestSchedulerState = SchedulerMachine.TestCase
TestSchedulerState.settings = trying(3)

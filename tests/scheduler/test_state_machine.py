"""The scheduler's core and its tickets against a model of the world: workers that come and go, turns on them, clients.

The model knows nothing of queues. It says of each start, return and outcome whether the world allows it, and after each
step whether somebody was forgotten. What must hold, by number:

1. No more turns run than the limit allows, and of no tenant more than its cap.
2. Whoever was admitted waits, runs, or has exactly one outcome.
3. When all is over nothing is left.
4. Nobody waits who could use a free seat, but for who rests after the provider failed.
6. What a client hears is of exactly one attempt; there is no other once it has heard something.
7. First in, first out within a tenant's class; who lost a turn goes before all who have had none.
8. Two tenants that always wait differ by two rounds and the credit, by weight (tests/scheduler/test_fairness.py).
9. Nobody is started when its time is up, and nobody waits beyond it.
11. Whatever comes of a turn that was lost changes nothing visible.
13. Second attempts never exceed the reserve and their share of the admissions.
15. Every accepted job has an outcome.
16. When nothing comes any more, all who wait have an outcome by their time.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pool.events import Fault, FaultKind, Finish, TextDelta, Trace, TurnEnd
from pool.roster import Outlook
from pool.stimuli import Lease
from pool.worker_state import WorkerId
from scheduler.again import OF_PROVIDERS, OF_WORKERS, rest_s
from scheduler.effect import Closed, Effect, Forget, Interrupt, Limited, Look, Return, Settle, Start
from scheduler.model import (
    Abandoned,
    CrashesWorker,
    CutOff,
    Ended,
    Expired,
    Job,
    Outcome,
    Overdue,
    Overrun,
    Priority,
    QueuePolicy,
    Shed,
)
from scheduler.scheduler import OUTLOOK_S
from scheduler.state import AVOID_S, KEPT_FOR_WORKERS, QUARANTINED, SchedulerState
from scheduler.stimulus import (
    BufferFilled,
    ClientLeft,
    CutOffReached,
    LeasesDoubted,
    LimitSet,
    Looked,
    Reconfigured,
    SeatsFreed,
    Stimulus,
    Submitted,
    Ticked,
    TurnEnded,
)
from scheduler.ticket import Attempt, Callbacks, Ticket
from tests.support.examples import trying
from tests.support.jobs import a_job

SLOTS = {"a": 3, "b": 1}
MOST_WORKERS = 3
RULES = [
    QueuePolicy(6, codel_target_s=0.0, retry_ratio=0.1, retry_reserve=1, penalty_s=20.0),
    QueuePolicy(3, seats_limit=1, codel_target_s=0.25, retry_ratio=0.5, retry_reserve=4, attempts=3, penalty_s=0.0),
    QueuePolicy(6, codel_target_s=0.0, retry_ratio=0.0, retry_reserve=9, attempts=4, aimd=True, penalty_s=60.0),
]
SHARE = 4
CAPS = {"free": None, "one": 1, "two": 2}
FINISHES = [TurnEnd(finish=Finish.STOP), TurnEnd(finish=Finish.INTERRUPTED)]
FAULTS = [
    Fault(kind, "no", retry_after_s=hint_s)
    for kind in sorted(
        {*OF_WORKERS, *OF_PROVIDERS, FaultKind.QUOTA} - {FaultKind.WORKER_LOST, FaultKind.WORKER_REPLACED}
    )
    for hint_s in ((None, 0.3, 5.0, 50.0) if kind is FaultKind.RATE_LIMIT else (None,))
]

T = TypeVar("T")

picks = st.integers(0, 10**6)
profiles = st.sampled_from(sorted(SLOTS))


def asked(text: str = "hello", *, tenant: str, **job: Any) -> Job:
    """A job under its tenant's rules."""
    return a_job(text, tenant=tenant, seats=CAPS[tenant], queue_share=SHARE, **job)


jobs = st.builds(
    asked,
    st.sampled_from(["hello", "poison"]),
    profile=profiles,
    tenant=st.sampled_from(sorted(CAPS)),
    priority=st.sampled_from(Priority),
    budget_s=st.sampled_from([0.5, 2.0, 10.0, 60.0, 60.0]),
    deadline_s=st.sampled_from([None, None, None, 0.75, 8.0]),
)


@dataclass(eq=False)
class Worker:
    """One incarnation, and the turns whose seats it has not let go of."""

    id: WorkerId
    in_service: bool = True
    turns: list[Turn] = field(default_factory=list)

    @property
    def free(self) -> int:
        return SLOTS[self.id.profile] - len(self.turns) if self.in_service else 0


@dataclass(eq=False)
class Turn:
    """A turn on a seat."""

    client: Client
    number: int
    lease: Lease
    worker: Worker
    sink: Attempt
    has_ended: bool = False
    has_spoken: bool = False
    beside: set[Turn] = field(default_factory=set)
    """Those on the same worker that have said nothing, and have not ended well, since both run."""
    was_interrupted: bool = False


@dataclass(eq=False)
class Client:
    """Somebody with a ticket, and what has become of it."""

    ticket: int
    job: Job
    real: Ticket
    submitted_at: float
    expires_at: float
    deadline_at: float
    turn: Turn | None = None
    """The one whose end it waits for."""
    turns: list[Turn] = field(default_factory=list)
    lost: list[tuple[Worker, float]] = field(default_factory=list)
    lost_with: TurnEnd | None = None
    rests_until: float = 0.0
    marks: int = 0
    heard: list[str] = field(default_factory=list)
    outcome: Outcome | None = None
    is_forgotten: bool = False

    @property
    def waits(self) -> bool:
        return self.outcome is None and self.turn is None

    @property
    def runs(self) -> int:
        return sum(not turn.has_ended for turn in self.turns)

    @property
    def flow(self) -> tuple[str, str, Priority]:
        return self.job.profile, self.job.tenant, self.job.priority


class SchedulerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.seen_at = 0.0
        self.policies = {"a": RULES[0], "b": RULES[1]}
        self.limits = {profile: rules.seats_limit for profile, rules in self.policies.items()}
        self.tokens = {profile: float(rules.retry_reserve) for profile, rules in self.policies.items()}
        self.core = SchedulerState(self.policies, key=b"key")
        self.workers = {profile: [Worker(WorkerId(profile, 0, 1))] for profile in SLOTS}
        self.clients: dict[int, Client] = {}
        self.queues = set(SLOTS)
        self.penalties: dict[tuple[str, str], float] = {}
        self.admitted: Counter[str] = Counter()
        self.returns: Counter[str] = Counter()
        self.reserve_ever: Counter[str] = Counter({name: rules.retry_reserve for name, rules in self.policies.items()})
        self.ids = itertools.count(1)
        self.epochs = itertools.count(2)
        self.due: dict[int, Outcome] = {}
        self.inbox: deque[Stimulus] = deque()

    # --- the shell ---------------------------------------------------------------------------------------------

    def free(self, profile: str) -> int:
        return sum(worker.free for worker in self.workers[profile])

    def tell(self, stimulus: Stimulus, due: dict[int, Outcome] | None = None) -> None:
        """Give the core a stimulus and do what it wants; `due` is what tickets may be told because of it."""
        self.due = due or {}
        self.inbox.append(stimulus)
        while self.inbox:
            each = self.inbox.popleft()
            if isinstance(each, Submitted):
                each = Submitted(each.ticket, each.job, self.free(each.job.profile))
            elif isinstance(each, SeatsFreed | Looked):
                if self.now - self.seen_at >= OUTLOOK_S:
                    self.seen_at = self.now
                    for profile in self.core.profiles():
                        self.core.see(profile, self.outlook(profile))
                each = type(each)(each.profile, self.free(each.profile))
            self.carry_out(self.core.handle(each, self.now))

    def outlook(self, profile: str) -> Outlook:
        seats = sum(SLOTS[profile] for worker in self.workers[profile] if worker.in_service)
        return Outlook(seats, MOST_WORKERS * SLOTS[profile], None)

    def carry_out(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case Start(ticket, attempt):
                    self.start(self.clients[ticket], attempt)
                case Interrupt(lease):
                    (turn,) = [turn for turn in self.turns if turn.lease == lease]
                    assert not turn.was_interrupted
                    turn.was_interrupted = True
                case Return(ticket, _, rest):
                    self.return_(self.clients[ticket], rest)
                case Settle(ticket, outcome):
                    self.settle(self.clients[ticket], outcome)
                case Forget(ticket):
                    client = self.clients[ticket]
                    assert not client.is_forgotten
                    assert client.outcome is not None
                    assert not client.runs
                    client.is_forgotten = True
                case Look(profile):
                    self.inbox.append(Looked(profile))
                case Limited(profile, limit):
                    self.limits[profile] = limit
                case Closed(profile):
                    assert profile not in self.policies
                    assert all(client.is_forgotten for client in self.of_profile(profile))
                    self.queues.remove(profile)

    # --- what the world allows ---------------------------------------------------------------------------------

    @property
    def turns(self) -> list[Turn]:
        return [turn for client in self.clients.values() for turn in client.turns]

    @property
    def running(self) -> list[Turn]:
        return [turn for turn in self.turns if not turn.has_ended]

    def of_profile(self, profile: str) -> list[Client]:
        return [client for client in self.clients.values() if client.job.profile == profile]

    def avoided(self, client: Client) -> set[Worker]:
        """Where it must not run: for a second where it was lost, and never beside another that has crashed a worker."""
        since = client.lost[-1][1] if client.lost else 0.0
        avoided = {worker for worker, _ in client.lost} if self.now < since + AVOID_S else set()
        if client.marks:
            avoided |= {turn.worker for turn in self.running if turn.client.marks and turn.client is not client}
        return avoided

    def is_capped(self, client: Client) -> bool:
        cap = client.job.seats
        mine = [one.runs for one in self.of_profile(client.job.profile) if one.job.tenant == client.job.tenant]
        return cap is not None and sum(mine) >= cap

    def is_limited(self, profile: str) -> bool:
        limit = self.limits[profile]
        return limit is not None and sum(client.runs for client in self.of_profile(profile)) >= limit

    def may_start(self, client: Client) -> bool:
        """There is a seat that it can use, and nothing is against it."""
        if self.now < client.rests_until:
            return False
        avoided = self.avoided(client)
        has_seat = any(worker.free and worker not in avoided for worker in self.workers[client.job.profile])
        return has_seat and not self.is_capped(client) and not self.is_limited(client.job.profile)

    def start(self, client: Client, attempt: int) -> None:
        profile = client.job.profile
        assert client.waits
        assert attempt == len(client.turns) + 1, "attempts are counted"
        assert client.rests_until <= self.now < client.expires_at, "invariant 9"
        assert not self.is_capped(client), "invariant 1: the tenant's cap"
        assert not self.is_limited(profile), "invariant 1: the limit"
        assert attempt == 1 or not client.heard, "invariant 6"
        if client.lost_with is None:
            others = [one for one in self.of_profile(profile) if one.waits and one is not client]
            fresh = [one for one in others if one.lost_with is None and one.flow == client.flow]
            assert all(one.ticket > client.ticket for one in fresh), "invariant 7: first in, first out within a flow"
            returned = [one for one in others if one.lost_with is not None and self.now < one.expires_at]
            assert not any(self.may_start(one) for one in returned), "invariant 7: who lost a turn goes first"
        banned = {worker.id for worker in self.avoided(client) if worker.in_service}
        serving = {worker.id for worker in self.workers[profile] if worker.in_service}
        assert serving & banned == serving & set(self.core.avoided(client.ticket, self.now))
        able = [worker for worker in self.workers[profile] if worker.free and worker.id not in banned]
        worker = max(able, key=lambda each: each.free, default=None)
        if worker is None:
            self.carry_out(self.core.started(client.ticket, None, self.now))
            return
        lease = Lease(len(self.turns) + 1, worker.id)
        client.turn = Turn(client, attempt, lease, worker, client.real.attempt(attempt))
        client.turns.append(client.turn)
        silent = [turn for turn in worker.turns if not turn.has_ended and not turn.has_spoken]
        client.turn.beside = set(silent)
        for turn in worker.turns:
            turn.beside.add(client.turn)
        worker.turns.append(client.turn)
        self.carry_out(self.core.started(client.ticket, lease, self.now))

    def may_return(self, client: Client, end: TurnEnd, spent: int = 0) -> bool:
        """Whether there is time and budget for another turn, after its rest."""
        rest = rest_s(end.fault, len(client.turns), 0.0) if end.fault is not None else None
        if rest is None:
            return False
        rules = self.policy_of(client)
        return (
            end.trace is Trace.NONE
            and not client.heard
            and len(client.turns) < rules.attempts
            and rest <= client.job.queue_budget_s
            and self.now + rest < client.deadline_at
            and self.tokens[client.job.profile] - spent - 1.0
            >= (KEPT_FOR_WORKERS * rules.retry_reserve if rest else 0.0)
        )

    def policy_of(self, client: Client) -> QueuePolicy:
        return self.policies.get(client.job.profile, self.past.get(client.job.profile, RULES[0]))

    past: dict[str, QueuePolicy] = {}  # noqa: RUF012 - replaced, never changed

    def return_(self, client: Client, rest: float) -> None:
        """A ticket goes back: its turn is nobody's from now on."""
        assert client.turn is not None
        assert client.outcome is None
        assert not client.heard, "invariant 6"
        client.real.withdraw()
        assert client.lost_with is not None
        assert client.lost_with.fault is not None
        assert (rest > 0) is (client.lost_with.fault.kind in OF_PROVIDERS)
        if not rest:
            client.lost.append((client.turn.worker, self.now))
        client.turn = None
        client.rests_until = self.now + rest
        client.expires_at = min(client.rests_until + client.job.queue_budget_s, client.deadline_at)
        self.tokens[client.job.profile] -= 1.0
        self.returns[client.job.profile] += 1

    def settle(self, client: Client, outcome: Outcome) -> None:
        assert client.outcome is None, f"invariant 2: {outcome} after {client.outcome}"
        waited_s = self.now - client.submitted_at
        match outcome:
            case Expired():
                assert client.waits
                assert client.lost_with is None
                assert self.now >= client.expires_at
                assert outcome.waited_s == waited_s
                assert outcome.retry_after_s > 0
            case Shed():
                assert client.waits
                assert client.lost_with is None
                assert waited_s > 2 * self.policy_of(client).codel_target_s > 0
            case Overdue():
                assert client.turn is not None
                assert self.now >= client.deadline_at
            case Ended(end) if client.waits:
                assert end == client.lost_with
                assert self.now >= client.expires_at
            case _:
                assert outcome == self.due.pop(client.ticket)
        client.outcome = outcome
        client.real.settle(outcome)

    # --- what can happen: clients --------------------------------------------------------------------------------

    @initialize(clients=st.integers(0, 4))
    def begin(self, clients: int) -> None:
        for number in range(clients):
            self.submit_one(asked(profile="a", tenant="free", budget_s=1.0 + number))

    @rule(jobs=st.lists(jobs, min_size=1, max_size=4))
    def submit(self, jobs: list[Job]) -> None:
        for job in jobs:
            self.submit_one(job)

    def submit_one(self, job: Job) -> None:
        profile = job.profile
        expected, must_wait = self.expected_refusal(job)
        outlook = self.outlook(profile) if must_wait else None
        refusal = self.core.refusal(job, outlook, self.now)
        reason = refusal[0] if refusal is not None else None
        too_long = {"wait_too_long"} | ({"tenant_queue_full"} if job.seats is not None else set())
        assert reason == expected or (reason in too_long and must_wait and expected is None)
        if refusal is not None:
            assert refusal[1].retry_after_s > 0
            return
        number = next(self.ids)
        callbacks = Callbacks(
            on_spoke=lambda ticket: self.core.spoke(ticket.id),
            on_end=lambda *_: None,
            on_overflow=lambda _: None,
            on_abandon=lambda _: None,
        )
        real = Ticket(number, job, self.now, callbacks)
        deadline_at = self.now + job.deadline_s if job.deadline_s is not None else float("inf")
        expires_at = min(self.now + job.queue_budget_s, deadline_at)
        self.clients[number] = Client(number, job, real, self.now, expires_at, deadline_at)
        self.admitted[profile] += 1
        self.tokens[profile] = min(self.tokens[profile] + self.policies[profile].retry_ratio, 1e9)
        self.tell(Submitted(number, job))

    def expected_refusal(self, job: Job) -> tuple[str | None, bool]:
        """Why the job is refused, as far as the world knows; and whether it would have to wait."""
        if self.penalties.get((job.tenant, job.turn.instructions), 0.0) > self.now:
            return "penalized", False
        if job.profile not in self.policies:
            return "not_ready", False
        fresh = [one for one in self.of_profile(job.profile) if one.waits]
        mine = [one for one in fresh if one.job.tenant == job.tenant and one.lost_with is None]
        probe = Client(0, job, None, 0.0, 0.0, 0.0)  # type: ignore[arg-type]
        if self.may_start(probe) and not mine:
            return None, False
        if len(mine) >= SHARE:
            return "tenant_queue_full", True
        queue_max = self.policies[job.profile].queue_max
        tenants = {job.tenant, *(one.job.tenant for one in fresh if one.lost_with is None)}
        has_its_part = len(mine) * len(tenants) >= queue_max
        return ("queue_full" if len(fresh) >= queue_max and has_its_part else None), True

    @precondition(lambda self: self.clients)
    @rule(pick=picks)
    def client_leaves(self, pick: int) -> None:
        client = self.of(pick, list(self.clients.values()))
        self.tell(ClientLeft(client.ticket), {client.ticket: Abandoned()})
        assert client.outcome is not None

    @precondition(lambda self: self.running)
    @rule(pick=picks)
    def buffer_fills(self, pick: int) -> None:
        client = self.of(pick, self.running).client
        if not client.waits:
            self.tell(BufferFilled(client.ticket), {client.ticket: Overrun()})
            assert client.outcome is not None

    # --- turns -------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.turns)
    @rule(pick=picks)
    def a_turn_speaks(self, pick: int) -> None:
        """Also one that was lost, or is over: such a frame changes nothing visible (invariants 6 and 11)."""
        turn = self.of(pick, self.turns)
        client = turn.client
        before = len(client.real._events)
        turn.sink.push([TextDelta(f"of attempt {turn.number}")])
        is_heard = turn is client.turn and client.outcome is None
        assert len(client.real._events) == before + is_heard
        if is_heard:
            self.acquit(turn)
            client.heard.append(f"of attempt {turn.number}")

    @precondition(lambda self: self.running)
    @rule(
        pick=picks,
        end=st.sampled_from(FINISHES)
        | st.builds(
            lambda fault, trace: TurnEnd(fault=fault, trace=trace),
            st.sampled_from(FAULTS),
            st.sampled_from([Trace.NONE, Trace.NONE, Trace.ACTED]),
        ),
        is_freed=st.booleans(),
    )
    def a_turn_ends(self, pick: int, end: TurnEnd, is_freed: bool) -> None:
        turn = self.of(pick, self.running)
        self.end(turn, end)
        if is_freed:
            self.let_go(turn)

    def end(self, turn: Turn, end: TurnEnd) -> None:
        """A turn's end, and what must come of it for its client, who knows best whether it was told something."""
        client = turn.client
        turn.has_ended = True
        if end.fault is None:
            self.acquit(turn)
        is_awaited = turn is client.turn and client.outcome is None
        returns = self.returns[client.job.profile]
        if not is_awaited:
            outcome = client.outcome
            self.tell(TurnEnded(client.ticket, turn.number, end))
            assert outcome is None or client.outcome is outcome, "invariant 11"
            assert self.returns[client.job.profile] == returns
            return
        if end.fault is not None and end.fault.kind is FaultKind.WORKER_LOST:
            client.marks += 1
        if client.marks == 2 and turn.beside:
            due: Outcome | None = Ended(end)
        elif client.marks == 2:
            due = CrashesWorker()
            penalty_s = self.policy_of(client).penalty_s
            if penalty_s:
                self.penalties[client.job.tenant, client.job.turn.instructions] = self.now + penalty_s
        else:
            due = None if self.may_return(client, end) else Ended(end)
        if due is None:
            client.lost_with = end
        self.tell(TurnEnded(client.ticket, turn.number, end), {client.ticket: due} if due is not None else {})
        assert self.returns[client.job.profile] == returns + (due is None)
        assert client.outcome == due or due is None

    def acquit(self, turn: Turn) -> None:
        """It has said something, or ended well: it is no cause of what may come."""
        turn.has_spoken = True
        for other in self.turns:
            other.beside.discard(turn)

    def let_go(self, turn: Turn) -> None:
        """The worker has the seat back."""
        turn.worker.turns.remove(turn)
        if turn.worker.in_service:
            self.tell(SeatsFreed(turn.worker.id.profile))

    @rule()
    def workers_let_go_of_what_has_ended(self) -> None:
        for turn in [turn for each in self.workers.values() for worker in each for turn in worker.turns]:
            if turn.has_ended:
                self.let_go(turn)

    @precondition(lambda self: self.turns)
    @rule(pick=picks)
    def a_turn_that_is_over_ends_again(self, pick: int) -> None:
        turn = self.of(pick, self.turns)
        if turn.has_ended:
            assert self.core.handle(TurnEnded(turn.client.ticket, turn.number, FINISHES[0]), self.now) == ()

    # --- workers -----------------------------------------------------------------------------------------------

    @rule(profile=profiles, count=st.integers(1, MOST_WORKERS))
    def workers_come(self, profile: str, count: int) -> None:
        self.workers_come_to(profile, count)

    def workers_come_to(self, profile: str, count: int) -> None:
        """In the place of those that are in service no more, also while these still have something to do."""
        workers = self.workers[profile]
        self.workers[profile] = [worker for worker in workers if worker.in_service or worker.turns]
        serving = sum(worker.in_service for worker in workers)
        for _ in range(min(count, MOST_WORKERS - serving)):
            self.workers[profile].append(Worker(WorkerId(profile, 0, next(self.epochs))))
            self.tell(SeatsFreed(profile))

    @precondition(lambda self: self.running)
    @rule(pick=picks, is_crash=st.booleans(), spares=st.integers(0, 2))
    def a_worker_goes(self, pick: int, is_crash: bool, spares: int) -> None:
        """It died of itself, or was replaced; its turns end with it."""
        worker = self.of(pick, self.running).worker
        profile = worker.id.profile
        if worker in self.workers[profile]:
            self.workers[profile].remove(worker)
            worker.in_service = False
            kind = FaultKind.WORKER_LOST if is_crash else FaultKind.WORKER_REPLACED
            for turn in list(worker.turns):
                if not turn.has_ended:
                    self.end(turn, TurnEnd(fault=Fault(kind, "gone"), trace=Trace.NONE))
            self.workers_come_to(profile, spares)

    @precondition(lambda self: self.running)
    @rule(pick=picks, spares=st.integers(0, 2))
    def a_worker_is_quarantined(self, pick: int, spares: int) -> None:
        """Its turns are moved elsewhere, those that can be; one may speak in the moment in which it is doubted."""
        worker = self.of(pick, self.running).worker
        profile = worker.id.profile
        if not worker.in_service:
            return
        worker.in_service = False
        doubted = [turn for turn in worker.turns if not turn.has_ended]
        before, movable = self.returns[profile], 0
        for turn in doubted:
            client = turn.client
            is_awaited = turn is client.turn and client.outcome is None
            if is_awaited and self.may_return(client, QUARANTINED, spent=movable):
                client.lost_with = QUARANTINED
                movable += 1
        self.tell(LeasesDoubted(tuple(turn.lease for turn in doubted)))
        assert self.returns[profile] == before + movable
        self.workers_come_to(profile, spares)

    # --- the service -------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.1, 0.25, 0.5, 1.0, 1.0, 5.0]), is_seen=st.booleans())
    def time_passes(self, seconds: float, is_seen: bool) -> None:
        self.now += seconds
        if is_seen:
            self.tell(Ticked())

    @rule(profile=profiles, limit=st.sampled_from([None, 0, 1, 3]))
    def somebody_sets_a_limit(self, profile: str, limit: int | None) -> None:
        if profile in self.queues:
            self.tell(LimitSet(profile, limit))

    @rule(a=st.sampled_from(RULES), b=st.sampled_from([None, *RULES]))
    def the_rules_change(self, a: QueuePolicy, b: QueuePolicy | None) -> None:
        before = self.policies
        self.past = {**self.past, **before}
        self.policies = {"a": a} if b is None else {"a": a, "b": b}
        for profile, rules in self.policies.items():
            if profile in self.queues:
                old = self.past[profile]
                self.tokens[profile] = max(0.0, self.tokens[profile] + rules.retry_reserve - old.retry_reserve)
                self.reserve_ever[profile] += max(0, rules.retry_reserve - old.retry_reserve)
            else:
                self.queues.add(profile)
                self.limits[profile] = rules.seats_limit
                self.tokens[profile] = rules.retry_reserve
                self.reserve_ever[profile] += rules.retry_reserve
        self.tell(Reconfigured(self.policies, None))

    @rule(rarely=st.integers(0, 19))
    def cut_off(self, rarely: int) -> None:
        if rarely == 7:
            self.give_everybody_up()

    def give_everybody_up(self) -> None:
        self.tell(CutOffReached(), {ticket: CutOff() for ticket in self.clients})
        assert all(client.outcome is not None for client in self.clients.values())

    def of(self, pick: int, things: list[T]) -> T:
        return things[pick % len(things)]

    # --- what must always hold ---------------------------------------------------------------------------------

    @invariant()
    def the_core_agrees_with_itself(self) -> None:
        self.core.validate()

    @invariant()
    def nobody_waits_who_could_use_a_free_seat(self) -> None:
        """Invariant 4. What is due and has not been told yet comes first."""
        alarm = self.core.next_alarm()
        if alarm is None or alarm > self.now:
            assert not [one.ticket for one in self.clients.values() if one.waits and self.may_start(one)]

    @invariant()
    def nobody_waits_or_runs_longer_than_may_be(self) -> None:
        """Invariant 9, and 16: the next alarm is never too late."""
        alarm = self.core.next_alarm()
        waiting = [one for one in self.clients.values() if one.waits]
        ends = [one.rests_until if one.rests_until > self.now else one.expires_at for one in waiting]
        ends += [one.deadline_at for one in self.clients.values() if one.turn is not None and one.outcome is None]
        earliest = min(ends, default=float("inf"))
        assert earliest == float("inf") or (alarm is not None and alarm <= earliest)

    @invariant()
    def no_worker_has_two_that_crashed_one(self) -> None:
        suspects = Counter(turn.worker.id for turn in self.running if turn.client.marks and turn is turn.client.turn)
        assert all(count == 1 for count in suspects.values())

    @invariant()
    def second_attempts_are_a_small_share(self) -> None:
        """Invariant 13."""
        for profile, returns in self.returns.items():
            assert returns <= self.reserve_ever[profile] + 0.5 * self.admitted[profile] + 1e-9

    @invariant()
    def what_a_client_heard_is_of_one_attempt(self) -> None:
        """Invariant 6."""
        for client in self.clients.values():
            assert [event.text for event in client.real._events if isinstance(event, TextDelta)] == client.heard
            assert len(set(client.heard)) <= 1

    @invariant()
    def the_numbers_are_the_worlds(self) -> None:
        """Invariant 2: whoever was admitted waits, runs, or has an outcome."""
        for row in self.core.snapshot(self.now):
            mine = self.of_profile(row.profile)
            waiting = [one for one in mine if one.waits]
            assert row.waiting == len(waiting) == sum(row.by_priority.values())
            assert row.running == sum(one.runs for one in mine)
            assert row.limit == self.limits[row.profile]
            assert row.oldest_wait_s == max((self.now - one.submitted_at for one in waiting), default=0.0)
            assert row.marked == sum(one.marks > 0 and not one.is_forgotten for one in mine)
            assert abs(row.retry_tokens - self.tokens[row.profile]) < 1e-9
            assert row.hold_s >= 0
            assert row.predicted_wait_s >= 0
        assert set(self.core.profiles()) == self.queues
        assert self.core.is_idle() is all(client.is_forgotten for client in self.clients.values())

    @invariant()
    def who_was_given_up_has_been_interrupted(self) -> None:
        for turn in self.running:
            assert turn.was_interrupted is (turn is not turn.client.turn or turn.client.outcome is not None)

    def teardown(self) -> None:
        """Invariants 3, 15 and 16: when nothing comes any more, time alone ends all that waits, and nothing is left."""
        for _ in range(1000):
            alarm = self.core.next_alarm()
            if alarm is None:
                break
            self.now = max(self.now, alarm)
            self.tell(Ticked())
        assert not any(client.waits for client in self.clients.values())
        self.give_everybody_up()
        for turn in self.running:
            self.end(turn, FINISHES[0])
        assert all(client.outcome is not None and client.is_forgotten for client in self.clients.values())
        assert self.core.is_idle()
        assert self.core.next_alarm() is None
        assert not self.core._leases
        assert not self.core._suspects


TestSchedulerState = SchedulerMachine.TestCase
TestSchedulerState.settings = trying(3)

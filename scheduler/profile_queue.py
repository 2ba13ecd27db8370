"""One profile's queue: who waits in which order, what a wait will be, how many may run, and what may be run again."""

from __future__ import annotations

from bisect import insort
from collections import Counter

from pool.events import FaultKind, TurnEnd
from pool.roster import Outlook
from scheduler.backlog import Backlog, Place
from scheduler.limit import SeatLimit
from scheduler.model import SHARES, Job, Priority, QueueFull, QueuePolicy, Rejected, TenantQueueFull, WaitTooLong
from scheduler.retry_budget import RetryBudget

SMOOTHING = 0.2
MAX_RETRY_AFTER_S = 60.0
"""Clients and balancers obey the hint: a guess must not send them away for an hour."""
CHARS_PER_TOKEN = 4
"""A guess until the provider has counted."""
OUTPUT_WEIGHT = 2.0
"""What a token of the answer costs beside one of the question."""
CREDIT_TURNS = 64.0
"""How many average turns a tenant may be ahead of others after it asked for less than its share."""
FIRST_GUESS_TOKENS = 200.0
FIRST_GUESS_S = 1.0
"""How long a turn holds its seat, before any has been seen."""
CODEL_HOLDS = 3.0
"""CoDel's target is at least the time in which so many seats come free: less would be no overload."""
TOO_MUCH = frozenset({FaultKind.WORKER_OVERLOADED, FaultKind.RATE_LIMIT, FaultKind.OVERLOADED})


class ProfileQueue:
    """The state of one queue; the tickets themselves are `scheduler.state`'s."""

    def __init__(self, profile: str, policy: QueuePolicy) -> None:
        self.profile = profile
        self.policy = policy
        self.backlog = Backlog()
        self.returned: list[int] = []
        """Tickets that have lost a turn, oldest first: before everybody else, in nobody's way."""
        self.blocked: set[int] = set()
        """Those among them for which no free seat will do, as far as is known."""
        self.running = 0
        """Turns that have not ended, those of which nobody wants to hear any more included."""
        self.tickets = 0
        self.marked = 0
        self.marks = 0
        self.limit = SeatLimit(policy.seats_limit, aimd=policy.aimd, floor=policy.min_limit)
        self.told_limit = policy.seats_limit
        self.retries = RetryBudget(policy.retry_ratio, policy.retry_reserve)
        self.outlook: Outlook | None = None
        self.hold_s = FIRST_GUESS_S
        self.has_held = False
        self.output_tokens = FIRST_GUESS_TOKENS
        """Of a turn, on average."""
        self.turn_cost = OUTPUT_WEIGHT * FIRST_GUESS_TOKENS / SHARES[Priority.STANDARD]
        """In tokens by weight, on average."""
        self.backlog.credit = CREDIT_TURNS * self.turn_cost
        self.counted_s = FIRST_GUESS_S
        """How long those held their seats whose tokens were counted."""
        self.is_closing = False

    # --- questions -------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Tickets that wait."""
        return self.backlog.size + len(self.returned)

    @property
    def seats(self) -> int:
        """How many turns can run at once, while workers are down as well as else; at least 1."""
        seats = (self.outlook.seats or self.outlook.nominal) if self.outlook is not None else 0
        limit = self.limit.now
        return max(1, seats if limit is None else min(seats or limit, limit))

    @property
    def codel_target_s(self) -> float:
        """What a wait should stay below; 0: no matter."""
        return self.policy.codel_target_s and max(self.policy.codel_target_s, CODEL_HOLDS * self.hold_s / self.seats)

    def room(self, free: int) -> int:
        """How many of the free seats may be taken."""
        limit = self.limit.now
        return free if limit is None else min(free, limit - self.running)

    def starts_at_once(self, job: Job, free: int) -> bool:
        """There is a seat for one more job, which nobody who waits could have."""
        if self.room(free) <= 0:
            return False
        is_capped = job.seats is not None and self.backlog.running(job.tenant) >= job.seats
        return not is_capped and not self.backlog.waiting(job.tenant)

    def retry_after_s(self) -> float:
        """When a seat is to be expected for one more job, from what turns took lately."""
        return min(MAX_RETRY_AFTER_S, self.hold_s * (self.waiting + 1) / self.seats)

    def predicted_wait_s(self, tenant: str = "", priority: Priority = Priority.STANDARD, weight: float = 1.0) -> float:
        """How long a new ticket like this would wait for a seat, were its tenant not at its cap."""
        position = self.backlog.position(tenant, priority, weight * SHARES[priority]) + len(self.returned)
        return position * self.hold_s / self.seats

    def place(self, job: Job) -> Place:
        """Where a job belongs, and about what it costs."""
        cost = job.size / CHARS_PER_TOKEN + OUTPUT_WEIGHT * self.output_tokens
        return Place(job.tenant, job.priority, job.weight * SHARES[job.priority], cost, job.seats)

    def refusal(self, job: Job) -> tuple[str, Rejected] | None:
        """Why one more job may not wait for want of a place, in a word and at length."""
        if job.queue_share is not None and self.backlog.waiting(job.tenant) >= job.queue_share:
            return "tenant_queue_full", TenantQueueFull("too many jobs of this tenant wait", self.retry_after_s())
        queue_max = self.policy.queue_max
        if self.waiting >= queue_max and not self.backlog.is_below_share(job.tenant, queue_max):
            return "queue_full", QueueFull("the queue is full", self.retry_after_s())
        return None

    def hopeless(self, job: Job) -> tuple[str, Rejected] | None:
        """Why one more job need not wait. Nobody is turned away on a guess: some turn must have been seen."""
        if not self.has_held:
            return None
        over_s = self.predicted_wait_s(job.tenant, job.priority, job.weight) - job.patience_s
        if over_s > 0:
            return "wait_too_long", WaitTooLong("no seat will come free in time", min(MAX_RETRY_AFTER_S, over_s))
        if job.seats is not None and self.backlog.running(job.tenant) >= job.seats:
            over_s = (self.backlog.waiting(job.tenant) + 1) * self.hold_s / job.seats - job.patience_s
            if over_s > 0:
                message = "no seat of this tenant will come free in time"
                return "tenant_queue_full", TenantQueueFull(message, min(MAX_RETRY_AFTER_S, over_s))
        return None

    def sheds(self, head: int, submitted_at: float, now: float) -> bool:
        """Whether the one at the head has waited too long for others, behind too many of its own."""
        target_s = self.codel_target_s
        return target_s > 0 and self.backlog.sheds(head, submitted_at, target_s, now)

    # --- changes ---------------------------------------------------------------------------------------------

    def see(self, outlook: Outlook) -> None:
        """What the profile has to offer now."""
        self.outlook = outlook
        self.limit.see(outlook.nominal)

    def adopt(self, policy: QueuePolicy) -> None:
        """Go by these rules from now on, the limit aside."""
        self.limit.adopt(aimd=policy.aimd, floor=policy.min_limit)
        self.retries.adopt(policy.retry_ratio, policy.retry_reserve)
        self.policy = policy

    def push(self, ticket: int, place: Place) -> None:
        """A new ticket waits."""
        self.backlog.push(ticket, place)
        self.retries.admitted()

    def push_returned(self, ticket: int) -> None:
        """A ticket that had a turn waits again."""
        insort(self.returned, ticket)

    def remove(self, ticket: int) -> None:
        """A ticket waits no longer."""
        if ticket in self.backlog:
            self.backlog.remove(ticket)
        else:
            self.returned.remove(ticket)
            self.blocked.discard(ticket)

    def began(self, now: float) -> None:
        """A turn has a seat."""
        self.running += 1
        self.limit.used(self.running, now)

    def ended(self, job: Job, place: Place, end: TurnEnd, held_s: float, now: float, *, is_charged: bool) -> None:
        """A turn is over, of which more or less than the guess is charged, unless its end is no doing of the job's.

        Where nobody counted its tokens, because its client has left, it is charged by the time that it held its seat.
        """
        if end.fault is not None and end.fault.kind in TOO_MUCH:
            self.limit.overloaded(self.running, now)
        self.limit.used(self.running, now)
        self.running -= 1
        self.hold_s += SMOOTHING * (held_s - self.hold_s)
        self.has_held = True
        surplus = 0.0
        if is_charged and end.usage is not None:
            cost = end.usage.input_tokens + OUTPUT_WEIGHT * end.usage.output_tokens
            surplus = cost - place.cost
            self.output_tokens += SMOOTHING * (end.usage.output_tokens - self.output_tokens)
            self.turn_cost += SMOOTHING * (cost / place.weight - self.turn_cost)
            self.backlog.credit = CREDIT_TURNS * self.turn_cost
            self.counted_s += SMOOTHING * (held_s - self.counted_s)
        elif is_charged and self.counted_s > 0:
            output_tokens = self.output_tokens * held_s / self.counted_s
            surplus = job.size / CHARS_PER_TOKEN + OUTPUT_WEIGHT * output_tokens - place.cost
        self.backlog.vacate(place, surplus, now)
        self.blocked.clear()

    def never_began(self, ticket: int, place: Place, *, was_returned: bool) -> None:
        """The seat that was meant for a ticket is not there, or not for this one: it has its old place."""
        self.running -= 1
        if was_returned:
            self.backlog.leave(place)
            self.push_returned(ticket)
            self.blocked.add(ticket)
        else:
            self.backlog.put_back(ticket, place)

    def by_priority(self) -> Counter[Priority]:
        """How many wait in the backlog in each class."""
        return self.backlog.by_priority()

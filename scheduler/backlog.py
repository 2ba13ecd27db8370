"""The order of a profile's queue: fair between tenants, weighted within a tenant, and nobody over the cap.

Tenants are served by least service received: each has one counter of the tokens it was given, each divided by the
weight of the tenant and of the job's class, and the tenant with the smallest counter goes next. So what is said to be
less urgent is dearer, and nobody gains by labels. Which of its classes a tenant's turn is given to goes by counters of
the same kind within the tenant; within a class it is first in, first out. What a turn will cost is guessed when it
starts and put right when it has ended. Who returns after a pause starts at the level of those who are being served,
less a `credit` at most: what it left of its share lately. No more than that is saved up. Until they have used it, those
who return with credit are served before all others, and among themselves in the order in which their jobs came: whoever
keeps to its share does not wait for rounds of those who ask for too much. Nor is anybody who waits ever further behind
the level when its turn comes. A turn that ends while nobody waits raises the level by what it cost: it was there for
everybody. Source: the "virtual token counter" of Sheng et al.,
"Fairness in Serving Large Language Models" (OSDI 2024), where the credit is none; two tenants that always wait differ
by twice what all turns that run at once may cost, and the credit, at most: what a turn costs is known when it ends.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from itertools import takewhile

import msgspec

from scheduler.codel import Codel
from scheduler.model import Priority

REMEMBERED = 1024
"""Tenants without a job that are kept for what they owe or have left, beside those that have one."""
IN_CREDIT = -1e15
"""What puts a ticket's number before every counter."""


class Place(msgspec.Struct, frozen=True, gc=False):  # every job that waits has one, which can be in no cycle
    """What the backlog has to know of a ticket: `cost` is in tokens.

    `weight` is its tenant's times its class's share. `seats` is how many turns its tenant may
    have at once; None: no cap.
    """

    tenant: str = ""
    priority: Priority = Priority.STANDARD
    weight: float = 1.0
    cost: float = 1.0
    seats: int | None = None


class _Flow(msgspec.Struct, eq=False):
    """One tenant's tickets of one class, oldest first, and the service they have had beside its other classes."""

    tenant: _Tenant
    served: float = 0.0
    waiting: OrderedDict[int, Place] = msgspec.field(default_factory=OrderedDict)
    weight: float = 0.0
    """That of those who wait."""
    codel: Codel | None = None
    """None: its last wait was short."""


class _Tenant(msgspec.Struct, eq=False):
    name: str
    served: float = 0.0
    level: float = 0.0
    """Of its classes."""
    waiting: int = 0
    running: int = 0
    held_up_until: float = 0.0
    """When it was at its cap last: until then its jobs waited for its own turns and for nobody else's."""
    flows: dict[Priority, _Flow] = {}
    busy: list[_Flow] = []
    """Its flows in which somebody waits."""
    weight: float = 0.0
    """Its part in the sum of those who wait: as it is served class by class, the mean of its classes' weights."""
    has_credit: bool = False
    entry: int = 0
    """The number of its valid entry in the order; older ones are stale. 0: it waits for nothing, or is at its cap."""

    def next(self) -> _Flow:
        """The class whose turn it is."""
        first = self.busy[0]
        for each in self.busy:
            if each.served < first.served:
                first = each
        return first


class Backlog:
    """Ticket ids by place. Who goes next is this class's alone to decide."""

    def __init__(self) -> None:
        self.credit = 0.0
        """How far below the level of those being served a tenant that returns may start, in tokens by weight."""
        self._tenants: dict[str, _Tenant] = {}
        self._resting: OrderedDict[str, None] = OrderedDict()
        self._flows: dict[int, _Flow] = {}
        """The flow of every ticket that waits."""
        self._order: list[tuple[float, int, _Tenant]] = []
        self._entries = 0
        self._busy = 0
        """Tenants that wait."""
        self._level = 0.0
        self._weight = 0.0
        """Of all tenants that wait."""

    def __contains__(self, ticket: int) -> bool:
        return ticket in self._flows

    # --- questions -------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many tickets wait."""
        return len(self._flows)

    def is_capped(self, place: Place) -> bool:
        """The tenant has as many turns as it may."""
        return place.seats is not None and self.running(place.tenant) >= place.seats

    def running(self, tenant: str) -> int:
        """The tenant's turns that have not ended."""
        record = self._tenants.get(tenant)
        return record.running if record is not None else 0

    def waiting(self, tenant: str) -> int:
        """The tenant's jobs that wait."""
        record = self._tenants.get(tenant)
        return record.waiting if record is not None else 0

    def is_below_share(self, tenant: str, places: int) -> bool:
        """The tenant has less than its part of so many places, were they shared by all who wait and itself."""
        own = self.waiting(tenant)
        return own * (self._busy + (own == 0)) < places

    def position(self, tenant: str, priority: Priority, weight: float) -> float:
        """About which place in the queue a new ticket would have, from 1: its share decides, and who is before it."""
        record = self._tenants.get(tenant)
        if record is None or not record.busy:
            place = (self._weight + weight) / weight
        else:
            flow = record.flows.get(priority)
            ahead, classes, total = 0, len(record.busy), record.weight * len(record.busy) + weight
            if flow is not None and flow.waiting:
                ahead = len(flow.waiting)
                total -= flow.weight
            else:
                classes += 1
            place = (ahead + 1) * (classes * (self._weight - record.weight) + total) / weight
        last = len(self._flows) + 1.0
        return place if place < last else last  # noqa: FURB136 - min() costs 0.1 us of every admission

    def by_priority(self) -> Counter[Priority]:
        """How many wait in each class."""
        counts = Counter(dict.fromkeys(Priority, 0))
        for flow in self._waiting_flows():
            counts[next(iter(flow.waiting.values())).priority] += len(flow.waiting)
        return counts

    def oldest(self) -> int | None:
        """The ticket that has waited longest."""
        return min((next(iter(flow.waiting)) for flow in self._waiting_flows()), default=None)

    def head(self) -> int | None:
        """The ticket whose turn it is, of a tenant that may have one more; None when nobody such waits."""
        order = self._order
        while order:
            _, entry, tenant = order[0]
            if entry == tenant.entry:
                ticket, place = next(iter(tenant.next().waiting.items()))
                if place.seats is None or tenant.running < place.seats:
                    return ticket
                tenant.entry = 0
            heapq.heappop(order)
        return None

    def sheds(self, head: int, since: float, target_s: float, now: float) -> bool:
        """Whether the head, which waits `since` then, is given up: its flow has stood too long, not for its own cap."""
        flow = self._flows[head]
        waited_s = now - max(since, flow.tenant.held_up_until)
        if waited_s <= target_s:
            flow.codel = None
            return False
        if flow.codel is None:
            flow.codel = Codel(now)
        return flow.codel.sheds(waited_s, target_s, now)

    def is_overloaded(self, target_s: float, now: float) -> bool:
        """Somebody's jobs have waited too long for a while."""
        codels = [flow.codel for flow in self._waiting_flows() if flow.codel is not None]
        return any(codel.is_overloaded(target_s, now) for codel in codels)

    # --- changes ---------------------------------------------------------------------------------------------

    def push(self, ticket: int, place: Place) -> None:
        """Take a ticket in behind its flow's others."""
        flow = self._flow(place)
        tenant = flow.tenant
        if not flow.waiting:
            flow.served = max(flow.served, tenant.level)
            flow.codel = None
            tenant.busy.append(flow)
        flow.waiting[ticket] = place
        self._flows[ticket] = flow
        if flow.weight != place.weight:
            flow.weight = place.weight
            self._weigh(tenant)
        tenant.waiting += 1
        if tenant.waiting == 1:
            self._busy += 1
            tenant.has_credit = tenant.served < self._level
            self._enter(tenant)
        elif tenant.has_credit and tenant.entry and len(flow.waiting) == 1:
            self._enter(tenant)  # its next may be this one, which has no earlier place than its own

    def take(self, ticket: int) -> None:
        """Give the `head` its turn, charged to its tenant, whose entry is the first in the order."""
        flow = self._flows[ticket]
        tenant = flow.tenant
        if tenant.served > self._level:  # noqa: PLR1730 - max() costs 0.1 us, and every turn comes through here
            self._level = tenant.served
        if flow.served > tenant.level:  # noqa: PLR1730 - likewise
            tenant.level = flow.served
        place = self._take_out(ticket, flow)
        tenant.running += 1
        tokens = place.cost / place.weight
        flow.served += tokens
        tenant.served += tokens
        if tenant.waiting:
            tenant.has_credit = tenant.has_credit and tenant.served < self._level
            self._entries += 1
            tenant.entry = self._entries
            heapq.heapreplace(self._order, (self._rank(tenant), tenant.entry, tenant))
        else:
            heapq.heappop(self._order)

    def put_back(self, ticket: int, place: Place) -> None:
        """Undo a `take`: the ticket has its old place, and its tenant its charge."""
        flow = self._flow(place)
        tenant = flow.tenant
        tokens = place.cost / place.weight
        before = flow.served - tokens, tenant.served - tokens
        self.push(ticket, place)
        flow.served, tenant.served = before  # it has not been away
        tenant.has_credit = tenant.served < self._level
        tenant.running -= 1
        earlier = list(takewhile(lambda each: each < ticket, flow.waiting))
        for each in (ticket, *reversed(earlier)):
            flow.waiting.move_to_end(each, last=False)
        tenant.busy.remove(flow)
        tenant.busy.insert(0, flow)
        self._enter(tenant, ahead=True)

    def remove(self, ticket: int) -> None:
        """Take a ticket out of the middle."""
        flow = self._flows[ticket]
        tenant = flow.tenant
        self._take_out(ticket, flow)
        if tenant.entry and tenant.has_credit:
            self._enter(tenant)
        self._rest(tenant)

    def occupy(self, place: Place) -> None:
        """A turn begins that was charged before."""
        self._flow(place).tenant.running += 1

    def leave(self, place: Place) -> None:
        """Undo an `occupy`."""
        tenant = self._flow(place).tenant
        tenant.running -= 1
        if tenant.waiting and not tenant.entry:
            self._enter(tenant)
        self._rest(tenant)

    def vacate(self, place: Place, tokens: float = 0.0, now: float = 0.0) -> None:
        """A turn is over, which cost so many tokens more than was guessed; its tenant may have another.

        What it cost less than that is given back, and is no credit for one who waits.
        """
        flow = self._flow(place)
        tenant = flow.tenant
        if place.seats is not None and tenant.running >= place.seats:
            tenant.held_up_until = now
        tenant.running -= 1
        if tokens:
            flow.served += tokens / place.weight
            tenant.served += tokens / place.weight
        if not self._flows:
            self._level += (place.cost + tokens) / place.weight
        if tenant.waiting and (tokens or not tenant.entry):
            self._enter(tenant)
        self._rest(tenant)

    # --- inside ----------------------------------------------------------------------------------------------

    def _flow(self, place: Place) -> _Flow:
        tenant = self._tenants.get(place.tenant)
        if tenant is None:
            tenant = self._tenants[place.tenant] = _Tenant(place.tenant, self._level)
        elif not tenant.waiting and not tenant.running:
            del self._resting[place.tenant]
        flow = tenant.flows.get(place.priority)
        if flow is None:
            flow = tenant.flows[place.priority] = _Flow(tenant, tenant.level)
        return flow

    def _take_out(self, ticket: int, flow: _Flow) -> Place:
        tenant = flow.tenant
        del self._flows[ticket]
        place = flow.waiting.pop(ticket)
        tenant.waiting -= 1
        if not tenant.waiting:
            self._busy -= 1
            tenant.entry = 0
        if not flow.waiting:
            flow.weight = 0.0
            tenant.busy.remove(flow)
            self._weigh(tenant)
        if not self._flows:
            self._weight = 0.0  # what rounding has left of it
        return place

    def _weigh(self, tenant: _Tenant) -> None:
        total = 0.0
        for flow in tenant.busy:
            total += flow.weight
        mean = total / len(tenant.busy) if tenant.busy else 0.0
        self._weight += mean - tenant.weight
        tenant.weight = mean

    def _rest(self, tenant: _Tenant) -> None:
        """Keep a tenant that has no job, with the last of its kind."""
        if tenant.waiting or tenant.running:
            return
        self._resting[tenant.name] = None
        if len(self._resting) > REMEMBERED:
            name, _ = self._resting.popitem(last=False)
            del self._tenants[name]

    def _enter(self, tenant: _Tenant, *, ahead: bool = False) -> None:
        """Give a tenant its one valid entry in the order; equals go by who came to this level first, or `ahead`.

        It is no further below the level than the credit: a pause, its own cap, or much that it was given back may have
        left it there.
        """
        tenant.served = max(tenant.served, self._level - self.credit)
        tenant.has_credit = tenant.has_credit and tenant.served < self._level
        self._entries += 1
        tenant.entry = -self._entries if ahead else self._entries
        heapq.heappush(self._order, (self._rank(tenant), tenant.entry, tenant))
        if len(self._order) > 2 * len(self._flows) + 64:
            self._order = [(self._rank(each), each.entry, each) for each in self._tenants.values() if each.entry]
            heapq.heapify(self._order)

    def _rank(self, tenant: _Tenant) -> float:
        """The smallest goes next."""
        return IN_CREDIT + next(iter(tenant.next().waiting)) if tenant.has_credit else tenant.served

    def _waiting_flows(self) -> list[_Flow]:
        return [flow for tenant in self._tenants.values() for flow in tenant.busy]

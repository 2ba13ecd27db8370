"""The order of a profile's queue: fair between flows, first in first out within one, and no tenant over its cap.

A flow is a tenant's jobs of one priority. Flows are served by least service received: each has a counter of the tokens
it was given, divided by its weight, and the flow with the smallest counter goes next. What a turn will cost is guessed
when it starts and put right when it has ended. Who returns after a pause starts at the level of those who are being
served, so credit cannot be saved up. Source: the "virtual token counter" of Sheng et al., "Fairness in Serving Large
Language Models" (OSDI 2024); the difference between two flows that always wait is bounded by twice the largest cost of
one job.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict

import msgspec

from scheduler.model import Priority

REMEMBERED = 256
"""Tenants without a job that are kept for what they owe, beside those that have one."""


class Place(msgspec.Struct, frozen=True, gc=False):  # every job that waits has one, which can be in no cycle
    """What the backlog has to know of a ticket: `cost` is in tokens, `weight` its flow's share among others.

    `seats` is how many turns its tenant may have at once; None: no cap.
    """

    tenant: str = ""
    priority: Priority = Priority.STANDARD
    weight: float = 1.0
    cost: float = 1.0
    seats: int | None = None


class _Flow(msgspec.Struct, eq=False):
    """One tenant's tickets of one priority, oldest first, and the service they have had."""

    tenant: _Tenant
    served: float = 0.0
    waiting: OrderedDict[int, Place] = msgspec.field(default_factory=OrderedDict)
    weight: float = 0.0
    """Its part in the sum of those who wait."""
    entry: int = 0
    """The number of its valid entry in the order; older ones are stale."""


class _Tenant(msgspec.Struct, eq=False):
    name: str
    waiting: int = 0
    running: int = 0
    flows: dict[Priority, _Flow] = {}
    parked: dict[Priority, _Flow] = {}
    """Out of the order until one of its turns ends."""


class Backlog:
    """Ticket ids by place. Who goes next is this class's alone to decide."""

    def __init__(self) -> None:
        self._tenants: dict[str, _Tenant] = {}
        self._resting: OrderedDict[str, None] = OrderedDict()
        self._flows: dict[int, _Flow] = {}
        """The flow of every ticket that waits."""
        self._order: list[tuple[float, int, _Flow]] = []
        self._entries = 0
        self._level = 0.0
        self._weight = 0.0
        """Of all flows that wait."""

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

    def position(self, tenant: str, priority: Priority, weight: float) -> float:
        """About which place in the queue a new ticket would have, from 1: its share decides, and who is before it."""
        record = self._tenants.get(tenant)
        flow = record.flows.get(priority) if record is not None else None
        if flow is None:
            place = (self._weight + weight) / weight
        else:
            place = (len(flow.waiting) + 1) * (self._weight - flow.weight + weight) / weight
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
            _, entry, flow = order[0]
            if entry == flow.entry and flow.waiting:
                ticket, place = next(iter(flow.waiting.items()))
                if place.seats is None or flow.tenant.running < place.seats:
                    return ticket
                flow.entry = 0
                flow.tenant.parked[place.priority] = flow
            heapq.heappop(order)
        return None

    # --- changes ---------------------------------------------------------------------------------------------

    def push(self, ticket: int, place: Place) -> None:
        """Take a ticket in behind its flow's others."""
        flow = self._flow(place)
        is_first = not flow.waiting
        flow.waiting[ticket] = place
        flow.tenant.waiting += 1
        self._flows[ticket] = flow
        self._weight += place.weight - flow.weight
        flow.weight = place.weight
        if is_first:
            flow.served = max(flow.served, self._level)
            self._enter(flow)

    def take(self, ticket: int) -> None:
        """Give the `head` its turn, charged to its flow, whose entry is the first in the order."""
        flow, place = self._take_out(ticket)
        if flow.served > self._level:  # noqa: PLR1730 - max() costs 0.1 us, and every turn comes through here
            self._level = flow.served
        flow.tenant.running += 1
        flow.served += place.cost / place.weight
        if flow.waiting:
            self._entries += 1
            flow.entry = self._entries
            heapq.heapreplace(self._order, (flow.served, flow.entry, flow))
        else:
            heapq.heappop(self._order)

    def put_back(self, ticket: int, place: Place) -> None:
        """Undo a `take`: the ticket has its old place, and its flow its charge."""
        self.push(ticket, place)
        flow = self._flows[ticket]
        flow.tenant.running -= 1
        flow.waiting.move_to_end(ticket, last=False)
        flow.served -= place.cost / place.weight
        self._enter(flow, ahead=True)

    def remove(self, ticket: int) -> None:
        """Take a ticket out of the middle."""
        flow, _ = self._take_out(ticket)
        self._rest(flow.tenant)

    def occupy(self, place: Place) -> None:
        """A turn begins that was charged before."""
        self._flow(place).tenant.running += 1

    def vacate(self, place: Place, tokens: float = 0.0) -> None:
        """A turn is over, which cost so many tokens more than was guessed; its tenant may have another."""
        flow = self._flow(place)
        tenant = flow.tenant
        tenant.running -= 1
        flow.served += tokens / place.weight
        if tokens and flow.waiting and flow.entry:
            self._enter(flow)
        for each in tenant.parked.values():
            if each.waiting:
                self._enter(each)
        tenant.parked.clear()
        self._rest(tenant)

    # --- inside ----------------------------------------------------------------------------------------------

    def _flow(self, place: Place) -> _Flow:
        tenant = self._tenants.get(place.tenant)
        if tenant is None:
            tenant = self._tenants[place.tenant] = _Tenant(place.tenant)
        elif not tenant.waiting and not tenant.running:
            del self._resting[place.tenant]
        flow = tenant.flows.get(place.priority)
        if flow is None:
            flow = tenant.flows[place.priority] = _Flow(tenant, self._level)
        return flow

    def _take_out(self, ticket: int) -> tuple[_Flow, Place]:
        flow = self._flows.pop(ticket)
        place = flow.waiting.pop(ticket)
        flow.tenant.waiting -= 1
        if not flow.waiting:
            self._weight -= flow.weight
            flow.weight = 0.0
        if not self._flows:
            self._weight = 0.0  # what rounding has left of it
        return flow, place

    def _rest(self, tenant: _Tenant) -> None:
        """Forget a tenant that has no job, at once if it owes nothing; those that owe are few, the last ones."""
        if tenant.waiting or tenant.running:
            return
        self._resting[tenant.name] = None
        self._resting.move_to_end(tenant.name)
        if all(flow.served <= self._level for flow in tenant.flows.values()):
            self._drop(tenant.name)
        elif len(self._resting) > REMEMBERED:
            self._drop(next(iter(self._resting)))

    def _drop(self, name: str) -> None:
        del self._resting[name], self._tenants[name]

    def _enter(self, flow: _Flow, *, ahead: bool = False) -> None:
        """Give a flow its one valid entry in the order; equals go by who came to this level first, or `ahead`."""
        self._entries += 1
        flow.entry = -self._entries if ahead else self._entries
        heapq.heappush(self._order, (flow.served, flow.entry, flow))
        if len(self._order) > 2 * len(self._flows) + 64:
            self._order = [(each.served, each.entry, each) for each in self._waiting_flows() if each.entry]
            heapq.heapify(self._order)

    def _waiting_flows(self) -> list[_Flow]:
        return [flow for tenant in self._tenants.values() for flow in tenant.flows.values() if flow.waiting]

"""The one queue of a profile: bounded, fair between tenants, with deadlines, cancelled in constant time.

Tenants are served by least service received: each has a counter of the tokens it was given, divided by its weight, and
the tenant with the smallest counter goes next; within a tenant it is first in, first out. What a turn will cost is
guessed when it starts and put right when it has ended. Who returns after a pause starts at the level of those who are
being served, so credit cannot be saved up. Source: the "virtual token counter" of Sheng et al., "Fairness in Serving
Large Language Models" (OSDI 2024); the difference between two tenants that always wait is bounded by twice the largest
cost of one job.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple


class Place(NamedTuple):
    """What the backlog has to know of a ticket: `cost` is in tokens, `weight` its tenant's share among others."""

    expires_at: float
    tenant: str = ""
    weight: float = 1.0
    cost: float = 1.0


@dataclass(slots=True)
class _Flow:
    """One tenant's tickets, oldest first, and the service it has had."""

    served: float = 0.0
    waiting: OrderedDict[int, Place] = field(default_factory=OrderedDict)
    entry: int = 0
    """The number of its valid entry in the order; older ones are stale."""


class Backlog:
    """Ticket ids by place. Who goes next is this class's alone to decide."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tenants: dict[int, str] = {}
        self._flows: dict[str, _Flow] = {}
        self._order: list[tuple[float, int, str]] = []
        self._entries = 0
        self._level = 0.0
        self._deadlines: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._tenants)

    def __contains__(self, ticket: int) -> bool:
        return ticket in self._tenants

    @property
    def is_full(self) -> bool:
        """One more would be too many."""
        return len(self._tenants) >= self._limit

    def push(self, ticket: int, place: Place) -> None:
        """Take a ticket in behind its tenant's others."""
        flow = self._flows.setdefault(place.tenant, _Flow())
        if not flow.waiting:
            flow.served = max(flow.served, self._level)
        flow.waiting[ticket] = place
        self._tenants[ticket] = place.tenant
        if len(flow.waiting) == 1:
            self._enter(place.tenant, flow)
        heapq.heappush(self._deadlines, (place.expires_at, ticket))
        if len(self._deadlines) > 2 * len(self._tenants) + 64:
            everyone = (flow.waiting.items() for flow in self._flows.values())
            self._deadlines = [(place.expires_at, ticket) for items in everyone for ticket, place in items]
            heapq.heapify(self._deadlines)

    def push_front(self, ticket: int, place: Place) -> None:
        """Put a ticket back where it was taken from, and its charge too; the limit is for new ones."""
        self.push(ticket, place)
        flow = self._flows[place.tenant]
        flow.waiting.move_to_end(ticket, last=False)
        flow.served -= place.cost / place.weight
        self._enter(place.tenant, flow, ahead=True)

    def pop(self) -> int | None:
        """The ticket whose turn it is, taken out and charged to its tenant; None when nobody waits."""
        while self._order:
            served, entry, tenant = heapq.heappop(self._order)
            flow = self._flows[tenant]
            if entry != flow.entry or not flow.waiting:
                continue
            self._level = max(self._level, served)
            ticket, place = flow.waiting.popitem(last=False)
            del self._tenants[ticket]
            self.charge(place, place.cost)
            return ticket
        return None

    def charge(self, place: Place, tokens: float) -> None:
        """Count service that the tenant has had besides what was guessed; negative for what it has not."""
        flow = self._flows[place.tenant]
        flow.served += tokens / place.weight
        if flow.waiting:
            self._enter(place.tenant, flow)

    def remove(self, ticket: int) -> bool:
        """Take a ticket out of the middle; False when it is not here."""
        tenant = self._tenants.pop(ticket, None)
        if tenant is None:
            return False
        del self._flows[tenant].waiting[ticket]
        return True

    def pop_expired(self, now: float) -> list[int]:
        """The tickets whose deadline has passed, taken out, earliest first."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, ticket = heapq.heappop(self._deadlines)
            if self.remove(ticket):
                expired.append(ticket)
        return expired

    def next_deadline(self) -> float | None:
        """When the next ticket expires."""
        while self._deadlines and self._deadlines[0][1] not in self._tenants:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def _enter(self, tenant: str, flow: _Flow, *, ahead: bool = False) -> None:
        """Give a tenant its one valid entry in the order; equals go by who came to this level first, or `ahead`."""
        self._entries += 1
        flow.entry = -self._entries if ahead else self._entries
        heapq.heappush(self._order, (flow.served, flow.entry, tenant))
        if len(self._order) > 2 * len(self._flows) + 64:
            self._order = [(each.served, each.entry, name) for name, each in self._flows.items() if each.waiting]
            heapq.heapify(self._order)

"""The one queue of a profile: bounded, first in first out, with deadlines, cancelled in constant time."""

from __future__ import annotations

import heapq
from collections import OrderedDict


class Backlog:
    """Ticket ids in order of arrival. The order is this class's alone to decide."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: OrderedDict[int, float] = OrderedDict()
        self._deadlines: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, ticket: int) -> bool:
        return ticket in self._waiting

    @property
    def is_full(self) -> bool:
        """One more would be too many."""
        return len(self._waiting) >= self._limit

    def push(self, ticket: int, expires_at: float) -> None:
        """Take a ticket in at the end."""
        self._waiting[ticket] = expires_at
        heapq.heappush(self._deadlines, (expires_at, ticket))
        if len(self._deadlines) > 2 * len(self._waiting) + 64:
            self._deadlines = [(at, ticket) for ticket, at in self._waiting.items()]
            heapq.heapify(self._deadlines)

    def push_front(self, ticket: int, expires_at: float) -> None:
        """Put a ticket back where it was taken from; the limit is for new ones."""
        self.push(ticket, expires_at)
        self._waiting.move_to_end(ticket, last=False)

    def pop(self) -> int | None:
        """The ticket whose turn it is, taken out; None when nobody waits."""
        return self._waiting.popitem(last=False)[0] if self._waiting else None

    def remove(self, ticket: int) -> bool:
        """Take a ticket out of the middle; False when it is not here."""
        return self._waiting.pop(ticket, None) is not None

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
        while self._deadlines and self._deadlines[0][1] not in self._waiting:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

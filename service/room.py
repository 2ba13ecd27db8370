"""How much of requests may be read at once, before the scheduler knows of them and counts what they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from scheduler.model import QueueFull, TenantQueueFull
from service.api.errors import from_rejection

RETRY_AFTER_S = 1.0
"""Reading takes a moment."""

Take = Callable[[int], None]


class Room:
    """Bytes that are held by whom. Nobody waits for room, and who has some leaves as much to others."""

    def __init__(self) -> None:
        self.taken = 0
        self._by: Counter[str] = Counter()

    @contextmanager
    def claim(self, tenant: str, limit: int) -> Iterator[Take]:
        """What takes so many bytes more, until the end of the block, while all have at most `limit`.

        Raises:
            ApiError: 503 or 429, from what is given: there is no room, or none for this tenant.
        """
        mine = 0

        def take(size: int) -> None:
            nonlocal mine
            free = limit - self.taken
            if size > free:
                raise from_rejection(QueueFull("too much is being read", RETRY_AFTER_S))
            if 0 < self._by[tenant] > free - size:
                raise from_rejection(TenantQueueFull("too much of this tenant is being read", RETRY_AFTER_S))
            mine += size
            self.taken += size
            self._by[tenant] += size

        try:
            yield take
        finally:
            self.taken -= mine
            self._by[tenant] -= mine
            if not self._by[tenant]:
                del self._by[tenant]

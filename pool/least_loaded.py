"""Least loaded first, in constant time."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class LeastLoaded(Generic[K]):
    """Keys in buckets by load, each with a limit of its own; among equals the one that waited longest is picked.

    Every operation costs the same however many keys there are; a move by one step is what happens all the time.
    """

    def __init__(self) -> None:
        self._buckets: list[dict[K, None]] = []
        self._loads: dict[K, int] = {}
        self._limits: dict[K, int] = {}
        self._seats = 0
        self._free = 0

    @property
    def free(self) -> int:
        """How much load would still fit."""
        return self._free

    @property
    def seats(self) -> int:
        """The sum of all limits."""
        return self._seats

    def __contains__(self, key: K) -> bool:
        return key in self._loads

    def __len__(self) -> int:
        return len(self._loads)

    def put(self, key: K, limit: int, load: int) -> None:
        """Take a key in, or give a known one another limit; a load over the limit is borne."""
        self.remove(key)
        while len(self._buckets) <= max(limit, load):
            self._buckets.append({})
        self._loads[key] = load
        self._limits[key] = limit
        self._seats += limit
        self._free += max(0, limit - load)
        if load < limit:
            self._buckets[load][key] = None

    def remove(self, key: K) -> None:
        """Forget a key, if it is known."""
        load = self._loads.pop(key, None)
        if load is None:
            return
        limit = self._limits.pop(key)
        self._seats -= limit
        self._free -= max(0, limit - load)
        self._buckets[load].pop(key, None)

    def take(self, avoid: Collection[K] = ()) -> K | None:
        """The least loaded key that is not in `avoid`, its load now one more; None when there is none."""
        if self._free == 0:
            return None
        for bucket in self._buckets:
            for key in bucket:
                if key not in avoid:
                    self._move(key, 1)
                    return key
        return None

    def give_back(self, key: K) -> None:
        """One load less on this key, if it is known."""
        if self._loads.get(key):
            self._move(key, -1)

    def _move(self, key: K, step: int) -> None:
        source, limit = self._loads[key], self._limits[key]
        target = self._loads[key] = source + step
        self._free += max(0, limit - target) - max(0, limit - source)
        self._buckets[source].pop(key, None)
        if target < limit:
            self._buckets[target][key] = None

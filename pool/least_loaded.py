"""Least loaded first, in constant time."""

from __future__ import annotations

from collections.abc import Container, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class LeastLoaded(Generic[K]):
    """Keys in buckets by load, 0 to `limit`; among equals the one that waited longest is picked.

    Every operation costs the same however many keys there are; a move by one step is what happens all the time.
    """

    def __init__(self, limit: int) -> None:
        self._buckets: list[dict[K, None]] = [{} for _ in range(limit + 1)]
        self._loads: dict[K, int] = {}
        self._free = 0

    @property
    def free(self) -> int:
        """How much load would still fit."""
        return self._free

    def __contains__(self, key: K) -> bool:
        return key in self._loads

    def __len__(self) -> int:
        return len(self._loads)

    def add(self, key: K, load: int = 0) -> None:
        """Take a new key in."""
        self._loads[key] = load
        self._buckets[load][key] = None
        self._free += len(self._buckets) - 1 - load

    def remove(self, key: K) -> None:
        """Forget a key, if it is known."""
        load = self._loads.pop(key, None)
        if load is not None:
            del self._buckets[load][key]
            self._free -= len(self._buckets) - 1 - load

    def take(self, avoid: Container[K] = ()) -> K | None:
        """The least loaded key outside `avoid`, whose load is now one more; None when all are full."""
        if self._free == 0:
            return None
        for load, bucket in enumerate(self._buckets[:-1]):
            key = next((each for each in bucket if each not in avoid), None)
            if key is not None:
                self._move(key, load, load + 1)
                self._free -= 1
                return key
        return None

    def give_back(self, key: K) -> None:
        """One load less on this key, if it is known."""
        load = self._loads.get(key)
        if load:
            self._move(key, load, load - 1)
            self._free += 1

    def _move(self, key: K, source: int, target: int) -> None:
        del self._buckets[source][key]
        self._buckets[target][key] = None
        self._loads[key] = target

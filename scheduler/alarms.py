"""When something is due for whom: one time for each key, changed and dropped in constant time."""

from __future__ import annotations

import heapq


class Alarms:
    """Keys by time. An entry that was changed stays in the heap until it surfaces, or until most are such."""

    def __init__(self) -> None:
        self._times: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._times)

    def set(self, key: int, at: float | None) -> None:
        """The key's one time, from now on; None: it has none."""
        if at is None:
            self._times.pop(key, None)
        elif self._times.get(key) != at:
            self._times[key] = at
            heapq.heappush(self._heap, (at, key))
            if len(self._heap) > 2 * len(self._times) + 64:
                self._heap = [(time, each) for each, time in self._times.items()]
                heapq.heapify(self._heap)

    def is_due(self, now: float) -> bool:
        """There may be something to pop."""
        return bool(self._heap) and self._heap[0][0] <= now

    def pop_due(self, now: float) -> list[int]:
        """The keys whose time has come, earliest first; they have none any more."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            at, key = heapq.heappop(self._heap)
            if self._times.get(key) == at:
                del self._times[key]
                due.append(key)
        return due

    def next_at(self) -> float | None:
        """The earliest time."""
        heap = self._heap
        while heap:
            at, key = heap[0]
            if self._times.get(key) == at:
                return at
            heapq.heappop(heap)
        return None

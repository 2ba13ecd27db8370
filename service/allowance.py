"""A contract of so many a minute: nobody waits for it, and what was counted in error can be given back.

A leaky bucket in two numbers, so that everything a client is told of it is exact and costs well under a microsecond.
"""

from __future__ import annotations

MINUTE_S = 60.0
_CRUMB = 1e-6
"""Of one: what a sum of fractions may be wrong by. Who waited as long as was told is let in."""


class Count:
    """How much has been used lately. One for each contract of each key, whatever the limit is now."""

    __slots__ = ("at", "level")

    def __init__(self) -> None:
        self.level = 0.0
        self.at = 0.0
        """When the level was that; a monotonic instant."""


class Allowance:
    """At most `limit` at once, and as much a minute. All `now` are monotonic seconds."""

    __slots__ = ("_rate", "count", "limit")

    def __init__(self, limit: int, count: Count | None = None) -> None:
        self.limit = limit
        self.count = count or Count()
        self._rate = limit / MINUTE_S

    def take(self, amount: float, now: float) -> float:
        """Count so much and return 0; or, if there is no room for it, count nothing and return in how many seconds
        there will be. What is more than the whole limit needs all of it, and is paid off afterwards.
        """
        level = self._level(now)
        over = level + min(amount, self.limit) - self.limit
        if over > _CRUMB:
            return over / self._rate
        self.count.level = level + amount
        return 0.0

    def correct(self, amount: float, now: float) -> None:
        """So much more was used than was taken, or, below zero, less. There need not be room for it."""
        self.count.level = max(0.0, self._level(now) + amount)

    def remaining(self, now: float) -> int:
        """How much may be taken at once."""
        return max(0, int(self.limit - self._level(now) + _CRUMB))

    def reset_s(self, now: float) -> float:
        """In how many seconds that will be all, if none is taken."""
        return self._level(now) / self._rate

    def _level(self, now: float) -> float:
        count = self.count
        if count.level:
            count.level = max(0.0, count.level - (now - count.at) * self._rate)
        count.at = now
        return count.level

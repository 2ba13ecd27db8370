"""How many turns of a profile run at once: as configured, and with AIMD less while somebody says it is too many.

Only explicit signals count. How long a turn takes says nothing: that varies a hundredfold by what is asked.
Source: Netflix' concurrency-limits, AIMDLimit: back off by a factor, grow by one, and only if the limit was used.
"""

from __future__ import annotations

BACKOFF = 0.7
BACKOFF_EVERY_S = 5.0
GROW_EVERY_S = 10.0
USED = 0.8
"""A limit that was not used to this part says nothing about a larger one."""


class SeatLimit:
    """The limit now. `floor` bounds how far AIMD backs off; `configured`, or the seats there are, how far it grows."""

    def __init__(self, configured: int | None, *, aimd: bool = False, floor: int = 1) -> None:
        self.configured = configured
        self.aimd = aimd
        self.floor = floor
        self._value: float | None = None
        """What AIMD allows; None: everything."""
        self._next_backoff_at = 0.0
        self._since = 0.0
        self._peak = 0

    def now(self, nominal: int) -> int | None:
        """The limit, for a profile of `nominal` seats; None: no limit but the seats."""
        ceiling = self._ceiling(nominal)
        if not self.aimd or self._value is None or self._value >= ceiling:
            return self.configured
        return int(self._value)

    def overloaded(self, running: int, nominal: int, now: float) -> None:
        """Somebody said that `running` turns are too many."""
        if self.aimd and now >= self._next_backoff_at:
            before = self._value if self._value is not None else self._ceiling(nominal)
            if before == float("inf"):
                before = running
            self._value = max(float(min(self.floor, self._ceiling(nominal))), before * BACKOFF)
            self._next_backoff_at = now + BACKOFF_EVERY_S
            self._since, self._peak = now, running

    def used(self, running: int, nominal: int, now: float) -> None:
        """So many turns run."""
        if self._value is None:
            return
        self._peak = max(self._peak, running)
        if now - self._since >= GROW_EVERY_S:
            if self._peak >= USED * int(self._value):
                self._value += 1.0
            self._since, self._peak = now, running
            if self._value >= self._ceiling(nominal):
                self._value = None

    def _ceiling(self, nominal: int) -> float:
        return self.configured if self.configured is not None else nominal or float("inf")

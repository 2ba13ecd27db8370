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
    """`now` is the limit; None: as many as there are seats.

    `floor` bounds how far AIMD backs off; `configured`, or else the `nominal` seats of the profile, how far it grows.
    """

    def __init__(self, configured: int | None, *, aimd: bool = False, floor: int = 1) -> None:
        self.now = configured
        self.configured = configured
        """By the configuration, or by hand."""
        self._aimd = aimd
        self._floor = floor
        self._nominal = 0
        self._value: float | None = None
        """What AIMD allows; None: everything."""
        self._next_backoff_at = 0.0
        self._since = 0.0
        self._peak = 0

    def configure(self, configured: int | None) -> None:
        """This is the limit from now on, and AIMD's ceiling."""
        self.configured = configured
        self._update()

    def adopt(self, *, aimd: bool, floor: int) -> None:
        """Go by these rules from now on."""
        self._aimd, self._floor = aimd, floor
        self._update()

    def see(self, nominal: int) -> None:
        """So many seats has the profile."""
        if nominal != self._nominal:
            self._nominal = nominal
            self._update()

    def overloaded(self, running: int, now: float) -> None:
        """Somebody said that `running` turns are too many."""
        if self._aimd and now >= self._next_backoff_at:
            ceiling = self._ceiling()
            before = self._value if self._value is not None else ceiling if ceiling is not None else running
            floor = self._floor if ceiling is None else min(self._floor, ceiling)
            self._value = max(float(floor), before * BACKOFF)
            self._next_backoff_at = now + BACKOFF_EVERY_S
            self._since, self._peak = now, running
            self._update()

    def used(self, running: int, now: float) -> None:
        """So many turns run."""
        if self._value is None:
            return
        self._peak = max(self._peak, running)
        if now - self._since >= GROW_EVERY_S:
            if self._peak >= USED * int(self._value):
                self._value += 1.0
            self._since, self._peak = now, running
            self._update()

    def _ceiling(self) -> int | None:
        return self.configured if self.configured is not None else self._nominal or None

    def _update(self) -> None:
        ceiling = self._ceiling()
        if not self._aimd or (self._value is not None and ceiling is not None and self._value >= ceiling):
            self._value = None
        self.now = self.configured if self._value is None else int(self._value)

"""When a profile's boots are given up for a while, and when all its workers look sick at once."""

from __future__ import annotations

from collections.abc import Hashable

FAILURES = 5
TRIAL_S = 5.0
"""While the breaker is open one boot is tried in this time."""


class Breaker:
    """Opens when more than `FAILURES` starts in a row have failed, however long each took; one success closes it."""

    def __init__(self) -> None:
        self._failures = 0
        self._tried_at = 0.0
        self.is_open = False

    def failed(self, now: float) -> None:
        """A start came to nothing."""
        self._failures += 1
        if not self.is_open and self._failures > FAILURES:
            self.is_open = True
            self._tried_at = now

    def succeeded(self) -> None:
        """A worker has proved that it can serve."""
        self.is_open = False
        self._failures = 0

    def wait_s(self, now: float) -> float:
        """Seconds until the next start may be tried; 0 while the breaker is closed."""
        return max(0.0, self._tried_at + TRIAL_S - now) if self.is_open else 0.0

    def tried(self, now: float) -> None:
        """A start begins."""
        self._tried_at = now


SICK_WINDOW_S = 10.0
PANIC_S = 15.0
FEWEST = 3
"""Fewer places than this that are sick together prove nothing about what they share."""


class Panic:
    """Begins when workers on more than half of the places, and on at least `FEWEST`, fell sick within `SICK_WINDOW_S`.

    Then it is what they share that is sick: the machine, the disk, we ourselves. Nobody is judged for `PANIC_S`, or
    until a worker has booted, which shows that what they share works.
    """

    def __init__(self) -> None:
        self._sick_at: dict[Hashable, float] = {}
        self._until = float("-inf")

    def is_on(self, now: float) -> bool:
        """Judge nobody now."""
        return now < self._until

    def sick(self, place: Hashable, places: int, now: float) -> None:
        """The worker on a place looks sick, one of so many places."""
        self._sick_at = {key: at for key, at in self._sick_at.items() if now - at <= SICK_WINDOW_S}
        self._sick_at[place] = now
        count = len(self._sick_at)
        if count >= FEWEST and 2 * count > places and not self.is_on(now):
            self._until = now + PANIC_S

    def well(self, place: Hashable) -> None:
        """It was nothing."""
        self._sick_at.pop(place, None)

    def end(self) -> None:
        """What they share works."""
        self._sick_at.clear()
        self._until = float("-inf")

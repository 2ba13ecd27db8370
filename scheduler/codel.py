"""Controlled delay: a long overload gives short waits, and a short burst is waited out.

Source: folly's Codel.h. The shortest wait within an interval, and not the mean, tells a queue that stands from one that
is being worked off; while it stands, whoever waited more than twice the target is shed, and no drop law is needed.
There is one for each flow, as in RFC 8290 (FQ-CoDel): the short waits of one say nothing of another's.
"""

from __future__ import annotations

INTERVAL = 10.0
"""In targets."""
SLOUGH = 2.0
"""Who waited longer than this, in targets, is shed under overload."""


class Codel:
    """Judges each job at the head of a flow. A target of 0 sheds nobody."""

    __slots__ = ("_above_since",)

    def __init__(self) -> None:
        self._above_since: float | None = None

    def restart(self) -> None:
        """The flow was empty: nothing stands."""
        self._above_since = None

    def sheds(self, waited_s: float, target_s: float, now: float) -> bool:
        """Whether a job that has its turn now, after `waited_s`, is given up instead."""
        if target_s <= 0 or waited_s <= target_s:
            self._above_since = None
            return False
        if self._above_since is None:
            self._above_since = now
        return self.is_overloaded(target_s, now) and waited_s > SLOUGH * target_s

    def is_overloaded(self, target_s: float, now: float) -> bool:
        """Whether everybody who had a turn within the last interval had waited too long."""
        return self._above_since is not None and now - self._above_since >= INTERVAL * target_s

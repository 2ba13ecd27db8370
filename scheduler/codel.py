"""Controlled delay: a long overload gives short waits, and a short burst is waited out.

Source: folly's Codel.h. The shortest wait within an interval, and not the mean, tells a queue that stands from one that
is being worked off; while it stands, whoever waited more than twice the target is shed, and no drop law is needed.
There is one for each flow, as in RFC 8290 (FQ-CoDel): the short waits of one say nothing of another's.
"""

from __future__ import annotations

from typing import NamedTuple

INTERVAL = 10.0
"""In targets."""
SLOUGH = 2.0
"""Who waited longer than this, in targets, is shed under overload."""


class Codel(NamedTuple):
    """Judges the jobs at the head of a flow from a long wait on, for as long as there is no short one."""

    above_since: float

    def sheds(self, waited_s: float, target_s: float, now: float) -> bool:
        """Whether a job that has its turn now, after `waited_s`, is given up instead."""
        return waited_s > SLOUGH * target_s and self.is_overloaded(target_s, now)

    def is_overloaded(self, target_s: float, now: float) -> bool:
        """Whether everybody of the flow who had a turn within the last interval had waited too long."""
        return now - self.above_since >= INTERVAL * target_s

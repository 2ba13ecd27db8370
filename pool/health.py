"""What is believed of a worker, without I/O: silence and probes, starts that get no answer, turns that it fails.

An answered probe proves that the worker hears and speaks, not that a turn on it can end: for that there are the limits
of each turn, and the strikes counted here.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from pool.worker_state import Verdict

STALL_S = 1.25
"""Ticks this far apart, instead of a quarter of a second, say that we were stopped, and nothing about any worker."""
STRIKES = 2
STRIKES_WITHIN_S = 60.0
"""One lost answer happens to a busy app-server; two turns that cannot begin, and none between that can, do not."""
NONSENSE = 2
NONSENSE_WITHIN_S = 60.0
FAILURES = 5
"""Turns in a row that failed, each by the worker's own word."""
UNREAD_S = 5.0
"""How long what we write may lie before a worker that does not read it."""
GOOD_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class ProbeLimits:
    """When a silent worker is asked whether it is there, and when it is given up, in seconds.

    After `idle_s` without a byte it is probed; unanswered for `timeout_s`, it is suspect: it gets no new turns and is
    probed every `fast_s`. Two answers in a row clear it; `hung_s` after the first miss it is condemned.
    """

    idle_s: float = 2.0
    timeout_s: float = 2.0
    fast_s: float = 1.0
    hung_s: float = 10.0


class Suspicion(NamedTuple):
    """It gives no sign of life."""

    reason: str


class Clearance(NamedTuple):
    """It does again."""


class Condemnation(NamedTuple):
    """It has to go. Said once, and once more of one that was not thought to have hung and then has."""

    verdict: Verdict
    reason: str


Belief = Suspicion | Clearance | Condemnation


class Probe(Enum):
    """What a round of probes asks: does anybody hear, and do the threads' keepers answer."""

    INITIALIZE = auto()
    THREADS = auto()


class Health:
    """The evidence for and against one worker; what follows from it is in `take`."""

    def __init__(self, limits: ProbeLimits) -> None:
        self.limits = limits
        self._beliefs: list[Belief] = []
        self._heard_at = 0.0
        self.asked_at = float("-inf")
        """When it was probed last."""
        self._unanswered: set[Probe] = set()
        self._good_rounds = 0
        self._suspect_since: float | None = None
        self._suspicion = ""
        self._heard_since = False
        self._unread_since: float | None = None
        self._struck_at: deque[float] = deque(maxlen=STRIKES)
        self._nonsense_at: deque[float] = deque(maxlen=NONSENSE)
        self._failures = 0
        self._verdict: Verdict | None = None
        self.misses = 0

    @property
    def is_mute(self) -> bool:
        """It is suspect, and has not written a byte since."""
        return self._suspect_since is not None and not self._heard_since

    def take(self) -> tuple[Belief, ...]:
        """What follows, once."""
        if not self._beliefs:
            return ()
        beliefs = tuple(self._beliefs)
        self._beliefs.clear()
        return beliefs

    # --- evidence --------------------------------------------------------------------------------------------

    def heard(self, now: float) -> None:
        """It wrote something."""
        self._heard_at = now
        self._heard_since = True

    def answered(self, probe: Probe) -> None:
        """It answered a probe, whatever it said."""
        if probe not in self._unanswered:
            return
        self._unanswered.discard(probe)
        if self._unanswered or self._suspect_since is None or self._unread_since is not None:
            return
        self._good_rounds += 1
        if self._good_rounds == GOOD_ROUNDS:
            self._suspect_since = None
            self._verdict = None  # one that nobody could carry out is void, and the next one is due anew
            self._beliefs.append(Clearance())

    def missed(self, probe: Probe, now: float) -> None:
        """A probe was not answered in time."""
        if probe not in self._unanswered:
            return
        is_deaf = Probe.INITIALIZE in self._unanswered
        self._unanswered.clear()
        self._good_rounds = 0
        if is_deaf and now - self._heard_at < self.limits.timeout_s:
            return  # it is busy, and speaks
        self.misses += 1
        self._suspect("it answers no probe" if is_deaf else "it answers no question about its threads", now)

    def began(self) -> None:
        """A turn was taken on: starts work."""
        self._struck_at.clear()

    def struck(self, now: float) -> None:
        """A turn could not begin for want of an answer."""
        self._struck_at.append(now)
        if len(self._struck_at) == STRIKES and now - self._struck_at[0] <= STRIKES_WITHIN_S:
            self._condemn(Verdict.POISONED, "turns cannot begin on it")

    def succeeded(self) -> None:
        """A turn ended well, or badly for no fault of the worker."""
        self._failures = 0

    def failed(self) -> None:
        """A turn ended badly by the worker's fault."""
        self._failures += 1
        if self._failures >= FAILURES:
            self._condemn(Verdict.ERRORS, "its turns fail")

    def spoke_nonsense(self, now: float) -> None:
        """It wrote what nobody can read."""
        self._nonsense_at.append(now)
        if len(self._nonsense_at) == NONSENSE and now - self._nonsense_at[0] <= NONSENSE_WITHIN_S:
            self._condemn(Verdict.ERRORS, "it talks nonsense")

    def left_unread(self, count: int, now: float) -> None:
        """So many bytes that we wrote are still not read."""
        if count == 0:
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        elif now - self._unread_since >= UNREAD_S:
            self._suspect("it does not read", now)

    def postpone(self, seconds: float, now: float) -> None:
        """We were stopped for so long: that was no silence of the worker's."""
        self._heard_at = min(now, self._heard_at + seconds)
        self.asked_at = min(now, self.asked_at + seconds)
        if self._suspect_since is not None:
            self._suspect_since = min(now, self._suspect_since + seconds)
        if self._unread_since is not None:
            self._unread_since = min(now, self._unread_since + seconds)

    # --- what is due -----------------------------------------------------------------------------------------

    def due(self, now: float) -> tuple[Probe, ...]:
        """The probes to send now, and to report as `answered` or `missed`; the verdict, when its time has come."""
        since = self._suspect_since
        if since is not None and now - since >= self.limits.hung_s:
            self._condemn(Verdict.HUNG if self.is_mute else Verdict.POISONED, self._suspicion)
        if self._unanswered:
            return ()
        wait_s = self.limits.idle_s if since is None else 0.0
        if now - self._heard_at < wait_s or now - self.asked_at < self.limits.fast_s:
            return ()
        self.asked_at = now
        self._unanswered = set(Probe)
        return tuple(Probe)

    # --- inside ----------------------------------------------------------------------------------------------

    def _suspect(self, reason: str, now: float) -> None:
        if self._suspect_since is None:
            self._suspect_since = now
            self._suspicion = reason
            self._heard_since = False
            self._good_rounds = 0
            self._beliefs.append(Suspicion(reason))

    def _condemn(self, verdict: Verdict, reason: str) -> None:
        if self._verdict is None or (verdict is Verdict.HUNG and self._verdict is not verdict):
            self._verdict = verdict
            self._beliefs.append(Condemnation(verdict, reason))

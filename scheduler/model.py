"""What the service asks of the scheduler, and the ways in which that can end."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from pool.events import Tap, TurnEnd, TurnRequest


class Priority(StrEnum):
    """How urgent a job is: a share of a full service beside the other classes, not a right of way."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"


SHARES = {Priority.INTERACTIVE: 8.0, Priority.STANDARD: 4.0, Priority.BATCH: 1.0}
"""Strict priority starves; shares bound the harm of a client that calls everything urgent."""


class Job(msgspec.Struct, frozen=True):
    """What a client asked, validated.

    `tenant` is who is charged, `weight` its share beside others; `queue_budget_s` is how long it may wait; `size` is
    about its text, in characters, and `media` what else of it is held. `deadline_s` is of the whole request, from
    submission. `seats` is how many turns of its tenant may run at once in this profile; None: no cap. `queue_share` is
    how many of its jobs may wait there; None: no cap, and none on the text that its tenant holds. One that
    `is_patient` is never shed: it waits for all of its budget. `model` is the name that the client used. The frames of
    its turns go to `tap`, too.
    """

    id: str
    profile: str
    tenant: str
    turn: TurnRequest
    queue_budget_s: float
    size: int = 0
    weight: float = 1.0
    priority: Priority = Priority.STANDARD
    deadline_s: float | None = None
    seats: int | None = None
    queue_share: int | None = None
    media: int = 0
    is_patient: bool = False
    model: str = ""
    tap: Tap | None = None

    @property
    def held(self) -> int:
        """Characters that it takes while it waits or runs."""
        return self.size + self.media

    @property
    def patience_s(self) -> float:
        """How long it may wait: its budget, or its deadline if that is sooner."""
        if self.deadline_s is not None and self.deadline_s < self.queue_budget_s:
            return self.deadline_s
        return self.queue_budget_s


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """The rules of one profile's queue.

    `queue_max` jobs may wait, and beyond that those whose tenant has less than its part of the places. At most
    `seats_limit` turns run at once, if it is set; with `aimd` fewer when workers or the provider say that they are
    overloaded, but `min_limit` always. While all waits of a tenant's class have been over `codel_target_s` for long,
    those of more than twice that are not waited out (0: they are). A turn that left no trace may be run again,
    `attempts` times in all, and for all jobs together `retry_reserve` times and `retry_ratio` times for each job
    admitted. A job that is known to crash workers is not taken again for `penalty_s` (0: it is).
    """

    queue_max: int
    seats_limit: int | None = None
    codel_target_s: float = 0.5
    retry_ratio: float = 0.1
    retry_reserve: int = 16
    attempts: int = 2
    aimd: bool = False
    min_limit: int = 1
    penalty_s: float = 600.0


class Ended(msgspec.Struct, frozen=True):
    """The turn ran, and ended as `end` says."""

    end: TurnEnd


class Expired(msgspec.Struct, frozen=True):
    """No seat came free within the job's queue budget, or its deadline."""

    waited_s: float
    retry_after_s: float


class Shed(msgspec.Struct, frozen=True):
    """All its tenant's jobs of its class have waited too long for a while, and this one for over twice the target."""

    waited_s: float
    retry_after_s: float


class Overdue(msgspec.Struct, frozen=True):
    """The caller's deadline passed while the turn ran; it was interrupted."""


class CrashesWorker(msgspec.Struct, frozen=True):
    """Two workers died under turns of this job, the second without any other that could be the cause."""


class Abandoned(msgspec.Struct, frozen=True):
    """The client is gone; nobody hears of the rest."""


class Overrun(msgspec.Struct, frozen=True):
    """The client read so slowly that its buffer was full; the turn was interrupted."""


class CutOff(msgspec.Struct, frozen=True):
    """The service is stopping and the time to drain is over."""


Outcome = Ended | Expired | Shed | Overdue | CrashesWorker | Abandoned | Overrun | CutOff


class Rejected(Exception):  # noqa: N818 - the scheduler's answer, not a mishap
    """The job was not taken; nothing of it is kept. Worth another try after `retry_after_s`."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Draining(Rejected):
    """The service takes no new work."""


class Penalized(Rejected):
    """A job like this has crashed its workers; until `retry_after_s` no such job is taken."""


class NotReady(Rejected):
    """No worker serves the profile, and boots keep failing; or the profile is being removed."""


class TenantQueueFull(Rejected):
    """As many jobs of this tenant wait or run as may, or they hold more text than there is room for others'."""


class QueueFull(Rejected):
    """As many jobs wait as may, and its tenant has its part of the places; or all jobs together hold too much text."""


class WaitTooLong(Rejected):
    """The job would not get a seat within its queue budget, or its deadline."""

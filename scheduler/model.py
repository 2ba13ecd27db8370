"""What the service asks of the scheduler, and the ways in which that can end."""

from __future__ import annotations

import msgspec

from pool.events import TurnEnd, TurnRequest


class Job(msgspec.Struct, frozen=True):
    """What a client asked, validated.

    `tenant` is who is charged, `weight` its share beside others; `queue_budget_s` is how long it may wait; `size` is
    about its text, in characters.
    """

    id: str
    profile: str
    tenant: str
    turn: TurnRequest
    queue_budget_s: float
    size: int = 0
    weight: float = 1.0


class Ended(msgspec.Struct, frozen=True):
    """The turn ran, and ended as `end` says."""

    end: TurnEnd


class Expired(msgspec.Struct, frozen=True):
    """No seat came free within the job's queue budget."""

    waited_s: float
    retry_after_s: float


class Abandoned(msgspec.Struct, frozen=True):
    """The client is gone; nobody hears of the rest."""


class Overrun(msgspec.Struct, frozen=True):
    """The client read so slowly that its buffer was full; the turn was interrupted."""


class CutOff(msgspec.Struct, frozen=True):
    """The service is stopping and the time to drain is over."""


Outcome = Ended | Expired | Abandoned | Overrun | CutOff


class Rejected(Exception):  # noqa: N818 - the scheduler's answer, not a mishap
    """The job was not taken; nothing of it is kept. Worth another try after `retry_after_s`."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(Rejected):
    """The profile's backlog is full."""


class Draining(Rejected):
    """The service takes no new work."""

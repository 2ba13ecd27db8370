"""What the scheduler's core is told."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pool.events import TurnEnd
from pool.stimuli import Lease
from scheduler.model import Job, QueuePolicy


class Submitted(msgspec.Struct):
    """A job was admitted; `free` is the number of free seats of its profile, filled in at the moment of handling."""

    ticket: int
    job: Job
    free: int = 0


class SeatsFreed(msgspec.Struct):
    """The pool has seats for this profile that it did not have before; `free` as above."""

    profile: str
    free: int = 0


class Looked(msgspec.Struct):
    """So many seats are free, as the core has asked."""

    profile: str
    free: int = 0


class TurnEnded(msgspec.Struct, frozen=True):
    """An attempt of a ticket has come to its end."""

    ticket: int
    attempt: int
    end: TurnEnd


class LeasesDoubted(msgspec.Struct, frozen=True):
    """The worker of these leases is in quarantine."""

    leases: tuple[Lease, ...]


class ClientLeft(msgspec.Struct, frozen=True):
    """Nobody waits for this ticket any more."""

    ticket: int


class BufferFilled(msgspec.Struct, frozen=True):
    """This ticket's client does not keep up."""

    ticket: int


class Ticked(msgspec.Struct, frozen=True):
    """Time has passed."""


class LimitSet(msgspec.Struct, frozen=True):
    """Somebody limits the seats of this profile; None: no more."""

    profile: str
    limit: int | None


class Reconfigured(msgspec.Struct, frozen=True):
    """These are the profiles and rules from now on."""

    policies: Mapping[str, QueuePolicy]
    max_held: int | None


class CutOffReached(msgspec.Struct, frozen=True):
    """The time to drain is over."""


Stimulus = (
    Submitted
    | SeatsFreed
    | Looked
    | TurnEnded
    | LeasesDoubted
    | ClientLeft
    | BufferFilled
    | Ticked
    | LimitSet
    | Reconfigured
    | CutOffReached
)

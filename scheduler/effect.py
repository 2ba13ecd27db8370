"""What the scheduler's core wants done."""

from __future__ import annotations

import msgspec

from pool.stimuli import Lease
from scheduler.model import Outcome


class Start(msgspec.Struct, frozen=True, gc=False):
    """Lease a seat on no worker that is `avoided` and begin this attempt; tell `started` at once."""

    ticket: int
    attempt: int


class Interrupt(msgspec.Struct, frozen=True):
    """Ask for the end of this lease's turn."""

    lease: Lease


class Return(msgspec.Struct, frozen=True):
    """This ticket has lost its turn and waits for another: nobody hears any more of the one it had.

    It rests for `rest_s` before it has one.
    """

    ticket: int
    reason: str
    rest_s: float = 0.0


class Settle(msgspec.Struct, frozen=True):
    """This ticket's outcome: told once."""

    ticket: int
    outcome: Outcome


class Forget(msgspec.Struct, frozen=True):
    """This ticket is over, and so are its turns."""

    ticket: int


class Look(msgspec.Struct, frozen=True):
    """Tell with `Looked` how many seats are free: somebody may have become able to use one."""

    profile: str


class Limited(msgspec.Struct, frozen=True):
    """At most so many turns of this profile run from now on."""

    profile: str
    limit: int | None


class Closed(msgspec.Struct, frozen=True):
    """The queue of a profile that was removed is empty and gone."""

    profile: str


Effect = Start | Interrupt | Return | Settle | Forget | Look | Limited | Closed

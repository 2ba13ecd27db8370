"""What the scheduler's core wants done."""

from __future__ import annotations

from typing import NamedTuple

from pool.stimuli import Lease
from scheduler.model import Outcome


class Start(NamedTuple):
    """Lease a seat on no worker that is `avoided` and begin this attempt; tell `started` at once."""

    ticket: int
    attempt: int


class Interrupt(NamedTuple):
    """Ask for the end of this lease's turn."""

    lease: Lease


class Return(NamedTuple):
    """This ticket has lost its turn and waits for another: nobody hears any more of the one it had."""

    ticket: int
    reason: str


class Settle(NamedTuple):
    """This ticket's outcome: told once."""

    ticket: int
    outcome: Outcome


class Forget(NamedTuple):
    """This ticket is over, and so are its turns."""

    ticket: int


class Look(NamedTuple):
    """Tell with `Looked` how many seats are free: somebody may have become able to use one."""

    profile: str


class Limited(NamedTuple):
    """At most so many turns of this profile run from now on."""

    profile: str
    limit: int | None


class Closed(NamedTuple):
    """The queue of a profile that was removed is empty and gone."""

    profile: str


Effect = Start | Interrupt | Return | Settle | Forget | Look | Limited | Closed

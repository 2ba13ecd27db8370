"""What the pool's core is told, and what it wants done."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from pool.profile import Profile
from pool.worker_state import Verdict, WorkerId, WorkerState


class Lease(NamedTuple):
    """The right to one seat on one worker incarnation."""

    id: int
    worker: WorkerId


# --- stimuli -----------------------------------------------------------------------------------------------------


class Started(NamedTuple):
    """The shell is up: boot."""


class Booted(NamedTuple):
    """The handshake is done and the version will do."""

    worker: WorkerId


class Proved(NamedTuple):
    """A turn on this worker has begun to answer."""

    worker: WorkerId


class Struck(NamedTuple):
    """A turn could not begin on the worker, or failed by its fault: once is enough for one on probation."""

    worker: WorkerId
    reason: str


class Suspected(NamedTuple):
    """The worker gives no sign of life; it may still come back."""

    worker: WorkerId
    reason: str


class Cleared(NamedTuple):
    """It came back."""

    worker: WorkerId


class Condemned(NamedTuple):
    """The worker has to go, however its turns do."""

    worker: WorkerId
    verdict: Verdict
    reason: str


class Command(StrEnum):
    """What an operator may want of a worker."""

    QUARANTINE = "quarantine"
    """No new turns; a successor at once; its turns end, or begin anew elsewhere."""
    RETIRE = "retire"
    """A successor first; then no new turns, and its turns end."""
    RESTART = "restart"
    """Now, whatever runs on it; one that waits for its boot waits no longer."""


class Commanded(NamedTuple):
    """An operator wants this, and `objection` had none."""

    worker: WorkerId
    command: Command


class Overloaded(NamedTuple):
    """The worker has refused a request because it has too many."""

    worker: WorkerId


class Released(NamedTuple):
    """The worker has let go of this lease's turn."""

    lease: Lease


class InterruptIgnored(NamedTuple):
    """The worker did not end this lease's turn when asked to."""

    lease: Lease


class Measured(NamedTuple):
    """The worker's process has this much memory."""

    worker: WorkerId
    rss_bytes: int


class Broken(NamedTuple):
    """The worker can serve no (more) turns: its boot failed, it exited, its stdout closed. Its leases are over."""

    worker: WorkerId
    reason: str


class Exited(NamedTuple):
    """The worker's process and home are gone."""

    worker: WorkerId
    reason: str


class Reconfigured(NamedTuple):
    """These are the profiles now; workers of those in `changed` are replaced, one at a time, new before old."""

    profiles: tuple[Profile, ...]
    changed: frozenset[str]


class Ticked(NamedTuple):
    """Time has passed."""


class Stopped(NamedTuple):
    """The service is stopping: end every worker, boot none."""


Stimulus = (
    Started
    | Booted
    | Proved
    | Struck
    | Suspected
    | Cleared
    | Condemned
    | Commanded
    | Overloaded
    | Released
    | InterruptIgnored
    | Measured
    | Broken
    | Exited
    | Reconfigured
    | Ticked
    | Stopped
)


# --- effects -----------------------------------------------------------------------------------------------------


class Boot(NamedTuple):
    """Start this worker incarnation."""

    worker: WorkerId


class Stop(NamedTuple):
    """End this worker; harmless if it is ending.

    `is_fault`: it failed, it was not taken away. `is_hung`: it would not hear a polite request.
    """

    worker: WorkerId
    reason: str
    is_fault: bool = False
    is_hung: bool = False


class Doubted(NamedTuple):
    """This worker is in quarantine: its turns that have left no trace had better run elsewhere."""

    worker: WorkerId


class Freed(NamedTuple):
    """This profile has free seats that it did not have before."""

    profile: str


class Moved(NamedTuple):
    """A worker changed its state."""

    worker: WorkerId
    source: WorkerState
    target: WorkerState
    reason: str


Effect = Boot | Stop | Doubted | Freed | Moved

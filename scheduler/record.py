"""What is known of tickets and queues: the records that the core decides by, and the rows it tells others."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

from pool.events import TurnEnd
from pool.stimuli import Lease
from pool.worker_state import WorkerId
from scheduler.backlog import Place
from scheduler.model import Job, Priority
from scheduler.profile_queue import ProfileQueue


class TicketState(StrEnum):
    """WAITING and RUNNING tickets have no outcome yet; an ENDING one has, but a turn of it still holds a seat."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDING = "ending"
    OVER = "over"


TRANSITIONS: frozenset[tuple[TicketState, TicketState]] = frozenset(
    {
        (TicketState.WAITING, TicketState.RUNNING),
        (TicketState.WAITING, TicketState.ENDING),
        (TicketState.WAITING, TicketState.OVER),
        (TicketState.RUNNING, TicketState.WAITING),
        (TicketState.RUNNING, TicketState.ENDING),
        (TicketState.RUNNING, TicketState.OVER),
        (TicketState.ENDING, TicketState.OVER),
    }
)


class Suspect(msgspec.Struct, eq=False):
    """A turn of a ticket that has crashed a worker, and the leases beside it that may as well be the next cause."""

    worker: WorkerId
    beside: set[int]


class AttemptRecord(msgspec.Struct, eq=False):
    """A turn that holds a seat."""

    started_at: float
    lease: Lease | None = None
    suspect: Suspect | None = None
    """Once it has ended."""


class TicketRecord(msgspec.Struct, eq=False):
    """All there is to know of a ticket; `marks` are the crashes of workers that it may have caused."""

    id: int
    job: Job
    queue: ProfileQueue
    place: Place
    submitted_at: float
    expires_at: float
    """When it waits no longer."""
    deadline_at: float
    state: TicketState = TicketState.WAITING
    has_spoken: bool = False
    tries: int = 0
    attempts: dict[int, AttemptRecord] = {}
    """Those that hold a seat, by number."""
    lost_with: TurnEnd | None = None
    lost_on: tuple[WorkerId, ...] = ()
    avoids_until: float = 0.0
    rests_until: float = 0.0
    marks: int = 0
    moves: tuple[tuple[float, TicketState], ...] = ()
    """At most two for each attempt, and its end."""

    @property
    def story(self) -> str:
        """What happened to it, line by line."""
        return "\n".join(f"{at:.3f} {what}" for at, what in ((self.submitted_at, "submitted"), *self.moves))


class QueueSnapshot(NamedTuple):
    """One profile's queue in numbers.

    `hold_s` is how long a turn holds its seat on average, `predicted_wait_s` what a new standard job would wait, and
    `marked` how many tickets have crashed a worker once.
    """

    profile: str
    waiting: int
    running: int
    hold_s: float
    by_priority: dict[Priority, int]
    oldest_wait_s: float
    limit: int | None
    predicted_wait_s: float
    retry_tokens: float
    is_overloaded: bool
    marked: int

"""What is known of tickets and queues: the records that the core decides by, and the rows it tells others."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

from pool.events import Fault, TurnEnd
from pool.stimuli import Lease
from pool.story import Line
from pool.worker_state import WorkerId
from scheduler.backlog import Place
from scheduler.model import Ended, Job, Outcome, Priority
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


Facts = tuple[tuple[float, TicketState | WorkerId | Outcome], ...]
"""What happened to a ticket, and when: its states, whose seats it had, its outcome."""


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
    facts: Facts = ()
    """At most three for each attempt, and its end."""

    @property
    def story(self) -> str:
        """What happened to it, line by line."""
        return "\n".join(f"{at:.3f} {what}" for at, what in story_lines(self.submitted_at, self.facts))


class Epitaph(NamedTuple):
    """What is kept of a ticket that is over: nothing of what was said."""

    id: str
    profile: str
    tenant: str
    submitted_at: float
    facts: Facts


class TicketStory(NamedTuple):
    """What happened to one ticket, oldest first; `state` is `over` once nothing of it is left."""

    id: str
    profile: str
    tenant: str
    state: TicketState
    lines: tuple[Line, ...]


def story_lines(submitted_at: float, facts: Facts) -> tuple[Line, ...]:
    """The facts in words."""
    return (Line(submitted_at, "submitted"), *(Line(at, _in_words(fact)) for at, fact in facts))


def _in_words(fact: TicketState | WorkerId | Outcome) -> str:
    match fact:
        case TicketState():
            return str(fact)
        case WorkerId():
            return f"a seat on {fact}"
        case Ended(TurnEnd(fault=None, finish=finish)):
            return f"ended: {finish}"
        case Ended(TurnEnd(fault=Fault(kind=kind))):
            return f"failed: {kind}"
        case _:
            return f"given up: {type(fact).__name__.lower()}"


class TicketRow(NamedTuple):
    """An open ticket in numbers; `worker` is whose seat its turn has."""

    id: str
    profile: str
    tenant: str
    priority: Priority
    state: TicketState
    age_s: float
    attempts: int
    worker: WorkerId | None


class TenantRow(NamedTuple):
    """What one tenant has in one profile and class."""

    profile: str
    tenant: str
    priority: Priority
    waiting: int
    running: int
    oldest_wait_s: float


class QueueSnapshot(NamedTuple):
    """One profile's queue in numbers.

    `hold_s` is how long a turn holds its seat on average, `predicted_wait_s` what a new standard job would wait, and
    `marked` how many tickets have crashed a worker once; `marks` is how often that was, ever.
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
    marks: int

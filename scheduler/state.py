"""The scheduler's core: who waits, who runs, who is told what. Synchronous, without a clock, I/O or logging."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, assert_never

from pool.errors import IllegalTransition
from pool.events import TurnEnd
from pool.story import Story
from scheduler.backlog import Backlog, Place
from scheduler.model import Abandoned, CutOff, Ended, Expired, Outcome, Overrun

SMOOTHING = 0.2
MAX_RETRY_AFTER_S = 60.0
"""Clients and balancers obey the hint: a guess must not send them away for an hour."""
OUTPUT_WEIGHT = 2.0
"""What a token of the answer costs beside one of the question."""
FIRST_GUESS_TOKENS = 200.0
FIRST_GUESS_S = 1.0
"""How long a turn holds its seat, before any has been seen."""


class TicketState(StrEnum):
    """WAITING and RUNNING tickets have no outcome yet; an ENDING one has, but its turn still holds a seat."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDING = "ending"
    OVER = "over"


TRANSITIONS: frozenset[tuple[TicketState, TicketState]] = frozenset(
    {
        (TicketState.WAITING, TicketState.RUNNING),
        (TicketState.WAITING, TicketState.OVER),
        (TicketState.RUNNING, TicketState.WAITING),
        (TicketState.RUNNING, TicketState.ENDING),
        (TicketState.RUNNING, TicketState.OVER),
        (TicketState.ENDING, TicketState.OVER),
    }
)


# --- stimuli -----------------------------------------------------------------------------------------------------


class Submitted(NamedTuple):
    """A job was admitted; `free` is the number of free seats of its profile at the moment of handling.

    `tenant` is charged, in tokens divided by `weight`; `input_tokens` is a guess.
    """

    ticket: int
    profile: str
    expires_at: float
    free: int = 0
    tenant: str = ""
    weight: float = 1.0
    input_tokens: float = 0.0


class SeatsFreed(NamedTuple):
    """The pool has free seats for this profile; `free` as above."""

    profile: str
    free: int = 0


class NotStarted(NamedTuple):
    """The seat that this ticket was to get has gone in the same step."""

    ticket: int


class TurnEnded(NamedTuple):
    """A running ticket's turn has come to its end."""

    ticket: int
    end: TurnEnd


class ClientLeft(NamedTuple):
    """Nobody waits for this ticket any more."""

    ticket: int


class BufferFilled(NamedTuple):
    """This ticket's client does not keep up."""

    ticket: int


class Ticked(NamedTuple):
    """Time has passed."""


class CutOffReached(NamedTuple):
    """The time to drain is over."""


Stimulus = Submitted | SeatsFreed | NotStarted | TurnEnded | ClientLeft | BufferFilled | Ticked | CutOffReached


# --- effects -----------------------------------------------------------------------------------------------------


class Start(NamedTuple):
    """Lease a seat and start this ticket's turn, in this very step."""

    ticket: int


class Interrupt(NamedTuple):
    """Ask for the end of this ticket's turn."""

    ticket: int


class Settle(NamedTuple):
    """This ticket's outcome: told once."""

    ticket: int
    outcome: Outcome


class Forget(NamedTuple):
    """This ticket is over."""

    ticket: int


Effect = Start | Interrupt | Settle | Forget


@dataclass(slots=True)
class _Ticket:
    id: int
    profile: str
    submitted_at: float
    place: Place
    started_at: float = 0.0
    state: TicketState = TicketState.WAITING
    story: Story = field(default_factory=lambda: Story(16))


@dataclass(slots=True)
class _Queue:
    backlog: Backlog
    running: int = 0
    most_running: int = 0
    """At once, ever: about the seats there are, also while workers are down."""
    hold_s: float = FIRST_GUESS_S
    output_tokens: float = FIRST_GUESS_TOKENS
    """Of a turn, on average."""


class QueueSnapshot(NamedTuple):
    """One profile's queue in numbers; `hold_s` is how long a turn holds its seat on average."""

    profile: str
    waiting: int
    running: int
    hold_s: float


class SchedulerState:
    """Tickets and backlogs. `limits` gives each profile's largest backlog."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._queues = {profile: _Queue(Backlog(limit)) for profile, limit in limits.items()}
        self._tickets: dict[int, _Ticket] = {}

    # --- questions -------------------------------------------------------------------------------------------

    def would_overflow(self, profile: str, free: int) -> bool:
        """One more job has neither a seat nor a place to wait."""
        backlog = self._queues[profile].backlog
        return backlog.is_full and free <= len(backlog)

    def retry_after_s(self, profile: str) -> float:
        """When a seat is to be expected for one more job, from what turns took lately."""
        queue = self._queues[profile]
        return min(MAX_RETRY_AFTER_S, queue.hold_s * (len(queue.backlog) + 1) / max(1, queue.most_running))

    def next_deadline(self) -> float | None:
        """When the next waiting ticket expires."""
        deadlines = (queue.backlog.next_deadline() for queue in self._queues.values())
        return min((at for at in deadlines if at is not None), default=None)

    def is_idle(self) -> bool:
        """Nobody waits and nothing runs."""
        return not self._tickets

    def snapshot(self) -> list[QueueSnapshot]:
        """Every queue in numbers."""
        return [QueueSnapshot(name, len(q.backlog), q.running, q.hold_s) for name, q in self._queues.items()]

    def story(self, ticket: int) -> str:
        """What happened to this ticket; "" once it is over."""
        record = self._tickets.get(ticket)
        return str(record.story) if record is not None else ""

    # --- decisions -------------------------------------------------------------------------------------------

    def handle(self, stimulus: Stimulus, now: float) -> tuple[Effect, ...]:
        """What has to be done now, in order."""
        effects: list[Effect] = []
        match stimulus:
            case Submitted():
                self._on_submitted(stimulus, now, effects)
            case SeatsFreed(profile, free):
                self._start(profile, free, now, effects)
            case NotStarted(ticket_id):
                self._on_not_started(self._tickets[ticket_id], now, effects)
            case TurnEnded(ticket_id, end):
                self._on_turn_ended(ticket_id, end, now, effects)
            case ClientLeft(ticket_id):
                self._give_up(ticket_id, Abandoned(), now, effects)
            case BufferFilled(ticket_id):
                self._give_up(ticket_id, Overrun(), now, effects)
            case Ticked():
                for queue in self._queues.values():
                    self._expire(queue, now, effects)
            case CutOffReached():
                for ticket_id in list(self._tickets):
                    self._give_up(ticket_id, CutOff(), now, effects)
            case _:
                assert_never(stimulus)
        return tuple(effects)

    def validate(self) -> None:
        """Raise AssertionError when the state contradicts itself; for tests."""
        for profile, queue in self._queues.items():
            mine = [ticket for ticket in self._tickets.values() if ticket.profile == profile]
            waiting = {ticket.id for ticket in mine if ticket.state is TicketState.WAITING}
            assert len(queue.backlog) == len(waiting)  # noqa: S101
            assert all(ticket in queue.backlog for ticket in waiting)  # noqa: S101
            assert queue.running == len(mine) - len(waiting)  # noqa: S101
            assert all(ticket.state is not TicketState.OVER for ticket in mine)  # noqa: S101

    # --- inside ----------------------------------------------------------------------------------------------

    def _on_submitted(self, job: Submitted, now: float, effects: list[Effect]) -> None:
        queue = self._queues[job.profile]
        cost = job.input_tokens + OUTPUT_WEIGHT * queue.output_tokens
        ticket = _Ticket(job.ticket, job.profile, now, Place(job.expires_at, job.tenant, job.weight, cost))
        ticket.story.tell(now, "submitted")
        self._tickets[job.ticket] = ticket
        queue.backlog.push(job.ticket, ticket.place)
        self._start(job.profile, job.free, now, effects)

    def _start(self, profile: str, free: int, now: float, effects: list[Effect]) -> None:
        """Work conservation: afterwards nobody waits while a seat is free."""
        queue = self._queues[profile]
        self._expire(queue, now, effects)
        while free > 0 and (ticket_id := queue.backlog.pop()) is not None:
            ticket = self._tickets[ticket_id]
            self._move(ticket, TicketState.RUNNING, now)
            ticket.started_at = now
            queue.running += 1
            queue.most_running = max(queue.most_running, queue.running)
            free -= 1
            effects.append(Start(ticket_id))

    def _on_not_started(self, ticket: _Ticket, now: float, effects: list[Effect]) -> None:
        """Back to where it was taken from, unless it has been given up meanwhile."""
        queue = self._queues[ticket.profile]
        queue.running -= 1
        if ticket.state is TicketState.ENDING:
            self._forget(ticket, now, effects)
        else:
            self._move(ticket, TicketState.WAITING, now)
            queue.backlog.push_front(ticket.id, ticket.place)

    def _on_turn_ended(self, ticket_id: int, end: TurnEnd, now: float, effects: list[Effect]) -> None:
        ticket = self._tickets.get(ticket_id)
        if ticket is None or ticket.state is TicketState.WAITING:
            return
        queue = self._queues[ticket.profile]
        queue.running -= 1
        queue.hold_s += SMOOTHING * (now - ticket.started_at - queue.hold_s)
        if end.usage is not None:
            actual = end.usage.input_tokens + OUTPUT_WEIGHT * end.usage.output_tokens
            queue.output_tokens += SMOOTHING * (end.usage.output_tokens - queue.output_tokens)
            queue.backlog.charge(ticket.place, actual - ticket.place.cost)
        if ticket.state is TicketState.RUNNING:
            effects.append(Settle(ticket_id, Ended(end)))
        self._forget(ticket, now, effects)

    def _give_up(self, ticket_id: int, outcome: Outcome, now: float, effects: list[Effect]) -> None:
        """Settle a ticket whose turn, if it runs, is of no more use; its seat is free when the turn has ended."""
        ticket = self._tickets.get(ticket_id)
        if ticket is None or ticket.state is TicketState.ENDING:
            return
        effects.append(Settle(ticket_id, outcome))
        if ticket.state is TicketState.WAITING:
            self._queues[ticket.profile].backlog.remove(ticket_id)
            self._forget(ticket, now, effects)
        else:
            self._move(ticket, TicketState.ENDING, now)
            effects.append(Interrupt(ticket_id))

    def _expire(self, queue: _Queue, now: float, effects: list[Effect]) -> None:
        for ticket_id in queue.backlog.pop_expired(now):
            ticket = self._tickets[ticket_id]
            effects.append(Settle(ticket_id, Expired(now - ticket.submitted_at, self.retry_after_s(ticket.profile))))
            self._forget(ticket, now, effects)

    def _forget(self, ticket: _Ticket, now: float, effects: list[Effect]) -> None:
        self._move(ticket, TicketState.OVER, now)
        del self._tickets[ticket.id]
        effects.append(Forget(ticket.id))

    def _move(self, ticket: _Ticket, target: TicketState, now: float) -> None:
        if (ticket.state, target) not in TRANSITIONS:
            raise IllegalTransition(f"ticket {ticket.id}", ticket.state, target, str(ticket.story))
        ticket.state = target
        ticket.story.tell(now, target)

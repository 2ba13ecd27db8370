"""The scheduler's shell: owns the deadline timer, and carries out what the core decides."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol, assert_never

from pool.events import TurnEnd, TurnRequest, TurnSink
from pool.inbox import Inbox
from pool.stimuli import Lease
from scheduler.model import Draining, Job, Outcome, QueueFull, Rejected
from scheduler.observer import SchedulerObserver
from scheduler.state import (
    BufferFilled,
    ClientLeft,
    CutOffReached,
    Effect,
    Forget,
    Interrupt,
    NotStarted,
    QueueSnapshot,
    SchedulerState,
    SeatsFreed,
    Settle,
    Start,
    Stimulus,
    Submitted,
    Ticked,
    TurnEnded,
)
from scheduler.ticket import Ticket

CHARS_PER_TOKEN = 4
"""A guess until the provider has counted."""


class Seats(Protocol):
    """What the scheduler needs of the pool: a lease or nothing, at once."""

    def free(self, profile: str) -> int:
        """Free seats, now."""

    def try_start(self, profile: str, request: TurnRequest, sink: TurnSink) -> Lease | None:
        """Lease a seat and start the turn on it."""

    def interrupt(self, lease: Lease) -> None:
        """Ask for the turn's end."""


class Scheduler:
    """One for the service. Everything is synchronous but `idle`; create it inside the running loop.

    Whoever owns the pool calls `seats_freed` when it announces free seats. `max_held` bounds the sizes of all jobs that
    wait or run; a single one is always taken.
    """

    def __init__(
        self,
        seats: Seats,
        backlog_limits: Mapping[str, int],
        observer: SchedulerObserver | None = None,
        *,
        max_held: int | None = None,
    ) -> None:
        self._seats = seats
        self._state = SchedulerState(backlog_limits)
        self._observer = observer or SchedulerObserver()
        self._loop = asyncio.get_running_loop()
        self._tickets: dict[int, Ticket] = {}
        self._max_held = max_held
        self._held = 0
        self._next_id = 1
        self._inbox = Inbox[Stimulus](self._handle)
        self._is_draining = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_draining(self) -> bool:
        """No new job is taken."""
        return self._is_draining

    def submit(self, job: Job) -> Ticket:
        """A ticket for the job; it has its seat already if one was free.

        Raises:
            QueueFull: no seat is free and the backlog is full, or all jobs together hold too much text (`max_held`).
            Draining: the service takes no new work.
        """
        free = self._seats.free(job.profile)
        if self._is_draining:
            self._reject(job, "draining", Draining("the service is draining", self._state.retry_after_s(job.profile)))
        if self._state.would_overflow(job.profile, free):
            retry_after_s = self._state.retry_after_s(job.profile)
            self._reject(job, "queue_full", QueueFull("the queue is full", retry_after_s))
        if self._max_held is not None and self._held + job.size > self._max_held and self._tickets:
            retry_after_s = self._state.retry_after_s(job.profile)
            self._reject(job, "too_much_text", QueueFull("too much text is being held", retry_after_s))
        now = self._loop.time()
        ticket = Ticket(
            self._next_id,
            job,
            now,
            on_end=self._on_turn_end,
            on_overflow=lambda ticket_id: self._apply(BufferFilled(ticket_id)),
            on_abandon=lambda ticket_id: self._apply(ClientLeft(ticket_id)),
        )
        self._next_id += 1
        self._tickets[ticket.id] = ticket
        self._held += job.size
        self._idle.clear()
        expires_at = now + job.queue_budget_s
        self._apply(
            Submitted(
                ticket.id,
                job.profile,
                expires_at,
                tenant=job.tenant,
                weight=job.weight,
                input_tokens=job.size / CHARS_PER_TOKEN,
            )
        )
        return ticket

    def seats_freed(self, profile: str) -> None:
        """The pool has free seats that it did not have before."""
        self._apply(SeatsFreed(profile))

    def drain(self) -> None:
        """Take no new job from now on; what waits and what runs goes on."""
        self._is_draining = True

    def cut_off(self) -> None:
        """Settle everything that still waits or runs."""
        self._apply(CutOffReached())

    async def idle(self) -> None:
        """Wait until nothing waits and nothing runs."""
        await self._idle.wait()

    def snapshot(self) -> list[QueueSnapshot]:
        """Every queue in numbers."""
        return self._state.snapshot()

    # --- inside ----------------------------------------------------------------------------------------------

    def _reject(self, job: Job, reason: str, rejection: Rejected) -> None:
        self._observer.job_rejected(job, reason)
        raise rejection

    def _on_turn_end(self, ticket_id: int, end: TurnEnd) -> None:
        self._apply(TurnEnded(ticket_id, end))

    def _apply(self, stimulus: Stimulus) -> None:
        if self._inbox.put(stimulus):
            self._set_timer()
            if self._state.is_idle():
                self._idle.set()

    def _handle(self, stimulus: Stimulus) -> None:
        """Give the core one stimulus, with the free seats of this moment, and carry out what it decides."""
        now = self._loop.time()
        if isinstance(stimulus, Submitted | SeatsFreed):
            stimulus = stimulus._replace(free=self._seats.free(stimulus.profile))
        for effect in self._state.handle(stimulus, now):
            self._carry_out(effect, now)

    def _carry_out(self, effect: Effect, now: float) -> None:
        match effect:
            case Start(ticket_id):
                self._start(self._tickets[ticket_id], now)
            case Interrupt(ticket_id):
                lease = self._tickets[ticket_id].lease
                if lease is not None:
                    self._seats.interrupt(lease)
            case Settle(ticket_id, outcome):
                self._settle(self._tickets[ticket_id], outcome, now)
            case Forget(ticket_id):
                self._held -= self._tickets.pop(ticket_id).job.size
            case _:
                assert_never(effect)

    def _start(self, ticket: Ticket, now: float) -> None:
        ticket.lease = self._seats.try_start(ticket.job.profile, ticket.job.turn, ticket)
        if ticket.lease is None:
            self._inbox.put(NotStarted(ticket.id))
            return
        ticket.started_at = now
        self._observer.turn_started(ticket.job, now - ticket.submitted_at)

    def _settle(self, ticket: Ticket, outcome: Outcome, now: float) -> None:
        started_at = ticket.started_at if ticket.started_at is not None else now
        ticket.settle(outcome)
        self._observer.ticket_settled(ticket.job, outcome, started_at - ticket.submitted_at, now - started_at)

    def _set_timer(self) -> None:
        """One timer, for the earliest deadline."""
        deadline = self._state.next_deadline()
        if deadline == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._on_timer)
        self._timer_at = deadline

    def _on_timer(self) -> None:
        self._timer = self._timer_at = None
        self._apply(Ticked())

"""The scheduler's shell: owns the one timer, and carries out what the core decides."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Collection, Mapping
from typing import Protocol, assert_never

from pool.events import TurnEnd, TurnRequest, TurnSink
from pool.inbox import Inbox
from pool.roster import Outlook
from pool.stimuli import Lease
from pool.worker_state import WorkerId
from scheduler.effect import Closed, Effect, Forget, Interrupt, Limited, Look, Return, Settle, Start
from scheduler.model import Job, Outcome, QueuePolicy
from scheduler.observer import SchedulerObserver
from scheduler.record import QueueSnapshot, TenantRow, TicketRow, TicketStory
from scheduler.state import SchedulerState
from scheduler.stimulus import (
    BufferFilled,
    ClientLeft,
    CutOffReached,
    LeasesDoubted,
    LimitSet,
    Looked,
    Reconfigured,
    SeatsFreed,
    Stimulus,
    Submitted,
    Ticked,
    TurnEnded,
)
from scheduler.ticket import Callbacks, Ticket

OUTLOOK_S = 1.0
"""How old what the core knows of a profile's seats may be while jobs are started."""


class Seats(Protocol):
    """What the scheduler needs of the pool: a lease or nothing, at once."""

    def free(self, profile: str) -> int:
        """Free seats on workers in service, now."""

    def outlook(self, profile: str) -> Outlook:
        """What the profile has to offer."""

    def try_start(
        self, profile: str, request: TurnRequest, sink: TurnSink, avoid: Collection[WorkerId] = ()
    ) -> Lease | None:
        """Lease a seat on a worker that is not in `avoid`, and start the turn on it; None if there is no such seat."""

    def interrupt(self, lease: Lease) -> None:
        """Ask for the turn's end."""


class Scheduler:
    """One for the service. Everything is synchronous but `idle`; create it inside the running loop.

    Whoever owns the pool calls `seats_freed` when it announces free seats, and `leases_doubted` for turns without a
    trace on a worker that is given up. `max_held` bounds the sizes of all jobs that wait or run; a single one is always
    taken. `jitter` gives numbers in [0, 1). `on_queue_closed` is called when the queue of a profile that was removed is
    empty.
    """

    def __init__(
        self,
        seats: Seats,
        policies: Mapping[str, QueuePolicy],
        observer: SchedulerObserver | None = None,
        *,
        max_held: int | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._seats = seats
        self._state = SchedulerState(policies, max_held=max_held, key=secrets.token_bytes(16), jitter=jitter)
        self._observer = observer or SchedulerObserver()
        self._loop = asyncio.get_running_loop()
        self._tickets: dict[int, Ticket] = {}
        self._callbacks = Callbacks(self._on_spoke, self._on_end, self._on_overflow, self._on_abandon)
        self._next_id = 1
        self._inbox = Inbox[Stimulus](self._handle)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._seen_at = float("-inf")
        self._is_paused = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.on_queue_closed: Callable[[str], None] = lambda _profile: None

    @property
    def is_draining(self) -> bool:
        """No new job is taken."""
        return self._state.is_draining

    def submit(self, job: Job) -> Ticket:
        """A ticket for the job; it has its seat already if one was free for it.

        Raises:
            Draining: the service takes no new work.
            Penalized: jobs like this one have crashed their workers.
            NotReady: no worker of its profile is up, and none is expected soon; or the profile is being removed.
            TenantQueueFull: it would have to wait, and so many jobs of its tenant may not, or too long for its tenant's
                own turns; or its tenant holds too much text.
            QueueFull: likewise, and the queue is full; or all jobs together hold too much text (`max_held`).
            WaitTooLong: likewise, and too long.
        """
        now = self._loop.time()
        has_to_wait = self._state.has_to_wait(job, self._seats.free(job.profile))
        refusal = self._state.refusal(job, self._seats.outlook(job.profile) if has_to_wait else None, now)
        if refusal is not None:
            reason, rejection = refusal
            self._observer.job_rejected(job, reason)
            raise rejection
        ticket = Ticket(self._next_id, job, now, self._callbacks)
        self._next_id += 1
        self._tickets[ticket.id] = ticket
        self._idle.clear()
        self._observer.job_admitted(job, waits=has_to_wait)
        self._apply(Submitted(ticket.id, job))
        return ticket

    def seats_freed(self, profile: str) -> None:
        """The pool has free seats that it did not have before."""
        if self._state.has_waiting(profile):
            self._apply(SeatsFreed(profile))

    def leases_doubted(self, leases: tuple[Lease, ...]) -> None:
        """The worker of these leases is in quarantine: their turns are moved elsewhere where nothing speaks against."""
        self._apply(LeasesDoubted(leases))

    def set_limit(self, profile: str, limit: int | None) -> None:
        """At most so many turns of the profile run at once from now on; what runs goes on. None: as many as can.

        Raises:
            KeyError: there is no such profile.
        """
        if not self._state.knows(profile):
            raise KeyError(profile)
        self._apply(LimitSet(profile, limit))

    def reconfigure(self, policies: Mapping[str, QueuePolicy], max_held: int | None) -> None:
        """Go by these rules from now on. The queue of a profile that is not among them takes nothing more."""
        self._apply(Reconfigured(policies, max_held))

    @property
    def is_paused(self) -> bool:
        """No new job is taken, until `resume`."""
        return self._is_paused

    def drain(self) -> None:
        """Take no new job from now on, for good; what waits and what runs goes on."""
        self._state.is_draining = True
        self._is_paused = False

    def pause(self) -> None:
        """Take no new job until `resume`; what waits and what runs goes on."""
        if not self._state.is_draining:
            self._state.is_draining = self._is_paused = True

    def resume(self) -> None:
        """Take new jobs again after a `pause`."""
        if self._is_paused:
            self._state.is_draining = self._is_paused = False

    def cut_off(self) -> None:
        """Settle everything that still waits or runs."""
        self._apply(CutOffReached())

    async def idle(self) -> None:
        """Wait until nothing waits and nothing runs."""
        await self._idle.wait()

    def snapshot(self) -> list[QueueSnapshot]:
        """Every queue in numbers."""
        now = self._loop.time()
        self._see(now)
        return self._state.snapshot(now)

    def tickets(self, limit: int) -> list[TicketRow]:
        """The oldest open ones, so many at most."""
        return self._state.tickets(limit, self._loop.time())

    def tenants(self) -> list[TenantRow]:
        """Who waits and runs, in each profile and class."""
        return self._state.tenants(self._loop.time())

    def story(self, job: str) -> TicketStory | None:
        """What happened to the ticket of this job; of the last that are over, too."""
        return self._state.story(job)

    def buffered_bytes(self) -> dict[str, int]:
        """By profile, how much of an answer waits at most for its reader."""
        most: dict[str, int] = {}
        for ticket in self._tickets.values():
            if ticket.buffered:
                most[ticket.job.profile] = max(most.get(ticket.job.profile, 0), ticket.buffered)
        return most

    # --- what tickets tell -----------------------------------------------------------------------------------

    def _on_spoke(self, ticket: Ticket) -> None:
        self._state.spoke(ticket.id)
        self._observer.turn_spoke(ticket.job, ticket.attempts)

    def _on_end(self, ticket_id: int, attempt: int, end: TurnEnd) -> None:
        ticket = self._tickets.get(ticket_id)
        if ticket is not None:
            self._observer.turn_ended(ticket.job, end)
        self._apply(TurnEnded(ticket_id, attempt, end))

    def _on_overflow(self, ticket_id: int) -> None:
        self._apply(BufferFilled(ticket_id))

    def _on_abandon(self, ticket_id: int) -> None:
        self._apply(ClientLeft(ticket_id))

    # --- inside ----------------------------------------------------------------------------------------------

    def _apply(self, stimulus: Stimulus) -> None:
        if self._inbox.put(stimulus):
            self._set_timer()

    def _handle(self, stimulus: Stimulus) -> None:
        """Give the core one stimulus, with the seats of this moment, and carry out what it decides."""
        now = self._loop.time()
        if isinstance(stimulus, Submitted):
            stimulus.free = self._seats.free(stimulus.job.profile)
        elif isinstance(stimulus, (SeatsFreed, Looked)):
            stimulus.free = self._seats.free(stimulus.profile)
            if now - self._seen_at >= OUTLOOK_S:
                self._see(now)
        effects = self._state.handle(stimulus, now)
        if effects:
            self._carry_out(effects, now)

    def _see(self, now: float) -> None:
        """Tell the core what every profile has to offer."""
        self._seen_at = now
        for profile in self._state.profiles():
            self._state.see(profile, self._seats.outlook(profile))

    def _carry_out(self, effects: tuple[Effect, ...], now: float) -> None:
        for effect in effects:
            match effect:
                case Start():
                    self._start(self._tickets[effect.ticket], effect.attempt, now)
                case Settle():
                    self._settle(self._tickets[effect.ticket], effect.outcome, now)
                case Forget():
                    del self._tickets[effect.ticket]
                    if not self._tickets:
                        self._idle.set()
                case Look():
                    self._inbox.put(Looked(effect.profile))
                case Interrupt():
                    self._seats.interrupt(effect.lease)
                case Return():
                    self._return(self._tickets[effect.ticket], effect)
                case Limited():
                    self._observer.limit_changed(effect.profile, effect.limit)
                case Closed():
                    self.on_queue_closed(effect.profile)
                case _:
                    assert_never(effect)

    def _start(self, ticket: Ticket, attempt: int, now: float) -> None:
        avoid = self._state.avoided(ticket.id, now)
        lease = self._seats.try_start(ticket.job.profile, ticket.job.turn, ticket.attempt(attempt), avoid)
        if lease is None:
            ticket.withdraw()
            ticket.attempts = attempt - 1
        else:
            ticket.start(lease, now)
            self._observer.turn_started(ticket.job, lease, attempt, now - ticket.submitted_at)
        effects = self._state.started(ticket.id, lease, now)
        if effects:
            self._carry_out(effects, now)

    def _return(self, ticket: Ticket, told: Return) -> None:
        ticket.withdraw()
        assert ticket.lease is not None  # noqa: S101 - it had a turn
        self._observer.turn_returned(ticket.job, ticket.lease, ticket.attempts, told.reason, told.rest_s)

    def _settle(self, ticket: Ticket, outcome: Outcome, now: float) -> None:
        started_at = ticket.started_at if ticket.started_at is not None else now
        ticket.settle(outcome)
        waited_s, ran_s = started_at - ticket.submitted_at, now - started_at
        self._observer.ticket_settled(ticket.job, outcome, waited_s, ran_s, ticket.attempts)

    def _set_timer(self) -> None:
        """One timer, for whatever is due first; one that would go off too early is left, which costs less."""
        at = self._state.next_alarm()
        if at is not None and self._timer_at is not None and self._timer_at <= at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if at is None else self._loop.call_at(at, self._on_timer)
        self._timer_at = at

    def _on_timer(self) -> None:
        self._timer = self._timer_at = None
        self._apply(Ticked())

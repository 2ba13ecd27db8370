"""The scheduler's core: who waits, who runs, who is told what. Synchronous, without a clock, I/O or logging.

A ticket has its turn in attempts. An attempt holds its seat until its end is told, whatever has become of the ticket
meanwhile: it was given up, or it waits in front for another attempt. The ends of all but the latest are counted, and
otherwise nobody's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import assert_never

from pool.errors import IllegalTransition
from pool.events import Fault, FaultKind, Trace, TurnEnd
from pool.roster import Outlook
from pool.stimuli import Lease
from pool.worker_state import WorkerId
from scheduler import again
from scheduler.alarms import Alarms
from scheduler.effect import Closed, Effect, Forget, Interrupt, Limited, Look, Return, Settle, Start
from scheduler.model import (
    Abandoned,
    CrashesWorker,
    CutOff,
    Draining,
    Ended,
    Expired,
    Job,
    NotReady,
    Outcome,
    Overdue,
    Overrun,
    Penalized,
    Priority,
    QueueFull,
    QueuePolicy,
    Rejected,
    Shed,
    TenantQueueFull,
)
from scheduler.penalty import PenaltyBox, fingerprint
from scheduler.profile_queue import ProfileQueue
from scheduler.record import (
    TRANSITIONS,
    AttemptRecord,
    Epitaph,
    QueueSnapshot,
    Suspect,
    TenantRow,
    TicketRecord,
    TicketRow,
    TicketState,
    TicketStory,
    story_lines,
)
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

AVOID_S = 1.0
"""How long a ticket that lost its turn waits for another worker than those it was lost on; after that any will do. For
a worker that was overloaded this is time to recover, and where there is no other worker nothing is gained by more."""
KEPT_FOR_WORKERS = 0.5
"""Of the reserve of retries: while a provider is down, turns that are lost with their workers are still run again."""
MARKS = 2
"""Crashes after which it is the request and not the worker, if no other turn can have been the cause of the last."""
REMEMBERED = 256
"""Tickets whose stories are kept when they are over."""
NEVER = float("inf")
NOT_READY_S = 1.0
"""When to ask again for a profile that is being removed."""

QUARANTINED = TurnEnd(fault=Fault(FaultKind.WORKER_REPLACED, "the worker was taken out of service"), trace=Trace.NONE)
"""What a ticket was lost with whose worker was doubted."""


class SchedulerState:
    """Tickets and queues. `key` makes fingerprints of requests useless to others, `jitter` gives numbers in [0, 1)."""

    def __init__(
        self,
        policies: Mapping[str, QueuePolicy],
        *,
        max_held: int | None = None,
        key: bytes = b"",
        jitter: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._queues = {profile: ProfileQueue(profile, policy) for profile, policy in policies.items()}
        self._tickets: dict[int, TicketRecord] = {}
        self._leases: dict[int, tuple[TicketRecord, int]] = {}
        self._suspects: dict[int, Suspect] = {}
        """By their leases, the turns of tickets that have crashed a worker once."""
        self._over: deque[Epitaph] = deque(maxlen=REMEMBERED)
        self._alarms = Alarms()
        self._penalties = PenaltyBox()
        self._key = key
        self._jitter = jitter
        self._max_held = max_held
        self._held = 0
        self._held_by: dict[str, int] = {}
        """Of tenants that have a job."""
        self.is_draining = False
        """No new job is taken."""

    # --- questions -------------------------------------------------------------------------------------------

    def profiles(self) -> tuple[str, ...]:
        """Those that have a queue."""
        return tuple(self._queues)

    def knows(self, profile: str) -> bool:
        """There is a queue for this profile."""
        return profile in self._queues

    def has_waiting(self, profile: str) -> bool:
        """Somebody waits for a seat of this profile."""
        queue = self._queues.get(profile)
        return queue is not None and queue.waiting > 0

    def has_to_wait(self, job: Job, free: int) -> bool:
        """There is a queue for this job, and no seat."""
        queue = self._queues.get(job.profile)
        return queue is not None and not queue.starts_at_once(job, free)

    def refusal(self, job: Job, outlook: Outlook | None, now: float) -> tuple[str, Rejected] | None:
        """Why the job is not taken, in a word and at length; None: it is.

        `outlook` is what the profile has to offer to a job that has to wait, None for any other.
        """
        queue = self._queues.get(job.profile)
        if self.is_draining:
            retry_after_s = queue.retry_after_s() if queue is not None else NOT_READY_S
            return "draining", Draining("the service is draining", retry_after_s)
        if self._penalties.has_any(job.tenant, now):
            until = self._penalties.until(job.tenant, fingerprint(self._key, job.tenant, job.turn), now)
            if until is not None:
                return "penalized", Penalized("this request has crashed its workers", until - now)
        if queue is None or queue.is_closing:
            return "not_ready", NotReady("the profile is being removed", NOT_READY_S)
        if outlook is not None:
            queue.see(outlook)
            if outlook.down_s is not None:
                return "not_ready", NotReady("no worker is up", outlook.down_s)
            if (refusal := queue.refusal(job)) is not None:
                return refusal
        if self._max_held is not None and self._tickets:
            free = self._max_held - self._held
            if job.queue_share is not None and 0 < self._held_by.get(job.tenant, 0) > free - job.held:
                message = "too much text of this tenant is being held"
                return "too_much_text", TenantQueueFull(message, queue.retry_after_s())
            if job.held > free:
                return "too_much_text", QueueFull("too much text is being held", queue.retry_after_s())
        return queue.hopeless(job) if outlook is not None else None

    def retry_after_s(self, profile: str) -> float:
        """When a seat is to be expected for one more job, from what turns took lately."""
        return self._queues[profile].retry_after_s()

    def avoided(self, ticket_id: int, now: float) -> Collection[WorkerId]:
        """The workers that this ticket's next attempt must not run on."""
        ticket = self._tickets[ticket_id]
        lost_on = ticket.lost_on if now < ticket.avoids_until else ()
        return {*lost_on, *(each.worker for each in self._suspects.values())} if ticket.marks else lost_on

    def next_alarm(self) -> float | None:
        """When `Ticked` is wanted next."""
        return self._alarms.next_at()

    def is_idle(self) -> bool:
        """Nobody waits and nothing runs."""
        return not self._tickets

    def snapshot(self, now: float) -> list[QueueSnapshot]:
        """Every queue in numbers."""
        return [self._row(queue, now) for queue in self._queues.values()]

    def story(self, job: str) -> TicketStory | None:
        """What happened to the ticket of this job, also if it is one of the last that are over."""
        for ticket in self._tickets.values():
            if ticket.job.id == job:
                lines = story_lines(ticket.submitted_at, ticket.facts)
                return TicketStory(job, ticket.job.profile, ticket.job.tenant, ticket.state, lines)
        for over in reversed(self._over):
            if over.id == job:
                lines = story_lines(over.submitted_at, over.facts)
                return TicketStory(job, over.profile, over.tenant, TicketState.OVER, lines)
        return None

    def tickets(self, limit: int, now: float) -> list[TicketRow]:
        """The oldest open ones, so many at most."""
        return [self._ticket_row(ticket, now) for ticket in islice(self._tickets.values(), limit)]

    def tenants(self, now: float) -> list[TenantRow]:
        """Who waits and runs, in each profile and class."""
        rows: dict[tuple[str, str, Priority], TenantRow] = {}
        for ticket in self._tickets.values():
            job = ticket.job
            place = job.profile, job.tenant, job.priority
            row = rows.get(place) or TenantRow(*place, 0, 0, 0.0)
            if ticket.state is TicketState.WAITING:
                oldest_s = max(row.oldest_wait_s, now - ticket.submitted_at)
                rows[place] = row._replace(waiting=row.waiting + 1, oldest_wait_s=oldest_s)
            else:
                rows[place] = row._replace(running=row.running + 1)
        return list(rows.values())

    # --- facts that are told in the very moment, whatever else is being handled ------------------------------

    def see(self, profile: str, outlook: Outlook) -> None:
        """What the profile has to offer now."""
        self._queues[profile].see(outlook)

    def spoke(self, ticket_id: int) -> None:
        """The ticket's client has been told something: from now on there is no second attempt."""
        ticket = self._tickets[ticket_id]
        ticket.has_spoken = True
        if self._suspects:
            self._acquit(ticket.attempts[ticket.tries].lease)

    def started(self, ticket_id: int, lease: Lease | None, now: float) -> tuple[Effect, ...]:
        """What came of a `Start`; None: there was no seat, or none on another worker than those avoided."""
        ticket = self._tickets[ticket_id]
        if lease is not None:
            ticket.attempts[ticket.tries].lease = lease
            ticket.facts += ((now, lease.worker),)
            self._leases[lease.id] = ticket, ticket.tries
            if ticket.marks or self._suspects:
                self._suspect(ticket, lease)
            return ()
        del ticket.attempts[ticket.tries]
        ticket.tries -= 1
        self._move(ticket, TicketState.WAITING, now)
        self._bound_wait(ticket, now)
        was_returned = ticket.lost_with is not None
        ticket.queue.never_began(ticket_id, ticket.place, was_returned=was_returned)
        return (Look(ticket.job.profile),) if was_returned else ()

    # --- decisions -------------------------------------------------------------------------------------------

    def handle(self, stimulus: Stimulus, now: float) -> tuple[Effect, ...]:
        """What has to be done now, in order."""
        effects: list[Effect] = []
        match stimulus:  # without captures where every job passes: three of them cost 0.4 us
            case Submitted():
                self._on_submitted(stimulus, now, effects)
            case SeatsFreed() | Looked():
                self._on_seats(stimulus, now, effects)
            case TurnEnded():
                self._on_turn_ended(stimulus, now, effects)
            case LeasesDoubted(leases):
                self._on_doubted(leases, now, effects)
            case ClientLeft(ticket_id):
                self._give_up(ticket_id, Abandoned(), now, effects)
            case BufferFilled(ticket_id):
                self._give_up(ticket_id, Overrun(), now, effects)
            case Ticked():
                self._ring(now, effects)
            case LimitSet(profile, limit):
                self._set_limit(self._queues[profile], limit, effects)
            case Reconfigured(policies, max_held):
                self._max_held = max_held
                self._on_reconfigured(policies, effects)
            case CutOffReached():
                for ticket_id in list(self._tickets):
                    self._give_up(ticket_id, CutOff(), now, effects)
            case _:
                assert_never(stimulus)
        return tuple(effects)

    def validate(self) -> None:
        """Raise AssertionError when the state contradicts itself; for tests."""
        attempts = 0
        for profile, queue in self._queues.items():
            mine = [ticket for ticket in self._tickets.values() if ticket.queue is queue]
            waiting = {ticket.id for ticket in mine if ticket.state is TicketState.WAITING}
            assert queue.profile == profile  # noqa: S101
            assert queue.tickets == len(mine)  # noqa: S101
            assert waiting == {*queue.returned} | {each for each in waiting if each in queue.backlog}  # noqa: S101
            assert queue.waiting == len(waiting)  # noqa: S101
            assert queue.returned == sorted(queue.returned)  # noqa: S101
            assert queue.blocked <= {*queue.returned}  # noqa: S101
            assert queue.running == sum(len(ticket.attempts) for ticket in mine)  # noqa: S101
            assert queue.marked == sum(ticket.marks > 0 for ticket in mine)  # noqa: S101
            for ticket in mine:
                assert ticket.state is not TicketState.OVER  # noqa: S101
                assert (ticket.state is not TicketState.RUNNING) or ticket.tries in ticket.attempts  # noqa: S101
                assert (ticket.state is not TicketState.ENDING) or ticket.attempts  # noqa: S101
                attempts += len(ticket.attempts)
        assert sum(queue.tickets for queue in self._queues.values()) == len(self._tickets)  # noqa: S101
        assert len(self._leases) == attempts  # noqa: S101
        assert self._suspects.keys() <= self._leases.keys()  # noqa: S101
        assert self._held == sum(ticket.job.held for ticket in self._tickets.values())  # noqa: S101
        assert self._held == sum(self._held_by.values())  # noqa: S101

    # --- stimuli ---------------------------------------------------------------------------------------------

    def _on_submitted(self, told: Submitted, now: float, effects: list[Effect]) -> None:
        ticket_id, job = told.ticket, told.job
        queue = self._queues[job.profile]
        deadline_at = now + job.deadline_s if job.deadline_s is not None else NEVER
        expires_at = now + job.patience_s
        place = queue.place(job)
        self._tickets[ticket_id] = TicketRecord(ticket_id, job, queue, place, now, expires_at, deadline_at)
        self._held += job.held
        self._held_by[job.tenant] = self._held_by.get(job.tenant, 0) + job.held
        queue.tickets += 1
        queue.push(ticket_id, place)
        self._alarms.set(ticket_id, expires_at)
        if told.free:
            self._dispatch(queue, told.free, now, effects)

    def _on_seats(self, told: SeatsFreed | Looked, now: float, effects: list[Effect]) -> None:
        queue = self._queues.get(told.profile)
        if queue is not None:
            if isinstance(told, SeatsFreed):
                queue.blocked.clear()
            self._dispatch(queue, told.free, now, effects)

    def _on_turn_ended(self, told: TurnEnded, now: float, effects: list[Effect]) -> None:
        """The end of the ticket's latest attempt decides its fate; that of an earlier one only frees its seat."""
        number, end = told.attempt, told.end
        ticket = self._tickets.get(told.ticket)
        attempt = ticket.attempts.pop(number, None) if ticket is not None else None
        if ticket is None or attempt is None:
            return
        queue = ticket.queue
        if attempt.lease is not None:
            del self._leases[attempt.lease.id]
            if self._suspects:
                attempt.suspect = self._suspects.pop(attempt.lease.id, None)
                if end.fault is None:
                    self._acquit(attempt.lease)
        is_latest = number == ticket.tries and ticket.state is not TicketState.WAITING
        rest_s = self._rest_s(ticket, end, now) if end.fault is not None else None
        is_charged = is_latest and rest_s is None and (end.fault is None or end.fault.kind not in again.OF_WORKERS)
        queue.ended(ticket.job, ticket.place, end, now - attempt.started_at, now, is_charged=is_charged)
        self._note_limit(queue, effects)
        if is_latest and ticket.state is TicketState.RUNNING:
            self._decide(ticket, attempt, end, now, effects, rest_s=rest_s)
        elif ticket.state is TicketState.ENDING and not ticket.attempts:
            self._forget(ticket, now, effects)
        if queue.waiting:
            effects.append(Look(queue.profile))

    def _decide(
        self,
        ticket: TicketRecord,
        attempt: AttemptRecord,
        end: TurnEnd,
        now: float,
        effects: list[Effect],
        *,
        rest_s: float | None,
    ) -> None:
        """What becomes of a ticket whose turn has ended; after `rest_s` another one would be worth it."""
        if end.fault is not None and end.fault.kind is FaultKind.WORKER_LOST:
            ticket.marks += 1
            ticket.queue.marks += 1
            ticket.queue.marked += ticket.marks == 1
        if ticket.marks >= MARKS and (attempt.suspect is None or attempt.suspect.beside):
            self._settle(ticket, Ended(end), now, effects)
        elif ticket.marks >= MARKS:
            penalty_s = ticket.queue.policy.penalty_s
            if penalty_s > 0:
                tenant = ticket.job.tenant
                self._penalties.add(tenant, fingerprint(self._key, tenant, ticket.job.turn), now + penalty_s)
            self._settle(ticket, CrashesWorker(), now, effects)
        elif rest_s is not None and ticket.queue.retries.take(kept=KEPT_FOR_WORKERS if rest_s else 0.0):
            self._return(ticket, attempt, end, now, effects, rest_s=rest_s)
        else:
            self._settle(ticket, Ended(end), now, effects)

    def _on_doubted(self, leases: tuple[Lease, ...], now: float, effects: list[Effect]) -> None:
        for lease in leases:
            ticket, number = self._leases.get(lease.id, (None, 0))
            if ticket is None or ticket.state is not TicketState.RUNNING or number != ticket.tries:
                continue
            if self._rest_s(ticket, QUARANTINED, now) is not None and ticket.queue.retries.take():
                self._return(ticket, ticket.attempts[number], QUARANTINED, now, effects)
                effects += (Interrupt(lease), Look(ticket.job.profile))

    def _give_up(self, ticket_id: int, outcome: Outcome, now: float, effects: list[Effect]) -> None:
        """Settle a ticket whose turn, if it runs, is of no more use; its seat is free when the turn has ended."""
        ticket = self._tickets.get(ticket_id)
        if ticket is None or ticket.state is TicketState.ENDING:
            return
        if ticket.state is TicketState.WAITING:
            ticket.queue.remove(ticket_id)
            self._settle(ticket, outcome, now, effects)
        else:
            lease = ticket.attempts[ticket.tries].lease
            self._settle(ticket, outcome, now, effects)
            if lease is not None:
                effects.append(Interrupt(lease))

    def _on_reconfigured(self, policies: Mapping[str, QueuePolicy], effects: list[Effect]) -> None:
        for profile, policy in policies.items():
            queue = self._queues.get(profile)
            if queue is None:
                self._queues[profile] = ProfileQueue(profile, policy)
            else:
                is_new = policy.seats_limit != queue.policy.seats_limit  # else what was set by hand stays
                queue.adopt(policy)
                queue.is_closing = False
                self._set_limit(queue, policy.seats_limit if is_new else queue.limit.configured, effects)
        for queue in [queue for profile, queue in self._queues.items() if profile not in policies]:
            queue.is_closing = True
            self._close_if_empty(queue, effects)

    def _set_limit(self, queue: ProfileQueue, limit: int | None, effects: list[Effect]) -> None:
        queue.limit.configure(limit)
        self._note_limit(queue, effects)
        effects.append(Look(queue.profile))

    # --- inside ----------------------------------------------------------------------------------------------

    def _dispatch(self, queue: ProfileQueue, free: int, now: float, effects: list[Effect]) -> None:
        """Work conservation: afterwards nobody waits who could use a free seat."""
        if self._alarms.is_due(now):
            self._ring(now, effects)
        room = queue.room(free)
        if room <= 0:
            return
        for ticket_id in queue.returned.copy() if queue.returned else ():
            ticket = self._tickets[ticket_id]
            is_able = ticket_id not in queue.blocked and ticket.rests_until <= now
            if room > 0 and is_able and not queue.backlog.is_capped(ticket.place):
                queue.returned.remove(ticket_id)
                queue.backlog.occupy(ticket.place)
                self._begin(ticket, now, effects)
                room -= 1
        while room > 0 and (head := queue.backlog.head()) is not None:
            ticket = self._tickets[head]
            if not ticket.job.is_patient and queue.sheds(head, ticket.submitted_at, now):
                queue.remove(head)
                self._settle(ticket, Shed(now - ticket.submitted_at, queue.retry_after_s()), now, effects)
            else:
                queue.backlog.take(head)
                self._begin(ticket, now, effects)
                room -= 1
        self._note_limit(queue, effects)

    def _begin(self, ticket: TicketRecord, now: float, effects: list[Effect]) -> None:
        self._move(ticket, TicketState.RUNNING, now)
        ticket.tries += 1
        ticket.attempts[ticket.tries] = AttemptRecord(now)
        ticket.queue.began(now)
        self._alarms.set(ticket.id, ticket.deadline_at if ticket.deadline_at != NEVER else None)
        effects.append(Start(ticket.id, ticket.tries))

    def _rest_s(self, ticket: TicketRecord, end: TurnEnd, now: float) -> float | None:
        """How long a ticket whose turn ended like this would rest before another; None: it has none, and no longer than
        it might wait for a seat.
        """
        is_untouched = end.trace is Trace.NONE and not ticket.has_spoken
        if end.fault is None or not is_untouched or ticket.tries >= ticket.queue.policy.attempts:
            return None
        rest_s = again.rest_s(end.fault, ticket.tries, self._jitter())
        if rest_s is None or rest_s > ticket.job.queue_budget_s or now + rest_s >= ticket.deadline_at:
            return None
        return rest_s

    def _return(
        self,
        ticket: TicketRecord,
        attempt: AttemptRecord,
        end: TurnEnd,
        now: float,
        effects: list[Effect],
        *,
        rest_s: float = 0.0,
    ) -> None:
        """To the front, with one more queue budget; nobody else was asked to wait for it."""
        self._move(ticket, TicketState.WAITING, now)
        ticket.lost_with = end
        if attempt.lease is not None and not rest_s:
            ticket.lost_on = (*ticket.lost_on, attempt.lease.worker)
            ticket.avoids_until = now + AVOID_S
        ticket.rests_until = now + rest_s
        ticket.expires_at = min(ticket.rests_until + ticket.job.queue_budget_s, ticket.deadline_at)
        ticket.queue.push_returned(ticket.id)
        self._bound_wait(ticket, now)
        reason = "quarantined" if end is QUARANTINED else str(end.fault and end.fault.kind)
        effects.append(Return(ticket.id, reason, rest_s))

    def _ring(self, now: float, effects: list[Effect]) -> None:
        """Deal with every ticket for which it is time."""
        for ticket_id in self._alarms.pop_due(now):
            ticket = self._tickets[ticket_id]
            if ticket.state is TicketState.RUNNING:
                self._give_up(ticket_id, Overdue(), now, effects)
            elif now >= ticket.expires_at:
                ticket.queue.remove(ticket_id)
                expired = Expired(now - ticket.submitted_at, ticket.queue.retry_after_s())
                self._settle(ticket, Ended(ticket.lost_with) if ticket.lost_with else expired, now, effects)
            else:  # it has rested, or any worker will do from now on
                ticket.queue.blocked.discard(ticket_id)
                self._bound_wait(ticket, now)
                effects.append(Look(ticket.job.profile))

    def _bound_wait(self, ticket: TicketRecord, now: float) -> None:
        """Look at a ticket that has lost a turn when it has rested, when it may go anywhere, when its time is over."""
        times = (ticket.expires_at, ticket.rests_until, ticket.avoids_until)
        self._alarms.set(ticket.id, min(at for at in times if at > now or at == ticket.expires_at))

    def _note_limit(self, queue: ProfileQueue, effects: list[Effect]) -> None:
        limit = queue.limit.now
        if limit is not queue.told_limit and limit != queue.told_limit:
            queue.told_limit = limit
            effects.append(Limited(queue.profile, limit))

    def _settle(self, ticket: TicketRecord, outcome: Outcome, now: float, effects: list[Effect]) -> None:
        """The outcome; the ticket is over too unless a turn of it still holds a seat."""
        effects.append(Settle(ticket.id, outcome))
        ticket.facts += ((now, outcome),)
        if ticket.attempts:
            self._move(ticket, TicketState.ENDING, now)
            self._alarms.set(ticket.id, None)
        else:
            self._forget(ticket, now, effects)

    def _forget(self, ticket: TicketRecord, now: float, effects: list[Effect]) -> None:
        self._move(ticket, TicketState.OVER, now)
        self._alarms.set(ticket.id, None)
        del self._tickets[ticket.id]
        self._over.append(
            Epitaph(ticket.job.id, ticket.job.profile, ticket.job.tenant, ticket.submitted_at, ticket.facts)
        )
        self._held -= ticket.job.held
        tenant = ticket.job.tenant
        held = self._held_by.get(tenant, 0) - ticket.job.held
        if held:
            self._held_by[tenant] = held
        else:
            self._held_by.pop(tenant, None)
        ticket.queue.tickets -= 1
        ticket.queue.marked -= ticket.marks > 0
        effects.append(Forget(ticket.id))
        self._close_if_empty(ticket.queue, effects)

    def _suspect(self, ticket: TicketRecord, lease: Lease) -> None:
        """Note of the new turn, and of turns that have crashed a worker, who is beside whom without an answer."""
        if ticket.marks:
            beside = {
                attempt.lease.id
                for other, number in self._leases.values()
                if (attempt := other.attempts[number]).lease is not None
                and attempt.lease.worker == lease.worker
                and not (other.has_spoken and number == other.tries)
            }
            self._suspects[lease.id] = Suspect(lease.worker, beside)
        for lease_id, suspect in self._suspects.items():
            if suspect.worker == lease.worker and not ticket.has_spoken:
                suspect.beside.add(lease.id)
            suspect.beside.discard(lease_id)

    def _acquit(self, lease: Lease | None) -> None:
        """This turn has spoken, or ended well: it is no cause of what may come."""
        if lease is not None:
            for suspect in self._suspects.values():
                suspect.beside.discard(lease.id)

    def _close_if_empty(self, queue: ProfileQueue, effects: list[Effect]) -> None:
        if queue.is_closing and not queue.tickets:
            del self._queues[queue.profile]
            effects.append(Closed(queue.profile))

    def _move(self, ticket: TicketRecord, target: TicketState, now: float) -> None:
        if (ticket.state, target) not in TRANSITIONS:
            raise IllegalTransition(f"ticket {ticket.id}", ticket.state, target, ticket.story)
        ticket.state = target
        ticket.facts += ((now, target),)

    def _ticket_row(self, ticket: TicketRecord, now: float) -> TicketRow:
        job, attempt = ticket.job, ticket.attempts.get(ticket.tries)
        worker = attempt.lease.worker if attempt is not None and attempt.lease is not None else None
        age_s = now - ticket.submitted_at
        return TicketRow(job.id, job.profile, job.tenant, job.priority, ticket.state, age_s, ticket.tries, worker)

    def _row(self, queue: ProfileQueue, now: float) -> QueueSnapshot:
        counts = queue.by_priority()
        counts.update(self._tickets[ticket_id].job.priority for ticket_id in queue.returned)
        first = [ticket_id for ticket_id in (queue.backlog.oldest(), *queue.returned[:1]) if ticket_id is not None]
        return QueueSnapshot(
            queue.profile,
            queue.waiting,
            queue.running,
            queue.hold_s,
            dict(counts),
            now - self._tickets[min(first)].submitted_at if first else 0.0,
            queue.limit.now,
            queue.predicted_wait_s(),
            queue.retries.tokens,
            queue.backlog.is_overloaded(queue.codel_target_s, now),
            queue.marked,
            queue.marks,
        )

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pool.events import FaultKind, TextDelta, Trace, TurnEvent
from pool.stimuli import Lease
from scheduler.model import (
    Abandoned,
    CutOff,
    Draining,
    Ended,
    Expired,
    Job,
    NotReady,
    Outcome,
    Overdue,
    Overrun,
    QueueFull,
    QueuePolicy,
    Rejected,
)
from scheduler.observer import SchedulerObserver
from scheduler.scheduler import OUTLOOK_S, Scheduler
from scheduler.ticket import BUFFER_BYTES, Ticket
from tests.support.fake_seats import INTERRUPTED, STOP, FakeSeats, FakeTurn, lost
from tests.support.jobs import a_job
from tests.support.virtual_time import START_AT, in_virtual_time, pass_time

LOST = lost(trace=Trace.SPOKEN)
SILENT = lost(FaultKind.WORKER_REPLACED)


class Recording(SchedulerObserver):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.admitted: list[str] = []
        self.rejected: list[tuple[str, str]] = []
        self.started: list[tuple[str, float]] = []
        self.turns: list[tuple[str, str, int]] = []
        """What was told of turns: the event, the job and the attempt."""
        self.settled: list[tuple[str, Outcome, float, float]] = []
        self.attempts: list[int] = []
        self.limits: list[tuple[str, int | None]] = []

    def job_admitted(self, job: Job, *, waits: bool) -> None:
        self.admitted.append(job.id)

    def job_rejected(self, job: Job, reason: str) -> None:
        self.rejected.append((job.id, reason))

    def turn_started(self, job: Job, lease: Lease, attempt: int, waited_s: float) -> None:
        self.started.append((job.id, waited_s))
        self.turns.append((f"started on {lease.worker}", job.id, attempt))

    def turn_spoke(self, job: Job, attempt: int) -> None:
        self.turns.append(("spoke", job.id, attempt))

    def turn_returned(self, job: Job, lease: Lease, attempt: int, reason: str, rest_s: float) -> None:
        self.turns.append((f"{reason} on {lease.worker}", job.id, attempt))

    def ticket_settled(self, job: Job, outcome: Outcome, waited_s: float, ran_s: float, attempts: int) -> None:
        self.settled.append((job.id, outcome, waited_s, ran_s))
        self.attempts.append(attempts)

    def limit_changed(self, profile: str, limit: int | None) -> None:
        self.limits.append((profile, limit))


class House:
    """A scheduler over fake seats, and what was seen of it."""

    def __init__(self, *, seats: int = 1, limit: int = 10, max_held: int | None = None, **policy: Any) -> None:
        self.seats = FakeSeats(main=seats, other=0)
        self.seen = Recording()
        rules = QueuePolicy(limit, **policy)
        self.scheduler = Scheduler(self.seats, {"main": rules, "other": rules}, self.seen, max_held=max_held)
        self.seats.on_freed = self.scheduler.seats_freed

    def submit(self, name: str = "job", *, budget_s: float = 10.0, **changes: Any) -> Ticket:
        return self.scheduler.submit(a_job(name, budget_s=budget_s, **changes))

    def running(self) -> list[str]:
        """The names of the jobs whose turns were started, in order."""
        return [turn.request.instructions for turn in self.seats.turns]

    def check(self) -> None:
        self.scheduler._state.validate()
        assert set(self.scheduler._tickets) == set(self.scheduler._state._tickets)


async def text_of(ticket: Ticket) -> str:
    """The whole answer, read to its end."""
    events: list[TurnEvent] = []
    while more := await ticket.read():
        events += more
    return "".join(event.text for event in events if isinstance(event, TextDelta))


# --- the normal course -----------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_job_gets_a_free_seat_at_once_and_its_answer_is_read_to_the_end() -> None:
    house = House()
    ticket = house.submit()
    assert house.running() == ["job"]
    house.seats.says(0, "Hel")
    house.seats.says(0, "lo")
    house.seats.finishes(0)
    assert await text_of(ticket) == "Hello"
    assert ticket.outcome == Ended(STOP)
    house.check()


@in_virtual_time
async def test_what_is_waited_for_long_is_judged_by_the_seats_that_are_left() -> None:
    house = House()
    house.seats.frees("main", 7, slot=1)
    for _ in range(10):
        house.submit(budget_s=60.0)
    (queue,) = (queue for queue in house.scheduler._state._queues.values() if queue.profile == "main")
    assert queue.seats == 8
    house.seats.loses("main", slot=1)
    await pass_time(OUTLOOK_S)
    house.seats.finishes(next(n for n, turn in enumerate(house.seats.turns) if turn.lease.worker.slot == 0))
    assert len(house.running()) == 9
    assert queue.seats == 1
    house.check()


@in_virtual_time
async def test_those_who_wait_follow_in_order_as_seats_come_free() -> None:
    house = House()
    tickets = [house.submit(name) for name in ("one", "two", "three")]
    assert house.running() == ["one"]
    house.seats.ends(0)
    assert house.running() == ["one"]
    house.seats.frees("main")
    assert house.running() == ["one", "two"]
    house.seats.frees("main", 3)
    assert house.running() == ["one", "two", "three"]
    house.seats.finishes(1)
    house.seats.finishes(2)
    assert [ticket.outcome for ticket in tickets] == [Ended(STOP)] * 3
    house.check()


@in_virtual_time
async def test_a_turn_that_fails_is_told_as_it_is() -> None:
    house = House()
    ticket = house.submit()
    house.seats.ends(0, LOST)
    assert ticket.outcome == Ended(LOST)


@in_virtual_time
async def test_the_observer_hears_how_long_it_took() -> None:
    house = House()
    house.submit("first")
    house.submit("second")
    await pass_time(3.0)
    house.seats.finishes(0)
    await pass_time(4.0)
    house.seats.finishes(1)
    assert house.seen.started == [("first", 0.0), ("second", 3.0)]
    assert house.seen.settled == [("first", Ended(STOP), 0.0, 3.0), ("second", Ended(STOP), 3.0, 4.0)]


# --- the door --------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_one_job_too_many_is_turned_away_and_nothing_of_it_is_kept() -> None:
    house = House(limit=2)
    for name in ("runs", "waits", "waits too"):
        house.submit(name)
    with pytest.raises(QueueFull) as caught:
        house.submit("too many")
    assert caught.value.retry_after_s > 0
    assert house.seen.rejected == [("too many", "queue_full")]
    house.seats.finishes(0)
    house.submit("again")
    house.check()


@in_virtual_time
async def test_without_places_to_wait_a_free_seat_is_still_good() -> None:
    house = House(limit=0)
    house.submit("runs")
    with pytest.raises(QueueFull):
        house.submit("waits")


@in_virtual_time
async def test_a_profile_that_has_no_seats_yet_lets_jobs_wait() -> None:
    house = House()
    ticket = house.submit(profile="other")
    assert (house.running(), ticket.outcome) == ([], None)
    house.seats.frees("other")
    assert house.running() == ["job"]


# --- deadlines -------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_job_whose_seat_goes_while_another_takes_one_waits_for_the_next() -> None:
    house = House(seats=0)
    tickets = [house.submit(name) for name in ("one", "two")]

    def lose_the_other(_turn: FakeTurn) -> None:
        house.seats.at_start = lambda _next: None
        house.seats.loses("main")

    house.seats.at_start = lose_the_other
    house.seats.frees("main", 2)
    assert house.running() == ["one"]
    house.check()
    house.seats.frees("main")
    assert house.running() == ["one", "two"]
    house.seats.finishes(0)
    house.seats.finishes(1)
    assert [ticket.outcome for ticket in tickets] == [Ended(STOP)] * 2
    house.check()


@in_virtual_time
async def test_a_job_that_gets_no_seat_in_its_time_is_told_on_the_dot() -> None:
    house = House()
    house.submit("runs")
    ticket = house.submit("waits", budget_s=2.5)
    assert await text_of(ticket) == ""
    assert asyncio.get_running_loop().time() == START_AT + 2.5
    assert isinstance(ticket.outcome, Expired)
    assert ticket.outcome.waited_s == 2.5
    assert house.seen.settled[-1][2:] == (2.5, 0.0)
    house.check()


@in_virtual_time
async def test_each_waiting_job_has_its_own_deadline() -> None:
    house = House()
    house.submit("runs")
    loop = asyncio.get_running_loop()
    ends: dict[float, float] = {}

    async def wait(budget_s: float) -> None:
        await text_of(house.submit(f"{budget_s}", budget_s=budget_s))
        ends[budget_s] = loop.time() - START_AT

    async with asyncio.TaskGroup() as tasks:
        for budget_s in (9.0, 3.0, 5.0, 3.5):
            tasks.create_task(wait(budget_s))
    assert ends == {3.0: 3.0, 3.5: 3.5, 5.0: 5.0, 9.0: 9.0}


@in_virtual_time
async def test_a_timer_that_comes_a_moment_too_early_is_set_again() -> None:
    house = House()
    house.submit("runs")
    ticket = house.submit("waits", budget_s=2.5)
    timer = house.scheduler._timer
    assert timer is not None
    timer.cancel()
    house.scheduler._on_timer()  # as a loop does whose clock is coarser than its timers
    assert ticket.outcome is None
    await pass_time(2.5)
    assert isinstance(ticket.outcome, Expired)


@in_virtual_time
async def test_a_job_that_runs_has_no_deadline_in_the_queue() -> None:
    house = House()
    ticket = house.submit(budget_s=1.0)
    await pass_time(600.0)
    assert ticket.outcome is None
    assert house.scheduler._timer is None


@in_virtual_time
async def test_no_timer_is_left_when_nobody_waits() -> None:
    house = House()
    house.submit("runs")
    house.submit("waits").abandon()
    assert house.scheduler._timer is None


# --- leaving ---------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_client_that_leaves_while_waiting_is_forgotten_at_once() -> None:
    house = House()
    house.submit("runs")
    ticket = house.submit("waits")
    ticket.abandon()
    assert ticket.outcome == Abandoned()
    house.seats.finishes(0)
    assert house.running() == ["runs"]
    house.check()


@in_virtual_time
async def test_a_client_that_leaves_while_running_has_its_turn_interrupted_once() -> None:
    house = House()
    ticket = house.submit()
    ticket.abandon()
    ticket.abandon()
    assert house.seats.interrupted == [house.seats.turns[0].lease]
    assert ticket.outcome == Abandoned()
    assert not house.scheduler._state.is_idle()
    house.seats.finishes(0, INTERRUPTED)
    assert ticket.outcome == Abandoned()
    assert [row[:2] for row in house.seen.settled] == [("job", Abandoned())]
    house.check()


@in_virtual_time
async def test_the_seat_of_one_who_left_goes_to_the_next_when_the_worker_lets_go() -> None:
    house = House()
    first = house.submit("first")
    house.submit("second")
    first.abandon()
    assert house.running() == ["first"]
    house.seats.finishes(0, INTERRUPTED)
    assert house.running() == ["first", "second"]


@in_virtual_time
async def test_leaving_after_the_end_changes_nothing() -> None:
    house = House()
    ticket = house.submit()
    house.seats.finishes(0)
    ticket.abandon()
    assert ticket.outcome == Ended(STOP)
    assert house.seats.interrupted == []


@in_virtual_time
async def test_a_client_cancelled_in_its_read_can_go_on_or_leave() -> None:
    house = House()
    ticket = house.submit()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await ticket.read()
    house.seats.says(0, "still there")
    assert await ticket.read() == [TextDelta("still there")]
    ticket.abandon()
    assert await ticket.read() == []


# --- a client that does not read -------------------------------------------------------------------------------


@in_virtual_time
async def test_a_client_that_does_not_read_is_cut_off_and_its_turn_interrupted() -> None:
    house = House()
    ticket = house.submit()
    for _ in range(3):
        house.seats.says(0, "x" * (BUFFER_BYTES // 2))
    assert ticket.outcome == Overrun()
    assert len(house.seats.interrupted) == 1
    house.seats.says(0, "dropped")
    house.seats.finishes(0, INTERRUPTED)
    assert "dropped" not in await text_of(ticket)
    assert ticket.outcome == Overrun()
    house.check()


@in_virtual_time
async def test_a_slow_client_is_nobody_elses_trouble() -> None:
    house = House(seats=2)
    slow, quick = house.submit("slow"), house.submit("quick")
    for _ in range(2):
        house.seats.says(0, "x" * 2 * BUFFER_BYTES)
    house.seats.says(1, "fine")
    house.seats.finishes(1)
    assert slow.outcome == Overrun()
    assert (await text_of(quick), quick.outcome) == ("fine", Ended(STOP))


@in_virtual_time
async def test_all_jobs_together_hold_so_much_text_and_no_more() -> None:
    house = House(max_held=100)

    def submit(size: int) -> Ticket:
        return house.submit(size=size)

    running, waiting = submit(60), submit(40)
    with pytest.raises(QueueFull):
        submit(1)
    waiting.abandon()
    submit(40).abandon()
    house.seats.finishes(0)
    assert running.outcome == Ended(STOP)
    submit(1000).abandon()
    house.seats.finishes(1, INTERRUPTED)
    submit(100)


# --- things that happen within things --------------------------------------------------------------------------


@in_virtual_time
async def test_a_turn_may_end_in_the_very_moment_it_is_started() -> None:
    house = House()

    def refuse(turn: FakeTurn) -> None:
        house.seats.finishes(len(house.seats.turns) - 1, LOST)

    house.seats.at_start = refuse
    tickets = [house.submit(name) for name in ("one", "two", "three")]
    assert [ticket.outcome for ticket in tickets] == [Ended(LOST)] * 3
    assert await text_of(tickets[0]) == ""
    house.check()
    assert house.scheduler._state.is_idle()


@in_virtual_time
async def test_turns_that_end_as_they_start_let_the_whole_backlog_through_without_recursion() -> None:
    house = House(seats=0, limit=2000)
    tickets = [house.submit(str(number)) for number in range(2000)]
    house.seats.at_start = lambda _turn: house.seats.finishes(len(house.seats.turns) - 1)
    house.seats.frees("main")
    assert house.running() == [str(number) for number in range(2000)]
    assert all(ticket.outcome == Ended(STOP) for ticket in tickets)


@in_virtual_time
async def test_an_interrupt_may_end_the_turn_in_the_same_moment() -> None:
    house = House()
    first, second = house.submit("first"), house.submit("second")
    house.seats.at_interrupt = lambda turn: house.seats.finishes(house.seats.turns.index(turn), INTERRUPTED)
    first.abandon()
    assert (first.outcome, second.outcome) == (Abandoned(), None)
    assert house.running() == ["first", "second"]
    house.check()


@in_virtual_time
async def test_a_first_event_that_overflows_the_buffer_as_the_turn_starts_interrupts_it() -> None:
    house = House()

    def flood(turn: FakeTurn) -> None:
        for _ in range(2):
            turn.sink.push([TextDelta("x" * 2 * BUFFER_BYTES)])

    house.seats.at_start = flood
    ticket = house.submit()
    assert ticket.outcome == Overrun()
    assert len(house.seats.interrupted) == 1
    house.check()


@in_virtual_time
async def test_all_who_were_interrupted_at_once_may_end_at_once() -> None:
    house = House(seats=3)
    tickets = [house.submit(str(number)) for number in range(5)]
    house.seats.at_interrupt = lambda turn: house.seats.finishes(house.seats.turns.index(turn), INTERRUPTED)
    house.scheduler.cut_off()
    assert [ticket.outcome for ticket in tickets] == [CutOff()] * 5
    assert len(house.seats.turns) == 3
    house.check()
    assert house.scheduler._state.is_idle()


# --- the end ---------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_drain_takes_nobody_new_and_finishes_what_is_there() -> None:
    house = House()
    tickets = [house.submit("runs"), house.submit("waits")]
    house.scheduler.drain()
    assert house.scheduler.is_draining
    with pytest.raises(Draining):
        house.submit("late")
    assert house.seen.rejected == [("late", "draining")]
    async with asyncio.TaskGroup() as tasks:
        idle = tasks.create_task(house.scheduler.idle())
        await pass_time(1.0)
        house.seats.finishes(0)
        await pass_time(1.0)
        assert not idle.done()
        house.seats.finishes(1)
    assert [ticket.outcome for ticket in tickets] == [Ended(STOP)] * 2


@in_virtual_time
async def test_a_pause_ends_and_a_drain_does_not() -> None:
    house = House()
    house.scheduler.pause()
    assert house.scheduler.is_paused
    with pytest.raises(Draining):
        house.submit("late")
    house.scheduler.resume()
    assert not house.scheduler.is_draining
    house.submit("in time")
    house.scheduler.pause()
    house.scheduler.drain()
    house.scheduler.resume()
    house.scheduler.pause()
    house.scheduler.resume()
    assert (house.scheduler.is_draining, house.scheduler.is_paused) == (True, False)


@in_virtual_time
async def test_an_idle_scheduler_is_idle_at_once() -> None:
    before = asyncio.get_running_loop().time()
    await House().scheduler.idle()
    assert asyncio.get_running_loop().time() == before


@in_virtual_time
async def test_a_cut_off_settles_everybody_and_is_idle_when_the_turns_are_over() -> None:
    house = House()
    tickets = [house.submit("runs"), house.submit("waits")]
    house.scheduler.drain()
    house.scheduler.cut_off()
    assert [ticket.outcome for ticket in tickets] == [CutOff()] * 2
    async with asyncio.TaskGroup() as tasks:
        idle = tasks.create_task(house.scheduler.idle())
        await pass_time(1.0)
        assert not idle.done()
        house.seats.finishes(0, INTERRUPTED)
    house.check()


@in_virtual_time
async def test_the_numbers_tell_who_waits_and_who_runs() -> None:
    house = House()
    for name in ("one", "two", "three"):
        house.submit(name)
    main, other = house.scheduler.snapshot()
    assert (main.profile, main.waiting, main.running) == ("main", 2, 1)
    assert (other.profile, other.waiting, other.running) == ("other", 0, 0)


# --- a second attempt ------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_job_whose_worker_is_lost_before_it_spoke_is_answered_by_another() -> None:
    house = House()
    ticket = house.submit()
    house.seats.frees("main", slot=1)
    house.seats.loses("main")
    house.seats.ends(0, SILENT)
    house.seats.says(1, "Hello")
    house.seats.finishes(1)
    assert await text_of(ticket) == "Hello"
    assert ticket.outcome == Ended(STOP)
    assert house.seen.turns == [
        ("started on main/0.1", "job", 1),
        ("worker_replaced on main/0.1", "job", 1),
        ("started on main/1.1", "job", 2),
        ("spoke", "job", 2),
    ]
    assert house.seen.attempts == [2]
    house.check()


@in_virtual_time
async def test_a_doubted_turn_that_wakes_up_is_heard_by_nobody() -> None:
    """Invariant 11."""
    house = House()
    ticket = house.submit()
    house.seats.loses("main")
    house.scheduler.leases_doubted((house.seats.turns[0].lease,))
    assert house.seats.interrupted == [house.seats.turns[0].lease]
    house.seats.says(0, "a ghost")
    await pass_time(1.0)
    house.seats.frees("main", slot=1)
    house.seats.says(0, "a ghost")
    house.seats.says(1, "the answer")
    house.seats.ends(0)
    assert ticket.outcome is None
    house.seats.finishes(1)
    assert await text_of(ticket) == "the answer"
    assert house.seen.settled == [("job", Ended(STOP), 1.0, 0.0)]
    house.check()


@in_virtual_time
async def test_a_doubt_that_comes_with_the_first_word_comes_too_late() -> None:
    """Invariant 6: what the client has is of one attempt, in whatever order things are handled."""
    house = House(seats=2)
    ticket = house.submit("first")

    def doubt(_turn: FakeTurn) -> None:
        house.scheduler.leases_doubted((house.seats.turns[0].lease,))
        house.seats.says(0, "just in time")

    house.seats.at_start = doubt
    house.submit("second")
    assert house.seats.interrupted == []
    house.seats.finishes(0)
    assert (await text_of(ticket), ticket.outcome) == ("just in time", Ended(STOP))
    house.check()


@in_virtual_time
async def test_where_there_is_one_worker_only_it_is_tried_again_after_a_second() -> None:
    house = House()
    ticket = house.submit()
    house.seats.finishes(0, lost(FaultKind.WORKER_OVERLOADED))
    assert house.running() == ["job"]
    await pass_time(1.0)
    assert house.running() == ["job", "job"]
    house.seats.finishes(1)
    assert ticket.outcome == Ended(STOP)
    house.check()


@in_virtual_time
async def test_a_turn_that_is_refused_as_it_starts_is_tried_on_every_worker_there_is() -> None:
    house = House(attempts=3)
    for slot in (1, 2):
        house.seats.frees("main", slot=slot)
    house.seats.at_start = lambda _turn: house.seats.finishes(len(house.seats.turns) - 1, SILENT)
    ticket = house.submit()
    assert ticket.outcome == Ended(SILENT)
    assert [turn.lease.worker.slot for turn in house.seats.turns] == [0, 1, 2]
    house.check()


@in_virtual_time
async def test_a_lost_job_that_gets_no_seat_in_its_second_budget_is_told_how_it_was_lost() -> None:
    house = House()
    ticket = house.submit(budget_s=3.0)
    house.seats.loses("main")
    await pass_time(5.0)
    house.seats.ends(0, SILENT)
    await pass_time(2.9)
    assert ticket.outcome is None
    await pass_time(0.1)
    assert ticket.outcome == Ended(SILENT)
    assert house.seen.settled == [("job", Ended(SILENT), 8.0, 0.0)]
    house.check()


# --- deadlines of callers, limits, rules -----------------------------------------------------------------------


@in_virtual_time
async def test_a_turn_that_runs_into_its_callers_deadline_is_interrupted_on_the_dot() -> None:
    house = House()
    ticket = house.submit(deadline_s=2.5)
    assert await text_of(ticket) == ""
    assert asyncio.get_running_loop().time() == START_AT + 2.5
    assert ticket.outcome == Overdue()
    assert len(house.seats.interrupted) == 1
    house.check()


@in_virtual_time
async def test_a_higher_limit_lets_those_start_who_wait_for_it() -> None:
    house = House(seats=3, seats_limit=1)
    for name in ("one", "two", "three"):
        house.submit(name)
    assert house.running() == ["one"]
    house.scheduler.set_limit("main", 2)
    assert house.running() == ["one", "two"]
    house.scheduler.set_limit("main", None)
    assert house.running() == ["one", "two", "three"]
    assert house.seen.limits == [("main", 2), ("main", None)]
    with pytest.raises(KeyError):
        house.scheduler.set_limit("nobody's", 1)


@in_virtual_time
async def test_the_end_of_a_turn_makes_room_under_a_limit_before_its_seat_is_free() -> None:
    house = House(seats=2, seats_limit=1)
    house.submit("one")
    house.submit("two")
    house.seats.ends(0)
    assert house.running() == ["one", "two"]


@in_virtual_time
async def test_a_profile_is_told_gone_when_the_last_of_its_jobs_is() -> None:
    house = House()
    closed: list[str] = []
    house.scheduler.on_queue_closed = closed.append
    house.submit("runs")
    house.submit("waits")
    house.scheduler.reconfigure({"other": QueuePolicy(1)}, None)
    with pytest.raises(NotReady):
        house.submit("late")
    house.seats.finishes(0)
    assert closed == []
    house.seats.finishes(1)
    assert closed == ["main"]
    with pytest.raises(NotReady):
        house.submit("later")
    house.seats.frees("main")
    assert [row.profile for row in house.scheduler.snapshot()] == ["other"]


@in_virtual_time
async def test_a_profile_whose_boots_fail_is_not_ready() -> None:
    house = House()
    house.seats.down_s["other"] = 4.0
    with pytest.raises(NotReady) as caught:
        house.submit(profile="other")
    assert caught.value.retry_after_s == 4.0
    assert house.seen.rejected == [("job", "not_ready")]
    assert house.seen.admitted == []


@in_virtual_time
async def test_every_refusal_says_when_to_come_again() -> None:
    house = House(limit=0)
    house.submit()
    for _ in range(2):
        with pytest.raises(Rejected) as caught:
            house.submit()
        assert caught.value.retry_after_s > 0
        house.scheduler.drain()

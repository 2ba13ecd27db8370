from __future__ import annotations

from typing import Any

import pytest

from pool.errors import IllegalTransition
from pool.events import Fault, FaultKind, Finish, TurnEnd
from scheduler.model import Abandoned, CutOff, Ended, Expired, Outcome, Overrun
from scheduler.state import (
    FIRST_GUESS_S,
    SMOOTHING,
    TRANSITIONS,
    BufferFilled,
    ClientLeft,
    CutOffReached,
    Effect,
    Forget,
    Interrupt,
    NotStarted,
    SchedulerState,
    SeatsFreed,
    Settle,
    Start,
    Submitted,
    Ticked,
    TicketState,
    TurnEnded,
)

NOW = 1000.0
END = TurnEnd(finish=Finish.STOP)
LOST = TurnEnd(fault=Fault(FaultKind.WORKER_LOST, "gone"))


def outcomes(effects: tuple[Effect, ...]) -> list[tuple[int, Outcome]]:
    return [(effect.ticket, effect.outcome) for effect in effects if isinstance(effect, Settle)]


def starts(effects: tuple[Effect, ...]) -> list[int]:
    return [effect.ticket for effect in effects if isinstance(effect, Start)]


def waiting(*tickets: int, limit: int = 10) -> SchedulerState:
    """Tickets that wait up to ten seconds, with no seat free."""
    state = SchedulerState({"main": limit})
    for ticket in tickets:
        assert state.handle(Submitted(ticket, "main", NOW + 10.0, 0), NOW) == ()
    state.validate()
    return state


def running(*tickets: int) -> SchedulerState:
    """Tickets that run."""
    state = SchedulerState({"main": 10})
    for ticket in tickets:
        assert state.handle(Submitted(ticket, "main", NOW + 10.0, 1), NOW) == (Start(ticket),)
    state.validate()
    return state


# --- waiting and starting --------------------------------------------------------------------------------------


def test_a_job_starts_at_once_when_a_seat_is_free() -> None:
    state = running(1)
    (row,) = state.snapshot()
    assert (row.waiting, row.running) == (0, 1)


def test_those_who_wait_start_in_order_of_arrival_as_seats_come_free() -> None:
    state = waiting(1, 2, 3)
    assert starts(state.handle(SeatsFreed("main", 2), NOW + 1.0)) == [1, 2]
    assert starts(state.handle(SeatsFreed("main", 0), NOW + 1.0)) == []
    assert starts(state.handle(SeatsFreed("main", 5), NOW + 1.0)) == [3]
    state.validate()


def test_a_newcomer_does_not_overtake() -> None:
    state = waiting(1)
    assert starts(state.handle(Submitted(2, "main", NOW + 10.0, 1), NOW)) == [1]


def test_profiles_do_not_share_seats_or_places() -> None:
    state = SchedulerState({"a": 1, "b": 1})
    state.handle(Submitted(1, "a", NOW + 10.0, 0), NOW)
    assert state.would_overflow("a", 0)
    assert not state.would_overflow("b", 0)
    state.handle(Submitted(2, "b", NOW + 10.0, 0), NOW)
    assert starts(state.handle(SeatsFreed("b", 2), NOW)) == [2]


@pytest.mark.parametrize(
    ("tickets", "free", "overflows"),
    [((), 0, False), ((1,), 0, False), ((1, 2), 0, True), ((1, 2), 2, True), ((1, 2), 3, False)],
)
def test_a_full_backlog_takes_one_more_only_if_there_are_seats_for_all(
    tickets: tuple[int, ...], free: int, overflows: bool
) -> None:
    assert waiting(*tickets, limit=2).would_overflow("main", free) is overflows


# --- deadlines -------------------------------------------------------------------------------------------------


def test_a_job_that_waited_too_long_is_told_when_to_come_again() -> None:
    state = waiting(1)
    assert state.handle(Ticked(), NOW + 9.999) == ()
    assert state.handle(Ticked(), NOW + 10.0) == (Settle(1, Expired(10.0, FIRST_GUESS_S)), Forget(1))
    assert state.is_idle()


def test_nobody_is_started_after_the_deadline_even_if_the_timer_is_late() -> None:
    state = waiting(1)
    state.handle(Submitted(2, "main", NOW + 60.0, 0), NOW)
    effects = state.handle(SeatsFreed("main", 5), NOW + 10.0)
    assert [type(outcome) for _, outcome in outcomes(effects)] == [Expired]
    assert starts(effects) == [2]


def test_the_next_deadline_is_the_earliest_of_those_who_wait() -> None:
    state = SchedulerState({"a": 10, "b": 10})
    assert state.next_deadline() is None
    state.handle(Submitted(1, "a", NOW + 10.0, 0), NOW)
    state.handle(Submitted(2, "b", NOW + 5.0, 0), NOW)
    state.handle(Submitted(3, "b", NOW + 1.0, 0), NOW)
    assert state.next_deadline() == NOW + 1.0
    state.handle(ClientLeft(3), NOW)
    assert state.next_deadline() == NOW + 5.0
    state.handle(SeatsFreed("b", 1), NOW)
    assert state.next_deadline() == NOW + 10.0


def test_a_running_job_has_no_deadline_here() -> None:
    state = running(1)
    assert state.next_deadline() is None
    assert state.handle(Ticked(), NOW + 3600.0) == ()


# --- ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [END, LOST])
def test_a_turn_that_ends_is_the_outcome_whatever_the_end(end: TurnEnd) -> None:
    state = running(1)
    assert state.handle(TurnEnded(1, end), NOW) == (Settle(1, Ended(end)), Forget(1))
    assert state.is_idle()


@pytest.mark.parametrize(
    ("stimulus", "outcome"), [(ClientLeft(1), Abandoned()), (BufferFilled(1), Overrun()), (CutOffReached(), CutOff())]
)
def test_a_running_job_given_up_is_settled_now_and_over_when_its_turn_is(
    stimulus: ClientLeft | BufferFilled | CutOffReached, outcome: Outcome
) -> None:
    state = running(1)
    assert state.handle(stimulus, NOW) == (Settle(1, outcome), Interrupt(1))
    assert not state.is_idle()
    (row,) = state.snapshot()
    assert row.running == 1
    for again in (ClientLeft(1), BufferFilled(1), CutOffReached()):
        assert state.handle(again, NOW) == ()
    assert state.handle(TurnEnded(1, END), NOW) == (Forget(1),)
    assert state.is_idle()


@pytest.mark.parametrize(("stimulus", "outcome"), [(ClientLeft(1), Abandoned()), (CutOffReached(), CutOff())])
def test_a_waiting_job_given_up_is_over_at_once(stimulus: ClientLeft | CutOffReached, outcome: Outcome) -> None:
    state = waiting(1)
    assert state.handle(stimulus, NOW) == (Settle(1, outcome), Forget(1))
    assert state.is_idle()
    assert starts(state.handle(SeatsFreed("main", 1), NOW)) == []


def test_the_cut_off_settles_those_who_wait_and_those_who_run() -> None:
    state = running(1)
    state.handle(Submitted(2, "main", NOW + 10.0, 0), NOW)
    effects = state.handle(CutOffReached(), NOW)
    assert outcomes(effects) == [(1, CutOff()), (2, CutOff())]
    assert [effect for effect in effects if isinstance(effect, Interrupt)] == [Interrupt(1)]


def test_what_is_said_of_a_ticket_that_is_over_or_not_there_yet_changes_nothing() -> None:
    state = waiting(2)
    for stimulus in (TurnEnded(1, END), ClientLeft(1), BufferFilled(1), TurnEnded(2, END)):
        assert state.handle(stimulus, NOW) == ()
    state.validate()


# --- what can be expected --------------------------------------------------------------------------------------


def test_the_expected_wait_follows_how_long_turns_take() -> None:
    state = running(1)
    assert state.retry_after_s("main") == FIRST_GUESS_S
    state.handle(TurnEnded(1, END), NOW + 11.0)
    hold_s = FIRST_GUESS_S + SMOOTHING * (11.0 - FIRST_GUESS_S)
    (row,) = state.snapshot()
    assert row.hold_s == hold_s
    for ticket in (2, 3):
        state.handle(Submitted(ticket, "main", NOW + 60.0, 1), NOW)
    for ticket in (4, 5, 6):
        state.handle(Submitted(ticket, "main", NOW + 60.0, 0), NOW)
    assert state.retry_after_s("main") == hold_s * 4 / 2


def test_the_hold_counts_from_the_start_and_not_from_the_submission() -> None:
    state = waiting(1)
    state.handle(SeatsFreed("main", 1), NOW + 9.0)
    state.handle(TurnEnded(1, END), NOW + 9.0 + FIRST_GUESS_S)
    (row,) = state.snapshot()
    assert row.hold_s == FIRST_GUESS_S


# --- a seat that is gone when it is to be taken ----------------------------------------------------------------


def test_a_ticket_whose_seat_has_gone_waits_on_at_its_old_place() -> None:
    state = waiting(1, 2)
    state.handle(SeatsFreed("main", 1), NOW)
    assert state.handle(NotStarted(1), NOW + 1.0) == ()
    state.validate()
    assert state.handle(SeatsFreed("main", 2), NOW + 2.0) == (Start(1), Start(2))
    state.validate()


def test_a_ticket_whose_seat_has_gone_keeps_its_deadline() -> None:
    state = SchedulerState({"main": 1})
    state.handle(Submitted(1, "main", NOW + 5.0, 1), NOW)
    state.handle(NotStarted(1), NOW + 4.0)
    assert state.next_deadline() == NOW + 5.0
    settled, _ = state.handle(Ticked(), NOW + 5.0)
    assert isinstance(settled, Settle)
    assert isinstance(settled.outcome, Expired)
    assert settled.outcome.waited_s == 5.0
    assert state.is_idle()


def test_a_ticket_that_was_given_up_while_its_seat_went_is_over() -> None:
    state = running(1)
    state.handle(ClientLeft(1), NOW)
    assert state.handle(NotStarted(1), NOW) == (Forget(1),)
    state.validate()
    assert state.is_idle()


# --- the table -------------------------------------------------------------------------------------------------


def test_the_table_has_no_move_that_never_happens() -> None:
    seen: set[tuple[TicketState, TicketState]] = set()

    class Watched(SchedulerState):
        def _move(self, ticket: Any, target: TicketState, now: float) -> None:
            seen.add((ticket.state, target))
            super()._move(ticket, target, now)

    state = Watched({"main": 10})
    for ticket in (1, 2, 3):
        state.handle(Submitted(ticket, "main", NOW + 1.0, 0), NOW)
    state.handle(SeatsFreed("main", 1), NOW)
    state.handle(NotStarted(1), NOW)
    state.handle(SeatsFreed("main", 2), NOW)
    state.handle(TurnEnded(1, END), NOW)
    state.handle(ClientLeft(2), NOW)
    state.handle(TurnEnded(2, END), NOW)
    state.handle(Ticked(), NOW + 1.0)
    assert seen == TRANSITIONS


def test_a_move_that_is_not_in_the_table_is_our_bug_and_tells_the_story() -> None:
    state = waiting(1)
    with pytest.raises(IllegalTransition, match=r"ticket 1: waiting -> ending(.|\n)*submitted"):
        state._move(state._tickets[1], TicketState.ENDING, NOW)


def test_a_ticket_has_a_story_until_it_is_over() -> None:
    state = running(1)
    assert state.story(1).splitlines() == ["1000.000 submitted", "1000.000 running"]
    state.handle(TurnEnded(1, END), NOW)
    assert state.story(1) == ""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from pool.events import Finish, Reasoning, ReasoningDelta, TextDelta, ToolCall, TurnEnd, TurnEvent, TurnRequest
from scheduler.model import Abandoned, Ended, Job, Overrun
from scheduler.ticket import BUFFER_BYTES, EVENT_OVERHEAD_BYTES, Attempt, Callbacks, Ticket
from tests.support.virtual_time import in_virtual_time, pass_time

JOB = Job("job-1", "main", "tenant", TurnRequest("m", "", ()), 10.0)
END = Ended(TurnEnd(finish=Finish.STOP))


class Told:
    """What a ticket told the scheduler."""

    def __init__(self) -> None:
        self.spoke = 0
        self.ends: list[tuple[int, TurnEnd]] = []
        self.overflows: list[int] = []
        self.abandons: list[int] = []

    def on_spoke(self, ticket: Ticket) -> None:
        self.spoke += 1


def a_ticket() -> tuple[Ticket, Attempt, Told]:
    told = Told()
    callbacks = Callbacks(
        on_spoke=told.on_spoke,
        on_end=lambda ticket_id, number, end: told.ends.append((number, end)) if ticket_id == 7 else None,
        on_overflow=told.overflows.append,
        on_abandon=told.abandons.append,
    )
    ticket = Ticket(7, JOB, 1000.0, callbacks)
    return ticket, ticket.attempt(1), told


async def read_all(ticket: Ticket) -> list[TurnEvent]:
    """What a reader gets, to the end."""
    out: list[TurnEvent] = []
    while events := await ticket.read():
        out += events
    return out


@in_virtual_time
async def test_what_was_pushed_is_read_in_order_and_in_one_go() -> None:
    ticket, turn, _ = a_ticket()
    events: list[TurnEvent] = [TextDelta("a"), ReasoningDelta("b"), ToolCall("c", "f", "{}")]
    for event in events:
        turn.push([event])
    assert await ticket.read() == events


@in_virtual_time
async def test_a_reader_waits_for_the_first_event() -> None:
    ticket, turn, _ = a_ticket()
    async with asyncio.TaskGroup() as tasks:
        reader = tasks.create_task(ticket.read())
        await pass_time(5.0)
        assert not reader.done()
        turn.push([TextDelta("a")])
        turn.push([TextDelta("b")])
    assert reader.result() == [TextDelta("a"), TextDelta("b")]


@in_virtual_time
async def test_a_reader_waits_for_the_outcome_and_gets_what_came_before_it() -> None:
    ticket, turn, _ = a_ticket()
    async with asyncio.TaskGroup() as tasks:
        reader = tasks.create_task(read_all(ticket))
        await pass_time(1.0)
        turn.push([TextDelta("a")])
        ticket.settle(END)
    assert reader.result() == [TextDelta("a")]
    assert ticket.outcome == END
    assert await ticket.read() == []


@in_virtual_time
async def test_a_reader_that_is_cancelled_loses_nothing() -> None:
    ticket, turn, _ = a_ticket()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await ticket.read()
    turn.push([TextDelta("a")])
    assert await ticket.read() == [TextDelta("a")]


@in_virtual_time
async def test_a_reader_cancelled_in_the_moment_an_event_comes_loses_nothing() -> None:
    ticket, turn, _ = a_ticket()
    async with asyncio.TaskGroup() as tasks:
        reader = tasks.create_task(ticket.read())
        await pass_time(1.0)
        turn.push([TextDelta("a")])
        reader.cancel()
    assert reader.cancelled()
    turn.push([TextDelta("b")])
    assert await ticket.read() == [TextDelta("a"), TextDelta("b")]


def a_call(text: str) -> TurnEvent:
    return ToolCall("call_1", "f", text)


def a_thought(text: str) -> TurnEvent:
    return Reasoning("rs_1", (text[1:],), text[:1])


@pytest.mark.parametrize("event", [TextDelta, ReasoningDelta, a_thought, a_call])
def test_a_full_buffer_is_told(event: Callable[[str], TurnEvent]) -> None:
    _ticket, turn, told = a_ticket()
    piece = BUFFER_BYTES // 4 - EVENT_OVERHEAD_BYTES
    for _ in range(5):
        turn.push([event("x" * piece)])
    assert told.overflows == []
    turn.push([event("")])
    assert told.overflows == [7]


@in_virtual_time
async def test_one_piece_of_any_size_is_no_sign_of_a_slow_reader() -> None:
    ticket, turn, told = a_ticket()
    for _ in range(3):
        turn.push([TextDelta("small")])
        turn.push([TextDelta("x" * 3 * BUFFER_BYTES)])
        turn.push([TextDelta("small")])
        await ticket.read()
    assert told.overflows == []
    for _ in range(2):
        turn.push([TextDelta("x" * 3 * BUFFER_BYTES)])
    assert told.overflows == [7]


def test_many_small_events_fill_the_buffer_too() -> None:
    _ticket, turn, told = a_ticket()
    for _ in range(BUFFER_BYTES // EVENT_OVERHEAD_BYTES + 1):
        turn.push([TextDelta("")])
    assert told.overflows == []
    turn.push([TextDelta("")])
    assert told.overflows == [7]


@in_virtual_time
async def test_reading_empties_the_buffer() -> None:
    ticket, turn, told = a_ticket()
    for _ in range(10):
        turn.push([TextDelta("x" * (BUFFER_BYTES // 2))])
        await ticket.read()
    assert told.overflows == []


@in_virtual_time
async def test_what_comes_after_the_outcome_is_dropped() -> None:
    ticket, turn, told = a_ticket()
    turn.push([TextDelta("before")])
    ticket.settle(Abandoned())
    turn.push([TextDelta("after")])
    turn.push([TextDelta("x" * 2 * BUFFER_BYTES)])
    assert await read_all(ticket) == [TextDelta("before")]
    assert told.overflows == []


def test_the_first_outcome_stays() -> None:
    ticket, _, _ = a_ticket()
    ticket.settle(Overrun())
    ticket.settle(END)
    assert ticket.outcome == Overrun()


def test_the_ticket_tells_its_own_id() -> None:
    ticket, turn, told = a_ticket()
    turn.end(END.end)
    ticket.abandon()
    ticket.abandon()
    assert (told.ends, told.abandons) == ([(1, END.end)], [7, 7])
    assert ticket.outcome is None


# --- one turn after another ------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_turn_that_was_lost_writes_nothing_into_the_next_ones_answer() -> None:
    """Invariant 11."""
    ticket, first, told = a_ticket()
    ticket.withdraw()
    first.push([TextDelta("a ghost")])
    second = ticket.attempt(2)
    first.push([TextDelta("still there")])
    second.push([TextDelta("the answer")])
    first.push([TextDelta("and again")])
    assert await ticket.read() == [TextDelta("the answer")]
    first.end(END.end)
    second.end(END.end)
    assert told.ends == [(1, END.end), (2, END.end)]
    assert (ticket.attempts, told.spoke) == (2, 1)


def test_the_first_event_is_told_once() -> None:
    _, turn, told = a_ticket()
    assert told.spoke == 0
    for _ in range(3):
        turn.push([TextDelta("a")])
    assert told.spoke == 1

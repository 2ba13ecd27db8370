"""The turns of one answer are read side by side, and no longer than anything of them will be shown."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pool.events import Finish, TextDelta, ToolCall, TurnEnd, TurnRequest
from pool.stimuli import Lease
from scheduler.model import Ended, Job
from scheduler.ticket import Attempt, Callbacks, Ticket
from service.encode.choice import Choice
from service.encode.terms import Terms
from service.handlers.voices import Shown, Voices
from service.state import Service
from service.toolcalls.controls import Controls
from tests.support.virtual_time import START_AT, in_virtual_time, pass_time

JOB = Job("job-1", "main", "tenant", TurnRequest("m", "", ()), 10.0)
LEASE = cast(Lease, SimpleNamespace(id=1, worker="main/0/1"))
BURST = Controls(stops=True, grace_s=0.3)


@dataclass
class RecordingPool:
    """Notes when it was asked to interrupt a turn."""

    interrupted_at: list[float] = field(default_factory=list)

    def interrupt(self, lease: Lease) -> None:
        assert lease is LEASE
        self.interrupted_at.append(asyncio.get_running_loop().time())


class Told:
    """One answer of `turns` tickets, and who reads it."""

    def __init__(self, controls: Controls = BURST, turns: int = 1) -> None:
        self.pool = RecordingPool()
        observability = SimpleNamespace(first_text=lambda *_: None)
        service: Any = SimpleNamespace(pool=self.pool, observability=observability)
        self.voices = Voices(cast(Service, service))
        self.turns: list[tuple[Ticket, Attempt]] = []
        callbacks = Callbacks(lambda _: None, lambda *_: None, lambda _: None, lambda _: None)
        for number in range(turns):
            ticket = Ticket(number, JOB, START_AT, callbacks, lease=LEASE)
            self.turns.append((ticket, ticket.attempt(1)))
            self.voices.add(ticket, Choice(Terms(controls=controls), number))
        self.shown: list[Shown] = []

    async def read(self) -> None:
        while shown := await self.voices.read():
            self.shown.append(shown)

    def calls(self, name: str, turn: int = 0) -> None:
        self.turns[turn][1].push([ToolCall(name, name, "{}")])

    def says(self, text: str, turn: int = 0) -> None:
        self.turns[turn][1].push([TextDelta(text)])

    def ends(self, turn: int = 0, finish: Finish = Finish.INTERRUPTED) -> None:
        self.turns[turn][0].settle(Ended(TurnEnd(finish=finish)))


@in_virtual_time
async def test_a_turn_is_interrupted_when_no_call_has_come_for_the_time_of_grace() -> None:
    told = Told()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(told.read())
        await pass_time(100.0)
        told.calls("f")
        await pass_time(0.2)
        told.calls("g")
        await pass_time(0.2)
        told.says("tail")
        assert told.pool.interrupted_at == []
        await pass_time(0.2)
        assert told.pool.interrupted_at == [START_AT + 100.5]
        told.says("never shown")
        told.calls("h")
        await pass_time(0.2)
        told.ends()
    assert [[piece for _, pieces in shown for piece in pieces] for shown in told.shown] == [
        [ToolCall("f", "f", "{}")],
        [ToolCall("g", "g", "{}")],
        [TextDelta("tail")],
    ]
    (choice,) = told.voices.choices
    assert (choice.finish, choice.call_count, choice.is_truncated) == ("tool_calls", 2, True)


@in_virtual_time
async def test_a_turn_that_never_calls_is_waited_for() -> None:
    told = Told()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(told.read())
        told.says("text")
        await pass_time(1000.0)
        assert told.pool.interrupted_at == []
        told.calls("f")
        told.turns[0][0].settle(Ended(TurnEnd(finish=Finish.TOOL_CALLS)))
    assert told.pool.interrupted_at == []


@in_virtual_time
async def test_text_that_never_pauses_does_not_put_off_the_end() -> None:
    told = Told()

    async def chatter() -> None:
        while not told.pool.interrupted_at:
            told.says("tick")
            await pass_time(0.1)
        told.ends()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(told.read())
        told.calls("f")
        tasks.create_task(chatter())
    (interrupted_at,) = set(told.pool.interrupted_at)
    assert START_AT + 0.3 <= interrupted_at <= START_AT + 0.4


@in_virtual_time
async def test_the_grace_of_one_choice_ends_no_other() -> None:
    told = Told(turns=2)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(told.read())
        told.calls("f", 0)
        await pass_time(0.25)
        told.calls("g", 1)
        await pass_time(0.1)
        assert told.pool.interrupted_at == [START_AT + 0.3]
        told.ends(0)
        await pass_time(0.1)
        assert len(told.pool.interrupted_at) == 1
        await pass_time(0.2)
        assert told.pool.interrupted_at[-1] == START_AT + 0.55
        told.ends(1)
    assert [choice.finish for choice in told.voices.choices] == ["tool_calls"] * 2


@in_virtual_time
async def test_reading_within_a_time_and_within_the_grace_are_two_bounds() -> None:
    told = Told()
    told.calls("f")
    assert await told.voices.read_within(1.0) == [(0, [ToolCall("f", "f", "{}")])]
    assert await told.voices.read_within(0.1) is None
    assert told.pool.interrupted_at == []
    assert await told.voices.read_within(0.3) is None
    assert told.pool.interrupted_at == [START_AT + 0.3]
    told.ends()
    assert await told.voices.read_within(1.0) == []


class Shelf:
    """An outlet that keeps what it is shown, and can be shut or break."""

    def __init__(self) -> None:
        self.is_open = True
        self.is_broken = False
        self.shown: list[tuple[float, Shown]] = []

    def show(self, shown: Shown) -> None:
        if self.is_broken:
            raise ValueError("no room")
        self.shown.append((asyncio.get_running_loop().time(), shown))


@in_virtual_time
async def test_the_middle_of_an_answer_goes_to_the_outlet_and_its_end_to_the_reader() -> None:
    told, shelf = Told(), Shelf()
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(told.voices.read(shelf))
        await pass_time(1.0)
        told.says("one")
        told.says("two")
        await pass_time(1.0)
        told.says("three")
        await pass_time(1.0)
        assert not reading.done()
        told.says("four")
        told.ends(finish=Finish.STOP)
    assert shelf.shown == [
        (START_AT + 1.0, [(0, [TextDelta("one"), TextDelta("two")])]),
        (START_AT + 2.0, [(0, [TextDelta("three")])]),
    ]
    assert reading.result() == [(0, [TextDelta("four")])]
    assert await told.voices.read(shelf) == []


@in_virtual_time
async def test_a_reader_is_woken_for_what_a_shut_outlet_does_not_take() -> None:
    told, shelf = Told(), Shelf()
    shelf.is_open = False
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(told.voices.read(shelf))
        await pass_time(1.0)
        told.says("one")
    assert (reading.result(), shelf.shown) == ([(0, [TextDelta("one")])], [])


@in_virtual_time
async def test_what_an_outlet_raises_is_the_readers() -> None:
    told, shelf = Told(), Shelf()
    shelf.is_broken = True
    asyncio.get_running_loop().call_later(1.0, told.says, "one")
    with pytest.raises(ValueError, match="no room"):
        await told.voices.read_within(10.0, shelf)


@in_virtual_time
async def test_silence_is_measured_from_what_the_outlet_was_shown_last() -> None:
    told, shelf = Told(), Shelf()
    began_at = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(told.voices.read_within(10.0, shelf))
        for _ in range(3):
            await pass_time(4.0)
            told.says("tick")
        await reading
    assert reading.result() is None
    assert asyncio.get_running_loop().time() - began_at == 22.0


@in_virtual_time
async def test_one_choice_goes_on_to_the_outlet_when_another_has_ended() -> None:
    told, shelf = Told(turns=2), Shelf()
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(told.voices.read(shelf))
        await pass_time(1.0)
        told.ends(0, Finish.STOP)
        await pass_time(1.0)
        told.says("still here", 1)
        await pass_time(1.0)
        assert not reading.done()
        told.ends(1, Finish.STOP)
    assert [shown for _, shown in shelf.shown] == [[(1, [TextDelta("still here")])]]
    assert reading.result() == []


@in_virtual_time
async def test_the_grace_after_a_call_holds_with_an_outlet_too() -> None:
    told, shelf = Told(), Shelf()
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(told.voices.read(shelf))
        await pass_time(1.0)
        told.calls("f")
        await pass_time(0.5)
        assert told.pool.interrupted_at == [START_AT + 1.3]
        told.ends()
    assert [shown for _, shown in shelf.shown] == [[(0, [ToolCall("f", "f", "{}")])]]
    assert reading.result() == []

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.support.virtual_time import (
    START_AT,
    HorizonReached,
    NothingCanWake,
    TimeStandsStill,
    in_virtual_time,
    pass_time,
    run_virtual,
)


@in_virtual_time
async def test_the_clock_jumps_to_each_timer_in_turn() -> None:
    loop = asyncio.get_running_loop()
    seen: list[tuple[str, float]] = []

    def note(name: str) -> None:
        seen.append((name, loop.time() - START_AT))

    for name, delay in (("late", 900.0), ("early", 0.25), ("middle", 30.0)):
        loop.call_at(loop.time() + delay, note, name)
    await pass_time(1000.0)
    assert seen == [("early", 0.25), ("middle", 30.0), ("late", 900.0)]


@in_virtual_time
async def test_a_cancelled_timer_moves_no_clock() -> None:
    loop = asyncio.get_running_loop()
    loop.call_later(50.0, lambda: None).cancel()
    await pass_time(0.0)
    assert loop.time() == START_AT


@in_virtual_time
async def test_a_timeout_comes_exactly_when_it_is_due() -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(7.5):
            await asyncio.Event().wait()
    assert loop.time() == START_AT + 7.5


@in_virtual_time
async def test_tasks_of_a_group_share_the_clock() -> None:
    loop = asyncio.get_running_loop()
    woke_at: list[float] = []

    async def wait(seconds: float) -> None:
        await pass_time(seconds)
        woke_at.append(loop.time() - START_AT)

    async with asyncio.TaskGroup() as tasks:
        for seconds in (3.0, 1.0, 2.0):
            tasks.create_task(wait(seconds))
    assert woke_at == [1.0, 2.0, 3.0]


@in_virtual_time
async def test_a_failing_task_cancels_its_siblings_at_once() -> None:
    async def fail() -> None:
        await pass_time(1.0)
        raise ValueError("on purpose")

    async def work() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
            tasks.create_task(asyncio.Event().wait())

    with pytest.raises(ExceptionGroup) as caught:
        await work()
    assert caught.group_contains(ValueError, match="on purpose")
    assert asyncio.get_running_loop().time() == START_AT + 1.0


@in_virtual_time
async def test_a_function_for_a_thread_is_run_and_its_error_comes_back() -> None:
    assert await asyncio.to_thread(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(lambda: 1 / 0)


def test_a_wait_that_nothing_can_end_is_an_error_which_says_who_waits() -> None:
    async def wait() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.Event().wait(), name="the lonely one")

    with pytest.raises(NothingCanWake, match="the lonely one"):
        run_virtual(wait())


def test_a_loop_in_which_no_time_passes_is_an_error() -> None:
    async def spin() -> None:
        while True:
            await pass_time(0.0)

    with pytest.raises(TimeStandsStill):
        run_virtual(spin())


def test_a_wait_beside_an_endless_tick_ends_at_the_horizon() -> None:
    async def wait() -> None:
        loop = asyncio.get_running_loop()

        def tick(again: Callable[..., object]) -> None:
            loop.call_later(10.0, again, again)

        tick(tick)
        await asyncio.Event().wait()

    with pytest.raises(HorizonReached):
        run_virtual(wait(), horizon_s=60.0)


def test_the_result_of_the_coroutine_is_returned() -> None:
    async def answer() -> str:
        await pass_time(1.0)
        return "done"

    assert run_virtual(answer()) == "done"

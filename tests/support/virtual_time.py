"""An event loop whose clock jumps: an hour of rules with seconds in them passes in milliseconds, always the same way.

There is no outside world on this loop: no pipes, no sockets, and a function that wants an OS thread is run at once.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, TypeVarTuple

START_AT = 1000.0
"""What the clock shows first: not zero, so that a forgotten `now` is noticed."""

HORIZON_S = 3600.0
"""How long a test may last: one that waits for something that never comes, while something else ticks, ends here."""

MAX_SPINS = 100_000
"""Rounds of the loop in which no time passes: far more than any test needs."""

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class NothingCanWake(RuntimeError):  # noqa: N818 - reads as a fact
    """Every task waits, and there is no timer that could wake one."""


class TimeStandsStill(RuntimeError):  # noqa: N818 - reads as a fact
    """The loop is busy for ever at one moment."""


class HorizonReached(RuntimeError):  # noqa: N818 - reads as a fact
    """The test lasted too long, in virtual seconds."""


class _Clock(selectors.SelectSelector):
    """Where a real loop sleeps until its next timer, this one is there already."""

    def __init__(self, horizon_s: float) -> None:
        super().__init__()
        self.now = START_AT
        self._end_at = START_AT + horizon_s
        self._spins = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingCanWake(_who_waits())
        if timeout <= 0:
            self._spins += 1
            if self._spins > MAX_SPINS:
                self._spins = 0  # the cancelled tasks get their chance to end
                raise TimeStandsStill(f"at {self.now}: {_who_waits()}")
            return []
        self._spins = 0
        self.now += timeout
        if self.now > self._end_at:
            self._end_at = self.now + HORIZON_S  # as above
            raise HorizonReached(_who_waits())
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop with another clock."""

    def __init__(self, horizon_s: float = HORIZON_S) -> None:
        self._virtual_clock = _Clock(horizon_s)
        super().__init__(self._virtual_clock)

    def time(self) -> float:
        return self._virtual_clock.now

    def run_in_executor(
        self,
        executor: object,
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        """Run it now, in no thread."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - the caller gets it, as from a thread
            future.set_exception(error)
        return future

    def stall(self, seconds: float) -> None:
        """Let time pass in which nothing runs here, as when the process is stopped."""
        self._virtual_clock.now += seconds


def stall(seconds: float) -> None:
    """Stop the running virtual loop for so long."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.stall(seconds)


def run_virtual(main: Coroutine[Any, Any, T], horizon_s: float = HORIZON_S) -> T:
    """What `main` returns, on a virtual loop of its own.

    Raises:
        NothingCanWake: `main` would wait for ever.
        TimeStandsStill: it would be busy for ever.
        HorizonReached: it would last longer than `horizon_s`.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(horizon_s)) as runner:
        return runner.run(main)


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a plain test of a coroutine function."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        run_virtual(test(*args, **kwargs))

    return run


async def pass_time(seconds: float) -> None:
    """Let this much virtual time pass; 0 lets everybody else run once."""
    loop = asyncio.get_running_loop()
    passed = asyncio.Event()  # a future's result cannot be set when the stall that ended it ended its waiter as well
    timer = loop.call_later(seconds, passed.set)
    try:
        await passed.wait()
    finally:
        timer.cancel()


def _who_waits() -> str:
    """The tasks that are not done, and the line each waits at."""
    lines = []
    for task in asyncio.all_tasks():
        frames = task.get_stack()
        where = f"{frames[-1].f_code.co_filename}:{frames[-1].f_lineno}" if frames else "its end"
        lines.append(f"{task.get_name()} at {where}")
    return "; ".join(sorted(lines)) or "no task is left"

"""The figures that the scheduler and the pool promise, measured: what faults cost, fairness, throughput, CPU.

    python -m loadtest.bench scheduler [--quick] [--json FILE] [--real]

Pool and scheduler run in this process, on workers that are processes: scripted fake app-servers, with `--real` the
packaged CLI too. Everything is on loopback, has an end, and takes away what it started. Linux only: workers are found
through /proc. The exit code is 1 if a turn was lost that must not be; what depends on the machine's speed is told, and
decides nothing. What is measured how is told in each row, and for fairness in `loadtest.bench_fairness`.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import uvloop

from loadtest.bench_fairness import fairness
from loadtest.bench_faults import crashes, freezes, recoveries, stuck_turns
from loadtest.desk import PROFILE, USUAL, opened, settled
from loadtest.promises import FULL, QUICK, Effort, Row, told
from loadtest.scheduler_cost import measure

TURN_S = 0.2
FLAT = 1.5
"""The cost with most jobs waiting over that with fewest."""


async def throughput(effort: Effort) -> list[Row]:
    """Turns a second with a backlog, over what the seats could do if a turn cost nothing but its own time."""
    async with opened(PROFILE, USUAL) as desk:
        loop = asyncio.get_running_loop()
        times = []
        for _ in range(10):
            began_at = loop.time()
            await settled(desk.ask(text="done", delay_s=TURN_S))
            times.append(loop.time() - began_at)
        turn_s = statistics.median(times)
        async with desk.clients(3 * desk.seats, text="done", delay_s=TURN_S):
            await asyncio.sleep(1.0)
            finished, began_at = desk.finished, loop.time()
            await asyncio.sleep(effort.throughput_s)
            rate = (desk.finished - finished) / (loop.time() - began_at)
        best = desk.seats / turn_s
        how = (
            f"two fake workers, 16 seats, a backlog of 32, {effort.throughput_s:g} s: {rate:.1f} turns/s of {best:.1f};"
            f" a turn takes {turn_s * 1e3:.1f} ms on an idle worker, from its submission to its outcome"
        )
        return [
            Row("throughput", "throughput over seats / turn time", rate / best * 100, "%", 97.0, how, is_floor=True)
        ]


def costs(effort: Effort) -> list[Row]:
    """The scheduler's own CPU for one job, from its admission to its start."""
    rows = []
    for waiting in (10, 100, 1000, 10_000):
        cost = measure(waiting, effort.cost_rounds)
        how = (
            f"admission {cost.admission:.1f}, dispatch {cost.dispatch:.1f}; besides: end {cost.end:.1f}, refusal"
            f" {cost.refusal:.1f}; best of {effort.cost_rounds} rounds of 64, cheap seats in this process"
        )
        text = f"CPU from admission to dispatch, {waiting} waiting"
        rows.append(Row(f"cpu_{waiting}", text, cost.admission + cost.dispatch, "us", 10.0, how))
    growth = rows[-1].value / rows[0].value
    how = "the figure with 10,000 jobs waiting over that with 10"
    return [*rows, Row("cpu_growth", "the same is flat", growth, "x", FLAT, how)]


# --- the run -----------------------------------------------------------------------------------------------------


def run(*, is_quick: bool = False, is_real: bool = False, json_file: Path | None = None) -> int:
    """Measure, print the table, write the JSON; the exit code."""
    return told(_measured(QUICK if is_quick else FULL, is_real=is_real), is_quick=is_quick, json_file=json_file)


def _measured(effort: Effort, *, is_real: bool) -> Iterator[list[Row]]:
    measurements = (
        stuck_turns,
        crashes,
        freezes,
        partial(recoveries, is_real=is_real),
        fairness,
        throughput,
    )
    for measurement in measurements:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            yield runner.run(measurement(effort))
    yield costs(effort)

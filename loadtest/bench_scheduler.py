"""The figures that the scheduler and the pool promise, measured: what faults cost, fairness, throughput, CPU.

    python -m loadtest.bench scheduler [--quick] [--json FILE] [--real]

Pool and scheduler run in this process, on workers that are processes: scripted fake app-servers, with `--real` the
packaged CLI too. Everything is on loopback, has an end, and takes away what it started. Linux only: workers are found
through /proc. The exit code is 1 if a turn was lost that must not be; what depends on the machine's speed is told, and
decides nothing. What is measured how is told in each row, and for fairness in `loadtest.bench_fairness`.
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import msgspec
import uvloop

from loadtest.bench_fairness import fairness
from loadtest.bench_faults import crashes, freezes, recoveries, stuck_turns
from loadtest.desk import PROFILE, USUAL, opened, settled
from loadtest.promises import FULL, QUICK, Effort, Row
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
    effort = QUICK if is_quick else FULL
    began_at = time.monotonic()
    environment = _environment()
    print("measure | figure | goal | held | how")
    print("---|---|---|---|---")
    rows: list[Row] = []
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
            rows += _printed(runner.run(measurement(effort)))
    rows += _printed(costs(effort))
    if json_file is not None:
        report = {
            "environment": {**environment, "load_after": os.getloadavg(), "took_s": time.monotonic() - began_at},
            "is_quick": is_quick,
            "rows": [{**msgspec.structs.asdict(row), "held": row.held} for row in rows],
        }
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    return int(any(row.is_correctness and not row.held for row in rows))


def _printed(rows: list[Row]) -> list[Row]:
    for row in rows:
        goal = "-" if row.goal is None else f"{'>=' if row.is_floor else '<='} {row.goal:g} {row.unit}"
        held = {None: "-", True: "held", False: "MISSED"}[row.held]
        print(f"{row.measure} | {row.value:.3g} {row.unit} | {goal} | {held} | {row.how}", flush=True)
    return rows


def _environment() -> dict[str, object]:
    """The machine and the programs that the figures are of."""
    return {
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg(),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("codex-completions", "uvloop", "msgspec")},
    }

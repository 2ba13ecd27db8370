"""What the service costs: CPU of its process for each request and each delta, memory for each stream, lateness.

    python -m loadtest.bench hotpath [--quick] [--only NAME ...] [--rounds N] [--json FILE]

The service is started as its command starts it, with a key, limits, scheduling, its log and its metrics. Its workers
are fakes that one process speaks for (`loadtest.mill`); the client is another (`loadtest.bench_client`). Both are so
cheap that the service is what is measured. CPU time is the kernel's, of the service's process alone. Rounds take turns,
and medians count. Everything is on loopback, has an end, and takes away what it started. Linux only. The exit code is 1
if an answer was wrong or a delta was lost; what depends on the machine's speed is told, and decides nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import AsyncExitStack
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import uvloop

from loadtest import subject
from loadtest.bench_client import Plan, Report
from loadtest.promises import Row, told
from loadtest.subject import Subject

SERVICES = {
    "small": {"small": {"workers": 8, "slots": 8}},
    "large": {name: {"workers": 50, "slots": 10} for name in ("large-1", "large-2")},
}
"""The profiles of each; a thousand seats take two."""
PACE_S = 0.05
SPREAD_S = 2.0
"""How long a thousand streams take to open."""


class Effort(NamedTuple):
    """How often, and for how many seconds, things are tried."""

    rounds: int
    seconds: float
    paced_s: float


FULL = Effort(5, 3.0, 6.0)
QUICK = Effort(1, 1.0, 2.0)


class Figure(NamedTuple):
    """One row: what is read from the reports of the rounds of one plan."""

    name: str
    text: str
    unit: str
    goal: float | None
    of: Callable[[Report], float]


class Load(NamedTuple):
    """One plan, and the figures that come of it."""

    name: str
    how: str
    service: str
    figures: tuple[Figure, ...]
    plan: dict[str, Any]


def _us_per_answer(report: Report) -> float:
    return report.cpu_s / max(1, report.answers) * 1e6


def _us_per_delta(report: Report) -> float:
    return report.cpu_s / max(1, report.deltas) * 1e6


def loads(effort: Effort) -> tuple[Load, ...]:
    """Everything that clients do to the service, in the order of a round."""
    paced = {"kind": "paced", "interval_s": PACE_S, "warm_s": SPREAD_S, "seconds": effort.paced_s}
    paced["deltas"] = int((2 * SPREAD_S + effort.paced_s + 1.0) / PACE_S)
    loop = {"connections": 64, "seconds": effort.seconds}
    return (
        Load(
            "idle",
            "1,000 streams that have had one delta; RSS of the service beside that before, the first thing it does",
            "large",
            (
                Figure(
                    "idle_kb",
                    "memory of an idle stream",
                    "kB",
                    20.0,
                    lambda report: (report.rss_bytes - report.rss_before_bytes) / max(1, report.answers) / 1000,
                ),
            ),
            {"kind": "idle", "connections": 1000, "warm_s": SPREAD_S, "seconds": 0.5},
        ),
        Load(
            "whole",
            "64 kept connections ask again and again; answers of 20 deltas, written at once",
            "small",
            (
                Figure("whole_us", "CPU of a non-stream request", "us", 150.0, _us_per_answer),
                Figure("whole_rate", "non-stream requests", "/s", None, lambda report: report.answers / report.seconds),
            ),
            {"kind": "whole", "deltas": 20, **loop},
        ),
        Load(
            "stream",
            "64 streams of 2,000 deltas again and again, as fast as they come",
            "small",
            (
                Figure("stream_us", "CPU of a delta, back to back", "us", 1.5, _us_per_delta),
                Figure(
                    "stream_rate", "deltas, back to back", "/s", None, lambda report: report.deltas / report.seconds
                ),
            ),
            {"kind": "stream", "deltas": 2000, **loop},
        ),
        Load(
            "paced_256",
            "256 streams, 20 deltas a second each, every one a write of its own; from its writing to its arrival",
            "large",
            (
                Figure(
                    "paced_256_p50_ms", "added latency of a delta, p50", "ms", 0.1, lambda r: r.late_ms.get("p50", nan)
                ),
                Figure(
                    "paced_256_p99_ms", "added latency of a delta, p99", "ms", 1.0, lambda r: r.late_ms.get("p99", nan)
                ),
            ),
            {"connections": 256, **paced},
        ),
        Load(
            "paced_1000",
            "1,000 streams likewise",
            "large",
            (
                Figure("paced_1000_us", "CPU of a delta, paced", "us", 18.0, _us_per_delta),
                Figure(
                    "paced_1000_ms", "lateness of a delta, p99.9", "ms", 50.0, lambda r: r.late_ms.get("p99.9", nan)
                ),
                Figure("paced_1000_rate", "deltas, paced", "/s", None, lambda r: r.deltas / r.seconds),
            ),
            {"connections": 1000, **paced},
        ),
    )


async def drive(load: Load, target: Subject, models: tuple[str, ...]) -> Report:
    """Run a load once, from a process of its own.

    Raises:
        RuntimeError: the client failed.
    """
    plan = Plan(port=target.port, pid=target.pid, key=target.key, models=models, **load.plan)
    async with subject.child(
        sys.executable, "-m", "loadtest.bench_client", msgspec.json.encode(plan).decode()
    ) as process:
        output, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"the client failed at {load.name}")
    return msgspec.json.decode(output, type=Report)


async def measure(effort: Effort, only: Collection[str]) -> dict[str, list[Report]]:
    """The reports of every load's rounds; `idle` is measured once."""
    wanted = [load for load in loads(effort) if not only or load.name in only]
    reports: dict[str, list[Report]] = {load.name: [] for load in wanted}
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="codex-completions-bench-")))
        codex, _ = await stack.enter_async_context(subject.mill(directory))
        services: dict[str, Subject] = {}
        for name in dict.fromkeys(load.service for load in wanted):
            profiles = {model: {**profile, "codex_bin": str(codex)} for model, profile in SERVICES[name].items()}
            services[name] = await stack.enter_async_context(subject.service(directory / name, profiles))
        for number in range(effort.rounds):
            for load in wanted:
                if load.name != "idle" or not number:
                    reports[load.name].append(await drive(load, services[load.service], tuple(SERVICES[load.service])))
    return reports


def rows_of(load: Load, reports: list[Report]) -> list[Row]:
    """The figures of a load, medians of its rounds, and what went wrong in them."""
    rows = []
    for figure in load.figures:
        values = [figure.of(report) for report in reports]
        how = f"{load.how}; {len(values)} rounds, {min(values):.3g} to {max(values):.3g}"
        details = {f"round_{number}": value for number, value in enumerate(values, 1)}
        median = statistics.median(values)
        rows.append(Row(figure.name, figure.text, median, figure.unit, figure.goal, how, details=details))
    wrong = sum(report.wrong + report.lost for report in reports)
    why = next((report.first_wrong for report in reports if report.first_wrong), "")
    how = f"all rounds of {load.name}" + (f": {why}" if why else "")
    rows.append(Row(f"{load.name}_wrong", "wrong answers and lost deltas", wrong, "", 0.0, how, is_correctness=True))
    return rows


# --- the run -----------------------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table, write the JSON; the exit code."""
    effort = QUICK if arguments.quick else FULL
    if arguments.rounds is not None:
        effort = effort._replace(rounds=arguments.rounds)
    return told(_measured(effort, arguments.only), is_quick=arguments.quick, json_file=arguments.json)


def _measured(effort: Effort, only: Collection[str]) -> Iterator[list[Row]]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        reports = runner.run(measure(effort, only))
    for load in loads(effort):
        if load.name in reports:
            yield rows_of(load, reports[load.name])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command understands."""
    names = [load.name for load in loads(QUICK)]
    parser.add_argument("--quick", action="store_true", help="everything once and briefly, in less than two minutes")
    parser.add_argument("--only", nargs="+", default=(), choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--rounds", type=int, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")

"""What the service costs: CPU of its process for each request and each delta, memory for each stream, lateness.

    python -m loadtest.bench hotpath [--quick] [--real] [--peers] [--only NAME ...] [--alone] [--rounds N] [--json FILE]

The service is started as its command starts it, with a key, limits, scheduling, its log and its metrics. Its workers
are fakes that one process speaks for (`loadtest.mill`); the client is another (`loadtest.bench_client`). Both are so
cheap that the service is what is measured. CPU time is the kernel's, of the measured process alone. Beside the service
run, on workers of the same kind, the same turns straight over stdio, the shortest forwarder on aiohttp, and the
vendor's async client (`loadtest.bench_bare`), unless that is not installed. Rounds take turns, and medians count. The
overload is an open one (`loadtest.open_loop`). With `--real` the service and stdio also run the packaged CLI on a
stand-in model. With `--peers` other people's programs take part, installed from their registries (`loadtest.peers`),
but for those that cannot be had here.

Everything is on loopback, has an end, and takes away what it started. Linux only. The exit code is 1 if an answer was
wrong or a delta was lost; what depends on the machine's speed is told, and decides nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AsyncExitStack
from importlib.util import find_spec
from math import nan
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import uvloop

from loadtest import subject
from loadtest.bench_client import Plan, Report
from loadtest.open_loop import OpenPlan, Stage
from loadtest.peers import PEERS, MissingError, started
from loadtest.promises import Row, told
from loadtest.subject import Subject
from pool.binary import resolve

SERVICES = {
    "small": {"small": {"workers": 8, "slots": 8}},
    "large": {name: {"workers": 50, "slots": 10} for name in ("large-1", "large-2")},
    "narrow": {"narrow": {"workers": 2, "slots": 8}},
    "real": {"real": {"workers": 4, "slots": 8}},
}
"""The profiles of each; a thousand seats take two."""
SERVICE = "service"
OVERLOAD = "overload"
RIVALS = {
    "forwarder": "aiohttp forwarder",
    "stdio": "straight over stdio",
    "sdk": "openai-codex",
    **{name: f"{peer.label} {peer.version}" for name, peer in PEERS.items()},
}
PACE_S = 0.05


class Effort(NamedTuple):
    """How often, and for how many seconds, things are tried; in `spread_s` a thousand streams are opened."""

    rounds: int
    seconds: float
    spread_s: float
    paced_s: float
    growth_answers: int
    calm_s: float
    overload_s: float


FULL = Effort(5, 3.0, 2.0, 6.0, 100_000, 10.0, 30.0)
QUICK = Effort(1, 0.5, 1.0, 1.0, 1000, 2.0, 4.0)
GROWTH_S = 240.0
"""How long the growth may take."""
CONCURRENCIES = (1, 8, 32)
TURN_S = 0.2
"""Of the turns in an overload."""


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
    rivals: Mapping[str, dict[str, Any]] = MappingProxyType({})
    """What it is compared with, and what is different there."""
    is_once: bool = False
    """One round is enough, or all there can be."""


def _us_per_answer(report: Report) -> float:
    return report.cpu_s / max(1, report.answers) * 1e6


def _us_per_delta(report: Report) -> float:
    return report.cpu_s / max(1, report.deltas) * 1e6


def loads(effort: Effort) -> tuple[Load, ...]:
    """Everything that clients do to the service, in the order of a round."""
    paced = {"kind": "paced", "interval_s": PACE_S, "warm_s": effort.spread_s, "seconds": effort.paced_s}
    paced["deltas"] = int((2 * effort.spread_s + effort.paced_s + 1.0) / PACE_S)
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
            {"kind": "idle", "connections": 1000, "warm_s": effort.spread_s, "seconds": 0.5},
            is_once=True,
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
            rivals={"forwarder": {}, "stdio": {}, **{name: {} for name in PEERS}},
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
            rivals={
                "forwarder": {},
                "stdio": {},
                "sdk": {"deltas": 100},  # it reads everything before it tells
                **{name: {"deltas": peer.stream_deltas} for name, peer in PEERS.items()},
            },
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
            rivals={"forwarder": {}},
        ),
        Load(
            "growth",
            f"RSS over {effort.growth_answers:,} non-stream requests, when a quarter of that many are over",
            "small",
            (
                Figure(
                    "growth_mb",
                    "growth over 100,000 requests",
                    "MB",
                    1.0,
                    lambda r: (r.rss_bytes - r.rss_before_bytes) / max(1, r.answers) / 10,
                ),
            ),
            {"kind": "whole", "deltas": 20, "connections": 64, "answers": effort.growth_answers, "seconds": GROWTH_S},
            is_once=True,
        ),
        *(
            Load(
                f"real_{count}",
                f"the packaged CLI, 4 processes, {count} streams of 3 deltas at a time, again and again",
                "real",
                (
                    Figure(
                        f"real_{count}_rate", f"turns, {count} at a time", "/s", None, lambda r: r.answers / r.seconds
                    ),
                    Figure(
                        f"real_{count}_first_ms", "first token, p50", "ms", None, lambda r: r.first_ms.get("p50", nan)
                    ),
                ),
                {"kind": "stream", "deltas": 3, "connections": count, "seconds": effort.seconds},
                rivals={"stdio": {}},
            )
            for count in CONCURRENCIES
        ),
    )


def present() -> tuple[str, ...]:
    """The rivals that are always there, and the vendor's client if it is installed; says so if it is not."""
    if find_spec("openai_codex") is not None:
        return ("forwarder", "stdio", "sdk")
    print("the vendor's client is not installed (openai-codex, in the extra `dev`): skipped")
    return ("forwarder", "stdio")


class Bench:
    """Everything that was started, and what it is asked to do."""

    def __init__(
        self, effort: Effort, only: Collection[str], peers: Collection[str], *, is_alone: bool, is_real: bool
    ) -> None:
        self._effort = effort
        self._only = only
        self._is_real = is_real
        self._peers = peers
        self._rivals = () if is_alone else present()
        self._stack = AsyncExitStack()
        self._directory = self._codex = Path()
        self._standin = ""
        self._running: dict[str, Subject] = {}
        """Services, and forwarders that have as many workers."""

    async def run(self) -> list[Row]:
        """Everything, and what it came to.

        Raises:
            RuntimeError: something did not start, or a client failed.
        """
        named = [load for load in loads(self._effort) if not self._only or load.name in self._only]
        wanted = [load for load in named if self._is_real or load.service != "real"]
        reports: dict[tuple[str, str], list[Report]] = {}
        stages: list[Stage] = []
        async with self._stack as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="codex-completions-bench-")))
            self._directory = directory
            self._codex, _ = await stack.enter_async_context(subject.mill(directory))
            if self._is_real:
                self._standin = await stack.enter_async_context(subject.standin())
            for name in self._peers:
                await self._invite(name)
            for number in range(self._effort.rounds):
                for load in wanted:
                    if not number or not load.is_once:
                        everybody = (SERVICE, *(rival for rival in load.rivals if rival in self._rivals))
                        for who in everybody if number % 2 == 0 else reversed(everybody):  # the machine's mood changes
                            reports.setdefault((load.name, who), []).append(await self._drive(load, who))
            if not self._only or OVERLOAD in self._only:
                stages = await self._overload()
        rows = [row for load in wanted for row in rows_of(load, reports)]
        return [*rows, *overload_rows(stages)] if stages else rows

    async def _invite(self, name: str) -> None:
        """Have a peer take part, if it can be had; says why if it cannot."""
        try:
            await self._start("small", name)
        except MissingError as missing:
            print(f"{RIVALS[name]} cannot be had, skipped: {missing}")
        else:
            self._rivals = (*self._rivals, name)

    async def _drive(self, load: Load, who: str) -> Report:
        """Run a load once, from a process of its own."""
        plan = {"port": 0, "pid": os.getpid(), "key": "", "models": tuple(SERVICES[load.service])}
        plan |= load.plan | load.rivals.get(who, {})
        if who in ("stdio", "sdk"):
            program = ["loadtest.bench_bare", who, *self._staff(load.service)]
        else:
            program = ["loadtest.bench_client"]
            target = await self._start(load.service, who)
            plan |= {"port": target.port, "pid": target.pid, "key": target.key, "headers": dict(target.headers)}
        return await subject.told(Report, *program, msgspec.json.encode(msgspec.convert(plan, Plan)).decode())

    def _staff(self, service: str) -> tuple[str, ...]:
        """As many workers as the service has, for `loadtest.bench_bare`."""
        workers = sum(profile["workers"] for profile in SERVICES[service].values())
        codex, base_url = (resolve(None), self._standin) if service == "real" else (self._codex, subject.NOWHERE)
        return str(codex), str(workers), str(self._directory), base_url

    async def _start(self, service: str, who: str) -> Subject:
        """What answers over HTTP, if it does not yet run."""
        name = f"{who}-{service}"
        if name not in self._running:
            if who == "forwarder":
                program = subject.forwarder(*self._staff(service))
            elif who in PEERS:
                floor = await self._start(service, "forwarder")
                upstream, (model, *_) = f"http://127.0.0.1:{floor.port}", SERVICES[service]
                program = started(who, self._directory / name, upstream=upstream, model=model)
            else:
                workers = {"base_url": self._standin} if service == "real" else {"codex_bin": str(self._codex)}
                profiles = {name: {**profile, **workers} for name, profile in SERVICES[service].items()}
                program = subject.service(self._directory / name, profiles)
            self._running[name] = await self._stack.enter_async_context(program)
        return self._running[name]

    async def _overload(self) -> list[Stage]:
        """Half of what the seats can do, three times that, and half of it again, twice."""
        target = await self._start("narrow", SERVICE)
        full = sum(profile["workers"] * profile["slots"] for profile in SERVICES["narrow"].values()) / TURN_S
        calm = (full / 2, self._effort.calm_s)
        plan = OpenPlan(
            port=target.port,
            key=target.key,
            model="narrow",
            stages=(calm, (3 * full, self._effort.overload_s), calm, calm),
            delay_s=TURN_S,
            patience_s=10.0,
        )
        return await subject.told(list[Stage], "loadtest.open_loop", msgspec.json.encode(plan).decode())


def rows_of(load: Load, reports: Mapping[tuple[str, str], list[Report]]) -> list[Row]:
    """The figures of a load, medians of its rounds: the service's, its rivals', and what went wrong."""
    rows = []
    for who in (SERVICE, *load.rivals):
        rounds = reports.get((load.name, who))
        if rounds is not None:
            rows += [_row(load, figure, who, rounds) for figure in load.figures]
    rows += _over_sdk(reports) if load.name == "stream" else []
    rows += _over_stdio(load, reports) if load.service == "real" else []
    everybodys = [
        report for (name, who), rounds in reports.items() if name == load.name and who not in PEERS for report in rounds
    ]
    wrong = sum(report.wrong + report.lost for report in everybodys)
    why = next((report.first_wrong for report in everybodys if report.first_wrong), "")
    how = f"all rounds of {load.name}" + (f": {why}" if why else "")
    return [*rows, Row(f"{load.name}_wrong", "wrong answers, lost deltas", wrong, "", 0.0, how, is_correctness=True)]


def _row(load: Load, figure: Figure, who: str, reports: list[Report]) -> Row:
    values = [figure.of(report) for report in reports]
    how = f"{load.how}; {len(values)} rounds, {min(values):.3g} to {max(values):.3g}"
    details = {f"round_{number}": value for number, value in enumerate(values, 1)}
    median = statistics.median(values)
    if who == SERVICE:
        return Row(figure.name, figure.text, median, figure.unit, figure.goal, how, details=details)
    text = f"{figure.text}: {RIVALS[who]}"
    how = ", ".join([how, *(f"{name} {value}" for name, value in load.rivals[who].items())])
    wrong = sum(report.wrong + report.lost for report in reports)
    how += f"; {wrong} wrong answers and lost deltas: {next(r.first_wrong for r in reports)}" if wrong else ""
    return Row(f"{figure.name}.{who}", text, median, figure.unit, None, how, details=details)


def _over_sdk(reports: Mapping[tuple[str, str], list[Report]]) -> list[Row]:
    """Deltas a second beside the vendor's client, round by round."""
    pairs = zip(reports.get(("stream", SERVICE), ()), reports.get(("stream", "sdk"), ()), strict=False)
    ratios = [(ours.deltas / ours.seconds) / max(1, theirs.deltas / theirs.seconds) for ours, theirs in pairs]
    if not ratios:
        return []
    how = f"64 turns at a time on both sides, its own of 100 deltas; {min(ratios):.3g} to {max(ratios):.3g}"
    text = "deltas a second, over the vendor's async client"
    return [Row("stream_over_sdk", text, statistics.median(ratios), "x", 20.0, how, is_floor=True)]


def _over_stdio(load: Load, reports: Mapping[tuple[str, str], list[Report]]) -> list[Row]:
    """The real CLI through the service beside the same over stdio, round by round."""
    pairs = list(zip(reports.get((load.name, SERVICE), ()), reports.get((load.name, "stdio"), ()), strict=False))
    if not pairs:
        return []
    ratios = [(ours.answers / ours.seconds) / (theirs.answers / theirs.seconds) for ours, theirs in pairs]
    added = [ours.first_ms["p50"] - theirs.first_ms["p50"] for ours, theirs in pairs]
    how = f"{load.how}; {min(ratios):.3f} to {max(ratios):.3f}"
    text = "turns a second, over those straight over stdio"
    ratio = Row(f"{load.name}_ratio", text, statistics.median(ratios), "x", 0.97, how, is_floor=True)
    how = f"{load.how}; {min(added):.3g} to {max(added):.3g}"
    text = "first token, p50, later than over stdio"
    return [ratio, Row(f"{load.name}_added_ms", text, statistics.median(added), "ms", 1.0, how)]


def overload_rows(stages: list[Stage]) -> list[Row]:
    """What an overload did to those who were answered, and to those who came after it."""
    before, during, _, after = stages
    seats = before.rate * 2 * TURN_S
    capacity = seats / (before.answer_ms["p50"] / 1e3)
    refused = ", ".join(f"{count} times {code}" for code, count in sorted(during.refused.items()))
    how = (
        f"{seats:.0f} seats, turns of {TURN_S * 1e3:g} ms, {during.rate:g} requests a second for {during.seconds:g} s:"
        f" {during.goodput:.1f} answers a second of {capacity:.1f}; refused {refused}; left {during.left}"
    )
    goodput = Row(
        "overload_goodput",
        "goodput under three times the load",
        during.goodput / capacity * 100,
        "%",
        95.0,
        how,
        is_floor=True,
    )
    slower = after.answer_ms["p90"] / before.answer_ms["p90"]
    how = (
        f"half the load, p90 of whole answers from {after.seconds:g} s after the overload on, over that before it:"
        f" {after.answer_ms['p90']:.1f} and {before.answer_ms['p90']:.1f} ms"
    )
    back = Row("overload_after", "answers after the overload", slower, "x", 1.1, how)
    wrong = sum(stage.wrong for stage in stages)
    how = "answers of an overload that were neither whole nor a refusal"
    return [goodput, back, Row("overload_wrong", "wrong answers", wrong, "", 0.0, how, is_correctness=True)]


# --- the run -----------------------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table, write the JSON; the exit code."""
    effort = QUICK if arguments.quick else FULL
    if arguments.rounds is not None:
        effort = effort._replace(rounds=arguments.rounds)
    chosen = list(PEERS) if arguments.peers == [] else arguments.peers or ()
    bench = Bench(effort, arguments.only, chosen, is_alone=arguments.alone, is_real=arguments.real)

    def measured() -> Iterator[list[Row]]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            yield runner.run(subject.stoppable(bench.run()))

    return told(measured(), is_quick=arguments.quick, json_file=arguments.json)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command understands."""
    names = [*(load.name for load in loads(QUICK)), OVERLOAD]
    parser.add_argument("--quick", action="store_true", help="everything once and briefly, in less than two minutes")
    parser.add_argument("--only", nargs="+", default=(), choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--real", action="store_true", help="measure on the packaged CLI too")
    parser.add_argument(
        "--peers", nargs="*", choices=PEERS, metavar="NAME", help=f"install and measure {', '.join(PEERS)}, or some"
    )
    parser.add_argument("--alone", action="store_true", help="only the service, without what it is compared with")
    parser.add_argument("--rounds", type=int, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")

"""The latency-throughput curve of a service, and its knee: what so many workers and slots can do, and at what wait.

    python -m loadtest.curve [--seats WORKERSxSLOTS ...] [--real] [--cv 1] [--points 7] [--seconds 8] [--out FILE]

For each number of seats a service is started, and clients that do not wait for each other ask it for streams at a rate
that rises from point to point (`loadtest.open_loop`); times count from the moment at which a request should have been
sent, and the first moments of a rate are not counted. Workers are fakes that cost nothing (`loadtest.mill`), with
`--real` the packaged CLI on a stand-in model: then a turn costs what it costs, and it shows when there are more seats
than the machine can feed. An answer is `--delay` seconds of silence and `--deltas` deltas `--interval` seconds apart.

The knee is the point with the greatest power, answers a second over the p90 of the time to the first token (Kleinrock):
before it, more load costs little wait; after it, more load is mostly wait and refusals. Two more points are taken next
to the best one. A table is printed; FILE.png and FILE.json are written, the picture only if matplotlib is installed.
Everything is on loopback, has an end, and takes away what it started.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import itertools
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from loadtest import subject
from loadtest.kernel import cpu_s
from loadtest.open_loop import OpenPlan, Stage

LOADS = (0.25, 1.3)
"""The first and the last rate, in parts of what the seats could do if turns cost nothing but their own time."""
BAR = 40
MODEL = "curve"


class Shape(msgspec.Struct, frozen=True):
    """What every answer is like."""

    delay_s: float
    deltas: int
    interval_s: float

    @property
    def turn_s(self) -> float:
        return self.delay_s + (self.deltas - 1) * self.interval_s


class Point(msgspec.Struct, frozen=True):
    """One rate, and what came of it; milliseconds from when a request should have been sent."""

    rate: float
    goodput: float
    first_p50_ms: float
    first_p90_ms: float
    first_p99_ms: float
    answer_p99_ms: float
    refused: float
    """Share of the requests."""
    service_cpu: float
    """Cores."""

    @property
    def power(self) -> float:
        """Answers a second over the wait for their first token."""
        return self.goodput / self.first_p90_ms if self.first_p90_ms else 0.0


class Curve(msgspec.Struct, frozen=True):
    """All points of one service."""

    workers: int
    slots: int
    points: tuple[Point, ...]

    @property
    def knee(self) -> Point:
        """The point with the greatest power."""
        return max(self.points, key=lambda point: point.power)

    @property
    def name(self) -> str:
        return f"{self.workers} x {self.slots}"


def point(stage: Stage, service_cpu: float) -> Point:
    """What one stage amounts to."""
    first, answer = stage.first_token_ms, stage.answer_ms
    return Point(
        rate=stage.offered / stage.seconds,
        goodput=stage.goodput,
        first_p50_ms=first.get("p50", 0.0),
        first_p90_ms=first.get("p90", 0.0),
        first_p99_ms=first.get("p99", 0.0),
        answer_p99_ms=answer.get("p99", 0.0),
        refused=sum(stage.refused.values()) / max(1, stage.offered),
        service_cpu=service_cpu,
    )


def rates(seats: int, shape: Shape, count: int) -> list[float]:
    """The arrivals a second of each point."""
    full = seats / shape.turn_s
    first, last = LOADS
    return [full * (first + (last - first) * number / max(1, count - 1)) for number in range(count)]


def around(planned: Sequence[float], best: int) -> list[float]:
    """The arrivals a second of two more points: halfway to the best one's neighbours, where the knee may hide."""
    near = planned[max(0, best - 1) : best + 2]
    return [(left + right) / 2 for left, right in itertools.pairwise(near)]


async def measure(arguments: argparse.Namespace) -> list[Curve]:
    """A curve for each number of seats, one after the other.

    Raises:
        RuntimeError: something did not start or failed, or an answer was wrong.
    """
    shape = Shape(arguments.delay, arguments.deltas, arguments.interval)
    curves = []
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="codex-completions-curve-")))
        if arguments.real:
            profile: dict[str, Any] = {"base_url": await stack.enter_async_context(subject.standin())}
        else:
            codex, _ = await stack.enter_async_context(subject.mill(directory))
            profile = {"codex_bin": str(codex)}
        profile |= {"queue_budget_s": arguments.queue_budget, "queue_max": arguments.queue_max}
        for workers, slots in arguments.seats:
            seats = {"workers": workers, "slots": slots}
            folder = directory / f"{workers}x{slots}"
            async with subject.service(folder, {MODEL: {**profile, **seats}}) as target:
                curves.append(Curve(workers, slots, await _points(target, workers * slots, shape, arguments)))
    return curves


async def _points(
    target: subject.Subject, seats: int, shape: Shape, arguments: argparse.Namespace
) -> tuple[Point, ...]:
    plan = OpenPlan(
        port=target.port,
        key=target.key,
        model=MODEL,
        stages=((seats / shape.turn_s / 2, shape.turn_s + 1.0),),  # workers prove themselves
        cv=arguments.cv,
        delay_s=shape.delay_s,
        deltas=shape.deltas,
        interval_s=shape.interval_s,
    )
    await subject.told(list[Stage], "loadtest.open_loop", msgspec.json.encode(plan).decode())
    planned = rates(seats, shape, arguments.points)
    points = [await _point(target, plan, rate, arguments.seconds) for rate in planned]
    best = max(range(len(points)), key=lambda number: points[number].power)
    points += [await _point(target, plan, rate, arguments.seconds) for rate in around(planned, best)]
    return tuple(sorted(points, key=lambda point: point.rate))


async def _point(target: subject.Subject, plan: OpenPlan, rate: float, seconds: float) -> Point:
    """What comes of one rate, when it has been asked for as long as `plan` warmed up."""
    ((_, warm_s),) = plan.stages
    plan = msgspec.structs.replace(plan, stages=((rate, warm_s), (rate, seconds)), seed=round(rate * 1000))
    before = cpu_s(target.pid)
    stages = await subject.told(list[Stage], "loadtest.open_loop", msgspec.json.encode(plan).decode())
    cores = (cpu_s(target.pid) - before) / sum(stage.seconds for stage in stages)
    for stage in stages:
        if stage.wrong:
            raise RuntimeError(f"{stage.wrong} wrong answers at {rate:.1f}/s: {stage.first_wrong}")
    return point(stages[-1], cores)


# --- what is shown -----------------------------------------------------------------------------------------------


def table(curve: Curve) -> str:
    """The curve as text; the bar is the p90 of the time to the first token."""
    longest = max(point.first_p90_ms for point in curve.points) or 1.0
    lines = [
        f"{curve.workers} workers x {curve.slots} slots",
        " asked/s  answered/s  first token p50    p90    p99 ms  answer p99 ms  refused  CPU of the service",
    ]
    for one in curve.points:
        mark = "  <- knee" if one is curve.knee else ""
        lines.append(
            f"{one.rate:8.1f}  {one.goodput:10.1f}  {one.first_p50_ms:15.0f} {one.first_p90_ms:6.0f} "
            f"{one.first_p99_ms:6.0f}     {one.answer_p99_ms:10.0f}  {one.refused:7.1%}  {one.service_cpu:6.2f} "
            f"{'#' * max(1, round(one.first_p90_ms / longest * BAR))}{mark}"
        )
    return "\n".join(lines)


def draw(curves: Sequence[Curve], path: Path, title: str) -> None:
    """The curves as a picture: what is answered and what is waited, over what is asked."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - optional

    figure = Figure(figsize=(9, 8), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    highest = max(one.rate for curve in curves for one in curve.points)
    top.plot([0, highest], [0, highest], color="0.7", linestyle=":", label="all that is asked")
    for number, curve in enumerate(curves):
        colour, knee = f"C{number}", curve.knee
        asked = [one.rate for one in curve.points]
        top.plot(asked, [one.goodput for one in curve.points], color=colour, marker="o", label=curve.name)
        top.plot(knee.rate, knee.goodput, color=colour, marker="o", markersize=14, fillstyle="none")
        bottom.plot(
            asked, [one.first_p99_ms for one in curve.points], color=colour, marker="o", label=f"{curve.name}, p99"
        )
        half = [one.first_p50_ms for one in curve.points]
        bottom.plot(asked, half, color=colour, linestyle="--", label=f"{curve.name}, p50")
        bottom.plot(knee.rate, knee.first_p99_ms, color=colour, marker="o", markersize=14, fillstyle="none")
        bottom.axvline(knee.rate, color=colour, linewidth=0.6, alpha=0.6)
    top.set_ylabel("answers a second")
    top.legend(title="workers x slots; ring: knee", loc="upper left")
    bottom.set_ylabel("time to first token, ms")
    bottom.set_ylim(bottom=0)
    bottom.set_xlabel("requests a second (arrivals that wait for nobody)")
    bottom.legend(loc="best", ncols=2)
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, draw; the exit code."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        curves = runner.run(subject.stoppable(measure(arguments)))
    for curve in curves:
        knee = curve.knee
        print(table(curve))
        print(f"knee: {knee.goodput:.1f} answers/s of {knee.rate:.1f}, first token p99 {knee.first_p99_ms:.0f} ms\n")
    if arguments.out is not None:
        arguments.out.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(curves)) + b"\n")
        if importlib.util.find_spec("matplotlib") is None:
            print("no picture: matplotlib is not installed (it is in the extra `loadtest`)")
        else:
            workers = "the packaged CLI on a stand-in model" if arguments.real else "fake workers"
            shape = f"{arguments.delay:g} s and {arguments.deltas} deltas {arguments.interval * 1e3:g} ms apart"
            draw(curves, arguments.out.with_suffix(".png"), f"{workers}; an answer is {shape}")
    return 0


def _seats(text: str) -> tuple[int, int]:
    workers, _, slots = text.partition("x")
    return int(workers), int(slots)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seats", type=_seats, nargs="+", default=[(2, 8)], metavar="WORKERSxSLOTS")
    parser.add_argument("--real", action="store_true", help="the packaged CLI instead of fakes")
    parser.add_argument("--cv", type=float, default=1.0, help="of the gaps: 0 a metronome, 1 independent, more: bursts")
    parser.add_argument("--points", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each point")
    parser.add_argument("--delay", type=float, default=0.2, metavar="S")
    parser.add_argument("--deltas", type=int, default=20, metavar="N")
    parser.add_argument("--interval", type=float, default=0.02, metavar="S")
    parser.add_argument("--queue-budget", type=float, default=10.0, metavar="S")
    parser.add_argument("--queue-max", type=int, default=64, metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE", help="for FILE.png and FILE.json")
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

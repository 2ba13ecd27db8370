"""A cheap client for figures, as a process of its own: raw HTTP on kept connections, and no more than is needed.

    python -m loadtest.bench_client PLAN

PLAN is a `Plan` as JSON; a `Report` comes out as JSON. What is measured counts from the end of the warm-up on; CPU time
is the kernel's, of the process `pid`. Whatever answer is not exactly what was asked for is counted as wrong.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
import re
import sys
import time
from collections.abc import Sequence
from typing import Final, Literal

import msgspec
import uvloop

from loadtest.kernel import cpu_s, rss_bytes
from loadtest.mill import STAMP
from loadtest.wire import Wire, chat

WORD: Final = " tokens"
"""The text of a delta that is not stamped."""
PATIENCE_S: Final = 20.0
_STAMP: Final = re.compile(rb"<(\d{16})>")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do: `whole` and `stream` ask again and again on every connection; `paced` opens one stream on each, with
    a delta every `interval_s`; `idle` likewise, with nothing but a first delta."""

    kind: Literal["whole", "stream", "paced", "idle"]
    port: int
    pid: int
    key: str
    headers: dict[str, str] = {}
    """Further ones of every request."""
    models: tuple[str, ...]
    """Connections take them in turn."""
    connections: int
    deltas: int = 1
    interval_s: float = 0.0
    warm_s: float = 0.5
    seconds: float = 2.0
    answers: int = 0
    """Measure until there are so many, instead of for `seconds`, which is then how long it may take; warm up for a
    quarter of them."""


class Report(msgspec.Struct, kw_only=True):
    """What came of it. Latencies in milliseconds."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    answers: int = 0
    wrong: int = 0
    deltas: int = 0
    lost: int = 0
    first_wrong: str = ""
    rss_before_bytes: int = 0
    rss_bytes: int = 0
    client_cpu_s: float = 0.0
    turn_ms: dict[str, float] = {}
    first_ms: dict[str, float] = {}
    """From the request to its first delta, of streams."""
    late_ms: dict[str, float] = {}
    """Of a delta: from its writing to its arrival here."""
    written_late_ms: dict[str, float] = {}
    """Of a delta: from when it should have been written, counted from the stream's first one."""


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The usual ones by name."""
    if not values:
        return {}
    ordered = sorted(values)
    last = len(ordered) - 1
    picks = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {name: ordered[math.ceil(share * last)] for name, share in picks.items()}


def prompt(plan: Plan) -> str:
    """The directive that makes the mill answer as planned."""
    match plan.kind:
        case "paced":
            directive = {"chunks": [f"<{STAMP}>"], "repeat": plan.deltas, "interval_s": plan.interval_s}
        case "idle":
            directive = {"chunks": [WORD], "hang": "middle"}
        case _:
            directive = {"chunks": [WORD], "repeat": plan.deltas}
    return f"Say something. @@{json.dumps(directive)}"


def request(plan: Plan, model: str) -> bytes:
    """The bytes of one request."""
    message = {"role": "user", "content": prompt(plan)}
    body = json.dumps({"model": model, "stream": plan.kind != "whole", "messages": [message]})
    return chat(plan.port, plan.key, body.encode(), plan.headers)


class Connection(Wire):
    """One connection, on which the same is asked again and again, or once."""

    def __init__(self, run: Run, data: bytes) -> None:
        super().__init__()
        self._run = run
        self._request = data
        self._marker = WORD.encode()
        self._is_done = False
        self._asked_at = 0.0
        self._first_us = 0
        self.deltas = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_connected(self) -> None:
        self._is_done = False
        self.deltas = 0
        self._asked_at = time.perf_counter()
        self.send(self._request)

    def on_events(self, events: bytes) -> None:
        had_begun = self.deltas > 0
        if self._run.plan.kind == "paced":
            now_us = time.monotonic_ns() // 1000
            for stamp in _STAMP.findall(events):
                self._note(int(stamp), now_us)
        else:
            self._count(events)
        if self.deltas and not had_begun:
            self._run.began(time.perf_counter() - self._asked_at)
            if not self.begun.done():
                self.begun.set_result(None)
        self._is_done = self._is_done or b"data: [DONE]" in events

    def on_end(self, status: int, body: bytes) -> None:
        run = self._run
        if run.plan.kind == "whole":
            self._count(body)
        if status == 200 and self._is_done is (run.plan.kind != "whole") and self.deltas == run.plan.deltas:
            run.answered(time.perf_counter() - self._asked_at)
        else:
            run.went_wrong(f"{status}, {self.deltas} deltas of {run.plan.deltas}: {body[-500:]!r}")
            run.lost += max(0, run.plan.deltas - self.deltas)
        if run.wants_more and self.is_connected:
            self.on_connected()
            return
        for future in (self.ended, self.begun):
            if not future.done():
                future.set_result(None)

    def _count(self, data: bytes) -> None:
        count = data.count(self._marker)
        self.deltas += count
        self._run.deltas += count

    def _note(self, stamp_us: int, now_us: int) -> None:
        self._first_us = self._first_us or stamp_us
        due_us = self._first_us + self.deltas * self._run.plan.interval_s * 1e6
        self.deltas += 1
        if self._run.is_counting:
            self._run.deltas += 1
            self._run.late_us.append(now_us - stamp_us)
            self._run.written_late_us.append(stamp_us - due_us)


class Run:
    """A plan that is carried out."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.deltas = 0
        self.lost = 0
        self.late_us: list[int] = []
        self.written_late_us: list[float] = []
        self.is_counting = False
        self.wants_more = plan.kind in ("whole", "stream")
        self._turns_s: list[float] = []
        self._first_s: list[float] = []
        self._answers = 0
        self._awaited = 0
        self._reached = asyncio.Event()
        self._report = Report()

    def began(self, took_s: float) -> None:
        """A stream has its first delta."""
        if self.is_counting:
            self._first_s.append(took_s)

    def answered(self, took_s: float) -> None:
        """An answer is complete and right."""
        self._answers += 1
        if self.is_counting:
            self._turns_s.append(took_s)
        if self._answers == self._awaited:
            self._reached.set()

    def went_wrong(self, why: str) -> None:
        """An answer is not what it should be."""
        self._report.wrong += 1
        self._report.first_wrong = self._report.first_wrong or why[:1000]

    async def carry_out(self) -> Report:
        """All of it."""
        report, plan = self._report, self.plan
        report.rss_before_bytes = rss_bytes(plan.pid)
        connections: list[Connection] = []
        try:
            async with asyncio.timeout(PATIENCE_S + 2 * plan.warm_s + plan.seconds):
                await self._connect(connections)
                if plan.kind == "idle":
                    for connection in connections:
                        await connection.begun
                    await asyncio.sleep(plan.seconds)
                    report.rss_bytes = rss_bytes(plan.pid)
                    report.answers = sum(connection.deltas == 1 for connection in connections)
                else:
                    await self._measure()
                    for connection in connections:
                        await connection.ended
        except TimeoutError:
            self.went_wrong("it took too long")
        for connection in connections:
            connection.abort()
        report.lost = self.lost
        return report

    async def _connect(self, connections: list[Connection]) -> None:
        loop, plan = asyncio.get_running_loop(), self.plan
        requests = [request(plan, model) for model in plan.models]
        began_at = loop.time()
        for number in range(plan.connections):
            make = functools.partial(Connection, self, requests[number % len(requests)])
            _, connection = await loop.create_connection(make, "127.0.0.1", plan.port)
            connections.append(connection)
            if plan.kind in ("paced", "idle"):  # spread out, as clients are
                await asyncio.sleep(began_at + plan.warm_s * (number + 1) / plan.connections - loop.time())

    async def _until(self, answers: int, seconds: float) -> None:
        """Until there are so many answers, if the plan counts them, else for so long."""
        if not self.plan.answers:
            await asyncio.sleep(seconds)
        elif self._answers < answers:
            self._awaited = answers
            self._reached.clear()
            await self._reached.wait()

    async def _measure(self) -> None:
        report, plan = self._report, self.plan
        warm = plan.answers // 4
        await self._until(warm, plan.warm_s)
        self.is_counting = True
        report.rss_before_bytes = rss_bytes(plan.pid)
        before = cpu_s(plan.pid), time.process_time(), self.deltas, time.perf_counter()
        await self._until(warm + plan.answers, plan.seconds)
        report.cpu_s = cpu_s(plan.pid) - before[0]
        report.client_cpu_s = time.process_time() - before[1]
        report.deltas = self.deltas - before[2]
        report.seconds = time.perf_counter() - before[3]
        self.is_counting = self.wants_more = False
        report.rss_bytes = rss_bytes(plan.pid)
        report.answers = len(self._turns_s)
        report.turn_ms = {name: value * 1e3 for name, value in percentiles(self._turns_s).items()}
        report.first_ms = {name: value * 1e3 for name, value in percentiles(self._first_s).items()}
        report.late_ms = {name: value / 1e3 for name, value in percentiles(self.late_us).items()}
        report.written_late_ms = {name: value / 1e3 for name, value in percentiles(self.written_late_us).items()}


def main() -> int:
    """The command; its exit code."""
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    report = uvloop.run(Run(plan).carry_out())
    print(msgspec.json.encode(report).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())

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
from typing import Final, Literal, cast

import msgspec
import uvloop

from loadtest.kernel import cpu_s, rss_bytes
from loadtest.mill import STAMP

WORD: Final = " tokens"
"""The text of a delta that is not stamped."""
PATIENCE_S: Final = 20.0
_STAMP: Final = re.compile(rb"<(\d{16})>")
_LAST_CHUNK: Final = b"0\r\n\r\n"
_LENGTH: Final = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do: `whole` and `stream` ask again and again on every connection; `paced` opens one stream on each, with
    a delta every `interval_s`; `idle` likewise, with nothing but a first delta."""

    kind: Literal["whole", "stream", "paced", "idle"]
    port: int
    pid: int
    key: str
    models: tuple[str, ...]
    """Connections take them in turn."""
    connections: int
    deltas: int = 1
    interval_s: float = 0.0
    warm_s: float = 0.5
    seconds: float = 2.0


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
    body = json.dumps({"model": model, "stream": plan.kind != "whole", "messages": [message]}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{plan.port}\r\nAuthorization: Bearer {plan.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection(asyncio.Protocol):
    """One connection and at most one request on it at a time."""

    def __init__(self, run: Run, data: bytes) -> None:
        self._run = run
        self._request = data
        self._marker = WORD.encode()
        self._unread = b""
        self._is_head_over = False
        self._is_done = False
        self._length = 0
        self._asked_at = 0.0
        self.deltas = 0
        self.first_us = 0
        self.transport: asyncio.Transport | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self._run.went_wrong(f"the connection was lost: {exc} {self._unread[-200:]!r}")
            self._end()

    def data_received(self, data: bytes) -> None:
        data = self._unread + data
        if not self._is_head_over:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._unread = data
                return
            found = _LENGTH.search(data, 0, end)
            self._length = int(found[1]) if found else 0
            self._is_head_over = True
            if not data.startswith(b"HTTP/1.1 200 "):
                self._run.went_wrong(data.decode(errors="replace"))
                self._end()
                return
            data = data[end + 4 :]
        if self._length:
            self._whole(data)
        else:
            self._piece(data)

    def _ask(self) -> None:
        assert self.transport is not None  # noqa: S101 - it is connected
        self._unread = b""
        self._is_head_over = self._is_done = False
        self.deltas = 0
        self._asked_at = time.perf_counter()
        self.transport.write(self._request)

    def _whole(self, data: bytes) -> None:
        """An answer with a length."""
        self._unread = data
        if len(data) >= self._length:
            self.deltas = data.count(self._marker)
            self._run.deltas += self.deltas
            self._is_done = True
            self._answered()

    def _piece(self, data: bytes) -> None:
        """A part of a stream; what is kept is shorter than anything that is looked for, or an unfinished event."""
        now_us = time.monotonic_ns() // 1000
        cut = data.rfind(b"\n\n") + 2
        if cut >= 2:
            self._events(data[:cut], now_us)
            data = data[cut:]
        self._unread = data
        if data.endswith(_LAST_CHUNK):
            self._answered()

    def _events(self, events: bytes, now_us: int) -> None:
        if self._run.plan.kind == "paced":
            for stamp in _STAMP.findall(events):
                self._note(int(stamp), now_us)
        else:
            count = events.count(self._marker)
            self.deltas += count
            self._run.deltas += count
        if self.deltas and not self.begun.done():
            self.begun.set_result(None)
        self._is_done = self._is_done or b"data: [DONE]" in events

    def _note(self, stamp_us: int, now_us: int) -> None:
        self.first_us = self.first_us or stamp_us
        due_us = self.first_us + self.deltas * self._run.plan.interval_s * 1e6
        self.deltas += 1
        if self._run.is_counting:
            self._run.deltas += 1
            self._run.late_us.append(now_us - stamp_us)
            self._run.written_late_us.append(stamp_us - due_us)

    def _answered(self) -> None:
        if self._is_done and self.deltas == self._run.plan.deltas:
            self._run.answered(time.perf_counter() - self._asked_at)
        else:
            self._run.went_wrong(f"{self.deltas} deltas of {self._run.plan.deltas}")
        self._run.lost += max(0, self._run.plan.deltas - self.deltas)
        if self._run.wants_more:
            self._ask()
        else:
            self._end()

    def _end(self) -> None:
        for future in (self.ended, self.begun):
            if not future.done():
                future.set_result(None)


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
        self._report = Report()

    def answered(self, took_s: float) -> None:
        """An answer is complete and right."""
        if self.is_counting:
            self._turns_s.append(took_s)

    def went_wrong(self, why: str) -> None:
        """An answer is not what it should be."""
        self._report.wrong += 1
        self._report.first_wrong = self._report.first_wrong or why[:1000]

    async def carry_out(self) -> Report:
        """All of it."""
        report, plan = self._report, self.plan
        report.rss_before_bytes = rss_bytes(plan.pid)
        loop = asyncio.get_running_loop()
        requests = [request(plan, model) for model in plan.models]
        connections: list[Connection] = []
        began_at = loop.time()
        for number in range(plan.connections):
            make = functools.partial(Connection, self, requests[number % len(requests)])
            _, connection = await loop.create_connection(make, "127.0.0.1", plan.port)
            connections.append(connection)
            if plan.kind in ("paced", "idle"):  # spread out, as clients are
                await asyncio.sleep(began_at + plan.warm_s * (number + 1) / plan.connections - loop.time())
        try:
            async with asyncio.timeout(PATIENCE_S + plan.warm_s + plan.seconds):
                if plan.kind == "idle":
                    for connection in connections:
                        await connection.begun
                    await asyncio.sleep(plan.seconds)
                    report.rss_bytes = rss_bytes(plan.pid)
                    report.answers = sum(connection.deltas == 1 for connection in connections)
                    return report
                await asyncio.sleep(plan.warm_s)
                await self._measure()
                for connection in connections:
                    await connection.ended
        except TimeoutError:
            self.went_wrong("it took too long")
        finally:
            for connection in connections:
                if connection.transport is not None:
                    connection.ended.cancel()
                    connection.transport.abort()
        return report

    async def _measure(self) -> None:
        report, pid = self._report, self.plan.pid
        self.is_counting = True
        before = cpu_s(pid), time.process_time(), self.deltas, time.perf_counter()
        await asyncio.sleep(self.plan.seconds)
        report.cpu_s = cpu_s(pid) - before[0]
        report.client_cpu_s = time.process_time() - before[1]
        report.deltas = self.deltas - before[2]
        report.seconds = time.perf_counter() - before[3]
        self.is_counting = self.wants_more = False
        report.rss_bytes = rss_bytes(pid)
        report.answers = len(self._turns_s)
        report.turn_ms = {name: value * 1e3 for name, value in percentiles(self._turns_s).items()}
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

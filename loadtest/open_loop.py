"""Clients that do not wait for each other: requests arrive by rate and burstiness, whatever becomes of those before.

    python -m loadtest.open_loop PLAN

PLAN is an `OpenPlan` as JSON; a list of `Stage`s comes out as JSON. Latency counts from the moment at which a request
was meant to be sent: a service (or this program) that falls behind cannot hide it by sending less. A request that finds
no answer within `patience_s` hangs up.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Final

import msgspec
import uvloop

from loadtest.bench_client import WORD, percentiles
from loadtest.wire import Wire, chat

MAX_CONNECTIONS: Final = 4000
_ERROR: Final = b'data: {"error":{'


class OpenPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What arrives: `stages` are pairs of requests a second and seconds, one right after the other."""

    port: int
    key: str
    model: str
    stages: tuple[tuple[float, float], ...]
    cv: float = 1.0
    """Coefficient of variation of the gaps: 0 is a metronome, 1 independent clients (Poisson), more means bursts."""
    deltas: int = 20
    delay_s: float = 0.0
    """Before the first delta."""
    interval_s: float = 0.0
    patience_s: float = 30.0
    seed: int = 1


class Stage(msgspec.Struct, kw_only=True):
    """What came of the requests that should have been sent in one stage; times count from that moment."""

    rate: float
    seconds: float
    offered: int = 0
    answered: int = 0
    completed: int = 0
    """Right answers that ended in this stage, whenever they were asked for."""
    refused: dict[str, int] = {}
    """By status and code."""
    left: int = 0
    """Clients whose patience ended."""
    wrong: int = 0
    first_wrong: str = ""
    first_token_ms: dict[str, float] = {}
    answer_ms: dict[str, float] = {}

    @property
    def goodput(self) -> float:
        """Right answers a second."""
        return self.completed / self.seconds


def arrivals(plan: OpenPlan) -> Iterator[tuple[float, int]]:
    """When each request should be sent, in seconds from the start, and in which stage."""
    draw = random.Random(plan.seed)
    begin = 0.0
    for number, (rate, seconds) in enumerate(plan.stages):
        at = begin
        while rate:
            at += draw.gammavariate(plan.cv**-2, plan.cv**2 / rate) if plan.cv else 1 / rate
            if at >= begin + seconds:
                break
            yield at, number
        begin += seconds


class Client(Wire):
    """A connection that is used by one request after the other."""

    def __init__(self, crowd: Crowd) -> None:
        super().__init__()
        self._crowd = crowd
        self._due_at = 0.0
        self._first_at = 0.0
        self._deltas = 0
        self._error = b""
        self._stage = 0
        self._patience: asyncio.TimerHandle | None = None

    def ask(self, due_at: float, stage: int) -> None:
        """Send a request that should have been sent at `due_at`."""
        crowd = self._crowd
        self._due_at, self._stage = due_at, stage
        self._first_at = 0.0
        self._deltas = 0
        self._error = b""
        self._patience = crowd.loop.call_at(due_at + crowd.plan.patience_s, self._leave)
        self.send(crowd.request)

    def on_events(self, events: bytes) -> None:
        count = events.count(WORD.encode())
        if count and not self._deltas:
            self._first_at = self._crowd.loop.time()
        self._deltas += count
        at = events.find(_ERROR)
        if at >= 0:
            self._error = events[at + len(b"data: ") :].partition(b"\n")[0]

    def on_end(self, status: int, body: bytes) -> None:
        assert self._patience is not None  # noqa: S101 - it was asked
        self._patience.cancel()
        now, crowd = self._crowd.loop.time(), self._crowd
        stage = crowd.stages[self._stage]
        if status == 200 and self._deltas == crowd.plan.deltas:
            stage.answered += 1
            crowd.first_s[self._stage].append(self._first_at - self._due_at)
            crowd.answer_s[self._stage].append(now - self._due_at)
            crowd.completed(now)
        elif status >= 400 or self._error:  # a stream that has waited for long has its status before its error
            stage.refused = dict(Counter(stage.refused) + Counter([f"{status} {_code(self._error or body)}"]))
        else:
            stage.wrong += 1
            stage.first_wrong = stage.first_wrong or f"{status}, {self._deltas} deltas: {body[-500:]!r}"
        crowd.done(self)

    def _leave(self) -> None:
        self.abort()
        self._crowd.stages[self._stage].left += 1
        self._crowd.done(self)


def _code(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, LookupError, TypeError):
        return "malformed"


class Crowd:
    """All of them."""

    def __init__(self, plan: OpenPlan) -> None:
        self.plan = plan
        self.loop = asyncio.get_running_loop()
        self.stages = [Stage(rate=rate, seconds=seconds) for rate, seconds in plan.stages]
        self.first_s: list[list[float]] = [[] for _ in plan.stages]
        self.answer_s: list[list[float]] = [[] for _ in plan.stages]
        directive = {"chunks": [WORD], "repeat": plan.deltas, "delay_s": plan.delay_s, "interval_s": plan.interval_s}
        message = {"role": "user", "content": f"Say something. @@{json.dumps(directive)}"}
        body = json.dumps({"model": plan.model, "stream": True, "messages": [message]})
        self.request = chat(plan.port, plan.key, body.encode())
        self._idle: list[Client] = []
        self._open = 0
        self._began_at = 0.0
        self._is_over = asyncio.Event()
        self._pending = 0

    async def run(self) -> list[Stage]:
        """Everything, until the last answer or the end of the last client's patience."""
        async with asyncio.TaskGroup() as tasks:
            self._began_at = self.loop.time()
            for at, number in arrivals(self.plan):
                due_at = self._began_at + at
                if due_at > self.loop.time():
                    await asyncio.sleep(due_at - self.loop.time())
                self.stages[number].offered += 1
                self._pending += 1
                while self._idle and not self._idle[-1].is_connected:
                    self._idle.pop()
                    self._open -= 1
                if self._idle:
                    self._idle.pop().ask(due_at, number)
                elif self._open < MAX_CONNECTIONS:
                    self._open += 1
                    tasks.create_task(self._connect_and_ask(due_at, number))
                else:
                    self.stages[number].wrong += 1
                    self._pending -= 1
        while self._pending:
            self._is_over.clear()
            await self._is_over.wait()
        for client in self._idle:
            client.abort()
        for stage, first_s, answer_s in zip(self.stages, self.first_s, self.answer_s, strict=True):
            stage.first_token_ms = {name: value * 1e3 for name, value in percentiles(first_s).items()}
            stage.answer_ms = {name: value * 1e3 for name, value in percentiles(answer_s).items()}
        return self.stages

    def completed(self, now: float) -> None:
        """A right answer ended now."""
        at = now - self._began_at
        for stage in self.stages:
            if at < stage.seconds:
                stage.completed += 1
                return
            at -= stage.seconds

    def done(self, client: Client) -> None:
        """The client's request has come to its end."""
        self._pending -= 1
        if not self._pending:
            self._is_over.set()
        if client.is_connected:
            self._idle.append(client)
        else:
            self._open -= 1

    async def _connect_and_ask(self, due_at: float, stage: int) -> None:
        try:
            _, client = await self.loop.create_connection(lambda: Client(self), "127.0.0.1", self.plan.port)
        except OSError:
            self.stages[stage].wrong += 1
            self._pending -= 1
            self._open -= 1
            return
        client.ask(due_at, stage)


def main() -> int:
    """The command; its exit code."""
    plan = msgspec.json.decode(sys.argv[1], type=OpenPlan)

    async def run() -> list[Stage]:
        return await Crowd(plan).run()

    print(msgspec.json.encode(uvloop.run(run())).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())

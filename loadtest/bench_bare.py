"""What the service is compared with, each in a process of its own, on the same workers.

    python -m loadtest.bench_bare stdio CODEX WORKERS DIRECTORY BASE_URL PLAN
    python -m loadtest.bench_bare sdk CODEX WORKERS DIRECTORY BASE_URL PLAN
    python -m loadtest.bench_bare forwarder CODEX WORKERS DIRECTORY BASE_URL

`stdio` runs turns straight on app-servers (`loadtest.bare`) and reads their deltas; `sdk` does with the vendor's async
client. Both obey a `loadtest.bench_client.Plan` and print its `Report`; their CPU time is their own. `forwarder` is the
shortest aiohttp program that answers chat completions from app-servers, the floor under every service on aiohttp: it
prints its port, and ends with its stdin. Homes of workers are made in DIRECTORY, as the service makes them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import uvloop
from aiohttp import web

from loadtest.bare import BareWorker
from loadtest.bench_client import WORD, Plan, Report, percentiles, prompt
from loadtest.subject import MODEL
from pool.binary import bundled_models
from pool.home import Home, catalogue
from pool.profile import Credentials, Profile

Turn = Callable[[str, Callable[[str], None]], Awaitable[None]]
"""One turn of this prompt; the deltas go to the callback."""


class Staff(NamedTuple):
    """Which workers there should be."""

    codex: Path
    workers: int
    directory: Path
    base_url: str

    async def start(self) -> list[BareWorker]:
        profile = Profile("bare", self.base_url, MODEL, Credentials())
        models = catalogue(bundled_models(self.codex), (MODEL,))
        workers = []
        for number in range(self.workers):
            home = Home.create(self.directory, f"bare-{os.getpid()}-{number}", profile, models)
            workers.append(await BareWorker.start(self.codex, cwd=home.cwd, env=home.environment(profile)))
        return workers


async def stdio(staff: Staff) -> list[Turn]:
    """Turns straight on app-servers, by worker."""
    return [_on(worker) for worker in await staff.start()]


def _on(worker: BareWorker) -> Turn:
    return lambda text, on_text: worker.turn(MODEL, text, on_text)


async def sdk(staff: Staff) -> list[Turn]:
    """Turns through the vendor's async client, by worker."""
    from openai_codex import AsyncCodex, CodexConfig  # noqa: PLC0415 - an optional extra
    from openai_codex.generated.v2_all import AgentMessageDeltaNotification  # noqa: PLC0415

    clients = [AsyncCodex(CodexConfig(codex_bin=str(staff.codex))) for _ in range(staff.workers)]

    def turn_on(client: AsyncCodex) -> Turn:
        async def turn(text: str, on_text: Callable[[str], None]) -> None:
            thread = await client.thread_start(model=MODEL, ephemeral=True)
            async for event in (await thread.turn(text)).stream():
                if isinstance(event.payload, AgentMessageDeltaNotification):
                    on_text(event.payload.delta)

        return turn

    return [turn_on(client) for client in clients]


async def measure(turns: list[Turn], plan: Plan) -> Report:
    """Turns again and again, `plan.connections` at a time, on workers in turn as the service has them; what runs at the
    end is left alone."""
    report, took_s, first_s = Report(), [], []
    text, is_counting, by_turns = prompt(plan), False, itertools.cycle(turns)

    async def client() -> None:
        while True:
            await one(next(by_turns), time.perf_counter())

    async def one(turn: Turn, began_at: float) -> None:
        deltas = 0

        def on_text(delta: str) -> None:
            nonlocal deltas
            if is_counting and not deltas:
                first_s.append(time.perf_counter() - began_at)
            deltas += 1
            report.deltas += is_counting
            report.wrong += delta != WORD

        await turn(text, on_text)
        if is_counting:
            took_s.append(time.perf_counter() - began_at)
        report.lost += plan.deltas - deltas

    async with asyncio.TaskGroup() as tasks:
        clients = [tasks.create_task(client()) for _ in range(plan.connections)]
        await asyncio.sleep(plan.warm_s)
        is_counting = True
        before = time.process_time(), time.perf_counter()
        await asyncio.sleep(plan.seconds)
        is_counting = False
        report.cpu_s, report.seconds = time.process_time() - before[0], time.perf_counter() - before[1]
        for task in clients:
            task.cancel()
    report.answers = len(took_s)
    report.turn_ms = {name: value * 1e3 for name, value in percentiles(took_s).items()}
    report.first_ms = {name: value * 1e3 for name, value in percentiles(first_s).items()}
    return report


# --- the forwarder -----------------------------------------------------------------------------------------------


class Forwarder:
    """The handler of the shortest program."""

    def __init__(self, workers: list[BareWorker]) -> None:
        self._workers = itertools.cycle(workers)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = msgspec.json.decode(await request.read())
        text = body["messages"][-1]["content"]
        worker = next(self._workers)
        if not body.get("stream"):
            texts: list[str] = []
            await worker.turn(MODEL, text, texts.append)
            message = {"role": "assistant", "content": "".join(texts)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return _json({**_COMPLETION, "choices": [choice]})
        return await self._stream(request, worker, text)

    async def _stream(self, request: web.Request, worker: BareWorker, text: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        parts: list[bytes] = []
        has_parts = asyncio.Event()

        def on_text(delta: str) -> None:
            parts.append(_chunk(delta))
            has_parts.set()

        async def relay() -> None:
            while True:
                await has_parts.wait()
                has_parts.clear()
                data = b"".join(parts)
                parts.clear()
                await response.write(data)

        async with asyncio.TaskGroup() as tasks:
            relaying = tasks.create_task(relay())
            await worker.turn(MODEL, text, on_text)
            relaying.cancel()
        await response.write(b"".join(parts) + b"data: [DONE]\n\n")
        return response


_COMPLETION = {"id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": "m"}


def _json(body: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


_HEAD = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":0,"model":"m","choices":[{"index":0,"delta":'
)


def _chunk(delta: str) -> bytes:
    return _HEAD + b'{"content":%b},"finish_reason":null}]}\n\n' % msgspec.json.encode(delta)


async def _health(_request: web.Request) -> web.Response:
    return web.Response()


async def forward(staff: Staff) -> None:
    """Serve until stdin ends."""
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # a peer first tries whether this speaks HTTP/2
    app = web.Application()
    app.router.add_post("/v1/chat/completions", Forwarder(await staff.start()).chat)
    app.router.add_get("/health", _health)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    over = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_reader(0, over.set_result, None)
    await over


async def run(arguments: list[str]) -> None:
    """The command."""
    what, codex, count, directory, base_url, *rest = arguments
    staff = Staff(Path(codex), int(count), Path(directory), base_url)
    if what == "forwarder":
        await forward(staff)
        return
    turns = await (stdio if what == "stdio" else sdk)(staff)
    report = await measure(turns, msgspec.json.decode(rest[0], type=Plan))
    print(msgspec.json.encode(report).decode(), flush=True)


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1:]))
    os._exit(0)  # workers end with their stdin, and the vendor's client waits for threads that wait for events

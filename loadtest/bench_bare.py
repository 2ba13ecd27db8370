"""What the service is compared with, each in a process of its own, on the same workers.

    python -m loadtest.bench_bare stdio CODEX WORKERS PLAN
    python -m loadtest.bench_bare sdk CODEX WORKERS PLAN
    python -m loadtest.bench_bare forwarder CODEX WORKERS

`stdio` runs turns straight on app-servers (`loadtest.bare`) and reads their deltas; `sdk` does with the vendor's async
client. Both obey a `loadtest.bench_client.Plan` and print its `Report`; their CPU time is their own. `forwarder` is the
shortest aiohttp program that answers chat completions from app-servers, the floor under every service on aiohttp: it
prints its port, and ends with its stdin.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from aiohttp import web

from loadtest.bare import BareWorker
from loadtest.bench_client import WORD, Plan, Report, percentiles, prompt
from loadtest.subject import MODEL

Turn = Callable[[str, Callable[[str], None]], Awaitable[None]]
"""One turn of this prompt; the deltas go to the callback."""


async def stdio(codex: Path, count: int) -> list[Turn]:
    """Turns straight on app-servers, by worker."""
    return [_on(worker) for worker in await _workers(codex, count)]


def _on(worker: BareWorker) -> Turn:
    return lambda text, on_text: worker.turn(MODEL, text, on_text)


async def _workers(codex: Path, count: int) -> list[BareWorker]:
    env = {"PATH": os.defpath, "HOME": str(codex.parent)}
    return [await BareWorker.start(codex, cwd=codex.parent, env=env) for _ in range(count)]


async def sdk(codex: Path, count: int) -> list[Turn]:
    """Turns through the vendor's async client, by worker."""
    from openai_codex import AsyncCodex, CodexConfig  # noqa: PLC0415 - an optional extra
    from openai_codex.generated.v2_all import AgentMessageDeltaNotification  # noqa: PLC0415

    clients = [AsyncCodex(CodexConfig(codex_bin=str(codex))) for _ in range(count)]

    def turn_on(client: AsyncCodex) -> Turn:
        async def turn(text: str, on_text: Callable[[str], None]) -> None:
            thread = await client.thread_start(model=MODEL, ephemeral=True)
            async for event in (await thread.turn(text)).stream():
                if isinstance(event.payload, AgentMessageDeltaNotification):
                    on_text(event.payload.delta)

        return turn

    return [turn_on(client) for client in clients]


async def measure(turns: list[Turn], plan: Plan) -> Report:
    """Turns again and again, `plan.connections` at a time; what runs at the end is left alone."""
    report, took_s = Report(), []
    text, is_counting = prompt(plan), False

    async def client(turn: Turn) -> None:
        while True:
            deltas = 0

            def on_text(delta: str) -> None:
                nonlocal deltas
                deltas += 1
                report.deltas += is_counting
                report.wrong += delta != WORD

            began_at = time.perf_counter()
            await turn(text, on_text)
            if is_counting:
                took_s.append(time.perf_counter() - began_at)
            report.lost += plan.deltas - deltas

    async with asyncio.TaskGroup() as tasks:
        clients = [tasks.create_task(client(turns[number % len(turns)])) for number in range(plan.connections)]
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
        if not body["stream"]:
            texts: list[str] = []
            await worker.turn(MODEL, text, texts.append)
            message = {"role": "assistant", "content": "".join(texts)}
            return _json({"object": "chat.completion", "choices": [{"index": 0, "message": message}]})
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


def _json(body: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


_HEAD = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":0,"model":"m","choices":[{"index":0,"delta":'
)


def _chunk(delta: str) -> bytes:
    return _HEAD + b'{"content":%b},"finish_reason":null}]}\n\n' % msgspec.json.encode(delta)


async def forward(codex: Path, count: int) -> None:
    """Serve until stdin ends."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", Forwarder(await _workers(codex, count)).chat)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    over = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_reader(0, over.set_result, None)
    await over


async def run(arguments: list[str]) -> None:
    """The command."""
    what, codex, count, *rest = arguments
    if what == "forwarder":
        await forward(Path(codex), int(count))
        return
    turns = await (stdio if what == "stdio" else sdk)(Path(codex), int(count))
    report = await measure(turns, msgspec.json.decode(rest[0], type=Plan))
    print(msgspec.json.encode(report).decode(), flush=True)


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1:]))
    os._exit(0)  # workers end with their stdin, and the vendor's client waits for threads that wait for events

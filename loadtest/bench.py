"""Requests per second through the service on the real CLI, beside the same turns driven straight over stdio.

    python -m loadtest.bench [--rounds 5] [--seconds 4] [--workers 2] [--concurrency 1 8]
    python -m loadtest.bench hotpath [--quick] [--only NAME ...] [--rounds N] [--json FILE]
    python -m loadtest.bench scheduler [--quick] [--json FILE] [--real]
    python -m loadtest.bench store [--quick] [--json FILE] [--folder DIRECTORY] [--aiosqlite]

Both sides get the same CLI, configuration, number of processes, prompts and stand-in model; rounds alternate between
them, and the ratio is taken round by round, because a shared machine's speed drifts. Everything is on loopback and
stops by itself. The others measure something else: see `loadtest.bench_scheduler` and `loadtest.bench_store`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import tomli_w
import uvloop

from loadtest import bench_hotpath, bench_scheduler, bench_store, subject
from pool.binary import bundled_models, resolve
from pool.home import Home, catalogue
from pool.profile import Credentials, Profile

MODEL = "gpt-5.5"
PROMPT = 'Say hello. @@{"chunks": ["Hello", " from", " the stand-in."]}'
ANSWER = "Hello from the stand-in."
START_TIMEOUT_S = 30.0
TURN_TIMEOUT_S = 60.0

Turn = Callable[[int], Awaitable[str]]
"""One turn of client number N; returns the answer's text."""


class Round(NamedTuple):
    """What one side did in one round: turns per second, and milliseconds per turn."""

    rate: float
    p50_ms: float
    p99_ms: float


async def measure(turn: Turn, concurrency: int, seconds: float) -> Round:
    """Run turns back to back on `concurrency` clients for `seconds`.

    Raises:
        RuntimeError: an answer was not what it had to be.
    """
    times: list[float] = []
    end_at = time.perf_counter() + seconds

    async def client(number: int) -> None:
        while (began_at := time.perf_counter()) < end_at:
            async with asyncio.timeout(TURN_TIMEOUT_S):
                text = await turn(number)
            if text != ANSWER:
                raise RuntimeError(f"wrong answer: {text!r}")
            times.append(time.perf_counter() - began_at)

    began_at = time.perf_counter()
    async with asyncio.TaskGroup() as clients:
        for number in range(concurrency):
            clients.create_task(client(number))
    elapsed = time.perf_counter() - began_at
    times.sort()
    return Round(len(times) / elapsed, times[len(times) // 2] * 1e3, times[int(len(times) * 0.99)] * 1e3)


# --- straight over stdio -----------------------------------------------------------------------------------------


class Driver:
    """The shortest program that runs turns on one app-server: no supervision, no limits, no safety."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._turns: dict[str, tuple[list[str], asyncio.Future[str]]] = {}
        self._next = 0

    async def read(self) -> None:
        """Dispatch the app-server's output until it ends."""
        assert self._process.stdout is not None  # noqa: S101 - started with a pipe
        async for line in self._process.stdout:
            frame = json.loads(line)
            params = frame.get("params", {})
            match frame.get("method"):
                case None:
                    self._answers.pop(frame["id"]).set_result(frame["result"])
                case "item/agentMessage/delta":
                    self._turns[params["threadId"]][0].append(params["delta"])
                case "turn/completed":
                    parts, done = self._turns.pop(params["threadId"])
                    done.set_result("".join(parts))
                case _:
                    pass

    async def call(self, method: str, params: dict[str, Any]) -> Any:
        """One request and its result."""
        assert self._process.stdin is not None  # noqa: S101 - started with a pipe
        self._next += 1
        answer = self._answers[self._next] = asyncio.get_running_loop().create_future()
        frame = {"id": self._next, "method": method, "params": params}
        self._process.stdin.write(json.dumps(frame).encode() + b"\n")
        return await answer

    async def turn(self) -> str:
        """The same turn as the service runs it."""
        started = await self.call(
            "thread/start", {"model": MODEL, "ephemeral": True, "environments": [], "baseInstructions": ""}
        )
        thread = started["thread"]["id"]
        done = asyncio.get_running_loop().create_future()
        self._turns[thread] = ([], done)
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": PROMPT}]}
        await self.call("thread/inject_items", {"threadId": thread, "items": [item]})
        await self.call("turn/start", {"threadId": thread, "input": []})
        text: str = await done
        await self.call("thread/unsubscribe", {"threadId": thread})
        return text


OPT_OUT = (
    "thread/started thread/status/changed thread/settings/updated turn/started item/started item/completed"
    " account/rateLimits/updated warning configWarning remoteControl/status/changed"
)


@asynccontextmanager
async def straight(base_url: str, directory: Path, workers: int) -> AsyncIterator[Turn]:
    """Turns on `workers` app-servers of our own, client N always on the same one."""
    binary = resolve(None)
    profile = Profile("bench", base_url, MODEL, Credentials())
    models = catalogue(bundled_models(binary), (MODEL,))
    drivers = []
    async with asyncio.TaskGroup() as readers:
        for number in range(workers):
            home = Home.create(directory, f"straight-{number}", profile, models)
            process = await asyncio.create_subprocess_exec(
                str(binary),
                "app-server",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                cwd=home.cwd,
                env=home.environment(profile),
                limit=1 << 24,
            )
            driver = Driver(process)
            readers.create_task(driver.read())
            client = {"name": "bench", "title": "bench", "version": "1"}
            capabilities = {"experimentalApi": True, "optOutNotificationMethods": OPT_OUT.split()}
            await driver.call("initialize", {"clientInfo": client, "capabilities": capabilities})
            drivers.append((driver, process))
        try:
            yield lambda number: drivers[number % workers][0].turn()
        finally:
            for _, process in drivers:
                assert process.stdin is not None  # noqa: S101 - started with a pipe
                process.stdin.close()
                await process.wait()


# --- through the service -----------------------------------------------------------------------------------------


@asynccontextmanager
async def service(base_url: str, directory: Path, workers: int) -> AsyncIterator[Turn]:
    """Turns through a service of our own, a child process, over HTTP."""
    key = f"sk-{secrets.token_urlsafe(32)}"
    config = directory / "service.toml"
    profile = {"base_url": base_url, "anonymous": True, "default_model": MODEL, "workers": workers}
    config.write_text(
        tomli_w.dumps(
            {
                "state_dir": str(directory / "state"),
                "server": {"port": 0},
                "log": {"level": "info"},
                "profiles": {"default": profile},
                "models": {MODEL: {}},
            }
        )
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "--config", str(config), "serve"),
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.defpath, "HOME": str(directory), "CODEX_COMPLETIONS_API_KEY": key},
    )
    assert process.stderr is not None  # noqa: S101 - started with a pipe
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            url = await _service_url(process.stderr)
        async with (
            asyncio.TaskGroup() as tasks,
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http,
        ):
            drain = tasks.create_task(process.stderr.read())
            body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": PROMPT}]}).encode()
            headers = {"Content-Type": "application/json"}

            async def turn(_number: int) -> str:
                async with http.post(f"{url}/v1/chat/completions", data=body, headers=headers) as response:
                    answer = json.loads(await response.read())
                    return str(answer["choices"][0]["message"]["content"])

            yield turn
            drain.cancel()
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


async def _service_url(stderr: asyncio.StreamReader) -> str:
    async for line in stderr:
        fields = json.loads(line)
        if fields.get("event") == "service.started":
            return str(fields["url"])
    raise RuntimeError("the service did not start")


# --- the comparison ----------------------------------------------------------------------------------------------


async def run(arguments: argparse.Namespace) -> None:
    """Measure and print the table."""
    with tempfile.TemporaryDirectory(prefix="codex-completions-bench-") as temporary:
        directory = Path(temporary)
        async with (
            subject.standin() as base_url,
            straight(base_url, directory, arguments.workers) as direct,
            service(base_url, directory, arguments.workers) as served,
        ):
            print(
                f"{arguments.workers} app-servers a side, {arguments.rounds} rounds of {arguments.seconds} s, medians"
            )
            print("concurrency | straight turns/s, p50 ms, p99 ms | service turns/s, p50 ms, p99 ms | ratio of turns/s")
            for concurrency in arguments.concurrency:
                await measure(direct, concurrency, 1.0)
                await measure(served, concurrency, 1.0)
                pairs = []
                for _ in range(arguments.rounds):
                    one = await measure(direct, concurrency, arguments.seconds)
                    pairs.append((one, await measure(served, concurrency, arguments.seconds)))
                print(_row(concurrency, pairs), flush=True)


def _row(concurrency: int, pairs: list[tuple[Round, Round]]) -> str:
    def median(side: int) -> str:
        rounds = [pair[side] for pair in pairs]
        columns = (statistics.median(getattr(entry, name) for entry in rounds) for name in Round._fields)
        return ", ".join(f"{value:.1f}" for value in columns)

    ratios = [served.rate / direct.rate for direct, served in pairs]
    spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    return f"{concurrency} | {median(0)} | {median(1)} | {spread}"


def main() -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8])
    commands = parser.add_subparsers(dest="command", metavar="[hotpath | scheduler | store]")
    hotpath = commands.add_parser(
        "hotpath", description=bench_hotpath.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    bench_hotpath.add_arguments(hotpath)
    scheduler = commands.add_parser(
        "scheduler", description=bench_scheduler.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scheduler.add_argument("--quick", action="store_true", help="everything once and briefly, in less than a minute")
    scheduler.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    scheduler.add_argument("--real", action="store_true", help="kill workers of the packaged CLI too")
    store = commands.add_parser(
        "store", description=bench_store.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    store.add_argument("--quick", action="store_true", help="few answers, in a second")
    store.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    store.add_argument("--folder", type=Path, metavar="DIRECTORY", help="on the disk that is meant")
    store.add_argument("--aiosqlite", action="store_true", help="measure that library too")
    arguments = parser.parse_args()
    if arguments.command == "hotpath":
        return bench_hotpath.run(arguments)
    if arguments.command == "scheduler":
        return bench_scheduler.run(is_quick=arguments.quick, is_real=arguments.real, json_file=arguments.json)
    if arguments.command == "store":
        return bench_store.run(
            is_quick=arguments.quick,
            has_peer=arguments.aiosqlite,
            folder=arguments.folder,
            json_file=arguments.json,
        )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())

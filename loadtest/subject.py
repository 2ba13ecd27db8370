"""What is measured: programs that answer over HTTP, started for the run and taken away after it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import msgspec
import tomli_w

from loadtest.mill import write_launcher

START_S = 60.0
STOP_S = 20.0
POLL_S = 0.05
MODEL = "gpt-5.5"
NOWHERE = "http://127.0.0.1:9/v1"
"""A provider that nobody asks."""

T = TypeVar("T")


class Subject(NamedTuple):
    """Where it listens, its process, and a key for it."""

    port: int
    pid: int
    key: str
    headers: Mapping[str, str] = MappingProxyType({})
    """Further ones that it wants."""


@asynccontextmanager
async def child(*argv: str, stderr: int | None = None, **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program whose stdin and stdout are pipes; it is gone afterwards."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, **env},
    )
    try:
        yield process
    finally:
        await stopped(process)


async def stopped(process: asyncio.subprocess.Process) -> None:
    """Ask it to go, and see to it."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def stoppable(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; SIGTERM ends it as SIGINT does: by cancelling it."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


@asynccontextmanager
async def mill(directory: Path) -> AsyncIterator[tuple[Path, int]]:
    """The mill: the executable that takes the place of the CLI, and the mill's process."""
    socket = directory / "mill"
    async with child(sys.executable, "-m", "loadtest.mill", str(socket)) as process:
        assert process.stdout is not None  # noqa: S101 - a pipe
        async with asyncio.timeout(START_S):
            if await process.stdout.readline() != b"ready\n":
                raise RuntimeError("the mill did not start")
        yield write_launcher(directory / "codex", socket), process.pid


@asynccontextmanager
async def standin() -> AsyncIterator[str]:
    """The stand-in model; its base URL."""
    async with child(sys.executable, "-m", "loadtest.model_standin", "--exit-with-stdin") as process:
        assert process.stdout is not None  # noqa: S101 - a pipe
        async with asyncio.timeout(START_S):
            line = await process.stdout.readline()
        yield line.decode().split()[-1]


async def told(kind: type[T], *program: str) -> T:
    """What a program of ours prints as JSON.

    Raises:
        RuntimeError: it failed.
    """
    async with child(sys.executable, "-m", *program) as process:
        output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(program)} failed")
    return msgspec.json.decode(output, type=kind)


@asynccontextmanager
async def forwarder(*arguments: str) -> AsyncIterator[Subject]:
    """The shortest program on aiohttp; for the arguments see `loadtest.bench_bare`."""
    async with child(sys.executable, "-m", "loadtest.bench_bare", "forwarder", *arguments) as process:
        assert process.stdout is not None  # noqa: S101 - a pipe
        async with asyncio.timeout(START_S):
            port = int(await process.stdout.readline())
        yield Subject(port, process.pid, "none")


@asynccontextmanager
async def service(
    directory: Path, profiles: Mapping[str, Mapping[str, Any]], **settings: Any
) -> AsyncIterator[Subject]:
    """The service itself, as its command starts it, with everything on that it has by default and a limit for its key.

    Each profile is the model of the same name. Its log goes into a file. `settings` are further tables.

    Raises:
        RuntimeError: it did not start.
    """
    directory.mkdir()
    key = f"sk-{secrets.token_urlsafe(32)}"
    usual = {"base_url": NOWHERE, "anonymous": True, "default_model": MODEL}
    tenant = {"name": "bench", "sha256": sha256(key.encode()).hexdigest(), "requests_per_minute": 10_000_000}
    config = {
        "state_dir": str(directory / "state"),
        "server": {"port": 0},
        "keys": [tenant],
        "profiles": {name: {**usual, **profile} for name, profile in profiles.items()},
        "models": {name: {"profile": name} for name in profiles},
        **settings,
    }
    (directory / "service.toml").write_text(tomli_w.dumps(config))
    log = directory / "service.log"
    workers = sum(profile["workers"] for profile in profiles.values())
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", "--config", str(directory / "service.toml"), "serve"),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=file.fileno(),
            env={"PATH": os.defpath, "HOME": str(directory)},
        )
    try:
        async with asyncio.timeout(START_S):
            url = await _until_up(process, log, workers)
        yield Subject(urlsplit(url).port or 0, process.pid, key)
    finally:
        await stopped(process)


async def _until_up(process: asyncio.subprocess.Process, log: Path, workers: int) -> str:
    """Its URL, once all of its workers have booted."""
    while process.returncode is None:
        lines = [json.loads(line) for line in log.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        urls = [line["url"] for line in lines if line.get("event") == "service.started"]
        booted = sum(line.get("event") == "worker.booted" for line in lines)
        if urls and booted >= workers:
            return str(urls[0])
        await asyncio.sleep(POLL_S)
    raise RuntimeError(f"the service did not start: {log.read_text()[-1000:]}")

"""Other programs that answer chat completions, as their registries have them: installed, started, asked.

`codex-gateway` speaks to an app-server of its own, which is `loadtest.fake_app_server`: it runs one turn at a time. The
others are proxies: behind them stands the forwarder of `loadtest.bench_bare`. Each is one process, with authentication
where it has one, and with no log of requests. What was installed is kept in a folder for each version, and needs uv or
npm once.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Final, NamedTuple

import aiohttp

from loadtest import fake_app_server
from loadtest.subject import START_S, Subject, stopped

CACHE: Final = Path("~/.cache/codex-completions/peers").expanduser()
INSTALL_S: Final = 300.0
POLL_S: Final = 0.2


class MissingError(Exception):
    """A program cannot be had here; says why."""


class Ground(NamedTuple):
    """What a program is given."""

    root: Path
    """What was installed."""
    directory: Path
    port: int
    key: str
    upstream: str
    """Base URL of a service that answers chat completions."""
    model: str


class Launch(NamedTuple):
    """How it is started, and asked."""

    argv: tuple[str, ...]
    key: str
    env: Mapping[str, str] = MappingProxyType({})
    headers: Mapping[str, str] = MappingProxyType({})


class Peer(NamedTuple):
    """One program."""

    label: str
    version: str
    install: Callable[[str, Path], None]
    launch: Callable[[Ground], Launch]
    stream_deltas: int
    """Of a stream that it finishes in a second or two, 64 at a time."""
    has_upstream: bool = True


# --- how they are installed --------------------------------------------------------------------------------------


def installed(name: str) -> Path:
    """Where a program is, after it was fetched if need be.

    Raises:
        MissingError: it cannot be fetched, or does not run here.
    """
    peer = PEERS[name]
    kept = CACHE / f"{name}-{peer.version}"
    if kept.exists():
        return kept
    CACHE.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=CACHE) as folder:
        root = Path(folder, "root")
        peer.install(peer.version, root)
        shutil.rmtree(kept, ignore_errors=True)
        root.rename(kept)
    return kept


def _wheel(requirement: str) -> Callable[[str, Path], None]:
    def install(version: str, root: Path) -> None:
        uv = (sys.executable, "-m", "uv")
        _run(*uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, str(root))
        python = ("--python", str(root / "bin" / "python"))
        _run(*uv, "pip", "install", "--quiet", "--only-binary", ":all:", *python, f"{requirement}=={version}")

    return install


def _node_package(requirement: str, overrides: Mapping[str, str]) -> Callable[[str, Path], None]:
    def install(version: str, root: Path) -> None:
        npm = shutil.which("npm")
        if npm is None or shutil.which("node") is None:
            raise MissingError("node and npm are not installed")
        root.mkdir()
        package = {"private": True, "dependencies": {requirement: version}, "overrides": overrides}
        (root / "package.json").write_text(json.dumps(package))
        _run(npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(root))

    return install


def _run(*argv: str) -> None:
    try:
        subprocess.run(  # noqa: S603 - installers, with what stands in this file
            argv, check=True, capture_output=True, text=True, timeout=INSTALL_S
        )
    except subprocess.CalledProcessError as error:
        raise MissingError(error.stderr.strip()[-500:]) from error
    except subprocess.TimeoutExpired as error:
        raise MissingError(f"{argv[0]} took longer than {INSTALL_S:g} s") from error


# --- how they are started ----------------------------------------------------------------------------------------


def _codex_gateway(ground: Ground) -> Launch:
    folder = ground.directory / "bin"
    folder.mkdir()
    fake_app_server.write_launcher(folder / "codex")
    argv = (str(ground.root / "bin" / "codex-gateway"), "--port", str(ground.port), "--cwd", str(ground.directory))
    return Launch(argv, ground.key, {"PATH": f"{folder}:{os.defpath}", "CODEX_GATEWAY_TOKEN": ground.key})


def _litellm(ground: Ground) -> Launch:
    upstream = {"model": f"openai/{ground.model}", "api_base": f"{ground.upstream}/v1", "api_key": "none"}
    settings = {
        "model_list": [{"model_name": ground.model, "litellm_params": upstream}],
        "litellm_settings": {"telemetry": False},
    }
    file = ground.directory / "litellm.yaml"
    file.write_text(json.dumps(settings))
    at = ("--host", "127.0.0.1", "--port", str(ground.port), "--num_workers", "1")
    key = f"sk-{ground.key}"
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MASTER_KEY": key}
    return Launch((str(ground.root / "bin" / "litellm"), "--config", str(file), *at), key, env)


def _portkey(ground: Ground) -> Launch:
    script = ground.root / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    argv = (shutil.which("node") or "node", str(script), f"--port={ground.port}", "--headless")
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"{ground.upstream}/v1"}
    return Launch(argv, ground.key, {"NODE_ENV": "production"}, headers)


def _sglang_router(ground: Ground) -> Launch:
    options = {
        "--host": "127.0.0.1",
        "--port": str(ground.port),
        "--worker-urls": ground.upstream,
        "--policy": "round_robin",
        "--prometheus-port": str(free_port()),
        "--log-level": "error",
    }
    argv = (str(ground.root / "bin" / "python"), "-m", "sglang_router.launch_router")
    return Launch((*argv, *itertools.chain.from_iterable(options.items())), ground.key)


PEERS: Final[Mapping[str, Peer]] = {
    "codex-gateway": Peer(
        "codex-gateway", "0.1.2", _wheel("codex-gateway"), _codex_gateway, stream_deltas=50, has_upstream=False
    ),
    "litellm": Peer("LiteLLM proxy", "1.106.2", _wheel("litellm[proxy]"), _litellm, stream_deltas=50),
    "portkey": Peer(
        "Portkey gateway",
        "1.15.2",
        # With later ones of this its streams end in "TypeError: immutable": remove it when they do not.
        _node_package("@portkey-ai/gateway", {"@hono/node-server": "1.13.8"}),
        _portkey,
        stream_deltas=500,
    ),
    "sglang-router": Peer("sglang-router", "0.3.2", _wheel("sglang-router"), _sglang_router, stream_deltas=2000),
}


def free_port() -> int:
    """One that nobody listens at now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@asynccontextmanager
async def started(name: str, directory: Path, *, upstream: str, model: str) -> AsyncIterator[Subject]:
    """A program that has answered once.

    Raises:
        MissingError: it cannot be had, or did not answer within `START_S`.
    """
    directory.mkdir()
    root = await asyncio.to_thread(installed, name)
    ground = Ground(root, directory, free_port(), secrets.token_hex(16), upstream, model)
    launch = PEERS[name].launch(ground)
    log = directory / "log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *launch.argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file.fileno(),
            stderr=file.fileno(),
            cwd=directory,
            env={"PATH": os.defpath, "HOME": str(directory), **launch.env},
        )
    subject = Subject(ground.port, process.pid, launch.key, launch.headers)
    try:
        why = await _until_it_answers(process, subject, model)
        if why:
            raise MissingError(f"{why}: {log.read_text(errors='replace')[-500:]}")
        yield subject
    finally:
        if process.returncode is None:
            await stopped(process)


async def _until_it_answers(process: asyncio.subprocess.Process, subject: Subject, model: str) -> str:
    """What is wrong with it; nothing once it has answered."""
    why = "it did not start"
    url = f"http://127.0.0.1:{subject.port}/v1/chat/completions"
    body = {"model": model, "messages": [{"role": "user", "content": 'Hello. @@{"text": "Hello."}'}]}
    headers = {"Authorization": f"Bearer {subject.key}", **subject.headers}
    loop = asyncio.get_running_loop()
    until = loop.time() + START_S
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(START_S)) as session:
        while process.returncode is None and loop.time() < until:
            try:
                async with session.post(url, json=body) as response:
                    if response.status == 200:
                        return ""
                    why = f"it answered {response.status}: {(await response.text())[:300]}"
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(POLL_S)
    return why

"""A service that runs for the length of a test on scripted workers, and clients that look closely at its answers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web

from loadtest.fake_app_server import write_launcher
from pool.worker_state import WorkerState
from service.app import build
from service.background import Background
from service.lifecycle import http_runner
from service.metrics import Metrics
from service.reload import Reloader
from service.settings import KeySettings, Settings
from service.state import Service

WAIT_S = 20.0
"""How long anything may take; on a good day it is a hundredth of that."""

POLL_S = 0.005

KEY = "sk-the-key-that-tests-use-0123456789"
ENVIRON = {"PATH": os.defpath}
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}
JSON_BODY = {"Content-Type": "application/json"}

Json = dict[str, Any]


async def until(condition: Callable[[], object], bound_s: float = WAIT_S) -> None:
    """Wait until `condition()` holds.

    Raises:
        TimeoutError: it did not, within `bound_s`.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(bound_s):
        while not condition():
            passed = loop.create_future()
            timer = loop.call_later(POLL_S, passed.set_result, None)
            try:
                await passed
            finally:
                timer.cancel()


# --- processes ---------------------------------------------------------------------------------------------------


class Process(NamedTuple):
    """A row of the kernel's process table; a zombie has the state Z."""

    pid: int
    state: str
    parent: int
    session: int


def processes() -> list[Process]:
    """Every process there is."""
    rows = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, parent, _group, session = text.rpartition(")")[2].split()[:4]
        rows.append(Process(int(path.parent.name), state, int(parent), int(session)))
    return rows


def children_of(pid: int) -> set[int]:
    """The children of `pid`, zombies included."""
    return {row.pid for row in processes() if row.parent == pid}


def alive_in_sessions(pids: set[int]) -> set[int]:
    """Whoever lives on in the sessions that these workers led."""
    return {row.pid for row in processes() if row.session in pids and row.state != "Z"}


# --- answers -----------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """An answer that was read to its end."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Json:
        """The body as an object."""
        value = json.loads(self.raw)
        assert isinstance(value, dict)
        return value

    @property
    def error(self) -> Json:
        """The error in it, whose shape is checked."""
        return checked_error(self.json)

    @property
    def code(self) -> str:
        """The code of the error in it."""
        return str(self.error["code"])

    @property
    def text(self) -> str:
        """The words of a chat completion."""
        return str(self.json["choices"][0]["message"]["content"])

    @property
    def stream(self) -> Stream:
        """The body as server-sent events."""
        assert self.headers["Content-Type"] == "text/event-stream", self.raw
        return Stream.of(self.raw)


def checked_error(body: Json) -> Json:
    """The error in a body that holds nothing else, in OpenAI's shape."""
    assert body.keys() == {"error"}, body
    error = body["error"]
    assert isinstance(error, dict)
    assert {"message", "type", "param", "code"} <= error.keys() <= {"message", "type", "param", "code", "retryable"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert isinstance(error["code"], str)
    return error


class Stream(NamedTuple):
    """A chat stream taken apart: its events in order, comments as strings that begin with a colon."""

    events: list[Json | str]

    @classmethod
    def of(cls, raw: bytes) -> Stream:
        """Every event ends with an empty line, and is one comment or one line of data."""
        assert raw.endswith(b"\n\n"), raw[-200:]
        events: list[Json | str] = []
        for event in raw.decode().removesuffix("\n\n").split("\n\n"):
            assert "\n" not in event, event
            if event.startswith(":"):
                events.append(event)
                continue
            data = event.removeprefix("data: ")
            assert data != event, event
            events.append(data if data == "[DONE]" else json.loads(data))
        return cls(events)

    @property
    def comments(self) -> list[str]:
        return [event for event in self.events if isinstance(event, str) and event.startswith(":")]

    @property
    def chunks(self) -> list[Json]:
        return [event for event in self.events if isinstance(event, dict) and "error" not in event]

    @property
    def errors(self) -> list[Json]:
        return [checked_error(event) for event in self.events if isinstance(event, dict) and "error" in event]

    @property
    def is_done(self) -> bool:
        """The last word is [DONE]."""
        return bool(self.events) and self.events[-1] == "[DONE]"

    @property
    def text(self) -> str:
        return "".join(choice["delta"].get("content") or "" for chunk in self.chunks for choice in chunk["choices"])

    @property
    def finishes(self) -> list[str]:
        reasons = (choice["finish_reason"] for chunk in self.chunks for choice in chunk["choices"])
        return [reason for reason in reasons if reason is not None]


def body(prompt: str = "Hello.", **fields: Any) -> Json:
    """A chat completion request."""
    return {"model": "codex-5", "messages": [{"role": "user", "content": prompt}]} | fields


def scripted(**directive: Any) -> str:
    """A prompt that tells the worker what to do."""
    return f"@@{json.dumps(directive)}"


# --- the service -------------------------------------------------------------------------------------------------


class RunningService:
    """A service with a ready worker, on a loopback port."""

    def __init__(
        self, service: Service, base_url: str, session: aiohttp.ClientSession, file: Callable[..., Settings]
    ) -> None:
        self.service = service
        self.base_url = base_url
        self.session = session
        self.file = file
        self._next = service.current.settings
        self.reloader = Reloader(service, service.pool, lambda: self._next, ENVIRON)

    async def reload(self, **tables: Any) -> None:
        """Take these tables, as after SIGHUP; see `settings`."""
        self._next = self.file(**tables)
        await self.reloader.reload()

    @property
    def port(self) -> int:
        return int(self.base_url.rpartition(":")[2])

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        """One request, its answer read to the end."""
        url = options.pop("url", self.base_url + path)
        async with asyncio.timeout(WAIT_S), self.session.request(method, url, **options) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **options: Any) -> Answer:
        """A GET without a key."""
        return await self.call("GET", path, **options)

    async def chat(self, prompt: str = "Hello.", *, headers: Mapping[str, str] | None = None, **fields: Any) -> Answer:
        """A chat completion with the key."""
        return await self.post(json.dumps(body(prompt, **fields)).encode(), headers=headers)

    async def post(self, data: bytes, *, headers: Mapping[str, str] | None = None) -> Answer:
        """Some body to the chat completions, with the key unless `headers` says otherwise."""
        merged = AUTHORIZED | JSON_BODY | dict(headers or {})
        return await self.call("POST", "/v1/chat/completions", data=data, headers=merged)

    async def begin(self, prompt: str, *, key: str = KEY, **fields: Any) -> aiohttp.ClientResponse:
        """The headers of a stream; its caller closes it."""
        headers = {"Authorization": f"Bearer {key}"}
        async with asyncio.timeout(WAIT_S):
            return await self.session.post(
                f"{self.base_url}/v1/chat/completions", json=body(prompt, stream=True, **fields), headers=headers
            )

    async def raw(self, head: str, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection on which this was written, byte for byte."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(head.replace("\n", "\r\n").encode() + data)
        await writer.drain()
        return reader, writer

    # --- the state behind it ---------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Jobs without a seat."""
        return sum(row.waiting for row in self.service.scheduler.snapshot())

    @property
    def running(self) -> int:
        """Jobs with a seat."""
        return sum(row.running for row in self.service.scheduler.snapshot())

    @property
    def free(self) -> int:
        """Seats without a turn."""
        return sum(row.free for row in self.service.pool.snapshot())

    @property
    def seats(self) -> int:
        return sum(row.seats for row in self.service.pool.snapshot())

    @property
    def ready_workers(self) -> int:
        """Workers of the profile `default` that take turns."""
        return self.ready_workers_of("default")

    def ready_workers_of(self, profile: str) -> int:
        """Workers of this profile that take turns; 0 where there is no such profile."""
        rows = {row.profile: row for row in self.service.pool.snapshot()}
        return rows[profile].workers[WorkerState.READY] if profile in rows else 0

    @property
    def is_at_rest(self) -> bool:
        """Nobody waits, nothing runs, and every configured seat is free."""
        profiles = self.service.current.settings.profiles.values()
        configured = sum(profile.workers * profile.slots for profile in profiles)
        return self.waiting == self.running == 0 and self.free == self.seats == configured

    async def until_at_rest(self, bound_s: float = WAIT_S) -> None:
        """Wait until nothing of any request is left."""
        await until(lambda: self.is_at_rest, bound_s)

    def worker_pids(self) -> set[int]:
        """The pids of the workers, which lead sessions of their own."""
        children = (worker._child for worker in self.service.pool._workers.values())
        return {child.pid for child in children if child is not None}

    def busy_pids(self) -> set[int]:
        """The pids of the workers that run a turn."""
        busy = (worker._child for worker in self.service.pool._workers.values() if worker.session.open_turns)
        return {child.pid for child in busy if child is not None}

    def counted(self, name: str, **labels: str) -> float:
        """A metric's value."""
        return sample(self.service.observability.numbers, name, **labels)

    @property
    def bugs(self) -> float:
        """Exceptions of our own that a boundary caught."""
        return sum(self.counted("bugs_total", where=where) for where in ("http", "worker", "background"))


def sample(metrics: Metrics, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels, at least."""
    wanted = {f'{label}="{value}"' for label, value in labels.items()}
    rows = (line.rpartition(" ") for line in metrics.text().decode().splitlines() if not line.startswith("#"))
    found = ((head.removesuffix("}").partition("{"), value) for head, _, value in rows)
    return sum(
        float(value)
        for (full, _, told), value in found
        if full == f"codex_completions_{name}" and wanted <= set(told.split(","))
    )


def key(name: str, text: str, **fields: Any) -> KeySettings:
    """What an operator would configure for this key."""
    return KeySettings(name=name, sha256=hashlib.sha256(text.encode()).hexdigest(), **fields)


def settings(tmp_path: Path, *, flags: tuple[str, ...] = (), **tables: Any) -> Settings:
    """Settings for scripted workers.

    `profile` and `limits` are merged into the profile `default`, `others` are more profiles; every other table is one
    of the configuration's own.
    """
    launcher = tmp_path / "codex"
    if not launcher.exists():
        write_launcher(launcher, *flags)
    profile: Json = {
        "codex_bin": launcher,
        "anonymous": True,
        "workers": 1,
        "slots": 4,
        "probation_s": 0,
        **tables.pop("profile", {}),
    }
    profile["limits"] = tables.pop("limits", {})
    top: Json = {
        "state_dir": tmp_path / "state",
        "api_key": KEY,
        "store": {"kind": "memory", **tables.pop("store", {})},
        "server": {"port": 0, "commit_delay_s": 1.0, **tables.pop("server", {})},
        "profiles": {"default": profile} | tables.pop("others", {}),
    }
    return Settings(**(top | tables))


@asynccontextmanager
async def running_service(
    tmp_path: Path, *, flags: tuple[str, ...] = (), bugs: int = 0, **tables: Any
) -> AsyncIterator[RunningService]:
    """A service whose default workers are ready; see `settings`. Afterwards no child, file or metric of it is left.

    `bugs` is how many exceptions of our own the test causes on purpose.
    """
    before = children_of(os.getpid())
    configured = settings(tmp_path, flags=flags, **tables)
    service = build(configured, ENVIRON)
    background = Background(service)
    found = -1.0
    try:
        service.pool.prepare()
        await service.open()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(service.pool.run(), name="pool")
            tasks.create_task(background.run(), name="background")
            try:
                async with _site(service, background) as base_url, aiohttp.ClientSession() as session:
                    running = RunningService(service, base_url, session, partial(settings, tmp_path))
                    await until(lambda: running.ready_workers == configured.profiles["default"].workers)
                    yield running
                found = running.bugs
            finally:
                service.scheduler.cut_off()
                background.stop()
                service.pool.stop()
    finally:
        await service.close()
        service.maintenance.close()
        service.pool.discard()
        service.observability.close()
    assert found == bugs
    assert children_of(os.getpid()) <= before, "a child was left"
    assert not list((tmp_path / "state").glob("codex-completions-run-*")), "a run's directory was left"


@asynccontextmanager
async def _site(service: Service, background: Background) -> AsyncIterator[str]:
    """The base address at which it answers."""
    runner = http_runner(service, background)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()

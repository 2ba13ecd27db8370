"""Plays the scenarios: one service on real workers, a stand-in for their model, and a client."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import os
import signal
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop

from loadtest.fake_app_server import write_launcher
from loadtest.model_standin import ModelStandin
from tests.parity import transcript
from tests.parity.binaries import Cli
from tests.parity.scenarios import KEYS, PROFILES, ROUTES, SERVER
from tests.parity.steps import Ask, Deed, Scenario, Visit, When
from tests.parity.transcript import Answered, Asked, Ids, answered_text, asked_text, model_text
from tests.support.services import KEY, WAIT_S, RunningService, running_service, until

READ_BYTES = 64 * 1024
OCCUPANT = "I stay."
BROKEN = "broken"

Json = dict[str, Any]
Transcripts = dict[str, str]

PLAY_S = 300
"""For all scenarios, and for the download of another CLI; it takes a fifth."""


def play(scenarios: Iterable[Scenario], cli: Cli) -> Transcripts:
    """The transcript of each scenario with this CLI, by name."""

    async def run() -> Transcripts:
        async with bench(cli) as ready:
            return {scenario.name: await ready.play(scenario) for scenario in scenarios}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def assert_same(name: str, found: Transcripts, cli: Cli) -> None:
    """The scenario's transcript is what was recorded; if not, the difference is all that the failure shows."""
    difference = transcript.difference(name, found[name], version=cli.version)
    if difference:
        pytest.fail(f"{name} differs with Codex CLI {cli.version}:\n{difference}", pytrace=False)


@asynccontextmanager
async def bench(cli: Cli) -> AsyncIterator[Bench]:
    """A service that is ready; nothing of it is left afterwards."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parity-")))
        standin = await stack.enter_async_context(ModelStandin())
        profiles = {name: _profile(name, cli, standin.base_url, folder) for name in PROFILES}
        tables: Json = {
            "profile": profiles.pop("default"),
            "others": profiles,
            "models": ROUTES,
            "keys": [_key(name, fields) for name, fields in KEYS.items()],
            "store": {"kind": "sqlite"},
        }
        running = await stack.enter_async_context(running_service(folder, server=SERVER, **tables))
        ready = Bench(running, standin, cli, tables)
        await until(ready.is_up)
        yield ready


class Bench:
    """A running service, and what plays a scenario on it."""

    def __init__(self, running: RunningService, standin: ModelStandin, cli: Cli, tables: Json) -> None:
        self._running = running
        self._standin = standin
        self._cli = cli
        self._tables = tables
        self._ids = Ids()
        self._occupants: list[asyncio.Task[Answered]] = []

    def is_up(self) -> bool:
        """Every profile that can have workers has them all, and nothing runs or waits."""
        running = self._running
        rows = [row for row in running.service.pool.snapshot() if row.profile != BROKEN]
        return running.running == running.waiting == 0 and all(
            row.free == row.seats == _seats(row.profile) for row in rows
        )

    async def play(self, scenario: Scenario) -> str:
        """Its transcript. Afterwards nothing of it runs."""
        if scenario.settings:
            await self._reload(scenario.settings)
        self._ids = Ids()
        keeps_alive = "keepalive_s" in scenario.settings.get("server", {})
        parts = []
        for step in scenario.steps:
            if isinstance(step, Deed):
                await self._do(step)
                parts.append(f"*** {step}")
                continue
            parts.append(await self._exchange(step, keeps_alive=keeps_alive))
            if step.goes_on:
                continue
            parts += await self._model()
            if not self._running.service.scheduler.is_draining:
                await until(self.is_up)
        if scenario.settings:
            await self._reload({})
        return "\n\n".join(parts) + "\n"

    # --- one exchange ----------------------------------------------------------------------------------------

    async def _exchange(self, step: Visit, *, keeps_alive: bool) -> str:
        asked = Asked(step.method, step.path, dict(step.headers) | _key_named(step.key), step.body())
        parts = [asked_text(asked)]
        if step.beside:
            parts.append(f"*** {step.beside} of the same key are there already")
        if step.until:
            parts.append(f"*** it is asked again until the answer has {step.until}")
        if ROUTES[step.model.lower()]["profile"] == BROKEN:
            await until(self._is_given_up)
        async with AsyncExitStack() as stack:
            for number in range(step.beside):
                await stack.enter_async_context(self._occupant(step, number))
            before = self._standin.total
            moments: dict[When, Callable[[], bool]] = {
                When.WAITING: lambda: self._taken > step.beside,
                When.ASKED: lambda: self._standin.total > before,
                When.SPOKEN: lambda: response.speaks(step),
            }
            response = self._response(step)
            answered: Answered | None
            if step.meanwhile is None:
                answered = await response.whole(step.until)
            else:
                when, deed = step.meanwhile
                answered = await response.around(
                    moments[when], lambda: self._do(deed, before), stays=deed is not Deed.LEAVE
                )
                parts.append(f"*** {deed}, when {when}")
        if answered is None:
            return "\n\n".join(parts)
        told = answered_text(answered, version=self._version(step), keeps_alive=keeps_alive)
        return "\n\n".join([*parts, self._ids.told(told)])

    def _response(self, step: Visit) -> _Response:
        path, body = json.loads(self._ids.meant(json.dumps([step.path, step.body()])))
        headers = dict(step.headers) | _authorization(step.key)
        return _Response(self._running.session, step.method, self._running.base_url + path, body, headers)

    @asynccontextmanager
    async def _occupant(self, step: Visit, number: int) -> AsyncIterator[None]:
        """A request that has a seat, or waits for one when all are taken."""
        does = {"text": OCCUPANT, "hang": "middle"}
        response = self._response(Ask(does, model="codex-narrow", key=step.key).streamed())
        async with asyncio.TaskGroup() as tasks:
            self._occupants.append(tasks.create_task(response.whole()))
            await until(lambda: self._taken > number)
            yield
            self._occupants.pop().cancel()

    async def _do(self, deed: Deed, before: int = 0) -> None:
        """Let it happen, now or as soon as it can."""
        match deed:
            case Deed.FREE:
                self._occupants[-1].cancel()
            case Deed.KILL:
                self._kill()
            case Deed.KILL_TWICE:
                self._kill()
                await self._standin.wait_for_requests(before + 2, WAIT_S)
                self._kill()
            case Deed.AGE:
                self._age()
            case Deed.DRAIN:
                self._running.service.scheduler.drain()
            case Deed.CUT_OFF:
                self._running.service.scheduler.cut_off()
            case Deed.LEAVE:
                pass

    def _is_given_up(self) -> bool:
        """So many boots of the broken profile have failed that nobody waits for one any more."""
        return any(row.is_broken for row in self._running.service.pool.snapshot() if row.profile == BROKEN)

    @property
    def _taken(self) -> int:
        """Seats, and places before them."""
        return self._running.running + self._running.waiting

    def _kill(self) -> None:
        (pid,) = self._running.busy_pids()
        os.kill(pid, signal.SIGKILL)

    def _age(self) -> None:
        """Nobody who has the file open minds."""
        settings = self._running.service.current.settings
        with sqlite3.connect(settings.state_dir / "responses.sqlite") as connection:
            connection.execute("UPDATE responses SET created_wall = created_wall - ?", (settings.store.max_age_s,))
        connection.close()

    async def _model(self) -> list[str]:
        """What reached the model since the last time; waits until that is over."""
        records = list(self._standin.requests)
        self._standin.forget_requests()
        async with asyncio.timeout(WAIT_S):
            for record in records:
                await record.ended.wait()
        return [
            model_text(record.body, is_cut=record.disconnected) for record in records if not _is_occupant(record.body)
        ]

    def _version(self, step: Visit) -> str:
        """Of the CLI that has to be in the fingerprint."""
        return self._running.service.observability.versions.get(ROUTES[step.model.lower()]["profile"]) or "unknown"

    async def _reload(self, settings: dict[str, Json]) -> None:
        """Take these settings beside the usual ones, and no others."""
        own = settings | {"server": SERVER | settings.get("server", {})}
        await self._running.reload(**copy.deepcopy(self._tables), **own)


class _Response:
    """One answer, read piece by piece."""

    def __init__(
        self, session: aiohttp.ClientSession, method: str, url: str, body: Json | None, headers: dict[str, str]
    ) -> None:
        self._session = session
        self._method = method
        self._url = url
        self._body = body
        self._headers = headers
        self._answered: Answered | None = None

    async def whole(self, until: str = "") -> Answered:
        """The answer, when it is whole and has this text in it."""
        async with asyncio.timeout(WAIT_S):
            await self._read()
            while self._answered is None or until.encode() not in self._answered.raw:
                await self._read()
        return self._answered

    def speaks(self, step: Visit) -> bool:
        """The first text is here."""
        return self._answered is not None and step.speaks in self._answered.raw

    async def around(
        self, moment: Callable[[], bool], deed: Callable[[], Awaitable[None]], *, stays: bool
    ) -> Answered | None:
        """The answer; at that moment the deed is done. Who does not stay sees what there was until then."""
        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._read())
            await until(moment)
            if not stays:
                reading.cancel()
            await deed()
        return self._answered

    async def _read(self) -> None:
        async with self._session.request(self._method, self._url, json=self._body, headers=self._headers) as response:
            raw = b""
            while piece := await response.content.read(READ_BYTES):
                raw += piece
                self._answered = Answered(response.status, response.headers, raw)
            self._answered = Answered(response.status, response.headers, raw)


# --- the service -------------------------------------------------------------------------------------------------


def _profile(name: str, cli: Cli, base_url: str, folder: Path) -> Json:
    """The profile's settings."""
    binary = cli.path
    if name == "scripted":
        binary = write_launcher(folder / "scripted")
    elif name == BROKEN:
        binary = write_launcher(folder / "broken", "--initialize", "exit")
    common: Json = {"codex_bin": binary, "base_url": base_url, "anonymous": True, "workers": 1, "probation_s": 0}
    return common | PROFILES[name]


def _seats(profile: str) -> int:
    return int(PROFILES[profile].get("workers", 1)) * int(PROFILES[profile].get("slots", 8))


def _key_text(name: str) -> str:
    """The key of this name."""
    return KEY if name == "default" else f"sk-parity-{name}-0123456789-abcdef"


def _key(name: str, fields: Json) -> Json:
    return {"name": name, "sha256": hashlib.sha256(_key_text(name).encode()).hexdigest()} | fields


def _authorization(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {_key_text(name)}"} if name else {}


def _key_named(name: str) -> dict[str, str]:
    """How a transcript tells whose key it is."""
    return {"Authorization": f"Bearer <{name}>"} if name else {}


def _is_occupant(body: Json) -> bool:
    return OCCUPANT in str(body["input"])

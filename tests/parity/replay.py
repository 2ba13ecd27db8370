"""What the predecessor was asked is asked again, and what is answered now is compared with what it answered.

The worker is a scripted one, which does what the predecessor's worker did.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any
from unittest.mock import patch

import uvloop

from pool import backoff
from tests.parity.story import Story
from tests.process.stage import two_kinds
from tests.support.services import AUTHORIZED, KEY, WAIT_S, RunningService, key, running_service, until

DATA = Path(__file__).parent / "predecessor.json"
SHORT_WAIT_S = 0.02
"""Before a failed boot is tried again, where all of them fail."""

Json = dict[str, Any]

SILENCE: Json = {"start_s": 5.0, "first_event_s": 0.6, "idle_s": 0.6}
CHAT_MODE, RESPONSES_MODE = "obsidian-xml", "openai-json"
"""The predecessor's output modes for everybody who asked for none."""

COMMIT_DELAY_S = 5.0
"""So long that a failure comes before it."""

SERVICES: dict[str, Json] = {
    "plain": {"profile": {"attempts": 1}},
    "absent": {"profile": {"queue_budget_s": 0.2}},
    "under maintenance": {"maintenance": {"on": True}},
    "keepalives": {"server": {"keepalive_s": 0.15}},
    "named origins": {
        "server": {"cors_origins": ["https://a.example", "app://obsidian.md"], "protect_models": True},
    },
    "one a minute": {"api_key": None, "keys": [key("metered", KEY, requests_per_minute=1)]},
    "one seat": {"profile": {"slots": 1}},
    "refusing": {"flags": ("--thread-start", "error")},
    "short prompts": {"server": {"max_prompt_chars": 12}},
    "short silence": {"profile": {"attempts": 1}, "limits": SILENCE},
    "short start": {"profile": {"attempts": 1}, "limits": {"start_s": 0.8}},
    "short turn": {"limits": {"total_s": 0.6}},
    "no tail": {"tools": {"suppress_tail": True}},
    "one block": {"tools": {"max_calls": 1}},
    "stop after first": {"tools": {"stop_after": True, "stop_mode": "first"}},
    "stopping": {},
}
"""The settings under which each was asked, in our words."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request to the predecessor, and its answer.

    `does` is what its worker did, in the words of `loadtest/script.py`. `left` streams were left by their clients
    before, `beside` ones run when the request comes; `drains`: the service is told to stop in its midst. `answer` is
    None where none came.
    """

    id: str
    service: str
    method: str
    path: str
    what: str = ""
    key: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    does: Json | None = None
    left: int = 0
    beside: int = 0
    drains: bool = False
    answer: Story | None = None

    @property
    def capture(self) -> str:
        """The recording that it is from."""
        return self.id.partition(".")[0]

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        return f"{self.id} {self.what or f'{self.method} {self.path}'}"

    def raw_body(self) -> bytes | None:
        """The request's body, with the directive at the end of the last user message."""
        if self.body is None or isinstance(self.body, str):
            size = self.body.strip("<>").split()[0] if self.body and self.body.endswith(" bytes>") else ""
            return b" " * int(size) if size else (self.body.encode() if self.body is not None else None)
        body = copy.deepcopy(self.body)
        if self.does is not None:
            _direct(body, f" @@{json.dumps(self.does)}")
        return json.dumps(body).encode()


def exchanges() -> list[Exchange]:
    """All of them, in the order of the recordings."""
    rows = json.loads(DATA.read_text())
    return [_read(row) for row in rows]


def replay(wanted: Iterable[Exchange]) -> dict[str, Story]:
    """What is answered now, by the id of the exchange."""

    async def run() -> dict[str, Story]:
        found: dict[str, Story] = {}
        by_setting = sorted(wanted, key=_setting)
        for (service, mode), group in groupby(by_setting, key=_setting):
            async with _service(service, mode) as running:
                found |= {each.id: await _play(running, each) for each in group}
        return found

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


# --- inside ------------------------------------------------------------------------------------------------------


def _read(row: Json) -> Exchange:
    answer = row.pop("answer")
    story = Story(answer["status"], answer.get("headers", {}), answer.get("says")) if answer else None
    return Exchange(**row, answer=story)


def _setting(exchange: Exchange) -> tuple[str, str]:
    """The service and the mode that it was asked with."""
    return exchange.service, RESPONSES_MODE if exchange.path.startswith("/v1/responses") else CHAT_MODE


def _direct(body: Json, directive: str) -> None:
    if isinstance(body.get("input"), str):
        body["input"] += directive
        return
    if "input" in body:
        body["input"].append({"role": "user", "content": directive})
        return
    for message in reversed(body["messages"]):
        if message.get("role") == "user" and "content" in message:
            if isinstance(message["content"], str):
                message["content"] += directive
            else:
                message["content"].append({"type": "text", "text": directive})
            return


@asynccontextmanager
async def _service(name: str, mode: str) -> AsyncIterator[RunningService]:
    tables = copy.deepcopy(SERVICES[name])
    tables["tools"] = {"output_mode": mode} | tables.get("tools", {})
    tables["server"] = {"commit_delay_s": COMMIT_DELAY_S} | tables.get("server", {})
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="replay-")))
        if name == "absent":
            stack.enter_context(patch.object(backoff, "BASE_S", SHORT_WAIT_S))
            two_kinds(folder, "default-0-1", (), ("--initialize", "exit"))
        running = await stack.enter_async_context(running_service(folder, **tables))
        if name == "absent":
            (pid,) = running.worker_pids()
            os.kill(pid, signal.SIGKILL)
            await until(lambda: running.service.pool.snapshot()[0].is_broken)
        yield running


async def _play(running: RunningService, exchange: Exchange) -> Story:
    body = exchange.raw_body()
    async with AsyncExitStack() as stack, asyncio.timeout(WAIT_S):
        for _ in range(exchange.left):
            left = await running.begin('@@{"chunks": ["SECRET-A "], "repeat": 1000, "interval_s": 0.02}')
            await left.content.readuntil(b"SECRET-A")
            left.close()
        for _ in range(exchange.beside):
            beside = await running.begin('@@{"chunks": ["tick "], "repeat": 10, "interval_s": 0.03}')
            stack.callback(beside.close)
        headers = (AUTHORIZED if exchange.key else {}) | _headers(exchange)
        async with running.session.request(
            exchange.method,
            running.base_url + exchange.path,
            data=BytesIO(body) if body is not None else None,
            headers=headers,
            skip_auto_headers={"Content-Type", "User-Agent"},
        ) as response:
            raw = b""
            if exchange.drains:
                raw = await response.content.readuntil(b'"content"')
                running.service.scheduler.drain()
            raw += await response.read()
        if exchange.service not in ("absent", "stopping"):
            await running.until_at_rest()
        return Story.of(response.status, response.headers, raw)


def _headers(exchange: Exchange) -> dict[str, str]:
    has_own = exchange.body is None or "Content-Type" in exchange.headers
    return exchange.headers if has_own else exchange.headers | {"Content-Type": "application/json"}

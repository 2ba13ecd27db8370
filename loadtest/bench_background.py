"""What background responses cost whoever waits for an answer of the same key.

    python -m loadtest.bench background [--quick] [--json FILE]

The service as its command starts it, with its store on the disk, on eight seats of fake app-servers, whose turns take
0.2 s. Chats of one key arrive at random moments, a quarter of what the seats can do: alone, then while background
responses of the same key are queued and worked on, then the same again with background responses that ask for the
chats' class. A seat cannot be taken from a turn, so beside them a chat waits until one comes free. The exit code is 1
if any of the background responses has not ended with its own text.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
import uvloop

from loadtest import subject
from loadtest.bench_store import Times, timed
from loadtest.fake_app_server import write_launcher
from loadtest.kernel import rss_bytes
from loadtest.open_loop import OpenPlan, Stage
from loadtest.promises import Row, told
from loadtest.subject import Subject

MODEL = "load"
TURN_S = 0.2
SEATS = 8
RATE = SEATS / TURN_S / 4
CALLERS = 16
PATIENCE_S = 120.0
"""For all background responses together, when the last chat was answered."""
BESIDE_MS = 1e3 * TURN_S
"""At most a turn longer: one seat of eight comes free much sooner."""
OPEN = frozenset({"queued", "in_progress"})


class Load(NamedTuple):
    """So many background responses, and chats for so long."""

    jobs: int
    seconds: float


FULL = Load(500, 10.0)
QUICK = Load(40, 1.0)


class Client:
    """Who asks for background responses."""

    def __init__(self, session: aiohttp.ClientSession, service: Subject) -> None:
        self._session = session
        self._url = f"http://127.0.0.1:{service.port}/v1/responses"
        self._headers = {"Authorization": f"Bearer {service.key}"}
        self.texts: dict[str, str] = {}
        """What each is to say, by its id."""

    async def begin(self, text: str, **headers: str) -> None:
        """One more."""
        does = json.dumps({"text": text, "delay_s": TURN_S})
        body = {"model": MODEL, "input": f"Go on. @@{does}", "background": True}
        async with self._session.post(self._url, json=body, headers=self._headers | headers) as response:
            found = await response.json()
            if response.status != 200:
                raise RuntimeError(f"a background response was refused: {found}")
        self.texts[found["id"]] = text

    async def get(self, id: str) -> dict[str, Any]:  # noqa: A002 - OpenAI's word
        """One as it is."""
        async with self._session.get(f"{self._url}/{id}", headers=self._headers) as response:
            found: dict[str, Any] = await response.json()
            return found

    async def wrong(self) -> int:
        """How many have not ended as they should, when all have ended or patience has."""
        wrong = 0
        async with asyncio.timeout(PATIENCE_S):
            for id, text in self.texts.items():  # noqa: A001 - OpenAI's word
                while (found := await self.get(id))["status"] in OPEN:  # noqa: ASYNC110 - that is what polling is
                    await asyncio.sleep(0.05)
                said = [part["text"] for item in found["output"] for part in item.get("content", ())]
                wrong += said != [text]
        return wrong


@asynccontextmanager
async def serving(folder: Path, load: Load) -> AsyncIterator[tuple[Subject, Client]]:
    """The service, and a client of it."""
    profile = {
        "codex_bin": str(write_launcher(folder / "codex")),
        "workers": 2,
        "slots": SEATS // 2,
        "queue_max": 2 * load.jobs,
    }
    limits = {"max_jobs": load.jobs, "max_jobs_per_key": load.jobs}
    async with (
        subject.service(folder / "service", {MODEL: profile}, background=limits) as service,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CALLERS)) as session,
    ):
        yield service, Client(session, service)


async def chats(service: Subject, seconds: float) -> Stage:
    """What came of chats for so long."""
    plan = OpenPlan(
        port=service.port, key=service.key, model=MODEL, stages=((RATE, seconds),), deltas=2, delay_s=TURN_S
    )
    (stage,) = await subject.told(list[Stage], "loadtest.open_loop", msgspec.json.encode(plan).decode())
    return stage


async def beside(folder: Path, load: Load, **headers: str) -> tuple[list[Stage], Times, Times, float, float, int]:
    """Chats alone and beside background responses; how long it took to begin and to look at these, how long all of them
    took, what memory they took, and how many were wrong.
    """
    async with serving(folder, load) as (service, client):
        alone = await chats(service, load.seconds)
        before = rss_bytes(service.pid)
        began_at = time.perf_counter()

        async def begin(number: int) -> None:
            await client.begin(f"answer {number}", **headers)

        begun = await timed(begin, load.jobs, CALLERS)
        ids = list(client.texts)

        async def look(number: int) -> None:
            await client.get(ids[number])

        grown = (rss_bytes(service.pid) - before) / 1024 / 1024
        async with asyncio.TaskGroup() as tasks:
            chatting = tasks.create_task(chats(service, load.seconds))
            looked = await timed(look, load.jobs, CALLERS)
        wrong = await client.wrong()
        took_s = time.perf_counter() - began_at
    return [alone, chatting.result()], begun, looked, took_s, grown, wrong


async def background(folder: Path, load: Load) -> list[Row]:
    """The figures."""
    (alone, chatting), begun, looked, took_s, grown, wrong = await beside(folder, load)
    jobs = f"{load.jobs} background responses of the same key"
    extra_ms = chatting.first_token_ms["p90"] - alone.first_token_ms["p90"]
    return [
        Row(
            "background_begin",
            "a background response is stored and told, p99",
            begun.percentile_ms(99),
            "ms",
            None,
            f"{jobs}, {CALLERS} callers; {begun.told()}",
        ),
        Row("background_look", "a look at one, p99", looked.percentile_ms(99), "ms", None, looked.told()),
        _chats("chat_alone", "chats alone: first token, p90", alone, ""),
        _chats("chat_beside", "chats beside them: first token, p90", chatting, jobs),
        Row("chat_waits", "what that is more", extra_ms, "ms", BESIDE_MS, "a seat cannot be taken from a turn"),
        Row(
            "background_all",
            "all of them",
            took_s,
            "s",
            None,
            f"{load.jobs * TURN_S / SEATS:.1f} s of {SEATS} seats, and the chats",
        ),
        Row("background_memory", "memory of the service for those that wait", grown, "MiB", None, jobs),
        Row(
            "background_wrong",
            "not ended with their own text",
            float(wrong),
            "responses",
            0.0,
            jobs,
            is_correctness=True,
        ),
    ]


async def same_class(folder: Path, load: Load) -> list[Row]:
    """The same where they are not put behind."""
    headers = {"x-priority": "standard"}
    (_, chatting), *_, wrong = await beside(folder, load, **headers)
    how = f"{load.jobs} background responses with x-priority: standard"
    return [
        _chats("chat_same", "chats beside them in one class: first token, p90", chatting, how),
        Row("same_wrong", "not ended with their own text", float(wrong), "responses", 0.0, how, is_correctness=True),
    ]


def _chats(name: str, measure: str, stage: Stage, how: str) -> Row:
    refused = sum(stage.refused.values())
    figures = ", ".join(f"{which} {value:.0f}" for which, value in stage.first_token_ms.items())
    told_of = f"{stage.offered} chats at {RATE:g}/s, {refused} refused, {stage.left + stage.wrong} lost; ms: {figures}"
    return Row(name, measure, stage.first_token_ms.get("p90", 0.0), "ms", None, "; ".join(filter(None, (told_of, how))))


def run(*, is_quick: bool = False, json_file: Path | None = None) -> int:
    """Measure, print the table, write the JSON; the exit code."""
    return told(_measured(QUICK if is_quick else FULL), is_quick=is_quick, json_file=json_file)


def _measured(load: Load) -> Iterator[list[Row]]:
    for measure in (background, same_class):
        with (
            tempfile.TemporaryDirectory(prefix="codex-completions-bench-") as folder,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            yield runner.run(measure(Path(folder), load))

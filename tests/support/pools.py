"""A pool that runs for the length of a test, and sinks that remember what a turn told them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from pool.events import Tap, TextDelta, ToolCall, TurnEnd, TurnEvent, TurnRequest
from pool.observer import PoolObserver, WorkerExit
from pool.pool import Pool
from pool.profile import Profile
from pool.stimuli import Lease
from pool.worker_state import WorkerId

WAIT_S = 20.0


class RecordingSink:
    """Remembers a turn's events; `await sink.ended` gives its end."""

    tap: Tap | None = None

    def __init__(self) -> None:
        self.events: list[TurnEvent] = []
        self.ended: asyncio.Future[TurnEnd] = asyncio.get_running_loop().create_future()
        self.first: asyncio.Event = asyncio.Event()

    def push(self, events: Sequence[TurnEvent]) -> None:
        assert not self.ended.done(), "an event after the end"
        self.events += events
        self.first.set()

    def end(self, end: TurnEnd) -> None:
        self.ended.set_result(end)

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def calls(self) -> list[ToolCall]:
        return [event for event in self.events if isinstance(event, ToolCall)]


class RecordingObserver(PoolObserver):
    """Remembers boots, exits, bugs and frame counts."""

    def __init__(self) -> None:
        self.booted: list[WorkerId] = []
        self.exits: list[WorkerExit] = []
        self.bugs: list[Exception] = []
        self.frames: dict[str, int] = {}

    def worker_booted(self, worker: WorkerId, version: str, boot_s: float) -> None:
        self.booted.append(worker)

    def worker_exited(self, end: WorkerExit) -> None:
        self.exits.append(end)

    def frames_counted(self, worker: WorkerId, counts: Mapping[str, int]) -> None:
        for kind, count in counts.items():
            self.frames[kind] = self.frames.get(kind, 0) + count

    def bug_found(self, where: str, error: Exception) -> None:
        self.bugs.append(error)


class RunningPool:
    """A pool with ready workers, and shorthands to use it."""

    def __init__(self, pool: Pool, observer: RecordingObserver, profile: Profile) -> None:
        self.pool = pool
        self.observer = observer
        self.profile = profile
        self.freed = asyncio.Event()
        pool.on_freed = lambda _profile: self.freed.set()

    def start(self, request: TurnRequest) -> tuple[Lease, RecordingSink]:
        """Begin a turn on a seat that has to be free."""
        sink = RecordingSink()
        lease = self.pool.try_start(self.profile.name, request, sink)
        assert lease is not None, self.pool.snapshot()
        return lease, sink

    async def turn(self, request: TurnRequest) -> tuple[RecordingSink, TurnEnd]:
        """Run one turn to its end."""
        _, sink = self.start(request)
        async with asyncio.timeout(WAIT_S):
            return sink, await sink.ended

    async def until_free(self, seats: int) -> None:
        """Wait until this many seats are free."""
        async with asyncio.timeout(WAIT_S):
            while self.pool.free(self.profile.name) < seats:
                self.freed.clear()
                await self.freed.wait()

    def worker_pids(self) -> list[int]:
        """The pids of the live workers."""
        children = (worker._child for worker in self.pool._workers.values())
        return [child.pid for child in children if child is not None]


@asynccontextmanager
async def running_pool(profile: Profile, state_dir: Path, *, booted: int | None = None) -> AsyncIterator[RunningPool]:
    """A pool whose first `booted` workers (default: all) are ready; nothing of it is left afterwards."""
    observer = RecordingObserver()
    pool = Pool([profile], state_dir, "0.0.0", observer=observer)
    pool.prepare()
    running = RunningPool(pool, observer, profile)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(pool.run())
        try:
            await running.until_free((profile.workers if booted is None else booted) * profile.slots)
            yield running
        finally:
            pool.stop()
    assert not observer.bugs
    assert not [path for path in state_dir.iterdir() if path.name != "lock"], "a run's directory was left"


def user(text: str) -> dict[str, object]:
    """A user message as an input item."""
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def asking(text: str, model: str = "gpt-5.5", instructions: str = "") -> TurnRequest:
    """A turn of one user message."""
    return TurnRequest(model, instructions, (user(text),))


def script(**fields: object) -> str:
    """A prompt that tells the stand-ins how to answer; see loadtest/script.py."""
    return f"@@{json.dumps(fields)}"

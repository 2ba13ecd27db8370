"""Traces in files: written, looked after and removed by one OS thread. Nobody waits for it."""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final, NamedTuple

import msgspec

from service.store.database import told, trouble_of
from service.traces.redaction import masked, redacted
from service.traces.settings import TraceSettings
from service.traces.trace import Frame, Held, Trace

HEADER: Final = "x-codex-trace"
ID_HEADERS: Final = ("x-request-id", "x-trace-id", "x-copilot-trace-id")
SWEEP_S: Final = 60.0
"""How often it is seen to that nothing is too old."""
CLOSE_S: Final = 5.0

_STAMP: Final = "%Y%m%dT%H%M%S"
_FILE = re.compile(r"\.?(\d{8}T\d{6})\.\d{3}Z-[\w.-]+\.json(\.part)?")


class TraceObserver:
    """Override what you want to hear. Called on the event loop, synchronously: must neither wait nor raise."""

    def trace_written(self, files: int) -> None:
        """A request has its file; there are so many now."""

    def trace_lost(self, trouble: str, text: str) -> None:
        """A request should have one, and has not."""

    def traces_pruned(self, removed: Mapping[str, int], files: int) -> None:
        """Files were removed, for their `age` or because there were more than the `count` allowed; so many are left.

        Also told, with nothing removed, when there are others than we know of.
        """


class _Finished(NamedTuple):
    name: str
    about: dict[str, Any]
    frames: list[Frame]
    settings: TraceSettings
    secrets: Collection[str]


class TraceBuffer:
    """The traces of one service. `settings` may be replaced at any time; `secrets` gives what is never written."""

    def __init__(
        self,
        directory: Path,
        settings: TraceSettings,
        observer: TraceObserver | None = None,
        secrets: Callable[[], Collection[str]] = tuple,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.directory = directory
        self.settings = settings
        self._observer = observer or TraceObserver()
        self._secrets = secrets
        self._clock = clock
        self._held = Held(settings.max_held_bytes)
        self._to_do: SimpleQueue[tuple[Trace, _Finished] | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = asyncio.Event()
        self._files = -1

    def open(self) -> None:
        """Begin; what an earlier process left is looked after, too."""
        self._loop = asyncio.get_running_loop()
        self._closed.clear()
        Thread(target=self._work, args=(self._loop,), name="trace-writer", daemon=True).start()

    async def close(self) -> None:
        """Write what there is, within a bound."""
        if self._loop is None:
            return
        self._loop = None
        self._to_do.put(None)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._closed.wait()

    def choose(self, request_id: str, headers: Mapping[str, str]) -> Trace | None:
        """The trace of a request that comes, if it is to have one."""
        settings = self.settings
        why = _why(settings, headers) if settings.is_on else None
        if why is None:
            return None
        self._held.most = settings.max_held_bytes
        return Trace(request_id, why, most_bytes=settings.max_bytes, held=self._held, on_over=self._finish)

    # --- inside ----------------------------------------------------------------------------------------------

    def _finish(self, trace: Trace) -> None:
        frames = trace.frames
        if not frames or self._loop is None:
            trace.let_go()
            return
        now = self._clock()
        name = f"{now.strftime(_STAMP)}.{now.microsecond // 1000:03}Z-{trace.request_id}.json"
        settings = self.settings
        about = {
            "request_id": trace.request_id,
            "ended": now.isoformat(timespec="milliseconds"),
            "chosen_for": trace.why,
            "text": settings.text,
            **trace.facts,
            "frames_left_out": trace.left_out,
        }
        self._to_do.put((trace, _Finished(name, about, frames, settings, tuple(self._secrets()))))

    def _done(self, trace: Trace, files: int, error: Exception | None) -> None:
        trace.let_go()
        if error is None:
            self._observer.trace_written(files)
        else:
            self._observer.trace_lost(trouble_of(error), told(error))

    # --- the thread ------------------------------------------------------------------------------------------

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweep(loop)
        while True:
            try:
                found = self._to_do.get(timeout=SWEEP_S)
            except Empty:
                self._sweep(loop)
                continue
            if found is None:
                break
            trace, finished = found
            error: Exception | None = None
            try:
                self._write(finished)
            except Exception as raised:  # noqa: BLE001 - whatever it is, no request fails
                error = raised
            files = self._sweep(loop)
            _tell(loop, partial(self._done, trace, files, error))
        _tell(loop, self._closed.set)

    def _write(self, finished: _Finished) -> None:
        """Whole, or not at all."""
        body = msgspec.json.format(msgspec.json.encode(document(finished)), indent=1)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self.directory / f".{finished.name}.part"
        descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(body)
            part.replace(self.directory / finished.name)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> int:
        """Remove what is too old or too much; how many are left."""
        settings, removed = self.settings, Counter[str]()
        oldest = (self._clock() - timedelta(seconds=settings.max_age_s)).strftime(_STAMP)
        files = []
        with suppress(OSError):
            found = ((_FILE.fullmatch(path.name), path) for path in self.directory.iterdir())
            files = sorted((match[1], path) for match, path in found if match)
        for place, (stamp, path) in enumerate(files):
            reason = "age" if stamp < oldest else "count" if len(files) - place > settings.max_files else None
            if reason is not None:
                with suppress(OSError):
                    path.unlink()
                    removed[reason] += 1
        left = len(files) - removed.total()
        if removed or left != self._files:
            self._files = left
            _tell(loop, partial(self._observer.traces_pruned, removed, left))
        return left


def document(finished: _Finished) -> dict[str, Any]:
    """What is written of a request."""
    frames, secrets = finished.frames, finished.secrets
    began_at = frames[0].at
    keep = finished.settings.text == "kept"
    said = [frame.told(began_at) for frame in frames]
    return finished.about | {"frames": [masked(each, secrets) if keep else redacted(each) for each in said]}


def _why(settings: TraceSettings, headers: Mapping[str, str]) -> str | None:
    if settings.by_header and headers.get(HEADER) == "1":
        return "header"
    if settings.ids and any(headers.get(name) in settings.ids for name in ID_HEADERS):
        return "id"
    if settings.sample and random.random() < settings.sample:  # noqa: S311 - chance is no secret
        return "sample"
    return "failure" if settings.failures else None


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Call this on the loop, soon; after the loop's end nobody is left to be told."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)

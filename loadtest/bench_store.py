"""What it takes to keep answers: how long a caller waits for a put and a get, and how large the file becomes.

    python -m loadtest.bench store [--quick] [--json FILE] [--folder DIRECTORY] [--aiosqlite]

The store that the service uses by default, in this process on uvloop, in a temporary directory: name one on the disk
that you mean with `--folder`. Every answer has 4 KiB of input and 4 KiB of output, which is there twice, as the
response and as its items. The exit code is 1 if an answer that was said to be stored was not found as it was; what the
disk and the machine do is told, and decides nothing. `--aiosqlite` asks the same of that library, if it is installed:
one table, a commit for each answer, and the library's own thread.
"""

from __future__ import annotations

import asyncio
import importlib
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from loadtest.promises import Row, told
from service.store.protocol import Draft, Item, Key, ResponseStore, State, Written
from service.store.settings import StoreSettings
from service.store.sqlite import SqliteStore

ANSWERS = 10_000
QUICK_ANSWERS = 500
CALLERS = 16
HALF = 4096
LAG_EVERY_S = 0.002

Call = Callable[[int], Awaitable[None]]


class Times(NamedTuple):
    """How long each of many calls took, in order of length, and how long all of them took."""

    each_s: list[float]
    all_s: float

    def percentile_ms(self, percent: float) -> float:
        return self.each_s[min(len(self.each_s) - 1, int(len(self.each_s) * percent / 100))] * 1e3

    def told(self) -> str:
        """The rest of the figures."""
        longest_ms, rate = self.percentile_ms(100), len(self.each_s) / self.all_s
        return f"p50 {self.percentile_ms(50):.2f} ms, longest {longest_ms:.1f} ms, {rate:.0f}/s"


async def timed(call: Call, count: int, callers: int) -> Times:
    """Call for each number below `count`, `callers` at a time."""
    times: list[float] = []
    numbers = iter(range(count))

    async def caller() -> None:
        for number in numbers:
            began_at = time.perf_counter()
            await call(number)
            times.append(time.perf_counter() - began_at)

    began_at = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(caller())
    return Times(sorted(times), time.perf_counter() - began_at)


class Lag:
    """How late the loop is, in seconds, from now on until it is stopped."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.each_s: list[float] = []
        self._look_later()

    def _look_later(self) -> None:
        self._timer = self._loop.call_later(LAG_EVERY_S, self._look, self._loop.time() + LAG_EVERY_S)

    def _look(self, due_at: float) -> None:
        self.each_s.append(max(0.0, self._loop.time() - due_at))
        self._look_later()

    def stop(self) -> Times:
        """What was seen."""
        self._timer.cancel()
        return Times(sorted(self.each_s), len(self.each_s) * LAG_EVERY_S)


def body(number: int, what: str) -> bytes:
    """Four KiB that belong to this answer."""
    return (f"{what} {number} ".encode() * HALF)[:HALF]


def key(number: int) -> Key:
    """The key under which an answer is kept; there are four owners."""
    return Key(f"owner-{number % 4}", f"resp_{number:032x}")


def draft(number: int) -> Draft:
    """One answer."""
    output = body(number, "output")
    return Draft(State.ENDED, output, (Item("msg_in", body(number, "input")),), (Item("msg_out", output),))


async def answers(folder: Path, count: int) -> list[Row]:
    """Put, get, continue and delete them."""
    path = folder / "responses.sqlite"
    store: ResponseStore = SqliteStore(path, StoreSettings())
    await store.open()
    wrong = 0

    async def put(number: int) -> None:
        nonlocal wrong
        wrong += await store.create(key(number), draft(number)) is not Written.STORED

    async def get(number: int) -> None:
        nonlocal wrong
        found = await store.get(key(number * 7919 % count))
        wrong += found is None or found.response != body(number * 7919 % count, "output")

    async def exchange(number: int) -> None:
        nonlocal wrong
        found = await store.exchange(key(number))
        wrong += found is None or found.input_items != draft(number).input_items

    async def both(number: int) -> None:
        await (put if number % 2 else get)(number)

    try:
        lag = Lag()
        put_times = await timed(put, count, CALLERS)
        get_times = await timed(get, count, CALLERS)
        exchange_times = await timed(exchange, count, CALLERS)
        alone = await timed(put, count // 10, 1)
        both_times = await timed(both, count, CALLERS)
        lags = lag.stop()
    finally:
        await store.close()
    size = path.stat().st_size
    crowd = f"{count} answers, {CALLERS} callers"
    seen = f"longest {lags.percentile_ms(100):.1f} ms, looked at every {LAG_EVERY_S * 1e3:g} ms"
    per_answer = f"{size / count:.0f} bytes an answer of {3 * HALF}"
    of_all = "of all the above"
    return [
        Row("store_put", "put, p99", put_times.percentile_ms(99), "ms", None, f"{crowd}; {put_times.told()}"),
        Row("store_put_alone", "put, p99, one caller", alone.percentile_ms(99), "ms", None, alone.told()),
        Row("store_get", "get, p99", get_times.percentile_ms(99), "ms", None, f"{crowd}; {get_times.told()}"),
        Row("store_items", "items, p99", exchange_times.percentile_ms(99), "ms", None, exchange_times.told()),
        Row("store_both", "put and get in turn, p99", both_times.percentile_ms(99), "ms", None, both_times.told()),
        Row("store_lag", "loop lag meanwhile, p99", lags.percentile_ms(99), "ms", None, seen),
        Row("store_file", "file size", size / 1024 / 1024, "MiB", None, per_answer),
        Row("store_wrong", "not found as put", float(wrong), "answers", 0.0, of_all, is_correctness=True),
    ]


async def peer(folder: Path, count: int) -> list[Row]:
    """The same puts and gets by aiosqlite, a commit each."""
    aiosqlite: Any = importlib.import_module("aiosqlite")
    async with aiosqlite.connect(folder / "peer.sqlite", isolation_level=None) as database:
        await database.execute("PRAGMA journal_mode = WAL")
        await database.execute("PRAGMA synchronous = FULL")
        await database.execute("CREATE TABLE responses (owner, id, response, input, output, PRIMARY KEY (owner, id))")

        async def put(number: int) -> None:
            made = draft(number)
            values = (*key(number), made.response, made.input_items[0].body, made.output_items[0].body)
            await database.execute("INSERT INTO responses VALUES (?, ?, ?, ?, ?)", values)

        async def get(number: int) -> None:
            async with database.execute(
                "SELECT response FROM responses WHERE owner = ? AND id = ?", key(number)
            ) as found:
                await found.fetchone()

        put_times = await timed(put, count, CALLERS)
        get_times = await timed(get, count, CALLERS)
    crowd = f"{count} answers, {CALLERS} callers"
    return [
        Row("peer_put", "aiosqlite: put, p99", put_times.percentile_ms(99), "ms", None, f"{crowd}; {put_times.told()}"),
        Row("peer_get", "aiosqlite: get, p99", get_times.percentile_ms(99), "ms", None, f"{crowd}; {get_times.told()}"),
    ]


def run(
    *, is_quick: bool = False, has_peer: bool = False, folder: Path | None = None, json_file: Path | None = None
) -> int:
    """Measure, print the table, write the JSON; the exit code."""
    return told(_measured(folder, is_quick=is_quick, has_peer=has_peer), is_quick=is_quick, json_file=json_file)


def _measured(folder: Path | None, *, is_quick: bool, has_peer: bool) -> Iterator[list[Row]]:
    count = QUICK_ANSWERS if is_quick else ANSWERS
    with tempfile.TemporaryDirectory(prefix="codex-completions-bench-", dir=folder) as temporary:
        for measure in (answers, peer) if has_peer else (answers,):
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                yield runner.run(measure(Path(temporary), count))

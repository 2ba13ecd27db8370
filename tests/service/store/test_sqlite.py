"""The store in a file: what it survives, and what it makes of a disk that is full, damaged, forbidden or taken."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pool.errors import EnvironmentUnfit
from service.store import database
from service.store.database import EVICT_ROWS, VERSION, Database, Reader
from service.store.operations import Create
from service.store.protocol import Draft, Event, Key, State, Stored, StoreUnavailable, Trouble, Written
from service.store.sqlite import MAX_READS, SqliteStore
from tests.support.disks import MountedDisk, NoDiskError, mounted
from tests.support.services import until
from tests.support.stores import Bench, Clock, ended, items, key, limits, other_user, taken

ROOT = Path(__file__).parents[3]
Opening = Callable[..., Any]


@asynccontextmanager
async def opened(folder: Path, **fields: Any) -> AsyncIterator[Bench]:
    """A store in a file, closed at the end."""
    bench = Bench("sqlite", folder, **fields)
    await bench.store.open()
    try:
        yield bench
    finally:
        await bench.store.close()


@pytest.fixture
def retries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "RETRY_S", 0.0)
    monkeypatch.setattr("service.store.sqlite.IDLE_S", 0.02)


@pytest.fixture
def is_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.05)


# --- what lies on the disk ---------------------------------------------------------------------------------------


async def test_nobody_else_may_read_the_file(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with opened(tmp_path) as bench:
            await bench.store.create(key(), ended())
            files = {path.name: path.stat().st_mode & 0o777 for path in bench.path.parent.iterdir()}
            assert {"responses.sqlite", "responses.sqlite-wal"} <= files.keys()
            assert set(files.values()) == {0o600}
            assert bench.path.parent.stat().st_mode & 0o777 == 0o700
            await bench.store.close()
            bench.path.chmod(0o644)
            await bench.reopen()
            assert bench.path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


async def test_one_file_is_left_when_it_is_closed(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        await bench.store.create(key(), ended())
        await bench.store.get(key())
    assert sorted(path.name for path in bench.path.parent.iterdir()) == ["responses.sqlite", "responses.sqlite.lock"]


async def test_a_file_that_should_be_smaller_becomes_so_bit_by_bit(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        await asyncio.gather(*(bench.store.create(key(str(n)), ended()) for n in range(5 * EVICT_ROWS)))  # noqa: TID251
    writer = Database(bench.path, limits(max_responses=10), bench.clock)
    try:
        steps = [writer.start()]
        while steps[-1].evicted:
            steps.append(writer.commit(()))
        assert [step.evicted.total() for step in steps] == [EVICT_ROWS] * 4 + [EVICT_ROWS - 10, 0]
        assert steps[-1].file.responses == 10
    finally:
        writer.close()


async def test_what_is_too_old_goes_though_nobody_writes(tmp_path: Path, retries_at_once: None) -> None:
    async with opened(tmp_path) as bench:
        await asyncio.gather(*(bench.store.create(key(str(n)), ended()) for n in range(3 * EVICT_ROWS)))  # noqa: TID251
        bench.clock.now += 10**6
        await until(lambda: bench.store.snapshot().responses == 0)
        assert bench.observer.evictions("age") == 3 * EVICT_ROWS


async def test_everything_that_has_piled_up_is_one_transaction(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        with taken(bench.path):
            tasks = [asyncio.ensure_future(bench.store.create(key(str(n)), ended("x" * 8000))) for n in range(200)]  # noqa: TID251
            await asyncio.wait(tasks, timeout=0.1)
        began_at = time.perf_counter()
        assert {await task for task in tasks} == {Written.STORED}
        assert time.perf_counter() - began_at < 2.0


# --- whom it refuses ---------------------------------------------------------------------------------------------


async def refusal(path: Path) -> str:
    store = SqliteStore(path, limits())
    with pytest.raises(EnvironmentUnfit) as caught:
        await store.open()
    assert await store.create(key(), ended()) is Written.LOST
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.get(key())
    await store.close()
    return str(caught.value)


async def test_a_path_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "below" / "responses.sqlite"
    assert await refusal(path) == f"store {path} cannot be used: Not a directory"
    path = tmp_path / "file" / "responses.sqlite"
    assert await refusal(path) == f"store {path} cannot be used: File exists"


async def test_a_directory_that_may_not_be_written_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    path = tmp_path / "responses.sqlite"
    try:
        with other_user():
            assert await refusal(path) == f"store {path} cannot be used: Permission denied"
    finally:
        tmp_path.chmod(0o700)


async def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE notes (text)")
    connection.close()
    before = path.read_bytes()
    assert await refusal(path) == f"store {path} cannot be used: it is some other program's database"
    assert path.read_bytes() == before


async def test_a_file_of_another_version_is_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        await bench.store.create(key(), ended())
    with sqlite3.connect(bench.path) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    assert await refusal(bench.path) == (
        f"store {bench.path} cannot be used: its version is {VERSION + 1}, and this release reads {VERSION}:"
        " move it away to begin a new one"
    )
    with sqlite3.connect(bench.path) as connection:
        assert connection.execute("SELECT count(*) FROM responses").fetchone() == (1,)
    connection.close()


async def test_a_second_service_keeps_nothing_until_the_first_is_gone(tmp_path: Path, retries_at_once: None) -> None:
    async with opened(tmp_path) as first:
        await first.store.create(key("left"), Draft(State.QUEUED, b"{}", job=b"job"))
        async with opened(tmp_path) as second:
            assert second.observer.facts == [("went_down", Trouble.LOCKED)]
            assert await second.store.create(key(), ended()) is Written.LOST
            with pytest.raises(StoreUnavailable, match="locked"):
                await second.store.get(key())
            left = asyncio.ensure_future(second.store.unfinished())  # noqa: TID251
            assert await first.store.create(key(), ended()) is Written.STORED
            await first.store.close()
            assert [each.key for each in await left] == [key("left")]
            assert second.observer.facts == [("went_down", Trouble.LOCKED), ("came_back",)]
            assert await second.store.get(key()) == Stored(State.ENDED, b"{}")


# --- a disk that is full -----------------------------------------------------------------------------------------


async def test_a_full_disk_loses_what_is_new_and_nothing_else(tmp_path: Path, retries_at_once: None) -> None:
    """The file may not grow: what SQLite says of that is what it says of a full disk."""
    async with opened(tmp_path) as bench:
        path = bench.path
        await bench.store.create(key("before"), ended("x" * 8000))
    clock = Clock()
    writer = Database(path, limits(), clock)
    try:
        pages = writer.start().file.used_bytes // 4096
        assert writer._connection is not None
        writer._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        lost = writer.commit([Create(key("small"), ended()), Create(key("big"), ended("x" * 100_000))])
        assert (lost.results, lost.trouble) == ((), Trouble.DISK_FULL)
        assert lost.file.responses == 1, "all of a transaction, or nothing"
        stored = writer.commit([Create(key("small"), ended())])
        assert (stored.results, stored.trouble) == ((Written.STORED,), None)
        assert stored.file.responses == 2
        writer._connection.execute("PRAGMA max_page_count = 1000000")
        assert writer.commit([Create(key("big"), ended("x" * 100_000))]).trouble is None
    finally:
        writer.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[MountedDisk]:
    """A disk of one megabyte."""
    try:
        with mounted(tmp_path / "disk") as disk:
            yield disk
    except NoDiskError as reason:
        pytest.skip(str(reason))


async def test_a_full_disk_is_told_and_retried(small_disk: MountedDisk, retries_at_once: None) -> None:
    async with opened(small_disk.path) as bench:
        store = bench.store
        assert await store.create(key("before"), ended("x" * 10_000)) is Written.STORED
        small_disk.fill(but_bytes=20_000)
        assert await store.create(key("big"), ended("x" * 200_000)) is Written.LOST
        assert ("create", Trouble.DISK_FULL) in bench.observer.operations
        assert bench.observer.facts[0] == ("went_down", Trouble.DISK_FULL)
        assert await store.get(key("before")) == Stored(State.ENDED, b"x" * 10_000), "what is there can be read"
        assert await store.get(key("big")) is None
        small_disk.clear()
        await until(lambda: store.snapshot().is_up)
        assert bench.observer.facts[-1] == ("came_back",)
        assert await store.create(key("big"), ended("x" * 200_000)) is Written.STORED


async def test_a_disk_that_was_full_from_the_start_is_no_reason_not_to_start(
    small_disk: MountedDisk, retries_at_once: None
) -> None:
    small_disk.fill()
    async with opened(small_disk.path) as bench:
        assert bench.observer.facts == [("went_down", Trouble.DISK_FULL)]
        assert await bench.store.create(key(), ended()) is Written.LOST
        with pytest.raises(StoreUnavailable, match="disk_full"):
            await bench.store.get(key())
        small_disk.clear()
        await until(lambda: bench.store.snapshot().is_up)
        assert await bench.store.create(key(), ended()) is Written.STORED


async def test_after_a_failure_nothing_is_tried_for_a_while(tmp_path: Path, is_impatient: None) -> None:
    async with opened(tmp_path) as bench:
        with taken(bench.path):
            assert await bench.store.create(key(), ended()) is Written.LOST
        began_at = time.perf_counter()
        assert await bench.store.create(key(), ended()) is Written.LOST
        assert time.perf_counter() - began_at < 0.5
        assert not bench.store.snapshot().is_up
        await until(lambda: bench.store.snapshot().is_up)
        assert await bench.store.create(key(), ended()) is Written.STORED


def test_a_store_that_cannot_write_is_down_though_it_has_nothing_to_write(
    small_disk: MountedDisk, retries_at_once: None
) -> None:
    writer = Database(small_disk.path / "responses.sqlite", limits(), Clock())
    try:
        assert writer.start().trouble is None
        small_disk.fill()
        assert writer.commit([Create(key(), ended("x" * 10_000))]).trouble is Trouble.DISK_FULL
        assert writer.commit(()).trouble is Trouble.DISK_FULL
        small_disk.clear()
        assert writer.commit(()).trouble is None
    finally:
        writer.close()


# --- a file that is damaged --------------------------------------------------------------------------------------


async def test_a_file_without_its_header_is_moved_aside_and_a_new_one_begun(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        await bench.store.create(key("gone"), Draft(State.QUEUED, b"{}"))
    damaged = b"no database" * 20 + bench.path.read_bytes()[220:]
    bench.path.write_bytes(damaged)
    store = await bench.reopen()
    aside = bench.path.with_name("responses.sqlite.corrupt")
    assert bench.observer.facts == [("moved_aside", str(aside))]
    assert aside.read_bytes() == damaged
    assert store.snapshot().is_up
    assert await store.unfinished() == ()
    assert await store.get(key("gone")) is None
    assert await store.create(key(), ended()) is Written.STORED
    assert await store.get(key()) == Stored(State.ENDED, b"{}")
    assert bench.path.stat().st_mode & 0o777 == 0o600


def overwrite(path: Path, marker: bytes, by: bytes) -> None:
    """Change these bytes where they lie."""
    data = path.read_bytes()
    assert marker in data
    path.write_bytes(data.replace(marker, by))


async def test_a_damaged_body_is_noticed_by_whoever_reads_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        await bench.store.create(key(), ended("the answer" + "x" * 10_000))
        await bench.store.create(key("other"), ended())
    overwrite(bench.path, b"the answer", b"the ANSWER")
    store = await bench.reopen()
    assert await store.get(key("other")) == Stored(State.ENDED, b"{}")
    with pytest.raises(StoreUnavailable, match="corrupt"):
        await store.get(key())
    await until(lambda: bench.observer.facts)
    assert [fact[0] for fact in bench.observer.facts] == ["moved_aside"]
    assert await store.get(key()) is None
    assert await store.create(key(), ended("anew")) is Written.STORED
    assert await store.get(key()) == Stored(State.ENDED, b"anew")
    await store.close()
    assert await (await bench.reopen()).get(key()) == Stored(State.ENDED, b"anew")


async def test_an_answer_that_lies_at_anothers_place_is_not_shown(tmp_path: Path) -> None:
    """A checksum of the body alone would be right."""
    async with opened(tmp_path) as bench:
        await bench.store.create(key(owner="alice"), ended("hers"))
        await bench.store.create(key(owner="bob"), ended("his"))
    with sqlite3.connect(bench.path) as connection:
        (hers,) = connection.execute("SELECT response FROM responses WHERE owner = ?", (b"alice",)).fetchone()
        connection.execute("UPDATE responses SET response = ? WHERE owner = ?", (hers, b"bob"))
    connection.close()
    store = await bench.reopen()
    assert await store.get(key(owner="alice")) == Stored(State.ENDED, b"hers")
    with pytest.raises(StoreUnavailable, match="corrupt"):
        await store.get(key(owner="bob"))


@pytest.mark.parametrize("page", range(1, 12))
async def test_a_damaged_page_costs_the_file_at_most_and_no_request(tmp_path: Path, page: int) -> None:
    async with opened(tmp_path) as bench:
        for number in range(50):
            await bench.store.create(key(str(number)), ended(f"{number}:" + "x" * 600, input_items=items("in_1")))
            bench.store.append(key(str(number)), [Event(0, b"zero")])
    data = bytearray(bench.path.read_bytes())
    assert len(data) >= 12 * 4096
    data[page * 4096 : (page + 1) * 4096] = hashlib.shake_256(bytes([page])).digest(4096)
    bench.path.write_bytes(data)
    store = await bench.reopen()
    for number in range(50):
        try:
            found = await store.get(key(str(number)))
        except StoreUnavailable:
            break
        assert found in (None, Stored(State.ENDED, f"{number}:".encode() + b"x" * 600))
    for number in range(50, 150):
        assert await store.create(key(str(number)), ended()) is Written.STORED
        assert await store.delete(key(str(number - 50))) in (True, False)
    for number in range(100, 150):
        assert await store.get(key(str(number))) == Stored(State.ENDED, b"{}")
    assert store.snapshot().is_up
    assert {result for _, result in bench.observer.operations} <= {"stored", "found", "unknown", "corrupt"}


async def test_a_file_that_is_damaged_while_it_is_open_is_replaced(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        store = bench.store
        for number in range(3000):
            written = store.append(key(), [Event(number, b"")]) if number else await store.create(key(), ended())
            assert written
        await store.close()
        await bench.reopen()
        size = bench.path.stat().st_size
        with bench.path.open("r+b") as file:
            file.write(b"\xff" * size)
        results = [await bench.store.create(key(str(number)), ended("x" * 5000)) for number in range(20)]
        assert results[-1] is Written.STORED
        assert [fact[0] for fact in bench.observer.facts if fact[0] != "evicted"] == ["moved_aside"]
        assert await bench.store.get(key("19")) == Stored(State.ENDED, b"x" * 5000)


async def test_a_file_that_was_removed_is_begun_anew(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        await bench.store.create(key("gone"), ended())
        assert await bench.store.get(key("gone")) is not None
        bench.path.unlink()
        assert await bench.store.create(key(), ended()) is Written.STORED
        assert await bench.store.get(key()) is not None
        store = await bench.reopen()
        assert await store.get(key()) == Stored(State.ENDED, b"{}")
        assert await store.get(key("gone")) is None


def test_a_file_is_moved_aside_once_and_who_still_reads_it_harms_nobody(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    writer = Database(path, limits(), Clock())
    try:
        first = writer.start().file.generation
        writer.commit([Create(key("old"), ended())])
        late = Reader(path, limits(), Clock())
        assert late.get(key("old")) is not None
        assert writer.condemn(first).moved_aside == f"{path}.corrupt"
        writer.commit([Create(key("new"), ended())])
        assert writer.condemn(first).moved_aside is None, "whoever is late has seen the old one"
        assert late.get(key("old")) is not None
        late.close()
        assert Path(f"{path}-wal").stat().st_size > 0, "the log of the new file"
        assert writer.commit([Create(key("newer"), ended())]).trouble is None
        now = Reader(path, limits(), Clock())
        assert [now.get(key(name)) is not None for name in ("old", "new", "newer")] == [False, True, True]
        now.close()
    finally:
        writer.close()


async def test_in_a_new_file_nothing_is_an_earlier_processs(tmp_path: Path) -> None:
    async with opened(tmp_path) as bench:
        for number in range(5):
            await bench.store.create(key(str(number)), Draft(State.QUEUED, b"{}"))
        store = await bench.reopen()
        assert len(await store.unfinished()) == 5
        bench.path.unlink()
        await store.create(key("new"), Draft(State.QUEUED, b"{}"))
        assert await store.get(key("new")) is not None
        assert await store.unfinished() == ()


async def test_of_damaged_files_only_the_last_is_kept(tmp_path: Path) -> None:
    bench = Bench("sqlite", tmp_path)
    for number in range(3):
        await bench.reopen()
        await bench.store.create(key(), ended())
        await bench.store.close()
        bench.path.write_bytes(f"damage {number} ".encode() * 100)
    await bench.reopen()
    await bench.store.close()
    aside = bench.path.with_name("responses.sqlite.corrupt")
    assert aside.read_bytes().startswith(b"damage 2 ")
    assert sorted(path.name for path in bench.path.parent.iterdir()) == [
        "responses.sqlite",
        "responses.sqlite.corrupt",
        "responses.sqlite.lock",
    ]


async def test_a_bug_loses_a_transaction_and_no_more(tmp_path: Path, retries_at_once: None) -> None:
    async with opened(tmp_path) as bench:
        assert await bench.store.create(key(), Draft(State.ENDED, "no bytes")) is Written.LOST  # type: ignore[arg-type]
        assert bench.observer.facts == [("went_down", Trouble.FAILED)]
        await until(lambda: bench.store.snapshot().is_up)
        assert await bench.store.create(key(), ended()) is Written.STORED


# --- somebody else's lock, and what must not wait for it ---------------------------------------------------------


async def test_a_lock_of_another_program_loses_what_it_outlasts(
    tmp_path: Path, is_impatient: None, retries_at_once: None
) -> None:
    async with opened(tmp_path) as bench:
        await bench.store.create(key("before"), ended())
        with taken(bench.path):
            assert await bench.store.create(key(), ended()) is Written.LOST
            with pytest.raises(StoreUnavailable, match="locked"):
                await bench.store.delete(key("before"))
            assert await bench.store.get(key("before")) is not None, "readers are not held up"
            assert bench.observer.facts == [("went_down", Trouble.LOCKED)]
        await until(lambda: bench.store.snapshot().is_up)
        assert await bench.store.create(key(), ended()) is Written.STORED


async def test_no_more_waits_to_be_written_than_may(tmp_path: Path) -> None:
    async with opened(tmp_path, max_waiting_bytes=100_000) as bench:
        store = bench.store
        await store.create(key("open"), Draft(State.RUNNING, b"{}"))
        with taken(bench.path):
            tasks = [asyncio.ensure_future(store.create(key(str(n)), ended("x" * 30_000))) for n in range(10)]  # noqa: TID251
            await asyncio.wait(tasks, timeout=0.1)
            assert [task.done() for task in tasks] == [False] * 3 + [True] * 7
            assert store.snapshot().waiting_bytes <= 100_000
            assert store.append(key("open"), [Event(0, b"x" * 30_000)]) is False
            assert bench.observer.operations[-1] == ("append", Trouble.WAITING_FULL)
        written = [await task for task in tasks]
        assert written == [Written.STORED] * 3 + [Written.LOST] * 7
        assert store.snapshot().waiting_bytes == 0
        assert await store.create(key("big"), ended("x" * 200_000)) is Written.STORED, "one alone may always wait"


async def test_no_request_waits_longer_than_it_may_and_what_is_lost_is_never_found(tmp_path: Path) -> None:
    async with opened(tmp_path, timeout_s=0.1) as bench:
        store = bench.store
        await store.create(key("open"), Draft(State.RUNNING, b"{}"))
        with taken(bench.path):
            assert await store.create(key(), Draft(State.QUEUED, b"{}", job=b"job")) is Written.LOST
            with pytest.raises(StoreUnavailable, match="slow"):
                await store.delete(key("open"))
            assert not store.snapshot().is_up, "until it writes again nobody need wait for it"
        await until(lambda: store.snapshot().waiting_bytes == 0)
        assert await store.get(key()) is None
        assert bench.observer.operations.count(("create", Trouble.SLOW)) == 1
        assert await store.get(key("open")) is None
        assert bench.observer.facts == [("went_down", "slow"), ("came_back",)]
        assert store.snapshot().is_up


async def test_a_reader_that_is_held_up_holds_up_nobody_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    monkeypatch.setattr(database.Reader, "get", lambda _self, _key: held.wait(20))
    async with opened(tmp_path, timeout_s=0.1) as bench:
        try:
            waiting = [asyncio.ensure_future(bench.store.get(key())) for _ in range(MAX_READS + 5)]  # noqa: TID251
            errors = await asyncio.gather(*waiting, return_exceptions=True)  # noqa: TID251
            troubles = [str(error) for error in errors]
            assert troubles.count("the store is not available: slow") == MAX_READS
            assert troubles.count("the store is not available: waiting_full") == 5
            assert await bench.store.create(key(), ended()) is Written.STORED, "writing goes on"
        finally:
            held.set()


async def test_closing_takes_no_longer_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.store.sqlite.CLOSE_S", 0.2)
    async with opened(tmp_path) as bench:
        with taken(bench.path):
            lost = asyncio.ensure_future(bench.store.create(key(), ended()))  # noqa: TID251
            await asyncio.wait([lost], timeout=0.05)
            began_at = time.perf_counter()
            await bench.store.close()
            assert time.perf_counter() - began_at < 0.9
            assert await bench.store.create(key(), ended()) is Written.LOST
        assert await lost is Written.STORED, "what was waiting is written, if it still can be"


async def test_the_loop_goes_on_while_a_big_answer_is_written(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    lags: list[float] = []

    def look(due_at: float) -> None:
        lags.append(loop.time() - due_at)
        timers[0] = loop.call_later(0.005, look, loop.time() + 0.005)

    timers = [loop.call_later(0.0, look, loop.time())]
    async with opened(tmp_path) as bench:
        for number in range(4):
            assert await bench.store.create(key(str(number)), ended("x" * 15_000_000)) is Written.STORED
            assert await bench.store.get(key(str(number))) is not None
    timers[0].cancel()
    assert len(lags) > 10
    assert sorted(lags)[len(lags) // 2] < 0.05


# --- the end of the process --------------------------------------------------------------------------------------

WRITER = """
import asyncio, sys
from pathlib import Path
from service.store.protocol import Draft, Event, Item, Key, State
from service.store.settings import StoreSettings
from service.store.sqlite import SqliteStore

async def write(store, number):
    key = Key("alice", str(number))
    body = str(number).encode() * 500
    first = await store.create(key, Draft(State.RUNNING, b"begun", (Item("in", body),)))
    print("begun", number, first, flush=True)
    store.append(key, [Event(0, body)])
    print("ended", number, await store.update(key, State.ENDED, body, (Item("out", body),)), flush=True)

async def main():
    store = SqliteStore(Path(sys.argv[1]), StoreSettings())
    await store.open()
    for start in range(0, 10**6, 8):
        await asyncio.gather(*(write(store, number) for number in range(start, start + 8)))

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 50, 333, 1000])
async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "responses.sqlite"
    child = subprocess.Popen(  # noqa: ASYNC220 - the test has nothing else to do
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        said = [child.stdout.readline() for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
        said += child.stdout.readlines()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    words = [line.split() for line in said if line.endswith("\n")]
    assert {word[2] for word in words} == {"stored"}
    began = {int(word[1]) for word in words if word[0] == "begun"}
    finished = {int(word[1]) for word in words if word[0] == "ended"}
    assert len(began) + len(finished) >= lines
    store = SqliteStore(path, limits(max_age_s=10**9))
    await store.open()
    try:
        for number in began:
            body = str(number).encode() * 500
            found = await store.get(Key("alice", str(number)))
            assert found is not None
            if number in finished:
                assert found == Stored(State.ENDED, body)
                assert await store.events(Key("alice", str(number))) == (Event(0, body),)
        left = {int(each.key.id) for each in await store.unfinished()}
        assert began - finished - left <= set(range(max(began) - 8, max(began) + 1)), "ended, and not told in time"
        assert left.isdisjoint(finished)
    finally:
        await store.close()

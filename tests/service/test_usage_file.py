"""What was used is summed to the millisecond, kept within its limits, and survives what may happen to it."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.errors import EnvironmentUnfit
from pool.events import Usage
from service.usage import ledger as shell
from service.usage.file import HOUR_MS, UsageFile
from service.usage.ledger import Ledger, UsageObserver, UsageUnavailable
from service.usage.record import Record
from service.usage.settings import UsageSettings
from tests.support.services import until

DAY_MS = 24 * HOUR_MS
WHOLE = 1 << 62
NOW = time.time_ns() // 1_000_000


def used(at_ms: int, key: str = "alice", tokens: int = 1, *, is_estimate: bool = False) -> Record:
    usage = Usage(input_tokens=10 * tokens, cached_input_tokens=tokens, output_tokens=tokens, reasoning_output_tokens=0)
    return Record(at_ms, key, usage, is_estimate, {"ts": at_ms, "key": key})


def file(tmp_path: Path, **fields: Any) -> UsageFile:
    return UsageFile(tmp_path / "state" / "usage.sqlite", UsageSettings(**fields))


def total(found: UsageFile, start_ms: int, end_ms: int, key: str | None = None) -> int:
    return sum(row.requests for row in found.sums(start_ms, end_ms, WHOLE, key))


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    found = file(tmp_path)
    found.add([used(0)], 0)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()} == {0o600}
    found.close()


def test_it_is_summed_by_key_and_by_hour_or_day(tmp_path: Path) -> None:
    found = file(tmp_path)
    found.add([used(HOUR_MS + 1), used(HOUR_MS + 2, "bob", 7, is_estimate=True)], 0)
    found.add([used(2 * HOUR_MS), used(DAY_MS + 1, "bob")], 0)
    rows = found.sums(0, 2 * DAY_MS, HOUR_MS, None)
    assert [(row.at_ms, row.key, row.requests) for row in rows] == [
        (HOUR_MS, "alice", 1),
        (HOUR_MS, "bob", 1),
        (2 * HOUR_MS, "alice", 1),
        (DAY_MS, "bob", 1),
    ]
    assert rows[1][3:] == (70, 7, 7, 0, 1)
    assert [(row.at_ms, row.key, row.requests) for row in found.sums(0, 2 * DAY_MS, DAY_MS, "bob")] == [
        (0, "bob", 1),
        (DAY_MS, "bob", 1),
    ]
    assert [(row.key, row.requests) for row in found.sums(0, 2 * DAY_MS, WHOLE, None)] == [("alice", 2), ("bob", 2)]
    found.close()


@given(
    at=st.lists(st.integers(0, 5 * HOUR_MS), max_size=30),
    span=st.tuples(st.integers(0, 5 * HOUR_MS), st.integers(0, 6 * HOUR_MS)),
)
def test_a_span_has_what_lies_in_it_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, at: list[int], span: tuple[int, int]
) -> None:
    found = file(tmp_path_factory.mktemp("usage"))
    found.add([used(each) for each in at], 0)
    start, end = span
    assert total(found, start, end) == sum(start <= each < end for each in at)
    found.close()


def test_single_requests_go_by_age_and_by_number_and_their_sums_stay(tmp_path: Path) -> None:
    found = file(tmp_path, max_records=10, max_record_age_s=3600, max_age_s=86400)
    found.add([used(each) for each in range(30)], 30)
    assert len(found.last(100, None)) == 10
    assert total(found, 0, HOUR_MS) == 30
    found.add([used(HOUR_MS + 40)], HOUR_MS + 40)
    assert len(found.last(100, None)) == 1
    assert total(found, 0, 2 * HOUR_MS) == 31
    found.add([], DAY_MS + HOUR_MS)
    assert total(found, 0, 2 * HOUR_MS) == 1, "but not for ever"
    found.close()


def test_the_last_come_in_their_order_each_keys_own(tmp_path: Path) -> None:
    found = file(tmp_path)
    found.add([used(each, "bob" if each % 2 else "alice") for each in range(6)], 0)
    assert found.last(3, None) == [b'{"ts":3,"key":"bob"}', b'{"ts":4,"key":"alice"}', b'{"ts":5,"key":"bob"}']
    assert found.last(2, "alice") == [b'{"ts":2,"key":"alice"}', b'{"ts":4,"key":"alice"}']
    assert found.last(2, "nobody") == []
    found.close()


def test_two_processes_add_to_one_file(tmp_path: Path) -> None:
    one, two = file(tmp_path), file(tmp_path)
    one.add([used(1)], 0)
    two.add([used(2)], 0)
    one.add([used(3)], 0)
    assert total(one, 0, HOUR_MS) == total(two, 0, HOUR_MS) == 3
    one.close()
    two.close()


# --- the shell ---------------------------------------------------------------------------------------------------


class Heard(UsageObserver):
    """What a ledger tells."""

    def __init__(self) -> None:
        self.written = self.lost = 0
        self.events: list[str] = []

    def usage_written(self, records: int) -> None:
        self.written += records

    def usage_lost(self, records: int) -> None:
        self.lost += records

    def usage_went_down(self, trouble: str, text: str) -> None:
        self.events.append(trouble)

    def usage_came_back(self) -> None:
        self.events.append("back")

    def usage_moved_aside(self, path: str) -> None:
        self.events.append(Path(path).name)


@asynccontextmanager
async def opened(path: Path, **fields: Any) -> AsyncIterator[tuple[Ledger, Heard]]:
    heard = Heard()
    ledger = Ledger(path, UsageSettings(**fields), heard)
    await ledger.open()
    try:
        yield ledger, heard
    finally:
        await ledger.close()


@pytest.fixture(autouse=True)
def is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "FLUSH_S", 0.01)
    monkeypatch.setattr(shell, "RETRY_S", 0.01)


async def requests(ledger: Ledger) -> int:
    return sum(row.requests for row in await ledger.sums(0, WHOLE, WHOLE, None))


async def test_what_was_added_is_in_the_next_answer_and_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "usage.sqlite"
    async with opened(path) as (ledger, heard):
        ledger.add(used(NOW + 1))
        assert await requests(ledger) == 1
        ledger.add(used(NOW + 2))
        await until(lambda: heard.written == 2)
        ledger.add(used(NOW + 3))
    async with opened(path) as (ledger, heard):
        assert await requests(ledger) == 3
        assert len(await ledger.last(10, None)) == 3
    with pytest.raises(UsageUnavailable):
        await ledger.last(1, None)


async def test_many_records_are_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    genuine = UsageFile.add

    def add(self: UsageFile, records: Sequence[Record], now_ms: int) -> None:
        batches.append(len(records))
        genuine(self, records, now_ms)

    monkeypatch.setattr(UsageFile, "add", add)
    async with opened(tmp_path / "usage.sqlite") as (ledger, heard):
        for number in range(1000):
            ledger.add(used(NOW + number))
        await until(lambda: heard.written == 1000)
    assert max(batches) == 1000


async def test_a_path_that_cannot_be_is_one_line_at_the_start(tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    ledger = Ledger(other, UsageSettings())
    with pytest.raises(EnvironmentUnfit, match="some other program's database"):
        await ledger.open()
    await ledger.close()


async def test_a_full_disk_loses_nothing_that_it_may_keep_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "MAX_WAITING", 400)
    async with opened(tmp_path / "usage.sqlite") as (ledger, heard):
        ledger.add(used(NOW + 0))
        assert await requests(ledger) == 1
        monkeypatch.setattr(UsageFile, "add", full)
        for number in range(500):
            ledger.add(used(NOW + number))
        await until(lambda: heard.events == ["disk_full"])
        assert heard.lost == 100
        assert len(await ledger.last(10, None)) == 1, "it can still be read"
        monkeypatch.undo()
        monkeypatch.setattr(shell, "RETRY_S", 0.01)
        await until(lambda: heard.written == 401)
        assert heard.events == ["disk_full", "back"]
        assert await requests(ledger) == 401


def full(*_: object) -> None:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    raise error


async def test_what_cannot_be_written_at_the_end_is_counted_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "usage.sqlite") as (ledger, heard):
        monkeypatch.setattr(UsageFile, "add", full)
        ledger.add(used(NOW + 1))
    assert heard.lost == 1


async def test_a_damaged_file_is_moved_aside_and_a_new_one_begun(tmp_path: Path) -> None:
    path = tmp_path / "usage.sqlite"
    async with opened(path) as (ledger, _):
        ledger.add(used(NOW + 1))
    path.write_bytes(b"no database at all" * 1000)
    async with opened(path) as (ledger, heard):
        ledger.add(used(NOW + 2))
        await until(lambda: heard.written == 1)
        assert heard.events == ["usage.sqlite.corrupt"]
        assert await requests(ledger) == 1


async def test_a_file_that_was_removed_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "usage.sqlite"
    async with opened(path) as (ledger, heard):
        ledger.add(used(NOW + 1))
        await until(lambda: heard.written == 1)
        for each in tmp_path.iterdir():
            each.unlink()
        ledger.add(used(NOW + 2))
        await until(lambda: heard.written == 2)
        assert await requests(ledger) == 1
        assert path.exists()


WRITES_FOR_EVER = """
import asyncio, sys
from pathlib import Path
from service.usage.ledger import Ledger, UsageObserver
from service.usage.settings import UsageSettings
from tests.service.test_usage_file import NOW, used

class Told(UsageObserver):
    total = 0
    def usage_written(self, records):
        self.total += records
        print(self.total, flush=True)

async def main():
    ledger = Ledger(Path(sys.argv[1]), UsageSettings(), Told())
    await ledger.open()
    for number in range(10**9):
        ledger.add(used(NOW + number))
        if number % 50 == 0:
            await asyncio.sleep(0.001)

asyncio.run(main())
"""


def test_what_was_written_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "usage.sqlite"
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", WRITES_FOR_EVER, str(path)], stdout=subprocess.PIPE, cwd=root, text=True
    ) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(2)][-1]
        process.send_signal(signal.SIGKILL)
        told = max([told, *map(int, process.stdout.read().split())])
    found = UsageFile(path, UsageSettings())
    assert total(found, 0, WHOLE) >= told > 0
    assert len(found.last(told, None)) == min(told, 100_000)
    found.close()

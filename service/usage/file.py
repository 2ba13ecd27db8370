"""The file of what was used, synchronous: single requests, and their sums by hour and key, which are kept longer.

It may be written by several processes: each adds, and none reads what it has not written itself to know what to add.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from service.store.database import WAL_BYTES, connect, inode_of, move_aside, set_up
from service.usage.record import Record
from service.usage.settings import UsageSettings

APPLICATION_ID: Final = 0x43525532
"""In the file's header: it is ours."""
VERSION: Final = 1
HOUR_MS: Final = 3_600_000
EVICT_ROWS: Final = 10_000
"""How many records are removed in one transaction, at most."""

_SCHEMA = """
CREATE TABLE records (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    key TEXT NOT NULL,
    input INTEGER NOT NULL,
    cached INTEGER NOT NULL,
    output INTEGER NOT NULL,
    reasoning INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    event BLOB NOT NULL
) STRICT;
CREATE INDEX by_time ON records (at_ms);
CREATE INDEX by_key ON records (key);
CREATE TABLE hours (
    hour_ms INTEGER NOT NULL,
    key TEXT NOT NULL,
    requests INTEGER NOT NULL,
    input INTEGER NOT NULL,
    cached INTEGER NOT NULL,
    output INTEGER NOT NULL,
    reasoning INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    PRIMARY KEY (hour_ms, key)
) STRICT, WITHOUT ROWID;
"""
_INSERT = """
INSERT INTO records (at_ms, key, input, cached, output, reasoning, estimated, event) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_ADD = """
INSERT INTO hours VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests,
    input = input + excluded.input,
    cached = cached + excluded.cached,
    output = output + excluded.output,
    reasoning = reasoning + excluded.reasoning,
    estimated = estimated + excluded.estimated
"""
_EVICT_TOO_MANY = """
DELETE FROM records WHERE row IN (
    SELECT row FROM records WHERE row <= (SELECT max(row) FROM records) - ? ORDER BY row LIMIT ?
)
"""
_EVICT_TOO_OLD = "DELETE FROM records WHERE row IN (SELECT row FROM records WHERE at_ms < ? ORDER BY at_ms LIMIT ?)"
_SUMS = """
WITH parts AS (
    SELECT hour_ms AS at_ms, key, requests, input, cached, output, reasoning, estimated FROM hours
    WHERE hour_ms >= :first_ms AND hour_ms < :last_ms
    UNION ALL
    SELECT at_ms, key, 1, input, cached, output, reasoning, estimated FROM records
    WHERE at_ms >= :start_ms AND at_ms < :first_ms
    UNION ALL
    SELECT at_ms, key, 1, input, cached, output, reasoning, estimated FROM records
    WHERE at_ms >= :last_ms AND at_ms < :end_ms
)
SELECT at_ms / :width_ms * :width_ms, key,
    sum(requests), sum(input), sum(cached), sum(output), sum(reasoning), sum(estimated)
FROM parts WHERE :key IS NULL OR key = :key GROUP BY 1, 2 ORDER BY 1, 2
"""
_LAST = "SELECT event FROM records WHERE ? IS NULL ORDER BY row DESC LIMIT ?"
_LAST_OF = "SELECT event FROM records WHERE key = ? ORDER BY row DESC LIMIT ?"

_encode = msgspec.json.Encoder().encode


class Sums(NamedTuple):
    """What one key has used from `at_ms` on. `estimated` is of how many requests nobody counted the tokens."""

    at_ms: int
    key: str
    requests: int
    input: int
    cached: int
    output: int
    reasoning: int
    estimated: int


class UsageFile:
    """Opened when it is first needed. Whatever is wrong with it is raised."""

    def __init__(self, path: Path, settings: UsageSettings) -> None:
        self._path = path
        self._settings = settings
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def open(self) -> sqlite3.Connection:
        """The connection to it.

        Raises:
            Unfit: this can never succeed.
        """
        if self._connection is not None and inode_of(self._path) != self._inode:
            self.close()  # somebody removed it: what is written there would be gone with the process
        if self._connection is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            connection = connect(self._path)
            try:
                set_up(connection, APPLICATION_ID, VERSION, _SCHEMA)
                connection.execute("PRAGMA synchronous = NORMAL")  # survives this process, which is what is promised
                connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
            except BaseException:
                connection.close()
                raise
            self._connection, self._inode = connection, inode_of(self._path)
        return self._connection

    def add(self, records: Sequence[Record], now_ms: int) -> None:
        """Keep these, and forget what is too much, in one transaction."""
        settings, connection = self._settings, self.open()
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(_INSERT, map(_row, records))
            connection.executemany(_ADD, _by_hour(records))
            oldest_ms = now_ms - int(settings.max_record_age_s * 1000)
            connection.execute(_EVICT_TOO_MANY, (settings.max_records, EVICT_ROWS))
            connection.execute(_EVICT_TOO_OLD, (oldest_ms, EVICT_ROWS))
            connection.execute("DELETE FROM hours WHERE hour_ms < ?", (now_ms - int(settings.max_age_s * 1000),))
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.rollback()
            raise

    def sums(self, start_ms: int, end_ms: int, width_ms: int, key: str | None) -> list[Sums]:
        """What was used from `start_ms` until before `end_ms`, by each key (None) or one, for each `width_ms` of it.

        Whole hours are read from their sums, the rest from single requests, as far as these are kept.
        """
        first_ms, last_ms = -(-start_ms // HOUR_MS) * HOUR_MS, end_ms // HOUR_MS * HOUR_MS
        if first_ms > last_ms:
            first_ms = last_ms = end_ms
        values = {"start_ms": start_ms, "first_ms": first_ms, "last_ms": last_ms, "end_ms": end_ms}
        rows = self.open().execute(_SUMS, values | {"width_ms": width_ms, "key": key})
        return [Sums(*row) for row in rows]

    def last(self, limit: int, key: str | None) -> list[bytes]:
        """The events of the last requests, each as JSON, in their order."""
        rows = self.open().execute(_LAST if key is None else _LAST_OF, (key, limit)).fetchall()
        return [event for (event,) in reversed(rows)]

    def move_aside(self) -> str | None:
        """Begin another one, since this is damaged; where it lies now, or None if it cannot be moved."""
        self.close()
        return move_aside(self._path)

    def close(self) -> None:
        """Let go of it."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _row(record: Record) -> tuple[object, ...]:
    return (record.at_ms, record.key, *_counts(record), _encode(record.event))


def _counts(record: Record) -> tuple[int, ...]:
    usage = record.usage
    tokens = (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens, usage.reasoning_output_tokens)
    return (*tokens, int(record.is_estimate))


def _by_hour(records: Sequence[Record]) -> list[tuple[object, ...]]:
    found: defaultdict[tuple[int, str], list[tuple[int, ...]]] = defaultdict(list)
    for record in records:
        found[record.at_ms // HOUR_MS * HOUR_MS, record.key].append(_counts(record))
    return [(*place, len(counts), *map(sum, zip(*counts, strict=True))) for place, counts in found.items()]

"""The file of the SQLite store, synchronously: one `Database` writes it, any number of `Reader`s read it meanwhile.

Neither is shared between OS threads. Bodies are sealed: each has a checksum that covers its key too, because SQLite has
none for its pages. A damaged file can so be noticed late, but never show a wrong answer, or an answer to the wrong one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from service.store.operations import Append, Create, Delete, Operation, Update
from service.store.protocol import Event, Exchange, Item, Key, State, Stored, Trouble, Unfinished, Written
from service.store.settings import StoreSettings

APPLICATION_ID: Final = 0x43525331
"""In the file's header: it is ours."""
VERSION: Final = 1
"""Of the schema. A file of another version is refused: nothing is guessed, nothing lost."""

BUSY_S = 1.0
"""How long somebody else's lock on the file is waited for."""
RETRY_S = 1.0
"""After a failure: how long nothing is tried, and everything lost at once."""
EVICT_ROWS = 64
"""How many answers more than were written are removed in one transaction, at most."""
MAX_NUMBER = 2**63 - 1

_CACHE_KIB = 8192
WAL_BYTES = 16 * 1024 * 1024

_SCHEMA = """
CREATE TABLE responses (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    owner BLOB NOT NULL,
    id BLOB NOT NULL,
    state INTEGER NOT NULL,
    created_wall REAL NOT NULL,
    previous BLOB,
    response BLOB NOT NULL,
    output_items BLOB NOT NULL,
    job BLOB,
    input_items BLOB NOT NULL,
    UNIQUE (owner, id)
) STRICT;
CREATE INDEX by_age ON responses (state, created_wall);
CREATE TABLE events (
    response INTEGER NOT NULL REFERENCES responses ON DELETE CASCADE,
    number INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (response, number)
) STRICT, WITHOUT ROWID;
"""

_INSERT = """
INSERT INTO responses (owner, id, state, created_wall, previous, response, output_items, job, input_items)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_UPDATE = """
UPDATE responses SET state = ?, response = ?, output_items = ?, job = CASE ? WHEN 1 THEN job END
WHERE owner = ? AND id = ? AND (state > 0 OR created_wall > ?)
"""
_DELETE = "DELETE FROM responses WHERE owner = ? AND id = ?"
_APPEND = """
INSERT OR REPLACE INTO events
SELECT row, ?, ? FROM responses WHERE owner = ? AND id = ? AND (state > 0 OR created_wall > ?)
"""
_ALIVE = "FROM responses WHERE owner = ? AND id = ? AND (state > 0 OR created_wall > ?)"
_UNFINISHED = "SELECT owner, id, state FROM responses WHERE state IN (1, 2) AND row <= ? ORDER BY row"
_OLDEST = "SELECT created_wall, row FROM responses WHERE state = 0 ORDER BY created_wall, row LIMIT 1"
_EVICT = """
DELETE FROM responses
WHERE row = (SELECT row FROM responses WHERE state = 0 ORDER BY created_wall, row LIMIT 1)
"""

_ITEMS = msgspec.msgpack.Decoder(tuple[Item, ...])

Result = Written | bool | None
"""What the protocol's method returns; None for events, which nobody waits for."""


class Unfit(Exception):  # noqa: N818 - reads as a fact
    """The file cannot be used as it is configured; a human has to look. One plain line."""


class Damaged(Exception):  # noqa: N818 - reads as a fact
    """Something in the file is not what was written."""


class Locked(Exception):  # noqa: N818 - reads as a fact
    """Another service keeps its answers in this file."""


class FileStatus(NamedTuple):
    """The file after the last thing that was done to it.

    `generation` counts how often it was opened: a reader of an earlier one has to open it again. `inherited` is the
    last row that was there when it was first opened.
    """

    generation: int = 0
    inherited: int = 0
    responses: int = 0
    used_bytes: int = 0


class Outcome(NamedTuple):
    """What became of some operations: one result each, or, because of the trouble, none at all."""

    file: FileStatus
    results: tuple[Result, ...]
    evicted: Counter[str]
    trouble: Trouble | None
    text: str
    moved_aside: str | None


def trouble_of(error: Exception) -> Trouble:
    """Which kind of failure this is.

    Source: https://www.sqlite.org/rescode.html; an extended code's low byte is its primary code.
    """
    match error:
        case Damaged():
            return Trouble.CORRUPT
        case Locked():
            return Trouble.LOCKED
        case sqlite3.Error():
            return _BY_CODE.get(
                (getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR) & 0xFF, Trouble.FAILED
            )
        case OSError():
            return Trouble.DISK_FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else Trouble.IO
        case _:
            return Trouble.FAILED


_BY_CODE = {
    sqlite3.SQLITE_FULL: Trouble.DISK_FULL,
    sqlite3.SQLITE_CORRUPT: Trouble.CORRUPT,
    sqlite3.SQLITE_NOTADB: Trouble.CORRUPT,
    sqlite3.SQLITE_BUSY: Trouble.LOCKED,
    sqlite3.SQLITE_LOCKED: Trouble.LOCKED,
    sqlite3.SQLITE_IOERR: Trouble.IO,
    sqlite3.SQLITE_READONLY: Trouble.IO,
    sqlite3.SQLITE_CANTOPEN: Trouble.IO,
}


def connect(path: Path) -> sqlite3.Connection:
    """A connection to a file that only we may read; it is begun if there is none."""
    # Never opened when it is there: closing a descriptor drops the locks that our readers have on the same file.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)
    return sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)


def set_up(connection: sqlite3.Connection, application_id: int, version: int, schema: str) -> bool:
    """See that the file is ours, and give it our tables if it is new, which is what is returned.

    Raises:
        Unfit: it is another's, or of another version, or cannot have a write-ahead log.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    is_new = (application, found, tables) == (0, 0, 0)
    if is_new:
        connection.executescript(
            f"BEGIN IMMEDIATE; PRAGMA application_id = {application_id}; PRAGMA user_version = {version};"
            f"{schema} COMMIT;"
        )
    elif application != application_id:
        raise Unfit("it is some other program's database")
    elif found != version:
        raise Unfit(f"its version is {found}, and this release reads {version}: move it away to begin a new one")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise Unfit("its file system has no shared memory for SQLite's write-ahead log")
    return is_new


def move_aside(path: Path) -> str | None:
    """Put a file that nobody has open where the next one will not be in its way; its new name, None if that cannot be.

    Only the last damaged file is kept: there is no more of them than the disk can hold.
    """
    aside = path.with_name(f"{path.name}.corrupt")
    try:
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).replace(f"{aside}{suffix}")
        with suppress(FileNotFoundError):
            path.replace(aside)
    except OSError:
        return None
    return str(aside)


class Database:
    """The one writer of a file. Nothing that happens to the file makes it raise, but for the first opening."""

    def __init__(self, path: Path, settings: StoreSettings, clock: Callable[[], float]) -> None:
        self._path = path
        self._settings = settings
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._lock: int | None = None
        self._inode = 0
        self._retry_at = 0.0
        self._trouble: Trouble | None = None
        self._text = ""
        self._generation = 0
        self._inherited = 0
        self._responses = 0
        self._used_bytes = 0

    def start(self) -> Outcome:
        """Open the file.

        Raises:
            Unfit: this can never succeed.
        """
        try:
            self._open()
        except (Unfit, PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            self.close()
            text = str(error) if isinstance(error, Unfit) else error.strerror
            raise Unfit(f"store {self._path} cannot be used: {text}") from error
        except Exception:  # noqa: BLE001, S110 - it is tried again at once, and told
            pass
        return self.commit(())

    def commit(self, operations: Sequence[Operation]) -> Outcome:
        """Carry these out, in one transaction, and remove what is too much. When it returns all is on the disk."""
        if self._trouble is not None and time.monotonic() < self._retry_at:
            return self._outcome()
        moved_aside: str | None = None
        for is_last in (False, True):
            try:
                self._ensure_open()
                results, evicted = self._transaction(operations)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is counted as lost, and no request fails
                self._trouble, self._text = trouble_of(error), told(error)
                self._roll_back()
                if is_last or self._trouble is not Trouble.CORRUPT or not (moved_aside := self._move_aside()):
                    break
            else:
                self._trouble, self._text = None, ""
                return self._outcome(results, evicted, moved_aside)
        self._retry_at = time.monotonic() + RETRY_S
        return self._outcome(moved_aside=moved_aside)

    def condemn(self, generation: int) -> Outcome:
        """A reader found this generation of the file to be damaged: begin a new one, if that has not been done."""
        moved_aside = self._move_aside() if generation == self._generation else None
        return self.commit(())._replace(moved_aside=moved_aside)

    def _outcome(
        self, results: tuple[Result, ...] = (), evicted: Counter[str] | None = None, moved_aside: str | None = None
    ) -> Outcome:
        file = FileStatus(self._generation, self._inherited, self._responses, self._used_bytes)
        return Outcome(file, results, evicted or Counter(), self._trouble, self._text, moved_aside)

    def _move_aside(self) -> str | None:
        """See below."""
        self._disconnect()
        return move_aside(self._path)

    def close(self) -> None:
        """Let go of the file and of its lock."""
        self._disconnect()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- the file --------------------------------------------------------------------------------------------

    def _ensure_open(self) -> None:
        if self._connection is not None and inode_of(self._path) != self._inode:
            self._disconnect()  # somebody removed it: what is written there would be gone with the process
        if self._connection is None:
            self._open()

    def _open(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._take_lock()
        connection = connect(self._path)
        try:
            self._set_up(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._inode = inode_of(self._path)
        self._generation += 1

    def _set_up(self, connection: sqlite3.Connection) -> None:
        if set_up(connection, APPLICATION_ID, VERSION, _SCHEMA):
            self._inherited = 0
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = FAST")
        connection.execute(f"PRAGMA cache_size = {-_CACHE_KIB}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        (self._responses,) = connection.execute("SELECT count(*) FROM responses").fetchone()
        if not self._generation:
            (self._inherited,) = connection.execute("SELECT coalesce(max(row), 0) FROM responses").fetchone()
        self._used_bytes = self._measure(connection)

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        lock = os.open(f"{self._path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise Locked("another service keeps its answers there") from None
        self._lock = lock

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _roll_back(self) -> None:
        if self._connection is not None:
            try:
                self._connection.rollback()
            except sqlite3.Error:
                self._disconnect()

    def _measure(self, connection: sqlite3.Connection) -> int:
        """What of the file is in use."""
        names = ("page_count", "freelist_count", "page_size")
        pages, free, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        return int((pages - free) * size)

    # --- one transaction -------------------------------------------------------------------------------------

    def _transaction(self, operations: Sequence[Operation]) -> tuple[tuple[Result, ...], Counter[str]]:
        assert self._connection is not None  # noqa: S101 - just ensured
        connection, now_wall, responses = self._connection, self._clock(), self._responses
        if not operations and self._trouble is None and not self._is_too_much(connection, now_wall):
            return (), Counter()
        try:
            connection.execute("BEGIN IMMEDIATE")
            if self._trouble is not None:
                connection.execute(f"PRAGMA user_version = {VERSION}")  # something to write, to see whether it can be
            results = tuple(self._carry_out(connection, operation, now_wall) for operation in operations)
            evicted = self._evict(connection, now_wall, 2 * len(operations) + EVICT_ROWS)
            connection.execute("COMMIT")
        except BaseException:
            self._responses = responses
            raise
        return results, evicted

    def _carry_out(self, connection: sqlite3.Connection, operation: Operation, now_wall: float) -> Result:
        owner, name = operation.key.owner, operation.key.id
        place = (_raw(owner), _raw(name))
        horizon_wall = now_wall - self._settings.max_age_s
        seal = Seal(operation.key)
        match operation:
            case Create(draft=draft):
                self._responses += 1 - connection.execute(_DELETE, place).rowcount
                bodies = (
                    seal.close(draft.response),
                    seal.close(msgspec.msgpack.encode(draft.output_items)),
                    None if draft.job is None else seal.close(draft.job),
                    seal.close(msgspec.msgpack.encode(draft.input_items)),
                )
                previous = None if draft.previous is None else _raw(draft.previous)
                connection.execute(_INSERT, (*place, int(draft.state), now_wall, previous, *bodies))
                return Written.STORED
            case Update(state=state, response=response, output_items=output_items):
                output = seal.close(msgspec.msgpack.encode(output_items))
                values = (int(state), seal.close(response), output, int(state), *place, horizon_wall)
                return Written.STORED if connection.execute(_UPDATE, values).rowcount else Written.UNKNOWN
            case Append(events=events):
                rows = [(event.number, seal.close(event.body), *place, horizon_wall) for event in events]
                connection.executemany(_APPEND, rows)
                return None
            case Delete():
                is_alive = connection.execute(f"SELECT 1 {_ALIVE}", (*place, horizon_wall)).fetchone() is not None
                self._responses -= connection.execute(_DELETE, place).rowcount
                return is_alive

    def _is_too_much(self, connection: sqlite3.Connection, now_wall: float) -> str | None:
        """Why the oldest answer has to go, if it has."""
        oldest = connection.execute(_OLDEST).fetchone()
        self._used_bytes = self._measure(connection)
        if oldest is None:
            return None
        if oldest[0] <= now_wall - self._settings.max_age_s:
            return "age"
        if self._responses > self._settings.max_responses:
            return "count"
        return "bytes" if self._used_bytes > self._settings.max_bytes else None

    def _evict(self, connection: sqlite3.Connection, now_wall: float, most: int) -> Counter[str]:
        """Remove the oldest that have ended, until everything is within the limits, or `most` are gone."""
        evicted: Counter[str] = Counter()
        while evicted.total() < most and (reason := self._is_too_much(connection, now_wall)):
            connection.execute(_EVICT)
            self._responses -= 1
            evicted[reason] += 1
        return evicted


class Reader:
    """Reads the file while it is written; what was committed before a question is in the answer."""

    def __init__(self, path: Path, settings: StoreSettings, clock: Callable[[], float]) -> None:
        self._path = path
        self._settings = settings
        self._clock = clock
        # Read-only: it begins no file, and leaves the log to the writer.
        self._connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S, isolation_level=None
        )

    def get(self, key: Key) -> Stored | None:
        """See the protocol; also below."""
        row = self._one("state, response", key)
        return None if row is None else Stored(State(row[0]), Seal(key).open(row[1]))

    def exchange(self, key: Key) -> Exchange | None:
        """Its items."""
        row = self._one("state, previous, output_items, job, input_items", key)
        if row is None:
            return None
        state, previous, output_items, job, input_items = row
        seal = Seal(key)
        return Exchange(
            State(state),
            None if previous is None else _text(previous),
            seal.open_items(input_items),
            seal.open_items(output_items),
            None if job is None else seal.open(job),
        )

    def events(self, key: Key, after: int, limit: int) -> tuple[Event, ...] | None:
        """The unbroken run behind `after`."""
        row = self._one("row", key)
        if row is None:
            return None
        rows = self._connection.execute(
            "SELECT number, body FROM events WHERE response = ? AND number > ? ORDER BY number LIMIT ?",
            (row[0], min(after, MAX_NUMBER), limit),
        ).fetchall()
        seal = Seal(key)
        unbroken = (row for place, row in enumerate(rows) if row[0] == after + 1 + place)
        return tuple(Event(number, seal.open(body)) for number, body in unbroken)

    def unfinished(self, last_row: int) -> tuple[Unfinished, ...]:
        """Those up to this row."""
        rows = self._connection.execute(_UNFINISHED, (last_row,)).fetchall()
        return tuple(Unfinished(Key(_text(owner), _text(name)), State(state)) for owner, name, state in rows)

    def close(self) -> None:
        """Let go of the file."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def _one(self, columns: str, key: Key) -> tuple[Any, ...] | None:
        horizon_wall = self._clock() - self._settings.max_age_s
        place = (_raw(key.owner), _raw(key.id), horizon_wall)
        row: tuple[Any, ...] | None = self._connection.execute(f"SELECT {columns} {_ALIVE}", place).fetchone()
        return row


class Seal:
    """Checksums for the bodies that are kept under one key."""

    def __init__(self, key: Key) -> None:
        self._start = zlib.crc32(_raw(key.id), zlib.crc32(_raw(key.owner) + b"\0"))

    def close(self, body: bytes) -> bytes:
        """The body as it is to be kept."""
        return zlib.crc32(body, self._start).to_bytes(4) + body

    def open(self, sealed: object) -> bytes:
        """The body as it was given.

        Raises:
            Damaged: it is another one.
        """
        if not isinstance(sealed, bytes) or zlib.crc32(sealed[4:], self._start) != int.from_bytes(sealed[:4]):
            raise Damaged("a body is not what was written")
        return sealed[4:]

    def open_items(self, sealed: object) -> tuple[Item, ...]:
        """Likewise."""
        return _ITEMS.decode(self.open(sealed))


def inode_of(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return -1


def _raw(text: str) -> bytes:
    """Any string, also one that is not quite text, as a client may send it."""
    return text.encode(errors="surrogatepass")


def _text(raw: bytes) -> str:
    return raw.decode(errors="surrogatepass")


def told(error: Exception) -> str:
    """What may be said of an error: SQLite's and the system's words, and of our own bugs no more than their names."""
    known = isinstance(error, sqlite3.Error | OSError | Unfit | Damaged | Locked)
    return f"{type(error).__name__}: {error}" if known else type(error).__name__

"""Stores for tests: with a clock that is moved by hand, and a memory of what they told."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.store.memory import MemoryStore
from service.store.observer import StoreObserver
from service.store.protocol import Draft, Item, Key, ResponseStore, State
from service.store.settings import StoreSettings
from service.store.sqlite import SqliteStore

KINDS = ("memory", "sqlite")
AGE_S = 3600.0


class Clock:
    """Shows what it is set to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class RecordingObserver(StoreObserver):
    """Remembers everything, as `(name, ...)`, and operations as `(operation, result)` apart."""

    def __init__(self) -> None:
        self.operations: list[tuple[str, str]] = []
        self.facts: list[tuple[Any, ...]] = []

    def store_called(self, operation: str, result: str, seconds: float) -> None:
        assert seconds >= 0
        self.operations.append((operation, str(result)))

    def answers_evicted(self, reason: str, count: int) -> None:
        self.facts.append(("evicted", reason, count))

    def store_went_down(self, trouble: str, text: str) -> None:
        assert text
        self.facts.append(("went_down", str(trouble)))

    def store_came_back(self) -> None:
        self.facts.append(("came_back",))

    def store_moved_aside(self, path: str) -> None:
        self.facts.append(("moved_aside", path))

    def evictions(self, reason: str) -> int:
        """How many answers went for this reason."""
        return sum(fact[2] for fact in self.facts if fact[:2] == ("evicted", reason))


def limits(**fields: Any) -> StoreSettings:
    """Settings that need not be sensible."""
    return StoreSettings(max_age_s=AGE_S).model_copy(update=fields)


class Bench:
    """One store of a kind, which can be closed and opened as by the next process."""

    def __init__(self, kind: str, folder: Path, **fields: Any) -> None:
        self.kind = kind
        self.path = folder / "answers" / "responses.sqlite"
        self.settings = limits(**fields)
        self.clock = Clock()
        self.observer = RecordingObserver()
        self.store = self._made()

    def _made(self) -> ResponseStore:
        if self.kind == "memory":
            return MemoryStore(self.settings, self.observer, self.clock)
        return SqliteStore(self.path, self.settings, self.observer, self.clock)

    async def reopen(self) -> ResponseStore:
        """What the next process finds."""
        await self.store.close()
        if self.kind == "sqlite":
            self.store = self._made()
        await self.store.open()
        return self.store


def ended(text: str = "{}", **fields: Any) -> Draft:
    """A response that has ended."""
    return Draft(State.ENDED, text.encode(), **fields)


def items(*names: str) -> tuple[Item, ...]:
    """An item of each name."""
    return tuple(Item(name, f'{{"id":"{name}"}}'.encode()) for name in names)


def key(name: str = "resp_1", owner: str = "alice") -> Key:
    return Key(owner, name)


@contextmanager
def other_user() -> Iterator[None]:
    """Be somebody for whom permissions mean something, if this is root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def taken(path: Path) -> Iterator[sqlite3.Connection]:
    """Somebody else writes into the file, and does not come to an end."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    finally:
        connection.close()

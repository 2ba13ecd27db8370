"""A store that ends with its process: for tests, and for services that shall leave nothing on a disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from service.store.observer import StoreObserver, StoreSnapshot
from service.store.operations import Append, Create
from service.store.protocol import Draft, Event, Exchange, Item, Key, State, Stored, Unfinished, Written
from service.store.settings import StoreSettings


@dataclass(slots=True)
class _Record:
    created_wall: float
    draft: Draft
    size_bytes: int = 0
    events: dict[int, bytes] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        return self.draft.state is not State.ENDED


class MemoryStore:
    """Keeps responses in a dictionary. Opened again it still has them, as a file would."""

    def __init__(
        self,
        settings: StoreSettings,
        observer: StoreObserver | None = None,
        clock: Callable[[], float] = time.time,  # noqa: TID251 - ages are of wall-clock time
    ) -> None:
        self._settings = settings
        self._observer = observer or StoreObserver()
        self._clock = clock
        self._records: dict[Key, _Record] = {}
        self._used_bytes = 0
        self._inherited: set[Key] = set()

    async def open(self) -> None:
        """Ready at once."""
        self._inherited = {key for key, record in self._records.items() if record.is_open}

    async def close(self) -> None:
        """Nothing is waiting."""

    async def create(self, key: Key, draft: Draft) -> Written:
        """See the protocol."""
        self._forget(key)
        record = self._records[key] = _Record(self._clock(), draft)
        self._grow(record, Create(key, draft).size_bytes)
        self._evict()
        return self._done("create", Written.STORED)

    async def update(self, key: Key, state: State, response: bytes, output_items: tuple[Item, ...] = ()) -> Written:
        """See the protocol."""
        record = self._find(key)
        if record is None:
            return self._done("update", Written.UNKNOWN)
        job = record.draft.job if state is State.QUEUED else None
        draft = record.draft._replace(state=state, response=response, output_items=output_items, job=job)
        self._grow(record, Create(key, draft).size_bytes - Create(key, record.draft).size_bytes)
        record.draft = draft
        self._evict()
        return self._done("update", Written.STORED)

    def append(self, key: Key, events: Sequence[Event]) -> bool:
        """See the protocol."""
        record = self._find(key)
        if record is not None:
            before = sum(len(record.events.get(event.number, b"")) for event in events)
            self._grow(record, Append(key, tuple(events)).size_bytes - before)
            record.events.update(events)
            self._evict()
        self._observer.store_called("append", Written.STORED if record else Written.UNKNOWN, 0.0)
        return True

    async def get(self, key: Key) -> Stored | None:
        """See the protocol."""
        record = self._read("get", key)
        return Stored(record.draft.state, record.draft.response) if record else None

    async def exchange(self, key: Key) -> Exchange | None:
        """See the protocol."""
        record = self._read("exchange", key)
        if record is None:
            return None
        draft = record.draft
        return Exchange(draft.state, draft.previous, draft.input_items, draft.output_items, draft.job)

    async def events(self, key: Key, after: int = -1, limit: int = 1000) -> tuple[Event, ...] | None:
        """See the protocol."""
        record = self._read("events", key)
        if record is None:
            return None
        found: list[Event] = []
        while len(found) < limit and (body := record.events.get(after + 1 + len(found))) is not None:
            found.append(Event(after + 1 + len(found), body))
        return tuple(found)

    async def delete(self, key: Key) -> bool:
        """See the protocol."""
        is_known = self._find(key) is not None
        self._forget(key)
        self._observer.store_called("delete", "found" if is_known else "unknown", 0.0)
        return is_known

    async def unfinished(self) -> tuple[Unfinished, ...]:
        """See the protocol."""
        records = ((key, record) for key, record in self._records.items() if key in self._inherited)
        return tuple(Unfinished(key, record.draft.state) for key, record in records if record.is_open)

    def snapshot(self) -> StoreSnapshot:
        """See the protocol."""
        return StoreSnapshot(is_up=True, responses=len(self._records), used_bytes=self._used_bytes, waiting_bytes=0)

    def _done(self, operation: str, written: Written) -> Written:
        self._observer.store_called(operation, written, 0.0)
        return written

    def _read(self, operation: str, key: Key) -> _Record | None:
        record = self._find(key)
        self._observer.store_called(operation, "found" if record else "unknown", 0.0)
        return record

    def _find(self, key: Key) -> _Record | None:
        record = self._records.get(key)
        return None if record is None or self._is_expired(record) else record

    def _is_expired(self, record: _Record) -> bool:
        return not record.is_open and record.created_wall <= self._clock() - self._settings.max_age_s

    def _grow(self, record: _Record, size_bytes: int) -> None:
        record.size_bytes += size_bytes
        self._used_bytes += size_bytes

    def _forget(self, key: Key) -> None:
        record = self._records.pop(key, None)
        if record is not None:
            self._used_bytes -= record.size_bytes
        self._inherited.discard(key)

    def _evict(self) -> None:
        """Remove the oldest that have ended, until everything is within the limits or all that is left is open."""
        while (oldest := next((key for key, record in self._records.items() if not record.is_open), None)) is not None:
            if self._is_expired(self._records[oldest]):
                reason = "age"
            elif len(self._records) > self._settings.max_responses:
                reason = "count"
            elif self._used_bytes > self._settings.max_bytes:
                reason = "bytes"
            else:
                return
            self._forget(oldest)
            self._observer.answers_evicted(reason, 1)

"""A store in one SQLite file. The event loop never waits for the disk: it hands over, and is told.

One OS thread writes. It takes everything that has piled up since it last looked, carries it out in one transaction, and
tells the loop once. Two more threads read. What waits to be written is bounded in bytes, what waits to be read in
number, and every wait in time. What cannot be written is lost, counted and told; the writer tries again by itself.

Source: docs/decisions/0019-stored-answers.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final, NamedTuple, TypeVar, TypeVarTuple

from pool.errors import EnvironmentUnfit
from service.store.database import Database, FileStatus, Outcome, Reader, Result, Unfit, trouble_of
from service.store.observer import StoreObserver, StoreSnapshot
from service.store.operations import Append, Create, Delete, Operation, Update
from service.store.protocol import (
    Draft,
    Event,
    Exchange,
    Item,
    Key,
    State,
    Stored,
    StoreUnavailable,
    Trouble,
    Unfinished,
    Written,
)
from service.store.settings import StoreSettings

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

READERS: Final = 2
MAX_READS: Final = 256
"""Questions that may wait; who comes beyond that is told to come again."""
BATCH_BYTES: Final = 8 * 1024 * 1024
BATCH_OPERATIONS: Final = 1000
"""What one transaction takes at most: the pile is looked through in pieces that take milliseconds."""
IDLE_S: Final = 1.0
"""How often the writer looks after its file when there is nothing to write."""
CLOSE_S: Final = 5.0


_TOLD: Final = {True: "found", False: "unknown", None: "stored"}


class _Piled(NamedTuple):
    operation: Operation
    size_bytes: int
    began_at: float
    done: asyncio.Future[Result | Trouble] | None


class _Damage(NamedTuple):
    """A reader has seen that the file of this generation is damaged."""

    generation: int


class _Stop(NamedTuple):
    """Nothing comes after this."""


class _Question(NamedTuple):
    ask: Callable[[Reader], Any]
    generation: int
    answer: asyncio.Future[Any]


class SqliteStore:
    """Keeps responses in the file at `path`, alone: another service that is given the same file keeps nothing in it.

    A response that is STORED survives the end of this process in any way, and of the machine as far as its disk keeps
    what it has said was written.
    """

    def __init__(
        self,
        path: Path,
        settings: StoreSettings,
        observer: StoreObserver | None = None,
        clock: Callable[[], float] = time.time,  # noqa: TID251 - ages are of wall-clock time
    ) -> None:
        self._path = path
        self._settings = settings
        self._observer = observer or StoreObserver()
        self._clock = clock
        self._pile: SimpleQueue[_Piled | _Damage | _Stop] = SimpleQueue()
        self._questions: SimpleQueue[_Question | _Stop] = SimpleQueue()
        self._waiting_bytes = 0
        self._asked = 0
        self._is_taking = False
        self._trouble: Trouble | None = None
        self._file = FileStatus()
        self._was_opened = asyncio.Event()
        self._closed = asyncio.Event()

    # --- life ------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """See the protocol."""
        loop = asyncio.get_running_loop()
        began: asyncio.Future[None] = loop.create_future()
        self._is_taking = True
        self._closed.clear()
        Thread(target=self._write, args=(loop, began), name="store-writer", daemon=True).start()
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await began
        except TimeoutError:
            self._stumbled(Trouble.SLOW, "it was not opened in time")
        except Unfit as error:
            raise EnvironmentUnfit(str(error)) from None

    async def close(self) -> None:
        """See the protocol."""
        if not self._is_taking:
            return
        self._is_taking = False
        self._pile.put(_Stop())
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._closed.wait()
        except TimeoutError:
            self._stumbled(Trouble.SLOW, "it was not closed in time")

    # --- writing ---------------------------------------------------------------------------------------------

    async def create(self, key: Key, draft: Draft) -> Written:
        """See the protocol."""
        written = await self._written("create", Create(key, draft))
        if written is Trouble.SLOW:
            self._put(Delete(key), None)  # it may still be written, and nobody would know of it
        return written if isinstance(written, Written) else Written.LOST

    async def update(self, key: Key, state: State, response: bytes, output_items: tuple[Item, ...] = ()) -> Written:
        """See the protocol."""
        written = await self._written("update", Update(key, state, response, output_items))
        return written if isinstance(written, Written) else Written.LOST

    def append(self, key: Key, events: Sequence[Event]) -> bool:
        """See the protocol."""
        operation = Append(key, tuple(events))
        trouble = self._refusal(operation)
        if trouble is None:
            self._put(operation, None)
        else:
            self._observer.store_called("append", trouble, 0.0)
        return trouble is None

    async def delete(self, key: Key) -> bool:
        """See the protocol."""
        written = await self._written("delete", Delete(key))
        if isinstance(written, Trouble):
            raise StoreUnavailable(written)
        return bool(written)

    async def _written(self, name: str, operation: Operation) -> Result | Trouble:
        """What came of it, within the time that a request may wait."""
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        trouble = self._refusal(operation)
        if trouble is None:
            done: asyncio.Future[Result | Trouble] = loop.create_future()
            self._put(operation, done)
            try:
                async with asyncio.timeout(self._settings.timeout_s):
                    return await done
            except TimeoutError:
                trouble = Trouble.SLOW
                self._stumbled(trouble, "nothing was written in time")
        self._observer.store_called(name, trouble, loop.time() - began_at)
        return trouble

    def _refusal(self, operation: Operation) -> Trouble | None:
        """Why this cannot be piled up, if it cannot."""
        if not self._is_taking:
            return Trouble.CLOSED
        is_too_much = self._waiting_bytes + operation.size_bytes > self._settings.max_waiting_bytes
        return Trouble.WAITING_FULL if self._waiting_bytes and is_too_much else None

    def _put(self, operation: Operation, done: asyncio.Future[Result | Trouble] | None) -> None:
        size_bytes = operation.size_bytes
        self._waiting_bytes += size_bytes
        self._pile.put(_Piled(operation, size_bytes, asyncio.get_running_loop().time(), done))

    # --- reading ---------------------------------------------------------------------------------------------

    async def get(self, key: Key) -> Stored | None:
        """See the protocol."""
        return await self._answer("get", lambda reader: reader.get(key))

    async def exchange(self, key: Key) -> Exchange | None:
        """See the protocol."""
        return await self._answer("exchange", lambda reader: reader.exchange(key))

    async def events(self, key: Key, after: int = -1, limit: int = 1000) -> tuple[Event, ...] | None:
        """See the protocol."""
        return await self._answer("events", lambda reader: reader.events(key, after, limit))

    async def unfinished(self) -> tuple[Unfinished, ...]:
        """See the protocol."""
        await self._was_opened.wait()
        last_row = self._file.inherited
        return await self._answer("unfinished", lambda reader: reader.unfinished(last_row))

    async def _answer(self, name: str, ask: Callable[[Reader], T]) -> T:
        """What a reader says, within the time that a request may wait.

        Raises:
            StoreUnavailable: it said nothing, or could not.
        """
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        try:
            found = await self._asked_reader(ask)
        except StoreUnavailable as error:
            self._observer.store_called(name, error.trouble, loop.time() - began_at)
            raise
        self._observer.store_called(name, "unknown" if found is None else "found", loop.time() - began_at)
        return found

    async def _asked_reader(self, ask: Callable[[Reader], T]) -> T:
        if not self._is_taking:
            raise StoreUnavailable(Trouble.CLOSED)
        if not self._file.generation:
            raise StoreUnavailable(self._trouble or Trouble.SLOW)
        if self._asked >= MAX_READS:
            raise StoreUnavailable(Trouble.WAITING_FULL)
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._asked += 1
        self._questions.put(_Question(ask, self._file.generation, answer))
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                return await answer
        except TimeoutError:
            raise StoreUnavailable(Trouble.SLOW) from None

    def snapshot(self) -> StoreSnapshot:
        """See the protocol."""
        is_up = self._is_taking and self._trouble is None
        return StoreSnapshot(is_up, self._file.responses, self._file.used_bytes, self._waiting_bytes)

    # --- on the loop, told by the threads --------------------------------------------------------------------

    def _began(self, began: asyncio.Future[None], outcome: Outcome | Unfit) -> None:
        if isinstance(outcome, Outcome):
            self._take(outcome)
        else:
            self._is_taking = False
        if began.done():
            return
        if isinstance(outcome, Outcome):
            began.set_result(None)
        else:
            began.set_exception(outcome)

    def _settle(self, batch: Sequence[_Piled], outcome: Outcome) -> None:
        self._take(outcome)
        now = asyncio.get_running_loop().time()
        for place, (operation, size_bytes, began_at, done) in enumerate(batch):
            self._waiting_bytes -= size_bytes
            if done is not None and done.done():
                continue  # nobody waits for it any more
            result = outcome.trouble or outcome.results[place]
            told = _TOLD[result] if isinstance(result, bool | None) else str(result)
            self._observer.store_called(type(operation).__name__.lower(), told, now - began_at)
            if done is not None:
                done.set_result(result)

    def _take(self, outcome: Outcome) -> None:
        """What came of a transaction, or of an attempt at one, for the store as a whole."""
        self._file = outcome.file
        if outcome.file.generation:
            self._was_opened.set()
        if outcome.moved_aside is not None:
            self._observer.store_moved_aside(outcome.moved_aside)
        for reason, count in outcome.evicted.items():
            self._observer.answers_evicted(reason, count)
        if outcome.trouble is not None:
            self._stumbled(outcome.trouble, outcome.text)
        elif self._trouble is not None:
            self._trouble = None
            self._observer.store_came_back()

    def _stumbled(self, trouble: Trouble, text: str) -> None:
        if self._trouble is None:
            self._trouble = trouble
            self._observer.store_went_down(trouble, text)

    def _answered(self, question: _Question, found: Any, error: Exception | None) -> None:
        self._asked -= 1
        trouble = None if error is None else trouble_of(error)
        if trouble is Trouble.CORRUPT:
            self._pile.put(_Damage(question.generation))
        if question.answer.done():
            return
        if trouble is None:
            question.answer.set_result(found)
        else:
            question.answer.set_exception(StoreUnavailable(trouble))

    # --- the threads -----------------------------------------------------------------------------------------

    def _write(self, loop: asyncio.AbstractEventLoop, began: asyncio.Future[None]) -> None:
        """The writer, from the file's opening to its end; it owns the readers."""
        database = Database(self._path, self._settings, self._clock)
        try:
            last = database.start()
        except Unfit as error:
            _tell(loop, self._began, began, error)
            return
        _tell(loop, self._began, began, last)
        readers = [Thread(target=self._read, args=(loop,), name="store-reader", daemon=True) for _ in range(READERS)]
        for reader in readers:
            reader.start()
        is_over = False
        while not is_over:
            found = self._gather(0.0 if last.evicted else IDLE_S)
            is_over = any(isinstance(each, _Stop) for each in found)
            for each in found:
                if isinstance(each, _Damage):
                    _tell(loop, self._take, database.condemn(each.generation))
            batch = [each for each in found if isinstance(each, _Piled)]
            outcome = database.commit([piled.operation for piled in batch])
            if batch or outcome != last:
                _tell(loop, self._settle, batch, outcome)
            last = outcome
        for _ in readers:
            self._questions.put(_Stop())
        for reader in readers:
            reader.join(CLOSE_S)
        database.close()
        _tell(loop, self._closed.set)

    def _gather(self, wait_s: float) -> list[_Piled | _Damage | _Stop]:
        """What has piled up, as much as one transaction takes."""
        found: list[_Piled | _Damage | _Stop] = []
        size_bytes = 0
        try:
            found.append(self._pile.get(timeout=wait_s) if wait_s else self._pile.get_nowait())
            while size_bytes < BATCH_BYTES and len(found) < BATCH_OPERATIONS:
                last = found[-1]
                size_bytes += last.size_bytes if isinstance(last, _Piled) else 0
                found.append(self._pile.get_nowait())
        except Empty:
            pass
        return found

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        """One reader, until it is told to stop."""
        reader: Reader | None = None
        generation = 0
        while isinstance(question := self._questions.get(), _Question):
            found, error = None, None
            try:
                if reader is None or generation != question.generation:
                    if reader is not None:
                        reader.close()
                    reader, generation = Reader(self._path, self._settings, self._clock), question.generation
                found = question.ask(reader)
            except Exception as raised:  # noqa: BLE001 - whatever it is, whoever asked is told that there is no answer
                error = raised
            _tell(loop, self._answered, question, found, error)
        if reader is not None:
            reader.close()


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[[*Ts], None], *arguments: *Ts) -> None:
    """Call this on the loop, soon; after the loop's end nobody is left to be told."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *arguments)

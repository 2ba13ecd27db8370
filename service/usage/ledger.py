"""Usage, kept: records pile up for a second and are written together by one OS thread, which also answers questions.

No request ever waits for it. What is written survives the end of the process in any way; `kill -9` loses what has
piled up in the last second and what was just being written.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final, NamedTuple, TypeVar, TypeVarTuple

from pool.errors import EnvironmentUnfit
from service.store.database import Unfit, told, trouble_of
from service.store.protocol import Trouble
from service.usage.file import Sums, UsageFile
from service.usage.record import Record
from service.usage.settings import UsageSettings

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

FLUSH_S: Final = 1.0
"""How long records pile up."""
RETRY_S: Final = 1.0
"""After a failure: when it is tried again."""
LOOK_S: Final = 60.0
"""How often the file is looked after when there is nothing to write."""
MAX_WAITING: Final = 20_000
"""Records that may wait to be written, about 1 kB each; what comes beyond that is lost."""
MAX_ASKED: Final = 16
ANSWER_S: Final = 5.0
CLOSE_S: Final = 5.0


class UsageObserver:
    """Override what you want to hear. Called on the event loop, synchronously: must neither wait nor raise."""

    def usage_written(self, records: int) -> None:
        """So many requests are kept."""

    def usage_lost(self, records: int) -> None:
        """So many requests are not, and will not be."""

    def usage_went_down(self, trouble: str, text: str) -> None:
        """Nothing can be written; it is tried again, and what comes meanwhile waits as far as there is room."""

    def usage_came_back(self) -> None:
        """It can be written again."""

    def usage_moved_aside(self, path: str) -> None:
        """A damaged file lies there now, and a new one was begun."""


class UsageUnavailable(Exception):  # noqa: N818 - reads as a fact
    """What was used cannot be told now."""


class _Question(NamedTuple):
    ask: Callable[[UsageFile], Any]
    answer: asyncio.Future[Any]


class _Stop(NamedTuple):
    """Nothing comes after this."""


class Ledger:
    """Keeps records in the file at `path`."""

    def __init__(self, path: Path, settings: UsageSettings, observer: UsageObserver | None = None) -> None:
        self._file = UsageFile(path, settings)
        self._path = path
        self._observer = observer or UsageObserver()
        self._pile: list[Record] = []
        self._waiting = 0
        self._asked = 0
        self._to_do: SimpleQueue[list[Record] | _Question | _Stop] = SimpleQueue()
        self._timer: asyncio.TimerHandle | None = None
        self._is_open = False
        self._is_down = False
        self._closed = asyncio.Event()

    async def open(self) -> None:
        """Begin.

        Raises:
            EnvironmentUnfit: the file can never be used.
        """
        loop = asyncio.get_running_loop()
        began: asyncio.Future[Unfit | None] = loop.create_future()
        self._is_open = True
        self._closed.clear()
        Thread(target=self._work, args=(loop, began), name="usage-writer", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                unfit = await began
                if unfit is not None:
                    self._is_open = False
                    raise EnvironmentUnfit(f"usage {self._path} cannot be used: {unfit}")

    async def close(self) -> None:
        """Write what there is, within a bound."""
        if not self._is_open:
            return
        self._flush()
        self._is_open = False
        self._to_do.put(_Stop())
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._closed.wait()

    def add(self, record: Record) -> None:
        """Keep this, soon."""
        if not self._is_open or self._waiting >= MAX_WAITING:
            self._observer.usage_lost(1)
            return
        self._waiting += 1
        self._pile.append(record)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    async def sums(self, start_ms: int, end_ms: int, width_ms: int, key: str | None) -> list[Sums]:
        """See `UsageFile`; what was added up to now is in it.

        Raises:
            UsageUnavailable: it cannot be read, or not in time.
        """
        return await self._answer(lambda file: file.sums(start_ms, end_ms, width_ms, key))

    async def last(self, limit: int, key: str | None) -> list[bytes]:
        """Likewise."""
        return await self._answer(lambda file: file.last(limit, key))

    # --- inside ----------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pile:
            self._to_do.put(self._pile)
            self._pile = []

    async def _answer(self, ask: Callable[[UsageFile], T]) -> T:
        if not self._is_open or self._asked >= MAX_ASKED:
            raise UsageUnavailable
        self._flush()
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._asked += 1
        self._to_do.put(_Question(ask, answer))
        try:
            async with asyncio.timeout(ANSWER_S):
                return await answer
        except TimeoutError:
            raise UsageUnavailable from None

    # --- on the loop, told by the thread ---------------------------------------------------------------------

    def _wrote(self, records: int, moved_aside: str | None) -> None:
        if moved_aside is not None:
            self._observer.usage_moved_aside(moved_aside)
        self._waiting -= records
        self._observer.usage_written(records)
        if self._is_down:
            self._is_down = False
            self._observer.usage_came_back()

    def _failed(self, trouble: str, text: str) -> None:
        if not self._is_down:
            self._is_down = True
            self._observer.usage_went_down(trouble, text)

    def _answered(self, question: _Question, found: Any, *, is_known: bool) -> None:
        self._asked -= 1
        if question.answer.done():
            return
        if is_known:
            question.answer.set_result(found)
        else:
            question.answer.set_exception(UsageUnavailable())

    def _ended(self, records: int) -> None:
        if records:
            self._observer.usage_lost(records)
        self._closed.set()

    # --- the thread ------------------------------------------------------------------------------------------

    def _work(self, loop: asyncio.AbstractEventLoop, began: asyncio.Future[Unfit | None]) -> None:
        try:
            self._file.open()
        except Unfit as error:
            _tell(loop, _set, began, error)
            return
        except Exception:  # noqa: BLE001, S110 - it is tried again with the first record, and told
            pass
        _tell(loop, _set, began, None)
        kept: list[Record] = []
        while True:
            with suppress(Empty):
                found = self._to_do.get(timeout=RETRY_S if kept else LOOK_S)
                if isinstance(found, list):
                    kept += found
                elif isinstance(found, _Question):
                    self._read(loop, found)
                    continue
                else:
                    break
            if self._write(loop, kept):
                kept = []
        if self._write(loop, kept):
            kept = []
        self._file.close()
        _tell(loop, self._ended, len(kept))

    def _write(self, loop: asyncio.AbstractEventLoop, records: list[Record]) -> bool:
        """Whether they are written, or what is too much is gone."""
        moved_aside = None
        for is_last in (False, True):
            try:
                self._file.add(records, time.time_ns() // 1_000_000)
            except Exception as error:  # noqa: BLE001 - whatever it is, no request fails
                trouble = trouble_of(error)
                if is_last or trouble is not Trouble.CORRUPT or not (moved_aside := self._file.move_aside()):
                    _tell(loop, self._failed, trouble, told(error))
                    return False
            else:
                break
        _tell(loop, self._wrote, len(records), moved_aside)
        return True

    def _read(self, loop: asyncio.AbstractEventLoop, question: _Question) -> None:
        found, is_known = None, True
        try:
            found = question.ask(self._file)
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever asked is told that there is no answer
            is_known = False
            if trouble_of(error) is Trouble.CORRUPT:
                self._file.move_aside()
            _tell(loop, self._failed, trouble_of(error), told(error))
        _tell(loop, lambda: self._answered(question, found, is_known=is_known))


def _set(future: asyncio.Future[Unfit | None], value: Unfit | None) -> None:
    if not future.done():
        future.set_result(value)


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[[*Ts], None], *arguments: *Ts) -> None:
    """Call this on the loop, soon; after the loop's end nobody is left to be told."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *arguments)

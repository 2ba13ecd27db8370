"""Background responses: they are worked on, and kept, whether their clients are there or not.

One task for each, all owned by `Background.run`. Clients look at a response in the store, or at the work on it; they
never do more to it than to say that it is to be cancelled.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from scheduler.model import CutOff, Priority, QueueFull, TenantQueueFull
from service.api.errors import ApiError, from_rejection, internal
from service.api.responses import ResponsesRequest
from service.encode.response_object import error_object
from service.encode.response_stream import ResponseEvents
from service.encode.retold import Retold
from service.handlers.asking import Asked
from service.handlers.exchange import Inquiry
from service.handlers.understanding import as_served, understand, wants
from service.keeping import draft, output
from service.state import Service
from service.store.protocol import Event, Key, ResponseStore, State, StoreUnavailable, Written
from service.toolcalls.mode import OutputMode

TAIL_BYTES = 256 * 1024
"""How much of a stream's events is at hand for those who follow it; what is older is read from the store."""
ROUTE = "/v1/responses"
RETRY_S = 1.0
"""Between two attempts at what has to be done some time."""
MARK = b""
"""In place of the last event: that is made of the stored object, which would be there twice else."""

_json = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Parked(msgspec.Struct, frozen=True):
    """What another process needs to take up a queued response: its request as its client sent it.

    `mode` is the form in effect. The instants are of the wall clock: when the answer is of no more use, and when it has
    waited long enough for a seat.
    """

    request_id: str
    created: int
    mode: str
    body: bytes
    wanted: str | None
    deadline_wall: float | None
    until_wall: float

    @classmethod
    def of(cls, asked: Asked, mode: OutputMode, created: int, queue_budget_s: float) -> Parked:
        """A request that came just now."""
        now = time.time()  # noqa: TID251 - another process has another clock
        deadline_wall = None if asked.deadline_s is None else now + asked.deadline_s
        return cls(asked.id, created, mode, asked.body, asked.wanted, deadline_wall, now + queue_budget_s)


_parked = msgspec.msgpack.Decoder(Parked).decode
_park = msgspec.msgpack.Encoder().encode


class _Tail:
    """The last events of a stream."""

    def __init__(self) -> None:
        self.number = 0
        """Of the next event."""
        self._events: deque[bytes] = deque()
        self._bytes = 0

    @property
    def first(self) -> int:
        """The number of the oldest event at hand."""
        return self.number - len(self._events)

    def add(self, events: Sequence[bytes]) -> None:
        self._events.extend(events)
        self.number += len(events)
        self._bytes += sum(map(len, events))
        while self._bytes > TAIL_BYTES and len(self._events) > 1:
            self._bytes -= len(self._events.popleft())

    def after(self, number: int) -> list[bytes]:
        """The events behind this one, all of which are at hand."""
        begin = max(0, number + 1 - self.first)
        return [self._events[place] for place in range(begin, len(self._events))]


class Work:
    """The work on one response.

    `events` is the response as it is, `first_body` as it was told first, and `last` its last event, b"" until there is
    one. `is_stored` is None until the store has it, or cannot. `is_over`: it will not change any more. `is_left`: the
    service ends, or it is deleted.
    """

    def __init__(
        self, service: Service, key: Key, parked: Parked, question: ResponsesRequest, inquiry: Inquiry
    ) -> None:
        self.key = key
        self.events = ResponseEvents(id=key.id, created=parked.created, request=question)
        self.opening = self.events.open(is_queued=True)
        self.first_body = self.events.body()
        self.last = b""
        self.tail = _Tail()
        self.is_stored: bool | None = None
        self.is_over = self.is_left = False
        self._service = service
        self._store: ResponseStore = service.store
        self._parked = parked
        self._question = question
        self._inquiry = inquiry
        self._voices = inquiry.voices
        self._began_at = time.perf_counter()
        self._has_begun = self._is_cancelled = False
        self._news = asyncio.Event()
        self._unwanted = asyncio.Event()
        self._leaving = asyncio.Event()

    # --- for those who look at it ----------------------------------------------------------------------------

    @property
    def has_events(self) -> bool:
        """Its events are kept, for whoever wants to stream it again."""
        return self._question.stream

    async def news(self) -> None:
        """Wait until anything of it has changed."""
        await self._news.wait()

    async def settled(self) -> bytes:
        """The response object as it is, whose end is not shown before it is kept."""
        while self.events.status not in ("queued", "in_progress") and not self.is_over:
            await self.news()
        return self.events.body()

    async def accepted(self) -> bool:
        """Whether it is stored, once that is known."""
        while self.is_stored is None:
            await self.news()
        return self.is_stored

    async def over(self) -> None:
        """Wait until it is over."""
        while not self.is_over:
            await self.news()

    def cancel(self) -> None:
        """Nobody wants more of it."""
        self._is_cancelled = True
        self._abandon()

    def forget(self) -> None:
        """It is deleted: nobody wants more of it, and its end need not be kept."""
        self.is_left = True
        self.cancel()

    def leave(self) -> None:
        """The service ends; the scheduler has been cut off."""
        self.is_left = True
        self._leaving.set()
        self._unwanted.set()

    # --- for its task ----------------------------------------------------------------------------------------

    def admit(self) -> None:
        """Ask for its answer.

        Raises:
            ApiError: the scheduler does not take it.
        """
        self._inquiry.ask()

    async def run(self) -> None:
        """Keep it, see it through, and keep what became of it."""
        try:
            if self.is_stored is None:
                first = draft(self.key, self._question, self.events, State.QUEUED, _park(self._parked))
                self.is_stored = await self._store.create(self.key, first) is Written.STORED
            if self.is_stored:
                self._show(self.opening)
                await self._see_through()
        finally:
            self._abandon()
            self.is_stored = bool(self.is_stored)
            self.is_over = True
            self._tell()

    def keep_usage(self) -> None:
        """Record what it took, unless that is for the next process to know."""
        if self._has_begun:
            self._inquiry.keep_usage(ROUTE, 200, time.perf_counter() - self._began_at)

    def facts(self) -> dict[str, object]:
        """What the log says of its end."""
        told = {"request_id": self._parked.request_id, "tenant": self.key.owner, "status": self.events.status}
        return told | self._voices.facts()

    # --- inside ----------------------------------------------------------------------------------------------

    async def _see_through(self) -> None:
        last: list[bytes] = []
        async with asyncio.TaskGroup() as tasks:
            try:
                await self._admitted()
                self._has_begun = await self._voices.begun()
                if self._has_begun:
                    self._show(self.events.start())
                    tasks.create_task(self._store.update(self.key, State.RUNNING, self.events.body()))
                while shown := await self._voices.read():
                    for _, pieces in shown:
                        self._show(self.events.grow(pieces))
                (choice,) = self._voices.choices
                last = self.events.end(choice, int(time.time()))  # noqa: TID251 - the wire wants the wall clock
            except ApiError as error:
                last = self.events.cancel() if self._is_cancelled else self.events.fail(error)
        if self._is_for_the_next:
            self.is_left = True
            return
        *rest, self.last = last
        self._show(rest)
        await self._keep_end()

    @property
    def _is_for_the_next(self) -> bool:
        """It has not begun, and the service ends: the store has it as it was, for the next process."""
        is_cut_off = self.is_left or (bool(self._voices.choices) and isinstance(self._voices.outcome, CutOff))
        return is_cut_off and not self._has_begun and not self._is_cancelled

    async def _admitted(self) -> None:
        """Ask until the scheduler takes it, if it has not been asked; one that was taken up again may wait for that."""
        while not self._voices.choices:
            try:
                self.admit()
            except ApiError as error:
                is_late = time.time() > self._parked.until_wall  # noqa: TID251 - as it was parked
                if self._unwanted.is_set() or is_late or not error.retryable:
                    raise
                await pause(self._unwanted)

    async def _keep_end(self) -> None:
        """Keep what became of it. It is told after the first attempt, and attempted until that succeeds."""
        body, items = self.events.body(), output(self.events)
        self._store.append(self.key, [Event(self.tail.number, MARK)] * self._question.stream)
        while await self._store.update(self.key, State.ENDED, body, items) is Written.LOST:
            self.is_over = True
            self._tell()
            if self.is_left:
                return
            await pause(self._leaving)

    def _show(self, events: list[bytes]) -> None:
        if not events:
            return
        if self._question.stream:
            numbered = [Event(number, body) for number, body in enumerate(events, self.tail.number)]
            self._store.append(self.key, numbered)
        self.tail.add(events)
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _abandon(self) -> None:
        self._unwanted.set()
        self._inquiry.close()


async def pause(hurry: asyncio.Event) -> None:
    """Wait for a while, or until there is a reason to hurry."""
    try:
        async with asyncio.timeout(RETRY_S):
            await hurry.wait()
    except TimeoutError:
        pass


class Background:
    """All work on background responses; `run` owns it until `stop`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._store = service.store
        self._works: dict[Key, Work] = {}
        self._tasks = asyncio.TaskGroup()
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Take up what an earlier process left, and work until `stop`. Then every end is kept, or that was tried."""
        async with self._tasks:
            recovering = self._tasks.create_task(self._recover())
            await self._stopped.wait()
            recovering.cancel()

    def stop(self) -> None:
        """Work on nothing any more. What has not begun stays in the store."""
        self._stopped.set()
        for work in self._works.values():
            work.leave()

    def find(self, key: Key) -> Work | None:
        """The work on this response, if there is any."""
        return self._works.get(key)

    def forget(self, key: Key) -> None:
        """There is no such response any more."""
        work = self._works.pop(key, None)
        if work is not None:
            work.forget()

    def begin(self, key: Key, parked: Parked, question: ResponsesRequest, inquiry: Inquiry) -> Work:
        """Work on this, from now on.

        Raises:
            ApiError: there is too much of it, or the scheduler does not take it.
        """
        limits = self._service.current.settings.background
        if sum(each.owner == key.owner for each in self._works) >= limits.max_jobs_per_key:
            raise from_rejection(TenantQueueFull("too many background responses of this tenant", 5 * RETRY_S))
        if len(self._works) >= limits.max_jobs:
            raise from_rejection(QueueFull("too many background responses", 5 * RETRY_S))
        work = Work(self._service, key, parked, question, inquiry)
        work.admit()
        self._own(work)
        return work

    # --- inside ----------------------------------------------------------------------------------------------

    def _own(self, work: Work) -> None:
        self._works[work.key] = work
        self._service.observability.background_jobs(len(self._works))
        self._tasks.create_task(self._see_to(work))

    async def _see_to(self, work: Work) -> None:
        try:
            try:
                await work.run()
            finally:
                work.keep_usage()
            if work.last:
                self._service.observability.background_ended(work.facts())
        except Exception as error:  # noqa: BLE001 - the boundary: a bug costs this response, and nobody else anything
            self._service.observability.background_failed(error)
            await self._fail(work.key, internal())
        finally:
            self._works.pop(work.key, None)
            self._service.observability.background_jobs(len(self._works))

    async def _recover(self) -> None:
        """See to what an earlier process left."""
        while not self._stopped.is_set():
            try:
                left = await self._store.unfinished()
            except StoreUnavailable:
                await pause(self._stopped)
                continue
            queued = [each.key for each in left if each.state is State.QUEUED]
            running = [each.key for each in left if each.state is State.RUNNING]
            if left:
                self._service.observability.background_recovered(len(queued), len(running))
            for key in running:
                self._tasks.create_task(self._fail(key, _interrupted()))
            for key in queued:
                self._tasks.create_task(self._take_up(key))
            return

    async def _take_up(self, key: Key) -> None:
        """Work on a response that was queued."""
        try:
            work = await self._taken_up(key)
        except ApiError as error:
            await self._fail(key, error)
        except Exception as error:  # noqa: BLE001 - as above
            self._service.observability.background_failed(error)
            await self._fail(key, internal())
        else:
            if work is not None and not self._stopped.is_set():
                work.is_stored = True
                self._own(work)

    async def _taken_up(self, key: Key) -> Work | None:
        """The work on a response that was queued; None when it is that no more, or the service ends.

        Raises:
            ApiError: it can be worked on no more.
        """
        while not self._stopped.is_set():
            try:
                exchange = await self._store.exchange(key)
                if exchange is None or exchange.state is not State.QUEUED or exchange.job is None:
                    return None
                return await self._understood(key, _parked(exchange.job))
            except StoreUnavailable:
                pass
            except ApiError as error:
                if not error.retryable:
                    raise
            await pause(self._stopped)
        return None

    async def _understood(self, key: Key, parked: Parked) -> Work:
        service = self._service
        tenant = service.current.keyring.named(key.owner)
        if tenant is None:
            raise _gone()
        now = time.time()  # noqa: TID251 - as it was parked
        deadline_s = None if parked.deadline_wall is None else max(0.001, parked.deadline_wall - now)
        wanted = None if parked.wanted is None else Priority(parked.wanted)
        mode = OutputMode(parked.mode)
        trace = service.traces.choose(parked.request_id, {})
        asked = Asked(parked.request_id, tenant, wanted, deadline_s, mode, parked.body, trace)
        question, route = await understand(service, asked)
        wish = wants(question, max(0.001, parked.until_wall - now))
        inquiry = Inquiry(service, asked, service.current, question, route, wants=wish, mode=mode)
        return Work(service, key, parked, as_served(question, inquiry), inquiry)

    async def _fail(self, key: Key, error: ApiError) -> None:
        """A response that has no answer, and will have none: say so, as soon as the store can be told."""
        while True:
            try:
                stored = await self._store.get(key)
                if stored is None or stored.state is State.ENDED:
                    return
                body = _failed(stored.response, error, await self._said(key))
                if await self._store.update(key, State.ENDED, body) is not Written.LOST:
                    return
            except StoreUnavailable:
                pass
            if self._stopped.is_set():
                return
            await pause(self._stopped)

    async def _said(self, key: Key) -> list[dict[str, Any]]:
        """The output as far as the events tell that are stored of it.

        Raises:
            StoreUnavailable: it cannot be known.
        """
        retold, after = Retold(), -1
        while events := await self._store.events(key, after):
            for event in events:
                if event.body != MARK:
                    retold.take(event.body)
            after = events[-1].number
        return retold.output()


BACKGROUND = web.AppKey("background", Background)


def _interrupted() -> ApiError:
    return ApiError(
        status=500,
        message="the service was stopped while it worked on this response",
        type="server_error",
        code="server_error",
    )


def _gone() -> ApiError:
    return ApiError(
        status=401,
        message="the key of this response is no key any more",
        type="authentication_error",
        code="unauthorized",
    )


def _failed(body: bytes, error: ApiError, output: list[dict[str, Any]]) -> bytes:
    """The object, which failed after it had said so much."""
    response: dict[str, Any] = dict(_decode(body))
    return _json(response | {"status": "failed", "error": error_object(error), "output": output})

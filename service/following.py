"""The stream of a background response, for whoever follows it: from the work on it, or from the store."""

from __future__ import annotations

import asyncio

import msgspec

from service.api.errors import ApiError, store_unavailable
from service.background import MARK, Work
from service.conversation import read_status
from service.encode.response_items import Event as EventKind
from service.encode.response_stream import COMPLETED, CUT_OFF, DONE, FAILED
from service.store.protocol import Key, ResponseStore, State, StoreUnavailable

PAGE = 1000
"""How many stored events are read at once."""

_json = msgspec.json.Encoder().encode
_LAST: dict[str, EventKind] = {
    "completed": COMPLETED,
    "incomplete": CUT_OFF,
    "cancelled": CUT_OFF,
    "failed": FAILED,
}


def _last_event(body: bytes, number: int) -> bytes:
    """The last event of a response that has ended."""
    return _LAST[read_status(body).status](number, b',"response":', body)


class Follower:
    """The stream of a background response, from the event behind `after` on: from whoever works on it, or the store.

    It ends with the response's last event, whatever of its other events could not be kept.
    """

    def __init__(self, store: ResponseStore, key: Key, work: Work | None, after: int) -> None:
        self._store = store
        self._key = key
        self._work = work
        self._after = after
        self._is_over = False

    async def read(self, timeout_s: float, _client: object) -> bytes | None:
        """See `Source`."""
        if self._is_over:
            return b""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._next()
        except TimeoutError:
            return None
        except StoreUnavailable:
            raise store_unavailable() from None

    async def error(self, error: ApiError) -> bytes:
        """Of the stream, not of the response. Source: OpenAI's ResponseErrorEvent."""
        told = {
            "type": "error",
            "sequence_number": self._after + 1,
            "code": error.code,
            "message": error.message,
            "param": error.param,
        }
        return b"event: error\ndata: %b\n\n" % _json(told)

    # --- inside ----------------------------------------------------------------------------------------------

    async def _next(self) -> bytes:
        work = self._work
        if work is None:
            return await self._from_store() or await self._end_from_store()
        while True:
            is_over = work.is_over  # before the store is asked: what it has not got yet is there by then
            if self._after + 1 < work.tail.first and (found := await self._from_store()):
                return found
            if self._after + 1 >= work.tail.first and (events := work.tail.after(self._after)):
                self._after += len(events)
                return b"".join(events)
            if is_over:
                return self._end_of(work)
            if not work.is_over:
                await work.news()

    def _end_of(self, work: Work) -> bytes:
        self._is_over = True
        if not work.last:
            raise unfinished()
        return b"" if self._after >= work.tail.number else work.last + _closing(work.events.status)

    async def _from_store(self) -> bytes:
        """The next events that are stored; b"" for none."""
        events = await self._store.events(self._key, self._after, PAGE) or ()
        bodies = [event.body for event in events if event.body != MARK]
        self._after += len(bodies)
        return b"".join(bodies)

    async def _end_from_store(self) -> bytes:
        self._is_over = True
        stored = await self._store.get(self._key)
        if stored is None or stored.state is not State.ENDED:
            raise unfinished()
        seen = await self._store.events(self._key, self._after - 1, 1) if self._after >= 0 else ()
        if seen and seen[0].body == MARK:
            return b""
        status = read_status(stored.response).status
        return _last_event(stored.response, self._after + 1) + _closing(status)


def _closing(status: str) -> bytes:
    return b"" if status == "failed" else DONE


def unfinished() -> ApiError:
    """503: a response that is open, but not in this process, or not yet."""
    return ApiError(
        status=503,
        message="the response is not finished, and nobody works on it now: try again soon",
        type="backend_unavailable",
        code="response_not_available",
        retry_after_s=5.0,
        retryable=True,
    )

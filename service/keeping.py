"""What is kept of a response, and that its end is not told before it is."""

from __future__ import annotations

from service.api.responses import ResponsesRequest
from service.encode.input_items import listed
from service.encode.response_object import disowned
from service.encode.response_stream import ResponseEvents
from service.observability import Observability
from service.store.protocol import Draft, Item, Key, ResponseStore, State, Written


def draft(key: Key, request: ResponsesRequest, events: ResponseEvents, state: State, job: bytes | None = None) -> Draft:
    """All that is to be kept of a response as it is now."""
    return Draft(
        state,
        events.body(),
        input_items=tuple(Item(*each) for each in listed(request.items, key.id.removeprefix("resp_"))),
        output_items=output(events),
        previous=request.previous_response_id,
        job=job,
    )


def output(events: ResponseEvents) -> tuple[Item, ...]:
    """The output items as a later request needs them."""
    return tuple(Item(*each) for each in events.kept)


class Keeper:
    """Keeps one response when it has ended, if it is wanted and the store can. `is_stored` is None until that is known.

    A store that is down is not tried: nobody waits for it.
    """

    def __init__(
        self,
        store: ResponseStore,
        observability: Observability,
        key: Key,
        request: ResponsesRequest,
        events: ResponseEvents,
    ) -> None:
        self._store = store
        self._key = key
        self._request = request
        self._events = events
        self._observability = observability
        self.is_stored: bool | None = None
        if not request.store:
            self.is_stored = False
        elif not store.snapshot().is_up:
            self._lose()

    @property
    def is_lost(self) -> bool:
        """It was to be stored, and is not."""
        return self._request.store and self.is_stored is False

    async def keep(self, last: bytes) -> bytes:
        """Keep it, and return what is told in the end: `last`, which says that it is stored, or that it is not.

        Returns within the time that a request may wait for the store.
        """
        if self.is_stored is None:
            written = await self._store.create(self._key, draft(self._key, self._request, self._events, State.ENDED))
            self.is_stored = written is Written.STORED
            if not self.is_stored:
                self._lose()
        return last if self.is_stored else disowned(last)

    def _lose(self) -> None:
        self.is_stored = False
        self._observability.answer_not_stored()

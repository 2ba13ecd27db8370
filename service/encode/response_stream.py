"""An answer of the Responses API, as a whole and as a stream: both are made of the same events."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pool.events import Usage
from service.api.errors import ApiError
from service.api.responses import ResponsesRequest
from service.encode.choice import Choice, Piece
from service.encode.response_items import Event, OutputItems
from service.encode.response_object import INCOMPLETE, ResponseObject
from service.encode.sse import ESTIMATED

DONE = b"event: done\ndata: [DONE]\n\n"
"""After an answer, not after a failure. Source: the predecessor; OpenAI's SDKs stop reading there."""

CREATED, QUEUED, IN_PROGRESS = (
    Event("response.created"),
    Event("response.queued"),
    Event("response.in_progress"),
)
COMPLETED, CUT_OFF, FAILED = Event("response.completed"), Event("response.incomplete"), Event("response.failed")


class ResponseEvents:
    """One answer as events: `open`, any number of `grow`, and one of `end`, `fail` and `cancel`.

    Each returns events, whole and encoded, and their sequence numbers follow each other: the first event of all has
    number 0. After the last there are none, whatever is called. `body` is the response object as it is now.

    Source: OpenAI's ResponseStreamEvent.
    """

    __slots__ = ("_body", "_is_over", "_items", "_object", "status")

    def __init__(self, *, id: str, created: int, request: ResponsesRequest) -> None:  # noqa: A002 - OpenAI's word
        self._object = ResponseObject(id=id, created=created, request=request)
        suffix = id.removeprefix("resp_")
        self._items = OutputItems(suffix, request.aliases, 0, shows_encrypted=request.shows_encrypted)
        self._is_over = False
        self._body = b""
        self.status = "in_progress"

    @property
    def number(self) -> int:
        """Of the next event."""
        return self._items.number

    @property
    def chars(self) -> int:
        """How much of the answer is kept."""
        return self._items.chars

    @property
    def kept(self) -> list[tuple[str, bytes]]:
        """The output items that are whole, each with its id, as a later request needs them."""
        return self._items.kept

    def body(self) -> bytes:
        """The response object: the last one when it is over."""
        if self._body:
            return self._body
        self._object.output = [*self._items.done, *self._items.unfinished(is_over=False)]
        return self._object.encode(self.status)

    def open(self, *, is_queued: bool = False) -> list[bytes]:
        """The first events; `start` follows where it is queued."""
        if not is_queued:
            return [self._tell(CREATED), *self.start()]
        self.status = "queued"
        return [self._tell(CREATED), self._tell(QUEUED)]

    def start(self) -> list[bytes]:
        """It is being worked on."""
        self.status = "in_progress"
        return [self._tell(IN_PROGRESS)]

    def grow(self, pieces: Sequence[Piece]) -> list[bytes]:
        """What is new of the answer."""
        return [] if self._is_over else self._items.grow(pieces)

    def end(self, choice: Choice, completed: int) -> list[bytes]:
        """The end of an answer, at `completed` (seconds of the wall clock)."""
        if self._is_over:
            return []
        reason = INCOMPLETE.get(choice.finish)
        closing = self._items.close(is_whole=reason is None)
        usage, is_estimate = choice.counted()
        if reason is None:
            last = self._finish(COMPLETED, "completed", completed=completed, usage=usage)
        else:
            last = self._finish(CUT_OFF, "incomplete", reason=reason, usage=usage)
        return [*closing, ESTIMATED + last if is_estimate else last]

    def fail(self, error: ApiError) -> list[bytes]:
        """There is no answer, or none beyond what was said."""
        return [] if self._is_over else [self._finish(FAILED, "failed", error=error)]

    def cancel(self) -> list[bytes]:
        """Its client wants no more of it. There is no event of that name: it is incomplete, and says so."""
        return [] if self._is_over else [self._finish(CUT_OFF, "cancelled")]

    # --- inside ----------------------------------------------------------------------------------------------

    def _tell(self, event: Event) -> bytes:
        number = self._items.number
        self._items.number += 1
        return event(number, b',"response":', self.body())

    def _finish(
        self,
        event: Event,
        status: str,
        *,
        completed: int | None = None,
        error: ApiError | None = None,
        reason: str | None = None,
        usage: Usage | None = None,
    ) -> bytes:
        self.status = status
        self._is_over = True
        self._object.output = [*self._items.done, *self._items.unfinished(is_over=True)]
        self._body = self._object.encode(status, completed=completed, error=error, reason=reason, usage=usage)
        return self._tell(event)


class ResponseStream:
    """The same as one stream of bytes. `clock` is the wall clock in seconds."""

    def __init__(self, events: ResponseEvents, clock: Callable[[], float]) -> None:
        self._events = events
        self._clock = clock

    def begin(self) -> bytes:
        """The response, and that it is in progress."""
        return b"".join(self._events.open())

    def pieces(self, pieces: Sequence[Piece], index: int = 0) -> bytes:  # noqa: ARG002 - a response has one choice
        """What is new of the answer."""
        return b"".join(self._events.grow(pieces))

    def finish(self, choices: Sequence[Choice]) -> bytes:
        """The end of the answer."""
        return b"".join(self._events.end(choices[0], int(self._clock()))) + DONE

    def error(self, error: ApiError) -> bytes:
        """The failure of a stream whose status is already sent."""
        return b"".join(self._events.fail(error))

"""What /v1/responses needs of a store. Bodies are the caller's own bytes; a store only knows the fields beside them.

Everything is kept under a `Key`, whose first part is the owner: with another owner's name nothing is found that was
not kept under that name. What is unknown, expired, deleted or somebody else's is all the same: None, or UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, StrEnum
from typing import NamedTuple, Protocol

from service.store.observer import StoreSnapshot

MAX_LINKS = 1000
"""How many responses one conversation may consist of."""


class Key(NamedTuple):
    """Where a response is kept: the name of the API key that it belongs to, and its id."""

    owner: str
    id: str


class State(IntEnum):
    """What a store has to know of a response's status. What is open, queued or running, is kept until it has ended."""

    ENDED = 0
    QUEUED = 1
    RUNNING = 2


class Item(NamedTuple):
    """An input or output item: its id, and itself as it is to be shown."""

    id: str
    body: bytes


class Event(NamedTuple):
    """An event of a response's stream. Numbers count from 0 without a gap."""

    number: int
    body: bytes


class Draft(NamedTuple):
    """A response when it is first kept.

    `response` is the object as it is now; `previous` the id of the response that this one continues; `job` whatever is
    needed to run a queued one after a restart.
    """

    state: State
    response: bytes
    input_items: tuple[Item, ...] = ()
    output_items: tuple[Item, ...] = ()
    previous: str | None = None
    job: bytes | None = None


class Stored(NamedTuple):
    """A response as it was last kept."""

    state: State
    response: bytes


class Exchange(NamedTuple):
    """What went into a response and what came out; `job` is there as long as it is queued."""

    state: State
    previous: str | None
    input_items: tuple[Item, ...]
    output_items: tuple[Item, ...]
    job: bytes | None

    @property
    def size_bytes(self) -> int:
        """Of all items."""
        return sum(len(item.body) for item in (*self.input_items, *self.output_items))


class Unfinished(NamedTuple):
    """A response that was open when the store was last closed, or its process ended."""

    key: Key
    state: State


class Written(StrEnum):
    """What became of something that was to be kept."""

    STORED = "stored"
    """It outlives this process (if the store does), and whoever reads from now on sees it."""
    UNKNOWN = "unknown"
    """There is no such response, or not any more: nothing was done."""
    LOST = "lost"
    """The store could not; the observer knows why. A lost draft is never found later, a lost update may be."""


class Trouble(StrEnum):
    """Why a store could not."""

    WAITING_FULL = "waiting_full"
    SLOW = "slow"
    DISK_FULL = "disk_full"
    CORRUPT = "corrupt"
    LOCKED = "locked"
    IO = "io"
    CLOSED = "closed"
    FAILED = "failed"


class StoreUnavailable(Exception):  # noqa: N818 - reads as a fact
    """The store cannot tell, or cannot delete, now. Worth another try soon."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(f"the store is not available: {trouble}")
        self.trouble = trouble


class ResponseStore(Protocol):
    """Keeps responses. Every wait is bounded, but for the one of `unfinished`.

    Writes of one caller take effect in their order, also those that it did not wait for. Whoever is cancelled while it
    waits has said nothing about what is written.
    """

    async def open(self) -> None:
        """Be ready for use; a store that cannot work for the moment is down, tries again, and loses what it is given.

        Raises:
            EnvironmentUnfit: it can never work, as it is configured.
        """

    async def close(self) -> None:
        """Write what is waiting, and let go of everything; bounded, and harmless when it was never opened."""

    async def create(self, key: Key, draft: Draft) -> Written:
        """Keep a response; STORED or LOST. One that was there under the same key is replaced, its events included."""

    async def update(self, key: Key, state: State, response: bytes, output_items: tuple[Item, ...] = ()) -> Written:
        """Replace what changes of a response: its state, itself and its output. Its job goes when it is not queued."""

    def append(self, key: Key, events: Sequence[Event]) -> bool:
        """Keep events of a response's stream, without waiting; False if they are lost already.

        Those of an unknown response are dropped. An event with a number that was there replaces it.
        """

    async def get(self, key: Key) -> Stored | None:
        """The response as it was last kept.

        Raises:
            StoreUnavailable: it cannot be known; also below.
        """

    async def exchange(self, key: Key) -> Exchange | None:
        """Its items."""

    async def events(self, key: Key, after: int = -1, limit: int = 1000) -> tuple[Event, ...] | None:
        """At most `limit` events from number `after + 1` on, up to the first gap. None: no such response."""

    async def delete(self, key: Key) -> bool:
        """Forget a response with everything about it; False: there was none."""

    async def unfinished(self) -> tuple[Unfinished, ...]:
        """The responses that an earlier process left open and nobody has ended since, oldest first.

        Waits until the store has been open once, for as long as that takes: for a task that may be cancelled.
        """

    def snapshot(self) -> StoreSnapshot:
        """How it is at the moment."""


class NoStore:
    """Keeps nothing, and says so: every response is lost, and none is known."""

    async def open(self) -> None:
        """Nothing."""

    async def close(self) -> None:
        """Nothing."""

    async def create(self, key: Key, draft: Draft) -> Written:  # noqa: ARG002 - the protocol's, here and below
        """LOST."""
        return Written.LOST

    async def update(
        self,
        key: Key,  # noqa: ARG002
        state: State,  # noqa: ARG002
        response: bytes,  # noqa: ARG002
        output_items: tuple[Item, ...] = (),  # noqa: ARG002
    ) -> Written:
        """UNKNOWN."""
        return Written.UNKNOWN

    def append(self, key: Key, events: Sequence[Event]) -> bool:  # noqa: ARG002
        """False."""
        return False

    async def get(self, key: Key) -> Stored | None:  # noqa: ARG002
        """None."""
        return None

    async def exchange(self, key: Key) -> Exchange | None:  # noqa: ARG002
        """None."""
        return None

    async def events(self, key: Key, after: int = -1, limit: int = 1000) -> tuple[Event, ...] | None:  # noqa: ARG002
        """None."""
        return None

    async def delete(self, key: Key) -> bool:  # noqa: ARG002
        """False."""
        return False

    async def unfinished(self) -> tuple[Unfinished, ...]:
        """None at all."""
        return ()

    def snapshot(self) -> StoreSnapshot:
        """Empty, and not up."""
        return StoreSnapshot(is_up=False, responses=0, used_bytes=0, waiting_bytes=0)


class ItemPage(NamedTuple):
    """Some of a list of items, in the order asked for."""

    items: tuple[Item, ...]
    has_more: bool


def page(
    items: Sequence[Item], after: str | None, limit: int, *, is_descending: bool, before: str | None = None
) -> ItemPage | None:
    """At most `limit` items behind the one with the id `after`, the first ones without it, and before the one with the
    id `before`: with that alone the last ones there. None: no item has that id.

    Source: OpenAI reference, "List input items": `after`, `before`, `limit`, `order`.
    """
    ordered = items[::-1] if is_descending else items
    places = {item.id: place for place, item in enumerate(ordered)}
    if any(each is not None and each not in places for each in (after, before)):
        return None
    start = 0 if after is None else places[after] + 1
    end = len(ordered) if before is None else places[before]
    if after is None and before is not None:
        start = max(0, end - limit)
        return ItemPage(tuple(ordered[start:end]), has_more=start > 0)
    return ItemPage(tuple(ordered[start:end][:limit]), has_more=end - start > limit)


class BreakReason(StrEnum):
    """Why a conversation cannot be continued."""

    UNKNOWN = "unknown"
    OPEN = "open"
    TOO_LONG = "too_long"


class Break(NamedTuple):
    """The response at which a conversation cannot be followed any further, and why."""

    id: str
    reason: BreakReason


async def history(store: ResponseStore, key: Key, max_bytes: int) -> tuple[Exchange, ...] | Break:
    """The conversation that ended with this response, oldest first, in at most `max_bytes` of items.

    Raises:
        StoreUnavailable: it cannot be known.
    """
    links: list[Exchange] = []
    size_bytes = 0
    at: str | None = key.id
    while at is not None:
        link = await store.exchange(Key(key.owner, at))
        if link is None:
            return Break(at, BreakReason.UNKNOWN)
        if link.state is not State.ENDED:
            return Break(at, BreakReason.OPEN)
        size_bytes += link.size_bytes
        links.append(link)
        if size_bytes > max_bytes or len(links) > MAX_LINKS:
            return Break(at, BreakReason.TOO_LONG)
        at = link.previous
    return tuple(reversed(links))

"""A ticket: a job's place and fate, and the buffer its events wait in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from pool.events import Reasoning, Tap, TextDelta, ToolCall, TurnEnd, TurnEvent
from pool.stimuli import Lease
from scheduler.model import Job, Outcome

BUFFER_BYTES = 1024 * 1024
"""How much of an answer (in characters, plus a little for each event) may wait for its reader, besides its largest
piece: one delta of any size is no sign of a slow reader."""
EVENT_OVERHEAD_BYTES = 64


class Callbacks(msgspec.Struct, frozen=True):
    """Whom tickets tell what becomes of them: the same for all tickets of a scheduler."""

    on_spoke: Callable[[Ticket], None]
    on_end: Callable[[int, int, TurnEnd], None]
    on_overflow: Callable[[int], None]
    on_abandon: Callable[[int], None]


class Ticket(msgspec.Struct, eq=False):
    """Given to whoever submitted the job, who reads it to the end or abandons it.

    `outcome` is None until there is one; then it never changes. `lease` is the latest that a turn of the job had, and
    `attempts` how many it had. One reader only: `on_news` is called whenever there is something new about the ticket,
    in the middle of whatever made it so: note it, and look later. About `buffered` bytes wait for it.
    """

    id: int
    job: Job
    submitted_at: float
    _callbacks: Callbacks
    outcome: Outcome | None = None
    started_at: float | None = None
    lease: Lease | None = None
    attempts: int = 0
    on_news: Callable[[], None] | None = None
    buffered: int = 0
    _attempt: Attempt | None = None
    _has_spoken: bool = False
    _events: list[TurnEvent] = []
    _largest: int = 0

    @property
    def has_news(self) -> bool:
        """Events have come that nobody has taken, or there is an outcome."""
        return bool(self._events) or self.outcome is not None

    def take(self) -> list[TurnEvent]:
        """All events that have come since the last call, in order. [] from a ticket with news means: see `outcome`."""
        events, self._events = self._events, []
        self.buffered = self._largest = 0
        return events

    async def read(self) -> list[TurnEvent]:
        """What `take` gives, once there is news. Cancelling it loses nothing."""
        while not self.has_news:
            woken = asyncio.Event()
            self.on_news = woken.set
            try:
                await woken.wait()
            finally:
                self.on_news = None
        return self.take()

    def abandon(self) -> None:
        """Nobody will read on: a waiting job is dropped, a running turn interrupted. Harmless once it is over."""
        self._callbacks.on_abandon(self.id)

    # --- the scheduler's side --------------------------------------------------------------------------------

    def attempt(self, number: int) -> Attempt:
        """The sink of the job's next turn. From now on no other is heard."""
        self.attempts = number
        self._attempt = Attempt(self, number)
        return self._attempt

    def start(self, lease: Lease, now: float) -> None:
        """The attempt has its seat."""
        self.lease, self.started_at = lease, now
        self._tell()

    def withdraw(self) -> None:
        """The turn is lost; whatever it still says is not heard."""
        self._attempt = self.started_at = None

    def push(self, source: Attempt, events: Sequence[TurnEvent]) -> None:
        """The next events, unless they are of a turn that was lost."""
        if self.outcome is not None or source is not self._attempt:
            return
        self._events += events
        if not self._has_spoken:
            self._has_spoken = True
            self._callbacks.on_spoke(self)
        sizes = [len(event.text) if isinstance(event, TextDelta) else _size(event) for event in events]
        self.buffered += sum(sizes) + EVENT_OVERHEAD_BYTES * len(sizes)
        self._largest = max(self._largest, EVENT_OVERHEAD_BYTES + max(sizes))
        if self.buffered - self._largest > BUFFER_BYTES:
            self._callbacks.on_overflow(self.id)
        if self.on_news is not None:
            self.on_news()

    def end(self, number: int, end: TurnEnd) -> None:
        """The end of one turn."""
        self._callbacks.on_end(self.id, number, end)

    def settle(self, outcome: Outcome) -> None:
        """The ticket's outcome."""
        if self.outcome is None:
            self.outcome = outcome
            self._tell()

    def _tell(self) -> None:
        if self.on_news is not None:
            self.on_news()


class Attempt(msgspec.Struct, eq=False):
    """One turn's way to its ticket (a TurnSink): a turn that was lost must not write into the next one's answer."""

    _ticket: Ticket
    _number: int

    @property
    def tap(self) -> Tap | None:
        """Where its frames go, too."""
        return self._ticket.job.tap

    def push(self, events: Sequence[TurnEvent]) -> None:
        """The turn's next events."""
        self._ticket.push(self, events)

    def end(self, end: TurnEnd) -> None:
        """The turn's end."""
        self._ticket.end(self._number, end)


def _size(event: TurnEvent) -> int:
    match event:
        case ToolCall():
            return len(event.arguments)
        case Reasoning():
            return len(event.encrypted) + sum(map(len, event.summary))
        case _:
            return len(event.text)

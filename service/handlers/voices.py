"""What is said: the turns of one answer, read side by side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Protocol

from pool.events import Trace, Usage
from scheduler.model import Ended, Outcome
from scheduler.ticket import Ticket
from service.api.errors import ApiError, too_long
from service.encode.choice import Choice, Piece
from service.encode.usage import summed
from service.observability import outcome_label
from service.state import Service

MAX_ANSWER_CHARS = 32 * 1024 * 1024
"""Of an answer that is kept until it is whole; no model says as much."""


class _Voice:
    """One choice, and the ticket of the turn that says it."""

    def __init__(self, index: int, ticket: Ticket, choice: Choice) -> None:
        self.index = index
        self.ticket = ticket
        self.choice = choice
        self.is_over = False

    def advance(self, now: float) -> list[Piece]:
        """What it has to show of the news; [] also when this was its end.

        Raises:
            ApiError: it ended without an answer.
        """
        events = self.ticket.take()
        if not events and self.ticket.outcome is not None:
            self.is_over = True
            return self.choice.end(self.ticket.outcome)
        return self.choice.take(events, now)

    def spent(self) -> tuple[Usage, bool]:
        """What its turn has taken so far, and whether that is an estimate."""
        outcome = self.ticket.outcome
        if isinstance(outcome, Ended) and outcome.end.usage is not None:
            return outcome.end.usage, False
        is_untouched = isinstance(outcome, Ended) and outcome.end.fault is not None and outcome.end.trace is Trace.NONE
        if is_untouched or self.ticket.started_at is None:
            return Usage(), False
        return self.choice.counted()


Shown = list[tuple[int, list[Piece]]]
"""What is new, by the number of its choice."""


class Outlet(Protocol):
    """Where what is new may go at once, while whoever reads goes on waiting. Nearly all of an answer goes this way:
    nobody has to be woken for it, and what one turn of the loop brings is one write.
    """

    @property
    def is_open(self) -> bool:
        """It takes something now; else the reader is woken, who may have to wait."""

    def show(self, shown: Shown) -> None:
        """Take it."""


class OpenOutlet:
    """It takes everything, and gives it to `show`."""

    is_open = True

    def __init__(self, show: Callable[[Shown], None]) -> None:
        self.show = show


class Voices:
    """The turns that say one answer: `add` each, then `read` until that gives []; `abandon` when nobody reads on."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._voices: list[_Voice] = []
        self._loop = asyncio.get_running_loop()
        self._began_at = time.perf_counter()
        self._first_text_s: float | None = None
        self._outlet: Outlet | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._is_look_due = False
        self._shown_at = 0.0
        self._failure: Exception | None = None
        self.has_failed = False
        """One of them ended without an answer, and somebody was there to hear of it."""

    def add(self, ticket: Ticket, choice: Choice) -> None:
        """The turn of one more choice."""
        self._voices.append(_Voice(len(self._voices), ticket, choice))
        ticket.on_news = self._on_news

    @property
    def choices(self) -> list[Choice]:
        """In the order in which they were added."""
        return [voice.choice for voice in self._voices]

    async def begun(self) -> bool:
        """Wait until the first of them has its turn, or will not have one; which of the two it is."""
        ticket = self._voices[0].ticket
        while ticket.started_at is None and not ticket.has_news:
            await self._woken()
        return ticket.lease is not None

    @property
    def outcome(self) -> Outcome | None:
        """What became of the first of them, once that is known."""
        return self._voices[0].ticket.outcome

    async def read(self, outlet: Outlet | None = None) -> Shown:
        """What is next to be shown of any choice; [] when all have ended. Cancelling it loses nothing.

        With an `outlet`, what comes goes there as long as that is open and the answer in its middle. Reasoning is not
        shown: it commits no status, and keeps no connection alive.

        Raises:
            ApiError: one of them failed, and the answer with it.
        """
        while speaking := [voice for voice in self._voices if not voice.is_over]:
            while self._failure is None and not any(voice.ticket.has_news for voice in speaking):
                full_at = self._full_at
                if not await self._woken(full_at, outlet if full_at is None else None):
                    break
            if self._failure is not None:
                raise self._failure
            if shown := self._take():
                return shown
        return []

    async def read_within(self, timeout_s: float, outlet: Outlet | None = None) -> Shown | None:
        """What `read` gives, or None when nothing was shown for `timeout_s`."""
        due_at = self._loop.time() + timeout_s
        while True:
            try:
                async with asyncio.timeout_at(due_at):
                    return await self.read(outlet)
            except TimeoutError:
                if self._shown_at + timeout_s <= due_at:
                    return None
                due_at = self._shown_at + timeout_s

    def spent(self) -> tuple[Usage, bool]:
        """What all their turns have taken so far, and whether any of that is an estimate."""
        spent = [voice.spent() for voice in self._voices]
        return summed([usage for usage, _ in spent]), any(is_estimate for _, is_estimate in spent)

    def abandon(self) -> None:
        """Nobody reads on. Harmless once all have ended."""
        for voice in self._voices:
            voice.ticket.abandon()

    @property
    def model(self) -> str:
        """The provider's model that answers."""
        return self._voices[0].ticket.job.turn.model

    def fingerprint(self) -> str:
        """The CLI that answers: a profile that is being rolled may have two."""
        ticket = self._voices[0].ticket
        version = self._service.pool.version(ticket.lease.worker) if ticket.lease is not None else None
        version = version or self._service.observability.versions.get(ticket.job.profile)
        return f"fp_codex_{version or 'unknown'}"

    def facts(self) -> dict[str, object]:
        """What the request's log line says of them, as far as it is known."""
        if not self._voices:
            return {}
        ticket = self._voices[0].ticket
        outcomes = [voice.ticket.outcome for voice in self._voices]
        labels = dict.fromkeys("none" if outcome is None else outcome_label(outcome) for outcome in outcomes)
        facts: dict[str, object] = {"profile": ticket.job.profile, "outcome": ",".join(labels)}
        if self._first_text_s is not None:
            facts["first_text_s"] = round(self._first_text_s, 4)
        if ticket.lease is not None:
            facts["worker"] = str(ticket.lease.worker)
        if ticket.started_at is not None:
            facts["queue_s"] = round(ticket.started_at - ticket.submitted_at, 4)
        if ticket.attempts > 1:
            facts["attempts"] = ticket.attempts
        ends = [voice.ticket.outcome.end for voice in self._voices if isinstance(voice.ticket.outcome, Ended)]
        usages = [end.usage for end in ends if end.usage is not None]
        if usages:
            usage = summed(usages)
            facts["input_tokens"], facts["cached_tokens"] = usage.input_tokens, usage.cached_input_tokens
            facts["output_tokens"], facts["reasoning_tokens"] = usage.output_tokens, usage.reasoning_output_tokens
        return facts

    # --- inside ----------------------------------------------------------------------------------------------

    async def _woken(self, until: float | None = None, outlet: Outlet | None = None) -> bool:
        """Wait until there is something new that does not go to the outlet; whether that was before `until`."""
        self._waiter, self._outlet = self._loop.create_future(), outlet
        try:
            async with asyncio.timeout_at(until) if until is not None else nullcontext():
                await self._waiter
        except TimeoutError:
            return False
        finally:
            self._waiter = self._outlet = None
        return True

    def _on_news(self) -> None:
        if self._waiter is None or self._is_look_due:
            return
        self._is_look_due = True
        self._loop.call_soon(self._look)

    def _look(self) -> None:
        """What is new of an answer in its middle goes to an open outlet; for anything else the reader is woken."""
        self._is_look_due = False
        if self._waiter is None or self._waiter.done():
            return
        outlet = self._outlet
        try:
            if outlet is not None and outlet.is_open and not self._has_end:
                if shown := self._take():
                    outlet.show(shown)
                if self._full_at is None:
                    return
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the reader's
            self._failure = error
        self._waiter.set_result(None)

    @property
    def _has_end(self) -> bool:
        """Some turn has ended, and that has not been told."""
        for voice in self._voices:  # noqa: SIM110 - a generator costs more, of every delta
            if voice.ticket.outcome is not None and not voice.is_over:
                return True
        return False

    @property
    def _full_at(self) -> float | None:
        """When the first of them will be full if nothing comes; None when none will."""
        first = None
        for voice in self._voices:
            at = None if voice.is_over else voice.choice.full_at
            if at is not None and (first is None or at < first):
                first = at
        return first

    def _take(self) -> Shown:
        """All that has come."""
        now = self._loop.time()
        shown: Shown = []
        kept_chars = 0
        for voice in self._voices:
            if not voice.is_over and (pieces := self._advance(voice, now)):
                shown.append((voice.index, pieces))
            kept_chars += voice.choice.kept_chars
        if kept_chars > MAX_ANSWER_CHARS:
            raise too_long()
        if shown:
            self._shown_at = now
            if self._first_text_s is None:
                self._note_first_text(self._voices[shown[0][0]].ticket)
        return shown

    def _advance(self, voice: _Voice, now: float) -> list[Piece]:
        """What one voice has to show; its turn is interrupted when that was all."""
        try:
            pieces = voice.advance(now)
        except ApiError:
            self.has_failed = True
            raise
        if voice.choice.is_full:
            ticket = voice.ticket
            if ticket.outcome is None and ticket.lease is not None:
                self._service.pool.interrupt(ticket.lease)
        return pieces

    def _note_first_text(self, ticket: Ticket) -> None:
        self._first_text_s = time.perf_counter() - self._began_at
        self._service.observability.first_text(ticket.job.profile, self._first_text_s)

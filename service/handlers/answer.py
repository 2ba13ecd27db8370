"""What goes out: the turns of an answer are read side by side, and written in whatever form the client asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Protocol

from aiohttp import hdrs, web

from pool.events import Trace, Usage
from scheduler.model import Ended, Outcome
from scheduler.ticket import Ticket, news
from service.api.errors import ApiError, internal, too_long
from service.encode.choice import Choice, Piece
from service.encode.sse import keepalive
from service.encode.usage import summed
from service.observability import outcome_label
from service.settings import ServerSettings
from service.state import SERVICE, Service

MAX_ANSWER_CHARS = 32 * 1024 * 1024
"""Of an answer that is kept until it is whole; no model says as much."""
STREAM_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


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


class Voices:
    """The turns that say one answer: `add` each, then `read` until that gives []; `abandon` when nobody reads on."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._voices: list[_Voice] = []
        self._clock = asyncio.get_running_loop().time
        self._began_at = time.perf_counter()
        self._first_text_s: float | None = None

    def add(self, ticket: Ticket, choice: Choice) -> None:
        """The turn of one more choice."""
        self._voices.append(_Voice(len(self._voices), ticket, choice))

    @property
    def choices(self) -> list[Choice]:
        """In the order in which they were added."""
        return [voice.choice for voice in self._voices]

    async def begun(self) -> bool:
        """Wait until the first of them has its turn, or will not have one; which of the two it is."""
        ticket = self._voices[0].ticket
        await ticket.begun()
        return ticket.lease is not None

    @property
    def outcome(self) -> Outcome | None:
        """What became of the first of them, once that is known."""
        return self._voices[0].ticket.outcome

    async def read(self) -> Shown:
        """What is next to be shown of any choice; [] when all have ended. Cancelling it loses nothing.

        Reasoning is not shown: it commits no status, and keeps no connection alive.

        Raises:
            ApiError: one of them failed, and the answer with it.
        """
        while speaking := [voice for voice in self._voices if not voice.is_over]:
            tickets = [voice.ticket for voice in speaking]
            ends = [full_at for voice in speaking if (full_at := voice.choice.full_at) is not None]
            await (_news_until(min(ends), tickets) if ends else news(tickets))
            now = self._clock()
            shown = [(voice.index, pieces) for voice in speaking if (pieces := self._advance(voice, now))]
            if sum(voice.choice.kept_chars for voice in self._voices) > MAX_ANSWER_CHARS:
                raise too_long()
            if shown:
                self._note_first_text(self._voices[shown[0][0]].ticket)
                return shown
        return []

    async def read_within(self, timeout_s: float) -> Shown | None:
        """What `read` gives, or None when there was nothing within `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.read()
        except TimeoutError:
            return None

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
        ends = [voice.ticket.outcome.end for voice in self._voices if isinstance(voice.ticket.outcome, Ended)]
        usages = [end.usage for end in ends if end.usage is not None]
        if usages:
            facts["input_tokens"] = sum(usage.input_tokens for usage in usages)
            facts["output_tokens"] = sum(usage.output_tokens for usage in usages)
        return facts

    # --- inside ----------------------------------------------------------------------------------------------

    def _advance(self, voice: _Voice, now: float) -> list[Piece]:
        """What one voice has to show; its turn is interrupted when that was all."""
        pieces = voice.advance(now)
        ticket = voice.ticket
        if voice.choice.is_full and ticket.outcome is None and ticket.lease is not None:
            self._service.pool.interrupt(ticket.lease)
        return pieces

    def _note_first_text(self, ticket: Ticket) -> None:
        if self._first_text_s is None:
            self._first_text_s = time.perf_counter() - self._began_at
            self._service.observability.first_text(ticket.job.profile, self._first_text_s)


async def _news_until(full_at: float, tickets: Sequence[Ticket]) -> None:
    """Wait until one of the tickets has news, or until then."""
    with suppress(TimeoutError):
        async with asyncio.timeout_at(full_at):
            await news(tickets)


class Encoder(Protocol):
    """The bytes of a stream, in this order: `begin`, any number of `pieces`, `finish`; or `error` at any time, and
    nothing after it.
    """

    def begin(self) -> bytes:
        """What comes before anything is said."""

    def pieces(self, pieces: Sequence[Piece], index: int) -> bytes:
        """The next that is shown of a choice."""

    def finish(self, choices: Sequence[Choice]) -> bytes:
        """The end of the stream; all choices have ended."""

    def error(self, error: ApiError) -> bytes:
        """The end of a stream that failed when its status was already sent."""


class Source(Protocol):
    """A stream that goes out as it comes."""

    async def read(self, timeout_s: float) -> bytes | None:
        """What is next, b"" at the end, or None when there was nothing within `timeout_s`.

        Raises:
            ApiError: nothing more will come, though it should.
        """

    async def error(self, error: ApiError) -> bytes:
        """The last words of a stream that failed when its status was already sent."""


Keep = Callable[[bytes], Awaitable[bytes]]
"""Given the last words of a stream, does what has to be done before they are said, and returns what is to be said."""


async def _as_they_are(last: bytes) -> bytes:
    return last


class Speech:
    """What `voices` say, in the words of `encoder`. `shown` is what there is to begin with: None for nothing yet, []
    for nothing at all. Read that within `commit_delay_s`, so that an answer that fails soon fails with a real status.
    """

    def __init__(self, voices: Voices, encoder: Encoder, shown: Shown | None, keep: Keep = _as_they_are) -> None:
        self._voices = voices
        self._encoder = encoder
        self._shown = shown
        self._keep = keep
        self._is_begun = self._is_over = False
        self._is_silent = shown is None

    async def read(self, timeout_s: float) -> bytes | None:
        """See `Source`."""
        if self._is_over:
            return b""
        if self._is_begun and self._is_silent:
            self._is_silent = False
            return None  # once, and at once: whoever sees a status wants to see that something comes
        if self._is_begun:
            self._shown = await self._voices.read_within(timeout_s)
            return None if self._shown is None else await self._told(self._shown)
        self._is_begun = True
        return self._encoder.begin() + (b"" if self._shown is None else await self._told(self._shown))

    async def error(self, error: ApiError) -> bytes:
        """See `Source`."""
        return await self._keep(self._encoder.error(error))

    async def _told(self, shown: Shown) -> bytes:
        if shown:
            return b"".join(self._encoder.pieces(pieces, index) for index, pieces in shown)
        self._is_over = True
        return await self._keep(self._encoder.finish(self._voices.choices))


class Reply:
    """One HTTP answer: `send` it as a whole, or `stream` it. `headers` are its own: change them before."""

    def __init__(self, request: web.Request, settings: ServerSettings) -> None:
        self.headers: dict[str, str] = {}
        self._request = request
        self._settings = settings

    async def send(self, body: bytes) -> web.Response:
        """A JSON body."""
        response = web.Response(body=body, content_type="application/json", headers=self.headers)
        await response.prepare(self._request)
        await self._in_time(response.write_eof())
        return response

    async def stream(self, source: Source) -> web.StreamResponse:
        """Server-sent events. Who asks only for the headers (HEAD) waits for nothing."""
        response = web.StreamResponse(headers=STREAM_HEADERS | self.headers)
        await response.prepare(self._request)
        if self._request.method == hdrs.METH_HEAD:
            return response
        try:
            await self._relay(response, source)
        except ConnectionError:
            raise
        except ApiError as error:
            await self._write(response, await source.error(error))
        except Exception as error:  # noqa: BLE001 - the middleware's boundary again: its 500 would land in this body
            self._request.app[SERVICE].observability.handler_failed(self._request.path, error)
            await self._write(response, await source.error(internal()))
        await self._in_time(response.write_eof())
        return response

    # --- inside ----------------------------------------------------------------------------------------------

    async def _relay(self, response: web.StreamResponse, source: Source) -> None:
        """Write the stream, from its first to its last words."""
        while (chunks := await source.read(self._settings.keepalive_s)) != b"":
            if chunks is not None:
                await self._write(response, chunks)
            elif self._wants_keepalive():
                await self._write(response, keepalive(int(time.time() * 1000)))  # noqa: TID251 - the wall clock's

    def _wants_keepalive(self) -> bool:
        """Some desktop clients choke on comments."""
        headers = self._request.headers
        agent = headers.get(hdrs.USER_AGENT, "").lower()
        return not (
            "obsidian" in agent
            or "electron" in agent
            or headers.get("X-No-Keepalive") == "1"
            or self._request.query.get("no_keepalive") == "1"
        )

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        await self._in_time(response.write(data))

    async def _in_time(self, writing: Coroutine[Any, Any, None]) -> None:
        """Write, within a bound: a client that stops reading loses its connection and nobody else anything."""
        try:
            async with asyncio.timeout(self._settings.write_timeout_s):
                await writing
        except TimeoutError:
            transport = self._request.transport
            if transport is not None:
                transport.abort()
            self._request.app[SERVICE].observability.client_cut()
            raise ConnectionResetError("the client does not read") from None

"""/v1/chat/completions: one request, one ticket, one answer."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Coroutine
from itertools import chain
from typing import Any

from aiohttp import hdrs, web
from msgspec.structs import replace

from scheduler.model import Ended, Job, NotReady, QueueFull, Rejected, WaitTooLong
from scheduler.ticket import Ticket, news
from service.admission import Tenant, count
from service.api.body import unpacked
from service.api.chat import ChatRequest, parse_chat
from service.api.errors import ApiError, from_rejection, internal, too_large
from service.api.headers import PRIORITY_APPLIED_HEADER, read_deadline_s, read_priority
from service.encode.choice import Choice, Piece, call_counts
from service.encode.collect import chat_completion
from service.encode.sse import ChatStream, keepalive
from service.observability import outcome_label
from service.routing import Plan, Target
from service.settings import ServerSettings
from service.state import FACTS, LIMITER, REQUEST_ID, SERVICE, Service
from service.translate import to_turn

MAX_CHOICES = 5
MAX_ANSWER_CHARS = 32 * 1024 * 1024
"""Of an answer that is kept until it is whole; no model says as much."""
STREAM_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
IGNORED_HEADER = "x-codex-ignored-params"
USAGE_HEADER = "x-codex-usage"
CALL_COUNT_HEADER = "x-codex-tool-call-count"
CALLS_TRUNCATED_HEADER = "x-codex-tool-call-truncated"


async def create(request: web.Request) -> web.StreamResponse:
    """Answer a chat completion request, as one object or as a stream.

    Raises:
        ApiError: anything that goes wrong before the first byte of the answer.
    """
    service = request.app[SERVICE]
    tenant = service.current.keyring.tenant(request.headers.get(hdrs.AUTHORIZATION))
    facts = request[FACTS]
    facts["tenant"] = tenant.name
    if tenant.limiter is not None:
        request[LIMITER] = tenant.limiter
    await count(tenant)
    wanted, deadline_s = read_priority(request.headers), read_deadline_s(request.headers)
    body = await _body(request, service.current.settings.server)
    current = service.current  # from here to the scheduler nobody waits, so that what it names is still there
    chat, route = parse_chat(body, find=current.routes.find, max_choices=MAX_CHOICES)
    priority = tenant.allowed(wanted or route.priority or tenant.priority)
    plan = current.routes.plan(route, tenant.name)
    facts |= {"model": route.public, "profile": plan[0].profile, "stream": chat.stream, "priority": priority}
    deadlines = [limit for limit in (deadline_s, route.deadline_s, tenant.max_deadline_s) if limit is not None]
    job = Job(
        id=request[REQUEST_ID],
        profile=plan[0].profile,
        tenant=tenant.name,
        turn=to_turn(chat, model=plan[0].model, effort=route.effort),
        queue_budget_s=plan[0].queue_budget_s,
        size=chat.prompt_chars,
        weight=tenant.weight,
        priority=priority,
        deadline_s=min(deadlines, default=None),
        seats=tenant.seats,
        queue_share=tenant.queue_max or plan[0].tenant_queue_max,
    )
    answer = _Answer(request, service, chat, current.settings.server)
    if wanted is not None and wanted is not priority:
        answer.headers[PRIORITY_APPLIED_HEADER] = priority
    try:
        for number in range(chat.n):
            each = job if number == 0 else replace(job, id=f"{job.id}.{number}")
            answer.add(_submit(service, each, plan[1:], tenant))
        return await answer.respond()
    finally:
        answer.note_end()


async def head(request: web.Request) -> web.Response:
    """Whether the key is good."""
    request.app[SERVICE].current.keyring.tenant(request.headers.get(hdrs.AUTHORIZATION))
    return web.Response()


async def _body(request: web.Request, limits: ServerSettings) -> bytes:
    """The request's body, unpacked; its size, its time and its encodings are bounded."""
    content_type = request.headers.get(hdrs.CONTENT_TYPE)
    if content_type is not None and request.content_type not in ("application/json", "text/plain"):
        raise ApiError(
            status=415,
            message="Content-Type must be application/json",
            type="invalid_request_error",
            code="unsupported_media_type",
        )
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for piece in request.content.iter_any():  # not request.read(), which keeps a copy with the request
                body += piece
                if len(body) > limits.max_body_bytes:
                    raise too_large()
    except TimeoutError:
        raise ApiError(
            status=408, message="the body came too slowly", type="invalid_request_error", code="request_timeout"
        ) from None
    return unpacked(bytes(body), request.headers.get(hdrs.CONTENT_ENCODING, ""), limits.max_body_bytes)


def _submit(service: Service, job: Job, fallback: Plan, tenant: Tenant) -> Ticket:
    """A ticket for the job, or for the same job at the first of `fallback` that has room and workers for it.

    Raises:
        ApiError: none has; it says when the first of them may have.
    """
    refusals: list[tuple[str, Rejected]] = []
    for each in chain((job,), (_moved(job, target, tenant) for target in fallback)):
        try:
            ticket = service.scheduler.submit(each)
        except (NotReady, QueueFull, WaitTooLong) as refusal:
            refusals.append((each.profile, refusal))
        except Rejected as rejection:
            raise from_rejection(rejection) from None
        else:
            for profile, why in refusals:
                service.observability.fell_back(profile, why)
            return ticket
    raise from_rejection(min((refusal for _, refusal in refusals), key=lambda refusal: refusal.retry_after_s))


def _moved(job: Job, target: Target, tenant: Tenant) -> Job:
    """The same job, for somebody else."""
    return replace(
        job,
        profile=target.profile,
        turn=replace(job.turn, model=target.model),
        queue_budget_s=target.queue_budget_s,
        queue_share=tenant.queue_max or target.tenant_queue_max,
    )


class _Voice:
    """One choice, and the ticket of the turn that says it."""

    def __init__(self, index: int, ticket: Ticket, choice: Choice) -> None:
        self.index = index
        self.ticket = ticket
        self.choice = choice
        self.is_over = False

    def advance(self) -> list[Piece]:
        """What it has to show of the news; [] also when this was its end.

        Raises:
            ApiError: it ended without an answer.
        """
        events = self.ticket.take()
        if events:
            return self.choice.take(events)
        if self.ticket.outcome is not None:
            self.is_over = True
            return self.choice.end(self.ticket.outcome)
        return []


Shown = list[tuple[_Voice, list[Piece]]]
"""What is new, by choice."""


class _Answer:
    """Turns the events of one ticket or several into one HTTP answer."""

    def __init__(self, request: web.Request, service: Service, chat: ChatRequest, settings: ServerSettings) -> None:
        self.headers = {IGNORED_HEADER: ", ".join(chat.ignored)} if chat.ignored else {}
        self._request = request
        self._service = service
        self._settings = settings
        self._chat = chat
        self._voices: list[_Voice] = []
        self._began_at = time.perf_counter()
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())  # noqa: TID251 - the wire wants wall-clock seconds
        self._first_text_s: float | None = None

    def add(self, ticket: Ticket) -> None:
        """The turn of one more choice."""
        self._voices.append(_Voice(len(self._voices), ticket, Choice(self._chat)))

    async def respond(self) -> web.StreamResponse:
        """The answer, in one of its two forms."""
        return await (self._stream() if self._chat.stream else self._collect())

    def note_end(self) -> None:
        """Nobody reads on. Add to the log line what only the end knows."""
        for voice in self._voices:
            voice.ticket.abandon()
        if not self._voices:
            return
        facts, ticket = self._request[FACTS], self._voices[0].ticket
        outcomes = [voice.ticket.outcome for voice in self._voices]
        labels = dict.fromkeys("none" if outcome is None else outcome_label(outcome) for outcome in outcomes)
        facts |= {"profile": ticket.job.profile, "outcome": ",".join(labels)}
        if self._first_text_s is not None:
            facts["first_text_s"] = round(self._first_text_s, 4)
        if ticket.lease is not None:
            facts["worker"] = str(ticket.lease.worker)
        ends = [voice.ticket.outcome.end for voice in self._voices if isinstance(voice.ticket.outcome, Ended)]
        usages = [end.usage for end in ends if end.usage is not None]
        if usages:
            facts["input_tokens"] = sum(usage.input_tokens for usage in usages)
            facts["output_tokens"] = sum(usage.output_tokens for usage in usages)

    # --- its two forms ---------------------------------------------------------------------------------------

    async def _collect(self) -> web.Response:
        """The whole answer as one object."""
        while await self._read():
            pass
        choices = [voice.choice for voice in self._voices]
        body, estimated = chat_completion(
            id=self._id,
            created=self._created,
            fingerprint=self._fingerprint(),
            request=self._chat,
            choices=choices,
        )
        count, is_truncated = call_counts(choices)
        response = web.Response(body=body, content_type="application/json", headers=self.headers)
        response.headers[CALL_COUNT_HEADER] = str(count)
        response.headers[CALLS_TRUNCATED_HEADER] = "true" if is_truncated else "false"
        if estimated:
            response.headers[USAGE_HEADER] = "estimated"
        await response.prepare(self._request)
        await self._in_time(response.write_eof())
        return response

    async def _stream(self) -> web.StreamResponse:
        """The answer as server-sent events; the status is committed with the first event or after `commit_delay_s`."""
        shown = await self._read_within(self._settings.commit_delay_s)
        encoder = ChatStream(id=self._id, created=self._created, fingerprint=self._fingerprint(), request=self._chat)
        response = web.StreamResponse(headers=STREAM_HEADERS | self.headers)
        await response.prepare(self._request)
        try:
            await self._relay(response, encoder, shown)
        except ConnectionError:
            raise
        except ApiError as error:
            await self._write(response, encoder.error(error))
        except Exception as error:  # noqa: BLE001 - the middleware's boundary again: its 500 would land in this body
            self._service.observability.handler_failed(self._request.path, error)
            await self._write(response, encoder.error(internal()))
        await self._in_time(response.write_eof())
        return response

    async def _relay(self, response: web.StreamResponse, encoder: ChatStream, shown: Shown | None) -> None:
        """Write the stream, from its role to its last words; `shown` is what there is to begin with."""
        chunks = encoder.role()
        while shown != []:
            if shown is not None:
                chunks += b"".join(encoder.pieces(pieces, voice.index) for voice, pieces in shown)
            elif self._wants_keepalive():
                chunks += keepalive(int(time.time() * 1000))  # noqa: TID251 - as above
            await self._write(response, chunks)
            chunks = b""
            shown = await self._read_within(self._settings.keepalive_s)
        await self._write(response, chunks + encoder.finish([voice.choice for voice in self._voices]))

    # --- inside ----------------------------------------------------------------------------------------------

    async def _read(self) -> Shown:
        """What is next to be shown of any choice; [] when all have ended.

        Reasoning is not shown: it commits no status, and keeps no connection alive.

        Raises:
            ApiError: one of them failed, and the answer with it.
        """
        while speaking := [voice for voice in self._voices if not voice.is_over]:
            await news([voice.ticket for voice in speaking])
            shown = [(voice, pieces) for voice in speaking if (pieces := self._advance(voice))]
            if sum(voice.choice.kept_chars for voice in self._voices) > MAX_ANSWER_CHARS:
                raise ApiError(
                    status=502, message="the answer is too long", type="server_error", code="answer_too_large"
                )
            if shown:
                self._note_first_text(shown[0][0].ticket)
                return shown
        return []

    def _advance(self, voice: _Voice) -> list[Piece]:
        """What one voice has to show; its turn is interrupted when that was all."""
        pieces = voice.advance()
        ticket = voice.ticket
        if voice.choice.is_full and ticket.outcome is None and ticket.lease is not None:
            self._service.pool.interrupt(ticket.lease)
        return pieces

    async def _read_within(self, timeout_s: float) -> Shown | None:
        """What `_read` gives, or None when there was nothing within `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._read()
        except TimeoutError:
            return None

    def _fingerprint(self) -> str:
        """The CLI that answers: a profile that is being rolled may have two."""
        ticket = self._voices[0].ticket
        version = self._service.pool.version(ticket.lease.worker) if ticket.lease is not None else None
        version = version or self._service.observability.versions.get(ticket.job.profile)
        return f"fp_codex_{version or 'unknown'}"

    def _note_first_text(self, ticket: Ticket) -> None:
        if self._first_text_s is None:
            self._first_text_s = time.perf_counter() - self._began_at
            self._service.observability.first_text(ticket.job.profile, self._first_text_s)

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
        if data:
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
            raise ConnectionResetError("the client does not read") from None

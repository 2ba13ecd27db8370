"""/v1/responses: one request, one ticket, one response object."""

from __future__ import annotations

import secrets
import time

from aiohttp import web

from service.api.errors import store_unavailable, unsupported
from service.api.responses import ResponsesRequest
from service.background import BACKGROUND, Parked
from service.encode.response_stream import ResponseEvents, ResponseStream
from service.following import Follower
from service.handlers.answer import Speech
from service.handlers.asking import Asked, read_asked
from service.handlers.exchange import Exchange
from service.handlers.understanding import as_served, understand, wants
from service.handlers.voices import OpenOutlet, Shown
from service.keeping import Keeper
from service.state import SERVICE
from service.store.protocol import Key

STORED_HEADER = "x-codex-stored"
"""`false`: the answer was to be stored, and is not."""


async def create(request: web.Request) -> web.StreamResponse:
    """Answer a request of the Responses API, as one object or as a stream.

    Raises:
        ApiError: anything that goes wrong before the first byte of the answer.
    """
    asked = await read_asked(request)
    service = request.app[SERVICE]
    question, route = await understand(service, asked)
    current = service.current  # from here to the scheduler nobody waits: what it names is still there
    if question.background and current.settings.store.kind == "off":
        raise unsupported("background", "background responses need a store, and there is none")
    queue_budget_s = current.settings.background.queue_budget_s if question.background else None
    exchange = Exchange(request, asked, current, question, route, wants=wants(question, queue_budget_s))
    question = as_served(question, exchange.inquiry)
    key = Key(asked.tenant.name, f"resp_{secrets.token_hex(24)}")
    try:
        if question.background:
            return await _begin(request, exchange, question, asked, key)
        exchange.ask()
        return await _answer(request, exchange, question, key)
    finally:
        exchange.close()


async def _begin(
    request: web.Request, exchange: Exchange, question: ResponsesRequest, asked: Asked, key: Key
) -> web.StreamResponse:
    """The response as it is when it is stored; or its stream, which goes on without its client, too."""
    created = int(time.time())  # noqa: TID251 - the wire wants wall-clock seconds, here and below
    inquiry, settings = exchange.inquiry, exchange.settings.background
    parked = Parked.of(asked, inquiry.mode, created, settings.queue_budget_s)
    work = request.app[BACKGROUND].begin(key, parked, question, inquiry)
    exchange.hand_over()
    if not await work.accepted():
        raise store_unavailable()
    if question.stream:
        return await exchange.reply.stream(Follower(request.app[SERVICE].store, key, work, -1))
    return await exchange.reply.send(work.first_body)


async def _answer(request: web.Request, exchange: Exchange, question: ResponsesRequest, key: Key) -> web.StreamResponse:
    """The answer, in one of its two forms."""
    service = request.app[SERVICE]
    created = int(time.time())  # noqa: TID251 - as above
    events = ResponseEvents(id=key.id, created=created, request=question)
    keeper = Keeper(service.store, service.observability, key, question, events)
    if question.stream:
        shown = await exchange.voices.read_within(exchange.settings.server.commit_delay_s)
        encoder = ResponseStream(events, time.time)  # noqa: TID251 - as above
        if keeper.is_lost:
            exchange.reply.headers[STORED_HEADER] = "false"
        return await exchange.reply.stream(Speech(exchange.voices, encoder, shown, keeper.keep))
    events.open()

    def grow(shown: Shown) -> None:
        for _, pieces in shown:
            events.grow(pieces)

    while shown := await exchange.voices.read(OpenOutlet(grow)):
        grow(shown)
    (choice,) = exchange.voices.choices
    events.end(choice, int(time.time()))  # noqa: TID251 - as above
    body = await keeper.keep(events.body())
    if keeper.is_lost:
        exchange.reply.headers[STORED_HEADER] = "false"
    return await exchange.send(body, is_estimate=choice.counted()[1])

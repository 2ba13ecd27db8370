"""/v1/responses: one request, one ticket, one response object."""

from __future__ import annotations

import secrets
import time

from aiohttp import web
from msgspec.structs import replace

from service.api.body import json_object
from service.api.errors import unsupported
from service.api.responses import ResponsesRequest, needs, parse_responses
from service.conversation import fetch
from service.encode.response_stream import ResponseEvents, ResponseStream
from service.handlers.answer import Speech
from service.handlers.asking import read_asked, read_pictures
from service.handlers.exchange import Exchange, Wants
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
    fields = json_object(asked.body)
    settings = service.current.settings
    before = await fetch(
        service.store,
        asked.tenant.name,
        needs(fields),
        max_bytes=settings.server.max_body_bytes,
        timeout_s=settings.store.timeout_s,
    )
    question, route = parse_responses(
        fields, find=service.current.routes.find, before=before.items, lookup=before.lookup
    )
    if question.background:
        raise unsupported("background")
    question, route = await read_pictures(service, asked, question, route)
    current = service.current  # from here to the scheduler nobody waits: what it names is still there
    wants = Wants(keeps=True, shows_reasoning=True, reasoning_items=question.shows_encrypted or question.store)
    exchange = Exchange(request, asked, current, question, route, wants=wants)
    question = replace(question, echo=question.echo | {"service_tier": exchange.tier})
    try:
        exchange.ask()
        return await _answer(request, exchange, question, asked.tenant.name)
    finally:
        exchange.close()


async def _answer(
    request: web.Request, exchange: Exchange, question: ResponsesRequest, owner: str
) -> web.StreamResponse:
    """The answer, in one of its two forms."""
    service = request.app[SERVICE]
    id = f"resp_{secrets.token_hex(24)}"  # noqa: A001 - OpenAI's word
    created = int(time.time())  # noqa: TID251 - the wire wants wall-clock seconds, here and below
    events = ResponseEvents(id=id, created=created, request=question)
    keeper = Keeper(service.store, service.observability, Key(owner, id), question, events)
    if question.stream:
        shown = await exchange.voices.read_within(exchange.settings.server.commit_delay_s)
        encoder = ResponseStream(events, time.time)  # noqa: TID251 - as above
        if keeper.is_lost:
            exchange.reply.headers[STORED_HEADER] = "false"
        return await exchange.reply.stream(Speech(exchange.voices, encoder, shown, keeper.keep))
    events.open()
    while shown := await exchange.voices.read():
        for _, pieces in shown:
            events.grow(pieces)
    (choice,) = exchange.voices.choices
    events.end(choice, int(time.time()))  # noqa: TID251 - as above
    body = await keeper.keep(events.body())
    if keeper.is_lost:
        exchange.reply.headers[STORED_HEADER] = "false"
    return await exchange.send(body, is_estimate=choice.counted()[1])

"""/v1/responses: one request, one ticket, one response object."""

from __future__ import annotations

import secrets
import time
from typing import Any

from aiohttp import web
from msgspec.structs import replace

from service.api.body import json_object
from service.api.errors import invalid, unsupported
from service.api.responses import ResponsesRequest, needs, parse_responses
from service.encode.response_stream import ResponseEvents, ResponseStream
from service.handlers.asking import read_asked, read_pictures
from service.handlers.exchange import Exchange
from service.state import SERVICE


async def create(request: web.Request) -> web.StreamResponse:
    """Answer a request of the Responses API, as one object or as a stream.

    Raises:
        ApiError: anything that goes wrong before the first byte of the answer.
    """
    asked = await read_asked(request)
    service = request.app[SERVICE]
    fields = json_object(asked.body)
    _refuse_what_needs_a_store(fields)
    question, route = parse_responses(fields, find=service.current.routes.find)
    question, route = await read_pictures(service, asked, question, route)
    current = service.current  # from here to the scheduler nobody waits: what it names is still there
    exchange = Exchange(
        request,
        asked,
        current,
        question,
        route,
        keeps=True,
        shows_reasoning=True,
        reasoning_items=question.shows_encrypted,
    )
    question = replace(question, echo=question.echo | {"service_tier": exchange.tier})
    try:
        exchange.ask()
        return await _answer(exchange, question)
    finally:
        exchange.close()


def _refuse_what_needs_a_store(fields: dict[str, Any]) -> None:
    """Nothing is kept of an answer: `store` is false, whatever it was asked to be."""
    previous = needs(fields).previous_response_id
    if previous is not None:
        error = invalid(f"Previous response with id '{previous[:100]}' not found.", "previous_response_id")
        error.code = "previous_response_not_found"
        raise error
    if fields.get("background") is True:
        raise unsupported("background")


async def _answer(exchange: Exchange, question: ResponsesRequest) -> web.StreamResponse:
    """The answer, in one of its two forms."""
    id = f"resp_{secrets.token_hex(24)}"  # noqa: A001 - OpenAI's word
    created = int(time.time())  # noqa: TID251 - the wire wants wall-clock seconds, here and below
    events = ResponseEvents(id=id, created=created, request=question)
    if question.stream:
        shown = await exchange.voices.read_within(exchange.settings.server.commit_delay_s)
        return await exchange.reply.stream(ResponseStream(events, time.time), shown)  # noqa: TID251 - as above
    events.open()
    while shown := await exchange.voices.read():
        for _, pieces in shown:
            events.grow(pieces)
    (choice,) = exchange.voices.choices
    events.end(choice, int(time.time()))  # noqa: TID251 - as above
    return await exchange.send(events.body(), is_estimate=choice.counted()[1])

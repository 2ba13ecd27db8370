"""/v1/chat/completions: one request, a ticket for each choice, one answer."""

from __future__ import annotations

import secrets
import time

from aiohttp import hdrs, web

from service.api.chat import ChatRequest, parse_chat
from service.encode.collect import chat_completion
from service.encode.sse import ChatStream
from service.handlers.answer import Speech
from service.handlers.asking import read_asked, read_pictures
from service.handlers.exchange import Exchange, Wants
from service.handlers.voices import OpenOutlet
from service.state import SERVICE

MAX_CHOICES = 5


async def create(request: web.Request) -> web.StreamResponse:
    """Answer a chat completion request, as one object or as a stream.

    Raises:
        ApiError: anything that goes wrong before the first byte of the answer.
    """
    asked = await read_asked(request)
    service = request.app[SERVICE]
    chat, route = parse_chat(asked.body, find=asked.find(service.current), max_choices=MAX_CHOICES)
    chat, route = await read_pictures(service, asked, chat, route)
    current = service.current  # from here to the scheduler nobody waits: what it names is still there
    exchange = Exchange(request, asked, current, chat, route, wants=Wants(keeps=not chat.stream, is_chat=True))
    try:
        exchange.ask(chat.n)
        return await _answer(exchange, chat)
    finally:
        exchange.close()


async def head(request: web.Request) -> web.Response:
    """Whether the key is good."""
    request.app[SERVICE].current.keyring.tenant(request.headers.get(hdrs.AUTHORIZATION))
    return web.Response()


async def _answer(exchange: Exchange, chat: ChatRequest) -> web.StreamResponse:
    """The answer, in one of its two forms."""
    voices, settings = exchange.voices, exchange.settings
    id = f"chatcmpl-{secrets.token_hex(12)}"  # noqa: A001 - OpenAI's word
    created = int(time.time())  # noqa: TID251 - the wire wants wall-clock seconds
    if chat.stream:
        shown = await voices.read_within(settings.server.commit_delay_s)
        encoder = ChatStream(
            id=id,
            created=created,
            fingerprint=voices.fingerprint(),
            request=chat,
            stop_mode=settings.tools.controls.mode,
            service_tier=exchange.tier,
        )
        return await exchange.reply.stream(Speech(voices, encoder, shown))
    kept = OpenOutlet(lambda _: None)  # by its choices
    while await voices.read(kept):
        pass
    body, is_estimate = chat_completion(
        id=id,
        created=created,
        fingerprint=voices.fingerprint(),
        request=chat,
        choices=voices.choices,
        service_tier=exchange.tier,
    )
    return await exchange.send(body, is_estimate=is_estimate)

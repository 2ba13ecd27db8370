"""/v1/chat/completions: one request, a ticket for each choice, one answer."""

from __future__ import annotations

import secrets
import time

from aiohttp import hdrs, web
from msgspec.structs import replace

from service.api.chat import ChatRequest, parse_chat
from service.api.headers import MODE_HEADER, PRIORITY_APPLIED_HEADER
from service.encode.choice import Choice, call_counts
from service.encode.collect import chat_completion
from service.encode.sse import ChatStream
from service.encode.terms import Terms
from service.handlers.answer import Reply, Voices
from service.handlers.asking import read_asked, submit
from service.settings import Settings
from service.state import FACTS, HEADERS, SERVICE
from service.toolcalls.controls import StopMode
from service.toolcalls.mode import output_mode
from service.translate import to_turn

MAX_CHOICES = 5
IGNORED_HEADER = "x-codex-ignored-params"
USAGE_HEADER = "x-codex-usage"
STOP_MODE_HEADER = "x-codex-stop-after-tools-mode"
CALL_COUNT_HEADER = "x-codex-tool-call-count"
CALLS_TRUNCATED_HEADER = "x-codex-tool-call-truncated"


async def create(request: web.Request) -> web.StreamResponse:
    """Answer a chat completion request, as one object or as a stream.

    Raises:
        ApiError: anything that goes wrong before the first byte of the answer.
    """
    service = request.app[SERVICE]
    asked = await read_asked(request)
    tenant = asked.tenant
    current = service.current  # from here to the scheduler nobody waits, so that what it names is still there
    chat, route = parse_chat(asked.body, find=current.routes.find, max_choices=MAX_CHOICES)
    tools = current.settings.tools
    mode = output_mode(asked.mode or tools.mode, request.headers, chat.messages)
    request[HEADERS] = {MODE_HEADER: str(mode), STOP_MODE_HEADER: str(tools.stop_mode)}
    priority = tenant.allowed(asked.wanted or route.priority or tenant.priority)
    plan = current.routes.plan(route, tenant.name)
    request[FACTS].update(model=route.public, profile=plan[0].profile, stream=chat.stream, priority=priority)
    turn = to_turn(chat, model=plan[0].model, effort=route.effort)
    job = asked.job(turn, route, plan[0], size=chat.prompt_chars, priority=priority)
    voices = Voices(service)
    reply = Reply(request, voices, current.settings.server)
    if chat.ignored:
        reply.headers[IGNORED_HEADER] = ", ".join(chat.ignored)
    if asked.wanted is not None and asked.wanted is not priority:
        reply.headers[PRIORITY_APPLIED_HEADER] = priority
    terms = Terms.of(chat, keeps=not chat.stream, mode=mode, controls=tools.controls)
    try:
        for number in range(chat.n):
            each = job if number == 0 else replace(job, id=f"{job.id}.{number}")
            voices.add(submit(service, each, plan[1:], tenant), Choice(terms, number))
        return await _answer(reply, voices, chat, current.settings)
    finally:
        reply.note_end()


async def head(request: web.Request) -> web.Response:
    """Whether the key is good."""
    request.app[SERVICE].current.keyring.tenant(request.headers.get(hdrs.AUTHORIZATION))
    return web.Response()


async def _answer(reply: Reply, voices: Voices, chat: ChatRequest, settings: Settings) -> web.StreamResponse:
    """The answer, in one of its two forms."""
    id = f"chatcmpl-{secrets.token_hex(12)}"  # noqa: A001 - OpenAI's word
    created = int(time.time())  # noqa: TID251 - the wire wants wall-clock seconds
    if chat.stream:
        shown = await voices.read_within(settings.server.commit_delay_s)
        encoder = ChatStream(
            id=id,
            created=created,
            fingerprint=voices.fingerprint(),
            request=chat,
            stop_mode=StopMode(settings.tools.stop_mode),
        )
        return await reply.stream(encoder, shown)
    while await voices.read():
        pass
    body, is_estimate = chat_completion(
        id=id, created=created, fingerprint=voices.fingerprint(), request=chat, choices=voices.choices
    )
    count, is_truncated = call_counts(voices.choices)
    reply.headers[CALL_COUNT_HEADER] = str(count)
    reply.headers[CALLS_TRUNCATED_HEADER] = "true" if is_truncated else "false"
    if is_estimate:
        reply.headers[USAGE_HEADER] = "estimated"
    return await reply.send(body)

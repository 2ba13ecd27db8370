"""The operators' JSON API: the overview, stories, and every action. Keys are bearer keys."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import hdrs, web

from service.admin import overview
from service.admin.actions import ACTIONS, Action, Actor, Desk, act, no_worker, worker_id
from service.api.errors import ApiError, invalid

DESK = web.AppKey("desk", Desk)
PREFIX = "/admin/api"

Handler = Callable[[web.Request], Awaitable[web.Response]]

QUESTIONS: dict[str, str] = {
    f"{PREFIX}/status": "everything at a glance: what the page shows",
    f"{PREFIX}/tickets": "open tickets, the oldest first",
    f"{PREFIX}/tickets/{{target:[^/]+}}": "one ticket's story by its request's id, also of the last that are over",
    f"{PREFIX}/workers/{{target:[^/]+/[^/]+}}": "one worker and its story, also of the last that are gone",
}
"""What can be asked for, and its meaning."""


_ADDRESSES = re.compile(r"[0-9A-Fa-f.:, \[\]]{1,100}")


def routes() -> list[web.RouteDef]:
    """All of the API."""
    status, open_tickets, ticket, worker = QUESTIONS
    return [
        web.get(status, _status),
        web.get(open_tickets, _tickets),
        web.get(ticket, _ticket),
        web.get(worker, _worker),
        *(web.route(action.method, action.path, _doing(action)) for action in ACTIONS.values()),
    ]


def remote(request: web.Request) -> str:
    """From where somebody asks; what a proxy says of others is told if it is an address, and not believed."""
    forwarded = request.headers.get("X-Forwarded-For", "")
    return f"{request.remote}" + (f" for {forwarded!r}" if _ADDRESSES.fullmatch(forwarded) else "")


def _operator(request: web.Request) -> Actor:
    """Who asks.

    Raises:
        ApiError: 401, or 429 when there were too many wrong keys.
    """
    desk = request.app[DESK]
    scheme, _, key = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    found = desk.access.operator(desk.service.current.settings.admin, key.strip())
    if found is None or scheme.lower() != "bearer":
        raise refused(request, "api")
    return Actor(found[0], remote(request))


def refused(request: web.Request, where: str) -> ApiError:
    """A wrong key was shown: logged, as far as there are not too many."""
    desk = request.app[DESK]
    error = desk.access.failed(asyncio.get_running_loop().time())
    if error.status == 401:
        desk.service.observability.operator_refused(remote(request), where)
    return error


def _json(value: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


async def _status(request: web.Request) -> web.Response:
    _operator(request)
    return _json(overview.overview(request.app[DESK]))


async def _tickets(request: web.Request) -> web.Response:
    _operator(request)
    return _json({"tickets": overview.tickets(request.app[DESK])})


async def _ticket(request: web.Request) -> web.Response:
    _operator(request)
    found = overview.ticket(request.app[DESK], request.match_info["target"])
    if found is None:
        raise no_ticket()
    return _json(found)


async def _worker(request: web.Request) -> web.Response:
    _operator(request)
    wanted = worker_id(request.match_info["target"])
    found = overview.worker(request.app[DESK], wanted)
    if found is None:
        raise no_worker(request.app[DESK], wanted)
    return _json(found)


def no_ticket() -> ApiError:
    """404: it never was, or has been forgotten."""
    return ApiError(
        status=404,
        message="no ticket of this request is open or remembered",
        type="invalid_request_error",
        code="ticket_not_found",
    )


def _doing(action: Action) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        actor = _operator(request)
        values = await _values(request)
        told = await act(request.app[DESK], actor, action, request.match_info.get("target", ""), values)
        return _json({"action": action.name, "outcome": "done", "message": told})

    return handle


async def _values(request: web.Request) -> dict[str, Any]:
    """What was said: an object, or nothing."""
    body = await request.read()
    if not body.strip():
        return {}
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise invalid("the body has to be a JSON object", None) from None

"""The admin application and where it listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

from aiohttp import web

from pool.worker import LaunchSpec
from service.admin import api, pages
from service.admin.actions import Desk
from service.admin.api import DESK
from service.api.errors import ApiError, internal
from service.http import Runner
from service.middleware import SERVER_NAME, from_http, new_id
from service.reload import Reloader
from service.state import Service

MAX_BODY_BYTES = 64 * 1024
HANDLING_S = 30.0
"""How long a request may take; none waits for anything but a disk."""
LAST_WORDS_S = 1.0
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": SERVER_NAME,
}
"""On every answer."""


@asynccontextmanager
async def admin_site(service: Service, reloader: Reloader[LaunchSpec]) -> AsyncIterator[str | None]:
    """Listen, where that is configured, for as long as the context is open; gives the page's address.

    Raises:
        EnvironmentUnfit: the address is taken.
    """
    settings = service.current.settings.admin
    if settings.port is None:
        yield None
        return
    runner = Runner(application(Desk(service, reloader)), access_log=None, shutdown_timeout=LAST_WORDS_S)
    try:
        url = await runner.listen(settings.host, settings.port, "admin: ") + "/admin/"
        service.observability.log.info("admin.started", url=url)
        yield url
    finally:
        await runner.cleanup()


def application(desk: Desk) -> web.Application:
    """The API and the page."""
    app = web.Application(middlewares=[_answer], client_max_size=MAX_BODY_BYTES)
    app[DESK] = desk
    app.on_response_prepare.append(_sign)
    app.add_routes([*api.routes(), *pages.routes()])
    return app


async def _sign(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        if name != "Cache-Control" or name not in response.headers:
            response.headers[name] = value
    response.headers["x-request-id"] = new_id()


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as JSON under the API, as pages elsewhere."""
    try:
        async with asyncio.timeout(HANDLING_S):
            return await handler(request)
    except ApiError as error:
        return _error(request, error)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        return _error(request, from_http(error))
    except TimeoutError:
        slow = ApiError(status=408, message="it took too long", type="timeout_error", code="request_timeout")
        return _error(request, slow)
    except ConnectionError:
        return web.Response(status=499)
    except Exception as error:  # noqa: BLE001 - the boundary: a bug costs this request and nothing else
        request.app[DESK].service.observability.handler_failed("/admin", error)
        return _error(request, internal())


def _error(request: web.Request, error: ApiError) -> web.StreamResponse:
    if not request.path.startswith(f"{api.PREFIX}/"):
        return pages.error_page(request, error)
    response = web.Response(body=error.body(), status=error.status, content_type="application/json")
    response.headers.update(error.all_headers())
    return response

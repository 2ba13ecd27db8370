"""What happens to every request: an id, one log line, and errors in one shape."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from service.admission import told
from service.api.errors import ApiError, internal, store_unavailable, too_large, under_maintenance
from service.handlers.exchange import INQUIRY
from service.state import FACTS, HEADERS, REQUEST_ID, SERVICE, TENANT
from service.store.protocol import StoreUnavailable

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

UNKNOWN_ROUTE = "unknown"
ASKED_FOR_VERBS = "OPTIONS"
"""In place of a route: a browser asks what a page may do there."""
SERVER_NAME = "codex-completions"


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its id, answer its errors, and say in one line how it went."""
    service = request.app[SERVICE]
    observability = service.observability
    route = route_label(request)
    request[REQUEST_ID] = request_id = new_id()
    facts: dict[str, object] = {"request_id": request_id}
    request[FACTS] = facts
    began_at = time.perf_counter()
    status = 499
    try:
        response = await _answer(request, handler, route)
        status = response.status
    finally:
        seconds = time.perf_counter() - began_at
        # Not before the answer: what is left to do in this step of the task is to write it.
        account = observability.request_answered
        loop = asyncio.get_running_loop()
        loop.call_soon(account, route, status, seconds, None if route in _QUIET else facts)
        if INQUIRY in request:
            loop.call_soon(request[INQUIRY].keep_usage, route, status, seconds)
    return response


async def sign(request: web.Request, response: web.StreamResponse) -> None:
    """Put on the answer what every answer has: the request's id, our name instead of the libraries' versions, what its
    browser has to know, what is left of its key's contract, and a farewell when we drain.
    """
    service = request.app[SERVICE]
    response.headers["x-request-id"] = request.get(REQUEST_ID) or new_id()  # refused before the middleware
    response.headers["Server"] = SERVER_NAME
    response.headers.update(request.get(HEADERS, ()))
    if service.current.cors is not None:
        service.current.cors.mark(request, response.headers)
    tenant = request.get(TENANT)
    if tenant is not None:  # told now and not when it was counted: others have come since
        response.headers.update(told(tenant, asyncio.get_running_loop().time()))
    if service.scheduler.is_draining:  # the client's next request is for somebody else
        response.headers["Connection"] = "close"
        response.force_close()


async def expect(request: web.Request) -> web.StreamResponse | None:
    """Meet `Expect: 100-continue`; refuse what else a client may expect."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None
    error = ApiError(
        status=417, message="only 100-continue can be expected", type="invalid_request_error", code="expectation_failed"
    )
    return web.Response(body=error.body(), status=417, content_type="application/json")


def new_id() -> str:
    """A request id that nobody else has."""
    return f"req_{secrets.token_hex(12)}"


async def _answer(request: web.Request, handler: Handler, route: str) -> web.StreamResponse:
    notice = request.app[SERVICE].maintenance.notice
    if notice is not None and notice.covers(route):
        return _error_response(request, under_maintenance(notice.message, notice.retry_after_s))
    try:
        return await handler(request)
    except ApiError as error:
        return _error_response(request, error)
    except StoreUnavailable:
        return _error_response(request, store_unavailable())
    except web.HTTPException as error:
        cors = request.app[SERVICE].current.cors
        if route == ASKED_FOR_VERBS and cors is not None and cors.is_preflight(request):
            return web.Response(status=204)
        return _error_response(request, from_http(error))
    except asyncio.CancelledError:
        raise  # the client is gone: there is nobody to answer
    except ConnectionError:
        return web.Response(status=499)  # likewise; but raised, the framework would log it as a failure of ours
    except Exception as error:  # noqa: BLE001 - the boundary: a bug costs this request a 500 and nothing else
        request.app[SERVICE].observability.handler_failed(route, error)
        return _error_response(request, internal())


def _error_response(request: web.Request, error: ApiError) -> web.StreamResponse:
    request[FACTS]["code"] = error.code
    response = web.Response(body=error.body(), status=error.status, content_type="application/json")
    response.headers.update(error.all_headers())
    return response


def from_http(error: web.HTTPException) -> ApiError:
    """The framework's own refusals, in our shape."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        return ApiError(
            status=405,
            message=f"method {error.method} is not allowed here",
            type="invalid_request_error",
            code="method_not_allowed",
            headers={"Allow": ", ".join(sorted(error.allowed_methods))},
        )
    if error.status == 404:
        return ApiError(status=404, message="unknown route", type="invalid_request_error", code="unknown_url")
    if error.status == 413:
        return too_large()
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return ApiError(status=error.status, message=error.reason, type=kind, code="http_error")


def route_label(request: web.Request) -> str:
    """The route's pattern, or one word for all that is not a route: a label from a closed set."""
    found = request.match_info
    if found.route.resource is not None:
        return found.route.resource.canonical
    is_known = isinstance(found.http_exception, web.HTTPMethodNotAllowed)
    return ASKED_FOR_VERBS if is_known and request.method == hdrs.METH_OPTIONS else UNKNOWN_ROUTE


_QUIET = frozenset({"/healthz", "/readyz", "/livez", "/metrics", ASKED_FOR_VERBS})
"""Asked for every few seconds by machines: in the metrics, not in the log."""

"""The HTTP server, but for how it refuses what is not HTTP.

That never becomes a request with a route, so no middleware sees it: the framework answers by itself, in plain text that
quotes the client's bytes and names the libraries, and logs an error for what is only somebody's mistake. The framework
has no hook for this; tests/service/test_errors_over_http.py notices when an upgrade changes what is relied on here.
"""

from __future__ import annotations

import asyncio
import os

from aiohttp import web

from pool.errors import EnvironmentUnfit
from service.api.errors import ApiError, internal
from service.middleware import SERVER_NAME, new_id

HEAD_TIMEOUT_S = 30.0
"""How long a new connection may take to send its first request's head."""


class _Connection(web.RequestHandler):
    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._loop.call_later(HEAD_TIMEOUT_S, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self._request_count == 0:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - the framework's signature; it quotes the client
    ) -> web.StreamResponse:
        """A JSON error, after which the connection is closed."""
        if status >= 500:
            self.log_exception("unhandled", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        error = internal() if status >= 500 else _malformed(status)
        response = web.Response(body=error.body(), status=error.status, content_type="application/json")
        response.headers.update({"x-request-id": new_id(), "Server": SERVER_NAME})
        response.force_close()
        return response


def _malformed(status: int) -> ApiError:
    return ApiError(
        status=status, message="malformed HTTP request", type="invalid_request_error", code="malformed_http"
    )


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        connection = super().__call__()
        connection.__class__ = _Connection
        return connection


class Runner(web.AppRunner):
    """Runs the application on such a server."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server
        return server

    async def listen(self, host: str, port: int, what: str = "") -> str:
        """Answer there from now on; gives the address, with the port that it is when any will do.

        Raises:
            EnvironmentUnfit: the address is taken; `what` is said before that.
        """
        await self.setup()
        try:
            await web.TCPSite(self, host, port).start()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror
            raise EnvironmentUnfit(f"{what}cannot listen on {host}:{port}: {reason}") from error
        where, number = self.addresses[0][:2]
        return f"http://[{where}]:{number}" if ":" in where else f"http://{where}:{number}"

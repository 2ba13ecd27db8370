"""What goes out: an answer is written as it is said, in whatever form the client asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from aiohttp import hdrs, web

from service.api.errors import ApiError, internal
from service.encode.choice import Choice, Piece
from service.encode.sse import keepalive
from service.handlers.voices import Shown, Voices
from service.settings import ServerSettings
from service.state import SERVICE

BEHIND_BYTES = 64 * 1024
"""Of a stream, not yet taken by the client: more, and its turn's events wait until it has read on."""
STREAM_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


class Encoder(Protocol):
    """The bytes of a stream, in this order: `begin`, any number of `pieces`, `finish`; or `error` at any time, and
    nothing after it.
    """

    def begin(self) -> bytes:
        """What comes before anything is said."""

    def pieces(self, pieces: Sequence[Piece], index: int) -> bytes:
        """The next that is shown of a choice."""

    def finish(self, choices: Sequence[Choice]) -> bytes:
        """The end of the stream; all choices have ended."""

    def error(self, error: ApiError) -> bytes:
        """The end of a stream that failed when its status was already sent."""


class Source(Protocol):
    """A stream that goes out as it comes."""

    async def read(self, timeout_s: float, client: Client) -> bytes | None:
        """What is next, b"" at the end, or None when there was nothing within `timeout_s`. What comes meanwhile may be
        written to the client, but for the first words.

        Raises:
            ApiError: nothing more will come, though it should.
        """

    async def error(self, error: ApiError) -> bytes:
        """The last words of a stream that failed when its status was already sent."""


class Client:
    """Writes the middle of a stream past the framework, in which one write costs more than all else for its delta.

    It waits for nothing, so use it only while it `is_open`: the client reads what it gets.
    """

    __slots__ = ("_transport",)

    def __init__(self, response: web.StreamResponse, transport: asyncio.Transport | None) -> None:
        is_chunked = response.headers.get(hdrs.TRANSFER_ENCODING) == "chunked"
        self._transport = transport if is_chunked else None

    @property
    def is_open(self) -> bool:
        """It has read nearly all that it got."""
        transport = self._transport
        return transport is not None and not transport.is_closing() and transport.get_write_buffer_size() < BEHIND_BYTES

    def write(self, data: bytes) -> None:
        """The next words. Source: RFC 9112, 7.1."""
        if self._transport is not None:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))


Keep = Callable[[bytes], Awaitable[bytes]]
"""Given the last words of a stream, does what has to be done before they are said, and returns what is to be said."""


async def _as_they_are(last: bytes) -> bytes:
    return last


class Speech:
    """What `voices` say, in the words of `encoder`. `shown` is what there is to begin with: None for nothing yet, []
    for nothing at all. Read that within `commit_delay_s`, so that an answer that fails soon fails with a real status.
    """

    def __init__(self, voices: Voices, encoder: Encoder, shown: Shown | None, keep: Keep = _as_they_are) -> None:
        self._voices = voices
        self._encoder = encoder
        self._shown = shown
        self._keep = keep
        self._is_begun = self._is_over = False
        self._is_silent = shown is None
        self._client: Client | None = None

    async def read(self, timeout_s: float, client: Client) -> bytes | None:
        """See `Source`."""
        if self._is_over:
            return b""
        if self._is_begun and self._is_silent:
            self._is_silent = False
            return None  # once, and at once: whoever sees a status wants to see that something comes
        if self._is_begun:
            self._client = client
            self._shown = await self._voices.read_within(timeout_s, self)
            return None if self._shown is None else await self._told(self._shown)
        self._is_begun = True
        return self._encoder.begin() + (b"" if self._shown is None else await self._told(self._shown))

    @property
    def is_open(self) -> bool:
        """See `Outlet`."""
        return self._client is not None and self._client.is_open

    def show(self, shown: Shown) -> None:
        """See `Outlet`."""
        if self._client is not None:
            self._client.write(self._said(shown))

    async def error(self, error: ApiError) -> bytes:
        """See `Source`."""
        return await self._keep(self._encoder.error(error))

    async def _told(self, shown: Shown) -> bytes:
        if shown:
            return self._said(shown)
        self._is_over = True
        return await self._keep(self._encoder.finish(self._voices.choices))

    def _said(self, shown: Shown) -> bytes:
        return b"".join([self._encoder.pieces(pieces, index) for index, pieces in shown])


class Reply:
    """One HTTP answer: `send` it as a whole, or `stream` it. `headers` are its own: change them before."""

    def __init__(self, request: web.Request, settings: ServerSettings) -> None:
        self.headers: dict[str, str] = {}
        self._request = request
        self._settings = settings

    async def send(self, body: bytes) -> web.Response:
        """A JSON body."""
        response = web.Response(body=body, content_type="application/json", headers=self.headers)
        await response.prepare(self._request)
        await self._in_time(response.write_eof(), len(body))
        return response

    async def stream(self, source: Source) -> web.StreamResponse:
        """Server-sent events. Who asks only for the headers (HEAD) waits for nothing."""
        response = web.StreamResponse(headers=STREAM_HEADERS | self.headers)
        await response.prepare(self._request)
        if self._request.method == hdrs.METH_HEAD:
            return response
        try:
            await self._relay(response, source)
        except ConnectionError:
            raise
        except ApiError as error:
            await self._write(response, await source.error(error))
        except Exception as error:  # noqa: BLE001 - the middleware's boundary again: its 500 would land in this body
            self._request.app[SERVICE].observability.handler_failed(self._request.path, error)
            await self._write(response, await source.error(internal()))
        await self._in_time(response.write_eof(), 0)
        return response

    # --- inside ----------------------------------------------------------------------------------------------

    async def _relay(self, response: web.StreamResponse, source: Source) -> None:
        """Write the stream, from its first to its last words."""
        client = Client(response, self._request.transport)
        while (chunks := await source.read(self._settings.keepalive_s, client)) != b"":
            if chunks is not None:
                await self._write(response, chunks)
            elif self._wants_keepalive():
                await self._write(response, keepalive(int(time.time() * 1000)))  # noqa: TID251 - the wall clock's

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
        await self._in_time(response.write(data), len(data))

    async def _in_time(self, writing: Coroutine[Any, Any, None], size: int) -> None:
        """Write, within a bound: a client that stops reading loses its connection and nobody else anything."""
        transport = self._request.transport
        if transport is not None and transport.get_write_buffer_size() + size < BEHIND_BYTES:
            await writing  # which has nothing to wait for
            return
        try:
            async with asyncio.timeout(self._settings.write_timeout_s):
                await writing
        except TimeoutError:
            if transport is not None:
                transport.abort()
            self._request.app[SERVICE].observability.client_cut()
            raise ConnectionResetError("the client does not read") from None

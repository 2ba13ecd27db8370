"""HTTP/1.1 as cheaply as a load generator needs it: one request at a time on a kept connection to loopback."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, cast

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TOLD_BYTES: Final = 1000


class Wire(asyncio.Protocol):
    """A connection; whoever inherits from it hears of the answer's parts through the `on_` methods."""

    def __init__(self) -> None:
        self.is_connected = False
        self.is_busy = False
        self._transport: asyncio.Transport | None = None
        self._unread = b""
        self._text = b""
        self._status = 0
        self._length: int | None = None

    # --- what the owner does ---------------------------------------------------------------------------------------

    def send(self, request: bytes) -> None:
        """Send one request; the last one's answer has ended."""
        assert self._transport is not None  # noqa: S101 - it is connected
        self._unread = self._text = b""
        self._status = 0
        self.is_busy = True
        self._transport.write(request)

    def abort(self) -> None:
        """Hang up, and hear nothing more."""
        self.is_busy = self.is_connected = False
        if self._transport is not None:
            self._transport.abort()

    # --- what the owner hears --------------------------------------------------------------------------------------

    def on_connected(self) -> None:
        """The first request may be sent."""

    def on_events(self, events: bytes) -> None:
        """Whole events of a stream, as they came."""

    def on_end(self, status: int, body: bytes) -> None:
        """The answer is complete. The body of a stream is only what came after its last event; status 0: it was cut."""

    # --- the protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.is_connected = True
        self.on_connected()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_connected = False
        if self.is_busy:
            self._ended(0, f"{exc}: {self._unread[-_TOLD_BYTES:]!r}".encode())

    def data_received(self, data: bytes) -> None:
        if not self.is_busy:
            return
        data = self._unread + data if self._unread else data
        if not self._status:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._unread = data
                return
            self._status = int(data[9:12])
            found = _LENGTH.search(data, 0, end)
            self._length = int(found[1]) if found else None
            data = data[end + 4 :]
        if self._length is not None:
            self._unread = data
            if len(data) >= self._length:
                self._ended(self._status, data)
            return
        text, is_last = self._chunks(data)
        cut = text.rfind(b"\n\n") + 2
        if cut >= 2:
            self.on_events(text[:cut])
            text = text[cut:]
        self._text = text
        if is_last:
            self._ended(self._status, text)

    def _chunks(self, data: bytes) -> tuple[bytes, bool]:
        """What the whole chunks in `data` hold, after what has not been told; whether the last was one of them."""
        parts, at, size = [self._text], 0, -1
        while size:
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            size = int(data[at:end], 16)
            if len(data) < end + size + 4:
                break
            parts.append(data[end + 2 : end + 2 + size])
            at = end + size + 4
        self._unread = data[at:]
        return b"".join(parts), not size and not self._unread

    def _ended(self, status: int, body: bytes) -> None:
        self.is_busy = False
        self.on_end(status, body)


def chat(port: int, key: str, body: bytes, headers: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """The bytes of a request for a chat completion."""
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    )
    return head.encode() + body

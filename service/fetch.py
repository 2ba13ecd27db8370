"""Images from elsewhere, on a client's word: only from the public internet, whatever a name stands for.

An address is looked at when the socket for it is made, so that the one that was checked is the one that is used: a name
that stands for another a moment later gains nothing, nor does a redirect, or an address in another notation.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import ssl
from collections.abc import Callable, Collection

from aiohttp import ClientResponse, ClientSession, DummyCookieJar, TCPConnector, hdrs
from aiohttp.connector import AddrInfoType
from yarl import URL

MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {hdrs.ACCEPT: "image/*", hdrs.ACCEPT_ENCODING: "identity", hdrs.USER_AGENT: "codex-completions"}

_CLOSED = tuple(
    ipaddress.ip_network(each)
    for each in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' own, and one cloud's metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # public, and yet how one cloud speaks to its machines
        "169.254.0.0/16",  # link-local, and most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "2001::/23",  # protocols' own, Teredo among them
        "2001:db8::/32",
        "2002::/16",  # IPv4 in disguise
        "3fff::/20",
    )
)
"""Source: IANA's registries of special-purpose addresses, and what the clouds say of their metadata."""
_OPEN_V6 = ipaddress.ip_network("2000::/3")
"""All that IPv6 has given out so far: the rest is local, multicast, or IPv4 in disguise."""


class NotFetched(Exception):  # noqa: N818 - an outcome
    """There is no image, and this is why. Not for clients: it may say what there is in our network."""


class TooLarge(NotFetched):
    """There is more of it than was to be read."""


def is_public(address: str) -> bool:
    """Whether anybody may ask it for something, as far as its address tells."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if parsed.version == 6 and parsed not in _OPEN_V6:
        return False
    return not any(parsed in network for network in _CLOSED)


def target(url: str, trusted: Collection[str]) -> URL:
    """The address that a client names: https and nothing special about it, or any of a host that is `trusted`.

    Raises:
        ValueError: it is not that; the words are for the client.
    """
    try:
        parsed = URL(url)
        port = parsed.port
    except ValueError:
        raise ValueError("it is no address") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError("it is neither an https address nor a data URL")
    if parsed.user is not None or parsed.password is not None:
        raise ValueError("a name and a password in an address are not used")
    if not is_trusted(parsed, trusted) and (parsed.scheme, port) != ("https", 443):
        raise ValueError("only https is used, on its usual port")
    return parsed


def is_trusted(url: URL, trusted: Collection[str]) -> bool:
    """Whether `trusted` names its host, or its host and port."""
    return url.host in trusted or f"{url.host}:{url.port}" in trusted


async def fetch(
    url: URL,
    *,
    max_bytes: int,
    trusted: Collection[str] = (),
    on_bytes: Callable[[int], None] = lambda _: None,
    trust: ssl.SSLContext | bool = True,
) -> bytes:
    """What is at an address that `target` gave, after three redirects at most. `on_bytes` hears of each piece.

    Waits as long as it takes: the caller brings the deadline.

    Raises:
        NotFetched: it cannot be had.
        OSError, aiohttp.ClientError: likewise.
    """
    for _ in range(MAX_REDIRECTS + 1):
        connector = TCPConnector(
            ssl=trust,
            force_close=True,
            use_dns_cache=False,
            socket_factory=None if is_trusted(url, trusted) else public_socket,
        )
        async with (
            ClientSession(
                connector=connector, cookie_jar=DummyCookieJar(), auto_decompress=False, headers=_HEADERS
            ) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status not in _REDIRECTS:
                return await _body(response, max_bytes, on_bytes)
            location = response.headers.get(hdrs.LOCATION, "")
        try:
            url = target(str(url.join(URL(location))), trusted)
        except ValueError as error:
            raise NotFetched(f"redirected: {error}") from None
    raise NotFetched("redirected too often")


def public_socket(info: AddrInfoType) -> socket.socket:
    """A socket for a public address.

    Raises:
        OSError: it is none.
    """
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise OSError(errno.EACCES, "not a public address")
    return socket.socket(family, kind, protocol)


async def _body(response: ClientResponse, max_bytes: int, on_bytes: Callable[[int], None]) -> bytes:
    if response.status != 200:
        raise NotFetched(f"status {response.status}")
    if response.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise NotFetched("it is packed")
    if (response.content_length or 0) > max_bytes:
        raise TooLarge("it says so")
    data = bytearray()
    async for piece in response.content.iter_any():
        on_bytes(len(piece))
        data += piece
        if len(data) > max_bytes:
            raise TooLarge("it is")
    return bytes(data)

"""Which web pages may use the API, and read its answers: CORS, for everything under `/v1/`.

Health and metrics are for machines: a page that is open in a browser on this host reads none of them.

Source: the Fetch standard, "CORS protocol".
"""

from __future__ import annotations

from collections.abc import Collection, MutableMapping
from typing import Self
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from service.settings import ServerSettings

ANY = "*"
API_PREFIX = "/v1/"
MAX_AGE_S = 600
METHODS = "GET, POST, DELETE, HEAD, OPTIONS"
DEFAULT_HEADERS = (
    "Authorization, Content-Type, Accept, OpenAI-Organization, OpenAI-Beta, OpenAI-Version, OpenAI-Project,"
    " X-Requested-With, X-Stainless-OS, X-Stainless-Lang, X-Stainless-Arch, X-Stainless-Runtime,"
    " X-Stainless-Runtime-Version, X-Stainless-Package-Version, X-Stainless-Timeout, X-Stainless-Retry-Count,"
    " X-Stainless-Helper-Method, dangerously-allow-browser, X-No-Keepalive, X-Priority, X-Request-Deadline-Ms,"
    " X-Proxy-Output-Mode, X-Copilot-Trace-Id"
)
"""What a page may send, when the browser does not ask for anything in particular."""
EXPOSED_HEADERS = (
    "Content-Type, x-request-id, Retry-After, retry-after-ms, x-should-retry, x-ratelimit-limit-requests,"
    " x-ratelimit-remaining-requests, x-ratelimit-reset-requests, x-ratelimit-limit-tokens,"
    " x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, x-priority-applied, x-codex-ignored-params,"
    " x-codex-usage, x-codex-tool-call-count, x-codex-tool-call-truncated, x-codex-stop-after-tools-mode,"
    " x-proxy-output-mode, x-codex-stored"
)
"""What a page may read."""

_ASKED = "Access-Control-Request-Headers, Access-Control-Request-Method"
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


class Cors:
    """The origins that are let in, and what their browsers are told."""

    def __init__(self, origins: Collection[str]) -> None:
        self._lets_all = ANY in origins
        self._named = frozenset(_canonical(origin) for origin in origins if origin != ANY)

    @classmethod
    def of(cls, settings: ServerSettings) -> Self | None:
        """What is configured; None when it is switched off."""
        return cls(settings.cors_origins) if settings.cors and settings.cors_origins else None

    def lets_in(self, origin: str) -> bool:
        """This origin was named."""
        return _canonical(origin) in self._named

    def is_preflight(self, request: web.BaseRequest) -> bool:
        """A browser asks on behalf of a page, which has not sent its key yet."""
        return request.method == hdrs.METH_OPTIONS and request.path.startswith(API_PREFIX)

    def mark(self, request: web.BaseRequest, answer: MutableMapping[str, str]) -> None:
        """Put into the answer's headers what the browser has to know.

        Credentials (cookies, a proxy's login) go with the origins that were named, never with the rest of the world.
        """
        if not request.path.startswith(API_PREFIX):
            return
        is_preflight = self.is_preflight(request)
        answer[hdrs.VARY] = f"Origin, {_ASKED}" if is_preflight else "Origin"
        origin = request.headers.get(hdrs.ORIGIN)
        is_named = origin is not None and self.lets_in(origin)
        if not is_named and not self._lets_all:
            return
        answer[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin or ANY
        answer[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED_HEADERS
        if is_named:
            answer[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
        if is_preflight:
            wanted = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS)
            answer[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = METHODS
            answer[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = wanted or DEFAULT_HEADERS
            answer[hdrs.ACCESS_CONTROL_MAX_AGE] = str(MAX_AGE_S)


def _canonical(origin: str) -> str:
    """One spelling for what is the same origin; the ports of this host's own pages are all the same."""
    lower = origin.lower().rstrip("/")
    try:
        parts = urlsplit(lower)
    except ValueError:  # not an origin: equal to none that is configured
        return lower
    return f"{parts.scheme}://{parts.hostname}" if parts.hostname in _LOCAL else lower

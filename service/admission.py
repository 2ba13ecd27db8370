"""Who may ask, and how much: bearer keys, kept as hashes and compared in constant time, each with its contract."""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from scheduler.model import Priority
from service.allowance import Allowance, Count
from service.api.errors import ApiError
from service.settings import KeySettings, Settings, sha256

_OF_REQUESTS, _OF_TOKENS = (
    tuple(f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset")) for unit in ("requests", "tokens")
)
_RANK = {priority: rank for rank, priority in enumerate(Priority)}


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who is charged, and what was agreed with it; the defaults are those of a key from the environment.

    `expires_wall` is when its key is one no more. `models` are the names of the configuration's models that it may
    use, None for all.
    """

    name: str
    weight: float = 1.0
    priority: Priority = Priority.STANDARD
    max_priority: Priority = Priority.STANDARD
    seats: int | None = None
    queue_max: int | None = None
    max_deadline_s: float | None = None
    requests: Allowance | None = None
    tokens: Allowance | None = None
    expires_wall: float = math.inf
    models: frozenset[str] | None = None
    sees_all_usage: bool = False

    def allowed(self, wanted: Priority) -> Priority:
        """The class it gets when it wants this one."""
        return max(wanted, self.max_priority, key=_RANK.__getitem__)


@dataclass(frozen=True, slots=True)
class Counts:
    """What the contracts of one key have counted."""

    requests: Count = field(default_factory=Count)
    tokens: Count = field(default_factory=Count)


class Keyring:
    """The known keys, by who is charged. What the contracts of `before` have counted goes on, whatever they are now."""

    def __init__(self, settings: Settings, before: Keyring | None = None) -> None:
        kept = before.counts if before is not None else {}
        self.counts: dict[str, Counts] = {key.name: kept.get(key.name) or Counts() for key in settings.keys}
        tenants = {key.name: _tenant(key, self.counts[key.name]) for key in settings.keys}
        self._known = tuple(
            (tenants.get(name) or Tenant(name), digest) for name, digest in settings.key_hashes().items()
        )

    def named(self, name: str) -> Tenant | None:
        """The tenant of this name, if there still is one."""
        return next((tenant for tenant, _ in self._known if tenant.name == name), None)

    def tenant(self, authorization: str | None) -> Tenant:
        """Whose key an Authorization header carries. Every stored hash is compared, whichever matches.

        Raises:
            ApiError: 401, for no key, another scheme, an unknown key, or one that has expired.
        """
        scheme, _, key = (authorization or "").partition(" ")
        digest = sha256(key.strip())
        found = None
        for tenant, known in self._known:
            if hmac.compare_digest(known, digest):
                found = tenant
        if found is None or scheme.lower() != "bearer":
            raise ApiError(status=401, message="unauthorized", type="authentication_error", code="invalid_api_key")
        if found.expires_wall <= time.time():  # noqa: TID251 - a date was agreed
            raise ApiError(
                status=401, message="this API key has expired", type="authentication_error", code="expired_api_key"
            )
        return found


def count(tenant: Tenant, now: float) -> None:
    """Count one request against the tenant's contract.

    Raises:
        ApiError: 429 when the contract is used up.
    """
    if tenant.requests is not None and (wait_s := tenant.requests.take(1, now)):
        raise _refused("rate limit exceeded", wait_s)


class Bill:
    """Tokens that were counted before anybody knew how many there would be."""

    __slots__ = ("_allowance", "_tokens")

    def __init__(self, allowance: Allowance | None, tokens: int) -> None:
        self._allowance = allowance
        self._tokens = tokens

    def settle(self, tokens: int, now: float) -> None:
        """It is so many, as far as is known now. May be said again, when more is known."""
        if self._allowance is not None and tokens != self._tokens:
            self._allowance.correct(tokens - self._tokens, now)
            self._tokens = tokens


def charge(tenant: Tenant, tokens: int, now: float) -> Bill:
    """Count about so many tokens against the tenant's contract.

    Raises:
        ApiError: 429 when there is no room for them; then the request counts for nothing, too.
    """
    if tenant.tokens is not None and (wait_s := tenant.tokens.take(tokens, now)):
        if tenant.requests is not None:
            tenant.requests.correct(-1, now)
        raise _refused(f"rate limit exceeded: this request takes about {tokens} tokens", wait_s)
    return Bill(tenant.tokens, tokens)


def told(tenant: Tenant, now: float) -> Mapping[str, str]:
    """What the next request will find of the contracts, as headers: how much may come at once, of how much, and when
    it is all of it.

    Source: OpenAI, "Rate limits in headers".
    """
    headers: dict[str, str] = {}
    for names, allowance in ((_OF_REQUESTS, tenant.requests), (_OF_TOKENS, tenant.tokens)):
        if allowance is not None:
            limit, remaining, reset = names
            headers[limit] = str(allowance.limit)
            headers[remaining] = str(allowance.remaining(now))
            headers[reset] = duration(math.ceil(allowance.reset_s(now) * 1000))
    return headers


def duration(ms: int) -> str:
    """So many milliseconds in OpenAI's words: `0s`, `120ms`, `8.64s`, `1m0s`."""
    if 0 < ms < 1000:
        return f"{ms}ms"
    minutes, rest = divmod(ms, 60_000)
    return f"{minutes}m{rest / 1000:g}s" if minutes else f"{rest / 1000:g}s"


def _refused(message: str, wait_s: float) -> ApiError:
    return ApiError(
        status=429,
        message=message,
        type="rate_limit_error",
        code="rate_limited",
        retry_after_s=wait_s,
        retryable=True,
    )


def _tenant(key: KeySettings, counts: Counts) -> Tenant:
    priority = Priority(key.priority)
    requests, tokens = key.requests_per_minute, key.tokens_per_minute
    return Tenant(
        name=key.name,
        weight=key.weight,
        priority=priority,
        max_priority=Priority(key.max_priority) if key.max_priority is not None else priority,
        seats=key.seats,
        queue_max=key.queue_max,
        max_deadline_s=key.max_deadline_s,
        requests=None if requests is None else Allowance(requests, counts.requests),
        tokens=None if tokens is None else Allowance(tokens, counts.tokens),
        expires_wall=math.inf if key.expires is None else key.expires.timestamp(),
        models=None if key.models is None else frozenset(key.models),
        sees_all_usage=key.usage == "all",
    )

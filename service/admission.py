"""Who may ask, and how much: bearer keys, kept as hashes and compared in constant time, each with its contract."""

from __future__ import annotations

import hmac
from bisect import bisect_left
from dataclasses import dataclass

from aiolimiter import AsyncLimiter

from scheduler.model import Priority
from service.api.errors import ApiError
from service.settings import KeySettings, Settings, sha256

MINUTE_S = 60.0

_RANK = {priority: rank for rank, priority in enumerate(Priority)}


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who is charged, and what was agreed with it; the defaults are those of a key from the environment."""

    name: str
    weight: float = 1.0
    priority: Priority = Priority.STANDARD
    max_priority: Priority = Priority.STANDARD
    seats: int | None = None
    queue_max: int | None = None
    max_deadline_s: float | None = None
    limiter: AsyncLimiter | None = None

    def allowed(self, wanted: Priority) -> Priority:
        """The class it gets when it wants this one."""
        return max(wanted, self.max_priority, key=_RANK.__getitem__)


class Keyring:
    """The known keys, by who is charged. What a contract of `before` has counted is kept where it has not changed."""

    def __init__(self, settings: Settings, before: Keyring | None = None) -> None:
        kept = before.limiters if before is not None else {}
        tenants = {key.name: _tenant(key, kept.get(key.name)) for key in settings.keys}
        self._known = tuple(
            (tenants.get(name) or Tenant(name), digest) for name, digest in settings.key_hashes().items()
        )

    @property
    def limiters(self) -> dict[str, AsyncLimiter]:
        """What counts each tenant's requests, where they are counted."""
        return {tenant.name: tenant.limiter for tenant, _ in self._known if tenant.limiter is not None}

    def named(self, name: str) -> Tenant | None:
        """The tenant of this name, if there still is one."""
        return next((tenant for tenant, _ in self._known if tenant.name == name), None)

    def tenant(self, authorization: str | None) -> Tenant:
        """Whose key an Authorization header carries. Every stored hash is compared, whichever matches.

        Raises:
            ApiError: 401, for no key, another scheme, or an unknown key.
        """
        scheme, _, key = (authorization or "").partition(" ")
        digest = sha256(key.strip())
        found = None
        for tenant, known in self._known:
            if hmac.compare_digest(known, digest):
                found = tenant
        if found is None or scheme.lower() != "bearer":
            raise ApiError(status=401, message="unauthorized", type="authentication_error", code="invalid_api_key")
        return found


async def count(tenant: Tenant) -> None:
    """Count one request against the tenant's contract. Never waits.

    Raises:
        ApiError: 429 when the contract is used up.
    """
    limiter = tenant.limiter
    if limiter is None:
        return
    if not limiter.has_capacity():
        raise ApiError(
            status=429,
            message="rate limit exceeded",
            type="rate_limit_error",
            code="rate_limited",
            retry_after_s=_wait_ms(limiter, 1) / 1000,
            retryable=True,
        )
    await limiter.acquire()


def allowance(limiter: AsyncLimiter) -> dict[str, str]:
    """What the next request will find, as headers: how many may come at once, of how many, and when it is all of them.

    The limiter does not tell its level, only whether so much more has room in it, and that is searched.

    Source: OpenAI, "Rate limits in headers".
    """
    limit = int(limiter.max_rate)
    remaining = bisect_left(range(1, limit + 1), x=True, key=lambda amount: not limiter.has_capacity(amount))
    return {
        "x-ratelimit-limit-requests": str(limit),
        "x-ratelimit-remaining-requests": str(remaining),
        "x-ratelimit-reset-requests": duration(_wait_ms(limiter, limit)),
    }


def _wait_ms(limiter: AsyncLimiter, amount: float) -> int:
    """After how many milliseconds so many requests have room at once, if none comes before."""
    period_ms = int(limiter.time_period * 1000)
    leaked = limiter.max_rate / period_ms
    return bisect_left(range(period_ms), x=True, key=lambda ms: limiter.has_capacity(amount - ms * leaked))


def duration(ms: int) -> str:
    """So many milliseconds in OpenAI's words: `0s`, `120ms`, `8.64s`, `1m0s`."""
    if 0 < ms < 1000:
        return f"{ms}ms"
    minutes, rest = divmod(ms, 60_000)
    return f"{minutes}m{rest / 1000:g}s" if minutes else f"{rest / 1000:g}s"


def _tenant(key: KeySettings, before: AsyncLimiter | None) -> Tenant:
    priority = Priority(key.priority)
    return Tenant(
        name=key.name,
        weight=key.weight,
        priority=priority,
        max_priority=Priority(key.max_priority) if key.max_priority is not None else priority,
        seats=key.seats,
        queue_max=key.queue_max,
        max_deadline_s=key.max_deadline_s,
        limiter=_limiter(key.requests_per_minute, before),
    )


def _limiter(limit: int | None, before: AsyncLimiter | None) -> AsyncLimiter | None:
    if limit is None:
        return None
    return before if before is not None and before.max_rate == limit else AsyncLimiter(limit, MINUTE_S)

"""Who may ask, and how often: bearer keys, kept as hashes and compared in constant time, each with its contract."""

from __future__ import annotations

import hmac

from aiolimiter import AsyncLimiter

from service.api.errors import ApiError
from service.settings import Settings, sha256

MINUTE_S = 60.0


class Keyring:
    """The known keys, by the name of who is charged."""

    def __init__(self, settings: Settings) -> None:
        self._digests = tuple(settings.key_hashes().items())
        self._weights = {key.name: key.weight for key in settings.keys}
        self._limiters = {
            key.name: AsyncLimiter(key.requests_per_minute, MINUTE_S)
            for key in settings.keys
            if key.requests_per_minute is not None
        }

    def weight(self, tenant: str) -> float:
        """The tenant's share of a full service, beside others."""
        return self._weights.get(tenant, 1.0)

    def tenant(self, authorization: str | None) -> str:
        """Whose key an Authorization header carries. Every stored hash is compared, whichever matches.

        Raises:
            ApiError: 401, for no key, another scheme, or an unknown key.
        """
        scheme, _, key = (authorization or "").partition(" ")
        digest = sha256(key.strip())
        tenant = None
        for name, known in self._digests:
            if hmac.compare_digest(known, digest):
                tenant = name
        if tenant is None or scheme.lower() != "bearer":
            raise ApiError(status=401, message="unauthorized", type="authentication_error", code="invalid_api_key")
        return tenant

    async def count(self, tenant: str) -> None:
        """Count one request against the tenant's contract. Never waits.

        Raises:
            ApiError: 429 when the contract is used up.
        """
        limiter = self._limiters.get(tenant)
        if limiter is None:
            return
        if not limiter.has_capacity():
            raise ApiError(
                status=429,
                message="rate limit exceeded",
                type="rate_limit_error",
                code="rate_limited",
                retry_after_s=limiter.time_period / limiter.max_rate,
                retryable=True,
            )
        await limiter.acquire()

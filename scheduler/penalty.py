"""The penalty box: what crashed two workers is not given a third for a while. Keeps digests, never a text."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict

import msgspec

from pool.events import TurnRequest

LIMIT = 1024
"""Fingerprints kept; beyond that the oldest is let go."""


def fingerprint(key: bytes, tenant: str, turn: TurnRequest) -> bytes:
    """The same for the same request of the same tenant, and, without `key`, no use to anybody."""
    request = (tenant, turn)
    try:
        text = msgspec.msgpack.encode(request)
    except (UnicodeEncodeError, OverflowError):  # half of a surrogate pair, or a number of more than 64 bits
        text = repr(request).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, key=key, digest_size=16).digest()


class PenaltyBox:
    """Fingerprints by tenant, and until when each is refused."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._until: OrderedDict[tuple[str, bytes], float] = OrderedDict()
        self._tenants: Counter[str] = Counter()

    def has_any(self, tenant: str, now: float) -> bool:
        """Something of this tenant is refused, so that a fingerprint is worth its cost."""
        while self._until and next(iter(self._until.values())) <= now:
            self._drop_oldest()
        return tenant in self._tenants

    def add(self, tenant: str, mark: bytes, until: float) -> None:
        """Refuse this from now on."""
        if (tenant, mark) not in self._until:
            self._tenants[tenant] += 1
        self._until[tenant, mark] = until
        self._until.move_to_end((tenant, mark))
        if len(self._until) > self._limit:
            self._drop_oldest()

    def until(self, tenant: str, mark: bytes, now: float) -> float | None:
        """Until when this is refused; None: it is not."""
        until = self._until.get((tenant, mark))
        return until if until is not None and until > now else None

    def _drop_oldest(self) -> None:
        (tenant, _), _ = self._until.popitem(last=False)
        self._tenants[tenant] -= 1
        if not self._tenants[tenant]:
            del self._tenants[tenant]

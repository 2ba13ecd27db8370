"""The penalty box: what crashed two workers is not given a third for a while. Keeps digests, never a text."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from pool.events import TurnRequest

LIMIT = 1024
"""Fingerprints kept; beyond that the oldest is let go."""


def fingerprint(key: bytes, tenant: str, turn: TurnRequest) -> bytes:
    """The same for the same request of the same tenant, and, without `key`, no use to anybody."""
    text = repr((tenant, turn)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, key=key, digest_size=16).digest()


class PenaltyBox:
    """Fingerprints and until when each is refused."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def is_empty(self, now: float) -> bool:
        """Nothing is refused any more."""
        while self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)
        return not self._until

    def add(self, mark: bytes, until: float) -> None:
        """Refuse this from now on."""
        self._until[mark] = until
        self._until.move_to_end(mark)
        if len(self._until) > self._limit:
            self._until.popitem(last=False)

    def until(self, mark: bytes, now: float) -> float | None:
        """Until when this is refused; None: it is not."""
        until = self._until.get(mark)
        return until if until is not None and until > now else None

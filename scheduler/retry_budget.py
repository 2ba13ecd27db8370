"""How often turns may be run again: a small share of the jobs, so that retries never make an outage worse."""

from __future__ import annotations

BURST = 100.0
"""What can be saved up beyond the reserve, in retries."""


class RetryBudget:
    """A bucket of tokens, one for each retry: never more than `reserve + ratio * admissions` were taken."""

    def __init__(self, ratio: float, reserve: int) -> None:
        self._ratio = ratio
        self._reserve = reserve
        self.tokens = float(reserve)

    def adopt(self, ratio: float, reserve: int) -> None:
        """Go by these numbers from now on."""
        self.tokens = max(0.0, self.tokens + reserve - self._reserve)
        self._ratio, self._reserve = ratio, reserve

    def admitted(self) -> None:
        """A job was taken."""
        if self.tokens < self._reserve + BURST:
            self.tokens += self._ratio

    def take(self, *, kept: float = 0.0) -> bool:
        """One retry's token, or False; so much of the reserve is kept for others."""
        if self.tokens - 1.0 < kept * self._reserve:
            return False
        self.tokens -= 1.0
        return True

"""Whether a turn that failed without a trace is worth another, and when."""

from __future__ import annotations

from pool.events import Fault, FaultKind

OF_WORKERS = frozenset(
    {
        FaultKind.WORKER_LOST,
        FaultKind.WORKER_REPLACED,
        FaultKind.WORKER_OVERLOADED,
        FaultKind.START_TIMEOUT,
        FaultKind.FIRST_EVENT_TIMEOUT,
        FaultKind.IDLE_TIMEOUT,
        FaultKind.PROTOCOL,
    }
)
"""Faults of the worker, not of the request: another worker may do better, at once."""
OF_PROVIDERS = frozenset(
    {FaultKind.OVERLOADED, FaultKind.RATE_LIMIT, FaultKind.UPSTREAM, FaultKind.UPSTREAM_UNREACHABLE}
)
"""Faults that may have passed in a moment, on whichever worker."""

BASE_S = 0.5
CAP_S = 8.0
SPREAD = 0.25
"""How much is added to the wait that a provider names: all that it refused would come back in the same moment."""


def rest_s(fault: Fault, tries: int, jitter: float) -> float | None:
    """Seconds until another turn is worth it, after so many that failed; 0: at once; None: it never is.

    `jitter` in [0, 1) spreads it. A provider's own word is obeyed; a rate limit without one may last for hours.
    """
    if fault.kind in OF_WORKERS:
        return 0.0
    is_refused = fault.kind is FaultKind.UPSTREAM and fault.upstream_status is not None and fault.upstream_status < 500
    if fault.kind not in OF_PROVIDERS or is_refused:
        return None
    if fault.retry_after_s is not None:
        return fault.retry_after_s * (1.0 + SPREAD * jitter)
    if fault.kind is FaultKind.RATE_LIMIT:
        return None
    full_s = min(CAP_S, BASE_S * 2.0 ** min(tries - 1, 16))
    return full_s / 2 + jitter * full_s / 2

"""How long a slot waits before its next boot."""

from __future__ import annotations

BASE_S = 0.25
CAP_S = 5.0
"""Low on purpose: a cap of 30 s would make recovery after the cause is gone take half a minute at worst."""
STEADY_S = 30.0
"""A worker that was ready for this long has proved that boots work."""


def delay(failures: int, jitter: float) -> float:
    """Seconds to wait after `failures` boots in a row that came to nothing; `jitter` in [0, 1) spreads half of it.

    No failure, no wait: the replacement of a worker that ran well starts at once.
    """
    if failures == 0:
        return 0.0
    full = min(CAP_S, BASE_S * 2.0 ** min(failures - 1, 16))
    return full / 2 + jitter * full / 2

"""How hard property tests try; `--hypothesis-profile=nightly` makes all of them try twenty times as hard."""

from __future__ import annotations

from hypothesis import settings


def trying(times: float, *, steps: int = 50) -> settings:
    """So many times the usual number of examples."""
    return settings(max_examples=int(settings().max_examples * times), stateful_step_count=steps)

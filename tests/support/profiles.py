"""Profiles for tests that never start a real worker."""

from __future__ import annotations

from pool.profile import Credentials, Profile
from pool.turn import TurnLimits


def a_profile(name: str = "main", *, workers: int = 2, slots: int = 2, limits: TurnLimits | None = None) -> Profile:
    """A small profile."""
    return Profile(
        name,
        "http://upstream.invalid/v1",
        "gpt-5.5",
        Credentials(api_key="secret"),
        workers=workers,
        slots=slots,
        probation_s=0.0,
        limits=limits or TurnLimits(),
    )

"""A promise and what was measured of it, and how hard a run tries."""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class Row(msgspec.Struct, frozen=True):
    """One promise: `value` is held to at most `goal`, or at least where `is_floor`; no goal: just told."""

    name: str
    measure: str
    value: float
    unit: str
    goal: float | None
    how: str
    is_floor: bool = False
    is_correctness: bool = False
    details: dict[str, float] = {}

    @property
    def held(self) -> bool | None:
        """Whether the promise was kept."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.is_floor else self.value <= self.goal


class Effort(NamedTuple):
    """How often, and for how many seconds, things are tried."""

    stuck_rounds: int
    crash_rounds: int
    freezes: int
    kill_rounds: int
    kills: int
    crowd_s: float
    bursts_s: float
    throughput_s: float
    cost_rounds: int


FULL = Effort(3, 5, 3, 3, 4, 120.0, 30.0, 10.0, 200)
QUICK = Effort(1, 1, 1, 1, 2, 1.5, 1.5, 2.0, 20)

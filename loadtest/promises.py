"""A promise and what was measured of it, how hard a run tries, and how it tells what came of it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import msgspec

PACKAGES = ("codex-completions", "aiohttp", "uvloop", "msgspec", "pydantic", "openai-codex", "openai-codex-cli-bin")


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


def told(measured: Iterable[list[Row]], *, is_quick: bool, json_file: Path | None) -> int:
    """Print each row as soon as it is there, write all of them; the exit code: 1 if something is not correct."""
    began_at = time.monotonic()
    environment = _environment()
    print("measure | figure | goal | held | how")
    print("---|---|---|---|---")
    rows: list[Row] = []
    for some in measured:
        rows += some
        for row in some:
            print(_line(row), flush=True)
    if json_file is not None:
        report = {
            "environment": {**environment, "load_after": os.getloadavg(), "took_s": time.monotonic() - began_at},
            "is_quick": is_quick,
            "rows": [{**msgspec.structs.asdict(row), "held": row.held} for row in rows],
        }
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    return int(any(row.is_correctness and not row.held for row in rows))


def _line(row: Row) -> str:
    goal = "-" if row.goal is None else f"{'>=' if row.is_floor else '<='} {row.goal:g} {row.unit}"
    held = {None: "-", True: "held", False: "MISSED"}[row.held]
    return f"{row.measure} | {row.value:.3g} {row.unit} | {goal} | {held} | {row.how}"


def _environment() -> dict[str, object]:
    """The machine and the programs that the figures are of."""
    return {
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg(),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

"""`python -m loadtest.bench scheduler`: its shape. What it measures is the machine's business, but for what is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from loadtest import bench_scheduler
from loadtest.bench_scheduler import run
from loadtest.promises import Effort, Row

if TYPE_CHECKING:
    from pathlib import Path

NAMES = [
    "stuck_turn",
    "crash_silent",
    "crash_queued",
    "freeze_out",
    "freeze_replaced",
    "freeze_told",
    "crash_fake",
    "crash_spare",
    "noisy_crowd",
    "noisy_bursts",
    "noisy_bursts_share",
    "throughput",
    "cpu_10",
    "cpu_100",
    "cpu_1000",
    "cpu_10000",
    "cpu_growth",
]
LIMIT_S = 300.0
"""It takes less than a minute on an idle machine."""


@pytest.mark.timeout(LIMIT_S + 10)
def test_a_quick_run_loses_nothing_and_tells_every_figure(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "loadtest.bench", "scheduler", "--quick", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(file.read_text())
    assert [row["name"] for row in report["rows"]] == NAMES
    assert len(done.stdout.splitlines()) == 2 + len(NAMES)
    assert all(row["how"] and row["value"] >= 0 and row["held"] is not None for row in report["rows"])
    assert {row["name"] for row in report["rows"] if row["is_correctness"]} == set(NAMES[:3])
    assert report["is_quick"]
    assert {"cpus", "load_before", "load_after", "python", "packages", "took_s"} <= set(report["environment"])


@pytest.mark.parametrize(("is_correctness", "code"), [(True, 1), (False, 0)])
def test_only_a_turn_that_was_lost_makes_the_run_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int, *, is_correctness: bool
) -> None:
    async def missed(_effort: Effort, *, is_real: bool = False) -> list[Row]:
        assert not is_real
        return [Row("name", "a measure", 2.0, "turns", 0.0, "how", is_correctness=is_correctness)]

    for name in ("stuck_turns", "crashes", "freezes", "recoveries", "fairness", "throughput"):
        monkeypatch.setattr(bench_scheduler, name, missed)
    monkeypatch.setattr(bench_scheduler, "costs", lambda _effort: [])
    assert run() == code
    assert capsys.readouterr().out.count("| 2 turns | <= 0 turns | MISSED | how\n") == 6


@pytest.mark.parametrize(
    ("value", "is_floor", "held"), [(96.9, True, False), (97.0, True, True), (97.0, False, True), (97.1, False, False)]
)
def test_a_promise_is_held_up_to_its_goal(value: float, *, is_floor: bool, held: bool) -> None:
    assert Row("name", "a measure", value, "%", 97.0, "how", is_floor=is_floor).held is held

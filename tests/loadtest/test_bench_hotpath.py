"""`python -m loadtest.bench hotpath`: its shape. What it measures is the machine's business, but for what is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from loadtest.bench_client import Report, percentiles
from loadtest.bench_hotpath import QUICK, loads, rows_of

if TYPE_CHECKING:
    from pathlib import Path

LIMIT_S = 300.0
"""It takes less than two minutes on an idle machine."""


@pytest.mark.timeout(LIMIT_S + 10)
def test_a_quick_run_loses_nothing_and_tells_every_figure(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "loadtest.bench", "hotpath", "--quick", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(file.read_text())
    names = [
        name for load in loads(QUICK) for name in [*(figure.name for figure in load.figures), f"{load.name}_wrong"]
    ]
    assert [row["name"] for row in report["rows"]] == names
    assert len(done.stdout.splitlines()) == 2 + len(names)
    assert all(row["value"] > 0 for row in report["rows"] if not row["is_correctness"])
    assert all(row["held"] for row in report["rows"] if row["is_correctness"])
    assert {"cpus", "load_before", "load_after", "python", "packages", "took_s"} <= set(report["environment"])


def test_the_median_of_the_rounds_counts_and_each_is_told() -> None:
    (load,) = [load for load in loads(QUICK) if load.name == "whole"]
    reports = [Report(cpu_s=cpu_s, answers=1000, seconds=1.0) for cpu_s in (0.3, 0.1, 0.2)]
    figure, _, wrong = rows_of(load, reports)
    assert figure.value == pytest.approx(200)
    assert figure.details == pytest.approx({"round_1": 300, "round_2": 100, "round_3": 200})
    assert wrong.held


def test_one_wrong_answer_or_lost_delta_is_a_failure_and_says_why() -> None:
    load = loads(QUICK)[0]
    *_, row = rows_of(load, [Report(), Report(wrong=1, lost=2, first_wrong="HTTP/1.1 500")])
    assert (row.value, row.held, row.is_correctness) == (3, False, True)
    assert "HTTP/1.1 500" in row.how


def test_percentiles_are_of_what_was_seen() -> None:
    assert percentiles(list(range(1001))) == {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999, "max": 1000}
    assert percentiles([]) == {}

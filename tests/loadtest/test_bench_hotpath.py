"""`python -m loadtest.bench hotpath`: its shape. What it measures is the machine's business, but for what is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from loadtest.bench_client import Report, percentiles
from loadtest.bench_hotpath import QUICK, SERVICE, Load, loads, overload_rows, rows_of
from loadtest.open_loop import Stage

if TYPE_CHECKING:
    from pathlib import Path

NAMES = [
    "idle_kb",
    "idle_wrong",
    "whole_us",
    "whole_rate",
    "whole_wrong",
    "stream_us",
    "stream_rate",
    "stream_over_sdk",
    "stream_wrong",
    "paced_256_p50_ms",
    "paced_256_p99_ms",
    "paced_256_wrong",
    "paced_1000_us",
    "paced_1000_ms",
    "paced_1000_rate",
    "paced_1000_wrong",
    "growth_mb",
    "growth_wrong",
    "overload_goodput",
    "overload_after",
    "overload_wrong",
]
RIVALS = {
    *(f"whole_{figure}.{who}" for figure in ("us", "rate") for who in ("forwarder", "stdio")),
    *(f"stream_{figure}.{who}" for figure in ("us", "rate") for who in ("forwarder", "stdio", "sdk")),
    *(f"paced_1000_{figure}.forwarder" for figure in ("us", "ms", "rate")),
}
LIMIT_S = 300.0
"""It takes less than two minutes on an idle machine."""


@pytest.mark.timeout(LIMIT_S + 10)
def test_a_quick_run_loses_nothing_and_tells_every_figure(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "loadtest.bench", "hotpath", "--quick", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(file.read_text())
    names = [row["name"] for row in report["rows"]]
    assert [name for name in names if "." not in name] == NAMES
    assert {name for name in names if "." in name} == RIVALS
    assert len(done.stdout.splitlines()) == 2 + len(names)
    assert all(row["value"] > 0 for row in report["rows"] if row["unit"] not in ("", "MB"))
    assert all(row["held"] for row in report["rows"] if row["is_correctness"])
    assert {"cpus", "load_before", "load_after", "python", "packages", "took_s"} <= set(report["environment"])


def the_load(name: str) -> Load:
    return next(load for load in loads(QUICK) if load.name == name)


def test_the_median_of_the_rounds_counts_and_each_is_told() -> None:
    reports = [Report(cpu_s=cpu_s, answers=1000, seconds=1.0) for cpu_s in (0.3, 0.1, 0.2)]
    figure, _, wrong = rows_of(the_load("whole"), {("whole", SERVICE): reports})
    assert figure.value == pytest.approx(200)
    assert figure.details == pytest.approx({"round_1": 300, "round_2": 100, "round_3": 200})
    assert wrong.held


def test_what_it_is_compared_with_stands_beside_it_and_has_no_goal() -> None:
    ours = [Report(cpu_s=1.0, deltas=deltas, seconds=1.0) for deltas in (100, 100, 100)]
    theirs = [Report(cpu_s=1.0, deltas=deltas, seconds=1.0) for deltas in (4, 5, 10)]
    reports = {("stream", SERVICE): ours, ("stream", "sdk"): theirs}
    rows = {row.name: row for row in rows_of(the_load("stream"), reports)}
    assert rows["stream_rate.sdk"].value == 5
    assert rows["stream_rate.sdk"].goal is None
    assert (rows["stream_over_sdk"].value, rows["stream_over_sdk"].held) == (20, True)


def test_the_real_cli_is_held_against_itself_over_stdio_round_by_round() -> None:
    ours = [Report(answers=answers, seconds=1.0, first_ms={"p50": 21.0}) for answers in (49, 98, 60)]
    theirs = [Report(answers=answers, seconds=1.0, first_ms={"p50": 20.5}) for answers in (50, 100, 50)]
    reports = {("real_8", SERVICE): ours, ("real_8", "stdio"): theirs}
    rows = {row.name: row for row in rows_of(the_load("real_8"), reports)}
    assert (rows["real_8_ratio"].value, rows["real_8_ratio"].held) == (0.98, True)
    assert (rows["real_8_added_ms"].value, rows["real_8_added_ms"].held) == (0.5, True)


def test_one_wrong_answer_or_lost_delta_is_a_failure_and_says_why() -> None:
    reports = [Report(), Report(wrong=1, lost=2, first_wrong="HTTP/1.1 500")]
    *_, row = rows_of(the_load("idle"), {("idle", SERVICE): reports})
    assert (row.value, row.held, row.is_correctness) == (3, False, True)
    assert "HTTP/1.1 500" in row.how


def test_an_overload_is_judged_by_what_the_seats_can_do_and_by_what_comes_after_it() -> None:
    before = Stage(rate=40.0, seconds=10.0, answer_ms={"p50": 200.0, "p90": 210.0})
    during = Stage(rate=240.0, seconds=30.0, completed=2280, refused={"503 queue_full": 9})
    after = Stage(rate=40.0, seconds=10.0, answer_ms={"p50": 200.0, "p90": 420.0}, wrong=1)
    goodput, back, wrong = overload_rows([before, during, before, after])
    assert goodput.value == pytest.approx(95)
    assert "9 times 503 queue_full" in goodput.how
    assert (back.value, back.held) == (2, False)
    assert wrong.held is False


def test_percentiles_are_of_what_was_seen() -> None:
    assert percentiles(list(range(1001))) == {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999, "max": 1000}
    assert percentiles([]) == {}

"""`python -m loadtest.curve`: what is made of the points, and a small run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from loadtest.curve import Curve, Point, Shape, around, draw, main, point, rates, table
from loadtest.open_loop import Stage

if TYPE_CHECKING:
    from pathlib import Path

RUN_S = 120.0


def a_point(rate: float, goodput: float, first_p90_ms: float) -> Point:
    return Point(rate, goodput, 100.0, first_p90_ms, 2 * first_p90_ms, 900.0, 0.0, 0.1)


CURVE = Curve(2, 8, (a_point(10, 10, 100), a_point(20, 20, 110), a_point(30, 28, 300), a_point(40, 28, 900)))


def test_the_knee_is_where_an_answer_costs_the_least_wait() -> None:
    assert CURVE.knee.rate == 20
    assert [line.endswith("<- knee") for line in table(CURVE).splitlines()[2:]] == [False, True, False, False]


def test_the_rates_go_from_a_quarter_to_more_than_the_seats_can_do() -> None:
    shape = Shape(delay_s=0.1, deltas=10, interval_s=0.1)
    assert shape.turn_s == pytest.approx(1.0)
    assert rates(16, shape, 3) == pytest.approx([4.0, 12.4, 20.8])


@pytest.mark.parametrize(("best", "more"), [(0, [15]), (1, [15, 30]), (2, [30])])
def test_the_knee_is_looked_for_between_the_best_point_and_its_neighbours(best: int, more: list[float]) -> None:
    assert around([10, 20, 40], best) == more


def test_a_point_tells_shares_and_rates_of_its_stage() -> None:
    stage = Stage(rate=9.0, seconds=2.0, offered=20, answered=15, completed=12, refused={"503 a": 4, "429 b": 1})
    made = point(stage, 0.3)
    assert (made.rate, made.goodput, made.refused, made.service_cpu) == (10, 6, 0.25, 0.3)
    assert made.power == 0


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    draw([CURVE, Curve(4, 8, CURVE.points[:2])], tmp_path / "curve.png", "title")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.timeout(RUN_S)
def test_a_small_run_finds_that_more_load_than_seats_means_waiting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--seats", "1x4", "--points", "2", "--seconds", "2", "--deltas", "5", "--queue-max", "8"]
    assert main([*command, "--out", str(tmp_path / "curve")]) == 0
    (curve,) = json.loads((tmp_path / "curve.json").read_text())
    calm, between, full = curve["points"]
    assert full["first_p50_ms"] > calm["first_p50_ms"] > 200
    assert full["rate"] > between["rate"] > calm["rate"] > 0
    told = capsys.readouterr().out
    assert "1 workers x 4 slots" in told
    assert "knee: " in told

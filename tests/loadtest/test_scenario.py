"""`python -m loadtest.scenario`: what the files of `loadtest/profiles` mean, the verdict, and a short run."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import pytest

from loadtest.scenario import Limits, Scenario, Spread, Stage, Told, judge, load, names

if TYPE_CHECKING:
    from pathlib import Path

RUN_S = 120.0
ALL = ["disconnect-storm", "noisy-neighbour", "partner-mix", "ramp", "soak", "worker-faults"]


def a_scenario(**fields: object) -> Scenario:
    usual = {"description": "d", "profile": {}, "tenants": [{"name": "a"}], "stages": [], "limits": {}}
    return msgspec.convert({**usual, **fields}, Scenario)


def test_every_scenario_can_be_read_and_lasts() -> None:
    assert names() == ALL
    for name in ALL:
        scenario = load(name)
        assert scenario.seconds >= 30
        assert scenario.limits.answers > 1
        assert any(tenant.counts for tenant in scenario.tenants)


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `nme`"):
        a_scenario(tenants=[{"nme": "a"}])


def test_lengths_are_spread_around_their_median_and_bounded() -> None:
    dice = random.Random(1)  # noqa: S311 - lengths, no secrets
    drawn = [Spread(100, 1.0, 500).draw(dice) for _ in range(2000)]
    assert statistics.median(drawn) == pytest.approx(100, rel=0.1)
    assert max(drawn) == 500
    assert Spread(100).draw(dice) == 100
    assert Spread(0.1).draw(dice) == 1


def test_tenants_have_their_shares_of_the_first_clients_as_of_all() -> None:
    tenants = [{"name": "a", "share": 3}, {"name": "b", "share": 2}, {"name": "c", "share": 1}]
    scenario = a_scenario(tenants=tenants)
    for count in (6, 60):
        assert Counter(scenario.tenant_of(number).name for number in range(count)) == {
            "a": count / 2,
            "b": count / 3,
            "c": count / 6,
        }


def test_stages_follow_each_other_and_end() -> None:
    scenario = a_scenario(stages=[{"users": 1, "seconds": 10}, {"users": 5, "seconds": 30}], limits={"answers": 100})
    assert [scenario.users_at(second) for second in (0, 9.9, 10, 39.9, 40)] == [1, 1, 5, 5, None]
    shorter = scenario.lasting(4)
    assert shorter.stages == (Stage(1, 1), Stage(5, 3))
    assert shorter.limits.answers == 10


def test_what_is_within_the_limits_passes_and_everything_else_is_named() -> None:
    limits = Limits(answers=80, broken=0.1, refused=0.1, first_token_p95_ms=500, gap_p95_ms=100)
    assert judge(limits, Told(80, 10, 10, 500, 100)) == []
    wrong = judge(limits, Told(70, 15, 15, 501, 101, "no end"))
    assert judge(Limits(answers=1), Told()) == ["answers: 0, under 1"]
    assert wrong == [
        "share of broken answers: 0.15, over 0.1 (no end)",
        "share of refusals: 0.15, over 0.1",
        "first token, p95 ms: 501, over 500",
        "longest gap, p95 ms: 101, over 100",
        "answers: 70, under 80",
    ]


@pytest.mark.timeout(RUN_S + 10)
def test_a_short_run_of_partners_is_answered_and_leaves_a_report(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    command = [sys.executable, "-m", "loadtest.scenario", "partner-mix", "--seconds", "8", "--html", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
    missed = [line for line in done.stdout.splitlines() if line.startswith(("share", "answers", "the service did not"))]
    assert missed == []
    for row in ("chat stream", "responses stream", "first token, ms", "longest gap, ms", "tokens a second"):
        assert row in done.stderr  # where locust writes its statistics
    assert "first token, ms" in report.read_text()

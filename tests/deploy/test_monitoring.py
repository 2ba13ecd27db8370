"""Alerts and dashboard: every metric and label in them is one that there is, and promtool agrees."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
ALERTS_TEST = ALERTS.with_name("alerts.test.yml")
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"
PROMTOOL = shutil.which("promtool")
with_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")

GIVEN = {"job", "instance", "le"}
"""Labels that Prometheus, or a histogram, adds."""
PARTS = {"histogram": {"_bucket", "_sum", "_count"}, "counter": {""}, "gauge": {""}}
SELECTED = re.compile(r"\b(codex_completions_\w+)(?:\{([^}]*)\})?")


def documented() -> dict[str, set[str]]:
    """Every name that a scrape has, as docs/metrics.md tells it, and its labels."""
    names: dict[str, set[str]] = {}
    for line in (ROOT / "docs" / "metrics.md").read_text().splitlines():
        if line.startswith("| `codex_completions_"):
            name, kind, _, labels, *_ = (cell.strip() for cell in line.strip("|").split("|"))
            names |= {name.strip("`") + part: {*labels.split(", ")} - {""} for part in PARTS[kind]}
    return names


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def queries() -> Iterator[str]:
    """Everything that the dashboard asks for."""
    dashboard = json.loads(DASHBOARD.read_text())
    yield from (target["expr"] for panel in panels() for target in panel["targets"])
    yield from (variable["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query")
    yield from (annotation["expr"] for annotation in dashboard["annotations"]["list"])


def strangers(text: str) -> list[str]:
    """What is asked of a metric that is not documented, or by a label that it does not have."""
    names = documented()
    wrong: list[str] = []
    for name, matchers in SELECTED.findall(re.sub(r"\b\w+:\w+:\w+", "", text)):
        labels = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", matchers)
        if name not in names:
            wrong.append(name)
        else:
            wrong += [f"{name}: {label}" for label in labels if label not in names[name] | GIVEN]
    return wrong


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    return subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, timeout=100, check=False)


def test_the_documented_metrics_are_found() -> None:
    names = documented()
    assert names["codex_completions_first_token_seconds_bucket"] == {"profile"}
    assert names["codex_completions_http_requests_total"] == {"route", "status"}
    assert "codex_completions_first_token_seconds" not in names


@pytest.mark.parametrize(
    "expression",
    ["codex_completions_nothing > 1", 'codex_completions_seats{key="a"}', "rate(codex_completions_turn_seconds[5m])"],
)
def test_a_metric_or_a_label_that_there_is_not_is_noticed(expression: str) -> None:
    assert len(strangers(expression)) == 1


@pytest.mark.parametrize("path", [ALERTS, ALERTS_TEST], ids=lambda path: path.name)
def test_alerts_ask_for_what_there_is(path: Path) -> None:
    assert "codex_completions_" in path.read_text()
    assert strangers(path.read_text()) == []


def test_a_recorded_name_that_is_used_is_recorded() -> None:
    text = ALERTS.read_text()
    recorded = set(re.findall(r"record: (\S+)", text))
    used = set(re.findall(r"\bjob\w*:\w+:\w+", text))
    assert used == recorded != set()


def test_every_alert_says_how_grave_it_is_and_what_to_do_and_is_tried() -> None:
    alerts = ALERTS.read_text().split("- alert: ")[1:]
    assert len(alerts) == 15
    for alert in alerts:
        name = alert.split()[0]
        assert re.search(r"severity: (page|warning|info)\b", alert), name
        assert "summary: " in alert, name
        assert "description: " in alert, name
        assert f'alertname="{name}"' in ALERTS_TEST.read_text(), name


def test_the_dashboard_asks_for_what_there_is() -> None:
    found = list(queries())
    assert len(found) > len(panels())
    assert [wrong for query in found for wrong in strangers(query)] == []


def test_the_panels_are_told_apart_and_do_not_cover_each_other() -> None:
    places = [panel["gridPos"] for panel in panels()]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    for field in ("id", "title"):
        assert len({panel[field] for panel in panels()}) == len(panels())


@with_promtool
def test_promtool_accepts_the_rules_and_their_tests_pass() -> None:
    checked = promtool("check", "rules", str(ALERTS))
    assert checked.returncode == 0, checked.stderr
    tried = promtool("test", "rules", str(ALERTS_TEST))
    assert tried.returncode == 0, tried.stdout + tried.stderr


@with_promtool
def test_a_wrong_threshold_fails_the_rules_tests(tmp_path: Path) -> None:
    changed = ALERTS.read_text().replace("failures:ratio5m > 0.05", "failures:ratio5m > 0.5")
    assert changed != ALERTS.read_text()
    (tmp_path / ALERTS.name).write_text(changed)
    shutil.copy(ALERTS_TEST, tmp_path)
    assert promtool("test", "rules", str(tmp_path / ALERTS_TEST.name)).returncode != 0


@with_promtool
def test_promtool_accepts_what_the_dashboard_asks(tmp_path: Path) -> None:
    asked = [query.replace("$__rate_interval", "5m") for query in queries() if not query.startswith("label_values")]
    rules = [{"record": f"asked:{number}", "expr": expression} for number, expression in enumerate(asked)]
    path = tmp_path / "asked.yml"
    path.write_text(json.dumps({"groups": [{"name": "asked", "rules": rules}]}))  # JSON is YAML
    checked = promtool("check", "rules", str(path))
    assert checked.returncode == 0, checked.stdout + checked.stderr

"""`python -m loadtest.bench background`: its shape, and that no background response is lost or wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest import bench_background
from loadtest.bench_background import Load, run
from loadtest.promises import Row

NAMES = [
    "background_begin",
    "background_look",
    "chat_alone",
    "chat_beside",
    "chat_waits",
    "background_all",
    "background_memory",
    "background_wrong",
    "chat_same",
    "same_wrong",
]


def test_a_quick_run_loses_nothing_and_tells_every_figure(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "loadtest.bench", "background", "--quick", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(file.read_text())
    assert [row["name"] for row in report["rows"]] == NAMES
    assert len(done.stdout.splitlines()) == 2 + len(NAMES)
    values = {row["name"]: row["value"] for row in report["rows"]}
    assert values["background_wrong"] == values["same_wrong"] == 0
    turn_ms = 1e3 * bench_background.TURN_S
    assert min(values["chat_alone"], values["chat_beside"], values["chat_same"]) >= turn_ms
    assert values["background_all"] * 1e3 >= bench_background.QUICK.jobs * turn_ms / bench_background.SEATS


def test_a_response_that_says_something_else_makes_the_run_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    async def begin(self: bench_background.Client, text: str, **headers: str) -> None:
        await as_it_was(self, text, **headers)
        self.texts[next(reversed(self.texts))] = "something else"

    async def nothing(_folder: Path, _load: Load) -> list[Row]:
        return []

    as_it_was = bench_background.Client.begin
    monkeypatch.setattr(bench_background.Client, "begin", begin)
    monkeypatch.setattr(bench_background, "QUICK", Load(2, 0.3))
    monkeypatch.setattr(bench_background, "same_class", nothing)
    assert run(is_quick=True) == 1

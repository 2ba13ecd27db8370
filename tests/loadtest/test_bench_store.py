"""`python -m loadtest.bench store`: its shape. What it measures is the machine's business, but for what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest import bench_store
from loadtest.bench_store import Times, run
from service.store.protocol import Draft, Item, Key, State, Stored
from service.store.sqlite import SqliteStore

NAMES = [
    "store_put",
    "store_put_alone",
    "store_get",
    "store_items",
    "store_both",
    "store_lag",
    "store_file",
    "store_wrong",
]


def test_a_quick_run_finds_everything_and_tells_every_figure(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [
        sys.executable,
        "-m",
        "loadtest.bench",
        "store",
        "--quick",
        "--json",
        str(file),
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(file.read_text())
    assert [row["name"] for row in report["rows"]] == NAMES
    assert len(done.stdout.splitlines()) == 2 + len(NAMES)
    assert report["is_quick"]
    values = {row["name"]: row["value"] for row in report["rows"]}
    assert all(row["how"] for row in report["rows"])
    assert values.pop("store_wrong") == 0
    assert all(value > 0 for value in values.values())
    assert list(tmp_path.iterdir()) == [file]


def test_a_wrong_answer_makes_the_run_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def get(_self: SqliteStore, _key: Key) -> Stored:
        return Stored(State.ENDED, b"another's")

    monkeypatch.setattr(SqliteStore, "get", get)
    monkeypatch.setattr(bench_store, "QUICK_ANSWERS", 20)
    assert run(is_quick=True, folder=tmp_path) == 1


def test_figures_are_of_the_times_in_order() -> None:
    times = Times([n / 1000 for n in range(1, 101)], 2.0)
    assert times.percentile_ms(99) == 100.0
    assert times.percentile_ms(50) == 51.0
    assert times.told() == "p50 51.00 ms, longest 100.0 ms, 50/s"


def test_every_answer_is_another() -> None:
    drafts: list[Draft] = [bench_store.draft(number) for number in range(50)]
    assert len({draft.response for draft in drafts}) == 50
    assert {len(draft.response) for draft in drafts} == {bench_store.HALF}
    assert all(isinstance(item, Item) for draft in drafts for item in (*draft.input_items, *draft.output_items))

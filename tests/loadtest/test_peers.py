"""The programs that the service is compared with: fetched, started, measured, or left out with a reason."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from loadtest import peers
from loadtest.bench_client import Report
from loadtest.bench_hotpath import QUICK, SERVICE, Bench, loads, rows_of

if TYPE_CHECKING:
    from pathlib import Path

NAME = "codex-gateway"
"""The smallest of them."""
RUN_S = 60.0


@pytest.mark.timeout(peers.INSTALL_S + RUN_S)
def test_a_peer_stands_beside_the_service(tmp_path: Path) -> None:
    try:
        peers.installed(NAME)
    except peers.MissingError as missing:
        pytest.skip(str(missing))
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "loadtest.bench", "hotpath", "--quick", "--only", "whole", "stream", "--peers"]
    done = subprocess.run(
        [*command, NAME, "--json", str(file)], capture_output=True, text=True, timeout=RUN_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row["name"]: row for row in json.loads(file.read_text())["rows"]}
    for figure in ("whole_us", "whole_rate", "stream_us", "stream_rate"):
        row = rows[f"{figure}.{NAME}"]
        assert row["value"] > 0
        assert "wrong answers" not in row["how"]
        assert row["measure"].endswith(f"{NAME} {peers.PEERS[NAME].version}")


def test_without_node_nothing_is_fetched_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "CACHE", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(peers.MissingError, match="node and npm are not installed"):
        peers.installed("portkey")
    assert not list(tmp_path.iterdir())


def test_a_version_that_no_registry_has_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "CACHE", tmp_path)
    monkeypatch.setitem(peers.PEERS, NAME, peers.PEERS[NAME]._replace(version="0.0.0.1"))
    with pytest.raises(peers.MissingError):
        peers.installed(NAME)
    assert not list(tmp_path.iterdir())


async def test_who_cannot_be_had_is_left_out_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_version: str, _root: Path) -> None:
        raise peers.MissingError("no network")

    monkeypatch.setattr(peers, "CACHE", tmp_path)
    monkeypatch.setitem(peers.PEERS, NAME, peers.PEERS[NAME]._replace(install=refuse))
    bench = Bench(QUICK, (), (NAME,), is_alone=True, is_real=False)
    monkeypatch.setattr(bench, "_start", lambda _service, who: started(who, tmp_path / "peer"))
    await bench._invite(NAME)
    assert capsys.readouterr().out == "codex-gateway 0.1.2 cannot be had, skipped: no network\n"
    assert bench._rivals == ()


async def started(name: str, directory: Path) -> None:
    async with peers.started(name, directory, upstream="http://127.0.0.1:9", model="m"):
        pass


def test_what_a_peer_gets_wrong_is_told_and_is_not_the_services_fault() -> None:
    load = next(load for load in loads(QUICK) if load.name == "whole")
    theirs = Report(answers=1, cpu_s=1.0, seconds=1.0, wrong=3, first_wrong="500")
    reports = {("whole", SERVICE): [Report(answers=1, cpu_s=1.0, seconds=1.0)], ("whole", NAME): [theirs]}
    rows = {row.name: row for row in rows_of(load, reports)}
    assert rows["whole_wrong"].value == 0
    assert rows[f"whole_us.{NAME}"].how.endswith("3 wrong answers and lost deltas: 500")

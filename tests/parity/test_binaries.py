"""Where another Codex CLI comes from, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity import binaries
from tests.parity.binaries import NotToBeHadError, newest, packaged

NEWER = "999.0.0"


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """What each registry says its newest release is."""
    released: dict[str, str | None] = {"python": None, "node": None}
    monkeypatch.setattr(binaries, "_released_for_python", lambda: released["python"])
    monkeypatch.setattr(binaries, "_released_for_node", lambda: released["node"])
    for name in ("python", "node"):
        monkeypatch.setattr(binaries, f"_fetch_for_{name}", fetch(name))
    return released


def fetch(name: str) -> binaries.Fetch:
    def write(release: str, folder: Path) -> None:
        program = folder / "codex"
        program.write_text(f"#!/bin/sh\necho codex-cli {release} {name}\n")
        program.chmod(0o755)

    return write


def test_without_a_registry_there_is_no_other_cli(registries: dict[str, str | None], tmp_path: Path) -> None:
    with pytest.raises(NotToBeHadError, match="no package registry can be asked"):
        newest(tmp_path)


def test_where_the_packaged_one_is_the_newest_there_is_no_other(
    registries: dict[str, str | None], tmp_path: Path
) -> None:
    registries |= {"python": packaged().version, "node": "0.1.0"}
    with pytest.raises(NotToBeHadError, match="is the newest"):
        newest(tmp_path)


def test_the_newest_of_all_registries_is_kept(registries: dict[str, str | None], tmp_path: Path) -> None:
    registries |= {"python": packaged().version, "node": NEWER}
    cli = newest(tmp_path)
    assert (cli.version, cli.path) == (NEWER, tmp_path / NEWER / "codex")
    assert "node" in cli.path.read_text()
    assert [path.name for path in (tmp_path / NEWER).iterdir()] == ["codex"]


def test_what_was_downloaded_is_not_downloaded_again(
    registries: dict[str, str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registries["python"] = NEWER
    first = newest(tmp_path)
    monkeypatch.setattr(binaries, "_fetch_for_python", None)
    assert newest(tmp_path) == first


def test_a_cache_that_cannot_be_written_is_a_reason(registries: dict[str, str | None], tmp_path: Path) -> None:
    registries["python"] = NEWER
    (tmp_path / "file").touch()
    with pytest.raises(NotToBeHadError, match="cannot be kept"):
        newest(tmp_path / "file")


def test_a_program_that_does_not_tell_its_version_is_none(tmp_path: Path) -> None:
    with pytest.raises(NotToBeHadError):
        binaries.at(tmp_path / "nothing")
    with pytest.raises(NotToBeHadError, match="does not tell its version"):
        binaries.at(Path("/bin/echo"))


def test_the_packaged_one_tells_the_version_of_its_package() -> None:
    assert binaries.at(packaged().path).version == packaged().version

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from pool import binary
from pool.errors import EnvironmentUnfit


def script(path: Path, text: str) -> Path:
    """A shell script in the place of the CLI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def install(monkeypatch: pytest.MonkeyPatch, path: Path | None) -> None:
    """Make the packaged CLI be at `path`; None: the package is not installed."""
    module = None
    if path is not None:
        module = ModuleType("codex_cli_bin")

        def bundled_codex_path() -> Path:
            if not path.is_file():
                raise FileNotFoundError("installed, but its binary is missing")
            return path

        vars(module)["bundled_codex_path"] = bundled_codex_path
    monkeypatch.setitem(sys.modules, "codex_cli_bin", module)


# --- which one -------------------------------------------------------------------------------------------------


def test_the_explicit_one_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, script(tmp_path / "packaged" / "codex", ""))
    script(tmp_path / "bin" / "codex", "")
    explicit = script(tmp_path / "mine", "")
    assert binary.resolve(explicit, str(tmp_path / "bin")) == explicit


def test_then_the_packaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = script(tmp_path / "packaged" / "codex", "")
    install(monkeypatch, packaged)
    script(tmp_path / "bin" / "codex", "")
    assert binary.resolve(None, str(tmp_path / "bin")) == packaged


def test_then_the_one_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None)
    on_path = script(tmp_path / "bin" / "codex", "")
    assert binary.resolve(None, f"{tmp_path / 'nowhere'}:{tmp_path / 'bin'}") == on_path


def test_a_package_without_its_binary_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path / "missing")
    on_path = script(tmp_path / "bin" / "codex", "")
    assert binary.resolve(None, str(tmp_path / "bin")) == on_path


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "mine", "")
    monkeypatch.chdir(tmp_path)
    assert binary.resolve(Path("mine")) == tmp_path / "mine"


def test_none_at_all_is_told_with_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None)
    with pytest.raises(EnvironmentUnfit, match=r"codex-completions\[cli\].*PATH.*codex_bin"):
        binary.resolve(None, str(tmp_path))


@pytest.mark.parametrize("kind", ["missing", "directory", "not executable"])
def test_an_explicit_one_that_cannot_be_run_is_refused_and_no_other_is_taken(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "codex"
    if kind == "directory":
        path.mkdir()
    if kind == "not executable":
        path.write_text("")
    with pytest.raises(EnvironmentUnfit, match=rf"^codex_bin {path} is not an executable file$"):
        binary.resolve(path)


# --- what it knows ---------------------------------------------------------------------------------------------


def test_the_catalogue_is_asked_for_and_read(tmp_path: Path) -> None:
    cli = script(tmp_path / "codex", 'test "$*" = "debug models --bundled" && echo \'{"models":[{"slug":"m"}]}\'')
    assert binary.bundled_models(cli) == [{"slug": "m"}]


def test_it_is_asked_in_a_home_of_its_own_and_without_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "ours")
    cli = script(
        tmp_path / "codex",
        'test "$CODEX_HOME" = "$PWD" && test "$HOME" = "$PWD" && test -z "$(ls -A)" && '
        'echo "{\\"models\\":[{\\"slug\\":\\"$CODEX_HOME${OPENAI_API_KEY-}\\"}]}"',
    )
    ((slug,),) = [model.values() for model in binary.bundled_models(cli)]
    assert "ours" not in slug
    assert not Path(slug).exists()


@pytest.mark.parametrize(
    "answer",
    [
        "exit 2",
        "echo error: unrecognized subcommand",
        "echo '[]'",
        "echo '{}'",
        "echo '{\"models\":5}'",
        "echo '{\"models\":[5]}'",
        'echo \'{"models":[{"name":"no slug"}]}\'',
        "printf '\\377'",
    ],
)
def test_what_prints_no_catalogue_is_no_codex(tmp_path: Path, answer: str) -> None:
    cli = script(tmp_path / "codex", answer)
    with pytest.raises(EnvironmentUnfit, match=r"prints no model catalogue \(exit code"):
        binary.bundled_models(cli)


def test_what_cannot_be_run_is_told(tmp_path: Path) -> None:
    path = tmp_path / "codex"
    path.write_bytes(b"\x7fELF not really")
    path.chmod(0o755)
    with pytest.raises(EnvironmentUnfit, match="cannot be run"):
        binary.bundled_models(path)


def test_what_hangs_is_given_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "RUN_TIMEOUT_S", 0.2)
    cli = script(tmp_path / "codex", "exec tail -f /dev/null")
    with pytest.raises(EnvironmentUnfit, match="timed out"):
        binary.bundled_models(cli)

from __future__ import annotations

import json
import os
import stat
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pool.errors import EnvironmentUnfit
from pool.home import CONTEXT_WINDOW_TOKENS, KEY_VARIABLE, Home, RunDirectory, catalogue, configuration, sweep
from pool.profile import Credentials
from tests.support.profiles import a_profile

PROFILE = a_profile()
KEYLESS = replace(PROFILE, credentials=Credentials())


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    directory = RunDirectory.create(tmp_path / "state")
    yield directory
    directory.remove()


@pytest.fixture
def home(run: RunDirectory) -> Home:
    return Home.create(run.path, "main-0-1", PROFILE, b'{"models":[]}')


def crash(run: RunDirectory) -> None:
    """What a SIGKILL of the service does to its run: the lock is gone and the files stay."""
    os.close(run._lock)


# --- a home ----------------------------------------------------------------------------------------------------


def test_a_home_holds_the_configuration_the_catalogue_and_an_empty_directory(home: Home) -> None:
    written = tomllib.loads((home.codex_home / "config.toml").read_text())
    assert written == configuration(PROFILE, home.codex_home)
    assert (home.codex_home / "models.json").read_bytes() == b'{"models":[]}'
    assert list(home.cwd.iterdir()) == list(home.temp.iterdir()) == []
    assert sorted(path.name for path in home.root.iterdir()) == ["codex-home", "empty", "tmp"]
    assert sorted(path.name for path in home.codex_home.iterdir()) == ["config.toml", "models.json"]


def test_the_catalogue_that_the_configuration_names_is_there(home: Home) -> None:
    written = tomllib.loads((home.codex_home / "config.toml").read_text())
    assert Path(written["model_catalog_json"]) == home.codex_home / "models.json"


def test_nobody_else_can_look_into_a_home_or_a_run(run: RunDirectory, home: Home) -> None:
    directories = [run.path, *(path for path in run.path.rglob("*") if path.is_dir())]
    assert len(directories) == 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in directories} == {0o700}
    assert stat.S_IMODE(run.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((run.path / "lock").stat().st_mode) == 0o600


def test_the_upstream_key_is_in_the_environment_and_in_no_file(home: Home) -> None:
    assert home.environment(PROFILE)[KEY_VARIABLE] == "secret"
    files = [path for path in home.root.rglob("*") if path.is_file()]
    assert files
    assert all(b"secret" not in path.read_bytes() for path in files)
    assert "secret" not in repr(PROFILE)


def test_a_worker_sees_nothing_of_our_environment(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "ours")
    monkeypatch.setenv("LD_PRELOAD", "evil.so")
    assert home.environment(PROFILE) == {
        "PATH": os.defpath,
        "HOME": str(home.root),
        "TMPDIR": str(home.temp),
        "CODEX_HOME": str(home.codex_home),
        "LANG": "C.UTF-8",
        "RUST_LOG": "error",
        "NO_COLOR": "1",
        KEY_VARIABLE: "secret",
    }


def test_a_profile_may_add_variables_but_not_replace_the_key(home: Home) -> None:
    profile = replace(PROFILE, env=(("HTTPS_PROXY", "http://proxy"), ("RUST_LOG", "info"), (KEY_VARIABLE, "wrong")))
    environment = home.environment(profile)
    assert environment["HTTPS_PROXY"] == "http://proxy"
    assert environment["RUST_LOG"] == "info"
    assert environment[KEY_VARIABLE] == "secret"


def test_without_a_key_there_is_no_key_variable(home: Home) -> None:
    assert KEY_VARIABLE not in home.environment(KEYLESS)


def test_a_login_file_is_linked_so_that_a_renewed_login_is_seen(run: RunDirectory, tmp_path: Path) -> None:
    auth_file = tmp_path / "auth.json"
    auth_file.write_text("{}")
    profile = replace(PROFILE, credentials=Credentials(auth_file=auth_file))
    home = Home.create(run.path, "main-0-1", profile, b"{}")
    assert (home.codex_home / "auth.json").resolve() == auth_file
    home.remove()
    assert auth_file.read_text() == "{}"


def test_a_removed_home_leaves_nothing_and_can_be_removed_again(run: RunDirectory, home: Home) -> None:
    (home.codex_home / "logs_2.sqlite").write_bytes(b"x")
    home.remove()
    home.remove()
    assert [path.name for path in run.path.iterdir()] == ["lock"]


def test_a_home_that_cannot_be_made_is_an_os_error(run: RunDirectory, home: Home) -> None:
    with pytest.raises(OSError, match="exists"):
        Home.create(run.path, "main-0-1", PROFILE, b"{}")


# --- the configuration -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("credentials", "member"),
    [
        (Credentials(api_key="secret"), {"env_key": KEY_VARIABLE}),
        (Credentials(auth_file=Path("/x/auth.json")), {"requires_openai_auth": True}),
        (Credentials(), {}),
    ],
    ids=["key", "login", "none"],
)
def test_the_provider_is_told_how_to_prove_itself(credentials: Credentials, member: dict[str, object]) -> None:
    written = configuration(replace(PROFILE, credentials=credentials), Path("/home"))
    assert written["model_providers"]["upstream"] == {
        "name": "upstream",
        "base_url": PROFILE.base_url,
        "wire_api": "responses",
        "request_max_retries": 0,
        "stream_max_retries": 0,
        "stream_idle_timeout_ms": 300_000,
        **member,
    }
    assert written["model_provider"] == "upstream"


def test_nothing_of_the_agent_is_left_on() -> None:
    written = configuration(PROFILE, Path("/home"))
    assert set(written["features"].values()) == {False}
    assert {"shell_tool", "unbounded_connection_retries", "multi_agent"} <= set(written["features"])
    assert (written["approval_policy"], written["sandbox_mode"], written["web_search"]) == (
        "never",
        "read-only",
        "disabled",
    )
    assert written["project_doc_max_bytes"] == 0
    assert not any(value for name, value in written.items() if name.startswith("include_"))


# --- the catalogue ---------------------------------------------------------------------------------------------

BUNDLED: list[dict[str, Any]] = [
    {"slug": "gpt-5.5", "tool_mode": None, "base_instructions": "You are", "display_name": "GPT"},
    {"slug": "gpt-6", "tool_mode": "code_mode_only", "use_responses_lite": True, "context_window": 5},
]


def test_every_bundled_model_loses_its_tools_and_its_prompt() -> None:
    models = json.loads(catalogue(BUNDLED, ()))["models"]
    assert [model["slug"] for model in models] == ["gpt-5.5", "gpt-6"]
    for model in models:
        assert (model["tool_mode"], model["use_responses_lite"], model["base_instructions"]) == (None, False, "")
        assert model["context_window"] == model["max_context_window"] == CONTEXT_WINDOW_TOKENS
    assert models[0]["display_name"] == "GPT"


def test_a_model_of_our_own_is_described_like_its_nearest_relative() -> None:
    models = json.loads(catalogue([{**BUNDLED[0], "kin": 5}, {**BUNDLED[1], "kin": 6}], ("gpt-6-mini", "other")))[
        "models"
    ]
    added = {model["slug"]: model for model in models[2:]}
    assert {slug: model["kin"] for slug, model in added.items()} == {"gpt-6-mini": 6, "other": 5}
    assert added["gpt-6-mini"]["display_name"] == "gpt-6-mini"


def test_no_model_is_there_twice() -> None:
    models = json.loads(catalogue(BUNDLED, ("gpt-6", "new", "new")))["models"]
    assert [model["slug"] for model in models] == ["gpt-5.5", "gpt-6", "new"]


def test_an_empty_catalogue_is_refused() -> None:
    with pytest.raises(EnvironmentUnfit, match="empty"):
        catalogue([], ("gpt-5.5",))


# --- runs ------------------------------------------------------------------------------------------------------


def test_what_a_crashed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    crashed = RunDirectory.create(tmp_path)
    Home.create(crashed.path, "main-0-1", PROFILE, b"{}")
    crash(crashed)
    following = RunDirectory.create(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["lock", following.path.name])
    following.remove()


def test_a_run_that_lives_is_left_alone(tmp_path: Path) -> None:
    living = RunDirectory.create(tmp_path)
    home = Home.create(living.path, "main-0-1", PROFILE, b"{}")
    other = RunDirectory.create(tmp_path)
    assert sweep(tmp_path) == 0
    assert home.codex_home.is_dir()
    assert living.path != other.path
    other.remove()
    assert home.codex_home.is_dir()
    living.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    for name in ("notes", "run-reports", "codex-completions-run-without-a-lock"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run-1").write_text("x")
    (tmp_path / "codex-completions-run-notes.txt").write_text("x")
    RunDirectory.create(tmp_path).remove()
    for name in ("notes", "run-reports", "codex-completions-run-without-a-lock"):
        assert (tmp_path / name / "run-1").read_text() == "x"
    assert (tmp_path / "codex-completions-run-notes.txt").read_text() == "x"


def test_a_home_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_path: Path, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", no_space)
    with pytest.raises(OSError, match="No space"):
        Home.create(tmp_path, "main-0-1", PROFILE, b"{}")
    assert list(tmp_path.iterdir()) == []


def test_the_state_directory_is_made_if_it_is_missing(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "a" / "b")
    assert run.path.parent == tmp_path / "a" / "b"
    run.remove()


def test_a_state_directory_that_cannot_be_used_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentUnfit, match=r"^state_dir .*file/below cannot be used: Not a directory$"):
        RunDirectory.create(tmp_path / "file" / "below")


def test_no_lock_is_inherited_by_a_child(run: RunDirectory) -> None:
    assert not os.get_inheritable(run._lock)

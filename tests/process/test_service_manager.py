"""The command under a service manager: what it says to it, and that its workers cannot."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.test_serve import A_WHILE, Command, Request, refusal, wait_until
from tests.support.managers import Ear, listening_in
from tests.support.services import KEY, scripted


class Managed(Command):
    """A command with more variables."""

    variables: dict[str, str]

    @property
    def _environ(self) -> dict[str, str]:
        return super()._environ | self.variables


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    with listening_in(tmp_path) as ear:
        yield ear


@pytest.fixture
def command(tmp_path: Path, ear: Ear) -> Managed:
    command = Managed(tmp_path)
    command.variables = {"NOTIFY_SOCKET": ear.address, "WATCHDOG_USEC": "200000"}
    return command


def test_a_service_manager_hears_of_the_start_a_reload_the_drain_and_the_loop(command: Managed, ear: Ear) -> None:
    with command.serve() as serving:
        wait_until(lambda: ear.facts() == ["READY=1"])
        assert serving.get("/readyz").status == 200, "who is ready serves"
        serving.signal(signal.SIGHUP)
        wait_until(lambda: ear.facts() == ["READY=1", "RELOADING=1", "READY=1"])
        answer = Request(serving.port, A_WHILE, stream=True)
        answer.until_text()
        serving.signal(signal.SIGTERM)
        wait_until(lambda: ear.facts()[3:] == ["STOPPING=1"])
        so_far = ear.heard().count("WATCHDOG=1")
        assert answer.read().stream.is_done
        assert serving.exit_code() == 0
    assert ear.facts() == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]
    assert ear.heard().count("WATCHDOG=1") > so_far, "the loop is watched while it drains"


def test_workers_know_nothing_of_the_service_manager(command: Managed, ear: Ear, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "OPENAI_API_KEY").write_text("sk-upstream\n")
    command.variables["CREDENTIALS_DIRECTORY"] = str(credentials)
    with command.serve() as serving:
        wait_until(lambda: ear.facts() == ["READY=1"])
        (worker,) = serving.workers()
        environ = Path(f"/proc/{worker}/environ").read_text()
    assert "CODEX_HOME=" in environ
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "CREDENTIALS_DIRECTORY", ear.address):
        assert name not in environ


def test_workers_cannot_be_given_the_service_managers_socket(command: Managed) -> None:
    command.profile["pass_env"] = ["NOTIFY_SOCKET"]
    done = command.run("serve")
    assert done.returncode == 2
    assert "NOTIFY_SOCKET" in refusal(done)


def test_a_credential_stands_for_the_variable_of_its_name(command: Managed, ear: Ear, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "OPENAI_API_KEY").write_text("sk-upstream\n")
    (credentials / "CODEX_COMPLETIONS_API_KEY").write_text(f"{KEY}\n")
    (credentials / "auth.json").write_bytes(b"\xff")
    command.variables["CREDENTIALS_DIRECTORY"] = str(credentials)
    del command.profile["anonymous"]
    del command.config["keys"]
    with command.serve() as serving:
        assert serving.chat(scripted(text="hi")).text == "hi"
        (worker,) = serving.workers()
        assert "CODEX_COMPLETIONS_UPSTREAM_KEY=sk-upstream\0" in Path(f"/proc/{worker}/environ").read_text()


def test_a_variable_wins_over_a_credential(command: Managed, ear: Ear, tmp_path: Path) -> None:
    (tmp_path / "CODEX_COMPLETIONS_KEYS").write_text("no JSON")
    hashed = hashlib.sha256(KEY.encode()).hexdigest()
    command.variables |= {
        "CREDENTIALS_DIRECTORY": str(tmp_path),
        "CODEX_COMPLETIONS_KEYS": f'[{{"name": "variable", "sha256": "{hashed}"}}]',
    }
    del command.config["keys"]
    with command.serve() as serving:
        assert serving.chat(scripted(text="hi")).text == "hi"


def test_credentials_that_cannot_be_read_are_one_line_and_exit_2(command: Managed, tmp_path: Path) -> None:
    done = command.run("serve", environ={"CREDENTIALS_DIRECTORY": str(tmp_path / "absent")})
    assert done.returncode == 2
    assert "CREDENTIALS_DIRECTORY" in refusal(done)

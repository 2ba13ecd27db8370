"""The systemd unit: what systemd says of it, and that it fits what the service does."""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from service.__main__ import EXIT_CONFIGURATION, EXIT_ENVIRONMENT, VARIABLE
from service.launch import profiles
from service.settings import load

UNIT = Path(__file__).parents[2] / "deploy" / "codex-completions.service"
ANALYZE = shutil.which("systemd-analyze")
analyzed = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
KEY = "sk-7hFqv2Xn9TzLw4RbYc8KdMp3"


def directives() -> dict[str, list[str]]:
    """Each directive and all of its values."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in UNIT.read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found[name].append(value)
    return found


def one(name: str) -> str:
    """The only value of a directive."""
    (value,) = directives()[name]
    return value


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert ANALYZE is not None
    return subprocess.run([ANALYZE, *arguments], capture_output=True, text=True, timeout=60, check=False)


@analyzed
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    program = tmp_path / "codex-completions"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(one("ExecStart").split()[0], str(program)))
    done = analyze("verify", "--man=no", str(unit))
    assert (done.returncode, [line for line in done.stderr.splitlines() if UNIT.name in line]) == (0, [])


@analyzed
def test_systemd_finds_what_is_wrong(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("KillMode=mixed", "KillMode=gently"))
    assert "Failed to parse kill mode" in analyze("verify", "--man=no", str(unit)).stderr


@analyzed
def test_systemd_counts_it_among_the_hardened() -> None:
    done = analyze("security", "--offline=true", "--no-pager", "--threshold=25", str(UNIT))
    assert done.returncode == 0, done.stdout.splitlines()[-1:]


def test_systemd_waits_for_the_whole_stop_and_sends_workers_no_signal() -> None:
    drain_s = load(None, {}).server.drain_timeout_s
    assert int(one("TimeoutStopSec")) >= drain_s + 2 + 10 + 5
    assert one("KillMode") == "mixed"


def test_systemd_is_told_and_watches() -> None:
    assert one("Type") == "notify"
    assert one("NotifyAccess") == "main"
    assert int(one("WatchdogSec")) >= 10, "a busy machine is no reason to end every answer"
    assert one("ExecReload") == "/bin/kill -HUP $MAINPID"


def test_what_does_not_go_away_is_not_tried_again() -> None:
    assert one("RestartPreventExitStatus").split() == [str(EXIT_CONFIGURATION), str(EXIT_ENVIRONMENT)]


def test_its_directory_and_its_credential_are_what_the_service_uses() -> None:
    environ = dict(value.split("=", 1) for value in directives()["Environment"])
    name, _, _ = one("LoadCredential").partition(":")
    assert VARIABLE.fullmatch(name)
    settings = load(None, environ | {"CODEX_COMPLETIONS_API_KEY": KEY})
    assert settings.state_dir == Path("/var/lib") / one("StateDirectory")
    (profile,) = profiles(settings, {name: "sk-upstream"})
    assert profile.credentials.api_key == "sk-upstream"


def test_a_worker_may_do_what_the_codex_cli_does() -> None:
    assert {"@system-service", "@mount", "seccomp"} <= {*one("SystemCallFilter").split()}
    assert {"MemoryDenyWriteExecute", "RestrictNamespaces", "PrivateNetwork", "PrivateUsers"}.isdisjoint(directives())

"""The smoke checks against a running service: all hold, one fails, and none of them waits for ever."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from loadtest.smoke import CHECKS, main
from tests.support.services import KEY, scripted
from tests.support.serving import ENVIRON, Served, serving_fakes

CALLS = scripted(tool_calls=[{"name": "get_weather", "arguments": {"city": "Paris"}}])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_fakes(tmp_path_factory.mktemp("smoke")) as service:
        yield service


def smoke(url: str, *flags: str, key: str = KEY) -> tuple[int, dict[str, str]]:
    """The command's exit code, and the verdict of each check."""
    command = [sys.executable, "-m", "loadtest.smoke", "--base-url", url, "--key", key, *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=ENVIRON)
    assert done.stderr == ""
    verdicts = {line[8:26].rstrip(): line[:8].rstrip() for line in done.stdout.splitlines()}
    assert list(verdicts) == [name for name, _ in CHECKS], "one line a check"
    return done.returncode, verdicts


def test_a_service_that_works_passes_every_check_and_keeps_nothing(served: Served) -> None:
    code, verdicts = smoke(served.base_url, "--tool-prompt", CALLS)
    assert set(verdicts.values()) == {"ok"}
    assert code == 0
    served.until_at_rest()
    assert served.metric("store_responses") == 0


def test_a_model_that_calls_nothing_is_no_failure_and_is_said(served: Served) -> None:
    code, verdicts = smoke(served.url)
    assert [name for name, verdict in verdicts.items() if verdict != "ok"] == ["tool call"]
    assert verdicts["tool call"] == "skipped"
    assert code == 0


def test_one_check_that_fails_is_the_commands_failure(served: Served) -> None:
    code, verdicts = smoke(served.url, "--tool-prompt", scripted(status=500, error={"message": "broken"}))
    assert [name for name, verdict in verdicts.items() if verdict != "ok"] == ["tool call"]
    assert verdicts["tool call"] == "FAILED"
    assert code == 1


def test_with_a_wrong_key_what_needs_one_fails(served: Served) -> None:
    code, verdicts = smoke(served.url, key="sk-" + "x" * 43)
    assert [name for name, verdict in verdicts.items() if verdict == "ok"] == ["health", "models", "bad key"]
    assert code == 1


def test_whoever_never_answers_is_not_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began_at = time.monotonic()
        port = mute.getsockname()[1]
        assert main(["--base-url", f"http://127.0.0.1:{port}", "--key", KEY, "--model", "m", "--limit", "0.2"]) == 1
    assert time.monotonic() - began_at < 20
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CHECKS)
    assert all(line.startswith("FAILED") for line in lines)

"""`loadtest.fake_app_server` as a real child process: its command line, its pipes and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from loadtest.fake_app_server import write_launcher
from tests.loadtest.driver import DEADLINE_S, AppServer, Frame, StdoutClosedError, directive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Start = Callable[..., AppServer]

QUIET_S = 0.1
"""How long nothing must come before a test believes that nothing will."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a fake with the given flags; all are gone after the test."""
    servers: list[AppServer] = []

    def start(*flags: str) -> AppServer:
        launcher = write_launcher(tmp_path / f"codex {len(servers)}", *flags)
        servers.append(AppServer([launcher, "app-server", "-c", "a=b"], env={"CODEX_HOME": "/h"}, cwd=tmp_path))
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__()


def run(tmp_path: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    launcher = write_launcher(tmp_path / "codex")
    return subprocess.run([launcher, *argv], capture_output=True, text=True, check=False, timeout=DEADLINE_S, env={})


# The command line.


def test_it_tells_its_version(tmp_path: Path) -> None:
    assert run(tmp_path, "--version").stdout == "codex-cli 0.163.0\n"
    old = write_launcher(tmp_path / "old", "--version-string", "0.140.0")
    assert subprocess.check_output([old, "--version"]) == b"codex-cli 0.140.0\n"


def test_it_prints_a_catalogue_of_two_models(tmp_path: Path) -> None:
    models = json.loads(run(tmp_path, "debug", "models", "--bundled").stdout)["models"]
    assert [model["slug"] for model in models] == ["model-a", "model-b"]


def test_an_unknown_subcommand_is_an_error(tmp_path: Path) -> None:
    finished = run(tmp_path, "dance")
    assert finished.returncode == 2
    assert "dance" in finished.stderr


@pytest.mark.codex
def test_its_models_have_the_fields_of_the_real_catalogue(tmp_path: Path) -> None:
    from codex_cli_bin import bundled_codex_path  # noqa: PLC0415 (only where the real binary is installed)

    env = {"CODEX_HOME": str(tmp_path), "HOME": str(tmp_path)}
    command = [str(bundled_codex_path()), "debug", "models", "--bundled"]
    real = json.loads(subprocess.check_output(command, env=env, stderr=subprocess.DEVNULL))["models"]
    fake = json.loads(run(tmp_path, "debug", "models", "--bundled").stdout)["models"]
    assert all(set(model) == set(real[0]) for model in fake)


def test_a_launcher_works_from_anywhere_with_an_empty_environment(start: Start) -> None:
    server = start("--version-string", "0.158.1", "--delta", 'it\'s "x" ', "--chunks", "2")
    result = server.initialize()["result"]
    assert result["userAgent"].startswith("test/0.158.1 (")
    assert result["codexHome"] == "/h"
    assert server.ask("hello")["items"][0]["text"] == 'it\'s "x" it\'s "x" '


# How it ends.


def test_it_ends_when_its_stdin_does_even_in_mid_turn(start: Start) -> None:
    server = start()
    server.initialize()
    server.start_turn(directive(hang="middle"))
    server.notification("item/agentMessage/delta")
    server.close_stdin()
    assert server.wait() == 0


def test_it_ends_on_sigterm_unless_told_to_ignore_it(start: Start) -> None:
    server, stubborn = start(), start("--ignore-sigterm")
    for each in (server, stubborn):
        each.initialize()
        each.process.terminate()
    assert server.wait() == 0
    assert "result" in stubborn.call("thread/loaded/list")


def test_it_can_outlive_its_stdin(start: Start) -> None:
    server = start("--ignore-stdin-eof")
    server.initialize()
    server.start_turn(directive(chunks=["a", "b"], interval_s=QUIET_S))
    server.close_stdin()
    server.notification("turn/completed")
    assert server.process.poll() is None


def test_it_can_end_before_anything_else(start: Start) -> None:
    assert start("--exit-at-once", "5").wait() == 5


def test_it_can_end_after_some_turns_which_are_told_to_the_end(start: Start) -> None:
    server = start("--exit-after-turns", "2")
    server.initialize()
    assert [server.ask("hello")["status"] for _ in range(2)] == ["completed"] * 2
    assert server.wait() == 1


def test_an_invalid_byte_ends_it(start: Start) -> None:
    server = start()
    server.initialize()
    server.write(b"\xff\n")
    assert server.wait() == 0


def test_a_child_can_hold_its_stdout_open(start: Start) -> None:
    server = start("--hold-pipe")
    server.initialize("configWarning", "remoteControl/status/changed")
    server.close_stdin()
    assert server.wait() == 0
    with pytest.raises(TimeoutError):
        server.read_line(QUIET_S)


# Scripted faults.


@pytest.mark.parametrize(
    ("fault", "code"), [({"exit": 7}, 7), ({"exit": 0}, 0), ({"kill_self": True}, -signal.SIGKILL)]
)
def test_a_process_that_ends_in_mid_turn_has_said_what_came_before(start: Start, fault: Frame, code: int) -> None:
    server = start()
    server.initialize()
    server.start_turn(directive(chunks=["a", "b"], **fault))
    assert server.notification("item/agentMessage/delta")["params"]["delta"] == "a"
    with pytest.raises(StdoutClosedError):
        server.read_line()
    assert server.wait() == code


def test_a_process_can_end_before_it_replies(start: Start) -> None:
    server = start()
    server.initialize("thread/started", "configWarning", "remoteControl/status/changed")
    server.start_turn(directive(exit=3, at="start"))
    with pytest.raises(StdoutClosedError):
        server.read_line()
    assert server.wait() == 3


def test_a_stopped_process_goes_on_when_continued(start: Start) -> None:
    server = start()
    server.initialize()
    server.start_turn(directive(chunks=["a", "b"], stop_self=True))
    _, status = os.waitpid(server.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    server.process.send_signal(signal.SIGCONT)
    assert server.notification("turn/completed")["params"]["turn"]["items"][0]["text"] == "ab"


def test_stdout_can_end_while_the_process_lives_on(start: Start) -> None:
    server = start()
    server.initialize()
    server.start_turn(directive(stdout_eof=True))
    server.notification("item/agentMessage/delta")
    with pytest.raises(StdoutClosedError):
        server.read_line()
    assert server.process.poll() is None
    server.close_stdin()
    assert server.wait() == 0


def test_half_a_line_is_followed_by_silence(start: Start) -> None:
    server = start()
    server.initialize()
    server.start_turn(directive(half_line=True))
    server.notification("item/agentMessage/delta")
    server.request("thread/loaded/list")
    with pytest.raises(TimeoutError, match="item/agentMessage/delta"):
        server.read_line(QUIET_S)
    assert server.process.poll() is None


def test_a_big_line_arrives_whole(start: Start) -> None:
    server = start()
    server.initialize()
    server.start_turn(directive(big_line=20_000_000))
    noise = server.notification("fake/noise")
    assert len(json.dumps(noise, separators=(",", ":"))) == 20_000_000
    server.notification("turn/completed")


def test_garbage_is_followed_by_the_rest_of_the_turn(start: Start) -> None:
    server = start()
    server.initialize()
    server.start_turn(directive(garbage=True))
    server.notification("item/agentMessage/delta")
    with pytest.raises(json.JSONDecodeError):
        server.notification("turn/completed")
    assert server.notification("turn/completed")["params"]["turn"]["status"] == "completed"


def test_it_can_grow_with_every_turn(start: Start) -> None:
    server = start("--grow-bytes", str(20 * 1024 * 1024))
    server.initialize()

    def memory_bytes() -> int:
        return int(server.call("server/diagnostics")["result"]["process"]["residentMemoryBytes"])

    before = memory_bytes()
    server.ask("hello")
    assert memory_bytes() - before > 15 * 1024 * 1024


def test_it_can_stop_reading_its_stdin(start: Start) -> None:
    server = start("--stop-reading")
    server.initialize("configWarning", "remoteControl/status/changed")
    server.request("thread/loaded/list")
    with pytest.raises(TimeoutError):
        server.read_line(QUIET_S)
    server.process.terminate()
    assert server.wait() == 0


def test_flags_can_break_a_reply_some_times(start: Start) -> None:
    server = start("--overloaded", "thread/start:2", "--lose-reply", "thread/loaded/list:1")
    server.initialize()
    codes = [server.call("thread/start", {}).get("error", {}).get("code") for _ in range(3)]
    assert codes == [-32001, -32001, None]
    lost, answered = [server.request("thread/loaded/list") for _ in range(2)]
    assert server.reply_to(answered)["result"]["data"]
    assert all(frame.get("id") != lost for frame in server.frames)


def test_a_reader_who_does_not_read_bounds_its_memory(start: Start) -> None:
    server = start()
    server.initialize()
    before = resident_bytes(server.process.pid)
    server.start_turn(directive(text="x" * 1000, chunk_size=1000, repeat=60_000))
    server.notification("item/agentMessage/delta")
    assert resident_bytes(server.process.pid) - before < 16 * 1024 * 1024
    assert server.process.poll() is None


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:  # noqa: PTH123 (a path of the kernel's)
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_it_is_fast(start: Start) -> None:
    server = start()
    server.initialize("item/started", "item/completed", "thread/started", "thread/status/changed")
    started_at = time.perf_counter()
    for _ in range(200):
        server.ask("hello")
    assert time.perf_counter() - started_at < 2.0

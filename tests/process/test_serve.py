"""The command itself, as a process: it serves, drains, dies cleanly, and says in one line why it cannot start."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from loadtest.fake_app_server import write_launcher
from service import __version__
from tests.support.services import (
    AUTHORIZED,
    JSON_BODY,
    KEY,
    WAIT_S,
    Answer,
    Json,
    Stream,
    alive_in_sessions,
    body,
    children_of,
    scripted,
)

ROOT = Path(__file__).parents[2]
FOREVER = scripted(chunks=["tick "], repeat=100_000, interval_s=0.01)
A_WHILE = scripted(chunks=["tick "], repeat=60, interval_s=0.01)


def wait_until(condition: Callable[[], object], bound_s: float = WAIT_S) -> None:
    """Wait until `condition()` holds, for `bound_s` at most."""
    end = time.monotonic() + bound_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


class Request:
    """A request that is on its way; `read` gives the rest of its answer."""

    def __init__(self, port: int, prompt: str, **fields: Any) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
        asked = json.dumps(body(prompt, **fields))
        self._connection.request("POST", "/v1/chat/completions", asked, AUTHORIZED | JSON_BODY)

    def until_text(self) -> None:
        """Read up to the first text."""
        self._response = self._connection.getresponse()
        assert self._response.status == 200
        self._begun = b""
        while b'"content":' not in self._begun:
            self._begun += self._response.read1()

    def read(self) -> Answer:
        """The whole answer."""
        if not hasattr(self, "_response"):
            self._response, self._begun = self._connection.getresponse(), b""
        raw = self._begun + self._response.read()
        self._connection.close()
        return Answer(self._response.status, dict(self._response.getheaders()), raw)


class Serving:
    """A running `codex-completions serve`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> list[Json]:
        """Its log: every complete line is a JSON object."""
        text = self._log.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def of(self, event: str) -> list[Json]:
        """The log lines of one kind."""
        return [line for line in self.log if line["event"] == event]

    def until_logged(self, event: str) -> Json:
        """The first line of this kind."""
        wait_until(lambda: self.of(event) or self.process.poll() is not None)
        assert self.of(event), self._log.read_text()
        return self.of(event)[0]

    @property
    def port(self) -> int:
        return int(self.until_logged("service.started")["url"].rpartition(":")[2])

    def get(self, path: str) -> Answer:
        """A GET on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        connection.request("GET", path)
        response = connection.getresponse()
        answer = Answer(response.status, dict(response.getheaders()), response.read())
        connection.close()
        return answer

    def chat(self, prompt: str = "Hello.", **fields: Any) -> Answer:
        """A chat completion on a connection of its own."""
        return Request(self.port, prompt, **fields).read()

    def workers(self) -> set[int]:
        """Its workers, each the leader of a session."""
        return children_of(self.process.pid)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit_code(self, bound_s: float = WAIT_S) -> int:
        """How it ends, within the bound."""
        return self.process.wait(bound_s)


class Command:
    """The command with a configuration of one scripted profile, in a directory of its own."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.launcher = write_launcher(folder / "codex", *flags)
        profile = {"codex_bin": str(self.launcher), "anonymous": True, "workers": 1, "slots": 2}
        self.config: dict[str, Any] = {
            "state_dir": str(self.state),
            "server": {"port": 0},
            "keys": [{"name": "tests", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}],
            "profiles": {"default": profile},
        }

    @property
    def profile(self) -> dict[str, Any]:
        """The profile `default`, to be changed before the start."""
        profile: dict[str, Any] = self.config["profiles"]["default"]
        return profile

    def runs(self) -> list[Path]:
        """The directories of runs."""
        return list(self.state.glob("codex-completions-run-*"))

    def _argv(self, *arguments: str) -> list[str]:
        (self.folder / "service.toml").write_text(tomli_w.dumps(self.config))
        return [sys.executable, "-m", "service", "--config", str(self.folder / "service.toml"), *arguments]

    def run(self, *arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """The finished command."""
        return subprocess.run(
            self._argv(*arguments),
            cwd=ROOT,
            env=self._environ | dict(environ or {}),
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )

    @property
    def _environ(self) -> dict[str, str]:
        return {"PATH": os.defpath, "HOME": str(self.folder), "CODEX_HOME": str(self.folder / "no-login")}

    @contextmanager
    def serve(self) -> Iterator[Serving]:
        """The command, serving; whatever happens, it and its workers end with the block."""
        log = self.folder / f"log-{len(list(self.folder.glob('log-*')))}"
        with log.open("wb") as stderr:
            process = subprocess.Popen(self._argv("serve"), cwd=ROOT, env=self._environ, stderr=stderr)
        workers: set[int] = set()
        try:
            yield Serving(process, log)
            workers = children_of(process.pid)
        finally:
            process.kill()
            process.wait(WAIT_S)
        wait_until(lambda: not alive_in_sessions(workers))


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line in which a command says why not."""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("codex-completions: ")
    return lines[0].removeprefix("codex-completions: ")


# --- serving and stopping ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_stop_and_leaves_nothing(command: Command, number: signal.Signals) -> None:
    with command.serve() as serving:
        assert serving.chat(scripted(text="hi")).text == "hi"
        assert serving.chat(scripted(text="hi"), stream=True).stream.is_done
        assert serving.get("/readyz").status == 200
        workers = serving.workers()
        assert len(workers) == 1
        assert len(command.runs()) == 1
        assert command.state.stat().st_mode & 0o777 == 0o700
        serving.signal(number)
        assert serving.exit_code(5) == 0
        assert not alive_in_sessions(workers)
        assert command.runs() == []
        events = [line["event"] for line in serving.log]
    facts = [event for event in events if event != "worker.moved"]
    assert facts[:2] == ["worker.booted", "service.started"]
    assert facts[-1] == "worker.exited"
    assert events.index("service.draining") < events.index("service.stopped")
    assert all(line["level"] == "info" for line in serving.log)


def test_a_stop_lets_running_and_waiting_answers_finish_and_takes_nothing_new(command: Command) -> None:
    command.profile["slots"] = 1
    with command.serve() as serving:
        port = serving.port
        running = Request(port, A_WHILE, stream=True)
        running.until_text()
        waiting = Request(port, scripted(text="after all"))
        wait_until(lambda: b'jobs_waiting{profile="default",priority="standard"} 1\n' in serving.get("/metrics").raw)
        workers = serving.workers()
        serving.signal(signal.SIGTERM)
        serving.until_logged("service.draining")
        for stream in (False, True):
            refused = serving.chat(stream=stream)
            assert (refused.status, refused.code) == (503, "draining")
            assert int(refused.headers["Retry-After"]) >= 1
        unready = serving.get("/readyz")
        assert (unready.status, unready.json["health"]["readiness"]["reason"]) == (503, "shutdown_in_progress")
        stream_read = running.read().stream
        assert (stream_read.text, stream_read.is_done) == ("tick " * 60, True)
        assert waiting.read().text == "after all"
        assert serving.exit_code(5) == 0
        assert not alive_in_sessions(workers)
        assert command.runs() == []


def test_answers_that_outlast_the_drain_are_cut_with_an_error(command: Command) -> None:
    command.config["server"]["drain_timeout_s"] = 0.3
    with command.serve() as serving:
        port = serving.port
        stream, plain = Request(port, FOREVER, stream=True), Request(port, FOREVER)
        waiting = Request(port, "never run")
        stream.until_text()
        workers = serving.workers()
        began_at = time.monotonic()
        serving.signal(signal.SIGTERM)
        cut: Stream = stream.read().stream
        assert [error["code"] for error in cut.errors] == ["draining"]
        assert cut.text.startswith("tick tick ")
        assert (cut.finishes, cut.is_done) == ([], False)
        for other in (plain.read(), waiting.read()):
            assert (other.status, other.code) == (503, "draining")
        assert serving.exit_code(5) == 0
        assert 0.3 <= time.monotonic() - began_at < 5
        assert not alive_in_sessions(workers)


def test_a_second_signal_ends_the_wait(command: Command) -> None:
    command.config["server"]["drain_timeout_s"] = 60
    with command.serve() as serving:
        stream = Request(serving.port, FOREVER, stream=True)
        stream.until_text()
        serving.signal(signal.SIGTERM)
        serving.until_logged("service.draining")
        assert serving.process.poll() is None
        serving.signal(signal.SIGTERM)
        assert [error["code"] for error in stream.read().stream.errors] == ["draining"]
        assert serving.exit_code(5) == 0


def test_a_client_that_keeps_its_connection_open_does_not_delay_the_end(command: Command) -> None:
    with command.serve() as serving, socket.create_connection(("127.0.0.1", serving.port)) as idle:
        idle.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(10).startswith(b"HTTP/1.1 2")
        with socket.create_connection(("127.0.0.1", serving.port)):
            serving.signal(signal.SIGTERM)
            assert serving.exit_code(5) == 0


def test_a_stop_during_the_boot_is_obeyed(tmp_path: Path) -> None:
    command = Command(tmp_path, "--initialize", "hang")
    with command.serve() as serving:
        wait_until(serving.workers)
        workers = serving.workers()
        wait_until(lambda: catches_sigterm(serving.process.pid))
        serving.signal(signal.SIGTERM)
        assert serving.exit_code(6) == 0
        assert not alive_in_sessions(workers)
        assert command.runs() == []


def catches_sigterm(pid: int) -> bool:
    """Whether it has a handler for SIGTERM."""
    found = re.search(r"^SigCgt:\s+([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_workers_die_with_a_service_that_is_killed_and_the_next_start_sweeps_up(command: Command) -> None:
    command.profile["workers"] = 2
    with command.serve() as serving:
        assert serving.chat().status == 200
        wait_until(lambda: len(serving.of("worker.booted")) == 2)
        workers = serving.workers()
        assert len(workers) == 2
        os.kill(max(workers), signal.SIGSTOP)
        serving.signal(signal.SIGKILL)
        assert serving.exit_code() == -signal.SIGKILL
        wait_until(lambda: not alive_in_sessions(workers), 2.0)
    (left,) = command.runs()
    with command.serve() as serving:
        assert serving.chat().status == 200
        assert left not in command.runs()
        assert len(command.runs()) == 1


def test_two_services_share_a_state_directory(command: Command) -> None:
    with command.serve() as first:
        assert first.chat().status == 200
        with command.serve() as second:
            assert second.chat().status == 200
            assert len(command.runs()) == 2
            second.signal(signal.SIGTERM)
            assert second.exit_code(5) == 0
        assert len(command.runs()) == 1
        assert first.chat().status == 200


def test_a_profile_whose_worker_never_answers_stops_nobody_else(command: Command) -> None:
    hanging = write_launcher(command.folder / "hanging", "--initialize", "hang")
    sick = {"codex_bin": str(hanging), "anonymous": True, "workers": 1, "init_timeout_s": 0.5, "queue_budget_s": 0.2}
    command.config["profiles"]["sick"] = sick
    command.config["models"] = {"good": {}, "bad": {"profile": "sick"}}
    with command.serve() as serving:
        assert serving.chat(model="good").status == 200
        refused = serving.chat(model="bad")
        assert (refused.status, refused.code) == (503, "queue_timeout")
        assert serving.get("/readyz").status == 503
        reason = serving.get("/healthz").json["worker_supervisor"]["profiles"]["sick"]["last_failure"]
        assert reason == "initialize was not answered"
        assert serving.until_logged("worker.boot_failed")["worker"].startswith("sick/")
        serving.signal(signal.SIGTERM)
        assert serving.exit_code(6) == 0


# --- what keeps it from starting ---------------------------------------------------------------------------------


def test_a_port_in_use_is_one_line_and_exit_3(command: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command.config["server"]["port"] = port
        done = command.run("serve")
    assert done.returncode == 3
    *log, last = done.stderr.splitlines()
    assert last == f"codex-completions: cannot listen on 127.0.0.1:{port}: Address already in use"
    assert all(json.loads(line)["level"] == "info" for line in log)
    assert command.runs() == []


@pytest.mark.parametrize("name", ["serve", "check"])
def test_no_key_is_one_line_and_exit_2(command: Command, name: str) -> None:
    del command.config["keys"]
    done = command.run(name)
    assert done.returncode == 2
    assert refusal(done) == "no API key is configured: `codex-completions key` makes one"


def test_no_credentials_are_one_line_and_exit_2(command: Command) -> None:
    del command.profile["anonymous"]
    done = command.run("serve")
    assert done.returncode == 2
    assert refusal(done).startswith("profile default: no credentials: set OPENAI_API_KEY")
    command.profile["auth_file"] = str(command.folder / "auth.json")
    done = command.run("check")
    assert done.returncode == 2
    assert refusal(done) == f"profile default: auth_file {command.folder}/auth.json does not exist: log in first"
    assert command.runs() == []


def test_a_mistake_in_the_configuration_is_one_line_and_exit_2(command: Command) -> None:
    command.config["server"]["prot"] = 1
    done = command.run("serve")
    assert done.returncode == 2
    assert refusal(done) == f"{command.folder}/service.toml: server.prot: unknown setting"
    done = command.run("check", environ={"CODEX_COMPLETIONS_SERVER__PORT": "x"})
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["serve", "check"])
def test_a_missing_cli_is_one_line_and_exit_3(command: Command, name: str) -> None:
    command.profile["codex_bin"] = str(command.folder / "absent")
    done = command.run(name)
    assert done.returncode == 3
    assert refusal(done) == f"codex_bin {command.folder}/absent is not an executable file"
    assert command.runs() == []


def test_a_binary_that_is_no_codex_cli_is_one_line_and_exit_3(command: Command) -> None:
    command.profile["codex_bin"] = "/bin/true"
    done = command.run("serve")
    assert done.returncode == 3
    assert "prints no model catalogue" in refusal(done)
    assert command.runs() == []


@pytest.mark.parametrize("name", ["serve", "check"])
def test_a_cli_that_is_too_old_is_named_with_the_version_needed(tmp_path: Path, name: str) -> None:
    command = Command(tmp_path, "--version-string", "0.140.0")
    command.profile["workers"] = 2
    done = command.run(name)
    assert done.returncode == 3
    last = done.stderr.splitlines()[-1]
    assert "Codex CLI 0.140.0 is too old: 0.158.0 or newer is needed" in (last if name == "serve" else done.stdout)
    assert last.startswith("codex-completions: ")
    assert command.runs() == []


@pytest.mark.parametrize("name", ["serve", "check"])
def test_a_state_directory_that_cannot_be_is_one_line_and_exit_3(command: Command, name: str) -> None:
    command.config["state_dir"] = str(command.launcher / "state")
    done = command.run(name)
    assert done.returncode == 3
    assert refusal(done) == f"state_dir {command.launcher}/state cannot be used: Not a directory"


def test_a_store_that_cannot_be_is_one_line_and_exit_3(command: Command) -> None:
    command.config["store"] = {"path": str(command.launcher / "below" / "responses.sqlite")}
    done = command.run("serve")
    assert done.returncode == 3
    assert refusal(done) == f"store {command.launcher}/below/responses.sqlite cannot be used: Not a directory"
    assert command.runs() == []


def test_the_store_is_opened_at_the_start_and_closed_at_the_end(command: Command) -> None:
    store = command.state / "responses.sqlite"
    for _ in range(2):
        with command.serve() as serving:
            assert serving.chat().status == 200
            assert Path(f"{store}-wal").exists()
            serving.signal(signal.SIGTERM)
            assert serving.exit_code(5) == 0
        assert store.stat().st_mode & 0o777 == 0o600
        assert not Path(f"{store}-wal").exists()


# --- the other commands ------------------------------------------------------------------------------------------


def test_check_says_what_is_ready(command: Command) -> None:
    other = {"codex_bin": str(command.launcher), "anonymous": True, "workers": 5}
    command.config["profiles"]["other"] = other
    done = command.run("check")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "model codex-5: 1 to default (gpt-5.2)"
    assert sorted(line for line in lines if not line.startswith("model ")) == [
        "profile default: Codex CLI 0.163.0 is ready",
        "profile other: Codex CLI 0.163.0 is ready",
    ]
    assert command.runs() == []


def test_check_says_what_is_not_ready(command: Command) -> None:
    sick = write_launcher(command.folder / "sick", "--initialize", "error")
    command.config["profiles"]["sick"] = {"codex_bin": str(sick), "anonymous": True}
    done = command.run("check")
    assert done.returncode == 3
    assert refusal(done) == "no worker came up for: sick"
    ready, failed = sorted(line for line in done.stdout.splitlines() if not line.startswith("model "))
    assert ready == "profile default: Codex CLI 0.163.0 is ready"
    assert failed.startswith("profile sick: initialize was refused: ")
    assert command.runs() == []


def test_a_key_that_was_made_is_known_by_its_hash(command: Command) -> None:
    done = command.run("key", "--name", "alice")
    assert (done.returncode, done.stderr) == (0, "")
    (made,) = tomllib.loads(done.stdout)["keys"]
    (key,) = re.findall(r"^#\s+(sk-\S+)$", done.stdout, re.MULTILINE)
    assert made == {"name": "alice", "sha256": hashlib.sha256(key.encode()).hexdigest()}
    assert key not in command.run("key", "--name", "alice").stdout, "another every time"


def test_the_schema_is_json(command: Command) -> None:
    done = command.run("schema")
    assert (done.returncode, done.stderr) == (0, "")
    schema = json.loads(done.stdout)
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False


def test_the_version_is_told(command: Command) -> None:
    assert command.run("--version").stdout == f"{__version__}\n"

"""`loadtest.mill`: what a worker that it speaks for says."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from loadtest.mill import STAMP, write_launcher
from tests.loadtest.driver import directive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Worker:
    """A worker as the service sees it."""

    def __init__(self, codex: Path) -> None:
        self.process = subprocess.Popen([str(codex), "app-server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._id = 0

    def send(self, method: str, params: object) -> int:
        assert self.process.stdin is not None
        self._id += 1
        self.process.stdin.write(json.dumps({"id": self._id, "method": method, "params": params}).encode() + b"\n")
        self.process.stdin.flush()
        return self._id

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        frame: dict[str, Any] = json.loads(self.process.stdout.readline())
        return frame

    def call(self, method: str, params: object) -> dict[str, Any]:
        number = self.send(method, params)
        while (frame := self.read()).get("id") != number:
            pass
        return frame

    def begin(self, prompt: str) -> str:
        """Start a turn; its thread."""
        thread = self.call("thread/start", {"model": "m"})["result"]["thread"]["id"]
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": prompt}]}
        self.call("thread/inject_items", {"threadId": thread, "items": [item]})
        self.call("turn/start", {"threadId": thread, "input": []})
        return str(thread)

    def until_completed(self, threads: int = 1) -> list[dict[str, Any]]:
        frames = []
        while threads:
            frames.append(self.read())
            threads -= frames[-1].get("method") == "turn/completed"
        return frames


def deltas(frames: list[dict[str, Any]], thread: str | None = None) -> list[str]:
    return [
        frame["params"]["delta"]
        for frame in frames
        if frame.get("method") == "item/agentMessage/delta" and thread in (None, frame["params"]["threadId"])
    ]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    command = [sys.executable, "-m", "loadtest.mill", str(tmp_path / "mill")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as mill:
        assert mill.stdout is not None
        assert mill.stdout.readline() == b"ready\n"
        one = Worker(write_launcher(tmp_path / "codex", tmp_path / "mill"))
        with one.process:
            one.call("initialize", {"clientInfo": {"name": "test", "version": "1"}})
            yield one
            assert one.process.stdin is not None
            one.process.stdin.close()
            assert one.process.wait(10) == 0
        assert mill.stdin is not None
        mill.stdin.close()
        assert mill.wait(10) == 0


def test_a_turn_says_what_its_prompt_asks_for_and_ends(worker: Worker) -> None:
    worker.begin(directive(chunks=["a", "b"], repeat=3))
    frames = worker.until_completed()
    assert deltas(frames) == ["a", "b"] * 3
    turn = frames[-1]["params"]["turn"]
    assert (turn["status"], turn["items"][0]["text"]) == ("completed", "ababab")
    assert frames[-2]["method"] == "thread/tokenUsage/updated"


def test_turns_without_pauses_share_the_pipe(worker: Worker) -> None:
    words = {worker.begin(directive(chunks=[word], repeat=50_000, delay_s=0.2)): word for word in ("a", "b")}
    frames = worker.until_completed(2)
    for thread, word in words.items():
        assert deltas(frames, thread) == [word] * 50_000
    first = next(number for number, frame in enumerate(frames) if frame["method"] == "turn/completed")
    assert len(deltas(frames[:first])) > 60_000


def test_a_paced_turn_is_written_delta_by_delta_and_says_when(worker: Worker) -> None:
    began_at = time.monotonic()
    worker.begin(directive(chunks=[f"<{STAMP}>"], repeat=4, interval_s=0.02))
    stamps = [int(text.strip("<>")) / 1e6 for text in deltas(worker.until_completed())]
    assert len(stamps) == 4
    assert stamps == sorted(stamps)
    assert all(stamp > began_at + number * 0.02 for number, stamp in enumerate(stamps))
    assert stamps[-1] < time.monotonic()


def test_a_turn_that_hangs_after_its_first_delta_ends_when_it_is_interrupted(worker: Worker) -> None:
    thread = worker.begin(directive(chunks=["a"], repeat=9, hang="middle"))
    assert deltas([worker.read()]) == ["a"]
    worker.send("turn/interrupt", {"threadId": thread, "turnId": "t"})
    frames = worker.until_completed()
    assert deltas(frames) == []
    assert frames[-1]["params"]["turn"]["status"] == "interrupted"


def test_what_it_cannot_do_is_refused_and_a_second_handshake_too(worker: Worker) -> None:
    assert "does not know" in worker.call("thread/fork", {})["error"]["message"]
    assert worker.call("initialize", {})["error"]["message"] == "Already initialized"
    assert worker.call("thread/loaded/list", {})["result"]["data"] == []


def test_an_unfit_directive_fails_its_turn_only(worker: Worker) -> None:
    thread = worker.call("thread/start", {})["result"]["thread"]["id"]
    item = {"role": "user", "content": '@@{"nonsense": 1}'}
    worker.call("thread/inject_items", {"threadId": thread, "items": [item]})
    assert "nonsense" in worker.call("turn/start", {"threadId": thread, "input": []})["error"]["message"]
    worker.begin(directive(text="fine"))
    assert deltas(worker.until_completed()) == ["fine"]


def test_the_launcher_tells_a_version_and_a_catalogue_as_the_cli_does(tmp_path: Path) -> None:
    codex = write_launcher(tmp_path / "codex", tmp_path / "nobody")
    version = subprocess.run([codex, "--version"], capture_output=True, text=True, check=True).stdout
    assert version.startswith("codex-cli ")
    models = subprocess.run([codex, "debug", "models", "--bundled"], capture_output=True, check=True).stdout
    assert json.loads(models)["models"]

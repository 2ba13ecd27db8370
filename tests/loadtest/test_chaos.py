"""`loadtest.chaos`: how it judges answers, and that the service keeps its promises in a short run and in a longer one.

A longer one still: `python -m loadtest.chaos --seed 3 --seconds 600`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from loadtest.chaos import judge
from loadtest.history import read

ROOT = Path(__file__).parents[2]
WHOLE = json.dumps({"choices": [{"finish_reason": "stop", "message": {"content": "hi"}}]}).encode()
ERROR = json.dumps({"error": {"code": "worker_lost"}}).encode()


def event(value: Any) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def text(content: str | None = None, finish: str | None = None) -> bytes:
    return event({"choices": [{"delta": {"content": content}, "finish_reason": finish}]})


DONE = b"data: [DONE]\n\n"
FINISH = text(finish="stop")


@pytest.mark.parametrize(
    ("status", "raw", "judged"),
    [
        (200, WHOLE, ("answered", None, "hi")),
        (200, WHOLE.replace(b"stop", b"length"), ("malformed", None, "hi")),
        (200, WHOLE[:-3], ("malformed", None, "")),
        (200, b"{}", ("malformed", None, "")),
        (503, ERROR, ("refused", "worker_lost", "")),
        (503, b"<html>", ("malformed", None, "")),
        (None, b"", ("broken", None, "")),
    ],
)
def test_an_answer_as_one_object_is_called_what_it_is(status: int | None, raw: bytes, judged: tuple[Any, ...]) -> None:
    assert judge(status, raw, stream=False) == judged


@pytest.mark.parametrize(
    ("raw", "judged"),
    [
        (text("a") + b": keepalive\n\n" + text("b") + FINISH + DONE, ("answered", None, "ab")),
        (text("a") + DONE, ("malformed", None, "a")),
        (text("a") + FINISH + FINISH + DONE, ("malformed", None, "a")),
        (text("a") + FINISH + DONE + text("b"), ("malformed", None, "a")),
        (text("a") + event(ERROR), ("refused", "worker_lost", "a")),
        (text("a") + event(ERROR) + DONE, ("malformed", "worker_lost", "a")),
        (text("a") + FINISH + event(ERROR), ("malformed", "worker_lost", "a")),
        (text("a") + event(b"not JSON"), ("malformed", None, "a")),
        (text("a") + text("b")[:-1], ("broken", None, "a")),
        (text("a") + FINISH, ("broken", None, "a")),
        (b"", ("broken", None, "")),
    ],
)
def test_a_stream_is_whole_only_with_its_finish_and_its_last_word(raw: bytes, judged: tuple[Any, ...]) -> None:
    assert judge(200, raw, stream=True) == judged


def chaos(tmp_path: Path, seed: int, seconds: float) -> str:
    """What a run printed; it must have gone well, and have left nothing."""
    history = tmp_path / "history"
    arguments = ("--seed", str(seed), "--seconds", str(seconds), "--history", str(history))
    done = subprocess.run(
        [sys.executable, "-m", "loadtest.chaos", *arguments],
        cwd=ROOT,
        env={"PATH": os.defpath, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=seconds + 110.0,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["history"]
    assert processes_with(str(tmp_path)) == []
    assert read(history)[-1].event == "service.exited"
    return done.stdout


def test_eight_seconds_of_chaos_break_no_promise(tmp_path: Path) -> None:
    assert "every promise was kept" in chaos(tmp_path, 1, 8.0)


@pytest.mark.timeout(160)
def test_half_a_minute_of_chaos_breaks_no_promise(tmp_path: Path) -> None:
    assert "every promise was kept" in chaos(tmp_path, 2, 30.0)


def test_a_run_that_is_stopped_has_no_verdict_and_leaves_nothing(tmp_path: Path) -> None:
    history = tmp_path / "history"
    history.touch()
    command = (sys.executable, "-m", "loadtest.chaos", "--seed", "1", "--seconds", "60", "--history", str(history))
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={"PATH": os.defpath, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        end = time.monotonic() + 30.0
        while b"request.headed" not in history.read_bytes() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=30.0)
    assert (process.returncode, out, error) == (2, "", "no verdict: it was stopped\n")
    assert [path.name for path in tmp_path.iterdir()] == ["history"]
    assert processes_with(str(tmp_path)) == []


def processes_with(word: str) -> list[str]:
    """The process ids in whose environment this word is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if word.encode() in path.read_bytes():
                found.append(path.parent.name)
    return found

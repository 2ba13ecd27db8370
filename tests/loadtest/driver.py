"""A blocking client of an app-server child process: it sends lines and reads frames, always under a deadline."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

Frame = dict[str, Any]

DEADLINE_S = 10.0


class StdoutClosedError(Exception):
    """The child's stdout ended; holds what came after the last newline."""


class AppServer:
    """One child; a context manager at whose end the child and all its children are gone."""

    def __init__(self, argv: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path) -> None:
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._buffer = b""
        self._next_id = 0
        self.frames: list[Frame] = []
        """Every frame read so far, in order."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE_S)
        self._selector.close()
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        self._stdout.close()

    def write(self, raw: bytes) -> None:
        self._stdin.write(raw)
        self._stdin.flush()

    def send(self, frame: Frame) -> None:
        self.write(json.dumps(frame).encode() + b"\n")

    def request(self, method: str, params: Frame | None = None) -> int:
        """Sends a request and returns its id without waiting."""
        self._next_id += 1
        self.send({"id": self._next_id, "method": method, "params": params or {}})
        return self._next_id

    def call(self, method: str, params: Frame | None = None) -> Frame:
        """Sends a request and returns its reply, which may be an error."""
        return self.reply_to(self.request(method, params))

    def reply_to(self, number: int) -> Frame:
        return self.read_until(lambda frame: frame.get("id") == number and "method" not in frame)

    def notification(self, method: str) -> Frame:
        """Reads up to the next notification or server request called `method`."""
        return self.read_until(lambda frame: frame.get("method") == method)

    def read_until(self, wanted: Callable[[Frame], bool]) -> Frame:
        """Reads frames until one is `wanted`, and returns that one."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            frame: Frame = json.loads(self.read_line(deadline - time.monotonic()))
            self.frames.append(frame)
            if wanted(frame):
                return frame

    def read_line(self, timeout_s: float = DEADLINE_S) -> bytes:
        """The next line of stdout.

        Raises:
            StdoutClosedError: it ended.
            TimeoutError: no whole line came; the message holds what did.
        """
        deadline = time.monotonic() + timeout_s
        pieces = [self._buffer]
        while b"\n" not in pieces[-1]:
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                self._buffer = b"".join(pieces)
                raise TimeoutError(self._buffer[:200].decode())
            data = os.read(self._stdout.fileno(), 1 << 20)
            if not data:
                raise StdoutClosedError(b"".join(pieces))
            pieces.append(data)
        line, _, self._buffer = b"".join(pieces).partition(b"\n")
        return line

    def close_stdin(self) -> None:
        self._stdin.close()

    def wait(self) -> int:
        """The exit code, negative for a signal."""
        return self.process.wait(DEADLINE_S)

    def initialize(self, *opt_out: str) -> Frame:
        """The handshake; returns the reply to `initialize`."""
        params = {
            "clientInfo": {"name": "test", "title": "Test", "version": "1"},
            "capabilities": {"experimentalApi": True, "optOutNotificationMethods": list(opt_out)},
        }
        reply = self.call("initialize", params)
        self.send({"method": "initialized"})
        return reply

    def start_thread(self, **params: object) -> str:
        """The id of a new ephemeral thread."""
        reply = self.call("thread/start", {"model": "model-a", "ephemeral": True, "environments": [], **params})
        return str(reply["result"]["thread"]["id"])

    def start_turn(self, prompt: str, **thread: object) -> str:
        """Asks `prompt` on a new thread, without waiting; returns the thread's id."""
        thread_id = self.start_thread(**thread)
        self.request("turn/start", {"threadId": thread_id, "input": [{"type": "text", "text": prompt}]})
        return thread_id

    def ask(self, prompt: str, **thread: object) -> Frame:
        """The `turn` of the `turn/completed` of a new thread which was asked `prompt`."""
        self.start_turn(prompt, **thread)
        return dict(self.notification("turn/completed")["params"]["turn"])


def user(text: str) -> Frame:
    """A user message to inject."""
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def directive(said: str = "go", **fields: object) -> str:
    """A prompt with a directive."""
    return f"{said} @@{json.dumps(fields)}"

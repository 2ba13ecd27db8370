"""The shortest program that runs turns on an app-server, to compare with: no supervision, no limits, no safety."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import msgspec

OPT_OUT: Final = (
    "thread/started",
    "thread/status/changed",
    "thread/settings/updated",
    "turn/started",
    "item/started",
    "item/completed",
    "account/rateLimits/updated",
    "warning",
    "configWarning",
    "remoteControl/status/changed",
)


class _Frame(msgspec.Struct):
    id: int | None = None
    method: str = ""
    params: msgspec.Raw = msgspec.Raw(b"{}")
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw | None = None


class _Delta(msgspec.Struct, rename="camel"):
    thread_id: str
    delta: str = ""


class _Thread(msgspec.Struct):
    id: str


class _Started(msgspec.Struct):
    thread: _Thread


class BareWorker(asyncio.SubprocessProtocol):
    """One app-server process."""

    def __init__(self) -> None:
        self.pid = 0
        self._unread = b""
        self._answers: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._turns: dict[str, tuple[Callable[[str], None], asyncio.Future[None]]] = {}
        self._numbers = itertools.count(1)
        self._stdin: asyncio.WriteTransport | None = None
        self._transport: asyncio.SubprocessTransport | None = None
        self._exited = asyncio.Event()

    @classmethod
    async def start(cls, codex: Path, *, cwd: Path, env: Mapping[str, str]) -> BareWorker:
        """A worker that has shaken hands."""
        loop = asyncio.get_running_loop()
        _, worker = await loop.subprocess_exec(
            cls, str(codex), "app-server", cwd=cwd, env=dict(env), stderr=asyncio.subprocess.DEVNULL
        )
        info = {"name": "bench", "title": "bench", "version": "1"}
        capabilities = {"experimentalApi": True, "optOutNotificationMethods": OPT_OUT}
        await worker.call("initialize", {"clientInfo": info, "capabilities": capabilities})
        return worker

    async def stop(self) -> None:
        """Close its stdin, and wait until it has gone."""
        assert self._stdin is not None  # noqa: S101 - it was started
        assert self._transport is not None  # noqa: S101
        self._stdin.close()
        await self._exited.wait()
        self._transport.close()

    async def turn(self, model: str, prompt: str, on_text: Callable[[str], None]) -> None:
        """A turn as the service runs it; `on_text` gets each delta.

        Raises:
            RuntimeError: the app-server refused a request.
        """
        opening = {"model": model, "ephemeral": True, "environments": [], "baseInstructions": ""}
        thread = _started(await self.call("thread/start", opening)).thread.id
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns[thread] = (on_text, done)
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": prompt}]}
        await self.call("thread/inject_items", {"threadId": thread, "items": [item]})
        await self.call("turn/start", {"threadId": thread, "input": []})
        await done
        await self.call("thread/unsubscribe", {"threadId": thread})

    async def call(self, method: str, params: dict[str, Any]) -> msgspec.Raw:
        """One request and its result.

        Raises:
            RuntimeError: the app-server refused it.
        """
        assert self._stdin is not None  # noqa: S101 - it was started
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._stdin.write(msgspec.json.encode({"id": number, "method": method, "params": params}) + b"\n")
        result: msgspec.Raw = await answer
        return result

    # --- asyncio's calls -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self._stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))
        self.pid = self._transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._read(_frame(line))

    def process_exited(self) -> None:
        self._exited.set()

    def _read(self, frame: _Frame) -> None:
        match frame.method:
            case "item/agentMessage/delta":
                note = _delta(frame.params)
                self._turns[note.thread_id][0](note.delta)
            case "turn/completed":
                done = self._turns.pop(_delta(frame.params).thread_id)[1]
                if not done.done():
                    done.set_result(None)
            case "" if frame.id is not None:
                answer = self._answers.pop(frame.id)
                if answer.done():
                    pass  # its caller has left
                elif frame.error is None:
                    answer.set_result(frame.result)
                else:
                    answer.set_exception(RuntimeError(bytes(frame.error).decode()))
            case _:
                pass


_frame = msgspec.json.Decoder(_Frame).decode
_delta = msgspec.json.Decoder(_Delta).decode
_started = msgspec.json.Decoder(_Started).decode

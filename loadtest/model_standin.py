"""The stand-in model: OpenAI's Responses API on loopback, enough to be the real Codex CLI's model provider.

`POST /v1/responses` with `"stream": true` answers with server-sent events. The last user message of `input` decides
what: a directive in it (`@@{...}`, the table is in `loadtest.script`) is obeyed; without one, the answer is a sentence
which says that no real model is behind it and repeats the start of the question.

`GET /requests` gives the recorded request bodies as a JSON list, newest last, and with `?detail=1` objects
`{body, headers, disconnected}`; `DELETE /requests` forgets them. Errors are JSON: `{"error": {message, type, code}}`.

As a program: `python -m loadtest.model_standin [--host 127.0.0.1] [--port 0] [--port-file PATH] [--exit-with-stdin]`.
It prints `listening on http://HOST:PORT/v1` once it is ready, and ends on SIGTERM, SIGINT and (if asked) at the end of
its stdin. It refuses to listen on anything but loopback: it answers whoever asks.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import itertools
import os
import signal
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
import uvloop
from aiohttp import web

from loadtest.responses_stream import ResponseStream, frames
from loadtest.script import (
    PROCESS_FIELDS,
    Script,
    ScriptError,
    Tries,
    answer,
    count_tokens,
    error_body,
    quote_outputs,
    read_prompt,
    split,
    texts_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

MAX_BODY_BYTES: Final = 256 * 1024 * 1024
MAX_RECORDED: Final = 1000
MAX_RECORDED_BYTES: Final = 64 * 1024 * 1024
HANG_S: Final = 600.0
_BATCH_BYTES: Final = 64 * 1024
_QUOTED_CHARS: Final = 120

_SSE = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}


class RecordedRequest:
    """What reached the model in one request, and how it went."""

    def __init__(self, raw: bytes, headers: dict[str, str]) -> None:
        self.raw = raw
        self.headers = headers
        """Header names in lower case."""
        self.disconnected = False
        """Whether the client left before it had the whole answer."""
        self.ended = asyncio.Event()
        """Set when the answer is complete, or the client has left."""

    @property
    def body(self) -> dict[str, Any]:
        """The request body, decoded anew at every access."""
        body: dict[str, Any] = msgspec.json.decode(self.raw)
        return body


class Recorder:
    """The last requests, at most `MAX_RECORDED` of them and (but for the newest) `MAX_RECORDED_BYTES` of bodies."""

    def __init__(self) -> None:
        self.requests: deque[RecordedRequest] = deque()
        self.total = 0
        """Requests ever recorded; forgetting them does not lower it."""
        self._bytes = 0
        self._changed = asyncio.Event()

    def record(self, raw: bytes, headers: dict[str, str]) -> RecordedRequest:
        record = RecordedRequest(raw, headers)
        self.requests.append(record)
        self.total += 1
        self._bytes += len(raw)
        while len(self.requests) > 1 and (len(self.requests) > MAX_RECORDED or self._bytes > MAX_RECORDED_BYTES):
            self._bytes -= len(self.requests.popleft().raw)
        self._changed.set()
        self._changed = asyncio.Event()
        return record

    def forget(self) -> None:
        self.requests.clear()
        self._bytes = 0

    async def wait_for_total(self, count: int) -> None:
        """Returns once `count` requests were ever recorded; the caller brings the deadline."""
        while self.total < count:
            await self._changed.wait()


class ModelStandin:
    """The stand-in model inside this process: `async with ModelStandin() as model: ... model.base_url`.

    Raises:
        ValueError: `host` is not a loopback address.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        if not is_loopback(host):
            raise ValueError(f"the stand-in model answers anybody, so it only listens on loopback, not on {host!r}")
        self._host = host
        self._port = port
        self._recorder = Recorder()
        self._ids = itertools.count(1)
        self._tries = Tries()
        self._runner = web.AppRunner(
            self._application(), access_log=None, handler_cancellation=True, shutdown_timeout=0
        )

    @property
    def base_url(self) -> str:
        """What a model provider's `base_url` should be; known once the server listens."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}/v1"

    @property
    def port(self) -> int:
        return self._port

    @property
    def requests(self) -> deque[RecordedRequest]:
        """The last requests, newest last."""
        return self._recorder.requests

    @property
    def total(self) -> int:
        """Requests that ever reached this server."""
        return self._recorder.total

    def forget_requests(self) -> None:
        self._recorder.forget()

    async def wait_for_requests(self, count: int, timeout_s: float = 10.0) -> None:
        """Returns once `count` requests have reached this server since it started.

        Raises:
            TimeoutError: they did not, within `timeout_s`.
        """
        async with asyncio.timeout(timeout_s):
            await self._recorder.wait_for_total(count)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port, backlog=1024)
        try:
            await site.start()
        except BaseException:
            await self._runner.cleanup()
            raise
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_post("/v1/responses", self._respond)
        app.router.add_get("/requests", self._list_requests)
        app.router.add_delete("/requests", self._forget_requests)
        return app

    async def _list_requests(self, request: web.Request) -> web.Response:
        if request.query.get("detail"):
            parts = [
                b'{"body":%b,"headers":%b,"disconnected":%b}'
                % (record.raw, msgspec.json.encode(record.headers), b"true" if record.disconnected else b"false")
                for record in self.requests
            ]
        else:
            parts = [record.raw for record in self.requests]
        return web.Response(body=b"[" + b",".join(parts) + b"]", content_type="application/json")

    async def _forget_requests(self, _request: web.Request) -> web.Response:
        self._recorder.forget()
        return web.Response(status=204)

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        try:
            body = ResponsesBody.read(raw)
            prompt = body.last_user_text()
            said, script = read_prompt(prompt)
            _refuse_process_faults(script)
            script = self._tries.obey(script, prompt)
        except ScriptError as error:
            return _error(400, str(error), "invalid_directive")
        except ValueError as error:
            return _error(400, str(error), "invalid_body")
        record = self._recorder.record(raw, {name.lower(): value for name, value in request.headers.items()})
        try:
            return await self._play(request, body, said, script)
        except asyncio.CancelledError:
            record.disconnected = script.disconnect is None
            raise
        except ConnectionResetError:  # the client is gone: there is nobody to answer, and nothing to complain of
            record.disconnected = script.disconnect is None
            return web.Response()
        finally:
            record.ended.set()

    async def _play(self, request: web.Request, body: ResponsesBody, said: str, script: Script) -> web.StreamResponse:
        if script.delay_s:
            await asyncio.sleep(script.delay_s)
        if script.hang == "headers":
            await asyncio.sleep(HANG_S)
        if script.status is not None:
            return _scripted_error(script)
        response = web.StreamResponse(headers=_SSE)
        await response.prepare(request)
        if "first" in (script.hang, script.disconnect):
            await response.write(b": the stream is open\n\n")
            return await _cut(request, response, script)
        pieces = self._answer(body, said, script)
        if script.interval_s or script.hang or script.disconnect:
            return await _write_paced(request, response, script, pieces)
        await _write_at_once(response, pieces)
        return response

    def _answer(self, body: ResponsesBody, said: str, script: Script) -> Iterator[tuple[bytes, bool]]:
        outputs = body.outputs_since_user() if script.tool_calls else []
        messages = (split(quote_outputs(outputs)),) if outputs else answer(script, said, introduction(said))
        thoughts = split(script.reasoning or "")
        tokens = count_tokens(
            script,
            input_chars=body.chars(),
            output_chars=sum(len(delta) for message in messages for delta in message),
        )
        stream = ResponseStream(f"resp_{next(self._ids)}", body.model, int(time.time()))
        calls = () if outputs else script.tool_calls
        return frames(stream, script, thoughts=thoughts, messages=messages, calls=calls, tokens=tokens)


class ResponsesBody(msgspec.Struct, frozen=True):
    """The part of a request body which decides the answer."""

    model: str
    input: str | list[dict[str, Any]]
    stream: bool = False
    instructions: str | None = None

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """The body in `raw`.

        Raises:
            ValueError: not a JSON body this server can answer.
        """
        try:
            body = msgspec.json.decode(raw, type=cls)
        except ValueError as error:
            raise ValueError(f"the request body cannot be read: {error}") from error
        if not body.stream:
            raise ValueError("the stand-in model only streams: send `stream: true`")
        return body

    def last_user_text(self) -> str:
        """The text of the last user message; empty if there is none."""
        if isinstance(self.input, str):
            return self.input
        index = self._last_user()
        return "" if index is None else "".join(texts_of(self.input[index].get("content")))

    def outputs_since_user(self) -> list[str]:
        """The outputs of the function calls made since the last user message."""
        if isinstance(self.input, str):
            return []
        start = self._last_user() or 0
        items = self.input[start:]
        return ["".join(texts_of(item.get("output"))) for item in items if item.get("type") == "function_call_output"]

    def chars(self) -> int:
        """How much text the model was given."""
        items: list[dict[str, Any]] = [] if isinstance(self.input, str) else self.input
        chars = len(self.input) if isinstance(self.input, str) else 0
        for item in items:
            for key in ("content", "output", "arguments"):
                chars += sum(map(len, texts_of(item.get(key))))
        return chars + len(self.instructions or "")

    def _last_user(self) -> int | None:
        for index in range(len(self.input) - 1, -1, -1):
            item = self.input[index]
            if isinstance(item, dict) and item.get("role") == "user":
                return index
        return None


def introduction(question: str) -> str:
    """What the stand-in model says when nothing tells it what to say."""
    short = " ".join(question[: 2 * _QUOTED_CHARS].split())
    if len(short) > _QUOTED_CHARS:
        short = short[:_QUOTED_CHARS].rstrip() + "..."
    hello = "Hello! This is the stand-in model; no real model is connected."
    return f"{hello} You said: {short}" if short else hello


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse_process_faults(script: Script) -> None:
    for name in PROCESS_FIELDS:
        if getattr(script, name) != getattr(_DEFAULTS, name):
            raise ScriptError(f"the directive asks for `{name}`, which only the fake app-server can do")


def _error(
    status: int, message: str, code: str | None, kind: str | None = None, headers: dict[str, str] | None = None
) -> web.Response:
    body = error_body(status, message, code, kind)
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def _scripted_error(script: Script) -> web.Response:
    retry, error = script.retry_after, script.error
    headers = {} if retry is None else {"Retry-After": retry if isinstance(retry, str) else f"{retry:g}"}
    return _error(script.status or 500, error.message, error.code, error.type, headers)


async def _write_at_once(response: web.StreamResponse, pieces: Iterator[tuple[bytes, bool]]) -> None:
    batch = bytearray()
    for piece, _is_delta in pieces:
        batch += piece
        if len(batch) >= _BATCH_BYTES:
            await response.write(bytes(batch))
            batch.clear()
    await response.write(bytes(batch))


async def _write_paced(
    request: web.Request, response: web.StreamResponse, script: Script, pieces: Iterator[tuple[bytes, bool]]
) -> web.StreamResponse:
    started = False
    for piece, is_delta in pieces:
        if is_delta and started and script.interval_s:
            await asyncio.sleep(script.interval_s)
        await response.write(piece)
        if is_delta:
            started = True
            if "middle" in (script.hang, script.disconnect):
                return await _cut(request, response, script)
    return response


async def _cut(request: web.Request, response: web.StreamResponse, script: Script) -> web.StreamResponse:
    """Falls silent, or drops the connection with the answer unfinished."""
    if script.hang:
        await asyncio.sleep(HANG_S)
    if request.transport is not None:
        request.transport.close()
    return response


_DEFAULTS: Final = Script()


async def serve(host: str, port: int, port_file: Path | None, *, exit_with_stdin: bool) -> None:
    """Serves until a signal (or the end of stdin) says stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if exit_with_stdin:
        _call_at_end_of_stdin(lambda: loop.call_soon_threadsafe(stop.set))
    async with ModelStandin(host, port) as model:
        if port_file is not None:
            partial = port_file.with_name(port_file.name + ".part")
            partial.write_text(f"{model.port}\n")
            partial.rename(port_file)
        print(f"listening on {model.base_url}", flush=True)
        await stop.wait()


def _call_at_end_of_stdin(done: Callable[[], object]) -> None:
    """A thread of its own, because stdin may be a file or a terminal, which an event loop cannot watch."""

    def drain() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 65536):
                pass
        with contextlib.suppress(RuntimeError):  # the loop is already closed
            done()

    threading.Thread(target=drain, daemon=True).start()


def main(argv: list[str] | None = None) -> int:
    """Runs the server; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.model_standin", description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--port-file", type=Path, help="file to write the port number into")
    parser.add_argument("--exit-with-stdin", action="store_true", help="end when stdin does")
    options = parser.parse_args(argv)
    if not is_loopback(options.host):
        parser.error(f"--host must be a loopback address, not {options.host!r}")
    try:
        uvloop.run(serve(options.host, options.port, options.port_file, exit_with_stdin=options.exit_with_stdin))
    except OSError as error:
        print(f"cannot serve: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

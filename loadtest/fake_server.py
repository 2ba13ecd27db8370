"""The scripted fake app-server without its process: bytes in, bytes out, time given by the caller.

`FakeServer` is what one `codex app-server` process knows: threads, turns, and the rules of the stdio protocol (CLI
version 0.163.0). It performs no I/O. Its owner hands it what arrives (`receive`), calls `run_due` when `next_due` has
come, takes the bytes in `out`, and performs the process faults the server asks of its `Host`. The owner which is a real
process is `loadtest.fake_app_server`.
"""

from __future__ import annotations

import heapq
import itertools
import math
import re
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from loadtest import fake_frames as frames
from loadtest.fake_checks import OVERLOADED, RpcError, check_inputs, check_item, required_params, sequence, tool_names
from loadtest.fake_thread import Thread
from loadtest.fake_turn import Turn, TurnRequest
from loadtest.script import Tries

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtest.fake_frames import Json

MAX_LINE_BYTES: Final = 256 * 1024 * 1024
MAX_DEPTH: Final = 128
BATCH_BYTES: Final = 64 * 1024
"""How much output piles up before a turn without pauses lets the owner write."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_EXPERIMENTAL: Final = ("dynamicTools", "environments", "experimentalRawEvents")


class Host(Protocol):
    """What the server asks of its process. Whatever was written before must have left when a method acts."""

    def exit(self, code: int) -> None:
        """Ends the process."""

    def kill_self(self) -> None:
        """SIGKILL."""

    def stop_self(self) -> None:
        """SIGSTOP."""

    def close_stdout(self) -> None:
        """Ends stdout and lives on."""

    def stop_reading(self) -> None:
        """Never reads stdin again."""

    def memory_bytes(self) -> int:
        """Resident memory."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How this incarnation behaves whatever the prompt says."""

    version: str = "0.163.0"
    pid: int = 0
    home: str = "/codex-home"
    cwd: str = "/"
    deltas: tuple[str, ...] = ("Hello from", " the fake ", "app-server.")
    interval_s: float = 0.0
    initialize: str | None = None
    initialize_delay_s: float = 0.0
    thread_start: str | None = None
    turn_start: str | None = None
    stop_reading: bool = False
    grow_bytes: int = 0
    exit_after_turns: int | None = None
    lose_reply: dict[str, float] = {}
    """RPC method -> how many times; `math.inf` for always. The next two likewise."""
    duplicate_reply: dict[str, float] = {}
    overloaded: dict[str, float] = {}

    @property
    def version_numbers(self) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:3])


class Message(msgspec.Struct):
    """One line from the client."""

    id: int | str | None = None
    method: str | None = None
    params: Any = msgspec.UNSET
    result: Any = None
    error: Any = None


class FakeServer:
    """One incarnation. `wall` gives seconds since the epoch; all other times come in as `now`, in any monotonic unit
    of seconds."""

    def __init__(self, options: Options, host: Host, *, wall: Callable[[], float] = time.time) -> None:
        self.options = options
        self.host = host
        self.out = bytearray()
        """What stdout should get next; the owner takes it away."""
        self.is_mute = False
        """Set by a fault: nothing is ever written again."""
        self.threads: dict[str, Thread] = {}
        self.waiting: dict[int, Turn] = {}
        """Server requests without an answer yet."""
        self.turns_ended = 0
        self.turn_numbers = itertools.count()
        self.tries = Tries()
        self.response_numbers = itertools.count(1)
        self._request_ids = itertools.count()
        self._ids = itertools.count()
        self._wall = wall
        self.wall_s = wall()
        self.now = 0.0
        self._in = bytearray()
        self._scanned = 0
        self._is_deaf = False
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._client = "client"
        self._opted_out: frozenset[str] = frozenset()
        self._is_initialized = False
        self._is_experimental = False
        self._ballast: list[bytearray] = []
        self._losses = dict(options.lose_reply)
        self._duplicates = dict(options.duplicate_reply)
        self._overloads = dict(options.overloaded)
        self._handlers: dict[str, Callable[[Message, Json], Json | None]] = {
            "initialize": self._initialize,
            "server/diagnostics": self._diagnostics,
            "thread/start": self._start_thread,
            "thread/loaded/list": self._list_threads,
        }
        self._thread_handlers: dict[str, Callable[[Message, Json, Thread], Json | None]] = {
            "thread/inject_items": self._inject,
            "thread/unsubscribe": self._unsubscribe,
            "turn/start": self._start_turn,
            "turn/interrupt": self._interrupt,
        }

    # What the owner calls.

    def receive(self, data: bytes, now: float) -> None:
        """Takes bytes from stdin, in any pieces."""
        self._tick(now)
        self._in += data
        while not self._is_deaf:
            end = self._in.find(b"\n", self._scanned)
            if end < 0:
                self._scanned = len(self._in)
                if self._scanned > MAX_LINE_BYTES:
                    self.host.exit(1)
                return
            line = bytes(self._in[:end])
            del self._in[: end + 1]
            self._scanned = 0
            self._handle_line(line)

    def run_due(self, now: float) -> None:
        """Runs what is due, until there is a batch of output to write."""
        self._tick(now)
        while self._due and self._due[0][0] <= now and len(self.out) < BATCH_BYTES:
            heapq.heappop(self._due)[2]()

    @property
    def next_due(self) -> float | None:
        """When `run_due` should be called; None while everything waits for the client."""
        return self._due[0][0] if self._due else None

    # What turns call.

    def call_after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Runs `action` from `run_due`; never, if the delay is infinite."""
        if delay_s != math.inf:
            heapq.heappush(self._due, (self.now + delay_s, next(self._order), action))

    def new_id(self) -> str:
        """A UUID, version 7, unique in this process."""
        number = next(self._ids)
        ms = int(self.wall_s * 1000)
        return f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7{number >> 32 & 0xFFF:03x}-8000-{number & 0xFFFFFFFF:012x}"

    def write(self, line: bytes) -> None:
        if not self.is_mute:
            self.out += line

    def wants(self, method: str) -> bool:
        """Whether the client has not opted out of this notification."""
        return method not in self._opted_out

    def notify(self, method: str, params: Json) -> None:
        if method not in self._opted_out:
            frame = {"method": method, "params": params, "emittedAtMs": int(self.wall_s * 1000)}
            self.write(msgspec.json.encode(frame) + b"\n")

    def ask(self, method: str, params: Json, turn: Turn) -> int:
        """Sends a server request; its answer will be handed to `turn`."""
        number = next(self._request_ids)
        self.waiting[number] = turn
        self.write(msgspec.json.encode({"method": method, "id": number, "params": params}) + b"\n")
        return number

    def reply(self, request: Message, body: Json, thread: Thread | None) -> None:
        """Sends `{"result": ...}` or `{"error": ...}`, unless a fault says otherwise."""
        method = request.method or ""
        script = thread.prompt.script if thread is not None else None
        if _take(self._losses, method) or (script is not None and script.lose_reply == method):
            return
        frame = {"error": body["error"], "id": request.id} if "error" in body else {"id": request.id, **body}
        line = msgspec.json.encode(frame) + b"\n"
        if _take(self._duplicates, method) or (script is not None and script.duplicate_reply == method):
            line += line
        self.write(line)

    def turn_ended(self, thread: Thread) -> None:
        """Accounts for a turn which has said its last."""
        thread.turn = None
        for number in [number for number, turn in self.waiting.items() if turn.thread is thread]:
            del self.waiting[number]
        if not thread.is_subscribed:
            self._unload(thread)
        self.turns_ended += 1
        if self.options.grow_bytes:
            self._ballast.append(bytearray(b"x") * self.options.grow_bytes)
        if self.turns_ended == self.options.exit_after_turns:
            self.host.exit(1)

    # The protocol.

    def _tick(self, now: float) -> None:
        self.now = now
        self.wall_s = self._wall()

    def _handle_line(self, line: bytes) -> None:
        if not line.isascii():
            try:
                line.decode()
            except UnicodeDecodeError:
                self.host.exit(0)
                return
        try:
            message = _decode(line)
        except (ValueError, RecursionError):  # the real one does not answer either
            return
        if message.id is None or _is_too_deep(line):
            return
        if message.method is None:
            turn = self.waiting.pop(message.id, None) if isinstance(message.id, int) else None
            if turn is not None:
                turn.take_answer(int(message.id), message.result if message.error is None else None)
            return
        self._handle_request(message, message.method)

    def _handle_request(self, request: Message, method: str) -> None:
        thread: Thread | None = None
        try:
            params = self._check(request, method)
            thread = self._thread_of(method, params)
            self._refuse_if_overloaded(method, thread)
            result = self._perform(request, method, params, thread)
        except RpcError as error:
            self.reply(request, {"error": error.body}, thread)
            return
        if result is not None:
            self.reply(request, {"result": result}, thread)
            if method == "thread/start":
                self.notify("thread/started", {"thread": result["thread"]})

    def _check(self, request: Message, method: str) -> Json:
        if method not in frames.METHODS:
            known = ", ".join(f"`{name}`" for name in frames.METHODS)
            raise RpcError(f"Invalid request: unknown variant `{method}`, expected one of {known}")
        params = required_params(method, request.params)
        if self._is_initialized and method == "initialize":
            raise RpcError("Already initialized")
        if not self._is_initialized and method != "initialize":
            raise RpcError("Not initialized")
        return params

    def _thread_of(self, method: str, params: Json) -> Thread | None:
        if method not in self._thread_handlers:
            return None
        thread_id = params["threadId"]
        if not isinstance(thread_id, str) or not _UUID.fullmatch(thread_id):
            raise RpcError(f"invalid thread id: {thread_id}")
        thread = self.threads.get(thread_id)
        if thread is None and method != "thread/unsubscribe":
            raise RpcError(f"thread not found: {thread_id}")
        return thread

    def _refuse_if_overloaded(self, method: str, thread: Thread | None) -> None:
        scripted = thread is not None and thread.prompt.script.overloaded == method
        if scripted or _take(self._overloads, method):
            raise RpcError("Server overloaded; retry later.", OVERLOADED)

    def _perform(self, request: Message, method: str, params: Json, thread: Thread | None) -> Json | None:
        """The result of the request; None if the reply comes later, has been sent, or never comes."""
        if thread is not None:
            return self._thread_handlers[method](request, params, thread)
        if method == "thread/unsubscribe":
            return {"status": "notLoaded"}
        return self._handlers[method](request, params)

    def _initialize(self, request: Message, params: Json) -> Json | None:
        fault = self.options.initialize
        if fault == "error":
            raise RpcError("the fake app-server was told to refuse `initialize`")
        if fault == "exit":
            self.host.exit(1)
        if fault is not None:
            return None
        info, capabilities = params["clientInfo"], params.get("capabilities") or {}
        self._client = str(info.get("name"))
        self._opted_out = frozenset(capabilities.get("optOutNotificationMethods") or ())
        self._is_experimental = bool(capabilities.get("experimentalApi"))
        self._is_initialized = True
        machine = "(Linux 0; x86_64) unknown"
        result = {
            "userAgent": f"{self._client}/{self.options.version} {machine} ({self._client}; {info.get('version')})",
            "codexHome": self.options.home,
            "platformFamily": "unix",
            "platformOs": "linux",
        }
        if self.options.initialize_delay_s:
            self.call_after(self.options.initialize_delay_s, lambda: self._welcome(request, result))
        else:
            self._welcome(request, result)
        return None

    def _welcome(self, request: Message, result: Json) -> None:
        self.reply(request, {"result": result}, None)
        self.notify("configWarning", {"summary": "This is the fake app-server.", "details": None})
        status = {"status": "disabled", "serverName": "fake", "installationId": self.new_id(), "environmentId": None}
        self.notify("remoteControl/status/changed", status)
        if self.options.stop_reading:
            self._is_deaf = True
            self.host.stop_reading()

    def _diagnostics(self, _request: Message, _params: Json) -> Json:
        self._require_experimental("server/diagnostics")
        active = sum(thread.turn is not None for thread in self.threads.values())
        gauges = {"app.requests.in_flight": 1, "app.requests.queued": 0}
        gauges |= {"core.threads.live": len(self.threads), "core.turns.active": active}
        process = {
            "id": self.options.pid,
            "residentMemoryBytes": self.host.memory_bytes(),
            "physicalFootprintBytes": None,
        }
        return {"process": process, "gauges": [{"name": name, "value": value} for name, value in gauges.items()]}

    def _start_thread(self, _request: Message, params: Json) -> Json | None:
        if self.options.thread_start == "error":
            raise RpcError("failed to load configuration: the fake app-server was told to fail")
        if self.options.thread_start == "hang":
            return None
        for name in _EXPERIMENTAL:
            if params.get(name) is not None:
                self._require_experimental(f"thread/start.{name}")
        thread = Thread(self.new_id(), params, tool_names(params.get("dynamicTools") or []))
        self.threads[thread.id] = thread
        return frames.thread_started(
            thread.id,
            model=thread.model,
            provider=thread.provider,
            ephemeral=bool(params.get("ephemeral")),
            cwd=params.get("cwd") or self.options.cwd,
            version=self.options.version,
            client=self._client,
            now_s=int(self.wall_s),
        )

    def _require_experimental(self, what: str) -> None:
        if not self._is_experimental:
            raise RpcError(f"{what} requires experimentalApi capability")

    def _list_threads(self, _request: Message, _params: Json) -> Json:
        return {"data": sorted(self.threads), "nextCursor": None}

    def _inject(self, request: Message, params: Json, thread: Thread) -> None:
        items = sequence(params["items"])
        if not items:
            raise RpcError("items must not be empty")
        for index, item in enumerate(items):
            check_item(index, item)
        for item in items:
            if item.get("role") != "system":
                thread.hear(item)
        self.reply(request, {"result": {}}, thread)
        if thread.raw_events:
            turn_id = f"auto-compact-{thread.injections}"
            for item in items:
                echo = frames.raw_injected(item, self.new_id(), turn_id, self.wall_s)
                params = {"threadId": thread.id, "turnId": turn_id, "item": echo}
                self.notify("rawResponseItem/completed", params)
        thread.injections += 1

    def _start_turn(self, request: Message, params: Json, thread: Thread) -> Json | None:
        inputs = sequence(params["input"])
        check_inputs(inputs)
        if inputs:
            thread.hear({"role": "user", "content": [part for part in inputs if part.get("type") == "text"]})
        if thread.turn is not None:  # the real one steers the running turn; here it only takes note
            return {"turn": frames.turn(thread.turn.id, "inProgress")}
        if self.options.turn_start == "hang":
            return None
        overrides = {name: params[name] for name in ("model", "effort", "summary", "serviceTier") if params.get(name)}
        thread.turn = Turn(self, thread, TurnRequest(request, inputs, overrides))
        thread.was_interrupted = False
        thread.turn.advance()
        return None

    def _interrupt(self, request: Message, params: Json, thread: Thread) -> Json | None:
        turn, wanted = thread.turn, params["turnId"]
        if turn is None:
            if thread.was_interrupted:  # the real one leaves a second interrupt without an answer
                return None
            raise RpcError("no active turn to interrupt")
        if turn.id != wanted:
            raise RpcError(f"expected active turn id {wanted} but found {turn.id}")
        if turn.script.ignore_interrupt:
            return {}
        thread.was_interrupted = True
        turn.interrupt(request)
        return None

    def _unsubscribe(self, request: Message, _params: Json, thread: Thread) -> Json | None:
        if not thread.is_subscribed:
            return {"status": "notSubscribed"}
        thread.is_subscribed = False
        self.reply(request, {"result": {"status": "unsubscribed"}}, thread)
        if thread.turn is None:
            self._unload(thread)
        return None

    def _unload(self, thread: Thread) -> None:
        del self.threads[thread.id]
        self.notify("thread/status/changed", {"threadId": thread.id, "status": {"type": "notLoaded"}})
        self.notify("thread/closed", {"threadId": thread.id})


_decode = msgspec.json.Decoder(Message).decode


def _is_too_deep(line: bytes) -> bool:
    """The real one's parser gives up at this depth; ours goes as far as the interpreter lets it."""
    if line.count(b"[") + line.count(b"{") <= MAX_DEPTH:
        return False
    level: list[Any] = [msgspec.json.decode(line)]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
    return bool(level)


def _take(counts: dict[str, float], method: str) -> bool:
    """Uses up one of the times a fault should happen."""
    left = counts.get(method, 0)
    if left:
        counts[method] = left - 1
    return left > 0

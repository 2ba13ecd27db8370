"""A fake app-server for figures: one process that speaks for a hundred workers, and costs next to nothing.

    python -m loadtest.mill SOCKET

`write_launcher` makes the executable that takes the place of the `codex` binary. Each process of it hands its stdin and
stdout to the mill and sleeps (`loadtest.mill_door`), so the machine is left to what is measured. What a turn answers is
decided by the directive in its prompt (see `loadtest.script`), of which the mill obeys `text`, `chunks`, `repeat`,
`delay_s`, `interval_s` and `hang: "middle"`. A turn without pauses is written as fast as the pipe takes it, in large
blocks in which the worker's turns alternate; one with an `interval_s` delta by delta, each in a write of its own, at
its own moment. `STAMP` in a paced delta becomes the time of its writing. For faults there is
`loadtest.fake_app_server`, whose frames these are.

It says `ready` when it listens, and ends with its stdin.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from loadtest import fake_app_server
from loadtest import fake_frames as frames
from loadtest.script import Script, ScriptError, Tokens, answer, read_prompt, texts_of

STAMP: Final = "0" * 16
"""In a paced delta: microseconds of CLOCK_MONOTONIC when it was written, as so many digits."""
BLOCK_BYTES: Final = 32 * 1024
_READ_BYTES: Final = 256 * 1024
_DEFAULT: Final = ("Hello from", " the mill", ".")
_TOKENS: Final = Tokens(input=100, cached=0, output=20, reasoning=0)
_LAUNCHER: Final = """#!/bin/sh
[ "$1" = app-server ] || exec {fake} "$@"
exec {python} -I -S {door} {socket}
"""


class _Line(msgspec.Struct):
    method: str = ""
    id: int | str | None = None
    params: msgspec.Raw = msgspec.Raw(b"{}")


class _Params(msgspec.Struct, rename="camel"):
    thread_id: str = ""
    turn_id: str = ""
    items: msgspec.Raw = msgspec.Raw(b"[]")
    input: msgspec.Raw = msgspec.Raw(b"[]")


class Answer(msgspec.Struct, frozen=True):
    """What every turn with the same prompt says, as far as it can be made before."""

    script: Script
    deltas: tuple[bytes, ...]
    """JSON strings."""
    text: bytes


class Turn:
    """One turn that is being written."""

    __slots__ = ("answer", "due_at", "frames", "left", "position", "thread_id", "turn_id", "unit", "worker")

    def __init__(self, worker: Worker, thread_id: str, turn_id: str, said: Answer) -> None:
        self.worker = worker
        self.thread_id = thread_id
        self.turn_id = turn_id
        self.answer = said
        head = b'{"method":"item/agentMessage/delta","params":{"threadId":"%b","turnId":"%b","itemId":"msg_1","delta":'
        head %= (thread_id.encode(), turn_id.encode())
        tail = b'},"emittedAtMs":%d}\n' % (time.time_ns() // 1_000_000)
        self.frames = [head + delta + tail for delta in said.deltas]
        self.unit = b"".join(self.frames)
        self.left = said.script.repeat
        self.position = 0
        self.due_at = 0.0

    def ending(self, status: str) -> bytes:
        """The last two notifications."""
        ids = {"threadId": self.thread_id, "turnId": self.turn_id}
        usage = {"total": frames.usage(_TOKENS), "last": frames.usage(_TOKENS), "modelContextWindow": 258_400}
        item = {**frames.agent_message("msg_1", ""), "text": msgspec.Raw(self.answer.text)}
        turn = frames.turn(self.turn_id, status, items=[item], itemsView="summary", startedAt=0, completedAt=0)
        return _notification("thread/tokenUsage/updated", {**ids, "tokenUsage": usage}) + _notification(
            "turn/completed", {"threadId": self.thread_id, "turn": turn}
        )


class Worker:
    """One fake worker: its pipes, its threads, and what waits to be written."""

    def __init__(self, mill: Mill, door: socket.socket, stdin: int, stdout: int) -> None:
        self.mill = mill
        self.door = door
        self.stdin = stdin
        self.stdout = stdout
        self.out = bytearray()
        self.flowing: list[Turn] = []
        """Turns without pauses that are being written."""
        self.turns: dict[str, Turn] = {}
        """By thread."""
        self.is_open = True
        self._unread = b""
        self._prompts: dict[str, bytes] = {}
        self._is_initialized = False
        self._is_watched = False
        self._answers: dict[str, Callable[[_Params], Any]] = {
            "thread/start": self._start_thread,
            "thread/inject_items": self._inject,
            "thread/unsubscribe": self._unsubscribe,
            "thread/loaded/list": lambda _params: {"data": [], "nextCursor": None},
            "turn/start": self._start_turn,
            "turn/interrupt": self._interrupt,
        }

    def read(self) -> None:
        """There is input, or its end."""
        try:
            data = os.read(self.stdin, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self.mill.forget(self)
            return
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._handle(_line(line))
        self.flush()

    def flush(self) -> None:
        """Write what the pipe takes now."""
        while self.is_open and (self.out or self.flowing):
            if not self.out:
                self._grind()
            try:
                written = os.write(self.stdout, self.out)
            except BlockingIOError:
                break
            except BrokenPipeError:
                self.mill.forget(self)
                return
            del self.out[:written]
        if self.is_open and bool(self.out) is not self._is_watched:
            self._is_watched = not self._is_watched
            self.mill.watch(self.stdout, self.flush if self._is_watched else None)

    def write_next(self, turn: Turn) -> None:
        """Write the next delta of a paced turn, or its end; one that only had to wait now flows."""
        script = turn.answer.script
        if not script.interval_s and script.hang is None:
            self.flowing.append(turn)
        elif turn.left:
            frame = turn.frames[turn.position]
            self.out += frame.replace(STAMP.encode(), b"%016d" % (time.monotonic_ns() // 1000), 1)
            turn.position += 1
            if turn.position == len(turn.frames):
                turn.position = 0
                turn.left -= 1
            if script.hang is None:
                turn.due_at += script.interval_s if turn.left else 0.0
                self.mill.call_at(turn)
        else:
            self._end(turn)
        self.flush()

    def _end(self, turn: Turn, status: str = "completed") -> None:
        self.out += turn.ending(status)
        del self.turns[turn.thread_id]

    def _grind(self) -> None:
        """The next block: a piece of every turn that flows, so many times."""
        block = b"".join([turn.unit for turn in self.flowing])
        times = min(max(1, BLOCK_BYTES // len(block)), *(turn.left for turn in self.flowing))
        self.out += block * times
        for turn in self.flowing:
            turn.left -= times
        for turn in [turn for turn in self.flowing if not turn.left]:
            self.flowing.remove(turn)
            self._end(turn)

    def _handle(self, line: _Line) -> None:
        if line.id is None:
            return
        if line.method == "initialize":
            self._initialize(line)
            return
        perform = self._answers.get(line.method)
        if perform is None:
            self._reply(line, "error", {"code": -32600, "message": f"the mill does not know {line.method}"})
            return
        at = len(self.out)
        try:
            result = perform(_params(line.params))
        except ScriptError as error:
            self._reply(line, "error", {"code": -32600, "message": str(error)})
            return
        said_before = bytes(self.out[at:])  # by a turn that ended at once: the reply has to come first
        del self.out[at:]
        self._reply(line, "result", result)
        self.out += said_before

    def _reply(self, line: _Line, kind: str, body: object) -> None:
        self.out += _encode({"id": line.id, kind: body}) + b"\n"

    def _initialize(self, line: _Line) -> None:
        if self._is_initialized:
            self._reply(line, "error", {"code": -32600, "message": "Already initialized"})
            return
        self._is_initialized = True
        agent = "codex_completions/0.163.0 (Linux 0; x86_64) unknown (codex_completions; 1)"
        result = {"userAgent": agent, "codexHome": "/", "platformFamily": "unix", "platformOs": "linux"}
        self._reply(line, "result", result)

    def _start_thread(self, _params: _Params) -> object:
        thread_id = self.mill.new_id()
        self._prompts[thread_id] = b"[]"
        started = _thread_started().replace(_ANY_THREAD, thread_id.encode())
        return msgspec.Raw(started)

    def _inject(self, params: _Params) -> object:
        self._prompts[params.thread_id] = bytes(params.items)
        return {}

    def _unsubscribe(self, params: _Params) -> object:
        self._prompts.pop(params.thread_id, None)
        return {"status": "unsubscribed"}

    def _start_turn(self, params: _Params) -> object:
        said = bytes(params.input)
        turn = Turn(self, params.thread_id, self.mill.new_id(), _answer(self._prompts[params.thread_id], said))
        self.turns[turn.thread_id] = turn
        script = turn.answer.script
        if script.delay_s or script.interval_s or script.hang:
            turn.due_at = time.monotonic() + script.delay_s
            self.mill.call_at(turn)
        else:
            self.flowing.append(turn)
        return {"turn": frames.turn(turn.turn_id, "inProgress")}

    def _interrupt(self, params: _Params) -> object:
        turn = self.turns.get(params.thread_id)
        if turn is not None:
            if turn in self.flowing:
                self.flowing.remove(turn)
            self._end(turn, "interrupted")
        return {}


class Mill:
    """Everything that one process speaks for."""

    def __init__(self, path: Path) -> None:
        self._poll = select.epoll()
        self._act: dict[int, Callable[[], None]] = {}
        self._due: list[tuple[float, int, Turn]] = []
        self._order = itertools.count()
        self._numbers = itertools.count(1)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(256)
        self._watch_input(self._listener.fileno(), self._accept)

    def run(self) -> None:
        """Until stdin ends."""
        is_over = False

        def end() -> None:
            nonlocal is_over
            is_over = not os.read(0, 1)

        self._watch_input(0, end)
        while not is_over:
            timeout = None if not self._due else max(0.0, self._due[0][0] - time.monotonic())
            select.select([self._poll], [], [], timeout)  # an epoll itself only knows milliseconds
            for number, _ in self._poll.poll(0):
                act = self._act.get(number)
                if act is not None:
                    act()
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                turn = heapq.heappop(self._due)[2]
                if turn.worker.turns.get(turn.thread_id) is turn:
                    turn.worker.write_next(turn)

    def new_id(self) -> str:
        """A UUID that nobody else has here."""
        return f"01a1f950-05b1-7000-8000-{next(self._numbers):012x}"

    def call_at(self, turn: Turn) -> None:
        """Have the turn write its next delta at `due_at`."""
        heapq.heappush(self._due, (turn.due_at, next(self._order), turn))

    def watch(self, number: int, act: Callable[[], None] | None) -> None:
        """Call `act` whenever something can be written to a descriptor; None: no more."""
        if act is None:
            del self._act[number]
            self._poll.unregister(number)
        else:
            self._act[number] = act
            self._poll.register(number, select.EPOLLOUT)

    def forget(self, worker: Worker) -> None:
        """Its process is gone, or its stdin has ended: let it go."""
        if not worker.is_open:
            return
        worker.is_open = False
        worker.turns.clear()
        worker.flowing.clear()
        for number in (worker.stdin, worker.stdout):
            if self._act.pop(number, None) is not None:
                self._poll.unregister(number)
            os.close(number)
        self._act.pop(worker.door.fileno(), None)
        worker.door.close()

    def _watch_input(self, number: int, act: Callable[[], None]) -> None:
        self._act[number] = act
        self._poll.register(number, select.EPOLLIN)

    def _accept(self) -> None:
        door, _ = self._listener.accept()
        _, numbers, _, _ = socket.recv_fds(door, 1, 2)
        if len(numbers) != 2:
            door.close()
            return
        for number in numbers:
            os.set_blocking(number, False)
        worker = Worker(self, door, *numbers)
        self._watch_input(worker.stdin, worker.read)
        self._watch_input(door.fileno(), lambda: self.forget(worker))


_line = msgspec.json.Decoder(_Line).decode
_params = msgspec.json.Decoder(_Params).decode
_encode = msgspec.json.Encoder().encode
_ANY_THREAD: Final = b"THREAD"


def _notification(method: str, params: object) -> bytes:
    return _encode({"method": method, "params": params, "emittedAtMs": 1_795_184_133_564}) + b"\n"


@functools.cache
def _thread_started() -> bytes:
    return _encode(
        frames.thread_started(
            _ANY_THREAD.decode(),
            model="gpt-5.5",
            provider="upstream",
            ephemeral=True,
            cwd="/",
            version="0.163.0",
            client="codex_completions",
            now_s=1_795_184_133,
        )
    )


@functools.lru_cache(maxsize=256)
def _answer(items: bytes, said: bytes) -> Answer:
    texts = [text for item in msgspec.json.decode(items) for text in texts_of(item.get("content"))]
    texts += texts_of(msgspec.json.decode(said))
    _, script = read_prompt(texts[-1] if texts else "")
    once = msgspec.structs.replace(script, repeat=1)
    deltas = [delta for message in answer(once, "", _DEFAULT) for delta in message]
    text = _encode("".join(deltas) * script.repeat)
    return Answer(script, tuple(map(_encode, deltas)), text)


def write_launcher(path: Path, listening_at: Path) -> Path:
    """Writes an executable to `path` whose every `app-server` the mill that listens there speaks for; returns it."""
    fake = fake_app_server.write_launcher(path.with_name(f"{path.name}-fake"))
    door = Path(__file__).with_name("mill_door.py")
    path.write_text(_LAUNCHER.format(fake=fake, python=sys.executable, door=door, socket=listening_at))
    path.chmod(0o755)
    return path


def main() -> int:
    """The command; its exit code."""
    mill = Mill(Path(sys.argv[1]))
    print("ready", flush=True)
    mill.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())

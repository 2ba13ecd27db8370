"""Worker processes without processes: the scripted app-server behind pipes that are slow and cut lines anywhere.

Everything that a kernel and a machine under load decide is drawn from one seeded generator, so that a run on a virtual
loop repeats itself exactly.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from loadtest.fake_server import FakeServer, Options

LATENCY_S = 0.02
"""The longest a chunk stays in a pipe."""
PIPE_BYTES = 64 * 1024
"""What a pipe holds for a process that does not read."""


class FakePipe:
    """Delivers bytes in order, later, in pieces of any size; `deliver` gets b"" at the end, once."""

    def __init__(self, rng: random.Random, deliver: Callable[[bytes], None]) -> None:
        self._rng = rng
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._chunks: deque[bytes] = deque()
        self._last_at = 0.0
        self._is_closed = False

    def write(self, data: bytes) -> None:
        if self._is_closed:
            return
        while data:
            size = len(data) if self._rng.random() < 0.7 else self._rng.randint(1, len(data))
            self._send(data[:size])
            data = data[size:]

    def close(self, *, lose: float = 0.0) -> None:
        """No more comes; with `lose`, that part of what is under way is lost as well."""
        if self._is_closed:
            return
        while self._chunks and self._rng.random() < lose:
            self._chunks.pop()
        self._is_closed = True
        self._send(b"")

    def _send(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._last_at = max(self._last_at, self._loop.time() + self._rng.uniform(0.0, LATENCY_S))
        self._loop.call_at(self._last_at, self._next)

    def _next(self) -> None:
        if self._chunks:
            self._deliver(self._chunks.popleft())


class FakeChild:
    """Speaks like `pool.transport.Child`; the script in a prompt, or the test, decides how it ends."""

    def __init__(
        self,
        number: int,
        rng: random.Random,
        options: Options,
        on_stdout: Callable[[bytes], None],
        on_eof: Callable[[], None],
    ) -> None:
        self.pid = number
        self.stderr_tail = ""
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._on_stdout = on_stdout
        self._on_eof = on_eof
        self.rss_bytes = 0
        self._is_frozen = False
        self._unheard = bytearray()
        self._stdin = FakePipe(rng, self._hear)
        self._stdout = FakePipe(rng, self._tell)
        self._server = FakeServer(options, self, wall=self._loop.time)
        self._timer: asyncio.TimerHandle | None = None

    # --- what a worker does with it ------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        self._stdin.write(data)

    @property
    def unwritten_bytes(self) -> int:
        return max(0, len(self._unheard) - PIPE_BYTES)

    async def stop(self, *, close_s: float = 2.0, term_s: float = 3.0) -> int | None:
        """A frozen one is killed, any other goes by itself, in a moment."""
        if not self.exited.done():
            self._stdin.close()
            self._loop.call_later(self._rng.uniform(0.0, close_s + term_s), self._die, -9 if self._is_frozen else 0)
        return await self.exited

    def kill(self) -> None:
        self._die(-9)

    # --- what the script, or the test, does to it ----------------------------------------------------------------

    def exit(self, code: int) -> None:
        """It ends; what it has written before arrives."""
        self._flush()
        self._die(code, lose=0.0)

    def kill_self(self) -> None:
        self._flush()
        self._die(-9)

    def stop_self(self) -> None:
        """It is there, and does nothing any more."""
        self._flush()
        self._is_frozen = True

    def go_on(self) -> None:
        """It does again, if it had stopped, and reads what it has missed."""
        if self._is_frozen:
            self._is_frozen = False
            data, self._unheard = bytes(self._unheard), bytearray()
            self._hear(data)
            self._work()

    def close_stdout(self) -> None:
        self._flush()
        self._stdout.close()

    def stop_reading(self) -> None:
        """Nothing to do: the server is deaf by itself."""

    def memory_bytes(self) -> int:
        return 0

    # --- inside --------------------------------------------------------------------------------------------------

    def _die(self, code: int, lose: float = 0.5) -> None:
        if self.exited.done():
            return
        self.exited.set_result(code)
        self._server.is_mute = True
        self._stdout.close(lose=lose)
        if self._timer is not None:
            self._timer.cancel()

    def _hear(self, data: bytes) -> None:
        if self._is_frozen:
            self._unheard += data
        elif data and not self.exited.done():
            self._server.receive(data, self._loop.time())
            self._work()

    def _work(self) -> None:
        """Do what is due, and write what has come of it."""
        if self._is_frozen or self.exited.done():
            return
        self._server.run_due(self._loop.time())
        self._flush()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._server.next_due is not None and not self.exited.done():
            self._timer = self._loop.call_at(self._server.next_due, self._work)

    def _flush(self) -> None:
        output = bytes(self._server.out)
        self._server.out.clear()
        self._stdout.write(output)

    def _tell(self, data: bytes) -> None:
        if data:
            self._on_stdout(data)
        else:
            self._on_eof()


class FakeKernel:
    """Has the `spawn` of `pool.transport.Child`, and remembers whom it has spawned."""

    def __init__(self, rng: random.Random, failure_rate: float = 0.0, options: Options | None = None) -> None:
        self._rng = rng
        self._options = options or Options()
        self._failure_rate = failure_rate
        self.children: list[FakeChild] = []

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        on_stdout: Callable[[bytes], None],
        on_eof: Callable[[], None],
    ) -> FakeChild:
        """A child, unless the machine has no more room for one."""
        assert argv[1:] == ["app-server"]
        assert cwd.is_dir()
        assert Path(env["CODEX_HOME"], "config.toml").is_file()
        if self._rng.random() < self._failure_rate:
            raise OSError(11, "Resource temporarily unavailable")
        child = FakeChild(len(self.children) + 1, self._rng, self._options, on_stdout, on_eof)
        self.children.append(child)
        return child

    @property
    def alive(self) -> list[FakeChild]:
        """Those that have not exited."""
        return [child for child in self.children if not child.exited.done()]

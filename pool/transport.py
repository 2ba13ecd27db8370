"""One child process and its three pipes. All promises about children are kept here:

* it has a session of its own, so that a signal for us is not for it, and it is signalled as a group;
* it dies when the service dies, SIGKILL included (`pool.launcher`);
* its stderr is always drained, and only the tail is kept;
* its stdout is never paused: a slow client must not stall the turns of the others;
* its exit is seen at the process, not at the pipe: a grandchild may hold the pipe open;
* ending it takes bounded time: stdin closed, then SIGTERM, then SIGKILL, to the group;
* it gets exactly the environment given, and no file descriptor but its three pipes.

Spawning goes through `subprocess.Popen` because the event loops' own spawn forks: with a large service that blocks
every stream for tens of milliseconds (docs/decisions/0005).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, cast

STDERR_TAIL_BYTES = 4096
EXIT_POLL_S = 0.05
"""How often a process without a pidfd is looked at."""
REAP_S = 1.0
"""How long `Child.kill` may block: a killed process is gone in milliseconds, unless it hangs in the kernel."""

_LAUNCHER = str(Path(__file__).with_name("launcher.py"))


class _Stdout(asyncio.Protocol):
    def __init__(self, on_data: Callable[[bytes], None], on_eof: Callable[[], None]) -> None:
        self._on_data = on_data
        self._on_eof = on_eof

    def data_received(self, data: bytes) -> None:
        self._on_data(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._on_eof()


class _Stderr(asyncio.Protocol):
    def __init__(self) -> None:
        self.tail = b""

    def data_received(self, data: bytes) -> None:
        self.tail = (self.tail + data)[-STDERR_TAIL_BYTES:]


class _Stdin(asyncio.BaseProtocol):
    def __init__(self) -> None:
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.is_open = False


class Pipe:
    """This end of a child's pipe, for `connect_read_pipe` and `connect_write_pipe`.

    libuv closes descriptors itself. uvloop has the file closed once more after that, when the number may already be
    that of a file which another thread has opened.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._fd = os.dup(file.fileno())
        file.close()
        self._is_closed_by_loop = not isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)

    def fileno(self) -> int:
        """Its descriptor."""
        return self._fd

    def close(self) -> None:
        """Close it, where the loop does not."""
        if not self._is_closed_by_loop:
            os.close(self._fd)


class Child:
    """A running child. Its owner calls `stop` in the end, and only its owner writes to it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = process
        self._unconnected = [cast(IO[bytes], pipe) for pipe in (process.stderr, process.stdout, process.stdin)]
        self._stdin: asyncio.WriteTransport | None = None
        self._stdin_protocol = _Stdin()
        self._readers: list[asyncio.BaseTransport] = []
        self._stderr = _Stderr()
        self._exited = self._loop.create_future()
        self._pidfd: int | None = None
        self._poll: asyncio.TimerHandle | None = None

    @classmethod
    async def spawn(
        cls,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        on_stdout: Callable[[bytes], None],
        on_eof: Callable[[], None],
    ) -> Child:
        """Start `argv`; `on_stdout` gets its output as it comes, `on_eof` is called once when that ends.

        Must run in the main OS thread: the kernel ties the child's life to the thread that spawned it.

        Raises:
            OSError: the process cannot be started.
        """
        process = subprocess.Popen(  # noqa: S603, ASYNC220 - the operator's binary, no shell; half a millisecond
            [sys.executable, "-I", "-S", _LAUNCHER, str(os.getpid()), *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=dict(env),
            start_new_session=True,
            bufsize=0,
        )
        child = cls(process)
        try:
            child._watch_exit()
            await child._connect(on_stdout, on_eof)
        except BaseException:
            child.kill()
            raise
        return child

    @property
    def pid(self) -> int:
        """Its process id, which is also its group's."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal, None while it runs."""
        return self._process.returncode

    @property
    def stderr_tail(self) -> str:
        """The last of what it wrote to stderr."""
        return self._stderr.tail.decode(errors="replace")

    @property
    def exited(self) -> asyncio.Future[int]:
        """Done, with the exit code, once the process has exited."""
        return self._exited

    @property
    def unwritten_bytes(self) -> int:
        """Bytes that it has not read yet."""
        return self._stdin.get_write_buffer_size() if self._stdin is not None else 0

    @property
    def rss_bytes(self) -> int:
        """The memory that it and its descendants occupy, shared parts included; 0 when the system does not tell."""
        pages, family = 0, [str(self.pid)]
        for pid in family:  # a wrapper has the CLI as its child
            with contextlib.suppress(OSError, IndexError, ValueError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                family += Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return pages * resource.getpagesize()

    def write(self, data: bytes) -> None:
        """Write to its stdin; what cannot be written at once is buffered, what comes after its end is dropped."""
        if data and self._stdin is not None and not self._stdin.is_closing():
            self._stdin.write(data)

    async def stop(self, *, close_s: float = 2.0, term_s: float = 3.0, kill_s: float = 5.0) -> int | None:
        """End it and everything in its group; returns its exit code, or None if even SIGKILL had no effect."""
        if self._stdin is not None and not self._stdin.is_closing():
            if self.unwritten_bytes:
                self._stdin.abort()
            else:
                self._stdin.close()
        await self._wait(close_s)
        if not self._exited.done():
            self._kill_group(signal.SIGTERM)
            await self._wait(term_s)
        if not self._exited.done():
            self._kill_group(signal.SIGKILL)
            await self._wait(kill_s)
        self._close()
        return self._process.returncode

    def kill(self) -> None:
        """End it at once; for an owner that is being cancelled itself. Blocks until the kernel has reaped it."""
        self._kill_group(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(REAP_S)
            if not self._exited.done():
                self._exited.set_result(code)
        self._close()

    # --- inside ----------------------------------------------------------------------------------------------

    async def _connect(self, on_stdout: Callable[[bytes], None], on_eof: Callable[[], None]) -> None:
        loop, pipes = self._loop, self._unconnected
        self._stdin, _ = await loop.connect_write_pipe(lambda: self._stdin_protocol, Pipe(pipes.pop()))
        reader, _ = await loop.connect_read_pipe(lambda: _Stdout(on_stdout, on_eof), Pipe(pipes.pop()))
        self._readers.append(reader)
        drain, _ = await loop.connect_read_pipe(lambda: self._stderr, Pipe(pipes.pop()))
        self._readers.append(drain)

    def _watch_exit(self) -> None:
        if hasattr(os, "pidfd_open"):
            self._pidfd = os.pidfd_open(self.pid)
            self._loop.add_reader(self._pidfd, self._look)
        else:
            self._look()

    def _look(self) -> None:
        """Reap it if it has exited; its group goes first, while its id cannot belong to anybody else."""
        self._poll = None
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if self._pidfd is None:
                self._poll = self._loop.call_later(EXIT_POLL_S, self._look)
            return
        self._kill_group(signal.SIGKILL)
        code = self._process.wait()
        self._unwatch()
        if not self._exited.done():
            self._exited.set_result(code)

    def _unwatch(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        if self._poll is not None:
            self._poll.cancel()
            self._poll = None

    def _kill_group(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def _wait(self, seconds: float) -> None:
        await asyncio.wait([self._exited], timeout=seconds)

    def _close(self) -> None:
        if self._stdin is not None and self._stdin_protocol.is_open:
            self._stdin.abort()
        for reader in self._readers:
            reader.close()
        for pipe in self._unconnected:
            pipe.close()
        self._unwatch()

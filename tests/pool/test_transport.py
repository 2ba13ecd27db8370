from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pool.transport import STDERR_TAIL_BYTES, Child
from tests.support.real_loops import RunReal

BOUND_S = 20.0
"""No test may hang; what has a promise in seconds is held to that."""

ENVIRONMENT = {"PATH": os.defpath, "LANG": "C.UTF-8"}
CAT = ["/bin/cat"]
FOR_EVER = "tail -f /dev/null"
ROOT = Path(__file__).resolve().parents[2]


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def python(script: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", script]


class Guarded:
    """A child and what it wrote."""

    def __init__(self) -> None:
        self.stdout = bytearray()
        self.eofs = 0
        self._something = asyncio.Event()
        self._child: Child | None = None

    @property
    def child(self) -> Child:
        assert self._child is not None
        return self._child

    async def spawn(self, argv: list[str], env: dict[str, str] | None = None) -> None:
        self._child = await Child.spawn(
            argv,
            env=ENVIRONMENT if env is None else env,
            cwd=Path("/"),
            on_stdout=self._on_stdout,
            on_eof=self._on_eof,
        )

    def _on_stdout(self, data: bytes) -> None:
        assert self.eofs == 0
        self.stdout += data
        self._something.set()

    def _on_eof(self) -> None:
        self.eofs += 1
        self._something.set()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until what it wrote makes this true."""
        async with asyncio.timeout(BOUND_S):
            while not is_so():
                self._something.clear()
                await self._something.wait()

    async def lines(self, count: int) -> list[str]:
        """Its first so many lines."""
        await self.until(lambda: self.stdout.count(b"\n") >= count)
        return self.stdout.decode().splitlines()[:count]

    async def exit_code(self, seconds: float = BOUND_S) -> int:
        """Its exit code, which has to be seen in this time."""
        async with asyncio.timeout(seconds):
            return await self.child.exited

    async def stop(self) -> int | None:
        """End it impatiently."""
        return await self.child.stop(close_s=0.2, term_s=0.2, kill_s=BOUND_S)


@asynccontextmanager
async def a_child(argv: list[str], env: dict[str, str] | None = None) -> AsyncIterator[Guarded]:
    """A child that is gone in the end, whatever happened."""
    guarded = Guarded()
    await guarded.spawn(argv, env)
    try:
        yield guarded
    finally:
        await guarded.stop()


async def is_gone(pid: int) -> None:
    """Wait until no process has this id."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    exited = asyncio.Event()
    loop.add_reader(pidfd, exited.set)
    try:
        async with asyncio.timeout(BOUND_S):
            await exited.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- talking to it ---------------------------------------------------------------------------------------------


def test_what_is_written_to_it_arrives_and_what_it_writes_comes_back(run_real: RunReal) -> None:
    async def story() -> None:
        async with a_child(CAT) as it:
            it.child.write(b"hel")
            it.child.write(b"lo\n")
            assert await it.lines(1) == ["hello"]
            assert it.child.returncode is None

    run_real(story())


def test_a_line_of_eight_megabytes_passes_in_both_directions(run_real: RunReal) -> None:
    async def story() -> None:
        line = bytes(range(65, 91)) * (8 * 1024 * 1024 // 26) + b"\n"
        async with a_child(CAT) as it:
            it.child.write(line)
            assert it.child.unwritten_bytes > 0
            await it.until(lambda: len(it.stdout) == len(line))
            assert it.stdout == line
            assert it.child.unwritten_bytes == 0

    run_real(story())


def test_its_stderr_is_drained_and_the_tail_is_kept(run_real: RunReal) -> None:
    async def story() -> None:
        flood = "import sys; sys.stderr.write('x' * 4_000_000 + 'the end'); sys.stderr.flush(); print('done')"
        async with a_child(python(flood)) as it:
            assert await it.lines(1) == ["done"]
            await it.exit_code()
            assert it.child.stderr_tail.endswith("xxxthe end")
            assert len(it.child.stderr_tail) == STDERR_TAIL_BYTES

    run_real(story())


def test_its_memory_can_be_seen_until_it_ends(run_real: RunReal) -> None:
    async def story() -> None:
        grow = "import sys; print(flush=True); sys.stdin.readline(); x = b'x' * 50_000_000; print(flush=True); input()"
        async with a_child(python(grow)) as it:
            await it.lines(1)
            before = it.child.rss_bytes
            it.child.write(b"\n")
            await it.lines(2)
            assert it.child.rss_bytes - before > 45_000_000 > before > 1_000_000
            await it.stop()
            assert it.child.rss_bytes == 0

    run_real(story())


def test_it_gets_exactly_the_environment_given(run_real: RunReal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "ours")
    given = {"LANG": "C.UTF-8", "A": "1", "EMPTY": "", "TEXT": "caf\u00e9 = x"}

    async def story() -> None:
        async with a_child(["/usr/bin/env"], given) as it:
            await it.exit_code()
            await it.until(lambda: it.eofs > 0)
            assert dict(line.split("=", 1) for line in it.stdout.decode().splitlines()) == given

    run_real(story())


def test_it_gets_no_file_of_ours_but_its_three_pipes(run_real: RunReal) -> None:
    async def story() -> None:
        ours, other_end = os.pipe()
        os.set_inheritable(ours, True)
        try:
            async with a_child(CAT), a_child(["/bin/ls", "/proc/self/fd"]) as it:
                await it.until(lambda: it.eofs > 0)
                assert it.stdout.decode().split() == ["0", "1", "2", "3"]  # 3 is the directory it lists
        finally:
            os.close(ours)
            os.close(other_end)

    run_real(story())


def test_it_leads_a_session_of_its_own(run_real: RunReal) -> None:
    async def story() -> None:
        async with a_child(CAT) as it:
            it.child.write(b"ready\n")
            await it.lines(1)
            assert os.getsid(it.child.pid) == os.getpgid(it.child.pid) == it.child.pid

    run_real(story())


# --- its exit --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -9), ("kill -15 $$", -15)])
def test_its_exit_code_is_seen(run_real: RunReal, script: str, code: int) -> None:
    async def story() -> None:
        async with a_child(shell(script)) as it:
            assert await it.exit_code() == code
            assert it.child.returncode == code
            await it.until(lambda: it.eofs > 0)
        assert it.eofs == 1

    run_real(story())


def test_its_exit_is_seen_where_the_kernel_has_no_pidfd(run_real: RunReal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")

    async def story() -> None:
        async with a_child(CAT) as it:
            it.child.write(b"x\n")
            await it.lines(1)
            assert await it.stop() == 0
            assert it.child._poll is None

    run_real(story())


def test_its_exit_is_seen_at_once_even_if_a_grandchild_elsewhere_holds_its_stdout(run_real: RunReal) -> None:
    script = (
        "import subprocess, sys\n"
        f"p = subprocess.Popen({FOR_EVER.split()!r}, start_new_session=True)\n"
        "print(p.pid, flush=True)\n"
        "import os; os._exit(3)"
    )

    async def story() -> None:
        async with a_child(python(script)) as it:
            grandchild = int((await it.lines(1))[0])
            try:
                assert await it.exit_code(1.0) == 3
                assert it.eofs == 0
                assert await it.stop() == 3
                await it.until(lambda: it.eofs == 1)
            finally:
                os.kill(grandchild, signal.SIGKILL)
            await is_gone(grandchild)

    run_real(story())


def test_with_its_exit_its_group_is_gone_and_the_pipe_with_it(run_real: RunReal) -> None:
    async def story() -> None:
        async with a_child(shell(f"{FOR_EVER} & echo $!; exit 0")) as it:
            grandchild = int((await it.lines(1))[0])
            assert await it.exit_code(1.0) == 0
            await is_gone(grandchild)
            await it.until(lambda: it.eofs == 1)

    run_real(story())


def test_a_stdout_that_ends_before_the_process_is_told(run_real: RunReal) -> None:
    async def story() -> None:
        async with a_child(shell("exec >&-; exec 2>&-; read line; exit 4")) as it:
            await it.until(lambda: it.eofs == 1)
            assert not it.child.exited.done()
            it.child.write(b"go\n")
            assert await it.exit_code() == 4

    run_real(story())


def test_a_program_that_is_not_there_exits_and_says_why(run_real: RunReal) -> None:
    async def story() -> None:
        async with a_child(["/nowhere/codex", "app-server"]) as it:
            assert await it.exit_code() == 1
            await it.stop()
            assert "FileNotFoundError" in it.child.stderr_tail

    run_real(story())


def test_a_directory_that_is_not_there_is_an_error_and_leaves_nothing(run_real: RunReal) -> None:
    async def story() -> None:
        before = open_files()
        with pytest.raises(FileNotFoundError):
            await Child.spawn(CAT, env={}, cwd=Path("/nowhere"), on_stdout=lambda _data: None, on_eof=lambda: None)
        assert open_files() == before

    run_real(story())


# --- ending it -------------------------------------------------------------------------------------------------


def test_one_that_ends_with_its_stdin_is_not_signalled(run_real: RunReal) -> None:
    async def story() -> None:
        async with a_child(CAT) as it:
            it.child.write(b"last words\n")
            assert await it.child.stop() == 0
            assert it.stdout == b"last words\n"

    run_real(story())


def test_one_that_outlives_its_stdin_is_asked_to_go(run_real: RunReal) -> None:
    async def story() -> None:
        async with a_child(shell(f"trap 'exit 7' TERM; echo ready; {FOR_EVER} & wait")) as it:
            await it.lines(1)
            assert await it.child.stop(close_s=0.1, term_s=BOUND_S) == 7

    run_real(story())


def test_one_that_will_not_go_is_killed_in_bounded_time(run_real: RunReal) -> None:
    stubborn = "import signal; signal.signal(15, signal.SIG_IGN); print('ready', flush=True)\nwhile 1: signal.pause()"

    async def story() -> None:
        loop = asyncio.get_running_loop()
        async with a_child(python(stubborn)) as it:
            await it.lines(1)
            began_at = loop.time()
            assert await it.child.stop(close_s=0.2, term_s=0.3, kill_s=BOUND_S) == -signal.SIGKILL
            assert 0.45 < loop.time() - began_at < 3.0

    run_real(story())


def test_one_that_is_frozen_can_be_ended(run_real: RunReal) -> None:
    async def story() -> None:
        async with a_child(CAT) as it:
            it.child.write(b"ready\n")
            await it.lines(1)
            os.kill(it.child.pid, signal.SIGSTOP)
            assert await it.child.stop(close_s=0.1, term_s=0.1, kill_s=BOUND_S) == -signal.SIGKILL

    run_real(story())


def test_with_it_goes_everything_in_its_group(run_real: RunReal) -> None:
    async def story() -> None:
        nest = f"{FOR_EVER} & echo $!; (trap '' TERM; {FOR_EVER}) & echo $!; exec cat"
        async with a_child(shell(nest)) as it:
            grandchildren = [int(pid) for pid in await it.lines(2)]
            assert await it.stop() == 0
            for pid in grandchildren:
                await is_gone(pid)

    run_real(story())


def test_one_that_does_not_read_can_be_ended_with_a_full_pipe(run_real: RunReal) -> None:
    async def story() -> None:
        async with a_child(shell(f"echo ready; exec {FOR_EVER}")) as it:
            await it.lines(1)
            it.child.write(b"x" * 4_000_000)
            assert it.child.unwritten_bytes > 0
            assert await it.stop() == -signal.SIGTERM

    run_real(story())


def test_what_is_written_after_the_end_is_dropped(run_real: RunReal) -> None:
    async def story() -> None:
        async with a_child(CAT) as it:
            await it.stop()
            it.child.write(b"hello?\n")
            assert await it.stop() == 0
        async with a_child(shell("exit 0")) as it:
            await it.exit_code()
            it.child.write(b"x" * 1_000_000)
            it.child.write(b"y")

    run_real(story())


def test_a_kill_ends_it_at_once_and_leaves_nothing(run_real: RunReal) -> None:
    async def story() -> None:
        before = open_files()
        it = Guarded()
        await it.spawn(shell(f"trap '' TERM; echo $$; {FOR_EVER}"))
        (pid,) = await it.lines(1)
        it.child.kill()
        await is_gone(int(pid))
        it._child = None
        await asyncio.to_thread(gc.collect)
        assert not Path(f"/proc/{pid}").exists(), "a zombie is left"
        assert open_files() <= before + 1  # the thread pool's own

    run_real(story())


def test_a_spawn_that_is_cancelled_leaves_nothing() -> None:
    """Not on uvloop: it forgets the file object of a pipe whose connecting is cancelled."""

    async def story() -> None:
        guarded = Guarded()
        async with asyncio.TaskGroup() as tasks:
            spawning = tasks.create_task(guarded.spawn(CAT))
            turn = asyncio.Event()
            asyncio.get_running_loop().call_soon(turn.set)
            await turn.wait()
            spawning.cancel()
        assert spawning.cancelled() or guarded._child is not None
        if guarded._child is not None:
            await guarded.stop()

    before = open_files()
    asyncio.run(story())
    gc.collect()
    assert open_files() == before


def test_no_file_is_left_open_after_many_lives(run_real: RunReal) -> None:
    async def story() -> None:
        async with a_child(CAT):
            pass
        before = open_files()
        for argv in (CAT, shell("exit 1"), shell(FOR_EVER), ["/nowhere"]):
            async with a_child(argv) as it:
                await it.stop()
        assert open_files() == before

    run_real(story())


# --- when we die -----------------------------------------------------------------------------------------------

_PARENT = """
import asyncio, sys, uvloop
from pathlib import Path
from pool.transport import Child

async def main():
    script = "trap '' TERM HUP INT PIPE; echo $$; while :; do {for_ever}; done"
    child = await Child.spawn(
        ["/bin/sh", "-c", script], env={{"PATH": "/usr/bin:/bin"}}, cwd=Path("/"),
        on_stdout=lambda data: (sys.stdout.write(data.decode()), sys.stdout.flush()), on_eof=lambda: None)
    await child.exited

asyncio.Runner(loop_factory={loop}).run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio.SelectorEventLoop", "uvloop.new_event_loop"])
def test_it_dies_when_we_are_killed_even_if_it_ignores_its_stdin(loop: str) -> None:
    script = _PARENT.format(for_ever=FOR_EVER, loop=loop)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        group = os.getpgid(pid)
        try:
            parent.kill()
            asyncio.run(is_gone(pid))
        finally:
            os.killpg(group, signal.SIGKILL)  # its own grandchild outlives it, as only our end of the pipe tells it


OPENS_AND_CLOSES = """
import os, sys, threading
from pathlib import Path
import asyncio, uvloop
from pool.transport import Pipe

async def main():
    loop, is_over, lost = asyncio.get_running_loop(), threading.Event(), []

    def work():
        while not is_over.is_set():
            for fd in [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]:
                try:
                    os.close(fd)
                except OSError as error:
                    lost.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(3000):
        theirs, ours = os.pipe()
        reader, _ = await loop.connect_read_pipe(asyncio.Protocol, Pipe(open(theirs, "rb", buffering=0)))
        reader.close()
        os.close(ours)
    is_over.set()
    for thread in threads:
        thread.join()
    print(len(lost))

uvloop.run(main())
"""


def test_closing_a_pipe_closes_no_file_of_another_thread() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OPENS_AND_CLOSES], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")

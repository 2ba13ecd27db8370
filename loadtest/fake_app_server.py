"""The scripted fake app-server as a real process: the command line, the pipes and the faults only a process can have.

It takes the place of the `codex` binary: `app-server [...]` speaks the stdio protocol, `--version` prints
`codex-cli 0.163.0`, `debug models --bundled` prints a small catalogue. `write_launcher` makes an executable of it. What
a turn answers is decided by the directive in its prompt (see `loadtest.script`), else it says `Hello from the fake
app-server.` in three deltas. Flags, which come before `app-server`, decide how the process behaves:

| flag | effect |
|---|---|
| `--version-string V` | claims to be another version |
| `--initialize hang`, `error`, `exit` | no answer to `initialize`, an error, an end |
| `--initialize-delay S` | answers `initialize` after S seconds |
| `--thread-start hang`, `error`; `--turn-start hang` | likewise for those RPCs |
| `--lose-reply`, `--duplicate-reply`, `--overloaded METHOD[:N]` | no reply, two replies, -32001; the first N times |
| `--stop-reading` | reads nothing after `initialize` |
| `--ignore-sigterm`, `--ignore-stdin-eof` | does not end when it should |
| `--hold-pipe` | a child keeps stdout open after the end, for at most a minute |
| `--grow-bytes N` | N bytes of memory more after every turn |
| `--exit-after-turns N`, `--exit-at-once CODE` | ends with code 1 after N turns; ends before anything else |
| `--chunks N`, `--delta TEXT`, `--interval S` | the default answer: N times TEXT, S seconds between two |

The process ends with code 0 when its stdin does, and on SIGTERM; one told not to notice the end of its stdin lives for
ten more minutes at most. It reads nothing while a megabyte of output waits for its reader, so its memory is bounded.
"""

from __future__ import annotations

import argparse
import math
import os
import selectors
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec

from loadtest.fake_catalogue import catalogue
from loadtest.fake_server import FakeServer, Options

if TYPE_CHECKING:
    from collections.abc import Sequence

_READ_BYTES: Final = 256 * 1024
_HIGH_WATER_BYTES: Final = 1024 * 1024
_FLUSH_S: Final = 5.0
_ORPHAN_S: Final = 600.0
_HOLD_S: Final = 60.0
_LAUNCHER: Final = """#!/bin/sh
exec {python} -I -c 'import sys; sys.path.insert(0, sys.argv.pop(1)); from loadtest.fake_app_server import main; \
sys.exit(main())' {root} {flags} "$@"
"""


class Process:
    """Owns stdin and stdout, and does to itself what the script asks for."""

    def __init__(self, *, ignores_stdin_eof: bool) -> None:
        self._ignores_stdin_eof = ignores_stdin_eof
        self._selector = selectors.PollSelector()  # epoll refuses a stdin which is a file
        self._reads = True
        self._has_stdout = True
        self._orphaned_at: float | None = None
        self._server: FakeServer | None = None

    def serve(self, options: Options) -> NoReturn:
        """Runs until stdin ends or a fault ends the process."""
        server = self._server = FakeServer(options, self)
        for number in (0, 1):
            os.set_blocking(number, False)
        while True:
            self._wait(server)
            self._flush(server)
            if self._reads and len(server.out) < _HIGH_WATER_BYTES:
                self._read(server)
            server.run_due(time.monotonic())
            self._flush(server)

    # What the server asks for.

    def exit(self, code: int) -> NoReturn:
        self._drain()
        os._exit(code)

    def kill_self(self) -> None:
        self._drain()
        os.kill(os.getpid(), signal.SIGKILL)

    def stop_self(self) -> None:
        self._drain()
        os.kill(os.getpid(), signal.SIGSTOP)

    def close_stdout(self) -> None:
        self._drain()
        self._has_stdout = False
        # Not closed but replaced, so that no later descriptor can become number 1.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)

    def stop_reading(self) -> None:
        self._reads = False
        self._orphaned_at = time.monotonic()

    def memory_bytes(self) -> int:
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
        except OSError:
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    # The pipes.

    def _wait(self, server: FakeServer) -> None:
        """Until a pipe is ready or something is due."""
        due = server.next_due
        timeout = None if due is None else max(0.0, due - time.monotonic())
        if self._orphaned_at is not None:
            left = self._orphaned_at + _ORPHAN_S - time.monotonic()
            if left <= 0:
                os._exit(0)
            timeout = left if timeout is None else min(timeout, left)
        self._watch(0, selectors.EVENT_READ, wanted=self._reads and len(server.out) < _HIGH_WATER_BYTES)
        self._watch(1, selectors.EVENT_WRITE, wanted=bool(server.out) and self._has_stdout)
        self._selector.select(timeout)

    def _watch(self, number: int, event: int, *, wanted: bool) -> None:
        is_watched = number in self._selector.get_map()
        if wanted and not is_watched:
            self._selector.register(number, event)
        elif is_watched and not wanted:
            self._selector.unregister(number)

    def _read(self, server: FakeServer) -> None:
        try:
            data = os.read(0, _READ_BYTES)
        except BlockingIOError:
            return
        if data:
            server.receive(data, time.monotonic())
        elif self._ignores_stdin_eof:
            self.stop_reading()
        else:
            self.exit(0)

    def _flush(self, server: FakeServer) -> None:
        """Writes what the pipe takes now."""
        if not self._has_stdout:
            server.out.clear()
        while server.out:
            try:
                written = os.write(1, server.out)
            except BlockingIOError:
                return
            except BrokenPipeError:
                os._exit(1)
            del server.out[:written]

    def _drain(self) -> None:
        """Writes everything, if the reader takes it in time."""
        server, end = self._server, time.monotonic() + _FLUSH_S
        if server is None:
            return
        self._flush(server)
        while server.out and time.monotonic() < end:
            self._watch(1, selectors.EVENT_WRITE, wanted=True)
            self._watch(0, selectors.EVENT_READ, wanted=False)
            self._selector.select(end - time.monotonic())
            self._flush(server)


def write_launcher(path: Path, *flags: str) -> Path:
    """Writes an executable to `path` which is this program with these flags, and returns `path`.

    It needs nothing from its environment or working directory.
    """
    root = Path(__file__).resolve().parent.parent
    script = _LAUNCHER.format(
        python=shlex.quote(sys.executable),
        root=shlex.quote(str(root)),
        flags=shlex.join(flags),
    )
    path.write_text(script)
    path.chmod(0o755)
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what the command line says; returns the exit code, if the process gets that far."""
    flags = _parser().parse_args(argv)
    if flags.exit_at_once is not None:
        return int(flags.exit_at_once)
    if flags.version:
        print(f"codex-cli {flags.version_string}")
        return 0
    match flags.command[:1]:
        case ["app-server"]:
            _behave_as_told(flags)
            Process(ignores_stdin_eof=flags.ignore_stdin_eof).serve(_options(flags))
        case ["debug"]:
            print(msgspec.json.encode(catalogue()).decode())
            return 0
        case _:
            print(f"error: unrecognized subcommand: {shlex.join(flags.command)}", file=sys.stderr)
    return 2


def _behave_as_told(flags: argparse.Namespace) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if flags.ignore_sigterm else lambda *_: os._exit(0))
    if flags.hold_pipe and os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.close(0)
        time.sleep(_HOLD_S)
        os._exit(0)


def _options(flags: argparse.Namespace) -> Options:
    home = os.environ.get("CODEX_HOME") or str(Path(os.environ.get("HOME", "/")) / ".codex")
    options = Options(
        version=flags.version_string,
        pid=os.getpid(),
        home=home,
        cwd=str(Path.cwd()),
        interval_s=flags.interval,
        initialize=flags.initialize,
        initialize_delay_s=flags.initialize_delay,
        thread_start=flags.thread_start,
        turn_start=flags.turn_start,
        stop_reading=flags.stop_reading,
        grow_bytes=flags.grow_bytes,
        exit_after_turns=flags.exit_after_turns,
        lose_reply=dict(flags.lose_reply),
        duplicate_reply=dict(flags.duplicate_reply),
        overloaded=dict(flags.overloaded),
    )
    if flags.chunks is None and flags.delta is None:
        return options
    deltas = (flags.delta or "token ",) * (len(options.deltas) if flags.chunks is None else flags.chunks)
    return msgspec.structs.replace(options, deltas=deltas)


def _method_and_count(text: str) -> tuple[str, float]:
    method, _, count = text.partition(":")
    return method, float(count) if count else math.inf


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="codex", allow_abbrev=False, description="The scripted fake app-server.")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("-c", dest="config", action="append", default=[], metavar="KEY=VALUE", help="ignored")
    parser.add_argument("--version-string", default="0.163.0")
    parser.add_argument("--initialize", choices=["hang", "error", "exit"])
    parser.add_argument("--initialize-delay", type=float, default=0.0, metavar="S")
    parser.add_argument("--thread-start", choices=["hang", "error"])
    parser.add_argument("--turn-start", choices=["hang"])
    for name in ("--lose-reply", "--duplicate-reply", "--overloaded"):
        parser.add_argument(name, action="append", type=_method_and_count, default=[], metavar="METHOD[:N]")
    for name in ("--stop-reading", "--ignore-sigterm", "--ignore-stdin-eof", "--hold-pipe"):
        parser.add_argument(name, action="store_true")
    parser.add_argument("--grow-bytes", type=int, default=0, metavar="N")
    parser.add_argument("--exit-after-turns", type=int, metavar="N")
    parser.add_argument("--exit-at-once", type=int, metavar="CODE")
    parser.add_argument("--chunks", type=int, metavar="N")
    parser.add_argument("--delta", metavar="TEXT")
    parser.add_argument("--interval", type=float, default=0.0, metavar="S")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""One worker incarnation: owns the process, its home and its session from the boot to the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pool.events import Fault, FaultKind, TurnRequest, TurnSink
from pool.home import Home
from pool.observer import WorkerExit
from pool.profile import Profile
from pool.protocol.dialect_v2 import MINIMUM_VERSION
from pool.session import Fact, HandshakeFailed, Handshaken, Session
from pool.transport import Child
from pool.worker_state import WorkerId

MAX_REASON_CHARS = 500
LAST_WORDS_S = 0.5
"""How long the output of a process that has exited is still read: its last answers may be in the pipe."""


class LaunchSpec(NamedTuple):
    """What is the same for every worker of a profile in this run."""

    profile: Profile
    binary: Path
    models: bytes
    run: Path
    service_version: str
    build: tuple[int, int] = (0, 0)
    """Of the binary: when it was written, in nanoseconds, and its size."""

    @property
    def launch(self) -> tuple[object, ...]:
        """What a worker that runs cannot take over: when it changes, workers are replaced."""
        profile = self.profile
        provider = (profile.base_url, profile.default_model, profile.credentials, profile.upstream_idle_s)
        return (self.binary, self.build, self.models, profile.env, *provider)


class WorkerEvents(NamedTuple):
    """Whom a worker tells what. All are called synchronously."""

    booted: Callable[[WorkerId, str], None]
    unfit: Callable[[WorkerId, str], None]
    broken: Callable[[WorkerId, str], None]
    fact: Callable[[WorkerId, Fact], None]
    bug: Callable[[WorkerId, Exception], None]


class Worker:
    """Call `run` once, in a task of its own; everything else is synchronous and may be called at any time."""

    def __init__(self, worker_id: WorkerId, spec: LaunchSpec, events: WorkerEvents) -> None:
        self.id = worker_id
        self.version: str | None = None
        """Of its CLI, once it has told."""
        self.session = Session(spec.profile.limits, spec.service_version, spec.profile.probes)
        self._spec = spec
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._child: Child | None = None
        self._home: Home | None = None
        self._is_write_due = False
        self._veil = spec.profile.veil
        self._has_booted = False
        self._is_hung = False
        self._lost_as = FaultKind.WORKER_LOST
        self._stop: asyncio.Future[str] = self._loop.create_future()
        self._eof: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> WorkerExit:
        """Live until the process ends or `stop` is called; nothing of the worker is left afterwards. Never raises."""
        try:
            reason = await self._live()
        except OSError as error:
            reason = self._told(f"it could not be started: {error.strerror or error}")
        except Exception as error:  # noqa: BLE001 - the boundary that keeps one worker's bug from its siblings
            self._events.bug(self.id, error)
            reason = "a bug of ours"
        except asyncio.CancelledError:
            self.session.lose(Fault(FaultKind.WORKER_REPLACED, "the service is stopping"), self._loop.time())
            if self._child is not None:
                self._child.kill()
            raise
        self._events.broken(self.id, reason)
        self.session.lose(Fault(self._lost_as, reason), self._loop.time())
        code: int | None = None
        try:
            if self._child is not None:
                grace_s = {"close_s": 0.0, "term_s": 0.0} if self._is_hung else {}
                code = await self._child.stop(**grace_s)
            if self._home is not None:
                await asyncio.to_thread(self._home.remove)
        except asyncio.CancelledError:
            if self._child is not None:
                self._child.kill()
            raise
        except Exception as error:  # noqa: BLE001 - as above
            self._events.bug(self.id, error)
        # What it said before it ever saw a prompt may be told.
        stderr_tail = self._veil(self._child.stderr_tail) if self._child is not None and not self._has_booted else ""
        return WorkerExit(self.id, reason, code, stderr_tail)

    def stop(self, reason: str, *, is_fault: bool = False, is_hung: bool = False) -> None:
        """End it; its open turns are lost. Whose fault that is, is told to them; one that has hung is just killed."""
        if not self._stop.done():
            self._stop.set_result(reason)
            self._is_hung = is_hung
            if not is_fault:
                self._lost_as = FaultKind.WORKER_REPLACED

    def start_turn(self, lease_id: int, request: TurnRequest, sink: TurnSink) -> None:
        """Begin a turn on a seat that was leased."""
        self._give(lambda now: self.session.start_turn(lease_id, request, sink, now))

    def interrupt(self, lease_id: int) -> None:
        """Ask for the end of a turn."""
        self._give(lambda now: self.session.interrupt(lease_id, now))

    def tick(self) -> None:
        """Hold requests and turns to their limits."""
        unread_bytes = self.unread_bytes()
        self._give(lambda now: self.session.tick(now, unread_bytes))

    def unread_bytes(self) -> int:
        """How much of what was written still waits for its process to read it."""
        return self._child.unwritten_bytes if self._child is not None else 0

    def rss_bytes(self) -> int:
        """The memory of its process; 0 when there is none, or the system does not tell."""
        return self._child.rss_bytes if self._child is not None else 0

    # --- inside ----------------------------------------------------------------------------------------------

    async def _live(self) -> str:
        """Why it ended."""
        spec = self._spec
        home = await asyncio.to_thread(Home.create, spec.run, _directory(self.id), spec.profile, spec.models)
        self._home = home
        if self._stop.done():
            return self._stop.result()
        child = self._child = await Child.spawn(
            [str(spec.binary), "app-server"],
            env=home.environment(spec.profile),
            cwd=home.cwd,
            on_stdout=self._on_stdout,
            on_eof=self._on_eof,
        )
        self._give(lambda now: self.session.open(now, spec.profile.init_timeout_s))
        ends: list[asyncio.Future[Any]] = [child.exited, self._eof]
        await asyncio.wait([*ends, self._stop], return_when=asyncio.FIRST_COMPLETED)
        if self._stop.done():
            return self._stop.result()
        self._events.broken(self.id, "it ended by itself")
        # Either may be seen first: its last answers may still be in the pipe, its exit not reported yet.
        await asyncio.wait(ends, timeout=LAST_WORDS_S, return_when=asyncio.ALL_COMPLETED)
        return _exit_reason(child.exited.result()) if child.exited.done() else "it closed its stdout"

    def _on_stdout(self, data: bytes) -> None:
        self._give(lambda now: self.session.receive(data, now))

    def _on_eof(self) -> None:
        if not self._eof.done():
            self._eof.set_result(None)

    def _give(self, stimulus: Callable[[float], None]) -> None:
        """Let the session act on something, and tell its facts.

        What it wants written goes out once, at the end of this turn of the loop: after the clients that were just
        woken have been answered, and together with what else comes up. A bug of ours costs this worker, never the
        caller.
        """
        try:
            stimulus(self._loop.time())
            for fact in self.session.take_facts():
                self._on_fact(fact)
        except Exception as error:  # noqa: BLE001 - the boundary, as above
            self._events.bug(self.id, error)
            self._events.broken(self.id, "a bug of ours")
        if self.session.has_output and not self._is_write_due:
            self._is_write_due = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._is_write_due = False
        if self._child is not None:
            self._child.write(self.session.take_output())

    def _on_fact(self, fact: Fact) -> None:
        match fact:
            case Handshaken(version, user_agent):
                self._on_handshake(version, user_agent)
            case HandshakeFailed(reason):
                self._events.broken(self.id, self._told(reason))
            case _:
                self._events.fact(self.id, fact)

    def _told(self, reason: str) -> str:
        """In its own words, which may be many and are not all for others."""
        return self._veil(reason[: 4 * MAX_REASON_CHARS])[:MAX_REASON_CHARS]

    def _on_handshake(self, version: tuple[int, int, int] | None, user_agent: str) -> None:
        needed = ".".join(map(str, MINIMUM_VERSION))
        if version is None:
            self._events.unfit(self.id, self._told(f"the CLI does not tell its version ({user_agent[:80]!r})"))
        elif version < MINIMUM_VERSION:
            found = ".".join(map(str, version))
            self._events.unfit(self.id, f"Codex CLI {found} is too old: {needed} or newer is needed")
        else:
            self._has_booted = True
            self.version = ".".join(map(str, version))
            self._events.booted(self.id, self.version)


def _directory(worker_id: WorkerId) -> str:
    return f"{worker_id.profile}-{worker_id.slot}-{worker_id.epoch}"


def _exit_reason(code: int) -> str:
    return f"it was killed by signal {-code}" if code < 0 else f"it exited with code {code}"

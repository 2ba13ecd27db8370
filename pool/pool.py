"""The pool's shell: owns every worker task and the clock, and carries out what the core decides."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, assert_never

from pool import binary, session
from pool.errors import ConfigurationError
from pool.events import TurnRequest, TurnSink
from pool.health import STALL_S, Clearance, Condemnation, Suspicion
from pool.home import RunDirectory, catalogue
from pool.inbox import Inbox
from pool.observer import PoolObserver
from pool.profile import Profile
from pool.roster import Outlook, ProfileSnapshot
from pool.state import PoolState
from pool.stimuli import (
    Boot,
    Booted,
    Broken,
    Cleared,
    Command,
    Commanded,
    Condemned,
    Doubted,
    Effect,
    Exited,
    Freed,
    InterruptIgnored,
    Lease,
    Measured,
    Moved,
    Overloaded,
    Proved,
    Reconfigured,
    Released,
    Started,
    Stimulus,
    Stop,
    Stopped,
    Struck,
    Suspected,
    Ticked,
)
from pool.story import Line
from pool.worker import LaunchSpec, Worker, WorkerEvents
from pool.worker_state import IN_SERVICE, WorkerId

TICK_S = 0.25
MEASURE_EVERY = 20
"""Ticks between two looks at the workers' memory."""


class FirstBoot(NamedTuple):
    """How a profile's first boot ended: `version` of the CLI, or the `failure` in one plain line.

    `is_final` failures repeat themselves however often the boot is tried.
    """

    profile: str
    version: str | None = None
    failure: str | None = None
    is_final: bool = False


class Pool:
    """Supervised workers for some profiles.

    `prepare` first (it blocks), then `run` in a task; `try_start` gives a turn a seat at once or says no.
    `on_freed(profile)` is called, synchronously, when seats that were not free before are free, and
    `on_quarantined(leases)` with turns that have come to nothing so far on a worker that has to go.
    """

    def __init__(
        self,
        profiles: Sequence[Profile],
        state_dir: Path,
        service_version: str,
        *,
        observer: PoolObserver | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._profiles = {profile.name: profile for profile in profiles}
        self._state_dir = state_dir
        self._service_version = service_version
        self._observer = observer or PoolObserver()
        self._state = PoolState(profiles, (rng or random.Random()).random)  # noqa: S311 - jitter is no secret
        self._run_directory: RunDirectory | None = None
        self._specs: dict[str, LaunchSpec] = {}
        self._workers: dict[WorkerId, Worker] = {}
        self._inbox = Inbox[Stimulus](self._handle)
        self._first_boots: dict[str, FirstBoot] = {}
        self._booted_once = asyncio.Event()
        self._stopping = asyncio.Event()
        self._boot_began: dict[WorkerId, float] = {}
        self._frames: dict[WorkerId, dict[str, int]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticks = 0
        self._troubles: frozenset[tuple[str, str]] = frozenset()
        self._ticked_at: float | None = None
        self.on_freed: Callable[[str], None] = lambda _profile: None
        self.on_quarantined: Callable[[tuple[Lease, ...]], None] = lambda _leases: None

    # --- life cycle ------------------------------------------------------------------------------------------

    def prepare(self, search_path: str | None = None) -> None:
        """Find the CLI of every profile, read its catalogue, and make the run directory. Blocks for about 0.1 s.

        Raises:
            EnvironmentUnfit: a CLI is missing or unusable, or the state directory cannot be written.
            ConfigurationError: a credentials file is missing.
        """
        self._run_directory = RunDirectory.create(self._state_dir)
        self._specs = dict(self.specs(self._profiles.values(), search_path))

    def specs(self, profiles: Iterable[Profile], search_path: str | None = None) -> Mapping[str, LaunchSpec]:
        """What `reconfigure` takes, by profile; changes nothing. Blocks, and may be called from another OS thread.

        Raises:
            EnvironmentUnfit: a CLI is missing or unusable.
            ConfigurationError: a credentials file is missing.
        """
        assert self._run_directory is not None  # noqa: S101 - `prepare` came first
        run = self._run_directory.path
        catalogues: dict[Path, list[dict[str, object]]] = {}
        specs = {}
        for profile in profiles:
            auth_file = profile.credentials.auth_file
            if auth_file is not None and not auth_file.is_file():
                raise ConfigurationError(f"profile {profile.name}: auth_file {auth_file} does not exist: log in first")
            path = binary.resolve(profile.codex_bin, search_path)
            if path not in catalogues:
                catalogues[path] = binary.bundled_models(path, run)
            models = catalogue(catalogues[path], (profile.default_model, *profile.models))
            status = path.stat()
            build = (status.st_mtime_ns, status.st_size)
            specs[profile.name] = LaunchSpec(profile, path, models, run, self._service_version, build)
        return specs

    @property
    def launches(self) -> Mapping[str, LaunchSpec]:
        """What `reconfigure` was given last, or `prepare` found."""
        return {name: self._specs[name] for name in self._profiles}

    def reconfigure(self, specs: Mapping[str, LaunchSpec]) -> frozenset[str]:
        """These profiles from now on. Knobs apply at once; where workers have to be started in another way they are
        replaced one at a time, new before old. Returns the profiles of which this is so.
        """
        changed = frozenset(
            name for name, spec in specs.items() if name in self._specs and spec.launch != self._specs[name].launch
        )
        alive = {worker.profile for worker in self._workers}
        self._specs = {name: spec for name, spec in self._specs.items() if name in alive} | dict(specs)
        self._profiles = {name: spec.profile for name, spec in specs.items()}
        for worker in self._workers.values():
            if (profile := self._profiles.get(worker.id.profile)) is not None:
                worker.session.retune(profile.limits, profile.probes)
        self._inbox.put(Reconfigured(tuple(self._profiles.values()), changed))
        return changed

    async def run(self) -> None:
        """Keep the workers up until `stop`; when this returns no worker and no file of theirs is left."""
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._inbox.put(Started())
                await self._monitor()
                self._inbox.put(Stopped())
        finally:
            self.discard()

    def stop(self) -> None:
        """End every worker, at once and bounded; drain before."""
        self._stopping.set()

    def discard(self) -> None:
        """Remove the run directory; for a pool that was prepared and will not run (again)."""
        if self._run_directory is not None:
            self._run_directory.remove()
            self._run_directory = None

    async def first_boots(self) -> list[FirstBoot]:
        """How the first boot of every profile ended; waits until all have."""
        await self._booted_once.wait()
        return list(self._first_boots.values())

    # --- turns -----------------------------------------------------------------------------------------------

    def free(self, profile: str) -> int:
        """Free seats of this profile, now."""
        return self._state.free(profile)

    def outlook(self, profile: str) -> Outlook:
        """What this profile has to offer, now."""
        return self._state.outlook(profile, self._now())

    def try_start(
        self, profile: str, request: TurnRequest, sink: TurnSink, avoid: Collection[WorkerId] = ()
    ) -> Lease | None:
        """Lease a seat on a worker outside `avoid` and begin the turn on it in one step.

        None, and nothing happened, when no such seat is free.
        """
        lease = self._state.try_lease(profile, self._now(), avoid)
        if lease is not None:
            self._workers[lease.worker].start_turn(lease.id, request, sink)
        return lease

    def interrupt(self, lease: Lease) -> None:
        """Ask for the end of this lease's turn; one that is over is left alone."""
        worker = self._workers.get(lease.worker)
        if worker is not None:
            worker.interrupt(lease.id)

    # --- operators -------------------------------------------------------------------------------------------

    def command(self, worker: WorkerId, command: Command) -> str | None:
        """Do this to the worker, or say why not.

        Raises:
            KeyError: there is no such worker (any more).
        """
        objection = self._state.objection(worker, command)
        if objection is None:
            self._inbox.put(Commanded(worker, command))
        return objection

    def story(self, worker: WorkerId) -> tuple[Line, ...]:
        """What happened to this worker, oldest first; the last that are gone are remembered, () of any other."""
        return self._state.story(worker)

    def buried(self) -> tuple[WorkerId, ...]:
        """The last workers that are gone, and have a story; the latest first."""
        return self._state.buried()

    # --- facts -----------------------------------------------------------------------------------------------

    def snapshot(self) -> list[ProfileSnapshot]:
        """Every profile in numbers."""
        return self._state.snapshot(self._loop.time() if self._loop is not None else 0.0)

    def unread_bytes(self) -> dict[str, int]:
        """By profile, what its worker that reads least has not read of what was written to it."""
        most: dict[str, int] = {}
        for worker in self._workers.values():
            most[worker.id.profile] = max(most.get(worker.id.profile, 0), worker.unread_bytes())
        return most

    def version(self, worker_id: WorkerId) -> str | None:
        """The CLI version of a worker that is still there: a profile may have two while it rolls."""
        worker = self._workers.get(worker_id)
        return worker.version if worker is not None else None

    def is_ready(self, required: Collection[str]) -> bool:
        """Each of these profiles has a worker in service."""
        rows = (row for row in self.snapshot() if row.profile in required)
        return all(any(row.workers[state] for state in IN_SERVICE) for row in rows)

    # --- inside ----------------------------------------------------------------------------------------------

    def _now(self) -> float:
        assert self._loop is not None  # noqa: S101 - nothing is leased before `run`
        return self._loop.time()

    async def _monitor(self) -> None:
        while not self._stopping.is_set():
            try:
                async with asyncio.timeout(TICK_S):
                    await self._stopping.wait()
            except TimeoutError:
                self._tick()

    def _tick(self) -> None:
        late_s = self._now() - self._ticked_at if self._ticked_at is not None else 0.0
        self._ticked_at = self._now()
        if late_s > STALL_S:
            self._observer.stalled(late_s)
        self._ticks += 1
        for worker in list(self._workers.values()):
            worker.tick()
            self._count_frames(worker)
            if self._ticks % MEASURE_EVERY == 0:
                self._inbox.put(Measured(worker.id, worker.rss_bytes()))
        self._inbox.put(Ticked())
        self._tell_troubles()

    def _tell_troubles(self) -> None:
        troubles = self._state.troubles(self._now())
        for trouble in sorted(troubles - self._troubles):
            self._observer.trouble_began(*trouble)
        for trouble in sorted(self._troubles - troubles):
            self._observer.trouble_ended(*trouble)
        self._troubles = troubles

    def _count_frames(self, worker: Worker) -> None:
        before = self._frames.get(worker.id, {})
        counts = {kind: count - before.get(kind, 0) for kind, count in worker.session.counters.items()}
        self._frames[worker.id] = dict(worker.session.counters)
        if any(counts.values()):
            self._observer.frames_counted(worker.id, counts)
        starts_s, probes_s = worker.session.take_times()
        if starts_s or probes_s:
            self._observer.times_taken(worker.id, starts_s, probes_s)

    def _handle(self, stimulus: Stimulus) -> None:
        try:
            effects = self._state.handle(stimulus, self._now())
        except Exception as error:  # noqa: BLE001 - the boundary: a bug of ours must not cost every worker
            self._observer.bug_found("the pool's core", error)
            effects = self._state.spill()
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Boot(worker_id):
                self._boot(worker_id)
            case Stop(worker_id, reason, is_fault, is_hung):
                worker = self._workers.get(worker_id)
                if worker is not None:
                    worker.stop(reason, is_fault=is_fault, is_hung=is_hung)
            case Doubted(worker_id):
                worker = self._workers.get(worker_id)
                if worker is not None:
                    self.on_quarantined(tuple(Lease(lease_id, worker_id) for lease_id in worker.session.untouched()))
            case Freed(profile):
                self.on_freed(profile)
            case Moved(worker_id, source, target, reason):
                self._observer.worker_moved(worker_id, source, target, reason)
            case _:
                assert_never(effect)

    def _boot(self, worker_id: WorkerId) -> None:
        assert self._tasks is not None  # noqa: S101 - `Started` is applied inside the group
        events = WorkerEvents(self._on_booted, self._on_unfit, self._on_broken, self._on_fact, self._on_bug)
        worker = Worker(worker_id, self._specs[worker_id.profile], events)
        self._workers[worker_id] = worker
        self._boot_began[worker_id] = self._now()
        self._tasks.create_task(self._supervise(worker), name=f"worker {worker_id}")

    async def _supervise(self, worker: Worker) -> None:
        end = await worker.run()
        self._count_frames(worker)
        self._frames.pop(worker.id, None)
        self._boot_began.pop(worker.id, None)
        del self._workers[worker.id]
        self._observer.worker_exited(end)
        self._inbox.put(Exited(worker.id, end.reason))

    def _on_booted(self, worker_id: WorkerId, version: str) -> None:
        began_at = self._boot_began.pop(worker_id, None)
        if began_at is not None:
            self._observer.worker_booted(worker_id, version, self._now() - began_at)
            self._report_first_boot(FirstBoot(worker_id.profile, version=version))
            self._inbox.put(Booted(worker_id))

    def _on_unfit(self, worker_id: WorkerId, reason: str) -> None:
        self._report_first_boot(FirstBoot(worker_id.profile, failure=reason, is_final=True))
        self._on_broken(worker_id, reason)

    def _on_broken(self, worker_id: WorkerId, reason: str) -> None:
        was_booting = self._boot_began.pop(worker_id, None) is not None
        self._inbox.put(Broken(worker_id, reason))
        if was_booting:
            self._observer.boot_failed(worker_id, reason, *self._state.next_boot(worker_id, self._now()))
            self._report_first_boot(FirstBoot(worker_id.profile, failure=reason))

    def _on_fact(self, worker_id: WorkerId, fact: session.Fact) -> None:
        match fact:
            case session.TurnClosed(lease_id):
                self._observer.lease_released(Lease(lease_id, worker_id))
                self._inbox.put(Released(Lease(lease_id, worker_id)))
            case session.InterruptIgnored(lease_id):
                self._inbox.put(InterruptIgnored(Lease(lease_id, worker_id)))
            case session.Proved():
                self._inbox.put(Proved(worker_id))
            case session.Overloaded():
                self._inbox.put(Overloaded(worker_id))
            case session.Struck(reason):
                self._inbox.put(Struck(worker_id, reason))
            case Suspicion(reason):
                self._inbox.put(Suspected(worker_id, reason))
            case Clearance():
                self._inbox.put(Cleared(worker_id))
            case Condemnation(verdict, reason):
                self._inbox.put(Condemned(worker_id, verdict, reason))

    def _on_bug(self, worker_id: WorkerId, error: Exception) -> None:
        self._observer.bug_found(str(worker_id), error)

    def _report_first_boot(self, report: FirstBoot) -> None:
        if report.profile not in self._first_boots:
            self._first_boots[report.profile] = report
            if len(self._first_boots) == len(self._profiles):
                self._booted_once.set()

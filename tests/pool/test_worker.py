"""One worker incarnation on a virtual loop: everything is real but the process."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtest.fake_server import Options
from pool.events import Fault, FaultKind, TextDelta, TurnRequest
from pool.health import Clearance, Condemnation, ProbeLimits, Suspicion
from pool.observer import WorkerExit
from pool.profile import Credentials, RetireLimits
from pool.session import Fact, Proved, TurnClosed
from pool.turn import TurnLimits
from pool.worker import LAST_WORDS_S, LaunchSpec, Worker, WorkerEvents
from pool.worker_state import Verdict, WorkerId
from tests.support.fake_child import FakeChild, FakeKernel
from tests.support.profiles import a_profile
from tests.support.sinks import RecordingSink
from tests.support.virtual_time import in_virtual_time, pass_time

ID = WorkerId("main", 0, 1)
SILENT = Suspicion("it answers no probe")
LIMITS = TurnLimits(start_s=2.0, first_event_s=6.0, idle_s=4.0, total_s=20.0, interrupt_s=1.0)


class Stage:
    """A worker, its process, and what it has told."""

    def __init__(self, run: Path, monkeypatch: pytest.MonkeyPatch, options: Options, failure_rate: float) -> None:
        self.kernel = FakeKernel(random.Random(1), failure_rate, options)  # noqa: S311 - it has to repeat itself
        monkeypatch.setattr("pool.worker.Child", self.kernel)
        self.run = run
        self.booted: list[str] = []
        self.unfit: list[str] = []
        self.broken: list[str] = []
        self.facts: list[Fact] = []
        self.bugs: list[Exception] = []
        events = WorkerEvents(
            booted=lambda _id, version: self.booted.append(version),
            unfit=lambda _id, reason: self.unfit.append(reason),
            broken=lambda _id, reason: self.broken.append(reason),
            fact=lambda _id, fact: self.facts.append(fact),
            bug=lambda _id, error: self.bugs.append(error),
        )
        spec = LaunchSpec(a_profile(limits=LIMITS), Path("/nowhere/codex"), b"{}", run, "1.2.3")
        self.worker = Worker(ID, spec, events)
        self.exit: WorkerExit | None = None

    async def live(self) -> None:
        self.exit = await self.worker.run()

    @property
    def child(self) -> FakeChild:
        (child,) = self.kernel.children
        return child

    def turn(self, lease_id: int = 1, **script: Any) -> RecordingSink:
        """Begin a turn whose answer is scripted."""
        content = [{"type": "input_text", "text": f"@@{json.dumps(script)}"}]
        request = TurnRequest("gpt-5.5", "", ({"type": "message", "role": "user", "content": content},))
        sink = RecordingSink()
        self.worker.start_turn(lease_id, request, sink)
        return sink

    async def passes(self, seconds: float) -> None:
        """Time passes, and the worker is told so as often as the pool tells it."""
        for _ in range(int(seconds / 0.25)):
            await pass_time(0.25)
            self.worker.tick()


@asynccontextmanager
async def staged(
    run: Path, monkeypatch: pytest.MonkeyPatch, options: Options | None = None, failure_rate: float = 0.0
) -> AsyncIterator[Stage]:
    """A worker that runs, and leaves nothing."""
    stage = Stage(run, monkeypatch, options or Options(), failure_rate)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(stage.live())
        await pass_time(0.5)
        try:
            yield stage
        finally:
            stage.worker.stop("the test is over")
    assert stage.exit is not None
    assert stage.kernel.alive == []
    assert list(run.iterdir()) == []


@in_virtual_time
async def test_a_worker_boots_answers_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with staged(tmp_path, monkeypatch) as stage:
        assert stage.booted == ["0.163.0"]
        sink = stage.turn(chunks=["Hel", "lo"])
        await stage.passes(1.0)
        assert sink.events == [TextDelta("Hel"), TextDelta("lo")]
        assert stage.facts == [Proved(), TurnClosed(1)]
        assert [path.name for path in tmp_path.iterdir()] == ["main-0-1"]
    assert stage.exit == WorkerExit(ID, "the test is over", 0, "")
    assert stage.broken == ["the test is over"]
    assert stage.bugs == []


@in_virtual_time
async def test_an_interrupt_reaches_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with staged(tmp_path, monkeypatch) as stage:
        sink = stage.turn(hang="middle")
        await stage.passes(0.5)
        stage.worker.interrupt(1)
        await stage.passes(0.5)
        assert sink.outcome == "interrupted"
        assert stage.facts == [Proved(), TurnClosed(1)]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (Options(initialize="error"), "initialize was refused: the fake app-server was told to refuse `initialize`"),
        (Options(initialize="hang"), "initialize was not answered"),
        (Options(initialize="exit"), "it ended by itself"),
    ],
    ids=["refuses", "hangs", "exits"],
)
@in_virtual_time
async def test_a_boot_that_fails_is_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Options, reason: str
) -> None:
    async with staged(tmp_path, monkeypatch, options) as stage:
        await stage.passes(11.0)
        assert stage.broken[0] == reason
        assert stage.booted == stage.unfit == []


@pytest.mark.parametrize(
    ("version", "said"), [("0.157.9", "0.157.9 is too old"), ("none", "does not tell its version")]
)
@in_virtual_time
async def test_a_cli_that_will_never_do_is_called_unfit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, said: str
) -> None:
    async with staged(tmp_path, monkeypatch, Options(version=version)) as stage:
        assert said in stage.unfit[0]
        assert stage.booted == []


@in_virtual_time
async def test_a_process_that_cannot_be_spawned_is_a_broken_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(tmp_path, monkeypatch, failure_rate=1.0) as stage:
        assert stage.broken == ["it could not be started: Resource temporarily unavailable"]
        assert stage.exit == WorkerExit(ID, stage.broken[0], None, "")


@in_virtual_time
async def test_a_home_that_cannot_be_made_is_a_broken_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    run.mkdir()
    stage = Stage(tmp_path / "gone", monkeypatch, Options(), 0.0)
    await stage.live()
    assert stage.broken == ["it could not be started: No such file or directory"]
    assert stage.kernel.children == []


@pytest.mark.parametrize(
    ("blow", "reason", "code"),
    [
        (lambda child: child.exit(3), "it exited with code 3", 3),
        (lambda child: child.kill_self(), "it was killed by signal 9", -9),
        (lambda child: child.close_stdout(), "it closed its stdout", 0),
    ],
    ids=["exits", "is killed", "closes its stdout"],
)
@in_virtual_time
async def test_how_a_worker_ended_is_told_and_its_turns_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blow: Callable[[FakeChild], None], reason: str, code: int
) -> None:
    async with staged(tmp_path, monkeypatch) as stage:
        sink = stage.turn(hang="middle")
        await stage.passes(0.5)
        blow(stage.child)
        await stage.passes(LAST_WORDS_S + 6.0)
        assert sink.outcome == FaultKind.WORKER_LOST
        assert sink.ended is not None
        assert sink.ended.fault is not None
        assert sink.ended.fault.message == reason
        assert stage.exit == WorkerExit(ID, reason, code, "")
        assert stage.broken == ["it ended by itself", reason]


@in_virtual_time
async def test_what_a_worker_said_before_it_died_still_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with staged(tmp_path, monkeypatch, Options(exit_after_turns=1)) as stage:
        sink = stage.turn(chunks=["the ", "last ", "words"])
        await stage.passes(1.0)
        assert (sink.text, sink.outcome) == ("the last words", "stop")
        assert stage.exit is not None
        assert stage.exit.reason == "it exited with code 1"


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ({}, FaultKind.WORKER_REPLACED),
        ({"is_fault": True}, FaultKind.WORKER_LOST),
        ({"is_fault": True, "is_hung": True}, FaultKind.WORKER_LOST),
    ],
    ids=["taken away", "at fault", "hung"],
)
@in_virtual_time
async def test_the_turns_of_a_worker_that_is_stopped_are_told_whose_fault_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, bool], kind: FaultKind
) -> None:
    async with staged(tmp_path, monkeypatch) as stage:
        sink = stage.turn(hang="middle")
        await stage.passes(0.5)
        stage.worker.stop("a reason", **how)
        stage.worker.stop("another reason", is_fault=not how)
        await stage.passes(6.0)
        assert sink.ended is not None
        assert sink.ended.fault == Fault(kind, "a reason")
        assert stage.exit is not None
        assert stage.exit.reason == "a reason"
        assert stage.bugs == []


@pytest.mark.parametrize("is_hung", [True, False])
@in_virtual_time
async def test_a_worker_that_has_hung_is_killed_without_a_polite_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_hung: bool
) -> None:
    async with staged(tmp_path, monkeypatch) as stage:
        stage.child.stop_self()
        stage.worker.stop("it answers no probe", is_fault=True, is_hung=is_hung)
        await pass_time(0.1)
        assert (stage.kernel.alive == []) is is_hung
        await stage.passes(6.0)
        assert stage.exit == WorkerExit(ID, "it answers no probe", -9, "")


@in_virtual_time
async def test_a_worker_that_freezes_is_suspect_and_one_that_thaws_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(tmp_path, monkeypatch) as stage:
        stage.child.stop_self()
        await stage.passes(8.0)
        assert stage.facts == [SILENT]
        stage.child.go_on()
        await stage.passes(2.5)
        assert stage.facts == [SILENT, Clearance()]
        sink = stage.turn(text="here again")
        await stage.passes(1.0)
        assert (sink.text, sink.outcome) == ("here again", "stop")


@in_virtual_time
async def test_a_worker_that_stays_frozen_is_condemned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with staged(tmp_path, monkeypatch) as stage:
        stage.child.stop_self()
        await stage.passes(30.0)
        assert stage.facts == [SILENT, Condemnation(Verdict.HUNG, SILENT.reason)]
        assert stage.worker.session.counters["probe_missed"] > 5


@in_virtual_time
async def test_a_worker_that_leaves_more_unread_than_a_pipe_holds_is_suspect_though_it_talks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(tmp_path, monkeypatch) as stage:
        sink = stage.turn(chunks=["tick "], repeat=1000, interval_s=0.05)
        await stage.passes(1.0)
        monkeypatch.setattr(FakeChild, "unwritten_bytes", 1)
        await stage.passes(4.5)
        assert stage.facts == [Proved()]
        await stage.passes(1.0)
        assert stage.facts == [Proved(), Suspicion("it does not read")]
        assert sink.outcome is None


@in_virtual_time
async def test_a_stall_of_ours_is_nothing_to_the_worker_and_its_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged(tmp_path, monkeypatch) as stage:
        sink = stage.turn(text="some words", hang="middle")
        await stage.passes(1.0)
        for _ in range(3):
            await pass_time(1000.0)
            stage.worker.tick()
        assert stage.facts == [Proved()]
        assert sink.outcome is None
        await stage.passes(LIMITS.idle_s)
        assert sink.outcome == FaultKind.IDLE_TIMEOUT


@in_virtual_time
async def test_its_memory_is_its_processs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Stage(tmp_path, monkeypatch, Options(), 0.0).worker.rss_bytes() == 0
    async with staged(tmp_path, monkeypatch) as stage:
        stage.child.rss_bytes = 123
        assert stage.worker.rss_bytes() == 123


@pytest.mark.parametrize(
    ("change", "is_another"),
    [
        ({"base_url": "http://elsewhere.invalid/v1"}, True),
        ({"default_model": "another"}, True),
        ({"credentials": Credentials(api_key="another")}, True),
        ({"env": (("HTTPS_PROXY", "http://proxy.invalid"),)}, True),
        ({"upstream_idle_s": 1.0}, True),
        ({"workers": 7, "slots": 1, "spares": 3, "probation_s": 1.0}, False),
        ({"limits": TurnLimits(), "probes": ProbeLimits(idle_s=9.0), "retire": RetireLimits(max_turns=1)}, False),
        ({"init_timeout_s": 99.0, "surge": 1.0, "eject_max": 1.0}, False),
    ],
)
def test_only_what_a_running_worker_cannot_take_over_is_another_launch(
    change: dict[str, Any], is_another: bool
) -> None:
    profile = a_profile()
    spec = LaunchSpec(profile, Path("/nowhere/codex"), b"{}", Path("/run"), "1.2.3")
    other = spec._replace(profile=replace(profile, **change))
    assert (spec.launch != other.launch) is is_another


def test_another_binary_build_or_catalogue_is_another_launch_and_another_run_is_not() -> None:
    spec = LaunchSpec(a_profile(), Path("/nowhere/codex"), b"{}", Path("/run"), "1.2.3")
    changes: list[dict[str, Any]] = [{"binary": Path("/elsewhere/codex")}, {"build": (1, 2)}, {"models": b"[]"}]
    assert all(spec._replace(**change).launch != spec.launch for change in changes)
    assert spec._replace(run=Path("/another"), service_version="2").launch == spec.launch


@in_virtual_time
async def test_a_stop_during_the_boot_spawns_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path, monkeypatch, Options(), 0.0)
    stage.worker.stop("too many")
    await stage.live()
    assert stage.kernel.children == []
    assert stage.exit == WorkerExit(ID, "too many", None, "")
    assert list(tmp_path.iterdir()) == []


@in_virtual_time
async def test_a_bug_of_ours_costs_the_worker_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with staged(tmp_path, monkeypatch) as stage:

        def fail(*_: object) -> None:
            raise ValueError("a bug")

        monkeypatch.setattr(stage.worker.session, "receive", fail)
        stage.turn(text="x")
        await stage.passes(0.5)
        assert [str(bug) for bug in stage.bugs][:1] == ["a bug"]
        assert stage.broken[0] == "a bug of ours"


@in_virtual_time
async def test_a_worker_that_is_cancelled_kills_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(tmp_path, monkeypatch, Options(), 0.0)
    async with asyncio.TaskGroup() as tasks:
        living = tasks.create_task(stage.live())
        await pass_time(0.5)
        assert stage.kernel.alive == [stage.child]
        sink = stage.turn(hang="middle")
        living.cancel()
    assert stage.kernel.alive == []
    assert sink.outcome == FaultKind.WORKER_REPLACED
    assert stage.exit is None

"""The scheduler, the pool, its workers and their sessions together, in virtual time, against seeded bad luck.

Only the kernel and the CLI are replaced: workers are scripted app-servers in this process, behind slow pipes that cut
lines anywhere, and they crash, freeze, lose answers and talk nonsense. A seed that fails is in the name of its test and
fails again every time.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pool.backoff import CAP_S
from pool.breaker import PANIC_S
from pool.events import Finish, ReasoningDelta, TextDelta, ToolCall, ToolSpec, TurnEnd, TurnRequest
from pool.observer import PoolObserver
from pool.pool import Pool
from pool.profile import Profile, RetireLimits
from pool.roster import ProfileSnapshot
from pool.stimuli import Lease
from pool.turn import TurnLimits
from pool.worker_state import IN_SERVICE, WorkerId, WorkerState
from scheduler.model import (
    Abandoned,
    CrashesWorker,
    CutOff,
    Ended,
    Expired,
    Job,
    Outcome,
    Overdue,
    Overrun,
    Priority,
    QueuePolicy,
    Rejected,
    Shed,
)
from scheduler.observer import SchedulerObserver
from scheduler.scheduler import Scheduler
from scheduler.ticket import Ticket
from tests.support.fake_child import FakeChild, FakeKernel
from tests.support.profiles import a_profile
from tests.support.virtual_time import pass_time, run_virtual, stall

SEEDS = range(50)
"""`--seeds 4711` runs another one instead, `--seeds 0:10000` very many."""
CLIENTS = 50
BUSY_S = 15.0
"""The clients come within this time, and workers are struck as long."""
LIMITS = TurnLimits(start_s=2.0, first_event_s=6.0, idle_s=4.0, total_s=20.0, interrupt_s=1.0)
WORKERS = {"wide": 2, "narrow": 3}
RETIRE = RetireLimits(max_turns=6, max_age_s=30.0, quarantine_s=5.0)
POLICY = QueuePolicy(queue_max=4)
CAPS = {"free": None, "capped": 1, "other": None}
"""Tenants, and how many turns of theirs may run at once in a profile."""
HEALED_S = PANIC_S + LIMITS.total_s + LIMITS.interrupt_s + 2 * CAP_S
"""When the faults have stopped, every seat is there and free again within this time."""
FLOOD = 30_000
"""Characters in each piece of an answer that is too much for a client which does not read."""

FAULTS: list[dict[str, Any]] = [
    {"exit": 0},
    {"exit": 3},
    {"kill_self": True},
    {"stop_self": True},
    {"stdout_eof": True},
    {"half_line": True},
    {"garbage": True},
    {"big_line": 100_000},
    {"late_frames": 5},
    {"ignore_interrupt": True},
    {"hang": "headers"},
    {"hang": "first"},
    {"hang": "middle"},
    {"disconnect": "middle"},
    {"status": 429},
    {"failed": "server_is_overloaded"},
    {"incomplete": "max_output_tokens"},
    {"server_request": "item/commandExecution/requestApproval"},
    *(
        {fault: method}
        for fault in ("lose_reply", "duplicate_reply", "overloaded")
        for method in ("thread/inject_items", "turn/start", "turn/interrupt", "thread/unsubscribe")
    ),
]


@dataclass
class Client:
    """What one client asks, what the model is to say to it, and what it has got."""

    name: str
    chunks: list[str]
    reasoning: str
    calls: list[str]
    fault: dict[str, Any]
    patience_s: float
    reading_s: float
    interval_s: float
    deadline_s: float | None
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    called: list[ToolCall] = field(default_factory=list)
    outcome: Outcome | None = None
    rejection: Rejected | None = None

    @classmethod
    def draw(cls, rng: random.Random, number: int) -> Client:
        name = f"client-{number}"
        is_flood = rng.random() < 0.04
        count, size = (50, FLOOD) if is_flood else (rng.randint(1, 12), rng.randint(0, 30))
        chunks = [f"<{name}:{index}:{'x' * size}>" for index in range(count)]
        return cls(
            name,
            chunks,
            f"thoughts of {name}" if rng.random() < 0.3 else "",
            [f"{name}-call-{index}" for index in range(rng.randint(1, 3))] if rng.random() < 0.25 else [],
            rng.choice(FAULTS) if rng.random() < 0.35 else {},
            patience_s=rng.choice([0.05, 0.5, 3.0, 1000.0, 1000.0, 1000.0]),
            reading_s=5.0 if is_flood else rng.choice([0.0, 0.0, 0.3]),
            interval_s=rng.choice([0.0, 0.01, 0.2]),
            deadline_s=rng.choice([None, None, None, 1.0, 6.0]),
        )

    def job(self, rng: random.Random) -> Job:
        script: dict[str, Any] = {"chunks": self.chunks, "interval_s": self.interval_s, **self.fault}
        if rng.random() < 0.5:
            script["at"] = rng.choice(["start", "first", "middle"])
        if self.reasoning:
            script["reasoning"] = self.reasoning
        if self.calls:
            script["tool_calls"] = [
                {"name": "look", "call_id": call, "arguments": {"of": self.name}} for call in self.calls
            ]
        content = [{"type": "input_text", "text": f"{self.name} @@{json.dumps(script)}"}]
        tools = (ToolSpec("look", "Looks", {"type": "object"}),) if self.calls else ()
        turn = TurnRequest("gpt-5.5", "", ({"type": "message", "role": "user", "content": content},), tools)
        tenant = rng.choice(list(CAPS))
        return Job(
            self.name,
            rng.choice(["wide", "narrow"]),
            tenant,
            turn,
            rng.choice([0.5, 5.0, 60.0]),
            weight=rng.choice([0.5, 1.0, 3.0]),
            priority=rng.choice(list(Priority)),
            deadline_s=self.deadline_s,
            seats=CAPS[tenant],
            queue_share=3,
        )

    def check(self, *, attempts: int, is_cut_off: bool) -> None:
        """It has what was meant for it, nothing else, and one end that fits."""
        if self.rejection is not None:
            assert self.outcome is None
            assert self.rejection.retry_after_s > 0
            return
        said, meant = "".join(self.texts), "".join(self.chunks)
        if "server_request" in self.fault:
            said, _, answer = said.partition(" The client ")
            assert answer in ("", 'answered {"decision":"decline"}.')
        assert meant.startswith(said), f"{said!r} is not of {meant!r}"
        assert self.reasoning.startswith("".join(self.thoughts))
        assert [call.call_id for call in self.called] == self.calls[: len(self.called)]
        assert all(call.arguments == f'{{"of":"{self.name}"}}' for call in self.called)
        match self.outcome:
            case Ended(TurnEnd(finish=Finish.STOP)):
                assert said == meant
                assert not self.calls
                assert "".join(self.thoughts) == self.reasoning
            case Ended(TurnEnd(finish=Finish.TOOL_CALLS)):
                assert said == meant
                assert len(self.called) == len(self.calls) > 0
            case Ended(TurnEnd(finish=Finish.LENGTH)):
                assert self.fault == {"incomplete": "max_output_tokens"}
            case Ended(TurnEnd(finish=None, fault=fault)):
                assert fault is not None
            case Expired() | Shed():
                assert said == ""
            case _:
                fits: dict[type, bool] = {
                    CrashesWorker: attempts > 1,
                    Overrun: self.reading_s > 1.0,
                    Overdue: self.deadline_s is not None,
                    CutOff: is_cut_off,
                    Abandoned: self.patience_s < 1000.0,
                }
                assert fits[type(self.outcome)], self.outcome


class Books(SchedulerObserver, PoolObserver):
    """How often each job was settled, what the workers did, and what was wrong with our own code."""

    def __init__(self) -> None:
        self.settled: Counter[str] = Counter()
        self.started: Counter[str] = Counter()
        self.bugs: list[Exception] = []
        self.boots = 0
        self.moves: Counter[WorkerState] = Counter()
        self.released: Counter[Lease] = Counter()
        self.seated: dict[str, tuple[str, str]] = {}
        self.stalled_s = 0.0

    def turn_started(self, job: Job, lease: Lease, attempt: int, waited_s: float) -> None:
        assert attempt > 1 or waited_s < job.queue_budget_s
        assert attempt == self.started[job.id] + 1
        self.started[job.id] += 1
        self.seated[job.id] = place = job.profile, job.tenant
        assert list(self.seated.values()).count(place) <= (job.seats or CLIENTS)

    def turn_returned(self, job: Job, lease: Lease, attempt: int, reason: str, rest_s: float) -> None:
        del self.seated[job.id]

    def ticket_settled(self, job: Job, outcome: Outcome, waited_s: float, ran_s: float, attempts: int) -> None:
        assert waited_s >= 0
        bound_s = LIMITS.total_s + LIMITS.interrupt_s + 2 * LIMITS.start_s
        assert 0 <= ran_s <= bound_s + self.stalled_s
        self.settled[job.id] += 1
        self.seated.pop(job.id, None)

    def worker_moved(self, worker: WorkerId, source: WorkerState, target: WorkerState, reason: str) -> None:
        assert reason
        self.moves[target] += 1

    def lease_released(self, lease: Lease) -> None:
        self.released[lease] += 1
        assert self.released[lease] == 1

    def worker_booted(self, worker: object, version: str, boot_s: float) -> None:
        self.boots += 1

    def bug_found(self, where: str, error: Exception) -> None:
        self.bugs.append(error)


class Simulation:
    """One run of everything, decided by its seed; without bad luck, nothing happens but stalls of ours."""

    def __init__(
        self, seed: int, state_dir: Path, monkeypatch: pytest.MonkeyPatch, *, has_bad_luck: bool = True
    ) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - it has to repeat itself
        self.has_bad_luck = has_bad_luck
        self.kernel = FakeKernel(self.rng, failure_rate=self.rng.choice([0.0, 0.0, 0.3]) if has_bad_luck else 0.0)
        self.books = Books()
        self.clients = [Client.draw(self.rng, number) for number in range(CLIENTS)]
        if not has_bad_luck:
            self.clients = [replace(client, fault={}) for client in self.clients]
        self.is_cut_off = self.rng.random() < 0.2
        self.state_dir = state_dir
        self.pool = Pool(self._profiles(), state_dir, "1.2.3", observer=self.books, rng=self.rng)
        monkeypatch.setattr("pool.worker.Child", self.kernel)
        monkeypatch.setattr("pool.binary.bundled_models", lambda _path, _scratch: [{"slug": "gpt-5.5"}])
        self.pool.prepare()

    def _profiles(self) -> list[Profile]:
        codex_bin = Path(sys.executable)
        wide = a_profile("wide", workers=WORKERS["wide"], slots=4, limits=LIMITS)
        narrow = a_profile("narrow", workers=WORKERS["narrow"], slots=1, limits=LIMITS)
        return [
            replace(wide, codex_bin=codex_bin),
            replace(narrow, codex_bin=codex_bin, spares=1, probation_s=2.0, retire=RETIRE),
        ]

    async def run(self) -> None:
        policies = {"wide": POLICY, "narrow": POLICY}
        scheduler = Scheduler(self.pool, policies, self.books, jitter=self.rng.random)
        self.pool.on_freed = scheduler.seats_freed
        self.pool.on_quarantined = scheduler.leases_doubted
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(self.pool.run())
            async with asyncio.TaskGroup() as people:
                for client in self.clients:
                    people.create_task(self._live(client, scheduler), name=client.name)
                people.create_task(self._strike(scheduler), name="bad luck")
                people.create_task(self._reload(), name="another configuration")
                if self.is_cut_off:
                    people.create_task(self._cut_off(scheduler), name="the end")
            scheduler.drain()
            await scheduler.idle()
            self._check(scheduler)
            await self._all_is_well_again()
            self.pool.stop()
            await running
        assert self.pool._state.is_idle()

    async def _live(self, client: Client, scheduler: Scheduler) -> None:
        job = client.job(self.rng)
        await pass_time(self.rng.choice([self.rng.uniform(0.0, BUSY_S), BUSY_S / 3, BUSY_S / 2]))
        try:
            ticket = scheduler.submit(job)
        except Rejected as rejection:
            client.rejection = rejection
            return
        try:
            async with asyncio.timeout(client.patience_s):
                await self._read(client, ticket)
        except TimeoutError:
            ticket.abandon()
            await self._read(client, ticket)
        client.outcome = ticket.outcome

    async def _read(self, client: Client, ticket: Ticket) -> None:
        while events := await ticket.read():
            for event in events:
                match event:
                    case TextDelta(text):
                        client.texts.append(text)
                    case ReasoningDelta(text):
                        client.thoughts.append(text)
                    case ToolCall():
                        client.called.append(event)
            if client.reading_s:
                await pass_time(self.rng.uniform(0.0, client.reading_s))

    async def _strike(self, scheduler: Scheduler) -> None:
        """Workers are killed, frozen, or close their stdout, whatever they are doing; and we are stopped ourselves."""
        ends_at = asyncio.get_running_loop().time() + BUSY_S
        while asyncio.get_running_loop().time() < ends_at:
            await pass_time(self.rng.expovariate(0.4))
            self._check(scheduler)
            blows: list[Callable[[], None]] = [self._stall]
            if self.has_bad_luck and self.kernel.alive:
                child = self.rng.choice(self.kernel.alive)
                blows += [child.kill_self, child.stop_self, child.close_stdout]
                blows += [partial(self._freeze, child), partial(self._grow, child)]
            self.rng.choice(blows)()

    def _stall(self) -> None:
        seconds = self.rng.choice([0.5, 1.5, 5.0, 60.0])
        self.books.stalled_s += seconds
        stall(seconds)

    def _freeze(self, child: FakeChild) -> None:
        child.stop_self()
        asyncio.get_running_loop().call_later(self.rng.uniform(0.5, 15.0), child.go_on)

    def _grow(self, child: FakeChild) -> None:
        child.rss_bytes = 2 * RETIRE.max_rss_bytes

    async def _reload(self) -> None:
        """The workers of a profile have to be started in another way from now on."""
        await pass_time(BUSY_S * self.rng.uniform(0.2, 0.8))
        wide, narrow = self._profiles()
        changed = replace(self.rng.choice([wide, narrow]), env=(("HTTPS_PROXY", "http://proxy.invalid"),))
        profiles = [changed if profile.name == changed.name else profile for profile in (wide, narrow)]
        assert self.pool.reconfigure(self.pool.specs(profiles)) == {changed.name}

    async def _cut_off(self, scheduler: Scheduler) -> None:
        """The service is told to stop while it is busy."""
        await pass_time(BUSY_S / 2 + self.rng.uniform(0.0, 1.0))
        scheduler.drain()
        await pass_time(0.2)
        scheduler.cut_off()

    async def _all_is_well_again(self) -> None:
        """Every worker serves, as is configured now, and every seat is free: turns that have ended for their clients
        have ended on the workers too.
        """
        ends_at = asyncio.get_running_loop().time() + HEALED_S
        while not all(map(_is_well, self.pool.snapshot())):
            assert asyncio.get_running_loop().time() < ends_at, self.pool.snapshot()
            await pass_time(0.1)

    def _check(self, scheduler: Scheduler) -> None:
        homes = [path for path in self.state_dir.glob("codex-completions-run-*/*") if path.is_dir()]
        assert len(homes) <= len(self.pool._workers), "the home of a worker that is gone was left"
        self.pool._state.validate()
        scheduler._state.validate()
        for name, queue in scheduler._state._queues.items():
            if queue.room(self.pool.free(name)) > 0:
                returned = [scheduler._state._tickets[ticket] for ticket in set(queue.returned) - queue.blocked]
                places = [each.place for each in returned if each.rests_until <= asyncio.get_running_loop().time()]
                assert all(map(queue.backlog.is_capped, places)), "who lost its turn waits while a seat is free"
                assert queue.backlog.head() is None, "somebody waits while a seat is free"

    def judge(self) -> None:
        """After the run: everybody has been told one thing, and nothing is left."""
        assert self.books.bugs == []
        for client in self.clients:
            client.check(attempts=self.books.started[client.name], is_cut_off=self.is_cut_off)
            assert self.books.settled[client.name] == (1 if client.rejection is None else 0)
            assert self.books.started[client.name] <= POLICY.attempts
        assert self.kernel.alive == []
        assert not self.pool._workers
        assert not self.pool._frames
        assert not self.pool._boot_began
        assert [path.name for path in self.state_dir.iterdir()] == ["lock"]
        assert self.books.boots > 0


def _is_well(row: ProfileSnapshot) -> bool:
    serving = sum(row.workers[state] for state in IN_SERVICE)
    return (serving, row.leased, row.outdated) == (WORKERS[row.profile], 0, 0) and row.free == row.seats


def test_everybody_gets_an_end_and_nobody_gets_what_is_anothers(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation = Simulation(seed, tmp_path, monkeypatch)
    run_virtual(simulation.run())
    simulation.judge()


def test_no_stall_of_ours_costs_a_worker_or_a_turn(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = Simulation(seed, tmp_path, monkeypatch, has_bad_luck=False)
    run_virtual(simulation.run())
    simulation.judge()
    assert simulation.books.stalled_s > 0
    for state in (WorkerState.SUSPECT, WorkerState.QUARANTINED):
        assert simulation.books.moves[state] == 0
    for client in simulation.clients:
        assert word(client) in {
            "stop",
            "tool_calls",
            "rejected",
            "Expired",
            "Shed",
            "Abandoned",
            "Overrun",
            "CutOff",
            "Overdue",
        }


def word(client: Client) -> str:
    """What became of a client."""
    match client.outcome:
        case Ended(end):
            return str(end.finish or (end.fault and end.fault.kind))
        case None:
            return "rejected"
        case Expired() | Shed() | Overdue() | CrashesWorker() | Abandoned() | CutOff() | Overrun():
            return type(client.outcome).__name__


def test_the_bad_luck_is_bad_enough_and_not_too_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()
    for seed in SEEDS[:10]:
        simulation = Simulation(seed, tmp_path / str(seed), monkeypatch)
        run_virtual(simulation.run())
        seen.update(map(word, simulation.clients))
    assert {
        "stop",
        "tool_calls",
        "worker_lost",
        "start_timeout",
        "idle_timeout",
        "Expired",
        "Abandoned",
        "Overrun",
        "CutOff",
        "rejected",
    } <= set(seen), seen
    assert seen["stop"] + seen["tool_calls"] > 10 * CLIENTS / 4, seen


def test_a_seed_gives_the_same_run_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for place in ("first", "second"):
        simulation = Simulation(7, tmp_path / place, monkeypatch)
        run_virtual(simulation.run())
        runs.append([(client.name, word(client), client.texts) for client in simulation.clients])
    assert runs[0] == runs[1]

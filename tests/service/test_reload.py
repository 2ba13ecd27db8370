"""A new configuration is in force at once and as a whole, or changes nothing and says why."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pool.errors import ConfigurationError, EnvironmentUnfit
from pool.events import TurnRequest
from pool.profile import Profile
from scheduler.model import Abandoned, Job, NotReady, QueueFull
from scheduler.scheduler import Scheduler
from service.app import build
from service.launch import queue_policies
from service.reload import Reloader, changes
from service.settings import Settings
from service.state import Service
from tests.service.conftest import Log
from tests.support.fake_seats import FakeSeats
from tests.support.services import ENVIRON, KEY, sample, settings, until

OTHER = {"anonymous": True, "workers": 1}


class RecordingWorkers:
    """A pool that remembers how it was configured; what a worker is started with is the provider's address."""

    def __init__(self, launches: dict[str, str]) -> None:
        self.launches: Mapping[str, str] = launches
        self.history: list[set[str]] = []
        self.failure: Exception | None = None

    def specs(self, profiles: Iterable[Profile], search_path: str | None = None) -> Mapping[str, str]:
        if self.failure is not None:
            raise self.failure
        assert search_path == ENVIRON["PATH"]
        return {profile.name: profile.base_url for profile in profiles}

    def reconfigure(self, specs: Mapping[str, str]) -> set[str]:
        before, self.launches = self.launches, specs
        self.history.append(set(specs))
        return {name for name, address in specs.items() if before.get(name, address) != address}


class Reloading:
    """A service without workers, and what its next configuration will be."""

    def __init__(self, tmp_path: Path) -> None:
        self._tmp_path = tmp_path
        first = self.settings()
        self.service: Service = build(first, ENVIRON)
        seats = FakeSeats(default=0, other=0, third=0)
        self.service.scheduler = Scheduler(seats, queue_policies(first), self.service.observability)
        self.workers = RecordingWorkers({name: profile.base_url for name, profile in first.profiles.items()})
        self.service.observability.numbers.read = lambda: None  # nothing runs that could be looked at
        self.load: Callable[[], Settings] = lambda: first
        self.reloader = Reloader(self.service, self.workers, self._load, ENVIRON)

    def _load(self) -> Settings:
        return self.load()

    def settings(self, **tables: Any) -> Settings:
        tables.setdefault("others", {"other": OTHER})
        tables.setdefault("models", {"m": {}, "n": {"profile": "other"}})
        return settings(self._tmp_path, **tables)

    async def take(self, **tables: Any) -> None:
        """Reload with these tables in the file."""
        new = self.settings(**tables)
        self.load = lambda: new
        await self.reloader.reload()

    @property
    def generation(self) -> float:
        return sample(self.service.observability.numbers, "config_generation")

    @property
    def failures(self) -> float:
        return sample(self.service.observability.numbers, "config_reload_failures_total")

    def job(self, profile: str, name: str = "req_1") -> Job:
        return Job(name, profile, "default", TurnRequest("m", "", ()), 60.0)


@pytest.fixture
async def reloading(tmp_path: Path, log: Log) -> AsyncIterator[Reloading]:
    reloading = Reloading(tmp_path)
    yield reloading
    reloading.service.observability.close()


def test_what_has_changed_is_told_by_name_and_never_by_value(tmp_path: Path) -> None:
    old = settings(tmp_path, others={"gone": OTHER, "same": OTHER})
    hash_ = "ab" * 32
    new = settings(
        tmp_path,
        others={"new": OTHER, "same": OTHER},
        profile={"slots": 2},
        server={"keepalive_s": 3.0},
        log={"level": "debug"},
        keys=[{"name": "alice", "sha256": hash_}],
        models={"codex-5": {}},
    )
    found = changes(old, new)
    assert {"profiles.gone", "profiles.new", "profiles.default", "server.keepalive_s", "log.level", "keys"} <= {*found}
    assert {"profiles.same", "models.codex-5", "server.host", "api_key", "state_dir"}.isdisjoint(found)
    assert "models.codex-5-high" in found
    assert hash_ not in str(found)
    assert changes(new, new) == ()


async def test_a_new_configuration_is_in_force_at_once(reloading: Reloading, log: Log) -> None:
    before = reloading.service.current
    await reloading.take(models={"new": {}}, server={"keepalive_s": 3.0}, log={"level": "info"})
    current = reloading.service.current
    assert current is not before
    assert current.routes.names() == ["new"]
    assert current.settings.server.keepalive_s == 3.0
    assert before.routes.names() == ["m", "n"], "who has the old one keeps it as it was"
    (line,) = log.of("configuration.reloaded")
    assert line["level"] == "info"
    assert line["changed"] == ["models.m", "models.n", "models.new", "server.keepalive_s"]
    assert (reloading.generation, reloading.failures) == (2, 0)
    assert KEY not in log.raw


async def test_the_level_of_the_log_changes_with_it(
    reloading: Reloading, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    levels: list[str] = []
    monkeypatch.setattr("service.reload.configure_logging", levels.append)
    await reloading.take()
    await reloading.take(log={"level": "debug"})
    await reloading.take(log={"level": "debug"})
    assert levels == ["debug"]


async def test_rules_of_queues_change_with_it(reloading: Reloading) -> None:
    scheduler = reloading.service.scheduler
    await reloading.take(profile={"queue_max": 1}, server={"max_held_bytes": 1024})
    scheduler.submit(reloading.job("default"))
    with pytest.raises(QueueFull):
        scheduler.submit(reloading.job("default", "req_2"))
    await reloading.take(profile={"queue_max": 2})
    scheduler.submit(reloading.job("default", "req_2"))


async def test_it_is_said_whose_workers_are_replaced(reloading: Reloading, log: Log) -> None:
    await reloading.take(profile={"base_url": "http://elsewhere/v1"})
    assert log.of("configuration.reloaded")[0]["replaced"] == ["default"]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"server": {"port": 8080}}, "server.port: only a restart can change this"),
    ({"store": {"kind": "off"}}, "store.kind: only a restart can change this"),
    ({"server": {"host": "::1", "port": 1}, "models": {"x": {}}}, "server.host, server.port: only a restart"),
    ({"api_key": None}, "no API key is configured"),
    ({"others": {"other": {"auth_file": "/a", "env_key": None}, "third": {"env_key": "ABSENT"}}}, "no credentials"),
]


@pytest.mark.parametrize(("tables", "reason"), WRONG)
async def test_what_cannot_be_taken_changes_nothing_and_says_why(
    reloading: Reloading, log: Log, tables: dict[str, Any], reason: str
) -> None:
    before = reloading.service.current
    await reloading.take(**tables)
    assert reloading.service.current is before
    assert reloading.workers.history == []
    (line,) = log.of("configuration.refused")
    assert line["level"] == "warning"
    assert reason in line["reason"]
    assert log.of("configuration.reloaded") == []
    assert (reloading.generation, reloading.failures) == (1, 1)


@pytest.mark.parametrize("failure", [ConfigurationError("auth_file is missing"), EnvironmentUnfit("no CLI here")])
async def test_what_the_pool_cannot_start_changes_nothing(reloading: Reloading, log: Log, failure: Exception) -> None:
    before = reloading.service.current
    reloading.workers.failure = failure
    await reloading.take(models={"x": {}})
    assert reloading.service.current is before
    assert log.of("configuration.refused")[0]["reason"] == str(failure)
    reloading.workers.failure = None
    await reloading.take(models={"x": {}})
    assert reloading.service.current.routes.names() == ["x"]


async def test_a_file_that_cannot_be_read_changes_nothing(reloading: Reloading, log: Log) -> None:
    def load() -> Settings:
        raise ConfigurationError("service.toml: line 1: no")

    reloading.load = load
    await reloading.reloader.reload()
    assert log.of("configuration.refused")[0]["reason"] == "service.toml: line 1: no"


async def test_a_bug_costs_one_reload_and_tells_no_value(reloading: Reloading, log: Log) -> None:
    def load() -> Settings:
        raise RuntimeError(KEY)

    reloading.load = load
    await reloading.reloader.reload()
    (line,) = log.of("reload.failed")
    assert (line["level"], line["error"]) == ("error", "RuntimeError")
    assert KEY not in log.raw
    assert (reloading.generation, reloading.failures) == (1, 1)
    await reloading.take(models={"x": {}})
    assert reloading.generation == 2


# --- profiles that come and go -----------------------------------------------------------------------------------


async def test_a_profile_that_comes_has_its_pool_before_its_queue(reloading: Reloading) -> None:
    await reloading.take(others={"other": OTHER, "third": OTHER})
    assert reloading.workers.history == [{"default", "other", "third"}]
    assert {row.profile for row in reloading.service.scheduler.snapshot()} == {"default", "other", "third"}


async def test_a_profile_that_goes_takes_no_new_job_and_its_workers_go_after_the_last(reloading: Reloading) -> None:
    scheduler, workers = reloading.service.scheduler, reloading.workers
    ticket = scheduler.submit(reloading.job("other"))
    await reloading.take(others={}, models={"m": {}})
    assert workers.history == [{"default", "other"}], "somebody waits for it"
    with pytest.raises(NotReady):
        scheduler.submit(reloading.job("other", "req_2"))
    ticket.abandon()
    assert isinstance(ticket.outcome, Abandoned)
    await until(lambda: len(workers.history) == 2)
    assert workers.history[1] == {"default"}
    assert {row.profile for row in scheduler.snapshot()} == {"default"}


async def test_a_profile_for_which_nobody_waits_goes_at_once(reloading: Reloading) -> None:
    await reloading.take(others={}, models={"m": {}})
    await until(lambda: reloading.workers.history[-1] == {"default"})
    assert {row.profile for row in reloading.service.scheduler.snapshot()} == {"default"}


async def test_a_profile_that_comes_back_before_it_has_gone_stays(reloading: Reloading) -> None:
    ticket = reloading.service.scheduler.submit(reloading.job("other"))
    await reloading.take(others={}, models={"m": {}})
    await reloading.take()
    ticket.abandon()
    reloading.service.scheduler.submit(reloading.job("other", "req_2"))
    assert set(reloading.workers.launches) == {"default", "other"}


async def test_one_that_is_going_still_goes_after_the_next_reload(reloading: Reloading) -> None:
    ticket = reloading.service.scheduler.submit(reloading.job("other"))
    await reloading.take(others={}, models={"m": {}})
    await reloading.take(others={}, models={"m": {}, "x": {}})
    assert reloading.workers.history[-1] == {"default", "other"}
    ticket.abandon()
    await until(lambda: reloading.workers.history[-1] == {"default"})


# --- asking ------------------------------------------------------------------------------------------------------


async def test_asking_while_it_runs_is_another_reload_and_asking_twice_before_is_one(reloading: Reloading) -> None:
    loads: list[int] = []
    may_go_on = threading.Event()
    service = reloading.service
    first = service.current.settings

    def load() -> Settings:
        loads.append(len(loads))
        assert may_go_on.wait(5)
        return first

    reloading.load = load
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(reloading.reloader.run())
        reloading.reloader.ask()
        reloading.reloader.ask()
        await until(lambda: len(loads) == 1)
        reloading.reloader.ask()
        reloading.reloader.ask()
        may_go_on.set()
        await until(lambda: reloading.generation == 3)
        running.cancel()
    assert loads == [0, 1]

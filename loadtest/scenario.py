"""Load scenarios: who asks what of a service, how many of them, and what they may put up with.

    python -m loadtest.scenario NAME [--seconds S] [--html FILE] [--json]
    python -m loadtest.scenario --list

Each scenario is a file in `loadtest/profiles`. The service is started for it with the keys of its tenants, on fake
workers; locust (`loadtest/locustfile.py`, extra `loadtest`) plays the clients. `--seconds` stretches or shrinks its
stages to that many; `--html` keeps locust's report. Exit code 0 when everything stayed within the scenario's limits and
the service came to rest afterwards; 1 with what did not. Everything is on loopback, has an end, and takes away what it
started.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import secrets
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal

import aiohttp
import msgspec
import uvloop

from loadtest import subject
from loadtest.fake_app_server import write_launcher
from loadtest.kernel import rss_bytes

PROFILES: Final = Path(__file__).with_name("profiles")
REST_S: Final = 20.0
"""How long the service may take to come to rest when the last client has gone."""
WARM_PART: Final = 0.3
"""Of the run, before growth counts."""
FINISH_S: Final = 60.0
"""How long locust may take beyond its stages."""
MODEL: Final = "load"
WORD: Final = "word "


class Spread(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A log-normal distribution: half are below the median; with a `sigma` of 1 one in six is over 2.7 times that."""

    median: float
    sigma: float = 0.0
    most: float = 100_000.0

    def draw(self, dice: random.Random) -> int:
        """One of them, at least 1."""
        return max(1, round(min(self.most, self.median * dice.lognormvariate(0.0, self.sigma))))


class Mix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked."""

    prompt_chars: Spread = Spread(400, 1.0)
    deltas: Spread = Spread(40, 0.7, 500)
    chat: float = 0.8
    """Share of chat completions; the others are responses."""
    stream: float = 0.75
    delay_s: float = 0.2
    interval_s: float = 0.02
    leave: float = 0.0
    """Share of streams whose client goes away after a few deltas."""


class Tenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key and its clients."""

    name: str
    share: float = 1.0
    """Of the clients, beside the other tenants' shares."""
    think_s: float = 1.0
    """Mean pause between two questions."""
    burst: int = 1
    """Questions without a pause; the pause after them is as many times as long."""
    from_part: float = 0.0
    """Begins when that part of the run is over."""
    faults: tuple[dict[str, Any], ...] = ()
    """Directives that break workers; each question has one of them."""
    counts: bool = True
    """The limits are about this tenant's answers."""


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many clients for so long."""

    users: int
    seconds: float


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be. Shares are of the answers, refusals and failures of tenants that count."""

    answers: int = 1
    """At least so many, in a run of full length."""
    broken: float = 0.0
    """Share that was neither answered exactly nor refused."""
    refused: float = 0.0
    first_token_p95_ms: float = 1000.0
    gap_p95_ms: float = 500.0
    """Of the longest pause in each stream."""
    growth_mb: float | None = None
    """Of the service's memory, from `WARM_PART` of the run to its end."""


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of `loadtest/profiles`."""

    description: str
    profile: dict[str, Any]
    """Of the service: workers, slots, and what else a profile has."""
    tenants: tuple[Tenant, ...]
    stages: tuple[Stage, ...]
    limits: Limits
    mix: Mix = Mix()
    workers: Literal["mill", "fake"] = "mill"
    """The fakes: those that cost nothing, or those that can break."""

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    def lasting(self, seconds: float) -> Scenario:
        """The same with all times stretched or shrunk, and as many answers fewer or more."""
        factor = seconds / self.seconds
        stages = tuple(Stage(stage.users, stage.seconds * factor) for stage in self.stages)
        limits = msgspec.structs.replace(self.limits, answers=int(self.limits.answers * factor))
        return msgspec.structs.replace(self, stages=stages, limits=limits)

    def users_at(self, second: float) -> int | None:
        """How many clients there should be; None after the end."""
        for stage in self.stages:
            if second < stage.seconds:
                return stage.users
            second -= stage.seconds
        return None

    def tenant_of(self, number: int) -> Tenant:
        """Whose client number N is: the shares hold among the first few as among all."""
        total = sum(tenant.share for tenant in self.tenants)
        owed = {tenant.name: 0.0 for tenant in self.tenants}
        chosen = self.tenants[0]
        for _ in range(number + 1):
            for tenant in self.tenants:
                owed[tenant.name] += tenant.share / total
            chosen = max(self.tenants, key=lambda tenant: owed[tenant.name])
            owed[chosen.name] -= 1.0
        return chosen


class Told(msgspec.Struct):
    """What locust tells of the tenants that count."""

    answers: int = 0
    broken: int = 0
    refused: int = 0
    first_token_p95_ms: float = 0.0
    gap_p95_ms: float = 0.0
    why_broken: str = ""


def judge(limits: Limits, told: Told) -> list[str]:
    """Which limits were not kept, and how far off they are."""
    everything = max(1, told.answers + told.broken + told.refused)
    pairs = (
        ("share of broken answers", told.broken / everything, limits.broken),
        ("share of refusals", told.refused / everything, limits.refused),
        ("first token, p95 ms", told.first_token_p95_ms, limits.first_token_p95_ms),
        ("longest gap, p95 ms", told.gap_p95_ms, limits.gap_p95_ms),
    )
    out = [f"{name}: {value:.3g}, over {limit:g}" for name, value, limit in pairs if value > limit]
    if told.broken and told.broken / everything > limits.broken:
        out[0] += f" ({told.why_broken})"
    if told.answers < limits.answers:
        out.append(f"answers: {told.answers}, under {limits.answers}")
    return out


def load(name: str) -> Scenario:
    """The scenario of that name.

    Raises:
        FileNotFoundError: there is none.
        msgspec.ValidationError: its file is wrong.
    """
    return msgspec.toml.decode((PROFILES / f"{name}.toml").read_bytes(), type=Scenario)


def names() -> list[str]:
    """All there are."""
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


# --- the run -----------------------------------------------------------------------------------------------------


async def play(scenario: Scenario, html: Path | None) -> list[str]:
    """Run it; what was not as it should be.

    Raises:
        RuntimeError: something did not start.
    """
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="codex-completions-load-")))
        if scenario.workers == "mill":
            codex, _ = await stack.enter_async_context(subject.mill(directory))
        else:
            codex = write_launcher(directory / "codex")
        secret = {tenant.name: f"sk-{secrets.token_urlsafe(32)}" for tenant in scenario.tenants}
        keys = [{"name": name, "sha256": sha256(key.encode()).hexdigest()} for name, key in secret.items()]
        profiles = {MODEL: {**scenario.profile, "codex_bin": str(codex)}}
        target = await stack.enter_async_context(subject.service(directory / "service", profiles, keys=keys))
        async with asyncio.TaskGroup() as tasks:
            grown = tasks.create_task(_growth(target.pid, scenario.seconds))
            wrong = await _locust(scenario, target.port, secret, directory, html)
            wrong += await _unrest(target.port)
            growth_mb = await grown
        print(f"the service grew by {growth_mb:.1f} MB after its first {WARM_PART:.0%} of the run")
        if scenario.limits.growth_mb is not None and growth_mb > scenario.limits.growth_mb:
            wrong.append(f"growth, MB: {growth_mb:.1f}, over {scenario.limits.growth_mb:g}")
        return wrong


async def _growth(pid: int, seconds: float) -> float:
    await asyncio.sleep(seconds * WARM_PART)
    before = rss_bytes(pid)
    await asyncio.sleep(seconds * (1 - WARM_PART))
    return (rss_bytes(pid) - before) / 1e6


async def _locust(
    scenario: Scenario, port: int, keys: Mapping[str, str], directory: Path, html: Path | None
) -> list[str]:
    """What locust told, judged."""
    out = directory / "told.json"
    env = {
        "LOADTEST_SCENARIO": msgspec.json.encode(scenario).decode(),
        "LOADTEST_KEYS": msgspec.json.encode(dict(keys)).decode(),
        "LOADTEST_OUT": str(out),
    }
    command = ["-m", "locust", "-f", str(Path(__file__).with_name("locustfile.py")), "--headless", "--only-summary"]
    command += ["--host", f"http://127.0.0.1:{port}", *(["--html", str(html)] if html is not None else [])]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *command), stdin=asyncio.subprocess.DEVNULL, env={**os.environ, **env}
    )
    try:
        async with asyncio.timeout(scenario.seconds + FINISH_S):
            await process.wait()
    finally:
        if process.returncode is None:
            await subject.stopped(process)
    if not out.exists():
        raise RuntimeError(f"locust told nothing (exit code {process.returncode}); is the extra `loadtest` installed?")
    return judge(scenario.limits, msgspec.json.decode(out.read_bytes(), type=Told))


async def _unrest(port: int) -> list[str]:
    """What keeps the service from being at rest, when it should have been for a while."""
    gauges: dict[str, float] = {}
    try:
        async with asyncio.timeout(REST_S), aiohttp.ClientSession() as http:
            while True:
                async with http.get(f"http://127.0.0.1:{port}/metrics") as response:
                    gauges = _sums(await response.text())
                if gauges["seats"] == gauges["seats_free"] > 0 and not gauges["jobs_waiting"] + gauges["jobs_running"]:
                    return [f"bugs of the service: {gauges['bugs_total']:g}"] if gauges["bugs_total"] else []
                await asyncio.sleep(0.2)
    except TimeoutError:
        return [f"the service did not come to rest: {gauges}"]


def _sums(text: str) -> dict[str, float]:
    """Metrics by name, over all labels."""
    out = dict.fromkeys(("seats", "seats_free", "jobs_waiting", "jobs_running", "bugs_total"), 0.0)
    for line in text.splitlines():
        name = line.removeprefix("codex_completions_").partition(" ")[0].partition("{")[0]
        if name in out:
            out[name] += float(line.rpartition(" ")[2])
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=names())
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--html", type=Path, metavar="FILE")
    parser.add_argument("--list", action="store_true", help="tell what there is")
    parser.add_argument("--json", action="store_true", help="print the scenario instead of playing it")
    arguments = parser.parse_args(argv)
    if arguments.list or arguments.name is None:
        for name in names():
            print(f"{name}: {load(name).description} ({load(name).seconds:g} s)")
        return 0
    scenario = load(arguments.name)
    if arguments.seconds is not None:
        scenario = scenario.lasting(arguments.seconds)
    if arguments.json:
        print(msgspec.json.encode(scenario).decode())
        return 0
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        wrong = runner.run(subject.stoppable(play(scenario, arguments.html)))
    print("\n".join([f"{arguments.name}: FAILED", *wrong]) if wrong else f"{arguments.name}: passed")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())

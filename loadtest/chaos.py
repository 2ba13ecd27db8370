"""Chaos: the real service with scripted workers, traffic of several tenants, faults at random, and a verdict.

    python -m loadtest.chaos --seed N --seconds S [--workers W] [--history FILE]

The service is the command itself, on loopback, with a configuration made for the run. Its workers are fake app-servers,
which do what each prompt says: answer, exactly as expected, or break in some way. Workers are killed, frozen and asked
to go from outside as well, and the configuration is read again, now and then from a file that cannot be right. What the
service logs and what its clients see becomes a history (loadtest.history), which is checked against the service's
promises (loadtest.check_history). Exit code 0 when all hold; 1 when one does not, with the lines that show it; 2 when
there was no run to speak of.

The seed decides the requests, their tenants, times and faults, and which slot is struck when and how. It does not
decide what the kernel and the clocks do: how fast anything runs, how many bytes come at once, so which turn shares a
worker with which fault; nor the service's own randomness (ids, jitter of backoff and retry hints). The same seed is the
same weather, not the same history.

It ends by itself, some half a minute after the last request at the most; then no process and no file of it is left but
the history that was asked for. Only a SIGKILL of this program itself would leave the service running.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import tempfile
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp
import tomli_w
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from loadtest.chaos_plan import CLASSES, SLOTS, TENANTS, Ask, Blow, plan
from loadtest.chaos_summary import summary
from loadtest.check_history import IN_SERVICE, check, told
from loadtest.fake_app_server import write_launcher
from loadtest.history import Recorder, received
from loadtest.subject import stoppable

ROOT = Path(__file__).resolve().parent.parent
START_S = 30.0
CLIENT_S = 45.0
"""No answer takes as long."""
QUIET_S = 45.0
STOP_S = 30.0
POLL_S = 0.1
SLOW_READ_BYTES = 64 * 1024
SLOW_READ_S = 0.02
MAX_LOG_LINE = 1024 * 1024

PROFILE: dict[str, Any] = {
    "anonymous": True,
    "slots": SLOTS,
    "queue_budget_s": 3.0,
    "attempts": 2,
    "retry_ratio": 0.1,
    "retry_reserve": 8,
    "limits": {"start_s": 2.0, "first_event_s": 3.0, "idle_s": 3.0, "total_s": 12.0, "interrupt_s": 1.0},
}
SURGE = 0.25
"""The service's default."""
RELOADED = {"limits": PROFILE["limits"] | {"total_s": 11.0}, "queue_max": 48, "upstream_idle_s": 299.0}
"""What a reload changes, and the next one changes back; for the last of it the workers have to be replaced."""


class NoRun(Exception):  # noqa: N818 - not a verdict on the service
    """The service did not start, or its log ended."""


# --- processes ---------------------------------------------------------------------------------------------------


def children_of(pid: int) -> dict[int, str]:
    """The living children of a process, with their kernel state."""
    out = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                out[int(path.parent.name)] = state
    return out


def living_in(folder: Path) -> dict[int, str]:
    """Every process whose home is in the folder, by the name of that home: of workers, `profile-slot-epoch`."""
    prefix = f"HOME={folder}/".encode()
    out = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            for entry in path.read_bytes().split(b"\0"):
                if entry.startswith(prefix):
                    out[int(path.parent.name)] = entry.decode().rpartition("/")[2]
    return out


class Service:
    """The running service, and what is done to it."""

    def __init__(self, folder: Path, workers: int, recorder: Recorder) -> None:
        self.keys = {tenant.name: f"sk-{secrets.token_urlsafe(32)}" for tenant in TENANTS}
        self.url = ""
        self._started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._folder = folder
        self._state = folder / "state"
        self._file = folder / "service.toml"
        self._recorder = recorder
        self._profile = PROFILE | {"codex_bin": str(write_launcher(folder / "codex")), "workers": workers}
        self._is_reloaded = False
        self._process: asyncio.subprocess.Process | None = None
        self._struck: set[str] = set()

    @property
    def workers(self) -> int:
        """As configured."""
        return int(self._profile["workers"])

    @property
    def pid(self) -> int:
        assert self._process is not None  # noqa: S101 - asked for while it runs
        return self._process.pid

    def configure(self, seed: int) -> None:
        """Write the configuration, and say in the history what a checker has to know of it."""
        self._write(self._profile)
        names = ("workers", "slots", "queue_budget_s", "retry_ratio", "retry_reserve", "attempts")
        surge = max(1, ceil(SURGE * self._profile["workers"]))
        self._recorder.tell(
            "run.configured",
            seed=seed,
            profiles={"default": {name: self._profile[name] for name in names} | {"surge": surge}},
            seats={tenant.name: tenant.seats for tenant in TENANTS if tenant.seats is not None},
        )

    async def start(self) -> None:
        """Spawn it; whoever did must `listen` to it, and `kill` it in the end."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", "--config", str(self._file), "serve"),
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.defpath, "HOME": str(self._folder)},
            cwd=ROOT,
            limit=MAX_LOG_LINE,
        )

    async def listen(self) -> None:
        """Take its log down, to the log's end."""
        assert self._process is not None  # noqa: S101 - started before
        assert self._process.stderr is not None  # noqa: S101 - started with a pipe
        async for raw in self._process.stderr:
            line = self._recorder.hear(raw)
            if line.event == "service.started":
                self._started.set_result(str(line.fields["url"]))
        if not self._started.done():
            self._started.set_result("")

    async def until_started(self) -> None:
        """Wait until it says where it listens.

        Raises:
            NoRun: it did not.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                self.url = await self._started
        if not self.url:
            raise NoRun("\n".join(["the service did not start:", *map(str, self._recorder.lines[-5:])]))

    def strike(self, blow: Blow) -> None:
        """Do what the blow says, if there is somebody to do it to."""
        if blow.kind == "reload":
            self._is_reloaded = not self._is_reloaded
            self._write(self._profile | (RELOADED if self._is_reloaded else {}))
        elif blow.kind == "bad_reload":
            self._file.write_text("this = is [no configuration\n")
        else:
            self._strike_worker(blow)
            return
        self._recorder.tell("fault.injected", kind=blow.kind)
        os.kill(self.pid, signal.SIGHUP)

    def measure(self) -> dict[str, int]:
        """Memory and descriptors that it holds; nothing, once it is gone."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
            descriptors = sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())
        except OSError:
            return {"rss_bytes": 0, "descriptors": 0}
        return {"rss_bytes": pages * os.sysconf("SC_PAGE_SIZE"), "descriptors": descriptors}

    def is_healed(self) -> bool:
        """None of the workers that were struck is left, and none is frozen."""
        states = children_of(self.pid)
        struck = {name for name in living_in(self._state).values() if name in self._struck}
        return not struck and "T" not in states.values()

    async def stop(self) -> None:
        """Ask it to end, and take down how it did."""
        assert self._process is not None  # noqa: S101 - asked for while it runs
        code: int | None = self._process.returncode
        if code is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    code = await self._process.wait()
        left = sorted(living_in(self._state).values())
        files = sorted(path.name for path in self._state.glob("*-run-*"))
        self._recorder.tell("service.exited", code=code, processes_left=left, files_left=files)

    async def kill(self) -> None:
        """Leave nothing of it running, whatever it does."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        for pid in living_in(self._state):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _write(self, profile: dict[str, Any]) -> None:
        keys = [
            {
                "name": tenant.name,
                "sha256": sha256(self.keys[tenant.name].encode()).hexdigest(),
                "weight": tenant.weight,
                "priority": tenant.priority,
                "max_priority": CLASSES[0],
            }
            | ({} if tenant.seats is None else {"seats": tenant.seats})
            for tenant in TENANTS
        ]
        config = {
            "state_dir": str(self._state),
            "server": {"port": 0, "drain_timeout_s": 10.0},
            "log": {"level": "debug"},
            "keys": keys,
            "profiles": {"default": profile},
            "models": {"chaos": {"profile": "default"}},
        }
        self._file.write_text(tomli_w.dumps(config))

    def _strike_worker(self, blow: Blow) -> None:
        """Whoever is in that slot now; with two, the newer one is still to come and the older one is struck."""
        prefix = f"default-{blow.slot}-"
        living = {name: pid for pid, name in living_in(self._state).items() if name.startswith(prefix)}
        found = sorted((int(name.removeprefix(prefix)), pid) for name, pid in living.items())
        if not found:
            return
        epoch, pid = found[0]
        self._struck.add(f"{prefix}{epoch}")
        self._recorder.tell("fault.injected", kind=blow.kind, worker=f"default/{blow.slot}.{epoch}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.Signals[blow.kind.upper()])


# --- clients -----------------------------------------------------------------------------------------------------


class Client:
    """One request and what comes of it."""

    def __init__(self, ask: Ask, service: Service, session: aiohttp.ClientSession, recorder: Recorder) -> None:
        self._ask = ask
        self._service = service
        self._session = session
        self._recorder = recorder
        self._raw = bytearray()
        self._status: int | None = None

    async def run(self) -> None:
        """From the question to the end, whatever it is."""
        ask = self._ask
        names = ("stream", "priority", "deadline_ms", "chunks", "repeat", "tail", "fault", "client")
        fields = {name: getattr(ask, name) for name in names}
        self._recorder.tell("request.sent", request=ask.number, tenant=ask.tenant.name, **fields)
        how = None
        try:
            async with asyncio.timeout(CLIENT_S), asyncio.timeout(ask.leaves_s):
                await self._converse()
        except TimeoutError:
            how = "left" if ask.leaves_s is not None else "overdue"
        except aiohttp.ClientError:
            how = "broken"
        judged, code, text = judge(self._status, bytes(self._raw), stream=ask.stream)
        if how is None or (how == "left" and judged == "answered"):
            how = judged
        self._recorder.tell("request.ended", request=ask.number, how=how, code=code, **received(text)._asdict())

    async def _converse(self) -> None:
        ask = self._ask
        headers = {"Authorization": f"Bearer {self._service.keys[ask.tenant.name]}"}
        if ask.priority is not None:
            headers["x-priority"] = ask.priority
        if ask.deadline_ms is not None:
            headers["x-request-deadline-ms"] = str(ask.deadline_ms)
        body = {"model": "chaos", "stream": ask.stream, "messages": [{"role": "user", "content": ask.prompt}]}
        url = f"{self._service.url}/v1/chat/completions"
        async with self._session.post(url, json=body, headers=headers) as response:
            self._status = response.status
            request_id = response.headers.get("x-request-id")
            self._recorder.tell("request.headed", request=ask.number, status=response.status, id=request_id)
            if ask.client != "slow":
                async for piece in response.content.iter_any():
                    self._raw += piece
                return
            async for piece in response.content.iter_chunked(SLOW_READ_BYTES):
                self._raw += piece
                await asyncio.sleep(SLOW_READ_S)


Judged = tuple[str, str | None, str]


def judge(status: int | None, raw: bytes, *, stream: bool) -> Judged:
    """How an answer that has come to its end (or was cut there) is to be called, its error's code, its text."""
    if status is None:
        return "broken", None, ""
    if status != 200 or not stream:
        try:
            return _judge_object(status, json.loads(raw))
        except (ValueError, LookupError, TypeError):
            return "malformed", None, ""
    return _judge_stream(raw)


def _judge_object(status: int, body: Any) -> Judged:
    if status != 200:
        return "refused", str(body["error"]["code"]), ""
    (choice,) = body["choices"]
    how = "answered" if choice["finish_reason"] == "stop" else "malformed"
    return how, None, str(choice["message"]["content"])


def _judge_stream(raw: bytes) -> Judged:
    """A stream is whole with one finish before its [DONE]; refused with an error as its last word; else it is broken.

    What was cut off in the middle of an event is not looked at.
    """
    events = raw[: raw.rfind(b"\n\n") + 1].decode().split("\n\n")
    data = [event.strip().removeprefix("data: ") for event in events if event.strip() and not event.startswith(":")]
    texts: list[str] = []
    finishes: list[str] = []
    for number, entry in enumerate(data, 1):
        is_last = number == len(data)
        if entry == "[DONE]":
            whole = is_last and finishes == ["stop"]
            return ("answered" if whole else "malformed"), None, "".join(texts)
        try:
            chunk = json.loads(entry)
            if "error" in chunk:
                how = "refused" if is_last and not finishes else "malformed"
                return how, str(chunk["error"]["code"]), "".join(texts)
            for choice in chunk["choices"]:
                texts.append(choice["delta"].get("content") or "")
                finishes += [choice["finish_reason"]] if choice["finish_reason"] else []
        except (ValueError, LookupError, TypeError):
            return "malformed", None, "".join(texts)
    return "broken", None, "".join(texts)


# --- the run -----------------------------------------------------------------------------------------------------


async def run(seed: int, seconds: float, workers: int, recorder: Recorder) -> None:
    """A whole run; what happened is in the recorder's lines.

    Raises:
        NoRun: the service did not start, or went away by itself.
    """
    with tempfile.TemporaryDirectory(prefix="codex-completions-chaos-") as name:
        service = Service(Path(name), workers, recorder)
        service.configure(seed)
        try:
            await service.start()
            await _serve_out(service, seed, seconds, workers, recorder)
        finally:
            await service.kill()


async def _serve_out(service: Service, seed: int, seconds: float, workers: int, recorder: Recorder) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(service.listen())
        await service.until_started()
        await _until_at_rest(service, START_S)
        before = {f"{name}_before": value for name, value in service.measure().items()}
        await _traffic(service, seed, seconds, workers, recorder)
        gauges = await _until_at_rest(service, QUIET_S)
        await asyncio.sleep(2 * POLL_S)  # for the log's last lines to arrive
        children = len(children_of(service.pid))
        recorder.tell("run.quiet", gauges=gauges, children=children, **service.measure(), **before)
        await service.stop()


async def _traffic(service: Service, seed: int, seconds: float, workers: int, recorder: Recorder) -> None:
    """All requests and all blows, each at its time; until the last request has its end."""
    schedule = plan(seed, seconds, workers)
    moments: list[Ask | Blow] = sorted((*schedule.asks, *schedule.blows), key=lambda moment: moment.at_s)
    connector = aiohttp.TCPConnector(limit=0)
    began_at = recorder.now
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as clients:
        for moment in moments:
            await asyncio.sleep(max(0.0, began_at + moment.at_s - recorder.now))
            if isinstance(moment, Blow):
                service.strike(moment)
            else:
                clients.create_task(Client(moment, service, session, recorder).run())


async def _until_at_rest(service: Service, bound_s: float) -> dict[str, float]:
    """The service's gauges when every worker serves and nobody asks, or when that takes too long."""
    gauges: dict[str, float] = {}
    with contextlib.suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(bound_s):
            while True:
                gauges = await _gauges(service.url)
                if service.is_healed() and _is_at_rest(gauges, service.workers):
                    break
                await asyncio.sleep(POLL_S)
    return gauges


def _is_at_rest(gauges: dict[str, float], workers: int) -> bool:
    has_all = gauges["workers_serving"] == gauges["workers"] == workers
    return has_all and gauges["seats"] == gauges["seats_free"] and not gauges["jobs_waiting"] + gauges["jobs_running"]


async def _gauges(url: str) -> dict[str, float]:
    """What the service counts of itself, over all profiles."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
        text = await response.text()
    out = dict.fromkeys(("seats", "seats_free", "jobs_waiting", "jobs_running", "bugs", "workers"), 0.0)
    out["workers_serving"] = 0.0
    for family in text_string_to_metric_families(text):
        name = family.name.removeprefix("codex_completions_")
        for sample in family.samples if name in out else ():
            out[name] += sample.value
            out["workers_serving"] += sample.value if sample.labels.get("state") in IN_SERVICE else 0.0
    return out


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="of traffic")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--history", type=Path, help="where to leave the history")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(arguments.history.open("wb")) if arguments.history is not None else None
        return chaos(arguments.seed, arguments.seconds, arguments.workers, file)


def chaos(seed: int, seconds: float, workers: int, file: BinaryIO | None = None) -> int:
    """Run, print what happened, and return the exit code."""
    recorder = Recorder(file)
    failure: BaseException | None = None
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(stoppable(run(seed, seconds, workers, recorder)))
    except* (NoRun, asyncio.CancelledError) as group:
        failure = group.exceptions[0]
    if failure is not None:
        print(f"no verdict: {str(failure) or 'it was stopped'}", file=sys.stderr)
        return 2
    violations = check(recorder.lines)
    print(f"seed {seed}, {seconds} s, {workers} workers")
    print(summary(recorder.lines))
    print(told(recorder.lines, violations))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())

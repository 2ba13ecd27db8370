"""Facts into numbers and log lines: beside `logs.py` the only module that knows structlog.

What is counted is in `numbers.py`. No prompt, no answer and no credential is ever logged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import structlog

from pool.events import TurnEnd
from pool.observer import PoolObserver, WorkerExit
from pool.state import COMMANDED
from pool.stimuli import Lease
from pool.worker_state import WorkerId, WorkerState
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
    Rejected,
    Shed,
)
from scheduler.observer import SchedulerObserver
from scheduler.scheduler import Scheduler
from service import __version__
from service.api.errors import REJECTIONS, WHOSE_LIMIT
from service.logs import DETAILS, Repeats, error_fields, writer
from service.maintenance import State
from service.numbers import Numbers
from service.readings import Workers, reader
from service.recent import KEPT, Acted, Failure, failure
from service.store.observer import StoreObserver
from service.store.protocol import ResponseStore
from service.traces.buffer import TraceObserver
from service.usage.ledger import UsageObserver

LAG_EVERY_S = 0.25
OTHER = "other"
"""In place of a name that is not configured."""

_REASONS = {
    "its profile has changed": "profile_changed",
    "it has run its turns": "turns",
    "it is old": "age",
    "it is too large": "memory",
    "it ignored an interrupt": "interrupt_ignored",
    "it answers no probe": "silent",
    "it answers no question about its threads": "silent",
    "it does not read": "unread",
    "turns cannot begin on it": "poisoned",
    "a turn could not begin on it": "poisoned",
    "its turns fail": "failing",
    "a turn failed on it": "failing",
    "it talks nonsense": "nonsense",
    "it ended by itself": "ended",
    "its place is not needed any more": "not_needed",
    "it is not needed any more": "not_needed",
    "the service is stopping": "stopping",
    **dict.fromkeys(COMMANDED.values(), "operator"),
}
"""The reasons of workers' moves that are worth counting apart; all others are `other`."""

_PLANNED = frozenset({"profile_changed", "turns", "age", "memory", "not_needed", "stopping", "operator"})
"""Of these, the reasons for which a worker that is well goes."""

_OUTCOME_LABELS: dict[type[Outcome], str] = {
    Expired: "queue_timeout",
    Shed: "queue_shed",
    Overdue: "deadline_exceeded",
    CrashesWorker: "request_crashes_worker",
    Abandoned: "abandoned",
    Overrun: "slow_client",
    CutOff: "cut_off",
}


def outcome_label(outcome: Outcome) -> str:
    """One word for how a ticket ended: the finish, the fault, or why it got no turn."""
    match outcome:
        case Ended(TurnEnd(finish=finish, fault=fault)):
            return str(fault.kind) if fault is not None else str(finish)
        case _:
            return _OUTCOME_LABELS[type(outcome)]


def _is_detailed() -> bool:
    return DETAILS.isEnabledFor(logging.DEBUG)


class _Run(msgspec.Struct):
    """A job that has a seat; `spoke_at` is when its first event came."""

    tenant: str
    spoke_at: float = 0.0


class Observability(PoolObserver, SchedulerObserver, StoreObserver, UsageObserver, TraceObserver):
    """Watches everything; one for the service. `close` makes room for the next one."""

    def __init__(self) -> None:
        self.log = structlog.get_logger()
        self.numbers = Numbers()
        self.numbers.generation.set(1)
        self.numbers.info.set(1, __version__)
        self.numbers.maintenance.set(0)
        self.numbers.background.set(0)
        self.numbers.usage_up.set(1)
        self.versions: dict[str, str] = {}
        self.failures: deque[Failure] = deque(maxlen=KEPT)
        self.last_exit: dict[str, Any] | None = None
        self._generation = 1
        self._repeats = Repeats()
        self._running: dict[str, _Run] = {}
        self._quarantined_at: dict[WorkerId, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lag_timer: asyncio.TimerHandle | None = None

    def watch(self, pool: Workers, scheduler: Scheduler, store: ResponseStore) -> None:
        """Read the gauges of these at the moment of each scrape, and measure how late the running loop is."""
        self.numbers.read = reader(self.numbers, pool, scheduler, store, self._running)
        self._loop = asyncio.get_running_loop()
        self._measure_lag(self._loop, None)

    def close(self) -> None:
        """Measure nothing more."""
        if self._lag_timer is not None:
            self._lag_timer.cancel()

    def _measure_lag(self, loop: asyncio.AbstractEventLoop, due_at: float | None) -> None:
        if due_at is not None:
            self.numbers.lag_s().observe(max(0.0, loop.time() - due_at))
        self._tell_repeats()
        self._lag_timer = loop.call_later(LAG_EVERY_S, self._measure_lag, loop, loop.time() + LAG_EVERY_S)

    def _lets(self, event: str, *about: object) -> bool:
        """Whether one more such line is written; what many others have just said is not, unless details are wanted."""
        return _is_detailed() or self._repeats.lets(time.monotonic(), event, *about)

    def _tell_repeats(self) -> None:
        for (event, *about), times in self._repeats.over(time.monotonic()):
            self.numbers.unsaid(event).inc(times)
            self.log.warning("log.repeated", of=event, about=about, times=times)
        stderr = writer()
        stderr.flush()
        self.numbers.unsaid("stderr").value = stderr.dropped

    def _relayed(self, spoke_at: float) -> None:
        self.numbers.relay_s().observe(time.perf_counter() - spoke_at)

    # --- HTTP ------------------------------------------------------------------------------------------------

    def request_answered(
        self, route: str, status: int, seconds: float, facts: Mapping[str, object] | None = None
    ) -> None:
        """One HTTP request is done; with `facts` it gets its log line."""
        self.numbers.requests(route, status).inc()
        self.numbers.request_s(route).observe(seconds)
        if facts is None:
            return
        code = facts.get("code")
        if code is not None:
            self.numbers.errors(route, code).inc()
        failed = failure(route, status, seconds, facts)
        if failed is not None:
            self.failures.append(failed)
        whose = WHOSE_LIMIT.get(str(code or facts.get("outcome")))
        if whose is not None:
            facts = {**facts, "limit": whose}
        has_run = status < 400 or "worker" in facts
        if has_run or self._lets("request.answered", route, status, code, facts.get("tenant")):
            self.log.info("request.answered", route=route, status=status, seconds=round(seconds, 4), **facts)

    def first_text(self, profile: str, seconds: float) -> None:
        """A client got its first text."""
        self.numbers.first_token_s(profile).observe(seconds)

    def client_cut(self) -> None:
        """A client took so long to read what was written that it was cut off."""
        self.numbers.cut("write").inc()

    def handler_failed(self, route: str, error: Exception) -> None:
        """A handler raised what it should not."""
        self.numbers.bugs("http").inc()
        if self._lets("handler.failed", route, type(error).__name__):
            self.log.error("handler.failed", route=route, **error_fields(error))

    # --- configuration ---------------------------------------------------------------------------------------

    def configuration_reloaded(self, changed: Collection[str], replaced: Collection[str]) -> None:
        """A new configuration is in force: these settings changed, these profiles' workers are being replaced."""
        self._generation += 1
        self.numbers.generation.set(self._generation)
        self.log.info("configuration.reloaded", changed=sorted(changed), replaced=sorted(replaced))

    def configuration_refused(self, reason: str) -> None:
        """A new configuration is not in force."""
        self.numbers.reload_failures().inc()
        self.log.warning("configuration.refused", reason=reason)

    def reload_failed(self, error: Exception) -> None:
        """A reload raised what it should not."""
        self.numbers.reload_failures().inc()
        self.numbers.bugs("reload").inc()
        self.log.error("reload.failed", **error_fields(error))

    # --- operators -------------------------------------------------------------------------------------------

    def maintenance_changed(self, state: State, trouble: str) -> None:
        """Maintenance is on, off or another one now; `trouble` is what was wrong with its file, or ""."""
        notice = state.notice
        self.numbers.maintenance.set(int(notice is not None))
        if trouble:
            self.log.warning("maintenance.misunderstood", reason=trouble)
        if notice is None:
            self.log.warning("maintenance.ended")
        else:
            routes = list(notice.routes)
            self.log.warning(
                "maintenance.began", source=state.source, by=state.by, routes=routes, retry_after_s=notice.retry_after_s
            )

    def operator_acted(self, acted: Acted, said: Mapping[str, str]) -> None:
        """An operator tried something, and `said` this with it: the audit's line."""
        self.numbers.acted(acted.action, acted.outcome).inc()
        fields = ("who", "remote", "action", "target", "outcome")
        self.log.warning("operator.acted", said=said, **{name: getattr(acted, name) for name in fields})

    def operator_refused(self, remote: str, where: str) -> None:
        """Somebody showed a wrong operator's key."""
        self.numbers.acted("sign_in", "invalid_api_key").inc()
        self.log.warning("operator.refused", remote=remote, where=where)

    # --- scheduler -------------------------------------------------------------------------------------------

    def fell_back(self, profile: str, refusal: Rejected) -> None:
        """A job that `profile` refused was taken by another."""
        self.numbers.fallbacks(profile, REJECTIONS[type(refusal)].code).inc()

    def job_admitted(self, job: Job, *, waits: bool) -> None:
        self.numbers.admissions(job.profile, "queue" if waits else "run", "none").inc()
        if _is_detailed():
            self.log.debug(
                "job.admitted",
                job=job.id,
                profile=job.profile,
                tenant=job.tenant,
                priority=str(job.priority),
                waits=waits,
            )

    def job_rejected(self, job: Job, reason: str) -> None:
        self.numbers.admissions(job.profile, "reject", reason).inc()
        if _is_detailed():
            self.log.debug("job.rejected", job=job.id, profile=job.profile, tenant=job.tenant, reason=reason)

    def turn_started(self, job: Job, lease: Lease, attempt: int, waited_s: float) -> None:
        self._running[job.id] = _Run(job.tenant)
        if _is_detailed():
            self.log.debug(
                "turn.started",
                job=job.id,
                profile=job.profile,
                tenant=job.tenant,
                priority=str(job.priority),
                attempt=attempt,
                lease=lease.id,
                worker=str(lease.worker),
                waited_s=round(waited_s, 4),
            )

    def turn_spoke(self, job: Job, attempt: int) -> None:
        now = time.perf_counter()
        run = self._running.get(job.id)
        if run is not None:
            run.spoke_at = now
        if self._loop is not None:
            self._loop.call_soon(self._relayed, now)  # just before the task that reads it goes on
        if _is_detailed():
            self.log.debug("turn.spoke", job=job.id, attempt=attempt)

    def turn_returned(self, job: Job, lease: Lease, attempt: int, reason: str, rest_s: float) -> None:
        self._running.pop(job.id, None)
        self.numbers.returned(job.profile, reason).inc()
        if _is_detailed():
            self.log.debug(
                "turn.returned",
                job=job.id,
                attempt=attempt,
                lease=lease.id,
                worker=str(lease.worker),
                reason=reason,
                rest_s=round(rest_s, 4),
            )

    def limit_changed(self, profile: str, limit: int | None) -> None:
        if _is_detailed():
            self.log.debug("seats.limited", profile=profile, limit=limit)

    def turn_ended(self, job: Job, end: TurnEnd) -> None:
        usage = end.usage
        if usage is None:
            return
        self.numbers.tokens(job.profile, job.model or OTHER, job.tenant).add(
            usage.input_tokens, usage.cached_input_tokens, usage.output_tokens, usage.reasoning_output_tokens
        )

    def ticket_settled(self, job: Job, outcome: Outcome, waited_s: float, ran_s: float, attempts: int) -> None:
        label = outcome_label(outcome)
        numbers, profile = self.numbers, job.profile
        run = self._running.pop(job.id, None)
        numbers.turns(profile, label).inc()
        if attempts > 1:
            numbers.redispatched(profile, label).inc()
        if attempts:
            numbers.wait_s(profile, "served").observe(waited_s)
            numbers.turn_s(profile).observe(ran_s)
        else:
            numbers.wait_s(profile, "left" if isinstance(outcome, Abandoned) else "refused").observe(waited_s)
        if isinstance(outcome, Overrun):
            numbers.cut("buffer").inc()
        usage = outcome.end.usage if isinstance(outcome, Ended) else None
        if usage is not None and usage.output_tokens > 1 and not usage.reasoning_output_tokens and run and run.spoke_at:
            took_s = time.perf_counter() - run.spoke_at
            numbers.token_s(profile).observe(took_s / (usage.output_tokens - 1))
        if _is_detailed():
            self.log.debug(
                "job.settled",
                job=job.id,
                outcome=label,
                waited_s=round(waited_s, 4),
                ran_s=round(ran_s, 4),
                attempts=attempts,
            )

    # --- store -----------------------------------------------------------------------------------------------

    def store_called(self, operation: str, result: str, seconds: float) -> None:
        self.numbers.store_operations(operation, result).inc()
        self.numbers.store_s(operation).observe(seconds)

    def background_jobs(self, count: int) -> None:
        """So many are worked on, or wait."""
        self.numbers.background.set(count)

    def background_ended(self, facts: Mapping[str, object]) -> None:
        """A background response has ended."""
        self.log.info("background.ended", **facts)

    def background_failed(self, error: Exception) -> None:
        """The work on a background response raised what it should not."""
        self.numbers.bugs("background").inc()
        if self._lets("background.failed", type(error).__name__):
            self.log.error("background.failed", **error_fields(error))

    def background_recovered(self, queued: int, running: int) -> None:
        """What an earlier process left: so many are taken up again, and so many have failed."""
        self.log.info("background.recovered", queued=queued, running=running)

    def answer_not_stored(self) -> None:
        """An answer was to be stored, and is not."""
        self.numbers.unkept().inc()

    def answers_evicted(self, reason: str, count: int) -> None:
        self.numbers.evicted(reason).inc(count)

    def store_went_down(self, trouble: str, text: str) -> None:
        if self._lets("store.went_down", trouble):
            self.log.error("store.went_down", trouble=trouble, reason=text)

    def store_came_back(self) -> None:
        if self._lets("store.came_back"):
            self.log.info("store.came_back")

    def store_moved_aside(self, path: str) -> None:
        self.numbers.moved_aside().inc()
        self.log.error("store.moved_aside", path=path)

    # --- usage -----------------------------------------------------------------------------------------------

    def usage_written(self, records: int) -> None:
        self.numbers.usage("stored").inc(records)

    def usage_lost(self, records: int) -> None:
        self.numbers.usage("lost").inc(records)

    def usage_went_down(self, trouble: str, text: str) -> None:
        self.numbers.usage_up.set(0)
        self.log.error("usage.went_down", trouble=trouble, reason=text)

    def usage_came_back(self) -> None:
        self.numbers.usage_up.set(1)
        self.log.info("usage.came_back")

    def usage_moved_aside(self, path: str) -> None:
        self.log.error("usage.moved_aside", path=path)

    # --- traces ----------------------------------------------------------------------------------------------

    def trace_written(self, files: int) -> None:
        self.numbers.traces("written").inc()
        self.numbers.trace_files.set(files)

    def trace_lost(self, trouble: str, text: str) -> None:
        self.numbers.traces("lost").inc()
        self.log.warning("trace.lost", trouble=trouble, reason=text)

    def traces_pruned(self, removed: Mapping[str, int], files: int) -> None:
        for reason, count in removed.items():
            self.numbers.traces_pruned(reason).inc(count)
        self.numbers.trace_files.set(files)
        if removed:
            self.log.info("traces.pruned", removed=dict(removed), left=files)

    # --- pool ------------------------------------------------------------------------------------------------

    def stalled(self, seconds: float) -> None:
        self.numbers.stalls().inc()
        self.log.warning("service.stalled", seconds=round(seconds, 3))

    def lease_released(self, lease: Lease) -> None:
        if _is_detailed():
            self.log.debug("lease.released", lease=lease.id, worker=str(lease.worker))

    def times_taken(self, worker: WorkerId, starts_s: Collection[float], probes_s: Collection[float]) -> None:
        for seconds in starts_s:
            self.numbers.start_s(worker.profile).observe(seconds)
        for seconds in probes_s:
            self.numbers.probe_s(worker.profile).observe(seconds)

    def worker_moved(self, worker: WorkerId, source: WorkerState, target: WorkerState, reason: str = "") -> None:
        self.numbers.transitions(worker.profile, source, target, _REASONS.get(reason, "other")).inc()
        if target is WorkerState.QUARANTINED:
            self._quarantined_at[worker] = time.perf_counter()
        elif (began_at := self._quarantined_at.pop(worker, None)) is not None:
            self.numbers.quarantine_s(worker.profile).observe(time.perf_counter() - began_at)
        if self._lets("worker.moved", worker.profile, str(target)):
            log = self.log.warning if target in (WorkerState.SUSPECT, WorkerState.QUARANTINED) else self.log.info
            log("worker.moved", worker=str(worker), source=str(source), target=str(target), reason=reason)

    def worker_booted(self, worker: WorkerId, version: str, boot_s: float) -> None:
        self.versions[worker.profile] = version
        self.numbers.boots(worker.profile, "ready").inc()
        self.numbers.boot_s(worker.profile).observe(boot_s)
        self.log.info("worker.booted", worker=str(worker), version=version, boot_s=round(boot_s, 4))

    def boot_failed(self, worker: WorkerId, reason: str, failures: int, retry_s: float | None) -> None:
        self.numbers.boots(worker.profile, "failed").inc()
        if self._lets("worker.boot_failed", worker.profile):
            next_s = None if retry_s is None else round(retry_s, 3)
            self.log.error("worker.boot_failed", worker=str(worker), reason=reason, failures=failures, retry_s=next_s)

    def trouble_began(self, profile: str, trouble: str) -> None:
        if self._lets("profile.troubled", profile, trouble):
            self.log.error("profile.troubled", profile=profile, trouble=trouble)

    def trouble_ended(self, profile: str, trouble: str) -> None:
        if self._lets("profile.recovered", profile, trouble):
            self.log.info("profile.recovered", profile=profile, trouble=trouble)

    def worker_exited(self, end: WorkerExit) -> None:
        self.numbers.exits(end.worker.profile, "none" if end.code is None else str(end.code)).inc()
        self.last_exit = {"code": end.code, "reason": end.reason}
        expected = end.code == 0 and _REASONS.get(end.reason) in _PLANNED
        log = self.log.info if expected else self.log.warning
        if self._lets("worker.exited", end.worker.profile, end.code):
            log("worker.exited", worker=str(end.worker), code=end.code, reason=end.reason)
        if end.stderr_tail and self._lets("worker.stderr", end.worker.profile):
            self.log.warning("worker.stderr", worker=str(end.worker), tail=end.stderr_tail[-1000:])

    def frames_counted(self, worker: WorkerId, counts: Mapping[str, int]) -> None:
        numbers = self.numbers
        for kind, count in counts.items():
            if count and kind == "probe_missed":
                numbers.misses(worker.profile).inc(count)
            elif count and kind == "strike":
                numbers.strikes(worker.profile).inc(count)
            elif count:
                numbers.frames(worker.profile, kind).inc(count)

    def bug_found(self, where: str, error: Exception) -> None:
        self.numbers.bugs("worker").inc()
        if self._lets("bug.found", type(error).__name__):
            self.log.error("bug.found", where_found=where, **error_fields(error))

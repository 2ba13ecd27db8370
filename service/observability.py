"""Facts into metrics and log lines: the only module that knows Prometheus, and beside `logs.py` the only one that knows
structlog.

Every metric has a row in docs/metrics.md. Labels come from closed sets (profiles, states, outcomes, routes), never from
a request. No prompt and no answer is ever logged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter as Counts
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Generic, TypeVar

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pool.events import TurnEnd
from pool.observer import PoolObserver, WorkerExit
from pool.pool import Pool
from pool.roster import ProfileSnapshot
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
from scheduler.record import QueueSnapshot
from scheduler.scheduler import Scheduler
from service.api.errors import REJECTIONS
from service.logs import DETAILS, error_fields
from service.maintenance import State
from service.store.observer import StoreObserver, StoreSnapshot
from service.store.protocol import ResponseStore

C = TypeVar("C", bound=Collector)
M = TypeVar("M", Counter, Histogram)

disable_created_metrics()  # type: ignore[no-untyped-call]  # they double what a scrape carries, and no rule here reads them


LAG_EVERY_S = 0.25
_LAGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


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


class _Children(Generic[M]):
    """A metric's children by their labels: finding one here costs a dictionary's lookup."""

    def __init__(self, metric: M) -> None:
        self._metric: M = metric
        self._children: dict[tuple[object, ...], M] = {}

    def __call__(self, *labels: object) -> M:
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._metric.labels(*labels)
        return child


class Observability(PoolObserver, SchedulerObserver, StoreObserver):
    """Watches everything; one for the service. `close` makes room for the next one."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        self.collectors: list[Collector] = []
        self.log = structlog.get_logger()
        self.versions: dict[str, str] = {}
        self.last_exit: dict[str, Any] | None = None

        def counter(name: str, text: str, *labels: str) -> _Children[Counter]:
            return _Children(self._register(Counter(f"codex_completions_{name}", text, labels, registry=None)))

        def plain(name: str, text: str) -> Counter:
            return self._register(Counter(f"codex_completions_{name}", text, registry=None))

        def histogram(name: str, text: str, *labels: str) -> _Children[Histogram]:
            full = f"codex_completions_{name}"
            return _Children(self._register(Histogram(full, text, labels, buckets=_SECONDS, registry=None)))

        self._requests = counter("http_requests", "HTTP requests answered", "route", "status")
        self._request_s = histogram("http_request_seconds", "From the request's head to the answer's end", "route")
        self._first_token_s = histogram("first_token_seconds", "From submission to the first text", "profile")
        self._turns = counter("turns", "Tickets settled, by how they ended", "profile", "outcome")
        self._wait_s = histogram("queue_wait_seconds", "From submission to a seat, or to giving up", "profile")
        self._turn_s = histogram("turn_seconds", "From a seat to the outcome", "profile")
        self._tokens = counter("tokens", "Tokens as the provider counted them", "profile", "kind")
        self._admissions = counter(
            "admissions", "Jobs at the door, by what became of them", "profile", "decision", "reason"
        )
        self._fallbacks = counter(
            "fallbacks", "Jobs that another profile took after this one refused", "profile", "reason"
        )
        self._returned = counter(
            "redispatches", "Turns lost without a trace, whose jobs wait again", "profile", "reason"
        )
        self._redispatched = counter(
            "redispatched", "Jobs that had several turns, by how they ended", "profile", "outcome"
        )
        self._boots = counter("worker_boots", "Worker boots, by result", "profile", "result")
        self._boot_s = histogram("worker_boot_seconds", "From spawn to the answered handshake", "profile")
        self._exits = counter("worker_exits", "Worker processes that ended", "profile", "code")
        self._transitions = counter(
            "worker_transitions", "Worker state changes", "profile", "source", "target", "reason"
        )
        self._quarantine_s = histogram("quarantine_seconds", "From a verdict to the worker's end", "profile")
        self._apart = {
            "probe_missed": plain("probes_missed", "Probes that workers did not answer in time"),
            "strike": plain("strikes", "Turns that could not begin for want of an answer"),
        }
        self._stalls = plain("monitor_clock_resets", "Pauses of our own, for which no worker was judged")
        self._lag_s = self._register(
            Histogram("codex_completions_loop_lag_seconds", "How late the loop is", buckets=_LAGS, registry=None)
        )
        self._frames = counter("frames", "Lines from workers, all and by oddity", "kind")
        self._store_operations = counter(
            "store_operations", "What was asked of the store, by what came of it", "operation", "result"
        )
        self._store_s = _Children(
            self._register(
                Histogram(
                    "codex_completions_store_operation_seconds",
                    "What a caller of the store waited",
                    ("operation",),
                    buckets=_LAGS,
                    registry=None,
                )
            )
        )
        self._evicted = counter("store_evicted", "Stored answers removed to keep the limits", "reason")
        self._unkept = plain("answers_not_stored", "Answers that were to be stored, and are not")
        self._moved_aside = plain("store_moved_aside", "Damaged files of the store that were replaced")
        self._bugs = counter("bugs", "Exceptions of our own that a boundary caught", "where")
        self._reload_failures = plain("config_reload_failures", "Configurations that were refused while running")
        self._background = self._register(
            Gauge("codex_completions_background_jobs", "Background responses that wait or run", registry=None)
        )
        self._maintenance = self._register(
            Gauge("codex_completions_maintenance", "1 while maintenance is on, on some routes or all", registry=None)
        )
        self._generation = self._register(
            Gauge("codex_completions_config_generation", "Which configuration this is, from 1", registry=None)
        )
        self._generation.set(1)
        self._running: dict[str, str] = {}
        self._quarantined_at: dict[WorkerId, float] = {}
        self._lag_timer: asyncio.TimerHandle | None = None

    def watch(self, pool: Pool, scheduler: Scheduler, store: ResponseStore) -> None:
        """Export the gauges of these, read at the moment of each scrape, and how late the running loop is."""
        self._register(_Gauges(pool, scheduler, store, self._running))
        self._measure_lag(asyncio.get_running_loop(), None)

    def close(self) -> None:
        """Take all metrics out of the registry."""
        if self._lag_timer is not None:
            self._lag_timer.cancel()
        for collector in self.collectors:
            self._registry.unregister(collector)
        self.collectors.clear()

    def _register(self, collector: C) -> C:
        self._registry.register(collector)
        self.collectors.append(collector)
        return collector

    def _measure_lag(self, loop: asyncio.AbstractEventLoop, due_at: float | None) -> None:
        if due_at is not None:
            self._lag_s.observe(max(0.0, loop.time() - due_at))
        self._lag_timer = loop.call_later(LAG_EVERY_S, self._measure_lag, loop, loop.time() + LAG_EVERY_S)

    # --- HTTP ------------------------------------------------------------------------------------------------

    def request_answered(
        self, route: str, status: int, seconds: float, facts: Mapping[str, object] | None = None
    ) -> None:
        """One HTTP request is done; with `facts` it gets its log line."""
        self._requests(route, status).inc()
        self._request_s(route).observe(seconds)
        if facts is not None:
            self.log.info("request.answered", route=route, status=status, seconds=round(seconds, 4), **facts)

    def first_text(self, profile: str, seconds: float) -> None:
        """A client got its first text."""
        self._first_token_s(profile).observe(seconds)

    def handler_failed(self, route: str, error: Exception) -> None:
        """A handler raised what it should not."""
        self._bugs("http").inc()
        self.log.error("handler.failed", route=route, **error_fields(error))

    # --- configuration ---------------------------------------------------------------------------------------

    def configuration_reloaded(self, changed: Collection[str], replaced: Collection[str]) -> None:
        """A new configuration is in force: these settings changed, these profiles' workers are being replaced."""
        self._generation.inc()
        self.log.info("configuration.reloaded", changed=sorted(changed), replaced=sorted(replaced))

    def configuration_refused(self, reason: str) -> None:
        """A new configuration is not in force."""
        self._reload_failures.inc()
        self.log.warning("configuration.refused", reason=reason)

    def reload_failed(self, error: Exception) -> None:
        """A reload raised what it should not."""
        self._reload_failures.inc()
        self._bugs("reload").inc()
        self.log.error("reload.failed", **error_fields(error))

    # --- operators -------------------------------------------------------------------------------------------

    def maintenance_changed(self, state: State, trouble: str) -> None:
        """Maintenance is on, off or another one now; `trouble` is what was wrong with its file, or ""."""
        notice = state.notice
        self._maintenance.set(notice is not None)
        if trouble:
            self.log.warning("maintenance.misunderstood", reason=trouble)
        if notice is None:
            self.log.warning("maintenance.ended")
        else:
            routes = list(notice.routes)
            self.log.warning(
                "maintenance.began", source=state.source, by=state.by, routes=routes, retry_after_s=notice.retry_after_s
            )

    # --- scheduler -------------------------------------------------------------------------------------------

    def fell_back(self, profile: str, refusal: Rejected) -> None:
        """A job that `profile` refused was taken by another."""
        self._fallbacks(profile, REJECTIONS[type(refusal)].code).inc()

    def job_admitted(self, job: Job) -> None:
        self._admissions(job.profile, "admitted", "none").inc()
        if _is_detailed():
            self.log.debug(
                "job.admitted", job=job.id, profile=job.profile, tenant=job.tenant, priority=str(job.priority)
            )

    def job_rejected(self, job: Job, reason: str) -> None:
        self._admissions(job.profile, "rejected", reason).inc()
        if _is_detailed():
            self.log.debug("job.rejected", job=job.id, profile=job.profile, tenant=job.tenant, reason=reason)

    def turn_started(self, job: Job, lease: Lease, attempt: int, waited_s: float) -> None:
        self._running[job.id] = job.tenant
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
        if _is_detailed():
            self.log.debug("turn.spoke", job=job.id, attempt=attempt)

    def turn_returned(self, job: Job, lease: Lease, attempt: int, reason: str, rest_s: float) -> None:
        self._running.pop(job.id, None)
        self._returned(job.profile, reason).inc()
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

    def ticket_settled(self, job: Job, outcome: Outcome, waited_s: float, ran_s: float, attempts: int) -> None:
        label = outcome_label(outcome)
        self._running.pop(job.id, None)
        self._turns(job.profile, label).inc()
        if attempts > 1:
            self._redispatched(job.profile, label).inc()
        self._wait_s(job.profile).observe(waited_s)
        self._turn_s(job.profile).observe(ran_s)
        usage = outcome.end.usage if isinstance(outcome, Ended) else None
        if usage is not None:
            self._tokens(job.profile, "input").inc(usage.input_tokens)
            self._tokens(job.profile, "cached_input").inc(usage.cached_input_tokens)
            self._tokens(job.profile, "output").inc(usage.output_tokens)
            self._tokens(job.profile, "reasoning_output").inc(usage.reasoning_output_tokens)
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
        self._store_operations(operation, result).inc()
        self._store_s(operation).observe(seconds)

    def background_jobs(self, count: int) -> None:
        """So many are worked on, or wait."""
        self._background.set(count)

    def background_ended(self, facts: Mapping[str, object]) -> None:
        """A background response has ended."""
        self.log.info("background.ended", **facts)

    def background_failed(self, error: Exception) -> None:
        """The work on a background response raised what it should not."""
        self._bugs("background").inc()
        self.log.error("background.failed", **error_fields(error))

    def background_recovered(self, queued: int, running: int) -> None:
        """What an earlier process left: so many are taken up again, and so many have failed."""
        self.log.info("background.recovered", queued=queued, running=running)

    def answer_not_stored(self) -> None:
        """An answer was to be stored, and is not."""
        self._unkept.inc()

    def answers_evicted(self, reason: str, count: int) -> None:
        self._evicted(reason).inc(count)

    def store_went_down(self, trouble: str, text: str) -> None:
        self.log.error("store.went_down", trouble=trouble, reason=text)

    def store_came_back(self) -> None:
        self.log.info("store.came_back")

    def store_moved_aside(self, path: str) -> None:
        self._moved_aside.inc()
        self.log.error("store.moved_aside", path=path)

    # --- pool ------------------------------------------------------------------------------------------------

    def stalled(self, seconds: float) -> None:
        self._stalls.inc()
        self.log.warning("service.stalled", seconds=round(seconds, 3))

    def lease_released(self, lease: Lease) -> None:
        if _is_detailed():
            self.log.debug("lease.released", lease=lease.id, worker=str(lease.worker))

    def worker_moved(self, worker: WorkerId, source: WorkerState, target: WorkerState, reason: str = "") -> None:
        self._transitions(worker.profile, source, target, _REASONS.get(reason, "other")).inc()
        if target is WorkerState.QUARANTINED:
            self._quarantined_at[worker] = time.perf_counter()
        elif (began_at := self._quarantined_at.pop(worker, None)) is not None:
            self._quarantine_s(worker.profile).observe(time.perf_counter() - began_at)
        self.log.debug("worker.moved", worker=str(worker), source=str(source), target=str(target), reason=reason)

    def worker_booted(self, worker: WorkerId, version: str, boot_s: float) -> None:
        self.versions[worker.profile] = version
        self._boots(worker.profile, "ready").inc()
        self._boot_s(worker.profile).observe(boot_s)
        self.log.info("worker.booted", worker=str(worker), version=version, boot_s=round(boot_s, 4))

    def boot_failed(self, worker: WorkerId, reason: str) -> None:
        self._boots(worker.profile, "failed").inc()
        self.log.error("worker.boot_failed", worker=str(worker), reason=reason)

    def worker_exited(self, end: WorkerExit) -> None:
        self._exits(end.worker.profile, "none" if end.code is None else str(end.code)).inc()
        self.last_exit = {"code": end.code, "reason": end.reason}
        expected = end.code == 0 and _REASONS.get(end.reason) in _PLANNED
        log = self.log.info if expected else self.log.warning
        log("worker.exited", worker=str(end.worker), code=end.code, reason=end.reason)
        if end.stderr_tail:
            self.log.warning("worker.stderr", worker=str(end.worker), tail=end.stderr_tail[-1000:])

    def frames_counted(self, counts: dict[str, int]) -> None:
        for kind, count in counts.items():
            if count:
                (self._apart.get(kind) or self._frames(kind)).inc(count)

    def bug_found(self, where: str, error: Exception) -> None:
        self._bugs("worker").inc()
        self.log.error("bug.found", where_found=where, **error_fields(error))


class _Gauges(Collector):
    """Reads the cores' own numbers, so that nothing is counted twice; `running` gives each running job's tenant."""

    def __init__(self, pool: Pool, scheduler: Scheduler, store: ResponseStore, running: Mapping[str, str]) -> None:
        self._pool = pool
        self._scheduler = scheduler
        self._store = store
        self._running = running

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        draining = _gauge("draining", "1 while no new work is taken")
        draining.add_metric((), int(self._scheduler.is_draining))
        tenants = _gauge("tenant_running", "Turns of each key", "tenant")
        for tenant, count in Counts(self._running.values()).items():
            tenants.add_metric((tenant,), count)
        pool, queues, store = self._pool.snapshot(), self._scheduler.snapshot(), self._store.snapshot()
        return (*_of_pool(pool), *_of_queues(queues), *_of_store(store), tenants, draining)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"codex_completions_{name}", text, labels=labels)


def _of_pool(rows: Iterable[ProfileSnapshot]) -> tuple[GaugeMetricFamily, ...]:
    workers = _gauge("workers", "Workers by state", "profile", "state")
    by_number = {
        "seats": _gauge("seats", "Turns that workers in service can run at once", "profile"),
        "seats_free": _gauge("seats_free", "Seats without a turn", "profile"),
        "breaker_open": _gauge("breaker_open", "1 while boots fail so often that few are tried", "profile"),
        "panic": _gauge("panic", "1 while so many workers look sick that none is judged", "profile"),
        "outdated": _gauge("workers_outdated", "Workers of an earlier configuration", "profile"),
        "rss": _gauge("worker_rss_bytes", "Memory of the largest worker", "profile"),
    }
    for row in rows:
        for state, count in row.workers.items():
            workers.add_metric((row.profile, state), count)
        numbers = {
            "seats": row.seats,
            "seats_free": row.free,
            "breaker_open": int(row.is_broken),
            "panic": int(row.is_panicking),
            "outdated": row.outdated,
            "rss": max((worker.rss_bytes for worker in row.each), default=0),
        }
        for name, number in numbers.items():
            by_number[name].add_metric((row.profile,), number)
    return (workers, *by_number.values())


def _of_store(now: StoreSnapshot) -> tuple[GaugeMetricFamily, ...]:
    numbers = (
        ("up", "1 while answers can be stored", int(now.is_up)),
        ("responses", "Stored answers", now.responses),
        ("bytes", "What stored answers take", now.used_bytes),
        ("waiting_bytes", "What waits to be written", now.waiting_bytes),
    )
    gauges = tuple(_gauge(f"store_{name}", text) for name, text, _ in numbers)
    for gauge, (_, _, number) in zip(gauges, numbers, strict=True):
        gauge.add_metric((), number)
    return gauges


def _of_queues(rows: Iterable[QueueSnapshot]) -> tuple[GaugeMetricFamily, ...]:
    waiting = _gauge("jobs_waiting", "Jobs without a seat", "profile", "priority")
    limit = _gauge("seats_limit", "Turns that may run at once, where there is such a limit", "profile")
    by_number = {
        "running": _gauge("jobs_running", "Jobs with a seat", "profile"),
        "oldest": _gauge("oldest_wait_seconds", "How long the oldest job has waited", "profile"),
        "predicted": _gauge("predicted_wait_seconds", "What a new job would wait", "profile"),
        "tokens": _gauge("retry_tokens", "Turns that may be run again now", "profile"),
        "overloaded": _gauge("codel_overloaded", "1 while waits stay over the target", "profile"),
        "marked": _gauge("poison_marks", "Open jobs that have crashed a worker", "profile"),
    }
    for row in rows:
        for priority, count in row.by_priority.items():
            waiting.add_metric((row.profile, priority), count)
        if row.limit is not None:
            limit.add_metric((row.profile,), row.limit)
        numbers = {
            "running": row.running,
            "oldest": row.oldest_wait_s,
            "predicted": row.predicted_wait_s,
            "tokens": row.retry_tokens,
            "overloaded": int(row.is_overloaded),
            "marked": row.marked,
        }
        for name, number in numbers.items():
            by_number[name].add_metric((row.profile,), number)
    return (waiting, limit, *by_number.values())

"""Facts into metrics and log lines: the only module that knows Prometheus and structlog.

Every metric has a row in docs/metrics.md. Labels come from closed sets (profiles, states, outcomes, routes), never from
a request. No prompt and no answer is ever logged.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

import msgspec
import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pool.errors import IllegalTransition
from pool.events import TurnEnd
from pool.observer import PoolObserver, WorkerExit
from pool.pool import Pool
from pool.worker_state import WorkerId, WorkerState
from scheduler.model import Abandoned, CrashesWorker, CutOff, Ended, Expired, Job, Outcome, Overdue, Overrun, Shed
from scheduler.observer import SchedulerObserver
from scheduler.scheduler import Scheduler

C = TypeVar("C", bound=Collector)
M = TypeVar("M", Counter, Histogram)

disable_created_metrics()  # type: ignore[no-untyped-call]  # they double what a scrape carries, and no rule here reads them

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


def configure_logging(level: str) -> None:
    """JSON lines on stderr, ours and those of the libraries."""
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=lambda line, **_: msgspec.json.encode(line, enc_hook=str)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_LibraryLines()], level=max(number, logging.WARNING), force=True)


class _LibraryLines(logging.Handler):
    """What libraries log, as lines like ours."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        structlog.get_logger().log(
            record.levelno,
            "library.logged",
            logger=record.name,
            message=record.getMessage().partition("\n")[0][:500],  # asyncio's next lines quote the exception
            **error_fields(error),
        )


def error_fields(error: BaseException | None) -> dict[str, Any]:
    """An exception without its message, which may quote a prompt: its type and where it was raised."""
    if error is None:
        return {}
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    fields: dict[str, Any] = {
        "error": type(error).__name__,
        "where": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
    if isinstance(error, IllegalTransition):
        fields["story"] = error.story.splitlines()
    return fields


def outcome_label(outcome: Outcome) -> str:
    """One word for how a ticket ended: the finish, the fault, or why it got no turn."""
    match outcome:
        case Ended(TurnEnd(finish=finish, fault=fault)):
            return str(fault.kind) if fault is not None else str(finish)
        case Expired():
            return "queue_timeout"
        case Abandoned():
            return "abandoned"
        case Overrun():
            return "slow_client"
        case CutOff():
            return "cut_off"
        case Shed():
            return "queue_shed"
        case Overdue():
            return "deadline_exceeded"
        case CrashesWorker():
            return "request_crashes_worker"


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


class Observability(PoolObserver, SchedulerObserver):
    """Watches the pool, the scheduler and the requests; one for the service. `close` makes room for the next one."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        self.collectors: list[Collector] = []
        self.log = structlog.get_logger()
        self.versions: dict[str, str] = {}
        self.last_exit: dict[str, Any] | None = None

        def counter(name: str, text: str, *labels: str) -> _Children[Counter]:
            return _Children(self._register(Counter(f"codex_completions_{name}", text, labels, registry=None)))

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
        self._rejected = counter("rejected", "Jobs turned away at the door", "profile", "reason")
        self._boots = counter("worker_boots", "Worker boots, by result", "profile", "result")
        self._boot_s = histogram("worker_boot_seconds", "From spawn to the answered handshake", "profile")
        self._exits = counter("worker_exits", "Worker processes that ended", "profile", "code")
        self._transitions = counter("worker_transitions", "Worker state changes", "profile", "source", "target")
        self._frames = counter("frames", "Lines from workers, all and by oddity", "kind")
        self._bugs = counter("bugs", "Exceptions of our own that a boundary caught", "where")

    def watch(self, pool: Pool, scheduler: Scheduler) -> None:
        """Export the gauges of these two, read at the moment of each scrape."""
        self._register(_Gauges(pool, scheduler))

    def close(self) -> None:
        """Take all metrics out of the registry."""
        for collector in self.collectors:
            self._registry.unregister(collector)
        self.collectors.clear()

    def _register(self, collector: C) -> C:
        self._registry.register(collector)
        self.collectors.append(collector)
        return collector

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

    # --- scheduler -------------------------------------------------------------------------------------------

    def job_rejected(self, job: Job, reason: str) -> None:
        self._rejected(job.profile, reason).inc()

    def ticket_settled(
        self,
        job: Job,
        outcome: Outcome,
        waited_s: float,
        ran_s: float,
        attempts: int,  # noqa: ARG002 - only the log at level debug tells it
    ) -> None:
        self._turns(job.profile, outcome_label(outcome)).inc()
        self._wait_s(job.profile).observe(waited_s)
        self._turn_s(job.profile).observe(ran_s)
        usage = outcome.end.usage if isinstance(outcome, Ended) else None
        if usage is not None:
            self._tokens(job.profile, "input").inc(usage.input_tokens)
            self._tokens(job.profile, "cached_input").inc(usage.cached_input_tokens)
            self._tokens(job.profile, "output").inc(usage.output_tokens)
            self._tokens(job.profile, "reasoning_output").inc(usage.reasoning_output_tokens)

    # --- pool ------------------------------------------------------------------------------------------------

    def worker_moved(self, worker: WorkerId, source: WorkerState, target: WorkerState, reason: str) -> None:
        self._transitions(worker.profile, source, target).inc()
        self.log.debug("worker.moved", worker=str(worker), source=source, target=target, reason=reason)

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
        expected = end.code == 0 and end.reason == "the service is stopping"
        log = self.log.info if expected else self.log.warning
        log("worker.exited", worker=str(end.worker), code=end.code, reason=end.reason)
        if end.stderr_tail:
            self.log.warning("worker.stderr", worker=str(end.worker), tail=end.stderr_tail[-1000:])

    def frames_counted(self, counts: dict[str, int]) -> None:
        for kind, count in counts.items():
            if count:
                self._frames(kind).inc(count)

    def bug_found(self, where: str, error: Exception) -> None:
        self._bugs("worker").inc()
        self.log.error("bug.found", where_found=where, **error_fields(error))


class _Gauges(Collector):
    """Reads the cores' own numbers, so that nothing is counted twice."""

    def __init__(self, pool: Pool, scheduler: Scheduler) -> None:
        self._pool = pool
        self._scheduler = scheduler

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"codex_completions_{name}", text, labels=labels)

        workers = gauge("workers", "Workers by state", "profile", "state")
        seats = gauge("seats", "Turns that ready workers can run at once", "profile")
        free = gauge("seats_free", "Seats without a turn", "profile")
        for row in self._pool.snapshot():
            for state, count in row.workers.items():
                workers.add_metric((row.profile, state), count)
            seats.add_metric((row.profile,), row.seats)
            free.add_metric((row.profile,), row.free)
        waiting = gauge("jobs_waiting", "Jobs without a seat", "profile")
        running = gauge("jobs_running", "Jobs with a seat", "profile")
        for queue in self._scheduler.snapshot():
            waiting.add_metric((queue.profile,), queue.waiting)
            running.add_metric((queue.profile,), queue.running)
        draining = gauge("draining", "1 while no new work is taken")
        draining.add_metric((), int(self._scheduler.is_draining))
        return (workers, seats, free, waiting, running, draining)

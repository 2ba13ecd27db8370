"""What is read at the moment of a scrape: the cores' own numbers, so that nothing is counted twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from pool.roster import ProfileSnapshot
from scheduler.record import QueueSnapshot
from scheduler.scheduler import Scheduler
from service.metrics import Gauge
from service.numbers import Numbers
from service.store.observer import StoreSnapshot
from service.store.protocol import ResponseStore


class Workers(Protocol):
    """What is read of a pool."""

    def snapshot(self) -> list[ProfileSnapshot]:
        """Every profile in numbers."""

    def unread_bytes(self) -> Mapping[str, int]:
        """By profile, what its worker that reads least has not read."""


class Charged(Protocol):
    """Something that runs, and whose it is."""

    @property
    def tenant(self) -> str:
        """The name of a key."""


def reader(
    numbers: Numbers, pool: Workers, scheduler: Scheduler, store: ResponseStore, running: Mapping[str, Charged]
) -> Callable[[], None]:
    """Sets every gauge that is read and not counted; `running` gives whose each running job is."""
    told: tuple[Gauge, ...] = (
        *(numbers.background, numbers.generation, numbers.info, numbers.maintenance),
        *(numbers.usage_up, numbers.trace_files),
    )
    read = [family for family in numbers.families if isinstance(family, Gauge) and family not in told]

    def now() -> None:
        for gauge in read:
            gauge.clear()
        numbers.draining.set(int(scheduler.is_draining))
        for tenant, count in Counter([job.tenant for job in running.values()]).items():
            numbers.tenant_running.set(count, tenant)
        _of_pool(numbers, pool.snapshot(), pool.unread_bytes())
        _of_queues(numbers, scheduler.snapshot(), scheduler.buffered_bytes())
        _of_store(numbers, store.snapshot())

    return now


def _of_pool(numbers: Numbers, rows: Iterable[ProfileSnapshot], unread: Mapping[str, int]) -> None:
    for row in rows:
        profile = row.profile
        for state, count in row.workers.items():
            numbers.workers.set(count, profile, state)
        turns: Counter[int] = Counter()
        for worker in row.each:
            turns[worker.worker.slot] += worker.leases
        for slot, leases in turns.items():
            numbers.worker_turns.set(leases, profile, slot)
        numbers.seats.set(row.seats, profile)
        numbers.seats_free.set(row.free, profile)
        numbers.broken.set(int(row.is_broken), profile)
        numbers.panic.set(int(row.is_panicking), profile)
        numbers.outdated.set(row.outdated, profile)
        numbers.rss.set(max((worker.rss_bytes for worker in row.each), default=0), profile)
        numbers.unread.set(unread.get(profile, 0), profile)


def _of_queues(numbers: Numbers, rows: Iterable[QueueSnapshot], buffered: Mapping[str, int]) -> None:
    for row in rows:
        profile = row.profile
        for priority, count in row.by_priority.items():
            numbers.waiting.set(count, profile, priority)
        if row.limit is not None:
            numbers.seats_limit.set(row.limit, profile)
        numbers.running.set(row.running, profile)
        numbers.oldest_s.set(row.oldest_wait_s, profile)
        numbers.predicted_s.set(row.predicted_wait_s, profile)
        numbers.retry_tokens.set(row.retry_tokens, profile)
        numbers.overloaded.set(int(row.is_overloaded), profile)
        numbers.marked.set(row.marked, profile)
        numbers.crash_marks(profile).value = row.marks
        numbers.buffered.set(buffered.get(profile, 0), profile)


def _of_store(numbers: Numbers, now: StoreSnapshot) -> None:
    numbers.store_up.set(int(now.is_up))
    numbers.store_responses.set(now.responses)
    numbers.store_bytes.set(now.used_bytes)
    numbers.store_waiting.set(now.waiting_bytes)

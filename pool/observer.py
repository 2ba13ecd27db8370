"""What the pool tells whoever watches it. The default hears nothing; service.observability turns it into metrics."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from pool.stimuli import Lease
from pool.worker_state import WorkerId, WorkerState


class WorkerExit(NamedTuple):
    """How a worker ended. `code` is negative for a signal, None if it was never started or would not go.

    `stderr_tail` is what a worker that never became ready said last; once it has seen a prompt, it is not repeated.
    """

    worker: WorkerId
    reason: str
    code: int | None
    stderr_tail: str


class PoolObserver:
    """Override what you want to hear. Called synchronously: must neither wait nor raise."""

    def worker_moved(self, worker: WorkerId, source: WorkerState, target: WorkerState, reason: str) -> None:
        """A worker changed its state."""

    def lease_released(self, lease: Lease) -> None:
        """A worker has let go of a lease's turn; not told of leases that end with their worker."""

    def stalled(self, seconds: float) -> None:
        """We were stopped for so long; no worker is judged by it."""

    def worker_booted(self, worker: WorkerId, version: str, boot_s: float) -> None:
        """A worker is ready."""

    def boot_failed(self, worker: WorkerId, reason: str, failures: int, retry_s: float | None) -> None:
        """A worker could not be brought up. So many in a row on its place were not; the next is tried after `retry_s`,
        None for not at all.
        """

    def trouble_began(self, profile: str, trouble: str) -> None:
        """Its breaker is open (`breaker`), or so many of its workers look sick that none is judged (`panic`)."""

    def trouble_ended(self, profile: str, trouble: str) -> None:
        """That is over."""

    def worker_exited(self, end: WorkerExit) -> None:
        """A worker's process is gone."""

    def frames_counted(self, worker: WorkerId, counts: Mapping[str, int]) -> None:
        """Its frames handled since the last call, by kind (see `pool.session.Session.counters`)."""

    def times_taken(self, worker: WorkerId, starts_s: Collection[float], probes_s: Collection[float]) -> None:
        """Since the last call: from a turn's lease to the worker's word that it has begun; from probe to answer."""

    def bug_found(self, where: str, error: Exception) -> None:
        """Our own code raised where nothing may; the worker concerned is being replaced."""

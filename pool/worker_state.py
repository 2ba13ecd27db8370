"""The states of a worker, and the only moves between them."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class WorkerId(NamedTuple):
    """One worker incarnation: the epoch tells it from its predecessors on the same slot."""

    profile: str
    slot: int
    epoch: int

    def __str__(self) -> str:
        return f"{self.profile}/{self.slot}.{self.epoch}"


class WorkerState(StrEnum):
    """Only a READY worker is leased."""

    STARTING = "starting"
    READY = "ready"
    RETIRING = "retiring"
    STOPPING = "stopping"
    DEAD = "dead"


TRANSITIONS: dict[tuple[WorkerState, WorkerState], str] = {
    (WorkerState.STARTING, WorkerState.READY): "it answered initialize, and its version will do",
    (WorkerState.STARTING, WorkerState.STOPPING): "the boot failed, or the service is stopping",
    (WorkerState.STARTING, WorkerState.DEAD): "it could not be spawned",
    (WorkerState.READY, WorkerState.RETIRING): "it ignored an interrupt, or two turns in a row could not begin",
    (
        WorkerState.READY,
        WorkerState.STOPPING,
    ): "it exited, closed its stdout, answered no probe, or the service stops",
    (WorkerState.RETIRING, WorkerState.STOPPING): "its last turn that still moves has ended, or as above",
    (WorkerState.STOPPING, WorkerState.DEAD): "the process is gone and its home is removed",
}
"""Each legal move and what causes it; printed into docs/architecture.md, where a test keeps it fresh."""


def transition_table() -> str:
    """The table as Markdown."""
    rows = [f"| {source} | {target} | {why} |" for (source, target), why in TRANSITIONS.items()]
    return "\n".join(["| from | to | because |", "|---|---|---|", *rows])

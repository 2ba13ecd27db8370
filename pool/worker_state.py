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
    """Only a worker on PROBATION, on a few seats, and a READY one are leased."""

    BACKOFF = "backoff"
    STARTING = "starting"
    SPARE = "spare"
    PROBATION = "probation"
    READY = "ready"
    SUSPECT = "suspect"
    QUARANTINED = "quarantined"
    RETIRING = "retiring"
    STOPPING = "stopping"
    DEAD = "dead"


_S = WorkerState
_COMMANDED = ", or an operator's command"
_RESTARTED = ", or an operator restarts it"
_ENDED = f"it exited, closed its stdout, the service stops{_RESTARTED}"

TRANSITIONS: dict[tuple[WorkerState, WorkerState], str] = {
    (_S.BACKOFF, _S.STARTING): "its wait is over and a boot is free",
    (_S.BACKOFF, _S.DEAD): "it is not needed any more, or the service stops",
    (_S.STARTING, _S.PROBATION): "it answered initialize, and its version will do",
    (_S.STARTING, _S.SPARE): "likewise, and enough others serve",
    (_S.STARTING, _S.STOPPING): f"the boot failed, it is not needed any more, the service stops{_RESTARTED}",
    (_S.SPARE, _S.PROBATION): "a worker in service has left it",
    (_S.SPARE, _S.STOPPING): f"it is silent, too old or too large, its profile changed, it ended{_COMMANDED}",
    (_S.PROBATION, _S.READY): "a turn on it has begun to answer, or its probation passed without a fault",
    (_S.PROBATION, _S.SUSPECT): "it answers no probe",
    (
        _S.PROBATION,
        _S.QUARANTINED,
    ): f"a turn could not begin on it or failed by its fault, it talks nonsense{_COMMANDED}",
    (_S.PROBATION, _S.RETIRING): "a successor serves",
    (_S.PROBATION, _S.STOPPING): _ENDED,
    (_S.READY, _S.SUSPECT): "it answers no probe, or reads nothing",
    (
        _S.READY,
        _S.QUARANTINED,
    ): f"a verdict: turns cannot begin on it, its turns fail, or it talks nonsense{_COMMANDED}",
    (
        _S.READY,
        _S.RETIRING,
    ): f"a successor serves, and it is too old, too large, outdated or has a stuck turn{_COMMANDED}",
    (_S.READY, _S.STOPPING): _ENDED,
    (_S.SUSPECT, _S.READY): "it answered two probes in a row",
    (_S.SUSPECT, _S.PROBATION): "likewise, and it had not proved itself",
    (_S.SUSPECT, _S.QUARANTINED): f"a verdict: it has hung, or as above{_COMMANDED}",
    (_S.SUSPECT, _S.STOPPING): _ENDED,
    (
        _S.QUARANTINED,
        _S.STOPPING,
    ): "nothing moves on it any more, its time is over, it has hung, or an operator restarts it",
    (
        _S.RETIRING,
        _S.STOPPING,
    ): "its last turn that still moves has ended, its time is over, it has hung, or an operator restarts it",
    (_S.STOPPING, _S.DEAD): "the process is gone and its home is removed",
}
"""Each legal move and what causes it; printed into docs/architecture.md, where a test keeps it fresh."""

IN_SERVICE = frozenset({_S.PROBATION, _S.READY})


class Verdict(StrEnum):
    """Why a worker is condemned."""

    HUNG = "hung"
    """It does nothing any more: what runs on it is over."""
    POISONED = "poisoned"
    """Nothing can begin on it; what runs on it may end well."""
    ERRORS = "errors"
    """It fails turns, or talks nonsense."""


def transition_table() -> str:
    """The table as Markdown."""
    rows = [f"| {source} | {target} | {why} |" for (source, target), why in TRANSITIONS.items()]
    return "\n".join(["| from | to | because |", "|---|---|---|", *rows])

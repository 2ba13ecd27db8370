"""What the pool's core remembers: workers, and the places they fill. What is decided about them is in `pool.state`."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, inf
from typing import NamedTuple

from pool.breaker import Breaker, Panic
from pool.least_loaded import LeastLoaded
from pool.profile import Profile
from pool.story import Story
from pool.worker_state import IN_SERVICE, Verdict, WorkerId, WorkerState

ALONE = 4
"""How many times as many may be on their way out when nobody serves: an outage is worse than memory."""

_S = WorkerState
_GOING = frozenset({_S.SUSPECT, _S.QUARANTINED, _S.RETIRING})


@dataclass(slots=True)
class WorkerRecord:
    """One worker incarnation, from the moment its place is free until its process is gone."""

    id: WorkerId
    failures: int = 0
    boot_at: float = 0.0
    state: WorkerState = _S.BACKOFF
    generation: int = 0
    leases: set[int] = field(default_factory=set)
    stuck: set[int] = field(default_factory=set)
    turns: int = 0
    booted_at: float = 0.0
    jitter: tuple[float, float] = (0.0, 0.0)
    """How much sooner or later than others it is worn by turns and by age, in [0, 1)."""
    ready_at: float | None = None
    deadline_at: float | None = None
    """When this state ends by itself."""
    is_paused: bool = False
    paused_until: float = -inf
    pause_s: float = 0.0
    rss_bytes: int = 0
    outworn: str = ""
    """Why it should be replaced, though it serves; "" if it need not."""
    leaves_because: str = ""
    doubt: str = ""
    """A suspicion that waits for the end of a panic."""
    verdict: tuple[Verdict, str] | None = None
    """A verdict that waits for its turn."""
    is_condemned: bool = False
    has_proved: bool = False
    """A turn on it has begun to answer."""
    has_failed: bool = False
    story: Story = field(default_factory=Story)

    @property
    def why(self) -> str:
        """Why it leaves, or has to; "" if it need not."""
        return self.leaves_because or self.outworn or self.doubt


@dataclass(slots=True)
class PoolRecord:
    """One profile: its places, who fills them, and who is on the way out."""

    profile: Profile
    places: dict[int, WorkerRecord] = field(default_factory=dict)
    workers: dict[WorkerId, WorkerRecord] = field(default_factory=dict)
    """Everybody: those who fill a place, and those who have lost theirs."""
    in_service: LeastLoaded[WorkerId] = field(default_factory=LeastLoaded[WorkerId])
    breaker: Breaker = field(default_factory=Breaker)
    panic: Panic = field(default_factory=Panic)
    generation: int = 1
    is_removed: bool = False
    boots: int = 0
    last_failure: str | None = None

    @property
    def wanted(self) -> int:
        """Places."""
        return 0 if self.is_removed else self.profile.workers + self.profile.spares

    @property
    def surge(self) -> int:
        """How many more processes there may be while workers are replaced."""
        return max(1, ceil(self.profile.surge * self.profile.workers))

    @property
    def has_room(self) -> bool:
        """One more process may be started. Those on their way out do not count among the others, within limits."""
        processes = [worker for worker in self.workers.values() if worker.state is not _S.BACKOFF]
        most = self.profile.workers + self.profile.spares + self.surge
        going = sum(worker.state in _GOING or worker.has_failed for worker in processes)
        if len(processes) - going >= most:
            return False
        is_alone = not any(worker.state is _S.STARTING or worker.state in IN_SERVICE for worker in processes)
        return going < (ALONE * most if is_alone else most)

    @property
    def serving(self) -> int:
        """Workers in service that nobody is going to replace."""
        return sum(worker.state in IN_SERVICE for worker in self.places.values())

    @property
    def condemned(self) -> int:
        """Workers whose verdict is being carried out."""
        return sum(worker.is_condemned for worker in self.workers.values())

    @property
    def leaving_in_service(self) -> list[WorkerRecord]:
        """Those who serve until their successor does, longest first."""
        return [w for w in self.workers.values() if w.state in IN_SERVICE and self.places.get(w.id.slot) is not w]

    def holds_place(self, worker: WorkerRecord) -> bool:
        """Nobody has been put in this worker's place."""
        return self.places.get(worker.id.slot) is worker


class WorkerSnapshot(NamedTuple):
    """One worker in numbers; `reason` is why it is in its state or has to leave it."""

    worker: WorkerId
    state: WorkerState
    leases: int
    turns: int
    rss_bytes: int
    reason: str


class ProfileSnapshot(NamedTuple):
    """One profile in numbers: configured size, workers by state, seats in service, leases, boots ever begun."""

    profile: str
    size: int
    workers: dict[WorkerState, int]
    seats: int
    free: int
    leased: int
    boots: int
    last_failure: str | None
    is_broken: bool
    is_panicking: bool
    outdated: int
    each: tuple[WorkerSnapshot, ...]


class Outlook(NamedTuple):
    """What a profile has to offer: `seats`, free or taken, on workers in service, and `nominal` ones as configured.

    `down_s` is None, or, when no worker serves and boots keep failing, the seconds until the next one is tried.
    """

    seats: int
    nominal: int
    down_s: float | None

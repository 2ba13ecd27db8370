"""Seats in this process: they can be taken, freed, lost, and do with a turn what the test says."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from pool.events import Fault, FaultKind, Finish, TextDelta, Trace, TurnEnd, TurnRequest, TurnSink
from pool.roster import Outlook
from pool.stimuli import Lease
from pool.worker_state import WorkerId

STOP = TurnEnd(finish=Finish.STOP)
INTERRUPTED = TurnEnd(finish=Finish.INTERRUPTED)


def lost(kind: FaultKind = FaultKind.WORKER_LOST, trace: Trace = Trace.NONE) -> TurnEnd:
    """A turn that failed, and what it has left behind."""
    return TurnEnd(fault=Fault(kind, "gone"), trace=trace)


@dataclass
class FakeTurn:
    """A turn on a seat."""

    lease: Lease
    profile: str
    request: TurnRequest
    sink: TurnSink
    has_ended: bool = False


class FakeSeats:
    """One worker for each profile, with so many seats; more can be added.

    A seat is free again when its turn is closed, as on a real worker.
    """

    def __init__(self, **seats: int) -> None:
        self._free = {WorkerId(profile, 0, 1): free for profile, free in seats.items()}
        self._nominal = dict(seats)
        self.down_s: dict[str, float] = {}
        """Profiles whose boots keep failing."""
        self.turns: list[FakeTurn] = []
        self.interrupted: list[Lease] = []
        self.on_freed: Callable[[str], None] = lambda _profile: None
        self.at_start: Callable[[FakeTurn], None] = lambda _turn: None
        """Runs within `try_start`: what a worker does that answers, or breaks, at once."""
        self.at_interrupt: Callable[[FakeTurn], None] = lambda _turn: None
        """Likewise within `interrupt`."""

    def free(self, profile: str) -> int:
        return sum(free for worker, free in self._free.items() if worker.profile == profile)

    def outlook(self, profile: str) -> Outlook:
        running = sum(not turn.has_ended and turn.lease.worker in self._free for turn in self.turns)
        return Outlook(self.free(profile) + running, self._nominal[profile], self.down_s.get(profile))

    def try_start(
        self, profile: str, request: TurnRequest, sink: TurnSink, avoid: Collection[WorkerId] = ()
    ) -> Lease | None:
        candidates = [worker for worker in self._free if worker.profile == profile and worker not in avoid]
        worker = max(candidates, key=lambda each: self._free[each], default=None)
        if worker is None or not self._free[worker]:
            return None
        self._free[worker] -= 1
        turn = FakeTurn(Lease(len(self.turns) + 1, worker), profile, request, sink)
        self.turns.append(turn)
        self.at_start(turn)
        return turn.lease

    def interrupt(self, lease: Lease) -> None:
        turn = self.turns[lease.id - 1]
        assert turn.lease == lease
        if not turn.has_ended:
            self.interrupted.append(lease)
            self.at_interrupt(turn)

    # --- the test's side -----------------------------------------------------------------------------------------

    def says(self, number: int, text: str) -> None:
        """A turn, counted from 0, tells something."""
        self.turns[number].sink.push([TextDelta(text)])

    def ends(self, number: int, end: TurnEnd = STOP) -> None:
        """A turn comes to its end; it still holds its seat."""
        assert not self.turns[number].has_ended
        self.turns[number].has_ended = True
        self.turns[number].sink.end(end)

    def frees(self, profile: str, seats: int = 1, *, slot: int = 0) -> None:
        """Seats of a worker are free that were not; the worker may be a new one."""
        worker = WorkerId(profile, slot, 1)
        self._free[worker] = self._free.get(worker, 0) + seats
        self.on_freed(profile)

    def finishes(self, number: int, end: TurnEnd = STOP) -> None:
        """A turn ends and its seat is free, unless its worker is gone."""
        self.ends(number, end)
        worker = self.turns[number].lease.worker
        if worker in self._free:
            self._free[worker] += 1
            self.on_freed(worker.profile)

    def may_finish(self, number: int) -> None:
        """Likewise, unless it has ended."""
        if not self.turns[number].has_ended:
            self.finishes(number)

    def loses(self, profile: str, slot: int = 0) -> None:
        """A worker's free seats are gone, and it with them: what runs on it can still end."""
        del self._free[WorkerId(profile, slot, 1)]

"""Seats in this process: they can be taken, freed, lost, and do with a turn what the test says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pool.events import Finish, TextDelta, TurnEnd, TurnRequest, TurnSink
from pool.stimuli import Lease
from pool.worker_state import WorkerId

STOP = TurnEnd(finish=Finish.STOP)
INTERRUPTED = TurnEnd(finish=Finish.INTERRUPTED)


@dataclass
class FakeTurn:
    """A turn on a seat."""

    lease: Lease
    profile: str
    request: TurnRequest
    sink: TurnSink
    has_ended: bool = False


class FakeSeats:
    """A number of seats for each profile. A seat is free again when its turn is closed, as on a real worker."""

    def __init__(self, **seats: int) -> None:
        self._free = dict(seats)
        self.turns: list[FakeTurn] = []
        self.interrupted: list[Lease] = []
        self.on_freed: Callable[[str], None] = lambda _profile: None
        self.at_start: Callable[[FakeTurn], None] = lambda _turn: None
        """Runs within `try_start`: what a worker does that answers, or breaks, at once."""
        self.at_interrupt: Callable[[FakeTurn], None] = lambda _turn: None
        """Likewise within `interrupt`."""

    def free(self, profile: str) -> int:
        return self._free[profile]

    def try_start(self, profile: str, request: TurnRequest, sink: TurnSink) -> Lease | None:
        if not self._free[profile]:
            return None
        self._free[profile] -= 1
        turn = FakeTurn(Lease(len(self.turns) + 1, WorkerId(profile, 0, 1)), profile, request, sink)
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
        self.turns[number].sink.push(TextDelta(text))

    def ends(self, number: int, end: TurnEnd = STOP) -> None:
        """A turn comes to its end; it still holds its seat."""
        assert not self.turns[number].has_ended
        self.turns[number].has_ended = True
        self.turns[number].sink.end(end)

    def frees(self, profile: str, seats: int = 1) -> None:
        """Seats are free that were not."""
        self._free[profile] += seats
        self.on_freed(profile)

    def finishes(self, number: int, end: TurnEnd = STOP) -> None:
        """A turn ends and its seat is free."""
        self.ends(number, end)
        self.frees(self.turns[number].profile)

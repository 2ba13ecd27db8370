"""A session whose worker is played by the test, frame by frame."""

from __future__ import annotations

import json
from typing import Any

from pool.events import Tap, ToolSpec, TurnRequest
from pool.session import Fact, Session, Struck, TurnClosed
from pool.turn import TurnLimits
from tests.support.sinks import RecordingSink

TICK_S = 0.25
LIMITS = TurnLimits(start_s=10.0, first_event_s=30.0, idle_s=20.0, total_s=100.0, interrupt_s=5.0)

Frame = dict[str, Any]


def line(frame: Frame) -> bytes:
    """One frame on the wire, as compact as the app-server writes it."""
    return json.dumps(frame, separators=(",", ":")).encode() + b"\n"


def note(method: str, thread: str, **params: Any) -> Frame:
    """A notification about a thread; its turn is called after it."""
    return {"method": method, "params": {"threadId": thread, "turnId": f"turn of {thread}", **params}, "emittedAtMs": 1}


def delta(thread: str, text: str, item: str = "msg_1") -> Frame:
    """A piece of text."""
    return note("item/agentMessage/delta", thread, itemId=item, delta=text)


def completed(thread: str, status: str = "completed") -> Frame:
    """The end of a turn."""
    turn: Frame = {"id": f"turn of {thread}", "items": [], "status": status, "error": None}
    return {"method": "turn/completed", "params": {"threadId": thread, "turn": turn}}


class Desk:
    """Everything the session writes arrives here; what is said here, it reads."""

    def __init__(self) -> None:
        self.session = Session(LIMITS, "1.2.3")
        self.now = 1000.0
        self.facts: list[Fact] = []
        self.strikes: list[Fact] = []
        """Told of one that has not answered yet, besides the facts."""
        self.unanswered: list[Frame] = []

    def sent(self) -> list[Frame]:
        """What the session has written since the last call."""
        frames = [json.loads(text) for text in self.session.take_output().splitlines()]
        self.unanswered += [frame for frame in frames if "method" in frame and "id" in frame]
        return frames

    def methods(self) -> list[str]:
        """The names of what it has written since the last call."""
        return [frame["method"] for frame in self.sent()]

    def says(self, *frames: Frame) -> None:
        """The worker writes these."""
        self.session.receive(b"".join(map(line, frames)), self.now)
        self._note_facts()

    def replies(self, request: Frame, result: Any) -> None:
        """The worker answers a request."""
        if request in self.unanswered:
            self.unanswered.remove(request)
        self.says({"id": request["id"], "result": result})

    def refuses(self, request: Frame, code: int = -32600) -> None:
        """The worker answers a request with an error."""
        if request in self.unanswered:
            self.unanswered.remove(request)
        self.says({"error": {"code": code, "message": "no"}, "id": request["id"]})

    def waits(self, seconds: float, *, unread_bytes: int = 0) -> None:
        """Time passes in ticks, as it does."""
        ends_at = self.now + seconds
        while True:
            self.now = min(ends_at, self.now + TICK_S)
            self.session.tick(self.now, unread_bytes)
            self._note_facts()
            if self.now == ends_at:
                return

    def is_stopped(self, seconds: float) -> None:
        """We are stopped, and tick once when we go on."""
        self.now += seconds
        self.session.tick(self.now)
        self._note_facts()

    def closed(self) -> list[int]:
        """The leases whose turns the worker has let go of."""
        return [fact.lease_id for fact in self.facts if isinstance(fact, TurnClosed)]

    # --- shorthands --------------------------------------------------------------------------------------------

    def starts(self, lease_id: int, *, tools: tuple[ToolSpec, ...] = (), tap: Tap | None = None) -> RecordingSink:
        """A turn begins."""
        sink = RecordingSink()
        sink.tap = tap
        self.session.start_turn(lease_id, TurnRequest("m", "", ({"role": "user"},), tools), sink, self.now)
        self._note_facts()
        return sink

    def runs(
        self,
        lease_id: int,
        thread: str,
        *,
        answers: int = 3,
        tools: tuple[ToolSpec, ...] = (),
        tap: Tap | None = None,
    ) -> RecordingSink:
        """A turn begins and is opened, up to the answer to turn/start or, with fewer `answers`, not as far."""
        sink = self.starts(lease_id, tools=tools, tap=tap)
        results: list[Frame] = [{"thread": {"id": thread}}, {}, {"turn": {"id": f"turn of {thread}"}}]
        for result in results[:answers]:
            for request in self.sent()[-1:]:
                self.replies(request, result)
        return sink

    def _note_facts(self) -> None:
        for fact in self.session.take_facts():
            (self.strikes if isinstance(fact, Struck) else self.facts).append(fact)

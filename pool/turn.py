"""One turn on one worker, without I/O: what to send next, what its sink sees, and when it has taken too long."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, assert_never

import msgspec

from pool.errors import IllegalTransition
from pool.events import (
    Fault,
    FaultKind,
    Finish,
    Reasoning,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    Trace,
    TurnEnd,
    TurnEvent,
    TurnRequest,
    TurnSink,
    Usage,
)
from pool.protocol import dialect_v2 as dialect
from pool.protocol import functions
from pool.protocol.messages import RpcError
from pool.story import Story


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """How long each part of a turn may take, in seconds."""

    start_s: float = 10.0
    """One RPC of the opening (thread/start, thread/inject_items, turn/start) and of the closing."""
    first_event_s: float = 120.0
    """From turn/start to the first sign of the turn."""
    idle_s: float = 120.0
    """Between two signs of the turn."""
    total_s: float = 600.0
    """From the lease to the end."""
    interrupt_s: float = 5.0
    """From turn/interrupt to the turn's end, before the worker is held to be at fault."""


class Phase(Enum):
    """Where a turn is."""

    OPENING = auto()
    LOADING = auto()
    RUNNING = auto()
    INTERRUPTING = auto()
    CLOSING = auto()
    CLOSED = auto()


TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.OPENING: frozenset({Phase.LOADING, Phase.CLOSING, Phase.CLOSED}),
    Phase.LOADING: frozenset({Phase.RUNNING, Phase.CLOSING, Phase.CLOSED}),
    Phase.RUNNING: frozenset({Phase.INTERRUPTING, Phase.CLOSING, Phase.CLOSED}),
    Phase.INTERRUPTING: frozenset({Phase.CLOSING, Phase.CLOSED}),
    Phase.CLOSING: frozenset({Phase.CLOSED}),
    Phase.CLOSED: frozenset(),
}


class Step(Enum):
    """Which of a turn's requests an answer belongs to."""

    THREAD_START = auto()
    INJECT_ITEMS = auto()
    TURN_START = auto()
    INTERRUPT = auto()
    UNSUBSCRIBE = auto()


class Call(NamedTuple):
    """A request to write for this turn."""

    step: Step
    method: dialect.Method


Calls = tuple[Call, ...]

MUTE = Fault(FaultKind.WORKER_LOST, "the worker has fallen silent")

_SPENT = TurnRequest("", "", ())
"""In place of a request that is not needed any more: it may hold megabytes, and the turn is remembered longer."""


class Turn:
    """The life of one turn, from thread/start to thread/unsubscribe.

    Every method that takes `now` (monotonic seconds) returns the requests to write next. The sink gets its `end` as
    soon as the outcome is known; the turn is `is_closed`, and its seat free, only when the worker has let go of it.
    """

    __slots__ = (
        "_calls_seen",
        "_has_acted",
        "_has_spoken",
        "_interrupt_by",
        "_last_message",
        "_limits",
        "_names",
        "_progress_at",
        "_request",
        "_saw_event",
        "_sink",
        "_streamed",
        "_turn_id",
        "_unsaid",
        "_usage",
        "_verdict",
        "_wants_reasoning",
        "began_at",
        "has_completed",
        "ignored_interrupt",
        "is_workers_fault",
        "phase",
        "story",
        "thread_id",
    )

    def __init__(self, request: TurnRequest, sink: TurnSink, limits: TurnLimits, now: float) -> None:
        self.phase = Phase.OPENING
        self.thread_id: str | None = None
        self.story = Story()
        self.ignored_interrupt = False
        self.has_completed = False
        """The worker has said that it ended, well or by the provider's fault."""
        self.is_workers_fault = False
        """It failed in a way that speaks against the worker, and not against what was asked of it."""
        self._request, self._names = functions.adapted(request)
        self._wants_reasoning = request.reasoning_items
        self._sink: TurnSink | None = sink
        self._limits = limits
        self.began_at = now
        self._progress_at = now
        self._saw_event = False
        self._has_spoken = False
        self._has_acted = False
        self._interrupt_by: float | None = None
        self._turn_id: str | None = None
        self._usage: Usage | None = None
        self._verdict: Finish | None = None
        self._calls_seen = False
        self._last_message = ""
        self._streamed: set[str] = set()
        self._unsaid: list[TurnEvent] = []
        self.story.tell(now, "began")

    @property
    def is_closed(self) -> bool:
        """The worker holds nothing of this turn any more."""
        return self.phase is Phase.CLOSED

    @property
    def is_ending(self) -> bool:
        """Nothing more is asked of the worker for this turn, or only to let go of it."""
        return self.phase in (Phase.CLOSING, Phase.CLOSED)

    @property
    def has_ended(self) -> bool:
        """The sink has got its end."""
        return self._sink is None

    @property
    def trace(self) -> Trace:
        """What it has left behind so far."""
        if self._has_spoken or self._unsaid:
            return Trace.SPOKEN
        return Trace.ACTED if self._has_acted else Trace.NONE

    @property
    def is_untouched(self) -> bool:
        """Nothing has come of it, nobody wants its end: it may as well run elsewhere."""
        return self.trace is Trace.NONE and self._verdict is None and not self.has_ended

    # --- stimuli ---------------------------------------------------------------------------------------------

    def begin(self) -> Calls:
        """The first request."""
        return (Call(Step.THREAD_START, dialect.thread_start(self._request)),)

    def on_answer(self, step: Step, result: msgspec.Raw, now: float) -> Calls:
        """One of our requests succeeded.

        Raises:
            msgspec.MsgspecError: the result lacks what this protocol promises.
        """
        match step:
            case Step.THREAD_START:
                self.thread_id = dialect.thread_start_result(result).thread.id
                if self._verdict is not None:
                    return self._close(now)
                self._move(Phase.LOADING, now)
                return (Call(Step.INJECT_ITEMS, dialect.inject_items(self.thread_id, self._request.items)),)
            case Step.INJECT_ITEMS:
                if self.thread_id is None or self.phase is not Phase.LOADING:
                    return ()
                if self._verdict is not None:
                    return self._close(now)
                self._move(Phase.RUNNING, now)
                self._progress_at = now
                request, self._request = self._request, _SPENT
                return (Call(Step.TURN_START, dialect.turn_start(self.thread_id, request)),)
            case Step.TURN_START:
                return self._learn_turn_id(dialect.turn_start_result(result).turn.id, now)
            case Step.INTERRUPT:
                return ()
            case Step.UNSUBSCRIBE:
                self._move(Phase.CLOSED, now)
                return ()
            case _:
                assert_never(step)

    def on_refusal(self, step: Step, error: RpcError, now: float) -> Calls:
        """One of our requests failed."""
        self.story.tell(now, f"{step.name} refused: {error.code}")
        match step:
            case Step.INTERRUPT:
                return ()  # the turn has just ended by itself: its completion is on the way
            case Step.UNSUBSCRIBE:
                self._move(Phase.CLOSED, now)
                return ()
            case Step.TURN_START if self.phase is not Phase.RUNNING:
                return ()  # the turn ran and is ending or over, whatever the answer says
            case Step.THREAD_START | Step.INJECT_ITEMS | Step.TURN_START:
                kind = FaultKind.WORKER_REFUSED
                if error.code == dialect.OVERLOADED_CODE:
                    kind = FaultKind.WORKER_OVERLOADED
                elif step is Step.THREAD_START and error.message.startswith(functions.REFUSAL):
                    kind = FaultKind.BAD_REQUEST
                self.is_workers_fault = error.code == dialect.INTERNAL_CODE
                self._end(TurnEnd(fault=Fault(kind, error.message)), now)
                return self._close(now)
            case _:
                assert_never(step)

    def on_expiry(self, step: Step, now: float) -> Calls:
        """One of our requests was not answered in time."""
        self.story.tell(now, f"{step.name} expired")
        match step:
            case Step.INTERRUPT:
                return ()  # `tick` holds the worker to its bound
            case Step.UNSUBSCRIBE:
                self._move(Phase.CLOSED, now)
                return ()
            case Step.TURN_START if self._turn_id is not None or self.phase is not Phase.RUNNING:
                return ()  # the turn is visibly running, or over: only the answer was lost
            case Step.THREAD_START | Step.INJECT_ITEMS | Step.TURN_START:
                self._end(TurnEnd(fault=Fault(FaultKind.START_TIMEOUT, f"no answer to {step.name.lower()}")), now)
                return self._close(now)
            case _:
                assert_never(step)

    def on_notification(self, note: dialect.Notification, now: float) -> Calls:
        """The worker said something about this turn's thread."""
        if isinstance(note, dialect.AgentMessageDelta):  # nearly all of them
            self._progress_at = now
            self._saw_event = True
            if note.item_id != self._last_message:
                self._last_message = note.item_id
                self._streamed.add(note.item_id)
            if self._sink is not None and self._verdict is None:
                self._unsaid.append(TextDelta(note.delta))
            return self._learn_turn_id(note.turn_id, now) if self._turn_id is None else ()
        if isinstance(note, dialect.RawResponseItem) and note.turn_id.startswith(dialect.ECHO_TURN):
            return ()  # the injected history: no sign that the turn runs
        self._progress_at = now
        self._saw_event = True
        match note:
            case dialect.ReasoningSummaryDelta():
                self._push(ReasoningDelta(note.delta, note.item_id, note.summary_index))
                return self._learn_turn_id(note.turn_id, now)
            case dialect.RawResponseItem():
                item = note.item
                if item.type == "function_call" and self._sink is not None and self._verdict is None:
                    self._calls_seen = True
                    self._push(ToolCall(item.call_id, self._names.get(item.name, item.name), item.arguments))
                elif item.type == "reasoning" and self._wants_reasoning:
                    summary = tuple(part.text for part in item.summary)
                    self._push(Reasoning(item.id or "", summary, item.encrypted_content or ""))
                return self._learn_turn_id(note.turn_id, now)
            case dialect.RawResponseCompleted():
                return self.interrupt(Finish.TOOL_CALLS, now) if self._calls_seen else ()
            case dialect.TokenUsageUpdated():
                self._usage = note.usage
                return self._learn_turn_id(note.turn_id, now)
            case dialect.TurnCompleted():
                return self._complete(note, now)
            case _:
                assert_never(note)

    @property
    def has_unsaid(self) -> bool:
        """It has something for its sink: call `flush` soon."""
        return bool(self._unsaid)

    def flush(self) -> None:
        """Give the sink what it has not got yet."""
        if self._unsaid and self._sink is not None:
            events, self._unsaid, self._has_spoken = self._unsaid, [], True
            self._sink.push(events)

    def progressed(self, now: float) -> None:
        """The worker has shown that it is at work on it."""
        self._progress_at = now

    def interrupt(self, verdict: Finish, now: float) -> Calls:
        """End the turn early with `verdict` as its finish; does nothing when it is ending already."""
        if self._verdict is not None or self.is_ending:
            return ()
        self._verdict = verdict
        self.story.tell(now, f"interrupt wanted: {verdict}")
        return self._send_interrupt(now)

    def fail(self, fault: Fault, now: float) -> Calls:
        """End the turn as failed, at once for the sink; the worker is asked to stop working on it."""
        self._end(TurnEnd(fault=fault), now)
        return self.interrupt(Finish.INTERRUPTED, now)

    def acted(self, now: float) -> None:
        """It has asked leave for something besides its answer."""
        self._has_acted = True
        self.story.tell(now, "acted")

    def lose(self, fault: Fault, now: float) -> None:
        """The worker is gone and this turn with it."""
        self._end(TurnEnd(fault=fault), now)
        if self.phase is not Phase.CLOSED:
            self._move(Phase.CLOSED, now)

    def postpone(self, seconds: float) -> None:
        """We were stopped for so long: the turn gets that much more."""
        self.began_at += seconds
        self._progress_at += seconds
        if self._interrupt_by is not None:
            self._interrupt_by += seconds

    def blame(self, fault: Fault, now: float) -> None:
        """It has failed, and this is why, whatever comes next."""
        self._end(TurnEnd(fault=fault), now)

    def tick(self, now: float, *, is_mute: bool = False) -> Calls:
        """Hold the turn to its limits. Where the worker `is_mute`, it is not the turn that takes too long."""
        if self._interrupt_by is not None:
            if now >= self._interrupt_by and not self.ignored_interrupt and self.phase is Phase.INTERRUPTING:
                self.ignored_interrupt = True
                self._end(TurnEnd(finish=self._verdict, usage=self._usage), now)
                self.story.tell(now, "interrupt ignored")
            return ()
        if self.has_ended:
            return ()
        kind = self._overdue(now)
        if kind is None:
            return ()
        return self.fail(MUTE if is_mute else Fault(kind, "the turn took too long"), now)

    # --- inside ----------------------------------------------------------------------------------------------

    def _overdue(self, now: float) -> FaultKind | None:
        if now - self.began_at >= self._limits.total_s:
            return FaultKind.TURN_TIMEOUT
        if self.phase is not Phase.RUNNING:
            return None
        silent_s = now - self._progress_at
        if not self._saw_event:
            return FaultKind.FIRST_EVENT_TIMEOUT if silent_s >= self._limits.first_event_s else None
        return FaultKind.IDLE_TIMEOUT if silent_s >= self._limits.idle_s else None

    def _learn_turn_id(self, turn_id: str, now: float) -> Calls:
        if self._turn_id is None and turn_id:
            self._turn_id = turn_id
            if self._verdict is not None and self.phase is Phase.RUNNING:
                return self._send_interrupt(now)
        return ()

    def _send_interrupt(self, now: float) -> Calls:
        if self.phase is not Phase.RUNNING or self.thread_id is None or self._turn_id is None:
            return ()  # goes out as soon as the thread or the turn has its id
        self._move(Phase.INTERRUPTING, now)
        self._interrupt_by = now + self._limits.interrupt_s
        return (Call(Step.INTERRUPT, dialect.turn_interrupt(self.thread_id, self._turn_id)),)

    def _complete(self, note: dialect.TurnCompleted, now: float) -> Calls:
        if self.phase not in (Phase.RUNNING, Phase.INTERRUPTING):
            return ()
        turn = note.turn
        self.has_completed = True
        if self._verdict is not None:
            return self._close(now)
        if turn.status == "completed":
            for item in turn.items:
                if item.type == "agentMessage" and item.text and item.id not in self._streamed and self._sink:
                    self._push(TextDelta(item.text))
            self._end(TurnEnd(finish=Finish.STOP, usage=self._usage), now)
        elif turn.status == "interrupted":
            self._end(TurnEnd(fault=Fault(FaultKind.PROTOCOL, "interrupted by the worker")), now)
        else:
            error = turn.error or dialect.TurnErrorInfo(f"turn {turn.status}")
            finish = dialect.incomplete(error)
            fault = None if finish else dialect.fault(error)
            self._end(TurnEnd(finish=finish, fault=fault, usage=self._usage), now)
        return self._close(now)

    def _close(self, now: float) -> Calls:
        self._end(TurnEnd(finish=self._verdict or Finish.INTERRUPTED, usage=self._usage), now)
        if self.thread_id is None:
            self._move(Phase.CLOSED, now)
            return ()
        self._move(Phase.CLOSING, now)
        return (Call(Step.UNSUBSCRIBE, dialect.thread_unsubscribe(self.thread_id)),)

    def _push(self, event: TurnEvent) -> None:
        if self._sink is not None and self._verdict is None:
            self._unsaid.append(event)

    def _end(self, end: TurnEnd, now: float) -> None:
        self.flush()
        sink, self._sink = self._sink, None
        if sink is not None:
            if end.fault is not None:
                self.is_workers_fault |= end.fault.kind in (FaultKind.PROTOCOL, FaultKind.FRAME_TOO_LARGE)
                end = msgspec.structs.replace(end, trace=self.trace)
            self.story.tell(now, f"ended: {end.finish or (end.fault and end.fault.kind)}")
            sink.end(end)

    def _move(self, target: Phase, now: float) -> None:
        if target not in TRANSITIONS[self.phase]:
            raise IllegalTransition("turn", self.phase.name, target.name, str(self.story))
        self.story.tell(now, target.name)
        self.phase = target
        if target is Phase.CLOSED:
            self._request = _SPENT

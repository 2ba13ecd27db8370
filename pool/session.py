"""A worker's side of the conversation without I/O: bytes in, bytes out, turns in between."""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from math import inf
from typing import NamedTuple

import msgspec

from pool.events import Fault, FaultKind, Finish, Tap, Trace, TurnRequest, TurnSink
from pool.health import STALL_S, Belief, Health, Probe, ProbeLimits
from pool.protocol import dialect_v2 as dialect
from pool.protocol.connection import MAX_IN_FLIGHT, Answered, Connection, Expired, Refused
from pool.protocol.framing import HEAD_BYTES, Oversized
from pool.protocol.messages import Garbage, Notification, Request, RpcError, encode
from pool.turn import MUTE, Calls, Step, Turn, TurnLimits


class Handshaken(NamedTuple):
    """The worker answered `initialize`; `version` is None when its user agent does not tell."""

    version: tuple[int, int, int] | None
    user_agent: str


class HandshakeFailed(NamedTuple):
    """The worker refused `initialize` or did not answer in time."""

    reason: str


class TurnClosed(NamedTuple):
    """The worker has let go of this turn: its seat is free."""

    lease_id: int


class InterruptIgnored(NamedTuple):
    """The worker did not end this turn when asked to: it keeps the seat, and the worker should go."""

    lease_id: int


class Proved(NamedTuple):
    """A turn has begun to answer. Told once."""


class Struck(NamedTuple):
    """A turn could not begin, or failed by the worker's fault, and none has begun to answer yet."""

    reason: str


class Overloaded(NamedTuple):
    """A request was refused because there are too many."""


Fact = Handshaken | HandshakeFailed | TurnClosed | InterruptIgnored | Proved | Struck | Overloaded | Belief

OPENING = frozenset({Step.THREAD_START, Step.INJECT_ITEMS, Step.TURN_START})
_TOO_MANY = RpcError(dialect.OVERLOADED_CODE, "too many requests of ours are unanswered")


class _Token(NamedTuple):
    lease_id: int
    turn: Turn
    step: Step


class _Own(Enum):
    """A request of the session's own, besides its probes."""

    HANDSHAKE = auto()
    CLEAN_UP = auto()
    """After a turn that is gone."""


_Sender = _Token | _Own | Probe
_Answer = Answered[_Sender] | Refused[_Sender]


class Session:
    """Speaks for one worker incarnation.

    After each call, write what `take_output` returns and act on what `take_facts` returns.
    """

    def __init__(self, limits: TurnLimits, service_version: str, probes: ProbeLimits | None = None) -> None:
        self._limits = limits
        self._health = Health(probes or ProbeLimits())
        self._service_version = service_version
        self._connection: Connection[_Sender] = Connection()
        self._turns: dict[int, Turn] = {}
        self._by_thread: dict[str, tuple[int, Turn]] = {}
        self._taps: dict[int, Tap] = {}
        self._speaking: list[Turn] = []
        self._output: list[bytes] = []
        self._facts: list[Fact] = []
        self._is_open = False
        self._has_proved = False
        self._ticked_at = inf
        self._starts_s: list[float] = []
        self._probes_s: list[float] = []
        self.counters = self._connection.counters
        self.counters.update(dict.fromkeys(("stale", "unknown", "malformed", "declined", "probe_missed", "strike"), 0))

    @property
    def open_turns(self) -> int:
        """Turns that the worker has not let go of."""
        return len(self._turns)

    @property
    def has_output(self) -> bool:
        """There is something to write."""
        return bool(self._output)

    def take_output(self) -> bytes:
        """Bytes to write to the worker's stdin, in order."""
        if not self._output:
            return b""
        output = self._output[0] if len(self._output) == 1 else b"".join(self._output)
        self._output.clear()
        return output

    def take_facts(self) -> tuple[Fact, ...]:
        """What the pool has to know, in order."""
        beliefs = self._health.take()
        if not self._facts and not beliefs:
            return ()
        facts = (*self._facts, *beliefs)
        self._facts.clear()
        return facts

    def take_times(self) -> tuple[list[float], list[float]]:
        """Since the last call: from a turn's lease to its begin, and from a probe to its answer, in seconds."""
        times = self._starts_s, self._probes_s
        if self._starts_s or self._probes_s:
            self._starts_s, self._probes_s = [], []
        return times

    # --- stimuli ---------------------------------------------------------------------------------------------

    def open(self, now: float, timeout_s: float) -> None:
        """Begin the handshake."""
        self._ticked_at = now
        name, params = dialect.initialize(self._service_version)
        self._output.append(self._connection.request(name, params, _Own.HANDSHAKE, now + timeout_s))

    def start_turn(self, lease_id: int, request: TurnRequest, sink: TurnSink, now: float) -> None:
        """Begin a turn; its events and its end go to `sink`, its closing is a `TurnClosed` fact."""
        self._forgive_stall(now)
        turn = Turn(request, sink, self._limits, now)
        self._turns[lease_id] = turn
        if sink.tap is not None:
            self._taps[lease_id] = sink.tap
            sink.tap.opened(now)
        self._send(lease_id, turn, turn.begin(), now)

    def interrupt(self, lease_id: int, now: float) -> None:
        """Ask for the end of a turn; one that is over is left alone."""
        self._forgive_stall(now)
        turn = self._turns.get(lease_id)
        if turn is not None:
            self._send(lease_id, turn, turn.interrupt(Finish.INTERRUPTED, now), now)

    def receive(self, data: bytes, now: float) -> None:
        """The worker wrote `data`."""
        self._forgive_stall(now)
        self._health.heard(now)
        quick = None if self._taps else dialect.text_delta  # a tap is told of every line
        for message in self._connection.receive(data, quick):
            if isinstance(message, dialect.AgentMessageDelta):  # nearly all of them
                self._on_note(message, now)
            elif isinstance(message, Notification):
                self._on_notification(message, now)
            elif isinstance(message, Answered | Refused):
                self._on_answer(message, now)
            elif isinstance(message, Request):
                self._on_request(message, now)
            elif isinstance(message, Oversized):
                self._health.spoke_nonsense(now)
                self._fail_thread(message.head, Fault(FaultKind.FRAME_TOO_LARGE, "a frame was too large"), now)
            elif isinstance(message, Garbage):
                self._health.spoke_nonsense(now)
                self._fail_thread(message.head, Fault(FaultKind.PROTOCOL, "an unreadable frame"), now)
        for turn in self._speaking:
            turn.flush()
        self._speaking.clear()

    def tick(self, now: float, unread_bytes: int = 0) -> None:
        """Expire what is overdue, and ask a worker that has been silent for a while whether it is there.

        `unread_bytes` is how much of what we wrote still waits for the worker to read it.
        """
        self._forgive_stall(now)
        self._ticked_at = now
        if self._is_open:
            self._health.left_unread(unread_bytes, now)
        for expired in self._connection.expire(now):
            self._on_expired(expired, now)
        for lease_id, turn in list(self._turns.items()):
            known = turn.ignored_interrupt
            self._send(lease_id, turn, turn.tick(now, is_mute=self._health.is_mute), now)
            if turn.ignored_interrupt and not known:
                self._facts.append(InterruptIgnored(lease_id))
        self._probe(now)

    def untouched(self) -> tuple[int, ...]:
        """The leases whose turns have come to nothing so far and may as well run elsewhere."""
        return tuple(lease_id for lease_id, turn in self._turns.items() if turn.is_untouched)

    def retune(self, limits: TurnLimits, probes: ProbeLimits) -> None:
        """Other limits from now on; turns keep those that they began with."""
        self._limits = limits
        self._health.limits = probes

    def lose(self, fault: Fault, now: float) -> None:
        """The worker is gone: end every turn. No facts follow: its leases went with it."""
        turns = list(self._turns.values())
        self._turns.clear()
        self._by_thread.clear()
        for turn in turns:
            turn.lose(fault, now)
        for lease_id in list(self._taps):
            self._untap(lease_id, now)

    def stories(self) -> dict[int, str]:
        """The story of each open turn, by lease."""
        return {lease_id: str(turn.story) for lease_id, turn in self._turns.items()}

    # --- inside ----------------------------------------------------------------------------------------------

    def _on_notification(self, message: Notification, now: float) -> None:
        if self._taps:
            self._tap_thread(message.method, message.params, now)
        try:
            note = dialect.notification(message.method, message.params)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self.counters["malformed"] += 1
            self._health.spoke_nonsense(now)
            fault = Fault(FaultKind.PROTOCOL, f"unreadable {message.method}")
            self._fail_thread(bytes(message.params)[:HEAD_BYTES], fault, now)
            return
        if note is None:
            self._on_other(message, now)
            return
        self._on_note(note, now)

    def _on_note(self, note: dialect.Notification, now: float) -> None:
        found = self._by_thread.get(note.thread_id)
        if found is None:
            self.counters["stale"] += 1
            return
        lease_id, turn = found
        had_unsaid = turn.has_unsaid
        calls = turn.on_notification(note, now)
        if not had_unsaid and turn.has_unsaid:
            self._speaking.append(turn)
        if not self._has_proved and turn.trace is Trace.SPOKEN:
            self._has_proved = True
            self._facts.append(Proved())
        if calls:
            self._send(lease_id, turn, calls, now)

    def _tap_thread(self, method: str, params: msgspec.Raw, now: float) -> None:
        body = bytes(params)
        found = self._by_thread.get(dialect.thread_of(body[:HEAD_BYTES]) or "")
        tap = self._taps.get(found[0]) if found is not None else None
        if tap is not None:
            tap.heard(method, "params", body, now)

    def _untap(self, lease_id: int, now: float) -> None:
        tap = self._taps.pop(lease_id, None)
        if tap is not None:
            tap.closed(now)

    def _on_other(self, message: Notification, now: float) -> None:
        """Something that nothing here reads; if it is about a turn, it is a sign of it."""
        if message.method not in dialect.IGNORED:
            self.counters["unknown"] += 1
        found = self._by_thread.get(dialect.thread_of(bytes(message.params)[:HEAD_BYTES]) or "")
        if found is not None:
            found[1].progressed(now)

    def _on_answer(self, message: _Answer, now: float) -> None:
        token = message.token
        if not isinstance(token, _Token):
            self._on_own_answer(token, message, now)
            return
        if (tap := self._taps.get(token.lease_id)) is not None:
            if isinstance(message, Refused):
                tap.heard(token.step.name.lower(), "error", msgspec.json.encode(message.error), now)
            else:
                tap.heard(token.step.name.lower(), "result", bytes(message.result), now)
        if isinstance(message, Refused) and message.error.code == dialect.OVERLOADED_CODE:
            self._facts.append(Overloaded())
        elif token.step is Step.TURN_START and not message.late:
            self._health.began()
            self._starts_s.append(now - token.turn.began_at)
        if message.late or token.turn.is_closed:
            self._clean_up_after(token, message, now)
            return
        if isinstance(message, Refused):
            calls = token.turn.on_refusal(token.step, message.error, now)
        else:
            try:
                calls = token.turn.on_answer(token.step, message.result, now)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self.counters["malformed"] += 1
                self._health.spoke_nonsense(now)
                calls = token.turn.on_expiry(token.step, now)
        if token.step is Step.THREAD_START and token.turn.thread_id is not None:
            self._by_thread[token.turn.thread_id] = (token.lease_id, token.turn)
        self._send(token.lease_id, token.turn, calls, now)

    def _forgive_stall(self, now: float) -> None:
        """If we were stopped until now, nobody is to be judged by it; what begins from now on gets no more for it."""
        seconds = now - self._ticked_at
        if seconds <= STALL_S:
            return
        self._ticked_at = now
        self._connection.postpone(seconds)
        self._health.postpone(seconds, now)
        for turn in self._turns.values():
            turn.postpone(seconds)

    def _probe(self, now: float) -> None:
        """A second `initialize`, whose refusal is a healthy answer, and a question about threads."""
        if not self._is_open or self._connection.in_flight + len(Probe) > MAX_IN_FLIGHT:
            return
        for probe in self._health.due(now):
            is_first = probe is Probe.INITIALIZE
            name, params = dialect.initialize(self._service_version) if is_first else dialect.LOADED_THREADS
            deadline_at = now + self._health.limits.timeout_s
            self._output.append(self._connection.request(name, params, probe, deadline_at))

    def _on_own_answer(self, token: _Own | Probe, message: _Answer, now: float) -> None:
        if isinstance(token, Probe):
            if not message.late:
                self._probes_s.append(now - self._health.asked_at)
                self._health.answered(token)
        elif token is _Own.HANDSHAKE and not message.late:
            self._on_handshake(message, now)

    def _on_own_expiry(self, token: _Own | Probe, now: float) -> None:
        if token is _Own.HANDSHAKE:
            self._facts.append(HandshakeFailed("initialize was not answered"))
        elif isinstance(token, Probe):
            misses = self._health.misses
            self._health.missed(token, now)
            self.counters["probe_missed"] += self._health.misses - misses

    def _on_handshake(self, message: _Answer, now: float) -> None:
        if isinstance(message, Refused):
            self._facts.append(HandshakeFailed(f"initialize was refused: {message.error.message}"))
            return
        try:
            result = dialect.initialize_result(message.result)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._facts.append(HandshakeFailed("initialize was answered with something else"))
            return
        self._is_open = True
        self._health = Health(self._health.limits)  # what it said before it served is no evidence
        self._health.heard(now)
        self._output.append(encode(dialect.INITIALIZED))
        self._facts.append(Handshaken(result.version, result.user_agent))

    def _on_expired(self, expired: Expired[_Sender], now: float) -> None:
        token = expired.token
        if not isinstance(token, _Token):
            self._on_own_expiry(token, now)
            return
        if token.turn.is_closed:
            return
        had_ended, is_mute = token.turn.has_ended, self._health.is_mute
        if is_mute and token.step in OPENING:
            token.turn.blame(MUTE, now)
        calls = token.turn.on_expiry(token.step, now)
        if token.step in OPENING and token.turn.has_ended and not had_ended and not is_mute:
            self.counters["strike"] += 1
            self._health.struck(now)
            self._strike("a turn could not begin on it")
        self._send(token.lease_id, token.turn, calls, now)

    def _strike(self, reason: str) -> None:
        if not self._has_proved:
            self._facts.append(Struck(reason))

    def _clean_up_after(self, token: _Token, message: _Answer, now: float) -> None:
        """A late answer may tell of a thread or a turn that nobody owns any more: end it."""
        if isinstance(message, Refused):
            return
        try:
            if token.step is Step.THREAD_START:
                method = dialect.thread_unsubscribe(dialect.thread_start_result(message.result).thread.id)
            elif token.step is Step.TURN_START and token.turn.thread_id is not None and token.turn.is_ending:
                turn_id = dialect.turn_start_result(message.result).turn.id
                method = dialect.turn_interrupt(token.turn.thread_id, turn_id)
            else:
                return
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self.counters["malformed"] += 1
            return
        if self._connection.in_flight >= MAX_IN_FLIGHT:
            return
        deadline_at = now + self._limits.start_s
        self._output.append(self._connection.request(method.name, method.params, _Own.CLEAN_UP, deadline_at))

    def _on_request(self, message: Request, now: float) -> None:
        if self._taps:
            self._tap_thread(message.method, message.params, now)
        if message.method == dialect.TOOL_CALL_REQUEST:
            return  # the call went to the client, and the turn is being interrupted
        self.counters["declined"] += 1
        found = self._by_thread.get(dialect.thread_of(bytes(message.params)[:HEAD_BYTES]) or "")
        if found is not None:
            found[1].acted(now)
        result = dialect.decline(message.method)
        if result is None:
            error = {"code": -32601, "message": "not granted"}
            self._output.append(encode({"id": message.id, "error": error}))
        else:
            self._output.append(encode({"id": message.id, "result": result}))

    def _fail_thread(self, head: bytes, fault: Fault, now: float) -> None:
        found = self._by_thread.get(dialect.thread_of(head) or "")
        if found is not None:
            lease_id, turn = found
            self._send(lease_id, turn, turn.fail(fault, now), now)

    def _send(self, lease_id: int, turn: Turn, calls: Calls, now: float) -> None:
        if not calls and not turn.is_closed:  # nearly always
            return
        todo = deque(calls)
        while todo:
            step, (name, params) = todo.popleft()
            if self._connection.in_flight >= MAX_IN_FLIGHT:  # only a worker that loses answers gets us here
                self._facts.append(Overloaded())
                todo.extend(turn.on_refusal(step, _TOO_MANY, now))
                continue
            token = _Token(lease_id, turn, step)
            line = self._connection.request(name, params, token, now + self._limits.start_s)
            self._output.append(line)
            if (tap := self._taps.get(lease_id)) is not None:
                tap.sent(line, now)
        if turn.is_closed and self._turns.pop(lease_id, None) is not None:
            self._untap(lease_id, now)
            if turn.thread_id is not None:
                self._by_thread.pop(turn.thread_id, None)
            if turn.is_workers_fault:
                self._health.failed()
                self._strike("a turn failed on it")
            elif turn.trace is Trace.SPOKEN or turn.has_completed:
                self._health.succeeded()
            self._facts.append(TurnClosed(lease_id))

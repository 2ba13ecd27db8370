"""A worker's side of the conversation without I/O: bytes in, bytes out, turns in between."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

import msgspec

from pool.events import Fault, FaultKind, Finish, TurnRequest, TurnSink
from pool.protocol import dialect_v2 as dialect
from pool.protocol.connection import MAX_IN_FLIGHT, Answered, Connection, Expired, Refused
from pool.protocol.framing import HEAD_BYTES, Oversized
from pool.protocol.messages import Garbage, Notification, Request, RpcError, encode
from pool.turn import Calls, Step, Turn, TurnLimits


@dataclass(frozen=True, slots=True)
class ProbeLimits:
    """When a silent worker is asked whether it is there, and when it is given up, in seconds.

    After `idle_s` without a byte it is probed; `fall` probes in a row, each unanswered for `timeout_s`, are a verdict.
    """

    idle_s: float = 5.0
    timeout_s: float = 5.0
    fall: int = 3


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


class Hung(NamedTuple):
    """The worker has said nothing for a long time, answers to probes included."""


class Unresponsive(NamedTuple):
    """`STRIKES` turns in a row could not begin for want of an answer: the worker should go."""


Fact = Handshaken | HandshakeFailed | TurnClosed | InterruptIgnored | Unresponsive | Hung

STALL_S = 1.25
"""Ticks this far apart, instead of a quarter of a second, say that we were stopped, and nothing about the worker."""

OPENING = frozenset({Step.THREAD_START, Step.INJECT_ITEMS, Step.TURN_START})
STRIKES = 2
"""One lost answer happens to a busy app-server; two turns in a row that cannot begin, and no answer between, do not."""


_TOO_MANY = RpcError(dialect.OVERLOADED_CODE, "too many requests of ours are unanswered")


class _Token(NamedTuple):
    lease_id: int
    turn: Turn
    step: Step


class _Own(Enum):
    """A request of the session's own."""

    HANDSHAKE = auto()
    PROBE = auto()
    CLEAN_UP = auto()
    """After a turn that is gone."""


_Answer = Answered[_Token | _Own] | Refused[_Token | _Own]


class Session:
    """Speaks for one worker incarnation.

    After each call, write what `take_output` returns and act on what `take_facts` returns.
    """

    def __init__(self, limits: TurnLimits, service_version: str, probes: ProbeLimits | None = None) -> None:
        self._limits = limits
        self._probes = probes or ProbeLimits()
        self._service_version = service_version
        self._connection: Connection[_Token | _Own] = Connection()
        self._turns: dict[int, Turn] = {}
        self._by_thread: dict[str, tuple[int, Turn]] = {}
        self._output: list[bytes] = []
        self._facts: list[Fact] = []
        self._strikes = 0
        self._is_open = False
        self._is_probing = False
        self._misses = 0
        self._heard_at = 0.0
        self._ticked_at: float | None = None
        self.counters = self._connection.counters
        self.counters.update(dict.fromkeys(("stale", "unknown", "malformed", "declined", "probe_missed"), 0))

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
        if not self._facts:
            return ()
        facts = tuple(self._facts)
        self._facts.clear()
        return facts

    # --- stimuli ---------------------------------------------------------------------------------------------

    def open(self, now: float, timeout_s: float) -> None:
        """Begin the handshake."""
        name, params = dialect.initialize(self._service_version)
        self._output.append(self._connection.request(name, params, _Own.HANDSHAKE, now + timeout_s))

    def start_turn(self, lease_id: int, request: TurnRequest, sink: TurnSink, now: float) -> None:
        """Begin a turn; its events and its end go to `sink`, its closing is a `TurnClosed` fact."""
        turn = Turn(request, sink, self._limits, now)
        self._turns[lease_id] = turn
        self._send(lease_id, turn, turn.begin(), now)

    def interrupt(self, lease_id: int, now: float) -> None:
        """Ask for the end of a turn; one that is over is left alone."""
        turn = self._turns.get(lease_id)
        if turn is not None:
            self._send(lease_id, turn, turn.interrupt(Finish.INTERRUPTED, now), now)

    def receive(self, data: bytes, now: float) -> None:
        """The worker wrote `data`."""
        self._heard_at = now
        self._misses = 0
        for message in self._connection.receive(data):
            if isinstance(message, Notification):
                self._on_notification(message, now)
            elif isinstance(message, Answered | Refused):
                self._on_answer(message, now)
            elif isinstance(message, Request):
                self._on_request(message)
            elif isinstance(message, Oversized):
                self._fail_thread(message.head, Fault(FaultKind.FRAME_TOO_LARGE, "a frame was too large"), now)
            elif isinstance(message, Garbage):
                self._fail_thread(message.head, Fault(FaultKind.PROTOCOL, "an unreadable frame"), now)

    def tick(self, now: float) -> None:
        """Expire what is overdue, and ask a worker that has been silent for a while whether it is there."""
        if self._ticked_at is not None and now - self._ticked_at > STALL_S:
            self._heard_at = now
            self._misses = 0
        self._ticked_at = now
        for expired in self._connection.expire(now):
            self._on_expired(expired, now)
        for lease_id, turn in list(self._turns.items()):
            known = turn.ignored_interrupt
            self._send(lease_id, turn, turn.tick(now), now)
            if turn.ignored_interrupt and not known:
                self._facts.append(InterruptIgnored(lease_id))
        self._probe(now)

    def lose(self, reason: str, now: float) -> None:
        """The worker is gone: end every turn. No facts follow: its leases went with it."""
        turns = list(self._turns.values())
        self._turns.clear()
        self._by_thread.clear()
        for turn in turns:
            turn.lose(reason, now)

    def stories(self) -> dict[int, str]:
        """The story of each open turn, by lease."""
        return {lease_id: str(turn.story) for lease_id, turn in self._turns.items()}

    # --- inside ----------------------------------------------------------------------------------------------

    def _on_notification(self, message: Notification, now: float) -> None:
        try:
            note = dialect.notification(message.method, message.params)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self.counters["malformed"] += 1
            fault = Fault(FaultKind.PROTOCOL, f"unreadable {message.method}")
            self._fail_thread(bytes(message.params)[:HEAD_BYTES], fault, now)
            return
        if note is None:
            if message.method not in dialect.IGNORED:
                self.counters["unknown"] += 1
            return
        found = self._by_thread.get(note.thread_id)
        if found is None:
            self.counters["stale"] += 1
            return
        lease_id, turn = found
        calls = turn.on_notification(note, now)
        if calls:
            self._send(lease_id, turn, calls, now)

    def _on_answer(self, message: _Answer, now: float) -> None:
        token = message.token
        if isinstance(token, _Own):
            self._on_own_answer(token, message, now)
            return
        self._strikes = 0
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
                calls = token.turn.on_expiry(token.step, now)
        if token.step is Step.THREAD_START and token.turn.thread_id is not None:
            self._by_thread[token.turn.thread_id] = (token.lease_id, token.turn)
        self._send(token.lease_id, token.turn, calls, now)

    def _probe(self, now: float) -> None:
        """A second `initialize`: its refusal is a healthy answer, and so is anything else the worker says meanwhile."""
        if not self._is_open or self._is_probing or now - self._heard_at < self._probes.idle_s:
            return
        if self._connection.in_flight < MAX_IN_FLIGHT:
            self._is_probing = True
            name, params = dialect.initialize(self._service_version)
            deadline_at = now + self._probes.timeout_s
            self._output.append(self._connection.request(name, params, _Own.PROBE, deadline_at))

    def _on_own_answer(self, token: _Own, message: _Answer, now: float) -> None:
        if token is _Own.PROBE and not message.late:
            self._is_probing = False
        if token is _Own.HANDSHAKE and not message.late:
            self._heard_at = now
            self._on_handshake(message)

    def _on_own_expiry(self, token: _Own, now: float) -> None:
        if token is _Own.HANDSHAKE:
            self._facts.append(HandshakeFailed("initialize was not answered"))
        if token is not _Own.PROBE:
            return
        self._is_probing = False
        if now - self._heard_at < self._probes.idle_s:
            return  # it spoke, or we were the ones who slept
        self.counters["probe_missed"] += 1
        self._misses += 1
        if self._misses == self._probes.fall:
            self._facts.append(Hung())

    def _on_handshake(self, message: _Answer) -> None:
        if isinstance(message, Refused):
            self._facts.append(HandshakeFailed(f"initialize was refused: {message.error.message}"))
            return
        try:
            result = dialect.initialize_result(message.result)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._facts.append(HandshakeFailed("initialize was answered with something else"))
            return
        self._is_open = True
        self._output.append(encode(dialect.INITIALIZED))
        self._facts.append(Handshaken(result.version, result.user_agent))

    def _on_expired(self, expired: Expired[_Token | _Own], now: float) -> None:
        token = expired.token
        if isinstance(token, _Own):
            self._on_own_expiry(token, now)
            return
        if token.turn.is_closed:
            return
        had_ended = token.turn.has_ended
        calls = token.turn.on_expiry(token.step, now)
        if token.step in OPENING and token.turn.has_ended and not had_ended:
            self._strikes += 1
            if self._strikes == STRIKES:
                self._facts.append(Unresponsive())
        self._send(token.lease_id, token.turn, calls, now)

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

    def _on_request(self, message: Request) -> None:
        if message.method == dialect.TOOL_CALL_REQUEST:
            return  # the call went to the client, and the turn is being interrupted
        self.counters["declined"] += 1
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
        todo = deque(calls)
        while todo:
            step, (name, params) = todo.popleft()
            if self._connection.in_flight >= MAX_IN_FLIGHT:  # only a worker that loses answers gets us here
                todo.extend(turn.on_refusal(step, _TOO_MANY, now))
                continue
            token = _Token(lease_id, turn, step)
            self._output.append(self._connection.request(name, params, token, now + self._limits.start_s))
        if turn.is_closed and self._turns.pop(lease_id, None) is not None:
            if turn.thread_id is not None:
                self._by_thread.pop(turn.thread_id, None)
            self._facts.append(TurnClosed(lease_id))

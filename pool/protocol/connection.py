"""Request/answer correlation for one app-server, without I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from pool.protocol.framing import MAX_LINE_BYTES, LineSplitter, Oversized
from pool.protocol.messages import Failure, Garbage, Notification, Reply, Request, RequestId, RpcError, decode, encode

MAX_IN_FLIGHT = 32
"""The app-server's ingress queue holds about 128 frames; far above 32 some requests are never answered at all."""

REMEMBERED = 256
"""How many expired requests are remembered, to tell a late answer from a bogus one."""

T = TypeVar("T")
Q = TypeVar("Q")


class Answered(NamedTuple, Generic[T]):
    """Our request got its result; `late` when its deadline had already passed."""

    token: T
    result: msgspec.Raw
    late: bool


class Refused(NamedTuple, Generic[T]):
    """Our request got an error; `late` as above."""

    token: T
    error: RpcError
    late: bool


class Expired(NamedTuple, Generic[T]):
    """Our request's deadline passed without an answer."""

    token: T
    method: str


class _Call(NamedTuple, Generic[T]):
    token: T
    method: str
    deadline_at: float


class TooManyInFlight(RuntimeError):  # noqa: N818 - names the bug
    """Our bug: the worker's capacity is meant to keep us below `MAX_IN_FLIGHT`."""


class Connection(Generic[T]):
    """Numbers our requests, matches answers to the tokens they were sent with, and expires them.

    The `counters` are cumulative: `frames`, `late`, `unmatched` (duplicates and unknown ids), `garbage`, `oversized`.
    """

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._splitter = LineSplitter(max_line_bytes)
        self._next_id = 1
        self._calls: dict[RequestId, _Call[T]] = {}
        self._expired: OrderedDict[RequestId, _Call[T]] = OrderedDict()
        self.counters = dict.fromkeys(("frames", "late", "unmatched", "garbage", "oversized"), 0)

    @property
    def in_flight(self) -> int:
        """Requests that are neither answered nor expired."""
        return len(self._calls)

    def request(self, method: str, params: dict[str, Any], token: T, deadline_at: float) -> bytes:
        """The line to write; its answer or its expiry will carry `token`.

        Raises:
            TooManyInFlight: more than `MAX_IN_FLIGHT` unanswered requests.
        """
        if len(self._calls) >= MAX_IN_FLIGHT:
            raise TooManyInFlight(method)
        request_id = self._next_id
        self._next_id += 1
        self._calls[request_id] = _Call(token, method, deadline_at)
        return encode({"id": request_id, "method": method, "params": params})

    def receive(
        self, data: bytes, quick: Callable[[bytes], Q | None] | None = None
    ) -> list[Answered[T] | Refused[T] | Notification | Request | Garbage | Oversized | Q]:
        """What `data` completes, in order. Of a line that `quick` understands it is what that gives."""
        out: list[Answered[T] | Refused[T] | Notification | Request | Garbage | Oversized | Q] = []
        lines = self._splitter.feed(data)
        self.counters["frames"] += len(lines)
        for line in lines:
            if quick is not None and isinstance(line, bytes) and (known := quick(line)) is not None:
                out.append(known)
                continue
            message = line if isinstance(line, Oversized) else decode(line)
            if isinstance(message, Notification):
                out.append(message)
            elif isinstance(message, Reply) or isinstance(message, Failure):  # noqa: SIM101 - a third of a union's cost
                answer = self._match(message)
                if answer is not None:
                    out.append(answer)
            else:
                if isinstance(message, Oversized):
                    self.counters["oversized"] += 1
                elif isinstance(message, Garbage):
                    self.counters["garbage"] += 1
                out.append(message)
        return out

    def expire(self, now: float) -> list[Expired[T]]:
        """The requests whose deadline has passed; their answers will count as late."""
        overdue = [(request_id, call) for request_id, call in self._calls.items() if call.deadline_at <= now]
        for request_id, call in overdue:
            del self._calls[request_id]
            self._expired[request_id] = call
            if len(self._expired) > REMEMBERED:
                self._expired.popitem(last=False)
        return [Expired(call.token, call.method) for _, call in overdue]

    def postpone(self, seconds: float) -> None:
        """Give every request so much more time."""
        for request_id, call in self._calls.items():
            self._calls[request_id] = call._replace(deadline_at=call.deadline_at + seconds)

    def _match(self, message: Reply | Failure) -> Answered[T] | Refused[T] | None:
        late = False
        call = self._calls.pop(message.id, None)
        if call is None:
            call = self._expired.pop(message.id, None)
            if call is None:
                self.counters["unmatched"] += 1
                return None
            late = True
            self.counters["late"] += 1
        if isinstance(message, Reply):
            return Answered(call.token, message.result, late)
        return Refused(call.token, message.error, late)

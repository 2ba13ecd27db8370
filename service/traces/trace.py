"""The frames of one request, while it runs: bounded, and as cheap as a list."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

MAX_FRAME_BYTES: Final = 256 * 1024
"""A larger frame is only mentioned."""
_OVERHEAD_BYTES: Final = 200


class Frame(NamedTuple):
    """One frame: when it passed, what it is, and its JSON, None where it was too large. `kind` is `sent`, `params`,
    `result` or `error`; the method of what was sent is in its JSON.
    """

    at: float
    method: str
    kind: str
    body: bytes | None
    size_bytes: int

    def told(self, began_at: float) -> dict[str, Any]:
        """As it is written, before anything is redacted."""
        body = {"bytes": self.size_bytes} if self.body is None else msgspec.json.decode(self.body)
        at_ms = round((self.at - began_at) * 1000, 3)
        if self.kind == "sent":
            return {"at_ms": at_ms, "sent": body}
        to = "method" if self.kind == "params" else "answer_to"
        return {"at_ms": at_ms, "heard": {to: self.method, self.kind: body}}


class Held:
    """How many bytes all traces hold, and may."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.bytes = 0


class Trace:
    """A tap on the turns of one request. `on_over` is called once, when nothing more will come and it is `wanted`.

    `why` says for what it was chosen; one that was chosen for `failure` is wanted only if the request fails.
    """

    def __init__(
        self, request_id: str, why: str, *, most_bytes: int, held: Held, on_over: Callable[[Trace], None]
    ) -> None:
        self.request_id = request_id
        self.why = why
        self.facts: dict[str, object] = {}
        self.left_out = 0
        self.held_bytes = 0
        self._head: list[Frame] = []
        self._tail: deque[Frame] = deque()
        self._tail_bytes = 0
        self._part_bytes = most_bytes // 2
        self._held = held
        self._on_over = on_over
        self._open = 1
        self._is_wanted: bool | None = None

    @property
    def frames(self) -> list[Frame]:
        """In their order."""
        return [*self._head, *self._tail]

    # --- the tap ---------------------------------------------------------------------------------------------

    def opened(self, now: float) -> None:  # noqa: ARG002 - the protocol's
        """See `Tap`."""
        self._open += 1

    def sent(self, line: bytes, now: float) -> None:
        """See `Tap`."""
        self._keep("", "sent", line, now)

    def heard(self, method: str, kind: str, body: bytes, now: float) -> None:
        """See `Tap`."""
        self._keep(method, kind, body, now)

    def closed(self, now: float) -> None:  # noqa: ARG002 - as above
        """See `Tap`."""
        self._close()

    # --- the request's side ----------------------------------------------------------------------------------

    def end(self, facts: dict[str, object], *, has_failed: bool) -> None:
        """The request is over; its turns may not be. Said again it is not heard."""
        if self._is_wanted is None:
            self._is_wanted = has_failed or self.why != "failure"
            self.facts = facts
            if not self._is_wanted:
                self.let_go()
            self._close()

    def let_go(self) -> None:
        """Hold nothing any more."""
        self._held.bytes -= self.held_bytes
        self.held_bytes = self._tail_bytes = 0
        self._head, self._tail = [], deque()

    # --- inside ----------------------------------------------------------------------------------------------

    def _keep(self, method: str, kind: str, body: bytes, now: float) -> None:
        if self._is_wanted is False:
            return
        size = len(body)
        frame = Frame(now, method, kind, body if size <= MAX_FRAME_BYTES else None, size)
        taken = _taken(frame)
        if self._held.bytes + taken > self._held.most:
            self.left_out += 1
            return
        self.held_bytes += taken
        self._held.bytes += taken
        if not self._tail and self.held_bytes <= self._part_bytes:
            self._head.append(frame)
            return
        self._tail.append(frame)
        self._tail_bytes += taken
        while self._tail_bytes > self._part_bytes and len(self._tail) > 1:
            gone = _taken(self._tail.popleft())
            self._tail_bytes -= gone
            self.held_bytes -= gone
            self._held.bytes -= gone
            self.left_out += 1

    def _close(self) -> None:
        self._open -= 1
        if not self._open and self._is_wanted:
            self._on_over(self)


def _taken(frame: Frame) -> int:
    return _OVERHEAD_BYTES + (0 if frame.body is None else frame.size_bytes)

"""What a turn is asked and what it tells: the vocabulary that crosses the layers."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Protocol

import msgspec


class ToolSpec(msgspec.Struct, frozen=True):
    """A function that the caller lets the model call.

    `input_schema` is a JSON Schema object.
    """

    name: str
    description: str
    input_schema: dict[str, Any]


class TurnRequest(msgspec.Struct, frozen=True):
    """Everything one turn needs; nothing is remembered in a worker between turns.

    `instructions` is the caller's system text ("" sends none). `items` is the role-true history, the last user
    message included, as Responses API input items. What is None stays unset. With `reasoning_items` every finished
    item of reasoning is told, besides the pieces of its summary.
    """

    model: str
    instructions: str
    items: tuple[dict[str, Any], ...]
    tools: tuple[ToolSpec, ...] = ()
    effort: str | None = None
    summary: str | None = None
    verbosity: str | None = None
    output_schema: dict[str, Any] | None = None
    reasoning_items: bool = False


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """The next piece of the answer, verbatim."""

    text: str


class ReasoningDelta(msgspec.Struct, frozen=True):
    """The next piece of a reasoning summary: of which item (the upstream's id) and of which of its parts."""

    text: str
    item_id: str = ""
    part: int = 0


class Reasoning(msgspec.Struct, frozen=True):
    """One whole item of reasoning: its summary in parts, and what only the upstream can read ("" when it sent none)."""

    item_id: str
    summary: tuple[str, ...]
    encrypted: str


class ToolCall(msgspec.Struct, frozen=True):
    """One complete function call: `arguments` is the model's own JSON text, `call_id` the upstream's id."""

    call_id: str
    name: str
    arguments: str


TurnEvent = TextDelta | ReasoningDelta | Reasoning | ToolCall


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one turn as the upstream counted them; the cached and reasoning counts are parts of the totals."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_output_tokens: int = 0


class Finish(StrEnum):
    """Why a turn that produced an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    INTERRUPTED = "interrupted"


class FaultKind(StrEnum):
    """Why a turn failed. The first block is the upstream's word, the second is the worker's or ours."""

    BAD_REQUEST = "bad_request"
    CONTEXT_LENGTH = "context_length_exceeded"
    CONTENT_POLICY = "content_policy"
    MODEL_NOT_FOUND = "model_not_found"
    QUOTA = "insufficient_quota"
    RATE_LIMIT = "rate_limit_exceeded"
    OVERLOADED = "upstream_overloaded"
    CREDENTIALS = "worker_auth_required"
    UPSTREAM = "upstream_error"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"

    WORKER_LOST = "worker_lost"
    WORKER_REPLACED = "worker_replaced"
    WORKER_REFUSED = "worker_refused"
    WORKER_OVERLOADED = "worker_overloaded"
    START_TIMEOUT = "start_timeout"
    FIRST_EVENT_TIMEOUT = "first_event_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    TURN_TIMEOUT = "turn_timeout"
    FRAME_TOO_LARGE = "frame_too_large"
    PROTOCOL = "protocol_error"


class Fault(msgspec.Struct, frozen=True):
    """Why a turn failed. `message` may name upstream addresses: redact it before a client sees it.

    `retry_after_s` is when the upstream says that another try may work, None when it does not.
    """

    kind: FaultKind
    message: str
    upstream_status: int | None = None
    retry_after_s: float | None = None


class Trace(StrEnum):
    """What a turn that failed has left behind. Only one of which there is nothing may be run again."""

    NONE = "none"
    SPOKEN = "spoken"
    """Its sink was told something."""
    ACTED = "acted"
    """Its sink was told nothing, but it has done, or asked leave for, something that must not happen twice."""


class TurnEnd(msgspec.Struct, frozen=True):
    """The one end of a turn: exactly one of `finish` and `fault` is set; `usage` is None when none was reported.

    `trace` is told of a turn that failed.
    """

    finish: Finish | None = None
    fault: Fault | None = None
    usage: Usage | None = None
    trace: Trace = Trace.SPOKEN


class Tap(Protocol):
    """Sees the frames of turns, as they are written and read. Must neither wait nor raise."""

    def opened(self, now: float) -> None:
        """A turn begins."""

    def sent(self, line: bytes, now: float) -> None:
        """This is written to its worker."""

    def heard(self, method: str, kind: str, body: bytes, now: float) -> None:
        """Its worker wrote something: a notification or a request with its `params`, or a request's `result` or
        `error`, where the method is that of the request.
        """

    def closed(self, now: float) -> None:
        """The worker has let go of a turn, or is gone."""


class TurnSink(Protocol):
    """Where a turn's events go. Called from the worker's reader: must neither wait nor raise."""

    @property
    def tap(self) -> Tap | None:
        """Where its frames go, too."""

    def push(self, events: Sequence[TurnEvent]) -> None:
        """Take the next events: all that one read of the worker's output has brought."""

    def end(self, end: TurnEnd) -> None:
        """Take the end: called exactly once, and nothing is pushed after it."""

"""The one place where a failure gets its HTTP status, OpenAI error type, code and retry hint."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import random
from typing import Any, NamedTuple

import msgspec

from pool.events import Fault, FaultKind, Finish, Trace
from pool.protocol.messages import replace_surrogates
from scheduler.model import (
    Abandoned,
    CrashesWorker,
    CutOff,
    Draining,
    Ended,
    Expired,
    NotReady,
    Outcome,
    Overdue,
    Overrun,
    Penalized,
    QueueFull,
    Rejected,
    Shed,
    TenantQueueFull,
    WaitTooLong,
)

Jitter = Callable[[], float]
"""A number in [0, 1): how much of the spread is added to a retry hint."""

SPREAD = 0.25
"""Refused clients that all come back in the same second are refused again."""

MAX_MESSAGE_CHARS = 1000


@dataclass(kw_only=True, eq=False)
class ApiError(Exception):
    """A request that ends without an answer, as the client is told.

    `retry_after_s` is when another try may work; `retryable` says whether one is worth it, None when we cannot know.
    """

    status: int
    message: str
    type: str
    code: str
    param: str | None = None
    retry_after_s: float | None = None
    retryable: bool | None = None
    headers: dict[str, str] | None = None

    def __post_init__(self) -> None:
        super().__init__(self.message)

    def body(self) -> bytes:
        """`{"error":{"message","type","param","code"}}`, with `retryable` where it is known."""
        error: dict[str, Any] = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        if self.retryable is not None:
            error["retryable"] = self.retryable
        return msgspec.json.encode(replace_surrogates({"error": error}))

    def all_headers(self) -> dict[str, str]:
        """The error's own headers and those that its status asks for.

        `Retry-After` is in whole seconds, at least one; `retry-after-ms` is exact. `x-should-retry` is what OpenAI's
        SDKs look at before the status: without it they repeat every 429, used-up quota included.
        """
        headers = dict(self.headers or {})
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer realm=api"
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
            headers["retry-after-ms"] = str(max(1, math.ceil(self.retry_after_s * 1000)))
        if self.retryable is not None:
            headers["x-should-retry"] = "true" if self.retryable else "false"
        return headers


def invalid(message: str, param: str | None) -> ApiError:
    """400: the request itself is wrong."""
    return ApiError(
        status=400, message=message, type="invalid_request_error", param=param, code="invalid_request_error"
    )


def model_not_found(name: str) -> ApiError:
    """404: no route has this name."""
    return ApiError(
        status=404,
        message=f"The model {name[:100]} does not exist or you do not have access to it.",
        type="invalid_request_error",
        param="model",
        code="model_not_found",
    )


def response_not_found(id: str) -> ApiError:  # noqa: A002 - OpenAI's word
    """404: unknown, expired, deleted or another key's: which of them is not told."""
    return ApiError(
        status=404,
        message=f"Response with id '{id[:100]}' not found.",
        type="invalid_request_error",
        code="response_not_found",
    )


def previous_not_found(id: str) -> ApiError:  # noqa: A002 - OpenAI's word
    """400: likewise, of the response that a request builds upon."""
    return ApiError(
        status=400,
        message=f"Previous response with id '{id[:100]}' not found.",
        type="invalid_request_error",
        param="previous_response_id",
        code="previous_response_not_found",
    )


def store_unavailable() -> ApiError:
    """503: what the request needs of the store cannot be known, or kept, now."""
    return ApiError(
        status=503,
        message="stored responses are not available now",
        type="backend_unavailable",
        code="store_unavailable",
        retry_after_s=_spread(5.0, random),
        retryable=True,
    )


def under_maintenance(message: str, retry_after_s: float) -> ApiError:
    """503: an operator has said so, in these words."""
    return ApiError(
        status=503,
        message=message,
        type="backend_unavailable",
        code="maintenance",
        retry_after_s=_spread(retry_after_s, random),
        retryable=True,
    )


def too_large() -> ApiError:
    """413: the body is over the limit, as it was sent or unpacked."""
    return ApiError(
        status=413, message="Request body too large", type="invalid_request_error", code="request_entity_too_large"
    )


def internal() -> ApiError:
    """500: a bug of ours, of which the client learns nothing more."""
    return ApiError(status=500, message="internal error", type="server_error", code="internal_error")


def unsupported(param: str, message: str | None = None) -> ApiError:
    """400: the request is right, and asks for what this service does not do."""
    return ApiError(
        status=400,
        message=message or f"{param} is not supported",
        type="invalid_request_error",
        param=param,
        code="unsupported_parameter",
    )


def unfollowed(code: str, message: str) -> ApiError:
    """502: the model did not do what the client may rely on, and was asked to."""
    return ApiError(status=502, message=message, type="server_error", code=code, retryable=True)


def too_long() -> ApiError:
    """502: the model said more than may be kept."""
    return ApiError(status=502, message="the answer is too long", type="server_error", code="answer_too_large")


# --- faults ------------------------------------------------------------------------------------------------------


class _Row(NamedTuple):
    """`message` is said when the fault's own words are not `quoted`, or when nothing is left of them."""

    status: int
    type: str
    code: str
    retryable: bool | None
    message: str
    quoted: bool = False
    retry_after_s: float | None = None


_INVALID, _SERVER, _UNAVAILABLE, _TIMEOUT = (
    "invalid_request_error",
    "server_error",
    "backend_unavailable",
    "timeout_error",
)
_AGAIN, _FINAL = True, False

FAULTS: dict[FaultKind, _Row] = {
    FaultKind.BAD_REQUEST: _Row(400, _INVALID, _INVALID, _FINAL, "the model provider refused the request", quoted=True),
    FaultKind.CONTEXT_LENGTH: _Row(
        400, _INVALID, "context_length_exceeded", _FINAL, "the request is longer than the model's context window"
    ),
    FaultKind.CONTENT_POLICY: _Row(
        400, _INVALID, "content_policy_violation", _FINAL, "the request violates the provider's policy", quoted=True
    ),
    FaultKind.MODEL_NOT_FOUND: _Row(
        404, _INVALID, "model_not_found", _FINAL, "the model provider does not know this model"
    ),
    FaultKind.QUOTA: _Row(
        429,
        "insufficient_quota",
        "insufficient_quota",
        _FINAL,
        "the quota at the model provider is used up",
        retry_after_s=60.0,
    ),
    FaultKind.RATE_LIMIT: _Row(
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
        _AGAIN,
        "the rate limit at the model provider is reached",
        retry_after_s=5.0,
    ),
    FaultKind.OVERLOADED: _Row(
        503, _UNAVAILABLE, "upstream_overloaded", _AGAIN, "the model provider is overloaded", retry_after_s=5.0
    ),
    FaultKind.CREDENTIALS: _Row(
        503,
        _UNAVAILABLE,
        "worker_auth_required",
        None,
        "the service is not logged in at the model provider",
        retry_after_s=30.0,
    ),
    FaultKind.UPSTREAM: _Row(502, _SERVER, "upstream_error", _AGAIN, "the model provider failed", quoted=True),
    FaultKind.UPSTREAM_UNREACHABLE: _Row(
        502, _SERVER, "upstream_unreachable", _AGAIN, "the model provider cannot be reached"
    ),
    FaultKind.WORKER_LOST: _Row(
        503, _UNAVAILABLE, "worker_lost", _AGAIN, "app-server worker exited", retry_after_s=1.0
    ),
    FaultKind.WORKER_REPLACED: _Row(
        503, _UNAVAILABLE, "worker_lost", _AGAIN, "app-server worker was replaced", retry_after_s=1.0
    ),
    FaultKind.WORKER_REFUSED: _Row(500, _SERVER, "worker_error", _FINAL, "app-server worker refused the request"),
    FaultKind.WORKER_OVERLOADED: _Row(
        503, _UNAVAILABLE, "worker_overloaded", _AGAIN, "app-server worker is overloaded", retry_after_s=1.0
    ),
    FaultKind.START_TIMEOUT: _Row(504, _TIMEOUT, "worker_request_timeout", _AGAIN, "app-server request timeout"),
    FaultKind.FIRST_EVENT_TIMEOUT: _Row(
        504, _TIMEOUT, "first_event_timeout", _AGAIN, "the model did not begin in time"
    ),
    FaultKind.IDLE_TIMEOUT: _Row(504, _TIMEOUT, "idle_timeout", _AGAIN, "backend idle timeout"),
    FaultKind.TURN_TIMEOUT: _Row(504, _TIMEOUT, "request_timeout", None, "request timeout"),
    FaultKind.FRAME_TOO_LARGE: _Row(
        502, _SERVER, "frame_too_large", _FINAL, "app-server worker sent too large a frame"
    ),
    FaultKind.PROTOCOL: _Row(502, _SERVER, "protocol_error", _AGAIN, "app-server worker broke its protocol"),
}
"""Source: OpenAI's error codes; where the predecessor had a name for the same thing, its name and status."""


ACTED = _Row(502, _SERVER, "worker_lost", _FINAL, "app-server worker was lost after the turn had begun to act")
"""Instead of the row of a lost worker, when the turn may have done something that must not happen twice."""


def from_fault(fault: Fault, trace: Trace = Trace.NONE, *, jitter: Jitter = random) -> ApiError:
    """What the client is told of a failed turn."""
    is_lost = fault.kind in (FaultKind.WORKER_LOST, FaultKind.WORKER_REPLACED)
    row = ACTED if is_lost and trace is Trace.ACTED else FAULTS[fault.kind]
    message = row.quoted and redact(fault.message)
    return _as_error(row, message or row.message, fault.retry_after_s or row.retry_after_s, jitter)


# --- what became of a job ----------------------------------------------------------------------------------------

REJECTIONS: dict[type[Rejected], _Row] = {
    QueueFull: _Row(503, _UNAVAILABLE, "queue_full", _AGAIN, "the queue is full"),
    TenantQueueFull: _Row(
        429, "rate_limit_error", "tenant_queue_full", _AGAIN, "this key has too many requests waiting"
    ),
    WaitTooLong: _Row(503, _UNAVAILABLE, "queue_wait_too_long", _AGAIN, "no worker will come free in time"),
    NotReady: _Row(503, _UNAVAILABLE, "worker_not_ready", _AGAIN, "app-server worker is not ready"),
    Draining: _Row(503, _UNAVAILABLE, "draining", _AGAIN, "the service takes no new work"),
    Penalized: _Row(422, _INVALID, "request_crashes_worker", _FINAL, "this request has crashed its workers before"),
}
"""Of a job that the scheduler did not take."""

OUTCOMES: dict[type[Outcome], _Row] = {
    Expired: _Row(503, _UNAVAILABLE, "queue_timeout", _AGAIN, "no worker came free in time"),
    Shed: _Row(503, _UNAVAILABLE, "queue_shed", _AGAIN, "the queue is too slow for all who wait"),
    Overdue: _Row(504, _TIMEOUT, "deadline_exceeded", _FINAL, "the request's deadline has passed"),
    CrashesWorker: _Row(500, _SERVER, "request_crashes_worker", _FINAL, "this request has crashed its workers"),
    CutOff: _Row(503, _UNAVAILABLE, "draining", _AGAIN, "the service is stopping", retry_after_s=5.0),
    Overrun: _Row(499, "request_cancelled", "client_too_slow", None, "the answer was not read in time"),
    Abandoned: _Row(499, "request_cancelled", "request_aborted", None, "request aborted by client"),
}
"""Of a job that was taken, and did not end with its turn. The wait after `CutOff` is about what a successor needs to be
up; the last two have no client that could read a status line: theirs are for the log and for streams."""

WHOSE_LIMIT = {
    **dict.fromkeys(("rate_limited", "tenant_queue_full"), "key"),
    **dict.fromkeys(("queue_full", "queue_wait_too_long", "queue_timeout", "queue_shed"), "profile"),
    **dict.fromkeys(("worker_request_timeout", "first_event_timeout", "idle_timeout", "request_timeout"), "service"),
    **dict.fromkeys(("rate_limit_exceeded", "insufficient_quota", "upstream_overloaded"), "provider"),
    **dict.fromkeys(("deadline_exceeded", "client_too_slow"), "client"),
    "worker_overloaded": "worker",
}
"""Of the codes that say that a limit was met: whose limit it was."""

INTERRUPTED = _Row(502, _SERVER, "turn_interrupted", _AGAIN, "the turn was interrupted")
"""By nobody's wish."""


def from_rejection(rejection: Rejected, *, jitter: Jitter = random) -> ApiError:
    """What the client is told when the scheduler did not take the job."""
    row = REJECTIONS[type(rejection)]
    return _as_error(row, row.message, rejection.retry_after_s if row.retryable else None, jitter)


def from_outcome(outcome: Outcome, *, jitter: Jitter = random) -> ApiError | None:
    """What the client is told when its job ended like this; None when it ended with an answer."""
    match outcome:
        case Ended(end) if end.fault is not None:
            return from_fault(end.fault, end.trace, jitter=jitter)
        case Ended(end) if end.finish is not Finish.INTERRUPTED:
            return None
        case Ended():
            row, retry_after_s = INTERRUPTED, None
        case Expired() | Shed():
            row, retry_after_s = OUTCOMES[type(outcome)], outcome.retry_after_s
        case _:
            row = OUTCOMES[type(outcome)]
            retry_after_s = row.retry_after_s
    return _as_error(row, row.message, retry_after_s, jitter)


def _as_error(row: _Row, message: str, retry_after_s: float | None, jitter: Jitter) -> ApiError:
    return ApiError(
        status=row.status,
        message=message,
        type=row.type,
        code=row.code,
        retryable=row.retryable,
        retry_after_s=_spread(retry_after_s, jitter),
    )


def _spread(seconds: float | None, jitter: Jitter) -> float | None:
    return None if seconds is None else seconds * (1.0 + SPREAD * jitter())


# --- redaction ---------------------------------------------------------------------------------------------------

_SECRET = "[redacted]"  # noqa: S105 - says that there was one

_REDACTIONS: tuple[tuple[re.Pattern[str], str], ...] = (
    # the CLI's own appendix to what the provider said, and its list of every method
    (re.compile(r"[,;]\s*(?:url|cf-ray|request id):\s.*", re.IGNORECASE | re.DOTALL), ""),
    (re.compile(r",?\s*expected one of\s.*", re.IGNORECASE | re.DOTALL), ""),
    (re.compile(r"\b[a-z][a-z0-9+.-]{1,15}://[^\s\"'<>)]*|\bdata:[^\s\"'<>,]*,[^\s\"'<>)]*", re.IGNORECASE), _SECRET),
    (re.compile(r"\bbearer\s+[\w.~+/=-]{8,}", re.IGNORECASE), _SECRET),
    (re.compile(r"\b(?:sk|sess|pk|ghp|eyJ)[-_.*A-Za-z0-9]{6,}"), _SECRET),
    (re.compile(r"\breq_[\w-]+|\brequest[ _-]?id[ :=]+[\w-]+", re.IGNORECASE), _SECRET),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\blocalhost:\d+\b"), _SECRET),
    (re.compile(r"\b[A-Za-z]:\\[^\s\"'<>]*|(?<![\w/<.])(?:~|\.{1,2})?/[\w.+@%~/-]+"), _SECRET),
    (re.compile(r"\s+"), " "),
)


def redact(text: str) -> str:
    """What a client may read of `text`: no addresses, paths, keys, ids or method lists; bounded, on one line."""
    text = text[: 8 * MAX_MESSAGE_CHARS]
    for pattern, replacement in _REDACTIONS:
        text = pattern.sub(replacement, text)
    text = text.strip()
    return text if len(text) <= MAX_MESSAGE_CHARS else text[: MAX_MESSAGE_CHARS - 3] + "..."

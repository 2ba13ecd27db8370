"""How a model's failure looks in the app-server's words: `(message, codexErrorInfo)`, with the CLI's retries off.

Observed on CLI 0.163.0; the two places where 0.169.0 differs take the version into account.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from loadtest.script import error_body

if TYPE_CHECKING:
    from loadtest.script import Script

CodexError = tuple[str, str | dict[str, Any]]
Version = tuple[int, ...]

_URL: Final = "http://127.0.0.1:9/v1/responses"
_CUT: Final = "stream disconnected before completion: "
_QUOTA: Final[CodexError] = ("Quota exceeded. Check your plan and billing details.", "usageLimitExceeded")
_CAPACITY: Final[CodexError] = ("Selected model is at capacity. Please try a different model.", "serverOverloaded")
_NO_ROOM: Final[CodexError] = (
    "Codex ran out of room in the model's context window. Start a new thread or clear earlier history before retrying.",
    "contextWindowExceeded",
)
_PHRASES: Final = {413: "Payload Too Large", 418: "I'm a teapot"}


def http_error(script: Script, version: Version) -> CodexError:
    """For an HTTP status instead of an answer."""
    status, error = script.status or 500, script.error
    codes = (error.code, error.type)
    special = _special_status(status, codes, error.message, version)
    if special is not None:
        return special
    phrase = _PHRASES.get(status) or (HTTPStatus(status).phrase if status in _STATUSES else "<unknown status code>")
    message = f"unexpected status {status} {phrase}: {error.message}, url: {_URL}"
    return message, {"httpConnectionFailed": {"httpStatusCode": status}}


def _special_status(
    status: int, codes: tuple[str | None, str | None], message: str, version: Version
) -> CodexError | None:
    recent = version >= (0, 169)
    if recent and status == 400 and "context_length_exceeded" in codes:
        return _NO_ROOM
    if recent and status == 404 and "model_not_found" in codes:
        return message, "modelNotFound"
    if status == 400:
        return error_body(400, message, *codes).decode(), "other"
    if status == 429 and "insufficient_quota" in codes:
        return _QUOTA
    if status == 429 and "usage_limit_reached" in codes:
        return "You\u2019ve hit your usage limit. Try again later.", "usageLimitExceeded"
    if status == 429:
        info = {"responseTooManyFailedAttempts": {"httpStatusCode": 429}}
        return "exceeded retry limit, last status: 429 Too Many Requests", info
    if status == 500:
        high = "We\u2019re currently experiencing high demand, which may cause temporary errors."
        return high, "internalServerError"
    if status == 503 and "server_is_overloaded" in codes:
        return _CAPACITY
    return None


def stream_failure(code: str, message: str) -> CodexError:
    """For `response.failed`."""
    match code:
        case "context_length_exceeded":
            return _NO_ROOM
        case "rate_limit_exceeded" | "slow_down":
            return f"rate limit exceeded: {message}", "rateLimitExceeded"
        case "insufficient_quota":
            return _QUOTA
        case "usage_not_included":
            plan = "To use Codex with your ChatGPT plan, upgrade to Plus: https://chatgpt.com/explore/plus."
            return plan, "usageLimitExceeded"
        case "server_is_overloaded":
            return _CAPACITY
        case "cyber_policy":
            return message, "cyberPolicy"
        case "invalid_prompt":
            return message, "other"
        case _:
            return _CUT + message, "other"


def incomplete(reason: str) -> CodexError:
    """For `response.incomplete`."""
    said = f"Incomplete response returned, reason: {reason}"
    return (said if reason == "max_output_tokens" else _CUT + said), "other"


def dropped_connection() -> CodexError:
    """For a stream that breaks off."""
    return _CUT + "Transport error: network error: error decoding response body", "other"


def refused_directive(message: str) -> CodexError:
    """For a directive that cannot be obeyed: what the stand-in model's 400 becomes."""
    return error_body(400, message, "invalid_directive", None).decode(), "other"


_STATUSES: Final = frozenset(int(status) for status in HTTPStatus)

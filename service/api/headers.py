"""What a client may ask for in its headers: how long an answer is of use to it, and how urgent it is."""

from __future__ import annotations

from collections.abc import Mapping

from scheduler.model import Priority
from service.api.errors import ApiError, invalid
from service.toolcalls.mode import OutputMode, spelled

DEADLINE_HEADER = "x-request-deadline-ms"
PRIORITY_HEADER = "x-priority"
PRIORITY_APPLIED_HEADER = "x-priority-applied"
"""In the answer: the class that it got, where that is not the one that was asked for."""

MODE_HEADER = "x-proxy-output-mode"
"""In the answer, too: the form in effect."""

_MAX_DIGITS = 12


def read_deadline_s(headers: Mapping[str, str]) -> float | None:
    """For how long the client wants its answer; None when it does not say.

    Raises:
        ApiError: 400, for anything but a positive whole number of milliseconds.
    """
    text = headers.get(DEADLINE_HEADER)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS and int(text) > 0):
        raise _wrong(DEADLINE_HEADER, "must be a positive whole number of milliseconds")
    return int(text) / 1000


def read_priority(headers: Mapping[str, str]) -> Priority | None:
    """The class that the client asks for; None when it does not say.

    Raises:
        ApiError: 400, for a class that there is not.
    """
    text = headers.get(PRIORITY_HEADER)
    if text is None:
        return None
    try:
        return Priority(text.lower())
    except ValueError:
        raise _wrong(PRIORITY_HEADER, f"must be one of: {', '.join(Priority)}") from None


def read_output_mode(headers: Mapping[str, str]) -> OutputMode | None:
    """In what form the client wants its calls; None when it does not say.

    Raises:
        ApiError: 400, for a form that there is not.
    """
    text = headers.get(MODE_HEADER)
    if text is None:
        return None
    try:
        return OutputMode(spelled(text))
    except ValueError:
        raise _wrong(MODE_HEADER, f"must be one of: {', '.join(OutputMode)}") from None


def _wrong(header: str, what: str) -> ApiError:
    return invalid(f"the header {header} {what}", header)

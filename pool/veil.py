"""What a worker says of itself is told to operators; what it was given to keep is not."""

from __future__ import annotations

import re
from collections.abc import Iterable

HIDDEN = "[redacted]"
MIN_CHARS = 6
"""Shorter values are no secrets, and may be a part of any word."""

_CREDENTIALS = (
    re.compile(r"(?<=://)[^\s/@]+(?=@)"),
    re.compile(r"(?i)(?<=bearer )[\w.~+/=-]+"),
    re.compile(r"(?i)\b[\w-]*(?:key|token|secret|password|authorization)[\"']?\s*[=:]\s*[\"']?(?!bearer)[^\s\"',}]+"),
    re.compile(r"\b(?:sk|sess|pk|rt|ghp|eyJ)[-_.][-_.A-Za-z0-9]{6,}|\beyJ[-_.A-Za-z0-9]{6,}"),
)


class Veil:
    """Hides these values in a text, and whatever else looks like a credential."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        longest_first = sorted((value for value in values if len(value) >= MIN_CHARS), key=len, reverse=True)
        self._values = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        """The text as it may be read."""
        if self._values is not None:
            text = self._values.sub(HIDDEN, text)
        for pattern in _CREDENTIALS:
            text = pattern.sub(HIDDEN, text)
        return text

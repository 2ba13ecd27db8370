"""What a worker says of itself is told to operators; what it was given to keep is not."""

from __future__ import annotations

import re
from collections.abc import Iterable

HIDDEN = "[redacted]"
MIN_CHARS = 6
"""Shorter values are no secrets, and may be a part of any word."""

_CREDENTIALS = tuple(
    re.compile(f"({before}){secret}", re.IGNORECASE)
    for before, secret in (
        ("://", r"[^\s/@]+(?=@)"),
        (r"\bbearer ", r"[\w.~+/=-]+"),
        (r"(?:key|token|secret|password|authorization)[\"']?\s*[=:]\s*[\"']?(?!bearer)", r"[^\s\"',}]+"),
        (r"\b", r"(?:sk|sess|pk|rt|ghp)[-_][-_.a-z0-9]{6,}"),
        (r"\b", r"eyJ[-_.a-z0-9]{6,}"),
    )
)
"""What comes before one stays, so that it can be told what was there."""


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
            text = pattern.sub(rf"\1{HIDDEN}", text)
        return text

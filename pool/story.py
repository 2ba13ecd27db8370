"""Stories: the last things that happened to one object, kept to be attached to an error or a debug page."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class Line(NamedTuple):
    """One line of a story; `at` is monotonic seconds."""

    at: float
    what: str


class Story:
    """A ring of the last `limit` lines."""

    __slots__ = ("_lines",)

    def __init__(self, limit: int = 32) -> None:
        self._lines: deque[tuple[float, str]] = deque(maxlen=limit)

    def tell(self, at: float, what: str) -> None:
        """Add one line."""
        self._lines.append((at, what))

    def lines(self) -> tuple[Line, ...]:
        """The lines kept, oldest first."""
        return tuple(Line(at, what) for at, what in self._lines)

    def __str__(self) -> str:
        return "\n".join(f"{at:.3f} {what}" for at, what in self._lines)

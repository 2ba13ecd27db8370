"""Stories: the last things that happened to one object, kept to be attached to an error or a debug page."""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class Line(NamedTuple):
    """One line of a story; `at` is monotonic seconds."""

    at: float
    what: str


class Story(msgspec.Struct, eq=False, gc=False):
    """The last `limit` lines. Every turn has a story, and most are never read: making one costs next to nothing."""

    limit: int = 32
    _lines: tuple[tuple[float, str], ...] = ()

    def tell(self, at: float, what: str) -> None:
        """Add one line."""
        self._lines = (*self._lines, (at, what))[-self.limit :]

    def lines(self) -> tuple[Line, ...]:
        """The lines kept, oldest first."""
        return tuple(Line(at, what) for at, what in self._lines)

    def __str__(self) -> str:
        return "\n".join(f"{at:.3f} {what}" for at, what in self._lines)

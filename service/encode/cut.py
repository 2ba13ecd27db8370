"""Where an answer's text ends before the model does: at a stop sequence, or at the longest length allowed."""

from __future__ import annotations

from pool.events import Finish


class Cut:
    """Give it the text as it comes with `feed`, and ask for what it still holds with `flush`.

    It holds back what may turn out to be the beginning of a stop sequence, and nothing else. `verdict` is why the text
    ended, as soon as it has.
    """

    __slots__ = ("_held", "_room", "_stop", "verdict")

    def __init__(self, stop: tuple[str, ...], max_chars: int | None) -> None:
        self._stop = stop
        self._room = max_chars
        self._held = ""
        self.verdict: Finish | None = None

    def feed(self, text: str) -> str:
        """What may be shown now that this has come."""
        if self.verdict is not None:
            return ""
        text = self._held + text
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return self._within_room(text[: min(found)], Finish.STOP)
        sure = min((_sure(text, stop) for stop in self._stop), default=len(text))
        self._held = text[sure:]
        return self._within_room(text[:sure], None)

    def flush(self) -> str:
        """What was held back: no more text comes, or not before something else is shown."""
        text, self._held = self._held, ""
        return "" if self.verdict is not None else self._within_room(text, None)

    def _within_room(self, text: str, verdict: Finish | None) -> str:
        self.verdict = verdict
        if self._room is None:
            return text
        if len(text) > self._room:
            self.verdict = Finish.LENGTH
        text = text[: self._room]
        self._room -= len(text)
        return text


def _sure(text: str, stop: str) -> int:
    """How much of `text` is before anything that may be the beginning of `stop`."""
    place = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while place >= 0 and not stop.startswith(text[place:]):
        place = text.find(stop[0], place + 1)
    return len(text) if place < 0 else place

"""Where an answer's text ends before the model does: at a stop sequence, or after as many tokens as it may have."""

from __future__ import annotations

from pool.events import Finish
from service.encode.tokens import Meter


class Cut:
    """Give it the text as it comes with `feed`, and ask for what it still holds with `flush`.

    It holds back what may turn out to be the beginning of a stop sequence, or to lie beyond `max_tokens`, and nothing
    else. `verdict` is why the text ended, as soon as it has; `tokens` is how many were shown, after a `flush`.
    """

    __slots__ = ("_held", "_meter", "_stop", "verdict")

    def __init__(self, stop: tuple[str, ...], max_tokens: int | None) -> None:
        self._stop = stop
        self._meter = Meter(max_tokens)
        self._held = ""
        self.verdict: Finish | None = None

    @property
    def tokens(self) -> int:
        """Of what was shown."""
        return self._meter.used

    def feed(self, text: str) -> str:
        """What may be shown now that this has come."""
        if self.verdict is not None:
            return ""
        text = self._held + text
        found = [(place + len(stop), place) for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self._held = ""
            _, until = min(found)  # whichever is complete first, so that it does not matter in what pieces text comes
            return self._metered(text[:until], Finish.STOP, closes=True)
        sure = min((_sure(text, stop) for stop in self._stop), default=len(text))
        self._held = text[sure:]
        return self._metered(text[:sure], None, closes=False)

    def flush(self) -> str:
        """What was held back: no more text comes, or not before something else is shown."""
        if self.verdict is not None:
            return ""
        text, self._held = self._held, ""
        return self._metered(text, None, closes=True)

    def _metered(self, text: str, verdict: Finish | None, *, closes: bool) -> str:
        shown = self._meter.feed(text)
        if closes:
            shown += self._meter.close()
        self.verdict = Finish.LENGTH if self._meter.is_over else verdict
        return shown


def _sure(text: str, stop: str) -> int:
    """How much of `text` is before anything that may be the beginning of `stop`."""
    place = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while place >= 0 and not stop.startswith(text[place:]):
        place = text.find(stop[0], place + 1)
    return len(text) if place < 0 else place

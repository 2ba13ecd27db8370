"""What a store tells whoever watches it. The default hears nothing; service.observability turns it into metrics."""

from __future__ import annotations

from typing import NamedTuple


class StoreSnapshot(NamedTuple):
    """A store at one moment; a store that was never open has nothing."""

    is_up: bool
    responses: int
    used_bytes: int
    waiting_bytes: int


class StoreObserver:
    """Override what you want to hear. Called on the event loop, synchronously: must neither wait nor raise."""

    def store_called(self, operation: str, result: str, seconds: float) -> None:
        """A method of the protocol returned or, for `append`, was carried out; `seconds` is what its caller waited.

        `operation` is the method's name. The result is `stored`, `found`, `unknown`, or what went wrong: one of
        `service.store.protocol.Trouble`.
        """

    def answers_evicted(self, reason: str, count: int) -> None:
        """Answers were removed for their `age`, or because there were more than the `count` or `bytes` allowed."""

    def store_went_down(self, trouble: str, text: str) -> None:
        """The store has stopped to keep what it is given, and tries again by itself; `text` quotes no answer."""

    def store_came_back(self) -> None:
        """The store keeps what it is given, again."""

    def store_moved_aside(self, path: str) -> None:
        """A damaged file lies at `path` now, and a new one was begun."""

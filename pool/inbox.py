"""Run to completion: one stimulus at a time, whatever it causes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

S = TypeVar("S")


class Inbox(Generic[S]):
    """Hands stimuli to `handle` in order. One that is put while another is handled waits for it; nothing recurses."""

    def __init__(self, handle: Callable[[S], None]) -> None:
        self._handle = handle
        self._waiting: deque[S] = deque()
        self._is_handling = False

    def put(self, stimulus: S) -> bool:
        """Handle it, and all that comes of it; False when it has to wait because another is being handled."""
        if self._is_handling:
            self._waiting.append(stimulus)
            return False
        self._is_handling = True
        try:
            if self._waiting:  # left behind by an error
                self._waiting.append(stimulus)
            else:
                self._handle(stimulus)
            while self._waiting:
                self._handle(self._waiting.popleft())
        finally:
            self._is_handling = False
        return True

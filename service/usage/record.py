"""What one request has used."""

from __future__ import annotations

from typing import Any

import msgspec

from pool.events import Usage


class Record(msgspec.Struct, frozen=True):
    """One request: when it ended, in milliseconds of the wall clock, who is charged, and for how many tokens.

    `event` is all of it, as whoever asks is told.
    """

    at_ms: int
    key: str
    usage: Usage
    is_estimate: bool
    event: dict[str, Any]

"""What a client asks of the model, whatever the route on which it asks."""

from __future__ import annotations

import msgspec

from service.api.history import Entry
from service.api.output import Output
from service.api.tools import Tools


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A request in our own words.

    `model` is the public name as the client wrote it; `effort`, `summary` and `verbosity` are None when the client did
    not say. An answer ends before the first of `stop`, and after `max_tokens` at most. `ignored` are the names of
    parameters without effect, safe for a header. `prompt_chars` is what an estimate of tokens goes by, `media_chars` is
    held beside it.
    """

    model: str
    messages: tuple[Entry, ...]
    tools: Tools = Tools()
    output: Output = Output()
    effort: str | None = None
    summary: str | None = None
    verbosity: str | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    stream: bool = False
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    ignored: tuple[str, ...] = ()
    prompt_chars: int = 0
    media_chars: int = 0

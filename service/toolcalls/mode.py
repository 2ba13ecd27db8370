"""In what form an answer tells its calls: what the client or the operator says, or what the client is recognised as."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from service.api.history import Entry, Said


class OutputMode(StrEnum):
    """The forms. AUTO is the one of the two that suits the client."""

    AUTO = "auto"
    OBSIDIAN_XML = "obsidian-xml"
    OPENAI_JSON = "openai-json"


_SHORT = {"obsidian": OutputMode.OBSIDIAN_XML, "openai": OutputMode.OPENAI_JSON}

TRACE_HEADER = "x-copilot-trace-id"
TITLE_HEADER = "x-title"
_TITLE = "obsidian copilot"
_MARKS = ("<use_tool>", "<recent_conversations", "<saved_memories")
"""In what Obsidian Copilot tells the model as its system: how to write a call, and what it remembers."""


def spelled(word: str) -> str:
    """A mode's name as it is spelled here, if it is one. Source: the predecessor's spellings."""
    word = word.strip().lower().replace("_", "-")
    return _SHORT.get(word, word)


def output_mode(wanted: OutputMode, headers: Mapping[str, str], messages: Iterable[Entry]) -> OutputMode:
    """The form in effect, never AUTO."""
    if wanted is not OutputMode.AUTO:
        return wanted
    return OutputMode.OBSIDIAN_XML if _is_obsidian_copilot(headers, messages) else OutputMode.OPENAI_JSON


def _is_obsidian_copilot(headers: Mapping[str, str], messages: Iterable[Entry]) -> bool:
    """By its headers, or by what it tells the model as its system; a user or a tool may quote anything."""
    if TRACE_HEADER in headers or headers.get(TITLE_HEADER, "").strip().lower() == _TITLE:
        return True
    instructions = (entry for entry in messages if isinstance(entry, Said) and entry.role in ("system", "developer"))
    return any(mark in part for entry in instructions for part in entry.texts for mark in _MARKS)

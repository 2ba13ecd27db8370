"""What may be kept of a frame."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

GONE = "[redacted]"
MAX_CHARS = 64 * 1024
"""Of one string that is kept."""

_NAMES = frozenset(
    {
        *("method", "id", "threadId", "turnId", "itemId", "responseId", "answer_to", "thread_id", "turn_id"),
        *("type", "status", "role", "phase", "model", "modelProvider", "effort", "kind", "code", "reason", "source"),
        *("codexErrorInfo", "cliVersion", "version", "approvalPolicy", "sandbox", "sessionId", "finish_reason"),
    }
)
"""Whose values are words of the protocol, if they look like words; any other string may be somebody's text."""
_WORD = re.compile(r"[\w.:/@+-]{1,100}")
_NAME = re.compile(r"[A-Za-z_][\w-]{0,40}")

_CLIENTS = frozenset(
    {"inputSchema", "outputSchema", "input_schema", "schema", "parameters", "arguments", "metadata", "properties"}
)
"""Below these even the names are somebody's text."""

_SECRET_NAME = re.compile(r"(?i)authorization|api.?key|token$|secret|password|credential|cookie|encrypted")
_SECRET = re.compile(r"(?i:\bbearer\s+)[\w.~+/=-]{8,}|\b(?:sk|sess|pk|ghp|gho|xox[abp]|AKIA|eyJ)[-_.*A-Za-z0-9]{6,}")
_DATA_URL = re.compile(r"data:[^,\s]{0,200},\S*")


def redacted(value: Any, name: str = "") -> Any:
    """What tells how it went, and nothing of what was said: numbers, words of the protocol, and how long texts were."""
    match value:
        case str():
            is_word = name in _NAMES and _WORD.fullmatch(value) and not _SECRET.search(value)
            return value if is_word else f"[{len(value)} characters]"
        case dict():
            if name in _CLIENTS:
                return f"[{len(value)} entries]"
            return {key if _NAME.fullmatch(key) else GONE: redacted(item, key) for key, item in value.items()}
        case list():
            return [redacted(item, name) for item in value]
        case _:
            return value


def masked(value: Any, secrets: Collection[str], name: str = "") -> Any:
    """All of it but for keys, tokens and pictures; `secrets` are known ones."""
    match value:
        case str():
            if _SECRET_NAME.search(name):
                return GONE
            for secret in secrets:
                value = value.replace(secret, GONE)
            value = _DATA_URL.sub("[data]", _SECRET.sub(GONE, value))
            return (
                value if len(value) <= MAX_CHARS else f"{value[:MAX_CHARS]}[{len(value) - MAX_CHARS} more characters]"
            )
        case dict():
            return {masked(key, secrets): masked(item, secrets, key) for key, item in value.items()}
        case list():
            return [masked(item, secrets, name) for item in value]
        case _:
            return value

"""How log lines are written, ours and those of the libraries: JSON on stderr, and no prompt or answer in them."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any

import msgspec
import structlog

from pool.errors import IllegalTransition

DETAILS = logging.getLogger("codex-completions")
"""Never written to: it is asked, for a twentieth of what structlog takes to drop a line, whether details are logged."""


def configure_logging(level: str) -> None:
    """JSON lines on stderr, ours and those of the libraries."""
    number = logging.getLevelNamesMapping()[level.upper()]
    DETAILS.setLevel(number)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=lambda line, **_: msgspec.json.encode(line, enc_hook=str)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_LibraryLines()], level=max(number, logging.WARNING), force=True)


class _LibraryLines(logging.Handler):
    """What libraries log, as lines like ours."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        structlog.get_logger().log(
            record.levelno,
            "library.logged",
            logger=record.name,
            message=record.getMessage().partition("\n")[0][:500],  # asyncio's next lines quote the exception
            **error_fields(error),
        )


def error_fields(error: BaseException | None) -> dict[str, Any]:
    """An exception without its message, which may quote a prompt: its type and where it was raised."""
    if error is None:
        return {}
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    fields: dict[str, Any] = {
        "error": type(error).__name__,
        "where": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
    if isinstance(error, IllegalTransition):
        fields["story"] = error.story.splitlines()
    return fields

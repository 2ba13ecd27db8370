"""A service on one scripted worker of four seats."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog

from loadtest.fake_catalogue import catalogue
from service.logs import configure_logging, forget
from tests.support.services import Json, RunningService, running_service


@pytest.fixture(autouse=True)
def _catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """All scripted workers have one catalogue: it need not be asked for once a test."""
    monkeypatch.setattr("pool.binary.bundled_models", lambda _binary, _scratch: catalogue()["models"])


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[RunningService]:
    """One worker, four seats."""
    async with running_service(tmp_path) as running:
        yield running


class Log:
    """What was logged since the test began."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("log")

    def configure(self, level: str) -> None:
        """As the service does when it starts."""
        configure_logging(level, self._fd)

    def close(self) -> None:
        """Nothing more is written to it."""
        forget(self._fd)
        os.close(self._fd)

    @property
    def raw(self) -> str:
        """Every line, as it was written."""
        return os.pread(self._fd, os.fstat(self._fd).st_size, 0).decode()

    @property
    def lines(self) -> list[Json]:
        """Each line is one JSON object with a level, a time and an event."""
        lines = [json.loads(line) for line in self.raw.splitlines()]
        assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
        return lines

    def of(self, event: str) -> list[Json]:
        """The lines of one kind."""
        return [line for line in self.lines if line["event"] == event]


@pytest.fixture
def log() -> Iterator[Log]:
    """The service's own log, at the level debug."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    log = Log()
    log.configure("debug")
    yield log
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    log.close()

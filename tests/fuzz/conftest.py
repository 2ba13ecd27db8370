"""Service processes that have to be well after whatever a test sends them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.serving import Served, cli, fakes  # noqa: F401 - fixtures are found by their names


@pytest.fixture(params=["fakes"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """Afterwards it answers, every seat is free, its workers are still the first, and no exception was caught."""
    process = request.getfixturevalue(request.param)
    assert isinstance(process, Served)
    yield process
    process.until_at_rest()
    assert process.chat("Hello.").status == 200
    assert process.metric("worker_exits_total") == 0

"""A service process on scripted workers, and one on the real CLI, for all tests of clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.serving import Served, cli, fakes  # noqa: F401 - fixtures are found by their names


@pytest.fixture(params=["fakes"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A service on scripted workers, or on what a test is parametrised with; afterwards nothing of the test is left."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Served)
    yield found
    found.until_at_rest()

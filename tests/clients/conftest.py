"""A service process on scripted workers, and one on the real CLI, for all tests of clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.serving import Served, serving_cli, serving_fakes


@pytest.fixture(scope="package")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_fakes(tmp_path_factory.mktemp("fakes")) as served:
        yield served


@pytest.fixture(scope="package")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_cli(tmp_path_factory.mktemp("cli")) as served:
        yield served


@pytest.fixture(params=["fakes"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A service on scripted workers, or on what a test is parametrised with; afterwards nothing of the test is left."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Served)
    yield found
    found.until_at_rest()

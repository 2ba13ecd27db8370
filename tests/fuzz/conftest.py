"""Service processes that have to be well after whatever a test sends them."""

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
    """Afterwards it answers, every seat is free, its workers are still the first, and no exception was caught."""
    process = request.getfixturevalue(request.param)
    assert isinstance(process, Served)
    yield process
    process.until_at_rest()
    assert process.chat("Hello.").status == 200
    assert process.metric("worker_exits_total") == 0

"""What all tests share: repeatable property tests, and real event loops for the few tests that need the kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.real_loops import LOOPS, RunReal

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("nightly", deadline=None, print_blob=True, max_examples=2000)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", metavar="N or A:B", help="the simulation's seeds, in place of its usual ones")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that take a `seed` get those of `--seeds`, else their module's `SEEDS`."""
    if "seed" in metafunc.fixturenames and hasattr(metafunc.module, "SEEDS"):
        wanted = metafunc.config.getoption("--seeds")
        first, _, end = (wanted or "").partition(":")
        seeds = metafunc.module.SEEDS if wanted is None else range(int(first), int(end or int(first) + 1))
        metafunc.parametrize("seed", seeds)


@pytest.fixture(params=LOOPS)
def run_real(request: pytest.FixtureRequest) -> RunReal:
    """Runs a coroutine on a real loop, once on each kind that the service may run on."""

    def run(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(main)

    return run

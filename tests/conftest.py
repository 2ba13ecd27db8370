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


@pytest.fixture(params=LOOPS)
def run_real(request: pytest.FixtureRequest) -> RunReal:
    """Runs a coroutine on a real loop, once on each kind that the service may run on."""

    def run(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(main)

    return run

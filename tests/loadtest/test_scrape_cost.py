"""A scrape stops the loop for a few milliseconds, however much is configured."""

from __future__ import annotations

from collections.abc import Iterator
from logging import CRITICAL

import pytest
import structlog

from loadtest.scrape_cost import measure

GOAL_MS = 5.0
NOISE = 4
"""Other tests run beside this one; the client library takes forty times the goal."""


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(CRITICAL))
    yield
    structlog.reset_defaults()


def test_fifty_profiles_and_fifty_keys_are_told_in_milliseconds() -> None:
    cost = measure(rounds=10)
    assert cost.numbers > 50 * 50 * 4 + 50 * 100, "everything was counted"
    assert min(cost.took_ms) < GOAL_MS * NOISE

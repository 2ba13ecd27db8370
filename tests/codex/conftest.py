"""The real Codex CLI in front of a stand-in model; every test in this folder is marked `codex`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from loadtest.model_standin import ModelStandin
from pool.profile import Credentials, Profile
from tests.support.pools import RunningPool, running_pool

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker("codex")


@pytest.fixture
async def standin() -> AsyncIterator[ModelStandin]:
    async with ModelStandin() as model:
        yield model


@pytest.fixture
def profile(standin: ModelStandin) -> Profile:
    credentials = Credentials(api_key="sk-upstream")
    return Profile("real", standin.base_url, "gpt-5.5", credentials, workers=1, probation_s=0.0)


@pytest.fixture
async def real(profile: Profile, tmp_path: Path) -> AsyncIterator[RunningPool]:
    """One real worker, ready."""
    async with running_pool(profile, tmp_path) as running:
        yield running

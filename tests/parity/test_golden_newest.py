"""What clients see is what was recorded, with the newest Codex CLI: beside the other, for it takes as long."""

from __future__ import annotations

import pytest

from tests.parity.binaries import Cli, NotToBeHadError, newest
from tests.parity.driver import PLAY_S, Transcripts, assert_same, play
from tests.parity.scenarios import SCENARIOS


@pytest.fixture(scope="module")
def newest_cli() -> Cli:
    """The newest CLI of the registries."""
    try:
        return newest()
    except NotToBeHadError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def with_newest(newest_cli: Cli) -> Transcripts:
    """Every scenario with it."""
    return play(SCENARIOS, newest_cli)


@pytest.mark.codex
@pytest.mark.timeout(PLAY_S)
@pytest.mark.parametrize("name", [scenario.name for scenario in SCENARIOS])
def test_with_the_newest_cli_clients_see_the_same(name: str, newest_cli: Cli, with_newest: Transcripts) -> None:
    assert_same(name, with_newest, newest_cli)

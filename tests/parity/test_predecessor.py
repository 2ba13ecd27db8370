"""What clients of the predecessor were answered they still are, but for what was changed on purpose."""

from __future__ import annotations

import pytest

from pool.errors import ConfigurationError
from service.settings import load
from tests.parity.replay import SERVICES, Exchange, exchanges, replay
from tests.parity.story import Story
from tests.parity.verdicts import (
    CAPTURES,
    CHANGED,
    REFUSED_AT_START,
    comparable,
    verdict,
    wrong,
)

EXCHANGES = exchanges()
ASKED = comparable(EXCHANGES)
REPLAY_S = 300
"""For all of them; it takes a tenth."""


@pytest.fixture(scope="module")
def now() -> dict[str, Story]:
    """What is answered now."""
    return replay(ASKED)


@pytest.mark.timeout(REPLAY_S)
@pytest.mark.parametrize("exchange", ASKED, ids=[f"{each.id} {verdict(each)}" for each in ASKED])
def test_what_was_answered_is_kept_or_changed_as_the_table_says(exchange: Exchange, now: dict[str, Story]) -> None:
    assert not wrong(exchange, now[exchange.id]), exchange.title


def test_a_service_without_app_servers_does_not_start() -> None:
    with pytest.raises(ConfigurationError, match="PROXY_USE_APP_SERVER"):
        load(None, {"PROXY_USE_APP_SERVER": "false"})


def test_the_tables_name_nothing_that_is_not_there() -> None:
    ids = {each.id for each in EXCHANGES}
    assert len(ids) == len(EXCHANGES)
    assert CHANGED.keys() <= ids
    assert ids >= REFUSED_AT_START
    assert {each.capture for each in EXCHANGES} == CAPTURES.keys()
    assert {each.service for each in ASKED} == SERVICES.keys()

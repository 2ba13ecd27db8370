"""What clients see is what was recorded, with the packaged Codex CLI."""

from __future__ import annotations

import re

import pytest

from pool.events import Finish
from service.api.errors import ACTED, FAULTS, INTERRUPTED, OUTCOMES, REJECTIONS
from tests.parity import transcript
from tests.parity.binaries import packaged
from tests.parity.driver import PLAY_S, Transcripts, assert_same, play
from tests.parity.scenarios import NOT_PLAYED, SCENARIOS
from tests.support.response_events import EVENTS

NAMES = [scenario.name for scenario in SCENARIOS]


@pytest.fixture(scope="module")
def with_packaged() -> Transcripts:
    """Every scenario with the packaged CLI."""
    return play(SCENARIOS, packaged())


@pytest.mark.codex
@pytest.mark.timeout(PLAY_S)
@pytest.mark.parametrize("name", NAMES)
def test_what_clients_see_is_what_was_recorded(name: str, with_packaged: Transcripts) -> None:
    assert_same(name, with_packaged, packaged())


def test_each_scenario_has_a_transcript_and_each_transcript_a_scenario() -> None:
    assert sorted(path.stem for path in transcript.GOLDEN.iterdir()) == sorted(NAMES)
    assert len(set(NAMES)) == len(NAMES)


def test_each_transcript_says_what_recorded_it() -> None:
    for name in NAMES:
        assert transcript.provenance(name).startswith("# Recorded on 20"), name
        assert f"Codex CLI {packaged().version}" in transcript.provenance(name), f"{name}: record it anew"


def test_every_finish_is_in_a_transcript() -> None:
    told = "".join(transcript.read(name) or "" for name in NAMES)
    for finish in (*(set(Finish) - {Finish.INTERRUPTED}), "function_call"):
        assert f'"finish_reason": "{finish}"' in told, finish
        assert f'"finish_reason":"{finish}"' in told, f"{finish}, streamed"


def test_every_event_and_every_status_of_a_response_is_in_a_transcript() -> None:
    told = "".join(transcript.read(name) or "" for name in NAMES)
    assert set(re.findall(r"^event: (response\.\S+)$", told, re.MULTILINE)) == EVENTS.keys()
    statuses = set(re.findall(r'^  "status": "(\w+)"', told, re.MULTILINE))
    assert statuses == {"queued", "in_progress", "completed", "incomplete", "cancelled", "failed"}


def test_every_error_is_in_a_transcript_or_it_is_said_why_not() -> None:
    told = "".join(transcript.read(name) or "" for name in NAMES)
    rows = (*FAULTS.values(), ACTED, *REJECTIONS.values(), *OUTCOMES.values(), INTERRUPTED)
    missing = {row.code for row in rows if f'"code": "{row.code}"' not in told}
    assert missing == NOT_PLAYED.keys()

"""`loadtest.chaos_plan`: what a seed decides, and that every prompt of it can be obeyed."""

from __future__ import annotations

from collections import Counter

from loadtest.chaos_plan import BREAKING, ELEPHANT_TIMES, FAULTS, TENANTS, plan
from loadtest.script import read_prompt

LONG = plan(1, 600.0, 3)


def test_the_same_seed_is_the_same_plan_and_another_is_another() -> None:
    assert plan(7, 20.0, 3) == plan(7, 20.0, 3)
    assert plan(7, 20.0, 3) != plan(8, 20.0, 3)


def test_every_fault_and_every_tenant_has_its_turn_and_most_prompts_are_healthy() -> None:
    faults = Counter(ask.fault for ask in LONG.asks)
    assert faults.keys() == {None, *FAULTS}
    assert faults[None] > 0.85 * len(LONG.asks)
    tenants = Counter(ask.tenant.name for ask in LONG.asks)
    assert tenants.keys() == {tenant.name for tenant in TENANTS}
    assert tenants["elephant"] > 0.8 * ELEPHANT_TIMES * tenants["heavy"]


def test_every_prompt_can_be_obeyed_and_makes_the_text_that_is_expected() -> None:
    for ask in LONG.asks:
        said, script = read_prompt(ask.prompt)
        assert said == f"This is request {ask.number}."
        assert script.stamp
        assert (script.chunks, script.repeat) == (ask.chunks, ask.repeat)


def test_no_two_requests_expect_a_piece_in_common() -> None:
    pieces = Counter(chunk for ask in LONG.asks for chunk in ask.chunks)
    assert set(pieces.values()) == {1}
    assert not any("<" in chunk or ">" in chunk for chunk in pieces), "they would be taken for stamps"


def test_everything_happens_in_the_time_of_the_run_and_the_last_worker_is_broken_well_before_its_end() -> None:
    times = [ask.at_s for ask in LONG.asks]
    assert times == sorted(times)
    assert 0.0 <= times[0] <= times[-1] < 600.0
    assert [blow.at_s for blow in LONG.blows] == sorted(blow.at_s for blow in LONG.blows)
    assert LONG.blows[-1].at_s < 480.0
    assert max(ask.at_s for ask in LONG.asks if ask.fault in BREAKING) < 480.0
    assert {blow.slot for blow in LONG.blows} == {0, 1, 2}

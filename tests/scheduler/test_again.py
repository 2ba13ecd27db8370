"""What is worth another turn, and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.events import Fault, FaultKind
from scheduler.again import BASE_S, CAP_S, OF_PROVIDERS, OF_WORKERS, SPREAD, rest_s

JITTER = st.floats(0, 1, exclude_max=True)


@given(st.sampled_from(sorted(OF_WORKERS)), st.integers(1, 10), JITTER)
def test_after_a_fault_of_the_worker_nothing_is_waited_for(kind: FaultKind, tries: int, jitter: float) -> None:
    assert rest_s(Fault(kind, ""), tries, jitter) == 0.0


@given(st.sampled_from(sorted(OF_PROVIDERS - {FaultKind.RATE_LIMIT})), st.integers(1, 1000), JITTER)
def test_a_provider_is_left_alone_for_longer_each_time(kind: FaultKind, tries: int, jitter: float) -> None:
    rest = rest_s(Fault(kind, ""), tries, jitter)
    full_s = min(CAP_S, BASE_S * 2 ** (tries - 1))
    assert rest is not None
    assert full_s / 2 <= rest <= full_s


@given(st.floats(0.001, 1e6), st.integers(1, 10), JITTER)
def test_a_providers_own_word_is_obeyed_and_a_little_more(hint_s: float, tries: int, jitter: float) -> None:
    rest = rest_s(Fault(FaultKind.RATE_LIMIT, "", retry_after_s=hint_s), tries, jitter)
    assert rest is not None
    assert hint_s <= rest <= hint_s * (1 + SPREAD)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(FaultKind.RATE_LIMIT, "no word of when", 429),
        Fault(FaultKind.UPSTREAM, "refused", 404),
        Fault(FaultKind.UPSTREAM, "refused", 418),
        *(Fault(kind, "") for kind in FaultKind if kind not in OF_WORKERS | OF_PROVIDERS),
    ],
    ids=str,
)
def test_what_would_be_the_same_again_is_not_tried_again(fault: Fault) -> None:
    assert rest_s(fault, 1, 0.5) is None


def test_a_provider_that_fails_with_a_5xx_is_worth_another_try() -> None:
    assert rest_s(Fault(FaultKind.UPSTREAM, "", 500), 1, 0.0) == BASE_S / 2

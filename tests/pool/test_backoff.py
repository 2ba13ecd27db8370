from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pool.backoff import BASE_S, CAP_S, delay


def test_without_a_failure_there_is_no_wait() -> None:
    assert delay(0, 0.9) == 0.0


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_wait_is_never_nothing_and_never_more_than_the_cap(failures: int, jitter: float) -> None:
    assert BASE_S / 2 <= delay(failures, jitter) <= CAP_S


@given(st.integers(1, 100), st.floats(0, 1, exclude_max=True))
def test_one_more_failure_never_shortens_the_wait(failures: int, jitter: float) -> None:
    assert delay(failures, jitter) <= delay(failures + 1, jitter)


def test_the_jitter_spreads_one_half_of_the_wait() -> None:
    assert (delay(1, 0.0), delay(3, 0.0), delay(3, 0.5)) == (0.125, 0.5, 0.75)

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduler.retry_budget import BURST, RetryBudget


@given(st.lists(st.booleans(), max_size=300), st.sampled_from([0.0, 0.1, 0.5]), st.integers(0, 5))
def test_retries_never_exceed_the_reserve_and_their_share_of_admissions(
    steps: list[bool], ratio: float, reserve: int
) -> None:
    """Invariant 13."""
    budget = RetryBudget(ratio, reserve)
    admitted = taken = 0
    for is_retry in steps:
        if is_retry:
            taken += budget.take()
        else:
            budget.admitted()
            admitted += 1
        assert taken <= reserve + ratio * admitted + 1e-9


def test_the_reserve_is_there_from_the_start_and_no_more() -> None:
    budget = RetryBudget(0.1, 2)
    assert [budget.take() for _ in range(3)] == [True, True, False]


def test_calm_times_save_up_only_so_much() -> None:
    budget = RetryBudget(1.0, 2)
    for _ in range(10_000):
        budget.admitted()
    assert budget.tokens == 2 + BURST


def test_new_numbers_move_the_reserve_and_keep_what_was_taken() -> None:
    budget = RetryBudget(0.0, 5)
    assert budget.take()
    budget.adopt(0.0, 2)
    assert [budget.take(), budget.take()] == [True, False]
    budget.adopt(0.5, 1)
    assert budget.tokens == 0.0
    budget.admitted()
    budget.admitted()
    assert budget.take()

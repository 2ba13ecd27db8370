from __future__ import annotations

import pytest

from pool.inbox import Inbox


def test_what_a_stimulus_causes_waits_for_it_and_comes_in_order() -> None:
    seen: list[str] = []

    def handle(stimulus: int) -> None:
        seen.append(f"begin {stimulus}")
        if stimulus == 1:
            assert [inbox.put(2), inbox.put(3)] == [False, False]
        seen.append(f"end {stimulus}")

    inbox = Inbox(handle)
    assert inbox.put(1)
    assert seen == ["begin 1", "end 1", "begin 2", "end 2", "begin 3", "end 3"]


def test_a_long_chain_of_causes_does_not_recurse() -> None:
    seen: list[int] = []

    def handle(stimulus: int) -> None:
        seen.append(stimulus)
        if stimulus:
            inbox.put(stimulus - 1)

    inbox = Inbox(handle)
    inbox.put(100_000)
    assert seen[-1] == 0


def test_an_error_reaches_the_caller_and_the_inbox_goes_on() -> None:
    seen: list[str] = []

    def handle(stimulus: str) -> None:
        if stimulus == "bad":
            inbox.put("caused before the error")
            raise ValueError("on purpose")
        seen.append(stimulus)

    inbox = Inbox(handle)
    with pytest.raises(ValueError, match="on purpose"):
        inbox.put("bad")
    assert inbox.put("next")
    assert seen == ["caused before the error", "next"]

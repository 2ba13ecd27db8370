"""How many calls are shown, what of the text after them, and when nothing more is waited for."""

from __future__ import annotations

import pytest

from pool.events import TextDelta, ToolCall
from service.toolcalls.controls import MAX_TAIL_CHARS, Controls, Gate, StopMode


def call(name: str, number: int = 0) -> ToolCall:
    return ToolCall(f"id {name} {number}", name, "{}")


def shown(gate: Gate, *pieces: str | ToolCall, now: float = 0.0) -> list[str]:
    """The texts, and the names of the calls, of what is read at once."""
    out = []
    for piece in pieces:
        if isinstance(piece, ToolCall):
            out += [each.text if isinstance(each, TextDelta) else each.name for each in gate.call(piece, now)]
        elif gate.say(TextDelta(piece)):
            out.append(piece)
    gate.tick(now)
    return out


ANSWER = ("before", call("f", 0), "between", call("g", 1), call("f", 2), "after")


def test_without_controls_everything_is_shown() -> None:
    gate = Gate(Controls())
    assert shown(gate, *ANSWER) == ["before", "f", "between", "g", "f", "after"]
    assert (gate.call_count, gate.is_truncated, gate.full_at, gate.is_full) == (3, False, None, False)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_limit_is_exact(limit: int) -> None:
    gate = Gate(Controls(max_calls=limit))
    names = [name for name in shown(gate, *ANSWER) if name in "fg"]
    assert names == ["f", "g", "f"][:limit]
    assert (gate.call_count, gate.is_truncated) == (limit, limit < 3)


def test_after_the_first_call_nothing_is_shown_if_the_first_is_enough() -> None:
    gate = Gate(Controls(mode=StopMode.FIRST))
    assert shown(gate, "before", call("f"), "after", now=5.0) == ["before", "f"]
    assert (gate.is_full, gate.is_truncated) == (True, False)
    assert shown(gate, call("g", 1), now=6.0) == []
    assert (gate.call_count, gate.is_truncated) == (1, True)


def test_a_burst_is_over_when_no_call_has_come_for_the_time_of_grace() -> None:
    gate = Gate(Controls(stops=True, grace_s=0.3))
    assert shown(gate, "before", now=1.0) == ["before"]
    assert gate.full_at is None
    assert shown(gate, call("f"), now=100.0) == ["f"]
    assert shown(gate, call("g", 1), "text", now=100.25) == ["g", "text"]
    assert gate.full_at == 100.55
    gate.tick(100.5)
    assert not gate.is_full
    gate.tick(100.55)
    assert gate.is_full
    assert shown(gate, "late", call("h", 2), now=100.6) == []
    assert (gate.call_count, gate.is_truncated) == (2, True)


def test_a_call_that_was_waiting_to_be_read_is_shown_however_late_that_is() -> None:
    gate = Gate(Controls(stops=True, grace_s=0.3))
    shown(gate, call("f"), now=100.0)
    assert shown(gate, call("g", 1), now=107.0) == ["g"]
    assert not gate.is_full
    assert gate.full_at == 107.3


def test_a_call_over_the_limit_ends_the_burst_at_once() -> None:
    gate = Gate(Controls(max_calls=1, grace_s=0.3))
    shown(gate, call("f"), now=1.0)
    assert not gate.is_full
    shown(gate, call("g", 1), now=1.1)
    assert gate.is_full


def test_without_parallel_calls_the_first_is_shown_and_the_answer_goes_on() -> None:
    gate = Gate(Controls(max_calls=3), is_parallel=False)
    assert shown(gate, "before", call("f"), call("g", 1)) == ["before", "f"]
    assert (gate.call_count, gate.is_truncated) == (1, True)
    gate = Gate(Controls(), is_parallel=False)
    assert shown(gate, call("f"), call("g", 1), "after", now=1.0) == ["f", "after"]
    gate.tick(1000.0)
    assert (gate.is_truncated, gate.is_full) == (True, False)


def test_text_after_the_last_call_is_dropped_and_text_between_calls_is_not() -> None:
    gate = Gate(Controls(drops_tail=True))
    assert shown(gate, *ANSWER[:3]) == ["before", "f"]
    assert shown(gate, *ANSWER[3:]) == ["between", "g", "f"]


def test_text_before_a_call_that_is_not_shown_is_after_the_last_one() -> None:
    gate = Gate(Controls(drops_tail=True), is_parallel=False)
    assert shown(gate, *ANSWER) == ["before", "f"]


def test_no_more_than_so_much_text_is_kept_for_a_call_that_may_come() -> None:
    gate = Gate(Controls(drops_tail=True))
    assert shown(gate, call("f"), "x" * MAX_TAIL_CHARS, "more", call("g", 1)) == ["f", "x" * MAX_TAIL_CHARS, "g"]


def test_empty_pieces_take_no_memory() -> None:
    gate = Gate(Controls(drops_tail=True))
    shown(gate, call("f"), *[""] * 100, "tail", call("g", 1))
    assert gate.call(call("h", 2), 0.0) == [call("h", 2)]
    shown(gate, *[""] * 100)
    assert gate._tail == []


def test_equal_calls_are_shown_once() -> None:
    gate = Gate(Controls(drops_equal=True, max_calls=2))
    assert shown(gate, call("f", 0), call("f", 1), call("g", 2), call("f", 3)) == ["f", "g"]
    assert (gate.call_count, gate.is_truncated, gate.is_full) == (2, False, False)

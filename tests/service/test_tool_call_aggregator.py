"""The calls of a turn, put together from whatever tells of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.events import ToolCall
from service.toolcalls import aggregator as module
from service.toolcalls.aggregator import Call, Called, Piece, Said, TooLargeError, ToolCallAggregator

BLOCK = "<use_tool>\n  <name>lookup_user</name>\n  <id>42</id>\n</use_tool>"


def entry(arguments: str, index: int | None = None, id: str | None = None, name: str | None = None) -> dict[str, Any]:  # noqa: A002 - OpenAI's word
    """One of `tool_calls`; what is None is absent."""
    function = {"name": name, "arguments": arguments}
    fields = {
        "index": index,
        "id": id,
        "function": {key: value for key, value in function.items() if value is not None},
    }
    return {key: value for key, value in fields.items() if value is not None}


def calls_delta(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"tool_calls": list(entries)}


def appended(pieces: list[Piece]) -> dict[tuple[int, int], tuple[str | None, str | None, str]]:
    """What a client has that appends, by choice and index."""
    calls: dict[tuple[int, int], tuple[str | None, str | None, str]] = {}
    for piece in pieces:
        if isinstance(piece, Called):
            key = piece.choice, piece.index
            assert (piece.id is not None) == (key not in calls), "only the first piece has the id"
            id_, name, arguments = calls.get(key, (piece.id, piece.name, ""))
            calls[key] = (id_, name, arguments + piece.arguments)
    return calls


def test_pieces_of_arguments_are_told_once_so_that_a_client_can_append_them() -> None:
    calls = ToolCallAggregator()
    told = [
        *calls.ingest_delta(calls_delta(entry("", 0, "c1", "lookup_user"))),
        *calls.ingest_delta(calls_delta(entry('{"id":"', 0))),
        *calls.ingest_delta(calls_delta(entry('42"}', 0))),
    ]
    assert told == [
        Called(0, 0, "", "c1", "lookup_user"),
        Called(0, 0, '{"id":"'),
        Called(0, 0, '42"}'),
    ]
    assert calls.snapshot() == (Call(0, "c1", "lookup_user", '{"id":"42"}'),)


def test_a_whole_message_adds_what_was_not_told_and_nothing_when_it_comes_again() -> None:
    calls = ToolCallAggregator()
    calls.ingest_delta({"content": "Let me "})
    calls.ingest_delta(calls_delta(entry('{"id', 0, "c1", "f")))
    message = {
        "content": "Let me see",
        "tool_calls": [entry('{"id":1}', None, "c1", "f"), entry("{}", None, "c2", "g")],
    }
    assert calls.ingest_message(message) == (Said(0, "see"), Called(0, 0, '":1}'), Called(0, 1, "{}", "c2", "g"))
    assert calls.ingest_message(message) == ()
    assert [call.arguments for call in calls.snapshot()] == ['{"id":1}', "{}"]


def test_a_block_that_has_begun_to_come_is_completed_by_the_whole_message() -> None:
    calls = ToolCallAggregator()
    calls.ingest_delta("a " + BLOCK[:5])
    message = {"content": "a " + BLOCK, "tool_calls": [entry("{}", None, "c1", "f")]}
    assert calls.ingest_message(message) == (
        Called(0, 1, '{"id": "42"}', "tool_0_1", "lookup_user", BLOCK),
        Called(0, 0, "{}", "c1", "f"),
    )


def test_a_message_that_differs_from_what_was_told_changes_the_snapshot_and_tells_nothing() -> None:
    calls = ToolCallAggregator()
    calls.ingest_delta(calls_delta(entry('{"id":1}', 0, "c1", "f")))
    assert calls.ingest_message(calls_delta(entry('{"id": 1}', None, "c1", "f"))) == ()
    assert calls.ingest_delta(calls_delta(entry(" ", 0))) == ()
    assert calls.snapshot()[0].arguments == '{"id": 1} '


def test_a_message_need_not_be_told() -> None:
    calls = ToolCallAggregator()
    message = {"content": "a", "function_call": {"name": "f", "arguments": "{}"}}
    assert calls.ingest_message(message, emit=False) == ()
    assert calls.ingest_message(message) == ()
    assert calls.snapshot() == (Call(0, "tool_0_0", "f", "{}"),)


def test_a_legacy_function_call_is_one_call_however_many_pieces_it_has() -> None:
    calls = ToolCallAggregator()
    told = [
        *calls.ingest_delta({"function_call": {"name": "f", "arguments": ""}}),
        *calls.ingest_delta({"function_call": {"arguments": "{}"}}),
        *calls.ingest_message({"function_call": {"name": "f", "arguments": "{}"}}),
    ]
    assert told == [Called(0, 0, "", "tool_0_0", "f"), Called(0, 0, "{}")]


def test_events_of_the_responses_api_are_one_call_by_its_call_id() -> None:
    calls = ToolCallAggregator()
    item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": ""}
    told = [
        *calls.ingest_delta({"type": "response.output_text.delta", "delta": "a"}),
        *calls.ingest_delta({"type": "response.output_item.added", "output_index": 1, "item": item}),
        *calls.ingest_delta({"type": "response.function_call_arguments.delta", "item_id": "fc_1", "delta": '{"a"'}),
        *calls.ingest_delta(
            {"type": "response.function_call_arguments.done", "item_id": "fc_1", "arguments": '{"a":1}'}
        ),
        *calls.ingest_delta({"type": "response.output_item.done", "item": {**item, "arguments": '{"a":1}'}}),
        *calls.ingest_delta({"type": "response.completed", "response": {}}),
    ]
    assert told == [Said(0, "a"), Called(0, 0, "", "call_1", "f"), Called(0, 0, '{"a"'), Called(0, 0, ":1}")]


def test_calls_that_all_have_the_same_place_are_told_apart_by_their_ids() -> None:
    calls = ToolCallAggregator()
    told = [
        *calls.ingest_delta(calls_delta(entry("{", 0, "a", "f"))),
        *calls.ingest_delta(calls_delta(entry("[", 0, "b", "f"))),
        *calls.ingest_delta(calls_delta(entry("]", 0))),
        *calls.ingest_delta(calls_delta(entry("}", None, "a"))),
    ]
    assert appended(told) == {(0, 0): ("a", "f", "{}"), (0, 1): ("b", "f", "[]")}


def test_calls_without_place_and_id_are_told_apart_by_their_names() -> None:
    calls = ToolCallAggregator()
    told = [
        *calls.ingest_delta(calls_delta(entry("{", name="f"), entry("}"), entry("[", name="g"))),
        *calls.ingest_delta(calls_delta(entry("]"))),
    ]
    assert appended(told) == {(0, 0): ("tool_0_0", "f", "{}"), (0, 1): ("tool_0_1", "g", "[]")}


def test_arguments_of_a_call_that_nobody_has_named_are_left_out() -> None:
    calls = ToolCallAggregator()
    assert calls.ingest_delta(calls_delta(entry("{}", 3, "a"))) == ()
    assert not calls.has_calls()


def test_each_choice_has_its_own_calls_and_text() -> None:
    calls = ToolCallAggregator()
    chunk = {
        "choices": [
            {"index": 0, "delta": {"content": "<use_"}},
            {"index": 1, "delta": {"tool_calls": [entry("{}", 0, "m1", "send_email")]}},
        ]
    }
    told = [*calls.ingest_delta(chunk), *calls.ingest_delta({"index": 1, "delta": {"content": "tool>"}})]
    assert told == [Called(1, 0, "{}", "m1", "send_email"), Said(1, "tool>")]
    assert calls.flush() == (Said(0, "<use_"),)
    assert (calls.snapshot(0), [call.id for call in calls.snapshot(1)]) == ((), ["m1"])


def test_a_block_in_the_text_is_a_call_between_the_texts_around_it() -> None:
    calls = ToolCallAggregator()
    told = [
        piece
        for at in range(0, 90, 7)
        for piece in calls.ingest_delta(("a " + BLOCK + " AFTER_TOOL_TEXT")[at : at + 7])
    ]
    assert "".join(piece.text for piece in told if isinstance(piece, Said)) == "a  AFTER_TOOL_TEXT"
    assert [piece for piece in told if isinstance(piece, Called)] == [
        Called(0, 0, '{"id": "42"}', "tool_0_0", "lookup_user", BLOCK)
    ]
    assert [type(piece) for piece in told].index(Called) == 1
    assert calls.snapshot() == (Call(0, "tool_0_0", "lookup_user", '{"id": "42"}', BLOCK),)


@pytest.mark.parametrize("arguments", ['{"id":"42"}', '{"id": 42}', '{ "id":" 42 "}'])
def test_a_call_that_is_told_in_the_structure_and_in_the_text_is_one_call(arguments: str) -> None:
    structured = ToolCall("c1", "lookup_user", arguments)
    calls = ToolCallAggregator()
    assert calls.ingest_delta(structured) == (Called(0, 0, arguments, "c1", "lookup_user"),)
    assert calls.ingest_delta(BLOCK) == ()
    assert calls.snapshot() == (Call(0, "c1", "lookup_user", arguments, BLOCK),)
    calls.reset_turn()
    assert len(calls.ingest_delta(BLOCK)) == 1
    assert calls.ingest_delta(structured) == ()
    calls.reset_turn()
    message = {"content": BLOCK, "tool_calls": [entry(arguments, None, "c1", "lookup_user")]}
    assert calls.ingest_message(message) == (Called(0, 0, arguments, "c1", "lookup_user"),)


def test_the_same_call_twice_in_the_text_is_two_calls() -> None:
    calls = ToolCallAggregator()
    calls.ingest_delta(ToolCall("c1", "lookup_user", '{"id":"42"}'))
    calls.ingest_delta(BLOCK + BLOCK)
    assert [call.id for call in calls.snapshot()] == ["c1", "tool_0_1"]


def test_text_that_was_held_back_stays_before_a_call_that_comes_after_it() -> None:
    calls = ToolCallAggregator()
    assert calls.ingest_delta("a <use_") == (Said(0, "a "),)
    assert calls.ingest_delta(ToolCall("c1", "f", "{}")) == (Said(0, "<use_"), Called(0, 0, "{}", "c1", "f"))


def test_a_block_that_is_cut_off_is_text_before_the_end_and_no_call() -> None:
    calls = ToolCallAggregator()
    assert calls.ingest_delta(BLOCK[:-6]) == ()
    assert calls.flush() == (Said(0, BLOCK[:-6]),)
    assert not calls.has_calls()
    assert calls.flush() == ()


def test_the_limit_of_calls_is_exact_and_says_that_calls_were_left_out() -> None:
    calls = ToolCallAggregator(max_calls=1)
    told = [*calls.ingest_delta(calls_delta(entry("{", 0, "a", "f")))]
    assert not calls.is_truncated()
    told += calls.ingest_delta(calls_delta(entry("[", 0, "b", "g"), entry("]", 0)))
    told += calls.ingest_delta(calls_delta(entry("}", None, "a")))
    told += calls.ingest_delta(BLOCK)
    assert appended(told) == {(0, 0): ("a", "f", "{}")}
    assert not [piece for piece in told if isinstance(piece, Said)]
    assert (calls.is_truncated(), len(calls.snapshot())) == (True, 1)


def test_a_snapshot_is_not_changed_by_what_comes_later() -> None:
    calls = ToolCallAggregator()
    calls.ingest_delta(calls_delta(entry("{", 0, "a", "f")))
    before = calls.snapshot()
    calls.ingest_delta(calls_delta(entry("}", 0)))
    assert before[0].arguments == "{"
    with pytest.raises(AttributeError):
        before[0].arguments = "x"  # type: ignore[misc]


def test_nothing_of_a_turn_is_left_after_a_reset_but_the_patterns() -> None:
    calls = ToolCallAggregator()
    calls.register_text_pattern("call")
    calls.ingest_delta("<use_tool>")
    calls.ingest_delta(ToolCall("a", "f", "{}"))
    calls.reset_turn()
    assert (calls.snapshot(), calls.flush(), calls.is_truncated()) == ((), (), False)
    assert calls.ingest_delta("<call><name>f</name></call>")[0] == Called(
        0, 0, "{}", "tool_0_0", "f", "<call><name>f</name></call>"
    )


def test_more_than_may_be_kept_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ARGUMENTS_CHARS", 100)
    calls = ToolCallAggregator()
    calls.ingest_delta(calls_delta(entry("", 0, "a", "f")))
    with pytest.raises(TooLargeError):
        calls.ingest_delta(calls_delta(entry("x" * 100, 0)))
    with pytest.raises(TooLargeError):
        calls.ingest_delta("a", choice=module.MAX_CHOICES)
    calls.reset_turn()
    calls.ingest_delta(calls_delta(entry("", 0, "a", "f")))
    calls.ingest_delta(calls_delta(entry("", 0, "b" * 60)))
    with pytest.raises(TooLargeError):
        calls.ingest_delta(calls_delta(entry("", 0, "c" * 60)))


KEYS = st.sampled_from(
    ["choices", "delta", "message", "tool_calls", "function_call", "function", "name", "type", "item"]
)
MORE_KEYS = st.sampled_from(["arguments", "id", "index", "content", "output_index", "item_id", "choice_index"])
TYPES = st.sampled_from(
    ["function_call", "response.output_item.done", "response.function_call_arguments.done", "<use_tool>", "{}", ""]
)
WORTHS = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | TYPES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | MORE_KEYS, inner, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(KEYS | MORE_KEYS, WORTHS, max_size=6))
def test_a_message_of_any_shape_is_told_the_first_time_only(message: dict[str, Any]) -> None:
    calls = ToolCallAggregator()
    calls.ingest_message(message)
    before = calls.snapshot()
    assert calls.ingest_message(message) == ()
    assert calls.snapshot() == before
    calls.ingest_delta(message)


ARGUMENTS = st.dictionaries(st.text(max_size=4), st.text(max_size=8), max_size=3).map(
    lambda values: msgspec.json.encode(values).decode()
)


@given(st.lists(st.tuples(st.text(st.sampled_from("<>ab"), max_size=5), ARGUMENTS), max_size=4), st.data())
def test_however_it_is_cut_a_client_that_appends_has_what_the_snapshot_has(
    parts: list[tuple[str, str]], data: st.DataObject
) -> None:
    calls = ToolCallAggregator()
    told: list[Piece] = []
    for index, (text, arguments) in enumerate(parts):
        at = data.draw(st.integers(0, len(text)))
        told += calls.ingest_delta(text[:at])
        told += calls.ingest_delta({"content": text[at:]})
        at = data.draw(st.integers(0, len(arguments)))
        told += calls.ingest_delta(calls_delta(entry(arguments[:at], index, f"c{index}", "f")))
        told += calls.ingest_delta(calls_delta(entry(arguments[at:], index)))
    told += calls.flush()
    assert "".join(piece.text for piece in told if isinstance(piece, Said)) == "".join(text for text, _ in parts)
    assert appended(told) == {(0, call.index): (call.id, call.name, call.arguments) for call in calls.snapshot()}
    assert [call.arguments for call in calls.snapshot()] == [arguments for _, arguments in parts]

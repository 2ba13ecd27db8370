"""Calls in the text and calls in the structure are one answer, whatever the form that its client reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from pool.events import Fault, FaultKind, Finish, ReasoningDelta, TextDelta, ToolCall, ToolSpec, TurnEnd, TurnEvent
from scheduler.model import Ended
from service.api.chat import ChatRequest
from service.api.errors import ApiError
from service.api.headers import MODE_HEADER, read_output_mode
from service.api.history import Answered, Entry, Said
from service.api.output import Output
from service.api.tools import Tools
from service.encode.choice import Choice, Piece, WrittenCall
from service.encode.sse import ChatStream
from service.encode.terms import Terms
from service.toolcalls.aggregator import MAX_CALLS
from service.toolcalls.controls import Controls, StopMode
from service.toolcalls.mode import OutputMode, output_mode

NOW = 1000.0
LOOK = ToolSpec("look", "", {})
DECLARED = Tools((LOOK,))
BLOCK = "<use_tool>\n  <name>look</name>\n  <at>a</at>\n</use_tool>"
OTHER = '<use_tool name="listen"></use_tool>'
AS_TEXT = WrittenCall("tool_0_0", "look", '{"at": "a"}', BLOCK)
STRUCTURED = ToolCall("call_1", "look", '{"at":"b"}')
STRUCTURED_BLOCK = "<use_tool>\n  <name>look</name>\n  <at>b</at>\n</use_tool>"
DONE = Ended(TurnEnd(finish=Finish.STOP))
OBSIDIAN = Terms(keeps=True, mode=OutputMode.OBSIDIAN_XML)


def said(text: str) -> list[TurnEvent]:
    return [TextDelta(text)]


def answered(events: Sequence[TurnEvent], terms: Terms) -> tuple[Choice, list[Piece]]:
    """A choice that has ended, and everything that was shown of it."""
    choice = Choice(terms)
    shown: list[Piece] = []
    for event in events:
        shown += choice.take([event], NOW)
    return choice, shown + choice.end(DONE)


# --- what is read and what is written ----------------------------------------------------------------------------


def test_a_block_is_a_call_and_stays_in_the_text_as_it_was_for_a_client_that_reads_blocks() -> None:
    choice, shown = answered(said(f"I look. {BLOCK} Done."), OBSIDIAN)
    assert shown == [TextDelta("I look. "), AS_TEXT, TextDelta(BLOCK), TextDelta(" Done.")]
    assert (choice.text, choice.calls, choice.finish) == (f"I look. {BLOCK} Done.", [AS_TEXT], "tool_calls")


def test_a_call_in_the_structure_is_written_as_a_block_for_a_client_that_reads_blocks() -> None:
    choice, shown = answered([TextDelta("I look. "), STRUCTURED], OBSIDIAN)
    assert shown == [TextDelta("I look. "), STRUCTURED, TextDelta(STRUCTURED_BLOCK)]
    assert choice.finish == "tool_calls"


def test_a_block_is_only_a_call_for_a_client_that_defined_functions() -> None:
    choice, shown = answered(said(f"I look. {BLOCK} Done."), Terms(keeps=True, tools=DECLARED))
    assert shown == [TextDelta("I look. "), AS_TEXT, TextDelta(" Done.")]
    assert (choice.text, choice.finish) == ("I look.  Done.", "tool_calls")


def test_a_block_is_only_text_for_everybody_else() -> None:
    events: list[TurnEvent] = [TextDelta(BLOCK[:20]), TextDelta(BLOCK[20:])]
    choice, shown = answered(events, Terms(keeps=True))
    assert shown == events, "not even its deltas are changed"
    assert (choice.text, choice.finish, choice.call_count) == (BLOCK, "stop", 0)


def test_a_block_that_calls_no_function_of_the_client_is_text() -> None:
    choice, _ = answered(said(f"{OTHER}{BLOCK}"), Terms(keeps=True, tools=DECLARED))
    assert (choice.text, choice.calls) == (OTHER, [AS_TEXT])


def test_a_call_that_comes_in_the_text_and_in_the_structure_is_one() -> None:
    same = ToolCall("call_1", "look", '{"at":"a"}')
    orders: list[list[TurnEvent]] = [[TextDelta(BLOCK), same], [same, TextDelta(BLOCK)]]
    for events in orders:
        choice, _ = answered(events, OBSIDIAN)
        assert choice.call_count == 1
        assert choice.text == BLOCK


def test_two_calls_with_one_id_are_two() -> None:
    choice, _ = answered([STRUCTURED, ToolCall("call_1", "listen", "{}")], Terms(keeps=True))
    assert [call.name for call in choice.calls] == ["look", "listen"]


def test_the_delimiter_is_between_blocks_and_nowhere_else() -> None:
    events: list[TurnEvent] = [TextDelta(f"a{BLOCK}b"), STRUCTURED, TextDelta("c")]
    terms = Terms(keeps=True, mode=OBSIDIAN.mode, controls=Controls(delimiter="\n\n"))
    choice, _ = answered(events, terms)
    assert choice.text == f"a{BLOCK}b\n\n{STRUCTURED_BLOCK}c"


def test_what_the_service_writes_itself_is_not_counted_as_said() -> None:
    answers: list[tuple[list[TurnEvent], int]] = [
        ([STRUCTURED], len("look" + STRUCTURED.arguments)),
        (said(BLOCK), len(BLOCK)),
    ]
    for events, chars in answers:
        for terms in (OBSIDIAN, Terms(keeps=True, tools=DECLARED)):
            choice, _ = answered(events, terms)
            usage, is_estimate = choice.counted()
            assert (usage.output_tokens, is_estimate) == (-(-chars // 4), True)


def test_each_choice_has_ids_of_its_own() -> None:
    choice = Choice(OBSIDIAN, 3)
    choice.take(said(BLOCK + BLOCK), NOW)
    assert [call.call_id for call in choice.calls] == ["tool_3_0", "tool_3_1"]


def test_the_hundred_and_twenty_ninth_call_is_left_out_and_the_client_is_told() -> None:
    calls = [ToolCall(f"c{number}", "look", "{}") for number in range(MAX_CALLS + 1)]
    choice, _ = answered(calls, Terms(keeps=True))
    assert (choice.call_count, choice.is_truncated) == (MAX_CALLS, True)


def test_calls_that_are_too_long_to_keep_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.toolcalls.aggregator.MAX_ARGUMENTS_CHARS", 100)
    with pytest.raises(ApiError) as caught:
        answered([ToolCall("c", "look", '{"at": "%s"}' % ("x" * 200))], OBSIDIAN)
    assert (caught.value.status, caught.value.code) == (502, "answer_too_large")


def test_reasoning_that_is_shown_comes_after_the_text_before_it() -> None:
    thought = ReasoningDelta("hm")
    terms = Terms(keeps=True, tools=DECLARED, shows_reasoning=True, stop=("END",))
    _, shown = answered([TextDelta("EN"), TextDelta("<use_to"), thought, TextDelta("ol>")], terms)
    assert shown == [TextDelta("EN<use_to"), thought, TextDelta("ol>")]


# --- the rules for calls hold for those in the text --------------------------------------------------------------


def test_without_parallel_calls_the_first_block_counts() -> None:
    for tools in (Tools((LOOK,), is_parallel=False), Tools((LOOK,), is_parallel=False, is_legacy=True)):
        choice, _ = answered([TextDelta(BLOCK), STRUCTURED], Terms(keeps=True, tools=tools))
        assert (choice.calls, choice.is_truncated) == ([AS_TEXT], True)
        assert choice.finish == ("function_call" if tools.is_legacy else "tool_calls")


def test_a_block_is_the_call_that_had_to_be_made() -> None:
    terms = Terms(keeps=True, tools=Tools((LOOK,), must_call=True))
    assert answered(said(BLOCK), terms)[0].finish == "tool_calls"
    with pytest.raises(ApiError):
        answered(said(OTHER), terms)


def test_a_block_that_calls_what_was_not_offered_is_an_error() -> None:
    tools = Tools((LOOK,), withheld=frozenset({"listen"}))
    for mode in (OutputMode.OBSIDIAN_XML, OutputMode.OPENAI_JSON):
        with pytest.raises(ApiError) as caught:
            answered(said(OTHER), Terms(keeps=True, tools=tools, mode=mode))
        assert caught.value.code == "tool_choice_not_followed"


def test_an_answer_that_calls_need_not_be_in_the_form_that_was_asked_for() -> None:
    terms = Terms(keeps=True, tools=DECLARED, output=Output(check="object"))
    assert answered(said(f"Sure. {BLOCK}"), terms)[0].finish == "tool_calls"
    assert answered(said('{"a": "<use_tool>"}'), terms)[0].finish == "stop"


# --- where an answer ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("STOP", f"I look. {BLOCK} and "),
        ("look.", "I "),
        ("</use_tool>", f"I look. {BLOCK} and STOP {BLOCK}"),
        ("a</at>", f"I look. {BLOCK} and STOP {BLOCK}"),
    ],
)
def test_a_stop_sequence_is_looked_for_in_the_text_and_not_in_the_blocks(stop: str, text: str) -> None:
    choice, _ = answered(said(f"I look. {BLOCK} and STOP {BLOCK}"), Terms(keeps=True, mode=OBSIDIAN.mode, stop=(stop,)))
    assert choice.text == text


def test_blocks_are_never_cut_and_do_not_count_as_text() -> None:
    terms = Terms(keeps=True, mode=OBSIDIAN.mode, max_tokens=2)
    choice, _ = answered(said(f"one{BLOCK} two three"), terms)
    assert (choice.text, choice.finish) == (f"one{BLOCK} two", "length")


@pytest.mark.parametrize("cut", [{"stop": ("END",)}, {"max_tokens": 1}])
def test_text_after_the_last_call_that_nobody_sees_ends_no_answer_early(cut: dict[str, Any]) -> None:
    choice, _ = answered(
        said(f"{BLOCK}12345END"), Terms(keeps=True, mode=OBSIDIAN.mode, controls=Controls(drops_tail=True), **cut)
    )
    assert (choice.text, choice.finish, choice.is_full) == (BLOCK, "tool_calls", True)


def test_an_answer_that_is_full_is_one_whatever_becomes_of_its_turn() -> None:
    fault = Ended(TurnEnd(fault=Fault(FaultKind.WORKER_LOST, "killed")))
    choice = Choice(Terms(keeps=True, mode=OBSIDIAN.mode, controls=Controls(mode=StopMode.FIRST)))
    choice.take(said(f"{BLOCK} tail"), NOW)
    assert (choice.is_full, choice.end(fault), choice.finish) == (True, [], "tool_calls")
    choice = Choice(Terms(keeps=True, mode=OBSIDIAN.mode, controls=Controls(stops=True)))
    choice.take(said(f"{BLOCK} tail"), NOW)
    assert (choice.is_full, choice.full_at) == (False, NOW + 0.3)
    with pytest.raises(ApiError):
        choice.end(fault)


def test_text_after_an_answer_is_full_does_not_make_it_too_long() -> None:
    terms = Terms(keeps=True, mode=OBSIDIAN.mode, controls=Controls(mode=StopMode.FIRST), max_tokens=1)
    choice, _ = answered(said(f"{BLOCK} this is more than one token"), terms)
    assert (choice.text, choice.finish) == (BLOCK, "tool_calls")


# --- no answer depends on how it was cut -------------------------------------------------------------------------

PARTS = (
    *(BLOCK, OTHER, BLOCK.replace(">a<", ">b<"), '<use_tool>{"name": "look", "arguments": {"at": "a"}}</use_tool>'),
    *("<use_tool>", "</use_tool>", "<name>look</name>", "<use_tool", "<", "text", " ", "EN", "END", "D", "\n", "日本"),
)
TEXTS = st.lists(st.sampled_from(PARTS), max_size=12).map("".join)
MODES = st.sampled_from((OutputMode.OBSIDIAN_XML, OutputMode.OPENAI_JSON))
CONTROLS = st.builds(
    Controls,
    stops=st.booleans(),
    mode=st.sampled_from(StopMode),
    drops_tail=st.booleans(),
    max_calls=st.integers(0, 3),
    drops_equal=st.booleans(),
    delimiter=st.sampled_from(("", "\n\n")),
)
TOOLS = st.builds(Tools, st.sampled_from(((), (LOOK,), (LOOK, ToolSpec("listen", "", {})))), is_parallel=st.booleans())
TERMS = st.builds(
    Terms,
    tools=TOOLS,
    mode=MODES,
    controls=CONTROLS,
    stop=st.sampled_from(((), ("END",), ("</use_tool>", "xt "))),
    max_tokens=st.sampled_from((None, 1, 5)),
    keeps=st.just(True),
)


def pieces_of(text: str, cuts: set[int]) -> list[TurnEvent]:
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    return [TextDelta(text[begin:end]) for begin, end in pairwise(edges)]


def told(choice: Choice) -> tuple[object, ...]:
    return choice.text, choice.calls, choice.finish, choice.call_count, choice.is_truncated


@given(TEXTS, st.sets(st.integers(1, 400)), TERMS)
def test_the_answer_does_not_depend_on_how_its_text_was_cut(text: str, cuts: set[int], terms: Terms) -> None:
    whole, _ = answered(said(text), terms)
    split, _ = answered(pieces_of(text, cuts), terms)
    letters, _ = answered([TextDelta(letter) for letter in text], terms)
    assert told(whole) == told(split) == told(letters)


@given(TEXTS, st.sets(st.integers(1, 400)), TERMS, st.booleans())
def test_a_stream_adds_up_to_the_whole_answer(text: str, cuts: set[int], terms: Terms, calls: bool) -> None:
    events = [*pieces_of(text, cuts), *([STRUCTURED] if calls else [])]
    choice, shown = answered(events, terms)
    request = ChatRequest(model="m", messages=(), tools=terms.tools)
    data = ChatStream(id="x", created=1, fingerprint="f", request=request).pieces(shown)
    content = ""
    made: list[list[str]] = []
    for event in data.decode().split("\n\n")[:-1]:
        delta = json.loads(event.removeprefix("data: "))["choices"][0]["delta"]
        content += delta.get("content", "")
        for part in delta.get("tool_calls", ()):
            if "id" in part:
                assert part["index"] == len(made)
                made.append([part["id"], part["function"]["name"], part["function"]["arguments"]])
            else:
                made[part["index"]][2] += part["function"]["arguments"]
    assert content == choice.text
    assert made == [[call.call_id, call.name, call.arguments] for call in choice.calls]
    assert choice.call_count == len(made)


@given(TEXTS, st.sets(st.integers(1, 400)), st.booleans())
def test_without_controls_a_client_that_reads_blocks_gets_the_text_verbatim(
    text: str, cuts: set[int], is_plain: bool
) -> None:
    terms = Terms(keeps=True) if is_plain else OBSIDIAN
    choice, _ = answered(pieces_of(text, cuts), terms)
    assert choice.text == text


# --- in what form ------------------------------------------------------------------------------------------------


def told_by(role: Literal["system", "developer", "user"], text: str) -> list[Entry]:
    return [Said("user", ("Hello.",)), Said(role, ("You take notes.", text))]


@pytest.mark.parametrize(
    ("headers", "messages", "is_recognised"),
    [
        ({"X-Copilot-Trace-Id": "1"}, [], True),
        ({"X-Title": "Obsidian Copilot"}, [], True),
        ({"X-Title": "My App"}, [], False),
        ({"User-Agent": "Mozilla/5.0 obsidian/1.7 Electron/31.0"}, [], False),
        ({}, told_by("system", "Write <use_tool> and so on."), True),
        ({}, told_by("developer", "<recent_conversations>none</recent_conversations>"), True),
        ({}, told_by("system", "<saved_memories>none</saved_memories>"), True),
        ({}, told_by("system", "Use tools."), False),
        ({}, told_by("user", "What is <use_tool>?"), False),
        ({}, [Answered("c", "<use_tool>")], False),
    ],
)
def test_obsidian_copilot_is_recognised_by_its_headers_or_its_own_words(
    headers: dict[str, str], messages: list[Entry], is_recognised: bool
) -> None:
    mode = output_mode(OutputMode.AUTO, CIMultiDict(headers), messages)
    assert mode is (OutputMode.OBSIDIAN_XML if is_recognised else OutputMode.OPENAI_JSON)
    for forced in (OutputMode.OBSIDIAN_XML, OutputMode.OPENAI_JSON):
        assert output_mode(forced, CIMultiDict(headers), messages) is forced


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        *((word, OutputMode.OBSIDIAN_XML) for word in ("obsidian", "obsidian-xml", "Obsidian_XML", " obsidian ")),
        *((word, OutputMode.OPENAI_JSON) for word in ("openai", "openai-json", "openai_json")),
        ("auto", OutputMode.AUTO),
    ],
)
def test_the_predecessors_spellings_are_understood(text: str, mode: OutputMode) -> None:
    assert read_output_mode(CIMultiDict({"X-Proxy-Output-Mode": text})) is mode


@pytest.mark.parametrize("text", ["", "xml", "json", "obsidian-xml, openai-json"])
def test_any_other_form_is_refused_by_the_headers_name(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_output_mode({MODE_HEADER: text})
    assert (caught.value.status, caught.value.param) == (400, MODE_HEADER)
    assert read_output_mode({}) is None

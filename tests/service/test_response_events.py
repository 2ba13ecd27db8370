"""What goes out on /v1/responses is what OpenAI's contract requires, and one answer is the same in both forms."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.events import (
    Fault,
    FaultKind,
    Finish,
    Reasoning,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    TurnEnd,
    Usage,
)
from scheduler.model import Ended
from service.api.errors import FAULTS, ApiError, from_fault, internal
from service.api.flat_tools import Alias
from service.api.responses import ResponsesRequest, parse_responses
from service.encode.choice import Choice, Piece
from service.encode.response_object import disowned
from service.encode.response_stream import DONE, ResponseEvents, ResponseStream
from service.encode.retold import Retold
from service.encode.terms import Terms
from tests.service.asking import Known
from tests.support.response_events import TERMINAL, check_event, check_response, check_stream, parse_events

ID = "resp_0123"
USAGE = Usage(100, 40, 7, 20, 5)
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}, "strict": True},
    {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "start: /x/"}},
    {
        "type": "namespace",
        "name": "agents",
        "description": "Helpers.",
        "tools": [{"type": "function", "name": "spawn", "parameters": None, "strict": None}],
    },
]
FULL: dict[str, Any] = {
    "instructions": "Be brief.",
    "metadata": {"a": "b"},
    "tools": TOOLS,
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "look"}]},
    "parallel_tool_calls": False,
    "max_output_tokens": 1000,
    "max_tool_calls": 3,
    "text": {
        "format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": False, "extra": 1},
        "verbosity": "low",
    },
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content"],
    "user": "u",
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "service_tier": "auto",
    "temperature": 0.5,
    "truncation": "auto",
}


def asking(**fields: Any) -> ResponsesRequest:
    request, _ = parse_responses({"model": 'm "1"', "input": "hi"} | fields, find=lambda _: Known())
    return request


def choice(
    request: ResponsesRequest, *, finish: Finish = Finish.STOP, usage: Usage | None = USAGE, said: Sequence[Piece] = ()
) -> Choice:
    made = Choice(Terms.of(request, keeps=False, shows_reasoning=True))
    made.take(said, 1000.0)
    made.end(Ended(TurnEnd(finish=finish, usage=usage)))
    return made


def events_of(request: ResponsesRequest) -> ResponseEvents:
    return ResponseEvents(id=ID, created=1_700_000_000, request=request)


def told(
    pieces: Sequence[Piece], finish: Finish = Finish.STOP, usage: Usage | None = USAGE, **fields: Any
) -> list[dict[str, Any]]:
    """The events of a whole stream."""
    request = asking(**fields)
    made = events_of(request)
    out = [
        *made.open(),
        *made.grow(pieces),
        *made.end(choice(request, finish=finish, usage=usage, said=pieces), 1_700_000_001),
    ]
    return parse_events(b"".join(out))


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def done_items(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event["item"] for event in events if event["type"] == "response.output_item.done"]


THOUGHT: list[Piece] = [
    ReasoningDelta("Let me ", "rs_up", 0),
    ReasoningDelta("see.", "rs_up", 0),
    ReasoningDelta("Well.", "rs_up", 1),
    Reasoning("rs_up", ("Let me see.", "Well."), "SECRET"),
]
LOOK = ToolCall("call_1", "look", '{"at":  "a"}')
THOUGHTS_AND_WORDS = [
    pieces[:count]
    for pieces in ([*THOUGHT, TextDelta("Hel"), TextDelta("lo"), LOOK, TextDelta("é\n")],)
    for count in range(len(pieces) + 1)
]


def test_the_checks_of_these_tests_can_fail() -> None:
    (*_, last) = told([TextDelta("hi")])
    check_event(last)
    for spoiled in (
        last | {"more": 1},
        {key: value for key, value in last.items() if key != "sequence_number"},
        last | {"response": last["response"] | {"more": 1}},
        last | {"response": last["response"] | {"status": "good"}},
    ):
        with pytest.raises((AssertionError, ValueError)):
            check_event(spoiled)
    with pytest.raises(AssertionError):
        check_stream(told([TextDelta("hi")])[:-1])


def test_a_text_is_told_in_the_events_of_the_contract() -> None:
    events = told([TextDelta("Hel"), TextDelta("lo")])
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    check_stream(events)
    assert events[4] == {
        "type": "response.output_text.delta",
        "sequence_number": 4,
        "item_id": "msg_0123_0",
        "output_index": 0,
        "content_index": 0,
        "delta": "Hel",
        "logprobs": [],
    }
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": "Hello"}
    message = {"id": "msg_0123_0", "type": "message", "status": "completed", "role": "assistant", "content": [part]}
    assert events[-1]["response"]["output"] == [message]
    assert events[0]["response"]["status"] == events[1]["response"]["status"] == "in_progress"


def test_the_response_repeats_the_request_and_has_every_documented_field() -> None:
    (*_, last) = told([TextDelta("{}")], **FULL)
    response = last["response"]
    check_response(response)
    expected = {
        "id": ID,
        "object": "response",
        "created_at": 1_700_000_000,
        "completed_at": 1_700_000_001,
        "status": "completed",
        "model": 'm "1"',
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "tool_choice": FULL["tool_choice"],
        "parallel_tool_calls": False,
        "max_output_tokens": 1000,
        "max_tool_calls": 3,
        "text": {
            "format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": False},
            "verbosity": "low",
        },
        "reasoning": {"effort": "low", "summary": "auto"},
        "error": None,
        "incomplete_details": None,
        "previous_response_id": None,
        "truncation": "disabled",
        "service_tier": "default",
        "background": False,
        "temperature": None,
        "user": "u",
        "usage": {
            "input_tokens": 100,
            "input_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 7},
            "output_tokens": 20,
            "output_tokens_details": {"reasoning_tokens": 5},
            "total_tokens": 120,
        },
    }
    assert {key: response[key] for key in expected} == expected
    assert [tool["type"] for tool in response["tools"]] == ["function", "custom", "namespace"]


def test_reasoning_is_told_in_parts_and_shown_as_it_may_be_sent_back() -> None:
    events = told([*THOUGHT, TextDelta("Yes.")], include=["reasoning.encrypted_content"])
    assert kinds(events)[2:13] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ]
    check_stream(events)
    thought, message = events[-1]["response"]["output"]
    assert thought == {
        "id": "rs_0123_0",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "Let me see."}, {"type": "summary_text", "text": "Well."}],
        "encrypted_content": "SECRET",
    }
    assert message["id"] == "msg_0123_1"


def test_what_only_the_provider_can_read_is_kept_and_shown_to_nobody_who_did_not_ask() -> None:
    made = events_of(asking())
    data = b"".join([*made.open(), *made.grow(THOUGHT)])
    assert b"SECRET" not in data
    ((item_id, item),) = made.kept
    assert (item_id, json.loads(item)["encrypted_content"]) == ("rs_0123_0", "SECRET")


@pytest.mark.parametrize(
    "pieces",
    [
        [Reasoning("rs_up", ("Let me see.", "Well."), "SECRET")],
        [*THOUGHT[:2], THOUGHT[3]],
        THOUGHT,
    ],
    ids=["untold", "half", "told"],
)
def test_a_summary_is_whole_however_much_of_it_was_told(pieces: list[Piece]) -> None:
    events = told(pieces)
    check_stream(events)
    (thought,) = events[-1]["response"]["output"]
    assert [part["text"] for part in thought["summary"]] == ["Let me see.", "Well."]


def test_one_thought_after_another_is_an_item_of_its_own() -> None:
    events = told([ReasoningDelta("a", "one"), ReasoningDelta("b", "two"), Reasoning("three", (), "x")])
    check_stream(events)
    assert [len(item["summary"]) for item in events[-1]["response"]["output"]] == [1, 1, 0]


def test_a_call_is_told_in_the_events_of_the_contract() -> None:
    events = told([TextDelta("I look."), LOOK, ToolCall("call_2", "look", "")], finish=Finish.TOOL_CALLS, tools=TOOLS)
    assert kinds(events)[8:12] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    check_stream(events)
    _, call, empty = events[-1]["response"]["output"]
    assert call == {
        "id": "fc_0123_1",
        "type": "function_call",
        "status": "completed",
        "call_id": "call_1",
        "name": "look",
        "arguments": '{"at":  "a"}',
    }
    assert empty["arguments"] == ""
    assert events[-1]["response"]["status"] == "completed"


def test_a_custom_tool_is_called_by_its_input() -> None:
    calls = [ToolCall("c1", "patch", '{"input": "*** Begin\\n"}'), ToolCall("c2", "patch", "*** Begin")]
    events = told(calls, tools=TOOLS)
    assert kinds(events)[2:6] == [
        "output_item.added",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
        "output_item.done",
    ]
    check_stream(events)
    first, second = events[-1]["response"]["output"]
    assert first == {
        "id": "ctc_0123_0",
        "type": "custom_tool_call",
        "call_id": "c1",
        "name": "patch",
        "input": "*** Begin\n",
    }
    assert second["input"] == "*** Begin"


def test_a_function_of_a_namespace_is_called_by_its_own_name() -> None:
    events = told([ToolCall("c", "agents__spawn", "{}")], tools=TOOLS)
    check_stream(events)
    (call,) = events[-1]["response"]["output"]
    assert (call["namespace"], call["name"]) == ("agents", "spawn")


@pytest.mark.parametrize(
    ("finish", "reason"), [(Finish.LENGTH, "max_output_tokens"), (Finish.CONTENT_FILTER, "content_filter")]
)
def test_an_answer_that_was_cut_off_is_incomplete_and_says_why(finish: Finish, reason: str) -> None:
    events = told([TextDelta("Hel")], finish)
    check_stream(events)
    assert events[-1]["type"] == "response.incomplete"
    response = events[-1]["response"]
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": reason})
    assert response["completed_at"] is None
    assert response["output"][0]["status"] == "incomplete"
    assert response["usage"]["output_tokens"] == 20


ERRORS: list[ApiError] = [
    *(from_fault(Fault(kind, "the words of the provider")) for kind in FAULTS),
    internal(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error.code))
@pytest.mark.parametrize("pieces", [[], [TextDelta("Hel")], THOUGHT[:3], [TextDelta("a"), LOOK]])
def test_a_failure_is_the_last_event_and_holds_the_error(error: ApiError, pieces: list[Piece]) -> None:
    made = events_of(asking(tools=TOOLS))
    events = parse_events(b"".join([*made.open(), *made.grow(pieces), *made.fail(error)]))
    check_stream(events)
    assert events[-1]["type"] == "response.failed"
    response = events[-1]["response"]
    assert response["status"] == "failed"
    assert error.message in response["error"]["message"]
    assert error.code in f"{response['error']['code']} {response['error']['message']}"
    said = [item for item in response["output"] if item["type"] == "message"]
    assert [item["content"][0]["text"] for item in said] == [p.text for p in pieces if isinstance(p, TextDelta)]


def test_an_answer_that_nobody_wants_any_more_is_cancelled() -> None:
    made = events_of(asking(background=True))
    events = parse_events(b"".join([*made.open(is_queued=True), *made.start(), *made.cancel()]))
    check_stream(events)
    assert kinds(events) == ["created", "queued", "in_progress", "incomplete"]
    statuses = [event["response"]["status"] for event in events]
    assert statuses == ["queued", "queued", "in_progress", "cancelled"]


def test_an_estimated_usage_is_marked() -> None:
    request = asking()
    made = events_of(request)
    (last,) = made.end(choice(request, usage=None, said=[TextDelta("12345")]), 1)
    assert last.startswith(b": x-codex-usage: estimated\n\nevent: response.completed\n")
    assert json.loads(made.body())["usage"]["output_tokens"] == 2


def test_an_answer_without_a_word_is_an_empty_one() -> None:
    events = told([])
    check_stream(events)
    assert kinds(events) == ["created", "in_progress", "completed"]
    assert events[-1]["response"]["output"] == []


def test_the_body_is_at_any_time_what_the_next_event_would_show() -> None:
    made = events_of(asking())
    made.open()
    made.grow([TextDelta("Hel")])
    body = json.loads(made.body())
    check_response(body)
    (message,) = body["output"]
    assert (body["status"], message["status"], message["content"][0]["text"]) == ("in_progress", "in_progress", "Hel")
    (failed,) = made.fail(internal())
    body = json.loads(made.body())
    assert body == parse_events(failed)[0]["response"]
    assert body["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize("stream", [*THOUGHTS_AND_WORDS])
def test_however_far_it_was_told_what_was_told_can_be_told_again(stream: list[Piece]) -> None:
    request = asking()
    made = events_of(request)
    retold = Retold()
    for event in [*made.open(), *(event for piece in stream for event in made.grow([piece]))]:
        retold.take(event)
    (failed,) = made.fail(internal())
    assert retold.output() == parse_events(failed)[0]["response"]["output"]


# --- the stream as bytes -------------------------------------------------------------------------------------------


def test_a_stream_ends_as_the_predecessors_did_unless_it_failed() -> None:
    request = asking()
    stream = ResponseStream(events_of(request), lambda: 1.5)
    whole = stream.begin() + stream.pieces([TextDelta("hi")]) + stream.finish([choice(request)])
    assert whole.endswith(DONE)
    assert DONE == b"event: done\ndata: [DONE]\n\n"
    failing = ResponseStream(events_of(request), lambda: 1.5)
    assert not (failing.begin() + failing.error(internal())).endswith(DONE)


@pytest.mark.parametrize("text", ["hi", 'a "store":true} b', '"store":true}}\n\n'])
def test_what_could_not_be_stored_says_so_in_the_end(text: str) -> None:
    request = asking()
    made = events_of(request)
    *rest, last = [*made.open(), *made.grow([TextDelta(text)]), *made.end(choice(request, usage=None), 1)]
    assert json.loads(made.body())["store"] is True
    assert json.loads(disowned(made.body())) == json.loads(made.body()) | {"store": False}
    told = parse_events(b"".join(rest) + disowned(last + DONE))
    check_stream(told)
    assert [event["response"]["store"] for event in told if "response" in event] == [True, True, False]
    assert told[-1]["response"]["output"] == json.loads(made.body())["output"]


def test_what_is_not_to_be_stored_says_so_from_the_beginning() -> None:
    assert [event["response"]["store"] for event in told([], store=False)] == [False] * 3


# --- whatever the answer -------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
IDS = st.sampled_from(["a", "b", ""])
PIECES: st.SearchStrategy[Piece] = st.one_of(
    st.builds(TextDelta, TEXTS.filter(bool)),
    st.builds(ReasoningDelta, TEXTS, IDS, st.integers(0, 2)),
    st.builds(Reasoning, IDS, st.lists(TEXTS, max_size=2).map(tuple), TEXTS),
    st.builds(ToolCall, TEXTS, st.sampled_from(["look", "patch", "agents__spawn", "unheard of"]), TEXTS),
)
ANSWERS = st.lists(PIECES, max_size=8)
ALIASES = {"patch": Alias("patch", None, is_custom=True), "agents__spawn": Alias("spawn", "agents")}


@given(ANSWERS, st.sampled_from(["end", "cut", "fail", "cancel"]), st.booleans())
def test_whatever_is_said_and_however_it_ends_the_stream_is_one(
    pieces: list[Piece], ending: str, shows_encrypted: bool
) -> None:
    request = asking(tools=TOOLS, include=["reasoning.encrypted_content"] if shows_encrypted else [])
    made = events_of(request)
    out = [*made.open(), *made.grow(pieces)]
    ways = {
        "end": lambda: made.end(choice(request), 1),
        "cut": lambda: made.end(choice(request, finish=Finish.LENGTH), 1),
        "fail": lambda: made.fail(internal()),
        "cancel": made.cancel,
    }
    for way in (ending, *ways):
        out += ways[way]()
    out += made.grow(pieces)
    events = parse_events(b"".join(out))
    check_stream(events)
    assert sum(event["type"] in TERMINAL for event in events) == 1
    assert json.loads(made.body()) == events[-1]["response"]
    assert [item_id for item_id, _ in made.kept] == [item["id"] for item in done_items(events)]
    assert made.number == len(events)


@given(ANSWERS, st.lists(st.integers(0, 8)))
def test_how_the_pieces_come_makes_no_difference(pieces: list[Piece], cuts: list[int]) -> None:
    request = asking(tools=TOOLS)
    whole, split = events_of(request), events_of(request)
    expected = whole.open() + whole.grow(pieces) + whole.end(choice(request), 1)
    got = split.open()
    places = [0, *sorted(cuts), len(pieces)]
    for begin, end in pairwise(places):
        got += split.grow(pieces[begin:end])
    got += split.end(choice(request), 1)
    assert got == expected


@given(st.lists(TEXTS.filter(bool), min_size=1), st.lists(TEXTS.filter(bool), min_size=1))
def test_how_a_text_is_cut_makes_no_difference_to_the_answer(first: list[str], second: list[str]) -> None:
    if "".join(first) != "".join(second):
        second = ["".join(first)]
    one, other = (told([TextDelta(text) for text in texts])[-1]["response"] for texts in (first, second))
    assert one == other


def test_the_fault_kinds_are_all_tried() -> None:
    assert {error.code for error in ERRORS} >= {from_fault(Fault(kind, "")).code for kind in FaultKind}

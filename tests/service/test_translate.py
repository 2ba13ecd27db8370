"""What the model sees is what the client wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pool.events import ToolSpec, TurnRequest
from service.api.chat import ChatRequest, parse_chat
from service.api.history import Said
from service.translate import MUST_CALL, as_transcript, to_turn
from tests.service.asking import Known


def turn(*messages: dict[str, Any], effort: str | None = None, **fields: Any) -> TurnRequest:
    body = json.dumps({"model": "public", "messages": messages} | fields).encode()
    request, _ = parse_chat(body, find=lambda _: Known(), max_choices=1)
    return to_turn(request, model="private", effort=effort)


def system(text: Any, role: str = "system") -> dict[str, Any]:
    return {"role": role, "content": text}


def item(role: str, *texts: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text} for text in texts]}


USER = {"role": "user", "content": "hi"}


def test_the_model_is_the_routes_and_nothing_is_added() -> None:
    assert turn(USER) == TurnRequest(model="private", instructions="", items=(item("user", "hi"),))


def test_the_system_text_in_front_becomes_the_instructions() -> None:
    got = turn(
        system("be brief"), system([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "developer"), USER
    )
    assert got.instructions == "be brief\n\nab"
    assert got.items == (item("user", "hi"),)


def test_later_system_text_stays_where_it_is_as_the_developers() -> None:
    got = turn(USER, system("now in French"), USER, system("and loud", "developer"))
    assert got.instructions == ""
    assert got.items == (
        item("user", "hi"),
        item("developer", "now in French"),
        item("user", "hi"),
        item("developer", "and loud"),
    )


def test_a_request_of_nothing_but_system_text_still_has_a_history() -> None:
    got = turn(system("say hi"), system("in French", "developer"))
    assert got.instructions == ""
    assert got.items == (item("developer", "say hi"), item("developer", "in French"))


def test_parts_stay_parts() -> None:
    got = turn({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]})
    assert got.items == (item("user", "a", "b"),)


def test_calls_and_results_keep_their_ids() -> None:
    call = {"id": "call_7", "type": "function", "function": {"name": "look", "arguments": '{"at": "x"}'}}
    got = turn(
        USER,
        {"role": "assistant", "content": "I look", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_7", "content": "nothing"},
    )
    assert got.items == (
        item("user", "hi"),
        item("assistant", "I look"),
        {"type": "function_call", "call_id": "call_7", "name": "look", "arguments": '{"at": "x"}'},
        {"type": "function_call_output", "call_id": "call_7", "output": "nothing"},
    )


TOOL = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}}


def test_the_callers_functions_are_the_turns() -> None:
    got = turn(USER, tools=[TOOL])
    assert got.tools == (ToolSpec("look", "Looks.", {"type": "object"}),)
    assert got.instructions == ""
    assert turn(USER, tools=[TOOL], tool_choice="none").tools == ()


def test_a_call_that_must_be_made_is_asked_for_after_the_callers_instructions() -> None:
    assert turn(USER, tools=[TOOL], tool_choice="required").instructions == MUST_CALL
    assert (
        turn(system("be brief"), USER, tools=[TOOL], tool_choice="required").instructions == f"be brief\n\n{MUST_CALL}"
    )


@pytest.mark.parametrize(
    ("asked", "route", "effort"),
    [
        (None, None, None),
        (None, "low", "low"),
        ("high", None, "high"),
        ("high", "low", "high"),
        ("none", "low", "none"),
    ],
)
def test_the_clients_effort_wins_over_the_routes(asked: str | None, route: str | None, effort: str | None) -> None:
    assert turn(USER, effort=route, reasoning_effort=asked).effort == effort


def test_verbosity_is_the_clients() -> None:
    assert turn(USER).verbosity is None
    assert turn(USER, verbosity="high").verbosity == "high"


LINES = st.lists(st.text(st.characters(exclude_characters="\n")), max_size=3).map(tuple)
ENTRIES = st.lists(st.builds(Said, st.sampled_from(["system", "developer", "user", "assistant"]), LINES), min_size=1)


@given(ENTRIES)
def test_no_text_is_lost_or_moved_and_no_history_is_empty(entries: list[Said]) -> None:
    got = to_turn(ChatRequest(model="m", messages=tuple(entries)), model="m", effort=None)
    shown = [part["text"] for shown_item in got.items for part in shown_item["content"]]
    written = [text for entry in entries for text in entry.texts]
    assert got.instructions.replace("\n\n", "") + "".join(shown) == "".join(written)
    assert got.items
    assert "system" not in {shown_item["role"] for shown_item in got.items}


# --- as one text -------------------------------------------------------------------------------------------------


def test_a_transcript_is_one_text_of_the_user_that_says_whose_words_are_whose() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"of":"x"}'}}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    whole = turn(
        system("Be terse."),
        {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "x?"}, picture]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "a letter"},
        {"role": "assistant", "content": "A letter."},
        system("In French now."),
        USER,
        tools=[{"type": "function", "function": {"name": "look"}}],
    )
    assert as_transcript(whole) == replace(
        whole,
        instructions="",
        items=(
            {
                "type": "message",
                "role": "user",
                "content": [
                    {
                        "type": "input_text",
                        "text": '[system] Be terse.\n[user] What is x?\n[assistant] look({"of":"x"}) #call_1\n'
                        "[tool] #call_1 a letter\n[assistant] A letter.\n[system] In French now.\n[user] hi",
                    },
                    {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
                ],
            },
        ),
    )

"""However an answer is cut into deltas, it is the same: whole or streamed, cut short or not, with calls or not."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.examples import trying
from tests.support.services import Json, scripted
from tests.support.serving import Served

ALPHABETS = ["ab", "aé😀", '\r\n :{}"\\', "a\u0300\u200d\u202e\0"]
TOOLS: list[Json] = [{"type": "function", "function": {"name": "look"}}]
CALLS: list[Json] = [
    {"name": "look", "arguments": '{"at": "é"}', "call_id": "call_a"},
    {"name": "look", "call_id": "call_b"},
]


XML, JSON = "obsidian-xml", "openai-json"


class Case(NamedTuple):
    """A text, two ways to cut it, and what is asked for."""

    text: str
    first: list[str]
    second: list[str]
    fields: Json
    calls: list[Json]
    mode: str


@st.composite
def pieces(draw: st.DrawFn, text: str) -> list[str]:
    """The text, cut anywhere; some of the pieces are empty."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    alphabet = draw(st.sampled_from(ALPHABETS))
    text = draw(st.text(alphabet, min_size=1, max_size=60))
    fields: Json = {}
    if draw(st.booleans()):
        fields["stop"] = draw(st.lists(st.text(alphabet, min_size=1, max_size=4), min_size=1, max_size=4))
    if draw(st.booleans()):
        fields["max_tokens"] = draw(st.integers(1, 20))
    calls = draw(st.sampled_from([[], [], CALLS[:1], CALLS]))
    if calls:
        fields |= {"tools": TOOLS, "parallel_tool_calls": draw(st.booleans())}
    return Case(text, draw(pieces(text)), draw(pieces(text)), fields, calls, JSON)


BLOCK = "<use_tool>\n<name>look</name>\n<at>é &amp; ä</at></use_tool>"
FRAGMENTS = [
    *(BLOCK, "<use_tool name='look'/>", '<use_tool>{"name": "look", "arguments": {"a": "</use_tool>"}}</use_tool>'),
    *(
        "<use_tool>",
        "</use_tool>",
        "<name>look</name>",
        "<name>",
        "</name>",
        "listen",
        "<at>",
        "</at>",
        "<args>{}</args>",
    ),
    *("<args>{}</args>", "<use_", "tool>", "<", ">", "&lt;", "a", "é", "😀", " ", "\n", "Text before. "),
]


@st.composite
def cases_with_blocks(draw: st.DrawFn) -> Case:
    text = "".join(draw(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=12)))
    fields: Json = {}
    if draw(st.booleans()):
        fields |= {"tools": TOOLS, "parallel_tool_calls": draw(st.booleans())}
    if draw(st.integers(0, 3)) == 0:
        fields["stop"] = [draw(st.sampled_from(["listen", "</name>", "a", "é", "<", "😀 "]))]
    if draw(st.integers(0, 3)) == 0:
        fields["max_tokens"] = draw(st.integers(1, 30))
    calls = draw(st.sampled_from([[], CALLS[:1], CALLS])) if "tools" in fields else []
    return Case(text, draw(pieces(text)), draw(pieces(text)), fields, calls, draw(st.sampled_from([JSON, XML])))


class Said(NamedTuple):
    """What a client has at the end; `told` is how many calls it was told there are, and whether some were left out."""

    text: str
    calls: list[tuple[str, str, str]]
    finish: str
    told: tuple[int, bool]


def whole(served: Served, case: Case, deltas: list[str]) -> Said:
    answer = served.chat(prompt(case, deltas), headers={"x-proxy-output-mode": case.mode}, **case.fields)
    assert answer.status == 200, answer.raw
    (choice,) = answer.json["choices"]
    made = choice["message"].get("tool_calls", [])
    calls = [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in made]
    told = answer.headers["x-codex-tool-call-count"], answer.headers["x-codex-tool-call-truncated"]
    return Said(choice["message"]["content"] or "", calls, choice["finish_reason"], (int(told[0]), told[1] == "true"))


def streamed(served: Served, case: Case, deltas: list[str]) -> Said:
    headers = {"x-proxy-output-mode": case.mode}
    answer = served.chat(prompt(case, deltas), headers=headers, stream=True, **case.fields)
    assert answer.status == 200, answer.raw
    stream = answer.stream
    assert stream.is_done
    calls: dict[int, list[str]] = {}
    for part in (part for chunk in stream.chunks for part in chunk["choices"][0]["delta"].get("tool_calls", ())):
        if "id" in part:
            calls[part["index"]] = [part["id"], part["function"]["name"], ""]
        calls[part["index"]][2] += part["function"]["arguments"]
    assert list(calls) == list(range(len(calls)))
    (finish,) = stream.finishes
    told = (0, False)
    for comment in stream.comments:
        facts = json.loads(comment.removeprefix(": "))
        told = facts["tool_call_count"], facts["tool_call_truncated"]
    return Said(stream.text, [(one, two, three) for one, two, three in calls.values()], finish, told)


def prompt(case: Case, deltas: list[str]) -> str:
    directive: dict[str, Any] = {"chunks": deltas}
    if case.calls:
        directive["tool_calls"] = case.calls
    return scripted(**directive)


@settings(trying(0.4), suppress_health_check=[*HealthCheck])
@given(case=cases())
def test_an_answer_is_the_same_however_it_is_cut(served: Served, case: Case) -> None:
    check(served, case)


@pytest.mark.codex
@pytest.mark.parametrize("served", ["cli"], indirect=True)
@settings(trying(0.15), suppress_health_check=[*HealthCheck])
@given(case=cases())
def test_so_it_is_through_the_real_cli(served: Served, case: Case) -> None:
    check(served, case)


def same(served: Served, case: Case) -> Said:
    """The answer, which is the same in all four ways to get it."""
    said = whole(served, case, case.first)
    assert whole(served, case, case.second) == said
    assert streamed(served, case, case.first) == said
    assert streamed(served, case, case.second) == said
    assert said.told[0] == len(said.calls)
    return said


def check(served: Served, case: Case) -> None:
    """It is the same, and what it has to be."""
    said = same(served, case)
    stops = case.fields.get("stop", ())
    ends = [(place + len(stop), place) for stop in stops if (place := case.text.find(stop)) >= 0]
    text = case.text[: min(ends)[1]] if ends else case.text
    if "max_tokens" in case.fields:
        assert text.startswith(said.text)
    else:
        assert said.text == text
        assert said.finish == ("stop" if ends or not case.calls else "tool_calls")
    wanted = [(call["call_id"], call["name"], call.get("arguments", "{}")) for call in case.calls]
    if said.finish == "tool_calls":
        assert said.calls == (wanted if case.fields["parallel_tool_calls"] else wanted[:1])
    else:
        assert said.calls == []


@settings(trying(1), suppress_health_check=[*HealthCheck])
@given(case=cases_with_blocks())
def test_so_are_calls_that_are_written_into_it(served: Served, case: Case) -> None:
    said = same(served, case)
    if case.mode == JSON and "tools" not in case.fields:
        assert said.calls == []
    if (case.mode == XML or not said.calls) and not case.calls and not case.fields:
        assert said.text == case.text

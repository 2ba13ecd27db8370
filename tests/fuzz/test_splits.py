"""However an answer is cut into deltas, it is the same: whole or streamed, cut short or not, with calls or not."""

from __future__ import annotations

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


class Case(NamedTuple):
    """A text, two ways to cut it, and what is asked for."""

    text: str
    first: list[str]
    second: list[str]
    fields: Json
    calls: list[Json]


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
    return Case(text, draw(pieces(text)), draw(pieces(text)), fields, calls)


class Said(NamedTuple):
    """What a client has at the end."""

    text: str
    calls: list[tuple[str, str, str]]
    finish: str


def whole(served: Served, case: Case, deltas: list[str]) -> Said:
    answer = served.chat(prompt(case, deltas), **case.fields)
    assert answer.status == 200, answer.raw
    (choice,) = answer.json["choices"]
    made = choice["message"].get("tool_calls", [])
    calls = [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in made]
    return Said(choice["message"]["content"] or "", calls, choice["finish_reason"])


def streamed(served: Served, case: Case, deltas: list[str]) -> Said:
    answer = served.chat(prompt(case, deltas), stream=True, **case.fields)
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
    return Said(stream.text, [(one, two, three) for one, two, three in calls.values()], finish)


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


def check(served: Served, case: Case) -> None:
    """Four ways to get the answer, and what it has to be."""
    said = whole(served, case, case.first)
    assert whole(served, case, case.second) == said
    assert streamed(served, case, case.first) == said
    assert streamed(served, case, case.second) == said
    ends = [place for stop in case.fields.get("stop", ()) if (place := case.text.find(stop)) >= 0]
    until = min(ends, default=len(case.text))
    if "max_tokens" in case.fields:
        assert case.text[:until].startswith(said.text)
    else:
        assert said.text == case.text[:until]
        assert said.finish == ("stop" if ends or not case.calls else "tool_calls")
    wanted = [(call["call_id"], call["name"], call.get("arguments", "{}")) for call in case.calls]
    if said.finish == "tool_calls":
        assert said.calls == (wanted if case.fields["parallel_tool_calls"] else wanted[:1])
    else:
        assert said.calls == []

"""What was said and called reaches the model as it was, or the request is refused."""

from __future__ import annotations

from typing import Any

import pytest

from service.api.history import Answered, Called, Said
from service.api.pictures import Picture
from tests.service.asking import GENERIC, ask, call, calling, refusal, result, user


def say(*messages: Any) -> tuple[Any, ...]:
    return ask(messages=list(messages)).messages


def test_text_is_kept_verbatim_with_its_role_and_its_parts() -> None:
    odd = " \x00\u2028\U0001f600\r\n"
    assert say(
        {"role": "system", "content": odd},
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        user(odd),
        {"role": "assistant", "content": odd},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "refusal": None, "annotations": []},
        {"role": "assistant", "content": None, "refusal": "never"},
        user(""),
    ) == (
        Said("system", (odd,)),
        Said("developer", ("a", "b")),
        Said("user", (odd,)),
        Said("assistant", (odd,)),
        Said("assistant", ("no",)),
        Said("assistant", ("never",)),
        Said("user", ("",)),
    )


def test_calls_and_their_results_are_kept_as_pairs() -> None:
    assert say(
        user(),
        calling(call("a", "f", '{"x": 1}'), call("b", "g", "not json"), content="I look"),
        result("b", [{"type": "text", "text": "B"}, {"type": "text", "text": "2"}]),
        result("a", "A"),
        calling(call("a"), function_call=None, content=""),
        result("a", ""),
    ) == (
        Said("user", ("go on",)),
        Said("assistant", ("I look",)),
        Called("a", "f", '{"x": 1}'),
        Called("b", "g", "not json"),
        Answered("b", "B2"),
        Answered("a", "A"),
        Called("a", "look", "{}"),
        Answered("a", ""),
    )


def test_legacy_calls_get_an_id_of_their_own() -> None:
    legacy = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    answer = {"role": "function", "name": "f", "content": "1"}
    assert say(user(), legacy, answer, legacy, answer | {"content": None}) == (
        Said("user", ("go on",)),
        Called("function_call_1", "f", "{}"),
        Answered("function_call_1", "1"),
        Called("function_call_3", "f", "{}"),
        Answered("function_call_3", ""),
    )


def test_what_a_user_shows_stays_among_what_it_says() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,", "detail": "high"}}
    parts = [{"type": "text", "text": "a"}, image, {"type": "text", "text": "b"}]
    picture = Picture("data:,", "messages[0].content[1].image_url.url", "high")
    (said,) = say(user(parts))
    assert said == Said("user", ("a", picture, "b"))
    assert isinstance(said, Said)
    assert said.texts == ("a", "b")


LEGACY = {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "user"}], "messages[0].content"),
        ([user(None)], "messages[0].content"),
        ([user([])], "messages[0].content"),
        ([user(7)], "messages[0].content"),
        ([{"role": "assistant", "content": None}], "messages[0].content"),
        ([{"role": "assistant", "content": None, "tool_calls": []}], "messages[0].content"),
        ([{"role": "assistant", "content": "x", "refusal": 7}], "messages[0].refusal"),
        ([user(["x"])], "messages[0].content[0]"),
        ([user([{"type": "text"}])], "messages[0].content[0].text"),
        ([user([{"type": "text", "text": None}])], "messages[0].content[0].text"),
        ([user([{"type": "refusal", "refusal": "x"}])], "messages[0].content[0].type"),
        ([user([{"type": "hologram"}])], "messages[0].content[0].type"),
        ([user([{"type": ["text"]}])], "messages[0].content[0].type"),
        ([user([{"text": "x"}])], "messages[0].content[0].type"),
        ([user(), calling("x")], "messages[1].tool_calls[0]"),
        ([user(), {"role": "assistant", "tool_calls": "x"}], "messages[1].tool_calls"),
        ([user(), calling({"id": "a"})], "messages[1].tool_calls[0].type"),
        ([user(), calling(call(call_id=7))], "messages[1].tool_calls[0].id"),
        ([user(), calling(call(call_id=""))], "messages[1].tool_calls[0].id"),
        ([user(), calling({"id": "a", "type": "function"})], "messages[1].tool_calls[0].function"),
        ([user(), calling(call(name=""))], "messages[1].tool_calls[0].function.name"),
        ([user(), calling(call(arguments={}))], "messages[1].tool_calls[0].function.arguments"),
        ([user(), calling(call(), call()), result()], "messages[1].tool_calls[1].id"),
        ([user(), calling(call()), {"role": "tool", "content": "x"}], "messages[2].tool_call_id"),
        ([user(), calling(call()), result("other")], "messages[2].tool_call_id"),
        ([user(), calling(call()), result(), result()], "messages[3].tool_call_id"),
        ([user(), result()], "messages[1].tool_call_id"),
        ([user(), calling(call()), result(content=None)], "messages[2].content"),
        ([user(), calling(call())], "messages[1]"),
        ([user(), calling(call()), user(), result()], "messages[1]"),
        ([user(), calling(call("a"), call("b")), result("a"), user()], "messages[1]"),
        ([user(), LEGACY], "messages[1]"),
        ([user(), LEGACY, {"role": "function", "content": "x"}], "messages[2].name"),
        ([user(), LEGACY, {"role": "function", "name": "g", "content": "x"}], "messages[2].name"),
        ([user(), LEGACY, result("function_call_1")], "messages[2].tool_call_id"),
        ([user(), {"role": "assistant", "function_call": "f"}], "messages[1].function_call"),
    ],
)
def test_a_message_that_would_not_reach_the_model_as_meant_is_refused(messages: list[Any], param: str) -> None:
    error = refusal(messages=messages)
    assert (error.status, error.param, error.code) == (400, param, GENERIC)


def test_unanswered_calls_are_named() -> None:
    error = refusal(messages=[user(), calling(call("a"), call("b"), call("c")), result("b")])
    assert error.message.endswith("no answer to: a, c")

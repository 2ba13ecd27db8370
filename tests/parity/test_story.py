"""Two answers are compared as a client would: by what it may rely on."""

from __future__ import annotations

import json
from typing import Any

from tests.parity.story import Story, differences

JSON = {"Content-Type": "application/json; charset=utf-8"}
SSE = {"Content-Type": "text/event-stream"}


def chunk(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "i", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]} | fields
    return f"data: {json.dumps(body)}\n\n"


def call(index: int, **function: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "function": function}]}


def stream(*events: str) -> Story:
    return Story.of(200, SSE, "".join(events).encode())


def whole(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Story:
    return Story.of(status, JSON | (headers or {}), json.dumps(body).encode())


def refused(status: int, **fields: Any) -> Story:
    return whole({"error": {"message": "m", "code": "c"} | fields}, status)


ROLE, DONE = chunk({"role": "assistant"}), "data: [DONE]\n\n"


def test_a_stream_is_told_in_its_order_and_pieces_that_belong_together_are_one() -> None:
    story = stream(
        ROLE,
        chunk({"content": "a"}),
        ": keepalive 1\n\n",
        chunk({"content": "b"}),
        chunk({"content": "c"}),
        chunk(call(0, name="f")),
        chunk(call(0, arguments='{"x":')),
        chunk(call(0, arguments="1}")),
        chunk({}, "tool_calls"),
        ': {"tool_call_count":1}\n\n',
        DONE,
    )
    assert story.says["stream"] == [
        "role 1",
        'text[0] "a"',
        "keepalive",
        'text[0] "bc"',
        "call[0.0] f",
        'arguments[0.0] {"x":1}',
        "finish tool_calls",
        'comment {"tool_call_count":1}',
        "done",
    ]
    assert story.brief == "200 role, text, keepalive, text, call, arguments, finish tool_calls, comment, done"


def test_arguments_that_were_repeated_and_those_that_are_appended_are_the_same() -> None:
    repeated = stream(
        chunk(call(0, arguments="{")), chunk(call(0, arguments='{"x":')), chunk(call(0, arguments='{"x":1}'))
    )
    appended = stream(chunk(call(0, arguments='{"x"')), chunk(call(0, arguments=":1}")))
    assert not differences(repeated, appended)


def test_another_order_is_a_difference() -> None:
    finish, comment = chunk({}, "stop"), ": told\n\n"
    assert differences(stream(ROLE, finish, comment, DONE), stream(ROLE, comment, finish, DONE))
    assert differences(stream(ROLE, finish, DONE), stream(ROLE, finish))


def test_what_is_new_is_no_difference_and_what_is_gone_is() -> None:
    body = {"id": "i", "object": "chat.completion", "model": "m", "choices": [], "usage": {"total_tokens": 1}}
    more = body | {"usage": {"total_tokens": 2, "more": 3}, "service_tier": "default"}
    old, new = whole(body), whole(more, headers={"x-new": "1"})
    assert not differences(old, new)
    gone = ["header x-new: 1 is now not there", "body.service_tier is gone", "body.usage.more is gone"]
    assert differences(new, old) == gone


def test_errors_are_compared_word_for_word() -> None:
    old = refused(400)
    assert not differences(old, refused(400, param=None))
    assert differences(old, refused(400, message="other"))
    assert differences(old, refused(404)) == ["status 400 is now 404"]


def test_headers_that_vary_only_have_to_be_there() -> None:
    old = whole({}, headers={"X-Request-Id": "1", "Retry-After": "10", "Date": "d", "X-Powered-By": "p"})
    assert not differences(old, whole({}, headers={"x-request-id": "2", "retry-after": "3"}))
    assert differences(old, whole({}, headers={"x-request-id": "2"})) == ["header retry-after: * is now not there"]


def test_lists_of_names_may_become_longer() -> None:
    old = Story.of(204, {"Access-Control-Allow-Headers": "A, B"}, b"")
    assert not differences(old, Story.of(204, {"access-control-allow-headers": "b, c, a"}, b""))
    assert differences(old, Story.of(204, {"access-control-allow-headers": "a"}, b""))

"""Calls for clients that read them in the text, from such a client's side of the wire; and for everybody else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from service.cors import DEFAULT_HEADERS, EXPOSED_HEADERS
from tests.service.test_functions_over_http import gathered, message, tool
from tests.support.services import AUTHORIZED, Answer, Json, RunningService, running_service, scripted

XML, JSON = "obsidian-xml", "openai-json"
IN_XML, IN_JSON = {"x-proxy-output-mode": XML}, {"x-proxy-output-mode": JSON}
BLOCK = "<use_tool>\n  <name>lookup_user</name>\n  <id>ユーザー-12345</id>\n</use_tool>"
LOOKUP = tool("lookup_user")
USAGE = {"input_tokens": 8, "output_tokens": 16}
WITH_USAGE: Json = {"stream": True, "stream_options": {"include_usage": True}}
ENDLESS = ["tick "] * 2000


def written(name: str, **values: str) -> str:
    """A block as the service writes it."""
    lines = "".join(f"\n  <{key}>{value}</{key}>" for key, value in {"name": name, **values}.items())
    return f"<use_tool>{lines}\n</use_tool>"


A, B = written("lookup_user", id="1"), written("send_email", id="2")


def called(id: str, name: str, arguments: str) -> Json:  # noqa: A002 - OpenAI's word
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


IN_TEXT = called("tool_0_0", "lookup_user", '{"id": "ユーザー-12345"}')


def shape(answer: Answer) -> list[Any]:
    """The events of a stream, reduced to what differs between them."""
    out: list[Any] = []
    for event in answer.stream.events:
        if isinstance(event, str):
            out.append(event)
        elif event["choices"]:
            out += [choice["finish_reason"] or choice["delta"] for choice in event["choices"]]
        else:
            out.append("usage")
    return out


def calls_comment(count: int, is_truncated: bool = False, mode: str = "burst") -> str:
    facts = {"tool_call_count": count, "tool_call_truncated": is_truncated, "stop_after_tools_mode": mode}
    return ": " + json.dumps(facts, separators=(",", ":"))


def in_form(answer: Answer) -> str:
    return answer.headers["x-proxy-output-mode"]


@pytest.fixture
async def configured(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[RunningService]:
    """A service with these settings of `[tools]`."""
    async with running_service(tmp_path, tools=request.param) as running:
        yield running
        await running.until_at_rest()


def setting(**tools: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("configured", [tools], indirect=True)


# --- in what form ------------------------------------------------------------------------------------------------


async def test_the_answer_says_in_what_form_it_is(api: RunningService) -> None:
    copilot = [{"role": "system", "content": "Use <use_tool>."}, {"role": "user", "content": "Hello."}]
    assert in_form(await api.chat()) == JSON
    assert in_form(await api.chat(stream=True)) == JSON
    assert in_form(await api.chat(messages=copilot)) == XML
    assert in_form(await api.chat(headers={"x-copilot-trace-id": "t"})) == XML
    assert in_form(await api.chat(headers={"X-Proxy-Output-Mode": "Obsidian"}, stream=True)) == XML
    assert in_form(await api.chat(headers=IN_JSON, messages=copilot)) == JSON
    answer = await api.chat(scripted(status=400, error={"message": "no"}), headers=IN_XML)
    assert (answer.status, in_form(answer)) == (400, XML)
    assert answer.headers["x-codex-stop-after-tools-mode"] == "burst"


async def test_a_form_that_there_is_not_is_a_bad_request_of_that_header(api: RunningService) -> None:
    answer = await api.chat(headers={"x-proxy-output-mode": "yaml"})
    assert (answer.status, answer.code) == (400, "invalid_request_error")
    assert answer.error["param"] == "x-proxy-output-mode"
    assert "auto, obsidian-xml, openai-json" in answer.error["message"]
    assert "x-proxy-output-mode" not in answer.headers


@pytest.mark.parametrize(
    ("configured", "form"),
    [({"output_mode": XML}, JSON), ({"responses_output_mode": XML}, XML)],
    indirect=["configured"],
)
async def test_responses_have_a_form_of_their_own(configured: RunningService, form: str) -> None:
    answer = await configured.call(
        "POST", "/v1/responses", json={"model": "codex-5", "input": "Hi."}, headers=AUTHORIZED
    )
    assert (answer.status, in_form(answer)) == (200, form)
    assert in_form(await configured.chat()) == (XML if form == JSON else JSON)


@setting(output_mode=XML)
async def test_the_operator_may_set_a_form_and_the_client_another(configured: RunningService) -> None:
    assert in_form(await configured.chat()) == XML
    assert in_form(await configured.chat(headers=IN_JSON)) == JSON
    assert in_form(await configured.chat(headers={"x-proxy-output-mode": "auto"})) == JSON


def test_pages_may_send_and_read_the_headers_of_calls() -> None:
    assert "X-Proxy-Output-Mode" in DEFAULT_HEADERS
    exposed = EXPOSED_HEADERS.split(", ")
    assert {"x-proxy-output-mode", "x-codex-stop-after-tools-mode"} < set(exposed)
    assert {"x-codex-tool-call-count", "x-codex-tool-call-truncated"} < set(exposed)


# --- calls in the structure --------------------------------------------------------------------------------------

MADE = [{"name": "lookup_user", "arguments": '{"id":"42"}', "call_id": "call_a"}]
MADE_BLOCK = written("lookup_user", id="42")


async def test_a_call_is_told_as_json_and_then_as_a_block(api: RunningService) -> None:
    prompt = scripted(tool_calls=MADE, usage=USAGE)
    whole = await api.chat(prompt, tools=[LOOKUP], headers=IN_XML)
    assert message(whole.json) == {
        "role": "assistant",
        "content": MADE_BLOCK,
        "refusal": None,
        "tool_calls": [called("call_a", "lookup_user", '{"id":"42"}')],
    }
    assert whole.json["choices"][0]["finish_reason"] == "tool_calls"
    assert whole.headers["x-codex-tool-call-count"] == "1"
    assert whole.headers["x-codex-tool-call-truncated"] == "false"
    streamed = await api.chat(prompt, tools=[LOOKUP], headers=IN_XML, **WITH_USAGE)
    assert shape(streamed) == [
        {"role": "assistant"},
        {"tool_calls": [{"index": 0} | called("call_a", "lookup_user", "")]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"id":"42"}'}}]},
        {"content": MADE_BLOCK},
        "tool_calls",
        calls_comment(1),
        "usage",
        "[DONE]",
    ]


async def test_several_calls_are_several_blocks(api: RunningService) -> None:
    calls = [{"name": name, "arguments": '{"id":"42"}'} for name in ("lookup_user", "send_email")]
    prompt = scripted(text="I look.", tool_calls=calls)
    answer = await api.chat(prompt, tools=[LOOKUP, tool("send_email")], headers=IN_XML)
    assert answer.text == f"I look.{MADE_BLOCK}{written('send_email', id='42')}"
    assert answer.headers["x-codex-tool-call-count"] == "2"


# --- calls in the text -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
async def test_a_block_is_told_as_json_and_then_as_it_was_however_it_came(api: RunningService, chunk_size: int) -> None:
    prompt = f"before {BLOCK} after" + scripted(echo=True, chunk_size=chunk_size, usage=USAGE)
    events = shape(await api.chat(prompt, headers=IN_XML, **WITH_USAGE))
    at = events.index({"tool_calls": [{"index": 0} | IN_TEXT]})
    assert "".join(event["content"] for event in events[1:at]) == "before "
    assert events[at + 1] == {"content": BLOCK}
    assert "".join(event["content"] for event in events[at + 2 : -4]) == " after"
    assert events[-4:] == ["tool_calls", calls_comment(1), "usage", "[DONE]"]
    whole = await api.chat(prompt, headers=IN_XML)
    assert message(whole.json)["content"] == f"before {BLOCK} after"
    assert message(whole.json)["tool_calls"] == [IN_TEXT]


async def test_a_block_becomes_a_call_of_a_defined_function_for_everybody(api: RunningService) -> None:
    prompt = f"before {BLOCK}{B} after" + scripted(echo=True, chunk_size=7)
    whole = await api.chat(prompt, tools=[LOOKUP])
    assert message(whole.json)["content"] == f"before {B} after"
    assert message(whole.json)["tool_calls"] == [IN_TEXT]
    stream = (await api.chat(prompt, tools=[LOOKUP], stream=True)).stream
    assert stream.text == f"before {B} after"
    assert [chunk["choices"][0]["delta"].get("tool_calls") for chunk in stream.chunks].count(
        [{"index": 0} | IN_TEXT]
    ) == 1
    assert stream.finishes == ["tool_calls"]


async def test_who_defined_no_function_and_reads_no_blocks_gets_the_text(api: RunningService) -> None:
    prompt = f"before {BLOCK} after" + scripted(echo=True, chunk_size=7)
    whole = await api.chat(prompt)
    assert (whole.text, whole.json["choices"][0]["finish_reason"]) == (f"before {BLOCK} after", "stop")
    assert whole.headers["x-codex-tool-call-count"] == "0"
    stream = (await api.chat(prompt, stream=True)).stream
    assert (stream.text, stream.finishes, stream.comments) == (f"before {BLOCK} after", ["stop"], [])


@pytest.mark.parametrize("headers", [IN_XML, IN_JSON])
async def test_a_block_that_the_end_cuts_off_is_text_and_comes_before_the_finish(
    api: RunningService, headers: dict[str, str]
) -> None:
    text = f"before {BLOCK[:-6]}"
    prompt = text + scripted(echo=True, chunk_size=7)
    answer = await api.chat(prompt, headers=headers, tools=[LOOKUP], stream=True)
    assert (answer.stream.text, shape(answer)[-2:]) == (text, ["stop", "[DONE]"])
    assert (await api.chat(prompt, headers=headers, tools=[LOOKUP])).text == text


async def test_a_call_in_the_text_and_in_the_structure_is_one_call(api: RunningService) -> None:
    same = [{"name": "lookup_user", "arguments": '{"id":"ユーザー-12345"}', "call_id": "call_a"}]
    prompt = BLOCK + scripted(echo=True, tool_calls=same)
    answer = await api.chat(prompt, headers=IN_XML, tools=[LOOKUP])
    assert (answer.text, message(answer.json)["tool_calls"]) == (BLOCK, [IN_TEXT])


async def test_choices_have_calls_of_their_own(api: RunningService) -> None:
    prompt = BLOCK + scripted(echo=True, chunk_size=9)
    answer = await api.chat(prompt, headers=IN_XML, n=2)
    made = [choice["message"]["tool_calls"][0]["id"] for choice in answer.json["choices"]]
    assert made == ["tool_0_0", "tool_1_0"]
    assert answer.headers["x-codex-tool-call-count"] == "2"
    stream = (await api.chat(prompt, headers=IN_XML, n=2, stream=True)).stream
    assert stream.finishes == ["tool_calls"] * 2
    assert stream.comments == [calls_comment(2)]


async def test_a_block_is_a_legacy_call_for_who_asks_in_the_legacy_way(api: RunningService) -> None:
    prompt = BLOCK + BLOCK + scripted(echo=True)
    answer = await api.chat(prompt, functions=[{"name": "lookup_user"}])
    assert message(answer.json)["function_call"] == IN_TEXT["function"]
    assert answer.json["choices"][0]["finish_reason"] == "function_call"
    assert answer.headers["x-codex-tool-call-truncated"] == "true"


async def test_a_call_that_must_be_made_may_be_made_in_the_text(api: RunningService) -> None:
    choice = {"type": "function", "function": {"name": "lookup_user"}}
    tools = [LOOKUP, tool("send_email")]
    good = await api.chat(BLOCK + scripted(echo=True), tools=tools, tool_choice=choice)
    assert message(good.json)["tool_calls"] == [IN_TEXT]
    bad = await api.chat(B + scripted(echo=True), tools=tools, tool_choice=choice)
    assert (bad.status, bad.code) == (502, "tool_choice_not_followed")


async def test_an_idle_stream_is_kept_alive_while_a_block_is_held_back(tmp_path: Path) -> None:
    async with running_service(tmp_path, server={"commit_delay_s": 0.05, "keepalive_s": 0.05}) as api:
        prompt = BLOCK + scripted(echo=True, chunk_size=20, interval_s=0.1)
        events = shape(await api.chat(prompt, headers=IN_XML, stream=True))
        assert events[1].startswith(": keepalive ")
        assert [event for event in events if ": keepalive" not in event] == [
            *({"role": "assistant"}, {"tool_calls": [{"index": 0} | IN_TEXT]}, {"content": BLOCK}),
            *("tool_calls", calls_comment(1), "[DONE]"),
        ]


# --- how many, and until when ------------------------------------------------------------------------------------

TWO = scripted(chunks=[A, " between ", B, " after"])
LONG = scripted(chunks=[A, " and ", *ENDLESS], interval_s=0.01)


@setting(max_calls=1, grace_s=0.05)
async def test_the_limit_is_exact_in_every_form(configured: RunningService) -> None:
    calls = [{"name": "lookup_user", "arguments": json.dumps({"id": str(number)})} for number in range(3)]
    for prompt in (scripted(tool_calls=calls), scripted(chunks=[A, A, A])):
        for headers in (IN_XML, IN_JSON):
            whole = await configured.chat(prompt, headers=headers, tools=[LOOKUP])
            assert len(message(whole.json)["tool_calls"]) == 1
            assert whole.headers["x-codex-tool-call-count"] == "1"
            assert whole.headers["x-codex-tool-call-truncated"] == "true"
            stream = (await configured.chat(prompt, headers=headers, tools=[LOOKUP], stream=True)).stream
            assert len(gathered(stream)) == 1
            assert stream.comments == [calls_comment(1, is_truncated=True)]
            assert stream.finishes == ["tool_calls"]
            assert stream.text.count("</use_tool>") == (1 if headers is IN_XML else 0)


@setting(stop_mode="first")
async def test_an_answer_may_end_with_its_first_call(configured: RunningService) -> None:
    whole = await configured.chat(LONG, headers=IN_XML)
    assert (whole.text, whole.json["choices"][0]["finish_reason"]) == (A, "tool_calls")
    assert whole.headers["x-codex-stop-after-tools-mode"] == "first"
    assert whole.headers["x-codex-usage"] == "estimated"
    answer = await configured.chat(LONG, headers=IN_XML, stream=True)
    assert shape(answer)[2:] == [{"content": A}, "tool_calls", calls_comment(1, mode="first"), "[DONE]"]
    assert answer.headers["x-codex-stop-after-tools-mode"] == "first"
    await configured.until_at_rest()
    assert configured.counted("turns_total", profile="default", outcome="interrupted") == 2


@setting(stop_after=True, grace_s=0.1)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_may_end_a_little_after_its_calls(configured: RunningService, stream: bool) -> None:
    answer = await configured.chat(LONG, headers=IN_XML, stream=stream)
    text = answer.stream.text if stream else answer.text
    assert text.startswith(f"{A} and tick ")
    assert len(text) < len(A) + 500
    silent = scripted(chunks=[A, "never said"], hang="middle")
    answer = await configured.chat(silent, headers=IN_XML, stream=stream)
    assert (answer.stream.text if stream else answer.text) == A
    if stream:
        assert (answer.stream.finishes, answer.stream.is_done) == (["tool_calls"], True)


@setting(stop_after=True, grace_s=30.0)
async def test_an_answer_that_ends_within_the_grace_ends_there(configured: RunningService) -> None:
    answer = await configured.chat(TWO, headers=IN_XML)
    assert answer.text == f"{A} between {B} after"
    assert "x-codex-usage" not in answer.headers


@setting(suppress_tail=True)
async def test_text_after_the_last_call_may_be_dropped(configured: RunningService) -> None:
    for headers, text in ((IN_XML, f"{A} between {B}"), (IN_JSON, " between ")):
        tools = [LOOKUP, tool("send_email")]
        assert (await configured.chat(TWO, headers=headers, tools=tools)).text == text
        stream = (await configured.chat(TWO, headers=headers, tools=tools, stream=True)).stream
        assert (stream.text, stream.finishes) == (text, ["tool_calls"])
    assert (await configured.chat(scripted(text="no call at all"), headers=IN_XML)).text == "no call at all"


@setting(dedup=True, delimiter="--")
async def test_equal_calls_may_be_dropped_and_blocks_be_delimited(configured: RunningService) -> None:
    prompt = scripted(chunks=[A, A, B, A])
    answer = await configured.chat(prompt, headers=IN_XML)
    assert answer.text == f"{A}--{B}"
    assert answer.headers["x-codex-tool-call-count"] == "2"
    assert answer.headers["x-codex-tool-call-truncated"] == "false"
    assert (await configured.chat(prompt, headers=IN_XML, stream=True)).stream.text == f"{A}--{B}"


async def test_the_controls_are_reloaded(tmp_path: Path) -> None:
    async with running_service(tmp_path) as api:
        assert (await api.chat(TWO, headers=IN_XML)).text == f"{A} between {B} after"
        await api.reload(tools={"suppress_tail": True, "output_mode": XML})
        assert (await api.chat(TWO)).text == f"{A} between {B}"

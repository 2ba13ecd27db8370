"""The scenarios of the Responses API."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.parity.steps import (
    HANG,
    HELLO,
    ONE_CALL,
    SCHEMA,
    SOME_TEXT,
    TALK_AND_CALL,
    TWO_CALLS,
    USAGE,
    Deed,
    Json,
    Respond,
    Scenario,
    Visit,
    When,
    fails,
    function,
    refuses,
)

TOOLS = [{"type": "function", **function(name)} for name in ("weather", "exec_command")]
THOUGHT = {"reasoning": "hm, well", "text": "It is 42.", "usage": USAGE}
SECRET = {"include": ["reasoning.encrypted_content"]}
BEHIND: Json = {"background": True}
FIRST, SECOND = "/v1/responses/resp_<1>", "/v1/responses/resp_<2>"
UNKNOWN = "/v1/responses/resp_unknown"
COMPLETED, RUNNING, FAILED = (f'"status":"{status}"' for status in ("completed", "in_progress", "failed"))
OUTPUT = {"type": "function_call_output", "call_id": "call_weather", "output": "3C"}


def scenarios() -> tuple[Scenario, ...]:
    """All of them, in their order."""
    return (*_answers(), *_inputs(), *_calls(), *_conversations(), *_stored(), *_background(), *_failures())


def _both(ask: Respond) -> tuple[Respond, Respond]:
    """As one object, and as a stream."""
    return ask, ask.streamed()


def _delete(path: str) -> Visit:
    return Visit(path=path, method="DELETE")


def _cancel(path: str, **fields: Any) -> Visit:
    return Visit(path=f"{path}/cancel", method="POST", **fields)


def _answers() -> Iterator[Scenario]:
    yield Scenario("response", "A response, whole and as a stream.", _both(Respond(HELLO)))
    yield Scenario(
        "response-repeats",
        "Equal deltas are all there; several messages are several items.",
        _both(Respond({"chunks": ["ha", "ha", "\n", "\n"], "usage": USAGE}))
        + _both(Respond({"messages": ["Let me check. ", "It is 42."], "usage": USAGE})),
    )
    yield Scenario("response-empty", "An answer without a word has no output.", _both(Respond({"text": ""})))
    yield Scenario(
        "response-incomplete",
        "An answer that was cut off says why: it said as much as it may, or was asked to, or a filter did it.",
        (
            *_both(Respond(HELLO | {"incomplete": "max_output_tokens"})),
            *_both(Respond(HELLO | {"interval_s": 0.3}, {"max_output_tokens": 2})),
            *_both(Respond(HELLO | {"incomplete": "content_filter"})),
        ),
    )
    yield Scenario(
        "response-json",
        "A strict schema is enforced by the provider, other forms are asked for.",
        (
            Respond(
                {"text": '{"answer": 42}', "usage": USAGE},
                {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}}},
            ),
            Respond({"text": '{"a": 1}', "usage": USAGE}, {"text": {"format": {"type": "json_object"}}}),
        ),
    )
    yield Scenario(
        "response-as-blocks",
        "A call as a block in the text, to a client that reads blocks.",
        _both(Respond(ONE_CALL, {"tools": TOOLS}, headers={"x-proxy-output-mode": "obsidian-xml"})),
    )


def _inputs() -> Iterator[Scenario]:
    yield Scenario(
        "response-input",
        "Items of every role and kind reach the model as they are, behind the instructions.",
        (
            Respond(
                HELLO,
                {"instructions": "Be brief.", "tools": TOOLS, "store": False},
                before=(
                    {"role": "system", "content": "Be kind."},
                    {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
                    {
                        "type": "message",
                        "role": "assistant",
                        "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
                    },
                    {
                        "type": "function_call",
                        "call_id": "call_1",
                        "name": "weather",
                        "arguments": '{"city":"Oslo"}',
                    },
                    {
                        "type": "function_call_output",
                        "call_id": "call_1",
                        "output": [{"type": "input_text", "text": "3C"}],
                    },
                    {"role": "assistant", "content": [{"type": "refusal", "refusal": "No more."}]},
                    {"role": "developer", "content": "Be briefer."},
                ),
            ),
        ),
    )
    yield Scenario(
        "response-options",
        "What is done, what is repeated, what is named as having no effect, and what is refused.",
        (
            Respond(
                HELLO,
                {
                    "reasoning": {"effort": "high", "summary": "auto"},
                    "text": {"verbosity": "low"},
                    "metadata": {"k": "v"},
                    "service_tier": "priority",
                    "max_tool_calls": 3,
                    "truncation": "auto",
                    "temperature": 0.5,
                    "top_p": 0.9,
                    "user": "u",
                    "safety_identifier": "s",
                    "prompt_cache_key": "p",
                    "include": ["message.input_image.image_url"],
                    "stream": True,
                    "stream_options": {"include_obfuscation": True},
                    "verbose": True,
                },
            ),
            Respond(HELLO, {"messages": [{"role": "user", "content": "Hello."}]}),
            Respond(HELLO, {"conversation": "conv_1"}),
            Respond(HELLO, {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}),
        ),
    )
    yield Scenario(
        "response-reasoning",
        "What the model thought is an item; who asks for it gets it in the form that may be sent back.",
        (
            *_both(Respond(THOUGHT)),
            *_both(Respond(THOUGHT, SECRET | {"reasoning": {"summary": "detailed"}, "store": False})),
            Respond(THOUGHT, {"store": False}),
            Respond(
                HELLO,
                {"store": False},
                before=(
                    {"role": "user", "content": "And?"},
                    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAA"},
                    {"type": "reasoning", "id": "rs_2", "summary": [{"type": "summary_text", "text": "lost"}]},
                    {"role": "assistant", "content": "42."},
                ),
            ),
        ),
    )


def _calls() -> Iterator[Scenario]:
    tools: Json = {"tools": TOOLS}
    yield Scenario("response-call", "A call, whole and as a stream.", _both(Respond(ONE_CALL, tools)))
    yield Scenario(
        "response-calls",
        "Two calls, under the caller's names; the first alone where parallel ones are not wanted; text before a call.",
        (
            *_both(Respond(TWO_CALLS, tools)),
            Respond(TWO_CALLS, tools | {"parallel_tool_calls": False}),
            Respond(TALK_AND_CALL, tools).streamed(),
        ),
    )
    yield Scenario(
        "response-custom-call",
        "A call of a custom tool, and one in a namespace.",
        (
            *_both(
                Respond(
                    {"tool_calls": [{"name": "patch", "arguments": '{"input": "x"}', "call_id": "call_1"}]},
                    {"tools": [{"type": "custom", "name": "patch"}]},
                )
            ),
            Respond(
                {"tool_calls": [{"name": "notes__read", "arguments": "{}", "call_id": "call_1"}]},
                {
                    "tools": [
                        {
                            "type": "namespace",
                            "name": "notes",
                            "description": "Notes.",
                            "tools": [{"type": "function", "name": "read", "parameters": {"type": "object"}}],
                        }
                    ]
                },
            ),
        ),
    )
    yield Scenario(
        "response-call-output",
        "The turn after a call: its output reaches the model, which answers.",
        (
            Respond(
                ONE_CALL,
                tools,
                after=(
                    {
                        "type": "function_call",
                        "call_id": "call_weather",
                        "name": "weather",
                        "arguments": '{"city": "Oslo"}',
                    },
                    OUTPUT,
                ),
            ),
            Respond(ONE_CALL, tools, after=(OUTPUT,)),
        ),
    )
    yield Scenario(
        "response-tool-choice",
        "A call that had to be made is made, or the answer is an error; `none` offers nothing.",
        (
            Respond(ONE_CALL, tools | {"tool_choice": "required"}),
            Respond(HELLO, tools | {"tool_choice": {"type": "function", "name": "weather"}}),
            Respond(HELLO, tools | {"tool_choice": "required"}).streamed(),
            Respond(HELLO, tools | {"tool_choice": "none"}),
        ),
    )


def _conversations() -> Iterator[Scenario]:
    tools: Json = {"tools": TOOLS}
    after = {"previous_response_id": "resp_<1>"}
    yield Scenario(
        "response-conversation",
        "A conversation goes on from what is stored, with its call and its reasoning, and lists all of it.",
        (
            Respond({"reasoning": "hm", **ONE_CALL}, tools | {"instructions": "Be brief."}),
            Respond({}, tools | after | {"input": [OUTPUT]}),
            Respond(HELLO, {"previous_response_id": "resp_<2>"}).streamed(),
            Visit(path="/v1/responses/resp_<3>/input_items?order=asc&include=reasoning.encrypted_content"),
        ),
    )
    yield Scenario(
        "response-references",
        "Items are found by their ids; reasoning without its secret gets it back.",
        (
            Respond(THOUGHT),
            Respond(
                HELLO,
                before=(
                    {"role": "user", "content": "And?"},
                    {"type": "reasoning", "id": "rs_<1>_0", "summary": []},
                    {"type": "item_reference", "id": "msg_<1>_1"},
                ),
            ),
            Respond(HELLO, before=({"type": "item_reference", "id": "msg_<1>_7"},)),
        ),
    )
    yield Scenario(
        "response-previous",
        "What cannot be continued: unknown, another key's, without the output of its call, failed, deleted, expired.",
        (
            Respond(HELLO, {"previous_response_id": UNKNOWN.rpartition("/")[2]}),
            Respond(ONE_CALL, tools),
            Respond(HELLO, after, key="other"),
            Respond(HELLO, after),
            Respond(SOME_TEXT | fails("server_error")).streamed(),
            Respond(HELLO, {"previous_response_id": "resp_<2>"}),
            _delete(SECOND),
            Respond(HELLO, {"previous_response_id": "resp_<2>"}),
            Deed.AGE,
            Respond(HELLO, after),
        ),
    )
    yield Scenario(
        "response-previous-unfinished",
        "What still runs cannot be continued, nor what was cancelled.",
        (
            Respond(HANG, BEHIND, goes_on=True),
            Visit(path=FIRST, until="Some", goes_on=True),
            Respond(HELLO, after, goes_on=True),
            _cancel(FIRST),
            Respond(HELLO, after),
        ),
    )


def _stored() -> Iterator[Scenario]:
    many = tuple({"role": "user", "content": f"Number {number}."} for number in (1, 2, 3))
    items = f"{FIRST}/input_items"
    yield Scenario(
        "response-stored",
        "A response is there as it was told, until it is deleted.",
        (
            Respond(HELLO, {"metadata": {"k": "v"}}),
            Visit(path=FIRST),
            Visit(path=FIRST, method="HEAD"),
            Visit(path=f"{FIRST}?stream=true"),
            _cancel(FIRST),
            _delete(FIRST),
            Visit(path=FIRST),
            _delete(FIRST),
        ),
    )
    yield Scenario(
        "response-stored-reasoning",
        "What only the provider can read is shown to who asks for it.",
        (Respond(THOUGHT), Visit(path=f"{FIRST}?include[]=reasoning.encrypted_content")),
    )
    yield Scenario(
        "response-not-stored",
        "What shall not be stored is not, nor what its client did not stay for.",
        (
            Respond(HELLO, {"store": False}),
            Visit(path=FIRST),
            Respond(HANG).streamed().but(When.SPOKEN, Deed.LEAVE),
            Visit(path=SECOND),
        ),
    )
    yield Scenario(
        "response-input-items",
        "What went in is listed a page at a time, from either end.",
        (
            Respond(HELLO, before=many),
            Visit(path=items),
            Visit(path=f"{items}?limit=2"),
            Visit(path=f"{items}?limit=2&after=msg_<1>_in2"),
            Visit(path=f"{items}?limit=2&order=asc&after=msg_<1>_in2"),
            Visit(path=f"{items}?limit=2&order=asc&before=msg_<1>_in3"),
            Visit(path=f"{items}?limit=0"),
            Visit(path=f"{items}?after=msg_none"),
        ),
    )
    yield Scenario(
        "response-unknown",
        "What is unknown, expired or another key's is not found, whatever is asked of it; who has no key sees none.",
        (
            Visit(path=UNKNOWN),
            Visit(path=f"{UNKNOWN}?stream=true"),
            Visit(path=f"{UNKNOWN}/input_items"),
            _cancel(UNKNOWN),
            _delete(UNKNOWN),
            Visit(path="/v1/responses/nonsense"),
            Respond(HELLO),
            Visit(path=FIRST, key="other"),
            Visit(path=f"{FIRST}/input_items", key="other"),
            replace(_cancel(FIRST), key="other"),
            replace(_delete(FIRST), key="other"),
            Visit(path=FIRST, key=""),
            Deed.AGE,
            Visit(path=FIRST),
        ),
    )


def _background() -> Iterator[Scenario]:
    yield Scenario(
        "background",
        "A response that needs no client is there when it is asked for again.",
        (Respond(HELLO, BEHIND, goes_on=True), Visit(path=FIRST, until=COMPLETED), _cancel(FIRST)),
    )
    yield Scenario(
        "background-queued",
        "It waits for a seat, and is cancelled while it does; another one while it runs, which is the same twice.",
        (
            Respond(HANG, BEHIND, model="codex-narrow", goes_on=True),
            Visit(path=FIRST, until="Some", goes_on=True),
            Respond(HELLO, BEHIND, model="codex-narrow", goes_on=True),
            Visit(path=SECOND, goes_on=True),
            _cancel(SECOND, goes_on=True),
            _cancel(FIRST),
            _cancel(FIRST),
            Visit(path=FIRST),
        ),
    )
    yield Scenario(
        "background-deleted",
        "What is deleted is not worked on.",
        (Respond(HANG, BEHIND, goes_on=True), Visit(path=FIRST, until="Some", goes_on=True), _delete(FIRST)),
    )
    yield Scenario(
        "background-streamed",
        "Its stream goes on without its client, who comes back for the rest, or for all of it.",
        (
            replace(Respond(HELLO | {"interval_s": 0.3}, BEHIND).streamed(), goes_on=True).but(When.SPOKEN, Deed.LEAVE),
            Visit(path=f"{FIRST}?stream=true&starting_after=5"),
            Visit(path=f"{FIRST}?stream=true"),
            Visit(path=f"{FIRST}?stream=true", method="HEAD"),
            Visit(path=f"{FIRST}?stream=true&starting_after=10"),
            Visit(path=f"{FIRST}?stream=true&starting_after=11"),
            Visit(path=f"{FIRST}?starting_after=1"),
        ),
    )
    yield Scenario(
        "background-streamed-cancelled",
        "The stream of a response that is cancelled ends; so does that of one that fails.",
        (
            replace(Respond(HANG, BEHIND).streamed(), goes_on=True).but(When.SPOKEN, Deed.LEAVE),
            _cancel(FIRST),
            Visit(path=f"{FIRST}?stream=true"),
            Respond(SOME_TEXT | fails("server_error"), BEHIND).streamed(),
            Visit(path=f"{SECOND}?stream=true&starting_after=5"),
        ),
    )
    yield Scenario(
        "background-refused",
        "What is refused at once, and what fails later.",
        (
            Respond(HELLO, BEHIND | {"store": False}),
            Respond(HELLO, BEHIND, model="codex-short"),
            Respond(refuses(429, "rate_limit_exceeded"), BEHIND, goes_on=True),
            Visit(path=FIRST, until=FAILED),
            Visit(path=f"{FIRST}?stream=true"),
        ),
    )


def _failures() -> Iterator[Scenario]:
    yield Scenario(
        "response-error-request",
        "A request that is wrong, each in its own way.",
        (
            Respond({}, {"input": None}),
            Respond({}, {"input": []}),
            Respond({}, {"input": [{"role": "nobody", "content": "Hello."}]}),
            Respond({}, {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}]}),
            Respond(HELLO, {"text": {"format": {"type": "json_schema"}}}),
            Respond(HELLO, {"metadata": {"k": 1}}),
            Respond(HELLO, {"tools": [{"type": "function", "function": {"name": "nested"}}]}),
            Respond(HELLO, {"model": "no-such-model"}),
            replace(Respond(HELLO), key="wrong"),
        ),
    )
    yield Scenario(
        "response-error-upstream",
        "The provider refuses, fails, or drops the connection, before any text and after some.",
        (
            *_both(Respond(refuses(400, "invalid_value", "Bad value at input[0]."))),
            *_both(Respond(refuses(429, "rate_limit_exceeded"))),
            *_both(Respond(SOME_TEXT | fails("server_error"))),
            *_both(Respond(SOME_TEXT | fails("context_length_exceeded"))),
            *_both(Respond(SOME_TEXT | {"disconnect": "middle"})),
        ),
    )
    yield Scenario(
        "response-error-worker-lost",
        "A worker is killed after the first text, also in the background.",
        (
            Respond(HANG).streamed().but(When.SPOKEN, Deed.KILL),
            Respond(HANG, BEHIND, goes_on=True),
            Visit(path=SECOND, until="Some", goes_on=True),
            Deed.KILL,
            Visit(path=SECOND, until=FAILED),
        ),
    )
    yield Scenario(
        "response-error-timeout",
        "The model falls silent; the client's own deadline passes.",
        (
            Respond(HANG, model="codex-hasty").streamed(),
            Respond(HANG, headers={"x-request-deadline-ms": "700"}).streamed(),
        ),
    )

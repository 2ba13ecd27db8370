"""The scenarios of the golden transcripts, in the order of their play, and the service on which all are played.

Those of chat completions are here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.parity import responses
from tests.parity.steps import (
    HANG,
    HELLO,
    ONE_CALL,
    SCHEMA,
    SOME_TEXT,
    TALK_AND_CALL,
    TWO_CALLS,
    USAGE,
    Ask,
    Deed,
    Json,
    Scenario,
    When,
    fails,
    function,
    refuses,
)

# --- the service -------------------------------------------------------------------------------------------------

PROFILES: dict[str, Json] = {
    "default": {"workers": 2, "slots": 4, "retry_reserve": 1000},
    "hasty": {"attempts": 1, "limits": {"start_s": 5.0, "first_event_s": 1.0, "idle_s": 1.0}},
    "brief": {"limits": {"total_s": 1.0}},
    "narrow": {"slots": 1, "queue_max": 2, "queue_share": 1.0, "codel_target_s": 0},
    "unreachable": {"base_url": "http://127.0.0.1:9/v1"},
    "scripted": {"attempts": 1, "limits": {"start_s": 1.0}},
    "broken": {"required": False},
}
"""Profiles of real workers, but for `scripted`, whose workers are fakes, and `broken`, whose workers end at once.

The retries of the first are never used up: what is seen depends on no other scenario.
"""

ROUTES: dict[str, Json] = {
    "codex-5": {"profile": "default"},
    "codex-5-high": {"profile": "default", "effort": "high"},
    "codex-short": {"profile": "default", "max_prompt_chars": 20},
    "codex-hasty": {"profile": "hasty"},
    "codex-brief": {"profile": "brief"},
    "codex-narrow": {"profile": "narrow"},
    "codex-impatient": {"profile": "narrow", "queue_budget_s": 0.2},
    "codex-unreachable": {"profile": "unreachable"},
    "codex-scripted": {"profile": "scripted"},
    "codex-broken": {"profile": "broken"},
}

KEYS: dict[str, Json] = {
    "metered": {"requests_per_minute": 1},
    "tight": {"queue_max": 1},
    "other": {},
}
"""Keys beside `default`."""

SERVER: Json = {"commit_delay_s": 4.0, "keepalive_s": 60.0}
"""Nothing of it is to be seen, unless a scenario is about it."""


# --- chat completions --------------------------------------------------------------------------------------------

ASK_USAGE = {"stream_options": {"include_usage": True}}
TOOLS = [{"type": "function", "function": function(name)} for name in ("weather", "exec_command")]


def _both(ask: Ask) -> tuple[Ask, Ask]:
    """As one object, and as a stream with its usage."""
    return ask, ask.streamed(**ASK_USAGE)


def _text() -> Iterator[Scenario]:
    yield Scenario("plain", "A plain answer as one object.", (Ask(HELLO),))
    yield Scenario("streaming", "The same as a stream.", (Ask(HELLO).streamed(),))
    yield Scenario("streaming-usage", "The same with its usage.", (Ask(HELLO).streamed(**ASK_USAGE),))
    yield Scenario(
        "repeats",
        "Equal deltas are all there.",
        _both(Ask({"chunks": ["ha", "ha", "ha", "\n", "\n", "00", "00"], "usage": USAGE})),
    )
    yield Scenario(
        "multi-message",
        "Several messages of one turn are one answer; what the model thought is not shown.",
        _both(Ask({"reasoning": "hm hm", "messages": ["Let me check. ", "It is 42."], "usage": USAGE})),
    )
    yield Scenario("empty", "An answer without a word is empty text.", _both(Ask({"text": "", "usage": USAGE})))
    yield Scenario("choices", "Two choices are two turns.", _both(Ask(HELLO, {"n": 2})))
    yield Scenario(
        "history",
        "Roles, tool calls and their outputs reach the model as they are.",
        (
            Ask(
                HELLO,
                before=(
                    {"role": "system", "content": "Be brief."},
                    {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
                    {"role": "user", "content": [{"type": "text", "text": "Weather"}, {"type": "text", "text": "?"}]},
                    {
                        "role": "assistant",
                        "content": "I look.",
                        "tool_calls": [
                            {
                                "id": "call_1",
                                "type": "function",
                                "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
                            }
                        ],
                    },
                    {"role": "tool", "tool_call_id": "call_1", "content": "3C"},
                    {"role": "assistant", "content": "3C."},
                    {"role": "developer", "content": "Be briefer."},
                ),
                fields={"tools": TOOLS},
            ),
        ),
    )
    yield Scenario(
        "options",
        "Effort, metadata and what the CLI has no knob for.",
        (
            Ask(
                HELLO,
                {
                    "reasoning_effort": "high",
                    "metadata": {"k": "v"},
                    "temperature": 0.5,
                    "top_p": 0.9,
                    "seed": 7,
                    "user": "u",
                },
            ),
            Ask(HELLO, model="CODEX-5-high"),
        ),
    )
    yield Scenario(
        "json",
        "A strict schema is enforced by the provider, other forms are asked for and checked.",
        (
            Ask(
                {"text": '{"answer": 42}', "usage": USAGE},
                {
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
                    }
                },
            ),
            Ask({"text": '{"a": 1}', "usage": USAGE}, {"response_format": {"type": "json_object"}}),
            Ask({"text": "no JSON", "usage": USAGE}, {"response_format": {"type": "json_object"}}),
        ),
    )


def _calls() -> Iterator[Scenario]:
    tools: Json = {"tools": TOOLS}
    yield Scenario("tool-call", "One call as one object.", (Ask(ONE_CALL, tools),))
    yield Scenario("tool-call-streamed", "One call in a stream.", (Ask(ONE_CALL, tools).streamed(**ASK_USAGE),))
    yield Scenario(
        "tool-calls-parallel",
        "Two calls, in the model's order, under the caller's names, with the model's own arguments.",
        (Ask(TWO_CALLS, tools),),
    )
    yield Scenario(
        "tool-calls-parallel-streamed", "Two calls in a stream.", (Ask(TWO_CALLS, tools).streamed(**ASK_USAGE),)
    )
    yield Scenario("tool-call-after-text", "Text before a call is the content.", _both(Ask(TALK_AND_CALL, tools)))
    yield Scenario(
        "tool-call-kept-one",
        "Of parallel calls that were not wanted the first is kept.",
        _both(Ask(TWO_CALLS, tools | {"parallel_tool_calls": False})),
    )
    yield Scenario(
        "tool-output",
        "The turn after a call: its output reaches the model, which answers.",
        (
            Ask(
                ONE_CALL,
                tools,
                after=(
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [
                            {
                                "id": "call_weather",
                                "type": "function",
                                "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
                            }
                        ],
                    },
                    {"role": "tool", "tool_call_id": "call_weather", "content": "3C"},
                ),
            ),
        ),
    )
    yield Scenario(
        "tool-choice",
        "A call that had to be made is made, or the answer is an error; `none` offers nothing.",
        (
            Ask(ONE_CALL, tools | {"tool_choice": "required"}),
            Ask(HELLO, tools | {"tool_choice": {"type": "function", "function": {"name": "weather"}}}),
            Ask(HELLO, tools | {"tool_choice": "required"}).streamed(),
            Ask(HELLO, tools | {"tool_choice": "none"}),
        ),
    )
    yield Scenario(
        "function-call",
        "The legacy form.",
        _both(Ask(ONE_CALL, {"functions": [function("weather")], "function_call": "auto"})),
    )


BLOCK = "<use_tool>\n  <name>readNote</name>\n  <notePath>Ideas &amp; plans/Öl.md</notePath>\n</use_tool>"
OTHER_BLOCK = '<use_tool name="getFileTree"></use_tool>'
WEATHER_BLOCK = "<use_tool>\n  <name>weather</name>\n  <city>Oslo</city>\n</use_tool>"
AS_BLOCKS = {"x-proxy-output-mode": "obsidian-xml"}
AS_JSON = {"x-proxy-output-mode": "openai-json"}


def _blocks() -> Iterator[Scenario]:
    def ask(*chunks: str, **fields: Any) -> Ask:
        return Ask({"chunks": chunks, "usage": USAGE}, headers=AS_BLOCKS, **fields)

    def slowly(*chunks: str) -> Ask:
        return Ask({"chunks": chunks, "interval_s": 0.3}, headers=AS_BLOCKS)

    yield Scenario("textual-tool", "A call that is written into the text, in one piece.", _both(ask(BLOCK)))
    yield Scenario(
        "textual-tool-chunked",
        "The same in pieces of seven characters.",
        _both(ask(*(BLOCK[place : place + 7] for place in range(0, len(BLOCK), 7)))),
    )
    yield Scenario(
        "textual-tool-truncated", "A block that the text's end cuts off is text.", _both(ask("I look. ", BLOCK[:-4]))
    )
    yield Scenario(
        "textual-tool-tail",
        "Text before a block stays before it, and text after it comes after it.",
        _both(ask("I look. ", BLOCK, " I have looked.")),
    )
    yield Scenario("textual-tools", "Two blocks are two calls.", _both(ask(BLOCK, "\n", OTHER_BLOCK)))
    yield Scenario(
        "textual-tool-modes",
        "A block is a call to who reads blocks, or has defined the function, and text to everybody else.",
        (
            replace(ask(BLOCK), headers={}),
            replace(ask(BLOCK), headers={"x-copilot-trace-id": "t"}),
            replace(ask(BLOCK), headers=AS_JSON),
            *_both(replace(ask(WEATHER_BLOCK, fields={"tools": TOOLS}), headers=AS_JSON)),
            replace(ask(BLOCK, fields={"tools": TOOLS}), headers=AS_JSON),
        ),
    )
    yield Scenario(
        "tool-call-as-block",
        "A call in the structure, to a client that reads blocks.",
        _both(Ask(ONE_CALL, {"tools": TOOLS}, headers=AS_BLOCKS)),
    )
    yield Scenario(
        "textual-tool-tail-suppressed",
        "The text after the last call is dropped.",
        _both(ask("I look. ", BLOCK, " I have looked.")),
        settings={"tools": {"suppress_tail": True}},
    )
    yield Scenario(
        "textual-tool-first",
        "The answer ends with its first call, and the turn with it.",
        _both(slowly("I look. ", BLOCK, OTHER_BLOCK, " I have looked.")),
        settings={"tools": {"stop_after": True, "stop_mode": "first", "grace_s": 10.0}},
    )
    yield Scenario(
        "textual-tool-limit",
        "So many calls are told as are allowed, exactly.",
        _both(slowly(BLOCK, OTHER_BLOCK, BLOCK, " I have looked.")),
        settings={"tools": {"max_calls": 2, "grace_s": 10.0}},
    )


def _finishes() -> Iterator[Scenario]:
    words = {"text": "One two three four five.", "usage": USAGE}
    yield Scenario("finish-stop", "The model had said all.", _both(Ask(words)))
    yield Scenario(
        "finish-stop-sequence",
        "The text ends before a stop sequence, and the turn with it; the tokens are an estimate then.",
        _both(Ask({"chunks": ["One t", "w", "o th", "ree"], "interval_s": 0.3}, {"stop": ["two", "never"]})),
    )
    yield Scenario(
        "finish-length",
        "The model had said as much as it may.",
        _both(Ask(words | {"incomplete": "max_output_tokens"})),
    )
    yield Scenario(
        "finish-max-tokens",
        "It had said as much as was asked for, four characters a token.",
        _both(Ask(words | {"interval_s": 0.3}, {"max_tokens": 2})),
    )
    yield Scenario(
        "finish-content-filter", "It was cut off by a filter.", _both(Ask(words | {"incomplete": "content_filter"}))
    )


_UPSTREAM: dict[str, tuple[str, Json, Json | None]] = {
    "bad-request": (
        "The provider refuses the request.",
        refuses(400, "invalid_value", "Bad value at input[0]."),
        None,
    ),
    "context-length": (
        "The request is too long for the model.",
        fails("context_length_exceeded"),
        fails("context_length_exceeded"),
    ),
    "content-policy": ("It violates a policy.", fails("cyber_policy"), fails("cyber_policy")),
    "model-not-found": (
        "The provider does not know the model.",
        refuses(404, "model_not_found", "There is no such model."),
        None,
    ),
    "quota": ("The quota is used up.", refuses(429, "insufficient_quota"), fails("insufficient_quota")),
    "rate-limit": (
        "The provider's rate limit is reached.",
        refuses(429, "rate_limit_exceeded"),
        fails("rate_limit_exceeded", "Rate limit reached. Please try again in 1.5s."),
    ),
    "overloaded": (
        "The provider is overloaded.",
        refuses(503, "server_is_overloaded"),
        fails("server_is_overloaded"),
    ),
    "credentials": ("The service is not logged in at the provider.", refuses(401, "invalid_api_key"), None),
    "upstream": ("The provider fails.", refuses(500, "server_error"), fails("server_error")),
    "upstream-disconnect": ("The provider drops the connection.", {"disconnect": "first"}, {"disconnect": "middle"}),
}
"""What happens before any text, and what after some; None where the provider decides before it says anything."""


def _upstream_errors() -> Iterator[Scenario]:
    for name, (says, before, after) in _UPSTREAM.items():
        steps = [Ask(before), Ask(before).streamed()]
        if after is not None:
            steps += [Ask(SOME_TEXT | after), Ask(SOME_TEXT | after).streamed()]
        yield Scenario(f"error-{name}", says, tuple(steps))
    ask = Ask(HELLO, model="codex-unreachable")
    yield Scenario("error-unreachable", "Nobody listens at the provider's address.", (ask, ask.streamed()))


def _timeouts() -> Iterator[Scenario]:
    silent = Ask({"hang": "headers"}, model="codex-hasty")
    yield Scenario("error-first-event-timeout", "The model does not begin.", (silent, silent.streamed()))
    stuck = Ask(HANG, model="codex-hasty")
    yield Scenario("error-idle-timeout", "The model falls silent.", (stuck, stuck.streamed()))
    brief = Ask(HANG, model="codex-brief")
    yield Scenario(
        "error-turn-timeout",
        "The model does not come to an end.",
        (brief, Ask({"hang": "headers"}, model="codex-brief").streamed(), brief.streamed()),
    )
    late = {"x-request-deadline-ms": "700"}
    yield Scenario(
        "error-deadline",
        "The client's own deadline passes.",
        (
            Ask(HANG, headers=late),
            Ask({"hang": "headers"}, headers=late).streamed(),
            Ask(HANG, headers=late).streamed(),
        ),
    )


def _lost_workers() -> Iterator[Scenario]:
    silent = {"hang": "headers"}
    yield Scenario(
        "worker-lost-unseen",
        "A worker is killed before it said anything: another answers, and the client notices nothing.",
        (
            Ask({"delay_s": 0.4} | HELLO).but(When.ASKED, Deed.KILL),
            Ask({"delay_s": 0.4} | HELLO).streamed().but(When.ASKED, Deed.KILL),
        ),
    )
    yield Scenario(
        "error-worker-lost",
        "A worker is killed: where no second attempt may be made, and after the first text.",
        (
            Ask(silent, model="codex-hasty").but(When.ASKED, Deed.KILL),
            Ask(silent, model="codex-hasty").streamed().but(When.ASKED, Deed.KILL),
            Ask(HANG).streamed().but(When.SPOKEN, Deed.KILL),
        ),
    )
    killer = Ask({"hang": "headers", "text": "killer"})
    yield Scenario(
        "error-crashes-worker",
        "A request that kills two workers is given no third, and is refused from then on.",
        (killer.but(When.ASKED, Deed.KILL_TWICE), killer, killer.streamed()),
    )


def _scripted_errors() -> Iterator[Scenario]:
    for name, says, does in (
        (
            "worker-overloaded",
            "A worker is overloaded: a scripted one, for no real one is on demand.",
            {"overloaded": "turn/start"},
        ),
        (
            "start-timeout",
            "A worker, scripted as well, does not answer when the turn begins.",
            {"lose_reply": "turn/start", "hang": "first"},
        ),
    ):
        ask = Ask(does, model="codex-scripted")
        yield Scenario(f"error-{name}", says, (ask, ask.streamed()))


def _limits() -> Iterator[Scenario]:
    hello = Ask(HELLO)
    yield Scenario("error-key", "An unknown key, and none.", (replace(hello, key="wrong"), replace(hello, key="")))
    yield Scenario(
        "error-rate-limited",
        "A key's contract is used up; what is left of it is told.",
        (replace(hello, key="metered"), replace(hello, key="metered"), replace(hello.streamed(), key="metered")),
    )
    yield Scenario(
        "error-prompt-too-long", "The prompt is over the route's limit.", (replace(hello, model="codex-short"),)
    )
    impatient = Ask(HELLO, model="codex-impatient")
    yield Scenario(
        "error-queue-timeout",
        "No seat comes free in time; from then on it is known how long one is taken, and told at once.",
        (replace(impatient, beside=1), replace(impatient, beside=1), replace(impatient.streamed(), beside=1)),
    )
    narrow = Ask(HELLO, model="codex-narrow")
    queued = replace(narrow, beside=1)
    yield Scenario(
        "queued",
        "A seat comes free in time; who leaves before that has not troubled the model.",
        (
            queued.but(When.WAITING, Deed.FREE),
            queued.streamed().but(When.WAITING, Deed.FREE),
            queued.but(When.WAITING, Deed.LEAVE),
            queued.streamed().but(When.WAITING, Deed.LEAVE),
        ),
    )
    yield Scenario(
        "error-queue-full", "The queue is full.", (replace(narrow, beside=3), replace(narrow.streamed(), beside=3))
    )
    tight = replace(narrow, key="tight", beside=2)
    yield Scenario("error-tenant-queue-full", "The key's part of the queue is full.", (tight, tight.streamed()))
    broken = Ask(HELLO, model="codex-broken")
    yield Scenario("error-not-ready", "No worker is up.", (broken, broken.streamed()))


def _clients() -> Iterator[Scenario]:
    hurried: dict[str, Json] = {"server": {"commit_delay_s": 0.2, "keepalive_s": 0.3}}
    yield Scenario(
        "keepalive",
        "A silent stream is committed and kept alive, unless the client is one that chokes on comments.",
        (
            Ask(HELLO | {"delay_s": 0.9}).streamed(),
            Ask(HELLO | {"delay_s": 0.9}, headers={"User-Agent": "obsidian/1.9.7 Electron/37"}).streamed(),
            Ask(HELLO | {"delay_s": 0.9}, headers={"X-No-Keepalive": "1"}).streamed(),
        ),
        settings=hurried,
    )
    yield Scenario(
        "error-after-commit",
        "A failure after the status, and before any text.",
        (
            Ask(refuses(500, "server_error") | {"delay_s": 0.9}).streamed(),
            Ask({"hang": "headers"}, model="codex-hasty").streamed(),
        ),
        settings=hurried,
    )
    yield Scenario(
        "disconnect",
        "A client leaves, and its turn ends at the model.",
        (
            Ask({"hang": "headers"}).but(When.ASKED, Deed.LEAVE),
            Ask({"hang": "headers"}).streamed().but(When.ASKED, Deed.LEAVE),
            Ask(HANG).streamed().but(When.SPOKEN, Deed.LEAVE),
        ),
    )


def _stopping() -> Iterator[Scenario]:
    """Nothing can be played after these."""
    yield Scenario(
        "error-stopping",
        "The service takes no new work, and in the end cuts off what still runs.",
        (
            Ask(HANG).streamed().but(When.SPOKEN, Deed.CUT_OFF),
            Deed.DRAIN,
            Ask(HELLO),
            Ask(HELLO).streamed(),
        ),
    )


SCENARIOS: tuple[Scenario, ...] = (
    *_text(),
    *_calls(),
    *_blocks(),
    *_finishes(),
    *_upstream_errors(),
    *_timeouts(),
    *_lost_workers(),
    *_scripted_errors(),
    *_limits(),
    *_clients(),
    *responses.scenarios(),
    *_stopping(),
)

NOT_PLAYED: dict[str, str] = {
    "worker_error": "the real CLI refuses no request that the service lets through",
    "frame_too_large": "takes an answer of 32 MiB: tests/process/test_failure_matrix.py",
    "protocol_error": "the real CLI does not break its protocol: tests/pool/test_session.py",
    "turn_interrupted": "nobody else interrupts a turn: tests/service/test_errors.py",
    "queue_shed": "takes an overload that lasts: tests/scheduler/test_overload.py",
    "client_too_slow": "takes an answer over a megabyte: tests/service/test_chat_handler.py",
    "request_aborted": "the client has left: nobody reads it",
}
"""Codes that no transcript has, and why."""

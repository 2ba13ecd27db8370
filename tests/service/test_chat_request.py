"""What a chat request may say, and the exact words for what it may not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pool.events import ToolSpec
from service.api.chat import READ, ChatRequest
from service.api.errors import ApiError
from service.api.fields import EFFORTS
from service.api.options import Options
from service.api.tools import Tools
from tests.service.asking import GENERIC, HELLO, UNSUPPORTED, ask, call, calling, parse, refusal, result, user

# --- the predecessor's table -------------------------------------------------------------------------------------

TOOL = {"type": "function", "function": {"name": "lookup_user", "parameters": {"type": "object"}}}
NEEDS_NAME = 'function definitions must include a non-empty "name"'
NAMED = {"type": "function", "function": {"name": "x"}}
FORMAT_TYPES = 'response_format.type must be "text", "json_object", or "json_schema" when provided'
CHOICES = 'tool_choice must be "auto", "none", "required", or a function selector'
CHOICE_SHAPES = (
    'tool_choice must be a string ("auto" | "none" | "required") or { type: "function", function: { name } }'
)
ROLES = "supported roles are: system, developer, user, assistant, tool, function"

TABLE: list[tuple[dict[str, Any], str, str, str]] = [
    ({"model": None}, "model", "model_required", "model is required"),
    ({"model": 42}, "model", "model_required", "model is required"),
    ({"model": " "}, "model", "model_required", "model is required"),
    ({"messages": None}, "messages", GENERIC, "messages[] required"),
    ({"messages": []}, "messages", GENERIC, "messages[] required"),
    ({"messages": "hi"}, "messages", GENERIC, "messages[] required"),
    ({"n": 0}, "n", GENERIC, "n must be an integer between 1 and 5; received 0"),
    ({"n": 6}, "n", GENERIC, "n must be an integer between 1 and 5; received 6"),
    ({"n": 1.5}, "n", GENERIC, "n must be an integer between 1 and 5; received 1.5"),
    ({"n": "abc"}, "n", GENERIC, "n must be an integer between 1 and 5; received abc"),
    ({"n": -1}, "n", GENERIC, "n must be an integer between 1 and 5; received -1"),
    ({"n": True}, "n", GENERIC, "n must be an integer between 1 and 5; received true"),
    ({"n": 0, "stream": True}, "n", GENERIC, "n must be an integer between 1 and 5; received 0"),
    ({"logprobs": True}, "logprobs", GENERIC, "logprobs is not supported for this model"),
    ({"top_logprobs": 3}, "top_logprobs", GENERIC, "top_logprobs is not supported"),
    (
        {"response_format": "text"},
        "response_format",
        GENERIC,
        "response_format must be an object when provided",
    ),
    ({"response_format": "yaml"}, "response_format", GENERIC, FORMAT_TYPES),
    ({"response_format": {"type": "xml"}}, "response_format", GENERIC, FORMAT_TYPES),
    ({"response_format": 7}, "response_format", GENERIC, FORMAT_TYPES),
    (
        {"response_format": {}},
        "response_format.type",
        GENERIC,
        "response_format.type must be provided when response_format is set",
    ),
    (
        {"response_format": {"type": "json_schema"}},
        "response_format.json_schema",
        GENERIC,
        "json_schema must be an object or null when provided",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": []}}},
        "response_format.json_schema.schema",
        GENERIC,
        "response_format.json_schema.schema must be a JSON object",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        "response_format.json_schema.schema",
        GENERIC,
        "response_format.json_schema.schema must be a JSON object",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "strict": 1}}},
        "response_format.json_schema.strict",
        GENERIC,
        "response_format.json_schema.strict must be a boolean",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "name": 1}}},
        "response_format.json_schema.name",
        GENERIC,
        "response_format.json_schema.name must be a string",
    ),
    ({"seed": "x"}, "seed", GENERIC, "seed must be an integer"),
    ({"seed": 1.5}, "seed", GENERIC, "seed must be an integer"),
    ({"temperature": "hot"}, "temperature", GENERIC, "temperature must be a finite number between 0 and 2"),
    ({"temperature": True}, "temperature", GENERIC, "temperature must be a finite number between 0 and 2"),
    ({"temperature": 2.5}, "temperature", GENERIC, "temperature must be between 0 and 2"),
    ({"temperature": -1}, "temperature", GENERIC, "temperature must be between 0 and 2"),
    ({"top_p": 0}, "top_p", GENERIC, "top_p must be greater than 0 and at most 1"),
    ({"top_p": 1.5}, "top_p", GENERIC, "top_p must be greater than 0 and at most 1"),
    ({"top_p": "x"}, "top_p", GENERIC, "top_p must be a finite number between 0 and 1"),
    ({"max_tokens": 0}, "max_tokens", GENERIC, "max_tokens must be a positive integer"),
    ({"max_tokens": -5}, "max_tokens", GENERIC, "max_tokens must be a positive integer"),
    ({"max_tokens": "x"}, "max_tokens", GENERIC, "max_tokens must be a positive integer"),
    ({"max_tokens": 1.5}, "max_tokens", GENERIC, "max_tokens must be a positive integer"),
    ({"max_completion_tokens": 0}, "max_tokens", GENERIC, "max_tokens must be a positive integer"),
    ({"maxOutputTokens": []}, "max_tokens", GENERIC, "max_tokens must be a positive integer"),
    ({"tools": {"a": 1}}, "tools", GENERIC, "tools must be an array of definitions"),
    ({"tools": ["x"]}, "tools[0]", GENERIC, 'tool definition must be an object with type "function"'),
    ({"tools": [{"type": "retrieval"}]}, "tools[0].type", GENERIC, 'tool type must be "function"'),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", GENERIC, NEEDS_NAME),
    ({"tools": [TOOL, {"type": "function"}]}, "tools[1].function.name", GENERIC, NEEDS_NAME),
    ({"functions": {"a": 1}}, "functions", GENERIC, "functions must be an array of function definitions"),
    ({"functions": ["x"]}, "functions[0]", GENERIC, "function definition must be an object"),
    ({"functions": [{"description": "x"}]}, "functions[0].name", GENERIC, NEEDS_NAME),
    ({"tool_choice": "sometimes", "tools": [TOOL]}, "tool_choice", GENERIC, CHOICES),
    ({"tool_choice": 5, "tools": [TOOL]}, "tool_choice", GENERIC, CHOICE_SHAPES),
    (
        {"tool_choice": {"type": "web"}, "tools": [TOOL]},
        "tool_choice.type",
        GENERIC,
        'tool_choice.type must be "function"',
    ),
    (
        {"tool_choice": {"type": "function"}, "tools": [TOOL]},
        "tool_choice.function.name",
        GENERIC,
        "tool_choice.function.name is required",
    ),
    ({"tool_choice": NAMED}, "tool_choice", GENERIC, "tool_choice requires tools definitions"),
    ({"tool_choice": "required"}, "tool_choice", GENERIC, "tool_choice requires tools definitions"),
    (
        {"tool_choice": NAMED, "tools": [TOOL]},
        "tool_choice.function.name",
        GENERIC,
        "tool_choice.function.name must reference a declared tool",
    ),
    ({"function_call": "maybe"}, "function_call", GENERIC, 'function_call must be "auto", "none", or { name }'),
    ({"function_call": {"name": "x"}}, "function_call", GENERIC, "function_call requires functions definitions"),
    (
        {"function_call": {"name": "x"}, "functions": [{"name": "y"}]},
        "function_call.name",
        GENERIC,
        "function_call.name must reference a declared function",
    ),
    (
        {"parallel_tool_calls": "maybe"},
        "parallel_tool_calls",
        GENERIC,
        "parallel_tool_calls must be a boolean when provided",
    ),
    (
        {"parallel_tool_calls": 3},
        "parallel_tool_calls",
        GENERIC,
        "parallel_tool_calls must be a boolean when provided",
    ),
    (
        {"messages": [{"role": "wizard", "content": "x"}]},
        "messages[0].role",
        GENERIC,
        f'unsupported role "wizard"; {ROLES}',
    ),
    ({"messages": [{"content": "x"}]}, "messages[0].role", GENERIC, f'unsupported role ""; {ROLES}'),
    ({"messages": [{"role": ["user"]}]}, "messages[0].role", GENERIC, f'unsupported role ""; {ROLES}'),
    ({"messages": [*HELLO, "hi"]}, "messages[1]", GENERIC, "messages[1] must be an object"),
    ({"reasoning": "high"}, "reasoning", GENERIC, "reasoning must be an object when provided"),
    (
        {"reasoning": {"effort": "turbo"}},
        "reasoning.effort",
        GENERIC,
        f"reasoning.effort must be one of: {', '.join(EFFORTS)}",
    ),
    (
        {"reasoning_effort": "turbo"},
        "reasoning.effort",
        GENERIC,
        f"reasoning.effort must be one of: {', '.join(EFFORTS)}",
    ),
    (
        {"reasoning_effort": "low", "reasoning": {"effort": "high"}},
        "reasoning.effort",
        GENERIC,
        "reasoning.effort and reasoning_effort must not differ",
    ),
]


@pytest.mark.parametrize(("fields", "param", "code", "message"), TABLE)
def test_a_wrong_parameter_is_refused_in_the_tables_words(
    fields: dict[str, Any], param: str, code: str, message: str
) -> None:
    error = refusal(**fields)
    assert (error.status, error.param, error.code, error.message) == (400, param, code, message)
    assert error.type == "invalid_request_error"


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look"} | function}


ALLOWED: dict[str, Any] = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "look"}}]}
FUNCTION_NAMES = "function names must be 1 to 64 letters, digits, underscores and dashes of ASCII"
BEYOND: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": [tool(name="a.b")]}, "tools[0].function.name", FUNCTION_NAMES),
    ({"tools": [tool(name="x" * 65)]}, "tools[0].function.name", FUNCTION_NAMES),
    ({"functions": [{"name": "é"}]}, "functions[0].name", FUNCTION_NAMES),
    ({"tools": [tool(), tool()]}, "tools[1].function.name", 'the function "look" is defined twice'),
    (
        {"tools": [tool(description=5)]},
        "tools[0].function.description",
        "tools[0].function.description must be a string",
    ),
    (
        {"tools": [tool(parameters=[])]},
        "tools[0].function.parameters",
        "tools[0].function.parameters must be a JSON Schema object",
    ),
    ({"tools": [tool(strict="yes")]}, "tools[0].function.strict", "tools[0].function.strict must be a boolean"),
    ({"tools": [tool(name=f"f{i}") for i in range(129)]}, "tools", "tools must hold at most 128 functions"),
    ({"functions": [{"name": f"f{i}"} for i in range(129)]}, "functions", "functions must hold at most 128 functions"),
    (
        {"tools": [tool()], "functions": [{"name": "f"}]},
        "functions",
        "tools and functions must not be given together",
    ),
    ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools", ""),
    (
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": ALLOWED | {"mode": "none"}}},
        "tool_choice.allowed_tools.mode",
        "",
    ),
    (
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": ALLOWED | {"tools": []}}},
        "tool_choice.allowed_tools.tools",
        "",
    ),
    (
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": ALLOWED | {"tools": [{"type": "mcp"}]}}},
        "tool_choice.allowed_tools.tools[0].type",
        "",
    ),
    (
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": ALLOWED}, "tools": [tool(name="other")]},
        "tool_choice.allowed_tools.tools[0].function.name",
        "",
    ),
]


@pytest.mark.parametrize(("fields", "param", "message"), BEYOND)
def test_a_definition_that_no_model_could_be_given_is_refused(fields: dict[str, Any], param: str, message: str) -> None:
    error = refusal(**fields)
    assert (error.status, error.param, error.code) == (400, param, GENERIC)
    assert error.message == message or (not message and error.message.startswith(param))


SCHEMA = {"type": "object", "properties": {"id": {"type": "string"}}}
FULL = tool(description="Looks.", parameters=SCHEMA)
LOOK = ToolSpec("look", "Looks.", SCHEMA)
OTHER = ToolSpec("other", "", {"type": "object", "properties": {}})


@pytest.mark.parametrize(
    ("fields", "tools"),
    [
        ({}, Tools((LOOK, OTHER))),
        ({"tool_choice": "auto"}, Tools((LOOK, OTHER))),
        ({"tool_choice": []}, Tools((LOOK, OTHER))),
        ({"tool_choice": "none"}, Tools()),
        ({"tool_choice": "required"}, Tools((LOOK, OTHER), must_call=True)),
        (
            {"tool_choice": {"type": "function", "function": {"name": "look"}}},
            Tools((LOOK,), must_call=True, withheld=frozenset({"other"})),
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": ALLOWED}},
            Tools((LOOK,), withheld=frozenset({"other"})),
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": ALLOWED | {"mode": "required"}}},
            Tools((LOOK,), must_call=True, withheld=frozenset({"other"})),
        ),
        ({"parallel_tool_calls": False}, Tools((LOOK, OTHER), is_parallel=False)),
        ({"parallel_tool_calls": "No"}, Tools((LOOK, OTHER), is_parallel=False)),
        ({"parallel_tool_calls": 1}, Tools((LOOK, OTHER))),
    ],
)
def test_a_choice_says_what_is_offered_and_whether_it_must_be_called(fields: dict[str, Any], tools: Tools) -> None:
    accepted = ask(tools=[FULL, tool(name="other")], **fields)
    assert accepted.tools == tools
    assert accepted.ignored == ()


@pytest.mark.parametrize(
    ("fields", "tools"),
    [
        ({}, Tools((OTHER,), is_parallel=False, is_legacy=True)),
        ({"function_call": "auto"}, Tools((OTHER,), is_parallel=False, is_legacy=True)),
        ({"function_call": "none"}, Tools()),
        ({"function_call": {"name": "other"}}, Tools((OTHER,), must_call=True, is_parallel=False, is_legacy=True)),
    ],
)
def test_functions_are_tools_of_which_one_is_called(fields: dict[str, Any], tools: Tools) -> None:
    assert ask(functions=[{"name": "other"}], **fields).tools == tools


def test_what_is_not_read_of_a_definition_is_named() -> None:
    accepted = ask(tools=[tool(strict=True, examples=[1], nothing=None) | {"cache_control": {}}, tool(name="other")])
    assert accepted.ignored == ("tools.cache_control", "tools.function.examples", "tools.function.strict")
    assert ask(functions=[{"name": "f", "strict": True}]).ignored == ("functions.strict",)
    assert ask(tools=[tool(strict=False)]).ignored == ()


def test_definitions_count_as_part_of_the_prompt() -> None:
    assert ask(tools=[FULL]).prompt_chars == ask().prompt_chars + len(json.dumps([FULL], separators=(",", ":")))
    long = {"type": "object", "description": "x" * 100}
    for fields in (
        {"tools": [tool(parameters=long)]},
        {"functions": [{"name": "f", "parameters": long}]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": long}}},
    ):
        body = json.dumps({"model": "codex-5", "messages": HELLO} | fields)
        with pytest.raises(ApiError) as caught:
            parse(body.encode(), max_prompt_chars=100)
        assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("fields", "n", "stop", "max_tokens"),
    [
        ({}, 1, (), None),
        ({"n": "3"}, 3, (), None),
        ({"n": 5.0, "stop": "END"}, 5, ("END",), None),
        ({"stop": ["a", "", "b"]}, 1, ("a", "b"), None),
        ({"max_tokens": 5}, 1, (), 5),
        ({"max_tokens": 9, "max_completion_tokens": 7.0, "maxOutputTokens": 8}, 1, (), 7),
    ],
)
def test_how_many_answers_and_how_long(
    fields: dict[str, Any], n: int, stop: tuple[str, ...], max_tokens: int | None
) -> None:
    accepted = ask(**fields)
    assert (accepted.n, accepted.stop, accepted.max_tokens) == (n, stop, max_tokens)
    assert accepted.ignored == ()


def test_an_unknown_model_does_not_exist() -> None:
    error = refusal(model="gpt-unknown")
    assert (error.status, error.param, error.code) == (404, "model", "model_not_found")
    assert error.message == "The model gpt-unknown does not exist or you do not have access to it."


def test_what_a_client_sent_comes_back_cut_short() -> None:
    assert len(refusal(model="x" * 10_000).message) < 200
    assert len(refusal(n="x" * 10_000).message) < 200
    assert len(refusal(messages=[{"role": "x" * 10_000}]).message) < 300


def test_too_long_a_prompt_is_refused_before_its_messages_are_read() -> None:
    body = json.dumps({"model": "codex-5", "messages": [user("x" * 60), {"role": "wizard", "content": "x" * 60}]})
    with pytest.raises(ApiError) as caught:
        parse(body.encode(), max_prompt_chars=100)
    error = caught.value
    assert (error.status, error.type, error.param) == (403, "tokens_exceeded_error", "messages")
    assert (error.code, error.message) == ("context_length_exceeded", "context length exceeded")


def test_the_longest_allowed_prompt_is_counted_over_parts_and_arguments() -> None:
    messages = [user([{"type": "text", "text": "12345"}, {"type": "text", "text": "67"}]), calling(call()), result()]
    body = json.dumps({"model": "codex-5", "messages": messages}).encode()
    assert parse(body, max_prompt_chars=7 + 2 + 5).prompt_chars == 14
    with pytest.raises(ApiError):
        parse(body, max_prompt_chars=13)


ORDER: list[tuple[str, Any]] = [
    ("model", 1),
    ("messages", 1),
    ("n", 0),
    ("logprobs", True),
    ("top_logprobs", 1),
    ("response_format", 1),
    ("seed", "x"),
    ("temperature", 9),
    ("top_p", 9),
    ("max_tokens", 0),
    ("tools", 1),
    ("functions", 1),
    ("tool_choice", 1),
    ("function_call", 1),
    ("parallel_tool_calls", 7),
    ("reasoning", 1),
    ("stream", 1),
    ("stop", 1),
    ("store", 1),
]


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_of_many_wrong_parameters_the_first_in_the_table_is_named(first: int) -> None:
    assert refusal(**dict(ORDER[first:])).param == ORDER[first][0]


# --- beyond the table --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": "false"},
        {"stream": 1},
        {"stream": True, "stream_options": []},
        {"stream": True, "stream_options": {"include_usage": "yes"}},
        {"stop": 7},
        {"stop": ["a", "b", "c", "d", "e"]},
        {"stop": [7]},
        {"stop": "x" * 257},
        {"stop": ["x" * 257]},
        {"presence_penalty": 9},
        {"frequency_penalty": "x"},
        {"logit_bias": {"1": 101}},
        {"logit_bias": {str(token): 1 for token in range(1025)}},
        {"user": 7},
        {"safety_identifier": "x" * 65},
        {"prompt_cache_key": 7},
        {"prompt_cache_retention": "1h"},
        {"store": "yes"},
        {"metadata": {"a": 1}},
        {"metadata": {str(key): "" for key in range(17)}},
        {"metadata": {"x" * 65: ""}},
        {"metadata": {"a": "x" * 513}},
        {"service_tier": "x"},
        {"verbosity": "loud"},
        {"prediction": {}},
        {"modalities": ["smell"]},
        {"audio": 1},
    ],
)
def test_a_parameter_of_the_wrong_type_or_size_is_named(fields: dict[str, Any]) -> None:
    name = list(fields)[-1]
    error = refusal(**fields)
    assert (error.status, error.param, error.code) == (400, name, GENERIC)
    assert error.message.startswith(f"{name} must be ")


def test_the_words_for_a_stream_that_is_no_boolean() -> None:
    assert refusal(stream="true").message == "stream must be a boolean"


def test_stream_options_need_a_stream() -> None:
    error = refusal(stream_options={"include_usage": True})
    assert (error.param, error.message) == ("stream_options", "stream_options is only allowed when stream is true")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"format": "wav", "voice": "alloy"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"moderation": {"model": "m"}}, "moderation"),
        (
            {"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
            "messages[0].content[0]",
        ),
        ({"messages": [user([{"type": "text", "text": ""}, {"type": "file"}])]}, "messages[0].content[1]"),
        ({"messages": [user([{"type": "input_audio"}])]}, "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages[0].audio"),
        ({"messages": [calling({"id": "c", "type": "custom", "custom": {}})]}, "messages[0].tool_calls[0]"),
    ],
)
def test_what_would_change_the_answer_and_is_not_done_is_refused(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)
    assert (error.status, error.param, error.code) == (400, param, UNSUPPORTED)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1},
        {"n": "1"},
        {"n": 1.0},
        {"logprobs": False},
        {"response_format": {"type": "text"}},
        {"tools": []},
        {"functions": []},
        {"tool_choice": "auto"},
        {"tool_choice": "none"},
        {"tool_choice": []},
        {"function_call": "auto"},
        {"parallel_tool_calls": "yes"},
        {"parallel_tool_calls": False},
        {"stop": []},
        {"stop": ""},
        {"stop": [""]},
        {"modalities": ["text"]},
        {"modalities": []},
        {"stream": False},
        {"reasoning": {}},
    ],
)
def test_what_asks_for_nothing_special_is_accepted_and_not_called_ignored(fields: dict[str, Any]) -> None:
    assert ask(**fields) == ask()


def test_null_is_absent_for_every_parameter() -> None:
    names = (READ | Options.model_fields.keys()) - {"model", "messages"}
    nulls = dict.fromkeys([*names, "temperature", "top_p", "seed", "whatever"])
    assert ask(**nulls) == ask()


def test_parameters_without_effect_are_named() -> None:
    accepted = ask(
        temperature=0,
        top_p=1,
        presence_penalty=-2,
        frequency_penalty=2,
        logit_bias={"1": 5},
        seed=7.0,
        user="u",
        safety_identifier="s",
        prompt_cache_key="k",
        prompt_cache_retention="24h",
        store=True,
        service_tier="auto",
        prediction={"type": "content", "content": "x"},
        metadata={"a": "b"},
        reasoning={"effort": "low", "summary": "auto"},
        whatever=[1],
        nothing=[],
        messages=[user() | {"name": "ada"}, user([{"type": "text", "text": "x", "cache_control": {}}])],
    )
    assert accepted.ignored == (
        "temperature",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "seed",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "store",
        "prediction",
        "whatever",
        "reasoning.summary",
        "messages.content.cache_control",
        "messages.name",
    )
    assert accepted.metadata == {"a": "b"}


def test_names_that_go_into_a_header_can_do_no_harm_there() -> None:
    ignored = ask(**{"a\r\nSet-Cookie: b": 1, "é": 1, "x" * 999: 1}).ignored
    assert ignored == ("a??Set-Cookie??b", "?", "x" * 64)


def test_of_a_thousand_unknown_names_a_few_are_told() -> None:
    ignored = ask(**{f"field{number}": 1 for number in range(1000)}).ignored
    assert (len(ignored), ignored[-1]) == (32, "...")


@pytest.mark.parametrize("effort", EFFORTS)
def test_an_effort_may_be_given_in_either_place(effort: str) -> None:
    assert ask(reasoning_effort=effort).effort == effort
    assert ask(reasoning={"effort": effort}).effort == effort
    assert ask(reasoning={"effort": effort}, reasoning_effort=effort).effort == effort


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, False),
        ({"include_usage": True}, True),
        ({"stream_options": {"include_usage": True}}, True),
        ({"stream_options": {"include_usage": False}, "include_usage": True}, False),
        ({"stream_options": {}, "include_usage": True}, True),
    ],
)
def test_usage_may_be_asked_for_in_either_place(fields: dict[str, Any], wanted: bool) -> None:
    request = ask(stream=True, **fields)
    assert (request.stream, request.include_usage) == (True, wanted)


def test_stream_options_without_effect_are_named() -> None:
    options = {"include_usage": True, "include_obfuscation": True, "continuous_usage_stats": True}
    assert ask(stream=True, stream_options=options).ignored == (
        "stream_options.continuous_usage_stats",
        "stream_options.include_obfuscation",
    )


# --- anything at all ---------------------------------------------------------------------------------------------

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
VALUES = st.recursive(
    SCALARS | st.sampled_from(["user", "tool", "text", "function", "auto", "none", "codex-5", "call_1", "low"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
IMAGES = st.fixed_dictionaries({}, optional={"url": VALUES | st.just("data:,"), "detail": VALUES | st.just("low")})
PARTS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["text", "refusal", "image_url", "x"]),
        "text": VALUES,
        "refusal": VALUES,
        "image_url": VALUES | IMAGES,
    },
)
CALLS = st.fixed_dictionaries(
    {}, optional={"id": VALUES, "type": VALUES, "function": st.just({"name": "f", "arguments": ""}) | VALUES}
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"]) | VALUES},
    optional={
        "content": st.text(max_size=5) | st.lists(PARTS | VALUES, max_size=3) | VALUES,
        "tool_calls": st.lists(CALLS | VALUES, max_size=3) | VALUES,
        "tool_call_id": VALUES,
        "function_call": VALUES,
        "refusal": VALUES,
        "name": VALUES,
        "audio": VALUES,
    },
)
NAMES = sorted({name for fields, *_ in TABLE for name in fields} | {name for name, _ in ORDER} | {"stream_options"})
BODIES = st.builds(
    lambda fields, messages, extra: {"model": "codex-5", "messages": messages} | fields | extra,
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4),
    st.just(HELLO) | st.lists(MESSAGES | VALUES, min_size=1, max_size=4),
    st.dictionaries(st.text(max_size=5), VALUES, max_size=2),
)


def verdict(body: bytes) -> ChatRequest | ApiError:
    try:
        return parse(body)
    except ApiError as error:
        return error


def check(outcome: ChatRequest | ApiError) -> None:
    if isinstance(outcome, ApiError):
        assert 400 <= outcome.status < 500
        assert json.loads(outcome.body())["error"]["type"] == outcome.type
    else:
        assert outcome.messages


@settings(max_examples=500)
@given(BODIES)
def test_any_json_body_is_a_request_or_a_4xx(body: dict[str, Any]) -> None:
    check(verdict(json.dumps(body).encode()))


@given(st.binary(max_size=50) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_request_or_a_4xx(body: bytes) -> None:
    check(verdict(body))

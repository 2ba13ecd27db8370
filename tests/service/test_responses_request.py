"""A request of the Responses API is done as asked, refused, or its sender is told what is not done."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.events import ToolSpec
from service.api.errors import ApiError
from service.api.fields import EFFORTS
from service.api.flat_tools import Alias, alias_of
from service.api.history import Answered, Called, Said, Thought
from service.api.items import Lookup
from service.api.output import JSON_OBJECT, Output
from service.api.pictures import Picture
from service.api.responses import READ, Needs, Options, ResponsesRequest, needs, parse_responses
from service.api.tools import Tools
from service.translate import to_turn
from tests.service.asking import GENERIC, UNSUPPORTED, Known

Item = dict[str, Any]


def nothing(_: str) -> None:
    return None


def ask(*, before: tuple[Item, ...] = (), lookup: Lookup = nothing, **fields: Any) -> ResponsesRequest:
    models = {"codex-5": Known(1000)}
    body = {"model": "codex-5", "input": "hi"} | fields
    request, _ = parse_responses(body, find=models.get, before=before, lookup=lookup)
    return request


def refusal(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        ask(**fields)
    return caught.value


def message(content: Any = "go on", role: str = "user", **fields: Any) -> Item:
    return {"role": role, "content": content} | fields


def call(call_id: Any = "c", name: Any = "look", arguments: Any = "{}", **fields: Any) -> Item:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments} | fields


def result(call_id: Any = "c", output: Any = "found", **fields: Any) -> Item:
    return {"type": "function_call_output", "call_id": call_id, "output": output} | fields


def image(**fields: Any) -> Item:
    return {"type": "input_image", "image_url": "https://a.example/b.png"} | fields


def function(name: Any = "look", **fields: Any) -> Item:
    return {"type": "function", "name": name, "parameters": {"type": "object"}, "strict": None} | fields


def texts(*parts: str) -> list[Item]:
    return [{"type": "input_text", "text": text} for text in parts]


THOUGHT: Item = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "hm"}],
    "encrypted_content": "E",
}
LOOK = ToolSpec("look", "", {"type": "object"})

# --- input -------------------------------------------------------------------------------------------------------


def test_a_string_is_what_the_user_says() -> None:
    request = ask(input="hi")
    assert request.messages == (Said("user", ("hi",)),)
    assert request.items == ({"type": "message", "role": "user", "content": "hi"},)


def test_instructions_are_the_system_text_in_front() -> None:
    turn = to_turn(
        ask(instructions="Be brief.", input=[message("And kind.", "developer"), message("hi")]), model="m", effort=None
    )
    assert turn.instructions == "Be brief.\n\nAnd kind."
    assert [item["role"] for item in turn.items] == ["user"]


def test_items_of_every_kind_keep_their_roles_texts_and_ids() -> None:
    request = ask(
        input=[
            message("a", "system"),
            message(
                [{"type": "input_text", "text": "b"}, {"type": "input_text", "text": "c"}], "developer", type="message"
            ),
            message("d", id="msg_1", status="completed"),
            message([{"type": "output_text", "text": "e", "annotations": [], "logprobs": []}], "assistant"),
            message([{"type": "refusal", "refusal": "no"}], "assistant"),
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": "hm"}],
                "encrypted_content": "E",
            },
            call("c1", id="fc_1", status="completed"),
            call("c2"),
            result("c2", texts("x", "y")),
            result("c1", "z", id="fco_1", status=None),
            call("c1"),
            result("c1", []),
        ]
    )
    assert request.messages == (
        Said("system", ("a",)),
        Said("developer", ("b", "c")),
        Said("user", ("d",)),
        Said("assistant", ("e",)),
        Said("assistant", ("no",)),
        Thought(("hm",), "E"),
        Called("c1", "look", "{}"),
        Called("c2", "look", "{}"),
        Answered("c2", "xy"),
        Answered("c1", "z"),
        Called("c1", "look", "{}"),
        Answered("c1", ""),
    )
    assert request.ignored == ()
    thought = to_turn(request, model="m", effort=None).items[3]
    assert thought == {key: value for key, value in THOUGHT.items() if key != "id"}


def test_what_a_user_shows_stays_among_what_it_says() -> None:
    request = ask(input=[message([{"type": "input_text", "text": "a"}, image(detail="low")])])
    picture = Picture("https://a.example/b.png", "input[0].content[1].image_url")
    assert request.messages == (Said("user", ("a", picture)),)
    assert request.ignored == ("input.content.detail",)


def test_reasoning_that_the_provider_could_not_read_is_named() -> None:
    request = ask(input=[message(), {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None}])
    assert request.messages == (Said("user", ("go on",)),)
    assert request.ignored == ("input.reasoning",)


def test_what_of_an_item_the_model_does_not_see_is_named() -> None:
    part = {"type": "output_text", "text": "x", "annotations": [{"type": "url_citation"}]}
    assert ask(input=[message([part], "assistant", phase="commentary")]).ignored == (
        "input.content.annotations",
        "input.phase",
    )


def test_a_request_goes_on_from_what_came_before() -> None:
    before = (message("first"), call())
    request = ask(before=before, previous_response_id="resp_1", input=[result()])
    assert request.messages == (Said("user", ("first",)), Called("c", "look", "{}"), Answered("c", "found"))
    assert request.items == (result(),)
    assert request.previous_response_id == request.echo["previous_response_id"] == "resp_1"
    assert ask(before=(message(),), previous_response_id="resp_1", input=None).items == ()


@pytest.mark.parametrize("reference", [{"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}])
def test_a_reference_stands_for_its_item(reference: Item) -> None:
    found = {"msg_1": message("known", id="msg_1")}
    request = ask(input=[reference, message()], lookup=found.get)
    assert request.messages == (Said("user", ("known",)), Said("user", ("go on",)))
    assert request.items == (found["msg_1"], message())
    assert refusal(input=[reference]).param == "input[0].id"
    chain = {"msg_1": {"type": "item_reference", "id": "msg_1"}}
    assert refusal(input=[reference], lookup=chain.get).param == "input[0].type"


def test_what_a_request_needs_is_known_before_it_is_read() -> None:
    fields = {
        "previous_response_id": "resp_1",
        "input": [{"id": "a"}, message(id="b"), {"type": "item_reference", "id": "c"}, {"id": "a"}, {"id": 7}, "x"],
    }
    assert needs(fields) == Needs("resp_1", ("a", "c"))
    assert needs({"input": "hi", "previous_response_id": 7}) == Needs(None, ())


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"model": None}, "model", "model_required"),
        ({"input": None}, "input", GENERIC),
        ({"input": 7}, "input", GENERIC),
        ({"input": []}, "input", GENERIC),
        ({"input": ["x"]}, "input[0]", GENERIC),
        ({"input": [{"type": ["message"]}]}, "input[0].type", GENERIC),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type", UNSUPPORTED),
        ({"input": [{"type": "compaction"}]}, "input[0].type", UNSUPPORTED),
        ({"input": [message(role="tool")]}, "input[0].role", GENERIC),
        ({"input": [message(None)]}, "input[0].content", GENERIC),
        ({"input": [message([])]}, "input[0].content", GENERIC),
        ({"input": [message(["x"])]}, "input[0].content[0]", GENERIC),
        ({"input": [message([{"type": "input_text"}])]}, "input[0].content[0].text", GENERIC),
        ({"input": [message([{"type": "input_file", "file_id": "f"}])]}, "input[0].content[0]", UNSUPPORTED),
        ({"input": [message([{"type": "hologram"}])]}, "input[0].content[0].type", GENERIC),
        ({"input": [message([{"type": ["x"]}])]}, "input[0].content[0].type", GENERIC),
        ({"input": [message([{"type": "input_image"}])]}, "input[0].content[0].image_url", GENERIC),
        ({"input": [message([image(file_id="f")])]}, "input[0].content[0].file_id", UNSUPPORTED),
        ({"input": [message([image(detail="x")])]}, "input[0].content[0].detail", GENERIC),
        ({"input": [message([image()], "assistant")]}, "input[0].content[0]", UNSUPPORTED),
        ({"input": [call(), result(output=[image()])]}, "input[1].output[0]", UNSUPPORTED),
        ({"input": [call(None)]}, "input[0].call_id", GENERIC),
        ({"input": [call(name="")]}, "input[0].name", GENERIC),
        ({"input": [call(arguments={})]}, "input[0].arguments", GENERIC),
        ({"input": [call(namespace=7)]}, "input[0].namespace", GENERIC),
        ({"input": [call(), call(), result()]}, "input[1].call_id", GENERIC),
        ({"input": [message(), call()]}, "input[1]", GENERIC),
        ({"input": [result()]}, "input[0].call_id", GENERIC),
        ({"input": [call(), result(), result()]}, "input[2].call_id", GENERIC),
        ({"input": [call(), result(output=None)]}, "input[1].output", GENERIC),
        ({"input": [call(), result(output=[{"type": "input_file"}])]}, "input[1].output[0]", UNSUPPORTED),
        ({"input": [{"type": "reasoning", "summary": "x"}]}, "input[0].summary", GENERIC),
        ({"input": [{"type": "reasoning", "summary": [{}]}]}, "input[0].summary[0].text", GENERIC),
        ({"input": [{"type": "reasoning", "encrypted_content": 7}]}, "input[0].encrypted_content", GENERIC),
        ({"input": [{"type": "item_reference"}]}, "input[0].id", GENERIC),
        ({"before": (call(),), "previous_response_id": "r"}, "previous_response_id", GENERIC),
        ({"input": "x" * 1001}, "input", "context_length_exceeded"),
        ({"model": "codex-6"}, "model", "model_not_found"),
    ],
)
def test_what_would_not_reach_the_model_as_meant_is_refused(fields: dict[str, Any], param: str, code: str) -> None:
    error = refusal(**fields)
    assert (error.param, error.code) == (param, code)


# --- tools -------------------------------------------------------------------------------------------------------

NAMESPACE = {"type": "namespace", "name": "agents", "description": "Helpers.", "tools": [function("spawn")]}
CUSTOM = {
    "type": "custom",
    "name": "patch",
    "description": "Patches.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /x/"},
}


def test_functions_are_flat() -> None:
    request = ask(tools=[function(description="Looks.", strict=True), function("other", parameters=None)])
    assert request.tools.specs == (
        ToolSpec("look", "Looks.", {"type": "object"}),
        ToolSpec("other", "", {"type": "object", "properties": {}}),
    )
    assert request.ignored == ("tools.strict",)
    assert request.aliases == {}
    assert request.echo["tools"][0] == function(description="Looks.", strict=True)


def test_a_custom_tool_is_a_function_of_one_text_to_the_model() -> None:
    request = ask(tools=[CUSTOM])
    (spec,) = request.tools.specs
    assert spec.name == "patch"
    assert spec.description == "Patches.\n\nThe input must be one that this lark grammar accepts:\nstart: /x/"
    assert spec.input_schema["required"] == ["input"]
    assert request.aliases == {"patch": Alias("patch", None, is_custom=True)}
    assert request.echo["tools"] == (CUSTOM,)


def test_a_namespace_is_in_front_of_the_names_of_its_functions() -> None:
    request = ask(tools=[NAMESPACE, function("spawn")])
    assert [spec.name for spec in request.tools.specs] == ["agents__spawn", "spawn"]
    assert request.aliases == {"agents__spawn": Alias("spawn", "agents")}
    assert request.echo["tools"][0]["tools"][0]["name"] == "spawn"


def test_a_name_that_is_too_long_for_the_model_is_cut_always_in_the_same_way() -> None:
    alias = alias_of("n" * 60, "s" * 60)
    assert len(alias) == 64
    assert alias != alias_of("n" * 60 + "m", "s" * 60)
    request = ask(
        tools=[NAMESPACE | {"name": "s" * 60, "tools": [function("n" * 60)]}],
        input=[message(), call(name="n" * 60, namespace="s" * 60), result()],
    )
    assert request.tools.specs[0].name == alias
    assert request.messages[1] == Called("c", alias, "{}")


def test_calls_of_custom_tools_in_the_history_fit_the_functions_that_stand_for_them() -> None:
    request = ask(
        tools=[CUSTOM],
        input=[
            {"type": "custom_tool_call", "call_id": "c", "name": "patch", "input": '*** "Begin"\n', "id": "ctc_1"},
            {"type": "custom_tool_call_output", "call_id": "c", "output": "done"},
        ],
    )
    called, answered = request.messages
    assert isinstance(called, Called)
    assert json.loads(called.arguments) == {"input": '*** "Begin"\n'}
    assert answered == Answered("c", "done")


def test_tools_may_come_as_an_item() -> None:
    item = {"type": "additional_tools", "id": "at_1", "role": "developer", "tools": [NAMESPACE]}
    request = ask(tools=[function()], input=[item, message()])
    assert [spec.name for spec in request.tools.specs] == ["look", "agents__spawn"]
    assert request.messages == (Said("user", ("go on",)),)
    assert refusal(input=[item | {"tools": [7]}, message()]).param == "input[0].tools[0]"


@pytest.mark.parametrize("kind", ["web_search", "web_search_2025_08_26", "web_search_preview", "tool_search"])
def test_what_the_model_can_do_without_is_left_out_and_named(kind: str) -> None:
    request = ask(tools=[{"type": kind, "external_web_access": False}, function()])
    assert request.tools.specs == (LOOK,)
    assert request.ignored == (f"tools.{kind}",)
    assert len(request.echo["tools"]) == 1


OTHER = ToolSpec("other", "", {"type": "object"})
BOTH = [function(), function("other")]


@pytest.mark.parametrize(
    ("fields", "tools"),
    [
        ({}, Tools((LOOK, OTHER))),
        ({"tool_choice": "auto"}, Tools((LOOK, OTHER))),
        ({"tool_choice": None, "parallel_tool_calls": None}, Tools((LOOK, OTHER))),
        ({"tool_choice": "none"}, Tools()),
        ({"tool_choice": "required"}, Tools((LOOK, OTHER), must_call=True)),
        ({"parallel_tool_calls": False}, Tools((LOOK, OTHER), is_parallel=False)),
        (
            {"tool_choice": {"type": "function", "name": "look"}},
            Tools((LOOK,), must_call=True, withheld=frozenset({"other"})),
        ),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "look"}]}},
            Tools((LOOK,), withheld=frozenset({"other"})),
        ),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "required",
                    "tools": [{"type": "function", "name": "other"}] * 2,
                }
            },
            Tools((OTHER,), must_call=True, withheld=frozenset({"look"})),
        ),
    ],
)
def test_what_is_offered_is_what_the_choice_leaves(fields: dict[str, Any], tools: Tools) -> None:
    assert ask(tools=BOTH, **fields).tools == tools


def test_a_custom_tool_and_a_function_of_a_namespace_can_be_chosen() -> None:
    tools = [NAMESPACE, CUSTOM]
    assert ask(tools=tools, tool_choice={"type": "custom", "name": "patch"}).tools.specs[0].name == "patch"
    assert ask(tools=tools, tool_choice={"type": "function", "name": "spawn"}).tools.specs[0].name == "agents__spawn"
    assert refusal(tools=tools, tool_choice={"type": "function", "name": "patch"}).param == "tool_choice.name"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tools": {}}, "tools", GENERIC),
        ({"tools": ["x"]}, "tools[0]", GENERIC),
        ({"tools": [{"type": "file_search"}]}, "tools[0].type", UNSUPPORTED),
        ({"tools": [{"type": "mcp"}]}, "tools[0].type", UNSUPPORTED),
        ({"tools": [{"type": "function", "function": {"name": "look"}}]}, "tools[0].name", GENERIC),
        ({"tools": [function("a b")]}, "tools[0].name", GENERIC),
        ({"tools": [function(), function()]}, "tools[1].name", GENERIC),
        ({"tools": [function(str(number)) for number in range(129)]}, "tools", GENERIC),
        ({"tools": [function(parameters=[])]}, "tools[0].parameters", GENERIC),
        ({"tools": [function(strict="yes")]}, "tools[0].strict", GENERIC),
        ({"tools": [CUSTOM | {"format": {"type": "x"}}]}, "tools[0].format.type", GENERIC),
        ({"tools": [CUSTOM | {"format": {"type": "grammar"}}]}, "tools[0].format", GENERIC),
        ({"tools": [CUSTOM | {"description": 7}]}, "tools[0].description", GENERIC),
        ({"tools": [NAMESPACE | {"tools": []}]}, "tools[0].tools", GENERIC),
        ({"tools": [NAMESPACE | {"tools": [NAMESPACE]}]}, "tools[0].tools[0].type", GENERIC),
        ({"tools": [NAMESPACE | {"description": 7}]}, "tools[0].description", GENERIC),
        ({"tool_choice": "required"}, "tool_choice", GENERIC),
        ({"tool_choice": "sometimes"}, "tool_choice", GENERIC),
        ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice.type", UNSUPPORTED),
        ({"tool_choice": {"type": 7}}, "tool_choice", GENERIC),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name", GENERIC),
        ({"tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name", GENERIC),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.mode", GENERIC),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto"}}, "tool_choice.tools", GENERIC),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}},
            "tool_choice.tools[0].type",
            UNSUPPORTED,
        ),
        ({"parallel_tool_calls": "maybe"}, "parallel_tool_calls", GENERIC),
    ],
)
def test_a_tool_or_a_choice_that_is_not_well_formed_is_refused(fields: dict[str, Any], param: str, code: str) -> None:
    error = refusal(**fields)
    assert (error.status, error.param, error.code) == (400, param, code)


# --- parameters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "output"),
    [
        (None, Output()),
        ({"type": "text"}, Output()),
        ({"type": "json_object"}, Output(wish=JSON_OBJECT, check="object")),
        ({"type": "json_schema", "name": "x", "strict": True, "schema": {"a": 1}}, Output(schema={"a": 1})),
    ],
)
def test_the_form_of_the_text_is_that_of_chat(form: Any, output: Output) -> None:
    assert ask(text={"format": form}).output == output


def test_how_to_think_and_to_speak_reaches_the_model() -> None:
    request = ask(reasoning={"effort": "low", "summary": "concise"}, text={"verbosity": "high"})
    turn = to_turn(request, model="m", effort="high", reasoning_items=True)
    assert (turn.effort, turn.summary, turn.verbosity, turn.reasoning_items) == ("low", "concise", "high", True)
    assert ask(reasoning={"generate_summary": "auto"}).summary == "auto"


def test_what_is_said_of_the_answers_own_life_is_kept() -> None:
    request = ask(stream=True, background=True, max_output_tokens=7.0, include=["reasoning.encrypted_content"])
    assert (request.stream, request.background, request.store) == (True, True, True)
    assert (request.max_tokens, request.shows_encrypted) == (7, True)
    assert not ask(store=False).store
    assert not ask().shows_encrypted


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"instructions": ["x"]}, "instructions", GENERIC),
        ({"previous_response_id": 7}, "previous_response_id", GENERIC),
        ({"store": "yes"}, "store", GENERIC),
        ({"background": 1}, "background", GENERIC),
        ({"background": True, "store": False}, "store", GENERIC),
        ({"stream": "false"}, "stream", GENERIC),
        ({"stream": True, "stream_options": 7}, "stream_options", GENERIC),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options", GENERIC),
        ({"include": "x"}, "include", GENERIC),
        ({"include": ["x"]}, "include[0]", GENERIC),
        ({"include": ["message.output_text.logprobs"]}, "include", UNSUPPORTED),
        ({"metadata": {"k": 7}}, "metadata", GENERIC),
        ({"metadata": {"k" * 65: ""}}, "metadata", GENERIC),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata", GENERIC),
        ({"truncation": "sometimes"}, "truncation", GENERIC),
        ({"service_tier": "gold"}, "service_tier", GENERIC),
        ({"safety_identifier": "x" * 65}, "safety_identifier", GENERIC),
        ({"temperature": 3}, "temperature", GENERIC),
        ({"top_p": 0}, "top_p", GENERIC),
        ({"top_logprobs": 1}, "top_logprobs", UNSUPPORTED),
        ({"max_output_tokens": 0}, "max_output_tokens", GENERIC),
        ({"max_output_tokens": 1.5}, "max_output_tokens", GENERIC),
        ({"max_tool_calls": "x"}, "max_tool_calls", GENERIC),
        ({"text": "x"}, "text", GENERIC),
        ({"text": {"verbosity": "some"}}, "text.verbosity", GENERIC),
        ({"text": {"format": "text"}}, "text.format", GENERIC),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", GENERIC),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name", GENERIC),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", GENERIC),
        ({"reasoning": "high"}, "reasoning", GENERIC),
        ({"reasoning": {"effort": "turbo"}}, "reasoning.effort", GENERIC),
        ({"reasoning": {"effort": ["low"]}}, "reasoning.effort", GENERIC),
        ({"reasoning": {"summary": "long"}}, "reasoning.summary", GENERIC),
        ({"conversation": "conv_1"}, "conversation", UNSUPPORTED),
        ({"prompt": {"id": "p"}}, "prompt", UNSUPPORTED),
        ({"context_management": [{"type": "compaction"}]}, "context_management", UNSUPPORTED),
        ({"moderation": {"model": "x"}}, "moderation", UNSUPPORTED),
        ({"stop": "x"}, "stop", UNSUPPORTED),
        ({"n": 2}, "n", UNSUPPORTED),
        ({"messages": [message()]}, "messages", UNSUPPORTED),
        ({"response_format": {"type": "text"}}, "response_format", UNSUPPORTED),
        ({"max_tokens": 7}, "max_tokens", UNSUPPORTED),
    ],
)
def test_a_wrong_parameter_is_refused(fields: dict[str, Any], param: str, code: str) -> None:
    error = refusal(**fields)
    assert (error.status, error.param, error.code) == (400, param, code)


def test_null_is_absent_for_every_parameter() -> None:
    names = (READ | Options.model_fields.keys()) - {"model", "input"}
    nulls: dict[str, Any] = dict.fromkeys([*names, "temperature", "top_p", "whatever"])
    assert ask(**nulls) == ask()


@pytest.mark.parametrize("effort", EFFORTS)
def test_every_effort_is_accepted(effort: str) -> None:
    assert ask(reasoning={"effort": effort}).effort == effort


def test_parameters_without_effect_are_named() -> None:
    accepted = ask(
        temperature=1,
        top_p=1,
        top_logprobs=0,
        user="u",
        prompt_cache_key="k",
        client_metadata={"a": "b"},
        service_tier="auto",
        truncation="auto",
        include=["web_search_call.results", "reasoning.encrypted_content"],
        stream=True,
        stream_options={"include_obfuscation": True, "include_usage": True},
        reasoning={"effort": "low", "context": "all_turns"},
        text={"verbosity": "low", "colour": "red"},
        max_tool_calls=3,
        n=1,
        whatever=[1],
        nothing=[],
    )
    assert accepted.ignored == (
        "temperature",
        "top_p",
        "user",
        "prompt_cache_key",
        "client_metadata",
        "whatever",
        "truncation",
        "include.web_search_call.results",
        "stream_options.include_obfuscation",
        "text.colour",
        "reasoning.context",
    )


# --- whatever comes ------------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers(-2, 200) | st.floats(allow_nan=False) | st.text(max_size=3)
WORDS = st.sampled_from(
    [
        "message",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "reasoning",
        "item_reference",
        "additional_tools",
        "input_text",
        "output_text",
        "refusal",
        "input_image",
        "summary_text",
        "function",
        "custom",
        "namespace",
        "web_search",
        "allowed_tools",
        "auto",
        "required",
        "none",
        "grammar",
        "text",
        "json_schema",
        "json_object",
        "user",
        "assistant",
        "system",
        "c",
        "look",
        "lark",
        "low",
    ]
)
KEYS = st.sampled_from(
    [
        "type",
        "role",
        "content",
        "id",
        "call_id",
        "name",
        "namespace",
        "arguments",
        "input",
        "output",
        "summary",
        "encrypted_content",
        "tools",
        "text",
        "format",
        "syntax",
        "definition",
        "schema",
        "strict",
        "parameters",
        "mode",
        "effort",
        "verbosity",
        "description",
        "include_obfuscation",
        "refusal",
    ]
)
JSON = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)
FIELDS = st.dictionaries(st.sampled_from(sorted(READ | Options.model_fields.keys() | {"whatever"})), JSON, max_size=6)


@given(FIELDS, st.lists(JSON, max_size=5))
def test_whatever_is_asked_is_answered_or_refused(fields: dict[str, Any], items: list[Any]) -> None:
    body = {"model": "codex-5", "input": items} | fields
    needs(body)
    refused: ApiError | None = None
    try:
        request, _ = parse_responses(body, find=lambda _: Known(), lookup=lambda _: message())
    except ApiError as error:
        refused = error
    else:
        assert to_turn(request, model="m", effort=None).items
        json.dumps(request.echo)
    if refused is not None:
        assert 400 <= refused.status < 500
        json.loads(refused.body())

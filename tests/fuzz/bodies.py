"""Request bodies that somebody might send: right ones, wrong ones, JSON of any kind, and rubbish."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

from tests.support.images import data_url, png
from tests.support.services import body, scripted

TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
        "strict": False,
    },
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "a"}'}}

DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
"""A picture of one point."""

RIGHT: list[Any] = [
    body(),
    body(stream=True, stream_options={"include_usage": True}),
    body(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Look."}, {"type": "text", "text": "Now."}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "a bell"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "refusal": None},
            {"role": "developer", "content": "Be kind.", "name": "me"},
            {"role": "user", "content": "And now?"},
        ],
        tools=[TOOL],
        tool_choice="auto",
        parallel_tool_calls=False,
    ),
    body(scripted(tool_calls=[{"name": "look"}]), tools=[TOOL], tool_choice="required", stream=True),
    body(
        scripted(tool_calls=[{"name": "look"}]),
        tools=[TOOL],
        tool_choice={
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "look"}}]},
        },
    ),
    body(
        messages=[
            {"role": "user", "content": "Look."},
            {"role": "assistant", "content": "", "function_call": {"name": "look", "arguments": "{}"}},
            {"role": "function", "name": "look", "content": None},
        ],
        functions=[{"name": "look", "parameters": {"type": "object", "properties": {}}}],
        function_call={"name": "look"},
    ),
    body(
        scripted(text='{"a": 1}'),
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "a",
                "description": "An answer.",
                "strict": True,
                "schema": {
                    "type": "object",
                    "properties": {"a": {"type": "integer", "maximum": 9}},
                    "required": ["a"],
                    "additionalProperties": False,
                },
            },
        },
    ),
    body(scripted(text='{"a": 1}'), response_format={"type": "json_object"}, stream=True),
    body(
        n=2,
        stop=["x", "y"],
        max_tokens=5,
        max_completion_tokens=7,
        temperature=0.5,
        top_p=1,
        presence_penalty=-1.5,
        frequency_penalty=0,
        logit_bias={"50256": -100},
        seed=7,
        user="me",
        metadata={"a": "b"},
        service_tier="auto",
        store=False,
        reasoning_effort="low",
        verbosity="low",
        prediction={"type": "content", "content": "Hello."},
        modalities=["text"],
        logprobs=False,
        prompt_cache_key="k",
        safety_identifier="s",
    ),
    body(
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": data_url(png()), "detail": "low"}},
                ],
            }
        ]
    ),
]

FLAT_TOOL = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}, "strict": None}

RIGHT_RESPONSES: list[Any] = [
    {"model": "codex-5", "input": "Hello."},
    {
        "model": "codex-5",
        "instructions": "Be brief.",
        "input": [
            {"role": "developer", "content": "Be kind."},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Look."}]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
            {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "a bell"},
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "A bell.", "annotations": []}],
            },
            {"role": "user", "content": [{"type": "input_image", "image_url": DOT, "detail": "auto"}]},
        ],
        "tools": [FLAT_TOOL],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "include": ["reasoning.encrypted_content"],
        "store": False,
    },
    {
        "model": "codex-5",
        "input": scripted(tool_calls=[{"name": "look"}]),
        "tools": [FLAT_TOOL],
        "tool_choice": {"type": "function", "name": "look"},
        "stream": True,
        "max_output_tokens": 50,
        "max_tool_calls": 1,
        "truncation": "disabled",
        "metadata": {"a": "b"},
        "user": "me",
        "temperature": 1,
        "top_p": 0.5,
        "service_tier": "auto",
    },
    {
        "model": "codex-5",
        "input": scripted(text='{"a": 1}'),
        "text": {
            "format": {
                "type": "json_schema",
                "name": "a",
                "strict": True,
                "schema": {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
            }
        },
        "stream": True,
    },
]

HUGE = 10**310
ODD_TEXTS = [
    "",
    " ",
    "\0",
    "\ud800",
    "\udfff\ud800",
    "\ufeff",
    "\u202e",
    "a\u0300",
    "\U0010ffff",
    "\r\n\r\n",
    "x" * 600,
]
ODD_NUMBERS = [0, -1, 2**31, 2**53, 2**63, -(2**63) - 1, 2**64, HUGE, -HUGE, 1e308, 5e-324, -0.0]
NOT_NUMBERS = [float("nan"), float("inf"), float("-inf")]
WORDS = ["user", "system", "tool", "function", "text", "image_url", "auto", "none", "required", "json_schema", "look"]
FIELDS = sorted(
    {name for each in RIGHT for name in each} | {"audio", "web_search_options", "top_logprobs", "reasoning"}
)


def nested(depth: int) -> Any:
    """Arrays and objects within each other."""
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"properties": value}
    return value


SCALARS = (
    st.sampled_from([None, True, False, *ODD_NUMBERS, *NOT_NUMBERS, *ODD_TEXTS, *WORDS])
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
)
KEYS = st.sampled_from(["type", "name", "content", "function", "url", "text", *WORDS, *ODD_TEXTS[:-1]]) | st.text(
    max_size=5
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
DEEP = st.sampled_from([5, 63, 64, 65, 130]).map(nested)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value within a value."""
    found = [path] if path else []
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            found += places(value[key], (*path, key))
    return found


@st.composite
def mutated(draw: st.DrawFn, right: list[Any]) -> Any:
    """A right body, wrong in up to three places, none of which is read before all others."""
    made: Any = copy.deepcopy(draw(st.sampled_from(right)))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 2, 3]))):
        paths = [path for path in places(made) if path not in (("model",), ("messages",), ("input",))]
        if not paths:
            break
        *way, last = draw(st.sampled_from(paths))
        holder = made
        for key in way:
            holder = holder[key]
        old = holder[last]
        match draw(st.sampled_from(["replace", "replace", "text", "delete", "repeat", "wrap", "name", "write", "add"])):
            case "replace":
                holder[last] = draw(VALUES)
            case "text" if isinstance(old, str):
                holder[last] = draw(st.sampled_from([*ODD_TEXTS, *WORDS]) | st.text(st.characters(), max_size=20))
            case "delete":
                del holder[last]
            case "repeat" if isinstance(holder, list):
                holder[last:last] = [copy.deepcopy(old) for _ in range(draw(st.sampled_from([1, 3, 130])))]
            case "wrap":
                holder[last] = draw(st.sampled_from([[old], {"a": old}, [[old]]]))
            case "name" if isinstance(holder, dict):
                holder[draw(KEYS)] = holder.pop(last)
            case "write":
                holder[last] = json.dumps(old)
            case _:
                made[draw(st.sampled_from(FIELDS) | KEYS)] = draw(VALUES)
    return made


@st.composite
def written(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> bytes:
    """A value as JSON of one style or another; some of it is not JSON."""
    value = draw(values)
    style = draw(st.sampled_from(["plain", "plain", "ascii", "wide", "utf-16", "bom", "twice", "cut", "dirt", "deep"]))
    text = json.dumps(value, ensure_ascii=style == "ascii", indent=3 if style == "wide" else None)
    if style == "twice" and isinstance(value, dict) and value:
        key = draw(st.sampled_from(sorted(value)))
        text = f"{text[:-1]}, {json.dumps(key)}: {json.dumps(draw(VALUES))}}}"
    data = text.encode("utf-16" if style == "utf-16" else "utf-8", "surrogatepass")
    if style == "bom":
        return b"\xef\xbb\xbf" + data
    if style == "deep":
        depth = draw(st.sampled_from([1000, 1024, 5000, 100_000]))
        return data.replace(b'"Hello."', b"[" * depth + b"]" * draw(st.sampled_from([depth, 0])))
    if style == "cut":
        return data[: draw(st.integers(0, len(data)))]
    if style == "dirt":
        at = draw(st.integers(0, len(data)))
        return data[:at] + draw(st.binary(min_size=1, max_size=4)) + data[at:]
    return data


def nearly(right: list[Any]) -> st.SearchStrategy[bytes]:
    """Those with something wrong in them, as JSON."""
    return mutated(right).map(lambda value: json.dumps(value).encode())


BODIES = written(mutated(RIGHT)) | written(mutated(RIGHT_RESPONSES)) | written(VALUES | DEEP) | st.binary(max_size=200)

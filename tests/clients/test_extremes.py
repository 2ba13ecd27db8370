"""What nobody sends every day: all of Unicode, megabytes, nothing, 128 functions, a hundred streams at once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from openai import AsyncOpenAI

from pool.events import ToolSpec, TurnRequest
from pool.protocol.functions import adapted
from tests.codex.test_functions import NAMES
from tests.support.services import KEY, Json, body, scripted
from tests.support.serving import MODEL, Served

BOTH = pytest.mark.parametrize("served", ["fakes", pytest.param("cli", marks=pytest.mark.codex)], indirect=True)
SURROGATES = range(0xD800, 0xE000)


# --- text --------------------------------------------------------------------------------------------------------

PLANES = {
    f"plane {plane}": "".join(
        map(chr, (code for code in range(plane << 16, (plane + 1) << 16) if code not in SURROGATES))
    )
    for plane in range(17)
}
WORDS = {
    "combining": "e\u0301 a\u0300\u0301\u0302 \u0f40\u0f7c\u0f66 नमस्ते กำ",
    "composed and decomposed": "\u00e9 e\u0301 \u212b \u00c5 A\u030a \ufb01",
    "right to left": "\u202eabc\u202c \u2067\u05e9\u05dc\u05d5\u05dd\u2069 مرحبا \u200f\u200e",
    "zero width": "a\u200bb\u200cc\u200dd\u2060e\ufefff\u00adg",
    "families and flags": "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 👍🏿 1️⃣ 🏴\U000e0067\U000e0062\U000e007f",
    "ends of lines": "a\nb\r\nc\rd\u2028e\u2029f\x85g\x0bh\x0ci\n\n\ndata: x\n\n",
    "controls": "".join(map(chr, (*range(32), *range(0x7F, 0xA0)))),
    "edges": "\ud7ff\ue000\ufdd0\ufffd\ufffe\uffff\U00010000\U0010fffe\U0010ffff",
    "blanks": "\u00a0\u3000\u2003  \t  \u1680",
    "markup": "data: [DONE]\n\n: keepalive\n\nevent: x\n\n<|im_end|>\\u0000\\ud800",
}


def echoed(served: Served, text: str, **directive: Any) -> None:
    """The text comes back, byte for byte, whole and streamed."""
    prompt = f"{text} {scripted(echo=True, **directive)}"
    whole = served.chat(prompt)
    assert whole.status == 200, whole.raw[:500]
    assert whole.text == text
    stream = served.chat(prompt, stream=True).stream
    assert stream.text == text
    assert stream.is_done


@BOTH
@pytest.mark.parametrize("text", WORDS.values(), ids=WORDS.keys())
def test_awkward_text_comes_back_byte_for_byte_a_character_at_a_time(served: Served, text: str) -> None:
    echoed(served, text, chunk_size=1)


@BOTH
def test_every_character_there_is_comes_back(served: Served) -> None:
    for name, text in PLANES.items():
        assert len(text) == 65536 - len(SURROGATES) * (name == "plane 0")
    echoed(served, "".join(PLANES.values()), chunk_size=9973)


@BOTH
@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"\ud83d\ude00", "😀"),
        (r"a\ud83d", "a\ufffd"),
        (r"\ude00\ud83d!", "\ufffd\ufffd!"),
        (r"\ud83d\ud83d\ude00", "\ufffd😀"),
        (r"\u0000a\u0000", "\0a\0"),
    ],
)
def test_halves_of_a_pair_become_the_replacement_character(served: Served, escaped: str, text: str) -> None:
    data = json.dumps(body(f"HERE {scripted(echo=True, chunk_size=1)}")).replace("HERE", escaped)
    answer = served.post(data.encode())
    assert answer.text == text


# --- size --------------------------------------------------------------------------------------------------------

LARGE = "0123456789abcdé\n" * (4 * 2**20 // 16)
ONE_WORD = LARGE.replace("\n", "-")


@BOTH
def test_a_prompt_of_four_megabytes_comes_back(served: Served) -> None:
    echoed(served, LARGE, chunk_size=100_000)


@BOTH
def test_four_megabytes_anywhere_in_the_history_are_taken(served: Served) -> None:
    call: Json = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "look", "arguments": json.dumps({"a": LARGE})},
    }
    asked: Json = {"role": "user", "content": scripted(tool_calls=[{"name": "look"}])}
    made: Json = {"role": "assistant", "content": None, "tool_calls": [call]}
    told: Json = {"role": "tool", "tool_call_id": "call_1", "content": ONE_WORD}
    tools: list[Json] = [{"type": "function", "function": {"name": "look"}}]
    answer = served.chat(messages=[asked, made, told], tools=tools)
    assert answer.text == f"The tools answered: {ONE_WORD}"
    for role in ("system", "developer", "assistant"):
        last: Json = {"role": "user", "content": scripted(text="Read.")}
        assert served.chat(messages=[{"role": role, "content": LARGE}, last]).text == "Read."


@BOTH
def test_a_history_of_thousands_of_messages_is_taken(served: Served) -> None:
    said: list[Json] = [{"role": role, "content": f"{n}"} for n in range(2000) for role in ("user", "assistant")]
    assert served.chat(messages=[*said, {"role": "user", "content": scripted(text="Read.")}]).text == "Read."


@BOTH
def test_an_answer_of_megabytes_in_thousands_of_pieces_is_whole(served: Served) -> None:
    prompt = scripted(chunks=["0123456789abcdé\n" * 16], repeat=8000)
    text = "0123456789abcdé\n" * 16 * 8000
    assert served.chat(prompt).text == text
    assert served.chat(prompt, stream=True).stream.text == text


# --- nothing -----------------------------------------------------------------------------------------------------

CALLED: Json = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "look", "arguments": ""}}],
}
NOTHING: dict[str, list[Json]] = {
    "user": [{"role": "user", "content": ""}],
    "a user's part": [{"role": "user", "content": [{"type": "text", "text": ""}]}],
    "system": [{"role": "system", "content": ""}, {"role": "user", "content": "Hi."}],
    "only system": [{"role": "system", "content": ""}],
    "developer": [{"role": "developer", "content": ""}, {"role": "user", "content": "Hi."}],
    "assistant": [{"role": "assistant", "content": ""}, {"role": "user", "content": "Hi."}],
    "assistant last": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": ""}],
    "only assistant": [{"role": "assistant", "content": ""}],
    "tool": [{"role": "user", "content": ""}, CALLED, {"role": "tool", "tool_call_id": "call_1", "content": ""}],
    "function": [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": ""}},
        {"role": "function", "name": "look", "content": ""},
    ],
    "everybody": [
        *({"role": role, "content": ""} for role in ("system", "developer", "user", "assistant", "user")),
        CALLED,
        {"role": "tool", "tool_call_id": "call_1", "content": ""},
        {"role": "user", "content": ""},
    ],
}


@BOTH
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("messages", NOTHING.values(), ids=NOTHING.keys())
def test_whoever_says_nothing_is_answered(served: Served, messages: list[Json], stream: bool) -> None:
    answer = served.chat(messages=messages, stream=stream)
    assert answer.status == 200, answer.raw
    said = answer.stream.text if stream else answer.text
    assert said


@BOTH
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_model_that_says_nothing_has_answered(served: Served, stream: bool) -> None:
    answer = served.chat(scripted(text=""), stream=stream)
    assert answer.status == 200
    if stream:
        assert (answer.stream.text, answer.stream.finishes, answer.stream.is_done) == ("", ["stop"], True)
    else:
        assert (answer.text, answer.json["choices"][0]["finish_reason"]) == ("", "stop")


# --- functions ---------------------------------------------------------------------------------------------------

MANY = [*NAMES, *(f"tool_{number}" for number in range(128 - len(NAMES)))]


def functions(names: list[str]) -> list[Json]:
    """Definitions, each with a schema of its own."""
    return [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": f"Does {name}.",
                "parameters": {"type": "object", "properties": {f"of_{number}": {"type": "string"}}},
            },
        }
        for number, name in enumerate(names)
    ]


@BOTH
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_128_functions_of_any_name_can_all_be_called_at_once(served: Served, stream: bool) -> None:
    specs = tuple(ToolSpec(name, "", {}) for name in MANY)
    known = [tool.name for tool in adapted(TurnRequest("m", "", (), specs)).request.tools]
    calls = [{"name": name, "arguments": f'{{"n": {n}}}', "call_id": f"call_{n}"} for n, name in enumerate(known)]
    answer = served.chat(scripted(tool_calls=calls), tools=functions(MANY), stream=stream)
    assert answer.status == 200, answer.raw[:500]
    if stream:
        parts = [part for chunk in answer.stream.chunks for part in chunk["choices"][0]["delta"].get("tool_calls", ())]
        made = [(part["id"], part["function"]["name"]) for part in parts if "id" in part]
        arguments = [part["function"]["arguments"] for part in parts if "id" not in part]
    else:
        found = answer.json["choices"][0]["message"]["tool_calls"]
        made = [(call["id"], call["function"]["name"]) for call in found]
        arguments = [call["function"]["arguments"] for call in found]
    assert made == [(f"call_{n}", name) for n, name in enumerate(MANY)]
    assert arguments == [f'{{"n": {n}}}' for n in range(128)]


@BOTH
def test_129_functions_are_refused(served: Served) -> None:
    answer = served.chat(tools=functions([*MANY, "one_more"]))
    assert (answer.status, answer.error["param"]) == (400, "tools")


# --- number ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("served", "number"), [("fakes", 100), pytest.param("cli", 32, marks=pytest.mark.codex)], indirect=["served"]
)
async def test_streams_side_by_side_are_kept_apart(served: Served, number: int) -> None:
    async with AsyncOpenAI(base_url=served.base_url, api_key=KEY, max_retries=0) as client:

        async def ask(mine: int) -> str:
            prompt = scripted(chunks=[f"<{mine}>"], repeat=20, interval_s=0.01)
            stream = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": prompt}], stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(ask(mine)) for mine in range(number)]
    assert [task.result() for task in asking] == [f"<{mine}>" * 20 for mine in range(number)]

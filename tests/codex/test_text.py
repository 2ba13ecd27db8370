"""Text comes and goes verbatim, whatever it holds."""

from __future__ import annotations

import json

import pytest

from loadtest.model_standin import ModelStandin
from pool.events import Finish
from tests.support.pools import RunningPool, asking

AWKWARD = {
    "repeats": "ha" * 50 + "1000" * 20,
    "newlines": "a\n\r\n\tb\u2028c\u2029d\x85e",
    "quotes": 'say "hi" \\ {"json": [1, 2]} \\u0041 \\n',
    "nul and controls": "a\x00b\x01\x1f\x7f",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 ﷽",
    "right to left": "\u202eabc\u202c שלום",
    "markup": "<use_tool> [system] <|im_end|> ```",
    "spaces": "   leading and trailing   ",
    "bom": "\ufeffhi\ufffe",
}


@pytest.mark.parametrize("text", AWKWARD.values(), ids=AWKWARD.keys())
async def test_awkward_text_reaches_the_model_and_comes_back_verbatim(
    text: str, real: RunningPool, standin: ModelStandin
) -> None:
    sink, end = await real.turn(asking(text + ' @@{"echo": true, "chunk_size": 1}'))
    assert end.finish is Finish.STOP
    assert sink.text == text
    (request,) = standin.requests
    assert json.loads(request.raw)["input"][-1]["content"][0]["text"].startswith(text)


async def test_equal_deltas_are_all_delivered(real: RunningPool) -> None:
    sink, _ = await real.turn(asking('@@{"chunks": ["ha"], "repeat": 500}'))
    assert sink.text == "ha" * 500
    assert len(sink.events) == 500


async def test_several_messages_of_one_turn_are_one_answer(real: RunningPool) -> None:
    sink, end = await real.turn(asking('@@{"messages": ["First. ", "Second."]}'))
    assert sink.text == "First. Second."
    assert end.finish is Finish.STOP


async def test_a_prompt_of_a_megabyte_and_more_reaches_the_model(real: RunningPool, standin: ModelStandin) -> None:
    text = "0123456789abcde\n" * (5 * 2**20 // 16)
    sink, end = await real.turn(asking(text + ' @@{"text": "read"}'))
    assert (sink.text, end.finish) == ("read", Finish.STOP)
    (request,) = standin.requests
    assert json.loads(request.raw)["input"][-1]["content"][0]["text"].startswith(text)


async def test_a_lone_surrogate_becomes_a_replacement_character(real: RunningPool) -> None:
    sink, _ = await real.turn(asking('half \ud83d emoji @@{"echo": true}'))
    assert sink.text == "half \ufffd emoji"

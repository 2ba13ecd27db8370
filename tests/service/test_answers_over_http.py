"""Where answers end, how many there are, and in what form: from a client's side of the wire."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from service.encode.tokens import vocabulary
from tests.service.conftest import Log
from tests.support.services import KEY, Json, RunningService, Stream, key, running_service, scripted, until

ENDLESS = {"chunks": ["tick "], "repeat": 100_000, "interval_s": 0.01}
SOON_S = 5.0


def texts(stream: Stream) -> dict[int, str]:
    """What each choice of a stream says."""
    said: dict[int, str] = {}
    for chunk in stream.chunks:
        for choice in chunk["choices"]:
            said[choice["index"]] = said.get(choice["index"], "") + (choice["delta"].get("content") or "")
    return said


# --- where they end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "text", "finish"),
    [
        ({"stop": "k t"}, "tic", "stop"),
        ({"stop": ["never", "tick tick tick"]}, "", "stop"),
        ({"max_tokens": 3}, "tick tick tick", "length"),
        ({"max_completion_tokens": 2, "stop": "k t"}, "tic", "stop"),
        ({"max_completion_tokens": 1, "stop": "tick t"}, "", "stop"),
    ],
)
async def test_an_answer_ends_where_it_was_to_end_and_so_does_its_turn(
    api: RunningService, stream: bool, fields: Json, text: str, finish: str
) -> None:
    answer = await api.chat(scripted(**ENDLESS), stream=stream, **fields)
    assert answer.status == 200
    if stream:
        assert (answer.stream.text, answer.stream.finishes, answer.stream.is_done) == (text, [finish], True)
    else:
        assert (answer.text, answer.json["choices"][0]["finish_reason"]) == (text, finish)
        assert answer.json["usage"]["completion_tokens"] == vocabulary().count(text)
        assert answer.headers["x-codex-usage"] == "estimated"
    await api.until_at_rest(SOON_S)
    assert api.counted("turns_total", profile="default", outcome="interrupted") == 1


async def test_text_that_does_not_reach_its_end_is_whole_and_counted(api: RunningService) -> None:
    usage = {"input_tokens": 7, "output_tokens": 3}
    answer = await api.chat(scripted(chunks=["one E", "N"], usage=usage), stop="END", max_tokens=2)
    assert (answer.text, answer.json["choices"][0]["finish_reason"]) == ("one EN", "stop")
    assert answer.json["usage"]["total_tokens"] == 10
    assert "x-codex-usage" not in answer.headers


async def test_an_answer_that_has_ended_is_one_whatever_its_turn_comes_to(tmp_path: Path) -> None:
    async with running_service(tmp_path, limits={"interrupt_s": 0.2}) as api:
        deaf = scripted(text="one two three", interval_s=0.01, repeat=100, ignore_interrupt=True)
        answer = await api.chat(deaf, stop="two")
        assert (answer.status, answer.text) == (200, "one ")
        assert answer.json["choices"][0]["finish_reason"] == "stop"


# --- in what form ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_json_that_is_none_is_an_error_and_never_an_answer(api: RunningService, stream: bool) -> None:
    asked: Json = {"response_format": {"type": "json_object"}, "stream": stream}
    good = await api.chat(scripted(text='{"a": 1}', chunk_size=2), **asked)
    assert (good.stream.text if stream else good.text) == '{"a": 1}'
    bad = await api.chat(scripted(text="Sure: {}"), **asked)
    error = bad.stream.errors[0] if stream else bad.error
    assert error["code"] == "response_format_not_followed"
    if stream:
        assert (bad.stream.finishes, bad.stream.is_done) == ([], False)
    else:
        assert bad.status == 502


async def test_a_checked_stream_that_is_too_long_to_keep_is_refused(
    api: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.handlers.voices.MAX_ANSWER_CHARS", 1000)
    answer = await api.chat(
        scripted(**ENDLESS | {"chunks": ["x" * 400]}), response_format={"type": "json_object"}, stream=True
    )
    assert [error["code"] for error in answer.stream.errors] == ["answer_too_large"]
    await api.until_at_rest(SOON_S)


# --- how many there are ------------------------------------------------------------------------------------------


async def test_each_choice_is_a_turn_of_its_own_and_their_usage_is_summed(tmp_path: Path) -> None:
    async with running_service(tmp_path, profile={"workers": 2, "slots": 2}) as api:
        prompt = scripted(stamp=True, text="x", usage={"input_tokens": 7, "output_tokens": 3})
        answer = await api.chat(prompt, n=3)
        assert answer.status == 200
        choices = answer.json["choices"]
        assert [choice["index"] for choice in choices] == [0, 1, 2]
        assert len({choice["message"]["content"] for choice in choices}) == 3, "stamped by three turns"
        assert {choice["finish_reason"] for choice in choices} == {"stop"}
        assert answer.json["usage"]["total_tokens"] == 30
        assert api.counted("turns_total", profile="default", outcome="stop") == 3
        await api.until_at_rest()


async def test_choices_are_streamed_side_by_side_and_kept_apart(api: RunningService) -> None:
    prompt = scripted(
        stamp=True, chunks=["a", "b", "c"], interval_s=0.02, usage={"input_tokens": 7, "output_tokens": 3}
    )
    stream = (await api.chat(prompt, n=3, stream=True, stream_options={"include_usage": True})).stream
    role, *deltas, finish, usage = stream.chunks
    assert [choice["delta"] for choice in role["choices"]] == [{"role": "assistant"}] * 3
    assert all(len(chunk["choices"]) == 1 for chunk in deltas)
    order = [chunk["choices"][0]["index"] for chunk in deltas]
    assert order != sorted(order), "side by side"
    said = texts(stream)
    assert said.keys() == {0, 1, 2}
    for text in said.values():
        stamp = text[: text.index(">") + 1]
        assert text == f"{stamp}a{stamp}b{stamp}c"
    assert len(set(said.values())) == 3
    assert [choice["finish_reason"] for choice in finish["choices"]] == ["stop"] * 3
    assert [choice["index"] for choice in finish["choices"]] == [0, 1, 2]
    assert usage["usage"]["total_tokens"] == 30
    assert stream.is_done
    assert len({chunk["id"] for chunk in stream.chunks}) == 1
    await api.until_at_rest()


async def test_more_choices_than_seats_are_said_one_after_the_other(tmp_path: Path) -> None:
    async with running_service(tmp_path, profile={"slots": 1}) as api:
        for stream in (False, True):
            answer = await api.chat(scripted(chunks=["x" * 50_000], repeat=30), n=3, stream=stream)
            said = (
                texts(answer.stream)
                if stream
                else {choice["index"]: choice["message"]["content"] for choice in answer.json["choices"]}
            )
            assert said == dict.fromkeys(range(3), "x" * 1_500_000), "none waits for another to be read"
        await api.until_at_rest()


async def test_each_choice_ends_where_it_was_to_end(api: RunningService) -> None:
    answer = await api.chat(scripted(**ENDLESS), n=2, stop="k t")
    assert [choice["message"]["content"] for choice in answer.json["choices"]] == ["tic", "tic"]
    await api.until_at_rest(SOON_S)


async def test_calls_of_several_choices_have_indices_of_their_own(api: RunningService) -> None:
    tool: Json = {"type": "function", "function": {"name": "look"}}
    prompt = scripted(tool_calls=[{"name": "look"}, {"name": "look"}])
    stream = (await api.chat(prompt, n=2, stream=True, tools=[tool])).stream
    begun = [
        (choice["index"], call["index"])
        for chunk in stream.chunks
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls", ())
        if "id" in call
    ]
    assert sorted(begun) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert stream.finishes == ["tool_calls", "tool_calls"]
    assert stream.comments[-1].startswith(': {"tool_call_count":4,')


async def test_when_one_choice_fails_the_answer_does_and_nothing_runs_on(tmp_path: Path) -> None:
    async with running_service(tmp_path, profile={"slots": 1, "attempts": 1, "workers": 2}) as api:
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(api.chat(scripted(hang="middle", text="one two"), n=2))
            await until(lambda: len(api.busy_pids()) == 2)
            os.kill(min(api.busy_pids()), signal.SIGKILL)
        answer = asking.result()
        assert (answer.status, answer.code) == (503, "worker_lost")
        await api.until_at_rest()


async def test_when_one_choice_of_a_stream_fails_the_stream_does_and_nothing_runs_on(tmp_path: Path) -> None:
    async with running_service(tmp_path, profile={"slots": 1, "attempts": 1, "workers": 2}) as api:
        async with await api.begin(scripted(hang="middle", text="one two"), n=2) as response:
            await until(lambda: len(api.busy_pids()) == 2)
            os.kill(min(api.busy_pids()), signal.SIGKILL)
            told = Stream.of(await response.read())
        assert response.status == 200
        assert [error["code"] for error in told.errors] == ["worker_lost"]
        assert (told.finishes, told.is_done) == ([], False)
        await api.until_at_rest()


async def test_when_not_all_choices_are_taken_none_is(tmp_path: Path) -> None:
    keys = [key("one", KEY, queue_max=1)]
    async with running_service(tmp_path, profile={"slots": 1}, keys=keys, api_key=None) as api:
        answer = await api.chat(scripted(**ENDLESS), n=3)
        assert (answer.status, answer.code) == (429, "tenant_queue_full")
        await api.until_at_rest(SOON_S)


async def test_each_turn_is_known_by_the_id_of_its_request(api: RunningService, log: Log) -> None:
    request_id = (await api.chat(n=2)).headers["x-request-id"]
    assert [line["job"] for line in log.of("job.admitted")] == [request_id, f"{request_id}.1"]

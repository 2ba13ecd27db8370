"""/v1/chat/completions, from a client's side of the wire, on workers that do as they are told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.services import (
    AUTHORIZED,
    WAIT_S,
    Answer,
    RunningService,
    Stream,
    body,
    running_service,
    scripted,
    until,
)

CHAT = "/v1/chat/completions"

SLOW = scripted(chunks=["tick "], repeat=100_000, interval_s=0.01)
"""An answer that goes on for as long as anybody wants it."""

SILENT = scripted(hang="first")
"""A turn that begins, and says nothing."""

SOON_S = 5.0
"""For what should be seen at once."""

AWKWARD = (
    "ha" * 50 + "1000" * 20,
    "a\n\r\n\tb\u2028c\u2029d\x85e",
    "data: [DONE]\n\ndata: {}\n\n: comment\n\n",
    'say "hi" \\ {"json": [1, 2]} \\u0041 \\n',
    "a\x00b\x01\x1f\x7f",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 ﷽ \ufeffhi\ufffe",
    "<use_tool> [system] <|im_end|> ```",
    "   leading and trailing   ",
)


# --- what an answer looks like -----------------------------------------------------------------------------------


async def test_a_plain_answer_is_a_whole_chat_completion(api: RunningService) -> None:
    usage = {"input_tokens": 100, "cached_tokens": 40, "output_tokens": 20, "reasoning_tokens": 5}
    answer = await api.chat(scripted(text="Four words and more.", usage=usage))
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    got = answer.json
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{24}", got.pop("id"))
    assert abs(got.pop("created") - time.time()) < 60  # noqa: TID251 - the wire's clock
    assert got == {
        "object": "chat.completion",
        "model": "codex-5",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Four words and more.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "total_tokens": 120,
            "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 5,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "system_fingerprint": "fp_codex_0.163.0",
    }


async def test_a_stream_is_role_then_text_then_finish_then_usage_then_done(api: RunningService) -> None:
    prompt = scripted(chunks=["One", " two", " three"], usage={"input_tokens": 7, "output_tokens": 3})
    answer = await api.chat(prompt, stream=True, stream_options={"include_usage": True})
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-cache, no-transform"
    assert answer.headers["X-Accel-Buffering"] == "no"
    events = answer.stream.events
    assert events[-1] == "[DONE]"
    chunks = [event for event in events[:-1] if isinstance(event, dict)]
    assert len(chunks) == len(events) - 1
    same = [{key: chunk[key] for key in ("id", "object", "created", "model", "system_fingerprint")} for chunk in chunks]
    assert same == [same[0]] * len(chunks)
    assert same[0]["id"].startswith("chatcmpl-")
    assert (same[0]["object"], same[0]["model"]) == ("chat.completion.chunk", "codex-5")
    assert same[0]["system_fingerprint"] == "fp_codex_0.163.0"
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "One"}, "finish_reason": None}],
        [{"index": 0, "delta": {"content": " two"}, "finish_reason": None}],
        [{"index": 0, "delta": {"content": " three"}, "finish_reason": None}],
        [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        [],
    ]
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * 5
    usage = chunks[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (7, 3, 10)


async def test_a_stream_that_was_not_asked_for_usage_has_none(api: RunningService) -> None:
    stream = (await api.chat(stream=True)).stream
    assert all("usage" not in chunk for chunk in stream.chunks)
    assert stream.finishes == ["stop"]
    assert stream.is_done


async def test_text_arrives_verbatim(api: RunningService) -> None:
    for text in AWKWARD:
        prompt = text + " " + scripted(echo=True, chunk_size=3)
        assert (await api.chat(prompt)).text == text
        stream = (await api.chat(prompt, stream=True)).stream
        assert stream.text == text
        assert stream.finishes == ["stop"]


async def test_equal_deltas_are_all_delivered(api: RunningService) -> None:
    prompt = scripted(chunks=["ha"], repeat=2000)
    assert (await api.chat(prompt)).text == "ha" * 2000
    assert (await api.chat(prompt, stream=True)).stream.text == "ha" * 2000


@pytest.mark.parametrize(("stream", "model"), [(False, "CODEX-5-High"), (True, "gpt-5.2-codex-xh")])
async def test_the_answer_names_the_model_as_the_client_did(api: RunningService, stream: bool, model: str) -> None:
    answer = await api.chat(model=model, stream=stream)
    named = {chunk["model"] for chunk in answer.stream.chunks} if stream else {answer.json["model"]}
    assert named == {model}


@pytest.mark.parametrize(("reason", "finish"), [("max_output_tokens", "length"), ("content_filter", "content_filter")])
async def test_an_answer_that_the_provider_cut_off_says_why(api: RunningService, reason: str, finish: str) -> None:
    prompt = scripted(text="cut off", incomplete=reason)
    plain = (await api.chat(prompt)).json["choices"][0]
    assert (plain["message"]["content"], plain["finish_reason"]) == ("cut off", finish)
    stream = (await api.chat(prompt, stream=True)).stream
    assert (stream.text, stream.finishes, stream.is_done) == ("cut off", [finish], True)


async def test_usage_that_nobody_counted_is_marked_as_estimated(api: RunningService) -> None:
    prompt = scripted(text="cut off", incomplete="content_filter")
    plain = await api.chat(prompt)
    assert plain.headers["x-codex-usage"] == "estimated"
    assert plain.json["usage"]["completion_tokens"] == 2
    events = (await api.chat(prompt, stream=True, stream_options={"include_usage": True})).stream.events
    assert events[-3] == ": x-codex-usage: estimated"
    assert isinstance(events[-2], dict)
    assert events[-2]["usage"]["completion_tokens"] == 2
    assert "x-codex-usage" not in (await api.chat()).headers


async def test_parameters_without_effect_are_named(api: RunningService) -> None:
    asked: dict[str, Any] = {"temperature": 0.5, "seed": 7, "user": None, "x_new": 1}
    for stream in (False, True):
        answer = await api.chat(stream=stream, **asked)
        assert answer.status == 200
        assert answer.headers["x-codex-ignored-params"] == "temperature, seed, x_new"
    assert "x-codex-ignored-params" not in (await api.chat()).headers


async def test_metadata_is_given_back(api: RunningService) -> None:
    metadata = {"ticket": "A-1"}
    assert (await api.chat(metadata=metadata)).json["metadata"] == metadata
    assert "metadata" not in (await api.chat()).json


async def test_head_tells_whether_the_key_is_good(api: RunningService) -> None:
    good = await api.call("HEAD", "/v1/chat/completions", headers=AUTHORIZED)
    bad = await api.call("HEAD", "/v1/chat/completions")
    assert (good.status, bad.status) == (200, 401)
    assert bad.headers["WWW-Authenticate"] == "Bearer realm=api"


async def test_many_streams_at_once_do_not_mix(tmp_path: Path) -> None:
    async with running_service(tmp_path, profile={"workers": 2, "slots": 4}) as api:

        async def ask(number: int) -> Stream:
            chunks = [f"{number}:{position} " for position in range(50)]
            return (await api.chat(scripted(chunks=chunks, interval_s=0.001), stream=True)).stream

        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(ask(number)) for number in range(24)]
        for number, task in enumerate(asked):
            assert task.result().text == "".join(f"{number}:{position} " for position in range(50))
            assert task.result().is_done
        assert len({task.result().chunks[0]["id"] for task in asked}) == 24
        await api.until_at_rest()


# --- failures before and after the first byte --------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_first_byte_is_a_real_status(api: RunningService, stream: bool) -> None:
    prompt = scripted(status=429, error={"message": "slow down", "code": "rate_limit_exceeded"})
    answer = await api.chat(prompt, stream=stream)
    assert (answer.status, answer.code) == (429, "rate_limit_exceeded")
    assert answer.headers["Content-Type"] == "application/json"
    assert "Retry-After" in answer.headers
    await api.until_at_rest()


async def test_a_failure_after_the_first_text_is_an_error_and_no_end(api: RunningService) -> None:
    answer = await api.chat(scripted(text="some text", failed="server_error"), stream=True)
    assert answer.status == 200
    stream = answer.stream
    assert stream.text == "some text"
    assert [error["code"] for error in stream.errors] == ["upstream_error"]
    assert stream.events[-1] == {"error": stream.errors[0]}
    assert stream.finishes == []
    assert not stream.is_done


async def test_a_failure_after_some_text_is_a_real_status_for_who_did_not_stream(api: RunningService) -> None:
    answer = await api.chat(scripted(text="some text", failed="server_error"))
    assert (answer.status, answer.code) == (502, "upstream_error")
    assert b"some text" not in answer.raw


async def test_a_failure_after_commit_delay_is_an_error_in_the_stream(tmp_path: Path) -> None:
    async with running_service(tmp_path, server={"commit_delay_s": 0.05}) as api:
        answer = await api.chat(scripted(delay_s=0.3, status=500), stream=True)
        assert answer.status == 200
        assert [error["code"] for error in answer.stream.errors] == ["upstream_error"]
        assert not answer.stream.is_done
        assert answer.stream.finishes == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_worker_that_exits_before_the_first_text_is_a_503(tmp_path: Path, stream: bool) -> None:
    async with running_service(tmp_path, profile={"attempts": 1}) as api:
        answer = await api.chat(scripted(text="never said", exit=3, at="first"), stream=stream)
        assert (answer.status, answer.code) == (503, "worker_lost")
        assert answer.error["retryable"] is True
        assert int(answer.headers["Retry-After"]) >= 1
        assert int(answer.headers["retry-after-ms"]) >= 1
        assert b"code 3" not in answer.raw, "nothing of the worker's internals"
        await api.until_at_rest()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_turn_whose_worker_dies_before_a_word_is_run_on_another_unseen(tmp_path: Path, stream: bool) -> None:
    async with running_service(tmp_path, profile={"workers": 2}) as api:
        workers = api.worker_pids()
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(api.chat(scripted(text="after all", delay_s=0.5), stream=stream))
            await until(lambda: api.running == 1)
            (busy,) = api.busy_pids()
            os.kill(busy, signal.SIGKILL)
        answer = asked.result()
        assert answer.status == 200
        assert (answer.stream.text if stream else answer.text) == "after all"
        assert workers > {busy}
        assert api.counted("redispatches_total", profile="default", reason="worker_lost") == 1
        assert api.counted("redispatched_total", profile="default", outcome="stop") == 1
        await api.until_at_rest()


async def test_a_request_that_crashes_two_workers_is_not_given_a_third(tmp_path: Path) -> None:
    async with running_service(tmp_path, profile={"workers": 2}) as api:
        poison = scripted(text="never said", exit=3, at="first")
        first, again = await api.chat(poison), await api.chat(poison)
        assert (first.status, first.code, first.error["retryable"]) == (500, "request_crashes_worker", False)
        assert (again.status, again.code, again.error["retryable"]) == (422, "request_crashes_worker", False)
        assert "Retry-After" not in again.headers
        assert again.headers["x-should-retry"] == "false"
        assert (await api.chat()).status == 200
        await api.until_at_rest()


async def test_a_worker_that_exits_after_some_text_ends_the_stream_with_an_error(api: RunningService) -> None:
    answer = await api.chat(scripted(chunks=["before", "after"], exit=3), stream=True)
    assert answer.status == 200
    stream = answer.stream
    assert stream.text == "before"
    assert [error["code"] for error in stream.errors] == ["worker_lost"]
    assert (stream.finishes, stream.is_done) == ([], False)
    await api.until_at_rest()
    assert (await api.chat()).status == 200


async def test_an_answer_that_is_too_long_to_keep_is_refused_and_its_turn_interrupted(
    api: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.handlers.voices.MAX_ANSWER_CHARS", 1000)
    answer = await api.chat(SLOW.replace("tick ", "x" * 400))
    assert (answer.status, answer.code) == (502, "answer_too_large")
    await api.until_at_rest(SOON_S)
    assert api.counted("turns_total", profile="default", outcome="abandoned") == 1
    assert len((await api.chat(scripted(text="x" * 1000))).text) == 1000


# --- late headers and keepalives ---------------------------------------------------------------------------------

SOON_COMMITTED = {"commit_delay_s": 0.05, "keepalive_s": 0.05}


async def test_a_slow_answer_has_headers_and_a_comment_before_its_text(tmp_path: Path) -> None:
    async with running_service(tmp_path, server={"commit_delay_s": 0.05}) as api:
        response = await api.begin(scripted(text="at last", delay_s=0.4))
        assert response.status == 200
        assert api.counted("first_token_seconds_count", profile="default") == 0, "committed without any text"
        events = Stream.of(await response.read()).events
    assert isinstance(events[0], dict)
    assert events[0]["choices"][0]["delta"] == {"role": "assistant"}
    assert isinstance(events[1], str)
    assert re.fullmatch(r": keepalive \d{13}", events[1])
    assert isinstance(events[2], dict)
    assert events[2]["choices"][0]["delta"] == {"content": "at"}
    assert events[-1] == "[DONE]"


async def test_a_silent_stream_is_kept_alive_from_the_moment_it_is_queued(tmp_path: Path) -> None:
    async with running_service(tmp_path, server=SOON_COMMITTED, profile={"slots": 1}) as api:
        first = await api.begin(SLOW)
        queued = await api.begin(scripted(text="my turn", delay_s=0.2))
        assert api.waiting == 1
        await queued.content.readuntil(b": keepalive ")
        assert api.waiting == 1, "a comment while it was still waiting"
        first.close()
        stream = Stream.of(b": keepalive " + await queued.read())
        assert len(stream.comments) >= 2
        assert stream.text == "my turn"
        assert stream.is_done


async def test_clients_that_choke_on_comments_get_none(tmp_path: Path) -> None:
    clients: tuple[tuple[str, dict[str, str]], ...] = (
        ("", {"User-Agent": "Mozilla/5.0 obsidian/1.7 Chrome/128"}),
        ("", {"User-Agent": "MyApp Electron/31.0"}),
        ("", {"X-No-Keepalive": "1"}),
        ("?no_keepalive=1", {}),
        ("", {"User-Agent": "curl/8", "X-No-Keepalive": "0"}),
    )
    asked = body(scripted(text="at last", delay_s=0.3), stream=True)
    async with running_service(tmp_path, server=SOON_COMMITTED, profile={"slots": 5}) as api:
        async with asyncio.TaskGroup() as tasks:
            answers = [
                tasks.create_task(api.call("POST", CHAT + query, json=asked, headers=AUTHORIZED | headers))
                for query, headers in clients
            ]
        streams = [answer.result().stream for answer in answers]
        assert [bool(stream.comments) for stream in streams] == [False, False, False, False, True]
        assert all(stream.text == "at last" and stream.is_done for stream in streams)


# --- clients that leave ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_while_queued_is_removed_at_once(tmp_path: Path, stream: bool) -> None:
    async with running_service(tmp_path, profile={"slots": 1}) as api:
        first = await api.begin(SLOW)
        async with asyncio.TaskGroup() as tasks:
            queued = tasks.create_task(api.chat("never run", stream=stream))
            await until(lambda: api.waiting == 1)
            queued.cancel()
            await until(lambda: api.waiting == 0, SOON_S)
        assert api.running == 1
        assert api.counted("turns_total", profile="default", outcome="abandoned") == 1
        first.close()
        await api.until_at_rest(SOON_S)


@pytest.mark.parametrize("prompt", [SLOW, SILENT], ids=["talking", "silent"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_while_its_turn_runs_frees_its_seat(
    api: RunningService, stream: bool, prompt: str
) -> None:
    workers = api.worker_pids()
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(api.chat(prompt, stream=stream))
        await until(lambda: api.running == 1 and api.free == 3)
        asked.cancel()
        await api.until_at_rest(SOON_S)
    assert api.counted("turns_total", profile="default", outcome="abandoned") == 1
    await until(lambda: api.counted("http_requests_total", route=CHAT, status="499") == 1)
    assert api.worker_pids() == workers, "a turn was interrupted, no worker replaced"


async def test_a_client_that_leaves_does_not_disturb_the_turn_beside_its_own(api: RunningService) -> None:
    async with asyncio.TaskGroup() as tasks:
        other = tasks.create_task(api.chat(scripted(chunks=["tick "], repeat=40, interval_s=0.01), stream=True))
        leaving = await api.begin(SLOW)
        await leaving.content.readany()
        leaving.close()
        await until(lambda: api.running == 1, SOON_S)
    assert other.result().stream.text == "tick " * 40
    assert other.result().stream.is_done


async def test_a_client_that_leaves_makes_room_for_the_next(tmp_path: Path) -> None:
    async with running_service(tmp_path, profile={"slots": 1}) as api:
        first = await api.begin(SLOW)
        async with asyncio.TaskGroup() as tasks:
            next_one = tasks.create_task(api.chat(scripted(text="my turn")))
            await until(lambda: api.waiting == 1)
            first.close()
        assert next_one.result().text == "my turn"


async def test_an_upload_that_breaks_off_is_no_bug(api: RunningService) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\nHost: x\nAuthorization: {AUTHORIZED['Authorization']}\n"
    reader, writer = await api.raw(head + "Content-Type: application/json\nContent-Length: 100\n\n", b'{"model":')
    writer.close()
    async with asyncio.timeout(WAIT_S):
        assert await reader.read() == b""
    await until(lambda: api.counted("http_requests_total", route=CHAT, status="499") == 1)
    assert (await api.chat()).status == 200


# --- clients that do not read ------------------------------------------------------------------------------------


async def test_a_client_that_does_not_read_is_cut_and_nobody_else_notices(tmp_path: Path) -> None:
    async with running_service(tmp_path) as api:  # its buffer is full long before `write_timeout_s` is over
        workers = api.worker_pids()
        asked = json.dumps(body(scripted(chunks=["x" * 1000], repeat=60_000), stream=True)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\nHost: x\nAuthorization: {AUTHORIZED['Authorization']}\n"
        async with asyncio.TaskGroup() as tasks:
            other = tasks.create_task(api.chat(scripted(chunks=["tick "], repeat=60, interval_s=0.01), stream=True))
            _, writer = await api.raw(f"{head}Content-Length: {len(asked)}\n\n", asked)
            await until(lambda: api.counted("turns_total", profile="default", outcome="slow_client") == 1)
            await until(lambda: api.running <= 1, SOON_S)
        writer.close()
        await api.until_at_rest(SOON_S)
        assert other.result().stream.text == "tick " * 60
        assert other.result().stream.is_done
        assert api.worker_pids() == workers


@pytest.mark.parametrize("stream", [False, True])
async def test_the_end_of_an_answer_does_not_wait_for_ever_for_its_reader(tmp_path: Path, *, stream: bool) -> None:
    async with running_service(tmp_path, server={"write_timeout_s": 0.2}) as api:
        asked = json.dumps(body(scripted(text="x" * 900_000, repeat=20, chunk_size=18_000_000), stream=stream)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\nHost: x\nAuthorization: {AUTHORIZED['Authorization']}\n"
        _, writer = await api.raw(f"{head}Content-Length: {len(asked)}\n\n", asked)
        await until(lambda: api.counted("http_requests_total", route="/v1/chat/completions", status="499") == 1, 5.0)
        await api.until_at_rest(SOON_S)
        assert api.free == api.seats
        writer.close()


async def test_a_client_that_reads_late_is_told_why_it_was_cut(tmp_path: Path) -> None:
    async with running_service(tmp_path) as api:
        response = await api.begin(scripted(chunks=["x" * 1000], repeat=60_000))
        await until(lambda: api.counted("turns_total", profile="default", outcome="slow_client") == 1)
        stream = Stream.of(await response.read())
        assert [error["code"] for error in stream.errors] == ["client_too_slow"]
        assert set(stream.text) == {"x"}
        assert (stream.finishes, stream.is_done) == ([], False)
        await api.until_at_rest(SOON_S)


# --- bugs of ours ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_a_bug_before_the_first_byte_is_a_500_that_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    def broken(*_args: Any, **_kwargs: Any) -> None:
        raise ZeroDivisionError("a-very-secret-detail")

    async with running_service(tmp_path, bugs=1) as api:
        with monkeypatch.context() as patch:
            patch.setattr("service.handlers.exchange.to_turn", broken)
            answer: Answer = await api.chat(stream=stream)
        assert (answer.status, answer.code) == (500, "internal_error")
        assert answer.error == {
            "message": "internal error",
            "type": "server_error",
            "param": None,
            "code": "internal_error",
        }
        assert api.counted("bugs_total", where="http") == 1
        assert (await api.chat()).status == 200


async def test_a_bug_after_the_first_byte_ends_the_stream_without_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: Any) -> bytes:
        raise ZeroDivisionError("a-very-secret-detail")

    async with running_service(tmp_path, bugs=1) as api:
        monkeypatch.setattr("service.encode.sse.ChatStream.finish", broken)
        answer = await api.chat(stream=True)
        assert answer.status == 200
        assert [error["code"] for error in answer.stream.errors] == ["internal_error"]
        assert (answer.stream.finishes, answer.stream.is_done) == ([], False)
        await api.until_at_rest(SOON_S)


# --- several keys ------------------------------------------------------------------------------------------------


async def test_a_key_that_asks_little_does_not_wait_for_one_that_asks_much(tmp_path: Path) -> None:
    mouse = "sk-of-the-mouse-0123456789abcdef"
    keys = [{"name": "mouse", "sha256": hashlib.sha256(mouse.encode()).hexdigest()}]
    async with running_service(tmp_path, profile={"slots": 1}, keys=keys) as api, asyncio.TaskGroup() as tasks:
        order: list[str] = []

        async def ask(name: str, **options: Any) -> None:
            assert (await api.chat(scripted(text=name, delay_s=0.02), **options)).status == 200
            order.append(name)

        for number in range(8):
            tasks.create_task(ask(f"elephant {number}"))
        await until(lambda: api.waiting == 7)
        await ask("mouse", headers={"Authorization": f"Bearer {mouse}"})
        assert len(order) <= 3, "at most the one that ran, and one that had just got its seat"

"""What goes wrong is told as OpenAI tells it, whoever refuses: one shape, one id, one clear status."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.support.services import (
    AUTHORIZED,
    JSON_BODY,
    WAIT_S,
    Answer,
    RunningService,
    body,
    key,
    running_service,
    scripted,
    until,
)

CHAT = "/v1/chat/completions"
SLOW = scripted(chunks=["tick "], repeat=100_000, interval_s=0.01)
GOOD = json.dumps(body(scripted(text="fine"))).encode()


def assert_tells_when_to_come_back(answer: Answer) -> None:
    seconds, milliseconds = int(answer.headers["Retry-After"]), int(answer.headers["retry-after-ms"])
    assert seconds >= 1
    assert 0 < milliseconds <= seconds * 1000
    assert answer.error["retryable"] is True


# --- every answer ------------------------------------------------------------------------------------------------


async def test_every_answer_has_a_request_id_of_its_own(api: RunningService) -> None:
    answers = [
        await api.chat(),
        await api.chat(stream=True),
        await api.chat(scripted(status=500)),
        await api.chat(scripted(text="some", failed="server_error"), stream=True),
        await api.chat(model="nobody"),
        await api.post(b"not JSON"),
        await api.post(GOOD, headers={"Authorization": "Bearer wrong"}),
        await api.call("PUT", CHAT),
        await api.call("HEAD", CHAT),
        await api.get("/nowhere"),
        await api.get("/v1/models"),
        await api.get("/v1/models/nobody"),
        await api.get("/healthz"),
        await api.get("/metrics"),
    ]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert all(ids)
    assert len(set(ids)) == len(ids)


# --- routes and keys ---------------------------------------------------------------------------------------------


async def test_an_unknown_route_is_a_404_in_our_shape(api: RunningService) -> None:
    for path in ("/", "/v1", "/v1/nowhere", "/v1/chat/completions/", "/__test/conc", "/%ff%00"):
        for headers in ({}, AUTHORIZED):
            for method in ("GET", "POST", "OPTIONS"):
                answer = await api.call(method, path, headers=headers)
                assert (answer.status, answer.code) == (404, "unknown_url"), (method, path)
                assert answer.headers["Content-Type"] == "application/json"


async def test_a_wrong_verb_is_a_405_that_names_the_right_ones(api: RunningService) -> None:
    for method, path, allowed in (
        ("GET", CHAT, "HEAD, POST"),
        ("DELETE", CHAT, "HEAD, POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("POST", "/v1/models/codex-5", "GET, HEAD"),
        ("POST", "/healthz", "GET, HEAD"),
        ("PUT", "/metrics", "GET, HEAD"),
    ):
        for headers in ({}, AUTHORIZED):
            answer = await api.call(method, path, headers=headers)
            assert (answer.status, answer.code) == (405, "method_not_allowed"), (method, path)
            assert answer.headers["Allow"] == allowed


async def test_a_wrong_key_is_a_401_that_says_which_kind_is_wanted(api: RunningService) -> None:
    good = AUTHORIZED["Authorization"]
    for authorization in (
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"{good}x",
        good.upper(),
        good.replace("Bearer", "Basic"),
        good.removeprefix("Bearer "),
    ):
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = await api.call("POST", CHAT, data=GOOD, headers=JSON_BODY | headers)
        assert answer.status == 401, authorization
        assert answer.headers["WWW-Authenticate"] == "Bearer realm=api"
        assert answer.error == {
            "message": "unauthorized",
            "type": "authentication_error",
            "param": None,
            "code": "invalid_api_key",
        }


async def test_the_key_is_checked_before_the_body(api: RunningService) -> None:
    answer = await api.post(b"not JSON", headers={"Authorization": "Bearer wrong", "Content-Type": "image/png"})
    assert (answer.status, answer.code) == (401, "invalid_api_key")


async def test_a_wrong_key_costs_no_upload(api: RunningService) -> None:
    reader, writer = await api.raw(f"POST {CHAT} HTTP/1.1\nHost: x\nContent-Length: 1000000\n\n")
    async with asyncio.timeout(WAIT_S):
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
    writer.close()


async def test_a_contract_that_is_used_up_is_a_429(tmp_path: Path) -> None:
    limited, free = "the-key-with-a-limit-0123456789", "the-key-without-any-limit-012345"
    keys = [key("limited", limited, requests_per_minute=2), key("free", free)]
    async with running_service(tmp_path, keys=keys) as api:
        bearer = {"Authorization": f"Bearer {limited}"}
        assert [(await api.chat(headers=bearer)).status for _ in range(2)] == [200, 200]
        for data in (GOOD, b"not JSON"):
            refused = await api.post(data, headers=bearer)
            assert (refused.status, refused.code) == (429, "rate_limited"), "before the body"
            assert refused.error["type"] == "rate_limit_error"
            assert_tells_when_to_come_back(refused)
            assert int(refused.headers["Retry-After"]) <= 31
        assert (await api.chat(headers={"Authorization": f"Bearer {free}"})).status == 200
        assert (await api.chat()).status == 200
        assert (await api.get("/v1/models", headers=bearer)).status == 200


async def test_every_answer_to_a_limited_key_tells_what_is_left_of_its_contract(tmp_path: Path) -> None:
    limited = "the-key-with-a-limit-0123456789"
    async with running_service(tmp_path, keys=[key("limited", limited, requests_per_minute=4)]) as api:
        bearer = {"Authorization": f"Bearer {limited}"}
        answers = [
            await api.chat(headers=bearer),
            await api.post(b"not JSON", headers=bearer),
            await api.chat(headers=bearer, stream=True),
            await api.chat(headers=bearer, n=2),
            await api.chat(headers=bearer),
        ]
        assert [answer.status for answer in answers] == [200, 400, 200, 200, 429]
        assert [answer.headers["x-ratelimit-limit-requests"] for answer in answers] == ["4"] * 5
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["3", "2", "1", "0", "0"]
        assert re.fullmatch(r"1m0s|5\d(\.\d+)?s", answers[-1].headers["x-ratelimit-reset-requests"])
        for answer in (await api.chat(), await api.call("POST", CHAT), await api.get("/v1/models", headers=bearer)):
            assert not [name for name in answer.headers if name.startswith("x-ratelimit-")]


async def test_what_is_left_is_told_as_of_the_answer_and_not_of_the_request(tmp_path: Path) -> None:
    limited = "the-key-with-a-limit-0123456789"
    async with running_service(tmp_path, keys=[key("limited", limited, requests_per_minute=4)]) as api:
        bearer = {"Authorization": f"Bearer {limited}"}
        async with asyncio.TaskGroup() as tasks:
            slow = tasks.create_task(api.chat(scripted(chunks=["tick "], repeat=60, interval_s=0.01), headers=bearer))
            await until(lambda: api.running == 1)
            assert (await api.chat(headers=bearer)).headers["x-ratelimit-remaining-requests"] == "2"
        assert slow.result().headers["x-ratelimit-remaining-requests"] == "2"


# --- bodies ------------------------------------------------------------------------------------------------------

NESTED = b'{"model":"codex-5","messages":[{"role":"user","content":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}"


async def test_a_body_that_is_not_json_is_a_400(api: RunningService) -> None:
    for data in (
        b"",
        b"not JSON",
        b"[]",
        GOOD[:-1],
        GOOD + b"x",
        b"\xff" + GOOD,
        b"\xef\xbb\xbf" + GOOD,
        GOOD.replace(b"fine", b"\xff"),
        GOOD.replace(b"fine", b"\x00"),
        GOOD + b"\x00",
        GOOD.decode().encode("utf-16"),
        NESTED,
    ):
        answer = await api.post(data)
        assert (answer.status, answer.code) == (400, "invalid_json"), data[:100]
        assert answer.error["message"].startswith("Invalid JSON")
        assert (await api.post(GOOD)).text == "fine"


async def test_a_content_type_that_json_comes_with_is_taken(api: RunningService) -> None:
    for content_type in ("application/json; charset=utf-8", "APPLICATION/JSON"):
        assert (await api.post(GOOD, headers={"Content-Type": content_type})).text == "fine"
    answer = await api.call("POST", CHAT, data=GOOD, headers=AUTHORIZED, skip_auto_headers=["Content-Type"])
    assert answer.text == "fine"


async def test_another_content_type_is_a_415(api: RunningService) -> None:
    for content_type in (
        "application/xml",
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        ";;",
    ):
        answer = await api.post(GOOD, headers={"Content-Type": content_type})
        assert (answer.status, answer.code) == (415, "unsupported_media_type"), content_type


async def test_a_compressed_body_is_read(api: RunningService) -> None:
    for encoding, data in (
        ("identity", GOOD),
        ("gzip", gzip.compress(GOOD)),
        ("GZIP", gzip.compress(GOOD)),
        ("deflate", zlib.compress(GOOD)),
    ):
        assert (await api.post(data, headers={"Content-Encoding": encoding})).text == "fine", encoding


async def test_an_encoding_that_cannot_be_undone_is_a_clear_4xx(api: RunningService) -> None:
    for encoding, data, status, code in (
        ("br", GOOD, 415, "unsupported_encoding"),
        ("zstd", GOOD, 415, "unsupported_encoding"),
        ("nonsense", GOOD, 415, "unsupported_encoding"),
        ("gzip, gzip", gzip.compress(gzip.compress(GOOD)), 415, "unsupported_encoding"),
        ("gzip", GOOD, 400, "invalid_request_error"),
        ("gzip", gzip.compress(GOOD)[:-9], 400, "invalid_request_error"),
        ("gzip", gzip.compress(GOOD) + b"more", 400, "invalid_request_error"),
        ("deflate", b"\x78\x9c" + GOOD, 400, "invalid_request_error"),
        ("gzip", b"", 400, "invalid_request_error"),
    ):
        answer = await api.post(data, headers={"Content-Encoding": encoding})
        assert (answer.status, answer.code) == (status, code), (encoding, data[:20])
        assert (await api.post(GOOD)).text == "fine"


async def test_a_body_over_the_limit_is_a_413_however_it_is_packed(tmp_path: Path) -> None:
    async with running_service(tmp_path, server={"max_body_bytes": 4096}) as api:
        just_fits = json.dumps(body("x" * (4096 - len(json.dumps(body("")))))).encode()
        assert len(just_fits) == 4096
        assert (await api.post(just_fits)).status == 200
        assert (await api.post(gzip.compress(just_fits), headers={"Content-Encoding": "gzip"})).status == 200
        bomb = gzip.compress(b"[" * 50_000_000)
        assert len(bomb) > 4096, "so the small bomb is below"
        for data, headers in (
            (just_fits + b" ", {}),
            (b" " * 1_000_000, {}),
            (bomb, {"Content-Encoding": "gzip"}),
            (gzip.compress(just_fits + b" "), {"Content-Encoding": "gzip"}),
            (gzip.compress(b" " * 3_000_000), {"Content-Encoding": "gzip"}),
        ):
            answer = await api.post(data, headers=headers)
            assert (answer.status, answer.code) == (413, "request_entity_too_large")
        assert (await api.chat()).status == 200


async def test_a_body_of_chunks_is_held_to_the_limit_too(tmp_path: Path) -> None:
    async with running_service(tmp_path, server={"max_body_bytes": 4096}) as api:
        head = f"POST {CHAT} HTTP/1.1\nHost: x\nAuthorization: {AUTHORIZED['Authorization']}\n"
        reader, writer = await api.raw(f"{head}Transfer-Encoding: chunked\n\n", b"1000\r\n" + b" " * 4096 + b"\r\n")
        writer.write(b"1\r\n \r\n")
        async with asyncio.timeout(WAIT_S):
            assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.close()


async def test_a_body_that_comes_too_slowly_is_a_408(tmp_path: Path) -> None:
    async with running_service(tmp_path, server={"body_timeout_s": 0.1}) as api:
        head = f"POST {CHAT} HTTP/1.1\nHost: x\nAuthorization: {AUTHORIZED['Authorization']}\n"
        reader, writer = await api.raw(f"{head}Content-Length: 100\n\n", b'{"model":')
        async with asyncio.timeout(WAIT_S):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
            head_lines = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert b"x-request-id: req_" in head_lines
        writer.close()


async def test_a_wrong_request_names_its_parameter(api: RunningService) -> None:
    wrong: tuple[tuple[dict[str, Any], int, str, str], ...] = (
        ({"model": None}, 400, "model", "model_required"),
        ({"model": "nobody"}, 404, "model", "model_not_found"),
        ({"messages": []}, 400, "messages", "invalid_request_error"),
        ({"temperature": 3}, 400, "temperature", "invalid_request_error"),
        ({"stream": "yes"}, 400, "stream", "invalid_request_error"),
        ({"stop": 5}, 400, "stop", "invalid_request_error"),
        ({"n": 6}, 400, "n", "invalid_request_error"),
    )
    for fields, status, param, code in wrong:
        answer = await api.chat(**fields)
        assert (answer.status, answer.error["param"], answer.code) == (status, param, code)
    assert api.counted("queue_wait_seconds_count", profile="default") == 0, "none of them became a job"


async def test_a_prompt_over_the_limit_is_the_predecessors_403(tmp_path: Path) -> None:
    async with running_service(tmp_path, server={"max_prompt_chars": 10}) as api:
        answer = await api.chat("x" * 11)
        assert (answer.status, answer.error["type"]) == (403, "tokens_exceeded_error")
        assert answer.code == "context_length_exceeded"
        assert (await api.chat("x" * 10)).status == 200


# --- no seat -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rubbish",
    [
        b"what is this\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nno colon here\r\n\r\n",
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 9000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_what_is_not_http_is_refused_in_our_shape_and_costs_one_connection(
    api: RunningService, rubbish: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(rubbish)
    async with asyncio.timeout(WAIT_S):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert re.match(rb"HTTP/1\.[01] 400 ", head)
    assert b"x-request-id: req_" in head.lower()
    assert b"aiohttp" not in head
    error = json.loads(body)["error"]
    assert (error["code"], error["type"], error["param"]) == ("malformed_http", "invalid_request_error", None)
    assert b"x" * 100 not in body
    assert (await api.chat()).status == 200


async def test_a_connection_that_says_nothing_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.http.HEAD_TIMEOUT_S", 0.1)
    async with running_service(tmp_path) as api, asyncio.timeout(WAIT_S):
        for silence in (b"", b"POST /v1/chat"):
            reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
            writer.write(silence)
            assert await reader.read() == b""
            writer.close()


async def test_an_expectation_is_met_or_refused_with_an_id(api: RunningService) -> None:
    head = f"POST {CHAT} HTTP/1.1\nHost: x\nAuthorization: {AUTHORIZED['Authorization']}\nContent-Length: {len(GOOD)}\n"
    async with asyncio.timeout(WAIT_S):
        reader, writer = await api.raw(f"{head}Expect: 100-continue\n\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(GOOD)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        reader, writer = await api.raw(f"{head}Expect: a-miracle\n\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 417 ")
        refusal_head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert b"x-request-id: req_" in refusal_head
        assert b"content-type: application/json" in refusal_head
        writer.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue_is_a_503_that_says_when_to_come_back(tmp_path: Path, stream: bool) -> None:
    async with running_service(tmp_path, profile={"slots": 1, "queue_max": 1, "queue_budget_s": 60}) as api:
        first = await api.begin(SLOW)
        async with asyncio.TaskGroup() as tasks:
            queued = tasks.create_task(api.chat(scripted(text="my turn")))
            await until(lambda: api.waiting == 1)
            refused = await api.chat(stream=stream)
            first.close()
        assert (refused.status, refused.code) == (503, "queue_full")
        assert refused.error["type"] == "backend_unavailable"
        assert_tells_when_to_come_back(refused)
        assert queued.result().text == "my turn"
        assert api.counted("admissions_total", profile="default", decision="reject", reason="queue_full") == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_job_that_waited_too_long_is_a_503(tmp_path: Path, stream: bool) -> None:
    async with running_service(tmp_path, profile={"slots": 1, "queue_budget_s": 0.1}) as api:
        first = await api.begin(SLOW)
        refused = await api.chat(stream=stream)
        assert (refused.status, refused.code) == (503, "queue_timeout")
        assert_tells_when_to_come_back(refused)
        assert api.counted("turns_total", profile="default", outcome="queue_timeout") == 1
        first.close()
        await api.until_at_rest()


async def test_a_stream_that_waited_too_long_after_its_headers_ends_with_the_error(tmp_path: Path) -> None:
    server, profile = {"commit_delay_s": 0.05}, {"slots": 1, "queue_budget_s": 0.2}
    async with running_service(tmp_path, server=server, profile=profile) as api:
        first = await api.begin(SLOW)
        answer = await api.chat(stream=True)
        assert answer.status == 200
        assert [error["code"] for error in answer.stream.errors] == ["queue_timeout"]
        assert not answer.stream.is_done
        first.close()
        await api.until_at_rest()


# --- what the provider or the worker does ------------------------------------------------------------------------


async def test_a_failure_behind_us_has_its_status(tmp_path: Path) -> None:
    failures: tuple[tuple[dict[str, Any], int, str], ...] = (
        ({"status": 400, "error": {"message": "bad", "code": "invalid_value"}}, 400, "invalid_request_error"),
        ({"failed": "context_length_exceeded"}, 400, "context_length_exceeded"),
        ({"status": 401, "error": {"message": "no", "code": "invalid_api_key"}}, 503, "worker_auth_required"),
        ({"status": 404, "error": {"message": "no such model", "code": "model_not_found"}}, 404, "model_not_found"),
        ({"status": 429, "error": {"message": "slow", "code": "rate_limit_exceeded"}}, 429, "rate_limit_exceeded"),
        ({"status": 500, "error": {"message": "oops", "code": "server_error"}}, 502, "upstream_error"),
        ({"failed": "server_is_overloaded"}, 503, "upstream_overloaded"),
        ({"disconnect": "first"}, 502, "upstream_error"),
        ({"overloaded": "turn/start"}, 503, "worker_overloaded"),
    )
    async with running_service(tmp_path, profile={"attempts": 1}) as api:
        for directive, status, code in failures:
            for stream in (False, True):
                answer = await api.chat(scripted(**directive), stream=stream)
                assert (answer.status, answer.code) == (status, code), answer.raw
                assert ("Retry-After" in answer.headers) == (status in (429, 503))
                assert "WWW-Authenticate" not in answer.headers
        await api.until_at_rest()


async def test_reasoning_is_not_yet_an_answer(api: RunningService) -> None:
    prompt = scripted(reasoning="Let me think.", failed="server_error")
    assert (await api.chat(prompt, stream=True)).status == 502
    assert (await api.chat(prompt)).status == 502
    assert api.counted("first_token_seconds_count", profile="default") == 0


async def test_nothing_of_the_upstream_is_quoted_in_a_message(api: RunningService) -> None:
    message = "request to https://internal.example/v1 from 10.1.2.3 with sk-abcdefghijk failed in /opt/codex/x.rs"
    for status in (400, 500):
        answer = await api.chat(scripted(status=status, error={"message": message}))
        assert answer.status in (400, 502)
        for secret in (b"internal.example", b"10.1.2.3", b"sk-abc", b"/opt/codex", b"127.0.0.1"):
            assert secret not in answer.raw, answer.raw


LIMITS = {"start_s": 0.3, "first_event_s": 0.3, "idle_s": 0.3, "total_s": 0.8}


async def test_a_turn_that_takes_too_long_says_what_was_too_long(tmp_path: Path) -> None:
    async with running_service(tmp_path, limits=LIMITS) as api:
        asked = {
            "worker_request_timeout": scripted(lose_reply="thread/inject_items"),
            "first_event_timeout": scripted(hang="first"),
            "idle_timeout": scripted(text="some text", hang="middle"),
            "request_timeout": SLOW,
        }
        async with asyncio.TaskGroup() as tasks:
            answers = {code: tasks.create_task(api.chat(prompt)) for code, prompt in asked.items()}
        for code, task in answers.items():
            answer = task.result()
            assert (answer.status, answer.code) == (504, code), answer.raw
            assert answer.error["type"] == "timeout_error"
        await api.until_at_rest()

"""POST /v1/responses, from the client's socket to a scripted worker and back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import data_url, png
from tests.support.response_events import check_response, check_stream, parse_events
from tests.support.services import AUTHORIZED, Answer, RunningService, running_service, scripted

LOOK = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
CALL = {"name": "look", "arguments": {"at": "a"}, "call_id": "call_7"}


async def ask(api: RunningService, prompt: Any = "Hello.", **fields: Any) -> Answer:
    headers = AUTHORIZED | fields.pop("headers", {})
    body = {"model": "codex-5", "input": prompt} | fields
    return await api.call("POST", "/v1/responses", json=body, headers=headers)


async def streamed(api: RunningService, prompt: Any, **fields: Any) -> list[dict[str, Any]]:
    """The events of a stream that is as it must be."""
    answer = await ask(api, prompt, stream=True, **fields)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/event-stream"
    events = parse_events(answer.raw)
    check_stream(events)
    assert answer.raw.endswith(b"event: done\ndata: [DONE]\n\n") is (events[-1]["type"] != "response.failed")
    return events


def texts(response: dict[str, Any]) -> list[str]:
    return [part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"]]


async def test_a_whole_answer_is_a_response_object(api: RunningService) -> None:
    answer = await ask(api, scripted(text="Hello there."), metadata={"a": "b"}, temperature=0)
    assert answer.status == 200
    check_response(answer.json)
    assert answer.json["status"] == "completed"
    assert texts(answer.json) == ["Hello there."]
    assert answer.json["id"].startswith("resp_")
    assert answer.json["usage"]["total_tokens"] > 0
    assert answer.headers["x-codex-ignored-params"] == "temperature"
    assert answer.headers["x-codex-tool-call-count"] == "0"


async def test_a_stream_tells_the_same_answer(api: RunningService) -> None:
    events = await streamed(api, scripted(chunks=["Hel", "lo"]))
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert deltas == ["Hel", "lo"]
    assert texts(events[-1]["response"]) == ["Hello"]


async def test_a_call_is_an_item_of_its_own(api: RunningService) -> None:
    for response in (
        (await ask(api, scripted(text="I look.", tool_calls=[CALL]), tools=[LOOK])).json,
        (await streamed(api, scripted(text="I look.", tool_calls=[CALL]), tools=[LOOK]))[-1]["response"],
    ):
        message, call = response["output"]
        assert message["content"][0]["text"] == "I look."
        assert (call["call_id"], call["name"], json.loads(call["arguments"])) == ("call_7", "look", {"at": "a"})


async def test_the_answer_to_a_call_goes_back_with_it(api: RunningService) -> None:
    history = [
        {"role": "user", "content": scripted(tool_calls=[CALL])},
        {"type": "function_call", "call_id": "call_7", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_7", "output": "a cat"},
    ]
    answer = await ask(api, history, tools=[LOOK])
    assert texts(answer.json) == ["The tools answered: a cat"]


async def test_the_tier_is_the_one_that_was_used(api: RunningService) -> None:
    for asked, used in ((None, "default"), ("flex", "flex"), ("priority", "default")):
        assert (await ask(api, service_tier=asked)).json["service_tier"] == used
        events = await streamed(api, "Hello.", service_tier=asked)
        assert {event["response"]["service_tier"] for event in events if "response" in event} == {used}


async def test_an_image_is_shown_or_refused(api: RunningService) -> None:
    def showing(url: str) -> list[dict[str, Any]]:
        parts = [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": scripted(text="Red.")}]
        return [{"role": "user", "content": parts}]

    assert texts((await ask(api, showing(data_url(png())))).json) == ["Red."]
    refused = await ask(api, showing("https://localhost/a.png"))
    assert (refused.status, refused.code) == (400, "failed_to_download_image")
    assert refused.error["param"] == "input[0].content[0].image_url"


async def test_reasoning_is_told_and_can_be_sent_back(api: RunningService) -> None:
    fields = {"reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"]}
    events = await streamed(api, scripted(reasoning="hm, well", text="ok"), **fields)
    thought, message = events[-1]["response"]["output"]
    assert [part["text"] for part in thought["summary"]] == ["hm, well"]
    assert thought["encrypted_content"]
    again = await ask(api, [{"role": "user", "content": "x"}, thought, message, {"role": "user", "content": "y"}])
    assert again.status == 200


async def test_an_answer_that_was_cut_off_is_incomplete(api: RunningService) -> None:
    answer = await ask(api, scripted(text="one two three four"), max_output_tokens=2)
    assert (answer.json["status"], answer.json["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    check_response(answer.json)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_first_word_has_a_status(api: RunningService, stream: bool) -> None:
    answer = await ask(api, scripted(status=429), stream=stream)
    assert (answer.status, answer.code) == (429, "rate_limit_exceeded")


async def test_a_failure_after_the_first_word_is_the_last_event(api: RunningService) -> None:
    events = await streamed(api, scripted(text="half of it", disconnect="middle"))
    assert events[-1]["type"] == "response.failed"
    response = events[-1]["response"]
    assert response["status"] == "failed"
    assert "upstream_error" in response["error"]["message"]
    assert response["output"][0]["status"] == "incomplete"


async def test_a_lost_worker_is_the_last_event(tmp_path: Path) -> None:
    async with running_service(tmp_path) as api:
        events = await streamed(api, scripted(text="half of it", exit=3))
    assert events[-1]["type"] == "response.failed"
    assert "worker_lost" in events[-1]["response"]["error"]["message"]


async def test_a_client_that_leaves_frees_its_seat(tmp_path: Path) -> None:
    async with running_service(tmp_path) as api:
        body = {"model": "codex-5", "input": scripted(text="a b", hang="middle"), "stream": True}
        async with api.session.post(f"{api.base_url}/v1/responses", json=body, headers=AUTHORIZED) as response:
            async with asyncio.timeout(20):
                await response.content.readuntil(b"output_text.delta")
            assert api.running == 1
        await api.until_at_rest()


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "previous_response_not_found"),
        ({"input": [{"id": "msg_1"}]}, "input[0].id", "invalid_request_error"),
        ({"input": None}, "input", "invalid_request_error"),
        ({"model": "gpt-none"}, "model", "model_not_found"),
    ],
)
async def test_what_cannot_be_done_is_refused(
    api: RunningService, fields: dict[str, Any], param: str, code: str
) -> None:
    answer = await ask(api, **fields)
    assert (answer.error["param"], answer.code) == (param, code)


async def test_a_wrong_key_and_a_wrong_verb_are_errors_like_everywhere(api: RunningService) -> None:
    assert (await ask(api, headers={"Authorization": "Bearer nope"})).status == 401
    assert (await api.call("HEAD", "/v1/responses", headers=AUTHORIZED)).status == 200
    answer = await api.call("PUT", "/v1/responses", headers=AUTHORIZED)
    assert (answer.status, answer.headers["Allow"]) == (405, "HEAD, POST")

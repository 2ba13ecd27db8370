"""`loadtest.model_standin`: what a client of the stand-in model gets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from loadtest import model_standin
from loadtest.model_standin import ModelStandin, introduction, is_loopback
from tests.loadtest.driver import DEADLINE_S, directive, user

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

Event = dict[str, Any]


@pytest.fixture
async def model() -> AsyncIterator[ModelStandin]:
    async with ModelStandin() as standin:
        yield standin


@pytest.fixture
async def client(model: ModelStandin) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(model, session)


class Client:
    """Asks the stand-in model the way Codex does."""

    def __init__(self, model: ModelStandin, session: aiohttp.ClientSession) -> None:
        self.model = model
        self.session = session

    @contextlib.asynccontextmanager
    async def post(self, prompt: str, *more: Event, **fields: object) -> AsyncIterator[aiohttp.ClientResponse]:
        body = {"model": "model-a", "stream": True, "input": [user(prompt), *more], **fields}
        async with self.session.post(f"{self.model.base_url}/responses", json=body) as response:
            yield response

    async def events(self, prompt: str, *more: Event, **fields: object) -> list[Event]:
        async with self.post(prompt, *more, **fields) as response:
            assert response.status == 200
            assert response.content_type == "text/event-stream"
            return parse(await response.text())

    async def error(self, prompt: str) -> tuple[int, Event]:
        async with self.post(prompt) as response:
            return response.status, (await response.json())["error"]


def parse(stream: str) -> list[Event]:
    """The events of a stream; each one's `event:` line must repeat its type."""
    events = []
    for block in stream.strip().split("\n\n"):
        name, data = block.split("\n", 1)
        event: Event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def spoken(events: list[Event]) -> list[str]:
    return [event["delta"] for event in events if event["type"] == "response.output_text.delta"]


async def test_an_answer_is_the_whole_sequence_of_events_in_order(client: Client) -> None:
    events = await client.events(directive(chunks=["Hel", "lo"]))
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert spoken(events) == ["Hel", "lo"]
    response = events[-1]["response"]
    assert response["output"][0]["content"][0]["text"] == "Hello"
    assert response["status"] == "completed"


async def test_without_a_directive_the_answer_says_what_it_is_and_quotes_the_question(client: Client) -> None:
    first, second = [await client.events("What is\n love?") for _ in range(2)]
    assert "".join(spoken(first)) == introduction("What is love?")
    assert "stand-in" in introduction("What is love?")
    assert "What is love?" in introduction("What is love?")
    assert len(spoken(first)) > 5
    assert spoken(first) == spoken(second)


async def test_the_last_user_message_decides_even_when_other_items_follow(client: Client) -> None:
    events = await client.events(directive(text="old"), user(directive(text="new")), {"type": "reasoning"})
    assert spoken(events) == ["new"]


async def test_several_messages_and_a_reasoning_item_are_items_of_one_answer(client: Client) -> None:
    events = await client.events(directive(messages=["one", "two"], reasoning="think hard"))
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "message"]
    assert output[0]["summary"] == [{"type": "summary_text", "text": "think hard"}]
    assert len({item["id"] for item in output}) == 3
    assert [event["output_index"] for event in events if event["type"] == "response.output_item.done"] == [0, 1, 2]


async def test_tool_calls_follow_the_text_with_their_arguments_verbatim(client: Client) -> None:
    calls = [{"name": "f", "arguments": '{"a" : 1}', "call_id": "mine"}, {"name": "g", "arguments": {"b": 2}}]
    events = await client.events(directive(text="wait", tool_calls=calls))
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", "function_call", "function_call"]
    assert output[1]["arguments"] == '{"a" : 1}'
    assert output[1]["call_id"] == "mine"
    assert json.loads(output[2]["arguments"]) == {"b": 2}
    assert output[2]["call_id"] != "mine"


async def test_once_the_outputs_are_there_they_are_quoted_instead_of_calling_again(client: Client) -> None:
    call = {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"}
    output = {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "20C"}]}
    events = await client.events(directive(tool_calls=[{"name": "f"}]), call, output)
    assert "".join(spoken(events)) == "The tools answered: 20C"
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message"]


async def test_usage_is_what_the_directive_says(client: Client) -> None:
    usage = {"input_tokens": 10, "cached_tokens": 4, "output_tokens": 7, "reasoning_tokens": 2}
    events = await client.events(directive(usage=usage))
    assert events[-1]["response"]["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 17,
    }


async def test_an_http_error_carries_its_body_and_retry_after(client: Client) -> None:
    error = {"message": "slow down", "code": "rate_limit_exceeded", "type": "tokens"}
    async with client.post(directive(status=429, error=error, retry_after=7)) as response:
        assert response.status == 429
        assert response.headers["Retry-After"] == "7"
        assert (await response.json())["error"] == {**error, "param": None}


async def test_a_failed_response_ends_the_stream_after_its_text(client: Client) -> None:
    events = await client.events(directive(failed={"code": "server_error", "message": "oops"}, text="half"))
    assert spoken(events) == ["half"]
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"] == {"code": "server_error", "message": "oops"}


@pytest.mark.parametrize("reason", ["max_output_tokens", "content_filter"])
async def test_an_incomplete_response_says_why(client: Client, reason: str) -> None:
    events = await client.events(directive(incomplete=reason, text="cut"))
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": reason}
    assert events[-1]["response"]["usage"]["output_tokens"] == 1


@pytest.mark.parametrize(("where", "said"), [("first", []), ("middle", ["a"])])
async def test_a_dropped_connection_leaves_the_stream_unfinished(client: Client, where: str, said: list[str]) -> None:
    async with client.post(directive(disconnect=where, chunks=["a", "b"])) as response:
        received = b""
        with contextlib.suppress(aiohttp.ClientPayloadError):
            while data := await response.content.readany():
                received += data
        assert isinstance(response.content.exception(), aiohttp.ClientPayloadError)
        events = [event for event in received.decode().split("\n\n") if event.startswith("event:")]
        assert spoken([json.loads(event.split("data: ")[1]) for event in events]) == said


async def test_a_pause_between_deltas_is_kept(client: Client) -> None:
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    assert spoken(await client.events(directive(chunks=["a", "b", "c"], delay_s=0.02, interval_s=0.02))) == list("abc")
    assert loop.time() - started_at >= 0.06


async def test_a_silence_before_the_headers_lasts_until_the_client_leaves(client: Client) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), client.post(directive(hang="headers")):
            pass
    record = client.model.requests[-1]
    await record.ended.wait()
    assert record.disconnected


@pytest.mark.parametrize(("where", "said"), [("first", 0), ("middle", 1)])
async def test_a_silence_in_the_stream_lasts_until_the_client_leaves(client: Client, where: str, said: int) -> None:
    async with client.post(directive(hang=where, chunks=["a", "b"])) as response:
        assert response.status == 200
        received = await response.content.readany()
        while said and b"output_text.delta" not in received:
            received += await response.content.readany()
        assert received.count(b"event: response.output_text.delta") == said
        assert not client.model.requests[-1].disconnected
        response.close()
    record = client.model.requests[-1]
    await record.ended.wait()
    assert record.disconnected


async def test_leaving_in_the_middle_of_a_paced_answer_is_recorded(client: Client) -> None:
    async with client.post(directive(chunks=["a"], repeat=1000, interval_s=0.05)) as response:
        await response.content.readany()
        response.close()
    record = client.model.requests[-1]
    await record.ended.wait()
    assert record.disconnected


async def test_what_reached_the_model_can_be_read_in_process_and_over_http(client: Client) -> None:
    root = client.model.base_url.removesuffix("/v1")
    await client.events("one", temperature=0.5)
    await client.events("two")
    assert [record.body["input"][0]["content"][0]["text"] for record in client.model.requests] == ["one", "two"]
    assert client.model.requests[0].body["temperature"] == 0.5
    assert client.model.requests[0].headers["content-type"] == "application/json"
    async with client.session.get(f"{root}/requests") as response:
        assert await response.json() == [record.body for record in client.model.requests]
    async with client.session.get(f"{root}/requests?detail=1") as response:
        detail = await response.json()
        assert [entry["disconnected"] for entry in detail] == [False, False]
        assert detail[0]["body"]["temperature"] == 0.5
        assert "content-type" in detail[0]["headers"]
    async with client.session.delete(f"{root}/requests") as response:
        assert response.status == 204
    assert not client.model.requests


async def test_waiting_for_requests_returns_when_they_have_come_and_not_before(client: Client) -> None:
    with pytest.raises(TimeoutError):
        await client.model.wait_for_requests(1, timeout_s=0.01)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(client.model.wait_for_requests(2))
        for _ in range(2):
            assert not waiting.done()
            await client.events("hello")
    assert waiting.done()


async def test_the_record_of_requests_is_bounded_in_count_and_bytes(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_standin, "MAX_RECORDED", 3)
    for number in range(5):
        await client.events(f"question {number}")
    assert [record.body["input"][0]["content"][0]["text"] for record in client.model.requests] == [
        f"question {number}" for number in (2, 3, 4)
    ]
    monkeypatch.setattr(model_standin, "MAX_RECORDED_BYTES", 100)
    await client.events("x" * 1000)
    assert len(client.model.requests) == 1


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"nonsense", "cannot be read"),
        (b'{"model": "m", "stream": true}', "`input`"),
        (b'{"model": "m", "input": [], "stream": false}', "stream: true"),
        (b'{"model": "m", "input": [3], "stream": true}', "Expected `object`"),
    ],
)
async def test_a_body_it_cannot_answer_is_refused_with_the_reason(client: Client, body: bytes, complaint: str) -> None:
    async with client.session.post(f"{client.model.base_url}/responses", data=body) as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert complaint in error["message"]
    assert error["code"] == "invalid_body"
    assert not client.model.requests


async def test_a_directive_it_cannot_obey_is_refused_with_the_reason(client: Client) -> None:
    status, error = await client.error(directive(txt="typo"))
    assert (status, error["code"]) == (400, "invalid_directive")
    assert "`txt`" in error["message"]


async def test_a_fault_of_a_process_is_refused_because_there_is_none_to_break(client: Client) -> None:
    status, error = await client.error(directive(kill_self=True))
    assert status == 400
    assert "`kill_self`, which only the fake app-server can do" in error["message"]


async def test_a_long_answer_arrives_whole(client: Client) -> None:
    events = await client.events(directive(text="x" * 1000, chunk_size=100, repeat=200))
    assert "".join(spoken(events)) == "x" * 200_000


def test_only_loopback_addresses_are_listened_on() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.1.2.3", "::1", "localhost"]))
    assert not any(map(is_loopback, ["192.0.2.1", "::", "10.0.0.1", "example.org", ""]))
    with pytest.raises(ValueError, match="loopback"):
        ModelStandin(host="192.0.2.1")


# As a program.


def run(*flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "loadtest.model_standin", *flags]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end_stdin(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()


@pytest.mark.parametrize("end", [end_stdin, lambda process: process.send_signal(signal.SIGTERM)])
def test_the_program_says_where_it_listens_and_ends_when_told(
    tmp_path: Path, end: Callable[[subprocess.Popen[str]], None]
) -> None:
    port_file = tmp_path / "port"
    with run("--exit-with-stdin", "--port-file", str(port_file)) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == f"listening on http://127.0.0.1:{int(port_file.read_text())}/v1\n"
        end(process)
        assert process.wait(DEADLINE_S) == 0


def test_the_program_refuses_to_be_reachable_from_elsewhere() -> None:
    with run("--host", "192.0.2.1") as process:
        assert process.wait(DEADLINE_S) == 2
        assert process.stderr is not None
        assert "must be a loopback address" in process.stderr.read()

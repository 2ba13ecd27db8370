"""Background responses: whatever becomes of their clients, they are worked on, and can be looked at meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from service.store.memory import MemoryStore
from service.store.protocol import Draft, Item, Key, State, StoreUnavailable, Trouble, Written
from tests.support.response_events import Event, check_response, check_stream, parse_events
from tests.support.services import AUTHORIZED, KEY, WAIT_S, Json, RunningService, key, running_service, scripted, until
from tests.support.stored import AS_OTHER, OTHER, at, post, text

ENDLESS = scripted(chunks=["tick "], repeat=100_000, interval_s=0.01)
SLOWLY = scripted(chunks=["tick "], repeat=30, interval_s=0.01)
SAID = "tick " * 30


@pytest.fixture(params=["memory", "sqlite"])
async def api(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[RunningService]:
    """A service with either store, two keys, and one seat."""
    keys = [key("other", OTHER)]
    async with running_service(tmp_path, store={"kind": request.param}, keys=keys, profile={"slots": 1}) as running:
        yield running


async def begun(api: RunningService, prompt: Any = "Hello.", **fields: Any) -> Json:
    """A background response as it was told first."""
    answer = await post(api, prompt, background=True, **fields)
    assert answer.status == 200, answer.raw
    check_response(answer.json)
    assert (answer.json["status"], answer.json["background"], answer.json["output"]) == ("queued", True, [])
    return answer.json


async def polled(api: RunningService, id: str, *statuses: str) -> Json:  # noqa: A002 - OpenAI's word
    """The response when it has one of these statuses."""
    async with asyncio.timeout(WAIT_S):
        while (found := (await at(api, id)).json)["status"] not in (statuses or ("completed",)):
            check_response(found)
    check_response(found)
    return found


async def stream_of(api: RunningService, id: str, **query: Any) -> list[Event]:  # noqa: A002 - OpenAI's word
    answer = await at(api, id, stream="true", **query)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream"), answer.raw
    return parse_events(answer.raw)


async def events_until(response: aiohttp.ClientResponse, kind: str) -> list[Event]:
    """Read a stream up to its first event of this kind."""
    raw = b""
    async with asyncio.timeout(WAIT_S):
        while f"event: {kind}\n".encode() not in raw:
            raw += await response.content.readuntil(b"\n\n")
    return parse_events(raw)


async def begin_stream(api: RunningService, prompt: str, **fields: Any) -> aiohttp.ClientResponse:
    body = {"model": "codex-5", "input": prompt, "background": True, "stream": True} | fields
    return await api.session.post(f"{api.base_url}/v1/responses", json=body, headers=AUTHORIZED)


# --- polling -----------------------------------------------------------------------------------------------------


async def test_an_answer_is_there_when_it_is_asked_for_again(api: RunningService) -> None:
    response = await begun(api, scripted(text="Hello there."), metadata={"a": "b"})
    found = await polled(api, response["id"])
    assert (text(found), found["metadata"], found["created_at"]) == ("Hello there.", {"a": "b"}, response["created_at"])
    assert found["completed_at"] >= found["created_at"]
    await api.until_at_rest()
    assert api.counted("background_jobs") == 0
    assert (await at(api, response["id"])).json == found, "the store says the same"
    assert (await post(api, "And?", previous_response_id=response["id"])).status == 200
    (asked,) = (await at(api, response["id"] + "/input_items")).json["data"]
    assert asked["content"][0]["text"].endswith('{"text": "Hello there."}')


async def test_a_failure_is_in_the_response(api: RunningService) -> None:
    found = await polled(api, (await begun(api, scripted(status=429)))["id"], "failed")
    assert found["error"]["code"] == "rate_limit_exceeded"
    refused = await post(api, "And?", previous_response_id=found["id"])
    assert refused.code == "previous_response_not_usable"


async def test_one_that_waits_is_queued_and_has_its_turn(api: RunningService) -> None:
    running = await begun(api, ENDLESS)
    await polled(api, running["id"], "in_progress")
    waiting = await begun(api, scripted(text="mine"))
    assert (await at(api, waiting["id"])).json["status"] == "queued"
    refused = await post(api, "And?", previous_response_id=waiting["id"])
    assert (refused.status, refused.code) == (400, "previous_response_not_finished")
    assert api.counted("background_jobs") == 2
    assert (await at(api, running["id"] + "/cancel", "POST")).json["status"] == "cancelled"
    assert text(await polled(api, waiting["id"])) == "mine"


async def test_nobody_sees_or_stops_the_work_for_another_key(api: RunningService) -> None:
    mine = await begun(api, ENDLESS, stream=False)
    for verb, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("GET", "/input_items"),
        ("GET", "?stream=true"),
    ):
        assert (await at(api, mine["id"] + path, verb, AS_OTHER)).status == 404
    await polled(api, mine["id"], "in_progress")
    assert (await at(api, mine["id"], "DELETE")).status == 200


# --- an end before the end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["queued", "in_progress"])
async def test_a_cancelled_response_is_not_worked_on_and_stays_so(api: RunningService, status: str) -> None:
    if status == "queued":
        await polled(api, (await begun(api, ENDLESS))["id"], "in_progress")
    response = await begun(api, ENDLESS)
    await polled(api, response["id"], status)
    first = (await at(api, response["id"] + "/cancel", "POST")).json
    check_response(first)
    assert first["status"] == "cancelled"
    again = await at(api, response["id"] + "/cancel", "POST")
    assert (again.status, again.json) == (200, first)
    assert (await at(api, response["id"])).json == first
    await until(lambda: api.waiting == 0 and api.running == (status == "queued"))
    refused = await post(api, "And?", previous_response_id=response["id"])
    assert refused.code == "previous_response_not_usable"


async def test_cancelling_what_has_ended_changes_nothing(api: RunningService) -> None:
    found = await polled(api, (await begun(api))["id"])
    assert (await at(api, found["id"] + "/cancel", "POST")).json == found


async def test_a_deleted_response_is_not_worked_on_and_gone(api: RunningService) -> None:
    response = await begun(api, ENDLESS)
    await polled(api, response["id"], "in_progress")
    assert (await at(api, response["id"], "DELETE")).json["deleted"] is True
    assert (await at(api, response["id"])).status == 404
    await api.until_at_rest()
    await until(lambda: api.counted("background_jobs") == 0)
    assert (await at(api, response["id"])).status == 404


async def test_a_stream_of_a_deleted_response_ends(api: RunningService) -> None:
    async with await begin_stream(api, ENDLESS) as response:
        first = await events_until(response, "response.output_text.delta")
        assert (await at(api, first[0]["response"]["id"], "DELETE")).status == 200
        rest = parse_events(await response.read())
    check_stream(first + rest)
    assert (rest[-1]["type"], rest[-1]["response"]["status"]) == ("response.incomplete", "cancelled")


# --- streams -----------------------------------------------------------------------------------------------------


async def test_a_stream_tells_everything(api: RunningService) -> None:
    async with await begin_stream(api, scripted(chunks=["Hel", "lo"])) as response:
        raw = await response.read()
    assert raw.endswith(b"event: done\ndata: [DONE]\n\n")
    events = parse_events(raw)
    check_stream(events)
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:3] == ["created", "queued", "in_progress"]
    assert kinds[-1] == "completed"
    id = events[0]["response"]["id"]  # noqa: A001 - OpenAI's word
    await until(lambda: api.counted("background_jobs") == 0)
    assert await stream_of(api, id) == events
    for number in (0, 3, len(events) - 2):
        assert await stream_of(api, id, starting_after=str(number)) == events[number + 1 :]
    assert await stream_of(api, id, starting_after=str(len(events) - 1)) == []
    assert (await at(api, id)).json == events[-1]["response"]


async def test_a_client_that_leaves_can_come_back_and_misses_nothing(api: RunningService) -> None:
    async with await begin_stream(api, SLOWLY) as response:
        first = await events_until(response, "response.output_text.delta")
    id = first[0]["response"]["id"]  # noqa: A001 - OpenAI's word
    assert api.running == 1, "nobody minds that it left"
    rest = await stream_of(api, id, starting_after=str(first[-1]["sequence_number"]))
    check_stream(first + rest)
    assert text(rest[-1]["response"]) == SAID


async def test_many_follow_one_stream_from_wherever_they_are(api: RunningService) -> None:
    async with await begin_stream(api, SLOWLY) as response:
        first = await events_until(response, "response.in_progress")
        id = first[0]["response"]["id"]  # noqa: A001 - OpenAI's word
        async with asyncio.TaskGroup() as tasks:
            others = [tasks.create_task(stream_of(api, id, starting_after=str(number))) for number in (0, 1, 5, 20)]
            rest = parse_events(await response.read())
    whole = first + rest
    check_stream(whole)
    assert [each.result() for each in others] == [whole[number + 1 :] for number in (0, 1, 5, 20)]


async def test_what_is_not_at_hand_any_more_comes_from_the_store(
    api: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.background.TAIL_BYTES", 500)
    async with await begin_stream(api, SLOWLY) as response:
        first = await events_until(response, "response.output_text.delta")
        while len(first) < 12:
            first += await events_until(response, "response.output_text.delta")
        late = await stream_of(api, first[0]["response"]["id"], starting_after="0")
        whole = first + parse_events(await response.read())
    check_stream(whole)
    assert late == whole[1:]


async def test_a_stream_of_a_cancelled_response_ends(api: RunningService) -> None:
    async with await begin_stream(api, ENDLESS) as response:
        first = await events_until(response, "response.output_text.delta")
        id = first[0]["response"]["id"]  # noqa: A001 - OpenAI's word
        cancelled = (await at(api, id + "/cancel", "POST")).json
        rest = parse_events(await response.read())
    check_stream(first + rest)
    assert rest[-1]["response"] == cancelled
    await until(lambda: api.counted("background_jobs") == 0)
    assert await stream_of(api, id) == first + rest


async def test_only_what_was_asked_for_as_a_stream_can_be_streamed(api: RunningService) -> None:
    running = await begun(api, ENDLESS)
    waiting = await begun(api)
    for response in (running, waiting):
        refused = await at(api, response["id"], stream="true")
        assert (refused.status, refused.error["param"]) == (400, "stream")


async def test_who_asks_only_for_the_headers_of_a_stream_waits_for_nothing_and_sees_none(
    api: RunningService,
) -> None:
    async with await begin_stream(api, ENDLESS) as response:
        (first, *_) = await events_until(response, "response.output_text.delta")
    id = first["response"]["id"]  # noqa: A001 - OpenAI's word
    kinds = {"": "application/json", "?stream=true": "text/event-stream"}
    for query, kind in kinds.items():
        answer = await at(api, id + query, "HEAD")
        assert (answer.status, answer.headers["Content-Type"], answer.raw) == (200, kind, b"")
        for headers, status in ((AS_OTHER, 404), ({}, 401)):
            refused = await at(api, id + query, "HEAD", headers)
            assert (refused.status, refused.raw) == (status, b"")
    assert (await at(api, id + "?stream=true&starting_after=x", "HEAD")).status == 400
    plain = await begun(api)
    assert (await at(api, plain["id"] + "?stream=true", "HEAD")).status == 400
    reader, writer = await api.raw(
        f"HEAD /v1/responses/{id}?stream=true HTTP/1.1\nHost: x\nAuthorization: Bearer {KEY}\nConnection: close\n\n"
    )
    async with asyncio.timeout(WAIT_S):
        raw = await reader.read()
    writer.close()
    assert raw.partition(b"\r\n\r\n")[2] == b"", "not a byte of the body"
    assert api.running == 1, "the work goes on"


# --- limits ------------------------------------------------------------------------------------------------------


async def test_what_the_scheduler_refuses_is_refused_with_its_status(tmp_path: Path) -> None:
    keys = [key("one", OTHER, queue_max=1)]
    async with running_service(tmp_path, profile={"slots": 1}, keys=keys, api_key=None) as api:
        for _ in range(2):
            assert (await post(api, ENDLESS, background=True, headers=AS_OTHER)).status == 200
        refused = await post(api, background=True, headers=AS_OTHER)
        assert (refused.status, refused.code) == (429, "tenant_queue_full")
        assert api.counted("background_jobs") == 2


async def test_there_are_so_many_of_a_key_and_so_many_in_all(tmp_path: Path) -> None:
    limits = {"max_jobs": 3, "max_jobs_per_key": 2}
    async with running_service(tmp_path, keys=[key("other", OTHER)], background=limits) as api:
        for _ in range(2):
            await begun(api, ENDLESS)
        refused = await post(api, background=True)
        assert (refused.status, refused.code) == (429, "tenant_queue_full")
        assert int(refused.headers["Retry-After"]) >= 5
        assert (await post(api, ENDLESS, background=True, headers=AS_OTHER)).status == 200
        refused = await post(api, background=True, headers=AS_OTHER)
        assert (refused.status, refused.code) == (503, "queue_full")


async def test_it_may_wait_longer_than_others(tmp_path: Path) -> None:
    async with running_service(tmp_path, profile={"slots": 1, "queue_budget_s": 0.05}) as api:
        running = await begun(api, ENDLESS)
        await polled(api, running["id"], "in_progress")
        waiting = await begun(api)
        refused = await post(api)
        assert refused.status == 503, "this is how long others wait"
        assert (await at(api, waiting["id"])).json["status"] == "queued"
        await at(api, running["id"] + "/cancel", "POST")
        await polled(api, waiting["id"])


async def test_who_waits_for_an_answer_does_not_wait_for_the_background_work_of_its_key(tmp_path: Path) -> None:
    async with running_service(tmp_path, profile={"slots": 1}) as api:
        running = await begun(api, ENDLESS)
        assert running["service_tier"] == "flex"
        await polled(api, running["id"], "in_progress")
        waiting = [await begun(api, scripted(text="later", delay_s=0.2)) for _ in range(10)]
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(post(api, scripted(text="now")))
            await until(lambda: api.waiting == 11)
            await at(api, running["id"] + "/cancel", "POST")
        assert text(asking.result().json) == "now"
        for each in waiting:
            assert (await at(api, each["id"])).json["status"] != "completed"


async def test_a_background_response_may_ask_for_another_class(api: RunningService) -> None:
    for fields, tier in (({"headers": AUTHORIZED | {"x-priority": "standard"}}, "default"), ({}, "flex")):
        assert (await begun(api, **fields))["service_tier"] == tier
    refused = await post(api, background=True, service_tier="priority")
    assert (refused.json["service_tier"], refused.headers["x-priority-applied"]) == ("default", "standard")


async def test_without_a_store_there_is_no_background(tmp_path: Path) -> None:
    async with running_service(tmp_path, store={"kind": "off"}) as api:
        refused = await post(api, background=True)
        assert (refused.status, refused.code, refused.error["param"]) == (400, "unsupported_parameter", "background")
    async with running_service(tmp_path) as api:
        refused = await post(api, background=True, store=False)
        assert (refused.status, refused.error["param"]) == (400, "store")


# --- a store in trouble ------------------------------------------------------------------------------------------


class Moody(MemoryStore):
    """Loses what it is told to."""

    loses_drafts = False
    loses_ends = 0
    deletes = True

    async def delete(self, key: Key) -> bool:
        if not self.deletes:
            raise StoreUnavailable(Trouble.IO)
        return await super().delete(key)

    async def create(self, key: Key, draft: Draft) -> Written:
        return Written.LOST if self.loses_drafts else await super().create(key, draft)

    async def update(self, key: Key, state: State, response: bytes, output_items: tuple[Item, ...] = ()) -> Written:
        if state is State.ENDED and self.loses_ends:
            self.loses_ends -= 1
            return Written.LOST
        return await super().update(key, state, response, output_items)


@pytest.fixture
async def moody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[RunningService, Moody]]:
    monkeypatch.setattr("service.app.MemoryStore", Moody)
    monkeypatch.setattr("service.background.RETRY_S", 0.01)
    async with running_service(tmp_path) as running:
        assert isinstance(running.service.store, Moody)
        yield running, running.service.store


async def test_what_cannot_be_stored_is_not_begun(moody: tuple[RunningService, Moody]) -> None:
    api, store = moody
    store.loses_drafts = True
    refused = await post(api, ENDLESS, background=True)
    assert (refused.status, refused.code) == (503, "store_unavailable")
    await api.until_at_rest()
    assert api.counted("background_jobs") == 0


async def test_what_cannot_be_deleted_now_goes_on(moody: tuple[RunningService, Moody]) -> None:
    api, store = moody
    response = await begun(api, SLOWLY)
    store.deletes = False
    refused = await at(api, response["id"], "DELETE")
    assert (refused.status, refused.code) == (503, "store_unavailable")
    assert text(await polled(api, response["id"])) == SAID
    store.deletes = True
    assert (await at(api, response["id"], "DELETE")).status == 200


async def test_an_end_that_is_lost_is_told_and_kept_later(moody: tuple[RunningService, Moody]) -> None:
    api, store = moody
    store.loses_ends = 3
    response = await begun(api, scripted(text="ok"))
    assert text(await polled(api, response["id"])) == "ok"
    await until(lambda: api.counted("background_jobs") == 0)
    stored = await store.get(Key("default", response["id"]))
    assert stored is not None
    assert stored.state is State.ENDED


# --- restarts ----------------------------------------------------------------------------------------------------


async def test_the_next_process_takes_up_what_was_queued_and_says_what_was_interrupted(tmp_path: Path) -> None:
    tables: Json = {"store": {"kind": "sqlite"}, "profile": {"slots": 1}}
    async with running_service(tmp_path, **tables) as api:
        first = (await post(api, scripted(reasoning="hm", text="one"))).json
        running = await begun(api, ENDLESS)
        await polled(api, running["id"], "in_progress")
        waiting = await begun(api, scripted(text="two"), previous_response_id=first["id"], user="u")
        async with await begin_stream(api, scripted(text="three")) as streaming:
            told = await events_until(streaming, "response.queued")
        doomed = await begun(api, "x", previous_response_id=first["id"])
    async with running_service(tmp_path, **tables) as api:
        assert text(await polled(api, waiting["id"])) == "two"
        found = await polled(api, told[0]["response"]["id"])
        assert text(found) == "three"
        assert found["created_at"] == told[0]["response"]["created_at"]
        rest = await stream_of(api, found["id"], starting_after="1")
        check_stream(told + rest)
        failed = await polled(api, running["id"], "failed")
        assert failed["error"]["code"] == "server_error"
        assert "stop" in failed["error"]["message"]
        assert (await polled(api, doomed["id"]))["status"] == "completed"
        items = (await at(api, waiting["id"] + "/input_items")).json["data"]
        assert len(items) == 4


async def test_a_queued_response_whose_key_or_past_is_gone_fails(tmp_path: Path) -> None:
    tables: Json = {"store": {"kind": "sqlite"}, "profile": {"slots": 1}}
    async with running_service(tmp_path, keys=[key("other", OTHER)], **tables) as api:
        first = (await post(api)).json
        await polled(api, (await begun(api, ENDLESS))["id"], "in_progress")
        orphan = await begun(api, "x", headers=AS_OTHER)
        doomed = await begun(api, "x", previous_response_id=first["id"])
        await at(api, first["id"], "DELETE")
    async with running_service(tmp_path, **tables) as api:
        failed = await polled(api, doomed["id"], "failed")
        assert "previous_response_not_found" in failed["error"]["message"]
        assert (await at(api, orphan["id"], headers=AS_OTHER)).status == 401
        stored = None
        async with asyncio.timeout(WAIT_S):
            while stored is None or stored.state is not State.ENDED:
                stored = await api.service.store.get(Key("other", orphan["id"]))
        assert b"no key any more" in stored.response

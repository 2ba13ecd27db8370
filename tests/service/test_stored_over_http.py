"""Stored responses, from the client's socket to the store and back."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.store.memory import MemoryStore
from service.store.protocol import Draft, Key, NoStore, StoreUnavailable, Trouble, Written
from tests.support.response_events import check_response, check_stream, parse_events
from tests.support.services import AUTHORIZED, Json, RunningService, key, running_service, scripted, until
from tests.support.stored import AS_OTHER, OTHER, at, post, text
from tests.support.stores import taken

CALL = {"name": "look", "arguments": {"at": "a"}, "call_id": "call_7"}
LOOK = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture(params=["memory", "sqlite"])
async def api(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[RunningService]:
    """A service with either store, and two keys."""
    async with running_service(tmp_path, store={"kind": request.param}, keys=[key("other", OTHER)]) as running:
        yield running


async def created(api: RunningService, prompt: Any = "Hello.", **fields: Any) -> Json:
    """The response to this."""
    answer = await post(api, prompt, **fields)
    assert answer.status == 200, answer.raw
    assert "x-codex-stored" not in answer.headers
    return answer.json


# --- what is kept ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_can_be_retrieved_as_soon_as_it_was_told(api: RunningService, stream: bool) -> None:
    answer = await post(api, scripted(text="Hello there."), stream=stream, metadata={"a": "b"})
    told = parse_events(answer.raw)[-1]["response"] if stream else answer.json
    found = await at(api, told["id"])
    assert (found.status, found.json) == (200, told)
    assert found.json["store"] is True
    check_response(found.json)
    assert found.headers["Cache-Control"] == "no-store"


async def test_an_answer_that_failed_half_way_can_be_retrieved(api: RunningService) -> None:
    answer = await post(api, scripted(text="half of it", disconnect="middle"), stream=True)
    told = parse_events(answer.raw)[-1]["response"]
    assert told["status"] == "failed"
    assert (await at(api, told["id"])).json == told


async def test_what_shall_not_be_stored_is_not(api: RunningService) -> None:
    response = await created(api, store=False)
    assert response["store"] is False
    gone = await at(api, response["id"])
    assert (gone.status, gone.code) == (404, "response_not_found")
    assert gone.error["message"] == f"Response with id '{response['id']}' not found."


async def test_what_only_the_provider_can_read_is_kept_and_shown_to_whoever_asks(api: RunningService) -> None:
    response = await created(api, scripted(reasoning="hm", text="ok"))
    thought = response["output"][0]
    assert (thought["type"], thought["encrypted_content"]) == ("reasoning", None)
    found = await at(api, response["id"], include="reasoning.encrypted_content")
    assert found.json["output"][0]["encrypted_content"]
    assert found.json == response | {"output": [found.json["output"][0], *response["output"][1:]]}
    assert (await at(api, response["id"], **{"include[]": "reasoning.encrypted_content"})).json == found.json


async def test_a_deleted_response_is_gone(api: RunningService) -> None:
    response = await created(api)
    deleted = await at(api, response["id"], "DELETE")
    assert (deleted.status, deleted.json) == (200, {"id": response["id"], "object": "response", "deleted": True})
    for verb, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
        assert (await at(api, response["id"] + path, verb)).status == 404
    refused = await post(api, previous_response_id=response["id"])
    assert (refused.status, refused.code) == (400, "previous_response_not_found")


async def test_nobody_sees_the_responses_of_another_key(api: RunningService) -> None:
    mine = await created(api)
    for verb, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
        answer = await at(api, mine["id"] + path, verb, AS_OTHER)
        assert (answer.status, answer.code) == (404, "response_not_found")
        assert (await at(api, mine["id"] + path, verb, {})).status == 401
    refused = await post(api, previous_response_id=mine["id"], headers=AS_OTHER)
    assert (refused.status, refused.code) == (400, "previous_response_not_found")
    reference = {"type": "item_reference", "id": mine["output"][0]["id"]}
    assert (await post(api, [reference, {"role": "user", "content": "x"}], headers=AS_OTHER)).status == 400
    assert (await at(api, mine["id"])).status == 200


async def test_an_answer_that_was_not_in_the_background_cannot_be_cancelled(api: RunningService) -> None:
    answer = await at(api, (await created(api))["id"] + "/cancel", "POST")
    assert (answer.status, answer.error["message"]) == (400, "Cannot cancel a synchronous response.")


# --- its input ---------------------------------------------------------------------------------------------------


async def test_the_input_is_listed_a_page_at_a_time(api: RunningService) -> None:
    items = [{"role": "user", "content": f"number {n}"} for n in range(5)]
    response = await created(api, items)

    async def listed(**query: Any) -> tuple[list[str], bool]:
        page = (await at(api, response["id"] + "/input_items", **query)).json
        assert page["object"] == "list"
        ids = [item["id"] for item in page["data"]]
        assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
        return [item["content"][0]["text"][-1] for item in page["data"]], page["has_more"]

    ids = [item["id"] for item in (await at(api, response["id"] + "/input_items", order="asc")).json["data"]]
    assert len(set(ids)) == 5
    assert await listed() == (["4", "3", "2", "1", "0"], False)
    assert await listed(limit=2) == (["4", "3"], True)
    assert await listed(limit=2, after=ids[3]) == (["2", "1"], True)
    assert await listed(limit=2, order="asc", after=ids[3]) == (["4"], False)
    assert await listed(limit=2, order="asc", before=ids[3]) == (["1", "2"], True)
    assert await listed(after=ids[0]) == ([], False)


@pytest.mark.parametrize(
    ("path", "query", "param"),
    [
        ("/input_items", {"limit": "0"}, "limit"),
        ("/input_items", {"limit": "101"}, "limit"),
        ("/input_items", {"limit": "²"}, "limit"),
        ("/input_items", {"limit": "1" * 5000}, "limit"),
        ("/input_items", {"order": "up"}, "order"),
        ("/input_items", {"after": "msg_none"}, "after"),
        ("/input_items", {"before": ""}, "before"),
        ("/input_items", {"include": "all"}, "include"),
        ("", {"include": "all"}, "include"),
        ("", {"stream": "maybe"}, "stream"),
        ("", {"stream": "true"}, "stream"),
        ("", {"starting_after": "3"}, "starting_after"),
        ("", {"starting_after": "-1", "stream": "true"}, "starting_after"),
    ],
)
async def test_a_bad_query_is_refused_by_name(api: RunningService, path: str, query: Json, param: str) -> None:
    answer = await at(api, (await created(api))["id"] + path, **query)
    assert (answer.status, answer.error["param"]) == (400, param)


async def test_what_of_a_query_has_no_effect_is_named(api: RunningService) -> None:
    answer = await at(api, (await created(api))["id"], include_obfuscation="true", verbose="1", no_keepalive="1")
    assert answer.headers["x-codex-ignored-params"] == "verbose, include_obfuscation"


# --- conversations -----------------------------------------------------------------------------------------------


async def test_a_conversation_goes_on_with_its_calls_and_its_reasoning(api: RunningService) -> None:
    asked = scripted(reasoning="hm", tool_calls=[CALL])
    first = await created(api, asked, tools=[LOOK], instructions="Be brief.")
    output = [{"type": "function_call_output", "call_id": "call_7", "output": "a cat"}]
    second = await created(api, output, tools=[LOOK], previous_response_id=first["id"])
    assert text(second) == "The tools answered: a cat"
    assert (second["previous_response_id"], second["instructions"]) == (first["id"], None)
    third = await post(api, "And?", previous_response_id=second["id"])
    assert third.status == 200
    assert "x-codex-ignored-params" not in third.headers, "the reasoning was replayed"
    items = (await at(api, third.json["id"] + "/input_items", order="asc")).json["data"]
    kinds = [item["type"] for item in items]
    called = ["message", "reasoning", "function_call", "function_call_output"]
    assert kinds == [*called, "reasoning", "message", "message"]
    assert items[1]["encrypted_content"]


async def test_a_call_of_the_previous_response_needs_its_answer(api: RunningService) -> None:
    first = await created(api, scripted(tool_calls=[CALL]), tools=[LOOK])
    refused = await post(api, "Well?", previous_response_id=first["id"])
    assert (refused.status, refused.error["param"]) == (400, "previous_response_id")
    assert "No tool output found for function call call_7" in refused.error["message"]


async def test_a_conversation_may_branch(api: RunningService) -> None:
    first = await created(api, scripted(text="one"))
    for word in ("two", "three"):
        assert text(await created(api, scripted(text=word), previous_response_id=first["id"])) == word


async def test_an_item_is_found_by_its_id_in_the_conversation_and_elsewhere(api: RunningService) -> None:
    first = await created(api, scripted(reasoning="hm", tool_calls=[CALL]), tools=[LOOK])
    thought, call = first["output"]
    (asked,) = (await at(api, first["id"] + "/input_items")).json["data"]
    references = [{"type": "item_reference", "id": item["id"]} for item in (asked, thought, call)]
    done = {"type": "function_call_output", "call_id": "call_7", "output": "a cat"}
    answer = await post(api, [*references, done], tools=[LOOK])
    assert text(answer.json) == "The tools answered: a cat"
    assert "x-codex-ignored-params" not in answer.headers
    listed = (await at(api, answer.json["id"] + "/input_items", order="asc")).json["data"]
    assert [item["id"] for item in listed[:3]] == [asked["id"], thought["id"], call["id"]]


async def test_reasoning_that_comes_without_its_secret_gets_it_back(api: RunningService) -> None:
    first = await created(api, scripted(reasoning="hm", text="ok"))
    assert first["output"][0]["encrypted_content"] is None
    history = [{"role": "user", "content": "x"}, *first["output"], {"role": "user", "content": "y"}]
    answer = await post(api, history)
    assert (answer.status, answer.headers.get("x-codex-ignored-params")) == (200, None)
    unknown = [history[0], first["output"][0] | {"id": "rs_unknown_0"}, *history[2:]]
    assert (await post(api, unknown)).headers["x-codex-ignored-params"] == "input.reasoning"


@pytest.mark.parametrize("previous", ["", "resp_1", "nonsense", "resp_" + "x" * 5000, "resp_\u0000é", "resp_a/b?c"])
async def test_an_unknown_previous_response_is_refused(api: RunningService, previous: str) -> None:
    refused = await post(api, previous_response_id=previous)
    assert (refused.status, refused.code) == (400, "previous_response_not_found")
    assert refused.error["param"] == "previous_response_id"


async def test_a_failed_response_cannot_be_continued(api: RunningService) -> None:
    answer = await post(api, scripted(text="half of it", disconnect="middle"), stream=True)
    failed = parse_events(answer.raw)[-1]["response"]
    refused = await post(api, previous_response_id=failed["id"])
    assert (refused.status, refused.code) == (400, "previous_response_not_usable")
    assert "it is failed" in refused.error["message"]


async def test_a_conversation_is_no_longer_than_a_request_may_be(tmp_path: Path) -> None:
    async with running_service(tmp_path, server={"max_body_bytes": 20_000}) as api:
        first = await created(api, "a" * 9_000)
        second = await created(api, "a" * 9_000, previous_response_id=first["id"])
        refused = await post(api, "a" * 9_000, previous_response_id=second["id"])
        assert refused.status == 200
        refused = await post(api, "b", previous_response_id=refused.json["id"])
        assert (refused.status, refused.code) == (400, "context_length_exceeded")


# --- a store in trouble ------------------------------------------------------------------------------------------


class Broken(MemoryStore):
    """Can nothing any more."""

    is_up = True
    hangs = False

    async def create(self, key: Key, draft: Draft) -> Written:
        return Written.LOST

    async def get(self, key: Key) -> Any:
        raise StoreUnavailable(Trouble.IO)

    exchange = get

    async def delete(self, key: Key) -> bool:
        raise StoreUnavailable(Trouble.IO)

    def snapshot(self) -> Any:
        return super().snapshot()._replace(is_up=self.is_up)


@pytest.fixture
async def broken(tmp_path: Path) -> AsyncIterator[RunningService]:
    async with running_service(tmp_path) as running:
        running.service.store = Broken(running.service.current.settings.store)
        yield running


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("is_up", [False, True])
async def test_no_request_fails_for_its_store(broken: RunningService, stream: bool, is_up: bool) -> None:
    assert isinstance(broken.service.store, Broken)
    broken.service.store.is_up = is_up
    answer = await post(broken, scripted(text="Hello."), stream=stream)
    assert answer.status == 200
    events = parse_events(answer.raw) if stream else []
    if stream:
        check_stream(events)
    response = events[-1]["response"] if stream else answer.json
    check_response(response)
    assert (text(response), response["store"]) == ("Hello.", False)
    # the headers of a stream are gone before anybody knows
    assert answer.headers.get("x-codex-stored") == (None if stream and is_up else "false")
    assert broken.counted("answers_not_stored_total") == 1


async def test_what_needs_the_store_says_when_to_come_again(broken: RunningService) -> None:
    answers = [
        await post(broken, previous_response_id="resp_1"),
        await post(broken, [{"type": "item_reference", "id": "msg_abc_0"}]),
        await at(broken, "resp_1"),
        await at(broken, "resp_1", "DELETE"),
        await at(broken, "resp_1/cancel", "POST"),
        await at(broken, "resp_1/input_items"),
    ]
    for answer in answers:
        assert (answer.status, answer.code) == (503, "store_unavailable")
        assert int(answer.headers["Retry-After"]) >= 5
    thought = {"type": "reasoning", "id": "rs_abc_0", "summary": []}
    assert (await post(broken, [thought, {"role": "user", "content": "x"}])).status == 200


async def test_without_a_store_nothing_is_kept_and_everything_says_so(tmp_path: Path) -> None:
    async with running_service(tmp_path, store={"kind": "off"}) as api:
        assert isinstance(api.service.store, NoStore)
        answer = await post(api)
        assert (answer.json["store"], answer.headers["x-codex-stored"]) == (False, "false")
        assert (await at(api, answer.json["id"])).status == 404
        quiet = await post(api, store=False)
        assert "x-codex-stored" not in quiet.headers


async def test_a_store_that_hangs_is_waited_for_once_and_is_back_by_itself(tmp_path: Path) -> None:
    async with running_service(tmp_path, store={"kind": "sqlite", "timeout_s": 0.3}) as api:
        await created(api)
        with taken(tmp_path / "state" / "responses.sqlite"):
            slow = await post(api, stream=True)
            assert parse_events(slow.raw)[-1]["response"]["store"] is False
            for _ in range(3):
                quick = await post(api)
                assert (quick.json["store"], quick.headers["x-codex-stored"]) == (False, "false")
            assert api.counted("store_operations_total", operation="create", result="slow") == 1
        await until(lambda: api.service.store.snapshot().is_up)
        await created(api)


# --- the routes --------------------------------------------------------------------------------------------------


async def test_other_verbs_are_refused_and_pages_may_ask(api: RunningService) -> None:
    for path, verb, allowed in (
        ("resp_1", "PUT", "DELETE, GET, HEAD"),
        ("resp_1/cancel", "GET", "POST"),
        ("resp_1/input_items", "POST", "GET, HEAD"),
    ):
        answer = await at(api, path, verb)
        assert (answer.status, answer.headers["Allow"]) == (405, allowed)
    preflight = await at(api, "resp_1", "OPTIONS", {"Origin": "https://a.example"})
    assert preflight.status == 204
    assert "DELETE" in preflight.headers["Access-Control-Allow-Methods"]
    response = await created(api)
    assert (await at(api, response["id"], "HEAD")).status == 200
    assert (await at(api, "resp_1", "HEAD")).status == 404


async def test_whatever_is_in_a_url_it_is_answered(api: RunningService) -> None:
    @given(
        st.text(max_size=30),
        st.sampled_from(["", "/cancel", "/input_items"]),
        st.text(max_size=20),
        st.text(max_size=20),
    )
    def some(name_of: str, path: str, name: str, value: str) -> None:
        urls.append((name_of, path, name, value))

    urls: list[tuple[str, str, str, str]] = []
    some()
    known = (await created(api))["id"]
    names = ["limit", "order", "after", "before", "include", "stream", "starting_after", "include_obfuscation"]
    for number, (name_of, path, name, value) in enumerate(urls):
        quoted = urllib.parse.quote(name_of, safe="", errors="surrogatepass") if number % 2 else known
        query = urllib.parse.urlencode({name if number % 3 else names[number % len(names)]: value}, errors="replace")
        verb = "POST" if path == "/cancel" else "GET"
        answer = await api.call(verb, f"/v1/responses/{quoted}{path}?{query}", headers=AUTHORIZED)
        assert answer.status in (200, 400, 404, 405), (name_of, path, name, value, answer.raw)
    assert api.bugs == 0
    assert json.loads((await at(api, known)).raw)["id"] == known

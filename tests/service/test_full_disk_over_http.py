"""A disk that is full costs what is to be stored, no request, and nothing that is stored already."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.store.protocol import Key, State
from tests.support.disks import Disk, NoDiskError, limited, mounted
from tests.support.response_events import check_stream, parse_events
from tests.support.services import RunningService, running_service, scripted, until
from tests.support.stored import at, post, text

LONG = "x" * 100_000
"""More than there is room for in any corner of a file that is there."""
SLOWLY = scripted(chunks=["tick "], repeat=100_000, interval_s=0.01)


@pytest.fixture(params=[mounted, limited], ids=["mounted", "limited"])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    """A disk with space on it."""
    try:
        with request.param(tmp_path / "disk") as made:
            yield made
    except NoDiskError as reason:
        pytest.skip(str(reason))


async def is_stored(api: RunningService, prompt: str = LONG) -> bool:
    """Whether an answer says that it is stored, in each of the places where it says so."""
    answer = await post(api, prompt)
    assert answer.status == 200, answer.raw
    told = answer.json["store"]
    assert answer.headers.get("x-codex-stored") == (None if told else "false")
    found = (await at(api, answer.json["id"])).status
    assert found == 200 if told else found in (404, 503)
    return bool(told)


async def test_every_request_is_answered_while_the_disk_is_full_and_stored_when_it_is_not(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.database.RETRY_S", 0.1)
    monkeypatch.setattr("service.store.sqlite.IDLE_S", 0.02)
    store = {"kind": "sqlite", "path": disk.path / "responses.sqlite"}
    async with running_service(tmp_path, store=store) as api:
        before = (await post(api, scripted(text="before"))).json
        assert await is_stored(api)
        running = (await post(api, SLOWLY, background=True)).json
        place = Key("default", running["id"])
        await until(lambda: api.counted("store_operations_total", operation="update", result="stored"))
        disk.fill()
        assert not await is_stored(api)
        assert api.counted("answers_not_stored_total") == 1
        assert api.counted("store_up") == 0
        lost = sum(api.counted("store_operations_total", operation="create", result=why) for why in ("disk_full", "io"))
        assert lost == 1

        streamed = await post(api, LONG, stream=True)
        events = parse_events(streamed.raw)
        check_stream(events)
        assert (streamed.headers["x-codex-stored"], events[-1]["response"]["store"]) == ("false", False)
        refused = await post(api, LONG, background=True)
        assert (refused.status, refused.code) == (503, "store_unavailable")
        assert (await at(api, before["id"])).json == before, "what is stored can be read"
        after = await post(api, scripted(text="after"), previous_response_id=before["id"])
        assert text(after.json) == "after"
        cancelled = (await at(api, running["id"] + "/cancel", "POST")).json
        assert cancelled["status"] == "cancelled"

        disk.clear()
        await until(lambda: api.counted("store_up"))
        assert await is_stored(api)
        await until(lambda: api.counted("background_jobs") == 0)
        kept = await api.service.store.get(place)
        assert kept is not None
        assert kept.state is State.ENDED
        assert (await at(api, running["id"])).json == cancelled


async def test_a_service_starts_and_answers_on_a_disk_that_is_full(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.database.RETRY_S", 0.1)
    store = {"kind": "sqlite", "path": disk.path / "responses.sqlite"}
    disk.fill()
    async with running_service(tmp_path, store=store) as api:
        assert not await is_stored(api)
        disk.clear()
        async with asyncio.timeout(10):
            while not await is_stored(api):
                pass

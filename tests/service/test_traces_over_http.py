"""The frames of a request, from its worker into a file, for whoever looks for what went wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.conftest import Log
from tests.support.services import AUTHORIZED, Json, RunningService, running_service, scripted, until

MARK = "5ecretmark"
SLOW = scripted(chunks=["tick "], repeat=100_000, interval_s=0.01)
FAILS = scripted(http_status=400, http_error={"message": MARK})


@pytest.fixture
async def sampled(tmp_path: Path) -> AsyncIterator[RunningService]:
    async with running_service(tmp_path, trace={"sample": 1.0}) as api:
        yield api


def files(api: RunningService) -> list[Path]:
    directory = api.service.traces.directory
    return sorted(directory.iterdir()) if directory.exists() else []


async def written(api: RunningService, count: int = 1) -> list[Json]:
    """The documents, once there are so many."""
    await until(lambda: api.counted("traces_total", result="written") == count)
    return [json.loads(path.read_text()) for path in files(api)]


def methods(document: Json) -> list[str]:
    """What was written, and what was heard, in order; deltas once."""
    told = []
    for frame in document["frames"]:
        if "sent" in frame:
            told.append(f"> {frame['sent']['method']}")
        else:
            told.append(f"< {frame['heard'].get('method') or frame['heard']['answer_to']}")
    return [each for place, each in enumerate(told) if told[place - 1 : place] != [each]]


async def test_all_frames_of_a_request_are_in_its_file_and_no_text(sampled: RunningService) -> None:
    prompt = scripted(chunks=[f"{MARK} "] * 3) + MARK
    answer = await sampled.chat(
        prompt, messages=[{"role": "system", "content": MARK}, {"role": "user", "content": prompt}]
    )
    (document,) = await written(sampled)
    (path,) = files(sampled)
    assert path.name.endswith(f"Z-{answer.headers['x-request-id']}.json")
    assert MARK not in path.read_text()
    assert document["request_id"] == answer.headers["x-request-id"]
    assert (document["key"], document["model"], document["outcome"]) == ("default", "codex-5", "stop")
    assert document["worker"].startswith("default/")
    seen = methods(document)
    assert seen[:2] == ["> thread/start", "< thread_start"]
    assert [each for each in seen if each.startswith(">")] == [
        "> thread/start",
        "> thread/inject_items",
        "> turn/start",
        "> thread/unsubscribe",
    ]
    assert "< item/agentMessage/delta" in seen
    assert "< turn/completed" in seen
    assert seen[-1] == "< unsubscribe"
    times = [frame["at_ms"] for frame in document["frames"]]
    assert times == sorted(times)
    assert sampled.counted("trace_files") == 1
    assert sampled.service.traces._held.bytes == 0


async def test_two_requests_on_one_worker_do_not_mix(sampled: RunningService) -> None:
    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(sampled.chat(scripted(chunks=["a ", "b "], interval_s=0.01)))
    for document in await written(sampled, 4):
        threads = {
            frame["heard"]["params"].get("threadId")
            for frame in document["frames"]
            if "params" in frame.get("heard", {})
        }
        assert len(threads) == 1, document


async def test_the_choices_of_a_request_are_in_one_file(sampled: RunningService) -> None:
    await sampled.chat(scripted(text="Yes."), n=3)
    (document,) = await written(sampled)
    assert [frame["sent"]["method"] for frame in document["frames"] if "sent" in frame].count("thread/start") == 3


async def test_a_client_that_leaves_is_traced_to_the_end_of_its_turn(sampled: RunningService) -> None:
    running = await sampled.begin(SLOW)
    await running.content.readuntil(b"tick")
    running.close()
    (document,) = await written(sampled)
    assert "> turn/interrupt" in methods(document)
    assert methods(document)[-1] == "< unsubscribe"
    assert document["outcome"] == "abandoned"


async def test_only_what_fails_is_kept_where_only_failures_are_wanted(tmp_path: Path) -> None:
    async with running_service(tmp_path, trace={"failures": True}) as api:
        await api.chat(scripted(text="Yes."))
        await api.chat(scripted(text="Yes."), stream=True)
        assert (await api.chat(FAILS)).status == 400
        (document,) = await written(api)
        assert (document["chosen_for"], document["outcome"]) == ("failure", "bad_request")
        assert MARK not in files(api)[0].read_text()


async def test_a_worker_that_dies_is_traced_up_to_its_end(tmp_path: Path) -> None:
    async with running_service(tmp_path, trace={"failures": True}) as api:
        await api.chat(scripted(chunks=["a ", "b "], interval_s=0.01, exit=3, at="middle"))
        (document,) = await written(api)
        assert document["outcome"] == "worker_lost"
        assert methods(document)[-1].startswith("<")


async def test_nothing_is_traced_unless_somebody_says_so_and_a_reload_says_it(tmp_path: Path) -> None:
    async with running_service(tmp_path) as api:
        wants = {"x-codex-trace": "1"}
        await api.chat(headers=wants)
        await api.reload(trace={"by_header": True, "text": "kept"})
        await api.chat()
        await api.chat(scripted(text=f"I say {MARK}."), headers=wants)
        (document,) = await written(api)
        assert document["chosen_for"] == "header"
        assert f"I say {MARK}." in json.dumps(document), "it was asked for"
        await api.reload()
        await api.chat(headers=wants)
        assert len(files(api)) == 1


async def test_a_response_in_the_background_is_traced_too(sampled: RunningService) -> None:
    asked = {"model": "codex-5", "input": "Hello.", "background": True}
    answer = await sampled.call("POST", "/v1/responses", json=asked, headers=AUTHORIZED)
    (document,) = await written(sampled)
    assert document["request_id"] == answer.headers["x-request-id"]


async def test_files_that_are_too_many_go_and_that_is_told(tmp_path: Path, log: Log) -> None:
    async with running_service(tmp_path, trace={"sample": 1.0, "max_files": 2}) as api:
        for number in range(3):
            await api.chat()
            await written(api, number + 1)
        assert len(files(api)) == 2
        assert api.counted("traces_pruned_total", reason="count") == 1
        assert [(line["removed"], line["left"]) for line in log.of("traces.pruned")] == [({"count": 1}, 2)]


async def test_where_files_cannot_be_written_requests_are_answered(tmp_path: Path, log: Log) -> None:
    (tmp_path / "file").write_text("")
    fields: dict[str, Any] = {"sample": 1.0, "path": tmp_path / "file"}
    async with running_service(tmp_path, trace=fields) as api:
        assert (await api.chat()).status == 200
        await until(lambda: api.counted("traces_total", result="lost") == 1)
        assert len(log.of("trace.lost")) == 1

"""What is kept of a request's frames is bounded in every way, and says nothing that it should not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.traces import buffer as shell
from service.traces.buffer import TraceBuffer, TraceObserver
from service.traces.redaction import masked, redacted
from service.traces.settings import TraceSettings
from service.traces.trace import MAX_FRAME_BYTES, Held, Trace
from tests.support.services import until

MARK = "5ecretmark"
NOON = datetime(2026, 11, 20, 12, 0, 0, 123_000, UTC)


class Heard(TraceObserver):
    def __init__(self) -> None:
        self.written = self.files = 0
        self.lost: list[str] = []
        self.removed: dict[str, int] = {}

    def trace_written(self, files: int) -> None:
        self.written += 1
        self.files = files

    def has_written(self, count: int) -> bool:
        return self.written == count

    def trace_lost(self, trouble: str, text: str) -> None:
        self.lost.append(trouble)

    def traces_pruned(self, removed: Mapping[str, int], files: int) -> None:
        self.files = files
        for reason, count in removed.items():
            self.removed[reason] = self.removed.get(reason, 0) + count


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@asynccontextmanager
async def opened(directory: Path, **fields: Any) -> AsyncIterator[tuple[TraceBuffer, Heard, Clock]]:
    heard, clock = Heard(), Clock()
    traces = TraceBuffer(directory, TraceSettings(**fields), heard, lambda: ["the-providers-key"], clock)
    traces.open()
    try:
        yield traces, heard, clock
    finally:
        await traces.close()


def traced(traces: TraceBuffer, request_id: str = "req_1", *, has_failed: bool = True) -> None:
    """A request of two frames, from its beginning to its end."""
    trace = traces.choose(request_id, {})
    assert trace is not None
    trace.opened(1.0)
    trace.sent(b'{"id":1,"method":"turn/start","params":{"threadId":"t1"}}\n', 1.0)
    trace.heard("item/agentMessage/delta", "params", json.dumps({"delta": MARK}).encode(), 1.25)
    trace.end({"key": "alice"}, has_failed=has_failed)
    trace.closed(2.0)


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def test_a_request_has_one_file_that_only_we_may_read(tmp_path: Path) -> None:
    directory = tmp_path / "traces"
    async with opened(directory, failures=True) as (traces, heard, _):
        traced(traces)
        await until(lambda: heard.written == 1)
        assert traces._held.bytes == 0
    (name,) = files(directory)
    assert name == "20261120T120000.123Z-req_1.json"
    assert (directory / name).stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700
    assert json.loads((directory / name).read_text()) == {
        "request_id": "req_1",
        "ended": "2026-11-20T12:00:00.123+00:00",
        "chosen_for": "failure",
        "text": "redacted",
        "key": "alice",
        "frames_left_out": 0,
        "frames": [
            {"at_ms": 0.0, "sent": {"id": 1, "method": "turn/start", "params": {"threadId": "t1"}}},
            {"at_ms": 250.0, "heard": {"method": "item/agentMessage/delta", "params": {"delta": "[10 characters]"}}},
        ],
    }


@pytest.mark.parametrize(
    ("fields", "headers", "why"),
    [
        ({}, {"x-codex-trace": "1", "x-request-id": "a"}, None),
        ({"by_header": True}, {}, None),
        ({"by_header": True}, {"x-codex-trace": "1"}, "header"),
        ({"by_header": True}, {"x-codex-trace": "0"}, None),
        ({"ids": ["a", "b"]}, {"x-request-id": "b"}, "id"),
        ({"ids": ["a"]}, {"x-trace-id": "a"}, "id"),
        ({"ids": ["a"]}, {"x-copilot-trace-id": "ab"}, None),
        ({"sample": 1.0}, {}, "sample"),
        ({"failures": True}, {}, "failure"),
        ({"failures": True, "by_header": True}, {"x-codex-trace": "1"}, "header"),
    ],
)
def test_who_is_traced(tmp_path: Path, fields: dict[str, Any], headers: dict[str, str], why: str | None) -> None:
    trace = TraceBuffer(tmp_path, TraceSettings(**fields)).choose("req_1", headers)
    assert (None if trace is None else trace.why) == why


def test_a_sample_is_as_large_as_it_should_be(tmp_path: Path) -> None:
    traces = TraceBuffer(tmp_path, TraceSettings(sample=0.1))
    assert 700 < sum(traces.choose("req_1", {}) is not None for _ in range(10_000)) < 1300


async def test_of_failures_only_failures_are_kept(tmp_path: Path) -> None:
    async with opened(tmp_path, failures=True) as (traces, heard, _):
        traced(traces, "req_good", has_failed=False)
        assert traces._held.bytes == 0
        traced(traces, "req_bad")
        await until(lambda: heard.written == 1)
    assert [name.partition("-")[2] for name in files(tmp_path)] == ["req_bad.json"]


async def test_a_trace_ends_when_the_worker_has_let_go_and_a_request_without_frames_has_none(tmp_path: Path) -> None:
    async with opened(tmp_path, sample=1) as (traces, heard, _):
        trace = traces.choose("req_1", {})
        assert trace is not None
        trace.opened(1.0)
        trace.end({}, has_failed=False)
        trace.end({"again": True}, has_failed=True)
        trace.sent(b'{"method":"turn/interrupt"}', 1.0)
        assert not heard.written
        trace.closed(2.0)
        await until(lambda: heard.written == 1)
        other = traces.choose("req_2", {})
        assert other is not None
        other.end({}, has_failed=True)
    (name,) = files(tmp_path)
    assert b"turn/interrupt" in (tmp_path / name).read_bytes()
    assert b"again" not in (tmp_path / name).read_bytes()


async def test_files_go_by_number_and_by_age_and_nothing_else_does(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("{}")
    async with opened(tmp_path, sample=1, max_files=3, max_age_s=3600) as (traces, heard, clock):
        for number in range(5):
            clock.now = NOON + timedelta(minutes=number)
            traced(traces, f"req_{number}")
            await until(partial(heard.has_written, number + 1))
        assert heard.removed == {"count": 2}
        assert heard.files == 3
        clock.now = NOON + timedelta(minutes=63)
        traced(traces, "req_9")
        await until(lambda: heard.written == 6)
        assert heard.removed == {"count": 2, "age": 1}
    assert files(tmp_path) == [
        "20261120T120300.123Z-req_3.json",
        "20261120T120400.123Z-req_4.json",
        "20261120T130300.123Z-req_9.json",
        "notes.json",
    ]


async def test_what_is_too_old_goes_though_nobody_traces_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "SWEEP_S", 0.01)
    for name in ("20261119T115959.000Z-req_1.json", ".20261118T000000.000Z-req_2.json.part"):
        (tmp_path / name).write_text("{}")
    async with opened(tmp_path) as (_, heard, clock):
        await until(lambda: heard.removed == {"age": 2})
        (tmp_path / "20261120T120000.000Z-req_3.json").write_text("{}")
        clock.now += timedelta(days=1, seconds=1)
        await until(lambda: heard.removed == {"age": 3})
    assert files(tmp_path) == []


async def test_a_directory_that_cannot_be_written_loses_the_trace_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with opened(tmp_path / "file", sample=1) as (traces, heard, _):
        traced(traces)
        await until(lambda: heard.lost)
        assert traces._held.bytes == 0


def held_trace(most: int = 64 * 1024, all_most: int = 1 << 30) -> tuple[Trace, Held]:
    held = Held(all_most)
    return Trace("req_1", "sample", most_bytes=most, held=held, on_over=lambda _: None), held


@given(st.lists(st.integers(0, 100_000), max_size=60))
def test_a_trace_holds_no_more_than_it_may_and_keeps_the_beginning_and_the_end(sizes: list[int]) -> None:
    trace, held = held_trace()
    for number, size in enumerate(sizes):
        trace.heard(str(number), "params", b"x" * size, number)
    assert held.bytes == trace.held_bytes <= 64 * 1024 + max([0, *sizes]) + 200
    kept = [int(frame.method) for frame in trace.frames]
    assert len(kept) + trace.left_out == len(sizes)
    assert kept == sorted(kept)
    if sizes:
        assert kept[-1] == len(sizes) - 1
    trace.let_go()
    assert held.bytes == 0


def test_a_frame_that_is_too_large_is_mentioned() -> None:
    trace, _ = held_trace(4 << 20)
    trace.sent(b"x" * (MAX_FRAME_BYTES + 1), 1.0)
    (frame,) = trace.frames
    assert frame.told(1.0) == {"at_ms": 0.0, "sent": {"bytes": MAX_FRAME_BYTES + 1}}


def test_all_traces_together_hold_no_more_than_they_may() -> None:
    trace, held = held_trace(1 << 20, all_most=10_000)
    for number in range(100):
        trace.sent(b"x" * 800, number)
    assert held.bytes <= 10_000
    assert (len(trace.frames), trace.left_out) == (10, 90)


# --- redaction ---------------------------------------------------------------------------------------------------

texts = st.text(max_size=20).map(lambda text: f"{text} {MARK}{text}")
anything = st.recursive(
    texts | st.integers() | st.booleans() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["type", "id", "delta", "text", "message", "inputSchema", "model"]), inner)
        | st.fixed_dictionaries({"schema": st.dictionaries(texts, inner)})
    ),
    max_leaves=30,
)


@given(anything)
def test_of_what_anybody_said_nothing_is_left_but_its_length(value: Any) -> None:
    assert MARK not in json.dumps(redacted({"params": value}))


def test_what_tells_how_it_went_is_left() -> None:
    frame = {
        "method": "turn/completed",
        "params": {
            "threadId": "0199-abc",
            "turn": {
                "id": "t1",
                "status": "failed",
                "error": {
                    "message": f"the {MARK}",
                    "codexErrorInfo": {"responseStreamDisconnected": {"httpStatusCode": 502}},
                },
            },
            "tokens": [1, 2.5, None, True],
        },
    }
    found = redacted(frame)
    assert found["params"]["turn"]["error"] == {
        "message": "[14 characters]",
        "codexErrorInfo": {"responseStreamDisconnected": {"httpStatusCode": 502}},
    }
    assert found | {"params": None} == frame | {"params": None}
    assert redacted({"id": "sk-0123456789abcdef", "type": "a b"}) == {"id": "[19 characters]", "type": "[3 characters]"}
    assert redacted({"a key that is a text": 1}) == {"[redacted]": 1}


def test_where_texts_are_kept_keys_tokens_and_pictures_are_not() -> None:
    frame = {
        "text": "see Bearer abcdefgh12345678 and sk-0123456789abcdef and the-providers-key, my friend",
        "apiKey": "short",
        "access_token": "x",
        "encrypted_content": "gAAAA",
        "totalTokens": 5,
        "image_url": "data:image/png;base64,iVBORw0KGgo=",
        "long": "y" * 100_000,
        "list": [{"password": "p"}],
    }
    found = masked(frame, ["the-providers-key"])
    assert found | {"long": ""} == {
        "text": "see [redacted] and [redacted] and [redacted], my friend",
        "apiKey": "[redacted]",
        "access_token": "[redacted]",
        "encrypted_content": "[redacted]",
        "totalTokens": 5,
        "image_url": "[data]",
        "long": "",
        "list": [{"password": "[redacted]"}],
    }
    assert len(found["long"]) < 70_000


async def test_the_providers_key_is_in_no_file(tmp_path: Path) -> None:
    async with opened(tmp_path, sample=1, text="kept") as (traces, heard, _):
        trace = traces.choose("req_1", {})
        assert trace is not None
        trace.sent(b'{"params":{"text":"it is the-providers-key, I said"}}', 1.0)
        trace.end({}, has_failed=False)
        await until(lambda: heard.written == 1)
    (name,) = files(tmp_path)
    text = (tmp_path / name).read_text()
    assert "the-providers-key" not in text
    assert "it is [redacted], I said" in text

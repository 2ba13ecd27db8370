"""Every frame that is written or read is valid against the vendor's own generated models."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai_codex.generated import v2_all as vendor
from openai_codex.generated.notification_registry import NOTIFICATION_MODELS
from openai_codex.models import InitializeResponse
from pydantic import BaseModel

from loadtest.model_standin import ModelStandin
from pool.events import ToolSpec, TurnRequest
from pool.profile import Profile
from pool.protocol import dialect_v2 as dialect
from pool.transport import Child
from pool.worker import Worker
from tests.support.pools import RunningPool, asking, running_pool, script, user

Frame = dict[str, Any]

PARAMS: dict[str, type[BaseModel]] = {
    "initialize": vendor.InitializeParams,
    "thread/start": vendor.ThreadStartParams,
    "thread/inject_items": vendor.ThreadInjectItemsParams,
    "turn/start": vendor.TurnStartParams,
    "turn/interrupt": vendor.TurnInterruptParams,
    "thread/unsubscribe": vendor.ThreadUnsubscribeParams,
}
RESULTS: dict[str, type[BaseModel]] = {
    "initialize": InitializeResponse,
    "thread/start": vendor.ThreadStartResponse,
    "thread/inject_items": vendor.ThreadInjectItemsResponse,
    "turn/start": vendor.TurnStartResponse,
    "turn/interrupt": vendor.TurnInterruptResponse,
    "thread/unsubscribe": vendor.ThreadUnsubscribeResponse,
}
EXPERIMENTAL = {"environments", "dynamicTools", "experimentalRawEvents"}
"""Fields of thread/start that the vendor's stable schema leaves out; test_purity.py proves that they work."""
NOTIFICATIONS = NOTIFICATION_MODELS | {"rawResponseItem/completed": vendor.RawResponseItemCompletedNotification}
WITHOUT_MODEL = {"rawResponse/completed", "item/tool/call"}


class Tap:
    """Every line of the pipe, decoded, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._written = b""
        self._read = b""
        write, on_stdout = Child.write, Worker._on_stdout

        def tapped_write(child: Child, data: bytes) -> None:
            self._written += data
            write(child, data)

        def tapped_read(worker: Worker, data: bytes) -> None:
            self._read += data
            on_stdout(worker, data)

        monkeypatch.setattr(Child, "write", tapped_write)
        monkeypatch.setattr(Worker, "_on_stdout", tapped_read)

    @property
    def written(self) -> list[Frame]:
        return [json.loads(line) for line in self._written.splitlines()]

    @property
    def read(self) -> list[Frame]:
        return [json.loads(line) for line in self._read.split(b"\n") if line]


async def all_kinds_of_turns(real: RunningPool) -> None:
    tool = ToolSpec("look", "Looks.", {"type": "object", "properties": {"at": {"type": "string"}}})
    history: tuple[dict[str, Any], ...] = (
        user("Hi."),
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello."}]},
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
        {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "seen"},
    )
    call = user('@@{"tool_calls": [{"name": "look", "arguments": {"at": "a"}}]}')
    schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    history += (user(script(text="ok", reasoning="hm")),)
    await real.turn(TurnRequest("gpt-5.5", "Be kind.", history, (tool,)))
    await real.turn(TurnRequest("gpt-5.5", "", (call,), (tool,)))
    await real.turn(TurnRequest("gpt-5.5", "", (user("x"),), effort="low", summary="auto", output_schema=schema))
    await real.turn(asking('@@{"status": 500, "error": {"message": "oops"}}'))
    await real.turn(asking('@@{"text": "cut", "incomplete": "max_output_tokens"}'))
    lease, sink = real.start(asking('@@{"text": "never more", "hang": "middle"}'))
    await sink.first.wait()
    real.pool.interrupt(lease)
    await sink.ended
    await real.until_free(real.profile.slots)


async def test_every_frame_is_valid_for_the_vendors_models(
    profile: Profile, standin: ModelStandin, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap = Tap(monkeypatch)
    async with running_pool(profile, tmp_path) as real:
        await all_kinds_of_turns(real)

    methods: dict[int, str] = {}
    for frame in tap.written:
        if "id" in frame:
            methods[frame["id"]] = frame["method"]
            model = PARAMS[frame["method"]]
            model.model_validate(frame["params"])
            known = {field.alias or name for name, field in model.model_fields.items()}
            assert frame["params"].keys() <= known | EXPERIMENTAL, frame
        else:
            assert frame == {"method": "initialized"}
    assert set(methods.values()) == set(PARAMS), "a request of ours was not exercised"

    decoded = set()
    for frame in tap.read:
        method = frame.get("method")
        if method is None:
            RESULTS[methods[frame["id"]]].model_validate(frame["result"])
        elif method not in WITHOUT_MODEL:
            NOTIFICATIONS[method].model_validate(frame["params"])
        if method in dialect.NOTIFICATIONS:
            decoded.add(method)
        elif method is not None and "id" not in frame:
            assert method in dialect.IGNORED, f"{method} is neither read nor ignored on purpose"
    assert decoded == set(dialect.NOTIFICATIONS), "a notification that we read was not exercised"


async def test_what_was_opted_out_of_is_not_sent(
    profile: Profile, standin: ModelStandin, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap = Tap(monkeypatch)
    async with running_pool(profile, tmp_path) as real:
        await all_kinds_of_turns(real)
    assert not {frame.get("method") for frame in tap.read} & set(dialect.OPT_OUT)

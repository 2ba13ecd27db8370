"""The fake app-server writes what the real one writes, for the same requests and the same model."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from loadtest.fake_app_server import write_launcher
from tests.loadtest.driver import AppServer, Frame, directive, user
from tests.loadtest.real_cli import real_app_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "inputSchema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = {"name": "get_weather", "arguments": {"city": "Rome"}}
USAGE = {"input_tokens": 10, "cached_tokens": 4, "output_tokens": 7, "reasoning_tokens": 2}


def finish(server: AppServer, thread_id: str) -> None:
    """Ends the thread and reads to the end of what it says."""
    server.notification("turn/completed")
    server.call("thread/unsubscribe", {"threadId": thread_id})
    server.notification("thread/closed")


def interrupt(server: AppServer, thread_id: str, turn_id: str) -> None:
    server.request("turn/interrupt", {"threadId": thread_id, "turnId": turn_id})
    finish(server, thread_id)


def injected(server: AppServer, prompt: str, **turn: object) -> str:
    """The service's way: the whole history is injected, then a turn without input starts."""
    thread_id = server.start_thread(dynamicTools=[TOOL], experimentalRawEvents=True, baseInstructions="Be brief.")
    history = [
        user("weather in Oslo?"),
        {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city":"Oslo"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "3C"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "3C."}]},
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
        {"type": "reasoning", "summary": [], "encrypted_content": "b3BhcXVl"},
        {"type": "nonsense"},
    ]
    server.call("thread/inject_items", {"threadId": thread_id, "items": history})
    server.call("thread/inject_items", {"threadId": thread_id, "items": [user(prompt)]})
    server.request("turn/start", {"threadId": thread_id, "input": [], **turn})
    return thread_id


def a_tool_call_ended_by_an_interrupt(server: AppServer) -> None:
    thread_id = injected(server, directive(reasoning="two words", text="let me look", tool_calls=[CALL], usage=USAGE))
    seen = set()

    def both_seen(frame: Frame) -> bool:
        seen.add(frame.get("method"))
        return {"rawResponse/completed", "item/tool/call"} <= seen

    interrupt(server, thread_id, server.read_until(both_seen)["params"]["turnId"])


def a_tool_call_answered(server: AppServer) -> None:
    thread_id = injected(server, directive(tool_calls=[CALL]))
    call = server.notification("item/tool/call")
    server.send({"id": call["id"], "result": {"contentItems": [{"type": "inputText", "text": "20C"}], "success": True}})
    finish(server, thread_id)


def a_tool_nobody_offered(server: AppServer) -> None:
    finish(server, injected(server, directive(tool_calls=[{"name": "no_such_tool"}])))


def several_messages_after_a_thought(server: AppServer) -> None:
    finish(server, injected(server, directive(reasoning="two words", messages=["first one", "second"]), effort="high"))


def an_empty_answer(server: AppServer) -> None:
    finish(server, injected(server, directive(text="")))


def a_prompt_as_input(server: AppServer) -> None:
    finish(server, server.start_turn(directive(text="as you like it"), experimentalRawEvents=True))


def a_prompt_as_input_without_raw_events(server: AppServer) -> None:
    finish(server, server.start_turn(directive(text="as you like it")))


def an_answer_interrupted_in_the_middle(server: AppServer) -> None:
    thread_id = injected(server, directive(text="one two three", hang="middle"))
    interrupt(server, thread_id, server.notification("item/agentMessage/delta")["params"]["turnId"])


def an_error_status(server: AppServer) -> None:
    finish(server, injected(server, directive(status=500)))


def a_failure_after_some_text(server: AppServer) -> None:
    finish(server, injected(server, directive(failed="server_error", text="half of it")))


def a_context_which_is_too_long(server: AppServer) -> None:
    finish(server, injected(server, directive(failed="context_length_exceeded")))


def an_answer_cut_at_its_limit(server: AppServer) -> None:
    finish(server, injected(server, directive(incomplete="max_output_tokens", text="half of it", usage=USAGE)))


def a_connection_which_breaks(server: AppServer) -> None:
    finish(server, injected(server, directive(disconnect="middle", text="half of it")))


FLOWS: tuple[Callable[[AppServer], None], ...] = (
    a_tool_call_ended_by_an_interrupt,
    a_tool_call_answered,
    a_tool_nobody_offered,
    several_messages_after_a_thought,
    an_empty_answer,
    a_prompt_as_input,
    a_prompt_as_input_without_raw_events,
    an_answer_interrupted_in_the_middle,
    an_error_status,
    a_failure_after_some_text,
    a_context_which_is_too_long,
    an_answer_cut_at_its_limit,
    a_connection_which_breaks,
)


def shape(value: object) -> object:
    """The keys of a frame, at every depth; which values they have does not matter."""
    if isinstance(value, dict):
        return {key: shape(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [shape(part) for part in value]
    return "..."


def is_racy(frame: Frame) -> bool:
    """Frames whose place among the others depends on the real one's threads."""
    if "method" not in frame or frame["method"] in ("thread/started", "item/tool/call"):
        return True
    item = frame["params"].get("item") or {}
    return item.get("type") == "dynamicToolCall"


def describe(frame: Frame) -> tuple[str, Any]:
    """What two frames must have in common: the method, the kind of item, the values the client decides by, the keys."""
    params = frame.get("params", {})
    telling = {
        "item": (params.get("item") or {}).get("type"),
        "delta": params.get("delta"),
        "usage": params.get("usage") if frame.get("method") == "rawResponse/completed" else None,
        "turn": (params.get("turn") or {}).get("status"),
        "error": (params.get("error") or {}).get("codexErrorInfo"),
        "status": params.get("status"),
    }
    return str(frame.get("method", "reply")), {**telling, "keys": shape(frame)}


def story(server: AppServer, flow: Callable[[AppServer], None]) -> tuple[list[object], list[object]]:
    """The frames of the flow whose order is certain, in order, and the others, sorted."""
    before = len(server.frames)
    flow(server)
    frames = server.frames[before:]
    certain = [describe(frame) for frame in frames if not is_racy(frame)]
    racy = sorted((describe(frame) for frame in frames if is_racy(frame)), key=repr)
    return list(certain), list(racy)


def refusals(server: AppServer) -> list[Frame]:
    """The errors of requests which cannot be served."""
    nobody = "00000000-0000-7000-8000-000000000000"
    thread_id = server.start_thread()
    item = user("hello")
    remote = {"type": "input_image", "image_url": "https://example.org/a.png"}
    tools: list[Frame] = [
        {"name": name, "description": "d", "inputSchema": {}} for name in ("a b", "same", "same", "mcp__x")
    ]
    requests: list[tuple[str, Frame]] = [
        ("initialize", {"clientInfo": {"name": "again", "version": "1"}}),
        ("thread/inject_items", {"threadId": thread_id}),
        ("thread/inject_items", {"threadId": thread_id, "items": []}),
        ("thread/inject_items", {"threadId": thread_id, "items": [{**item, "content": "plain"}]}),
        ("thread/inject_items", {"threadId": thread_id, "items": [{**item, "content": [remote]}]}),
        ("thread/inject_items", {"threadId": nobody, "items": [item]}),
        ("turn/start", {"threadId": thread_id}),
        ("turn/start", {"threadId": thread_id, "input": "plain"}),
        ("turn/start", {"threadId": nobody, "input": []}),
        ("turn/start", {"threadId": thread_id, "input": [{"type": "image", "url": "https://example.org/a.png"}]}),
        ("turn/start", {"threadId": thread_id, "input": [{"type": "text", "text": "x" * 1_048_577}]}),
        ("turn/interrupt", {"threadId": thread_id, "turnId": nobody}),
        ("thread/unsubscribe", {"threadId": nobody}),
        ("thread/start", {"dynamicTools": tools[:1]}),
        ("thread/start", {"dynamicTools": tools[1:3]}),
        ("thread/start", {"dynamicTools": tools[3:]}),
        ("thread/start", {"dynamicTools": [{"name": "x", "inputSchema": {}}]}),
    ]
    replies = [server.call(method, params) for method, params in requests]
    unknown = server.call("no/such", {})
    unknown["error"]["message"] = unknown["error"]["message"].split("`initialize`")[0]
    for reply in (*replies, unknown):
        del reply["id"]
    return [*replies, unknown]


@pytest.mark.codex
def test_the_fake_and_the_real_app_server_tell_the_same_story(tmp_path: Path) -> None:
    launcher = write_launcher(tmp_path / "codex")
    with real_app_server(tmp_path) as real, AppServer([launcher, "app-server"], env={}, cwd=tmp_path) as fake:
        assert shape(real.initialize()) == shape(fake.initialize())
        for flow in itertools.chain(FLOWS, FLOWS[:2]):
            real_certain, real_racy = story(real, flow)
            fake_certain, fake_racy = story(fake, flow)
            assert fake_certain == real_certain, flow.__name__
            assert fake_racy == real_racy, flow.__name__
        assert refusals(fake) == refusals(real)

"""`loadtest.fake_server` in this process, in virtual time: the protocol, the pace and the scripted answers."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from openai_codex.generated import v2_all as vendor
from openai_codex.generated.notification_registry import NOTIFICATION_MODELS

from loadtest.fake_server import BATCH_BYTES, FakeServer, Options
from tests.loadtest.driver import Frame, directive, user

if TYPE_CHECKING:
    from pydantic import BaseModel

CALL = {"name": "get_weather", "arguments": {"city": "Rome"}}
TOOL = {"name": "get_weather", "description": "d", "inputSchema": {"type": "object"}}
NOTIFICATIONS: dict[str, type[BaseModel]] = {
    **NOTIFICATION_MODELS,
    "rawResponse/completed": vendor.RawResponseCompletedNotification,
    "rawResponseItem/completed": vendor.RawResponseItemCompletedNotification,
}
RESULTS: dict[str, type[BaseModel]] = {
    "thread/start": vendor.ThreadStartResponse,
    "thread/inject_items": vendor.ThreadInjectItemsResponse,
    "thread/loaded/list": vendor.ThreadLoadedListResponse,
    "thread/unsubscribe": vendor.ThreadUnsubscribeResponse,
    "turn/start": vendor.TurnStartResponse,
}


class RecordingHost:
    """Remembers what the server would have done to its process."""

    def __init__(self) -> None:
        self.deeds: list[str] = []

    def exit(self, code: int) -> None:
        self.deeds.append(f"exit {code}")

    def kill_self(self) -> None:
        self.deeds.append("kill")

    def stop_self(self) -> None:
        self.deeds.append("stop")

    def close_stdout(self) -> None:
        self.deeds.append("close stdout")

    def stop_reading(self) -> None:
        self.deeds.append("stop reading")

    def memory_bytes(self) -> int:
        return 12345


class Harness:
    """A client of a server whose time it owns."""

    def __init__(self, *, handshake: bool = True, opt_out: tuple[str, ...] = (), **options: Any) -> None:
        self.host = RecordingHost()
        self.server = FakeServer(Options(**options), self.host, wall=lambda: 1_800_000_000.0)
        self.now = 0.0
        self._ids = itertools.count(1)
        self.methods: dict[int, str] = {}
        if handshake:
            capabilities = {"experimentalApi": True, "optOutNotificationMethods": list(opt_out)}
            info = {"name": "test", "version": "1"}
            self.call("initialize", {"clientInfo": info, "capabilities": capabilities})

    def write(self, raw: bytes) -> list[Frame]:
        """Sends bytes and returns what comes back at once."""
        self.server.receive(raw, self.now)
        return self.read()

    def read(self) -> list[Frame]:
        """What there is to read without time passing."""
        lines = b""
        while True:
            lines += self.server.out
            self.server.out.clear()
            due = self.server.next_due
            if due is None or due > self.now:
                return [json.loads(line) for line in lines.splitlines()]
            self.server.run_due(self.now)

    def wait(self, seconds: float) -> list[Frame]:
        """Lets time pass."""
        end, frames = self.now + seconds, self.read()
        while (due := self.server.next_due) is not None and due <= end:
            self.now = due
            frames += self.read()
        self.now = end
        return frames

    def request(self, method: str, params: Frame) -> list[Frame]:
        number = next(self._ids)
        self.methods[number] = method
        return self.write(json.dumps({"id": number, "method": method, "params": params}).encode() + b"\n")

    def call(self, method: str, params: Frame) -> Frame:
        """The reply to a request: `{"result": ...}` or `{"error": ...}`; nothing else is kept."""
        replies = [frame for frame in self.request(method, params) if "method" not in frame]
        assert len(replies) == 1
        return replies[0]

    def start_thread(self, **params: object) -> str:
        params = {
            "model": "model-a",
            "ephemeral": True,
            "experimentalRawEvents": True,
            "dynamicTools": [TOOL],
            **params,
        }
        return str(self.call("thread/start", params)["result"]["thread"]["id"])

    def start_turn(self, prompt: str, **params: object) -> tuple[str, list[Frame]]:
        thread_id = self.start_thread(**params)
        self.request("thread/inject_items", {"threadId": thread_id, "items": [user(prompt)]})
        return thread_id, self.request("turn/start", {"threadId": thread_id, "input": []})

    def interrupt(self, frames: list[Frame]) -> list[Frame]:
        """Interrupts the turn which `frames` started."""
        started = pick(frames, "turn/started")[0]
        return self.request("turn/interrupt", {"threadId": started["threadId"], "turnId": started["turn"]["id"]})


def pick(frames: list[Frame], method: str) -> list[Frame]:
    """The params of all notifications called `method`."""
    return [frame["params"] for frame in frames if frame.get("method") == method]


def spoken(frames: list[Frame]) -> str:
    return "".join(params["delta"] for params in pick(frames, "item/agentMessage/delta"))


def ending(frames: list[Frame]) -> Frame:
    """The turn of the only `turn/completed`."""
    (params,) = pick(frames, "turn/completed")
    return dict(params["turn"])


def code(frame: Frame) -> tuple[int, str]:
    return frame["error"]["code"], frame["error"]["message"]


# The protocol.


def test_nothing_works_before_initialize_which_works_once() -> None:
    harness = Harness(handshake=False)
    assert code(harness.call("thread/loaded/list", {})) == (-32600, "Not initialized")
    params = {"clientInfo": {"name": "test", "version": "1"}}
    reply = harness.call("initialize", params)
    assert reply["result"]["userAgent"].startswith("test/0.163.0 (")
    assert code(harness.call("initialize", params)) == (-32600, "Already initialized")


def test_an_unknown_method_is_answered_with_the_list_of_known_ones() -> None:
    number, message = code(Harness().call("no/such", {}))
    assert number == -32600
    assert message.startswith("Invalid request: unknown variant `no/such`, expected one of `initialize`, ")
    assert "`thread/inject_items`" in message


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"",
        b"[]",
        b'{"id": null, "method": "thread/loaded/list", "params": {}}',
        b'{"id": 1.5, "method": "thread/loaded/list", "params": {}}',
        b'{"id": 1, "method": "thread/loaded/list", "params": {"a": "\\ud800"}}',
        b'{"id": 1, "method": "x", "params": ' + b"[" * 2000 + b"]" * 2000 + b"}",
        b'{"method": "thread/loaded/list", "params": {}}',
    ],
)
def test_a_malformed_line_is_not_answered_and_the_next_one_is(line: bytes) -> None:
    harness = Harness()
    assert harness.write(line + b"\n") == []
    assert harness.call("thread/loaded/list", {})["result"] == {"data": [], "nextCursor": None}
    assert not harness.host.deeds


def test_an_invalid_byte_ends_the_process() -> None:
    harness = Harness()
    harness.write(b'{"id": 1, "method": "\xff"}\n')
    assert harness.host.deeds == ["exit 0"]


def test_ids_are_strings_or_integers_and_lines_may_come_in_pieces() -> None:
    harness = Harness()
    for byte in b'{"jsonrpc": "2.0", "id": "one", "method": "thread/loaded/list", "params": {}}':
        assert harness.write(bytes([byte])) == []
    assert harness.write(b"\n") == [{"id": "one", "result": {"data": [], "nextCursor": None}}]


def test_an_experimental_feature_needs_the_capability() -> None:
    harness = Harness(handshake=False)
    harness.call("initialize", {"clientInfo": {"name": "test", "version": "1"}})
    assert "result" in harness.call("thread/start", {"ephemeral": True})
    message = "thread/start.dynamicTools requires experimentalApi capability"
    assert code(harness.call("thread/start", {"dynamicTools": [TOOL]})) == (-32600, message)


def test_a_thread_is_listed_until_it_is_unsubscribed() -> None:
    harness = Harness()
    thread_id = harness.start_thread()
    assert harness.call("thread/loaded/list", {})["result"]["data"] == [thread_id]
    frames = harness.request("thread/unsubscribe", {"threadId": thread_id})
    assert [frame.get("method", "reply") for frame in frames] == ["reply", "thread/status/changed", "thread/closed"]
    assert harness.call("thread/loaded/list", {})["result"]["data"] == []
    assert harness.call("thread/unsubscribe", {"threadId": thread_id})["result"] == {"status": "notLoaded"}


def test_a_thread_unsubscribed_in_mid_turn_is_silent_and_closes_when_the_turn_ends() -> None:
    harness = Harness()
    thread_id, _ = harness.start_turn(directive(chunks=["a", "b"], interval_s=1))
    harness.call("thread/unsubscribe", {"threadId": thread_id})
    assert harness.call("thread/unsubscribe", {"threadId": thread_id})["result"] == {"status": "notSubscribed"}
    assert [frame["method"] for frame in harness.wait(2)] == [
        "account/rateLimits/updated",
        "thread/status/changed",
        "thread/status/changed",
        "thread/closed",
    ]


def test_a_turn_start_on_a_busy_thread_names_the_running_turn() -> None:
    harness = Harness()
    thread_id, frames = harness.start_turn(directive(hang="middle"))
    reply = harness.call("turn/start", {"threadId": thread_id, "input": [{"type": "text", "text": "more"}]})
    assert reply["result"]["turn"]["id"] == pick(frames, "turn/started")[0]["turn"]["id"]


def test_diagnostics_count_threads_and_turns() -> None:
    harness = Harness()
    harness.start_turn(directive(hang="first"))
    harness.start_thread()
    result = harness.call("server/diagnostics", {})["result"]
    assert result["process"]["residentMemoryBytes"] == 12345
    gauges = {gauge["name"]: gauge["value"] for gauge in result["gauges"]}
    assert (gauges["core.threads.live"], gauges["core.turns.active"]) == (2, 1)


def test_notifications_the_client_opted_out_of_are_not_sent() -> None:
    opted_out = ("item/started", "item/agentMessage/delta", "thread/status/changed")
    frames = Harness(opt_out=opted_out).start_turn("hello")[1]
    methods = {frame.get("method") for frame in frames}
    assert not methods & set(opted_out)
    assert {"turn/started", "item/completed", "turn/completed"} <= methods


def test_the_reply_to_turn_start_races_with_the_first_notifications_in_a_fixed_pattern() -> None:
    harness = Harness()
    places = []
    for _ in range(100):
        frames = harness.start_turn("hello")[1]
        (reply,) = [index for index, frame in enumerate(frames) if "method" not in frame]
        places.append([frame.get("method") for frame in frames[:reply]])
    after_turn_started = sum("turn/started" in before for before in places)
    after_item_started = sum("item/started" in before for before in places)
    assert after_turn_started == 76
    assert after_item_started == 4


# Answers.


def test_the_default_answer_comes_in_three_deltas() -> None:
    frames = Harness().start_turn("hello")[1]
    assert [params["delta"] for params in pick(frames, "item/agentMessage/delta")] == [
        "Hello from",
        " the fake ",
        "app-server.",
    ]
    turn = ending(frames)
    assert turn["status"] == "completed"
    assert turn["items"][0]["text"] == "Hello from the fake app-server."


def test_a_turn_without_pauses_that_writes_much_lets_its_owner_write_in_between() -> None:
    harness = Harness()
    thread_id = harness.start_thread()
    prompt = [{"type": "text", "text": directive(text="x" * 1000, chunk_size=1000, repeat=1000)}]
    line = {"id": 99, "method": "turn/start", "params": {"threadId": thread_id, "input": prompt}}
    harness.server.receive(json.dumps(line).encode() + b"\n", 0.0)
    assert len(harness.server.out) < 2 * BATCH_BYTES
    frames = harness.read()
    assert spoken(frames) == "x" * 1_000_000


def test_the_pace_is_kept() -> None:
    harness = Harness()
    assert spoken(harness.start_turn(directive(chunks=["a", "b", "c"], delay_s=1, interval_s=0.5))[1]) == ""
    assert spoken(harness.wait(0.99)) == ""
    assert spoken(harness.wait(0.02)) == "a"
    assert spoken(harness.wait(0.50)) == "b"
    assert spoken(harness.wait(0.50)) == "c"


def test_turns_run_side_by_side() -> None:
    harness = Harness()
    first, _ = harness.start_turn(directive(chunks=["a", "b"], interval_s=1))
    second, _ = harness.start_turn(directive(chunks=["c", "d"], interval_s=1))
    deltas = pick(harness.wait(1), "item/agentMessage/delta")
    assert [(params["threadId"], params["delta"]) for params in deltas] == [(first, "b"), (second, "d")]


def test_usage_adds_up_over_the_turns_of_a_thread() -> None:
    harness = Harness()
    thread_id, _ = harness.start_turn("hello")
    usage = directive(usage={"input_tokens": 10, "cached_tokens": 4, "output_tokens": 7, "reasoning_tokens": 2})
    frames = harness.request("turn/start", {"threadId": thread_id, "input": [{"type": "text", "text": usage}]})
    (params,) = pick(frames, "thread/tokenUsage/updated")
    assert params["tokenUsage"]["last"] == {
        "totalTokens": 17,
        "inputTokens": 10,
        "cachedInputTokens": 4,
        "cacheWriteInputTokens": 0,
        "outputTokens": 7,
        "reasoningOutputTokens": 2,
    }
    assert params["tokenUsage"]["total"]["totalTokens"] > 17


def test_several_tool_calls_are_put_to_the_client_one_at_a_time_and_their_outputs_quoted_in_order() -> None:
    harness = Harness()
    frames = harness.start_turn(directive(tool_calls=[CALL, {**CALL, "call_id": "second"}, {"name": "unknown"}]))[1]
    asked = []
    for output in ("2nd", "1st"):
        (call,) = [frame for frame in frames if frame.get("method") == "item/tool/call"]
        asked.append(call["params"]["callId"])
        answer = {"contentItems": [{"type": "inputText", "text": output}], "success": True}
        frames = harness.write(json.dumps({"id": call["id"], "result": answer}).encode() + b"\n")
    assert asked[0] == "second"
    assert spoken(frames) == "The tools answered: 1st | 2nd | unsupported call: unknown"
    assert ending(frames)["status"] == "completed"


def test_a_tool_call_the_client_refuses_becomes_a_failed_output() -> None:
    harness = Harness()
    frames = harness.start_turn(directive(tool_calls=[CALL]))[1]
    (call,) = [frame for frame in frames if frame.get("method") == "item/tool/call"]
    error = {"code": -32601, "message": "no"}
    frames = harness.write(json.dumps({"id": call["id"], "error": error}).encode() + b"\n")
    assert spoken(frames) == "The tools answered: dynamic tool request failed"


def test_injected_outputs_are_quoted_instead_of_calling_again() -> None:
    harness = Harness()
    thread_id = harness.start_thread()
    output = {"type": "function_call_output", "call_id": "c", "output": "20C"}
    items = [user(directive(tool_calls=[CALL])), {**CALL, "type": "function_call", "arguments": "{}"}, output]
    harness.request("thread/inject_items", {"threadId": thread_id, "items": items})
    assert spoken(harness.request("turn/start", {"threadId": thread_id, "input": []})) == "The tools answered: 20C"


@pytest.mark.parametrize("method", ["item/commandExecution/requestApproval", "item/tool/call"])
def test_a_scripted_server_request_waits_for_its_answer_and_quotes_it(method: str) -> None:
    harness = Harness()
    frames = harness.start_turn(directive(text="done.", server_request=method))[1]
    (request,) = [frame for frame in frames if frame.get("method") == method]
    assert spoken(frames) == ""
    frames = harness.write(json.dumps({"id": request["id"], "result": {"decision": "decline"}}).encode() + b"\n")
    assert pick(frames, "serverRequest/resolved")[0]["requestId"] == request["id"]
    assert spoken(frames) == 'done. The client answered {"decision":"decline"}.'


def test_a_stamped_answer_says_in_every_delta_which_turn_of_which_process_it_is() -> None:
    harness = Harness(home="/run/default-2-7/codex-home")
    for number in range(2):
        frames = harness.start_turn(directive(chunks=["a ", "b "], stamp=True))[1]
        assert spoken(frames) == f"<default-2-7#{number}>a <default-2-7#{number}>b "


def test_a_directive_that_cannot_be_obeyed_fails_the_turn_with_its_reason() -> None:
    turn = ending(Harness().start_turn(directive(txt="typo"))[1])
    assert turn["status"] == "failed"
    assert "unknown field `txt`" in turn["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "version", "info"),
    [
        ({"status": 400}, "0.163.0", "other"),
        ({"status": 400, "error": {"code": "context_length_exceeded"}}, "0.169.0", "contextWindowExceeded"),
        ({"status": 401}, "0.163.0", {"httpConnectionFailed": {"httpStatusCode": 401}}),
        ({"status": 404, "error": {"code": "model_not_found"}}, "0.169.0", "modelNotFound"),
        (
            {"status": 404, "error": {"code": "model_not_found"}},
            "0.163.0",
            {"httpConnectionFailed": {"httpStatusCode": 404}},
        ),
        ({"status": 429}, "0.163.0", {"responseTooManyFailedAttempts": {"httpStatusCode": 429}}),
        ({"status": 429, "error": {"code": "insufficient_quota"}}, "0.163.0", "usageLimitExceeded"),
        ({"status": 500}, "0.163.0", "internalServerError"),
        ({"status": 503}, "0.163.0", {"httpConnectionFailed": {"httpStatusCode": 503}}),
        ({"status": 503, "error": {"code": "server_is_overloaded"}}, "0.163.0", "serverOverloaded"),
        ({"status": 599}, "0.163.0", {"httpConnectionFailed": {"httpStatusCode": 599}}),
        ({"failed": "context_length_exceeded"}, "0.163.0", "contextWindowExceeded"),
        ({"failed": "rate_limit_exceeded"}, "0.163.0", "rateLimitExceeded"),
        ({"failed": "insufficient_quota"}, "0.163.0", "usageLimitExceeded"),
        ({"failed": "usage_not_included"}, "0.163.0", "usageLimitExceeded"),
        ({"failed": "server_is_overloaded"}, "0.163.0", "serverOverloaded"),
        ({"failed": "cyber_policy"}, "0.163.0", "cyberPolicy"),
        ({"failed": "invalid_prompt"}, "0.163.0", "other"),
        ({"failed": "server_error"}, "0.163.0", "other"),
        ({"incomplete": "max_output_tokens"}, "0.163.0", "other"),
        ({"incomplete": "content_filter"}, "0.163.0", "other"),
        ({"disconnect": "first"}, "0.163.0", "other"),
        ({"disconnect": "middle"}, "0.163.0", "other"),
    ],
)
def test_a_failure_of_the_model_fails_the_turn(fields: Frame, version: str, info: object) -> None:
    frames = Harness(version=version).start_turn(directive(**fields))[1]
    turn = ending(frames)
    assert (turn["status"], turn["error"]["codexErrorInfo"]) == ("failed", info)
    (error,) = pick(frames, "error")
    assert (error["error"], error["willRetry"]) == (turn["error"], False)


# Interrupts.


@pytest.mark.parametrize("hang", ["headers", "first", "middle"])
def test_an_interrupt_ends_a_silent_turn(hang: str) -> None:
    harness = Harness()
    _, frames = harness.start_turn(directive(hang=hang))
    assert harness.wait(1000) == []
    frames = harness.interrupt(frames)
    methods = [frame.get("method", "reply") for frame in frames]
    assert methods[-3:] == ["reply", "thread/status/changed", "turn/completed"]
    assert ending(frames)["status"] == "interrupted"


def test_an_interrupted_turn_says_nothing_more_even_when_it_was_paced() -> None:
    harness = Harness()
    _, frames = harness.start_turn(directive(chunks=["a", "b"], interval_s=1))
    harness.interrupt(frames)
    assert harness.wait(10) == []


def test_an_interrupt_of_a_finished_turn_is_refused_and_of_an_interrupted_one_never_answered() -> None:
    harness = Harness()
    _, finished = harness.start_turn("hello")
    (refusal,) = harness.interrupt(finished)
    assert code(refusal) == (-32600, "no active turn to interrupt")
    _, hanging = harness.start_turn(directive(hang="first"))
    harness.interrupt(hanging)
    assert harness.interrupt(hanging) == []


def test_an_interrupt_of_another_turn_is_refused() -> None:
    harness = Harness()
    thread_id, _ = harness.start_turn(directive(hang="first"))
    reply = harness.call("turn/interrupt", {"threadId": thread_id, "turnId": "other"})
    assert code(reply)[1].startswith("expected active turn id other but found ")


def test_an_interrupt_cancels_the_tool_calls_and_reports_the_usage() -> None:
    harness = Harness()
    _, frames = harness.start_turn(directive(tool_calls=[CALL, CALL]))
    frames = harness.interrupt(frames)
    outputs = [params["item"].get("output") for params in pick(frames, "rawResponseItem/completed")]
    assert outputs[:2] == ["aborted by user after 0.1s", "dynamic tool call was cancelled before receiving a response"]
    assert pick(frames, "thread/tokenUsage/updated")
    assert ending(frames)["status"] == "interrupted"


def test_an_ignored_interrupt_is_answered_and_the_turn_goes_on() -> None:
    harness = Harness()
    _, frames = harness.start_turn(directive(chunks=["a", "b"], interval_s=1, ignore_interrupt=True))
    assert [frame.get("result") for frame in harness.interrupt(frames)] == [{}]
    assert ending(harness.wait(1))["status"] == "completed"


@pytest.mark.parametrize("hang", [None, "middle"])
def test_late_frames_come_after_the_end_of_the_turn(hang: str | None) -> None:
    harness = Harness()
    _, frames = harness.start_turn(directive(late_frames=2, **({} if hang is None else {"hang": hang})))
    if hang is not None:
        frames = harness.interrupt(frames)
    end = [frame.get("method") for frame in frames].index("turn/completed")
    assert [frame["method"] for frame in frames[end + 1 :]] == ["item/agentMessage/delta"] * 2


# Faults.


def test_a_lost_reply_is_lost_but_the_request_was_obeyed() -> None:
    frames = Harness().start_turn(directive(lose_reply="turn/start"))[1]
    assert all("method" in frame for frame in frames)
    assert ending(frames)["status"] == "completed"


def test_a_duplicate_reply_comes_twice() -> None:
    frames = Harness().start_turn(directive(duplicate_reply="turn/start"))[1]
    first, second = [frame for frame in frames if "method" not in frame]
    assert first == second


def test_an_overloaded_method_is_refused_without_being_obeyed() -> None:
    (reply,) = Harness().start_turn(directive(overloaded="turn/start"))[1]
    assert code(reply) == (-32001, "Server overloaded; retry later.")


@pytest.mark.parametrize("fault", ["lose_reply", "duplicate_reply", "overloaded"])
def test_a_fault_of_the_incarnation_happens_as_often_as_it_says(fault: str) -> None:
    options: dict[str, Any] = {fault: {"thread/start": 1}}
    harness = Harness(**options)
    replies = [frame for frame in harness.request("thread/start", {}) if "method" not in frame]
    assert len(replies) == {"lose_reply": 0, "duplicate_reply": 2, "overloaded": 1}[fault]
    assert fault != "overloaded" or code(replies[0])[0] == -32001
    assert "result" in harness.call("thread/start", {})


@pytest.mark.parametrize(
    ("where", "seen"), [("start", set()), ("first", {"turn/started"}), ("middle", {"item/agentMessage/delta"})]
)
@pytest.mark.parametrize(
    ("fields", "deed"),
    [
        ({"exit": 7}, "exit 7"),
        ({"kill_self": True}, "kill"),
        ({"stop_self": True}, "stop"),
        ({"stdout_eof": True}, "close stdout"),
    ],
)
def test_a_process_fault_happens_where_it_should(where: str, seen: set[str], fields: Frame, deed: str) -> None:
    harness = Harness()
    _, frames = harness.start_turn(directive(at=where, **fields))
    assert harness.host.deeds == [deed]
    methods = {str(frame.get("method")) for frame in frames}
    assert seen <= methods
    assert "stop_self" in fields or "turn/completed" not in methods
    assert where != "start" or "stop_self" in fields or frames == []


def raw_lines(prompt: str) -> list[bytes]:
    harness = Harness()
    thread_id = harness.start_thread()
    turn = {"threadId": thread_id, "input": [{"type": "text", "text": prompt}]}
    line = json.dumps({"id": 99, "method": "turn/start", "params": turn}).encode()
    harness.server.receive(line + b"\n", 0.0)
    written = bytes(harness.server.out)
    while harness.server.next_due is not None:
        harness.server.out.clear()
        harness.server.run_due(0.0)
        written += harness.server.out
    return written.splitlines(keepends=True)


def test_garbage_is_one_bad_line_among_good_ones() -> None:
    lines = raw_lines(directive(garbage=True))
    bad = [line for line in lines if not line.startswith(b"{")]
    assert len(bad) == 1
    assert b"turn/completed" in lines[-1]


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_a_big_line_has_its_size_and_is_a_notification(size: int) -> None:
    (big,) = [line for line in raw_lines(directive(big_line=size)) if b"fake/noise" in line]
    assert len(big) == size + 1
    assert "method" in json.loads(big)


def test_half_a_line_is_the_last_thing_said() -> None:
    lines = raw_lines(directive(half_line=True))
    assert lines[-1].startswith(b'{"method":')
    assert not lines[-1].endswith(b"\n")


def test_initialize_can_be_late_refused_or_unanswered() -> None:
    params = {"clientInfo": {"name": "test", "version": "1"}}
    late = Harness(handshake=False, initialize_delay_s=2.0)
    assert late.request("initialize", params) == []
    assert late.wait(1.9) == []
    assert "userAgent" in late.wait(0.2)[0]["result"]
    assert "error" in Harness(handshake=False, initialize="error").call("initialize", params)
    assert Harness(handshake=False, initialize="hang").request("initialize", params) == []
    ending = Harness(handshake=False, initialize="exit")
    ending.request("initialize", params)
    assert ending.host.deeds == ["exit 1"]


def test_starts_can_be_refused_or_unanswered() -> None:
    assert "failed to load configuration" in code(Harness(thread_start="error").call("thread/start", {}))[1]
    assert Harness(thread_start="hang").request("thread/start", {}) == []
    assert Harness(turn_start="hang").start_turn("hello")[1] == []


def test_it_can_stop_reading_after_initialize() -> None:
    harness = Harness(stop_reading=True)
    assert harness.host.deeds == ["stop reading"]
    assert harness.request("thread/loaded/list", {}) == []


def test_it_can_end_after_some_turns() -> None:
    harness = Harness(exit_after_turns=2)
    harness.start_turn("hello")
    assert harness.host.deeds == []
    harness.start_turn("hello")
    assert harness.host.deeds == ["exit 1"]


def test_the_default_answer_can_be_chosen() -> None:
    harness = Harness(deltas=("x",) * 3, interval_s=1.0)
    assert spoken(harness.start_turn("hello")[1]) == "x"
    assert spoken(harness.wait(2)) == "xx"


# The vendor's own models.


def check(frame: Frame, methods: dict[int, str]) -> str | None:
    """Validates a frame against the vendor's model of it; the name of what has no model, else None."""
    method = frame.get("method")
    if method is None:
        model = RESULTS.get(methods[frame["id"]])
        if model is None or "error" in frame:
            return "reply"
        model.model_validate(frame["result"])
        return None
    if "id" in frame or method not in NOTIFICATIONS:
        return str(method)
    NOTIFICATIONS[method].model_validate(frame["params"])
    return None


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning": "two words", "messages": ["one", "two"]},
        {"tool_calls": [CALL, {"name": "unknown"}]},
        {"failed": "context_length_exceeded"},
        {"status": 429},
        {"incomplete": "max_output_tokens"},
        {"hang": "middle"},
        {"server_request": "item/commandExecution/requestApproval"},
    ],
)
def test_every_frame_is_valid_for_the_vendors_models(fields: Frame) -> None:
    harness = Harness(handshake=False)
    capabilities = {"experimentalApi": True}
    info = {"name": "test", "version": "1"}
    frames = harness.request("initialize", {"clientInfo": info, "capabilities": capabilities})
    frames += harness.request("thread/start", {"experimentalRawEvents": True, "dynamicTools": [TOOL]})
    thread_id = next(params["thread"]["id"] for params in pick(frames, "thread/started"))
    items = [user("hi"), {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yes"}]}]
    frames += harness.request("thread/inject_items", {"threadId": thread_id, "items": items})
    prompt = {"threadId": thread_id, "input": [{"type": "text", "text": directive(**fields)}], "effort": "low"}
    frames += harness.request("turn/start", prompt)
    frames += harness.interrupt(frames)
    frames += harness.request("thread/loaded/list", {})
    frames += harness.request("thread/unsubscribe", {"threadId": thread_id})
    without_model = {check(frame, harness.methods) for frame in frames} - {None}
    assert without_model <= {"reply", "item/tool/call", "item/commandExecution/requestApproval"}

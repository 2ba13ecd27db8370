from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.events import Fault, FaultKind, Finish, TextDelta, ToolCall, ToolSpec, Trace, TurnEvent, TurnRequest, Usage
from pool.health import FAILURES, STALL_S, UNREAD_S, Clearance, Condemnation, ProbeLimits, Suspicion
from pool.protocol.connection import MAX_IN_FLIGHT
from pool.protocol.framing import MAX_LINE_BYTES
from pool.session import HandshakeFailed, Handshaken, InterruptIgnored, Overloaded, Proved, Session, TurnClosed
from pool.turn import TurnLimits
from pool.worker_state import Verdict
from tests.support.desk import LIMITS, TICK_S, Desk, Frame, completed, delta, line, note
from tests.support.examples import trying
from tests.support.sinks import RecordingSink

DATA = Path(__file__).with_name("data")
TOOL = ToolSpec("get_weather", "Current weather", {"type": "object"})
GONE = Fault(FaultKind.WORKER_LOST, "it was killed by signal 9")
USER_AGENT = "codex_completions/0.163.0 (Debian 12.0.0; x86_64) unknown (codex_completions; 1.2.3)"


# --- the handshake ---------------------------------------------------------------------------------------------


def greeted() -> tuple[Desk, Frame]:
    desk = Desk()
    desk.session.open(desk.now, 10.0)
    (initialize,) = desk.sent()
    return desk, initialize


def test_the_handshake_asks_tells_the_version_and_says_that_it_is_done() -> None:
    desk, initialize = greeted()
    assert initialize["method"] == "initialize"
    assert initialize["params"]["clientInfo"]["version"] == "1.2.3"
    desk.replies(initialize, {"userAgent": USER_AGENT, "codexHome": "/x"})
    assert desk.facts == [Handshaken((0, 163, 0), USER_AGENT)]
    assert desk.sent() == [{"method": "initialized"}]


@pytest.mark.parametrize("answer", [{}, {"userAgent": 5}, [], None])
def test_an_answer_that_is_no_handshake_fails_the_boot(answer: Any) -> None:
    desk, initialize = greeted()
    desk.replies(initialize, answer)
    assert desk.facts == [HandshakeFailed("initialize was answered with something else")]
    assert desk.sent() == []


def test_a_refused_handshake_fails_the_boot() -> None:
    desk, initialize = greeted()
    desk.refuses(initialize)
    assert desk.facts == [HandshakeFailed("initialize was refused: no")]


def test_a_handshake_without_an_answer_fails_the_boot_once_and_for_all() -> None:
    desk, initialize = greeted()
    desk.waits(9.9)
    assert desk.facts == []
    desk.waits(0.1)
    assert desk.facts == [HandshakeFailed("initialize was not answered")]
    desk.replies(initialize, {"userAgent": USER_AGENT})
    assert len(desk.facts) == 1
    assert desk.sent() == []


# --- recorded conversations ------------------------------------------------------------------------------------


def replay(name: str, chunk_bytes: int) -> tuple[RecordingSink, Session]:
    """Play the worker of a recording, in pieces of so many bytes; the session has to ask what was asked then."""
    desk = Desk()
    desk.session.open(desk.now, 10.0)
    sink = RecordingSink()
    asked: list[str] = []
    ours: dict[int, int] = {}
    waiting: list[Frame] = []
    for text in (DATA / f"{name}.jsonl").read_text().splitlines():
        row = json.loads(text)
        if "to_worker" in row:
            waiting += [frame for frame in desk.sent() if "id" in frame]
            if waiting[0]["method"] == "thread/inject_items" != row["to_worker"]:
                desk.replies(waiting.pop(0), {})  # the recording gave its only message to turn/start
                waiting += desk.sent()
            request = waiting.pop(0)
            asked.append(request["method"])
            assert asked[-1] == row["to_worker"]
            ours[len(asked)] = request["id"]
            continue
        frame = row["from_worker"]
        if "method" not in frame:
            frame["id"] = ours[frame["id"]]
        data = line(frame)
        for start in range(0, len(data), chunk_bytes):
            desk.session.receive(data[start : start + chunk_bytes], desk.now)
        if any(isinstance(fact, Handshaken) for fact in desk.session.take_facts()):
            desk.session.start_turn(1, TurnRequest("m", "", ({"role": "user"},), (TOOL,)), sink, desk.now)
    assert desk.sent() == []
    return sink, desk.session


@pytest.mark.parametrize("chunk_bytes", [1, 100, 10**6])
def test_a_recorded_text_turn_goes_through(chunk_bytes: int) -> None:
    sink, session = replay("text_turn", chunk_bytes)
    assert (sink.reasoning, sink.text, sink.calls) == ("short thought", "Hello there.", [])
    assert sink.ended is not None
    assert (sink.ended.finish, sink.ended.usage) == (Finish.STOP, Usage(100, 40, 0, 20, 5))
    assert session.open_turns == 0
    assert sum(count for kind, count in session.counters.items() if kind != "frames") == 0


@pytest.mark.parametrize("chunk_bytes", [1, 100, 10**6])
def test_a_recorded_turn_with_tool_calls_goes_through(chunk_bytes: int) -> None:
    sink, session = replay("tool_turn", chunk_bytes)
    assert sink.text == "Checking."
    assert sink.calls == [
        ToolCall("call_resp_3_0", "get_weather", '{"city": "Paris"}'),
        ToolCall("call_resp_3_1", "get_weather", '{"city": "Rome"}'),
    ]
    assert sink.ended is not None
    assert (sink.ended.finish, sink.ended.usage) == (Finish.TOOL_CALLS, Usage(100, 40, 0, 20, 5))
    assert session.open_turns == 0
    assert sum(count for kind, count in session.counters.items() if kind != "frames") == 0


# --- several turns at once -------------------------------------------------------------------------------------


def test_interleaved_turns_each_get_their_own_text_and_their_own_end() -> None:
    desk = Desk()
    sinks = {thread: desk.runs(number, thread) for number, thread in enumerate("ABC")}
    desk.says(delta("A", "a1"), delta("B", "b1"), delta("A", "a2"), delta("C", "c1"), delta("B", "b2"))
    desk.says(completed("B"), delta("A", "a3"), completed("C", "failed"), completed("A"))
    assert {thread: sink.text for thread, sink in sinks.items()} == {"A": "a1a2a3", "B": "b1b2", "C": "c1"}
    assert [sinks[thread].outcome for thread in "ABC"] == ["stop", "stop", FaultKind.UPSTREAM]
    assert desk.facts == [Proved()]
    for request in desk.sent():
        assert request["method"] == "thread/unsubscribe"
        desk.replies(request, {})
    assert desk.closed() == [1, 2, 0]
    assert desk.session.open_turns == 0


def test_turns_are_told_apart_before_their_turn_start_is_answered() -> None:
    desk = Desk()
    sinks = [desk.starts(1), desk.starts(2)]
    for thread, request in zip("AB", desk.sent(), strict=True):
        desk.replies(request, {"thread": {"id": thread}})
    for request in desk.sent():
        desk.replies(request, {})
    desk.says(delta("B", "b"), delta("A", "a"), completed("A"))
    for request in desk.sent():
        if request["method"] == "turn/start":
            desk.replies(request, {"turn": {"id": f"turn of {request['params']['threadId']}"}})
    desk.says(completed("B"))
    assert [(sink.text, sink.outcome) for sink in sinks] == [("a", "stop"), ("b", "stop")]


def test_an_interrupt_ends_one_turn_and_leaves_the_others() -> None:
    desk = Desk()
    first, second = desk.runs(1, "A"), desk.runs(2, "B")
    desk.session.interrupt(1, desk.now)
    (interrupt,) = desk.sent()
    assert (interrupt["method"], interrupt["params"]) == (
        "turn/interrupt",
        {"threadId": "A", "turnId": "turn of A"},
    )
    desk.says(completed("A", "interrupted"), delta("B", "on"), completed("B"))
    assert (first.outcome, second.outcome, second.text) == ("interrupted", "stop", "on")


@pytest.mark.parametrize("lease_id", [1, 99])
def test_an_interrupt_for_a_turn_that_is_over_or_never_was_does_nothing(lease_id: int) -> None:
    desk = Desk()
    desk.runs(1, "A")
    desk.says(completed("A"))
    desk.replies(desk.sent()[-1], {})
    desk.session.interrupt(lease_id, desk.now)
    assert desk.sent() == []


def test_an_ignored_interrupt_is_told_once_and_the_closing_later_still_counts() -> None:
    desk = Desk()
    sink = desk.runs(1, "A")
    desk.session.interrupt(1, desk.now)
    desk.waits(LIMITS.interrupt_s)
    desk.waits(LIMITS.interrupt_s)
    assert desk.facts == [InterruptIgnored(1)]
    assert sink.outcome == "interrupted"
    desk.says(completed("A"))
    desk.replies(desk.sent()[-1], {})
    assert desk.facts == [InterruptIgnored(1), TurnClosed(1)]


def test_a_damaged_line_fails_the_turn_whose_it_was() -> None:
    desk = Desk()
    victim, other = desk.runs(1, "A"), desk.runs(2, "B")
    desk.session.receive(b'{"method":"item/agentMessage/delta","params":{"threadId":"A","turnId":"x","del\n', desk.now)
    assert victim.outcome == FaultKind.PROTOCOL
    assert other.outcome is None


# --- frames that are nobody's, or nothing ----------------------------------------------------------------------


def test_frames_of_a_turn_that_is_over_are_counted_and_change_nothing() -> None:
    desk = Desk()
    old, other = desk.runs(1, "A"), desk.runs(2, "B")
    desk.says(completed("A"))
    desk.replies(desk.sent()[-1], {})
    desk.says(delta("A", "ghost"), completed("A", "failed"), delta("nobody", "x"), delta("B", "mine"))
    assert (old.text, old.outcome, other.text) == ("", "stop", "mine")
    assert desk.session.counters["stale"] == 3
    assert desk.closed() == [1]
    assert desk.sent() == []


def test_what_nobody_knows_is_counted_and_what_nobody_needs_is_not() -> None:
    desk = Desk()
    desk.runs(1, "A")
    desk.says(
        note("a/method/from/tomorrow", "A"),
        {"method": "no/params"},
        note("thread/closed", "A"),
        note("error", "A", willRetry=False),
        note("item/completed", "A"),
    )
    assert desk.session.counters["unknown"] == 2
    assert desk.session.counters["stale"] == 0


def test_a_frame_that_breaks_its_promise_fails_its_own_turn_only() -> None:
    desk = Desk()
    broken, whole = desk.runs(1, "A"), desk.runs(2, "B")
    desk.says(note("item/agentMessage/delta", "A", delta=5), delta("B", "fine"))
    assert (broken.outcome, whole.text, whole.outcome) == (FaultKind.PROTOCOL, "fine", None)
    assert desk.methods() == ["turn/interrupt"]
    assert desk.session.counters["malformed"] == 1


def test_a_frame_that_breaks_its_promise_for_nobody_is_counted() -> None:
    desk = Desk()
    desk.says({"method": "turn/completed", "params": None}, {"method": "turn/completed", "params": {"turn": 1}})
    assert desk.session.counters["malformed"] == 2


def test_garbage_between_frames_is_counted_and_costs_nothing_else() -> None:
    desk = Desk()
    sink = desk.runs(1, "A")
    data = line(delta("A", "a")) + b"\xff garbage\n\n" + line(delta("A", "b"))
    desk.session.receive(data, desk.now)
    assert sink.text == "ab"
    assert desk.session.counters["garbage"] == 2


def test_an_oversized_line_fails_the_turn_it_belongs_to_and_no_other() -> None:
    desk = Desk()
    long, short = desk.runs(1, "A"), desk.runs(2, "B")
    frame = line(delta("A", "x" * MAX_LINE_BYTES))
    desk.session.receive(frame[: 2**20], desk.now)
    desk.session.receive(frame[2**20 :] + line(delta("B", "fine")), desk.now)
    assert (long.outcome, long.text) == (FaultKind.FRAME_TOO_LARGE, "")
    assert (short.outcome, short.text) == (None, "fine")
    assert desk.methods() == ["turn/interrupt"]
    desk.says(completed("A", "interrupted"))
    assert desk.methods() == ["thread/unsubscribe"]


def test_an_oversized_line_of_nobody_fails_nobody() -> None:
    desk = Desk()
    sink = desk.runs(1, "A")
    desk.session.receive(b"x" * (MAX_LINE_BYTES + 1) + b"\n" + line(delta("A", "fine")), desk.now)
    assert (sink.text, sink.outcome) == ("fine", None)
    assert desk.session.counters["oversized"] == 1


# --- what the worker asks of us --------------------------------------------------------------------------------


@pytest.mark.parametrize("request_id", [0, 7, "a"])
def test_an_approval_is_declined_under_its_own_id(request_id: int | str) -> None:
    desk = Desk()
    desk.says({"method": "item/commandExecution/requestApproval", "id": request_id, "params": {"command": "rm"}})
    assert desk.sent() == [{"id": request_id, "result": {"decision": "decline"}}]


def test_a_request_that_we_do_not_know_is_answered_with_an_error() -> None:
    desk = Desk()
    desk.says({"method": "item/tool/requestUserInput", "id": 3, "params": {}})
    (answer,) = desk.sent()
    assert (answer["id"], answer["error"]["code"]) == (3, -32601)
    assert desk.session.counters["declined"] == 1


def test_a_call_of_the_callers_tool_is_not_answered() -> None:
    desk = Desk()
    desk.runs(1, "A", tools=(TOOL,))
    desk.says({"method": "item/tool/call", "id": 0, "params": {"threadId": "A", "tool": "t"}})
    assert desk.sent() == []
    assert desk.session.counters["declined"] == 0


def test_the_ids_of_the_worker_are_not_mistaken_for_ours() -> None:
    desk = Desk()
    sink = desk.starts(1)
    (request,) = desk.sent()
    desk.says({"method": "item/fileChange/requestApproval", "id": request["id"], "params": {}})
    assert desk.sent() == [{"id": request["id"], "result": {"decision": "decline"}}]
    desk.replies(request, {"thread": {"id": "A"}})
    assert desk.methods() == ["thread/inject_items"]
    assert sink.outcome is None


# --- answers that come late, or never --------------------------------------------------------------------------


def test_a_turn_whose_opening_is_not_answered_fails_and_its_seat_is_free() -> None:
    desk = Desk()
    sink = desk.starts(1)
    desk.sent()
    desk.waits(LIMITS.start_s)
    assert sink.outcome == FaultKind.START_TIMEOUT
    assert desk.facts == [TurnClosed(1)]


def test_a_thread_that_comes_late_is_let_go() -> None:
    desk = Desk()
    desk.starts(1)
    (request,) = desk.sent()
    desk.waits(LIMITS.start_s)
    desk.replies(request, {"thread": {"id": "A"}})
    (clean_up,) = desk.sent()
    assert (clean_up["method"], clean_up["params"]) == ("thread/unsubscribe", {"threadId": "A"})
    desk.replies(clean_up, {})
    assert desk.facts == [TurnClosed(1)]


def test_a_turn_that_comes_late_is_interrupted() -> None:
    desk = Desk()
    sink = desk.starts(1)
    desk.replies(desk.sent()[0], {"thread": {"id": "A"}})
    desk.replies(desk.sent()[0], {})
    (turn_start,) = desk.sent()
    desk.waits(LIMITS.start_s)
    assert sink.outcome == FaultKind.START_TIMEOUT
    assert desk.methods() == ["thread/unsubscribe"]
    desk.replies(turn_start, {"turn": {"id": "U"}})
    (clean_up,) = desk.sent()
    assert (clean_up["method"], clean_up["params"]) == ("turn/interrupt", {"threadId": "A", "turnId": "U"})


def test_a_late_answer_to_turn_start_leaves_a_turn_alone_that_runs() -> None:
    desk = Desk()
    sink = desk.starts(1)
    desk.replies(desk.sent()[0], {"thread": {"id": "A"}})
    desk.replies(desk.sent()[0], {})
    (turn_start,) = desk.sent()
    desk.says(delta("A", "one "))
    desk.waits(LIMITS.start_s)
    desk.replies(turn_start, {"turn": {"id": "turn of A"}})
    assert desk.sent() == []
    desk.says(delta("A", "two"), completed("A"))
    assert (sink.text, sink.outcome) == ("one two", "stop")


@pytest.mark.parametrize("late", [{"nothing": 1}, None, {"thread": {"id": 5}}])
def test_a_late_answer_that_says_nothing_is_counted(late: Any) -> None:
    desk = Desk()
    desk.starts(1)
    (request,) = desk.sent()
    desk.waits(LIMITS.start_s)
    desk.replies(request, late)
    assert desk.sent() == []
    assert desk.session.counters["malformed"] == 1


def test_a_late_refusal_changes_nothing() -> None:
    desk = Desk()
    desk.starts(1)
    (request,) = desk.sent()
    desk.waits(LIMITS.start_s)
    desk.refuses(request)
    assert (desk.sent(), desk.closed()) == ([], [1])


def test_an_answer_that_breaks_its_promise_is_no_answer() -> None:
    desk = Desk()
    sink = desk.starts(1)
    desk.replies(desk.sent()[0], {"something": "else"})
    assert sink.outcome == FaultKind.START_TIMEOUT
    assert desk.closed() == [1]
    assert desk.session.counters["malformed"] == 1


def test_a_second_answer_changes_nothing() -> None:
    desk = Desk()
    desk.starts(1)
    (request,) = desk.sent()
    desk.replies(request, {"thread": {"id": "A"}})
    desk.says({"id": request["id"], "result": {"thread": {"id": "B"}}})
    assert desk.methods() == ["thread/inject_items"]
    assert desk.session.counters["unmatched"] == 1


def test_a_worker_that_loses_every_answer_costs_turns_and_nothing_else() -> None:
    desk = Desk()
    sinks = [desk.starts(number) for number in range(2 * MAX_IN_FLIGHT)]
    assert len(desk.sent()) == MAX_IN_FLIGHT
    refused = sinks[MAX_IN_FLIGHT:]
    assert {sink.outcome for sink in refused} == {FaultKind.WORKER_OVERLOADED}
    assert desk.closed() == list(range(MAX_IN_FLIGHT, 2 * MAX_IN_FLIGHT))
    desk.waits(LIMITS.start_s)
    assert {sink.outcome for sink in sinks[:MAX_IN_FLIGHT]} == {FaultKind.START_TIMEOUT}
    assert desk.session.open_turns == 0


def test_a_late_thread_is_not_let_go_of_when_too_much_is_unanswered_already() -> None:
    desk = Desk()
    desk.starts(0)
    (request,) = desk.sent()
    desk.waits(LIMITS.start_s)
    for number in range(1, MAX_IN_FLIGHT + 1):
        desk.starts(number)
    desk.sent()
    desk.replies(request, {"thread": {"id": "A"}})
    assert desk.sent() == []


def test_a_turn_that_cannot_say_goodbye_is_closed_all_the_same() -> None:
    desk = Desk()
    sink = desk.runs(1, "A")
    for number in range(2, MAX_IN_FLIGHT + 2):
        desk.starts(number)
    desk.says(completed("A"))
    assert sink.outcome == "stop"
    assert desk.closed() == [1]


# --- the worker is gone ----------------------------------------------------------------------------------------


def test_with_the_worker_every_turn_is_lost_and_no_fact_follows() -> None:
    desk = Desk()
    running, opening, ended = desk.runs(1, "A"), desk.starts(2), desk.runs(3, "B")
    desk.says(completed("B"))
    desk.session.lose(GONE, desk.now)
    assert [sink.outcome for sink in (running, opening, ended)] == [
        FaultKind.WORKER_LOST,
        FaultKind.WORKER_LOST,
        "stop",
    ]
    desk.says(delta("A", "ghost"), completed("A"))
    desk.waits(1000.0)
    assert desk.session.counters["stale"] == 2
    assert desk.facts == []
    assert desk.session.open_turns == 0


def test_a_lost_turn_tells_why() -> None:
    desk = Desk()
    sink = desk.runs(1, "A")
    assert list(desk.session.stories()) == [1]
    assert "RUNNING" in desk.session.stories()[1]
    desk.session.lose(GONE, desk.now)
    assert sink.ended is not None
    assert sink.ended.fault == GONE
    assert desk.session.stories() == {}


# --- a sink that talks back ------------------------------------------------------------------------------------


class FullSink(RecordingSink):
    """Asks for the end of its turn from within `push`, as a full buffer does."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    def push(self, events: Sequence[TurnEvent]) -> None:
        super().push(events)
        self._desk.session.interrupt(1, self._desk.now)


@pytest.mark.parametrize(
    "sign",
    [
        delta("A", "one"),
        note("item/reasoning/summaryTextDelta", "A", delta="one"),
        note("rawResponseItem/completed", "A", item={"type": "function_call", "call_id": "c", "name": "f"}),
        {
            "method": "turn/completed",
            "params": {
                "threadId": "A",
                "turn": {
                    "id": "turn of A",
                    "status": "completed",
                    "items": [
                        {"type": "agentMessage", "id": "1", "text": "one"},
                        {"type": "agentMessage", "id": "2", "text": "two"},
                    ],
                },
            },
        },
    ],
    ids=["text", "reasoning", "call", "completed"],
)
@pytest.mark.parametrize("is_answered", [True, False])
def test_a_sink_may_interrupt_its_turn_from_within_a_push(sign: Frame, is_answered: bool) -> None:
    desk = Desk()
    sink = FullSink(desk)
    desk.session.start_turn(1, TurnRequest("m", "", ()), sink, desk.now)
    desk.replies(desk.sent()[0], {"thread": {"id": "A"}})
    desk.replies(desk.sent()[0], {})
    (turn_start,) = desk.sent()
    if is_answered:
        desk.replies(turn_start, {"turn": {"id": "turn of A"}})
    desk.says(sign)
    desk.says(delta("A", "more"), completed("A", "interrupted"))
    for request in desk.sent():
        desk.replies(request, {})
    assert sink.ended is not None
    assert desk.closed() == [1]


# --- taps ------------------------------------------------------------------------------------------------------


class RecordingTap:
    """What passes, by method, with an arrow for its direction."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def opened(self, now: float) -> None:
        self.told.append("opened")

    def sent(self, line: bytes, now: float) -> None:
        self.told.append(f"> {json.loads(line)['method']}")

    def heard(self, method: str, kind: str, body: bytes, now: float) -> None:
        assert isinstance(json.loads(body), dict)
        self.told.append(f"< {method} {kind}")

    def closed(self, now: float) -> None:
        self.told.append("closed")


def test_a_tap_sees_all_frames_of_its_turn_and_none_of_others() -> None:
    desk, tap = Desk(), RecordingTap()
    desk.runs(1, "A", tap=tap)
    desk.runs(2, "B")
    desk.says(delta("B", "no"), delta("A", "yes"), completed("B"), completed("A"))
    for request in desk.sent():
        desk.replies(request, {})
    assert desk.closed() == [2, 1]
    assert tap.told == [
        "opened",
        "> thread/start",
        "< thread_start result",
        "> thread/inject_items",
        "< inject_items result",
        "> turn/start",
        "< turn_start result",
        "< item/agentMessage/delta params",
        "< turn/completed params",
        "> thread/unsubscribe",
        "< unsubscribe result",
        "closed",
    ]


def test_a_tap_sees_refusals_and_what_the_worker_asks() -> None:
    desk, tap = Desk(), RecordingTap()
    desk.runs(1, "A", tap=tap)
    desk.says({"id": 7, "method": "item/commandExecution/requestApproval", "params": {"threadId": "A"}})
    desk.starts(2, tap=tap)
    desk.refuses(desk.sent()[-1])
    assert "< item/commandExecution/requestApproval params" in tap.told
    assert tap.told[-2:] == ["< thread_start error", "closed"]


def test_a_tap_is_closed_when_the_worker_is_lost() -> None:
    desk, tap = Desk(), RecordingTap()
    desk.runs(1, "A", tap=tap)
    desk.session.lose(Fault(FaultKind.WORKER_LOST, "gone"), desk.now)
    assert tap.told[-1] == "closed"


# --- anything goes ---------------------------------------------------------------------------------------------

THREADS = "ABCDEF"


def act(desk: Desk, sinks: dict[int, RecordingSink], what: int, pick: int) -> None:
    """One thing that a client, the clock or a worker of ill will may do."""
    thread = THREADS[pick % len(THREADS)]
    waiting = desk.unanswered[pick % len(desk.unanswered)] if desk.unanswered else None
    match what:
        case 0:
            sinks[len(sinks)] = desk.runs(len(sinks), f"{thread}{len(sinks)}", answers=pick % 4)
        case 1:
            desk.session.interrupt(pick % (len(sinks) + 1), desk.now)
        case 2 if waiting is not None:
            result: dict[str, Any] = {"thread/start": {"thread": {"id": f"late {waiting['id']}"}}}
            turn = {"turn": {"id": f"turn of {waiting['params'].get('threadId')}"}}
            desk.replies(waiting, result.get(waiting["method"], turn))
        case 3 if waiting is not None:
            desk.refuses(waiting, -32001 if pick % 2 else -32600)
        case 4 if waiting is not None:
            desk.replies(waiting, {"nonsense": pick})
        case 5 | 6 | 7 if desk.session._by_thread:
            thread = sorted(desk.session._by_thread)[pick % len(desk.session._by_thread)]
            signs = [
                delta(thread, "x"),
                completed(thread, ["completed", "interrupted", "failed"][pick % 3]),
                note("rawResponseItem/completed", thread, item={"type": "function_call", "call_id": "c", "name": "f"}),
                note("rawResponse/completed", thread),
                note("item/agentMessage/delta", thread, delta=5),
                note("thread/tokenUsage/updated", thread, tokenUsage={"total": {"inputTokens": 1}}),
            ]
            desk.says(signs[pick % len(signs)])
        case 8:
            desk.waits([0.0, 1.0, LIMITS.interrupt_s, LIMITS.start_s, LIMITS.idle_s, LIMITS.total_s][pick % 6])
        case _:
            desk.says({"id": pick, "result": {}})
    desk.sent()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1000)), min_size=10, max_size=60))
@trying(2)
def test_no_worker_can_break_a_session_or_keep_a_client_waiting(moves: list[tuple[int, int]]) -> None:
    desk = Desk()
    sinks: dict[int, RecordingSink] = {}
    for what, pick in moves:
        act(desk, sinks, what, pick)
        assert desk.session._connection.in_flight <= MAX_IN_FLIGHT
    for _ in range(int(LIMITS.total_s + LIMITS.interrupt_s + 2 * LIMITS.start_s)):
        desk.waits(1.0)
    ignored = {fact.lease_id for fact in desk.facts if isinstance(fact, InterruptIgnored)}
    assert all(sink.ended is not None for sink in sinks.values()), desk.session.stories()
    assert sorted(desk.closed()) == sorted(set(desk.closed()))
    assert set(sinks) - set(desk.closed()) <= ignored
    assert desk.session.open_turns == len(sinks) - len(desk.closed())
    assert len(desk.session._by_thread) <= desk.session.open_turns


def test_the_text_of_a_turn_is_what_was_streamed_whatever_the_pipe_does_to_it() -> None:
    desk = Desk()
    sink = desk.runs(1, "A")
    data = b"".join(line(delta("A", f"{number};")) for number in range(500))
    for start in range(0, len(data), 37):
        desk.session.receive(data[start : start + 37], desk.now)
    assert sink.events == [TextDelta(f"{number};") for number in range(500)]


# --- a worker that has proved itself, and one that has too much to do --------------------------------------------


def test_the_first_word_of_any_turn_proves_the_worker_once() -> None:
    desk = Desk()
    desk.runs(1, "A")
    desk.runs(2, "B")
    desk.says(note("thread/tokenUsage/updated", "A", tokenUsage={"total": {"inputTokens": 1}}))
    assert desk.facts == []
    desk.says(delta("B", "one"), delta("A", "two"), delta("B", "three"))
    assert desk.facts == [Proved()]


@pytest.mark.parametrize("answers", [0, 1, 2])
def test_a_worker_that_refuses_because_it_has_too_much_to_do_is_overloaded_and_neither_struck_nor_at_fault(
    answers: int,
) -> None:
    desk = shaken()
    for number in range(2 * FAILURES):
        sink = desk.runs(number, f"T{number}", answers=answers)
        desk.sent()
        desk.refuses(desk.unanswered[-1], -32001)
        assert sink.outcome == FaultKind.WORKER_OVERLOADED
        assert sink.ended is not None
        assert sink.ended.trace is Trace.NONE
        if answers:
            (goodbye,) = desk.sent()
            desk.replies(goodbye, {})
    assert desk.facts.count(Overloaded()) == 2 * FAILURES
    assert not any(isinstance(fact, Condemnation | Suspicion) for fact in desk.facts)
    assert desk.session.counters["strike"] == 0


def test_too_many_unanswered_requests_of_ours_are_an_overload_as_well() -> None:
    desk = Desk()
    for number in range(MAX_IN_FLIGHT + 1):
        desk.starts(number)
    assert desk.facts == [Overloaded(), TurnClosed(MAX_IN_FLIGHT)]


# --- probes ------------------------------------------------------------------------------------------------------

PROBES = ProbeLimits(idle_s=2.0, timeout_s=2.0, fast_s=1.0, hung_s=10.0)
PAIR = ["initialize", "thread/loaded/list"]
DEAF = Suspicion("it answers no probe")
WEDGED = Suspicion("it answers no question about its threads")


def shaken(limits: TurnLimits = LIMITS) -> Desk:
    """A session whose handshake is done."""
    desk = Desk()
    desk.session = Session(limits, "1.2.3", PROBES)
    desk.session.open(desk.now, 10.0)
    (request,) = desk.sent()
    desk.replies(request, {"userAgent": USER_AGENT})
    desk.sent()
    desk.facts.clear()
    return desk


def passes(desk: Desk, seconds: float, answers: tuple[str, ...] = (), *, talks: bool = False) -> list[str]:
    """Time passes in ticks; the worker answers what is asked by these names, at once. All that was asked meanwhile."""
    methods = []
    for _ in range(round(seconds / TICK_S)):
        desk.waits(TICK_S)
        if talks:
            desk.says(delta("nobody's", "text"))
        methods += desk.methods()
        for request in [request for request in desk.unanswered if request["method"] in answers]:
            desk.refuses(request)
    return methods


def verdict_of(desk: Desk) -> Verdict | None:
    """The verdict that was told, if there was one; it was not told twice."""
    verdicts = [fact.verdict for fact in desk.facts if isinstance(fact, Condemnation)]
    assert len(verdicts) <= 1
    return verdicts[0] if verdicts else None


def test_a_silent_worker_is_asked_two_questions_and_refusals_will_do() -> None:
    desk = shaken()
    assert passes(desk, 1.75) == []
    assert passes(desk, 0.25) == PAIR
    for request in list(desk.unanswered):
        desk.refuses(request)
    assert passes(desk, 1.75) == []
    assert passes(desk, 0.25) == PAIR
    assert desk.facts == []
    assert desk.session.counters["probe_missed"] == 0


def test_the_probes_ask_for_nothing() -> None:
    desk = shaken()
    desk.waits(2.0)
    handshake, threads = desk.sent()
    assert handshake["params"]["clientInfo"]["version"] == "1.2.3"
    assert threads["params"] == {}


def test_a_worker_that_answers_no_probe_is_suspect_then_hung_and_each_is_said_once() -> None:
    desk = shaken()
    passes(desk, 3.75)
    assert desk.facts == []
    passes(desk, 0.25)
    assert desk.facts == [DEAF]
    passes(desk, 9.75)
    assert desk.facts == [DEAF]
    passes(desk, 0.25)
    assert desk.facts == [DEAF, Condemnation(Verdict.HUNG, DEAF.reason)]
    assert desk.session.counters["probe_missed"] >= 5
    passes(desk, 60.0)
    assert len(desk.facts) == 2


def test_a_worker_that_talks_is_not_asked() -> None:
    desk = shaken()
    assert passes(desk, 40.0, talks=True) == []


def test_a_busy_worker_that_talks_and_does_not_answer_is_not_deaf() -> None:
    desk = shaken()
    assert passes(desk, 2.0) == PAIR
    assert passes(desk, 60.0, talks=True) == []
    assert desk.facts == []
    assert desk.session.counters["probe_missed"] == 0


def test_a_worker_that_hears_but_does_not_answer_for_its_threads_is_suspect_and_then_poisoned() -> None:
    desk = shaken()
    passes(desk, 4.25, ("initialize",))
    assert desk.facts == [WEDGED]
    passes(desk, 10.0, ("initialize",), talks=True)
    assert verdict_of(desk) is Verdict.POISONED


def test_a_suspect_is_cleared_by_the_second_round_that_it_answers() -> None:
    desk = shaken()
    passes(desk, 4.0)
    assert desk.facts == [DEAF]
    passes(desk, 0.5, ("initialize", "thread/loaded/list"))
    assert desk.facts == [DEAF]
    passes(desk, 1.0, ("initialize", "thread/loaded/list"))
    assert desk.facts == [DEAF, Clearance()]
    passes(desk, 60.0, ("initialize", "thread/loaded/list"))
    assert desk.facts == [DEAF, Clearance()]


@pytest.mark.parametrize("frozen_s", [4.5, 8.0, 11.0])
def test_a_worker_that_thaws_answers_everything_and_keeps_its_turns(frozen_s: float) -> None:
    desk = shaken()
    sink = desk.runs(1, "A")
    desk.says(delta("A", "one "))
    desk.facts.clear()
    passes(desk, frozen_s)
    assert desk.facts == [DEAF]
    for request in list(desk.unanswered):
        desk.refuses(request)
    desk.says(delta("A", "two"))
    passes(desk, 2.0, ("initialize", "thread/loaded/list"))
    assert desk.facts == [DEAF, Clearance()]
    desk.says(completed("A"))
    assert (sink.text, sink.outcome) == ("one two", "stop")


def test_late_answers_alone_clear_nobody() -> None:
    desk = shaken()
    passes(desk, 6.0)
    first, second = desk.unanswered[:2], desk.unanswered[2:4]
    for late in (first, second):
        for request in late:
            desk.refuses(request)
        passes(desk, 1.0)
    assert desk.session.counters["late"] == 4
    assert desk.facts == [DEAF]


def test_an_overloaded_worker_that_refuses_its_probes_is_there() -> None:
    desk = shaken()
    for _ in range(10):
        passes(desk, 2.0)
        for request in list(desk.unanswered):
            desk.refuses(request, -32001)
    assert desk.facts == []


def test_nobody_is_probed_before_the_handshake() -> None:
    desk = Desk()
    desk.session.open(desk.now, 100.0)
    assert desk.methods() == ["initialize"]
    assert passes(desk, 60.0) == []
    desk.waits(30.0, unread_bytes=1)
    assert desk.facts == []


def test_nobody_is_probed_when_too_much_is_unanswered_already() -> None:
    desk = shaken()
    for number in range(MAX_IN_FLIGHT - 1):
        desk.starts(number)
    desk.sent()
    assert passes(desk, LIMITS.start_s - TICK_S) == []
    assert passes(desk, TICK_S) == PAIR


def test_a_worker_that_leaves_unread_what_we_write_is_suspect_and_given_up_in_the_end() -> None:
    desk = shaken()
    for _ in range(round(UNREAD_S / TICK_S)):
        desk.waits(TICK_S, unread_bytes=1)
        desk.says(delta("nobody's", "text"))
    assert desk.facts == []
    desk.waits(TICK_S, unread_bytes=1)
    assert desk.facts == [Suspicion("it does not read")]
    desk.waits(PROBES.hung_s, unread_bytes=1)
    assert verdict_of(desk) is Verdict.HUNG


def test_a_pipe_that_is_read_to_the_end_now_and_then_is_fine() -> None:
    desk = shaken()
    for _ in range(10):
        for unread_bytes in (*[10**6] * round(UNREAD_S / TICK_S), 0):
            desk.waits(TICK_S, unread_bytes=unread_bytes)
            desk.says(delta("nobody's", "text"))
    assert desk.facts == []


# --- turns that cannot begin, or fail ----------------------------------------------------------------------------


def strikes(desk: Desk, lease_id: int) -> None:
    """A turn is not answered and fails."""
    sink = desk.starts(lease_id)
    passes(desk, LIMITS.start_s, ("initialize", "thread/loaded/list"))
    assert sink.outcome == FaultKind.START_TIMEOUT


def test_two_turns_that_cannot_begin_within_a_minute_poison_the_worker_and_it_is_told_once() -> None:
    desk = shaken()
    strikes(desk, 1)
    assert desk.facts == [TurnClosed(1)]
    strikes(desk, 2)
    assert desk.facts[1:] == [TurnClosed(2), Condemnation(Verdict.POISONED, "turns cannot begin on it")]
    strikes(desk, 3)
    assert desk.facts[3:] == [TurnClosed(3)]
    assert desk.session.counters["strike"] == 3


def test_what_a_worker_says_before_it_serves_is_no_evidence() -> None:
    desk, initialize = greeted()
    desk.session.receive(b"a banner\nof two lines\n", desk.now)
    desk.replies(initialize, {"userAgent": USER_AGENT})
    assert desk.facts == [Handshaken((0, 163, 0), USER_AGENT)]
    strikes(desk, 1)
    strikes(desk, 2)
    assert verdict_of(desk) is Verdict.POISONED


def test_a_turn_of_which_anything_is_heard_is_not_silent() -> None:
    desk = shaken()
    sink = desk.runs(1, "A")
    for _ in range(int(2 * LIMITS.first_event_s)):
        desk.says(note("item/reasoning/textDelta", "A", delta="hm"))
        desk.waits(1.0)
    assert sink.outcome is None
    desk.waits(LIMITS.first_event_s)
    assert sink.outcome == FaultKind.WORKER_LOST


def test_a_worker_on_which_nothing_could_begin_and_that_then_falls_silent_has_hung() -> None:
    desk = shaken()
    for number in range(2):
        desk.starts(number)
    passes(desk, LIMITS.start_s, ("initialize", "thread/loaded/list"))
    assert verdict_of(desk) is Verdict.POISONED
    passes(desk, 60.0)
    verdicts = [fact.verdict for fact in desk.facts if isinstance(fact, Condemnation)]
    assert verdicts == [Verdict.POISONED, Verdict.HUNG]


@pytest.mark.parametrize("answers", [0, 1, 2])
def test_it_is_a_strike_whichever_of_the_opening_requests_is_not_answered(answers: int) -> None:
    desk = shaken()
    for number in range(2):
        desk.runs(number, f"T{number}", answers=answers)
    passes(desk, LIMITS.start_s, ("initialize", "thread/loaded/list"))
    assert verdict_of(desk) is Verdict.POISONED


def test_strikes_more_than_a_minute_apart_say_nothing() -> None:
    desk = shaken()
    for number in range(5):
        strikes(desk, number)
        passes(desk, 60.25, ("initialize", "thread/loaded/list"))
    assert verdict_of(desk) is None


def test_a_turn_that_begins_between_two_strikes_clears_the_worker() -> None:
    desk = shaken()
    strikes(desk, 1)
    desk.runs(2, "B")
    strikes(desk, 3)
    assert verdict_of(desk) is None
    desk.says(delta("B", "an old turn that runs on clears nobody"))
    strikes(desk, 4)
    assert verdict_of(desk) is Verdict.POISONED


def test_an_answer_that_comes_too_late_clears_nobody() -> None:
    desk = shaken()
    desk.runs(1, "A", answers=2)
    (turn_start,) = desk.sent()
    passes(desk, LIMITS.start_s, ("initialize", "thread/loaded/list"))
    desk.replies(turn_start, {"turn": {"id": "turn of A"}})
    strikes(desk, 2)
    assert verdict_of(desk) is Verdict.POISONED


def test_turns_that_visibly_run_are_no_strikes_though_their_answers_are_lost() -> None:
    desk = shaken()
    for number, thread in enumerate("AB"):
        desk.runs(number, thread, answers=2)
        desk.says(delta(thread, "text"))
    passes(desk, LIMITS.start_s, ("initialize", "thread/loaded/list"))
    assert desk.facts == [Proved()]
    assert desk.session.counters["strike"] == 0


@pytest.mark.parametrize("answers", [0, 1, 2])
def test_a_turn_that_cannot_begin_on_a_silent_worker_is_no_strike_but_the_workers_loss(answers: int) -> None:
    desk = shaken()
    sinks = [desk.runs(number, f"T{number}", answers=answers) for number in range(2)]
    passes(desk, LIMITS.start_s)
    assert [sink.outcome for sink in sinks] == [FaultKind.WORKER_LOST] * 2
    assert desk.session.counters["strike"] == 0
    assert verdict_of(desk) is None, "it is not said that nothing begins on it: it may have hung"
    passes(desk, 60.0)
    assert verdict_of(desk) is Verdict.HUNG


def test_a_turn_that_falls_silent_with_its_worker_is_the_workers_loss_and_one_on_a_worker_that_talks_is_not() -> None:
    for talks in (False, True):
        desk = shaken()
        sink = desk.runs(1, "A")
        desk.says(delta("A", "a word"))
        passes(desk, LIMITS.idle_s, talks=talks)
        assert sink.outcome == (FaultKind.IDLE_TIMEOUT if talks else FaultKind.WORKER_LOST)
        assert sink.ended is not None
        assert sink.ended.trace is Trace.SPOKEN


NONSENSE: dict[str, bytes] = {
    "garbage": b"\xff garbage\n",
    "too large": b"x" * (MAX_LINE_BYTES + 1) + b"\n",
    "a broken promise": line({"method": "turn/completed", "params": {"turn": 1}}),
}


@pytest.mark.parametrize("first", NONSENSE)
@pytest.mark.parametrize("second", ["garbage", "a broken promise"])
def test_nonsense_twice_within_a_minute_condemns_the_worker_and_fails_no_turn(first: str, second: str) -> None:
    desk = Desk()
    sink = desk.runs(1, "A")
    desk.session.receive(NONSENSE[first], desk.now)
    desk.says(delta("A", "one "))
    assert desk.facts == [Proved()]
    desk.session.receive(NONSENSE[second], desk.now)
    desk.says(delta("A", "two"))
    assert verdict_of(desk) is Verdict.ERRORS
    assert (sink.text, sink.outcome) == ("one two", None)


def test_nonsense_now_and_then_is_only_counted() -> None:
    desk = Desk()
    for _ in range(5):
        desk.session.receive(NONSENSE["garbage"], desk.now)
        desk.waits(60.25)
    assert desk.facts == []
    assert desk.session.counters["garbage"] == 5


def test_an_answer_that_breaks_its_promise_is_nonsense_too() -> None:
    desk = Desk()
    for number in range(2):
        desk.starts(number)
        desk.replies(desk.sent()[0], {"something": "else"})
    assert verdict_of(desk) is Verdict.ERRORS


def refused(desk: Desk, lease_id: int) -> None:
    desk.starts(lease_id)
    desk.refuses(desk.sent()[-1], -32603)


def ends(desk: Desk, lease_id: int, status: str, *, text: str = "text") -> None:
    """A turn says something and ends like this."""
    thread = f"T{lease_id}"
    desk.runs(lease_id, thread)
    desk.says(delta(thread, text), completed(thread, status))
    desk.replies(desk.sent()[-1], {})


def test_so_many_turns_in_a_row_that_fail_by_the_workers_own_word_condemn_it() -> None:
    desk = Desk()
    for number in range(FAILURES - 1):
        refused(desk, number)
    assert verdict_of(desk) is None
    refused(desk, FAILURES)
    assert desk.facts[-2:] == [TurnClosed(FAILURES), Condemnation(Verdict.ERRORS, "its turns fail")]


def test_turns_that_the_worker_interrupts_by_itself_are_its_own_failures() -> None:
    desk = Desk()
    for number in range(FAILURES):
        ends(desk, number, "interrupted")
    assert verdict_of(desk) is Verdict.ERRORS


def test_a_turn_that_was_not_taken_on_is_no_new_beginning() -> None:
    desk = Desk()
    for number in range(FAILURES - 1):
        refused(desk, number)
    desk.starts(FAILURES)
    desk.refuses(desk.sent()[-1], -32001)
    desk.starts(FAILURES + 1)
    desk.waits(LIMITS.start_s)
    assert verdict_of(desk) is None
    refused(desk, FAILURES + 2)
    assert verdict_of(desk) is Verdict.ERRORS


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_a_turn_that_ends_well_or_by_its_providers_fault_between_them_is_a_new_beginning(status: str) -> None:
    desk = Desk()
    for number in range(10 * FAILURES):
        if number % FAILURES:
            refused(desk, number)
        else:
            ends(desk, number, status)
    assert verdict_of(desk) is None


def test_failures_of_the_provider_are_never_the_workers() -> None:
    desk = Desk()
    for number in range(3 * FAILURES):
        ends(desk, number, "failed")
    assert verdict_of(desk) is None


# --- what a turn has left behind ---------------------------------------------------------------------------------


def test_only_turns_of_which_nothing_has_come_may_run_elsewhere() -> None:
    desk = Desk()
    desk.starts(1)
    desk.sent()
    for number, thread in enumerate("ABCDEF", start=2):
        desk.runs(number, thread)
    desk.says(delta("A", "said"), completed("B"))
    desk.session.interrupt(4, desk.now)
    desk.says({"method": "item/commandExecution/requestApproval", "id": 1, "params": {"threadId": "D"}})
    desk.says(note("item/agentMessage/delta", "E", delta=5))
    assert desk.session.untouched() == (1, 7)


@pytest.mark.parametrize(
    "method", ["item/commandExecution/requestApproval", "item/fileChange/requestApproval", "item/tool/requestUserInput"]
)
def test_a_turn_that_asked_for_anything_has_acted_and_its_neighbour_has_not(method: str) -> None:
    desk = Desk()
    asking, quiet = desk.runs(1, "A"), desk.runs(2, "B")
    desk.says({"method": method, "id": 7, "params": {"threadId": "A", "turnId": "turn of A"}})
    desk.session.lose(GONE, desk.now)
    assert asking.ended is not None
    assert quiet.ended is not None
    assert (asking.ended.trace, quiet.ended.trace) == (Trace.ACTED, Trace.NONE)


# --- frames of a lease that is over ------------------------------------------------------------------------------

GHOSTS: list[Frame] = [
    delta("A", "ghost"),
    note("item/reasoning/summaryTextDelta", "A", delta="ghost"),
    note("rawResponseItem/completed", "A", item={"type": "function_call", "call_id": "c", "name": "f"}),
    note("rawResponse/completed", "A"),
    note("thread/tokenUsage/updated", "A", tokenUsage={"total": {"inputTokens": 99}}),
    completed("A"),
    completed("A", "failed"),
    completed("A", "interrupted"),
    *({"id": number, "result": {"thread": {"id": "A"}, "turn": {"id": "turn of A"}}} for number in range(1, 5)),
    {"id": 3, "error": {"code": -32600, "message": "no"}},
]


@given(
    st.sampled_from(["completed", "interrupted", "refused", "expired"]),
    st.lists(st.sampled_from(GHOSTS), min_size=1, max_size=20),
)
@trying(2)
def test_frames_of_a_released_lease_change_nothing(way: str, ghosts: list[Frame]) -> None:
    desk = Desk()
    old = desk.runs(1, "A", answers=3 if way in ("completed", "interrupted") else 2)
    if way == "interrupted":
        desk.session.interrupt(1, desk.now)
    if way in ("completed", "interrupted"):
        desk.says(completed("A", way))
    elif way == "refused":
        desk.sent()
        desk.refuses(desk.unanswered[-1])
    else:
        desk.waits(LIMITS.start_s)
    for request in desk.sent():
        desk.replies(request, {})
    other = desk.runs(2, "B")
    desk.says(delta("B", "one "))
    before = (list(old.events), old.ended, desk.closed(), desk.session.stories(), desk.session.untouched())
    assert desk.closed() == [1]
    is_late = way == "expired" and any(ghost.get("id") == 3 and "result" in ghost for ghost in ghosts)
    desk.says(*ghosts)
    assert (list(old.events), old.ended, desk.closed(), desk.session.stories(), desk.session.untouched()) == before
    assert (other.text, other.outcome) == ("one ", None)
    asked = desk.methods()
    assert asked == [] or (is_late and asked == ["turn/interrupt"]), "a turn that comes late is ended, no more"
    desk.says(delta("B", "two"), completed("B"))
    assert (other.text, other.outcome) == ("one two", "stop")


# --- stalls of ours ----------------------------------------------------------------------------------------------

STRICT = TurnLimits(start_s=3.0, first_event_s=3.0, idle_s=3.0, total_s=20.0, interrupt_s=3.0)
WORDS = 5


class Prompt:
    """A worker that answers all it has been asked, and says a word for each turn, before we look again."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._words: dict[str, int] = {}
        self._threads = 0

    def works(self) -> list[Frame]:
        """What it has written by the time we look again."""
        frames: list[Frame] = []
        for request in self._desk.sent():
            if "id" not in request:
                continue
            params, result = request["params"], {}
            match request["method"]:
                case "thread/start":
                    self._threads += 1
                    result = {"thread": {"id": f"T{self._threads}"}}
                case "turn/start":
                    self._words[params["threadId"]] = WORDS
                    result = {"turn": {"id": f"turn of {params['threadId']}"}}
                case "turn/interrupt":
                    self._words.pop(params["threadId"], None)
                    frames.append(completed(params["threadId"], "interrupted"))
            frames.append({"id": request["id"], "result": result})
        for thread, left in list(self._words.items()):
            if left:
                frames.append(delta(thread, "word "))
                self._words[thread] -= 1
            else:
                frames.append(completed(thread))
                del self._words[thread]
        self._desk.unanswered.clear()
        return frames


class Look(NamedTuple):
    """One turn of our loop: how long after the last, what comes first in it, and what a client does in between."""

    gap_s: float
    reads_first: bool
    client: str
    client_comes: int


LOOKS = st.lists(
    st.builds(
        Look,
        st.one_of(
            st.floats(0.0, STALL_S),
            st.just(TICK_S),
            st.sampled_from([STALL_S + 0.01, 2.0, 5.0, 11.0, 65.0, 1e3, 1e5]),
            st.floats(0.0, 1e6),
        ),
        st.booleans(),
        st.sampled_from(["", "", "starts", "leaves"]),
        st.integers(0, 2),
    ),
    min_size=5,
    max_size=60,
)


def look(desk: Desk, worker: Prompt, sinks: list[RecordingSink], this: Look) -> None:
    """We go on after this long."""
    written = worker.works()
    desk.now += this.gap_s
    for step in range(3):
        if step == this.client_comes and this.client == "starts" and desk.session.open_turns < 8:
            sinks.append(desk.starts(len(sinks)))
        elif step == this.client_comes and this.client == "leaves" and sinks:
            desk.session.interrupt(len(sinks) - 1, desk.now)
        if step < 2 and (step == 0) is this.reads_first:
            desk.says(*written)
        elif step < 2:
            desk.is_stopped(0.0)


@given(LOOKS)
@trying(3)
def test_no_stall_of_ours_ever_costs_a_worker_that_answers_or_a_turn(looks: list[Look]) -> None:
    desk = shaken(STRICT)
    worker, sinks = Prompt(desk), list[RecordingSink]()
    for this in looks:
        look(desk, worker, sinks, this)
    for _ in range(WORDS + 10):
        look(desk, worker, sinks, Look(TICK_S, reads_first=True, client="", client_comes=2))
    assert [str(fact) for fact in desk.facts if not isinstance(fact, TurnClosed | Proved)] == []
    assert {sink.outcome for sink in sinks} <= {"stop", "interrupted"}
    assert desk.session.open_turns == 0
    for sink in sinks:
        assert sink.outcome == "interrupted" or sink.text == "word " * WORDS
    assert desk.session.counters["late"] == desk.session.counters["probe_missed"] == 0


@given(LOOKS)
@trying(1)
def test_no_stall_of_ours_makes_the_end_of_a_dead_worker_or_of_its_turns_any_later(looks: list[Look]) -> None:
    desk = shaken(STRICT)
    worker, sinks = Prompt(desk), list[RecordingSink]()
    for this in looks:
        look(desk, worker, sinks, this)
    desk.waits(PROBES.idle_s + PROBES.timeout_s + PROBES.hung_s + 2 * TICK_S)
    assert [fact.verdict for fact in desk.facts if isinstance(fact, Condemnation)][-1] is Verdict.HUNG
    assert all(sink.ended is not None for sink in sinks)
    ignored = [fact for fact in desk.facts if isinstance(fact, InterruptIgnored)]
    assert desk.session.open_turns == len(ignored)


def test_a_stall_postpones_the_end_of_what_was_under_way_by_its_length() -> None:
    desk = shaken()
    sink = desk.starts(1)
    desk.waits(LIMITS.start_s - 1.0)
    desk.is_stopped(3600.0)
    assert sink.outcome is None
    desk.waits(0.75)
    assert sink.outcome is None
    desk.waits(0.25)
    assert sink.outcome == FaultKind.WORKER_LOST, "the worker has said nothing to anybody"


def test_a_turn_that_cannot_begin_on_a_worker_that_is_silent_is_the_workers_loss_and_no_strike() -> None:
    desk = shaken()
    sinks = [desk.starts(number) for number in range(2)]
    desk.waits(LIMITS.start_s)
    assert [sink.outcome for sink in sinks] == [FaultKind.WORKER_LOST] * 2
    assert desk.session.counters["strike"] == 0
    assert verdict_of(desk) is None
    assert desk.session.open_turns == 0


def test_a_stall_counts_against_no_suspect() -> None:
    desk = shaken()
    passes(desk, 13.0)
    for _ in range(3):
        desk.is_stopped(3600.0)
    assert desk.facts == [DEAF]
    for request in list(desk.unanswered):
        desk.refuses(request)
    passes(desk, 0.75, ("initialize", "thread/loaded/list"))
    desk.is_stopped(3600.0)
    passes(desk, 1.0, ("initialize", "thread/loaded/list"))
    assert desk.facts == [DEAF, Clearance()]


def test_an_interrupt_when_we_go_on_gets_no_more_for_the_stall() -> None:
    desk = shaken()
    sink = desk.runs(1, "A")
    desk.waits(1.0)
    desk.now += 3600.0
    desk.session.interrupt(1, desk.now)
    desk.waits(LIMITS.interrupt_s)
    assert InterruptIgnored(1) in desk.facts
    assert sink.outcome == "interrupted"


def test_a_stall_before_the_first_tick_is_forgiven_as_well() -> None:
    desk = Desk()
    desk.session.open(desk.now, 10.0)
    desk.is_stopped(3600.0)
    assert desk.facts == []
    desk = shaken()
    sink = desk.starts(1)
    desk.is_stopped(3600.0)
    assert sink.outcome is None


@pytest.mark.parametrize("is_read_first", [True, False])
def test_a_turn_that_begins_when_we_go_on_gets_no_more_for_the_stall(is_read_first: bool) -> None:
    desk = shaken()
    desk.waits(1.0)
    desk.now += 3600.0
    if is_read_first:
        desk.says(delta("nobody's", "text"))
    sink = desk.starts(1)
    desk.waits(LIMITS.start_s)
    assert sink.outcome == FaultKind.WORKER_LOST, "the worker has said nothing to anybody"


# --- other limits ------------------------------------------------------------------------------------------------


def test_other_limits_are_for_turns_that_begin_later_and_for_probes_at_once() -> None:
    desk = shaken()
    old = desk.runs(1, "A")
    desk.session.retune(STRICT, ProbeLimits(idle_s=5.0, timeout_s=1.0, fast_s=1.0, hung_s=3.0))
    new = desk.runs(2, "B")
    assert passes(desk, 2.75) == []
    assert new.outcome is None
    desk.waits(0.25)
    assert new.outcome == FaultKind.FIRST_EVENT_TIMEOUT
    assert old.outcome is None
    assert passes(desk, 2.0) == ["turn/interrupt", *PAIR]
    desk.waits(1.0)
    assert desk.facts == [InterruptIgnored(2), DEAF]

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.events import FaultKind, Finish, TextDelta, ToolCall, ToolSpec, TurnEvent, TurnRequest, Usage
from pool.protocol.connection import MAX_IN_FLIGHT
from pool.protocol.framing import MAX_LINE_BYTES
from pool.session import (
    HandshakeFailed,
    Handshaken,
    Hung,
    InterruptIgnored,
    ProbeLimits,
    Session,
    TurnClosed,
    Unresponsive,
)
from tests.support.desk import LIMITS, Desk, Frame, completed, delta, line, note
from tests.support.examples import trying
from tests.support.sinks import RecordingSink

DATA = Path(__file__).with_name("data")
TOOL = ToolSpec("get_weather", "Current weather", {"type": "object"})
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
    assert desk.facts == []
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


def test_two_turns_in_a_row_that_cannot_begin_make_the_worker_unresponsive() -> None:
    desk = Desk()
    desk.starts(1)
    desk.waits(LIMITS.start_s)
    assert desk.facts == [TurnClosed(1)]
    desk.starts(2)
    desk.waits(LIMITS.start_s)
    assert desk.facts[1:] == [Unresponsive(), TurnClosed(2)]
    desk.starts(3)
    desk.waits(LIMITS.start_s)
    assert desk.facts[3:] == [TurnClosed(3)], "told once"


def test_turns_that_visibly_run_are_no_strikes_though_their_answers_are_lost() -> None:
    desk = Desk()
    for number, thread in enumerate("AB"):
        desk.runs(number, thread, answers=2)
        desk.says(delta(thread, "text"))
    desk.waits(LIMITS.start_s)
    assert desk.facts == []


def test_a_damaged_line_fails_the_turn_whose_it_was() -> None:
    desk = Desk()
    victim, other = desk.runs(1, "A"), desk.runs(2, "B")
    desk.session.receive(b'{"method":"item/agentMessage/delta","params":{"threadId":"A","turnId":"x","del\n', desk.now)
    assert victim.outcome == FaultKind.PROTOCOL
    assert other.outcome is None


def test_an_answer_between_two_lost_ones_clears_the_worker() -> None:
    desk = Desk()
    desk.starts(1)
    desk.waits(LIMITS.start_s)
    desk.runs(2, "B")
    desk.starts(3)
    desk.waits(LIMITS.start_s)
    assert Unresponsive() not in desk.facts


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
    desk.says({"method": "execCommandApproval", "id": request["id"], "params": {}})
    assert desk.sent() == [{"id": request["id"], "result": {"decision": "denied"}}]
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
    desk.session.lose("killed by signal 9", desk.now)
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
    desk.session.lose("killed by signal 9", desk.now)
    assert sink.ended is not None
    assert sink.ended.fault is not None
    assert sink.ended.fault.message == "killed by signal 9"
    assert desk.session.stories() == {}


# --- a sink that talks back ------------------------------------------------------------------------------------


class FullSink(RecordingSink):
    """Asks for the end of its turn from within `push`, as a full buffer does."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    def push(self, event: TurnEvent) -> None:
        super().push(event)
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


# --- probes ------------------------------------------------------------------------------------------------------

PROBES = ProbeLimits(idle_s=5.0, timeout_s=5.0, fall=3)


def shaken(probes: ProbeLimits = PROBES) -> Desk:
    """A session whose handshake is done."""
    desk = Desk()
    desk.session = Session(LIMITS, "1.2.3", probes)
    desk.session.open(desk.now, 10.0)
    (request,) = desk.sent()
    desk.replies(request, {"userAgent": USER_AGENT})
    desk.sent()
    desk.facts.clear()
    return desk


def passes(desk: Desk, seconds: float) -> list[str]:
    """Time passes in ticks, as it does; the requests that were written meanwhile."""
    methods = []
    for _ in range(round(seconds / 0.25)):
        desk.waits(0.25)
        methods += desk.methods()
    return methods


def test_a_silent_worker_is_asked_whether_it_is_there_and_a_refusal_will_do() -> None:
    desk = shaken()
    assert passes(desk, 4.75) == []
    assert passes(desk, 0.25) == ["initialize"]
    desk.refuses(desk.unanswered[-1])
    assert passes(desk, 4.75) == []
    assert passes(desk, 0.25) == ["initialize"]
    assert desk.facts == []
    assert desk.session.counters["probe_missed"] == 0


def test_a_worker_that_answers_no_probe_has_hung_and_that_is_said_once() -> None:
    desk = shaken()
    assert passes(desk, 19.75) == ["initialize"] * 3
    assert desk.facts == []
    passes(desk, 0.25)
    assert desk.facts == [Hung()]
    passes(desk, 60.0)
    assert desk.facts == [Hung()]


def test_a_worker_that_talks_is_not_asked() -> None:
    desk = shaken()
    for _ in range(10):
        assert passes(desk, 4.0) == []
        desk.says(delta("nobody's", "text"))


def test_any_byte_between_probes_clears_the_worker() -> None:
    desk = shaken()
    passes(desk, 16.0)
    assert desk.session.counters["probe_missed"] == 2
    desk.says(delta("nobody's", "text"))
    passes(desk, 15.0)
    assert desk.facts == []


def test_a_pause_of_our_own_is_not_the_workers() -> None:
    desk = shaken()
    for _ in range(10):
        passes(desk, 5.0)
        desk.waits(60.0)
    assert desk.facts == []
    assert desk.session.counters["probe_missed"] == 0


def test_nobody_is_probed_before_the_handshake() -> None:
    desk = Desk()
    desk.session.open(desk.now, 100.0)
    assert desk.methods() == ["initialize"]
    assert passes(desk, 60.0) == []

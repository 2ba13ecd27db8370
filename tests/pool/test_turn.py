from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.errors import IllegalTransition
from pool.events import (
    Fault,
    FaultKind,
    Finish,
    Reasoning,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolSpec,
    Trace,
    TurnRequest,
    Usage,
)
from pool.protocol import dialect_v2 as dialect
from pool.protocol.messages import RpcError
from pool.turn import TRANSITIONS, Calls, Phase, Step, Turn, TurnLimits
from tests.support.examples import trying
from tests.support.sinks import RecordingSink

LIMITS = TurnLimits(start_s=10.0, first_event_s=30.0, idle_s=20.0, total_s=100.0, interrupt_s=5.0)
REQUEST = TurnRequest("m", "be brief", ({"role": "user"},))
OVERLOADED = RpcError(-32001, "Server overloaded; retry later.")
REFUSED = RpcError(-32600, "thread not found")
GONE = Fault(FaultKind.WORKER_LOST, "it was killed by signal 9")
SLOW = Fault(FaultKind.FRAME_TOO_LARGE, "a frame was too large")


class Talk:
    """A dialogue with one turn: each method is a thing that happens to it, and returns the requests it makes."""

    def __init__(self, limits: TurnLimits = LIMITS, request: TurnRequest = REQUEST) -> None:
        self.now = 1000.0
        self.sink = RecordingSink()
        self.turn = Turn(request, self.sink, limits, self.now)
        self.unanswered: list[Step] = []
        self.moves: set[tuple[Phase, Phase]] = set()
        self.sent: list[dialect.Method] = []

    def _note(self, act: Callable[[], Calls | None]) -> list[str]:
        before = self.turn.phase
        calls = act() or ()
        if self.turn.phase is not before:
            self.moves.add((before, self.turn.phase))
        self.unanswered += [call.step for call in calls]
        self.sent += [call.method for call in calls]
        return [call.method.name for call in calls]

    def begins(self) -> list[str]:
        return self._note(self.turn.begin)

    def answered(self, step: Step, result: Any = None) -> list[str]:
        self.unanswered.remove(step)
        raw = msgspec.Raw(msgspec.json.encode(result if result is not None else RESULTS[step]))
        return self._note(lambda: self.turn.on_answer(step, raw, self.now))

    def refused(self, step: Step, error: RpcError = REFUSED) -> list[str]:
        self.unanswered.remove(step)
        return self._note(lambda: self.turn.on_refusal(step, error, self.now))

    def expired(self, step: Step) -> list[str]:
        self.unanswered.remove(step)
        return self._note(lambda: self.turn.on_expiry(step, self.now))

    def hears(self, note: dialect.Notification) -> list[str]:
        calls = self._note(lambda: self.turn.on_notification(note, self.now))
        self.turn.flush()
        return calls

    def asks_leave(self) -> None:
        self.turn.acted(self.now)

    def is_stopped(self, seconds: float) -> list[str]:
        """We are, and the turn with us."""
        self.now += seconds
        self.turn.postpone(seconds)
        return self.waits(0.0)

    def abandoned(self) -> list[str]:
        return self._note(lambda: self.turn.interrupt(Finish.INTERRUPTED, self.now))

    def failed(self, fault: Fault = SLOW) -> list[str]:
        return self._note(lambda: self.turn.fail(fault, self.now))

    def lost(self) -> list[str]:
        return self._note(lambda: self.turn.lose(GONE, self.now))

    def waits(self, seconds: float) -> list[str]:
        self.now += seconds
        return self._note(lambda: self.turn.tick(self.now))

    @property
    def phase(self) -> Phase:
        return self.turn.phase

    @property
    def outcome(self) -> str | None:
        return self.sink.outcome


RESULTS: dict[Step, Any] = {
    Step.THREAD_START: {"thread": {"id": "T"}},
    Step.INJECT_ITEMS: {},
    Step.TURN_START: {"turn": {"id": "U"}},
    Step.INTERRUPT: {},
    Step.UNSUBSCRIBE: {"status": "unsubscribed"},
}


def opening() -> Talk:
    talk = Talk()
    talk.begins()
    return talk


def loading() -> Talk:
    talk = opening()
    talk.answered(Step.THREAD_START)
    return talk


def running_unknown() -> Talk:
    """Running, and neither the answer to turn/start nor a sign of the turn has come yet."""
    talk = loading()
    talk.answered(Step.INJECT_ITEMS)
    return talk


def running() -> Talk:
    talk = running_unknown()
    talk.answered(Step.TURN_START)
    return talk


def interrupting() -> Talk:
    talk = running()
    talk.abandoned()
    return talk


def closing() -> Talk:
    talk = running()
    talk.hears(completed())
    return talk


def closed() -> Talk:
    talk = closing()
    talk.answered(Step.UNSUBSCRIBE)
    return talk


STAGES: list[Callable[[], Talk]] = [opening, loading, running_unknown, running, interrupting, closing, closed]


def delta(text: str, item: str = "msg_1") -> dialect.Notification:
    return dialect.AgentMessageDelta("T", "U", item, text)


def reasoning(text: str) -> dialect.Notification:
    return dialect.ReasoningSummaryDelta("T", "U", "rs_1", text, 1)


def item(kind: str, turn_id: str = "U", **fields: Any) -> dialect.Notification:
    body = {"threadId": "T", "turnId": turn_id, "item": {"type": kind, **fields}}
    note = dialect.notification("rawResponseItem/completed", msgspec.Raw(msgspec.json.encode(body)))
    assert note is not None
    return note


def function_call(
    name: str, call_id: str = "call_1", arguments: str = "{}", turn_id: str = "U"
) -> dialect.Notification:
    return item("function_call", turn_id, name=name, call_id=call_id, arguments=arguments)


def response_completed() -> dialect.Notification:
    return dialect.RawResponseCompleted("T", "U")


def usage(tokens: int) -> dialect.Notification:
    body = {"threadId": "T", "turnId": "U", "tokenUsage": {"total": {"inputTokens": tokens}, "last": {}}}
    note = dialect.notification("thread/tokenUsage/updated", msgspec.Raw(msgspec.json.encode(body)))
    assert note is not None
    return note


def completed(status: str = "completed", **fields: Any) -> dialect.Notification:
    body = {"threadId": "T", "turn": {"id": "U", "status": status, **fields}}
    note = dialect.notification("turn/completed", msgspec.Raw(msgspec.json.encode(body)))
    assert note is not None
    return note


def heard() -> Talk:
    """Running, and it has said a word."""
    talk = running()
    talk.hears(delta("x"))
    return talk


def message(text: str, item_id: str) -> dict[str, Any]:
    return {"type": "agentMessage", "id": item_id, "text": text}


# --- when all goes well ------------------------------------------------------------------------------------------


def test_a_turn_is_opened_loaded_run_and_closed() -> None:
    talk = Talk()
    assert talk.begins() == ["thread/start"]
    assert talk.answered(Step.THREAD_START) == ["thread/inject_items"]
    assert talk.answered(Step.INJECT_ITEMS) == ["turn/start"]
    assert talk.answered(Step.TURN_START) == []
    assert talk.hears(reasoning("hm")) == []
    assert talk.hears(delta("Hel")) == []
    assert talk.hears(delta("lo")) == []
    assert talk.hears(usage(7)) == []
    assert talk.outcome is None
    assert talk.hears(completed(items=[message("Hello", "msg_1")])) == ["thread/unsubscribe"]
    assert talk.sink.events == [ReasoningDelta("hm", "rs_1", 1), TextDelta("Hel"), TextDelta("lo")]
    assert talk.outcome == Finish.STOP
    assert talk.sink.ended is not None
    assert talk.sink.ended.usage == Usage(input_tokens=7)
    assert not talk.turn.is_closed
    assert talk.answered(Step.UNSUBSCRIBE) == []
    assert talk.turn.is_closed


def test_every_request_speaks_of_the_thread_that_was_started() -> None:
    talk = interrupting()
    talk.hears(completed("interrupted"))
    started, injected, turn, interrupt, unsubscribe = talk.sent
    assert started.params["baseInstructions"] == "be brief"
    assert injected.params == {"threadId": "T", "items": REQUEST.items}
    assert turn.params["threadId"] == "T"
    assert interrupt.params == {"threadId": "T", "turnId": "U"}
    assert unsubscribe.params == {"threadId": "T"}


THOUGHT = item(
    "reasoning", id="rs_1", summary=[{"type": "summary_text", "text": "a"}, {"text": "b"}], encrypted_content="E"
)


def test_a_whole_item_of_reasoning_is_told_where_it_is_wanted() -> None:
    talk = Talk(request=msgspec.structs.replace(REQUEST, reasoning_items=True))
    talk.begins()
    for step in (Step.THREAD_START, Step.INJECT_ITEMS, Step.TURN_START):
        talk.answered(step)
    talk.hears(item("reasoning", "auto-compact-0", id="rs_0", summary=[]))
    talk.hears(THOUGHT)
    talk.hears(item("reasoning", id=None, summary=[], encrypted_content=None))
    assert talk.sink.events == [Reasoning("rs_1", ("a", "b"), "E"), Reasoning("", (), "")]


def test_a_whole_item_of_reasoning_is_not_told_where_it_is_not() -> None:
    talk = running()
    talk.hears(THOUGHT)
    assert talk.sink.events == []


def test_events_may_come_before_the_answer_to_turn_start() -> None:
    talk = running_unknown()
    assert talk.hears(delta("early")) == []
    assert talk.hears(completed()) == ["thread/unsubscribe"]
    assert talk.answered(Step.TURN_START) == []
    assert (talk.sink.text, talk.outcome) == ("early", Finish.STOP)
    talk.answered(Step.UNSUBSCRIBE)
    assert talk.turn.is_closed


def test_text_that_was_never_streamed_is_taken_from_the_completed_turn() -> None:
    talk = running()
    talk.hears(completed(items=[{"type": "reasoning", "id": "rs_1", "text": "no"}, message("All of it", "msg_1")]))
    assert talk.sink.events == [TextDelta("All of it")]
    assert talk.outcome == Finish.STOP


def test_text_that_was_streamed_is_not_repeated_from_the_completed_turn() -> None:
    talk = running()
    for text, item_id in (("one ", "msg_1"), ("two ", "msg_2"), ("again ", "msg_1")):
        talk.hears(delta(text, item_id))
    talk.hears(completed(items=[message("one again", "msg_1"), message("two", "msg_2"), message("three", "msg_3")]))
    assert talk.sink.text == "one two again three"


def test_a_failed_turn_repeats_no_text() -> None:
    talk = running()
    talk.hears(completed("failed", items=[message("half", "msg_1")], error={"message": "x"}))
    assert talk.sink.events == []


def test_usage_is_the_last_that_was_told() -> None:
    talk = running()
    talk.hears(usage(1))
    talk.hears(usage(2))
    talk.hears(completed())
    assert talk.sink.ended is not None
    assert talk.sink.ended.usage == Usage(input_tokens=2)


# --- tool calls --------------------------------------------------------------------------------------------------


def test_tool_calls_end_the_turn_with_an_interrupt_once_all_have_come() -> None:
    talk = running()
    talk.hears(delta("Checking."))
    assert talk.hears(function_call("weather", "call_1", '{"city":"Rome"}')) == []
    assert talk.hears(function_call("weather", "call_2", "not even json")) == []
    assert talk.hears(response_completed()) == ["turn/interrupt"]
    assert talk.outcome is None
    talk.hears(usage(5))
    assert talk.hears(completed("interrupted")) == ["thread/unsubscribe"]
    assert talk.sink.calls == [
        ToolCall("call_1", "weather", '{"city":"Rome"}'),
        ToolCall("call_2", "weather", "not even json"),
    ]
    assert talk.outcome == Finish.TOOL_CALLS
    assert talk.sink.ended is not None
    assert talk.sink.ended.usage == Usage(input_tokens=5)


def test_a_function_whose_name_the_app_server_swallows_is_called_by_its_own() -> None:
    tools = (ToolSpec("exec_command", "Runs.", {"type": "object"}),)
    talk = Talk(request=TurnRequest("m", "", ({"type": "function_call", "name": "exec_command"},), tools))
    talk.begins()
    talk.answered(Step.THREAD_START)
    talk.answered(Step.INJECT_ITEMS)
    opened, loaded, _ = (method.params for method in talk.sent)
    assert [tool["name"] for tool in opened["dynamicTools"]] == ["_exec_command"]
    assert loaded["items"] == ({"type": "function_call", "name": "_exec_command"},)
    talk.hears(function_call("_exec_command"))
    talk.hears(function_call("_unheard_of"))
    assert [call.name for call in talk.sink.calls] == ["exec_command", "_unheard_of"]


def test_functions_that_the_app_server_refuses_are_the_clients_mistake() -> None:
    talk = opening()
    talk.refused(Step.THREAD_START, RpcError(-32600, "dynamic tool input schema is not supported for f: no map"))
    assert talk.sink.ended is not None
    assert talk.sink.ended.fault is not None
    assert talk.sink.ended.fault.kind is FaultKind.BAD_REQUEST
    assert not talk.turn.is_workers_fault


def test_tool_calls_are_the_outcome_even_if_the_turn_ends_otherwise() -> None:
    for status in ("completed", "failed"):
        talk = running()
        talk.hears(function_call("weather"))
        talk.hears(response_completed())
        talk.hears(completed(status, error={"message": "too late"}))
        assert talk.outcome == Finish.TOOL_CALLS


def test_a_response_without_calls_lets_the_turn_go_on() -> None:
    talk = running()
    talk.hears(item("message"))
    assert talk.hears(response_completed()) == []
    talk.hears(completed())
    assert talk.outcome == Finish.STOP


def test_calls_may_come_before_the_answer_to_turn_start() -> None:
    talk = running_unknown()
    talk.hears(function_call("weather"))
    assert talk.hears(response_completed()) == ["turn/interrupt"]
    talk.hears(completed("interrupted"))
    assert talk.outcome == Finish.TOOL_CALLS


def test_the_echo_of_the_injected_history_is_no_event_and_no_sign_of_the_turn() -> None:
    talk = running_unknown()
    assert talk.hears(function_call("weather", turn_id="auto-compact-0")) == []
    talk.answered(Step.TURN_START)
    assert talk.waits(LIMITS.first_event_s) == ["turn/interrupt"]
    assert talk.sink.events == []
    assert talk.outcome == FaultKind.FIRST_EVENT_TIMEOUT


def test_a_call_in_the_injected_history_does_not_end_the_turn() -> None:
    talk = running()
    talk.hears(function_call("weather", turn_id="auto-compact-0"))
    assert talk.hears(response_completed()) == []
    talk.hears(completed())
    assert (talk.sink.events, talk.outcome) == ([], Finish.STOP)


def test_the_echo_does_not_give_the_turn_its_id() -> None:
    talk = running_unknown()
    talk.abandoned()
    assert talk.hears(function_call("weather", turn_id="auto-compact-0")) == []
    assert talk.answered(Step.TURN_START) == ["turn/interrupt"]
    assert talk.sent[-1].params["turnId"] == "U"


# --- the client is gone ------------------------------------------------------------------------------------------


def test_abandoned_while_opening_it_ends_when_the_thread_is_there() -> None:
    talk = opening()
    assert talk.abandoned() == []
    assert talk.answered(Step.THREAD_START) == ["thread/unsubscribe"]
    assert talk.outcome == Finish.INTERRUPTED
    talk.answered(Step.UNSUBSCRIBE)
    assert talk.turn.is_closed


def test_abandoned_while_loading_it_never_runs() -> None:
    talk = loading()
    assert talk.abandoned() == []
    assert talk.answered(Step.INJECT_ITEMS) == ["thread/unsubscribe"]
    assert talk.outcome == Finish.INTERRUPTED


def test_abandoned_before_the_turn_has_an_id_it_is_interrupted_with_the_answer() -> None:
    talk = running_unknown()
    assert talk.abandoned() == []
    assert talk.answered(Step.TURN_START) == ["turn/interrupt"]
    assert talk.hears(completed("interrupted")) == ["thread/unsubscribe"]
    assert talk.outcome == Finish.INTERRUPTED


@pytest.mark.parametrize(
    "sign", [delta("x"), reasoning("x"), function_call("f"), usage(1)], ids=lambda n: type(n).__name__
)
def test_abandoned_before_the_turn_has_an_id_it_is_interrupted_at_the_first_sign(sign: dialect.Notification) -> None:
    talk = running_unknown()
    talk.abandoned()
    assert talk.hears(sign) == ["turn/interrupt"]
    assert talk.answered(Step.TURN_START) == []
    talk.hears(completed("interrupted"))
    assert talk.outcome == Finish.INTERRUPTED
    assert talk.sink.events == []


def test_abandoned_while_running_it_is_interrupted_at_once_and_only_once() -> None:
    talk = running()
    talk.hears(delta("one"))
    assert talk.abandoned() == ["turn/interrupt"]
    assert talk.abandoned() == []
    talk.hears(delta("two"))
    talk.hears(reasoning("two"))
    talk.hears(function_call("two"))
    assert talk.hears(response_completed()) == []
    talk.answered(Step.INTERRUPT)
    assert talk.hears(completed("interrupted")) == ["thread/unsubscribe"]
    assert talk.sink.events == [TextDelta("one")]
    assert talk.outcome == Finish.INTERRUPTED


@pytest.mark.parametrize("stage", [closing, closed])
def test_abandoned_when_it_is_over_it_stays_as_it_is(stage: Callable[[], Talk]) -> None:
    talk = stage()
    assert talk.abandoned() == []
    assert talk.outcome == Finish.STOP


def test_a_turn_that_has_ended_by_itself_refuses_the_interrupt_and_that_is_fine() -> None:
    talk = interrupting()
    assert talk.refused(Step.INTERRUPT, RpcError(-32600, "no active turn to interrupt")) == []
    talk.hears(completed())
    assert talk.outcome == Finish.INTERRUPTED


def test_an_interrupt_that_is_ignored_gives_the_client_its_end_and_keeps_the_seat() -> None:
    talk = interrupting()
    talk.answered(Step.INTERRUPT)
    talk.hears(delta("still here"))
    assert talk.waits(LIMITS.interrupt_s - 0.1) == []
    assert not talk.turn.ignored_interrupt
    talk.waits(0.1)
    assert talk.turn.ignored_interrupt
    assert talk.outcome == Finish.INTERRUPTED
    assert not talk.turn.is_closed
    talk.waits(1000.0)
    assert talk.hears(completed("completed")) == ["thread/unsubscribe"]
    talk.answered(Step.UNSUBSCRIBE)
    assert talk.turn.is_closed


def test_an_interrupt_in_time_is_not_ignored() -> None:
    talk = interrupting()
    talk.waits(LIMITS.interrupt_s - 0.1)
    talk.hears(completed("interrupted"))
    talk.waits(LIMITS.interrupt_s)
    assert not talk.turn.ignored_interrupt


# --- too slow ----------------------------------------------------------------------------------------------------


def test_silence_after_the_start_is_a_first_event_timeout() -> None:
    talk = running()
    assert talk.waits(LIMITS.first_event_s - 0.1) == []
    assert talk.waits(0.1) == ["turn/interrupt"]
    assert talk.outcome == FaultKind.FIRST_EVENT_TIMEOUT
    assert talk.hears(completed("interrupted")) == ["thread/unsubscribe"]
    assert talk.outcome == FaultKind.FIRST_EVENT_TIMEOUT


def test_the_wait_for_the_first_event_begins_with_turn_start() -> None:
    talk = loading()
    talk.waits(LIMITS.first_event_s - 1.0)
    talk.answered(Step.INJECT_ITEMS)
    assert talk.waits(LIMITS.first_event_s - 1.0) == []
    talk.answered(Step.TURN_START)
    assert talk.waits(1.0) == ["turn/interrupt"]
    assert talk.outcome == FaultKind.FIRST_EVENT_TIMEOUT


def test_silence_after_a_sign_is_an_idle_timeout() -> None:
    talk = running()
    for _ in range(3):
        talk.hears(delta("x"))
        assert talk.waits(LIMITS.idle_s - 0.1) == []
    assert talk.waits(0.1) == ["turn/interrupt"]
    assert talk.outcome == FaultKind.IDLE_TIMEOUT


@pytest.mark.parametrize(
    "sign", [reasoning("x"), usage(1), item("reasoning"), delta("x")], ids=lambda n: type(n).__name__
)
def test_every_sign_of_the_turn_counts_as_progress(sign: dialect.Notification) -> None:
    talk = running()
    for _ in range(4):
        talk.hears(sign)
        assert talk.waits(LIMITS.idle_s - 0.1) == []
    assert talk.outcome is None


def test_a_turn_that_only_talks_has_a_total_limit() -> None:
    talk = running()
    began_at = talk.now
    requests: list[str] = []
    while not requests:
        talk.hears(delta("x"))
        requests = talk.waits(1.0)
    assert requests == ["turn/interrupt"]
    assert talk.now - began_at == LIMITS.total_s
    assert talk.outcome == FaultKind.TURN_TIMEOUT


@pytest.mark.parametrize("stage", [opening, loading, running_unknown])
def test_the_total_limit_counts_from_the_lease_in_every_phase(stage: Callable[[], Talk]) -> None:
    talk = stage()
    assert talk.waits(LIMITS.total_s) == []
    assert talk.outcome == FaultKind.TURN_TIMEOUT
    step = talk.unanswered[0]
    assert talk.answered(step) in (["thread/unsubscribe"], ["turn/interrupt"])


@pytest.mark.parametrize("stage", [closing, closed])
def test_a_turn_that_has_ended_has_no_limits_any_more(stage: Callable[[], Talk]) -> None:
    talk = stage()
    assert talk.waits(10_000.0) == []
    assert talk.outcome == Finish.STOP


# --- requests that get no answer, or a refusal -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "step"),
    [(opening, Step.THREAD_START), (loading, Step.INJECT_ITEMS), (running_unknown, Step.TURN_START)],
)
def test_an_opening_request_without_an_answer_is_a_start_timeout(stage: Callable[[], Talk], step: Step) -> None:
    talk = stage()
    requests = talk.expired(step)
    assert talk.outcome == FaultKind.START_TIMEOUT
    assert requests == ([] if step is Step.THREAD_START else ["thread/unsubscribe"])
    assert talk.turn.is_closed is (step is Step.THREAD_START)


@pytest.mark.parametrize(
    ("stage", "step"),
    [(opening, Step.THREAD_START), (loading, Step.INJECT_ITEMS), (running_unknown, Step.TURN_START)],
)
@pytest.mark.parametrize(
    ("error", "kind"), [(REFUSED, FaultKind.WORKER_REFUSED), (OVERLOADED, FaultKind.WORKER_OVERLOADED)]
)
def test_an_opening_request_that_is_refused_fails_the_turn(
    stage: Callable[[], Talk], step: Step, error: RpcError, kind: FaultKind
) -> None:
    talk = stage()
    requests = talk.refused(step, error)
    assert talk.sink.ended is not None
    assert talk.sink.ended.fault == Fault(kind, error.message)
    assert requests == ([] if step is Step.THREAD_START else ["thread/unsubscribe"])


@pytest.mark.parametrize(
    "sign", [delta("x"), reasoning("x"), function_call("f"), usage(1)], ids=lambda n: type(n).__name__
)
def test_a_lost_answer_to_turn_start_does_no_harm_once_the_turn_shows(sign: dialect.Notification) -> None:
    talk = running_unknown()
    talk.hears(sign)
    assert talk.expired(Step.TURN_START) == []
    assert talk.outcome is None
    assert talk.abandoned() == ["turn/interrupt"]


@pytest.mark.parametrize("fate", ["expired", "refused"])
@pytest.mark.parametrize("stage", ["completed", "interrupted"])
def test_what_becomes_of_turn_start_is_nothing_to_a_turn_that_is_past_it(fate: str, stage: str) -> None:
    talk = running_unknown()
    talk.hears(delta("x"))
    if stage == "completed":
        talk.hears(completed())
    else:
        talk.abandoned()
    before = talk.phase
    assert (talk.expired if fate == "expired" else talk.refused)(Step.TURN_START) == []
    assert talk.phase is before


@pytest.mark.parametrize("fate", ["expired", "refused"])
def test_the_seat_is_free_even_if_the_worker_will_not_unsubscribe(fate: str) -> None:
    talk = closing()
    (talk.expired if fate == "expired" else talk.refused)(Step.UNSUBSCRIBE)
    assert talk.turn.is_closed
    assert talk.outcome == Finish.STOP


def test_a_lost_answer_to_the_interrupt_changes_nothing() -> None:
    talk = interrupting()
    assert talk.expired(Step.INTERRUPT) == []
    assert talk.hears(completed("interrupted")) == ["thread/unsubscribe"]


@pytest.mark.parametrize("stage", [opening, running_unknown])
def test_an_answer_that_breaks_its_promise_is_an_error_that_changes_nothing(stage: Callable[[], Talk]) -> None:
    talk = stage()
    before = talk.phase
    with pytest.raises(msgspec.MsgspecError):
        talk.answered(talk.unanswered[0], {"something": "else"})
    assert (talk.phase, talk.outcome) == (before, None)


# --- failures ----------------------------------------------------------------------------------------------------


def test_a_failed_turn_carries_its_fault_and_what_it_cost() -> None:
    talk = running()
    talk.hears(delta("half"))
    talk.hears(usage(3))
    talk.hears(completed("failed", error={"message": "gone", "codexErrorInfo": "serverOverloaded"}))
    assert talk.sink.ended is not None
    assert talk.sink.ended.fault == Fault(FaultKind.OVERLOADED, "gone")
    assert talk.sink.ended.usage == Usage(input_tokens=3)


def test_an_answer_that_was_cut_off_is_a_finish() -> None:
    talk = running()
    error = {"message": "Incomplete response returned, reason: max_output_tokens", "codexErrorInfo": "other"}
    talk.hears(completed("failed", error=error))
    assert talk.outcome == Finish.LENGTH


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        ("failed", None, FaultKind.UPSTREAM),
        ("aStatusFromTomorrow", None, FaultKind.UPSTREAM),
        ("interrupted", None, FaultKind.PROTOCOL),
    ],
)
def test_an_end_that_nobody_asked_for_is_a_fault(status: str, error: Any, kind: FaultKind) -> None:
    talk = running()
    talk.hears(completed(status, error=error))
    assert talk.outcome == kind


@pytest.mark.parametrize("stage", STAGES)
def test_a_turn_is_lost_with_its_worker_whatever_it_is_doing(stage: Callable[[], Talk]) -> None:
    talk = stage()
    before = talk.outcome
    talk.lost()
    assert talk.turn.is_closed
    assert talk.outcome == (before or FaultKind.WORKER_LOST)


@pytest.mark.parametrize("stage", [running, running_unknown, loading, opening])
def test_a_turn_can_be_failed_from_outside_and_the_client_knows_at_once(stage: Callable[[], Talk]) -> None:
    talk = stage()
    talk.failed()
    assert talk.sink.ended is not None
    assert talk.sink.ended.fault == SLOW
    talk.failed(Fault(FaultKind.PROTOCOL, "again"))
    talk.hears(delta("late"))
    assert talk.sink.events == []


def test_whose_fault_the_loss_of_a_worker_is_is_told_as_it_was_said() -> None:
    for fault in (GONE, Fault(FaultKind.WORKER_REPLACED, "it is old")):
        talk = running()
        talk.turn.lose(fault, talk.now)
        assert talk.sink.ended is not None
        assert talk.sink.ended.fault == fault
        assert not talk.turn.is_workers_fault


# --- what a turn that failed has left behind ---------------------------------------------------------------------

FATAL: list[Callable[[Talk], object]] = [
    lambda talk: talk.lost(),
    lambda talk: talk.failed(),
    lambda talk: talk.waits(LIMITS.total_s),
]


def trace_of(talk: Talk) -> Trace:
    """What the end says."""
    assert talk.sink.ended is not None
    assert talk.sink.ended.fault is not None
    assert talk.sink.ended.trace is talk.turn.trace
    return talk.sink.ended.trace


@pytest.mark.parametrize("stage", [opening, loading, running_unknown, running])
@pytest.mark.parametrize("fatal", FATAL)
def test_a_turn_that_has_said_nothing_leaves_no_trace_however_it_fails(
    stage: Callable[[], Talk], fatal: Callable[[Talk], object]
) -> None:
    talk = stage()
    assert talk.turn.is_untouched
    fatal(talk)
    assert trace_of(talk) is Trace.NONE
    assert not talk.turn.is_untouched, "it has had its end"


@pytest.mark.parametrize(
    ("stage", "step"),
    [(opening, Step.THREAD_START), (loading, Step.INJECT_ITEMS), (running_unknown, Step.TURN_START)],
)
@pytest.mark.parametrize("fate", ["expired", "refused", "overloaded"])
def test_a_turn_that_could_not_begin_leaves_no_trace(stage: Callable[[], Talk], step: Step, fate: str) -> None:
    talk = stage()
    if fate == "expired":
        talk.expired(step)
    else:
        talk.refused(step, REFUSED if fate == "refused" else OVERLOADED)
    assert trace_of(talk) is Trace.NONE


@pytest.mark.parametrize(
    "sign",
    [usage(1), item("message"), item("reasoning"), function_call("f", turn_id="auto-compact-0"), response_completed()],
    ids=["usage", "message", "reasoning", "echo", "response"],
)
def test_what_nobody_is_told_is_no_trace(sign: dialect.Notification) -> None:
    talk = running()
    talk.hears(sign)
    assert talk.turn.is_untouched
    talk.lost()
    assert trace_of(talk) is Trace.NONE


@pytest.mark.parametrize("sign", [delta("x"), reasoning("x"), function_call("f")], ids=lambda n: type(n).__name__)
@pytest.mark.parametrize("fatal", FATAL)
def test_a_turn_that_has_said_anything_has_spoken(sign: dialect.Notification, fatal: Callable[[Talk], object]) -> None:
    talk = running()
    talk.hears(sign)
    assert not talk.turn.is_untouched
    fatal(talk)
    assert trace_of(talk) is Trace.SPOKEN


@pytest.mark.parametrize("stage", [opening, loading, running_unknown, running])
@pytest.mark.parametrize("fatal", FATAL)
def test_a_turn_that_asked_leave_for_something_has_acted(
    stage: Callable[[], Talk], fatal: Callable[[Talk], object]
) -> None:
    talk = stage()
    talk.asks_leave()
    assert not talk.turn.is_untouched
    fatal(talk)
    assert trace_of(talk) is Trace.ACTED


def test_a_turn_that_has_spoken_and_acted_has_spoken_in_either_order() -> None:
    for acts_first in (True, False):
        talk = running()
        if acts_first:
            talk.asks_leave()
        talk.hears(delta("x"))
        if not acts_first:
            talk.asks_leave()
        talk.lost()
        assert trace_of(talk) is Trace.SPOKEN


def test_a_failure_that_was_reported_with_words_that_were_not_told_leaves_no_trace() -> None:
    talk = running()
    talk.hears(completed("failed", items=[message("half", "msg_1")], error={"message": "x"}))
    assert trace_of(talk) is Trace.NONE


def test_words_that_come_when_nobody_wants_them_leave_no_trace() -> None:
    talk = interrupting()
    talk.hears(delta("x"))
    assert talk.turn.trace is Trace.NONE


@pytest.mark.parametrize("stage", [interrupting, closing, closed])
def test_a_turn_that_is_wanted_no_more_or_over_need_not_run_elsewhere(stage: Callable[[], Talk]) -> None:
    assert not stage().turn.is_untouched


def test_a_turn_whose_client_left_before_it_could_be_interrupted_need_not_run_elsewhere() -> None:
    talk = opening()
    talk.abandoned()
    assert not talk.turn.is_untouched


# --- on a worker that is silent altogether -----------------------------------------------------------------------


@pytest.mark.parametrize("stage", [opening, running, heard])
@pytest.mark.parametrize("is_mute", [True, False])
def test_a_turn_that_is_overdue_on_a_silent_worker_was_lost_by_the_worker(
    stage: Callable[[], Talk], is_mute: bool
) -> None:
    talk = stage()
    trace = talk.turn.trace
    talk.turn.tick(talk.now + LIMITS.total_s, is_mute=is_mute)
    assert talk.outcome == (FaultKind.WORKER_LOST if is_mute else FaultKind.TURN_TIMEOUT)
    assert trace_of(talk) is trace


def test_a_turn_that_is_not_overdue_waits_for_a_silent_worker() -> None:
    talk = running()
    talk.turn.tick(talk.now + LIMITS.first_event_s - 0.1, is_mute=True)
    assert talk.outcome is None


def test_a_fault_that_is_known_before_the_end_is_the_one_that_is_told() -> None:
    talk = opening()
    talk.turn.blame(GONE, talk.now)
    talk.expired(Step.THREAD_START)
    assert talk.sink.ended is not None
    assert talk.sink.ended.fault == GONE
    assert talk.turn.is_closed


# --- stalls of ours ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "limit_s", "kind"),
    [
        (opening, LIMITS.total_s, FaultKind.TURN_TIMEOUT),
        (running, LIMITS.first_event_s, FaultKind.FIRST_EVENT_TIMEOUT),
        (heard, LIMITS.idle_s, FaultKind.IDLE_TIMEOUT),
    ],
    ids=["total", "first event", "idle"],
)
@pytest.mark.parametrize("stall_s", [1.5, 1e6])
def test_the_time_that_we_were_stopped_is_not_the_turns(
    stage: Callable[[], Talk], limit_s: float, kind: FaultKind, stall_s: float
) -> None:
    talk = stage()
    talk.waits(limit_s - 1.0)
    talk.is_stopped(stall_s)
    talk.waits(0.75)
    assert talk.outcome is None
    talk.waits(0.25)
    assert talk.outcome == kind


def test_the_time_that_we_were_stopped_is_no_ignored_interrupt() -> None:
    talk = interrupting()
    talk.waits(LIMITS.interrupt_s - 1.0)
    talk.is_stopped(3600.0)
    talk.waits(0.75)
    assert not talk.turn.ignored_interrupt
    talk.waits(0.25)
    assert talk.turn.ignored_interrupt


# --- every phase, every stimulus ---------------------------------------------------------------------------------

NOTES: list[Callable[[], dialect.Notification]] = [
    lambda: delta("x"),
    lambda: reasoning("x"),
    lambda: function_call("f"),
    lambda: function_call("f", turn_id="auto-compact-1"),
    lambda: item("message"),
    response_completed,
    lambda: usage(1),
    lambda: completed("completed", items=[message("all", "msg_9")]),
    lambda: completed("interrupted"),
    lambda: completed("failed"),
]

OUTSIDE: list[Callable[[Talk], object]] = [
    lambda talk: talk.abandoned(),
    lambda talk: talk.failed(),
    lambda talk: talk.lost(),
    lambda talk: talk.asks_leave(),
    lambda talk: talk.is_stopped(2 * LIMITS.total_s),
    lambda talk: talk.waits(0.0),
    lambda talk: talk.waits(LIMITS.interrupt_s),
    lambda talk: talk.waits(LIMITS.idle_s),
    lambda talk: talk.waits(LIMITS.first_event_s),
    lambda talk: talk.waits(LIMITS.total_s),
]

FATES: list[Callable[[Talk, Step], object]] = [
    lambda talk, step: talk.answered(step),
    lambda talk, step: talk.refused(step),
    lambda talk, step: talk.refused(step, OVERLOADED),
    lambda talk, step: talk.expired(step),
]

STIMULI = len(NOTES) + len(OUTSIDE) + len(FATES)


def strike(talk: Talk, number: int) -> None:
    """One of all the things that can happen to a turn; the last kinds only if a request is unanswered."""
    if number < len(NOTES):
        talk.hears(NOTES[number]())
    elif number < len(NOTES) + len(OUTSIDE):
        OUTSIDE[number - len(NOTES)](talk)
    elif talk.unanswered:
        FATES[number - len(NOTES) - len(OUTSIDE)](talk, talk.unanswered[0])


def be_silent(talk: Talk) -> None:
    """From now on the worker says nothing: everything has to end by our own clocks."""
    waited = 0.0
    while waited <= LIMITS.total_s + LIMITS.interrupt_s + 2 * LIMITS.start_s and not talk.turn.is_closed:
        talk.waits(1.0)
        waited += 1.0
        if waited % LIMITS.start_s == 0:
            for step in list(talk.unanswered):
                if not talk.turn.is_closed:
                    talk.expired(step)


def check_end(talk: Talk) -> None:
    assert talk.turn.has_ended, str(talk.turn.story)
    assert talk.outcome is not None
    assert talk.turn.is_closed or talk.turn.ignored_interrupt, str(talk.turn.story)
    assert all(target in TRANSITIONS[source] for source, target in talk.moves)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("number", range(STIMULI))
def test_whatever_happens_in_whatever_phase_the_turn_comes_to_an_end(stage: Callable[[], Talk], number: int) -> None:
    talk = stage()
    strike(talk, number)
    be_silent(talk)
    check_end(talk)


ANSWERED = len(NOTES) + len(OUTSIDE)


@given(
    st.sampled_from(STAGES),
    st.lists(st.one_of(st.just(ANSWERED), st.integers(0, STIMULI - 1)), min_size=2, max_size=14),
)
@trying(5)
def test_no_course_of_events_breaks_a_turn_or_leaves_it_open(stage: Callable[[], Talk], numbers: list[int]) -> None:
    talk = stage()
    for number in numbers:
        if talk.turn.is_closed:
            break
        strike(talk, number)
    be_silent(talk)
    check_end(talk)


def test_the_table_has_no_move_that_never_happens() -> None:
    seen: set[tuple[Phase, Phase]] = set()
    for stage in STAGES:
        for first in range(STIMULI):
            for second in range(STIMULI):
                talk = stage()
                strike(talk, first)
                if not talk.turn.is_closed:
                    strike(talk, second)
                seen |= talk.moves
    assert seen == {(source, target) for source, targets in TRANSITIONS.items() for target in targets}


def test_a_move_that_is_not_in_the_table_is_our_bug_and_tells_the_story() -> None:
    talk = closed()
    with pytest.raises(IllegalTransition, match=r"CLOSED -> CLOSED(.|\n)*RUNNING"):
        talk.turn.on_answer(Step.UNSUBSCRIBE, msgspec.Raw(b"{}"), talk.now)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from pool.events import Fault, FaultKind, Finish, ToolSpec, TurnRequest, Usage
from pool.protocol import dialect_v2 as dialect
from pool.protocol.dialect_v2 import TurnErrorInfo

DATA = Path(__file__).with_name("data")


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


# --- what the recorded failures mean -----------------------------------------------------------------------------


class Recorded(NamedTuple):
    """One failed turn of the real CLI against an upstream that failed as `upstream` says."""

    cli: str
    upstream: str
    error: TurnErrorInfo


def recorded() -> list[Recorded]:
    lines = (DATA / "upstream_errors.jsonl").read_text().splitlines()
    out = []
    for line in lines:
        row = json.loads(line)
        note = dialect.notification("turn/completed", raw(row["frame"]["params"]))
        assert isinstance(note, dialect.TurnCompleted)
        assert note.turn.status == "failed"
        assert note.turn.error is not None
        out.append(Recorded(row["cli"], row["upstream"], note.turn.error))
    return out


RECORDED_MEANS: dict[str, FaultKind | Finish] = {
    "400": FaultKind.BAD_REQUEST,
    "400 context_length_exceeded": FaultKind.CONTEXT_LENGTH,
    "401": FaultKind.CREDENTIALS,
    "404 model_not_found": FaultKind.MODEL_NOT_FOUND,
    "429 rate_limit_exceeded": FaultKind.RATE_LIMIT,
    "500": FaultKind.UPSTREAM,
    "503": FaultKind.OVERLOADED,
    "connection dropped in the middle": FaultKind.UPSTREAM,
    "incomplete max_output_tokens": Finish.LENGTH,
    "response.failed rate_limit_exceeded": FaultKind.RATE_LIMIT,
}


@pytest.mark.parametrize("row", recorded(), ids=lambda row: f"{row.cli}: {row.upstream}")
def test_a_recorded_failure_is_told_in_our_words(row: Recorded) -> None:
    meant = RECORDED_MEANS[row.upstream]
    if isinstance(meant, Finish):
        assert dialect.incomplete(row.error) is meant
    else:
        assert dialect.incomplete(row.error) is None
        assert dialect.fault(row.error).kind is meant


def test_every_recorded_failure_is_in_both_versions() -> None:
    rows = recorded()
    assert {(row.cli, row.upstream) for row in rows} == {
        (cli, upstream) for cli in ("0.163.0", "0.169.0") for upstream in RECORDED_MEANS
    }


# --- the whole open set ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "kind", "status"),
    [
        ("contextWindowExceeded", FaultKind.CONTEXT_LENGTH, None),
        ("sessionBudgetExceeded", FaultKind.QUOTA, None),
        ("usageLimitExceeded", FaultKind.QUOTA, None),
        ("rateLimitExceeded", FaultKind.RATE_LIMIT, None),
        ("flexUnavailable", FaultKind.OVERLOADED, None),
        ("serverOverloaded", FaultKind.OVERLOADED, None),
        ("policyCapacityUnavailable", FaultKind.OVERLOADED, None),
        ("modelNotFound", FaultKind.MODEL_NOT_FOUND, None),
        ("cyberPolicy", FaultKind.CONTENT_POLICY, None),
        ("misalignmentPolicyViolation", FaultKind.CONTENT_POLICY, None),
        ("unauthorized", FaultKind.CREDENTIALS, None),
        ("badRequest", FaultKind.BAD_REQUEST, None),
        ("internalServerError", FaultKind.UPSTREAM, None),
        ("inferenceHookDenied", FaultKind.UPSTREAM, None),
        ("tooManyDenials", FaultKind.UPSTREAM, None),
        ("threadRollbackFailed", FaultKind.UPSTREAM, None),
        ("sandboxError", FaultKind.UPSTREAM, None),
        ("other", FaultKind.UPSTREAM, None),
        ("aNameFromTomorrow", FaultKind.UPSTREAM, None),
        (None, FaultKind.UPSTREAM, None),
        (42, FaultKind.UPSTREAM, None),
        ([], FaultKind.UPSTREAM, None),
        ({}, FaultKind.UPSTREAM, None),
        ({"aNameFromTomorrow": {}}, FaultKind.UPSTREAM, None),
        ({"activeTurnNotSteerable": {"turnKind": "review"}}, FaultKind.UPSTREAM, None),
        ({"httpConnectionFailed": None}, FaultKind.UPSTREAM_UNREACHABLE, None),
        ({"httpConnectionFailed": {"httpStatusCode": None}}, FaultKind.UPSTREAM_UNREACHABLE, None),
        ({"httpConnectionFailed": {"httpStatusCode": "many"}}, FaultKind.UPSTREAM_UNREACHABLE, None),
        ({"responseStreamDisconnected": {"httpStatusCode": None}}, FaultKind.UPSTREAM, None),
        ({"httpConnectionFailed": {"httpStatusCode": 400}}, FaultKind.BAD_REQUEST, 400),
        ({"httpConnectionFailed": {"httpStatusCode": 401}}, FaultKind.CREDENTIALS, 401),
        ({"httpConnectionFailed": {"httpStatusCode": 402}}, FaultKind.QUOTA, 402),
        ({"httpConnectionFailed": {"httpStatusCode": 403}}, FaultKind.CREDENTIALS, 403),
        ({"responseStreamConnectionFailed": {"httpStatusCode": 404}}, FaultKind.MODEL_NOT_FOUND, 404),
        ({"httpConnectionFailed": {"httpStatusCode": 413}}, FaultKind.BAD_REQUEST, 413),
        ({"httpConnectionFailed": {"httpStatusCode": 418}}, FaultKind.UPSTREAM, 418),
        ({"responseStreamConnectionFailed": {"httpStatusCode": 500}}, FaultKind.UPSTREAM, 500),
        ({"httpConnectionFailed": {"httpStatusCode": 503}}, FaultKind.OVERLOADED, 503),
        ({"responseStreamDisconnected": {"httpStatusCode": 529}}, FaultKind.OVERLOADED, 529),
        ({"responseTooManyFailedAttempts": {"httpStatusCode": 429}}, FaultKind.RATE_LIMIT, 429),
    ],
)
def test_each_kind_of_failure_has_its_fault_and_an_unknown_one_is_the_upstreams(
    info: Any, kind: FaultKind, status: int | None
) -> None:
    assert dialect.fault(TurnErrorInfo("the model said why", info)) == Fault(kind, "the model said why", status)


def test_a_missing_key_is_about_our_credentials() -> None:
    error = TurnErrorInfo("Missing environment variable: `KEY`.", "other")
    assert dialect.fault(error).kind is FaultKind.CREDENTIALS


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"error":{"message":"temperature is out of range","code":"invalid_value"}}', "temperature is out of range"),
        ('{"error":{"message":7}}', "7"),
        ('{"error":{"message":"odd","code":["a","list"]}}', "odd"),
        ('{"error":{"message":"odd","code":null}}', "odd"),
    ],
)
def test_the_body_of_a_400_is_the_callers_to_read(body: str, said: str) -> None:
    assert dialect.fault(TurnErrorInfo(body, "other")) == Fault(FaultKind.BAD_REQUEST, said, 400)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("context_length_exceeded", FaultKind.CONTEXT_LENGTH),
        ("model_not_found", FaultKind.MODEL_NOT_FOUND),
        ("invalid_value", FaultKind.BAD_REQUEST),
    ],
)
def test_the_code_of_a_400_decides_its_kind(code: str, kind: FaultKind) -> None:
    body = json.dumps({"error": {"message": "no", "code": code}})
    assert dialect.fault(TurnErrorInfo(body, "other")) == Fault(kind, "no", 400)


def test_a_404_that_speaks_of_no_model_means_that_our_address_is_wrong() -> None:
    error = TurnErrorInfo("unexpected status 404 Not Found: page", {"httpConnectionFailed": {"httpStatusCode": 404}})
    assert dialect.fault(error).kind is FaultKind.UPSTREAM


@pytest.mark.parametrize(
    "message",
    [
        "",
        "plain words",
        "12",
        "[1,2]",
        '{"error":',
        '{"error":"flat"}',
        '{"detail":"another API"}',
        "[" * 100_000,
        '{"error":' * 10_000,
    ],
    ids=lambda message: message[:12],
)
def test_a_message_that_is_no_error_body_is_a_failure_of_the_upstream(message: str) -> None:
    assert dialect.fault(TurnErrorInfo(message, "other")) == Fault(FaultKind.UPSTREAM, message)


@pytest.mark.parametrize(
    ("message", "finish"),
    [
        ("Incomplete response returned, reason: max_output_tokens", Finish.LENGTH),
        (
            "stream disconnected before completion: Incomplete response returned, reason: content_filter",
            Finish.CONTENT_FILTER,
        ),
        ("Incomplete response returned, reason: a_reason_from_tomorrow", None),
        ("something else", None),
    ],
)
def test_an_answer_that_was_cut_off_is_no_failure(message: str, finish: Finish | None) -> None:
    assert dialect.incomplete(TurnErrorInfo(message, "other")) is finish


# --- requests ----------------------------------------------------------------------------------------------------

QUESTION = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}


def test_a_thread_without_tools_asks_for_no_raw_events() -> None:
    name, params = dialect.thread_start(TurnRequest("m", "be brief", (QUESTION,)))
    assert name == "thread/start"
    assert params == {"model": "m", "ephemeral": True, "environments": [], "baseInstructions": "be brief"}


def test_a_thread_with_tools_offers_them_and_asks_for_raw_events() -> None:
    tool = ToolSpec("weather", "Current weather", {"type": "object"})
    _, params = dialect.thread_start(TurnRequest("m", "", (QUESTION,), (tool,)))
    assert params["experimentalRawEvents"] is True
    assert params["dynamicTools"] == [
        {"type": "function", "name": "weather", "description": "Current weather", "inputSchema": {"type": "object"}}
    ]


def test_a_thread_of_which_reasoning_is_wanted_asks_for_raw_events_too() -> None:
    _, params = dialect.thread_start(TurnRequest("m", "", (QUESTION,), reasoning_items=True))
    assert params["experimentalRawEvents"] is True
    assert "dynamicTools" not in params


def test_verbosity_is_a_setting_of_the_thread() -> None:
    _, params = dialect.thread_start(TurnRequest("m", "", (QUESTION,), verbosity="high"))
    assert params["config"] == {"model_verbosity": "high"}


def test_what_the_caller_left_open_is_not_sent() -> None:
    assert dialect.turn_start("T", TurnRequest("m", "", ())).params == {"threadId": "T", "input": []}
    full = TurnRequest("m", "", (), effort="low", summary="auto", output_schema={"type": "object"})
    assert dialect.turn_start("T", full).params == {
        "threadId": "T",
        "input": [],
        "effort": "low",
        "summary": "auto",
        "outputSchema": {"type": "object"},
    }


def test_nothing_that_is_read_has_been_opted_out_of() -> None:
    opted_out = dialect.initialize("1.2.3").params["capabilities"]["optOutNotificationMethods"]
    for method in opted_out:
        assert dialect.notification(method, raw({"threadId": "T"})) is None
        assert method in dialect.IGNORED


# --- results and notifications -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user_agent", "version"),
    [
        ("svc/0.163.0 (Debian 12.0.0; x86_64) unknown (svc; 0.1)", (0, 163, 0)),
        ("codex_cli_rs/0.50.0 (Debian 12.0.0; x86_64)", (0, 50, 0)),
        ("svc/1.2.3-alpha.4 (x)", (1, 2, 3)),
        ("svc/0.163 (x)", None),
        ("0.163.0", None),
        ("", None),
    ],
)
def test_the_version_is_read_from_the_user_agent(user_agent: str, version: tuple[int, int, int] | None) -> None:
    assert dialect.initialize_result(raw({"userAgent": user_agent, "codexHome": "/x"})).version == version


def test_usage_is_the_total_even_when_the_last_request_counts_nothing() -> None:
    counts = {
        "totalTokens": 120,
        "inputTokens": 100,
        "cachedInputTokens": 40,
        "cacheWriteInputTokens": 3,
        "outputTokens": 20,
        "reasoningOutputTokens": 5,
    }
    usage = {"total": counts, "last": dict.fromkeys(counts, 0), "modelContextWindow": 1}
    note = dialect.notification("thread/tokenUsage/updated", raw({"threadId": "T", "turnId": "U", "tokenUsage": usage}))
    assert isinstance(note, dialect.TokenUsageUpdated)
    assert note.usage == Usage(100, 40, 3, 20, 5)


def test_fields_that_came_later_or_are_missing_do_no_harm() -> None:
    note = dialect.notification("item/agentMessage/delta", raw({"threadId": "T", "new": [1], "delta": "x"}))
    assert note == dialect.AgentMessageDelta("T", "", "", "x")
    item = {"type": "reasoning", "summary": []}
    note = dialect.notification("rawResponseItem/completed", raw({"threadId": "T", "turnId": "U", "item": item}))
    assert isinstance(note, dialect.RawResponseItem)
    assert note.item.type == "reasoning"


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("item/agentMessage/delta", {"turnId": "U", "delta": "x"}),
        ("item/agentMessage/delta", {"threadId": "T", "delta": 1}),
        ("turn/completed", {"threadId": "T"}),
        ("turn/completed", {"threadId": "T", "turn": {"id": "U"}}),
        ("thread/tokenUsage/updated", {"threadId": "T"}),
        ("turn/completed", None),
    ],
)
def test_a_broken_promise_is_an_error(method: str, params: Any) -> None:
    with pytest.raises(msgspec.MsgspecError):
        dialect.notification(method, raw(params))


@pytest.mark.parametrize(
    "result",
    [{}, {"thread": {}}, {"thread": {"id": 5}}, {"thread": {"id": ""}}, [], None],
)
def test_a_thread_without_an_id_is_a_broken_promise(result: Any) -> None:
    with pytest.raises(msgspec.MsgspecError):
        dialect.thread_start_result(raw(result))


def test_a_turn_without_an_id_is_a_broken_promise() -> None:
    with pytest.raises(msgspec.MsgspecError):
        dialect.turn_start_result(raw({"turn": {"id": ""}}))


@pytest.mark.parametrize(
    ("head", "thread"),
    [
        (b'{"method":"item/agentMessage/delta","params":{"threadId":"0a-Z9","turnId":"U","delta":"xxx', "0a-Z9"),
        (b'{"method":"m","params":{"item":{"text":"say \\"threadId\\":\\"evil\\" now"},"threadId":"T"', "T"),
        (b'{"method":"m","params":{"threadId":"cut o', None),
        (b'{"id":7,"result":{}}', None),
        (b"\xff\xfe", None),
        (b"", None),
    ],
)
def test_an_oversized_line_tells_whose_it_was_if_it_can(head: bytes, thread: str | None) -> None:
    assert dialect.thread_of(head) == thread


# --- what is asked of us -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("item/commandExecution/requestApproval", {"decision": "decline"}),
        ("item/fileChange/requestApproval", {"decision": "decline"}),
        ("execCommandApproval", None),
        ("applyPatchApproval", None),
        ("item/permissions/requestApproval", None),
        ("anything/else", None),
    ],
)
def test_nothing_is_ever_granted(method: str, result: dict[str, str] | None) -> None:
    assert dialect.decline(method) == result


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Please try again in 1.5s.", 1.5),
        ("Please try again in 20ms.", 0.02),
        ("Please try again in 6m0s.", 360.0),
        ("Please try again in 1h2m3s.", 3723.0),
        ("Please try again in 3m.", 180.0),
        ("Please try again in a while.", None),
        ("", None),
    ],
)
def test_a_rate_limit_says_when_to_come_back(message: str, seconds: float | None) -> None:
    told = dialect.fault(TurnErrorInfo(f"rate limit exceeded: {message}", "rateLimitExceeded")).retry_after_s
    assert told == (None if seconds is None else pytest.approx(seconds))


def test_a_wait_named_by_another_kind_of_fault_is_not_believed() -> None:
    assert dialect.fault(TurnErrorInfo("try again in 9h", "serverOverloaded")).retry_after_s is None

"""Every way to fail has one status, one code and one hint."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.events import Fault, FaultKind, Finish, Trace, TurnEnd
from scheduler.model import (
    Abandoned,
    CrashesWorker,
    CutOff,
    Draining,
    Ended,
    Expired,
    NotReady,
    Outcome,
    Overdue,
    Overrun,
    Penalized,
    QueueFull,
    Rejected,
    Shed,
    TenantQueueFull,
    WaitTooLong,
)
from service.api.errors import (
    FAULTS,
    MAX_MESSAGE_CHARS,
    OUTCOMES,
    REJECTIONS,
    ApiError,
    from_fault,
    from_outcome,
    from_rejection,
    redact,
    unsupported,
)


def _no_jitter() -> float:
    return 0.0


def _error(error: ApiError) -> dict[str, Any]:
    body = json.loads(error.body())
    assert list(body) == ["error"]
    inner = body["error"]
    assert isinstance(inner, dict)
    return inner


def test_every_kind_of_fault_is_in_the_table() -> None:
    assert set(FAULTS) == set(FaultKind)


@pytest.mark.parametrize("kind", FaultKind)
def test_a_fault_says_when_to_come_back_exactly_when_its_status_needs_it(kind: FaultKind) -> None:
    error = from_fault(Fault(kind, ""))
    assert (error.status in (429, 503)) == ("Retry-After" in error.all_headers())
    assert 400 <= error.status < 600
    assert error.status not in (401, 403), "the service's own credentials are not the client's"
    assert error.message


@pytest.mark.parametrize(
    ("kind", "status", "type_", "code"),
    [
        (FaultKind.BAD_REQUEST, 400, "invalid_request_error", "invalid_request_error"),
        (FaultKind.CONTEXT_LENGTH, 400, "invalid_request_error", "context_length_exceeded"),
        (FaultKind.CONTENT_POLICY, 400, "invalid_request_error", "content_policy_violation"),
        (FaultKind.MODEL_NOT_FOUND, 404, "invalid_request_error", "model_not_found"),
        (FaultKind.QUOTA, 429, "insufficient_quota", "insufficient_quota"),
        (FaultKind.RATE_LIMIT, 429, "rate_limit_error", "rate_limit_exceeded"),
        (FaultKind.OVERLOADED, 503, "backend_unavailable", "upstream_overloaded"),
        (FaultKind.CREDENTIALS, 503, "backend_unavailable", "worker_auth_required"),
        (FaultKind.UPSTREAM, 502, "server_error", "upstream_error"),
        (FaultKind.UPSTREAM_UNREACHABLE, 502, "server_error", "upstream_unreachable"),
        (FaultKind.WORKER_LOST, 503, "backend_unavailable", "worker_lost"),
        (FaultKind.WORKER_REFUSED, 500, "server_error", "worker_error"),
        (FaultKind.WORKER_OVERLOADED, 503, "backend_unavailable", "worker_overloaded"),
        (FaultKind.START_TIMEOUT, 504, "timeout_error", "worker_request_timeout"),
        (FaultKind.FIRST_EVENT_TIMEOUT, 504, "timeout_error", "first_event_timeout"),
        (FaultKind.IDLE_TIMEOUT, 504, "timeout_error", "idle_timeout"),
        (FaultKind.TURN_TIMEOUT, 504, "timeout_error", "request_timeout"),
        (FaultKind.FRAME_TOO_LARGE, 502, "server_error", "frame_too_large"),
        (FaultKind.PROTOCOL, 502, "server_error", "protocol_error"),
    ],
)
def test_a_fault_has_its_status_and_code(kind: FaultKind, status: int, type_: str, code: str) -> None:
    error = from_fault(Fault(kind, "whatever"))
    assert (error.status, error.type, error.code) == (status, type_, code)


def test_a_refused_request_carries_the_providers_words_without_its_addresses() -> None:
    fault = Fault(FaultKind.BAD_REQUEST, "Invalid schema for function 'f', url: http://10.0.0.1:8080/v1/responses")
    assert from_fault(fault).message == "Invalid schema for function 'f'"


def test_a_message_that_is_all_secret_becomes_a_plain_sentence() -> None:
    assert from_fault(Fault(FaultKind.UPSTREAM, ", url: http://10.0.0.1/")).message == "the model provider failed"


def test_the_workers_own_words_stay_inside() -> None:
    error = from_fault(Fault(FaultKind.WORKER_REFUSED, "failed to load configuration: bad key `frobnicate`"))
    assert "frobnicate" not in error.message


@pytest.mark.parametrize(("told_s", "seconds"), [(1.5, 1.5), (360.0, 360.0), (None, 5.0)])
def test_a_rate_limit_passes_on_the_wait_that_the_provider_names(told_s: float | None, seconds: float) -> None:
    error = from_fault(Fault(FaultKind.RATE_LIMIT, "slow down", 429, told_s), jitter=_no_jitter)
    assert error.retry_after_s == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("rejection", "code"),
    [
        (QueueFull("", 2.4), "queue_full"),
        (TenantQueueFull("", 2.4), "tenant_queue_full"),
        (WaitTooLong("", 2.4), "queue_wait_too_long"),
        (NotReady("", 2.4), "worker_not_ready"),
        (Draining("", 2.4), "draining"),
    ],
)
def test_a_rejected_job_is_told_when_to_come_back(rejection: Rejected, code: str) -> None:
    error = from_rejection(rejection, jitter=_no_jitter)
    assert (error.status, error.code) == (429 if code == "tenant_queue_full" else 503, code)
    assert error.type == ("rate_limit_error" if error.status == 429 else "backend_unavailable")
    headers = error.all_headers()
    assert headers["Retry-After"] == "3"
    assert headers["retry-after-ms"] == "2400"
    assert _error(error)["retryable"] is True


def test_what_has_crashed_its_workers_is_not_to_be_tried_again() -> None:
    for error in (from_rejection(Penalized("", 600.0)), from_outcome(CrashesWorker())):
        assert error is not None
        assert (error.code, error.retryable) == ("request_crashes_worker", False)
        assert error.status in (422, 500)
        assert error.all_headers() == {"x-should-retry": "false"}


def test_every_rejection_and_every_outcome_is_in_the_table() -> None:
    assert set(REJECTIONS) == set(Rejected.__subclasses__())
    assert {*OUTCOMES, Ended} == set(get_args(Outcome))


@pytest.mark.parametrize("kind", [FaultKind.WORKER_LOST, FaultKind.WORKER_REPLACED])
@pytest.mark.parametrize(
    ("trace", "status", "retryable"), [(Trace.NONE, 503, True), (Trace.SPOKEN, 503, True), (Trace.ACTED, 502, False)]
)
def test_a_turn_that_may_have_acted_is_not_to_be_tried_again(
    kind: FaultKind, trace: Trace, status: int, retryable: bool
) -> None:
    error = from_outcome(Ended(TurnEnd(fault=Fault(kind, ""), trace=trace)))
    assert error is not None
    assert (error.status, error.code, error.retryable) == (status, "worker_lost", retryable)


def test_what_a_turn_did_changes_nothing_about_another_fault() -> None:
    fault = Fault(FaultKind.UPSTREAM, "")
    acted, quiet = (from_outcome(Ended(TurnEnd(fault=fault, trace=trace))) for trace in (Trace.ACTED, Trace.NONE))
    assert acted is not None
    assert quiet is not None
    assert (acted.status, acted.code) == (quiet.status, quiet.code) == (502, "upstream_error")


@given(jitter=st.floats(0, 1, exclude_max=True), retry_after_s=st.floats(0, 600))
def test_jitter_only_ever_adds_to_a_hint(jitter: float, retry_after_s: float) -> None:
    error = from_rejection(QueueFull("full", retry_after_s), jitter=lambda: jitter)
    assert error.retry_after_s is not None
    assert retry_after_s <= error.retry_after_s <= retry_after_s * 1.25
    assert int(error.all_headers()["Retry-After"]) >= 1


@pytest.mark.parametrize("finish", [finish for finish in Finish if finish is not Finish.INTERRUPTED])
def test_an_answer_is_no_error(finish: Finish) -> None:
    assert from_outcome(Ended(TurnEnd(finish=finish))) is None


@pytest.mark.parametrize(
    ("outcome", "status", "code"),
    [
        (Ended(TurnEnd(finish=Finish.INTERRUPTED)), 502, "turn_interrupted"),
        (Ended(TurnEnd(fault=Fault(FaultKind.QUOTA, ""))), 429, "insufficient_quota"),
        (Expired(waited_s=1.0, retry_after_s=2.0), 503, "queue_timeout"),
        (Shed(waited_s=1.0, retry_after_s=2.0), 503, "queue_shed"),
        (Overdue(), 504, "deadline_exceeded"),
        (CrashesWorker(), 500, "request_crashes_worker"),
        (CutOff(), 503, "draining"),
        (Overrun(), 499, "client_too_slow"),
        (Abandoned(), 499, "request_aborted"),
    ],
)
def test_every_other_outcome_is_an_error(outcome: Outcome, status: int, code: str) -> None:
    error = from_outcome(outcome)
    assert error is not None
    assert (error.status, error.code) == (status, code)
    assert (error.status in (429, 503)) == ("Retry-After" in error.all_headers())


def test_a_body_has_the_four_fields_and_retryable_only_where_it_is_known() -> None:
    error = ApiError(status=418, message='a "pot"', type="t", code="c", param="p")
    assert _error(error) == {"message": 'a "pot"', "type": "t", "param": "p", "code": "c"}
    assert list(_error(unsupported("stop"))) == ["message", "type", "param", "code"]


def test_a_body_is_utf8_even_for_a_lone_surrogate() -> None:
    assert _error(unsupported("a\ud800b"))["param"] == "a\ufffdb"


def test_a_wrong_key_is_asked_for_a_bearer_key() -> None:
    error = ApiError(status=401, message="unauthorized", type="authentication_error", code="invalid_api_key")
    assert error.all_headers() == {"WWW-Authenticate": "Bearer realm=api"}


def test_own_headers_are_kept() -> None:
    error = ApiError(status=405, message="", type="t", code="c", headers={"Allow": "POST"})
    assert error.all_headers() == {"Allow": "POST"}


def test_sdks_are_told_not_to_repeat_what_cannot_succeed() -> None:
    assert from_fault(Fault(FaultKind.QUOTA, "")).all_headers()["x-should-retry"] == "false"
    assert from_fault(Fault(FaultKind.OVERLOADED, "")).all_headers()["x-should-retry"] == "true"


SECRETS = [
    "http://127.0.0.1:9/v1/responses",
    "https://user:pass@upstream.internal/x?key=1",
    "wss://chatgpt.com/backend",
    "/home/svc/.codex/config.toml",
    "~/.codex/auth.json",
    "./run/worker-1/home",
    r"C:\Users\svc\codex",
    "10.1.2.3:8080",
    "Bearer abcdef0123456789",
    "sk-proj-abc***********def",
    "req_0123456789abcdef",
    "request id: 7c9e6679-7425-40de",
    "data:image/png;base64,AAAA",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_what_belongs_inside_is_not_shown(secret: str) -> None:
    shown = redact(f"it failed with {secret} and that was it")
    assert secret not in shown
    assert shown.startswith("it failed with [redacted]")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "unexpected status 401 Unauthorized: no such key, url: http://u/v1, cf-ray: 1, request id: req_1",
            "unexpected status 401 Unauthorized: no such key",
        ),
        ("unknown variant `x`, expected one of `initialize`, `turn/start`", "unknown variant `x`"),
        ("Invalid schema: In context=('properties', 'a'), 'and/or' is not 1/2.", None),
        ("Invalid value: 'x'. Supported values are: 'a' and 'b'.", None),
        ("use <b>bold</b>, see the docs", None),
        ("two\nlines\tand  gaps", "two lines and gaps"),
        ("", ""),
    ],
)
def test_the_rest_is_shown_as_it_is(text: str, shown: str | None) -> None:
    assert redact(text) == (text if shown is None else shown)


@given(st.text(max_size=3 * MAX_MESSAGE_CHARS))
def test_what_is_shown_is_short_and_on_one_line(text: str) -> None:
    shown = redact(text)
    assert len(shown) <= MAX_MESSAGE_CHARS
    assert "\n" not in shown


def test_a_megabyte_of_message_costs_no_more_than_a_page() -> None:
    assert len(redact("/a" * 500_000 + "x " * 500_000)) <= MAX_MESSAGE_CHARS

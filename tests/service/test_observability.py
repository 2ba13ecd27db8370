"""What is logged and counted: facts in closed sets of words, and never a prompt or an answer."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from loadtest.fake_app_server import write_launcher
from pool.events import Fault, FaultKind, Finish, TextDelta, ToolCall, TurnEnd, TurnRequest, Usage
from pool.observer import WorkerExit
from pool.stimuli import Lease
from pool.worker_state import WorkerId, WorkerState
from scheduler.model import (
    Abandoned,
    CrashesWorker,
    CutOff,
    Ended,
    Expired,
    Job,
    NotReady,
    Outcome,
    Overdue,
    Overrun,
    Shed,
)
from service import __version__
from service.api.errors import FAULTS, OUTCOMES, REJECTIONS, WHOSE_LIMIT
from service.logs import Repeats, error_fields
from service.maintenance import Notice, State
from service.observability import _REASONS, Observability, outcome_label
from service.recent import Acted
from tests.service.conftest import Log
from tests.support.services import AUTHORIZED, KEY, RunningService, body, key, running_service, scripted, until

CHAT = "/v1/chat/completions"
MARK = "zanzibar"
"""In every prompt, answer and system text of these tests; nothing else says it."""

SLOW = scripted(chunks=[f"{MARK} "], repeat=100_000, interval_s=0.01)
WORKER = WorkerId("default", 0, 1)
LEASE = Lease(7, WORKER)


# --- the log -----------------------------------------------------------------------------------------------------


async def test_a_request_is_one_line_of_facts(api: RunningService, log: Log) -> None:
    usage = {"input_tokens": 100, "cached_tokens": 40, "output_tokens": 20, "reasoning_tokens": 5}
    answer = await api.chat(scripted(text="x", usage=usage), stream=True)
    await until(lambda: log.of("request.answered"))
    (line,) = log.of("request.answered")
    assert line.pop("seconds") >= line.pop("first_text_s") > line.pop("queue_s") >= 0
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "request.answered",
        "level": "info",
        "request_id": answer.headers["x-request-id"],
        "route": CHAT,
        "status": 200,
        "tenant": "default",
        "priority": "standard",
        "model": "codex-5",
        "profile": "default",
        "stream": True,
        "outcome": "stop",
        "worker": "default/0.1",
        "input_tokens": 100,
        "cached_tokens": 40,
        "output_tokens": 20,
        "reasoning_tokens": 5,
    }


async def test_a_refused_request_is_one_line_with_its_code(api: RunningService, log: Log) -> None:
    await api.chat(model="nobody")
    await api.post(b"{}", headers={"Authorization": "Bearer wrong"})
    await api.get("/nowhere")
    lines = log.of("request.answered")
    assert [(line["route"], line["status"], line["code"]) for line in lines] == [
        (CHAT, 404, "model_not_found"),
        (CHAT, 401, "invalid_api_key"),
        ("unknown", 404, "unknown_url"),
    ]
    assert [line.get("tenant") for line in lines] == ["default", None, None]


async def test_what_machines_ask_every_few_seconds_is_not_logged(api: RunningService, log: Log) -> None:
    for path in ("/healthz", "/readyz", "/livez", "/metrics"):
        await api.get(path)
    assert log.raw == ""


async def test_no_line_holds_a_prompt_an_answer_or_a_key(tmp_path: Path, log: Log) -> None:
    limits = {"idle_s": 0.3, "start_s": 0.3}
    async with running_service(tmp_path, limits=limits, profile={"workers": 2}) as api:
        await _go_through_every_ending(api)
        await until(lambda: len(log.of("request.answered")) == 17)
        await api.until_at_rest()
    codes = [line.get("code") or line.get("outcome") for line in log.of("request.answered")]
    assert len(set(codes)) >= 10, codes
    assert MARK not in log.raw
    assert MARK.upper() not in log.raw
    for secret in (KEY, KEY[3:], "a-wrong-key-that-nobody-may-read"):
        assert secret not in log.raw


async def _go_through_every_ending(api: RunningService) -> None:
    system = {"role": "system", "content": f"You speak of {MARK}."}
    error = {"message": f"no {MARK} today"}
    for directive in (
        {"text": f"{MARK}!"},
        {"echo": True},
        {"reasoning": f"{MARK}?", "text": f"{MARK}!"},
        {"status": 400, "error": error},
        {"status": 500, "error": error},
        {"text": MARK, "failed": {"code": "server_error", "message": f"no {MARK}"}},
        {"text": MARK, "hang": "middle"},
        {"text": MARK, "exit": 3},
        {"text": MARK, "lose_reply": "turn/start", "hang": "first"},
        {"text": MARK, "unknown field": MARK},
    ):
        prompt = f"Tell me of {MARK}. {scripted(**directive)}"
        await api.chat(messages=[system, {"role": "user", "content": prompt}], stream="text" in directive)
    await api.post(json.dumps(body(MARK)).encode()[:-1])
    await api.post(f'{{"model": "{MARK}", "messages": "{MARK}"}}'.encode())
    await api.chat(MARK, model=MARK)
    await api.post(json.dumps(body(MARK, **{MARK: MARK})).encode())
    await api.get(f"/{MARK}?{MARK}={MARK}", headers={"User-Agent": MARK, "Authorization": f"Bearer {MARK}"})
    await api.chat(MARK, headers={"Authorization": "Bearer a-wrong-key-that-nobody-may-read"})
    leaving = await api.begin(SLOW)
    await leaving.content.readany()
    leaving.close()


async def test_a_bugs_message_is_not_logged_for_it_may_quote_a_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    def broken(*_args: Any, **_kwargs: Any) -> None:
        raise ValueError(MARK)

    async with running_service(tmp_path, bugs=2) as api:
        with monkeypatch.context() as patch:
            patch.setattr("service.handlers.exchange.to_turn", broken)
            assert (await api.chat()).status == 500
        with monkeypatch.context() as patch:
            patch.setattr("service.encode.sse.ChatStream.finish", broken)
            assert (await api.chat(stream=True)).status == 200
    failed = log.of("handler.failed")
    assert [line["error"] for line in failed] == ["ValueError", "ValueError"]
    assert [line["level"] for line in failed] == ["error", "error"]
    assert [line["route"] for line in failed] == [CHAT, CHAT]
    assert "broken" in failed[0]["where"][-1]
    assert MARK not in log.raw


async def test_a_bug_in_a_workers_reader_costs_that_worker_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    def broken(*_args: Any) -> None:
        raise ValueError(MARK)

    async with running_service(tmp_path, bugs=1, profile={"workers": 2, "attempts": 1}) as api:
        with monkeypatch.context() as patch:
            patch.setattr("pool.turn.Turn.on_notification", broken)
            async with asyncio.timeout(5):
                answer = await api.chat(MARK)
        assert (answer.status, answer.code) == (503, "worker_lost")
        assert (await api.chat()).status == 200
        await api.until_at_rest()
        assert api.counted("bugs_total", where="worker") == 1
    (line,) = log.of("bug.found")
    assert (line["error"], line["level"]) == ("ValueError", "error")
    assert MARK not in log.raw


async def test_clients_that_misbehave_are_nothing_a_human_should_look_at(tmp_path: Path, log: Log) -> None:
    async with running_service(tmp_path, server={"write_timeout_s": 0.2, "body_timeout_s": 0.2}) as api:
        asked = json.dumps(body(scripted(chunks=["x" * 1000], repeat=60_000), stream=True)).encode()
        head = f"POST {CHAT} HTTP/1.1\nHost: x\nAuthorization: {AUTHORIZED['Authorization']}\n"
        _, deaf = await api.raw(f"{head}Content-Length: {len(asked)}\n\n", asked)
        _, slow = await api.raw(f"{head}Content-Length: 100\n\n", b"{")
        _, broken = await api.raw(f"{head}Content-Length: 100\n\n", b"{")
        broken.close()
        leaving = await api.begin(SLOW)
        await leaving.content.readany()
        leaving.close()
        gone = await api.begin(SLOW)
        gone.connection.transport.abort()  # type: ignore[union-attr]
        await api.post(b"\xff", headers={"Content-Encoding": "gzip"})
        await until(lambda: len(log.of("request.answered")) == 6)
        await api.until_at_rest()
        deaf.close()
        slow.close()
    assert sorted(line["status"] for line in log.of("request.answered")) == [400, 408, 499, 499, 499, 499]
    assert [line for line in log.lines if line["level"] in ("error", "critical")] == []
    assert log.of("library.logged") == []


async def test_a_lost_worker_is_a_warning_and_an_ordinary_end_is_not(tmp_path: Path, log: Log) -> None:
    async with running_service(tmp_path) as api:
        (pid,) = api.worker_pids()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: api.worker_pids() and api.worker_pids() != {pid})
        await api.until_at_rest()
    first, last = log.of("worker.exited")
    assert (first["level"], first["worker"], first["code"]) == ("warning", "default/0.1", -9)
    assert first["reason"] == "it was killed by signal 9"
    assert (last["level"], last["worker"], last["code"]) == ("info", "default/0.2", 0)
    assert [line["version"] for line in log.of("worker.booted")] == ["0.163.0", "0.163.0"]


async def test_a_boot_that_fails_is_an_error_line(tmp_path: Path, log: Log) -> None:
    sick = {"codex_bin": write_launcher(tmp_path / "sick", "--initialize", "error"), "anonymous": True, "workers": 1}
    async with running_service(tmp_path, others={"sick": sick}) as api:
        await until(lambda: log.of("worker.boot_failed"))
        assert api.counted("worker_boots_total", profile="sick", result="failed") >= 1
    line = log.of("worker.boot_failed")[0]
    assert line["level"] == "error"
    assert line["worker"].startswith("sick/0.")
    assert line["reason"].startswith("initialize was refused")
    assert line["failures"] == 1
    assert 0 < line["retry_s"] <= 0.25, "what it waits before the next"


async def test_a_crash_loop_is_told_once_and_then_in_numbers(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.configure("info")
    monkeypatch.setattr("pool.backoff.CAP_S", 0.001)
    monkeypatch.setattr("pool.breaker.TRIAL_S", 0.01)
    sick = {"codex_bin": write_launcher(tmp_path / "sick", "--initialize", "exit"), "anonymous": True, "workers": 1}
    async with running_service(tmp_path, others={"sick": sick}) as api:
        api.service.observability._repeats = Repeats(first=3, window_s=2.0)
        await until(lambda: log.of("log.repeated"))
        boots = api.counted("worker_boots_total", profile="sick", result="failed")
        dropped = api.counted("log_lines_dropped_total", event="worker.boot_failed")
        assert 0 < dropped <= boots - 3
    troubles = [(line["profile"], line["trouble"]) for line in log.of("profile.troubled")]
    assert troubles == [("sick", "breaker")]
    repeated = {line["of"]: line for line in log.of("log.repeated")}
    assert repeated["worker.boot_failed"]["about"] == ["sick"]
    assert repeated["worker.boot_failed"]["times"] == dropped


async def test_requests_that_get_no_turn_do_not_fill_the_log(api: RunningService, log: Log) -> None:
    log.configure("info")
    api.service.observability._repeats = Repeats(first=3, window_s=0.5)
    for _ in range(10):
        assert (await api.post(b"{}", headers={"Authorization": "Bearer wrong"})).status == 401
        assert (await api.chat()).status == 200
    await until(lambda: log.of("log.repeated"))
    by_status = Counter(line["status"] for line in log.of("request.answered"))
    assert by_status == {401: 3, 200: 10}, "what had a turn has its line"
    (repeated,) = log.of("log.repeated")
    assert (repeated["of"], repeated["times"]) == ("request.answered", 7)
    assert repeated["about"] == [CHAT, 401, "invalid_api_key", None]


async def test_a_line_says_whose_limit_was_met(tmp_path: Path, log: Log) -> None:
    keys = [key("narrow", "sk-of-a-narrow-key-0123456789", requests_per_minute=1).model_dump(exclude_none=True)]
    full = {"slots": 1, "workers": 1, "queue_max": 1, "queue_budget_s": 0.05, "attempts": 1}
    async with running_service(tmp_path, profile=full, keys=keys, limits={"first_event_s": 0.2}) as api:
        narrow = {"Authorization": "Bearer sk-of-a-narrow-key-0123456789"}
        for prompt, headers in (
            ("Hello.", narrow),
            ("Hello.", narrow),
            (scripted(status=429), {}),
            (scripted(text="x", hang="first"), {}),
            (scripted(text="x", hang="first"), {"x-request-deadline-ms": "100"}),
        ):
            await api.chat(prompt, headers=headers)
            await api.until_at_rest()
        running = await api.begin(SLOW)
        await running.content.readany()
        await api.chat()
        running.close()
        await until(lambda: len(log.of("request.answered")) == 7)
    found = [(line.get("code"), line.get("limit")) for line in log.of("request.answered")]
    assert found[:5] == [
        (None, None),
        ("rate_limited", "key"),
        ("rate_limit_exceeded", "provider"),
        ("first_event_timeout", "service"),
        ("deadline_exceeded", "client"),
    ]
    assert "profile" in {limit for _, limit in found[5:]}


def test_every_code_of_a_limit_is_one_that_there_is() -> None:
    rows = (*FAULTS.values(), *REJECTIONS.values(), *OUTCOMES.values())
    assert WHOSE_LIMIT.keys() <= {row.code for row in rows} | {"rate_limited"}


def quote_a_prompt() -> None:
    raise ValueError(MARK)


def test_what_libraries_log_becomes_lines_like_ours(log: Log) -> None:
    try:
        quote_a_prompt()
    except ValueError:
        logging.getLogger("some.library").exception("It broke for %s", "a reason")
    logging.getLogger("some.library").info("Nothing to see.")
    (line,) = log.lines
    assert (line["event"], line["level"], line["logger"]) == ("library.logged", "error", "some.library")
    assert (line["message"], line["error"]) == ("It broke for a reason", "ValueError")
    assert line["where"][-1].endswith("quote_a_prompt")
    assert MARK not in log.raw


async def test_a_failed_task_that_asyncio_reports_is_logged_without_its_message(log: Log) -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    future.set_exception(ValueError(MARK))
    loop.call_exception_handler(
        {"message": "It was never retrieved", "future": future, "exception": future.exception()}
    )
    (line,) = log.lines
    assert (line["logger"], line["error"]) == ("asyncio", "ValueError")
    assert MARK not in log.raw


def test_an_error_is_told_by_its_type_and_place() -> None:
    assert error_fields(None) == {}
    with pytest.raises(ValueError, match=MARK) as caught:
        quote_a_prompt()
    fields = error_fields(caught.value)
    assert fields["error"] == "ValueError"
    assert fields["where"][-1].endswith("quote_a_prompt")
    assert MARK not in json.dumps(fields)


# --- the numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "label"),
    [
        (Ended(TurnEnd(finish=Finish.STOP)), "stop"),
        (Ended(TurnEnd(finish=Finish.INTERRUPTED)), "interrupted"),
        (Ended(TurnEnd(fault=Fault(FaultKind.WORKER_LOST, MARK))), "worker_lost"),
        (Expired(1.0, 2.0), "queue_timeout"),
        (Abandoned(), "abandoned"),
        (Overrun(), "slow_client"),
        (CutOff(), "cut_off"),
        (Shed(1.0, 2.0), "queue_shed"),
        (Overdue(), "deadline_exceeded"),
        (CrashesWorker(), "request_crashes_worker"),
    ],
)
def test_an_outcome_is_one_word(outcome: Outcome, label: str) -> None:
    assert outcome_label(outcome) == label


def a_job() -> Job:
    return Job("req_1", "default", "alice", TurnRequest("m", "", ()), 1.0)


def test_every_fact_is_counted_where_the_table_says() -> None:
    watching = Observability()
    watching.request_answered("/x", 200, 0.5)
    watching.request_answered("/x", 404, 0.5, {"code": "unknown_url"})
    watching.first_text("default", 0.5)
    watching.handler_failed("/x", ValueError(MARK))
    watching.numbers.fetch_s().observe(0.5)
    watching.client_cut()
    watching.job_admitted(a_job(), waits=False)
    watching.job_admitted(a_job(), waits=True)
    watching.job_rejected(a_job(), "queue_full")
    watching.fell_back("default", NotReady("", 1.0))
    watching.turn_started(a_job(), LEASE, 1, 0.5)
    watching.turn_spoke(a_job(), 1)
    watching.turn_returned(a_job(), LEASE, 1, "quarantined", 0.0)
    watching.limit_changed("default", 3)
    end = TurnEnd(finish=Finish.STOP, usage=Usage(10, 4, 1, 5, 2))
    watching.turn_ended(a_job(), end)
    watching.turn_ended(a_job(), TurnEnd(finish=Finish.INTERRUPTED))
    watching.ticket_settled(a_job(), Ended(end), 1.0, 2.0, 2)
    watching.ticket_settled(a_job(), Overrun(), 1.0, 2.0, 1)
    watching.ticket_settled(a_job(), Expired(3.0, 1.0), 3.0, 0.0, 0)
    watching.ticket_settled(a_job(), Abandoned(), 3.0, 0.0, 0)
    watching.worker_moved(WORKER, WorkerState.PROBATION, WorkerState.READY, "its probation passed without a fault")
    watching.worker_moved(WORKER, WorkerState.READY, WorkerState.QUARANTINED, "its turns fail")
    watching.worker_moved(WORKER, WorkerState.QUARANTINED, WorkerState.STOPPING, "its time is over")
    watching.lease_released(LEASE)
    watching.stalled(2.0)
    watching.configuration_reloaded(["keys"], [])
    watching.configuration_refused("a reason")
    watching.reload_failed(ValueError(MARK))
    watching.worker_booted(WORKER, "0.163.0", 0.5)
    watching.boot_failed(WORKER, "a reason", 1, 0.25)
    watching.trouble_began("default", "breaker")
    watching.trouble_ended("default", "breaker")
    watching.worker_exited(WorkerExit(WORKER, "a reason", -9, "its last words"))
    watching.worker_exited(WorkerExit(WORKER, "a reason", None, ""))
    watching.frames_counted(WORKER, {"frames": 7, "garbage": 0, "probe_missed": 2, "strike": 1})
    watching.times_taken(WORKER, [0.25, 0.25], [0.5])
    watching.bug_found("default/0.1", ValueError(MARK))
    watching.store_called("create", "stored", 0.25)
    watching.store_called("create", "disk_full", 0.25)
    watching.answers_evicted("age", 3)
    watching.store_went_down("disk_full", "database or disk is full")
    watching.store_came_back()
    watching.store_moved_aside("/a/path")
    watching.answer_not_stored()
    watching.usage_written(5)
    watching.usage_lost(2)
    watching.usage_went_down("disk_full", "database or disk is full")
    watching.operator_acted(Acted(0.0, "anna", "127.0.0.1", "service.pause", "", "done", ""), {})
    watching.maintenance_changed(State(Notice(), "file", "anna"), "")
    watching.background_jobs(3)
    watching.background_failed(RuntimeError("a bug"))
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(watching.numbers.text().decode())
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }
    default = ("default",)
    assert 0 <= values.pop(("codex_completions_quarantine_seconds_sum", *default)) < 1
    expected = {
        ("build_info", __version__): 1,
        ("http_requests_total", "/x", "200"): 1,
        ("http_requests_total", "/x", "404"): 1,
        ("http_request_seconds_count", "/x"): 2,
        ("http_request_seconds_sum", "/x"): 1.0,
        ("http_errors_total", "/x", "unknown_url"): 1,
        ("relay_delay_seconds_count",): 0,
        ("relay_delay_seconds_sum",): 0,
        ("image_fetch_seconds_count",): 1,
        ("image_fetch_seconds_sum",): 0.5,
        ("slow_clients_cut_total", "write"): 1,
        ("slow_clients_cut_total", "buffer"): 1,
        ("first_token_seconds_count", *default): 1,
        ("first_token_seconds_sum", *default): 0.5,
        ("admissions_total", *default, "run", "none"): 1,
        ("admissions_total", *default, "queue", "none"): 1,
        ("admissions_total", *default, "reject", "queue_full"): 1,
        ("fallbacks_total", *default, "worker_not_ready"): 1,
        ("redispatches_total", *default, "quarantined"): 1,
        ("redispatched_total", *default, "stop"): 1,
        ("turns_total", *default, "stop"): 1,
        ("turns_total", *default, "abandoned"): 1,
        ("turns_total", *default, "slow_client"): 1,
        ("turns_total", *default, "queue_timeout"): 1,
        ("queue_wait_seconds_count", *default, "served"): 2,
        ("queue_wait_seconds_sum", *default, "served"): 2.0,
        ("queue_wait_seconds_count", *default, "left"): 1,
        ("queue_wait_seconds_sum", *default, "left"): 3.0,
        ("queue_wait_seconds_count", *default, "refused"): 1,
        ("queue_wait_seconds_sum", *default, "refused"): 3.0,
        ("turn_seconds_count", *default): 2,
        ("turn_seconds_sum", *default): 4.0,
        ("turn_start_seconds_count", *default): 2,
        ("turn_start_seconds_sum", *default): 0.5,
        ("tokens_total", *default, "other", "alice", "input"): 10,
        ("tokens_total", *default, "other", "alice", "cached_input"): 4,
        ("tokens_total", *default, "other", "alice", "output"): 5,
        ("tokens_total", *default, "other", "alice", "reasoning_output"): 2,
        ("worker_transitions_total", *default, "probation", "ready", "other"): 1,
        ("worker_transitions_total", *default, "ready", "quarantined", "failing"): 1,
        ("worker_transitions_total", *default, "quarantined", "stopping", "other"): 1,
        ("quarantine_seconds_count", *default): 1,
        ("probes_missed_total", *default): 2,
        ("probe_seconds_count", *default): 1,
        ("probe_seconds_sum", *default): 0.5,
        ("strikes_total", *default): 1,
        ("monitor_clock_resets_total",): 1,
        ("admin_actions_total", "service.pause", "done"): 1,
        ("maintenance",): 1,
        ("loop_lag_seconds_count",): 0,
        ("loop_lag_seconds_sum",): 0,
        ("config_generation",): 2,
        ("config_reload_failures_total",): 2,
        ("worker_boots_total", *default, "ready"): 1,
        ("worker_boots_total", *default, "failed"): 1,
        ("worker_boot_seconds_count", *default): 1,
        ("worker_boot_seconds_sum", *default): 0.5,
        ("worker_exits_total", *default, "-9"): 1,
        ("worker_exits_total", *default, "none"): 1,
        ("frames_total", *default, "frames"): 7,
        ("store_operations_total", "create", "stored"): 1,
        ("store_operations_total", "create", "disk_full"): 1,
        ("store_operation_seconds_count", "create"): 2,
        ("store_operation_seconds_sum", "create"): 0.5,
        ("store_evicted_total", "age"): 3,
        ("store_moved_aside_total",): 1,
        ("usage_records_total", "stored"): 5,
        ("usage_records_total", "lost"): 2,
        ("usage_up",): 0,
        ("answers_not_stored_total",): 1,
        ("background_jobs",): 3,
        ("bugs_total", "http"): 1,
        ("bugs_total", "worker"): 1,
        ("bugs_total", "reload"): 1,
        ("bugs_total", "background"): 1,
    }
    assert values == {(f"codex_completions_{name}", *labels): value for (name, *labels), value in expected.items()}


def test_every_move_of_a_job_and_of_a_lease_is_a_line_of_detail(log: Log) -> None:
    watching = Observability()
    job = a_job()
    watching.job_admitted(job, waits=False)
    watching.job_rejected(job, "queue_full")
    watching.turn_started(job, LEASE, 1, 0.51236)
    watching.turn_spoke(job, 1)
    watching.turn_returned(job, LEASE, 1, "rate_limit_exceeded", 1.23456)
    watching.ticket_settled(job, Overdue(), 1.0, 2.0, 2)
    watching.limit_changed("default", 3)
    watching.lease_released(LEASE)
    watching.worker_moved(WORKER, WorkerState.READY, WorkerState.SUSPECT, "it answers no probe")
    about = {"job": "req_1", "profile": "default", "tenant": "alice"}
    there = {"lease": 7, "worker": "default/0.1"}
    expected: list[dict[str, Any]] = [
        {"event": "job.admitted", **about, "priority": "standard", "waits": False},
        {"event": "job.rejected", **about, "reason": "queue_full"},
        {"event": "turn.started", **about, "priority": "standard", "attempt": 1, **there, "waited_s": 0.5124},
        {"event": "turn.spoke", "job": "req_1", "attempt": 1},
        {
            "event": "turn.returned",
            "job": "req_1",
            "attempt": 1,
            **there,
            "reason": "rate_limit_exceeded",
            "rest_s": 1.2346,
        },
        {
            "event": "job.settled",
            "job": "req_1",
            "outcome": "deadline_exceeded",
            "waited_s": 1.0,
            "ran_s": 2.0,
            "attempts": 2,
        },
        {"event": "seats.limited", "profile": "default", "limit": 3},
        {"event": "lease.released", **there},
        {
            "event": "worker.moved",
            "worker": "default/0.1",
            "source": "ready",
            "target": "suspect",
            "reason": "it answers no probe",
        },
    ]
    lines = log.lines
    assert {line.pop("level") for line in lines[:-1]} == {"debug"}
    assert lines[-1].pop("level") == "warning", "it is no detail"
    assert all(line.pop("timestamp") for line in lines)
    assert lines == expected


def test_details_cost_nothing_where_they_are_not_wanted(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    log.configure("info")
    watching = Observability()
    monkeypatch.setattr(watching, "log", None)
    job = a_job()
    watching.job_admitted(job, waits=False)
    watching.turn_started(job, LEASE, 1, 0.5)
    watching.turn_spoke(job, 1)
    watching.lease_released(LEASE)
    watching.ticket_settled(job, Abandoned(), 1.0, 2.0, 1)
    assert log.raw == ""


async def test_one_answer_can_be_followed_through_the_log(api: RunningService, log: Log) -> None:
    answer = await api.chat(scripted(text="hi"))
    await api.until_at_rest()
    request_id = answer.headers["x-request-id"]
    events = [line["event"] for line in log.lines if request_id in (line.get("job"), line.get("request_id"))]
    assert events == ["job.admitted", "turn.started", "turn.spoke", "job.settled", "request.answered"]
    assert log.of("lease.released")[0]["lease"] == log.of("turn.started")[0]["lease"]


def test_every_reason_that_is_told_apart_is_one_that_the_pool_gives() -> None:
    words = "".join(path.read_text() for path in (Path(__file__).parents[2] / "pool").glob("*.py"))
    assert [reason for reason in _REASONS if f'"{reason}"' not in words] == []


def test_the_version_in_the_fingerprint_is_the_last_that_booted() -> None:
    watching = Observability()
    watching.worker_booted(WORKER, "0.162.0", 0.1)
    watching.worker_booted(WORKER, "0.163.0", 0.1)
    assert watching.versions == {"default": "0.163.0"}
    watching.worker_exited(WorkerExit(WORKER, "it exited with code 1", 1, ""))
    assert watching.last_exit == {"code": 1, "reason": "it exited with code 1"}


def test_lines_below_the_level_are_not_written(log: Log) -> None:
    log.configure("warning")
    structlog.get_logger().info("thing.happened")
    structlog.get_logger().warning("thing.coped", text=TextDelta("x"), call=ToolCall("1", "f", "{}"))
    (line,) = log.lines
    assert line["event"] == "thing.coped"

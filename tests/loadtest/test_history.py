"""`loadtest.history` and `loadtest.check_history`: every promise that a hand-made history breaks is found, and only
those."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtest.check_history import MAX_STORY, Violation, check, story, told
from loadtest.history import CLIENT, SERVICE, Line, Recorder, parse, read, received, stamp_of

ROOT = Path(__file__).parents[2]
WORKERS = ("default/0.1", "default/1.1")
PROFILE = {
    "workers": 2,
    "surge": 1,
    "slots": 3,
    "queue_budget_s": 3.0,
    "retry_ratio": 0.1,
    "retry_reserve": 1,
    "attempts": 2,
}


class Tale:
    """A history that is told line by line; as it begins, both workers are ready."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.leases: dict[str, tuple[int, str]] = {}
        self.attempts: dict[str, int] = {}
        self.client("run.configured", seed=1, profiles={"default": PROFILE}, seats={"capped": 1})
        for worker in WORKERS:
            self.moved(worker, "starting", "ready")

    def client(self, event: str, **fields: Any) -> None:
        self._tell(CLIENT, event, fields)

    def service(self, event: str, **fields: Any) -> None:
        self._tell(SERVICE, event, fields)

    def _tell(self, source: str, event: str, fields: dict[str, Any]) -> None:
        number = len(self.lines) + 1
        self.lines.append(Line(number, source, number / 100, event, fields))

    # The service's lines.

    def moved(self, worker: str, source: str, target: str, reason: str = "") -> None:
        self.service("worker.moved", worker=worker, source=source, target=target, reason=reason)

    def admitted(self, job: str, tenant: str = "one", priority: str = "standard", profile: str = "default") -> None:
        self.service("job.admitted", job=job, profile=profile, tenant=tenant, priority=priority)

    def rejected(self, job: str, profile: str = "default") -> None:
        self.service("job.rejected", job=job, profile=profile, tenant="one", reason="queue_full")

    def started(self, job: str, worker: str = WORKERS[0], lease: int | None = None, waited_s: float = 0.0) -> None:
        self.attempts[job] = attempt = self.attempts.get(job, 0) + 1
        lease = len(self.lines) if lease is None else lease
        self.leases[job] = lease, worker
        fields = {"job": job, "profile": "default", "tenant": "one", "priority": "standard"}
        self.service("turn.started", **fields, attempt=attempt, lease=lease, worker=worker, waited_s=waited_s)

    def spoke(self, job: str, attempt: int | None = None) -> None:
        self.service("turn.spoke", job=job, attempt=attempt or self.attempts[job])

    def returned(self, job: str, rest_s: float = 0.0) -> None:
        lease, worker = self.leases[job]
        reason = "upstream_overloaded" if rest_s else "worker_lost"
        fields = {"attempt": self.attempts[job], "lease": lease, "worker": worker, "reason": reason}
        self.service("turn.returned", job=job, **fields, rest_s=rest_s)

    def released(self, job: str) -> None:
        lease, worker = self.leases[job]
        self.service("lease.released", lease=lease, worker=worker)

    def settled(self, job: str, outcome: str = "stop", waited_s: float = 0.0) -> None:
        attempts = self.attempts.get(job, 0)
        self.service("job.settled", job=job, outcome=outcome, waited_s=waited_s, ran_s=0.1, attempts=attempts)

    def answered(self, job: str) -> None:
        self.service("request.answered", request_id=job, status=200)

    # The clients' lines.

    def sent(self, number: int, **changes: Any) -> None:
        text = {"chunks": [f"{number}! "], "repeat": 2, "tail": "."}
        fields = {"tenant": "one", "stream": True, "priority": None, "deadline_ms": None, "fault": None}
        self.client("request.sent", request=number, **({"client": "reads"} | fields | text | changes))

    def headed(self, number: int, job: str, status: int = 200) -> None:
        self.client("request.headed", request=number, status=status, id=job)

    def ended(self, number: int, how: str = "answered", text: str | None = None, code: str | None = None) -> None:
        got = received(f"<default-0-1#0>{number}! <default-0-1#0>{number}! <default-0-1#0>." if text is None else text)
        self.client("request.ended", request=number, how=how, code=code, **got._asdict())

    # Whole passages.

    def over(self, job: str, outcome: str = "stop") -> None:
        """The end of a job that runs."""
        self.settled(job, outcome)
        self.released(job)
        self.answered(job)

    def gone(self) -> None:
        """A request whose client left before it heard anything: any job may be its."""
        number = len(self.lines)
        self.sent(number, client="leaves")
        self.ended(number, "left", "")

    def unheard(self, *jobs: str, tenant: str = "one", priority: str = "standard") -> None:
        """Jobs that are admitted, whose clients are gone."""
        for job in jobs:
            self.gone()
            self.admitted(job, tenant, priority)

    def turned(self, job: str, **fields: Any) -> None:
        """Such a job, from its admission to its end."""
        self.unheard(job)
        self.started(job, **fields)
        self.over(job)

    def quiet(self, **changes: Any) -> None:
        gauges = {"seats": 6, "seats_free": 6, "jobs_waiting": 0, "jobs_running": 0, "bugs": 0}
        sizes = {"rss_bytes": 2**26, "rss_bytes_before": 2**26, "descriptors": 20, "descriptors_before": 20}
        fields: dict[str, Any] = {"gauges": gauges, "children": 2, **sizes}
        self.client("run.quiet", **(fields | changes))

    def exited(self, code: int = 0, **left: Any) -> None:
        self.client("service.exited", code=code, **({"processes_left": [], "files_left": []} | left))

    def violations(self) -> list[Violation]:
        """What is wrong with it; a tale that has not been ended is ended well."""
        events = {line.event for line in self.lines}
        if "run.quiet" not in events:
            self.quiet()
        if "service.exited" not in events:
            self.exited()
        return check(self.lines)

    @property
    def broken(self) -> list[str]:
        """The rules that are broken, each once."""
        return sorted({violation.rule for violation in self.violations()})


@pytest.fixture
def tale() -> Tale:
    return Tale()


def answered(tale: Tale, text: str | None = None, how: str = "answered") -> None:
    """Request 1 from its beginning to its end."""
    tale.sent(1)
    tale.admitted("a")
    tale.started("a")
    tale.headed(1, "a")
    tale.spoke("a")
    tale.settled("a", "stop" if how == "answered" else "idle_timeout")
    tale.ended(1, how, text)
    tale.released("a")
    tale.answered("a")


# --- a history in which all is well ------------------------------------------------------------------------------


def test_an_answered_request_and_a_clean_end_break_no_promise(tale: Tale) -> None:
    answered(tale)
    assert tale.violations() == []


def test_a_job_that_was_moved_before_it_spoke_breaks_no_promise(tale: Tale) -> None:
    tale.sent(1)
    tale.admitted("a")
    tale.started("a", WORKERS[1])
    tale.moved(WORKERS[1], "ready", "stopping", "it exited with code 3")
    tale.returned("a")
    tale.moved(WORKERS[1], "stopping", "dead")
    tale.moved("default/1.2", "starting", "probation")
    tale.moved("default/1.2", "probation", "ready")
    tale.started("a", WORKERS[0])
    tale.headed(1, "a")
    tale.spoke("a")
    tale.ended(1)
    tale.over("a")
    assert tale.violations() == []


def test_a_client_that_left_before_its_answer_is_the_client_of_some_job(tale: Tale) -> None:
    tale.turned("a")
    assert tale.violations() == []


def test_an_expired_job_and_its_refusal_break_no_promise(tale: Tale) -> None:
    tale.sent(1)
    tale.admitted("a")
    tale.settled("a", "queue_timeout", waited_s=3.2)
    tale.headed(1, "a", 503)
    tale.ended(1, "refused", "", "queue_timeout")
    tale.answered("a")
    assert tale.violations() == []


def test_a_job_rejected_by_one_profile_may_be_admitted_by_the_next(tale: Tale) -> None:
    tale.sent(1)
    tale.rejected("a", "other")
    tale.admitted("a")
    tale.started("a")
    tale.headed(1, "a")
    tale.ended(1)
    tale.over("a")
    assert tale.violations() == []


# --- seats -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first_is_over", "broken"), [(True, []), (False, ["seats"])])
def test_a_worker_may_have_as_many_turns_as_slots_and_no_more(
    tale: Tale, *, first_is_over: bool, broken: list[str]
) -> None:
    tale.unheard(*"abcd")
    for job in "abc":
        tale.started(job)
    if first_is_over:
        tale.over("a")
    tale.started("d")
    for job in "bcd" if first_is_over else "abcd":
        tale.over(job)
    assert tale.broken == broken


def test_a_worker_on_probation_has_two_seats(tale: Tale) -> None:
    tale.moved(WORKERS[0], "ready", "probation")
    tale.unheard(*"abc")
    for job in "abc":
        tale.started(job)
    for job in "abc":
        tale.over(job)
    tale.moved(WORKERS[0], "probation", "ready")
    assert [violation.text for violation in tale.violations()] == ["3 turns on 2 seats"]


@pytest.mark.parametrize(
    ("newcomers", "broken"),
    [(["default/0.2"], []), (["default/0.2", "default/1.2"], ["seats"]), (["default/2.1"], ["seats"])],
    ids=["a successor beside its predecessor", "more than the surge", "a slot too many"],
)
def test_no_more_workers_may_be_in_service_than_the_slots_and_the_surge(
    tale: Tale, newcomers: list[str], broken: list[str]
) -> None:
    for worker in newcomers:
        tale.moved(worker, "starting", "ready")
    tale.turned("a")
    for worker in newcomers:
        tale.moved(worker, "ready", "dead")
    assert tale.broken == broken


def test_a_spare_may_wait_beside_the_workers_that_are_in_service(tale: Tale) -> None:
    tale.moved("default/0.2", "starting", "spare")
    tale.moved(WORKERS[0], "ready", "quarantined")
    tale.moved("default/0.2", "spare", "ready")
    tale.moved(WORKERS[0], "stopping", "dead")
    assert tale.violations() == []


@pytest.mark.parametrize("first_is_over", [True, False])
def test_a_capped_tenant_never_has_more_turns_than_its_cap(tale: Tale, *, first_is_over: bool) -> None:
    tale.unheard("a", "b", tenant="capped")
    tale.started("a")
    if first_is_over:
        tale.over("a")
    tale.started("b")
    if not first_is_over:
        tale.over("a")
    tale.over("b")
    assert tale.broken == ([] if first_is_over else ["seats"])


# --- in service --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["suspect", "quarantined", "retiring", "stopping", "starting", "spare", "backoff"])
def test_a_turn_may_not_begin_on_a_worker_out_of_service(tale: Tale, state: str) -> None:
    tale.moved(WORKERS[0], "ready", state)
    tale.turned("a")
    tale.moved(WORKERS[0], state, "ready")
    assert tale.broken == ["in-service"]


def test_a_turn_may_not_begin_on_a_worker_that_nobody_has_seen(tale: Tale) -> None:
    tale.turned("a", worker="default/7.7")
    tale.moved("default/7.7", "stopping", "dead")
    assert tale.broken == ["in-service"]


# --- one fate ----------------------------------------------------------------------------------------------------


def test_a_job_without_an_outcome_is_found(tale: Tale) -> None:
    tale.unheard("a")
    assert tale.broken == ["at-rest", "one-fate"]


def test_a_second_outcome_is_found(tale: Tale) -> None:
    tale.turned("a")
    tale.settled("a")
    assert tale.broken == ["one-fate"]


@pytest.mark.parametrize("again", ["admitted", "rejected"])
def test_a_job_that_comes_twice_is_found(tale: Tale, again: str) -> None:
    tale.turned("a")
    getattr(tale, again)("a")
    assert tale.broken == ["one-fate"]


def test_a_second_turn_beside_the_first_is_found(tale: Tale) -> None:
    tale.unheard("a")
    tale.started("a")
    tale.released("a")
    tale.started("a")
    tale.over("a")
    assert "a second turn while the first one runs" in [violation.text for violation in tale.violations()]


def test_a_turn_of_a_job_that_was_not_admitted_is_found(tale: Tale) -> None:
    tale.service("turn.spoke", job="a", attempt=1)
    assert [violation.rule for violation in tale.violations()] == ["one-fate"]


def test_attempts_that_are_not_counted_in_order_are_found(tale: Tale) -> None:
    tale.attempts["a"] = 1
    tale.turned("a")
    assert tale.broken == ["one-fate"]


def test_attempts_that_the_outcome_counts_wrongly_are_found(tale: Tale) -> None:
    tale.unheard("a")
    tale.started("a")
    tale.attempts["a"] = 2
    tale.over("a")
    assert tale.broken == ["one-fate"]


def test_a_request_without_an_end_is_found(tale: Tale) -> None:
    tale.sent(1)
    assert [violation.text for violation in tale.violations()] == ["the request has no end"]


@pytest.mark.parametrize("how", ["overdue", "malformed", "broken"])
def test_an_answer_without_a_proper_end_is_found(tale: Tale, how: str) -> None:
    answered(tale, "<default-0-1#0>1! ", how)
    assert tale.broken == ["one-fate"]


def test_a_client_that_reads_slowly_may_be_cut_off(tale: Tale) -> None:
    tale.sent(1, client="slow")
    tale.admitted("a")
    tale.started("a")
    tale.headed(1, "a")
    tale.spoke("a")
    tale.over("a", "slow_client")
    tale.ended(1, "broken", "<default-0-1#0>1! ")
    assert tale.violations() == []


@pytest.mark.parametrize(("how", "outcome"), [("answered", "idle_timeout"), ("refused", "stop")])
def test_a_client_that_was_told_another_story_than_the_log_is_found(tale: Tale, how: str, outcome: str) -> None:
    tale.sent(1)
    tale.admitted("a")
    tale.started("a")
    tale.headed(1, "a")
    tale.spoke("a")
    tale.over("a", outcome)
    tale.ended(1, how)
    assert tale.broken == ["one-fate"]


def test_a_client_that_was_told_another_reason_than_the_log_is_found(tale: Tale) -> None:
    tale.sent(1)
    tale.admitted("a")
    tale.settled("a", "queue_timeout")
    tale.headed(1, "a", 500)
    tale.ended(1, "refused", "", "internal_error")
    tale.answered("a")
    assert tale.broken == ["one-fate"]


def test_an_answer_to_a_rejected_job_is_found(tale: Tale) -> None:
    tale.sent(1)
    tale.rejected("a")
    tale.headed(1, "a")
    tale.ended(1)
    assert "one-fate" in tale.broken


def test_an_answer_without_a_job_is_found(tale: Tale) -> None:
    tale.sent(1)
    tale.headed(1, "a", 401)
    tale.ended(1, "refused", "")
    assert tale.broken == ["one-fate"]


def test_a_job_that_nobody_asked_for_is_found(tale: Tale) -> None:
    tale.admitted("a")
    tale.settled("a", "abandoned")
    tale.answered("a")
    assert [violation.text for violation in tale.violations()] == ["1 jobs for 0 requests"]


def test_a_second_answer_and_a_second_end_are_found(tale: Tale) -> None:
    answered(tale)
    tale.headed(1, "b")
    tale.ended(1)
    texts = [violation.text for violation in tale.violations()]
    assert "a second answer" in texts
    assert "a second end" in texts


def test_two_requests_with_one_id_are_found(tale: Tale) -> None:
    answered(tale)
    tale.sent(2)
    tale.headed(2, "a")
    tale.ended(2)
    assert "one-fate" in tale.broken


@pytest.mark.parametrize("times", [0, 2])
def test_a_request_is_done_exactly_once(tale: Tale, times: int) -> None:
    tale.unheard("a")
    tale.started("a")
    tale.settled("a")
    tale.released("a")
    for _ in range(times):
        tale.answered("a")
    assert tale.broken == ["one-fate"]


# --- at rest -----------------------------------------------------------------------------------------------------


def test_a_lease_that_is_still_held_at_the_end_is_found(tale: Tale) -> None:
    tale.unheard("a")
    tale.started("a")
    tale.settled("a")
    tale.answered("a")
    assert tale.broken == ["at-rest"]


@pytest.mark.parametrize(
    "gauge",
    [{"seats": 3}, {"seats_free": 5}, {"jobs_waiting": 1}, {"jobs_running": 1}],
    ids=lambda gauge: next(iter(gauge)),
)
def test_a_service_that_counts_something_else_at_the_end_is_found(tale: Tale, gauge: dict[str, int]) -> None:
    gauges = {"seats": 6, "seats_free": 6, "jobs_waiting": 0, "jobs_running": 0, "bugs": 0}
    tale.quiet(gauges=gauges | gauge)
    assert tale.broken == ["at-rest"]


@pytest.mark.parametrize("change", [{"children": 3}, {"rss_bytes": 2**28}, {"descriptors": 40}])
def test_a_service_that_holds_more_than_before_is_found(tale: Tale, change: dict[str, int]) -> None:
    tale.quiet(**change)
    assert tale.broken == ["at-rest"]


def test_a_worker_on_probation_at_the_end_has_two_seats(tale: Tale) -> None:
    tale.moved(WORKERS[0], "ready", "probation")
    tale.quiet(gauges={"seats": 5, "seats_free": 5, "jobs_waiting": 0, "jobs_running": 0, "bugs": 0})
    assert tale.violations() == []


def test_a_worker_that_is_not_back_in_service_at_the_end_is_found(tale: Tale) -> None:
    tale.moved(WORKERS[0], "ready", "suspect")
    assert tale.broken == ["at-rest"]


def test_a_run_that_never_came_to_rest_is_found(tale: Tale) -> None:
    tale.exited()
    assert [violation.rule for violation in check(tale.lines)] == ["at-rest"]


# --- one attempt -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("<default-0-1#0>1! <default-0-1#0>2! ", "refused"),
        ("<default-0-1#0>1! <default-0-1#0>1! <default-0-1#0>1! ", "refused"),
        ("1! <default-0-1#0>1! <default-0-1#0>..", "answered"),
        ("<default-0-1#0>1! <default-0-1#0>1! ", "answered"),
        ("<default-0-1#0>1! <default-0-1#1>1! <default-0-1#0>.", "answered"),
        ("<default-1-1#0>1! <default-1-1#0>1! <default-1-1#0>.", "answered"),
    ],
    ids=["foreign piece", "repeated piece", "piece without a stamp", "not whole", "two turns", "another worker"],
)
def test_a_text_that_is_not_one_attempts_is_found(tale: Tale, text: str, how: str) -> None:
    answered(tale, text, how)
    assert tale.broken == ["one-attempt"]


@pytest.mark.parametrize("text", ["", "<default-0-1#0>1! ", "<default-0-1#0>1! <default-0-1#0>1! "])
def test_a_beginning_of_the_text_and_an_error_break_no_promise(tale: Tale, text: str) -> None:
    answered(tale, text, "refused")
    assert tale.violations() == []


def test_a_job_that_is_moved_after_it_has_spoken_is_found(tale: Tale) -> None:
    tale.unheard("a")
    tale.started("a")
    tale.spoke("a")
    tale.returned("a")
    tale.released("a")
    tale.started("a")
    tale.over("a")
    assert tale.broken == ["one-attempt"]


# --- not lost ----------------------------------------------------------------------------------------------------


def lost(tale: Tale, fault: str | None = None, *, spoken: bool = False, moved: bool = False) -> None:
    """Request 1, lost with its worker; after it was `moved`, if need be."""
    tale.sent(1, fault=fault)
    tale.admitted("a")
    tale.started("a")
    if moved:
        tale.returned("a")
        tale.released("a")
        tale.started("a")
    if spoken:
        tale.spoke("a")
    tale.headed(1, "a", 200 if spoken else 503)
    tale.ended(1, "refused", "", "worker_lost")
    tale.over("a", "worker_lost")


def test_a_job_that_was_lost_before_it_spoke_is_found(tale: Tale) -> None:
    lost(tale)
    assert tale.broken == ["not-lost"]


def test_a_job_that_has_spoken_may_be_lost(tale: Tale) -> None:
    lost(tale, spoken=True)
    assert tale.violations() == []


def test_a_job_that_has_done_something_may_be_lost(tale: Tale) -> None:
    lost(tale, fault="approval")
    assert tale.violations() == []


def test_a_job_may_be_lost_when_its_attempts_are_used_up(tale: Tale) -> None:
    lost(tale, moved=True)
    assert tale.violations() == []


def test_a_job_may_be_lost_when_the_retry_budget_is_used_up(tale: Tale) -> None:
    tale.unheard("b")
    tale.started("b")
    tale.returned("b")
    tale.released("b")
    tale.started("b")
    tale.over("b")
    lost(tale)
    assert tale.violations() == []


def test_a_job_that_was_moved_may_be_lost_while_it_waits(tale: Tale) -> None:
    tale.unheard("a")
    tale.started("a")
    tale.returned("a")
    tale.released("a")
    tale.settled("a", "worker_lost")
    tale.answered("a")
    assert tale.violations() == []


# --- first come, first served ------------------------------------------------------------------------------------


def started_in_order(tale: Tale, *jobs: str) -> None:
    for job in jobs:
        tale.started(job)
        tale.over(job)


def test_a_job_that_overtakes_another_of_its_tenant_and_class_is_found(tale: Tale) -> None:
    tale.unheard("a", "b")
    started_in_order(tale, "b", "a")
    assert tale.broken == ["fifo"]


def test_the_order_among_tenants_and_classes_is_free(tale: Tale) -> None:
    tale.unheard("a")
    tale.unheard("b", tenant="two")
    tale.unheard("c", priority="interactive")
    started_in_order(tale, "c", "b", "a")
    assert tale.violations() == []


def test_a_job_that_has_left_is_not_waited_for(tale: Tale) -> None:
    tale.unheard("a", "b")
    tale.settled("a", "abandoned")
    tale.answered("a")
    started_in_order(tale, "b")
    assert tale.violations() == []


def one_was_moved(tale: Tale) -> None:
    """Of two jobs that wait the first one had a turn before, and its worker crashed."""
    tale.unheard("a", "b")
    tale.started("a", WORKERS[1])
    tale.returned("a")
    tale.released("a")


@pytest.mark.parametrize(("order", "broken"), [("ab", []), ("ba", ["fifo"])])
def test_a_job_that_was_moved_goes_before_the_others(tale: Tale, order: str, broken: list[str]) -> None:
    one_was_moved(tale)
    started_in_order(tale, *order)
    assert tale.broken == broken


@pytest.mark.parametrize(("after", "broken"), [(0, []), (200, ["fifo"])])
def test_a_seat_that_a_moved_job_has_to_avoid_is_anybodys_for_a_while(
    tale: Tale, after: int, broken: list[str]
) -> None:
    one_was_moved(tale)
    for _ in range(after):
        tale.service("time.passed")
    tale.started("b", WORKERS[1])
    tale.over("b")
    started_in_order(tale, "a")
    assert tale.broken == broken


@pytest.mark.parametrize(
    ("order", "after", "broken"),
    [("ba", 100, []), ("ab", 100, []), ("ab", 0, ["punctual"]), ("ba", 200, ["fifo"])],
)
def test_a_job_that_rests_is_overtaken_until_it_has_rested(
    tale: Tale, order: str, after: int, broken: list[str]
) -> None:
    tale.unheard("a", "b")
    tale.started("a")
    tale.returned("a", rest_s=1.0)
    tale.released("a")
    for _ in range(after):
        tale.service("time.passed")
    started_in_order(tale, order[0])
    for _ in range(100 if after < 100 else 0):
        tale.service("time.passed")
    started_in_order(tale, order[1])
    assert tale.broken == broken


def test_a_seat_beside_another_suspect_is_anybodys(tale: Tale) -> None:
    for number in range(10):
        tale.turned(f"other {number}")
    tale.unheard("s", priority="batch")
    tale.started("s", WORKERS[1])
    tale.returned("s")
    tale.released("s")
    one_was_moved(tale)
    tale.started("s")
    started_in_order(tale, "b")
    tale.over("s")
    started_in_order(tale, "a")
    assert tale.violations() == []


# --- suspects ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("worker", "broken"), [(WORKERS[0], ["suspects"]), (WORKERS[1], [])])
def test_two_suspects_on_one_worker_are_found(tale: Tale, worker: str, broken: list[str]) -> None:
    for number in range(10):
        tale.turned(f"other {number}")
    tale.unheard("a")
    tale.unheard("b", tenant="two")
    for job in "ab":
        tale.started(job)
        tale.returned(job)
        tale.released(job)
    tale.started("a", WORKERS[0])
    tale.started("b", worker)
    tale.over("a")
    tale.over("b")
    assert tale.broken == broken


# --- punctual ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("waited_s", "broken"), [(3.0, []), (3.01, ["punctual"])])
def test_no_turn_begins_after_the_queue_budget(tale: Tale, waited_s: float, broken: list[str]) -> None:
    tale.turned("a", waited_s=waited_s)
    assert tale.broken == broken


@pytest.mark.parametrize(("after", "broken"), [(300, []), (400, ["punctual"])])
def test_a_job_that_was_moved_has_its_queue_budget_anew(tale: Tale, after: int, broken: list[str]) -> None:
    tale.unheard("a")
    tale.started("a", waited_s=2.9)
    tale.returned("a")
    tale.released("a")
    for _ in range(after):
        tale.service("time.passed")
    tale.started("a", waited_s=6.0)
    tale.over("a")
    assert tale.broken == broken


@pytest.mark.parametrize(("waited_s", "broken"), [(0.5, []), (0.6, ["punctual"])])
def test_no_turn_begins_after_its_clients_deadline(tale: Tale, waited_s: float, broken: list[str]) -> None:
    tale.sent(1, deadline_ms=500)
    tale.admitted("a")
    tale.started("a", waited_s=waited_s)
    tale.headed(1, "a")
    tale.ended(1)
    tale.over("a")
    assert tale.broken == broken


def test_a_refusal_that_comes_late_is_found(tale: Tale) -> None:
    tale.unheard("a")
    tale.settled("a", "queue_timeout", waited_s=3.3)
    tale.answered("a")
    assert tale.broken == ["punctual"]


# --- alive ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("after", "broken"), [(1100, []), (1300, ["alive"])])
def test_a_service_that_says_nothing_for_long_while_it_is_asked_is_found(
    tale: Tale, after: int, broken: list[str]
) -> None:
    answered(tale)
    for _ in range(after):
        tale.service("time.passed")
    tale.gone()
    tale.gone()
    assert tale.broken == broken


def test_a_service_that_nobody_asks_may_be_silent(tale: Tale) -> None:
    answered(tale)
    for _ in range(1300):
        tale.service("time.passed")
    assert tale.violations() == []


# --- fenced ------------------------------------------------------------------------------------------------------


def test_a_word_of_a_job_that_is_settled_is_found(tale: Tale) -> None:
    tale.turned("a")
    tale.spoke("a")
    assert tale.broken == ["fenced"]


def test_a_turn_of_a_job_that_is_settled_is_found(tale: Tale) -> None:
    tale.turned("a")
    tale.started("a")
    assert tale.broken == ["fenced"]


def test_a_word_of_an_attempt_that_is_over_is_found(tale: Tale) -> None:
    tale.unheard("a")
    tale.started("a")
    tale.returned("a")
    tale.spoke("a")
    tale.released("a")
    tale.started("a")
    tale.spoke("a", attempt=1)
    tale.over("a")
    assert [violation.rule for violation in tale.violations()] == ["fenced", "fenced"]


def test_the_leases_of_a_worker_end_with_it(tale: Tale) -> None:
    tale.unheard("a", "b")
    for job in "ab":
        tale.started(job)
    tale.spoke("a")
    tale.moved(WORKERS[0], "ready", "stopping")
    tale.settled("a", "worker_lost")
    tale.answered("a")
    tale.returned("b")
    tale.moved("default/0.2", "starting", "ready")
    tale.started("b", "default/0.2")
    tale.over("b")
    tale.moved(WORKERS[0], "stopping", "dead")
    assert tale.violations() == []


def test_a_word_from_a_worker_that_is_gone_is_found(tale: Tale) -> None:
    tale.unheard("a")
    tale.started("a")
    tale.moved(WORKERS[0], "ready", "stopping")
    tale.spoke("a")
    tale.settled("a", "worker_lost")
    tale.answered("a")
    tale.moved(WORKERS[0], "stopping", "dead")
    tale.moved("default/0.2", "starting", "ready")
    assert tale.broken == ["fenced"]


def test_a_lease_that_is_released_twice_is_found(tale: Tale) -> None:
    tale.turned("a")
    tale.released("a")
    assert tale.broken == ["fenced"]


def test_a_lease_that_is_released_under_a_running_job_is_found(tale: Tale) -> None:
    tale.unheard("a")
    tale.started("a")
    tale.released("a")
    tale.settled("a")
    tale.answered("a")
    assert tale.broken == ["fenced"]


def test_a_lease_that_is_given_twice_is_found(tale: Tale) -> None:
    tale.turned("a", lease=1)
    tale.turned("b", lease=1)
    assert "fenced" in tale.broken


# --- budget ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("admitted", "broken"), [(9, ["budget"]), (10, [])])
def test_no_more_jobs_are_moved_than_the_reserve_and_the_ratio_allow(
    tale: Tale, admitted: int, broken: list[str]
) -> None:
    for number in range(admitted - 2):
        tale.turned(f"other {number}")
    tale.unheard("a", "b")
    for job in "ab":
        tale.started(job)
        tale.returned(job)
        tale.released(job)
        tale.started(job)
        tale.over(job)
    assert tale.broken == broken


# --- no bug ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["bug.found", "handler.failed", "library.logged", "log.unreadable"])
def test_a_bug_in_the_log_is_found(tale: Tale, event: str) -> None:
    tale.service(event, error="ValueError")
    assert tale.broken == ["no-bug"]


@pytest.mark.parametrize("end", [{"code": 1}, {"processes_left": ["default-0-1"]}, {"files_left": ["run"]}])
def test_an_end_that_leaves_something_is_found(tale: Tale, end: dict[str, Any]) -> None:
    tale.quiet()
    tale.exited(**end)
    assert tale.broken == ["no-bug"]


def test_a_history_that_stops_before_the_services_end_is_found(tale: Tale) -> None:
    tale.quiet()
    assert [violation.rule for violation in check(tale.lines)] == ["no-bug"]


# --- telling -----------------------------------------------------------------------------------------------------


def test_a_violation_is_told_with_the_lines_of_its_job_and_request(tale: Tale) -> None:
    answered(tale, "<default-0-1#0>foreign", "refused")
    tale.turned("b")
    (violation,) = tale.violations()
    events = [line.event for line in story(tale.lines, violation)]
    assert events == [
        *("request.sent", "job.admitted", "turn.started", "request.headed", "turn.spoke", "job.settled"),
        *("request.ended", "request.answered"),
    ]
    text = told(tale.lines, [violation])
    assert text.startswith("one-attempt: not what it asked for: 'foreign'")
    assert text.endswith("1 violations: one-attempt 1")


def test_what_is_told_of_a_violation_is_bounded(tale: Tale) -> None:
    for _ in range(10 * MAX_STORY):
        tale.admitted("a")
    violations = tale.violations()
    assert len(violations) >= 10 * MAX_STORY - 1
    assert len(told(tale.lines, violations).splitlines()) < 10 * (MAX_STORY + 2)


def test_a_history_without_violations_is_told_in_one_line(tale: Tale) -> None:
    assert told(tale.lines, tale.violations()) == "every promise was kept"


# --- the file ----------------------------------------------------------------------------------------------------


def test_a_recorded_history_is_read_as_it_was_told() -> None:
    file = io.BytesIO()
    recorder = Recorder(file)
    recorder.tell("request.sent", request=1, chunks=("né",))
    recorder.hear(b'{"event":"worker.booted","worker":"default/0.1","level":"info"}\n')
    recorder.hear(b"Traceback (most recent call last):\n")
    lines = parse(file.getvalue().splitlines())
    assert [(line.number, line.source, line.event) for line in lines] == [
        (1, "client", "request.sent"),
        (2, "service", "worker.booted"),
        (3, "service", "log.unreadable"),
    ]
    assert lines[1].fields == {"worker": "default/0.1", "level": "info"}
    assert lines[0].at <= lines[1].at <= lines[2].at
    assert [str(line) for line in lines] == [str(line) for line in recorder.lines]


def test_the_command_says_in_its_exit_code_whether_a_history_is_good(tale: Tale, tmp_path: Path) -> None:
    def verdict(text: str) -> tuple[int, str]:
        path = tmp_path / "history"
        path.write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "loadtest.check_history", str(path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout

    answered(tale)
    assert tale.violations() == []
    good = "".join(f"{line}\n" for line in tale.lines)
    assert verdict(good) == (0, "every promise was kept\n")
    code, text = verdict("".join(f"{line}\n" for line in tale.lines if line.event != "job.settled"))
    assert code == 1
    assert "one-fate: the job has no outcome" in text
    assert verdict("not a history\n")[0] == 2


def test_a_file_that_is_no_history_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text('{"from":"client","at":0,"event":"x"}\n{"event":"y"}\n')
    with pytest.raises(ValueError, match="line 2 is not of a history"):
        read(path)


def test_stamps_are_taken_out_of_a_text_before_it_is_digested() -> None:
    got = received("<default-0-1#3>one <default-0-1#3>two")
    assert got.stamps == ("default-0-1#3",)
    assert (got.chars, got.sha256, got.head) == (7, received("one two").sha256, "one two")


def test_a_worker_stamps_with_the_name_of_its_home() -> None:
    assert stamp_of("my-profile/0.12") == "my-profile-0-12"

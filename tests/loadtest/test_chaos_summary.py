"""`loadtest.chaos_summary`: the figures of a hand-made history."""

from __future__ import annotations

from typing import Any

from loadtest.chaos_summary import Crash, figures, summary
from loadtest.history import CLIENT, SERVICE, Line


def service(at: float, event: str, **fields: Any) -> Line:
    return Line(0, SERVICE, at, event, fields)


def client(at: float, event: str, **fields: Any) -> Line:
    return Line(0, CLIENT, at, event, fields)


def moved(at: float, worker: str, source: str, target: str) -> Line:
    return service(at, "worker.moved", worker=worker, source=source, target=target, reason="")


def started(job: str, worker: str, attempt: int = 1) -> Line:
    return service(1.0, "turn.started", job=job, worker=worker, attempt=attempt)


def test_the_time_from_a_kill_to_the_replacement_ends_when_the_slots_next_worker_is_in_service() -> None:
    lines = [
        moved(0.0, "p/0.1", "starting", "ready"),
        moved(0.0, "p/1.1", "starting", "ready"),
        client(1.0, "fault.injected", kind="sigkill", worker="p/0.1"),
        moved(1.1, "p/0.1", "ready", "stopping"),
        moved(1.2, "p/1.2", "starting", "probation"),
        moved(1.5, "p/0.2", "starting", "probation"),
        moved(1.9, "p/0.2", "probation", "ready"),
    ]
    assert figures(lines).killed_to_replaced_s == [0.5]


def test_a_frozen_worker_is_timed_to_its_leaving_and_to_its_replacement() -> None:
    lines = [
        moved(0.0, "p/0.1", "starting", "ready"),
        client(1.0, "fault.injected", kind="sigstop", worker="p/0.1"),
        moved(5.0, "p/0.1", "ready", "suspect"),
        moved(7.0, "p/0.1", "suspect", "quarantined"),
        moved(8.0, "p/0.2", "spare", "ready"),
    ]
    out = figures(lines)
    assert (out.frozen_to_out_s, out.frozen_to_replaced_s, out.quarantines) == ([4.0], [7.0], 1)


def test_a_struck_worker_without_a_successor_is_named() -> None:
    lines = [
        moved(0.0, "p/0.1", "starting", "ready"),
        client(1.0, "fault.injected", kind="sigterm", worker="p/0.1"),
        moved(1.1, "p/0.1", "ready", "stopping"),
    ]
    assert figures(lines).never_replaced == ["p/0.1"]


def test_a_slot_that_crashed_a_moment_before_is_timed_apart() -> None:
    lines = [
        moved(0.0, "p/0.1", "starting", "ready"),
        service(1.0, "worker.exited", worker="p/0.1", code=3, reason="it exited with code 3"),
        moved(1.0, "p/0.1", "ready", "stopping"),
        moved(1.5, "p/0.2", "starting", "ready"),
        client(2.0, "fault.injected", kind="sigkill", worker="p/0.2"),
        moved(4.5, "p/0.3", "starting", "ready"),
    ]
    out = figures(lines)
    assert (out.killed_to_replaced_s, out.killed_again_to_replaced_s) == ([], [2.5])


def test_a_blow_to_a_worker_whose_successor_serves_already_is_not_timed() -> None:
    lines = [
        moved(0.0, "p/0.1", "starting", "ready"),
        moved(0.5, "p/0.2", "starting", "probation"),
        client(1.0, "fault.injected", kind="sigkill", worker="p/0.1"),
        moved(1.1, "p/0.1", "ready", "stopping"),
    ]
    out = figures(lines)
    assert (out.killed_to_replaced_s, out.never_replaced) == ([], [])


def test_a_blow_to_a_worker_that_was_out_of_service_already_is_not_timed() -> None:
    lines = [
        moved(0.0, "p/0.1", "starting", "ready"),
        moved(0.9, "p/0.1", "ready", "quarantined"),
        client(1.0, "fault.injected", kind="sigkill", worker="p/0.1"),
        moved(1.1, "p/0.2", "starting", "ready"),
    ]
    out = figures(lines)
    assert (out.killed_to_replaced_s, out.never_replaced, out.faults) == ([], [], {"sigkill": 1})


def test_a_crash_is_told_with_the_turns_that_had_not_spoken() -> None:
    lines = [
        client(0.0, "run.configured", profiles={"p": {"attempts": 2}}),
        client(0.0, "request.sent", request=1, fault="approval"),
        client(0.0, "request.headed", request=1, id="acted"),
        *(started(job, "p/0.1") for job in ("spoken", "moved", "lost", "acted")),
        *(started(job, "p/0.1", 2) for job in ("spent", "crashing")),
        service(1.0, "turn.spoke", job="spoken", attempt=1),
        service(2.0, "job.settled", job="spoken", outcome="worker_lost"),
        service(2.0, "turn.returned", job="moved", worker="p/0.1", reason="worker_lost"),
        *(service(2.0, "job.settled", job=job, outcome="worker_lost") for job in ("lost", "acted", "spent")),
        service(2.0, "job.settled", job="crashing", outcome="request_crashes_worker"),
        service(2.1, "worker.exited", worker="p/0.1", code=3, reason="it exited with code 3"),
        service(2.2, "worker.exited", worker="p/1.1", code=0, reason="it ignored an interrupt"),
    ]
    out = figures(lines)
    assert out.crashes == [Crash("p/0.1", moved=1, spent=2, acted=1, lost=1)]
    assert out.queued_lost == 0
    assert out.exits.total() == 2


def test_a_job_that_is_lost_while_it_waits_is_counted_and_one_that_was_moved_in_vain_apart() -> None:
    lines = [
        started("a", "p/0.1"),
        service(2.0, "turn.returned", job="a", worker="p/0.1", reason="worker_lost"),
        service(2.0, "job.settled", job="a", outcome="worker_lost"),
        service(2.0, "job.settled", job="b", outcome="worker_lost"),
    ]
    out = figures(lines)
    assert (out.moved_in_vain, out.queued_lost) == (1, 1)


def test_workers_that_go_with_the_service_are_not_counted() -> None:
    lines = [
        client(1.0, "run.quiet"),
        service(2.1, "worker.exited", worker="p/0.1", code=0, reason="it exited with code 0"),
    ]
    assert figures(lines).crashes == []


def test_the_longest_silence_is_measured_up_to_the_next_request_or_word() -> None:
    lines = [
        client(1.0, "request.sent", request=1, fault=None),
        service(3.0, "turn.spoke", job="a", attempt=1),
        client(8.0, "request.sent", request=2, fault=None),
        service(20.0, "turn.spoke", job="b", attempt=1),
    ]
    assert figures(lines).silence_s == 5.0


def test_the_summary_counts_what_happened() -> None:
    lines = [
        client(0.0, "request.sent", request=1, fault="exit"),
        client(0.0, "request.sent", request=2, fault=None),
        client(1.0, "request.ended", how="answered"),
        client(1.0, "fault.injected", kind="reload"),
        service(1.0, "job.rejected", reason="queue_full"),
    ]
    text = summary(lines)
    assert "1: answered 1" in text
    assert "2: exit 1, reload 1" in text
    assert "queue_full 1" in text
    assert "kill -9 to replacement in service:  did not happen" in text

"""Whether a history keeps the service's promises: `python -m loadtest.check_history FILE`, exit code 1 if not.

The rules, by the names under which they are reported:

| rule | holds when |
|---|---|
| seats | no worker has more turns than slots (two while on probation); when a turn begins, no profile has more slots \
in service than configured, nor more workers than those and its surge; no capped tenant has more turns than its cap \
(which count until their jobs have an outcome) |
| in-service | a turn begins only on a worker that is ready or on probation |
| one-fate | a job is admitted or rejected, once; an admitted one has exactly one outcome; its attempts are numbered \
in order; every request is answered exactly once, as its outcome says, and nothing stays open |
| at-rest | after the last request nothing waits or runs, every seat is free, and the service holds about what it held |
| one-attempt | a client gets a beginning of what its prompt asked for, from one turn of the worker that had it last; \
a job that has spoken is not moved; a whole answer is exact |
| not-lost | a job whose worker went before it spoke, or did anything, is moved, as long as it has attempts and there \
is retry budget |
| fifo | of one profile, tenant and priority, the one admitted first starts first; those that were moved go before all \
others, but for seats on workers that they have to avoid, and while they rest |
| suspects | jobs whose worker crashed under them are not on one worker together |
| punctual | no turn begins after its queue budget, which a moved job has anew, nor after its client's deadline, nor \
before it has rested, \
and nobody waits much longer for the refusal |
| alive | as long as requests come, it is never long until the next turn begins to speak |
| fenced | of an attempt that is over, and of a job that is settled, nothing more is heard |
| budget | in every prefix, jobs moved <= reserve + ratio x jobs admitted |
| no-bug | the service logged no bug of its own and nothing that is no log line, and its end was clean |

The time taken is proportional to the history's length.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from loadtest.history import CLIENT, SERVICE, Line, digest, read, stamp_of

IN_SERVICE = ("probation", "ready")
GONE = ("stopping", "dead")
"""A worker's leases end with it; they are not released one by one."""
PROBATION_SEATS = 2
LATE_S = 0.25
"""How much later than promised a refusal may come: the service looks that often."""
ROUNDING_S = 0.001
AVOID_S = 1.0
"""How long a job that was moved may wait for another worker than those that it was lost on."""
SILENCE_S = 12.0
"""Frozen workers are out of rotation after 5 s, and their successors are there a second later; the rest is grace."""
SPARE_BYTES = 64 * 2**20
SPARE_DESCRIPTORS = 8
LOST = ("worker_lost", "worker_replaced")
CODES = {"queue_timeout": "queue_timeout", "worker_lost": "worker_lost", "worker_replaced": "worker_lost"}
"""Outcomes of which a client must be told by exactly this code."""
ACTS = ("approval",)
"""Prompts whose turn does something before it speaks: it must not do it twice."""
BUGS = ("bug.found", "handler.failed", "library.logged", "log.unreadable")
MAX_STORY = 40

Waiting = tuple[str, str, str]


class Violation(NamedTuple):
    """A promise that was not kept: its rule, what happened, the number of the line that shows it (0: the end), and
    whose it was."""

    rule: str
    text: str
    number: int
    job: str = ""
    worker: str = ""
    request: int | None = None


@dataclass(slots=True)
class Job:
    """What is known of a job. `attempt` is the number of the turns it has had."""

    id: str
    queue: Waiting
    place: int
    is_waiting: bool = True
    waited_s: float = 0.0
    attempt: int = 0
    moved_at: float = 0.0
    rests_until: float = float("-inf")
    lost_on: set[str] = field(default_factory=set)
    is_suspect: bool = False
    is_lost: bool = False
    seat: tuple[int, str] | None = None
    has_spoken: bool = False
    outcome: str | None = None
    answers: int = 0

    @property
    def is_running(self) -> bool:
        return self.attempt > 0 and not self.is_waiting and self.outcome is None


@dataclass(slots=True)
class _Worker:
    state: str = ""
    leases: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Request:
    """What is known of a client's request."""

    sent: Mapping[str, Any]
    id: str | None = None
    status: int | None = None
    how: str | None = None
    code: str | None = None
    stamps: Sequence[str] = ()


class Checker:
    """Takes lines one after another (`see`), then `finish`; what is wrong piles up in `violations`."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.jobs: dict[str, Job] = {}
        self.rejected: set[tuple[str, str]] = set()
        self.requests: dict[int, Request] = {}
        self._refused: set[str] = set()
        self._by_id: dict[str, int] = {}
        self._profiles: Mapping[str, Any] = {}
        self._caps: Mapping[str, int] = {}
        self._workers: defaultdict[str, _Worker] = defaultdict(_Worker)
        self._serving: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """Workers in service, by profile and slot."""
        self._holders: dict[tuple[int, str], str] = {}
        self._released: set[tuple[int, str]] = set()
        self._tenants: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._queues: defaultdict[Waiting, deque[str]] = defaultdict(deque)
        self._returned: defaultdict[Waiting, dict[str, Job]] = defaultdict(dict)
        self._admitted: defaultdict[str, int] = defaultdict(int)
        self._moved: defaultdict[str, int] = defaultdict(int)
        self._spoke_at: float | None = None
        self._is_at_rest = False
        self._has_ended = False
        self._line = Line(0, CLIENT, 0.0, "", {})
        self._handlers = {
            (CLIENT, "run.configured"): self._on_configured,
            (CLIENT, "request.sent"): self._on_sent,
            (CLIENT, "request.headed"): self._on_headed,
            (CLIENT, "request.ended"): self._on_ended,
            (CLIENT, "run.quiet"): self._on_quiet,
            (CLIENT, "service.exited"): self._on_exited,
            (SERVICE, "job.admitted"): self._on_admitted,
            (SERVICE, "job.rejected"): self._on_rejected,
            (SERVICE, "turn.started"): self._on_started,
            (SERVICE, "turn.spoke"): self._on_spoke,
            (SERVICE, "turn.returned"): self._on_returned,
            (SERVICE, "job.settled"): self._on_settled,
            (SERVICE, "lease.released"): self._on_released,
            (SERVICE, "worker.moved"): self._on_worker_moved,
            (SERVICE, "request.answered"): self._on_answered,
            **{(SERVICE, event): self._on_bug for event in BUGS},
        }

    def see(self, line: Line) -> None:
        """The next line."""
        handler = self._handlers.get((line.source, line.event))
        if handler is not None:
            self._line = line
            handler(line.fields)

    def finish(self) -> None:
        """There are no more lines."""
        self._line = Line(0, CLIENT, 0.0, "", {})
        for job in self.jobs.values():
            if job.outcome is None:
                self._wrong("one-fate", "the job has no outcome", job=job.id)
            elif job.answers == 0:
                self._wrong("one-fate", "the job's request was never done", job=job.id)
        for number, request in self.requests.items():
            self._join(number, request)
        named = self._by_id.keys()
        nameless = sum(request.id is None for request in self.requests.values())
        strangers = [job for job in self.jobs.keys() | self._refused if job not in named]
        if len(strangers) > nameless:
            self._wrong("one-fate", f"{len(strangers)} jobs for {nameless} requests", job=strangers[0])
        if not self._is_at_rest:
            self._wrong("at-rest", "the run never came to rest")
        if not self._has_ended:
            self._wrong("no-bug", "the service was not seen to end")

    # --- what the service says -------------------------------------------------------------------------------

    def _on_admitted(self, fields: Mapping[str, Any]) -> None:
        name, profile = fields["job"], fields["profile"]
        self._admitted[profile] += 1
        if name in self.jobs or (name, profile) in self.rejected:
            self._wrong("one-fate", "a job with this id exists already", job=name)
            return
        job = Job(name, (profile, fields["tenant"], fields["priority"]), self._line.number)
        self.jobs[name] = job
        self._queues[job.queue].append(name)

    def _on_rejected(self, fields: Mapping[str, Any]) -> None:
        name, profile = fields["job"], fields["profile"]
        if name in self.jobs or (name, profile) in self.rejected:
            self._wrong("one-fate", "a job with this id exists already", job=name)
        self.rejected.add((name, profile))
        self._refused.add(name)

    def _on_started(self, fields: Mapping[str, Any]) -> None:
        job = self._live(fields)
        if job is None:
            return
        if not job.is_waiting:
            self._wrong("one-fate", "a second turn while the first one runs", job=job.id)
        if job.has_spoken:
            self._wrong("one-attempt", "a second turn of a job that has spoken", job=job.id)
        if fields["attempt"] != job.attempt + 1:
            self._wrong("one-fate", f"attempt {fields['attempt']} after {job.attempt}", job=job.id)
        self._check_order(job, fields["worker"])
        job.waited_s = fields["waited_s"]
        since = max(job.moved_at, job.rests_until)
        self._check_wait(job, job.waited_s if job.attempt == 0 else self._line.at - since - LATE_S)
        if self._line.at < job.rests_until - LATE_S:
            self._wrong("punctual", f"it rests for {job.rests_until - self._line.at:.3f} s more", job=job.id)
        was_running = job.is_running
        job.attempt, job.is_waiting, job.seat = fields["attempt"], False, (fields["lease"], fields["worker"])
        self._take_seat(job, *job.seat)
        if not was_running:
            self._count_tenant(job, 1)

    def _on_spoke(self, fields: Mapping[str, Any]) -> None:
        job = self._live(fields)
        if job is not None and self._is_current(job, fields):
            job.has_spoken = True
            self._spoke_at = self._line.at
            if job.seat in self._released:
                self._wrong("fenced", f"it speaks, and its lease {job.seat} is over", job=job.id)

    def _on_returned(self, fields: Mapping[str, Any]) -> None:
        job = self._live(fields)
        if job is None or not self._is_current(job, fields):
            return
        if (fields["lease"], fields["worker"]) != job.seat:
            self._wrong("fenced", f"it had another lease: {job.seat}", job=job.id, worker=fields["worker"])
        if job.has_spoken:
            self._wrong("one-attempt", "it has spoken, and is to run again", job=job.id)
        self._count_tenant(job, -1)
        job.is_waiting, job.seat, job.moved_at = True, None, self._line.at
        rest_s = fields.get("rest_s", 0.0)
        if rest_s:
            job.rests_until = self._line.at + rest_s
        else:
            job.lost_on.add(fields["worker"])
        job.is_suspect = job.is_suspect or fields["reason"] == "worker_lost"
        self._returned[job.queue][job.id] = job
        profile = job.queue[0]
        self._moved[profile] += 1
        if self._moved[profile] > self._retries(profile):
            self._wrong("budget", f"{self._moved[profile]} moved of {self._admitted[profile]}", job=job.id)

    def _on_settled(self, fields: Mapping[str, Any]) -> None:
        job = self._live(fields)
        if job is None:
            return
        if job.is_running:
            self._count_tenant(job, -1)
        if fields["attempts"] != job.attempt:
            self._wrong("one-fate", f"{fields['attempts']} attempts are told, {job.attempt} were seen", job=job.id)
        elif job.attempt == 0:
            self._check_wait(job, fields["waited_s"], LATE_S)
        job.outcome = fields["outcome"]
        is_lost = job.outcome in LOST and not job.is_waiting and not job.has_spoken
        job.is_lost, job.is_waiting = is_lost and self._could_move(job), False
        self._returned[job.queue].pop(job.id, None)

    def _on_released(self, fields: Mapping[str, Any]) -> None:
        seat = fields["lease"], fields["worker"]
        holder = self._holders.pop(seat, None)
        if holder is None:
            again = "again" if seat in self._released else "but nobody had it"
            self._wrong("fenced", f"lease {seat[0]} was released {again}", worker=seat[1])
            return
        self._released.add(seat)
        self._workers[seat[1]].leases.discard(seat[0])
        job = self.jobs[holder]
        if job.outcome is None and job.seat == seat:
            self._wrong("fenced", "its lease was released while it runs", job=holder, worker=seat[1])

    def _on_worker_moved(self, fields: Mapping[str, Any]) -> None:
        name, target = fields["worker"], fields["target"]
        worker = self._workers[name]
        slots, slot = self._serving[name.partition("/")[0]], name.rpartition(".")[0]
        slots[slot] += (target in IN_SERVICE) - (worker.state in IN_SERVICE)
        if not slots[slot]:
            del slots[slot]
        worker.state = target
        if target in GONE:
            for lease in worker.leases:
                del self._holders[lease, name]
                self._released.add((lease, name))
            worker.leases.clear()
        self._forget(name, worker)

    def _on_answered(self, fields: Mapping[str, Any]) -> None:
        job = self.jobs.get(fields.get("request_id", ""))
        if job is None:
            return
        job.answers += 1
        if job.answers > 1:
            self._wrong("one-fate", "its request was done twice", job=job.id)
        if job.outcome is None:
            self._wrong("one-fate", "its request was done before it had an outcome", job=job.id)

    def _on_bug(self, _fields: Mapping[str, Any]) -> None:
        self._wrong("no-bug", f"the service logged {self._line.event}")

    # --- what the clients say --------------------------------------------------------------------------------

    def _on_configured(self, fields: Mapping[str, Any]) -> None:
        self._profiles, self._caps = fields["profiles"], fields["seats"]

    def _on_sent(self, fields: Mapping[str, Any]) -> None:
        self.requests[fields["request"]] = Request(fields)
        silence_s = self._line.at - self._spoke_at if self._spoke_at is not None else SILENCE_S
        if silence_s > SILENCE_S:
            self._wrong("alive", f"no turn has begun to speak for {silence_s:.1f} s", request=fields["request"])
        if self._spoke_at is None or silence_s > SILENCE_S:
            self._spoke_at = self._line.at

    def _on_headed(self, fields: Mapping[str, Any]) -> None:
        number = fields["request"]
        request = self.requests[number]
        if request.id is not None:
            self._wrong("one-fate", "a second answer", request=number)
        if fields["id"] in self._by_id:
            self._wrong("one-fate", "an id that another request has", job=fields["id"], request=number)
        request.id, request.status = fields["id"], fields["status"]
        self._by_id[fields["id"]] = number

    def _on_ended(self, fields: Mapping[str, Any]) -> None:
        number = fields["request"]
        request = self.requests[number]
        if request.how is not None:
            self._wrong("one-fate", "a second end", request=number)
        request.how = how = fields["how"]
        request.code, request.stamps = fields["code"], fields["stamps"]
        if how in ("overdue", "malformed") or (how == "broken" and request.sent["client"] != "slow"):
            self._wrong("one-fate", f"the answer is {how}", job=request.id or "", request=number)
        self._check_text(request, fields)

    def _check_text(self, request: Request, fields: Mapping[str, Any]) -> None:
        sent = request.sent
        expected = "".join(sent["chunks"]) * sent["repeat"] + sent["tail"]
        about: dict[str, Any] = {"job": request.id or "", "request": sent["request"]}
        chars = fields["chars"]
        if chars > len(expected) or fields["sha256"] != digest(expected[:chars]):
            self._wrong("one-attempt", f"not what it asked for: {fields['head']!r}", **about)
        elif fields["how"] == "answered" and chars != len(expected):
            self._wrong("one-attempt", f"{chars} of {len(expected)} characters, as if that were all", **about)
        if len(fields["stamps"]) > 1:
            self._wrong("one-attempt", f"pieces of several turns: {fields['stamps']}", **about)

    def _join(self, number: int, request: Request) -> None:
        """A request and its job must tell the same story."""
        about: dict[str, Any] = {"job": request.id or "", "request": number}
        if request.how is None:
            self._wrong("one-fate", "the request has no end", **about)
        if request.id is None:
            if request.how not in ("left", None):
                self._wrong("one-fate", f"the request is {request.how}, and had no answer", **about)
            return
        job = self.jobs.get(request.id)
        if job is None:
            if request.id not in self._refused:
                self._wrong("one-fate", "the request was answered without a job", **about)
            elif request.status == 200:
                self._wrong("one-fate", "the job was rejected, and the answer is 200", **about)
            return
        if (request.how == "answered") != (job.outcome == "stop") and request.how in ("answered", "refused"):
            self._wrong("one-fate", f"the request is {request.how}, the job {job.outcome}", **about)
        if job.is_lost and request.sent["fault"] not in ACTS:
            self._wrong("not-lost", "it had not spoken, and was not moved", **about)
        deadline_ms = request.sent["deadline_ms"]
        if deadline_ms is not None and job.waited_s > deadline_ms / 1000 + ROUNDING_S:
            self._wrong("punctual", f"its turn began after {job.waited_s} s, its deadline", **about)
        code = CODES.get(job.outcome or "")
        if request.how == "refused" and code is not None and request.code != code:
            self._wrong("one-fate", f"its client was told {request.code}, the job is {job.outcome}", **about)
        if request.stamps and (job.seat is None or request.stamps[0].partition("#")[0] != stamp_of(job.seat[1])):
            self._wrong("one-attempt", f"{request.stamps[0]} speaks, the job had {job.seat}", **about)

    # --- rest and end ----------------------------------------------------------------------------------------

    def _on_quiet(self, fields: Mapping[str, Any]) -> None:
        self._is_at_rest = True
        for (lease, worker), job in self._holders.items():
            self._wrong("at-rest", f"lease {lease} is still held", job=job, worker=worker)
        for job_ in self.jobs.values():
            if job_.outcome is None:
                self._wrong("at-rest", "the job still waits or runs", job=job_.id)
        gauges, workers = fields["gauges"], sum(spec["workers"] for spec in self._profiles.values())
        seats = sum(self._seats(name, worker) for name, worker in self._workers.items())
        wanted = {"seats": seats, "seats_free": seats, "jobs_waiting": 0, "jobs_running": 0}
        found = {name: gauges.get(name) for name in wanted}
        if found != wanted:
            self._wrong("at-rest", f"the service says {found}, not {wanted}")
        if gauges.get("bugs"):
            self._wrong("no-bug", f"the service counted {gauges['bugs']} bugs")
        alive = {name: worker.state for name, worker in self._workers.items() if worker.state != "dead"}
        if len(alive) != workers or not set(alive.values()) <= set(IN_SERVICE):
            self._wrong("at-rest", f"the workers are {alive}")
        if fields["children"] != workers:
            self._wrong("at-rest", f"the service has {fields['children']} children for {workers} workers")
        for name, spare in (("rss_bytes", SPARE_BYTES), ("descriptors", SPARE_DESCRIPTORS)):
            if fields[name] > fields[f"{name}_before"] + spare:
                self._wrong("at-rest", f"{name} were {fields[f'{name}_before']}, and are {fields[name]}")

    def _on_exited(self, fields: Mapping[str, Any]) -> None:
        self._has_ended = True
        if fields["code"] != 0:
            self._wrong("no-bug", f"the service ended with code {fields['code']}")
        for name in ("processes_left", "files_left"):
            if fields[name]:
                self._wrong("no-bug", f"{name}: {fields[name]}")

    # --- small things ----------------------------------------------------------------------------------------

    def _wrong(self, rule: str, text: str, **about: Any) -> None:
        self.violations.append(Violation(rule, text, self._line.number, **about))

    def _live(self, fields: Mapping[str, Any]) -> Job | None:
        """The job, if anything may still be heard of it."""
        job = self.jobs.get(fields["job"])
        if job is None:
            self._wrong("one-fate", f"{self._line.event} of a job that was not admitted", job=fields["job"])
        elif job.outcome is not None:
            rule = "one-fate" if self._line.event == "job.settled" else "fenced"
            self._wrong(rule, f"{self._line.event} after it was settled", job=job.id)
            return None
        return job

    def _is_current(self, job: Job, fields: Mapping[str, Any]) -> bool:
        if job.is_waiting or fields["attempt"] != job.attempt:
            state = "it waits" if job.is_waiting else f"attempt {job.attempt} runs"
            self._wrong("fenced", f"{self._line.event} of attempt {fields['attempt']}, and {state}", job=job.id)
            return False
        return True

    def _forget(self, name: str, worker: _Worker) -> None:
        """The dead are not counted, and there is no end to them."""
        if worker.state == "dead":
            del self._workers[name]

    def _take_seat(self, job: Job, lease: int, name: str) -> None:
        worker = self._workers[name]
        if (lease, name) in self._holders or (lease, name) in self._released:
            self._wrong("fenced", f"lease {lease} was taken before", job=job.id, worker=name)
        self._holders[lease, name] = job.id
        worker.leases.add(lease)
        if worker.state not in IN_SERVICE:
            self._wrong("in-service", f"the worker is {worker.state or 'unknown'}", job=job.id, worker=name)
        spec, serving = self._profiles[job.queue[0]], self._serving[job.queue[0]]
        if len(serving) > spec["workers"] or serving.total() > spec["workers"] + spec["surge"]:
            self._wrong("seats", f"in service are {dict(serving)}", worker=name)
        seats = self._seats(name, worker)
        if len(worker.leases) > seats:
            self._wrong("seats", f"{len(worker.leases)} turns on {seats} seats", job=job.id, worker=name)

    def _seats(self, name: str, worker: _Worker) -> int:
        slots = int(self._profiles[name.partition("/")[0]]["slots"])
        return min(slots, PROBATION_SEATS) if worker.state == "probation" else slots

    def _count_tenant(self, job: Job, by: int) -> None:
        key = job.queue[:2]
        self._tenants[key] += by
        cap = self._caps.get(key[1])
        if by > 0 and cap is not None and self._tenants[key] > cap:
            self._wrong("seats", f"tenant {key[1]} has {self._tenants[key]} turns, its cap is {cap}", job=job.id)

    def _check_order(self, job: Job, worker: str) -> None:
        returned, queue = self._returned[job.queue], self._queues[job.queue]
        returned.pop(job.id, None)
        suspects = [other for other in self._on(worker) if other.is_suspect]
        running = [other.id for other in suspects if other.is_running and other.seat and other.seat[1] == worker]
        if job.is_suspect and running:
            self._wrong("suspects", f"{running[0]} is on its worker", job=job.id, worker=worker)
        for other in returned.values():
            avoids = worker in other.lost_on and self._line.at - other.moved_at <= AVOID_S + LATE_S
            rests = self._line.at < other.rests_until + LATE_S
            is_before = job.attempt == 0 or other.place < job.place
            if is_before and not rests and not avoids and not (other.is_suspect and suspects):
                self._wrong("fifo", f"{other.id} was moved, and still waits", job=job.id)
        if job.attempt == 0:
            while queue and not self._is_new(queue[0]):
                queue.popleft()
            if queue and queue[0] != job.id:
                self._wrong("fifo", f"{queue[0]} was before it, and waits", job=job.id)

    def _is_new(self, name: str) -> bool:
        """It waits for its first turn."""
        return self.jobs[name].is_waiting and self.jobs[name].attempt == 0

    def _on(self, worker: str) -> list[Job]:
        """The jobs on a worker."""
        return [self.jobs[self._holders[lease, worker]] for lease in self._workers[worker].leases]

    def _check_wait(self, job: Job, waited_s: float, late_s: float = 0.0) -> None:
        budget_s = self._profiles[job.queue[0]]["queue_budget_s"]
        if waited_s > budget_s + late_s + ROUNDING_S:
            self._wrong("punctual", f"it waited for {waited_s} s, its budget is {budget_s} s", job=job.id)

    def _retries(self, profile: str) -> float:
        spec = self._profiles[profile]
        return float(spec["retry_reserve"] + spec["retry_ratio"] * self._admitted[profile])

    def _could_move(self, job: Job) -> bool:
        profile = job.queue[0]
        return job.attempt < self._profiles[profile]["attempts"] and self._moved[profile] + 1 <= self._retries(profile)


def check(lines: Iterable[Line]) -> list[Violation]:
    """Everything that is wrong with a history."""
    checker = Checker()
    for line in lines:
        checker.see(line)
    checker.finish()
    return checker.violations


def story(lines: Sequence[Line], violation: Violation) -> list[Line]:
    """The lines that a violation is about, the last of them if there are many."""
    names: set[tuple[str, Any]] = set()
    if violation.job:
        names |= {("job", violation.job), ("id", violation.job), ("request_id", violation.job)}
    elif violation.worker:
        names.add(("worker", violation.worker))
    if violation.request is not None:
        names.add(("request", violation.request))
    about = [
        line
        for line in lines
        if line.number == violation.number
        or any(name in line.fields and line.fields[name] == value for name, value in names)
        or (line.event == "worker.moved" and line.fields["worker"] == violation.worker)
    ]
    return about[-MAX_STORY:]


def told(lines: Sequence[Line], violations: Sequence[Violation], limit: int = 10) -> str:
    """The violations with their lines, for people; the first ones of each rule, `limit` in all."""
    out: list[str] = []
    seen: defaultdict[str, int] = defaultdict(int)
    for violation in violations:
        seen[violation.rule] += 1
        if seen[violation.rule] <= 3 and len(out) < limit:
            quoted = (f"  {line.number}: {line}" for line in story(lines, violation))
            out.append("\n".join([f"{violation.rule}: {violation.text}", *quoted]))
    counts = ", ".join(f"{rule} {count}" for rule, count in seen.items())
    return "\n".join([*out, f"{len(violations)} violations: {counts}" if violations else "every promise was kept"])


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    try:
        lines = read(parser.parse_args().file)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    violations = check(lines)
    print(told(lines, violations))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())

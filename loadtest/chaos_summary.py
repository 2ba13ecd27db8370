"""A history in figures, for people: what was asked, what went wrong, and how soon it was right again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from loadtest.check_history import ACTS, IN_SERVICE, LOST
from loadtest.history import CLIENT, SERVICE, Line

CRASHED = ("it exited", "it was killed", "it closed its stdout")
BACKOFF_S = 30.0
"""A slot that crashed so lately boots its next worker after a pause."""


class Crash(NamedTuple):
    """A worker that ended by itself, and what became of its turns that had not spoken.

    They were moved elsewhere, or lost: on their last attempt (`spent`), after they had done something (`acted`), or for
    want of retry budget (`lost`).
    """

    worker: str
    moved: int = 0
    spent: int = 0
    acted: int = 0
    lost: int = 0


@dataclass(slots=True)
class Figures:
    """Everything that `summary` prints; times are in seconds."""

    ends: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    exits: Counter[str] = field(default_factory=Counter)
    quarantines: int = 0
    crashes: list[Crash] = field(default_factory=list)
    queued_lost: int = 0
    """Jobs that never had a seat and were told of a worker's fault."""
    moved_in_vain: int = 0
    """Jobs whose turn was moved, and for which no seat came free in time."""
    killed_to_replaced_s: list[float] = field(default_factory=list)
    killed_again_to_replaced_s: list[float] = field(default_factory=list)
    """Likewise, where the same slot had crashed before, within `BACKOFF_S`."""
    frozen_to_out_s: list[float] = field(default_factory=list)
    frozen_to_replaced_s: list[float] = field(default_factory=list)
    silence_s: float = 0.0
    """The longest time, while requests came, in which no turn began to speak."""
    never_replaced: list[str] = field(default_factory=list)


def figures(lines: Iterable[Line]) -> Figures:
    """What there is to count and to measure in a history.

    A worker's replacement is the next one in its slot. Only blows to workers in service, without a successor yet, are
    timed.
    """
    return _Counting(lines).figures


class _Counting:
    def __init__(self, lines: Iterable[Line]) -> None:
        self.figures = Figures()
        self._out_at: dict[str, float] = {}
        self._in_service: set[str] = set()
        self._in_service_at: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        self._crashed_at: dict[str, float] = {}
        self._struck: list[tuple[float, str, str, bool]] = []
        self._seats: dict[str, tuple[str, int]] = {}
        self._spoken: set[str] = set()
        self._returned: set[str] = set()
        self._attempts: dict[str, int] = {}
        self._acting: set[int] = set()
        self._actors: set[str] = set()
        self._moved: Counter[str] = Counter()
        self._lost: list[tuple[str, str, bool]] = []
        self._crashed: list[str] = []
        self._spoke_at: float | None = None
        self._is_quiet = False
        for line in lines:
            if line.source == CLIENT:
                self._client(line)
            elif line.source == SERVICE:
                self._service(line)
        self.figures.crashes = [self._crash(name) for name in self._crashed]
        self._measure()

    def _client(self, line: Line) -> None:
        out, fields = self.figures, line.fields
        if line.event == "request.sent":
            self._spoke_at = line.at if self._spoke_at is None else self._spoke_at
            out.silence_s = max(out.silence_s, line.at - self._spoke_at)
        match line.event:
            case "request.ended":
                out.ends[fields["how"]] += 1
            case "run.configured":
                self._attempts = {name: spec["attempts"] for name, spec in fields["profiles"].items()}
            case "request.sent" if fields["fault"] is not None:
                out.faults[fields["fault"]] += 1
                if fields["fault"] in ACTS:
                    self._acting.add(fields["request"])
            case "request.headed" if fields["request"] in self._acting:
                self._actors.add(fields["id"])
            case "fault.injected":
                out.faults[fields["kind"]] += 1
                self._strike(line)
            case "run.quiet":
                self._is_quiet = True

    def _strike(self, line: Line) -> None:
        name = line.fields.get("worker", "")
        slot, _, epoch = name.rpartition(".")
        if name in self._in_service and not any(number > int(epoch) for number, _ in self._in_service_at[slot]):
            is_again = line.at - self._crashed_at.get(slot, -BACKOFF_S) < BACKOFF_S
            self._struck.append((line.at, line.fields["kind"], name, is_again))

    def _service(self, line: Line) -> None:
        out, fields = self.figures, line.fields
        match line.event:
            case "job.rejected":
                out.rejected[fields["reason"]] += 1
            case "turn.started":
                self._seats[fields["job"]] = fields["worker"], fields["attempt"]
            case "turn.spoke":
                self._spoken.add(fields["job"])
                self._spoke_at = line.at
            case "turn.returned":
                out.moved[fields["reason"]] += 1
                self._moved[fields["worker"]] += 1
                self._seats.pop(fields["job"], None)
                self._returned.add(fields["job"])
            case "job.settled":
                self._settled(fields["job"], fields["outcome"])
            case "worker.moved":
                self._worker_moved(line)
            case "worker.exited" if not self._is_quiet:
                out.exits[fields["reason"]] += 1
                if fields["reason"].startswith(CRASHED):
                    self._crashed.append(fields["worker"])
                    self._crashed_at[fields["worker"].rpartition(".")[0]] = line.at

    def _settled(self, job: str, outcome: str) -> None:
        self.figures.outcomes[outcome] += 1
        seat = self._seats.pop(job, None)
        if outcome in (*LOST, "request_crashes_worker") and job not in self._spoken:
            if seat is None and job in self._returned:
                self.figures.moved_in_vain += 1
            elif seat is None:
                self.figures.queued_lost += 1
            else:
                worker, attempt = seat
                is_last = attempt >= self._attempts.get(worker.partition("/")[0], 1)
                self._lost.append((job, worker, is_last))
        self._spoken.discard(job)
        self._returned.discard(job)

    def _crash(self, name: str) -> Crash:
        lost = [(job, is_last) for job, worker, is_last in self._lost if worker == name]
        spent = sum(is_last for _, is_last in lost)
        acted = sum(job in self._actors for job, is_last in lost if not is_last)
        return Crash(name, self._moved[name], spent, acted, len(lost) - spent - acted)

    def _worker_moved(self, line: Line) -> None:
        name, source, target = line.fields["worker"], line.fields["source"], line.fields["target"]
        self.figures.quarantines += target == "quarantined"
        if target in IN_SERVICE and source not in IN_SERVICE:
            slot, _, epoch = name.rpartition(".")
            self._in_service_at[slot].append((int(epoch), line.at))
            self._in_service.add(name)
        elif source in IN_SERVICE and target not in IN_SERVICE:
            self._out_at[name] = line.at
            self._in_service.discard(name)

    def _measure(self) -> None:
        out = self.figures
        killed_s = out.killed_to_replaced_s, out.killed_again_to_replaced_s
        for at, kind, name, is_again in self._struck:
            replaced_s = {"sigkill": killed_s[is_again], "sigstop": out.frozen_to_replaced_s}
            slot, _, epoch = name.rpartition(".")
            later = [in_at for number, in_at in self._in_service_at[slot] if number > int(epoch)]
            if not later:
                out.never_replaced.append(name)
            elif kind in replaced_s:
                replaced_s[kind].append(min(later) - at)
            if kind == "sigstop" and name in self._out_at:
                out.frozen_to_out_s.append(self._out_at[name] - at)


def summary(lines: Sequence[Line]) -> str:
    """The figures on a few lines."""
    out = figures(lines)
    fates = {
        "moved": sum(crash.moved for crash in out.crashes),
        "lost on their last attempt": sum(crash.spent for crash in out.crashes),
        "lost after they had acted": sum(crash.acted for crash in out.crashes),
        "lost for want of retry budget": sum(crash.lost for crash in out.crashes),
    }
    rows = [
        ("requests", f"{out.ends.total()}: {_counts(out.ends)}"),
        ("outcomes", _counts(out.outcomes)),
        ("rejected", _counts(out.rejected)),
        ("faults", f"{out.faults.total()}: {_counts(out.faults)}"),
        ("redispatched", f"{out.moved.total()}: {_counts(out.moved)}"),
        ("workers that went", f"{out.exits.total()}: {_counts(out.exits)}"),
        ("crashes", str(len(out.crashes))),
        ("  their turns that had not spoken", ", ".join(f"{fate} {count}" for fate, count in fates.items())),
        ("moved requests that found no seat", str(out.moved_in_vain)),
        ("queued requests lost", str(out.queued_lost)),
        ("longest time without a word", f"{out.silence_s:.2f} s"),
        ("quarantines", str(out.quarantines)),
        ("kill -9 to replacement in service", _times(out.killed_to_replaced_s)),
        ("  after another crash of its slot", _times(out.killed_again_to_replaced_s)),
        ("SIGSTOP to out of rotation", _times(out.frozen_to_out_s)),
        ("SIGSTOP to replacement in service", _times(out.frozen_to_replaced_s)),
        ("never replaced", ", ".join(out.never_replaced) or "none"),
    ]
    return "\n".join(f"{name + ':':36}{text}" for name, text in rows)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items())) or "none"


def _times(times: list[float]) -> str:
    if not times:
        return "did not happen"
    return f"{len(times)} times, at most {max(times):.2f} s ({', '.join(f'{time:.2f}' for time in sorted(times))})"

"""Who asks what and when, and which worker is struck when: everything about a run of chaos that its seed decides."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SLOTS = 4
MOUSE_RATE = 2.0
"""Requests per second of an ordinary tenant, on average."""
ELEPHANT_TIMES = 20
BURST_S = 2.0
CALM_AFTER = 0.8
"""Of the run's time: by then the last worker is broken, so that it is seen to heal while there is traffic."""


class Tenant(NamedTuple):
    """One API key; `seats` is its cap, `rate` its requests per second."""

    name: str
    weight: float = 1.0
    seats: int | None = None
    rate: float = MOUSE_RATE
    priority: str = "standard"


TENANTS = (
    Tenant("elephant", rate=ELEPHANT_TIMES * MOUSE_RATE),
    Tenant("heavy", weight=4.0),
    Tenant("light", weight=0.5),
    Tenant("capped", seats=2, rate=2 * MOUSE_RATE),
    Tenant("urgent", priority="interactive"),
    Tenant("patient", priority="batch"),
)
CLASSES = ("interactive", "standard", "batch")


class Fault(NamedTuple):
    """What a prompt makes its worker do; `often` is beside the others'. `anywhere`: at any of the three places."""

    often: float
    fields: dict[str, Any]
    anywhere: bool = False


FAULTS: dict[str, Fault] = {
    "exit": Fault(1, {"exit": 3}, anywhere=True),
    "kill_self": Fault(1, {"kill_self": True}, anywhere=True),
    "stdout_eof": Fault(1, {"stdout_eof": True}, anywhere=True),
    "half_line": Fault(0.5, {"half_line": True}, anywhere=True),
    "stop_self": Fault(0.5, {"stop_self": True}, anywhere=True),
    "garbage": Fault(3, {"garbage": True}, anywhere=True),
    "big_line": Fault(3, {"big_line": 200_000}, anywhere=True),
    "late_frames": Fault(10, {"late_frames": 5}),
    "ignore_interrupt": Fault(2, {"ignore_interrupt": True}),
    "hang_headers": Fault(1, {"hang": "headers"}),
    "hang_first": Fault(2, {"hang": "first"}),
    "hang_middle": Fault(2, {"hang": "middle"}),
    "disconnect_first": Fault(3, {"disconnect": "first"}),
    "disconnect_middle": Fault(3, {"disconnect": "middle"}),
    "failed": Fault(3, {"failed": "server_is_overloaded"}),
    "status_429": Fault(3, {"status": 429}),
    "status_500": Fault(3, {"status": 500}),
    "lose_inject": Fault(0.5, {"lose_reply": "thread/inject_items"}),
    "lose_start": Fault(2, {"lose_reply": "turn/start"}),
    "lose_unsubscribe": Fault(0.5, {"lose_reply": "thread/unsubscribe"}),
    "lose_interrupt": Fault(1, {"lose_reply": "turn/interrupt"}),
    "duplicate_inject": Fault(2, {"duplicate_reply": "thread/inject_items"}),
    "duplicate_start": Fault(2, {"duplicate_reply": "turn/start"}),
    "duplicate_unsubscribe": Fault(2, {"duplicate_reply": "thread/unsubscribe"}),
    "overloaded": Fault(3, {"overloaded": "turn/start"}),
    "approval": Fault(2, {"server_request": "item/commandExecution/requestApproval"}),
}
BREAKING = ("exit", "kill_self", "stdout_eof", "half_line", "stop_self")
"""Those that the worker does not survive."""
FAULTY = 0.1
DECLINED = ' The client answered {"decision":"decline"}.'

BLOWS = {"sigkill": 4, "sigstop": 2, "sigterm": 2, "reload": 1, "bad_reload": 1}
BLOW_EVERY_S = 2.5


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. The expected text is `chunks` times `repeat`, and `tail`; `leaves_s` after which its client goes."""

    number: int
    at_s: float
    tenant: Tenant
    chunks: tuple[str, ...]
    repeat: int = 1
    tail: str = ""
    stream: bool = True
    priority: str | None = None
    deadline_ms: int | None = None
    client: str = "reads"
    leaves_s: float | None = None
    fault: str | None = None
    directive: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """The question, with the directive that makes the worker answer as expected, or fail."""
        fields = {"chunks": self.chunks, "repeat": self.repeat, "stamp": True} | self.directive
        return f"This is request {self.number}. @@{json.dumps(fields)}"


@dataclass(frozen=True, slots=True)
class Blow:
    """Something done to the service from outside; `slot` says to which worker."""

    at_s: float
    kind: str
    slot: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run, each part in the order of time."""

    asks: tuple[Ask, ...]
    blows: tuple[Blow, ...]


def plan(seed: int, seconds: float, workers: int) -> Plan:
    """What the seed decides."""
    rng = random.Random(seed)
    moments: list[tuple[float, Tenant]] = []
    for tenant in TENANTS:
        moments += ((at_s, tenant) for at_s in _arrivals(rng, tenant, seconds))
    moments.sort(key=lambda moment: moment[0])
    calm_at_s = seconds * CALM_AFTER
    asks = tuple(
        _ask(rng, number, at_s, tenant, is_calm=at_s >= calm_at_s) for number, (at_s, tenant) in enumerate(moments, 1)
    )
    return Plan(asks, tuple(_blows(rng, calm_at_s, workers)))


def _arrivals(rng: random.Random, tenant: Tenant, seconds: float) -> list[float]:
    """At random; the elephant comes in bursts, with nothing in between."""
    bursts = tenant.rate > ELEPHANT_TIMES * MOUSE_RATE / 2
    rate = 2 * tenant.rate if bursts else tenant.rate
    out, at_s = [], 0.0
    while (at_s := at_s + rng.expovariate(rate)) < seconds:
        if not bursts or int(at_s / BURST_S) % 2 == 0:
            out.append(at_s)
    return out


def _ask(rng: random.Random, number: int, at_s: float, tenant: Tenant, *, is_calm: bool) -> Ask:
    client = rng.choices(("reads", "leaves", "slow"), (0.88, 0.1, 0.02))[0]
    fields: dict[str, Any] = {
        "stream": client == "slow" or rng.random() < 0.5,
        "priority": rng.choice(CLASSES) if rng.random() < 0.2 else None,
        "deadline_ms": rng.randrange(200, 4000) if rng.random() < 0.1 else None,
        "leaves_s": rng.uniform(0.0, 0.6) if client == "leaves" else None,
    }
    if client == "slow":
        chunk = f"{number}: " + "~" * 4000
        return Ask(number, at_s, tenant, (chunk,), rng.randrange(100, 1200), client=client, **fields)
    chunks = tuple(f"{number}.{index} né " for index in range(rng.randint(1, 8)))
    directive: dict[str, Any] = {
        "interval_s": rng.choice((0.0, 0.01, 0.03, 0.06)),
        "delay_s": rng.choice((0.0, 0.0, 0.05, 0.2)),
    }
    fault, repeat, tail = None, 1, ""
    if rng.random() < FAULTY:
        often = {name: 0.0 if is_calm and name in BREAKING else fault.often for name, fault in FAULTS.items()}
        fault = rng.choices(list(often), list(often.values()))[0]
        directive |= FAULTS[fault].fields
        if FAULTS[fault].anywhere:
            directive["at"] = rng.choice(("start", "first", "middle"))
    if fault in ("ignore_interrupt", "lose_interrupt"):
        client, fields["leaves_s"] = "leaves", rng.uniform(0.1, 0.4)
        repeat, directive["interval_s"] = 60, 0.05
    if fault == "approval":
        tail = DECLINED
    return Ask(number, at_s, tenant, chunks, repeat, tail, client=client, fault=fault, directive=directive, **fields)


def _blows(rng: random.Random, end_s: float, workers: int) -> list[Blow]:
    out, at_s = [], 0.5
    while (at_s := at_s + rng.uniform(0.5, 1.5) * BLOW_EVERY_S) < end_s:
        kind = rng.choices(list(BLOWS), list(BLOWS.values()))[0]
        out.append(Blow(at_s, kind, rng.randrange(workers)))
    return out

"""What went wrong lately and what operators did about it, for whoever looks at the service meanwhile."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from pool.events import Finish

KEPT = 50
_FINE = frozenset({*map(str, Finish), "abandoned", "none", ""})


class Failure(NamedTuple):
    """A request that got no answer, or not all of it, for no fault of its own."""

    at_wall: float
    request_id: str
    route: str
    status: int
    code: str
    tenant: str
    model: str
    profile: str
    worker: str
    seconds: float


class Acted(NamedTuple):
    """An action that an operator tried; `outcome` is `done`, or the code of what was in its way."""

    at_wall: float
    who: str
    remote: str
    action: str
    target: str
    outcome: str
    told: str


def failure(route: str, status: int, seconds: float, facts: Mapping[str, object]) -> Failure | None:
    """What is kept of a request that was answered like this; None of most."""
    outcome = str(facts.get("outcome", ""))
    if status < 500 and status != 429 and (outcome in _FINE or _FINE.issuperset(outcome.split(","))):
        return None
    told = {name: str(facts.get(name, "")) for name in ("request_id", "tenant", "model", "profile", "worker")}
    code = str(facts.get("code") or outcome)
    now_wall = time.time()  # noqa: TID251 - a clock on the wall is what is compared with it
    return Failure(now_wall, route=route, status=status, code=code, seconds=seconds, **told)

"""Jobs, of which a test says only what matters to it."""

from __future__ import annotations

from typing import Any

from pool.events import TurnRequest
from scheduler.model import Job

NEVER_S = 1e9


def a_job(name: str = "job", *, profile: str = "main", budget_s: float = NEVER_S, **changes: Any) -> Job:
    """A job whose turn has the job's name as its instructions."""
    fields = {"tenant": "tenant", "turn": TurnRequest("m", name, ()), **changes}
    return Job(id=name, profile=profile, queue_budget_s=budget_s, **fields)

"""Profiles: the frozen launch spec of a kind of worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pool.health import ProbeLimits
from pool.turn import TurnLimits
from pool.veil import Veil

MAX_SLOTS = 10
"""Seats of one worker. A turn has at most three unanswered requests, and a worker at most 32."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """How a worker proves itself to its model provider: by a key, by a login file, or not at all.

    `api_key` is handed to the child in one environment variable and written nowhere; `auth_file` is the `auth.json`
    of a logged-in CLI and is linked into each worker's home.
    """

    api_key: str | None = field(default=None, repr=False)
    auth_file: Path | None = None


@dataclass(frozen=True, slots=True)
class RetireLimits:
    """When a worker is replaced though nothing is wrong with it, and how long one that leaves may take.

    Turns and age are jittered by up to a tenth, or workers that were born together would leave together.
    """

    max_turns: int = 2000
    max_age_s: float = 3600.0
    max_rss_bytes: int = 1536 * 1024 * 1024
    quarantine_s: float = 60.0
    """How long turns that still move may go on, on a worker that is condemned."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a worker of this kind is started with, and how many there are.

    `models` are slugs that the bundled catalogue may lack; `env` are variables the child gets besides the minimum.
    `workers` times `slots` is the profile's capacity in turns; `spares` more workers are booted and wait. A new worker
    gets few turns until one has begun to answer, or `probation_s` have passed. `surge` is how much of the profile may
    be added while workers are replaced, `eject_max` how much may be condemned at once, both at least one worker.
    `upstream_idle_s` bounds the silence of the provider once its stream has begun.
    """

    name: str
    base_url: str
    default_model: str
    credentials: Credentials
    codex_bin: Path | None = None
    models: tuple[str, ...] = ()
    workers: int = 2
    slots: int = 8
    spares: int = 0
    probation_s: float = 10.0
    surge: float = 0.25
    eject_max: float = 0.34
    env: tuple[tuple[str, str], ...] = ()
    upstream_idle_s: float = 300.0
    init_timeout_s: float = 10.0
    limits: TurnLimits = field(default_factory=TurnLimits)
    probes: ProbeLimits = field(default_factory=ProbeLimits)
    retire: RetireLimits = field(default_factory=RetireLimits)

    @property
    def veil(self) -> Veil:
        """Hides what its workers are given and others must not read."""
        return Veil((*(value for _, value in self.env), self.credentials.api_key or ""))

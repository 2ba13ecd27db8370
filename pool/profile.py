"""Profiles: the frozen launch spec of a kind of worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pool.session import ProbeLimits
from pool.turn import TurnLimits

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
class Profile:
    """What a worker of this kind is started with, and how many there are.

    `models` are slugs that the bundled catalogue may lack; `env` are variables the child gets besides the minimum.
    `workers` times `slots` is the profile's capacity in turns. `upstream_idle_s` bounds the silence of the provider
    once its stream has begun.
    """

    name: str
    base_url: str
    default_model: str
    credentials: Credentials
    codex_bin: Path | None = None
    models: tuple[str, ...] = ()
    workers: int = 2
    slots: int = 8
    env: tuple[tuple[str, str], ...] = ()
    upstream_idle_s: float = 300.0
    init_timeout_s: float = 10.0
    limits: TurnLimits = field(default_factory=TurnLimits)
    probes: ProbeLimits = field(default_factory=ProbeLimits)

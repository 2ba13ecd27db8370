"""From settings to what the pool and the scheduler are given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pool.errors import ConfigurationError
from pool.health import ProbeLimits
from pool.profile import Credentials, Profile, RetireLimits
from pool.turn import TurnLimits
from scheduler.model import QueuePolicy
from service.routing import Routes
from service.settings import ProfileSettings, Settings


def profiles(settings: Settings, environ: Mapping[str, str]) -> tuple[Profile, ...]:
    """The launch specs, credentials resolved.

    Raises:
        ConfigurationError: a profile's credentials are missing.
    """
    targets = list(Routes(settings).targets())
    out = []
    for name, profile in settings.profiles.items():
        routed = (target.model for target in targets if target.profile == name)
        out.append(
            Profile(
                name=name,
                base_url=profile.base_url,
                default_model=profile.default_model,
                credentials=_credentials(name, profile, environ),
                codex_bin=profile.codex_bin,
                models=tuple(
                    dict.fromkeys((*profile.models, *(slug for slug in routed if slug != profile.default_model)))
                ),
                workers=profile.workers,
                slots=profile.slots,
                env=tuple((variable, environ[variable]) for variable in profile.pass_env if variable in environ),
                upstream_idle_s=profile.upstream_idle_s,
                init_timeout_s=profile.init_timeout_s,
                spares=profile.spares,
                probation_s=profile.probation_s,
                surge=profile.surge,
                eject_max=profile.eject_max,
                limits=TurnLimits(**profile.limits.model_dump()),
                probes=ProbeLimits(**profile.probes.model_dump()),
                retire=RetireLimits(**profile.retire.model_dump()),
            )
        )
    return tuple(out)


def queue_policies(settings: Settings) -> dict[str, QueuePolicy]:
    """Each profile's rules for its queue."""
    return {
        name: QueuePolicy(
            queue_max=profile.queue_max,
            seats_limit=profile.seats_limit,
            codel_target_s=profile.codel_target_s,
            retry_ratio=profile.retry_ratio,
            retry_reserve=max(3, 2 * profile.slots) if profile.retry_reserve is None else profile.retry_reserve,
            attempts=profile.attempts,
            aimd=profile.aimd,
            min_limit=profile.workers,
            penalty_s=profile.penalty_s,
        )
        for name, profile in settings.profiles.items()
    }


def _credentials(name: str, profile: ProfileSettings, environ: Mapping[str, str]) -> Credentials:
    """The configured way in; with none configured, the usual key variable and then the usual login."""
    if profile.anonymous:
        return Credentials()
    if profile.auth_file is not None:
        return Credentials(auth_file=profile.auth_file)
    variable = profile.env_key or "OPENAI_API_KEY"
    if environ.get(variable):
        return Credentials(api_key=environ[variable])
    login = Path(environ.get("CODEX_HOME") or "~/.codex").expanduser() / "auth.json"
    if profile.env_key is None and login.is_file():
        return Credentials(auth_file=login)
    hint = "" if profile.env_key else ", log in with `codex login`, or set env_key, auth_file or anonymous"
    raise ConfigurationError(f"profile {name}: no credentials: set {variable}{hint}")

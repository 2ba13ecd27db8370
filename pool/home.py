"""A worker's private, throw-away home: CODEX_HOME with our configuration, an empty working directory, nothing else.

Source: the vendor's configuration reference; tests/codex/test_purity.py proves on the real CLI that with this
configuration the model sees the caller's text, history and tools and nothing else.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from pool.errors import EnvironmentUnfit
from pool.profile import Profile

KEY_VARIABLE = "CODEX_COMPLETIONS_UPSTREAM_KEY"
"""The one variable through which a worker gets its upstream key."""

CONTEXT_WINDOW_TOKENS = 100_000_000
"""So large that the CLI never compacts a history on its own; the upstream's limit is the limit."""

_RUN_PREFIX = "codex-completions-run-"

_FEATURES_OFF = (
    "apps",
    "auth_elicitation",
    "browser_use",
    "computer_use",
    "goals",
    "hooks",
    "image_generation",
    "in_app_browser",
    "multi_agent",
    "plugin_sharing",
    "plugins",
    "remote_plugin",
    "shell_snapshot",
    "shell_tool",
    "skill_mcp_dependency_install",
    "skill_search",
    "sleep_tool",
    "tool_suggest",
    "unbounded_connection_retries",
    "unified_exec",
    "view_image",
    "workspace_dependencies",
)

_MODEL_PATCH: dict[str, Any] = {
    "tool_mode": None,
    "use_responses_lite": False,
    "shell_type": "disabled",
    "apply_patch_tool_type": None,
    "multi_agent_version": None,
    "supports_search_tool": False,
    "experimental_supported_tools": [],
    "base_instructions": "",
    "model_messages": None,
    "support_verbosity": True,
    "default_verbosity": None,
    "context_window": CONTEXT_WINDOW_TOKENS,
    "max_context_window": CONTEXT_WINDOW_TOKENS,
}


def catalogue(bundled: Iterable[Mapping[str, Any]], extra_slugs: Iterable[str]) -> bytes:
    """The model catalogue file: every bundled model without tools and prompts of its own, plus `extra_slugs`.

    An extra slug is described like the bundled model of the longest common prefix, or the first one.

    Raises:
        EnvironmentUnfit: the bundled catalogue is empty.
    """
    models = [{**model, **_MODEL_PATCH} for model in bundled]
    if not models:
        raise EnvironmentUnfit("the CLI's model catalogue is empty")
    known = {model["slug"] for model in models}
    for slug in dict.fromkeys(extra_slugs):
        if slug not in known:
            nearest = max(models, key=lambda model: _common(model["slug"], slug))
            models.append({**nearest, "slug": slug, "display_name": slug, "description": slug, "visibility": "list"})
    return json.dumps({"models": models}).encode()


def _common(left: str, right: str) -> int:
    """Length of the common beginning."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def configuration(profile: Profile, codex_home: Path) -> dict[str, Any]:
    """The worker's config.toml: the agent switched off, our provider, no retries of the CLI's own."""
    provider: dict[str, Any] = {
        "name": "upstream",
        "base_url": profile.base_url,
        "wire_api": "responses",
        "request_max_retries": 0,
        "stream_max_retries": 0,
        "stream_idle_timeout_ms": int(profile.upstream_idle_s * 1000),
    }
    if profile.credentials.api_key is not None:
        provider["env_key"] = KEY_VARIABLE
    elif profile.credentials.auth_file is not None:
        provider["requires_openai_auth"] = True
    return {
        "model": profile.default_model,
        "model_provider": "upstream",
        "model_catalog_json": str(codex_home / "models.json"),
        "approval_policy": "never",
        "sandbox_mode": "read-only",
        "web_search": "disabled",
        "check_for_update_on_startup": False,
        "include_environment_context": False,
        "include_permissions_instructions": False,
        "include_collaboration_mode_instructions": False,
        "include_apps_instructions": False,
        "project_doc_max_bytes": 0,
        "tool_output_token_limit": 100_000_000,
        "thread_unload_delay_secs": 0,
        "model_providers": {"upstream": provider},
        "analytics": {"enabled": False},
        "feedback": {"enabled": False},
        "history": {"persistence": "none"},
        "tools": {"experimental_request_user_input": {"enabled": False}},
        "skills": {"include_instructions": False, "bundled": {"enabled": False}},
        "cloud": {"skills": {"enabled": False}},
        "features": dict.fromkeys(_FEATURES_OFF, False),
    }


OWN_VARIABLES = frozenset({"PATH", "HOME", "TMPDIR", "CODEX_HOME", "LANG", "RUST_LOG", "NO_COLOR", KEY_VARIABLE})
"""What makes up a worker's environment, and what no profile may replace."""


class RunDirectory:
    """The private directory of one run of the service, under the state directory; holds every worker's home.

    Its lock file tells a running service from the leftovers of a crashed one, which `create` removes.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def create(cls, state_dir: Path) -> RunDirectory:
        """A new directory; whatever crashed runs left beside it is gone.

        Raises:
            EnvironmentUnfit: the state directory cannot be written.
        """
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _exclusive(state_dir / "lock"):
                sweep(state_dir)
                path = Path(tempfile.mkdtemp(prefix=_RUN_PREFIX, dir=state_dir))
                lock = os.open(path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise EnvironmentUnfit(f"state_dir {state_dir} cannot be used: {error.strerror or error}") from error
        return cls(path, lock)

    def remove(self) -> None:
        """Remove everything of this run."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`: for the few milliseconds in which runs are made and swept."""
    lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def sweep(state_dir: Path) -> int:
    """Remove what crashed runs left in `state_dir`; returns how many directories went."""
    removed = 0
    for path in state_dir.glob(f"{_RUN_PREFIX}*"):
        if _is_left_over(path):
            shutil.rmtree(path, ignore_errors=True)
            removed += 1
    return removed


def _is_left_over(run: Path) -> bool:
    """A run of ours that no running service holds the lock of; what has no lock file of ours is none of ours."""
    try:
        lock = os.open(run / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


class Home:
    """One worker incarnation's directories."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.codex_home = root / "codex-home"
        self.cwd = root / "empty"
        self.temp = root / "tmp"

    @classmethod
    def create(cls, run: Path, name: str, profile: Profile, models: bytes) -> Home:
        """Make the directories and write the configuration.

        Raises:
            OSError: the directory cannot be written.
        """
        home = cls(run / name)
        try:
            for path in (home.root, home.codex_home, home.cwd, home.temp):
                path.mkdir(mode=0o700)
            (home.codex_home / "config.toml").write_text(tomli_w.dumps(configuration(profile, home.codex_home)))
            (home.codex_home / "models.json").write_bytes(models)
            if profile.credentials.auth_file is not None:
                (home.codex_home / "auth.json").symlink_to(profile.credentials.auth_file.absolute())
        except OSError:
            home.remove()
            raise
        return home

    def environment(self, profile: Profile) -> dict[str, str]:
        """The child's whole environment."""
        environment = {
            "PATH": os.defpath,
            "HOME": str(self.root),
            "TMPDIR": str(self.temp),
            "CODEX_HOME": str(self.codex_home),
            "LANG": "C.UTF-8",
            "RUST_LOG": "error",
            "NO_COLOR": "1",
        }
        environment.update(profile.env)
        if profile.credentials.api_key is not None:
            environment[KEY_VARIABLE] = profile.credentials.api_key
        return environment

    def remove(self) -> None:
        """Remove it all; what cannot be removed now is removed with the run."""
        shutil.rmtree(self.root, ignore_errors=True)

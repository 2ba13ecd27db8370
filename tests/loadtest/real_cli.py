"""The real Codex CLI as a pure model proxy in front of a stand-in model, for comparison with the fake app-server."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import tomli_w
from codex_cli_bin import bundled_codex_path

from tests.loadtest.driver import AppServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODEL = "model-a"
_HUGE = 100_000_000
_FEATURES_OFF = (
    "apps auth_elicitation browser_use computer_use goals hooks image_generation in_app_browser multi_agent"
    " plugin_sharing plugins remote_plugin shell_snapshot shell_tool skill_mcp_dependency_install skill_search"
    " sleep_tool tool_suggest unbounded_connection_retries unified_exec view_image workspace_dependencies"
)
_PLAIN_MODEL: dict[str, Any] = {
    "tool_mode": None,
    "use_responses_lite": False,
    "shell_type": "disabled",
    "apply_patch_tool_type": None,
    "multi_agent_version": None,
    "supports_search_tool": False,
    "experimental_supported_tools": [],
    "base_instructions": "",
    "model_messages": None,
    "context_window": _HUGE,
    "max_context_window": _HUGE,
}


@contextlib.contextmanager
def real_app_server(folder: Path) -> Iterator[AppServer]:
    """A real `codex app-server` whose model is a stand-in of its own."""
    home, cwd = folder / "home", folder / "cwd"
    home.mkdir()
    cwd.mkdir()
    env = {"CODEX_HOME": str(home), "HOME": str(folder), "PATH": "/usr/bin:/bin", "KEY": "k", "RUST_LOG": "error"}
    codex = str(bundled_codex_path())
    command = [sys.executable, "-m", "loadtest.model_standin", "--exit-with-stdin"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as model:
        assert model.stdin is not None
        assert model.stdout is not None
        base_url = model.stdout.readline().split()[-1]
        printed = subprocess.run([codex, "debug", "models", "--bundled"], env=env, capture_output=True, check=True)
        (home / "models.json").write_text(json.dumps(_catalogue(json.loads(printed.stdout))))
        (home / "config.toml").write_text(tomli_w.dumps(_config(home, base_url)))
        try:
            with AppServer([codex, "app-server"], env=env, cwd=cwd) as server:
                yield server
        finally:
            model.stdin.close()


def _catalogue(bundled: dict[str, Any]) -> dict[str, Any]:
    return {"models": [{**bundled["models"][0], **_PLAIN_MODEL, "slug": MODEL}]}


def _config(home: Path, base_url: str) -> dict[str, Any]:
    provider = {
        "name": "upstream",
        "base_url": base_url,
        "wire_api": "responses",
        "env_key": "KEY",
        "request_max_retries": 0,
        "stream_max_retries": 0,
    }
    return {
        "model": MODEL,
        "model_provider": "upstream",
        "model_catalog_json": str(home / "models.json"),
        "approval_policy": "never",
        "sandbox_mode": "read-only",
        "web_search": "disabled",
        "check_for_update_on_startup": False,
        "include_environment_context": False,
        "include_permissions_instructions": False,
        "include_collaboration_mode_instructions": False,
        "include_apps_instructions": False,
        "project_doc_max_bytes": 0,
        "tool_output_token_limit": _HUGE,
        "thread_unload_delay_secs": 0,
        "model_providers": {"upstream": provider},
        "analytics": {"enabled": False},
        "feedback": {"enabled": False},
        "history": {"persistence": "none"},
        "tools": {"experimental_request_user_input": {"enabled": False}},
        "skills": {"include_instructions": False, "bundled": {"enabled": False}},
        "cloud": {"skills": {"enabled": False}},
        "features": dict.fromkeys(_FEATURES_OFF.split(), False),
    }

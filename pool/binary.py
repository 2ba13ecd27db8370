"""Which Codex CLI a profile runs, and what it tells of itself: its models, and its protocol."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from pool.errors import EnvironmentUnfit

RUN_TIMEOUT_S = 20.0


def resolve(explicit: Path | None, search_path: str | None = None) -> Path:
    """The CLI to run: the explicit setting, else the packaged one, else `codex` on `search_path`.

    Raises:
        EnvironmentUnfit: there is none, or the explicit one is not an executable file.
    """
    if explicit is not None:
        if not explicit.is_file() or not os.access(explicit, os.X_OK):
            raise EnvironmentUnfit(f"codex_bin {explicit} is not an executable file")
        return explicit.absolute()
    try:
        from codex_cli_bin import bundled_codex_path  # noqa: PLC0415 - an optional extra

        return Path(bundled_codex_path())
    except (ImportError, FileNotFoundError):
        pass  # not installed, or without the binary for this platform
    found = shutil.which("codex", path=search_path)
    if found is None:
        raise EnvironmentUnfit(
            "no Codex CLI found: install the extra codex-completions[cli], put codex on PATH, or set codex_bin"
        )
    return Path(found).absolute()


def bundled_models(binary: Path, scratch: Path | None = None) -> list[dict[str, Any]]:
    """The model catalogue inside the CLI, one dict a model; takes a throw-away home in `scratch` (default: the usual).

    Raises:
        EnvironmentUnfit: the CLI cannot be run, or prints no catalogue.
    """
    with tempfile.TemporaryDirectory(prefix="catalogue-", dir=scratch) as home:
        done = _run(binary, ["debug", "models", "--bundled"], home)
    try:
        models = json.loads(done.stdout)["models"]
    except (ValueError, KeyError, TypeError):
        models = None
    if not isinstance(models, list) or not all(isinstance(model, dict) and "slug" in model for model in models):
        raise EnvironmentUnfit(
            f"{binary} prints no model catalogue (exit code {done.returncode}): is it a Codex CLI of 0.158 or newer?"
        )
    return models


def protocol_schema(binary: Path) -> Any:
    """The JSON Schema of the app-server's protocol that the CLI writes of itself, with what is experimental.

    Raises:
        EnvironmentUnfit: the CLI cannot be run, or writes no schema.
    """
    with tempfile.TemporaryDirectory(prefix="schema-") as home:
        done = _run(binary, ["app-server", "generate-json-schema", "--experimental", "--out", home], home)
        try:
            return json.loads((Path(home) / "codex_app_server_protocol.schemas.json").read_bytes())
        except (OSError, ValueError) as error:
            raise EnvironmentUnfit(
                f"{binary} writes no schema of its protocol (exit code {done.returncode}): is it a Codex CLI?"
            ) from error


def _run(binary: Path, arguments: list[str], home: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(  # noqa: S603 - the operator's own binary, fixed arguments
            [str(binary), *arguments],
            env={"CODEX_HOME": home, "HOME": home, "PATH": os.defpath},
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentUnfit(f"{binary} cannot be run: {error}") from error

"""Packages for Node, for tests of clients that are written for it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

CACHE = Path("~/.cache/codex-completions/node").expanduser()
INSTALL_S, RUN_S = 60.0, 60.0


def installed(*packages: str) -> Path:
    """The folder `node_modules` with these packages, each with its version. npm fetches them once, into a cache outside
    this tree. Where that cannot be the test is skipped.
    """
    kept = CACHE / "_".join(package.replace("/", "-").replace("@", "-").strip("-") for package in packages)
    modules = kept / "node_modules"
    if modules.exists():
        return modules
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    CACHE.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=CACHE) as folder:
        install = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
        try:
            subprocess.run(
                [*install, "--prefix", folder, *packages],
                check=True,
                capture_output=True,
                text=True,
                timeout=INSTALL_S,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"{', '.join(packages)} cannot be installed by npm: {error.stderr!r}")
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        (Path(folder) / "node_modules").rename(modules)
    return modules


def told(script: Path, *arguments: str) -> list[Any]:
    """What a script prints: a JSON value a line."""
    command = ["node", str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]

"""The real Codex CLI as a pure model proxy in front of a stand-in model, for comparison with the fake app-server."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pool.binary import bundled_models, resolve
from pool.home import Home, catalogue
from pool.profile import Credentials, Profile
from tests.loadtest.driver import AppServer

MODEL = "model-a"


@contextlib.contextmanager
def real_app_server(folder: Path) -> Iterator[AppServer]:
    """A real `codex app-server` whose model is a stand-in of its own."""
    command = [sys.executable, "-m", "loadtest.model_standin", "--exit-with-stdin"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as model:
        assert model.stdin is not None
        assert model.stdout is not None
        profile = Profile("real", model.stdout.readline().split()[-1], MODEL, Credentials())
        codex = resolve(None)
        home = Home.create(folder, "home", profile, catalogue(bundled_models(codex), (MODEL,)))
        try:
            with AppServer([str(codex), "app-server"], env=home.environment(profile), cwd=home.cwd) as server:
                yield server
        finally:
            model.stdin.close()

"""`litellm` as a client, whole and streamed, with tools, sync and async."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.services import KEY, Json
from tests.support.serving import MODEL, Served

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("with_litellm.py")
LOCK = ROOT / "requirements" / "litellm.lock"
UV = [sys.executable, "-m", "uv", "run", "--quiet", "--no-project", "--python", sys.executable, "--with-requirements"]
ENV = ["env", "LITELLM_LOCAL_MODEL_COST_MAP=True"]
"""Without it litellm asks a host of its own what models cost, whenever it is imported."""
INSTALL_S, RUN_S = 100.0, 120.0

SAID: Json = {"content": "Hello there.", "calls": [], "finish": "stop", "tokens": [9, 5, 14]}
CALLED: Json = {
    "content": None,
    "calls": [[f"call_{city}", "weather", f'{{"city":"{city}"}}'] for city in ("Rome", "Oslo")],
    "finish": "tool_calls",
    "tokens": [9, 5, 14],
}

WANTED: Json = {
    "whole": SAID,
    "streamed": SAID,
    "async whole": SAID,
    "async streamed": SAID,
    "calls": CALLED,
    "streamed calls": CALLED,
    "answered calls": "The tools answered: sun in call_Rome | sun in call_Oslo",
    "a wrong request": ["BadRequestError", 400],
    "a limit": ["RateLimitError", 429],
    "a failure": ["BadGatewayError", 502],
}


@pytest.fixture(scope="module")
def litellm() -> list[str]:
    """The command that runs a script where litellm is; uv keeps what it has downloaded."""
    command = [*ENV, *UV, str(LOCK), "python"]
    try:
        subprocess.run([*command, "-c", ""], check=True, capture_output=True, text=True, timeout=INSTALL_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"litellm cannot be installed from {LOCK.name}: {error.stderr!r}")
    return command


@pytest.mark.codex
@pytest.mark.timeout(INSTALL_S + RUN_S + 30.0)
def test_litellm_gets_what_it_asks_for(fakes: Served, cli: Served, litellm: list[str]) -> None:
    command = [*litellm, str(SCRIPT), KEY, MODEL, fakes.base_url, cli.base_url]  # at once: its import takes seconds
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert done.returncode == 0, done.stderr
    of_fakes, of_cli = map(json.loads, done.stdout.splitlines()[-2:])
    assert of_fakes == of_cli == WANTED
    fakes.until_at_rest()
    cli.until_at_rest()

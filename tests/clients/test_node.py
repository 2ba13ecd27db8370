"""OpenAI's own client for Node, whole and streamed, with tools and errors."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.services import KEY, Json
from tests.support.serving import MODEL, Served

VERSION = "6.49.0"
SCRIPT = Path(__file__).with_name("with_node.mjs")
CACHE = Path("~/.cache/codex-completions/node").expanduser()
INSTALL_S, RUN_S = 60.0, 60.0

SAID: Json = {"content": "Hello there.", "calls": [], "finish": "stop", "tokens": [9, 5, 14]}
CALLED: Json = {
    "content": None,
    "calls": [[f"call_{city}", "weather", f'{{"city":"{city}"}}'] for city in ("Rome", "Oslo")],
    "finish": "tool_calls",
    "tokens": [9, 5, 14],
}
WANTED: Json = {
    "whole": SAID,
    "has a request id": True,
    "streamed": "Hello there.",
    "the helper": SAID,
    "calls": CALLED,
    "streamed calls": CALLED,
    "answered calls": "The tools answered: sun in call_Rome | sun in call_Oslo",
    "the tool runner": "The tools answered: rain in Rome | rain in Oslo",
    "parsed": {"city": "Rome"},
    "a response": "Hello there.",
    "a streamed response": "Hello there.",
    "a wrong request": ["BadRequestError", 400, "invalid_request_error"],
    "a limit": ["RateLimitError", 429, "rate_limit_exceeded"],
    "a failure": ["InternalServerError", 502, "upstream_error"],
    "a timeout": ["APIConnectionTimeoutError", None, None],
    "left early": True,
}


@pytest.fixture(scope="module")
def client() -> Path:
    """The client's entry; npm fetches it once, into a cache outside this tree."""
    kept = CACHE / f"openai-{VERSION}"
    entry = Path("node_modules", "openai", "index.mjs")
    if (kept / entry).exists():
        return kept / entry
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    CACHE.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=CACHE) as folder:
        install = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
        try:
            subprocess.run(
                [*install, "--prefix", folder, f"openai@{VERSION}"],
                check=True,
                capture_output=True,
                text=True,
                timeout=INSTALL_S,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"openai@{VERSION} cannot be installed by npm: {error.stderr!r}")
        (Path(folder) / "node_modules").rename(_emptied(kept) / "node_modules")
    return kept / entry


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@pytest.mark.codex
def test_the_node_client_gets_what_it_asks_for(fakes: Served, cli: Served, client: Path) -> None:
    command = ["node", str(SCRIPT), str(client), KEY, MODEL, fakes.base_url, cli.base_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert done.returncode == 0, done.stderr
    of_fakes, of_cli = map(json.loads, done.stdout.splitlines())
    assert of_fakes == of_cli == WANTED
    fakes.until_at_rest()
    cli.until_at_rest()

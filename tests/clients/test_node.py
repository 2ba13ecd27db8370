"""OpenAI's own client for Node, whole and streamed, with tools and errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.node import installed, told
from tests.support.services import KEY, Json
from tests.support.serving import MODEL, Served

VERSION = "6.49.0"
SCRIPT = Path(__file__).with_name("with_node.mjs")

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
    """The client's entry."""
    return installed(f"openai@{VERSION}") / "openai" / "index.mjs"


@pytest.mark.codex
def test_the_node_client_gets_what_it_asks_for(fakes: Served, cli: Served, client: Path) -> None:
    of_fakes, of_cli = told(SCRIPT, str(client), KEY, MODEL, fakes.base_url, cli.base_url)
    assert of_fakes == of_cli == WANTED
    fakes.until_at_rest()
    cli.until_at_rest()

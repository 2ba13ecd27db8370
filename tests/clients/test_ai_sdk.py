"""The AI SDK, which speaks the Responses API by default: whole, streamed, in loops over tools, as objects."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.node import installed, told
from tests.support.services import KEY, Json
from tests.support.serving import MODEL, Served

PACKAGES = ("ai@6.0.322", "@ai-sdk/openai@3.0.141", "zod@4.6.7")
"""The last ones that run on Node 20."""
SCRIPT = Path(__file__).with_name("with_ai_sdk.mjs")

ANSWERED = "The tools answered: rain in Rome | rain in Oslo"
CALLED = [[f"call_{city}", "weather", {"city": city}] for city in ("Rome", "Oslo")]
ROME: Json = {"city": "Rome", "days": 2}
WANTED: Json = {
    "whole": ["Hello there.", "stop", 9, 5, 14],
    "has an id": True,
    "streamed": ["Hello there.", "stop", 5],
    "continued": "And on.",
    "reasoning": ["hm, well", "42"],
    "a tool loop": [ANSWERED, 2, CALLED],
    "a streamed tool loop": [ANSWERED, 2],
    "a tool loop without a store": ANSWERED,
    "an object": ROME,
    "an output": ROME,
    "a streamed object": ROME,
    "a wrong request": ["AI_APICallError", 404, "model_not_found"],
    "a limit": ["AI_APICallError", 429, "rate_limit_exceeded"],
    "a failure": ["AI_APICallError", 502, "upstream_error"],
    "a failure in a stream": [True, True, "error"],
    "a timeout": ["TimeoutError", None, None],
    "left early": True,
    "paths": ["/v1/responses"],
}


@pytest.fixture(scope="module")
def modules() -> Path:
    """Where the SDK and what it needs is."""
    return installed(*PACKAGES)


@pytest.mark.codex
def test_the_ai_sdk_gets_what_it_asks_for(fakes: Served, cli: Served, modules: Path) -> None:
    of_fakes, of_cli = told(SCRIPT, str(modules), KEY, MODEL, fakes.base_url, cli.base_url)
    assert of_fakes == WANTED
    assert of_cli == WANTED
    fakes.until_at_rest()
    cli.until_at_rest()

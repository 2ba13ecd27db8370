"""Exactly the caller's text, history and tools reach the model, and the worker may do nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtest.model_standin import ModelStandin
from pool.binary import bundled_models, resolve
from pool.events import Reasoning, ReasoningDelta, TextDelta, ToolSpec, TurnRequest
from pool.home import KEY_VARIABLE
from pool.profile import Profile
from tests.support.pools import RunningPool, asking, running_pool, script, user

MODELS = [str(model["slug"]) for model in bundled_models(resolve(None))]

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = ToolSpec("get_weather", "The weather in a city.", SCHEMA)
HISTORY: tuple[dict[str, Any], ...] = (
    user("Weather in Rome?"),
    {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": '{"city": "Rome"}'},
    {"type": "function_call_output", "call_id": "call_1", "output": "21 degrees"},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "21 degrees."}]},
    {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
    user("And in Paris?"),
)


def essence(item: dict[str, Any]) -> dict[str, Any]:
    """An input item without the ids and marks that the CLI adds for the provider."""
    kept = {"type", "role", "content", "call_id", "name", "arguments", "output"}
    essential = {key: value for key, value in item.items() if key in kept}
    if isinstance(essential.get("content"), list):
        essential["content"] = [{"type": part["type"], "text": part["text"]} for part in essential["content"]]
    return essential


@pytest.mark.parametrize("model", [*MODELS, "a-model-that-no-catalogue-knows"])
async def test_only_the_callers_text_history_and_tools_reach_the_model(
    model: str, profile: Profile, standin: ModelStandin, tmp_path: Path
) -> None:
    async with running_pool(replace(profile, models=(model,)), tmp_path) as real:
        await real.turn(TurnRequest(model, "You are terse.", HISTORY, (TOOL,)))
        await real.turn(TurnRequest(model, "", (user("No tools."),)))

    with_tools, without = (json.loads(request.raw) for request in standin.requests)
    system = {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "You are terse."}]}
    assert with_tools["model"] == model
    assert [essence(item) for item in with_tools["input"]] == [system, *HISTORY]
    assert not with_tools.get("instructions")
    assert with_tools["tools"] == [
        {
            "type": "function",
            "name": "get_weather",
            "description": "The weather in a city.",
            "strict": False,
            "parameters": SCHEMA,
        }
    ]
    assert [essence(item) for item in without["input"]] == [user("No tools.")]
    assert not without.get("instructions")
    assert not without.get("tools")


@pytest.mark.parametrize("model", ["gpt-5.5", "a-model-that-no-catalogue-knows"])
async def test_effort_summary_verbosity_and_output_schema_reach_the_model(
    model: str, profile: Profile, standin: ModelStandin, tmp_path: Path
) -> None:
    turn = TurnRequest(
        model, "", (user("Hi."),), effort="high", summary="detailed", verbosity="high", output_schema=SCHEMA
    )
    async with running_pool(replace(profile, models=(model,)), tmp_path) as real:
        await real.turn(turn)
    (request,) = standin.requests
    body = json.loads(request.raw)
    assert (body["reasoning"]["effort"], body["reasoning"]["summary"]) == ("high", "detailed")
    assert body["text"]["verbosity"] == "high"
    assert body["text"]["format"]["schema"] == SCHEMA


async def test_what_the_caller_left_open_is_left_to_the_model(real: RunningPool, standin: ModelStandin) -> None:
    await real.turn(asking("Hi."))
    (request,) = standin.requests
    body = json.loads(request.raw)
    assert "text" not in body
    assert "summary" not in body["reasoning"]


async def test_reasoning_comes_whole_and_goes_back_unread(real: RunningPool, standin: ModelStandin) -> None:
    prompt = user(script(reasoning="hm, well", text="ok"))
    sink, _ = await real.turn(TurnRequest("gpt-5.5", "", (prompt,), summary="auto", reasoning_items=True))
    *deltas, thought, text = sink.events
    assert isinstance(thought, Reasoning)
    assert (thought.summary, thought.encrypted) == (("hm, well",), "c3RhbmQtaW4=")
    assert deltas == [ReasoningDelta("hm,", thought.item_id), ReasoningDelta(" well", thought.item_id)]
    assert text == TextDelta("ok")

    back = {
        "type": "reasoning",
        "id": thought.item_id,
        "summary": [{"type": "summary_text", "text": "hm, well"}],
        "encrypted_content": thought.encrypted,
    }
    await real.turn(TurnRequest("gpt-5.5", "", (prompt, back, user("And?"))))
    got = json.loads(standin.requests[-1].raw)["input"][1]
    assert {key: value for key, value in got.items() if value is not None} == back


async def test_a_worker_knows_its_key_and_nothing_of_our_environment(
    real: RunningPool, standin: ModelStandin, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pid,) = real.worker_pids()
    environment = dict(
        entry.split("=", 1) for entry in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in entry
    )
    assert environment.keys() == {"PATH", "HOME", "TMPDIR", "CODEX_HOME", "LANG", "RUST_LOG", "NO_COLOR", KEY_VARIABLE}
    home = Path(environment["CODEX_HOME"])
    assert home.stat().st_mode & 0o777 == 0o700
    assert list(Path(f"/proc/{pid}/cwd").resolve().iterdir()) == []
    assert "sk-upstream" not in (home / "config.toml").read_text()
    await real.turn(asking("Hi."))
    (request,) = standin.requests
    assert request.headers["authorization"] == "Bearer sk-upstream"


async def test_no_prompt_or_answer_stays_on_disk(real: RunningPool, tmp_path: Path) -> None:
    await real.turn(asking("a-very-secret-question", instructions="a-very-secret-instruction"))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"very-secret" not in path.read_bytes(), path

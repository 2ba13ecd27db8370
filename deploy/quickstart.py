"""`make run`: the service on real Codex workers in a minute, with or without credentials.

With an API key (OPENAI_API_KEY) or a logged-in CLI the workers use it. Without any, the real CLI talks to a small
stand-in model on loopback, so that the whole path can be seen to answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import uvloop

from loadtest.model_standin import ModelStandin
from pool.errors import ConfigurationError, EnvironmentUnfit
from service import __version__
from service.launch import profiles
from service.lifecycle import serve
from service.logs import configure_logging
from service.settings import CONFIG_VARIABLE, Settings, load

QUESTION = "Say hello in one sentence."
ANSWER_TIMEOUT_S = 60.0


async def first_answer(base_url: str, key: str, model: str) -> bool:
    """Stream one answer to stdout; whether it came to its proper end."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
    headers = {"Authorization": f"Bearer {key}"}
    timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
    print(f"\n> {QUESTION}")
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(f"{base_url}/v1/chat/completions", json=body, headers=headers) as response,
    ):
        if response.status != 200:
            print(f"HTTP {response.status}: {await response.text()}")
            return False
        async for line in response.content:
            data = line.decode().removeprefix("data: ").strip()
            if data == "[DONE]":
                print()
                return True
            chunk = json.loads(data) if data.startswith("{") else {}
            if "error" in chunk:
                print(f"\nerror: {chunk['error']['message']}")
            for choice in chunk.get("choices", ()):
                print(choice["delta"].get("content", ""), end="", flush=True)
    return False


async def run(*, once: bool, environ: dict[str, str]) -> bool:
    """Serve, show one answer, and go on serving unless `once`; whether that answer came."""
    key = environ.get("CODEX_COMPLETIONS_API_KEY") or environ.get("PROXY_API_KEY") or f"sk-{secrets.token_urlsafe(32)}"
    environ["CODEX_COMPLETIONS_API_KEY"] = key
    environ.setdefault("CODEX_COMPLETIONS_LOG__LEVEL", "warning")
    if once:
        environ.setdefault("CODEX_COMPLETIONS_SERVER__PORT", "0")
    path = environ.pop(CONFIG_VARIABLE, None)
    settings = load(Path(path) if path else None, environ)
    configure_logging(settings.log.level)
    model = next(iter(settings.models))
    answered = False

    async def show(base_url: str) -> bool:
        nonlocal answered
        print(f"codex-completions {__version__} serves on {base_url}")
        try:
            answered = await first_answer(base_url, key, model)
        except (TimeoutError, aiohttp.ClientError) as error:
            print(f"\nno answer: {str(error) or 'it took too long'}")
        if not once:
            print(f"\nTry it:\n{curl(base_url, key, model)}\n\nCtrl-C stops it.\n", flush=True)
        return not once

    async with AsyncExitStack() as stack:
        try:
            profiles(settings, environ)
        except ConfigurationError as missing:
            print(f"{missing}.\nSo the real Codex CLI will talk to a small stand-in model on loopback.")
            standin = await stack.enter_async_context(ModelStandin())
            settings = _on_standin(settings, standin.base_url)
        await serve(settings, environ, show)
    return answered


def _on_standin(settings: Settings, base_url: str) -> Settings:
    """The same settings with every profile's provider replaced by the stand-in."""
    replaced = {
        name: profile.model_copy(update={"base_url": base_url, "anonymous": True, "env_key": None, "auth_file": None})
        for name, profile in settings.profiles.items()
    }
    return settings.model_copy(update={"profiles": replaced})


def curl(base_url: str, key: str, model: str) -> str:
    """A command line that asks the service something."""
    body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": "Hello!"}]})
    return (
        f"  curl -N {base_url}/v1/chat/completions \\\n"
        f'    -H "Authorization: Bearer {key}" \\\n    -H "Content-Type: application/json" \\\n    -d \'{body}\''
    )


def main() -> None:
    """Exit 0 when the answer came, 1 when it did not, 2 or 3 as `codex-completions serve` does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="exit after the first answer")
    once = parser.parse_args().once
    environ = {"CODEX_COMPLETIONS_STATE_DIR": str(Path(".run").absolute())} | dict(os.environ)  # noqa: TID251 - read once
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            answered = runner.run(run(once=once, environ=environ))
    except (ConfigurationError, EnvironmentUnfit) as error:
        print(f"codex-completions: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigurationError) else 3)
    sys.exit(0 if answered else 1)


if __name__ == "__main__":
    main()

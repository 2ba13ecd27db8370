"""Smoke: does a service that runs somewhere do what its clients need?

    python -m loadtest.smoke --base-url URL --key KEY [--model NAME] [--limit S]

One line a check: whether it held, how long it took, and what was seen. The model is asked seven times at the most, for
little. One that calls no function when it is asked to proves nothing either way; that check is told as skipped. Nothing
is left behind: the one answer that is stored is deleted.

Exit code 0 when no check failed, else 1. It ends by itself: no check takes longer than its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import secrets
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

import aiohttp

CONNECT_S = 5.0
LIMIT_S = 60.0
"""Of one check, unless told otherwise: a model may think."""
MAX_LINE_BYTES = 1024 * 1024

SAY = "Answer with the single word: ready"
COUNT = "Count from 1 to 300 in words, one number a line, and nothing else."
CALL = "What is the weather in Paris? Call the function get_weather to find out; do not answer without it."
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city, now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}

Json = dict[str, Any]


class Failed(Exception):  # noqa: N818 - of a check
    """The service did not do what it should."""


class Skipped(Exception):  # noqa: N818 - of a check
    """What happened says nothing about the service."""


class Target(NamedTuple):
    """A service, a key for it, the model to ask ("" takes the first that is listed), and what makes it call."""

    base_url: str
    key: str
    model: str
    tool_prompt: str


class Caller:
    """Asks one service on connections of its own."""

    def __init__(self, session: aiohttp.ClientSession, target: Target) -> None:
        self._session = session
        self._target = target
        self.model = target.model
        self.tool_prompt = target.tool_prompt

    async def call(
        self, method: str, path: str, body: Json | None = None, *, key: str | None = None, status: int = 200
    ) -> Json:
        """The JSON that is answered, with `key` in place of the usual one.

        Raises:
            Failed: the status is not `status`, or the answer is no JSON object.
        """
        async with self._ask(method, path, body, self._target.key if key is None else key) as response:
            await _expect(response, status)
            answer = await response.json(content_type=None)
        if type(answer) is not dict:
            raise Failed(f"{method} {path}: the answer is no JSON object")
        return answer

    async def choices(self, body: Json) -> AsyncGenerator[Json, None]:
        """Each choice in each chunk of a streamed chat completion; close it to leave.

        Raises:
            Failed: it is not a stream, or does not end as one.
        """
        async with self._ask("POST", "/v1/chat/completions", self.asked(body | {"stream": True})) as response:
            await _expect(response, HTTPStatus.OK)
            if response.content_type != "text/event-stream":
                raise Failed(f"a stream was wanted, {response.content_type} came")
            data = ""
            async for line in response.content:
                if not line.startswith(b"data:"):
                    continue
                data = line.removeprefix(b"data:").strip().decode()
                chunk = json.loads(data) if data != "[DONE]" else {"choices": ()}
                if "error" in chunk:
                    raise Failed(f"the stream ends in an error: {chunk['error']}")
                for choice in chunk["choices"]:
                    yield choice
            if data != "[DONE]":
                raise Failed("the stream breaks off")

    def asked(self, body: Json) -> Json:
        """The body, for the model that is asked.

        Raises:
            Failed: there is none.
        """
        if not self.model:
            raise Failed("no model is known to ask")
        return {"model": self.model} | body

    def _ask(
        self, method: str, path: str, body: Json | None, key: str | None = None
    ) -> aiohttp.client._RequestContextManager:
        key = self._target.key if key is None else key
        headers = {"Authorization": f"Bearer {key}"}
        return self._session.request(method, self._target.base_url + path, json=body, headers=headers)


async def _expect(response: aiohttp.ClientResponse, status: int) -> None:
    if response.status != status:
        said = (await response.content.read(300)).decode(errors="replace")
        raise Failed(f"{response.method} {response.url.path}: {response.status} in place of {status}: {said}")


def _said(message: str) -> Json:
    return {"messages": [{"role": "user", "content": message}]}


# --- the checks --------------------------------------------------------------------------------------------------


async def health(caller: Caller) -> str:
    """It lives, and would take requests."""
    await caller.call("GET", "/livez")
    await caller.call("GET", "/readyz")
    return "alive and ready"


async def models(caller: Caller) -> str:
    """There is a model, and the one to ask is listed."""
    found = [model["id"] for model in (await caller.call("GET", "/v1/models"))["data"]]
    if not found:
        raise Failed("none is listed")
    caller.model = caller.model or found[0]
    await caller.call("GET", f"/v1/models/{caller.model}")
    return f"{len(found)} listed, {caller.model} is asked"


async def bad_key(caller: Caller) -> str:
    """Who has no key is refused, without an answer of any model."""
    body = {"model": caller.model or "none", **_said(SAY)}
    for key in (f"sk-{secrets.token_urlsafe(32)}", ""):
        refusal = await caller.call("POST", "/v1/chat/completions", body, key=key, status=401)
        if "error" not in refusal:
            raise Failed("the refusal does not say why")
    return "refused"


async def chat(caller: Caller) -> str:
    """A whole answer."""
    answer = await caller.call("POST", "/v1/chat/completions", caller.asked(_said(SAY)))
    (choice,) = answer["choices"]
    if not choice["message"]["content"] or choice["finish_reason"] != "stop":
        raise Failed(f"there is no text, or no end to it: {choice['finish_reason']}")
    return f"{answer['usage']['total_tokens']} tokens"


async def chat_streamed(caller: Caller) -> str:
    """The same, in pieces, to its end."""
    began_at = time.monotonic()
    first_at, pieces, finish = 0.0, 0, None
    async for choice in caller.choices(_said(SAY)):
        finish = choice.get("finish_reason")
        if choice["delta"].get("content"):
            first_at = first_at or time.monotonic()
            pieces += 1
    if not pieces or finish != "stop":
        raise Failed(f"there is no text, or no end to it: {finish}")
    return f"{pieces} pieces, the first after {first_at - began_at:.3f} s"


async def vanishing(caller: Caller) -> str:
    """A client that goes away in the middle of its answer does no harm to the next one."""
    async with contextlib.aclosing(caller.choices(_said(COUNT))) as choices:
        async for choice in choices:
            if choice["delta"].get("content"):
                break
        else:
            raise Failed("there was no text to leave in the middle of")
    await chat(caller)
    return "left after the first piece; the next client was answered"


async def tool_call(caller: Caller) -> str:
    """A call of a function, and the answer to what it gave."""
    messages: list[Json] = [{"role": "user", "content": caller.tool_prompt}]
    body = caller.asked({"messages": messages, "tools": [TOOL]})
    (choice,) = (await caller.call("POST", "/v1/chat/completions", body))["choices"]
    calls = choice["message"].get("tool_calls")
    if not calls:
        raise Skipped("the model called no function")
    if choice["finish_reason"] != "tool_calls" or any(call["function"]["name"] != "get_weather" for call in calls):
        raise Failed("the call is not of the function that there is")
    json.loads(calls[0]["function"]["arguments"])
    messages.append({"role": "assistant", "content": None, "tool_calls": calls})
    messages.extend({"role": "tool", "tool_call_id": call["id"], "content": "20 C, dry"} for call in calls)
    await caller.call("POST", "/v1/chat/completions", body)
    return f"{len(calls)} called, and its result was taken"


async def stored(caller: Caller) -> str:
    """A response is stored, retrieved, deleted, and then gone."""
    made = await caller.call("POST", "/v1/responses", caller.asked({"input": SAY, "store": True}))
    path = f"/v1/responses/{made['id']}"
    try:
        found = await caller.call("GET", path)
        if made["status"] != "completed" or found["output"] != made["output"]:
            raise Failed("what is retrieved is not what was answered")
    finally:
        await caller.call("DELETE", path)
    await caller.call("GET", path, status=404)
    return "stored, retrieved and deleted"


Check = Callable[[Caller], Awaitable[str]]
CHECKS: tuple[tuple[str, Check], ...] = (
    ("health", health),
    ("models", models),
    ("bad key", bad_key),
    ("chat", chat),
    ("chat, streamed", chat_streamed),
    ("vanishing client", vanishing),
    ("tool call", tool_call),
    ("responses", stored),
)


async def smoke(target: Target, limit_s: float) -> bool:
    """Make every check, telling each; whether none failed."""
    timeout = aiohttp.ClientTimeout(total=limit_s, sock_connect=CONNECT_S)
    fine = True
    async with aiohttp.ClientSession(timeout=timeout, read_bufsize=MAX_LINE_BYTES) as session:
        caller = Caller(session, target)
        for name, check in CHECKS:
            began_at = time.monotonic()
            verdict, seen = await _tried(check, caller, limit_s)
            fine = fine and verdict != "FAILED"
            print(f"{verdict:<8}{name:<18}{time.monotonic() - began_at:8.3f} s  {seen}", flush=True)
    return fine


async def _tried(check: Check, caller: Caller, limit_s: float) -> tuple[str, str]:
    try:
        async with asyncio.timeout(limit_s):
            return "ok", await check(caller)
    except Skipped as skipped:
        return "skipped", str(skipped)
    except Failed as failed:
        return "FAILED", str(failed)
    except TimeoutError:
        return "FAILED", f"it took longer than {limit_s:g} s"
    except aiohttp.ClientError as error:
        return "FAILED", f"no answer: {error}"
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return "FAILED", f"the answer has another shape: {error!r}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True, help="with or without /v1")
    parser.add_argument("--key", required=True)
    parser.add_argument("--model", default="", help="default: the first that is listed")
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="S", help="seconds for one check")
    parser.add_argument("--tool-prompt", default=CALL, help="what makes the model call get_weather(city)")
    arguments = parser.parse_args(argv)
    base_url = arguments.base_url.rstrip("/").removesuffix("/v1")
    target = Target(base_url, arguments.key, arguments.model, arguments.tool_prompt)
    return 0 if asyncio.run(smoke(target, arguments.limit)) else 1


if __name__ == "__main__":
    sys.exit(main())

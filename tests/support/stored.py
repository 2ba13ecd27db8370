"""Clients of stored responses, with two keys."""

from __future__ import annotations

from typing import Any

from tests.support.services import AUTHORIZED, Answer, Json, RunningService

OTHER = "sk-another-key-that-tests-use-0123456789"
AS_OTHER = {"Authorization": f"Bearer {OTHER}"}


async def post(api: RunningService, prompt: Any = "Hello.", **fields: Any) -> Answer:
    """A request of the Responses API."""
    headers = fields.pop("headers", AUTHORIZED)
    body = {"model": "codex-5", "input": prompt} | fields
    return await api.call("POST", "/v1/responses", json=body, headers=headers)


async def at(api: RunningService, path: str, verb: str = "GET", headers: Any = AUTHORIZED, **query: Any) -> Answer:
    """One of the routes of a stored response."""
    return await api.call(verb, f"/v1/responses/{path}", headers=headers, params=query)


def text(response: Json) -> str:
    """What its messages say."""
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])

"""/v1/models: the configured names."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from service.api.errors import model_not_found
from service.state import SERVICE


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "codex"}


def _answer(request: web.Request, value: dict[str, Any]) -> web.Response:
    response = web.Response(body=msgspec.json.encode(value), content_type="application/json")
    is_protected = request.app[SERVICE].current.settings.server.protect_models  # then no cache may give it to others
    response.headers["Cache-Control"] = f"{'private' if is_protected else 'public'}, max-age=60"
    return response


def _authenticate(request: web.Request) -> None:
    current = request.app[SERVICE].current
    if current.settings.server.protect_models:
        current.keyring.tenant(request.headers.get("Authorization"))


async def list_models(request: web.Request) -> web.Response:
    """Every public model name."""
    _authenticate(request)
    names = request.app[SERVICE].current.routes.names()
    return _answer(request, {"object": "list", "data": [_model(name) for name in names]})


async def get_model(request: web.Request) -> web.Response:
    """One public model name, upper and lower case being the same."""
    _authenticate(request)
    name = request.match_info["id"]
    route = request.app[SERVICE].current.routes.find(name)
    if route is None:
        raise model_not_found(name)
    return _answer(request, _model(route.public))

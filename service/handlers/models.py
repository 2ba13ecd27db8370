"""/v1/models: the configured names."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import hdrs, web

from service.admission import Tenant
from service.api.errors import ApiError, model_not_found
from service.state import SERVICE


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "codex"}


def _answer(request: web.Request, value: dict[str, Any]) -> web.Response:
    response = web.Response(body=msgspec.json.encode(value), content_type="application/json")
    settings = request.app[SERVICE].current.settings
    is_for_all = not settings.server.protect_models and all(key.models is None for key in settings.keys)
    response.headers["Cache-Control"] = f"{'public' if is_for_all else 'private'}, max-age=60"
    return response


def _tenant(request: web.Request) -> Tenant | None:
    """Who asks, if that is known.

    Raises:
        ApiError: it is not, and has to be.
    """
    current = request.app[SERVICE].current
    try:
        return current.keyring.tenant(request.headers.get(hdrs.AUTHORIZATION))
    except ApiError:
        if current.settings.server.protect_models:
            raise
        return None


async def list_models(request: web.Request) -> web.Response:
    """Every public model name; to a key, of those that it may use."""
    tenant = _tenant(request)
    names = request.app[SERVICE].current.routes.names(None if tenant is None else tenant.models)
    return _answer(request, {"object": "list", "data": [_model(name) for name in names]})


async def get_model(request: web.Request) -> web.Response:
    """One public model name, upper and lower case being the same."""
    tenant = _tenant(request)
    name = request.match_info["id"]
    route = request.app[SERVICE].current.routes.find(name, None if tenant is None else tenant.models)
    if route is None:
        raise model_not_found(name)
    return _answer(request, _model(route.public))

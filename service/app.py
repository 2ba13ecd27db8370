"""The composition root: settings in, a wired application out. The flow from here: handlers -> scheduler -> pool."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from pool.pool import Pool
from scheduler.scheduler import Scheduler
from service import __version__
from service.admission import Keyring
from service.handlers import chat, models, ops
from service.middleware import observe, sign
from service.observability import Observability
from service.routing import Routes
from service.settings import Settings, profiles
from service.state import SERVICE, Service


def build(settings: Settings, environ: Mapping[str, str]) -> Service:
    """Everything wired, nothing running; call it inside the running loop.

    Raises:
        ConfigurationError: credentials are missing.
    """
    specs = profiles(settings, environ)
    observability = Observability()
    pool = Pool(specs, settings.state_dir.expanduser(), __version__, observer=observability)
    limits = {name: profile.queue_max for name, profile in settings.profiles.items()}
    scheduler = Scheduler(pool, limits, observability)
    pool.on_freed = scheduler.seats_freed
    observability.watch(pool, scheduler)
    return Service(settings, Keyring(settings), Routes(settings), pool, scheduler, observability)


def application(service: Service) -> web.Application:
    """The routes and what happens to every request."""
    app = web.Application(middlewares=[observe], client_max_size=service.settings.server.max_body_bytes)
    app[SERVICE] = service
    app.on_response_prepare.append(sign)
    app.router.add_post("/v1/chat/completions", chat.create)
    app.router.add_head("/v1/chat/completions", chat.head)
    for path in ("/v1/models", "/v1/models/"):
        app.router.add_get(path, models.list_models)
    app.router.add_get("/v1/models/{id}", models.get_model)
    app.router.add_get("/healthz", ops.healthz)
    app.router.add_get("/readyz", ops.readyz)
    app.router.add_get("/livez", ops.livez)
    app.router.add_get("/metrics", ops.metrics)
    return app

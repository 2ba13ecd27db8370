"""The composition root: settings in, a wired application out. The flow from here: handlers -> scheduler -> pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from aiohttp import web

from pool.pool import Pool
from scheduler.scheduler import Scheduler
from service import __version__
from service.background import BACKGROUND, Background
from service.handlers import chat, models, ops, responses, stored, usage
from service.launch import profiles, queue_policies
from service.maintenance import Maintenance
from service.middleware import expect, observe, sign
from service.observability import Observability
from service.settings import Settings
from service.state import SERVICE, Configuration, Service
from service.store.memory import MemoryStore
from service.store.observer import StoreObserver
from service.store.protocol import NoStore, ResponseStore
from service.store.sqlite import SqliteStore
from service.traces.buffer import TraceBuffer
from service.usage.ledger import Ledger


def build(settings: Settings, environ: Mapping[str, str]) -> Service:
    """Everything wired, nothing running; call it inside the running loop.

    Raises:
        ConfigurationError: credentials are missing.
    """
    specs = profiles(settings, environ)
    observability = Observability()
    pool = Pool(specs, settings.state_dir, __version__, observer=observability)
    scheduler = Scheduler(pool, queue_policies(settings), observability, max_held=settings.server.max_held_bytes)
    pool.on_freed = scheduler.seats_freed
    pool.on_quarantined = scheduler.leases_doubted
    store = store_of(settings, observability)
    ledger = None
    if settings.usage.enabled:
        ledger = Ledger(settings.usage.path or settings.state_dir / "usage.sqlite", settings.usage, observability)
    traces = TraceBuffer(
        settings.trace.path or settings.state_dir / "trace-buffer",
        settings.trace,
        observability,
        lambda: [key for spec in pool.launches.values() if (key := spec.profile.credentials.api_key)],
    )
    observability.watch(pool, scheduler, store)
    file = settings.maintenance.file or settings.state_dir / "maintenance.json"
    maintenance = Maintenance(settings.maintenance, file, observability.maintenance_changed)
    return Service(Configuration.of(settings), pool, scheduler, store, ledger, traces, observability, maintenance)


def store_of(settings: Settings, observer: StoreObserver) -> ResponseStore:
    """The store that is configured, not open yet."""
    match settings.store.kind:
        case "sqlite":
            path = settings.store.path or settings.state_dir / "responses.sqlite"
            return SqliteStore(path, settings.store, observer)
        case "memory":
            return MemoryStore(settings.store, observer)
        case "off":
            return NoStore()
        case unknown:
            assert_never(unknown)


def application(service: Service, background: Background) -> web.Application:
    """The routes and what happens to every request."""
    app = web.Application(middlewares=[observe])
    app[SERVICE] = service
    app[BACKGROUND] = background
    app.on_response_prepare.append(sign)
    routes = [
        web.post("/v1/chat/completions", chat.create, expect_handler=expect),
        web.head("/v1/chat/completions", chat.head, expect_handler=expect),
        web.post("/v1/responses", responses.create, expect_handler=expect),
        web.head("/v1/responses", chat.head, expect_handler=expect),
        web.get("/v1/responses/{id}", stored.retrieve, expect_handler=expect),
        web.delete("/v1/responses/{id}", stored.delete, expect_handler=expect),
        web.post("/v1/responses/{id}/cancel", stored.cancel, expect_handler=expect),
        web.get("/v1/responses/{id}/input_items", stored.input_items, expect_handler=expect),
        web.get("/v1/models", models.list_models, expect_handler=expect),
        web.get("/v1/models/", models.list_models, expect_handler=expect),
        web.get("/v1/models/{id}", models.get_model, expect_handler=expect),
        web.get("/v1/usage", usage.summary, expect_handler=expect),
        web.get("/v1/usage/raw", usage.raw, expect_handler=expect),
        web.get("/healthz", ops.healthz, expect_handler=expect),
        web.get("/readyz", ops.readyz, expect_handler=expect),
        web.get("/livez", ops.livez, expect_handler=expect),
        web.get("/metrics", ops.metrics, expect_handler=expect),
    ]
    app.add_routes(routes)
    return app

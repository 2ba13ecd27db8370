"""What the handlers share: one `Service` for the application, and typed keys for what a request carries."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from pool.pool import Pool
from scheduler.scheduler import Scheduler
from service.admission import Keyring
from service.observability import Observability
from service.routing import Routes
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Service:
    """Everything a handler may use."""

    settings: Settings
    keyring: Keyring
    routes: Routes
    pool: Pool
    scheduler: Scheduler
    observability: Observability


SERVICE = web.AppKey("service", Service)
REQUEST_ID = web.RequestKey("request_id", str)
FACTS = web.RequestKey("facts", dict[str, object])
"""What a handler adds to the request's one log line."""

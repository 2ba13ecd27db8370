"""What the handlers share: one `Service` for the application, and typed keys for what a request carries."""

from __future__ import annotations

from dataclasses import dataclass, field

from aiohttp import web
from aiolimiter import AsyncLimiter

from pool.pool import Pool
from scheduler.scheduler import Scheduler
from service.admission import Keyring, Tenant
from service.cors import Cors
from service.maintenance import Maintenance
from service.observability import Observability
from service.room import Room
from service.routing import Routes
from service.settings import Settings
from service.store.protocol import ResponseStore
from service.traces.buffer import TraceBuffer
from service.usage.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything that a reload replaces, as a whole: settings, and what is made of them."""

    settings: Settings
    keyring: Keyring
    routes: Routes
    cors: Cors | None
    fetches: AsyncLimiter
    """Of images."""

    @classmethod
    def of(cls, settings: Settings, before: Configuration | None = None) -> Configuration:
        """What these settings amount to; the counts of keys that `before` knew go on."""
        keyring = Keyring(settings, before.keyring if before else None)
        fetches = AsyncLimiter(settings.images.fetches_per_second, 1.0)
        return cls(settings, keyring, Routes(settings), Cors.of(settings.server), fetches)


@dataclass(slots=True)
class Service:
    """Everything a handler may use. `current` is replaced by a reload: take it once, and keep what you took."""

    current: Configuration
    pool: Pool
    scheduler: Scheduler
    store: ResponseStore
    ledger: Ledger | None
    traces: TraceBuffer
    observability: Observability
    maintenance: Maintenance
    room: Room = field(default_factory=Room)

    async def open(self) -> None:
        """Open what is kept in files.

        Raises:
            EnvironmentUnfit: one of them can never be used.
        """
        self.traces.open()
        await self.store.open()
        if self.ledger is not None:
            await self.ledger.open()

    async def close(self) -> None:
        """Write what is still to be written, within a bound. Harmless if they were not opened."""
        await self.traces.close()
        await self.store.close()
        if self.ledger is not None:
            await self.ledger.close()


SERVICE = web.AppKey("service", Service)
TENANT = web.RequestKey("tenant", Tenant)
"""Who sent this one, where it is counted."""
REQUEST_ID = web.RequestKey("request_id", str)
HEADERS = web.RequestKey("headers", dict[str, str])
"""What goes on the answer, an error or not, once the request is known to be right."""
FACTS = web.RequestKey("facts", dict[str, object])
"""What a handler adds to the request's one log line."""

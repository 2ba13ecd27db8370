"""Metrics on an address of their own, for whoever scrapes from a network that clients are not in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from service.handlers.ops import scrape
from service.http import Runner
from service.state import Service

LAST_WORDS_S = 1.0


@asynccontextmanager
async def metrics_site(service: Service) -> AsyncIterator[str | None]:
    """Listen, where that is configured, for as long as the context is open; gives the address.

    Raises:
        EnvironmentUnfit: the address is taken.
    """
    settings = service.current.settings.server
    if settings.metrics_port is None:
        yield None
        return

    async def metrics(_request: web.Request) -> web.Response:
        return scrape(service)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = Runner(app, access_log=None, shutdown_timeout=LAST_WORDS_S)
    try:
        url = await runner.listen(settings.metrics_host, settings.metrics_port, "metrics: ") + "/metrics"
        service.observability.log.info("metrics.started", url=url)
        yield url
    finally:
        await runner.cleanup()

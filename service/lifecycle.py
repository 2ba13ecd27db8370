"""From start to exit: boot, serve, drain, stop. Owns the process's signals and its one task group."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from pool.errors import ConfigurationError, EnvironmentUnfit
from pool.pool import FirstBoot, Pool
from pool.worker import LaunchSpec
from service import __version__
from service.admin.site import admin_site
from service.app import application, build
from service.background import Background
from service.encode.tokens import vocabulary
from service.http import Runner
from service.launch import profiles
from service.notify import ServiceManager
from service.reload import Reloader
from service.scraping import metrics_site
from service.settings import Settings, require_keys
from service.state import Service

T = TypeVar("T")
OnReady = Callable[[str], Coroutine[Any, Any, bool]]

KEEPALIVE_S = 75.0
"""How long an idle connection is kept for its client's next request."""
LAST_WORDS_S = 2.0
"""After the drain: how long handlers may take to tell their clients."""


async def serve(
    settings: Settings,
    environ: Mapping[str, str],
    on_ready: OnReady | None = None,
    load: Callable[[], Settings] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, or until `on_ready(base_url)` returns False; on SIGHUP take what `load` gives.

    Returns when everything is drained and no child is left.

    Raises:
        ConfigurationError: no key, or no credentials.
        EnvironmentUnfit: no usable CLI, directory or store, or the address is taken.
    """
    require_keys(settings)
    service = build(settings, environ)
    manager = ServiceManager.of(environ)
    reloader = Reloader(service, service.pool, load or (lambda: settings), environ, manager)
    stop = asyncio.Event()
    try:
        with _signals(stop, reloader), manager.open():
            await asyncio.to_thread(service.pool.prepare, environ.get("PATH"))
            try:
                await service.open()
                await _run(service, stop, on_ready, reloader)
            finally:
                await service.close()
    except* (ConfigurationError, EnvironmentUnfit) as group:
        raise group.exceptions[0] from None
    finally:
        service.maintenance.close()
        service.pool.discard()
        service.observability.close()


async def _run(service: Service, stop: asyncio.Event, on_ready: OnReady | None, reloader: Reloader[LaunchSpec]) -> None:
    """Boot, serve and drain; afterwards no worker is left. Operators see all of it."""
    background = Background(service)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(service.pool.run(), name="pool")
        tasks.create_task(background.run(), name="background")
        try:
            async with admin_site(service, reloader), metrics_site(service):
                await _boot(service, stop)
                if not stop.is_set():
                    await _serve(service, background, stop, on_ready, reloader)
        finally:
            service.scheduler.cut_off()
            background.stop()
            service.pool.stop()


async def check(settings: Settings, environ: Mapping[str, str]) -> list[FirstBoot]:
    """How one worker of each profile boots; nothing is left afterwards.

    Raises:
        ConfigurationError: credentials are missing.
        EnvironmentUnfit: no usable CLI, or no usable directory.
    """
    specs = [replace(spec, workers=1) for spec in profiles(settings, environ)]
    pool = Pool(specs, settings.state_dir, __version__)
    try:
        await asyncio.to_thread(pool.prepare, environ.get("PATH"))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pool.run(), name="pool")
            try:
                return await pool.first_boots()
            finally:
                pool.stop()
    finally:
        pool.discard()


def http_runner(service: Service, background: Background) -> Runner:
    """What answers HTTP: a handler is cancelled when its client leaves, and gets the body as it was sent."""
    return Runner(
        application(service, background),
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=LAST_WORDS_S,
        auto_decompress=False,
        keepalive_timeout=KEEPALIVE_S,
    )


async def _boot(service: Service, stop: asyncio.Event) -> None:
    """Wait until every profile has tried to boot. What can never work ends the start; what is slow does not."""
    await asyncio.to_thread(vocabulary)  # no request has to wait for it, and the workers boot meanwhile
    boots = await _unless(stop, service.pool.first_boots())
    profiles = service.current.settings.profiles
    final = [boot for boot in boots or () if boot.is_final and profiles[boot.profile].required]
    if final:
        raise EnvironmentUnfit("; ".join(f"profile {boot.profile}: {boot.failure}" for boot in final))


async def _serve(
    service: Service,
    background: Background,
    stop: asyncio.Event,
    on_ready: OnReady | None,
    reloader: Reloader[LaunchSpec],
) -> None:
    server = service.current.settings.server
    runner = http_runner(service, background)
    try:
        base_url = await runner.listen(server.host, server.port)
        service.observability.log.info("service.started", url=base_url)
        reloader.manager.serving()
        gc.collect()
        gc.freeze()  # what start-up made is never garbage: no collection need look at it again
        gc.set_threshold(20_000, 20, 100)  # and little of what comes is: nearly all goes with its last reference
        if on_ready is None or await _unless(stop, on_ready(base_url)):
            await _unless(stop, reloader.run())
        reloader.manager.stopping()
        await _drain(service, stop)
    finally:
        await runner.cleanup()
        service.observability.log.info("service.stopped")


async def _drain(service: Service, stop: asyncio.Event) -> None:
    """Take no new work and let the rest finish, within the bound; a second signal ends the wait."""
    stop.clear()
    service.scheduler.drain()
    service.observability.log.info("service.draining")
    hurry = asyncio.get_running_loop().call_later(service.current.settings.server.drain_timeout_s, stop.set)
    await _unless(stop, service.scheduler.idle())
    hurry.cancel()
    service.scheduler.cut_off()


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` returns, or None if `stop` is set first."""
    async with asyncio.TaskGroup() as tasks:
        working = tasks.create_task(work)
        stopping = tasks.create_task(stop.wait())
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        working.cancel()
    return None if working.cancelled() else working.result()


@contextmanager
def _signals(stop: asyncio.Event, reloader: Reloader[LaunchSpec]) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop`, SIGHUP asks for a reload."""
    loop = asyncio.get_running_loop()
    handlers = {signal.SIGTERM: stop.set, signal.SIGINT: stop.set, signal.SIGHUP: reloader.ask}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)

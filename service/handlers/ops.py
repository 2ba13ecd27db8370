"""Health and metrics. Field names are the predecessor's; nothing here names a process id."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import REGISTRY, generate_latest

from pool.worker_state import WorkerState
from service.state import SERVICE, Service

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _json(value: Any, status: int) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def readiness(service: Service) -> dict[str, Any]:
    """Whether new work should be sent here, and why not: every required profile needs a worker in service."""
    if service.scheduler.is_draining:
        return {"ready": False, "reason": "paused" if service.scheduler.is_paused else "shutdown_in_progress"}
    if _has_workers(service):
        return {"ready": True, "reason": "handshake_complete"}
    return {"ready": False, "reason": "worker_not_ready"}


def _has_workers(service: Service) -> bool:
    profiles = service.current.settings.profiles
    return service.pool.is_ready([name for name, profile in profiles.items() if profile.required])


def _liveness() -> dict[str, Any]:
    """Alive is who answers: a sick worker is no reason to kill the service around it."""
    return {"live": True, "reason": "serving"}


def _workers(service: Service) -> dict[str, Any]:
    rows = service.pool.snapshot()
    return {
        "enabled": True,
        "running": any(sum(row.workers.values()) for row in rows),
        "ready": _has_workers(service),
        "shutdown_in_flight": service.scheduler.is_draining and not service.scheduler.is_paused,
        "restarts_total": sum(max(0, row.boots - row.size) for row in rows),
        "last_exit": service.observability.last_exit,
        "profiles": {
            row.profile: {
                "workers": {state: row.workers[state] for state in WorkerState if row.workers[state]},
                "seats": row.seats,
                "seats_free": row.free,
                "version": service.observability.versions.get(row.profile),
                "last_failure": row.last_failure,
                "breaker_open": row.is_broken,
                "outdated": row.outdated,
            }
            for row in rows
        },
    }


def _queues(service: Service) -> dict[str, Any]:
    return {
        row.profile: {
            "waiting": row.waiting,
            "running": row.running,
            "oldest_wait_s": round(row.oldest_wait_s, 3),
            "predicted_wait_s": round(row.predicted_wait_s, 3),
            "seats_limit": row.limit,
            "overloaded": row.is_overloaded,
        }
        for row in service.scheduler.snapshot()
    }


def _common(service: Service) -> dict[str, Any]:
    return {"backend_mode": "app-server", "app_server_enabled": True, "worker_supervisor": _workers(service)}


async def healthz(request: web.Request) -> web.Response:
    """Everything at a glance; always 200."""
    service = request.app[SERVICE]
    ready, live = readiness(service), _liveness()
    body = {"ok": ready["ready"], "sandbox_mode": "read-only", "health": {"readiness": ready, "liveness": live}}
    rest = {"queues": _queues(service), "maintenance": service.maintenance.notice is not None}
    return _json(body | _common(service) | rest, 200)


async def readyz(request: web.Request) -> web.Response:
    """200 when new work should be sent here, else 503."""
    service = request.app[SERVICE]
    ready = readiness(service)
    body = {"ok": ready["ready"], "health": {"readiness": ready}} | _common(service)
    return _json(body, 200 if ready["ready"] else 503)


async def livez(request: web.Request) -> web.Response:
    """200 as long as the service can answer at all."""
    service = request.app[SERVICE]
    return _json({"ok": True, "health": {"liveness": _liveness()}} | _common(service), 200)


async def metrics(request: web.Request) -> web.Response:
    """Prometheus' text format; for other hosts than this one a key is needed, unless configured otherwise."""
    current = request.app[SERVICE].current
    if current.settings.server.metrics_port is not None:
        raise web.HTTPNotFound  # it has an address of its own
    if not current.settings.server.open_metrics and (not _is_local(request.remote) or _is_forwarded(request)):
        current.keyring.tenant(request.headers.get("Authorization"))
    return scrape(request.app[SERVICE])


def scrape(service: Service) -> web.Response:
    """Our numbers, and those of the process itself."""
    body = service.observability.numbers.text() + generate_latest(REGISTRY)
    return web.Response(body=body, headers={"Content-Type": METRICS_TYPE})


def _is_forwarded(request: web.Request) -> bool:
    """A proxy on this host speaks for somebody else."""
    return any(name in request.headers for name in ("Forwarded", "X-Forwarded-For", "X-Real-IP"))


def _is_local(remote: str | None) -> bool:
    try:
        address = ip_address(remote or "")
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None  # on a socket for both families
    return (mapped or address).is_loopback

"""All that operators see, as one object: the API gives it as JSON, the page shows it."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from typing import Any

from pool.roster import ProfileSnapshot
from pool.story import Line
from pool.worker_state import WorkerId, WorkerState
from scheduler.record import QueueSnapshot, TenantRow
from service import __version__
from service.admin.actions import KEY_FIELDS, PROFILE_FIELDS, Desk
from service.handlers.ops import readiness
from service.settings import KeySettings
from service.state import Service

MAX_ROWS = 200
"""Of what there may be many of."""

Json = dict[str, Any]


def overview(desk: Desk) -> Json:
    """The state of the service, now."""
    service = desk.service
    queues = {row.profile: row for row in service.scheduler.snapshot()}
    waits = sorted(service.scheduler.tenants(), key=lambda row: (-row.waiting, -row.running, row.profile, row.tenant))
    running = Counter({row.tenant: 0 for row in waits})
    for row in waits:
        running[row.tenant] += row.running
    return {
        "service": _service(desk),
        "maintenance": _maintenance(service),
        "profiles": [_profile(service, row, queues.get(row.profile)) for row in service.pool.snapshot()],
        "waits": [_wait(row) for row in waits[:MAX_ROWS]],
        "keys": [_key(service, key, running) for key in service.current.settings.keys[:MAX_ROWS]],
        "models": _models(service)[:MAX_ROWS],
        "failures": [each._asdict() for each in reversed(service.observability.failures)],
        "actions": [each._asdict() for each in desk.acted],
    }


def lines(story: tuple[Line, ...]) -> list[Json]:
    """A story with the time of day."""
    offset_s = time.time() - asyncio.get_running_loop().time()  # noqa: TID251 - to be compared with log lines
    return [{"at_wall": line.at + offset_s, "what": line.what} for line in story]


def worker(desk: Desk, wanted: WorkerId) -> Json | None:
    """One worker and its story, also of one that is gone; None if nothing is known of it."""
    story = lines(desk.service.pool.story(wanted))
    for row in desk.service.pool.snapshot():
        for each in row.each:
            if each.worker == wanted:
                return _worker(desk.service, each) | {"story": story}
    return {"worker": str(wanted), "profile": wanted.profile, "state": "gone", "story": story} if story else None


def tickets(desk: Desk) -> list[Json]:
    """Open tickets, the oldest first."""
    rows = desk.service.scheduler.tickets(MAX_ROWS)
    return [row._asdict() | {"worker": str(row.worker) if row.worker else None} for row in rows]


def ticket(desk: Desk, wanted: str) -> Json | None:
    """One ticket's story, by the id of its request; None if it is not remembered."""
    story = desk.service.scheduler.story(wanted)
    return story._asdict() | {"lines": lines(story.lines)} if story is not None else None


# --- the parts ---------------------------------------------------------------------------------------------------


def _service(desk: Desk) -> Json:
    service = desk.service
    scheduler = service.scheduler
    state = "serving"
    if scheduler.is_draining:
        state = "paused" if scheduler.is_paused else "stopping"
    return {
        "version": __version__,
        "pid": os.getpid(),
        "uptime_s": round(time.monotonic() - desk.began_at, 1),
        "now_wall": time.time(),  # noqa: TID251 - what is shown has the time of day
        "state": state,
        "readiness": readiness(service),
        "configuration": {"generation": desk.reloader.generation, "by_hand": list(desk.reloader.by_hand)},
        "store": service.store.snapshot()._asdict(),
        "last_exit": service.observability.last_exit,
    }


def _maintenance(service: Service) -> Json:
    state = service.maintenance.state
    notice = state.notice.model_dump() if state.notice is not None else {}
    return {"on": state.notice is not None, "source": state.source, "by": state.by} | notice


def _profile(service: Service, row: ProfileSnapshot, queue: QueueSnapshot | None) -> Json:
    settings = service.current.settings.profiles.get(row.profile)
    return {
        "profile": row.profile,
        "required": settings is not None and settings.required,
        "removed": settings is None,
        "default_model": settings.default_model if settings is not None else None,
        "version": service.observability.versions.get(row.profile),
        "states": {state: row.workers[state] for state in WorkerState if row.workers[state]},
        "seats": row.seats,
        "seats_free": row.free,
        "leased": row.leased,
        "breaker_open": row.is_broken,
        "panicking": row.is_panicking,
        "outdated": row.outdated,
        "boots": row.boots,
        "last_failure": row.last_failure,
        "queue": _queue(queue) if queue is not None else None,
        "limits": {name: getattr(settings, name) for name in PROFILE_FIELDS} if settings is not None else {},
        "workers": [_worker(service, each) for each in sorted(row.each)[:MAX_ROWS]],
    }


def _queue(row: QueueSnapshot) -> Json:
    return {
        "waiting": row.waiting,
        "running": row.running,
        "by_priority": dict(row.by_priority),
        "oldest_wait_s": round(row.oldest_wait_s, 3),
        "predicted_wait_s": round(row.predicted_wait_s, 3),
        "turn_s": round(row.hold_s, 3),
        "seats_limit": row.limit,
        "overloaded": row.is_overloaded,
        "retry_tokens": round(row.retry_tokens, 2),
        "marked": row.marked,
    }


def _worker(service: Service, row: Any) -> Json:
    return {
        "worker": str(row.worker),
        "profile": row.worker.profile,
        "state": str(row.state),
        "turns_now": row.leases,
        "turns": row.turns,
        "rss_bytes": row.rss_bytes,
        "version": service.pool.version(row.worker),
        "reason": row.reason,
    }


def _wait(row: TenantRow) -> Json:
    return row._asdict() | {"priority": str(row.priority), "oldest_wait_s": round(row.oldest_wait_s, 3)}


def _key(service: Service, key: KeySettings, running: Counter[str]) -> Json:
    tenant = service.current.keyring.named(key.name)
    now = asyncio.get_running_loop().time()
    allowances = {"requests": tenant and tenant.requests, "tokens": tenant and tenant.tokens}
    return {
        "key": key.name,
        "priority": key.priority,
        "expires": key.expires.isoformat() if key.expires is not None else None,
        "limits": {name: getattr(key, name) for name in KEY_FIELDS},
        "remaining": {what: each.remaining(now) if each else None for what, each in allowances.items()},
        "running": running[key.name],
    }


def _models(service: Service) -> list[Json]:
    settings = service.current.settings.models
    rows = []
    for name, shares, fallback in service.current.routes.led():
        own = settings.get(name)
        targets = [
            {"profile": target.profile, "model": target.model, "share": round(share, 4)} for share, target in shares
        ]
        weights = [
            {"profile": each.profile, "model": each.model, "weight": each.weight}
            for each in (own.targets if own else ())
        ]
        rows.append({"model": name, "targets": targets, "fallback": fallback, "weights": weights})
    return rows

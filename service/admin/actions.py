"""What operators can do: one table, for the API, the page and the documentation."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pool.errors import ConfigurationError
from pool.stimuli import Command
from pool.worker import LaunchSpec
from pool.worker_state import WorkerId
from service.admin.access import Access
from service.api.errors import ApiError, invalid
from service.recent import Acted
from service.reload import Change, Reloader
from service.settings import Settings, changed
from service.state import Service

REMEMBERED = 50
MAX_TOLD_CHARS = 300
"""Of what was said with an action, in the audit log."""

PROFILE_FIELDS = (
    *("workers", "slots", "spares", "seats_limit", "aimd"),
    *("queue_max", "queue_budget_s", "queue_share", "codel_target_s"),
)
KEY_FIELDS = ("requests_per_minute", "tokens_per_minute", "weight", "seats", "queue_max", "max_deadline_s")
MODEL_FIELDS = ("weights",)

Values = Mapping[str, Any]
"""What is said with an action: JSON, or the fields of a form."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What operators work with."""

    service: Service
    reloader: Reloader[LaunchSpec]
    access: Access = field(default_factory=Access)
    acted: deque[Acted] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    began_at: float = field(default_factory=time.monotonic)


class Actor(NamedTuple):
    """Who acts, and from where."""

    name: str
    remote: str


class Action(NamedTuple):
    """One thing that can be done. `grave` ones are asked about on the page before they are done."""

    name: str
    method: str
    path: str
    text: str
    do: Callable[[Desk, Actor, str, Values], Awaitable[str]]
    fields: tuple[str, ...] = ()
    is_grave: bool = False


async def act(desk: Desk, actor: Actor, action: Action, target: str, values: Values) -> str:
    """Do it, and keep account of it, whatever comes of it. Returns what came of it, in a sentence.

    Raises:
        ApiError: why it was not done.
    """
    outcome = "interrupted"
    told = ""
    try:
        unknown = next((name for name in values if name not in action.fields), None)
        if unknown is not None:
            fields = f"there are: {', '.join(action.fields)}" if action.fields else "there are none"
            raise invalid(f"unknown field {unknown[:50]!r}; {fields}", unknown[:50])
        told = await action.do(desk, actor, target, values)
        outcome = "done"
    except ApiError as error:
        outcome, told = error.code, error.message
        raise
    finally:
        said = {name: str(value)[:MAX_TOLD_CHARS] for name, value in values.items() if name in action.fields}
        now_wall = time.time()  # noqa: TID251 - an audit has the time of day
        acted = Acted(now_wall, actor.name, actor.remote, action.name, target[:200], outcome, told[:MAX_TOLD_CHARS])
        desk.acted.appendleft(acted)
        desk.service.observability.operator_acted(acted, said)
    return told


def _no(status: int, code: str, message: str) -> ApiError:
    return ApiError(status=status, message=message, type="invalid_request_error", code=code)


# --- the service -------------------------------------------------------------------------------------------------


async def _begin_maintenance(desk: Desk, actor: Actor, _target: str, values: Values) -> str:
    given = {name: value for name, value in values.items() if value is not None}
    try:
        is_kept = await desk.service.maintenance.begin(by=actor.name, **given)
    except ValueError as error:
        raise invalid(str(error), None) from None
    return "maintenance is on" + ("" if is_kept else ", and does not survive a restart: its file cannot be written")


async def _end_maintenance(desk: Desk, _actor: Actor, _target: str, _values: Values) -> str:
    maintenance = desk.service.maintenance
    if maintenance.notice is None:
        raise _no(409, "wrong_state", "maintenance is off")
    is_kept = await maintenance.end()
    if maintenance.notice is not None:
        raise _no(409, "wrong_state", "maintenance is on by the configuration: change maintenance.on, and reload")
    return "maintenance is off" + ("" if is_kept else ", and on again after a restart: its file cannot be removed")


async def _pause(desk: Desk, _actor: Actor, _target: str, _values: Values) -> str:
    scheduler = desk.service.scheduler
    if scheduler.is_draining:
        why = "it is paused already" if scheduler.is_paused else "the service is stopping"
        raise _no(409, "wrong_state", why)
    scheduler.pause()
    return "no new work is taken; what waits and what runs goes on"


async def _resume(desk: Desk, _actor: Actor, _target: str, _values: Values) -> str:
    scheduler = desk.service.scheduler
    if not scheduler.is_paused:
        raise _no(409, "wrong_state", "the service is stopping" if scheduler.is_draining else "it is not paused")
    scheduler.resume()
    return "new work is taken"


async def _reload(desk: Desk, _actor: Actor, _target: str, _values: Values) -> str:
    return await _reloaded(desk, None)


async def _reloaded(desk: Desk, change: Change | None) -> str:
    done = await desk.reloader.reload(change)
    if done.refusal is not None:
        raise _no(400, "configuration_refused", done.refusal)
    if not done.changed:
        return "nothing has changed"
    what = "changed: " + ", ".join(sorted(done.changed))
    return what + (f"; workers are being replaced: {', '.join(sorted(done.replaced))}" if done.replaced else "")


# --- workers -----------------------------------------------------------------------------------------------------


def worker_id(text: str) -> WorkerId:
    """The worker that is meant.

    Raises:
        ApiError: that is no worker's name.
    """
    profile, _, place = text.rpartition("/")
    slot, _, epoch = place.partition(".")
    if not profile or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in (slot, epoch)):
        raise invalid("a worker is named PROFILE/SLOT.EPOCH, such as default/0.1", "worker")
    return WorkerId(profile, int(slot), int(epoch))


def _command(command: Command) -> Callable[[Desk, Actor, str, Values], Awaitable[str]]:
    async def do(desk: Desk, _actor: Actor, target: str, _values: Values) -> str:
        worker = worker_id(target)
        try:
            objection = desk.service.pool.command(worker, command)
        except KeyError:
            raise no_worker(desk, worker) from None
        if objection is not None:
            raise _no(409, "wrong_state", f"{command} of {worker}: {objection}")
        return f"{command} of {worker} has begun"

    return do


def no_worker(desk: Desk, worker: WorkerId) -> ApiError:
    """404, with those that there are on its place."""
    rows = (each for row in desk.service.pool.snapshot() if row.profile == worker.profile for each in row.each)
    there = ", ".join(str(row.worker) for row in rows if row.worker.slot == worker.slot)
    return _no(404, "worker_not_found", f"there is no worker {worker}" + (f"; there is {there}" if there else ""))


# --- limits ------------------------------------------------------------------------------------------------------


async def _change_profile(desk: Desk, _actor: Actor, target: str, values: Values) -> str:
    if target not in desk.service.current.settings.profiles:
        raise _no(404, "profile_not_found", f"there is no profile {target[:100]!r}")
    return await _reloaded(desk, lambda settings: changed(settings, {"profiles": {target: dict(values)}}))


async def _change_key(desk: Desk, _actor: Actor, target: str, values: Values) -> str:
    def change(settings: Settings) -> Settings:
        keys = [key.model_dump(exclude_unset=True) for key in settings.keys]
        if all(key["name"] != target for key in keys):
            raise ConfigurationError(f"there is no key {target!r} any more")
        return changed(settings, {"keys": [key | dict(values) if key["name"] == target else key for key in keys]})

    if all(key.name != target for key in desk.service.current.settings.keys):
        raise _no(404, "key_not_found", f"there is no key {target[:100]!r} in [[keys]]: others have no limits")
    return await _reloaded(desk, change)


async def _change_model(desk: Desk, _actor: Actor, target: str, values: Values) -> str:
    weights = values.get("weights")
    route = desk.service.current.settings.models.get(target)
    if route is None:
        raise _no(404, "model_not_found", f"there is no model {target[:100]!r}; aliases have no weights of their own")
    if not route.targets:
        raise _no(409, "wrong_state", f"{target} leads to one profile only: it has no targets")
    if not isinstance(weights, list) or len(weights) != len(route.targets):
        raise invalid(f"weights has to be a list of {len(route.targets)}, one for each target in its order", "weights")

    def change(settings: Settings) -> Settings:
        each = settings.models[target].targets if target in settings.models else ()
        if len(each) != len(weights):
            raise ConfigurationError(f"{target} has other targets meanwhile")
        targets = [
            one.model_dump(exclude_unset=True) | {"weight": weight} for one, weight in zip(each, weights, strict=True)
        ]
        return changed(settings, {"models": {target: {"targets": targets}}})

    return await _reloaded(desk, change)


_WORKER = "/admin/api/workers/{target:[^/]+/[^/]+}"

ACTIONS: dict[str, Action] = {
    action.name: action
    for action in (
        Action(
            "maintenance.begin",
            "PUT",
            "/admin/api/maintenance",
            "refuse requests with a message; survives a restart",
            _begin_maintenance,
            ("message", "retry_after_s", "routes"),
            is_grave=True,
        ),
        Action("maintenance.end", "DELETE", "/admin/api/maintenance", "serve again", _end_maintenance),
        Action(
            "service.pause",
            "PUT",
            "/admin/api/pause",
            "drain: take no new work and be unready, until resumed; what waits and runs goes on",
            _pause,
            is_grave=True,
        ),
        Action("service.resume", "DELETE", "/admin/api/pause", "take new work again", _resume),
        Action("service.reload", "POST", "/admin/api/reload", "read the configuration again, as SIGHUP does", _reload),
        Action(
            "worker.quarantine",
            "POST",
            f"{_WORKER}/quarantine",
            "no new turns, a successor at once; its turns end, or begin anew elsewhere",
            _command(Command.QUARANTINE),
            is_grave=True,
        ),
        Action(
            "worker.retire",
            "POST",
            f"{_WORKER}/retire",
            "a successor first, then no new turns; its turns end",
            _command(Command.RETIRE),
        ),
        Action(
            "worker.restart",
            "POST",
            f"{_WORKER}/restart",
            "now: its turns begin anew elsewhere where nothing was seen of them, and fail where something was",
            _command(Command.RESTART),
            is_grave=True,
        ),
        Action(
            "profile.change",
            "PATCH",
            "/admin/api/profiles/{target:[^/]+}",
            "other limits of a profile, until the next reload",
            _change_profile,
            PROFILE_FIELDS,
        ),
        Action(
            "key.change",
            "PATCH",
            "/admin/api/keys/{target:[^/]+}",
            "another contract of a key, until the next reload",
            _change_key,
            KEY_FIELDS,
        ),
        Action(
            "model.change",
            "PATCH",
            "/admin/api/models/{target:.+}",
            "other weights of a model's targets, until the next reload",
            _change_model,
            MODEL_FIELDS,
        ),
    )
}

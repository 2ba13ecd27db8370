"""The operators' page: rendered here, refreshed by a small script, and whole without it. Signed in by a cookie."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from multidict import MultiDictProxy

from service.admin import overview
from service.admin.access import Session
from service.admin.actions import ACTIONS, Actor, act, no_worker, worker_id
from service.admin.api import DESK, no_ticket, refused, remote
from service.api.errors import ApiError, invalid
from service.settings import KeySettings, ProfileSettings

COOKIE = "codex_completions_admin"
HERE = Path(__file__).parent
STATIC = {"admin.css": "text/css", "admin.js": "text/javascript", "icon.svg": "image/svg+xml"}
_LISTS = frozenset({"weights", "routes"})
"""Fields of forms that are lists."""

Page = Callable[[web.Request, Session], Awaitable[web.StreamResponse]]


def routes() -> list[web.RouteDef]:
    """All pages."""
    return [
        web.get("/", _home),
        web.get("/admin", _home),
        web.get("/admin/", _signed_in(_overview)),
        web.get("/admin/login", _login_form),
        web.post("/admin/login", _login),
        web.post("/admin/logout", _signed_in(_logout)),
        web.post("/admin/act", _signed_in(_act)),
        web.get("/admin/maintenance", _signed_in(_maintenance)),
        web.get("/admin/tickets", _signed_in(_tickets)),
        web.get("/admin/tickets/{target:[^/]+}", _signed_in(_ticket)),
        web.get("/admin/workers/{target:[^/]+/[^/]+}", _signed_in(_worker)),
        web.get("/admin/profiles/{target:[^/]+}", _signed_in(_profile)),
        web.get("/admin/keys/{target:[^/]+}", _signed_in(_key)),
        web.get("/admin/models/{target:.+}", _signed_in(_model)),
        web.get("/admin/static/{name}", _static),
    ]


# --- rendering ---------------------------------------------------------------------------------------------------


def _clock(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%H:%M:%S")


def _iso(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds")


def _seconds(value: float) -> str:
    """So long, as somebody reads it who is in a hurry."""
    if value < 10:
        return f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    minutes = int(value // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _mebibytes(value: int) -> str:
    return f"{value / 2**20:.0f} MiB" if value else "unknown"


_TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {
    "clock": _clock,
    "iso": _iso,
    "seconds": _seconds,
    "mebibytes": _mebibytes,
    "grouped": lambda number: f"{number:,}",
    "path": lambda text: quote(text, safe="/"),
}


def _page(
    request: web.Request, name: str, session: Session | None, *, status: int = 200, **values: Any
) -> web.Response:
    flashes: list[tuple[str, str]] = []
    if session is not None and "X-Refresh" not in request.headers:
        flashes, session.flash = session.flash, []
    text = _TEMPLATES.get_template(name).render(session=session, flashes=flashes, actions=ACTIONS, **values)
    return web.Response(text=text, status=status, content_type="text/html")


def error_page(request: web.Request, error: ApiError) -> web.Response:
    """What went wrong, and the way back."""
    page = _page(request, "error.html", _session(request), status=error.status, error=error)
    page.headers.update(error.all_headers())
    if error.status == 401:
        del page.headers["WWW-Authenticate"]  # a browser would ask by itself, for what it cannot use
    return page


# --- signing in --------------------------------------------------------------------------------------------------


def _session(request: web.Request) -> Session | None:
    desk = request.app[DESK]
    token = request.cookies.get(COOKIE, "")
    now = asyncio.get_running_loop().time()
    return desk.access.session(desk.service.current.settings.admin, token, now) if token else None


def _signed_in(page: Page) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        session = _session(request)
        if session is None:
            raise web.HTTPSeeOther("/admin/login")
        return await page(request, session)

    return handle


async def _home(_request: web.Request) -> web.Response:
    raise web.HTTPSeeOther("/admin/")


async def _login_form(request: web.Request) -> web.Response:
    return _page(request, "login.html", None, wrong="")


async def _login(request: web.Request) -> web.Response:
    desk = request.app[DESK]
    settings = desk.service.current.settings.admin
    found = desk.access.operator(settings, _text(await request.post(), "key").strip())
    if found is None:
        error = refused(request, "page")
        return _page(request, "login.html", None, status=error.status, wrong=error.message)
    name, digest = found
    token = desk.access.sign_in(settings, name, digest, asyncio.get_running_loop().time())
    response = web.Response(status=303, headers={"Location": "/admin/"})
    is_secure = request.secure or request.headers.get("X-Forwarded-Proto") == "https"
    response.set_cookie(COOKIE, token, path="/admin", httponly=True, samesite="Strict", secure=is_secure)
    return response


async def _logout(request: web.Request, session: Session) -> web.Response:
    _check_form(await request.post(), session)
    request.app[DESK].access.sign_out(request.cookies[COOKIE])
    response = web.Response(status=303, headers={"Location": "/admin/login"})
    response.del_cookie(COOKIE, path="/admin")
    return response


def _check_form(form: MultiDictProxy[Any], session: Session) -> None:
    """The form is one of ours.

    Raises:
        ApiError: 403.
    """
    if not hmac.compare_digest(_text(form, "csrf").encode(), session.csrf.encode()):
        raise ApiError(
            status=403,
            message="this form is not of your session: go back, and load the page again",
            type="invalid_request_error",
            code="foreign_form",
        )


def _text(form: MultiDictProxy[Any], name: str) -> str:
    value = form.get(name, "")
    return value if isinstance(value, str) else ""


# --- pages -------------------------------------------------------------------------------------------------------


async def _overview(request: web.Request, session: Session) -> web.Response:
    return _page(request, "overview.html", session, now=overview.overview(request.app[DESK]))


async def _maintenance(request: web.Request, session: Session) -> web.Response:
    service = request.app[DESK].service
    now = overview.overview(request.app[DESK])["maintenance"]
    return _page(request, "maintenance.html", session, now=now, usual=service.current.settings.maintenance)


async def _tickets(request: web.Request, session: Session) -> web.Response:
    wanted = request.query.get("id")
    if wanted:
        raise web.HTTPSeeOther(f"/admin/tickets/{quote(wanted[:200], safe='')}")
    return _page(request, "tickets.html", session, tickets=overview.tickets(request.app[DESK]))


async def _ticket(request: web.Request, session: Session) -> web.Response:
    found = overview.ticket(request.app[DESK], request.match_info["target"])
    if found is None:
        raise no_ticket()
    return _page(request, "ticket.html", session, ticket=found)


async def _worker(request: web.Request, session: Session) -> web.Response:
    desk = request.app[DESK]
    wanted = worker_id(request.match_info["target"])
    found = overview.worker(desk, wanted)
    if found is None:
        raise no_worker(desk, wanted)
    commands = [ACTIONS[f"worker.{name}"] for name in ("retire", "quarantine", "restart")]
    return _page(request, "worker.html", session, worker=found, commands=commands)


async def _profile(request: web.Request, session: Session) -> web.Response:
    return _limits(request, session, "profiles", "profile.change", ProfileSettings)


async def _key(request: web.Request, session: Session) -> web.Response:
    return _limits(request, session, "keys", "key.change", KeySettings)


def _limits(
    request: web.Request, session: Session, kind: str, action: str, model: type[ProfileSettings | KeySettings]
) -> web.Response:
    """The form that changes the limits of one thing."""
    name, title = request.match_info["target"], kind.removesuffix("s")
    rows = overview.overview(request.app[DESK])[kind]
    found = next((row for row in rows if row[title] == name), None)
    if found is None:
        raise ApiError(
            status=404,
            message=f"there is no {title} {name[:100]!r}",
            type="invalid_request_error",
            code=f"{title}_not_found",
        )
    fields = [
        {"name": each, "value": found["limits"][each], "hint": model.model_fields[each].description}
        for each in ACTIONS[action].fields
        if each in found["limits"]
    ]
    return _page(request, "limits.html", session, title=title, target=name, fields=fields, action=ACTIONS[action])


async def _model(request: web.Request, session: Session) -> web.Response:
    name = request.match_info["target"]
    rows = overview.overview(request.app[DESK])["models"]
    found = next((row for row in rows if row["model"] == name), None)
    if found is None:
        raise ApiError(
            status=404, message="there is no such model", type="invalid_request_error", code="model_not_found"
        )
    return _page(request, "model.html", session, row=found, action=ACTIONS["model.change"])


async def _static(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    if name not in STATIC:
        raise web.HTTPNotFound
    body = (HERE / "static" / name).read_bytes()  # a few KiB that the kernel has in memory
    return web.Response(body=body, content_type=STATIC[name], headers={"Cache-Control": "max-age=60"})


# --- actions -----------------------------------------------------------------------------------------------------


async def _act(request: web.Request, session: Session) -> web.Response:
    """Do what a form says; one of the grave ones is asked about first."""
    form = await request.post()
    _check_form(form, session)
    action = ACTIONS.get(_text(form, "action"))
    if action is None:
        raise invalid("there is no such action", "action")
    target, back = _text(form, "target"), _text(form, "back")
    back = back if back.startswith("/admin/") else "/admin/"
    if action.is_grave and not _text(form, "confirmed"):
        said = [(name, value) for name, value in form.items() if name in action.fields and isinstance(value, str)]
        return _page(request, "confirm.html", session, action=action, target=target, back=back, said=said)
    try:
        told = await act(request.app[DESK], Actor(session.name, remote(request)), action, target, _values(form))
    except ApiError as error:
        session.flash.append(("error", f"Not done: {error.message}."))
    else:
        session.flash.append(("done", f"{told[0].upper()}{told[1:]}."))
    return web.Response(status=303, headers={"Location": back})


_OF_FORMS = frozenset({"csrf", "action", "target", "back", "confirmed"})


def _values(form: MultiDictProxy[Any]) -> dict[str, Any]:
    """What a form says of an action: an empty field is none."""
    values: dict[str, Any] = {}
    for name in dict.fromkeys(name for name in form if name not in _OF_FORMS):
        given = [value for value in form.getall(name) if isinstance(value, str)]
        if name in _LISTS:
            values[name] = [part for value in given for part in value.split()]
        else:
            values[name] = given[-1].strip() or None if given else None
    return values

"""Web pages may use the API from the origins that were let in, and read every answer of it, errors included."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from service.cors import Cors
from service.settings import ServerSettings
from tests.service.conftest import Log
from tests.support.services import AUTHORIZED, JSON_BODY, RunningService, running_service, scripted

CHAT = "/v1/chat/completions"
NAMED, OTHER, DESKTOP = "https://a.example", "https://evil.example", "app://obsidian.md"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-custom"}


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[RunningService]:
    """Two origins are let in."""
    async with running_service(tmp_path, server={"cors_origins": [NAMED, DESKTOP]}) as running:
        yield running


def from_page(origin: str) -> dict[str, str]:
    return {"Origin": origin}


def of_cors(headers: Mapping[str, str]) -> dict[str, str]:
    """What the browser looks at."""
    return {name: value for name, value in headers.items() if name.startswith("Access-Control-") or name == "Vary"}


@pytest.mark.parametrize("origin", [NAMED, DESKTOP])
async def test_a_preflight_needs_no_key_and_grants_what_the_browser_asks_for(
    guarded: RunningService, origin: str
) -> None:
    for path in (CHAT, "/v1/models", "/v1/models/codex-5"):
        answer = await guarded.call("OPTIONS", path, headers=from_page(origin) | PREFLIGHT)
        assert (answer.status, answer.raw) == (204, b"")
        told = of_cors(answer.headers)
        assert "x-request-id" in told.pop("Access-Control-Expose-Headers")
        assert told == {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Allow-Methods": "GET, POST, DELETE, HEAD, OPTIONS",
            "Access-Control-Allow-Headers": "authorization,x-custom",
            "Access-Control-Max-Age": "600",
            "Vary": "Origin, Access-Control-Request-Headers, Access-Control-Request-Method",
        }


async def test_a_page_that_is_not_let_in_is_told_nothing_but_that_it_depends_on_the_origin(
    guarded: RunningService,
) -> None:
    preflight = await guarded.call("OPTIONS", CHAT, headers=from_page(OTHER) | PREFLIGHT)
    assert preflight.status == 204
    assert of_cors(preflight.headers).keys() == {"Vary"}
    for headers in (from_page(OTHER), {}):
        answer = await guarded.get("/v1/models", headers=headers)
        assert answer.status == 200
        assert of_cors(answer.headers) == {"Vary": "Origin"}, "a cache would give it to the page that is let in"


async def test_everybody_is_let_in_by_default_but_without_credentials(api: RunningService) -> None:
    for origin in (OTHER, DESKTOP, "null"):
        told = of_cors((await api.get("/v1/models", headers=from_page(origin))).headers)
        assert told["Access-Control-Allow-Origin"] == origin
        assert "Access-Control-Allow-Credentials" not in told
        assert told["Vary"] == "Origin"
    told = of_cors((await api.get("/v1/models")).headers)
    assert (told["Access-Control-Allow-Origin"], told["Vary"]) == ("*", "Origin")
    preflight = await api.call("OPTIONS", CHAT)
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]


async def test_errors_and_streams_can_be_read_too(guarded: RunningService) -> None:
    page = from_page(NAMED)
    answers = [
        await guarded.call("POST", CHAT, headers=page),
        await guarded.post(b"not JSON", headers=page),
        await guarded.get("/v1/nowhere", headers=page),
        await guarded.call("PUT", CHAT, headers=page),
        await guarded.call("POST", CHAT, headers=page | AUTHORIZED | JSON_BODY | {"Expect": "a miracle"}),
        await guarded.chat(scripted(status=500, error={"message": "no", "code": "no"}), headers=page),
        await guarded.chat(headers=page),
        await guarded.chat(headers=page, stream=True),
    ]
    assert [answer.status for answer in answers] == [401, 400, 404, 405, 417, 502, 200, 200]
    for answer in answers:
        told = of_cors(answer.headers)
        assert (told["Access-Control-Allow-Origin"], told["Vary"]) == (NAMED, "Origin")
        exposed = told["Access-Control-Expose-Headers"].lower().split(", ")
        assert {"x-request-id", "retry-after", "retry-after-ms", "x-ratelimit-remaining-requests"} <= set(exposed)
        assert "Access-Control-Allow-Methods" not in told


async def test_health_and_metrics_are_not_for_pages(api: RunningService) -> None:
    for path in ("/healthz", "/readyz", "/livez", "/metrics"):
        assert of_cors((await api.get(path, headers=from_page(OTHER))).headers) == {}
        assert (await api.call("OPTIONS", path, headers=from_page(OTHER) | PREFLIGHT)).status == 405


@pytest.mark.parametrize("server", [{"cors": False}, {"cors_origins": []}])
async def test_switched_off_it_leaves_no_trace(tmp_path: Path, server: dict[str, object]) -> None:
    async with running_service(tmp_path, server=server) as api:
        assert of_cors((await api.get("/v1/models", headers=from_page(NAMED))).headers) == {}
        answer = await api.call("OPTIONS", CHAT, headers=from_page(NAMED) | PREFLIGHT)
        assert (answer.status, answer.code) == (405, "method_not_allowed")
        await api.reload(server={"cors_origins": [NAMED]})
        assert (await api.call("OPTIONS", CHAT, headers=from_page(NAMED) | PREFLIGHT)).status == 204


async def test_a_preflight_is_counted_and_not_logged(api: RunningService, log: Log) -> None:
    before = api.counted("http_requests_total", route="OPTIONS", status="204")
    await api.call("OPTIONS", CHAT, headers=from_page(NAMED) | PREFLIGHT)
    await api.get("/v1/models")
    assert api.counted("http_requests_total", route="OPTIONS", status="204") == before + 1
    assert [line["route"] for line in log.of("request.answered")] == ["/v1/models"]


@pytest.mark.parametrize(
    ("configured", "origin", "is_let_in"),
    [
        ("https://A.example", "https://a.example", True),
        ("https://a.example", "http://a.example", False),
        ("https://a.example", "https://a.example:8443", False),
        ("https://a.example", "https://a.example.evil.example", False),
        ("https://a.example", "https://b.a.example", False),
        ("https://a.example:8443", "https://a.example:8443", True),
        ("capacitor://localhost", "capacitor://localhost", True),
        ("http://localhost", "http://localhost:5173", True),
        ("http://localhost:3000", "http://localhost:5173", True),
        ("http://localhost", "https://localhost", False),
        ("http://localhost", "http://localhost.evil.example", False),
        ("http://[::1]:80", "http://[::1]:5173", True),
        ("http://localhost", "http://[", False),
        ("app://obsidian.md", "null", False),
    ],
)
def test_an_origin_is_let_in_by_its_own_name(configured: str, origin: str, is_let_in: bool) -> None:
    cors = Cors.of(ServerSettings(cors_origins=(configured,)))
    assert cors is not None
    assert cors.lets_in(origin) is is_let_in

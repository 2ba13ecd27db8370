"""The operators' page without a browser: who sees it, what its forms do, and that nothing in it is anybody else's."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest

from service.admin.pages import COOKIE
from tests.support.operating import ADMIN_KEY, Operating, flashed, form_of, operating
from tests.support.services import KEY, key, scripted, until

SLOW = scripted(chunks=["tick "], repeat=100_000, interval_s=0.01)
ALICE = "alices-key-0123456789-abcdef"
STYLE = Path(__file__).parents[3] / "service/admin/static/admin.css"
PAGES = ("/admin/", "/admin/tickets", "/admin/maintenance", "/admin/profiles/default", "/admin/workers/default/0.1")


# --- signing in ---------------------------------------------------------------------------------------------------


async def test_nobody_sees_anything_without_a_key(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna:
        for path in (*PAGES, "/", "/admin"):
            page = await anna.page(path)
            assert "<title>Sign in" in page
            assert "default" not in page
        assert await anna.sign_in(KEY) == 401
        assert "<title>Sign in" in await anna.page()
        assert await anna.sign_in() == 200
        assert "Signed in as anna" in await anna.page()


async def test_the_cookie_is_kept_from_scripts_and_other_sites_and_is_not_the_key(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna:
        for headers, is_secure in (({}, False), ({"X-Forwarded-Proto": "https"}, True)):
            async with anna.browser.post(
                f"{anna.base_url}/admin/login", data={"key": ADMIN_KEY}, headers=headers, allow_redirects=False
            ) as response:
                said = response.headers["Set-Cookie"]
                assert response.status == 303
            assert said.startswith(f"{COOKIE}=")
            assert "HttpOnly" in said
            assert "SameSite=Strict" in said
            assert "Path=/admin" in said
            assert ("Secure" in said) is is_secure
            assert ADMIN_KEY not in said


async def test_who_signs_out_is_out_also_with_the_old_cookie(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna:
        await anna.sign_in()
        page = await anna.page()
        (old,) = [cookie.value for cookie in anna.browser.cookie_jar if cookie.key == COOKIE]
        csrf = form_of(page, "service.reload")["csrf"]
        async with anna.browser.post(f"{anna.base_url}/admin/logout", data={"csrf": csrf}) as response:
            assert "<title>Sign in" in await response.text()
        url = f"{anna.base_url}/admin/"
        async with aiohttp.ClientSession(cookies={COOKIE: old}) as thief, thief.get(url) as response:
            assert "<title>Sign in" in await response.text()


@pytest.mark.parametrize("csrf", ["", "wrong", None])
async def test_a_form_of_another_site_does_nothing(tmp_path: Path, csrf: str | None) -> None:
    async with operating(tmp_path) as anna:
        await anna.sign_in()
        said = {"action": "service.pause", "confirmed": "yes"} | ({} if csrf is None else {"csrf": csrf})
        for path in ("/admin/act", "/admin/logout"):
            async with anna.browser.post(anna.base_url + path, data=said) as response:
                assert response.status == 403
                assert "not of your session" in await response.text()
        assert not anna.api.service.scheduler.is_draining
        assert "Signed in as anna" in await anna.page()


async def test_everything_is_told_not_to_be_kept_framed_or_mixed_with_others(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna:
        await anna.sign_in()
        for path in (*PAGES, "/admin/nothing"):
            async with anna.browser.get(anna.base_url + path) as response:
                assert response.headers["Cache-Control"] == "no-store"
                policy = response.headers["Content-Security-Policy"]
                assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(policy.split("; "))
                assert "unsafe" not in policy
                page = await response.text()
            assert not re.search(r"<script(?! src)|<style|style=|\son\w+=", page), "nothing inline"
            assert "://" not in page


# --- what it shows ------------------------------------------------------------------------------------------------


async def test_the_overview_shows_what_the_api_tells(tmp_path: Path) -> None:
    keys = [key("alice", ALICE, requests_per_minute=10)]
    models = {"m": {"targets": [{"profile": "default", "weight": 1}], "aliases": ["n"]}, "codex-5": {}}
    async with operating(tmp_path, keys=keys, models=models) as anna:
        await anna.sign_in()
        running = await anna.api.begin(SLOW, model="m", key=ALICE)
        failed = await anna.api.chat(scripted(status=500))
        page = await anna.page()
        for shown in ("default/0.1", "alice", "9 of 10", failed.headers["x-request-id"], "100 % to default", " of 4"):
            assert shown in page, shown
        ticket = await anna.page(f"/admin/tickets/{failed.headers['x-request-id']}")
        assert "failed: upstream_error" in ticket
        assert "a seat on default/0.1" in await anna.page(f"/admin/tickets?id={running.headers['x-request-id']}")
        assert "There is no worker default/0.9" in await anna.page("/admin/workers/default/0.9", 404)
        for path in ("/admin/profiles/x", "/admin/keys/x", "/admin/models/x", "/admin/tickets/x", "/admin/static/x"):
            assert "<h1>Not found</h1>" in await anna.page(path, 404)
        running.close()


class _Tables(HTMLParser):
    """What a screen reader needs of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.unlabelled: list[str] = []
        self.tables = self.captions = self.mains = 0
        self._labels: set[str] = set()
        self._fields: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        self.tables += tag == "table"
        self.captions += tag == "caption"
        self.mains += tag == "main"
        if re.fullmatch(r"h\d", tag):
            self.levels.append(int(tag[1]))
        if tag == "label":
            self._labels.add(str(said.get("for")))
        if tag in ("input", "select", "textarea") and said.get("type") != "hidden":
            self._fields.append((tag, said))
        if tag == "th":
            assert said.get("scope") in ("col", "row")

    @classmethod
    def of(cls, page: str) -> _Tables:
        tables = cls()
        tables.feed(page)
        tables.unlabelled = [str(said) for _, said in tables._fields if said.get("id") not in tables._labels]
        return tables


async def test_every_page_has_landmarks_headings_captions_and_labels(tmp_path: Path) -> None:
    keys = [key("alice", ALICE)]
    targets = {"m": {"targets": [{"profile": "default"}]}, "codex-5": {}}
    async with operating(tmp_path, keys=keys, models=targets) as anna:
        login = await anna.page("/admin/login")
        await anna.sign_in()
        await anna.api.chat(scripted(status=500))
        for page in [login, *[await anna.page(path) for path in (*PAGES, "/admin/keys/alice", "/admin/models/m")]]:
            found = _Tables.of(page)
            assert found.mains == 1
            assert found.levels[0] == 1
            assert found.levels.count(1) == 1
            assert all(after <= before + 1 for before, after in pairwise(found.levels))
            assert found.tables == found.captions
            assert found.unlabelled == []
            assert '<html lang="en">' in page


# --- what it does -------------------------------------------------------------------------------------------------


async def test_a_grave_action_is_asked_about_and_done_once_that_is_confirmed(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna:
        await anna.sign_in()
        said = form_of(await anna.page(), "service.pause")
        async with anna.browser.post(f"{anna.base_url}/admin/act", data=said) as response:
            asked = await response.text()
        assert "Are you sure?" in asked
        assert not anna.api.service.scheduler.is_draining
        page = await anna.submit(asked, "service.pause")
        assert flashed(page) == "No new work is taken; what waits and what runs goes on."
        assert anna.api.service.scheduler.is_paused
        assert flashed(await anna.page()) == "", "told once"
        assert flashed(await anna.submit(page, "service.resume")) == "New work is taken."


async def test_maintenance_is_switched_by_forms(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna:
        await anna.sign_in()
        page = await anna.page("/admin/maintenance")
        words = 'back at <noon> & "later"'
        page = await anna.submit(page, "maintenance.begin", message=words, routes="/v1/chat  /v1/responses")
        assert flashed(page) == "Maintenance is on."
        assert (await anna.api.chat()).error["message"] == words
        assert "&lt;noon&gt;" in page
        wrong = await anna.submit(page, "maintenance.begin", routes="/metrics")
        assert flashed(wrong).startswith("Not done: routes.0: String should match pattern")
        assert flashed(await anna.submit(page, "maintenance.end")) == "Maintenance is off."
        assert (await anna.api.chat()).status == 200


async def test_limits_are_changed_by_forms(tmp_path: Path) -> None:
    keys = [key("alice", ALICE, seats=2, requests_per_minute=5)]
    targets = {"m": {"targets": [{"profile": "default"}, {"profile": "default", "model": "x"}]}}
    async with operating(tmp_path, keys=keys, models=targets) as anna:
        await anna.sign_in()
        page = await anna.submit(
            await anna.page("/admin/profiles/default"), "profile.change", queue_max="9", aimd="true"
        )
        assert flashed(page) == "Changed: profiles.default."
        await anna.submit(await anna.page("/admin/keys/alice"), "key.change", seats="", requests_per_minute="7")
        page = await anna.submit(await anna.page("/admin/models/m"), "model.change", weights=["0", "2.5"])
        assert flashed(page) == "Changed: models.m."
        now = anna.api.service.current.settings
        assert (now.profiles["default"].queue_max, now.profiles["default"].aimd) == (9, True)
        assert (now.keys[0].seats, now.keys[0].requests_per_minute) == (None, 7)
        assert [target.weight for target in now.models["m"].targets] == [0, 2.5]
        wrong = await anna.submit(page, "model.change", weights=["0", "0"])
        assert flashed(wrong) == "Not done: models.m: the weights of all targets are zero."


async def test_workers_are_commanded_by_forms(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna:
        await anna.sign_in()
        page = await anna.page("/admin/workers/default/0.1")
        assert flashed(await anna.submit(page, "worker.restart")) == "Restart of default/0.1 has begun."
        await until(lambda: anna.api.ready_workers == 1)
        page = await _until_gone(anna, "/admin/workers/default/0.1")
        assert "an operator restarted it" in page
        assert "worker.restart" not in page


async def _until_gone(anna: Operating, path: str) -> str:
    while ">gone<" not in (page := await anna.page(path)):
        pass
    return page


async def test_a_form_for_no_action_and_a_way_back_to_another_site_lead_nowhere(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna:
        await anna.sign_in()
        said = form_of(await anna.page(), "service.reload")
        for action, back, status in (("nothing", "", 400), ("service.reload", "https://evil.example/", 200)):
            data = said | {"action": action, "back": back}
            async with anna.browser.post(f"{anna.base_url}/admin/act", data=data) as response:
                assert response.status == status
                assert response.url.path in ("/admin/act", "/admin/")
                assert str(response.url).startswith(anna.base_url)


# --- colours ------------------------------------------------------------------------------------------------------

PAIRS = [
    *[(text, behind, 4.5) for text in ("text", "soft", "link") for behind in ("page", "card")],
    *[(f"on-{mood}", mood, 4.5) for mood in ("good", "calm", "warn", "bad", "button", "grave")],
    *[(line, behind, 3.0) for line in ("edge", "focus", "button", "grave") for behind in ("page", "card")],
]
"""What stands on what, and by how much it has to differ. Source: WCAG 2.2, 1.4.3 and 1.4.11."""


def schemes() -> dict[str, dict[str, str]]:
    """The colours of the light and of the dark scheme, by name."""
    light, dark = re.findall(r":root \{(.*?)\}", STYLE.read_text(), re.DOTALL)
    return {
        name: dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
        for name, block in (("light", light), ("dark", dark))
    }


def luminance(colour: str) -> float:
    """Source: WCAG 2.2, "relative luminance"."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("above", "behind", "least"), PAIRS)
def test_every_pair_of_colours_can_be_told_apart(scheme: str, above: str, behind: str, least: float) -> None:
    colours = schemes()[scheme]
    bright, dim = sorted((luminance(colours[above]), luminance(colours[behind])), reverse=True)
    assert (bright + 0.05) / (dim + 0.05) >= least


def test_there_are_no_colours_but_those() -> None:
    style = STYLE.read_text()
    colours = schemes()
    assert colours["light"].keys() == colours["dark"].keys()
    assert set(re.findall(r"var\(--([\w-]+)\)", style)) <= colours["light"].keys()
    assert len(re.findall(r"#[0-9a-fA-F]{3,8}\b", style)) == len(colours["light"]) * 2

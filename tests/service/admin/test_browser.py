"""The operators' page in a real browser: by keyboard, without scripts, while it changes, and for those who hear it."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe

from tests.support.browsing import Page, browsing
from tests.support.operating import ADMIN_KEY, Operating, operating
from tests.support.services import key, scripted, until

SLOW = scripted(chunks=["tick "], repeat=100_000, interval_s=0.01)
ALICE = "alices-key-0123456789-abcdef"
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
PATHS = (
    *("/admin/", "/admin/tickets", "/admin/maintenance", "/admin/profiles/default", "/admin/keys/alice"),
    *("/admin/models/m", "/admin/workers/default/0.1", "/admin/nothing"),
)


async def signed_in(page: Page, anna: Operating) -> None:
    """As somebody does who has no mouse."""
    await page.goto(f"{anna.base_url}/admin/")
    await page.keyboard.type(ADMIN_KEY)
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/admin/")


async def tab_to(page: Page, text: str) -> None:
    """Press Tab until this has the focus."""
    for _ in range(100):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.textContent.trim()") == text:
            return
    raise AssertionError(f"{text!r} cannot be reached by Tab")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
async def test_nobody_is_shut_out(tmp_path: Path, scheme: str, width: int) -> None:
    models = {"m": {"targets": [{"profile": "default"}]}, "codex-5": {}}
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    async with (
        operating(tmp_path, models=models, keys=[key("alice", ALICE)]) as anna,
        browsing(**options) as (context, wrong),
    ):
        running = await anna.api.begin(SLOW)
        await anna.api.chat(scripted(status=500))
        await anna.call("POST", "/admin/api/workers/default/0.9/restart")
        page = await context.new_page()
        await page.goto(f"{anna.base_url}/admin/login")
        found = {"/admin/login": await Axe().run(page, options=RULES)}
        await signed_in(page, anna)
        for path in PATHS:
            await page.goto(anna.base_url + path)
            found[path] = await Axe().run(page, options=RULES)
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} is too wide"
        report = {path: [each["id"] for each in done.response["violations"]] for path, done in found.items()}
        assert {path: broken for path, broken in report.items() if broken} == {}
        assert [line for line in wrong if "404" not in line] == []
        running.close()


async def test_all_is_done_with_the_keyboard_alone(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna, browsing() as (context, wrong):
        page = await context.new_page()
        await signed_in(page, anna)
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.textContent") == "Skip to the content"
        await tab_to(page, "Pause the service")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("h1:has-text('Are you sure?')")
        assert await page.evaluate("document.activeElement.textContent") == "No, go back", "Enter twice does no harm"
        await page.keyboard.press("Shift+Tab")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("[role=status]:has-text('No new work is taken')")
        assert anna.api.service.scheduler.is_paused
        await tab_to(page, "Resume the service")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("[role=status]:has-text('New work is taken')")
        assert wrong == []


async def test_what_changes_is_shown_in_place_and_takes_nobodys_focus(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna, browsing() as (context, wrong):
        page = await context.new_page()
        await signed_in(page, anna)
        await page.focus("text=default/0.1")
        await page.evaluate("window.wasNotLoadedAgain = true")
        running = await anna.api.begin(SLOW)
        await page.wait_for_selector("#profiles td:has-text('1 of 4')")
        await anna.call("POST", "/admin/api/workers/default/0.1/quarantine")
        await page.wait_for_selector("#workers tr:has-text('default/0.1'):has-text('quarantined')")
        await page.wait_for_selector("#workers tr:has-text('default/0.2'):has-text('ready')")
        assert await page.evaluate("document.activeElement.textContent") == "default/0.1"
        running.close()
        await page.wait_for_selector("#workers a:has-text('default/0.1')", state="detached")
        assert await page.evaluate("window.wasNotLoadedAgain")
        assert wrong == []


async def test_a_pause_of_updates_stops_them_and_their_silence_is_told(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna, browsing() as (context, _):
        page = await context.new_page()
        await signed_in(page, anna)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await page.click("text=Pause updates")
        await page.wait_for_timeout(4500)
        assert len(asked) <= 1, "at most the one that was under way"
        await page.route("**/admin/", lambda route: route.abort())
        await page.click("text=Go on with updates")
        await page.wait_for_selector("[role=status]:has-text('does not answer')")
        await page.unroute("**/admin/")
        await page.wait_for_selector("[role=status]:has-text('does not answer')", state="detached")


async def test_who_is_signed_out_meanwhile_is_led_to_the_door(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna, browsing() as (context, _):
        page = await context.new_page()
        await signed_in(page, anna)
        await context.clear_cookies()
        await page.wait_for_url("**/admin/login")
        assert await page.wait_for_selector("#key"), "where a key may be shown"


async def test_without_scripts_it_is_all_there(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna, browsing(java_script_enabled=False) as (context, _):
        page = await context.new_page()
        await page.goto(f"{anna.base_url}/admin/")
        await page.fill("#key", ADMIN_KEY)
        await page.click("text=Sign in >> nth=-1")
        running = await anna.api.begin(SLOW)
        await page.click("text=Refresh")
        assert await page.is_visible("#profiles td:has-text('1 of 4')")
        assert not await page.is_visible("text=Pause updates")
        await page.click("text=Maintenance...")
        await page.fill("#message", "moving house")
        await page.click("text=Switch maintenance on")
        await page.click("text=Yes, do it")
        assert await page.is_visible("text=Maintenance is on.")
        assert (await anna.api.chat()).error["message"] == "moving house"
        running.close()


async def test_a_reader_on_another_scheme_sees_another(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna:
        colours = set()
        for scheme in ("light", "dark"):
            async with browsing(color_scheme=scheme) as (context, _):
                page = await context.new_page()
                await page.goto(f"{anna.base_url}/admin/login")
                colours.add(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(colours) == 2


async def test_words_of_others_stay_words(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna, browsing() as (context, wrong):
        page = await context.new_page()
        await signed_in(page, anna)
        evil = '<img src=x onerror="window.stolen = 1"><script>window.stolen = 1</script>'
        await anna.call("PUT", "/admin/api/maintenance", json={"message": evil})
        await anna.call("POST", "/admin/api/reload", headers={"X-Forwarded-For": evil[:90]})
        await page.goto(f"{anna.base_url}/admin/maintenance")
        assert evil in await page.inner_text("main")
        await page.goto(f"{anna.base_url}/admin/")
        await until(lambda: anna.api.service.maintenance.notice is not None)
        assert await page.evaluate("window.stolen") is None
        assert wrong == []

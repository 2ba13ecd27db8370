"""A running service with its operators' side, and an operator."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any

import aiohttp

from service.admin.site import admin_site
from tests.support.services import WAIT_S, Answer, Json, RunningService, running_service

ADMIN_KEY = "annas-key-0123456789-abcdefgh"
AS_ANNA = {"Authorization": f"Bearer {ADMIN_KEY}"}


def admin_key(name: str, text: str) -> Json:
    """What would be configured for this operator."""
    return {"name": name, "sha256": hashlib.sha256(text.encode()).hexdigest()}


ADMIN: Json = {"port": 0, "keys": [admin_key("anna", ADMIN_KEY)]}


class Operating:
    """Anna, at her desk: by the API with her key, and by the page once she has signed in."""

    def __init__(self, api: RunningService, url: str, browser: aiohttp.ClientSession) -> None:
        self.api = api
        self.base_url = url.removesuffix("/admin/")
        self.browser = browser

    async def call(self, method: str, path: str, *, key: str = ADMIN_KEY, **options: Any) -> Answer:
        """By the API."""
        headers = {"Authorization": f"Bearer {key}"} | options.pop("headers", {})
        return await self.api.call(method, path, url=self.base_url + path, headers=headers, **options)

    async def status(self) -> Json:
        answer = await self.call("GET", "/admin/api/status")
        assert answer.status == 200, answer.raw
        return answer.json

    async def page(self, path: str = "/admin/", status: int = 200) -> str:
        """By the browser."""
        async with self.browser.get(self.base_url + path) as response:
            assert response.status == status, await response.text()
            return await response.text()

    async def sign_in(self, key: str = ADMIN_KEY) -> int:
        """The status of what follows."""
        async with self.browser.post(f"{self.base_url}/admin/login", data={"key": key}) as response:
            return response.status

    async def submit(self, page: str, action: str, **fields: Any) -> str:
        """Fill in the form of this action on the page, send it, and say yes where that is asked; what is shown then."""
        said = form_of(page, action) | fields
        while True:
            async with self.browser.post(f"{self.base_url}/admin/act", data=said) as response:
                shown = await response.text()
                assert response.status == 200, shown
            if "Are you sure?" not in shown:
                return shown
            said = form_of(shown, action)


def form_of(page: str, action: str) -> dict[str, Any]:
    """What the form of this action says when nothing is filled in."""
    for form in re.findall(r"<form(.*?)</form>", page, re.DOTALL):
        if f'name="action" value="{action}"' not in form:
            continue
        named = re.findall(r'<input[^>]*?name="([^"]*)"[^>]*?value="([^"]*)"', form)
        named += re.findall(r'<textarea[^>]*name="([^"]*)"[^>]*>(.*?)</textarea>', form, re.DOTALL)
        named += re.findall(r'<select[^>]*name="([^"]*)".*?value="([^"]*)" selected', form, re.DOTALL)
        said: dict[str, Any] = {}
        for name, value in named:
            text = unescape(value)
            said[name] = (
                [*said[name], text]
                if isinstance(said.get(name), list)
                else text
                if name not in said
                else [said[name], text]
            )
        return said
    raise AssertionError(f"there is no form for {action}")


def flashed(page: str) -> str:
    """What the page says that came of the last action."""
    found = re.findall(r'<p class="flash [^>]*>(.*?)</p>', page)
    return unescape(" ".join(found))


@asynccontextmanager
async def operating(tmp_path: Path, **tables: Any) -> AsyncIterator[Operating]:
    """A service with an operators' side; see `tests.support.services.settings`."""
    tables.setdefault("admin", ADMIN)
    jar = aiohttp.CookieJar(unsafe=True)
    async with (
        running_service(tmp_path, **tables) as api,
        admin_site(api.service, api.reloader) as url,
        aiohttp.ClientSession(cookie_jar=jar, timeout=aiohttp.ClientTimeout(WAIT_S)) as browser,
    ):
        assert url is not None
        api.file = partial(api.file, admin=tables["admin"])
        yield Operating(api, url, browser)

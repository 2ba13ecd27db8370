"""A real browser without a window, where there is one."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import BrowserContext, Error, Page, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
"""It serves one test, on pages of ours, and asks nobody else for anything."""


@asynccontextmanager
async def browsing(**options: object) -> AsyncIterator[tuple[BrowserContext, list[str]]]:
    """A context of a browser, and what went wrong in its pages: errors of scripts, and what their policy refused.

    The test is skipped where there is no browser.
    """
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            context = await browser.new_context(**options)  # type: ignore[arg-type]
            wrong: list[str] = []
            context.on("weberror", lambda error: wrong.append(str(error.error)))
            context.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
            yield context, wrong
        finally:
            await browser.close()


__all__ = ["Error", "Page", "browsing"]

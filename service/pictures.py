"""The images of a question, fetched and looked at: its model gets every one of them, or the client hears why not."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, TypeVar

from aiohttp import ClientError
from aiolimiter import AsyncLimiter
from msgspec.structs import replace
from prometheus_async.aio import time
from prometheus_async.types import Observer

from scheduler.model import QueueFull
from service.api.errors import ApiError, from_rejection, invalid, too_large, unsupported
from service.api.history import Said
from service.api.pictures import Limits, Picture, checked, embedded, refused
from service.api.question import Question
from service.fetch import NotFetched, TooLarge, fetch, target
from service.room import Take
from service.settings import ImageSettings

CHARS_PER_PICTURE = 4000
"""What one counts as where text is counted: about 1000 tokens, which a picture of the usual size costs."""
MAX_CHARS = 30 * 1024 * 1024
"""Of a request with what was fetched for it: a worker repeats it in a line, and lines are not read without end."""

Q = TypeVar("Q", bound=Question)


class Fetching(NamedTuple):
    """At what pace images are fetched, and who is told how long each took."""

    pace: AsyncLimiter
    seconds: Observer


async def with_pictures(question: Q, settings: ImageSettings, take: Take, fetching: Fetching, *, seen: bool) -> Q:
    """The same question, with all its images as data URLs; `seen`: its model has eyes.

    Does not wait when all of them came with it. `take` hears of every byte that is held meanwhile.

    Raises:
        ApiError: 400, one of them is no image, too large, too many, or cannot be had; 413, all of it is too large;
            503, too many are fetched; or as `take` does.
    """
    pictures = pictures_of(question)
    if not pictures:
        return question
    if not seen or settings.urls == "off":
        why = "images are not supported" if seen else "images are not supported by this model"
        raise unsupported(pictures[0].where, why)
    if len(pictures) > settings.max_count:
        raise invalid(f"at most {settings.max_count} images are supported", pictures[settings.max_count].where)
    if any(picture.is_remote for picture in pictures):
        take(question.prompt_chars + sum(len(picture.url) for picture in pictures))
    limits = Limits(settings.max_bytes, settings.max_pixels)
    deadline_at = asyncio.get_running_loop().time() + settings.timeout_s
    found: dict[str, tuple[str, int]] = {}
    total = 0
    for picture in sorted(pictures, key=lambda each: each.is_remote):  # nothing is fetched for a request that is wrong
        if picture.url not in found and picture.is_remote:
            left = min(settings.max_bytes, settings.max_total_bytes - total)
            await _may_fetch(fetching.pace, deadline_at)
            data = await time(fetching.seconds, _fetched(picture, settings, left, deadline_at, take))
            found[picture.url] = embedded(picture, data, limits).url, len(data)
        elif picture.url not in found:
            whole, size = checked(picture, limits)
            found[picture.url] = whole.url, size
        total += found[picture.url][1]
        if total > settings.max_total_bytes:
            raise _too_large(picture, settings.max_total_bytes)
    entries = tuple(
        replace(entry, parts=tuple(_replaced(part, found) for part in entry.parts))
        if isinstance(entry, Said)
        else entry
        for entry in question.messages
    )
    media_chars = sum(len(found[picture.url][0]) for picture in pictures)
    if question.prompt_chars + media_chars > MAX_CHARS:
        raise too_large()
    return replace(
        question,
        messages=entries,
        prompt_chars=question.prompt_chars + CHARS_PER_PICTURE * len(pictures),
        media_chars=media_chars,
    )


def pictures_of(question: Question) -> list[Picture]:
    """In the order in which they stand."""
    said = (entry.parts for entry in question.messages if isinstance(entry, Said))
    return [part for parts in said for part in parts if isinstance(part, Picture)]


def _replaced(part: str | Picture, found: dict[str, tuple[str, int]]) -> str | Picture:
    return replace(part, url=found[part.url][0]) if isinstance(part, Picture) else part


async def _may_fetch(pace: AsyncLimiter, deadline_at: float) -> None:
    """Wait until one more may be fetched."""
    try:
        async with asyncio.timeout_at(deadline_at):
            await pace.acquire()
    except TimeoutError:
        wait_s = pace.time_period / pace.max_rate
        raise from_rejection(QueueFull("too many images are being fetched", wait_s)) from None


async def _fetched(picture: Picture, settings: ImageSettings, max_bytes: int, deadline_at: float, take: Take) -> bytes:
    """What is at an image's address."""
    if settings.urls != "https":
        raise refused(picture, "invalid_image_url", "images must be data URLs")
    try:
        url = target(picture.url, settings.trusted_hosts)
    except ValueError as error:
        raise refused(picture, "invalid_image_url", f"the image cannot be fetched: {error}") from None
    try:
        async with asyncio.timeout_at(deadline_at):
            return await fetch(url, max_bytes=max_bytes, trusted=settings.trusted_hosts, on_bytes=take)
    except TooLarge:
        raise _too_large(picture, max_bytes) from None
    except TimeoutError:
        raise refused(picture, "failed_to_download_image", "the image could not be downloaded in time") from None
    except (NotFetched, ClientError, OSError):
        raise refused(picture, "failed_to_download_image", "the image could not be downloaded") from None


def _too_large(picture: Picture, limit: int) -> ApiError:
    return refused(picture, "image_file_too_large", f"larger than {limit} bytes, which is what there is room for")

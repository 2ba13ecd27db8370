"""Images from a client's side of the wire, and what they may cost everybody else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from service.pictures import CHARS_PER_PICTURE
from tests.service.conftest import Log
from tests.service.test_fetch import Site, say, site
from tests.support.images import EVERY_KIND, JPEG, data_url, png
from tests.support.services import KEY, Answer, Json, RunningService, key, running_service, scripted, until


def asking(*urls: str, prompt: str | None = None, **fields: object) -> list[Json]:
    """A message that shows these images."""
    parts = [{"type": "image_url", "image_url": {"url": url} | fields} for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": prompt or scripted(text="I see.")}]}]


async def ask(api: RunningService, *urls: str, prompt: str | None = None, **fields: object) -> Answer:
    return await api.chat(messages=asking(*urls, prompt=prompt, **fields))


async def show(_: web.Request) -> web.Response:
    return web.Response(body=JPEG, content_type="application/octet-stream")


def trusting(there: Site) -> Json:
    return {"trusted_hosts": there.trusted}


@pytest.mark.parametrize(("kind", "data"), EVERY_KIND.items(), ids=list(EVERY_KIND))
async def test_an_image_in_the_request_is_shown(api: RunningService, kind: str, data: bytes) -> None:
    answer = await ask(api, data_url(data, kind), detail="high")
    assert (answer.status, answer.text) == (200, "I see.")
    assert "x-codex-ignored-params" not in answer.headers


async def test_an_image_elsewhere_is_fetched_once_and_shown(tmp_path: Path) -> None:
    async with site(show) as there, running_service(tmp_path, images=trusting(there)) as api:
        answer = await ask(api, str(there.url), data_url(png()), str(there.url))
        assert (answer.status, answer.text) == (200, "I see.")
        assert len(there.asked) == 1
        assert api.counted("image_fetch_seconds_count") == 1


async def test_more_images_than_may_be_fetched_wait_but_no_longer_than_a_request_may(tmp_path: Path) -> None:
    async with site(show) as there:
        pace = {"fetches_per_second": 1, "timeout_s": 0.5}
        async with running_service(tmp_path, images=trusting(there) | pace) as api:
            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(ask(api, str(there.url))) for _ in range(5)]
            answers = [task.result() for task in asked]
            refused = [answer for answer in answers if answer.status != 200]
            assert {(answer.status, answer.code) for answer in refused} == {(503, "queue_full")}
            assert all(1 <= int(answer.headers["Retry-After"]) <= 2 for answer in refused)
            assert len(there.asked) == len(answers) - len(refused)
        async with running_service(tmp_path, images=trusting(there) | pace | {"timeout_s": 5.0}) as api:
            assert [(await ask(api, str(there.url))).status for _ in range(2)] == [200, 200]


async def test_an_image_counts_as_so_many_tokens_and_never_as_its_letters(api: RunningService) -> None:
    prompt = scripted(text="I see.", incomplete="content_filter")
    one, two = [await ask(api, *[data_url(png())] * count, prompt=prompt) for count in (1, 2)]
    tokens = [answer.json["usage"]["prompt_tokens"] for answer in (one, two)]
    assert tokens == [-(-(len(prompt) + count * CHARS_PER_PICTURE) // 4) for count in (1, 2)]


async def test_what_is_ignored_of_an_image_is_named(api: RunningService) -> None:
    answer = await ask(api, data_url(png()), detail="low", blur=3)
    assert answer.status == 200
    assert answer.headers["x-codex-ignored-params"] == (
        "messages.content.image_url.blur, messages.content.image_url.detail"
    )


PARAM = "messages[0].content[0].image_url"


@pytest.mark.parametrize(
    ("value", "code", "param"),
    [
        ("https://a.example/b.png", "invalid_request_error", PARAM),
        ({}, "invalid_request_error", f"{PARAM}.url"),
        ({"url": "a.png"}, "invalid_image_url", f"{PARAM}.url"),
        ({"url": "http://a.example/b.png"}, "invalid_image_url", f"{PARAM}.url"),
        ({"url": "https://a.example:8080/b.png"}, "invalid_image_url", f"{PARAM}.url"),
        ({"url": "https://127.0.0.1/b.png"}, "failed_to_download_image", f"{PARAM}.url"),
        ({"url": "https://localhost/b.png"}, "failed_to_download_image", f"{PARAM}.url"),
        ({"url": "https://169.254.169.254/latest"}, "failed_to_download_image", f"{PARAM}.url"),
        ({"url": "https://name.invalid/b.png"}, "failed_to_download_image", f"{PARAM}.url"),
        ({"url": "data:image/png;base64,eA=="}, "unsupported_image_media_type", f"{PARAM}.url"),
        ({"url": data_url(png()), "detail": "x"}, "invalid_request_error", f"{PARAM}.detail"),
    ],
)
async def test_what_cannot_be_shown_is_refused_by_name(
    api: RunningService, value: object, code: str, param: str
) -> None:
    answer = await api.chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": value}]}])
    assert (answer.status, answer.code, answer.error["param"]) == (400, code, param)
    assert "example" not in answer.error["message"], "an address may be a secret"


@pytest.mark.parametrize("role", ["system", "assistant", "tool"])
async def test_only_a_user_shows_images(api: RunningService, role: str) -> None:
    part = {"type": "image_url", "image_url": {"url": data_url(png())}}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    before: list[Json] = [{"role": "assistant", "tool_calls": [call]}] if role == "tool" else []
    answer = await api.chat(messages=[*before, {"role": role, "tool_call_id": "c", "content": [part]}])
    assert (answer.status, answer.code) == (400, "unsupported_parameter")


async def test_what_is_configured_decides_where_images_may_come_from(tmp_path: Path) -> None:
    async with site(show) as there, running_service(tmp_path, images={"urls": "data"}) as api:
        assert (await ask(api, data_url(png()))).status == 200
        assert (await ask(api, str(there.url))).code == "invalid_image_url"
        await api.reload(images={"urls": "off"})
        assert (await ask(api, data_url(png()))).code == "unsupported_parameter"
        await api.reload(images={"max_count": 1, "max_pixels": 4, "max_bytes": 1024, "max_total_bytes": 1024})
        assert (await ask(api, data_url(png()))).status == 200
        several = await ask(api, data_url(png()), data_url(png()))
        assert (several.code, several.error["param"]) == (
            "invalid_request_error",
            PARAM.replace("t[0].i", "t[1].i") + ".url",
        )
        assert (await ask(api, data_url(png(3, 2)))).code == "image_too_large"
        assert (await ask(api, data_url(png() + b"x" * 1024))).code == "image_file_too_large"
        await api.reload(models={"blind": {"images": False}, "codex-5": {}})
        assert (await ask(api, data_url(png()))).status == 200
        blind = await api.chat(messages=asking(data_url(png())), model="blind")
        assert (blind.status, blind.code) == (400, "unsupported_parameter")
        assert not there.asked


async def test_all_images_together_are_bounded_wherever_they_come_from(tmp_path: Path) -> None:
    async def large(_: web.Request) -> web.Response:
        return web.Response(body=JPEG + b"x" * 1000)

    async with site(large) as there:
        limits = trusting(there) | {"max_total_bytes": 2600}
        async with running_service(tmp_path, images=limits) as api:
            assert (await ask(api, *[f"{there.url}{n}" for n in range(2)])).status == 200
            assert (await ask(api, *[f"{there.url}{n}" for n in range(3)])).code == "image_file_too_large"
            assert (await ask(api, *[str(there.url)] * 3)).code == "image_file_too_large"


async def test_a_server_that_does_not_answer_costs_its_request_and_no_other(tmp_path: Path) -> None:
    async def silent(_: web.Request) -> web.Response:
        await asyncio.get_running_loop().create_future()
        return web.Response()

    async with site(silent) as there, running_service(tmp_path, images=trusting(there) | {"timeout_s": 0.2}) as api:
        stuck = asyncio.ensure_future(ask(api, str(there.url)))  # noqa: TID251 - a client of its own, here and below
        await until(lambda: there.asked)
        assert (await api.chat(scripted(text="ok"))).text == "ok"
        answer = await stuck
        assert (answer.status, answer.code) == (400, "failed_to_download_image")


async def test_a_client_that_leaves_ends_the_fetch(tmp_path: Path) -> None:
    left = asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            left.set()
        return web.Response()

    async with site(silent) as there, running_service(tmp_path, images=trusting(there)) as api:
        asked = asyncio.ensure_future(ask(api, str(there.url)))  # noqa: TID251 - likewise
        await until(lambda: there.asked)
        asked.cancel()
        async with asyncio.timeout(5):
            assert await left.wait()
        await until(lambda: not api.service.room.taken)


async def test_a_reload_meanwhile_counts(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await go.wait()
        return web.Response(body=JPEG)

    async with site(slow) as there, running_service(tmp_path, images=trusting(there)) as api:
        asked = asyncio.ensure_future(ask(api, str(there.url)))  # noqa: TID251 - likewise
        await until(lambda: there.asked)
        await api.reload(images=trusting(there), models={"other": {}})
        go.set()
        answer = await asked
        assert (answer.status, answer.code) == (404, "model_not_found")


async def test_no_more_is_read_at_once_than_there_is_room_for(tmp_path: Path) -> None:
    mouse = "sk-of-the-mouse-0123456789abcdef"
    keys = (key("mouse", mouse),)
    async with running_service(tmp_path, server={"max_held_bytes": 100_000}, keys=keys) as api:
        _, writer = await api.raw(
            f"POST /v1/chat/completions HTTP/1.1\nHost: x\nAuthorization: Bearer {KEY}\nContent-Length: 90000\n\n",
            b" " * 60_000,
        )
        await until(lambda: api.service.room.taken == 60_000)
        for size, bearer, status, code in (
            (100, KEY, 429, "tenant_queue_full"),
            (50_000, KEY, 503, "queue_full"),
            (50_000, mouse, 503, "queue_full"),
        ):
            refused = await api.chat("x" * size, headers={"Authorization": f"Bearer {bearer}"})
            assert (refused.status, refused.code) == (status, code)
            assert int(refused.headers["Retry-After"]) >= 1
        assert (await api.chat("x" * 30_000, headers={"Authorization": f"Bearer {mouse}"})).status == 200
        writer.close()
        await writer.wait_closed()
        await until(lambda: not api.service.room.taken)
        assert (await api.chat("x" * 10_000)).status == 200


async def test_nothing_of_an_image_or_its_address_is_logged(tmp_path: Path, log: Log) -> None:
    async with site(say) as there, running_service(tmp_path, images=trusting(there)) as api:
        answer = await ask(api, f"{there.url}a-secret-name.png")
        assert (answer.status, answer.code) == (400, "unsupported_image_media_type")
        assert (await ask(api, data_url(png()))).status == 200
    assert "a-secret-name" not in log.raw
    assert data_url(png())[-40:] not in log.raw

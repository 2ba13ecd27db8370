"""Images reach the model as images: as they came, but where the CLI makes them smaller."""

from __future__ import annotations

from typing import Any

import pytest

from loadtest.model_standin import ModelStandin
from pool.events import TurnRequest
from service.api.chat import ChatRequest
from service.api.history import Said
from service.api.pictures import Detail, Picture
from service.translate import to_turn
from tests.support.images import EVERY_KIND, data_url, png
from tests.support.pools import RunningPool, script

LEFT_OUT = "image content omitted because"


def showing(*pictures: Picture) -> TurnRequest:
    """What is asked about these."""
    said = Said("user", ("What is this?", *pictures, script(text="I see.")))
    return to_turn(ChatRequest(model="m", messages=(said,)), model="gpt-5.5", effort=None)


async def seen(real: RunningPool, standin: ModelStandin, turn: TurnRequest) -> list[dict[str, Any]]:
    """The parts of the message as they reached the model."""
    sink, end = await real.turn(turn)
    assert (sink.text, end.fault) == ("I see.", None)
    parts: list[dict[str, Any]] = standin.requests[-1].body["input"][-1]["content"]
    return parts


@pytest.mark.parametrize(("kind", "data"), EVERY_KIND.items(), ids=list(EVERY_KIND))
async def test_every_kind_of_image_is_seen(real: RunningPool, standin: ModelStandin, kind: str, data: bytes) -> None:
    url = data_url(data, kind)
    before, image, after = await seen(real, standin, showing(Picture(url, "")))
    assert (before["text"], after["text"]) == ("What is this?", script(text="I see."))
    if kind == "image/gif":
        assert image["image_url"].startswith("data:image/png;base64,"), "its first picture, in a kind that is no film"
    else:
        assert image == {"type": "input_image", "image_url": url}


@pytest.mark.parametrize("detail", ["auto", "high", "original"])
async def test_how_closely_to_look_is_passed_on(real: RunningPool, standin: ModelStandin, detail: Detail) -> None:
    url = data_url(png())
    _, image, _ = await seen(real, standin, showing(Picture(url, "", detail)))
    assert image == {"type": "input_image", "image_url": url, "detail": detail}


async def test_several_images_keep_their_order_and_a_large_one_is_made_smaller(
    real: RunningPool, standin: ModelStandin
) -> None:
    small, large = data_url(png()), data_url(png(4000, 3000))
    _, first, second, third, _ = await seen(
        real, standin, showing(*(Picture(url, "") for url in (small, large, small)))
    )
    assert first["image_url"] == third["image_url"] == small
    assert second["type"] == "input_image"
    assert second["image_url"] != large


@pytest.mark.parametrize("part", [{"detail": "low"}, {"image_url": data_url(b"no image")}])
async def test_what_the_service_refuses_or_ignores_would_be_left_out_without_a_word(
    real: RunningPool, standin: ModelStandin, part: dict[str, str]
) -> None:
    turn = showing(Picture(data_url(png()), ""))
    turn.items[0]["content"][1] |= part
    _, image, _ = await seen(real, standin, turn)
    assert image["type"] == "input_text"
    assert image["text"].startswith(LEFT_OUT)

"""What a client may ask for in its headers is understood exactly, or refused by the header's name."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from scheduler.model import Priority
from service.api.errors import ApiError
from service.api.headers import read_deadline_s, read_priority


@pytest.mark.parametrize(
    ("text", "seconds"), [("1", 0.001), ("1500", 1.5), ("0900", 0.9), ("999999999999", 999999999.999)]
)
def test_a_deadline_is_in_milliseconds(text: str, seconds: float) -> None:
    assert read_deadline_s(CIMultiDict({"X-Request-Deadline-Ms": text})) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "0", "000", "-1", "+1", "1.5", "1e3", "10s", " 1", "ten", "١٢", "²", "1" * 13, "1,2"]
)
def test_anything_else_is_refused_by_the_headers_name(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_deadline_s({"x-request-deadline-ms": text})
    assert (caught.value.status, caught.value.param) == (400, "x-request-deadline-ms")
    assert "x-request-deadline-ms must be a positive whole number" in caught.value.message


@pytest.mark.parametrize("text", ["batch", "Batch", "BATCH"])
def test_a_class_is_a_word_in_any_case(text: str) -> None:
    assert read_priority(CIMultiDict({"X-Priority": text})) is Priority.BATCH


@pytest.mark.parametrize("text", ["", "urgent", "1", "batch,standard", " batch"])
def test_a_class_that_there_is_not_is_refused_with_those_that_there_are(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_priority({"x-priority": text})
    assert (caught.value.status, caught.value.param) == (400, "x-priority")
    assert caught.value.message.endswith("must be one of: interactive, standard, batch")


def test_who_asks_for_nothing_gets_nothing() -> None:
    assert (read_deadline_s({}), read_priority({})) == (None, None)

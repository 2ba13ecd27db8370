"""What is an image, and what only says so."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.errors import ApiError
from service.api.pictures import MAX_URL_CHARS, TAIL_BYTES, Limits, Picture, checked, embedded, read_picture
from tests.support.images import EVERY_KIND, GIF, JPEG, WEBP, data_url, png

LIMITS = Limits(max_bytes=1_000_000, max_pixels=100)
WHERE = "messages[0].content[0].image_url.url"

KINDS = pytest.mark.parametrize(("kind", "data"), EVERY_KIND.items(), ids=list(EVERY_KIND))


def picture(url: str) -> Picture:
    return Picture(url, WHERE)


def why(url: str, limits: Limits = LIMITS) -> str:
    with pytest.raises(ApiError) as caught:
        checked(picture(url), limits)
    assert (caught.value.status, caught.value.type, caught.value.param) == (400, "invalid_request_error", WHERE)
    return caught.value.code


@KINDS
def test_an_image_goes_on_as_it_came(kind: str, data: bytes) -> None:
    url = data_url(data, kind)
    assert checked(picture(url), LIMITS) == (picture(url), len(data))
    assert embedded(picture("https://a.example/b"), data, LIMITS) == picture(url)


@pytest.mark.parametrize("head", ["DATA:image/png;base64,", "data:image/x-png;charset=utf-8;base64,"])
def test_an_image_gets_its_true_and_plain_name(head: str) -> None:
    url = data_url(png())
    assert checked(picture(head + url.partition(",")[2]), LIMITS)[0].url == url


@KINDS
def test_an_image_that_was_cut_off_is_none(kind: str, data: bytes) -> None:
    if kind != "image/gif":  # its end is a single byte, which may be anywhere
        assert why(data_url(data[:-4], kind)) == "image_parse_error"
    assert why(data_url(data[:8], kind)) in ("image_parse_error", "unsupported_image_media_type")


@pytest.mark.parametrize("size", [1, 2 * TAIL_BYTES])
def test_what_a_camera_puts_behind_an_image_is_no_matter(size: int) -> None:
    url = data_url(JPEG + b"x" * size, "image/jpeg")
    assert checked(picture(url), LIMITS)[0].url == url


def test_the_size_of_a_jpeg_is_found_behind_whatever_comes_first() -> None:
    exif = b"\xff\xe1" + struct.pack(">H", 60_002) + b"\xff\xc0" * 30_000
    fill = b"\xff" * 7
    assert checked(picture(data_url(JPEG[:2] + exif + fill + JPEG[2:], "image/jpeg")), LIMITS)[1] > 60_000


def webp_of(chunk: bytes, *, of_bytes: int = 0) -> bytes:
    return b"RIFF" + struct.pack("<I", of_bytes or len(chunk) + 4) + b"WEBP" + chunk


LARGE = {
    "png": data_url(png(11, 10)),
    "jpeg": data_url(JPEG.replace(b"\xff\xc0\0\x0b\x08\0\x01\0\x01", b"\xff\xc0\0\x0b\x08\0\x0b\0\x0a"), "image/jpeg"),
    "gif": data_url(GIF[:6] + struct.pack("<HH", 11, 10) + GIF[10:], "image/gif"),
    "webp, lossy": data_url(WEBP[:26] + struct.pack("<HH", 11, 10) + WEBP[30:], "image/webp"),
    "webp, lossless": data_url(webp_of(b"VP8L" + b"\0" * 4 + b"\x2f" + struct.pack("<I", 10 | 9 << 14)), "image/webp"),
    "webp, extended": data_url(webp_of(b"VP8X" + b"\0" * 8 + b"\x0a\0\0\x09\0\0"), "image/webp"),
}


@pytest.mark.parametrize("url", LARGE.values(), ids=list(LARGE))
def test_an_image_says_how_many_pixels_it_would_be_and_not_too_many(url: str) -> None:
    assert why(url) == "image_too_large"
    assert checked(picture(url), LIMITS._replace(max_pixels=110))


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("data:,hello", "invalid_image_url"),
        ("data:image/png,hello", "invalid_image_url"),
        ("data:image/png;base64", "invalid_image_url"),
        ("data:image/png;base64,", "empty_image_file"),
        ("data:image/png;base64,@@@@", "invalid_base64_image"),
        ("data:image/png;base64,iVBOR", "invalid_base64_image"),
        ("data:image/png;base64,iVB=OR==", "invalid_base64_image"),
        ("data:image/png;base64,iVBO====", "invalid_base64_image"),
        ("data:image/png;base64,iVBOéA==", "invalid_base64_image"),
        ("data:image/png;base64,iVBO\nRw0K", "invalid_base64_image"),
        (data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), "unsupported_image_media_type"),
        (data_url(b"BM" + b"\0" * 60, "image/bmp"), "unsupported_image_media_type"),
        (data_url(png(), "text/plain"), "unsupported_image_media_type"),
        (data_url(png(), ""), "unsupported_image_media_type"),
        (data_url(png(), "image/jpeg"), "invalid_image_format"),
        (data_url(JPEG, "image/png"), "invalid_image_format"),
        (data_url(png(0, 4)), "image_parse_error"),
        (data_url(png().replace(b"IHDR", b"IHDX")), "image_parse_error"),
        (data_url(JPEG[:2] + b"\xff\xd9" + JPEG[2:], "image/jpeg"), "image_parse_error"),
        (data_url(b"\xff\xd8" + b"\xff\xe0\0\x02" * 5000 + JPEG[2:], "image/jpeg"), "image_parse_error"),
        (data_url(webp_of(b"ICCP" + b"\0" * 40), "image/webp"), "image_parse_error"),
        (data_url(webp_of(b"VP8X" + b"\0" * 20, of_bytes=999), "image/webp"), "image_parse_error"),
    ],
)
def test_what_is_no_image_is_refused_with_its_reason(url: str, code: str) -> None:
    assert why(url) == code


def test_an_image_of_too_many_bytes_is_refused_before_it_is_looked_at() -> None:
    assert why(data_url(b"x" * 11), LIMITS._replace(max_bytes=10)) == "image_file_too_large"
    assert why(data_url(b"x" * 10), LIMITS._replace(max_bytes=10)) == "unsupported_image_media_type"


HEADS = st.sampled_from([data[:size] for data in EVERY_KIND.values() for size in (4, 12, 24, len(data))])


@given(
    st.binary(max_size=64) | st.builds(bytes.__add__, HEADS, st.binary(max_size=64)), st.sampled_from(list(EVERY_KIND))
)
def test_any_bytes_are_an_image_or_refused_in_either_way_that_they_come(data: bytes, kind: str) -> None:
    def outcome(of: Picture, fetched: bytes | None) -> str:
        try:
            return (checked(of, LIMITS)[0] if fetched is None else embedded(of, fetched, LIMITS)).url
        except ApiError as error:
            return error.code

    came, fetched = outcome(picture(data_url(data, kind)), None), outcome(picture("https://a.example/"), data)
    assert came in (fetched, "invalid_image_format")


@pytest.mark.parametrize(("detail", "kept"), [(None, None), ("auto", "auto"), ("high", "high"), ("low", None)])
def test_a_low_detail_is_ignored_for_the_worker_would_leave_the_image_out(detail: str | None, kept: str | None) -> None:
    assert read_picture("https://a.example/", detail, WHERE, "d") == (
        Picture("https://a.example/", WHERE, kept),  # type: ignore[arg-type]
        detail == "low",
    )


@pytest.mark.parametrize(
    ("url", "detail", "param"),
    [
        (7, None, WHERE),
        (None, None, WHERE),
        ("https://a.example/" + "x" * MAX_URL_CHARS, None, WHERE),
        ("https://a.example/", "close", "d"),
        ("https://a.example/", ["low"], "d"),
    ],
)
def test_what_names_no_image_is_refused(url: object, detail: object, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_picture(url, detail, WHERE, "d")
    assert (caught.value.status, caught.value.param) == (400, param)

"""Images of a request: what they are, without believing what is said of them, and how large they would be.

A worker that cannot read an image puts a text in its place and answers all the same, and one that can takes all the
memory that the image says it needs. So both are found out here, from the image's own first and last bytes.
Source: measured on the CLI 0.163.0; tests/codex/test_images.py holds us to it.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import msgspec

from service.api.errors import ApiError, invalid

Detail = Literal["auto", "high", "original"]
"""How closely a model may look; the CLI leaves an image out when it is asked for `low`."""

MAX_URL_CHARS = 8192
"""Of an address; data URLs are bounded by the body they come in."""
TAIL_BYTES = 64 * 1024
"""Where the end of an image is looked for first: cameras put more behind it, but seldom much."""
MAX_SEGMENTS = 4096
"""Of a JPEG before its size is known."""

_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_DATA_URL = re.compile(r"data:([^,;]{0,100})(?:;[^,;]{0,100}){0,4}?;base64,", re.IGNORECASE)
_ALSO_CALLED = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-png": "image/png"}


class Picture(msgspec.Struct, frozen=True):
    """An image: `url` is a data URL, or the address that it is to be fetched from. `where` is its param in errors."""

    url: str
    where: str
    detail: Detail | None = None

    @property
    def is_remote(self) -> bool:
        """It is not here yet."""
        return self.url[:5].lower() != "data:"


class Limits(NamedTuple):
    """Of one image: in bytes, and in pixels once it is unpacked."""

    max_bytes: int
    max_pixels: int


def read_picture(url: Any, detail: Any, where: str, detail_where: str) -> tuple[Picture, bool]:
    """The image that a part of a message names, and whether its detail is ignored.

    Raises:
        ApiError: 400, for what is neither a data URL nor an address.
    """
    if type(url) is not str:
        raise invalid(f"{where} must be a string", where)
    if detail not in (None, "auto", "low", "high", "original"):
        raise invalid(f"{detail_where} must be one of: auto, low, high, original", detail_where)
    picture = Picture(url, where, None if detail == "low" else detail)
    if picture.is_remote and len(url) > MAX_URL_CHARS:
        raise refused(picture, "invalid_image_url", f"the address is longer than {MAX_URL_CHARS} characters")
    return picture, detail == "low"


def checked(picture: Picture, limits: Limits) -> tuple[Picture, int]:
    """The image of a data URL under its true name, and its size in bytes.

    Raises:
        ApiError: 400, it is no image that a model may see.
    """
    head = _DATA_URL.match(picture.url)
    if head is None:
        raise refused(picture, "invalid_image_url", "a data URL must be data:image/TYPE;base64,...")
    text = picture.url[head.end() :].encode("ascii", "replace")
    encoded = text.rstrip(b"=")
    if len(text) % 4 or len(text) - len(encoded) > 2 or encoded.translate(None, _BASE64):
        raise refused(picture, "invalid_base64_image", "the image is not in base64")
    size = len(encoded) * 3 // 4

    def read(start: int, stop: int) -> bytes:
        first = start // 3 * 4
        return binascii.a2b_base64(text[first : -(-stop // 3) * 4])[start - start // 3 * 3 :][: stop - start]

    kind = _looked_at(picture, read, size, limits)
    declared = head[1].strip().lower()
    if declared.startswith("image/") and _ALSO_CALLED.get(declared, declared) != kind:
        raise refused(picture, "invalid_image_format", f"the data URL says {declared}, and the image is {kind}")
    if not declared.startswith("image/"):
        raise refused(picture, "unsupported_image_media_type", "the data URL does not say that it is an image")
    name = f"data:{kind};base64,"
    if picture.url.startswith(name):
        return picture, size
    return msgspec.structs.replace(picture, url=name + picture.url[head.end() :]), size


def embedded(picture: Picture, data: bytes, limits: Limits) -> Picture:
    """The image that was fetched, as a data URL.

    Raises:
        ApiError: 400, it is no image that a model may see.
    """
    kind = _looked_at(picture, lambda start, stop: data[start:stop], len(data), limits)
    return msgspec.structs.replace(
        picture, url=f"data:{kind};base64,{binascii.b2a_base64(data, newline=False).decode()}"
    )


def refused(picture: Picture, code: str, message: str) -> ApiError:
    """400, about this image. Source: the codes are those of OpenAI's ResponseErrorCode."""
    return ApiError(status=400, message=message, type="invalid_request_error", param=picture.where, code=code)


# --- what the bytes say ------------------------------------------------------------------------------------------

Read = Callable[[int, int], bytes]
"""The bytes from here to there, fewer at the end."""
Size = tuple[int, int]
"""Width and height."""


def _looked_at(picture: Picture, read: Read, size: int, limits: Limits) -> str:
    """The media type of what is an image, whole as far as can be seen, and not too large."""
    if not size:
        raise refused(picture, "empty_image_file", "the image is empty")
    if size > limits.max_bytes:
        raise refused(picture, "image_file_too_large", f"the image is larger than {limits.max_bytes} bytes")
    head = read(0, 32)
    kind = _kind(head)
    if kind is None:
        raise refused(picture, "unsupported_image_media_type", "an image must be a PNG, JPEG, GIF or WebP")
    found = _SIZES[kind](head, read)
    if found is None or 0 in found or not _is_whole(kind, head, read, size):
        raise refused(picture, "image_parse_error", f"the image is no whole {kind}")
    if found[0] * found[1] > limits.max_pixels:
        raise refused(picture, "image_too_large", f"the image has more than {limits.max_pixels} pixels")
    return kind


def _kind(head: bytes) -> str | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    return None


def _png(head: bytes, _read: Read) -> Size | None:
    return (_big(head[16:20]), _big(head[20:24])) if head[12:16] == b"IHDR" else None


def _gif(head: bytes, _read: Read) -> Size | None:
    return _little(head[6:8]), _little(head[8:10])


def _webp(head: bytes, _read: Read) -> Size | None:
    match head[12:16]:
        case b"VP8 ":
            return _little(head[26:28]) & 0x3FFF, _little(head[28:30]) & 0x3FFF
        case b"VP8L":
            bits = _little(head[21:25])
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X":
            return _little(head[24:27]) + 1, _little(head[27:30]) + 1
        case _:
            return None


def _jpeg(_head: bytes, read: Read) -> Size | None:
    """Source: ITU T.81, annex B: segments up to the start of the frame."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        segment = read(at, at + 9)
        if len(segment) < 9 or segment[0] != 0xFF:
            return None
        marker = segment[1]
        if marker == 0xFF:  # fill
            at += 1
        elif marker in _FRAMES:
            return _big(segment[7:9]), _big(segment[5:7])
        elif marker in _WITHOUT_LENGTH:
            at += 2
        elif marker in _ENDS:
            return None
        else:
            at += 2 + _big(segment[2:4])
    return None


_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset(range(0xD0, 0xD8)) | {0x01}
_ENDS = frozenset({0xD8, 0xD9, 0xDA, 0x00})
_SIZES: dict[str, Callable[[bytes, Read], Size | None]] = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/gif": _gif,
    "image/webp": _webp,
}
_LAST_WORDS = {"image/png": b"IEND\xaeB`\x82", "image/jpeg": b"\xff\xd9"}


def _is_whole(kind: str, head: bytes, read: Read, size: int) -> bool:
    if kind == "image/webp":
        return _little(head[4:8]) + 8 <= size + 1  # some leave out the last byte, which is only there to be even
    end = _LAST_WORDS.get(kind)
    return end is None or end in read(max(0, size - TAIL_BYTES), size) or end in read(0, size)


def _big(data: bytes) -> int:
    return int.from_bytes(data)


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")

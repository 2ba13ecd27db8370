"""The fields that a request has on every route."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from service.api.errors import ApiError, invalid, model_not_found

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""Source: OpenAI's ReasoningEffort."""

MAX_IGNORED = 32

_NOT_FOR_HEADERS = re.compile(r"[^A-Za-z0-9_.-]")


class Model(Protocol):
    """What the checks have to know of a model."""

    @property
    def max_prompt_chars(self) -> int | None:
        """Longest prompt in characters, None for no limit."""


M = TypeVar("M", bound=Model)


def read_model(value: Any) -> str:
    """The model's public name.

    Raises:
        ApiError: 400, there is none.
    """
    if type(value) is not str or not value.strip():
        raise ApiError(
            status=400, message="model is required", type="invalid_request_error", param="model", code="model_required"
        )
    return value


def found_model(name: str, find: Callable[[str], M | None], prompt_chars: int, param: str) -> M:
    """What `find` knows of the model.

    Raises:
        ApiError: 404, nothing; 403, the prompt is too long for it.
    """
    found = find(name)
    if found is None:
        raise model_not_found(name)
    if found.max_prompt_chars is not None and prompt_chars > found.max_prompt_chars:
        raise ApiError(
            status=403,
            message="context length exceeded",
            type="tokens_exceeded_error",
            param=param,
            code="context_length_exceeded",
        )
    return found


def check_temperature(value: Any) -> None:
    """Raises an ApiError, when it is not null and not in range."""
    if value is None:
        return
    if not _is_number(value):
        raise invalid("temperature must be a finite number between 0 and 2", "temperature")
    if not 0 <= value <= 2:
        raise invalid("temperature must be between 0 and 2", "temperature")


def check_top_p(value: Any) -> None:
    """Raises an ApiError, when it is not null and not in range."""
    if value is None:
        return
    if not _is_number(value):
        raise invalid("top_p must be a finite number between 0 and 1", "top_p")
    if not 0 < value <= 1:
        raise invalid("top_p must be greater than 0 and at most 1", "top_p")


def for_header(names: Iterable[str]) -> tuple[str, ...]:
    """The names of what was ignored, few enough and short enough for a header."""
    names = list(names)
    if len(names) > MAX_IGNORED:
        names[MAX_IGNORED - 1 :] = ["..."]
    return tuple(_NOT_FOR_HEADERS.sub("?", name[:64]) for name in names)


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def is_integer(value: Any) -> bool:
    """JSON knows no integers: 7.0 is one."""
    return type(value) is int or (type(value) is float and value.is_integer())

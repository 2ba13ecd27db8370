"""What a client may say in the query of the routes of stored responses."""

from __future__ import annotations

from typing import NamedTuple

from multidict import MultiMapping

from service.api.errors import invalid
from service.api.fields import for_header
from service.api.responses import INCLUDES

MAX_LIMIT = 100
_SWITCHES = {"true": True, "1": True, "false": False, "0": False}
_OF_RETRIEVAL = {"stream", "include_obfuscation", "starting_after", "include", "include[]", "no_keepalive"}

Query = MultiMapping[str]


class Retrieval(NamedTuple):
    """How a response is wanted: `starting_after` is the number of the last event that the client has; -1 for none."""

    stream: bool
    starting_after: int
    include: frozenset[str]
    ignored: tuple[str, ...]


class Paging(NamedTuple):
    """Which of the items are wanted."""

    limit: int
    is_descending: bool
    after: str | None
    before: str | None
    ignored: tuple[str, ...]


def read_retrieval(query: Query) -> Retrieval:
    """Source: OpenAI reference, "Get a model response".

    Raises:
        ApiError: 400, with the parameter's name.
    """
    stream = _switch(query, "stream")
    obfuscation = _switch(query, "include_obfuscation")
    text = query.get("starting_after")
    if text is not None and not stream:
        raise invalid("starting_after is only allowed when stream is true", "starting_after")
    starting_after = -1 if text is None else _number("starting_after", text, 0, 2**53)
    ignored = _unknown(
        query, {"stream", "include_obfuscation", "starting_after", "include", "include[]", "no_keepalive"}
    )
    return Retrieval(stream, starting_after, _include(query), (*ignored, *(["include_obfuscation"] * obfuscation)))


def read_paging(query: Query) -> Paging:
    """Source: OpenAI reference, "List input items".

    Raises:
        ApiError: 400, with the parameter's name.
    """
    _include(query)
    limit, order = query.get("limit"), query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise invalid("order must be one of: asc, desc", "order")
    return Paging(
        limit=20 if limit is None else _number("limit", limit, 1, MAX_LIMIT),
        is_descending=order == "desc",
        after=query.get("after"),
        before=query.get("before"),
        ignored=_unknown(query, {"limit", "order", "after", "before", "include", "include[]"}),
    )


def _unknown(query: Query, known: set[str]) -> tuple[str, ...]:
    return for_header(name for name in query if name not in known)


def _switch(query: Query, name: str) -> bool:
    value = query.get(name, "false")
    if value.lower() not in _SWITCHES:
        raise invalid(f"{name} must be true or false", name)
    return _SWITCHES[value.lower()]


def _number(name: str, text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and least <= int(text) <= most):
        raise invalid(f"{name} must be a whole number from {least} to {most}", name)
    return int(text)


def _include(query: Query) -> frozenset[str]:
    names = [*query.getall("include", []), *query.getall("include[]", [])]
    for name in names:
        if name not in INCLUDES:
            raise invalid(f"include must be one of: {', '.join(INCLUDES)}", "include")
    return frozenset(names)

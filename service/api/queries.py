"""What a client may say in the query of the routes that only read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from multidict import MultiMapping

from service.api.errors import invalid
from service.api.fields import for_header
from service.api.responses import INCLUDES

MAX_LIMIT = 100
MAX_USAGE_LIMIT = 10_000
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


class UsageQuery(NamedTuple):
    """Of usage from `start_ms` until before `end_ms`, of the wall clock; `group` is by what it is told, `key` whose."""

    start_ms: int
    end_ms: int
    group: str | None
    key: str | None


def read_usage(query: Query, now_ms: int) -> UsageQuery:
    """Source: the predecessor's `/v1/usage`: instants are milliseconds, or in ISO 8601; without a zone they are UTC.

    Raises:
        ApiError: 400, with the parameter's name.
    """
    group = query.get("group")
    if group not in (None, "hour", "day"):
        raise invalid("group must be one of: hour, day", "group")
    start_ms, end_ms = _instant(query, "start", 0), _instant(query, "end", now_ms)
    return UsageQuery(start_ms, max(start_ms, end_ms), group, query.get("key"))


def read_raw_usage(query: Query) -> tuple[int, str | None]:
    """How many events are wanted, and whose.

    Raises:
        ApiError: 400, with the parameter's name.
    """
    limit = query.get("limit")
    number = 200 if limit is None else _number("limit", limit, 1, 10**15)
    return min(number, MAX_USAGE_LIMIT), query.get("key")


def _instant(query: Query, name: str, default_ms: int) -> int:
    text = query.get(name)
    if text is None:
        return default_ms
    if text.isascii() and text.isdigit() and len(text) <= 15:
        return int(text)
    try:
        found = datetime.fromisoformat(text)
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise invalid(f"{name} must be milliseconds since 1970, or a date in ISO 8601", name) from None


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

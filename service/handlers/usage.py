"""/v1/usage: what was used, by whoever asks, or by all for a key that may see that."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from aiohttp import hdrs, web

from service.api.errors import ApiError
from service.api.queries import UsageQuery, read_raw_usage, read_usage
from service.state import SERVICE
from service.usage.file import HOUR_MS, Sums
from service.usage.ledger import Ledger, UsageUnavailable

T = TypeVar("T")

DAY_MS = 24 * HOUR_MS
_WIDTHS = {None: 1 << 62, "hour": HOUR_MS, "day": DAY_MS}


async def summary(request: web.Request) -> web.Response:
    """The sums of a span of time, and of each hour or day in it.

    The predecessor's buffers are gone, and so are the numbers of them: what is left is an empty object in their place.

    Raises:
        ApiError: the key, the query, or it cannot be told now.
    """
    now_ms = time.time_ns() // 1_000_000
    query = read_usage(request.query, now_ms)
    ledger, key, sees_all = _whose(request, query.key)
    until_ms = query.end_ms if query.end_ms < now_ms else (query.end_ms // HOUR_MS + 1) * HOUR_MS
    rows = await _answered(ledger.sums(query.start_ms, until_ms, _WIDTHS[query.group], key))
    return _json(_summary(query, rows, sees_all=sees_all))


async def raw(request: web.Request) -> web.Response:
    """The last requests, one event for each, in their order.

    Raises:
        ApiError: as above.
    """
    limit, wanted = read_raw_usage(request.query)
    ledger, key, _ = _whose(request, wanted)
    events = await _answered(ledger.last(limit, key))
    body = b'{"count":%d,"events":[%b],"tool_buffer_metrics":{}}' % (len(events), b",".join(events))
    return web.Response(body=body, content_type="application/json")


def _whose(request: web.Request, wanted: str | None) -> tuple[Ledger, str | None, bool]:
    """Where it is kept, whose is asked for (None: everybody's), and whether the key may see all."""
    service = request.app[SERVICE]
    tenant = service.current.keyring.tenant(request.headers.get(hdrs.AUTHORIZATION))
    if service.ledger is None:
        raise ApiError(
            status=404, message="usage is not kept here", type="invalid_request_error", code="usage_not_kept"
        )
    if tenant.sees_all_usage:
        return service.ledger, wanted, True
    if wanted not in (None, tenant.name):
        raise ApiError(
            status=403,
            message="this key may read its own usage only",
            type="invalid_request_error",
            param="key",
            code="insufficient_permissions",
        )
    return service.ledger, tenant.name, False


async def _answered(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except UsageUnavailable:
        raise ApiError(
            status=503,
            message="usage cannot be told now",
            type="backend_unavailable",
            code="usage_unavailable",
            retry_after_s=5.0,
            retryable=True,
        ) from None


def _summary(query: UsageQuery, rows: Sequence[Sums], *, sees_all: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"start": query.start_ms, "end": query.end_ms}
    if query.group is not None:
        body["group"] = query.group
    body |= _sums(rows, "total_requests")
    if query.group is not None:
        buckets = defaultdict(list)
        for row in rows:
            buckets[row.at_ms].append(row)
        body["buckets"] = [{"ts": _iso(at_ms)} | _sums(each, "requests") for at_ms, each in buckets.items()]
    if sees_all:
        keys = defaultdict(list)
        for row in rows:
            keys[row.key].append(row)
        body["keys"] = [{"key": key} | _sums(each, "requests") for key, each in sorted(keys.items())]
    return body | {"tool_buffer_metrics": {}}


def _sums(rows: Iterable[Sums], requests: str) -> dict[str, int]:
    rows = list(rows)
    prompt, completion = sum(row.input for row in rows), sum(row.output for row in rows)
    return {
        requests: sum(row.requests for row in rows),
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "cached_tokens": sum(row.cached for row in rows),
        "reasoning_tokens": sum(row.reasoning for row in rows),
        "prompt_tokens_est": prompt,
        "completion_tokens_est": completion,
        "total_tokens_est": prompt + completion,
        "estimated_requests": sum(row.estimated for row in rows),
    }


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _json(value: dict[str, Any]) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")

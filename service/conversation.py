"""What a request builds upon, fetched before it is read: the responses before it, and the items that it refers to."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from service.api.errors import ApiError, invalid, previous_not_found, store_unavailable
from service.api.items import Item, Lookup
from service.api.responses import Needs
from service.room import Take
from service.store.protocol import Break, BreakReason, Exchange, Key, ResponseStore, StoreUnavailable, history

_ID = re.compile(r"resp_[0-9A-Za-z_-]{1,100}")
_SUFFIX = re.compile(r"[a-z]{1,8}_([0-9A-Za-z]{1,100})_(?:in)?[0-9]{1,9}")
"""Of an item's id: ours say to which response the item belongs."""

_item = msgspec.json.Decoder(dict[str, Any]).decode


class Status(msgspec.Struct, frozen=True):
    """What of a stored response object matters here."""

    status: str
    background: bool = False


read_status = msgspec.json.Decoder(Status).decode


def key_of(owner: str, id: str) -> Key | None:  # noqa: A002 - OpenAI's word
    """Where the response of this id is kept; None for what is no id of a response."""
    return Key(owner, id) if _ID.fullmatch(id) else None


class Before(NamedTuple):
    """`items` are what the previous response stands for, in order; `lookup` finds an item by its id."""

    items: tuple[Item, ...]
    lookup: Lookup


def _take_none(_: int) -> None:
    """For whoever has room."""


async def fetch(
    store: ResponseStore, owner: str, needs: Needs, *, max_bytes: int, timeout_s: float, take: Take = _take_none
) -> Before:
    """All that a request of this owner builds upon, of which there may be `max_bytes`, found within `timeout_s`. `take`
    is told how many bytes it has become.

    Raises:
        ApiError: there is no such previous response, none that can be continued, no room, or the store cannot tell.
    """
    if needs.previous_response_id is None and not needs.item_ids and not needs.thought_ids:
        return Before((), lambda _: None)
    try:
        async with asyncio.timeout(timeout_s):
            return await _fetch(store, owner, needs, max_bytes, take)
    except (StoreUnavailable, TimeoutError):
        raise store_unavailable() from None


async def _fetch(store: ResponseStore, owner: str, needs: Needs, max_bytes: int, take: Take) -> Before:
    links: tuple[Exchange, ...] = ()
    if needs.previous_response_id is not None:
        links = await _links(store, owner, needs.previous_response_id, max_bytes)
        take(sum(link.size_bytes for link in links))
    items = tuple(_item(each.body) for link in links for each in (*link.input_items, *link.output_items))
    known = {item["id"]: item for item in items}
    left_bytes = max_bytes - sum(link.size_bytes for link in links)
    for key in _homes(owner, (each for each in (*needs.item_ids, *needs.thought_ids) if each not in known)):
        try:
            exchange = await store.exchange(key)
        except StoreUnavailable:
            if needs.item_ids:
                raise
            break  # reasoning that is not found is left out, and named
        if exchange is None or exchange.size_bytes > left_bytes:
            continue
        left_bytes -= exchange.size_bytes
        take(exchange.size_bytes)
        for each in (*exchange.input_items, *exchange.output_items):
            known.setdefault(each.id, _item(each.body))
    return Before(items, known.get)


def _homes(owner: str, item_ids: Iterable[str]) -> dict[Key, None]:
    """The responses to which these items may belong."""
    found = (_SUFFIX.fullmatch(item_id) for item_id in item_ids)
    return dict.fromkeys(Key(owner, f"resp_{match[1]}") for match in found if match)


async def _links(store: ResponseStore, owner: str, previous: str, max_bytes: int) -> tuple[Exchange, ...]:
    """The conversation so far.

    Raises:
        StoreUnavailable: it cannot be known.
    """
    key = key_of(owner, previous)
    stored = None if key is None else await store.get(key)
    if key is None or stored is None:
        raise previous_not_found(previous)
    status = read_status(stored.response).status
    if status in ("failed", "cancelled"):
        raise _cannot_continue(f"Previous response with id '{previous}' has no answer: it is {status}.")
    found = await history(store, key, max_bytes)
    if isinstance(found, Break):
        raise _broken(found)
    return found


def _broken(found: Break) -> ApiError:
    match found.reason:
        case BreakReason.UNKNOWN:
            return previous_not_found(found.id)
        case BreakReason.OPEN:
            error = _cannot_continue(f"Previous response with id '{found.id}' is not finished yet.")
            error.code = "previous_response_not_finished"
            return error
        case BreakReason.TOO_LONG:
            error = _cannot_continue("the conversation that ends with the previous response is too long")
            error.code = "context_length_exceeded"
            return error


def _cannot_continue(message: str) -> ApiError:
    error = invalid(message, "previous_response_id")
    error.code = "previous_response_not_usable"
    return error

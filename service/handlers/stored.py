"""/v1/responses/{id}: what was kept of a response, for the key that asked for it and nobody else."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import hdrs, web

from service.api.errors import invalid, response_not_found
from service.api.queries import Retrieval, read_paging, read_retrieval
from service.api.responses import ENCRYPTED
from service.background import BACKGROUND
from service.conversation import key_of, read_status
from service.following import Follower, unfinished
from service.handlers.answer import Reply
from service.handlers.exchange import IGNORED_HEADER
from service.state import FACTS, SERVICE
from service.store.protocol import Break, Item, Key, ResponseStore, State, history, page

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_output = msgspec.json.Decoder(list[msgspec.Raw]).decode


class _Named(msgspec.Struct):
    id: str = ""


_named = msgspec.json.Decoder(_Named).decode


async def retrieve(request: web.Request) -> web.StreamResponse:
    """The response as it is now.

    Raises:
        ApiError: there is none, or the query.
        StoreUnavailable: it cannot be known; also below.
    """
    key = _key(request)
    wanted = read_retrieval(request.query)
    store = request.app[SERVICE].store
    if wanted.stream:
        return await _stream(request, key, wanted)
    work = request.app[BACKGROUND].find(key)
    if work is not None:
        return _answer(await work.settled(), wanted.ignored)
    stored = await store.get(key)
    if stored is None:
        raise response_not_found(key.id)
    body = stored.response
    if ENCRYPTED in wanted.include and stored.state is State.ENDED:
        exchange = await store.exchange(key)
        body = _revealed(body, exchange.output_items if exchange is not None else ())
    return _answer(body, wanted.ignored)


async def delete(request: web.Request) -> web.StreamResponse:
    """Forget the response; nobody works on it any more.

    Raises:
        ApiError: there is none.
    """
    key = _key(request)
    if not await request.app[SERVICE].store.delete(key):
        raise response_not_found(key.id)
    request.app[BACKGROUND].forget(key)
    return _answer(_encode({"id": key.id, "object": "response", "deleted": True}))


async def cancel(request: web.Request) -> web.StreamResponse:
    """The response, which is not worked on any more.

    Raises:
        ApiError: there is none, or it is not of the kind that can be cancelled.
    """
    key = _key(request)
    work = request.app[BACKGROUND].find(key)
    if work is not None:
        work.cancel()
        await work.over()
        return _answer(work.events.body())
    stored = await request.app[SERVICE].store.get(key)
    if stored is None:
        raise response_not_found(key.id)
    if not read_status(stored.response).background:
        raise invalid("Cannot cancel a synchronous response.", None)
    if stored.state is not State.ENDED:
        raise unfinished()
    return _answer(stored.response)


async def input_items(request: web.Request) -> web.StreamResponse:
    """What went into the response, a page at a time.

    Raises:
        ApiError: there is none, or the query.
    """
    key = _key(request)
    wanted = read_paging(request.query)
    service = request.app[SERVICE]
    items = await _input(service.store, key, service.current.settings.server.max_body_bytes)
    if items is None:
        raise response_not_found(key.id)
    ids = {item.id for item in items}
    for name, place in (("after", wanted.after), ("before", wanted.before)):
        if place is not None and place not in ids:
            raise invalid(f"{name}: there is no item with the id '{place[:100]}' in this list", name)
    found = page(items, wanted.after, wanted.limit, is_descending=wanted.is_descending, before=wanted.before)
    assert found is not None  # noqa: S101 - the ids are known
    body = b'{"object":"list","data":[%b],"has_more":%b,"first_id":%b,"last_id":%b}' % (
        b",".join(item.body for item in found.items),
        b"true" if found.has_more else b"false",
        _encode(found.items[0].id if found.items else None),
        _encode(found.items[-1].id if found.items else None),
    )
    return _answer(body, wanted.ignored)


# --- inside ------------------------------------------------------------------------------------------------------


async def _stream(request: web.Request, key: Key, wanted: Retrieval) -> web.StreamResponse:
    """The events of a background response, again or as they come.

    Raises:
        ApiError: there is none, it has no events, or nobody works on it at the moment.
    """
    service = request.app[SERVICE]
    work = request.app[BACKGROUND].find(key)
    if work is None:
        stored = await service.store.get(key)
        if stored is None:
            raise response_not_found(key.id)
        has_events = bool(await service.store.events(key, -1, 1))
        if has_events and stored.state is not State.ENDED:
            raise unfinished()
    else:
        has_events = work.has_events
    if not has_events:
        raise invalid("only background responses that were created with stream=true can be streamed again", "stream")
    reply = Reply(request, service.current.settings.server)
    if wanted.ignored:
        reply.headers[IGNORED_HEADER] = ", ".join(wanted.ignored)
    return await reply.stream(Follower(service.store, key, work, wanted.starting_after))


def _key(request: web.Request) -> Key:
    """Where the response that is asked for would be.

    Raises:
        ApiError: the API key, or the id is none of ours.
    """
    tenant = request.app[SERVICE].current.keyring.tenant(request.headers.get(hdrs.AUTHORIZATION))
    request[FACTS]["tenant"] = tenant.name
    id = request.match_info["id"]  # noqa: A001 - OpenAI's word
    key = key_of(tenant.name, id)
    if key is None:
        raise response_not_found(id)
    return key


def _answer(body: bytes, ignored: tuple[str, ...] = ()) -> web.Response:
    headers = {"Cache-Control": "no-store"} | ({IGNORED_HEADER: ", ".join(ignored)} if ignored else {})
    return web.Response(body=body, content_type="application/json", headers=headers)


async def _input(store: ResponseStore, key: Key, max_bytes: int) -> tuple[Item, ...] | None:
    """All that the model was given, the conversation before it included where that is still there; None: no response.

    Source: OpenAI, in whose lists the items of previous responses stand, too.
    """
    exchange = await store.exchange(key)
    if exchange is None:
        return None
    before = await history(store, Key(key.owner, exchange.previous), max_bytes) if exchange.previous else ()
    links = () if isinstance(before, Break) else before
    return (*(item for link in links for item in (*link.input_items, *link.output_items)), *exchange.input_items)


def _revealed(body: bytes, kept: tuple[Item, ...]) -> bytes:
    """The response with its reasoning as it may be sent back."""
    response: dict[str, Any] = dict(_decode(body))
    bodies = {item.id: item.body for item in kept}
    response["output"] = [msgspec.Raw(bodies.get(_named(item).id, bytes(item))) for item in _output(response["output"])]
    return _encode(response)

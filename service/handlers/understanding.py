"""What a request of the Responses API asks, with all that it builds upon: the same when another process takes it up."""

from __future__ import annotations

from msgspec.structs import replace

from service.api.body import json_object
from service.api.responses import ResponsesRequest, needs, parse_responses
from service.conversation import fetch
from service.handlers.asking import Asked, read_pictures
from service.handlers.exchange import Inquiry, Wants
from service.routing import Route
from service.state import Service


async def understand(service: Service, asked: Asked) -> tuple[ResponsesRequest, Route]:
    """The question, and the route of its model.

    Raises:
        ApiError: a 4xx, or what it builds upon cannot be known.
    """
    fields = json_object(asked.body)
    settings = service.current.settings
    owner, most = asked.tenant.name, settings.server.max_held_bytes
    with service.room.claim(owner, most) as take:
        before = await fetch(
            service.store,
            owner,
            needs(fields),
            max_bytes=settings.server.max_body_bytes,
            timeout_s=settings.store.timeout_s,
            take=take,
        )
        find = asked.find(service.current)
        question, route = parse_responses(fields, find=find, before=before.items, lookup=before.lookup)
        return await read_pictures(service, asked, question, route)


def wants(question: ResponsesRequest, queue_budget_s: float | None = None) -> Wants:
    """What is wanted of its answer."""
    return Wants(
        keeps=True,
        shows_reasoning=True,
        reasoning_items=question.shows_encrypted or question.store,
        queue_budget_s=queue_budget_s,
    )


def as_served(question: ResponsesRequest, inquiry: Inquiry) -> ResponsesRequest:
    """The question as its response repeats it."""
    return replace(question, echo=question.echo | {"service_tier": inquiry.tier})

"""What comes in: who asks, with what headers and body; and how its jobs get to the scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import msgspec
from aiohttp import hdrs, web
from msgspec.structs import replace

from pool.events import TurnRequest
from scheduler.model import Job, NotReady, Priority, QueueFull, Rejected, WaitTooLong
from scheduler.ticket import Ticket
from service.admission import Tenant, count
from service.api.body import unpacked
from service.api.errors import ApiError, from_rejection, invalid, model_not_found, too_large, unsupported
from service.api.headers import read_deadline_s, read_output_mode, read_priority
from service.api.question import Question
from service.pictures import Fetching, Q, with_pictures
from service.room import Take
from service.routing import Plan, Route, Target
from service.settings import ServerSettings
from service.state import FACTS, REQUEST_ID, SERVICE, TENANT, Configuration, Service
from service.toolcalls.mode import OutputMode
from service.traces.trace import Trace
from service.translate import as_transcript


class Asked(msgspec.Struct, frozen=True):
    """Who asks, and what of it is the same on every route.

    `wanted` is the class that the client asks for, `deadline_s` how long the answer is of use to it, `mode` in what
    form it wants its calls; None when it does not say. `body` is unpacked. Its frames go to `trace`, too.
    """

    id: str
    tenant: Tenant
    wanted: Priority | None
    deadline_s: float | None
    mode: OutputMode | None
    body: bytes
    trace: Trace | None = None

    def find(self, current: Configuration) -> Callable[[str], Route | None]:
        """What finds the route of a model's name, where it may use that."""
        return partial(current.routes.find, models=self.tenant.models)

    def job(
        self, turn: TurnRequest, route: Route, target: Target, *, size: int, priority: Priority, media: int = 0
    ) -> Job:
        """The job of running `turn` at `target`, which is the first of this tenant's plan for `route`."""
        deadlines = (self.deadline_s, route.deadline_s, self.tenant.max_deadline_s)
        return Job(
            id=self.id,
            profile=target.profile,
            tenant=self.tenant.name,
            turn=turn,
            queue_budget_s=target.queue_budget_s,
            size=size,
            media=media,
            weight=self.tenant.weight,
            priority=priority,
            deadline_s=min((each for each in deadlines if each is not None), default=None),
            seats=self.tenant.seats,
            queue_share=self.tenant.queue_max or target.tenant_queue_max,
            model=route.public,
            tap=self.trace,
        )


async def read_asked(request: web.Request) -> Asked:
    """Check the key, count the request, then read its headers and its body.

    Raises:
        ApiError: the key, the key's contract, a header or the body.
    """
    service = request.app[SERVICE]
    tenant = service.current.keyring.tenant(request.headers.get(hdrs.AUTHORIZATION))
    request[FACTS]["tenant"] = tenant.name
    request[TENANT] = tenant
    count(tenant, asyncio.get_running_loop().time())
    wanted, deadline_s = read_priority(request.headers), read_deadline_s(request.headers)
    mode = read_output_mode(request.headers)
    limits = service.current.settings.server
    with service.room.claim(tenant.name, limits.max_held_bytes) as take:
        body = await _body(request, limits, take)
    trace = service.traces.choose(request[REQUEST_ID], request.headers)
    return Asked(request[REQUEST_ID], tenant, wanted, deadline_s, mode, body, trace)


async def read_pictures(service: Service, asked: Asked, question: Q, route: Route) -> tuple[Q, Route]:
    """The question with all its images, and its route as it is now: another one may have been configured meanwhile.

    Raises:
        ApiError: an image, or the model is there no more.
    """
    current = service.current
    with service.room.claim(asked.tenant.name, current.settings.server.max_held_bytes) as take:
        fetching = Fetching(current.fetches, service.observability.numbers.fetch_s())
        question = await with_pictures(question, current.settings.images, take, fetching, seen=route.sees_images)
    found = route if service.current is current else asked.find(service.current)(question.model)
    if found is None:
        raise model_not_found(question.model)
    return question, found


def check_route(question: Question, route: Route, target: Target) -> None:
    """Whether what is asked can be had there.

    Raises:
        ApiError: 400, with the parameter that is too much.
    """
    if question.effort is not None and route.efforts and question.effort not in route.efforts:
        raise invalid(f"reasoning.effort must be one of: {', '.join(route.efforts)}", "reasoning.effort")
    if target.is_strict and question.ignored:
        raise unsupported(question.ignored[0])


async def _body(request: web.Request, limits: ServerSettings, take: Take) -> bytes:
    """The request's body, unpacked; its size, its time and its encodings are bounded."""
    if hdrs.CONTENT_TYPE in request.headers and request.content_type != "application/json":
        raise ApiError(
            status=415,
            message="Content-Type must be application/json",
            type="invalid_request_error",
            code="unsupported_media_type",
        )
    body = bytearray()
    try:
        has_come = request.content.is_eof()  # most have, with their head
        async with nullcontext() if has_come else asyncio.timeout(limits.body_timeout_s):
            async for piece in request.content.iter_any():  # not request.read(), which keeps a copy with the request
                take(len(piece))
                body += piece
                if len(body) > limits.max_body_bytes:
                    raise too_large()
    except TimeoutError:
        raise ApiError(
            status=408, message="the body came too slowly", type="invalid_request_error", code="request_timeout"
        ) from None
    return unpacked(bytes(body), request.headers.get(hdrs.CONTENT_ENCODING, ""), limits.max_body_bytes)


def submit(service: Service, job: Job, plan: Plan, tenant: Tenant) -> Ticket:
    """A ticket for the job, which is for the first of `plan`, or for the same job at the next that has room for it.

    Raises:
        ApiError: none has; it says when the first of them may have.
    """
    refusals: list[tuple[str, Rejected]] = []
    for target in plan:
        each = job if target is plan[0] else _moved(job, target, tenant)
        if target.as_transcript:
            each = replace(each, turn=as_transcript(each.turn))
        try:
            ticket = service.scheduler.submit(each)
        except (NotReady, QueueFull, WaitTooLong) as refusal:
            refusals.append((each.profile, refusal))
        except Rejected as rejection:
            raise from_rejection(rejection) from None
        else:
            for profile, why in refusals:
                service.observability.fell_back(profile, why)
            return ticket
    raise from_rejection(min((refusal for _, refusal in refusals), key=lambda refusal: refusal.retry_after_s))


def _moved(job: Job, target: Target, tenant: Tenant) -> Job:
    """The same job, for somebody else."""
    return replace(
        job,
        profile=target.profile,
        turn=replace(job.turn, model=target.model),
        queue_budget_s=job.queue_budget_s if job.is_patient else target.queue_budget_s,
        queue_share=tenant.queue_max or target.tenant_queue_max,
    )

"""`loadtest.open_loop`: when requests are sent, and what their latency is counted from."""

from __future__ import annotations

import asyncio
import statistics
from itertools import pairwise

import pytest
from aiohttp import web

from loadtest.bench_client import WORD
from loadtest.open_loop import Crowd, OpenPlan, Stage, arrivals


def a_plan(rate: float = 100.0, seconds: float = 100.0, **fields: float) -> OpenPlan:
    return OpenPlan(port=0, key="k", model="m", stages=((rate, seconds),), **fields)  # type: ignore[arg-type]


def gaps(plan: OpenPlan) -> list[float]:
    return [later - earlier for earlier, later in pairwise(at for at, _ in arrivals(plan))]


@pytest.mark.parametrize("cv", [0.0, 1.0, 3.0])
def test_requests_arrive_at_the_rate_and_as_unevenly_as_planned(cv: float) -> None:
    between = gaps(a_plan(cv=cv))
    assert statistics.mean(between) == pytest.approx(0.01, rel=0.1)
    assert statistics.stdev(between) / statistics.mean(between) == pytest.approx(cv, rel=0.15, abs=1e-6)


def test_the_same_seed_is_the_same_load() -> None:
    assert list(arrivals(a_plan(seed=3))) == list(arrivals(a_plan(seed=3))) != list(arrivals(a_plan(seed=4)))


def test_stages_follow_each_other() -> None:
    plan = OpenPlan(port=0, key="k", model="m", stages=((10.0, 0.95), (0.0, 1.0), (20.0, 0.98)), cv=0.0)
    moments = list(arrivals(plan))
    assert [stage for _, stage in moments] == [0] * 9 + [2] * 19
    assert moments[9][0] == pytest.approx(2.0)


def event(text: str) -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % text.encode()


async def served(handler: object, **fields: float) -> Stage:
    """What came of ten requests in a second on a server of this one handler."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)  # type: ignore[arg-type]
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        plan = {"stages": ((10.0, 1.05),), "cv": 0.0, "deltas": 2, **fields}
        crowd = Crowd(OpenPlan(port=runner.addresses[0][1], key="k", model="m", **plan))  # type: ignore[arg-type]
        (stage,) = await crowd.run()
        return stage
    finally:
        await runner.cleanup()


async def test_latency_counts_from_when_a_request_should_have_been_sent() -> None:
    loop = asyncio.get_running_loop()
    is_first = True

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal is_first
        if is_first:  # everything on this loop stands still, the sender too
            is_first, until = False, loop.time() + 0.5
            while loop.time() < until:
                pass
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(event(WORD) * 2 + b"data: [DONE]\n\n")
        return response

    stage = await served(answer)
    assert (stage.offered, stage.answered, stage.wrong) == (10, 10, 0)
    assert stage.answer_ms["max"] > 450
    assert stage.answer_ms["p50"] > 50
    assert stage.first_token_ms["max"] <= stage.answer_ms["max"]


async def test_refusals_are_counted_by_their_reason_and_half_answers_as_wrong() -> None:
    number = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal number
        number += 1
        if number <= 6:
            return web.json_response({"error": {"code": "queue_full"}}, status=503)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(event(WORD) + b"data: [DONE]\n\n")
        return response

    stage = await served(answer)
    assert (stage.answered, stage.refused, stage.wrong) == (0, {"503 queue_full": 6}, 4)
    assert stage.goodput == 0


async def test_a_client_whose_patience_ends_hangs_up() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    stage = await served(answer, patience_s=0.05)
    assert (stage.offered, stage.left, stage.answered) == (10, 10, 0)

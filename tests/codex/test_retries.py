"""A provider that fails is asked again by the service and by nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from loadtest.model_standin import ModelStandin
from pool.events import Fault, FaultKind, TextDelta
from scheduler.model import Ended, QueuePolicy
from scheduler.scheduler import Scheduler
from tests.support.jobs import a_job
from tests.support.pools import RunningPool, asking, script

WAIT_S = 20.0
Ask = Callable[..., Any]
FAILURES: dict[str, dict[str, Any]] = {
    "500": {"status": 500, "error": {"message": "oops", "code": "server_error"}},
    "503": {"status": 503, "error": {"message": "full"}},
    "overloaded": {"failed": "server_is_overloaded"},
    "server error": {"failed": "server_error"},
    "a broken stream": {"disconnect": "first"},
    "a rate limit that says when": {
        "failed": {"code": "rate_limit_exceeded", "message": "Slow down. Please try again in 1.3s."}
    },
}


@pytest.fixture
async def ask(real: RunningPool) -> Ask:
    scheduler = Scheduler(real.pool, {real.profile.name: QueuePolicy(queue_max=64)})
    real.pool.on_freed = scheduler.seats_freed

    async def asked(**directive: Any) -> tuple[str, Fault | None]:
        ticket = scheduler.submit(a_job(profile=real.profile.name, turn=asking(script(**directive))))
        text = ""
        async with asyncio.timeout(WAIT_S):
            while (events := await ticket.read()) or ticket.outcome is None:
                text += "".join(event.text for event in events if isinstance(event, TextDelta))
        assert isinstance(ticket.outcome, Ended)
        return text, ticket.outcome.end.fault

    return asked


@pytest.mark.parametrize("failure", FAILURES.values(), ids=list(FAILURES))
async def test_a_failure_that_passes_is_asked_about_once_more(
    ask: Ask, standin: ModelStandin, failure: dict[str, Any]
) -> None:
    began_at = asyncio.get_running_loop().time()
    assert await ask(text="Here I am.", fails=1, **failure) == ("Here I am.", None)
    assert len(standin.requests) == 2
    if failure is FAILURES["a rate limit that says when"]:
        assert asyncio.get_running_loop().time() - began_at >= 1.3


async def test_a_failure_that_lasts_is_asked_about_twice(ask: Ask, standin: ModelStandin) -> None:
    _, fault = await ask(**FAILURES["503"])
    assert fault is not None
    assert fault.kind is FaultKind.OVERLOADED
    assert len(standin.requests) == 2


@pytest.mark.parametrize(
    ("directive", "kind"),
    [
        ({"status": 429, "error": {"message": "slow"}, "retry_after": 1}, FaultKind.RATE_LIMIT),
        ({"status": 400, "error": {"message": "bad"}}, FaultKind.BAD_REQUEST),
        ({"text": "some", "failed": "server_error"}, FaultKind.UPSTREAM),
    ],
)
async def test_what_says_no_end_is_no_use_or_has_begun_is_not_asked_again(
    ask: Ask, standin: ModelStandin, directive: dict[str, Any], kind: FaultKind
) -> None:
    _, fault = await ask(**directive)
    assert fault is not None
    assert fault.kind is kind
    assert len(standin.requests) == 1


async def test_a_provider_that_is_not_there_is_tried_twice(ask: Ask, standin: ModelStandin) -> None:
    await standin.__aexit__(None, None, None)
    began_at = asyncio.get_running_loop().time()
    _, fault = await ask(text="never")
    assert fault is not None
    assert fault.kind is FaultKind.UPSTREAM_UNREACHABLE
    assert asyncio.get_running_loop().time() - began_at >= 0.25

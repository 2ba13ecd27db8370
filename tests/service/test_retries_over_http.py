"""What a client sees of a provider that fails: nothing if that passes soon, else with what, and when to come back."""

from __future__ import annotations

import time
from typing import Any

import pytest
from aiohttp import ClientTimeout

from tests.support.services import KEY, RunningService, scripted

SLOW_DOWN: dict[str, Any] = {
    "failed": {"code": "rate_limit_exceeded", "message": "Slow down. Please try again in 300ms."}
}
FAILURES: dict[str, dict[str, Any]] = {
    "500": {"status": 500, "error": {"message": "oops", "code": "server_error"}},
    "503": {"status": 503, "error": {"message": "full"}},
    "overloaded": {"failed": "server_is_overloaded"},
    "a broken stream": {"disconnect": "first"},
    "a rate limit that says when": SLOW_DOWN,
}


def returned(api: RunningService) -> float:
    """How many turns were given another try."""
    reasons = ("upstream_error", "upstream_overloaded", "upstream_unreachable", "rate_limit_exceeded")
    return sum(api.counted("redispatches_total", profile="default", reason=reason) for reason in reasons)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("failure", FAILURES.values(), ids=list(FAILURES))
async def test_of_a_failure_that_passes_nothing_is_seen(
    api: RunningService, failure: dict[str, Any], stream: bool
) -> None:
    before = returned(api)
    answer = await api.chat(scripted(text="Here I am.", fails=1, **failure), stream=stream)
    assert answer.status == 200
    assert (answer.stream.text if stream else answer.text) == "Here I am."
    assert returned(api) == before + 1
    await api.until_at_rest()


async def test_a_failure_that_lasts_is_told_after_the_second_try(api: RunningService) -> None:
    before = returned(api)
    answer = await api.chat(scripted(text="never", fails=2, **FAILURES["500"]))
    assert (answer.status, answer.code) == (502, "upstream_error")
    assert returned(api) == before + 1


async def test_the_providers_own_word_is_waited_for(api: RunningService) -> None:
    began_at = time.perf_counter()
    assert (await api.chat(scripted(text="ok", fails=1, **SLOW_DOWN))).text == "ok"
    assert time.perf_counter() - began_at >= 0.3


@pytest.mark.parametrize(
    ("message", "least_s"), [("Please try again in 40s.", 40), ("Please try again some day.", 5), ("", 5)]
)
async def test_a_rate_limit_that_is_too_long_or_says_no_end_is_told_at_once(
    api: RunningService, message: str, least_s: int
) -> None:
    before = returned(api)
    failed = {"code": "rate_limit_exceeded", "message": f"Slow down. {message}"}
    answer = await api.chat(scripted(text="never", fails=1, failed=failed))
    assert (answer.status, answer.code) == (429, "rate_limit_exceeded")
    assert least_s <= int(answer.headers["Retry-After"]) <= 1.25 * least_s + 1
    assert returned(api) == before


@pytest.mark.parametrize(
    "directive",
    [
        {"text": "", "status": 400, "error": {"message": "bad"}},
        {"text": "", "status": 401, "error": {"message": "no"}},
        {"text": "some", "failed": "server_error"},
        {"reasoning": "I think", "failed": "server_error"},
    ],
)
async def test_what_would_be_the_same_or_has_begun_is_not_tried_again(
    api: RunningService, directive: dict[str, Any]
) -> None:
    before = returned(api)
    answer = await api.chat(scripted(**directive), stream=True)
    assert answer.status >= 400 or answer.stream.errors
    assert returned(api) == before


async def test_a_client_without_the_time_is_told_at_once(api: RunningService) -> None:
    before = returned(api)
    answer = await api.chat(
        scripted(text="never", fails=1, **FAILURES["503"]), headers={"x-request-deadline-ms": "200"}
    )
    assert (answer.status, answer.code) == (503, "upstream_overloaded")
    assert int(answer.headers["Retry-After"]) >= 1
    assert returned(api) == before


async def test_a_client_that_leaves_while_its_job_rests_leaves_nothing(api: RunningService) -> None:
    failed = {"code": "rate_limit_exceeded", "message": "Please try again in 8s."}
    with pytest.raises(TimeoutError):
        await api.call(
            "POST",
            "/v1/chat/completions",
            json={"model": "codex-5", "messages": [{"role": "user", "content": scripted(failed=failed)}]},
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=ClientTimeout(total=0.5),
        )
    await api.until_at_rest(5.0)

"""Models, health and metrics: what machines and their keepers ask for."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from loadtest.fake_app_server import write_launcher
from pool.errors import EnvironmentUnfit
from service.handlers.ops import _is_local
from service.scraping import metrics_site
from tests.support.services import AUTHORIZED, Answer, RunningService, running_service, scripted, until

DOCUMENTED = frozenset(
    re.findall(
        r"^\| `(codex_completions_\w+)` \|",
        Path(__file__).parents[2].joinpath("docs/metrics.md").read_text(),
        re.MULTILINE,
    )
)

PREDECESSORS_MODELS = [
    "codex-5",
    "codex-5-low",
    "codex-5-medium",
    "codex-5-high",
    "gpt-5.2-codex-L",
    "gpt-5.2-codex-M",
    "gpt-5.2-codex-H",
    "gpt-5.2-codex-XH",
    "gpt-5.2-LOCAL",
]


# --- models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/"])
async def test_the_default_models_are_the_predecessors(api: RunningService, path: str) -> None:
    answer = await api.get(path)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "public, max-age=60"
    assert answer.json == {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": 0, "owned_by": "codex"} for name in PREDECESSORS_MODELS],
    }
    assert (await api.call("HEAD", path)).status == 200


async def test_a_model_is_found_in_any_case_and_told_in_its_own(tmp_path: Path) -> None:
    async with running_service(tmp_path, models={"Big-Model": {"effort": "high"}}) as api:
        assert [model["id"] for model in (await api.get("/v1/models")).json["data"]] == ["Big-Model"]
        for name in ("Big-Model", "big-model", "BIG-MODEL"):
            one = await api.get(f"/v1/models/{name}")
            assert one.json == {"id": "Big-Model", "object": "model", "created": 0, "owned_by": "codex"}
            assert (await api.chat(model=name)).status == 200
        for absent in ("codex-5", "big"):
            missing = await api.get(f"/v1/models/{absent}")
            assert (missing.status, missing.code, missing.error["param"]) == (404, "model_not_found", "model")


async def test_protected_models_need_a_key_and_stay_out_of_shared_caches(tmp_path: Path) -> None:
    async with running_service(tmp_path, server={"protect_models": True}) as api:
        for path in ("/v1/models", "/v1/models/codex-5", "/v1/models/nobody"):
            refused = await api.get(path)
            assert (refused.status, refused.code) == (401, "invalid_api_key")
            assert refused.headers["WWW-Authenticate"] == "Bearer realm=api"
        allowed = await api.get("/v1/models", headers=AUTHORIZED)
        assert allowed.status == 200
        assert allowed.headers["Cache-Control"] == "private, max-age=60"


# --- health ------------------------------------------------------------------------------------------------------


async def until_answered(api: RunningService, path: str, status: int, bound_s: float) -> Answer:
    """The first answer with this status."""
    async with asyncio.timeout(bound_s):
        while (answer := await api.get(path)).status != status:
            pass
        return answer


def leaves(value: Any) -> list[Any]:
    """Every key and every plain value in it."""
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in (key, *leaves(item))]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


async def test_a_healthy_service_says_so(api: RunningService) -> None:
    supervisor = {
        "enabled": True,
        "running": True,
        "ready": True,
        "shutdown_in_flight": False,
        "restarts_total": 0,
        "last_exit": None,
        "profiles": {
            "default": {
                "workers": {"ready": 1},
                "seats": 4,
                "seats_free": 4,
                "version": "0.163.0",
                "last_failure": None,
                "breaker_open": False,
                "outdated": 0,
            }
        },
    }
    queue = {"waiting": 0, "running": 0, "oldest_wait_s": 0.0, "seats_limit": None, "overloaded": False}
    common = {"backend_mode": "app-server", "app_server_enabled": True, "worker_supervisor": supervisor}
    readiness, liveness = {"ready": True, "reason": "handshake_complete"}, {"live": True, "reason": "serving"}
    healthz, readyz, livez = [await api.get(path) for path in ("/healthz", "/readyz", "/livez")]
    assert [healthz.status, readyz.status, livez.status] == [200, 200, 200]
    both = {"readiness": readiness, "liveness": liveness}
    told = healthz.json
    assert told["queues"]["default"].pop("predicted_wait_s") >= 0
    same = {"ok": True, "sandbox_mode": "read-only", "health": both, **common}
    assert told == same | {"queues": {"default": queue}, "maintenance": False}
    assert readyz.json == {"ok": True, "health": {"readiness": readiness}, **common}
    assert livez.json == {"ok": True, "health": {"liveness": liveness}, **common}


async def test_readiness_follows_the_only_worker_down_and_up(api: RunningService) -> None:
    (pid,) = api.worker_pids()
    os.kill(pid, signal.SIGKILL)
    down = await until_answered(api, "/readyz", 503, 5.0)
    assert down.json["ok"] is False
    assert down.json["health"]["readiness"] == {"ready": False, "reason": "worker_not_ready"}
    assert (await api.get("/livez")).status == 200, "no reason to kill the service around it"
    healthz = await api.get("/healthz")
    assert (healthz.status, healthz.json["ok"]) == (200, False)
    up = await until_answered(api, "/readyz", 200, 10.0)
    supervisor = up.json["worker_supervisor"]
    assert supervisor["restarts_total"] == 1
    assert supervisor["last_exit"] == {"code": -9, "reason": "it was killed by signal 9"}
    assert supervisor["profiles"]["default"]["last_failure"] == "it was killed by signal 9"
    assert (await api.chat()).status == 200


async def test_no_answer_names_a_process(api: RunningService) -> None:
    (worker,) = api.worker_pids()
    pids = {os.getpid(), worker}
    os.kill(worker, signal.SIGKILL)
    await until(lambda: api.service.observability.last_exit is not None)
    for path in ("/healthz", "/readyz", "/livez"):
        said = leaves((await api.get(path)).json)
        assert not [leaf for leaf in said if isinstance(leaf, str) and "pid" in leaf]
        assert not pids & {leaf for leaf in said if isinstance(leaf, int)}
        assert not [leaf for leaf in said if isinstance(leaf, str) and any(str(pid) in leaf for pid in pids)]


async def test_a_profile_without_a_worker_makes_the_service_unready_and_no_other_profile_worse(tmp_path: Path) -> None:
    launcher = write_launcher(tmp_path / "sick-codex", "--initialize", "exit")
    sick = {"codex_bin": launcher, "anonymous": True, "workers": 1, "queue_budget_s": 0.2}
    models = {"good": {}, "bad": {"profile": "sick"}}
    async with running_service(tmp_path, others={"sick": sick}, models=models) as api:
        ready = await api.get("/readyz")
        assert ready.status == 503
        profiles = ready.json["worker_supervisor"]["profiles"]
        assert profiles["default"]["seats_free"] == 4
        assert profiles["sick"]["seats_free"] == 0
        assert (await api.chat(model="good")).status == 200
        refused = await api.chat(model="bad")
        assert (refused.status, refused.code) == (503, "queue_timeout")


async def test_a_profile_that_is_not_required_makes_nobody_unready(tmp_path: Path) -> None:
    launcher = write_launcher(tmp_path / "old-codex", "--version-string", "0.100.0")
    canary = {"codex_bin": launcher, "anonymous": True, "workers": 1, "required": False}
    models = {"good": {"targets": [{"profile": "default", "weight": 1}, {"profile": "canary", "weight": 0}]}}
    async with running_service(tmp_path, others={"canary": canary}, models=models) as api:
        ready = await api.get("/readyz")
        assert ready.status == 200
        assert ready.json["worker_supervisor"]["profiles"]["canary"]["seats_free"] == 0
        await until(lambda: "too old" in str(api.service.pool.snapshot()[1].last_failure))
        assert (await api.chat(model="good")).status == 200


async def test_a_draining_service_is_alive_and_takes_nothing_new(api: RunningService) -> None:
    running = await api.begin(scripted(chunks=["tick "], repeat=50, interval_s=0.01))
    api.service.scheduler.drain()
    ready = await api.get("/readyz")
    assert ready.status == 503
    assert ready.json["health"]["readiness"] == {"ready": False, "reason": "shutdown_in_progress"}
    assert ready.json["worker_supervisor"]["shutdown_in_flight"] is True
    assert (await api.get("/livez")).status == 200
    for stream in (False, True):
        refused = await api.chat(stream=stream)
        assert (refused.status, refused.code) == (503, "draining")
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.headers["Connection"] == "close"
    assert (await running.read()).endswith(b"data: [DONE]\n\n")


# --- metrics -----------------------------------------------------------------------------------------------------


def families(answer: Answer) -> set[str]:
    """Our own metrics, named as in the documentation."""
    assert answer.status == 200
    found = text_string_to_metric_families(answer.raw.decode())
    names = {f"{family.name}_total" if family.type == "counter" else family.name for family in found}
    return {name for name in names if name.startswith("codex_completions_")}


async def test_metrics_has_every_documented_family_and_no_other(api: RunningService) -> None:
    assert len(DOCUMENTED) >= 20
    assert families(await api.get("/metrics")) == DOCUMENTED
    await api.chat()
    await api.chat(scripted(status=500))
    assert families(await api.get("/metrics")) == DOCUMENTED


async def test_metrics_count_what_happened(tmp_path: Path) -> None:
    async with running_service(tmp_path) as api:
        usage = {"input_tokens": 100, "cached_tokens": 40, "output_tokens": 20, "reasoning_tokens": 5}
        await api.chat(scripted(text="x", usage=usage))
        await api.chat(scripted(status=500), stream=True)
        await api.chat(model="nobody")
        await api.get("/nowhere/a-path-that-is-no-label")
        await api.until_at_rest()
        default = {"profile": "default"}
        assert api.counted("turns_total", **default, outcome="stop") == 1
        assert api.counted("turns_total", **default, outcome="upstream_error") == 1
        kinds = {"input": 100, "cached_input": 40, "output": 20, "reasoning_output": 5}
        whose = {"model": "codex-5", "tenant": "default"}
        assert {kind: api.counted("tokens_total", **default, **whose, kind=kind) for kind in kinds} == kinds
        chat = {"route": "/v1/chat/completions"}
        answered = {
            status: api.counted("http_requests_total", **chat, status=status) for status in ("200", "502", "404")
        }
        assert answered == {"200": 1, "502": 1, "404": 1}
        assert api.counted("http_requests_total", route="unknown", status="404") == 1
        assert api.counted("http_errors_total", **chat, code="model_not_found") == 1
        assert api.counted("first_token_seconds_count", **default) == 1
        assert api.counted("relay_delay_seconds_count") == 1
        assert api.counted("output_token_seconds_count", **default) == 0, "it has thought"
        assert api.counted("queue_wait_seconds_count", **default, end="served") == 2
        assert api.counted("admissions_total", **default, decision="run") == 2
        await until(lambda: api.counted("turn_start_seconds_count", **default) == 2)
        assert api.counted("worker_boots_total", **default, result="ready") == 1
        assert api.counted("workers", **default, state="ready") == 1
        assert api.counted("seats", **default) == api.counted("seats_free", **default) == 4
        (pid,) = api.worker_pids()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: api.counted("worker_exits_total", **default, code="-9") == 1)
        assert b"a-path-that-is-no-label" not in (await api.get("/metrics")).raw


async def test_how_late_the_loop_is_and_what_is_configured_can_be_read(api: RunningService) -> None:
    await until(lambda: api.counted("loop_lag_seconds_count") >= 2)
    assert api.counted("loop_lag_seconds_sum") < api.counted("loop_lag_seconds_count")
    assert api.counted("config_generation") == 1
    assert api.counted("worker_rss_bytes", profile="default") >= 0
    assert api.counted("retry_tokens", profile="default") >= 3
    quiet = ("breaker_open", "panic", "workers_outdated", "codel_overloaded", "poison_marks", "oldest_wait_seconds")
    assert {name: api.counted(name, profile="default") for name in quiet} == dict.fromkeys(quiet, 0)


async def test_metrics_are_shown_to_other_hosts_only_with_a_key(
    api: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await api.get("/metrics")).status == 200
    monkeypatch.setattr("service.handlers.ops._is_local", lambda _remote: False)
    refused = await api.get("/metrics")
    assert (refused.status, refused.code) == (401, "invalid_api_key")
    assert b"codex_completions_" not in refused.raw
    assert (await api.get("/metrics", headers=AUTHORIZED)).status == 200


async def test_a_proxy_on_this_host_speaks_for_other_hosts(api: RunningService) -> None:
    for header in ("X-Forwarded-For", "X-Real-IP", "Forwarded"):
        assert (await api.get("/metrics", headers={header: "192.0.2.7"})).status == 401


async def test_metrics_may_have_an_address_of_their_own_and_then_clients_have_none(tmp_path: Path) -> None:
    async with running_service(tmp_path, server={"metrics_port": 0}) as api:
        refused = await api.get("/metrics", headers=AUTHORIZED)
        assert (refused.status, refused.code) == (404, "unknown_url")
        async with metrics_site(api.service) as url, api.session.get(str(url)) as response:
            assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert families(Answer(response.status, response.headers, await response.read())) == DOCUMENTED
        taken = api.service.current.settings.server.model_copy(update={"metrics_port": api.port})
        api.service.current = replace(
            api.service.current, settings=api.service.current.settings.model_copy(update={"server": taken})
        )
        with pytest.raises(EnvironmentUnfit, match="metrics: cannot listen"):
            async with metrics_site(api.service):
                pass


async def test_metrics_can_be_opened_to_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.handlers.ops._is_local", lambda _remote: False)
    async with running_service(tmp_path, server={"open_metrics": True}) as api:
        assert (await api.get("/metrics")).status == 200


@pytest.mark.parametrize(
    ("remote", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("192.0.2.7", False),
        ("2001:db8::1", False),
        ("::ffff:192.0.2.7", False),
        ("0.0.0.0", False),  # noqa: S104 - only read
        ("localhost", False),
        ("", False),
        (None, False),
    ],
)
def test_only_this_host_is_local(remote: str | None, is_local: bool) -> None:
    assert _is_local(remote) is is_local

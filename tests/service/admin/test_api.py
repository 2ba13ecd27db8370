"""The operators' API: what it shows, what it does, what it refuses, and the account that is kept of it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pool.worker_state import WorkerId
from service.admin.access import FAILURES_PER_MINUTE, MAX_SESSIONS, Access
from service.admin.actions import ACTIONS
from service.lifecycle import serve
from service.settings import AdminSettings, load
from tests.service.conftest import Log
from tests.support.operating import ADMIN, ADMIN_KEY, admin_key, operating
from tests.support.services import ENVIRON, KEY, key, scripted, settings, until

SLOW = scripted(chunks=["tick "], repeat=100_000, interval_s=0.01)
A_WHILE = scripted(chunks=["tick "], repeat=60, interval_s=0.01)
ALICE = "alices-key-0123456789-abcdef"
CANARY = {"anonymous": True, "workers": 1, "slots": 1, "probation_s": 0}


# --- who may ------------------------------------------------------------------------------------------------------


async def test_only_operators_keys_open_it(tmp_path: Path, log: Log) -> None:
    async with operating(tmp_path) as anna:
        for wrong in ("", "nonsense", KEY, ADMIN_KEY[:-1]):
            refused = await anna.call("GET", "/admin/api/status", key=wrong)
            assert (refused.status, refused.code) == (401, "invalid_api_key")
            assert refused.headers["WWW-Authenticate"] == "Bearer realm=api"
        basic = await anna.call("GET", "/admin/api/status", headers={"Authorization": f"Basic {ADMIN_KEY}"})
        assert basic.status == 401
        assert (await anna.call("GET", "/admin/api/status")).status == 200
        assert (await anna.api.chat(headers={"Authorization": f"Bearer {ADMIN_KEY}"})).status == 401
        assert (await anna.api.get("/admin/api/status")).code == "unknown_url", "it is not where clients are"
    assert [line["where"] for line in log.of("operator.refused")] == ["api"] * 5
    assert ADMIN_KEY not in log.raw


async def test_no_action_is_done_without_a_key(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna:
        for action in ACTIONS.values():
            path = action.path.partition("{")[0]
            refused = await anna.call(
                action.method, path + ("default/0.1/restart" if "workers" in path else "x"), key=""
            )
            assert refused.status in (401, 404), path
        for path in ("/admin/api/maintenance", "/admin/api/pause"):
            assert (await anna.call("PUT", path, key="wrong")).status == 401
        assert not anna.api.service.scheduler.is_draining


async def test_too_many_wrong_keys_are_not_logged_and_a_right_one_is_still_taken(tmp_path: Path, log: Log) -> None:
    async with operating(tmp_path) as anna:
        statuses = [
            (await anna.call("GET", "/admin/api/status", key="no")).status for _ in range(FAILURES_PER_MINUTE + 5)
        ]
        assert statuses == [401] * FAILURES_PER_MINUTE + [429] * 5
        assert (await anna.call("GET", "/admin/api/status")).status == 200
    assert len(log.of("operator.refused")) == FAILURES_PER_MINUTE


async def test_a_key_that_a_reload_takes_away_opens_nothing_more(tmp_path: Path) -> None:
    other = "bertas-key-0123456789-abcdefg"
    async with operating(tmp_path) as anna:
        assert await anna.sign_in() == 200
        await anna.api.reload(admin={"port": 0, "keys": [admin_key("berta", other)]})
        assert (await anna.call("GET", "/admin/api/status")).status == 401
        assert "Operator's key" in (await anna.page()).replace("&#39;", "'")
        assert (await anna.call("GET", "/admin/api/status", key=other)).status == 200


def test_sessions_are_bounded_and_end() -> None:
    access, told = Access(), AdminSettings(port=0, keys=[admin_key("anna", ADMIN_KEY)], session_s=60)
    found = access.operator(told, ADMIN_KEY)
    assert found is not None
    tokens = [access.sign_in(told, *found, 1000.0) for _ in range(MAX_SESSIONS + 1)]
    assert access.session(told, tokens[0], 1000.0) is None
    assert access.session(told, tokens[1], 1059.0) is not None
    assert access.session(told, tokens[1], 1060.0) is None
    access.sign_out(tokens[2])
    assert access.session(told, tokens[2], 1000.0) is None
    assert access.session(AdminSettings(), tokens[3], 1000.0) is None


@pytest.mark.parametrize(
    ("table", "refusal"),
    [
        ({"port": 0}, "it has a port and no keys"),
        ({"port": 0, "keys": [admin_key("a", ADMIN_KEY), admin_key("a", ALICE)]}, "a name of its own"),
        ({"port": 0, "keys": [admin_key("a", KEY)]}, "no key of an operator"),
        ({"port": 0, "keys": [admin_key("a", "changeme")]}, "a key that everybody knows"),
    ],
)
def test_an_operators_side_that_is_unsafe_is_refused(tmp_path: Path, table: dict[str, Any], refusal: str) -> None:
    with pytest.raises(ValueError, match=refusal):
        settings(tmp_path, admin=table)


def test_it_is_off_unless_configured_and_on_loopback() -> None:
    assert load(None, {}).admin == AdminSettings()
    assert (AdminSettings().port, AdminSettings().host) == (None, "127.0.0.1")


# --- what it shows ------------------------------------------------------------------------------------------------


async def test_the_status_tells_everything_at_a_glance(tmp_path: Path) -> None:
    models = {"m": {"targets": [{"profile": "default", "weight": 3}, {"profile": "canary", "weight": 1}]}}
    others = {"canary": CANARY | {"codex_bin": tmp_path / "codex"}}
    keys = [key("alice", ALICE, requests_per_minute=10, seats=1)]
    async with operating(tmp_path, models=models, others=others, keys=keys, profile={"seats_limit": 1}) as anna:
        running = await anna.api.begin(SLOW, model="m", key=ALICE)
        profile = {"default": "canary", "canary": "default"}
        await until(lambda: anna.api.running == 1)
        told = await anna.status()
        assert told["service"]["state"] == "serving"
        assert told["maintenance"]["on"] is False
        rows = {row["profile"]: row for row in told["profiles"]}
        assert rows.keys() == profile.keys()
        assert rows["default"]["limits"]["seats_limit"] == rows["default"]["queue"]["seats_limit"] == 1
        assert sum(row["queue"]["running"] for row in rows.values()) == 1
        (worker,) = rows["default"]["workers"]
        assert (worker["worker"], worker["state"]) == ("default/0.1", "ready")
        (wait,) = told["waits"]
        assert (wait["tenant"], wait["priority"], wait["running"], wait["waiting"]) == ("alice", "standard", 1, 0)
        (alice,) = told["keys"]
        assert (alice["key"], alice["running"], alice["remaining"]) == ("alice", 1, {"requests": 9, "tokens": None})
        (model,) = told["models"]
        assert [(each["profile"], each["share"]) for each in model["targets"]] == [("default", 0.75), ("canary", 0.25)]
        assert told["failures"] == told["actions"] == []
        running.close()


async def test_a_ticket_has_a_story_by_its_requests_id_open_and_over(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna:
        running = await anna.api.begin(A_WHILE)
        (row,) = (await anna.call("GET", "/admin/api/tickets")).json["tickets"]
        assert row["id"] == running.headers["x-request-id"]
        assert (row["state"], row["worker"], row["attempts"]) == ("running", "default/0.1", 1)
        story = (await anna.call("GET", f"/admin/api/tickets/{row['id']}")).json
        assert [line["what"] for line in story["lines"]] == ["submitted", "running", "a seat on default/0.1"]
        await running.read()
        await anna.api.until_at_rest()
        over = (await anna.call("GET", f"/admin/api/tickets/{row['id']}")).json
        assert (over["state"], over["lines"][-2]["what"]) == ("over", "ended: stop")
        assert (await anna.call("GET", "/admin/api/tickets/req_0")).code == "ticket_not_found"


async def test_a_failure_is_shown_with_the_request_that_failed(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna:
        failed = await anna.api.chat(scripted(status=500))
        streamed = await anna.api.chat(scripted(text="a b c", failed="server_error"), stream=True)
        await anna.api.chat()
        await anna.api.chat(model="nobody")
        rows = (await anna.status())["failures"]
        assert [row["request_id"] for row in rows] == [each.headers["x-request-id"] for each in (streamed, failed)]
        assert [(row["status"], row["code"], row["tenant"]) for row in rows] == [
            (200, "upstream_error", "default"),
            (502, "upstream_error", "default"),
        ]


async def test_a_worker_has_a_story_also_when_it_is_gone(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna:
        here = (await anna.call("GET", "/admin/api/workers/default/0.1")).json
        assert here["state"] == "ready"
        assert here["story"][-1]["what"].startswith("ready: ")
        (pid,) = anna.api.worker_pids()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: anna.api.ready_workers == 1 and not anna.api.worker_pids() & {pid})
        gone = (await anna.call("GET", "/admin/api/workers/default/0.1")).json
        assert (gone["state"], gone["story"][-1]["what"]) == ("gone", "dead: it was killed by signal 9")
        missing = await anna.call("GET", "/admin/api/workers/default/0.7")
        assert missing.error["message"] == "there is no worker default/0.7; there is default/0.2"
        assert (await anna.call("GET", "/admin/api/workers/default/seven")).error["param"] == "worker"


# --- what it does -------------------------------------------------------------------------------------------------


async def test_maintenance_begins_and_ends_and_every_action_has_a_line(tmp_path: Path, log: Log) -> None:
    async with operating(tmp_path) as anna:
        said = {"message": "moving house", "retry_after_s": 90, "routes": ["/v1/chat"]}
        assert (await anna.call("PUT", "/admin/api/maintenance", json=said)).status == 200
        assert (await anna.api.chat()).error["message"] == "moving house"
        told = (await anna.status())["maintenance"]
        assert (told["on"], told["by"], told["source"]) == (True, "anna", "file")
        wrong = await anna.call("PUT", "/admin/api/maintenance", json={"retry_after_s": -1})
        assert (wrong.status, wrong.error["message"]) == (400, "retry_after_s: Input should be greater than 0")
        unknown = await anna.call("PUT", "/admin/api/maintenance", json={"until": "noon"})
        assert unknown.error["param"] == "until"
        assert (await anna.call("DELETE", "/admin/api/maintenance")).status == 200
        assert (await anna.api.chat()).status == 200
        assert (await anna.call("DELETE", "/admin/api/maintenance")).code == "wrong_state"
        lines = [(line["action"], line["outcome"], line["who"]) for line in log.of("operator.acted")]
        assert lines == [
            ("maintenance.begin", "done", "anna"),
            ("maintenance.begin", "invalid_request_error", "anna"),
            ("maintenance.begin", "invalid_request_error", "anna"),
            ("maintenance.end", "done", "anna"),
            ("maintenance.end", "wrong_state", "anna"),
        ]
        assert log.of("operator.acted")[0]["said"]["message"] == "moving house"
        assert log.of("operator.acted")[0]["remote"] == "127.0.0.1"
        assert anna.api.counted("admin_actions_total", action="maintenance.end", outcome="wrong_state") == 1
        assert (await anna.status())["actions"][0]["action"] == "maintenance.end"


async def test_a_pause_takes_nothing_new_until_it_is_resumed(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna:
        running = await anna.api.begin(A_WHILE)
        assert (await anna.call("PUT", "/admin/api/pause")).status == 200
        assert (await anna.call("PUT", "/admin/api/pause")).code == "wrong_state"
        ready = await anna.api.get("/readyz")
        assert (ready.status, ready.json["health"]["readiness"]["reason"]) == (503, "paused")
        assert (await anna.api.chat()).code == "draining"
        assert (await anna.status())["service"]["state"] == "paused"
        assert (await anna.call("DELETE", "/admin/api/pause")).status == 200
        assert (await anna.api.chat()).status == 200
        assert (await running.read()).endswith(b"data: [DONE]\n\n")
        anna.api.service.scheduler.drain()
        stopping = await anna.call("DELETE", "/admin/api/pause")
        assert stopping.error["message"] == "the service is stopping"


async def test_a_worker_is_restarted_retired_and_quarantined_and_no_answer_is_lost_that_need_not_be(
    tmp_path: Path, log: Log
) -> None:
    async with operating(tmp_path) as anna:
        asking = asyncio.create_task(anna.api.chat(scripted(text="said", delay_s=0.5)))  # noqa: TID251 - beside it
        await until(lambda: anna.api.running == 1)
        assert (await anna.call("POST", "/admin/api/workers/default/0.1/restart")).status == 200
        assert (await asking).text == "said", "nothing was seen of it: it began anew"
        await until(lambda: anna.api.ready_workers == 1)
        running = await anna.api.begin(A_WHILE)
        done = await anna.call("POST", "/admin/api/workers/default/0.2/quarantine")
        assert done.json["message"] == "quarantine of default/0.2 has begun"
        again = await anna.call("POST", "/admin/api/workers/default/0.2/retire")
        assert (again.status, again.error["message"]) == (409, "retire of default/0.2: it is quarantined")
        assert (await running.read()).endswith(b"data: [DONE]\n\n"), "what moves goes on"
        await until(lambda: anna.api.ready_workers == 1)
        assert (await anna.call("POST", "/admin/api/workers/default/0.3/retire")).status == 200
        successor = WorkerId("default", 0, 4)
        await until(lambda: [each.worker for each in anna.api.service.pool.snapshot()[0].each] == [successor])
        missing = await anna.call("POST", "/admin/api/workers/default/0.1/restart")
        assert (missing.status, missing.code) == (404, "worker_not_found")
        assert (await anna.api.chat()).status == 200
        assert {line["reason"] for line in log.of("worker.exited")} <= {
            f"an operator {what} it" for what in ("restarted", "quarantined", "retired")
        }


async def test_limits_change_at_once_and_until_the_next_reload(tmp_path: Path) -> None:
    keys = [key("alice", ALICE, requests_per_minute=1)]
    async with operating(tmp_path, keys=keys) as anna:
        done = await anna.call("PATCH", "/admin/api/profiles/default", json={"workers": 2, "slots": 1, "queue_max": 3})
        assert done.json["message"] == "changed: profiles.default"
        await until(lambda: (anna.api.ready_workers, anna.api.seats) == (2, 2))
        alice = {"Authorization": f"Bearer {ALICE}"}
        assert [(await anna.api.chat(headers=alice)).status for _ in range(2)] == [200, 429]
        await anna.call("PATCH", "/admin/api/keys/alice", json={"requests_per_minute": None, "seats": 1})
        assert [(await anna.api.chat(headers=alice)).status for _ in range(2)] == [200, 200]
        told = await anna.status()
        assert told["service"]["configuration"] == {"generation": 3, "by_hand": ["profiles.default", "keys"]}
        await anna.api.reload(keys=keys)
        assert (await anna.api.chat(headers=alice)).status == 429
        assert (await anna.status())["service"]["configuration"] == {"generation": 4, "by_hand": []}
        await until(lambda: anna.api.seats == 4)


async def test_weights_of_a_canary_change_for_the_next_request(tmp_path: Path) -> None:
    targets = [{"profile": "default", "weight": 1}, {"profile": "canary", "weight": 0, "model": "gpt-5.2"}]
    others = {"canary": CANARY | {"codex_bin": tmp_path / "codex"}}
    async with operating(tmp_path, models={"m": {"targets": targets}, "n": {}}, others=others) as anna:
        path = "/admin/api/models/m"
        assert (await anna.call("PATCH", path, json={"weights": [0, 5]})).status == 200
        await until(lambda: anna.api.ready_workers_of("canary") == 1)
        await anna.api.chat(model="m")
        assert anna.api.counted("turns_total", profile="canary", outcome="stop") == 1
        for weights, status in (([1], 400), ("many", 400), ([0, 0], 400), ([-1, 1], 400), (None, 400)):
            assert (await anna.call("PATCH", path, json={"weights": weights})).status == status
        assert (await anna.call("PATCH", "/admin/api/models/n", json={"weights": [1]})).code == "wrong_state"
        assert (await anna.call("PATCH", "/admin/api/models/nobody", json={"weights": [1]})).code == "model_not_found"


@pytest.mark.parametrize(
    ("path", "said", "status", "code"),
    [
        ("profiles/default", {"workers": 0}, 400, "configuration_refused"),
        ("profiles/default", {"workers": "many"}, 400, "configuration_refused"),
        ("profiles/default", {"base_url": "http://elsewhere"}, 400, "invalid_request_error"),
        ("profiles/nobody", {"workers": 1}, 404, "profile_not_found"),
        ("keys/nobody", {"seats": 1}, 404, "key_not_found"),
        ("keys/default", {"seats": 1}, 404, "key_not_found"),
    ],
)
async def test_a_limit_that_cannot_be_changes_nothing(
    tmp_path: Path, path: str, said: dict[str, Any], status: int, code: str
) -> None:
    async with operating(tmp_path) as anna:
        before = anna.api.service.current
        refused = await anna.call("PATCH", f"/admin/api/{path}", json=said)
        assert (refused.status, refused.code) == (status, code)
        assert anna.api.service.current is before


async def test_a_change_that_meets_a_reload_is_made_to_what_the_reload_brought(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(anna.api.reload(models={"new": {}}))
            changing = tasks.create_task(anna.call("PATCH", "/admin/api/profiles/default", json={"queue_max": 7}))
        assert changing.result().status == 200
        current = anna.api.service.current.settings
        assert list(current.models) == ["new"]


async def test_a_reload_says_what_has_changed_or_what_is_wrong(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna:
        assert (await anna.call("POST", "/admin/api/reload")).json["message"] == "nothing has changed"
        await anna.api.reload(models={"new": {}})
        assert (await anna.call("POST", "/admin/api/reload")).json["message"] == "nothing has changed"


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"[1]", 400), (b"{", 400), (b'"x"', 400), (b"\xff", 400), (b"[" * 9000, 400), (b" " * 70_000, 413)],
)
async def test_bodies_are_bounded_objects(tmp_path: Path, body: bytes, status: int) -> None:
    async with operating(tmp_path) as anna:
        refused = await anna.call("PATCH", "/admin/api/profiles/default", data=body)
        assert refused.status == status
        assert refused.error["message"]


async def test_unknown_places_and_verbs_are_refused_in_the_usual_shape(tmp_path: Path) -> None:
    async with operating(tmp_path) as anna:
        assert (await anna.call("GET", "/admin/api/nothing")).code == "unknown_url"
        wrong = await anna.call("POST", "/admin/api/status")
        assert (wrong.status, wrong.headers["Allow"]) == (405, "GET, HEAD")
        for answer in (wrong, await anna.call("GET", "/admin/api/status")):
            assert answer.headers["Cache-Control"] == "no-store"
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["Server"] == "codex-completions"


async def test_operators_are_there_from_before_the_first_boot_until_the_drain_is_over(tmp_path: Path, log: Log) -> None:
    configured = settings(tmp_path, admin=ADMIN, server={"drain_timeout_s": 5})

    async def ask(_base_url: str) -> bool:
        return False

    await serve(configured, ENVIRON, ask)
    events = [line["event"] for line in log.lines]
    assert events.index("admin.started") < events.index("service.started") < events.index("service.stopped")

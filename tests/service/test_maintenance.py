"""Maintenance: on by configuration, file or order; clients hear of it, machines that watch the service do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.maintenance import LOOK_EVERY_S, Maintenance, MaintenanceSettings, State
from tests.service.conftest import Log
from tests.support.services import AUTHORIZED, RunningService, running_service, scripted, until
from tests.support.virtual_time import in_virtual_time, pass_time

A_WHILE = scripted(chunks=["tick "], repeat=40, interval_s=0.01)
DEFAULT = "the service is under maintenance: try again later"


class Switch:
    """A maintenance with its file, and what it told of its changes."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.path = path
        self.told: list[State] = []
        self.troubles: list[str] = []
        self.maintenance = Maintenance(MaintenanceSettings(**settings), path, self.tell)

    def tell(self, state: State, trouble: str) -> None:
        self.told.append(state)
        self.troubles += [trouble] if trouble else []

    @property
    def message(self) -> str | None:
        """What clients are told; None: nothing."""
        notice = self.maintenance.notice
        return notice.message if notice is not None else None


# --- what is in force --------------------------------------------------------------------------------------------


@in_virtual_time
async def test_it_is_off_unless_somebody_switched_it_on(tmp_path: Path) -> None:
    switch = Switch(tmp_path / "m.json")
    await pass_time(3 * LOOK_EVERY_S)
    assert switch.message is None
    assert switch.told == []
    switch.maintenance.close()


@in_virtual_time
async def test_a_file_that_comes_changes_and_goes_is_followed_within_a_second(tmp_path: Path) -> None:
    switch = Switch(tmp_path / "m.json")
    switch.path.touch()
    await pass_time(LOOK_EVERY_S)
    assert switch.message == DEFAULT
    switch.path.write_text('{"message": "back at noon", "retry_after_s": 90}')
    await pass_time(LOOK_EVERY_S)
    assert switch.message == "back at noon"
    assert switch.maintenance.state.source == "file"
    switch.path.unlink()
    await pass_time(LOOK_EVERY_S)
    assert switch.message is None
    assert len(switch.told) == 3, "told of every change, and once"
    switch.maintenance.close()


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("on please", "the file: Invalid JSON"),
        ('{"message": ""}', "message: String should have at least 1 character"),
        ('{"retry_after_s": 0}', "retry_after_s: Input should be greater than 0"),
        ('{"routes": ["/healthz"]}', "routes.0: String should match pattern"),
        ('{"until": "noon"}', "until: Extra inputs are not permitted"),
    ],
)
@in_virtual_time
async def test_a_file_that_cannot_be_understood_switches_it_on_as_configured_and_is_told(
    tmp_path: Path, text: str, trouble: str
) -> None:
    (tmp_path / "m.json").write_text(text)
    switch = Switch(tmp_path / "m.json", message="as configured")
    await pass_time(2 * LOOK_EVERY_S)
    assert switch.message == "as configured"
    (told,) = switch.troubles
    assert told.startswith(trouble)
    switch.maintenance.close()


@in_virtual_time
async def test_what_a_file_leaves_out_is_as_configured(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('{"routes": ["/v1/responses"]}')
    switch = Switch(tmp_path / "m.json", message="as configured", retry_after_s=7)
    notice = switch.maintenance.notice
    assert notice is not None
    assert (notice.message, notice.retry_after_s, notice.routes) == ("as configured", 7, ("/v1/responses",))
    switch.maintenance.close()


@in_virtual_time
async def test_an_order_survives_a_restart_and_its_end_does_too(tmp_path: Path) -> None:
    path = tmp_path / "state" / "m.json"
    first = Switch(path)
    assert await first.maintenance.begin("anna", message="moving house")
    assert first.message == "moving house"
    first.maintenance.close()
    second = Switch(path)
    assert second.message == "moving house"
    assert second.maintenance.state.by == "anna"
    assert await second.maintenance.end()
    second.maintenance.close()
    assert Switch(path).message is None
    assert list(path.parent.iterdir()) == [], "no half-written file is left"


@in_virtual_time
async def test_an_order_that_cannot_be_written_is_in_force_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    switch = Switch(tmp_path / "a-file" / "m.json")
    assert not await switch.maintenance.begin("anna")
    await pass_time(5 * LOOK_EVERY_S)
    assert switch.message == DEFAULT
    await switch.maintenance.end()
    assert switch.message is None
    switch.maintenance.close()


@in_virtual_time
async def test_a_wrong_order_changes_nothing_and_says_what_is_wrong(tmp_path: Path) -> None:
    switch = Switch(tmp_path / "m.json")
    with pytest.raises(ValueError, match="retry_after_s: Input should be greater than 0"):
        await switch.maintenance.begin("anna", retry_after_s=-1)
    with pytest.raises(ValueError, match="by: String should have at most 100 characters"):
        await switch.maintenance.begin("a" * 101)
    assert switch.message is None
    assert not switch.path.exists()
    switch.maintenance.close()


@in_virtual_time
async def test_what_is_on_by_configuration_ends_by_configuration(tmp_path: Path) -> None:
    switch = Switch(tmp_path / "m.json", on=True, message="as configured")
    assert switch.maintenance.state.source == "configuration"
    await switch.maintenance.begin("anna", message="for a reason")
    assert switch.message == "for a reason"
    await switch.maintenance.end()
    assert switch.message == "as configured"
    switch.maintenance.configure(MaintenanceSettings())
    assert switch.message is None
    switch.maintenance.close()


@pytest.mark.parametrize(
    ("routes", "route", "is_covered"),
    [
        ((), "/v1/chat/completions", True),
        ((), "/v1/responses/{id}/cancel", True),
        ((), "/healthz", False),
        ((), "/metrics", False),
        ((), "unknown", False),
        ((), "OPTIONS", False),
        (("/v1/responses",), "/v1/responses", True),
        (("/v1/responses",), "/v1/responses/{id}", True),
        (("/v1/responses",), "/v1/chat/completions", False),
        (("/v1/chat", "/v1/models"), "/v1/chat/completions", True),
        (("/v1/mod",), "/v1/models", False),
    ],
)
def test_it_covers_what_lies_below_its_routes(routes: tuple[str, ...], route: str, is_covered: bool) -> None:
    assert MaintenanceSettings(routes=routes).covers(route) is is_covered


# --- what clients see --------------------------------------------------------------------------------------------


async def test_requests_are_refused_in_the_clients_own_shape_and_what_runs_goes_on(
    api: RunningService, log: Log
) -> None:
    running = await api.begin(A_WHILE)
    await api.service.maintenance.begin("anna", message="moving house", retry_after_s=100)
    for stream in (False, True):
        refused = await api.chat(stream=stream)
        assert (refused.status, refused.code) == (503, "maintenance")
        assert refused.error["message"] == "moving house"
        assert refused.error["type"] == "backend_unavailable"
        assert refused.error["retryable"] is True
        assert 100 <= int(refused.headers["Retry-After"]) <= 125
        assert refused.headers["x-request-id"].startswith("req_")
    for path in ("/v1/models", "/v1/responses/resp_1"):
        assert (await api.get(path, headers=AUTHORIZED)).code == "maintenance"
    assert (await running.read()).endswith(b"data: [DONE]\n\n")
    await api.service.maintenance.end()
    assert (await api.chat()).status == 200
    assert [line["code"] for line in log.of("request.answered") if line["status"] == 503] == ["maintenance"] * 4
    assert log.of("maintenance.began")[0]["by"] == "anna"
    assert len(log.of("maintenance.ended")) == 1


async def test_health_and_metrics_stay_and_tell(api: RunningService) -> None:
    assert (await api.get("/healthz")).json["maintenance"] is False
    await api.service.maintenance.begin("anna")
    statuses = [(await api.get(path)).status for path in ("/healthz", "/readyz", "/livez", "/metrics", "/nowhere")]
    assert statuses == [200, 200, 200, 200, 404]
    assert (await api.get("/healthz")).json["maintenance"] is True
    assert api.counted("maintenance") == 1
    await api.service.maintenance.end()
    assert api.counted("maintenance") == 0


async def test_some_routes_only(api: RunningService) -> None:
    await api.service.maintenance.begin("anna", routes=["/v1/responses"])
    assert (await api.get("/v1/responses/resp_1", headers=AUTHORIZED)).code == "maintenance"
    assert (await api.chat()).status == 200


async def test_a_service_that_starts_under_maintenance_and_a_reload_that_ends_it(tmp_path: Path, log: Log) -> None:
    async with running_service(tmp_path, maintenance={"on": True, "message": "not yet"}) as api:
        assert (await api.chat()).error["message"] == "not yet"
        await api.reload()
        assert (await api.chat()).status == 200
        assert log.of("maintenance.began")[0]["source"] == "configuration"


async def test_a_file_that_an_operator_writes_is_enough(api: RunningService) -> None:
    path = api.service.current.settings.state_dir / "maintenance.json"
    path.write_text(json.dumps({"message": "by hand"}))
    await until(lambda: api.service.maintenance.notice is not None)
    assert (await api.chat()).error["message"] == "by hand"
    path.unlink()
    await until(lambda: api.service.maintenance.notice is None)
    assert (await api.chat()).status == 200

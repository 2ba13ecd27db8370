"""Which store a service has, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.app import store_of
from service.store.memory import MemoryStore
from service.store.observer import StoreObserver
from service.store.protocol import NoStore, ResponseStore, Written
from service.store.settings import StoreSettings
from service.store.sqlite import SqliteStore
from tests.support.services import running_service, settings
from tests.support.stores import ended, key


@pytest.mark.parametrize(
    ("table", "expected"),
    [({"kind": "sqlite"}, SqliteStore), ({"kind": "memory"}, MemoryStore), ({"kind": "off"}, NoStore)],
)
def test_the_store_is_of_the_kind_that_is_configured(
    tmp_path: Path, table: dict[str, Any], expected: type[ResponseStore]
) -> None:
    assert type(store_of(settings(tmp_path, store=table), StoreObserver())) is expected


@pytest.mark.parametrize("name", [None, "elsewhere/answers.db"])
async def test_the_file_lies_where_it_should(tmp_path: Path, name: str | None) -> None:
    path = tmp_path / name if name else None
    store = store_of(settings(tmp_path, store={"kind": "sqlite", "path": path}), StoreObserver())
    await store.open()
    assert (path or tmp_path / "state" / "responses.sqlite").exists()
    await store.close()


def test_a_file_in_the_state_directory_is_the_default() -> None:
    assert (StoreSettings().kind, StoreSettings().path) == ("sqlite", None)


@pytest.mark.parametrize(
    "table", [{"kind": "redis"}, {"max_age_s": 1}, {"max_bytes": 1}, {"max_responses": 0}, {"timeout_s": 0}, {"ttl": 1}]
)
def test_what_makes_no_sense_is_refused(table: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        StoreSettings(**table)


async def test_a_running_service_counts_what_its_store_does(tmp_path: Path) -> None:
    async with running_service(tmp_path, store={"kind": "sqlite"}) as api:
        assert await api.service.store.create(key(), ended()) is Written.STORED
        assert api.counted("store_operations_total", operation="create", result="stored") == 1
        assert api.counted("store_operation_seconds_count", operation="create") == 1
        assert api.counted("store_up") == 1
        assert api.counted("store_responses") == 1
        assert api.counted("store_bytes") > 4096
        assert api.counted("store_waiting_bytes") == 0
        assert api.bugs == 0

"""What the service manager is told, over a real socket."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from service.notify import ServiceManager
from tests.support.managers import Ear, listening, listening_in
from tests.support.virtual_time import in_virtual_time, stall


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    with listening_in(tmp_path) as ear:
        yield ear


def manager_of(ear: Ear, **variables: str) -> ServiceManager:
    return ServiceManager.of({"NOTIFY_SOCKET": ear.address, **variables})


def test_it_is_told_when_we_serve_and_when_we_stop(ear: Ear) -> None:
    manager = manager_of(ear)
    with manager.open():
        assert ear.heard() == []
        manager.serving()
        assert ear.heard() == ["READY=1"]
        manager.stopping()
    assert ear.heard() == ["READY=1", "STOPPING=1"]


def test_a_socket_without_a_file_is_reached_too() -> None:
    with listening(f"@codex-completions-{uuid4()}") as ear:
        manager = manager_of(ear)
        with manager.open():
            manager.serving()
        assert ear.heard() == ["READY=1"]


def test_a_reload_has_a_beginning_with_its_time_and_an_end(ear: Ear) -> None:
    manager = manager_of(ear)
    with manager.open():
        manager.serving()
        before = time.monotonic_ns() // 1000
        with manager.reloading():
            _, begins, at = ear.heard()
        after = time.monotonic_ns() // 1000
    assert begins == "RELOADING=1"
    assert before <= int(at.removeprefix("MONOTONIC_USEC=")) <= after
    assert ear.facts() == ["READY=1", "RELOADING=1", "READY=1"]


def test_a_reload_that_fails_ends_too(ear: Ear) -> None:
    manager = manager_of(ear)
    with manager.open():
        manager.serving()
        with pytest.raises(RuntimeError), manager.reloading():
            raise RuntimeError
    assert ear.facts() == ["READY=1", "RELOADING=1", "READY=1"]


def test_several_reloads_at_once_are_one(ear: Ear) -> None:
    manager = manager_of(ear)
    with manager.open():
        manager.serving()
        with manager.reloading():
            with manager.reloading():
                pass
            assert ear.facts() == ["READY=1", "RELOADING=1"]
    assert ear.facts() == ["READY=1", "RELOADING=1", "READY=1"]


def test_a_reload_before_we_serve_says_nothing_of_serving(ear: Ear) -> None:
    manager = manager_of(ear)
    with manager.open(), manager.reloading():
        pass
    assert ear.heard() == []


def test_a_reload_that_ends_after_the_stop_does_not_take_it_back(ear: Ear) -> None:
    manager = manager_of(ear)
    with manager.open():
        manager.serving()
        with manager.reloading():
            manager.stopping()
    assert ear.facts() == ["READY=1", "RELOADING=1", "STOPPING=1"]


def test_a_loop_that_turns_says_so_twice_in_each_period_until_the_end(ear: Ear) -> None:
    @in_virtual_time
    async def in_a_minute() -> None:
        with manager_of(ear, WATCHDOG_USEC="30000000", WATCHDOG_PID=str(os.getpid())).open():
            await asyncio.sleep(61)  # noqa: TID251 - virtual seconds
            assert ear.heard() == ["WATCHDOG=1"] * 5
        await asyncio.sleep(61)  # noqa: TID251 - virtual seconds
        assert ear.heard() == ["WATCHDOG=1"] * 5

    in_a_minute()


def test_a_loop_that_stands_still_says_nothing(ear: Ear) -> None:
    @in_virtual_time
    async def in_a_minute() -> None:
        with manager_of(ear, WATCHDOG_USEC="30000000").open():
            stall(60)
            assert ear.heard() == ["WATCHDOG=1"]
            await asyncio.sleep(1)  # noqa: TID251 - virtual seconds
            assert ear.heard() == ["WATCHDOG=1"] * 2

    in_a_minute()


@pytest.mark.parametrize(
    "variables",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}],
)
def test_a_watchdog_that_is_not_ours_hears_nothing(ear: Ear, variables: dict[str, str]) -> None:
    @in_virtual_time
    async def in_a_minute() -> None:
        manager = manager_of(ear, **variables)
        with manager.open():
            await asyncio.sleep(60)  # noqa: TID251 - virtual seconds
            manager.serving()

    in_a_minute()
    assert ear.heard() == ["READY=1"]


@pytest.mark.parametrize("variables", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_a_socket_nobody_is_told(variables: dict[str, str], tmp_path: Path) -> None:
    @in_virtual_time
    async def all_of_it() -> None:
        manager = ServiceManager.of({**variables, "WATCHDOG_USEC": "30000000"})
        with manager.open():
            manager.serving()
            with manager.reloading():
                await asyncio.sleep(60)  # noqa: TID251 - virtual seconds
            manager.stopping()
            assert manager._socket is None

    all_of_it()


def test_a_manager_that_is_gone_costs_nothing(ear: Ear) -> None:
    manager = manager_of(ear)
    with manager.open():
        Path(ear.address).unlink()
        manager.serving()
        manager.stopping()
    assert ear.heard() == []


def test_a_manager_that_does_not_read_costs_little(ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.notify.SEND_TIMEOUT_S", 0.05)
    manager = manager_of(ear)
    with manager.open(), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                other.sendto(b"STATUS=much", ear.address)
        began_at = time.monotonic()
        manager.serving()
        assert 0.04 < time.monotonic() - began_at < 2
    assert {*ear.heard()} == {"STATUS=much"}

"""The rules of background responses that have seconds in them, in virtual time, on scripted seats and without HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from pool.events import Fault, FaultKind, Trace, TurnEnd
from pool.pool import Pool
from scheduler.scheduler import Scheduler
from service.api.errors import ApiError
from service.app import build
from service.background import RETRY_S, Background, Parked, Work
from service.handlers.asking import Asked
from service.handlers.exchange import Inquiry
from service.handlers.understanding import as_served, understand, wants
from service.launch import queue_policies
from service.state import Service
from service.store.memory import MemoryStore
from service.store.protocol import Draft, Exchange, Item, Key, State, StoreUnavailable, Trouble, Unfinished, Written
from service.store.settings import StoreSettings
from service.toolcalls.mode import OutputMode
from tests.support.fake_seats import INTERRUPTED, FakeSeats
from tests.support.services import ENVIRON, Json, key, settings
from tests.support.virtual_time import in_virtual_time, pass_time

BUDGET_S = 600.0
MAX_AGE_S = 1000.0
OTHER = "sk-another-key-that-tests-use-0123456789"


def wall() -> float:
    """The wall clock: one that goes on over restarts."""
    return 1_700_000_000.0 + asyncio.get_running_loop().time()


class Wall:
    """In place of the module `time`."""

    time = staticmethod(wall)
    perf_counter = staticmethod(wall)


@pytest.fixture(autouse=True)
def _virtual_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.background.time", Wall)


class Store(MemoryStore):
    """One that outlives its service, and does what a test says."""

    def __init__(self) -> None:
        super().__init__(StoreSettings(kind="memory", max_age_s=MAX_AGE_S), clock=wall)
        self.takes_s = 0.0
        self.loses_ends = 0
        self.is_down_until = 0.0

    async def create(self, key: Key, draft: Draft) -> Written:
        await pass_time(self.takes_s)
        return await super().create(key, draft)

    async def update(self, key: Key, state: State, response: bytes, output_items: tuple[Item, ...] = ()) -> Written:
        await pass_time(self.takes_s)
        if state is State.ENDED and self.loses_ends:
            self.loses_ends -= 1
            return Written.LOST
        return await super().update(key, state, response, output_items)

    async def exchange(self, key: Key) -> Exchange | None:
        self._check()
        return await super().exchange(key)

    async def unfinished(self) -> tuple[Unfinished, ...]:
        self._check()
        return await super().unfinished()

    def _check(self) -> None:
        if wall() < self.is_down_until:
            raise StoreUnavailable(Trouble.IO)


class Bench:
    """A service without HTTP and without workers."""

    def __init__(self, service: Service, seats: FakeSeats, background: Background, store: Store) -> None:
        self.service = service
        self.seats = seats
        self.background = background
        self.store = store
        self._asked = 0

    async def begin(self, text: str = "Hello.", *, owner: str = "default", **fields: Any) -> Work:
        """The work on a background response, as it is when its client is told of it."""
        deadline_s = fields.pop("deadline_s", None)
        self._asked += 1
        body: Json = {"model": "codex-5", "input": text, "background": True} | fields
        tenant = self.service.current.keyring.named(owner)
        assert tenant is not None
        asked = Asked(f"req_{self._asked}", tenant, None, deadline_s, None, json.dumps(body).encode())
        question, route = await understand(self.service, asked)
        inquiry = Inquiry(
            self.service,
            asked,
            self.service.current,
            question,
            route,
            wants=wants(question, BUDGET_S),
            mode=OutputMode.OPENAI_JSON,
        )
        parked = Parked.of(asked, inquiry.mode, int(wall()), BUDGET_S)
        place = Key(owner, f"resp_{self._asked:048x}")
        work = self.background.begin(place, parked, as_served(question, inquiry), inquiry)
        assert await work.accepted()
        return work

    async def stored(self, place: Key) -> Json | None:
        """The response as the store has it."""
        found = await self.store.get(place)
        return None if found is None else json.loads(found.response)

    async def status(self, place: Key) -> str | None:
        """What the store says of it; None when it has nothing."""
        found = await self.stored(place)
        return None if found is None else str(found["status"])

    async def error(self, place: Key) -> str:
        """What it failed with."""
        found = await self.stored(place)
        assert found is not None
        assert found["status"] == "failed"
        return str(found["error"]["message"])


@asynccontextmanager
async def running(folder: Path, store: Store, *, seats: int = 1, **tables: Any) -> AsyncIterator[Bench]:
    """A process with that store, from its start to its end."""
    tables = {"keys": [key("other", OTHER)], "profile": {"codel_target_s": 0}} | tables
    service = build(
        settings(folder, background={"queue_budget_s": BUDGET_S} | tables.pop("background", {}), **tables), ENVIRON
    )
    fakes = FakeSeats(default=seats)
    fakes.at_interrupt = lambda turn: fakes.finishes(turn.lease.id - 1, INTERRUPTED)
    service.scheduler = Scheduler(fakes, queue_policies(service.current.settings), service.observability)
    service.pool = cast(Pool, fakes)
    service.store = store
    fakes.on_freed = service.scheduler.seats_freed
    background = Background(service)
    await store.open()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(background.run())
            await pass_time(0)
            yield Bench(service, fakes, background, store)
            service.scheduler.cut_off()
            background.stop()
    finally:
        service.maintenance.close()
        service.observability.close()
    assert not background._works, "its end waits for all of them"


def sleeper(bench: Bench, number: int = 0) -> None:
    """The turn of this number says something and comes to no end."""
    bench.seats.says(number, "some ")


# --- waiting -----------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_one_that_gets_no_seat_fails_when_its_budget_is_over(tmp_path: Path) -> None:
    async with running(tmp_path, Store()) as bench:
        first = await bench.begin()
        waiting = await bench.begin()
        await pass_time(BUDGET_S - 1)
        assert waiting.events.status == "queued"
        await pass_time(2)
        assert "queue_timeout" in await bench.error(waiting.key)
        assert first.events.status == "in_progress", "who has a seat has all the time that a turn may take"
        bench.seats.finishes(0)
        await first.over()
        assert await bench.status(first.key) == "completed"


@in_virtual_time
async def test_a_deadline_counts_from_the_request_whether_it_waits_or_runs(tmp_path: Path) -> None:
    async with running(tmp_path, Store()) as bench:
        runs = await bench.begin(deadline_s=50.0)
        waits = await bench.begin(deadline_s=30.0)
        sleeper(bench)
        await pass_time(31)
        assert await bench.status(waits.key) == "failed"
        assert runs.events.status == "in_progress"
        await pass_time(20)
        assert "deadline_exceeded" in await bench.error(runs.key)
        assert len(bench.seats.interrupted) == 1


@in_virtual_time
async def test_what_is_open_is_kept_however_old_it_is_and_what_has_ended_no_longer_than_anything(
    tmp_path: Path,
) -> None:
    store = Store()
    async with running(tmp_path, store) as bench:
        old = await bench.begin()
        await pass_time(MAX_AGE_S * 2)
        young = await bench.begin()
        for each in (old, young):
            assert await bench.status(each.key) is not None
        bench.seats.finishes(0)
        await pass_time(1)
        assert await bench.status(old.key) is None, "it is older than anything may be"
        bench.seats.finishes(1)
        await young.over()
        assert await bench.status(young.key) == "completed"
        await pass_time(MAX_AGE_S)
        assert await bench.status(young.key) is None


# --- how many ----------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_there_is_room_for_one_more_when_one_has_ended(tmp_path: Path) -> None:
    async with running(tmp_path, Store(), background={"max_jobs": 3, "max_jobs_per_key": 2}) as bench:
        works = [await bench.begin() for _ in range(2)]
        with pytest.raises(ApiError) as refused:
            await bench.begin()
        assert (refused.value.status, refused.value.code) == (429, "tenant_queue_full")
        works.append(await bench.begin(owner="other"))
        with pytest.raises(ApiError) as refused:
            await bench.begin(owner="other")
        assert (refused.value.status, refused.value.code) == (503, "queue_full")
        works[1].cancel()
        await works[1].over()
        await pass_time(0)
        works.append(await bench.begin(owner="other"))
        assert len(bench.background._works) == 3


@in_virtual_time
async def test_what_an_earlier_process_left_is_taken_up_beyond_the_limits_and_counts(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path, store) as bench:
        left = [(await bench.begin()).key for _ in range(4)][1:]
    async with running(tmp_path, store, background={"max_jobs": 2}) as bench:
        await pass_time(0.1)
        assert [place for place in left if bench.background.find(place)] == left
        with pytest.raises(ApiError) as refused:
            await bench.begin()
        assert refused.value.code == "queue_full"
        for number in range(3):
            bench.seats.says(number, f"answer {number}")
            bench.seats.finishes(number)
            await pass_time(0.1)
        assert [await bench.status(place) for place in left] == ["completed"] * 3
        await bench.begin()


# --- restarts ----------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_the_time_without_a_service_counts_as_waiting(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path, store) as bench:
        await bench.begin()
        waiting = await bench.begin()
        await pass_time(BUDGET_S / 2)
    await pass_time(BUDGET_S / 4)
    async with running(tmp_path, store, seats=0) as bench:
        await pass_time(BUDGET_S / 4 - 1)
        assert await bench.status(waiting.key) == "queued"
        await pass_time(2)
        assert "queue_timeout" in await bench.error(waiting.key)


@in_virtual_time
async def test_one_whose_time_was_over_before_the_restart_is_answered_if_there_is_a_seat_and_fails_else(
    tmp_path: Path,
) -> None:
    store = Store()
    async with running(tmp_path, store) as bench:
        await bench.begin()
        served, refused = await bench.begin(), await bench.begin()
        late = await bench.begin(deadline_s=BUDGET_S)
    await pass_time(BUDGET_S + 100)
    async with running(tmp_path, store) as bench:
        await pass_time(1)
        assert await bench.status(served.key) == "in_progress"
        for each in (refused, late):
            assert await bench.status(each.key) == "failed"
        bench.seats.finishes(0)
        await pass_time(1)
        assert await bench.status(served.key) == "completed"


@in_virtual_time
async def test_a_deadline_goes_on_over_a_restart(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path, store) as bench:
        await bench.begin()
        waiting = await bench.begin(deadline_s=100.0)
        await pass_time(60)
    async with running(tmp_path, store) as bench:
        await pass_time(39)
        assert await bench.status(waiting.key) == "in_progress"
        await pass_time(2)
        assert "deadline_exceeded" in await bench.error(waiting.key)


@in_virtual_time
async def test_what_ran_at_the_end_has_failed_with_the_reason_and_keeps_what_it_said(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path, store) as bench:
        running_one = await bench.begin()
        sleeper(bench)
        await pass_time(1)
        assert await bench.status(running_one.key) == "in_progress"
    found = await store.get(running_one.key)
    assert found is not None
    assert found.state is State.ENDED
    response = json.loads(found.response)
    assert "draining" in response["error"]["message"]
    assert response["output"][0]["content"][0]["text"] == "some "


@in_virtual_time
async def test_what_ran_when_the_process_died_fails_as_soon_as_the_store_can_be_told(tmp_path: Path) -> None:
    store = Store()
    place = Key("default", "resp_" + "7" * 48)
    body = json.dumps({"id": place.id, "status": "in_progress", "error": None, "background": True}).encode()
    await store.create(place, Draft(State.RUNNING, body))
    store.is_down_until, store.loses_ends = wall() + 10, 3
    async with running(tmp_path, store) as bench:
        await pass_time(9)
        assert await bench.status(place) == "in_progress"
        await pass_time(1 + 4 * RETRY_S)
        assert "was stopped" in await bench.error(place)


@in_virtual_time
async def test_what_was_queued_is_taken_up_when_the_store_answers_again_and_the_queue_has_room(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path, store) as bench:
        await bench.begin()
        left = [(await bench.begin(f"number {number}")).key for number in range(3)]
    store.is_down_until = wall() + 30
    async with running(tmp_path, store, keys=[key("default", "sk-" + "k" * 40, queue_max=1)], api_key=None) as bench:
        await pass_time(29)
        assert not bench.background._works
        for number in range(3):
            await pass_time(3 * RETRY_S)
            assert len(bench.seats.turns) == number + 1
            bench.seats.finishes(number)
        await pass_time(1)
        assert [await bench.status(place) for place in left] == ["completed"] * 3


@in_virtual_time
async def test_what_cannot_be_taken_up_any_more_fails_with_the_reason(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path, store) as bench:
        first = await bench.begin()
        bench.seats.finishes(0)
        await first.over()
        await bench.begin()
        orphan = await bench.begin(owner="other")
        headless = await bench.begin(previous_response_id=first.key.id)
        await store.delete(first.key)
    async with running(tmp_path, store, keys=[]) as bench:
        await pass_time(1)
        assert "no key any more" in await bench.error(orphan.key)
        assert "previous_response_not_found" in await bench.error(headless.key)
        assert not bench.seats.turns


@in_virtual_time
async def test_one_that_nobody_takes_any_more_fails_when_its_time_is_over(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path, store) as bench:
        await bench.begin()
        left = (await bench.begin()).key
        bench.seats.down_s["default"] = 1e9
    async with running(tmp_path, store, seats=0) as bench:
        bench.seats.down_s["default"] = 1e9
        await pass_time(BUDGET_S - 1)
        assert await bench.status(left) == "queued"
        await pass_time(2 + RETRY_S)
        assert "worker_not_ready" in await bench.error(left)


@in_virtual_time
async def test_a_second_restart_finds_what_the_first_did_not_come_to(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path, store) as bench:
        await bench.begin()
        waiting = await bench.begin("the last")
    for _ in range(3):
        async with running(tmp_path, store, seats=0) as bench:
            await pass_time(10)
            assert await bench.status(waiting.key) == "queued"
    async with running(tmp_path, store) as bench:
        await pass_time(1)
        bench.seats.says(0, "at last")
        bench.seats.finishes(0)
        await pass_time(1)
        found = await bench.stored(waiting.key)
        assert found is not None
        assert found["output"][0]["content"][0]["text"] == "at last"


# --- cancelling --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_s", [0.0, 0.5, 1.0, 1.5, 2.0, 5.0])
@pytest.mark.parametrize("ends_s", [None, 1.0, 2.0])
@in_virtual_time
async def test_whenever_it_is_cancelled_it_has_one_end_that_is_told_and_kept(
    tmp_path: Path, after_s: float, ends_s: float | None
) -> None:
    """The store takes a second for each write, so that every moment is one between two of them."""
    store = Store()
    async with running(tmp_path, store) as bench:
        store.takes_s = 1.0
        work = await bench.begin()
        if ends_s is not None:
            asyncio.get_running_loop().call_later(ends_s, bench.seats.may_finish, 0)
        await pass_time(after_s)
        work.cancel()
        work.cancel()
        await work.over()
        told = json.loads(work.events.body())
        if ends_s != after_s:  # else it is either
            assert told["status"] == ("completed" if ends_s is not None and ends_s < after_s else "cancelled")
        await pass_time(10)
        assert await bench.stored(work.key) == told
        assert bench.seats.free("default") == 1


@in_virtual_time
async def test_one_that_is_cancelled_while_it_is_stored_for_the_first_time_takes_no_seat(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path, store) as bench:
        first = await bench.begin()
        store.takes_s = 5.0
        async with asyncio.TaskGroup() as tasks:
            beginning = tasks.create_task(bench.begin())
            await pass_time(1)
            (place,) = (each for each in bench.background._works if each != first.key)
            bench.background._works[place].cancel()
        work = beginning.result()
        await work.over()
        assert await bench.status(place) == "cancelled"
        assert len(bench.seats.turns) == 1


@in_virtual_time
async def test_one_that_is_cancelled_as_it_gets_its_seat_gives_it_back(tmp_path: Path) -> None:
    async with running(tmp_path, Store()) as bench:
        first, second, third = [await bench.begin() for _ in range(3)]
        bench.seats.finishes(0)
        second.cancel()
        await second.over()
        await pass_time(0)
        assert second.events.status == "cancelled"
        assert third.events.status == "in_progress", "the seat went on to who waited for it"
        assert await bench.status(first.key) == "completed"


@in_virtual_time
async def test_what_is_deleted_is_gone_at_once_and_for_good_whatever_is_still_written_of_it(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path, store) as bench:
        work = await bench.begin(stream=True)
        store.takes_s = 2.0
        sleeper(bench)
        await pass_time(1)
        assert await store.delete(work.key)
        bench.background.forget(work.key)
        assert bench.background.find(work.key) is None
        for _ in range(10):
            assert await store.get(work.key) is None
            await pass_time(1)
        assert work.events.status == "cancelled"
        assert bench.seats.free("default") == 1


@in_virtual_time
async def test_what_was_cancelled_is_not_taken_up_by_the_next_process(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path, store) as bench:
        await bench.begin()
        waiting = await bench.begin()
        waiting.cancel()
        await waiting.over()
    async with running(tmp_path, store) as bench:
        await pass_time(1)
        assert await bench.status(waiting.key) == "cancelled"
        assert not bench.seats.turns


@in_virtual_time
async def test_one_that_is_cancelled_while_it_waits_to_be_taken_up_ends_so(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path, store) as bench:
        await bench.begin()
        left = [(await bench.begin()).key for _ in range(2)]
    owner = [key("default", "sk-" + "k" * 40, queue_max=1)]
    async with running(tmp_path, store, seats=0, keys=owner, api_key=None) as bench:
        await pass_time(1)
        works = [bench.background.find(place) for place in left]
        (refused,) = (work for work in works if work is not None and not work._voices.choices)
        refused.cancel()
        await refused.over()
        assert await bench.status(refused.key) == "cancelled"


@in_virtual_time
async def test_the_end_of_the_service_waits_for_nothing_that_is_deleted(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path, store) as bench:
        work = await bench.begin()
        store.loses_ends = 10**9
        bench.background.forget(work.key)
        began_at = wall()
    assert wall() == began_at


# --- ends that are lost ------------------------------------------------------------------------------------------


@in_virtual_time
async def test_an_end_is_told_after_the_first_attempt_to_keep_it_and_attempted_each_second(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path, store) as bench:
        work = await bench.begin()
        store.loses_ends = 5
        began_at = wall()
        bench.seats.finishes(0)
        await work.over()
        assert wall() == began_at
        assert await bench.status(work.key) == "in_progress"
        await pass_time(5 * RETRY_S + 0.1)
        assert await bench.status(work.key) == "completed"
        assert bench.background.find(work.key) is None


@in_virtual_time
async def test_the_end_of_the_service_waits_for_no_store_that_loses_everything(tmp_path: Path) -> None:
    store = Store()
    async with running(tmp_path, store) as bench:
        work = await bench.begin()
        sleeper(bench)
        await pass_time(1)
        store.loses_ends = 10**9
        began_at = wall()
    assert wall() - began_at <= RETRY_S
    store.loses_ends = 0
    async with running(tmp_path, store) as bench:
        await pass_time(1)
        assert "was stopped" in await bench.error(work.key), (
            "what it was told then is lost: the next says what it knows"
        )


# --- turns that are lost -----------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_turn_that_was_lost_before_its_first_word_is_run_again_and_nobody_sees_it(tmp_path: Path) -> None:
    async with running(tmp_path, Store()) as bench:
        work = await bench.begin()
        bench.seats.frees("default", slot=1)
        bench.seats.finishes(0, TurnEnd(fault=Fault(FaultKind.WORKER_LOST, "gone"), trace=Trace.NONE))
        await pass_time(60)
        assert work.events.status == "in_progress"
        assert len(bench.seats.turns) == 2
        bench.seats.says(1, "ok")
        bench.seats.finishes(1)
        await work.over()
        assert await bench.status(work.key) == "completed"

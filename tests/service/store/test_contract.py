"""What every store does alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from service.store.observer import StoreSnapshot
from service.store.protocol import (
    Break,
    BreakReason,
    Draft,
    Event,
    Exchange,
    Item,
    ItemPage,
    Key,
    NoStore,
    ResponseStore,
    State,
    Stored,
    Unfinished,
    Written,
    history,
    page,
)
from tests.support.stores import AGE_S, KINDS, Bench, ended, items, key

Open = Callable[..., Any]


@pytest.fixture(params=KINDS)
async def open_bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens a store of the kind, with these settings."""
    opened: list[Bench] = []

    async def make(**fields: Any) -> Bench:
        bench = Bench(request.param, tmp_path, **fields)
        opened.append(bench)
        await bench.store.open()
        return bench

    yield make
    for bench in opened:
        await bench.store.close()


@pytest.fixture
async def bench(open_bench: Open) -> Bench:
    made: Bench = await open_bench()
    return made


@pytest.fixture
def store(bench: Bench) -> ResponseStore:
    return bench.store


# --- one response ------------------------------------------------------------------------------------------------


async def test_what_was_stored_is_found_as_it_was(store: ResponseStore) -> None:
    body = bytes(range(256)) * 500
    draft = Draft(State.ENDED, body, items("in_1", "in_2"), items("out_1"), previous="resp_0")
    assert await store.create(key(), draft) is Written.STORED
    assert await store.get(key()) == Stored(State.ENDED, body)
    assert await store.exchange(key()) == Exchange(State.ENDED, "resp_0", items("in_1", "in_2"), items("out_1"), None)
    assert await store.events(key()) == ()


async def test_an_empty_response_is_one_too(store: ResponseStore) -> None:
    await store.create(key("", ""), Draft(State.ENDED, b""))
    assert await store.get(key("", "")) == Stored(State.ENDED, b"")
    assert await store.exchange(key("", "")) == Exchange(State.ENDED, None, (), (), None)


async def test_a_response_goes_from_queued_to_running_to_its_end(store: ResponseStore) -> None:
    await store.create(key(), Draft(State.QUEUED, b"queued", items("in_1"), job=b"the job"))
    assert await store.exchange(key()) == Exchange(State.QUEUED, None, items("in_1"), (), b"the job")
    assert await store.update(key(), State.QUEUED, b"still queued") is Written.STORED
    assert await store.exchange(key()) == Exchange(State.QUEUED, None, items("in_1"), (), b"the job")
    assert await store.update(key(), State.RUNNING, b"running") is Written.STORED
    assert await store.get(key()) == Stored(State.RUNNING, b"running")
    assert await store.update(key(), State.ENDED, b"done", items("out_1", "out_2")) is Written.STORED
    assert await store.get(key()) == Stored(State.ENDED, b"done")
    exchange = await store.exchange(key())
    assert exchange == Exchange(State.ENDED, None, items("in_1"), items("out_1", "out_2"), None)
    assert exchange.size_bytes == sum(len(item.body) for item in items("in_1", "out_1", "out_2"))


async def test_what_was_never_stored_is_unknown(store: ResponseStore) -> None:
    assert await store.get(key()) is None
    assert await store.exchange(key()) is None
    assert await store.events(key()) is None
    assert await store.delete(key()) is False
    assert await store.update(key(), State.ENDED, b"late") is Written.UNKNOWN
    assert store.append(key(), [Event(0, b"late")])
    assert await store.get(key()) is None


async def test_what_was_deleted_is_unknown_and_stays_so(store: ResponseStore) -> None:
    await store.create(key(), Draft(State.RUNNING, b"{}"))
    store.append(key(), [Event(0, b"zero")])
    assert await store.delete(key()) is True
    assert await store.delete(key()) is False
    assert await store.update(key(), State.ENDED, b"its end") is Written.UNKNOWN
    assert await store.get(key()) is None
    await store.create(key(), ended())
    assert await store.events(key()) == (), "its events went with it"


async def test_a_response_that_is_created_again_replaces_the_first(store: ResponseStore) -> None:
    await store.create(key(), Draft(State.QUEUED, b"first", items("in_1"), job=b"job"))
    store.append(key(), [Event(0, b"zero")])
    for _ in range(2):
        assert await store.create(key(), ended("second", input_items=items("in_2"))) is Written.STORED
    assert await store.exchange(key()) == Exchange(State.ENDED, None, items("in_2"), (), None)
    assert await store.events(key()) == ()
    assert store.snapshot().responses == 1


@pytest.mark.parametrize(
    "name", ["", "\0", "a\0b", "é😀", "\udcff", "x" * 10_000, "'; DROP TABLE responses; --", "%", "*"]
)
async def test_any_text_is_an_id_and_an_owner(store: ResponseStore, name: str) -> None:
    await store.create(Key(name, name), Draft(State.RUNNING, b"{}", previous=name))
    assert await store.get(Key(name, name)) == Stored(State.RUNNING, b"{}")
    exchange = await store.exchange(Key(name, name))
    assert exchange is not None
    assert exchange.previous == name
    assert await store.get(Key(name, name + "x")) is None
    assert await store.get(Key(name + "x", name)) is None


# --- whose it is -------------------------------------------------------------------------------------------------


async def test_no_key_ever_sees_anothers(store: ResponseStore) -> None:
    hers, his = key(owner="alice"), key(owner="bob")
    await store.create(hers, Draft(State.RUNNING, b"hers", items("in_1"), job=b"job"))
    store.append(hers, [Event(0, b"zero")])
    assert await store.get(his) is None
    assert await store.exchange(his) is None
    assert await store.events(his) is None
    assert await store.update(his, State.ENDED, b"his") is Written.UNKNOWN
    assert store.append(his, [Event(0, b"his"), Event(1, b"his")])
    assert await store.delete(his) is False
    assert await store.get(hers) == Stored(State.RUNNING, b"hers")
    assert await store.events(hers) == (Event(0, b"zero"),)


async def test_two_keys_may_have_the_same_id(store: ResponseStore) -> None:
    hers, his = key(owner="alice"), key(owner="bob")
    await store.create(hers, ended("hers"))
    await store.create(his, ended("his"))
    assert await store.get(hers) == Stored(State.ENDED, b"hers")
    assert await store.get(his) == Stored(State.ENDED, b"his")
    assert await store.delete(hers) is True
    assert await store.get(his) == Stored(State.ENDED, b"his")


async def test_the_border_between_owner_and_id_is_no_text(store: ResponseStore) -> None:
    await store.create(Key("a", "bc"), ended("one"))
    await store.create(Key("ab", "c"), ended("other"))
    assert await store.get(Key("a", "bc")) == Stored(State.ENDED, b"one")
    assert await store.get(Key("ab", "c")) == Stored(State.ENDED, b"other")
    assert await store.get(Key("", "abc")) is None


# --- events ------------------------------------------------------------------------------------------------------


async def test_events_are_found_behind_a_number(store: ResponseStore) -> None:
    await store.create(key(), Draft(State.RUNNING, b"{}"))
    events = tuple(Event(number, f"event {number}".encode()) for number in range(10))
    for event in events:
        assert store.append(key(), [event])
    await store.update(key(), State.ENDED, b"{}")
    assert await store.events(key()) == events
    assert await store.events(key(), after=6) == events[7:]
    assert await store.events(key(), after=2, limit=3) == events[3:6]
    assert await store.events(key(), after=9) == ()
    assert await store.events(key(), after=10**30) == ()


async def test_nobody_is_shown_what_comes_behind_a_lost_event(store: ResponseStore) -> None:
    await store.create(key(), Draft(State.RUNNING, b"{}"))
    store.append(key(), [Event(0, b"0"), Event(1, b"1"), Event(3, b"3")])
    await store.update(key(), State.RUNNING, b"{}")
    assert await store.events(key()) == (Event(0, b"0"), Event(1, b"1"))
    assert await store.events(key(), after=1) == ()
    store.append(key(), [Event(2, b"2"), Event(1, b"one")])
    await store.update(key(), State.RUNNING, b"{}")
    assert await store.events(key(), after=0) == (Event(1, b"one"), Event(2, b"2"), Event(3, b"3"))


async def test_writes_take_effect_in_their_order(store: ResponseStore) -> None:
    """Also those that nobody waits for, and those whose caller is gone."""
    await store.create(key(), Draft(State.RUNNING, b"{}"))
    tasks = [asyncio.ensure_future(store.update(key(), State.RUNNING, str(n).encode())) for n in range(20)]  # noqa: TID251
    store_first, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    assert await store.update(key(), State.ENDED, b"last") is Written.STORED
    assert store_first
    assert await store.get(key()) == Stored(State.ENDED, b"last")


# --- retention ---------------------------------------------------------------------------------------------------


async def test_what_is_too_old_is_unknown_whether_removed_or_not(bench: Bench) -> None:
    store = bench.store
    await store.create(key("old"), ended())
    await store.create(key("open"), Draft(State.RUNNING, b"{}"))
    bench.clock.now += AGE_S - 1
    await store.create(key("young"), ended())
    assert await store.get(key("old")) is not None
    bench.clock.now += 1
    assert await store.get(key("old")) is None
    assert await store.exchange(key("old")) is None
    assert await store.events(key("old")) is None
    assert await store.update(key("old"), State.ENDED, b"late") is Written.UNKNOWN
    assert await store.delete(key("old")) is False
    assert await store.get(key("open")) == Stored(State.RUNNING, b"{}"), "what is open is kept"
    assert await store.get(key("young")) is not None
    await store.create(key("new"), ended())
    assert store.snapshot().responses == 3


async def test_a_response_expires_when_it_ends_too_late(bench: Bench) -> None:
    await bench.store.create(key(), Draft(State.RUNNING, b"{}"))
    bench.clock.now += 2 * AGE_S
    assert await bench.store.update(key(), State.ENDED, b"{}") is Written.STORED
    assert await bench.store.get(key()) is None
    assert bench.observer.evictions("age") == 1


async def test_the_oldest_go_when_there_are_too_many(open_bench: Open) -> None:
    bench: Bench = await open_bench(max_responses=5)
    store = bench.store
    await store.create(key("open"), Draft(State.QUEUED, b"{}"))
    for number in range(20):
        await store.create(key(str(number)), ended())
        assert store.snapshot().responses <= 5
    assert [number for number in range(20) if await store.get(key(str(number)))] == [16, 17, 18, 19]
    assert await store.get(key("open")) is not None
    assert bench.observer.evictions("count") == 16


async def test_what_is_open_stays_though_there_is_too_much_of_it(open_bench: Open) -> None:
    bench: Bench = await open_bench(max_responses=2)
    for number in range(4):
        await bench.store.create(key(str(number)), Draft(State.RUNNING, b"{}"))
    assert bench.store.snapshot().responses == 4
    await bench.store.create(key("new"), ended())
    assert await bench.store.get(key("new")) is None
    for number in range(4):
        assert await bench.store.update(key(str(number)), State.ENDED, b"{}") is Written.STORED
    assert [number for number in range(4) if await bench.store.get(key(str(number)))] == [2, 3]


async def test_the_oldest_go_when_they_take_too_much_room(open_bench: Open) -> None:
    bench: Bench = await open_bench(max_bytes=1_000_000)
    for number in range(60):
        await bench.store.create(key(str(number)), ended("x" * 30_000, input_items=items("in_1")))
        await bench.store.update(key(str(number)), State.ENDED, b"y" * 40_000)
        bench.store.append(key(str(number)), [Event(0, b"z" * 10_000)])
        assert bench.store.snapshot().used_bytes < 1_200_000
    await bench.store.delete(key("0"))
    kept = [number for number in range(60) if await bench.store.get(key(str(number)))]
    assert kept == list(range(kept[0], 60))
    assert 10 <= len(kept) <= 25
    assert bench.observer.evictions("bytes") == kept[0]


async def test_what_is_deleted_gives_its_room_back(bench: Bench) -> None:
    await bench.store.create(key("first"), ended())
    empty = bench.store.snapshot().used_bytes
    await bench.store.create(key(), ended("x" * 100_000))
    bench.store.append(key(), [Event(0, b"z" * 100_000)])
    await bench.store.update(key(), State.ENDED, b"x" * 100_000)
    assert bench.store.snapshot().used_bytes > empty + 200_000
    await bench.store.delete(key())
    assert 0 < bench.store.snapshot().used_bytes <= empty + 20_000


# --- the next process --------------------------------------------------------------------------------------------


async def test_everything_is_there_when_it_is_opened_again(bench: Bench) -> None:
    await bench.store.create(key(), ended("mine", input_items=items("in_1"), output_items=items("out_1")))
    bench.store.append(key(), [Event(0, b"0")])
    store = await bench.reopen()
    assert await store.get(key()) == Stored(State.ENDED, b"mine")
    assert await store.exchange(key()) == Exchange(State.ENDED, None, items("in_1"), items("out_1"), None)
    assert await store.events(key()) == (Event(0, b"0"),), "what nobody waited for is written before it is closed"
    assert store.snapshot().responses == 1


async def test_what_was_left_open_is_told_to_the_next_process(bench: Bench) -> None:
    assert await bench.store.unfinished() == ()
    await bench.store.create(key("b", "bob"), Draft(State.QUEUED, b"{}", job=b"job"))
    await bench.store.create(key("a"), Draft(State.RUNNING, b"{}"))
    await bench.store.create(key("done"), ended())
    await bench.store.create(key("gone"), Draft(State.QUEUED, b"{}", job=b"job"))
    await bench.store.delete(key("gone"))
    assert await bench.store.unfinished() == (), "they are this process's own"
    bench.clock.now += 2 * AGE_S
    store = await bench.reopen()
    await store.create(key("new"), Draft(State.QUEUED, b"{}"))
    left = (Unfinished(key("b", "bob"), State.QUEUED), Unfinished(key("a"), State.RUNNING))
    assert await store.unfinished() == left
    exchange = await store.exchange(left[0].key)
    assert exchange is not None
    assert exchange.job == b"job"
    await store.update(left[1].key, State.ENDED, b"failed")
    await store.update(left[0].key, State.RUNNING, b"{}")
    assert await store.unfinished() == (Unfinished(key("b", "bob"), State.RUNNING),)
    await store.create(key("b", "bob"), Draft(State.RUNNING, b"{}"))
    assert await store.unfinished() == ()


async def test_what_is_done_is_told(bench: Bench) -> None:
    store = bench.store
    await store.create(key(), ended())
    await store.update(key("other"), State.ENDED, b"")
    store.append(key(), [Event(0, b"")])
    await store.delete(key("other"))
    await store.get(key())
    await store.exchange(key("other"))
    await store.events(key())
    await store.delete(key())
    assert [done for done in bench.observer.operations if done[0] != "append"] == [
        ("create", "stored"),
        ("update", "unknown"),
        ("delete", "unknown"),
        ("get", "found"),
        ("exchange", "unknown"),
        ("events", "found"),
        ("delete", "found"),
    ]
    assert ("append", "stored") in bench.observer.operations
    assert bench.observer.facts == []
    assert store.snapshot() == store.snapshot()._replace(is_up=True, responses=0, waiting_bytes=0)


async def test_closing_twice_or_unopened_does_no_harm(bench: Bench) -> None:
    await bench.store.close()
    await bench.store.close()
    await bench._made().close()
    assert bench.observer.facts == []


# --- no store ----------------------------------------------------------------------------------------------------


async def test_no_store_loses_everything_and_knows_nothing() -> None:
    store: ResponseStore = NoStore()
    await store.open()
    assert await store.create(key(), ended()) is Written.LOST
    assert await store.update(key(), State.ENDED, b"{}") is Written.UNKNOWN
    assert store.append(key(), [Event(0, b"")]) is False
    assert (await store.get(key()), await store.exchange(key()), await store.events(key())) == (None, None, None)
    assert await store.delete(key()) is False
    assert await store.unfinished() == ()
    assert store.snapshot() == StoreSnapshot(is_up=False, responses=0, used_bytes=0, waiting_bytes=0)
    await store.close()


# --- pages of items ----------------------------------------------------------------------------------------------


def names(found: ItemPage | None) -> tuple[list[str], bool]:
    assert found is not None
    return [item.id for item in found.items], found.has_more


def test_items_come_in_pages_in_either_order() -> None:
    five = items("a", "b", "c", "d", "e")
    assert names(page(five, None, 2, is_descending=False)) == (["a", "b"], True)
    assert names(page(five, "b", 2, is_descending=False)) == (["c", "d"], True)
    assert names(page(five, "d", 2, is_descending=False)) == (["e"], False)
    assert names(page(five, "e", 2, is_descending=False)) == ([], False)
    assert names(page(five, None, 3, is_descending=True)) == (["e", "d", "c"], True)
    assert names(page(five, "c", 2, is_descending=True)) == (["b", "a"], False)
    assert names(page((), None, 2, is_descending=True)) == ([], False)
    assert page(five, "z", 2, is_descending=True) is None
    assert names(page(five, None, 2, is_descending=False, before="d")) == (["b", "c"], True)
    assert names(page(five, None, 2, is_descending=True, before="d")) == (["e"], False)
    assert names(page(five, "a", 2, is_descending=False, before="e")) == (["b", "c"], True)
    assert names(page(five, "d", 2, is_descending=False, before="b")) == ([], False)
    assert page(five, "a", 2, is_descending=True, before="z") is None


def test_pages_one_after_the_other_are_the_whole_list() -> None:
    many = tuple(Item(str(number), b"") for number in range(23))
    for is_descending in (False, True):
        found: list[Item] = []
        after, has_more = None, True
        while has_more:
            part = page(many, after, 5, is_descending=is_descending)
            assert part is not None
            found += part.items
            after, has_more = part.items[-1].id, part.has_more
        assert found == list(reversed(many) if is_descending else many)


# --- conversations -----------------------------------------------------------------------------------------------


async def _conversation(store: ResponseStore, length: int) -> None:
    for number in range(length):
        previous = f"resp_{number - 1}" if number else None
        name = f"resp_{number}"
        await store.create(
            key(name), ended(input_items=items(f"in_{number}"), output_items=items(f"out_{number}"), previous=previous)
        )


async def test_a_conversation_is_told_from_its_beginning(store: ResponseStore) -> None:
    await _conversation(store, 4)
    found = await history(store, key("resp_3"), 10_000)
    assert not isinstance(found, Break)
    assert [item.id for link in found for item in (*link.input_items, *link.output_items)] == [
        f"{side}_{number}" for number in range(4) for side in ("in", "out")
    ]
    assert len(await history(store, key("resp_0"), 10_000)) == 1


async def test_a_conversation_with_something_missing_is_broken_there(store: ResponseStore) -> None:
    await _conversation(store, 4)
    assert await history(store, key("resp_9"), 10_000) == Break("resp_9", BreakReason.UNKNOWN)
    assert await history(store, key("resp_3", "bob"), 10_000) == Break("resp_3", BreakReason.UNKNOWN)
    await store.delete(key("resp_1"))
    assert await history(store, key("resp_3"), 10_000) == Break("resp_1", BreakReason.UNKNOWN)


async def test_a_conversation_that_still_runs_cannot_be_continued(store: ResponseStore) -> None:
    await store.create(key("resp_0"), Draft(State.RUNNING, b"{}"))
    assert await history(store, key("resp_0"), 10_000) == Break("resp_0", BreakReason.OPEN)


async def test_a_conversation_has_an_end(store: ResponseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await _conversation(store, 6)
    size = sum(len(item.body) for item in items("in_0", "out_0"))
    assert len(await history(store, key("resp_5"), 6 * size)) == 6
    assert await history(store, key("resp_5"), 6 * size - 1) == Break("resp_0", BreakReason.TOO_LONG)
    monkeypatch.setattr("service.store.protocol.MAX_LINKS", 5)
    assert await history(store, key("resp_5"), 10_000) == Break("resp_0", BreakReason.TOO_LONG)
    await store.create(key("ring"), ended(previous="ring"))
    assert await history(store, key("ring"), 10_000) == Break("ring", BreakReason.TOO_LONG)

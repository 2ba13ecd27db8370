"""Every store against a dictionary: whatever is done in whatever order, both know the same."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from service.store.protocol import Draft, Event, Exchange, Key, State, Stored, Unfinished, Written
from tests.support.examples import trying
from tests.support.stores import AGE_S, KINDS, Bench, items

T = TypeVar("T")

MOST = 4
KEYS = [Key(owner, name) for owner in ("alice", "bob", "") for name in ("r1", "r2", "r3")]
keys = st.sampled_from(KEYS)
states = st.sampled_from(State)
bodies = st.binary(max_size=40)
item_lists = st.lists(st.sampled_from("abc"), max_size=3).map(lambda names: items(*names))
drafts = st.builds(
    Draft, states, bodies, item_lists, item_lists, st.none() | st.sampled_from(["r1", "r9"]), st.none() | bodies
)
event_lists = st.lists(st.builds(Event, st.integers(0, 5), bodies), max_size=4)


@dataclass
class Known:
    """What the world knows of a response."""

    draft: Draft
    created_at: float
    events: dict[int, bytes] = field(default_factory=dict)
    is_inherited: bool = False

    @property
    def is_open(self) -> bool:
        return self.draft.state is not State.ENDED


class World(RuleBasedStateMachine):
    """A store and what should be in it."""

    kind = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.bench = Bench(self.kind, Path(self.folder.name), max_responses=MOST)
        self.known: dict[Key, Known] = {}

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize()
    def begin(self) -> None:
        self.do(self.bench.store.open())

    def teardown(self) -> None:
        self.do(self.bench.store.close())
        self.runner.close()
        self.folder.cleanup()

    def found(self, key: Key) -> Known | None:
        known = self.known.get(key)
        is_over = known is not None and not known.is_open and known.created_at <= self.bench.clock.now - AGE_S
        return None if is_over else known

    def tidy(self) -> None:
        """What a write leaves of what had been there."""
        self.known = {key: known for key, known in self.known.items() if self.found(key)}
        over = [key for key, known in self.known.items() if not known.is_open]
        for key in over[: max(0, len(self.known) - MOST)]:
            del self.known[key]

    @rule(key=keys, draft=drafts)
    def create(self, key: Key, draft: Draft) -> None:
        assert self.do(self.bench.store.create(key, draft)) is Written.STORED
        self.known.pop(key, None)
        self.known[key] = Known(draft, self.bench.clock.now)
        self.tidy()

    @rule(key=keys, state=states, response=bodies, output=item_lists)
    def update(self, key: Key, state: State, response: bytes, output: Any) -> None:
        known = self.found(key)
        written = self.do(self.bench.store.update(key, state, response, output))
        assert written is (Written.STORED if known else Written.UNKNOWN)
        if known:
            job = known.draft.job if state is State.QUEUED else None
            known.draft = known.draft._replace(state=state, response=response, output_items=output, job=job)
        self.tidy()

    @rule(key=keys, events=event_lists)
    def append(self, key: Key, events: list[Event]) -> None:
        async def appended() -> bool:
            return self.bench.store.append(key, events)

        assert self.do(appended())
        known = self.found(key)
        if known:
            known.events.update(events)
        self.tidy()

    @rule(key=keys)
    def delete(self, key: Key) -> None:
        known = self.found(key)
        assert self.do(self.bench.store.delete(key)) is (known is not None)
        self.known.pop(key, None)
        self.tidy()

    @rule(seconds=st.sampled_from([1.0, AGE_S / 2, AGE_S]))
    def wait(self, seconds: float) -> None:
        self.do(self.settled())
        self.bench.clock.now += seconds

    async def settled(self) -> None:
        """An append that nobody waits for has been carried out, at the time at which it was asked for."""
        await self.bench.store.delete(Key("nobody", "nothing"))

    @rule()
    def reopen(self) -> None:
        self.do(self.bench.reopen())
        for known in self.known.values():
            known.is_inherited = known.is_open

    @rule(key=keys, after=st.integers(-1, 6), limit=st.integers(1, 4))
    def read_events(self, key: Key, after: int, limit: int) -> None:
        self.do(self.settled())
        known = self.found(key)
        expected: list[Event] | None = None
        if known:
            expected = []
            for number in range(after + 1, after + 1 + limit):
                if number not in known.events:
                    break
                expected.append(Event(number, known.events[number]))
        found = self.do(self.bench.store.events(key, after, limit))
        assert found == (None if expected is None else tuple(expected))

    @rule(key=keys)
    def read(self, key: Key) -> None:
        known = self.found(key)
        draft = known.draft if known else None
        stored, exchange = self.do(self.bench.store.get(key)), self.do(self.bench.store.exchange(key))
        assert stored == (Stored(draft.state, draft.response) if draft else None)
        expected = (
            Exchange(draft.state, draft.previous, draft.input_items, draft.output_items, draft.job) if draft else None
        )
        assert exchange == expected

    @rule()
    def read_unfinished(self) -> None:
        left = [(key, known) for key, known in self.known.items() if known.is_inherited and known.is_open]
        expected = tuple(Unfinished(key, known.draft.state) for key, known in left)
        assert self.do(self.bench.store.unfinished()) == expected

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.bench.observer.facts == [fact for fact in self.bench.observer.facts if fact[0] == "evicted"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_knows_what_it_was_told(kind: str) -> None:
    machine = type("WorldOf", (World,), {"kind": kind})
    run_state_machine_as_test(machine, settings=trying(0.5 if kind == "sqlite" else 2))

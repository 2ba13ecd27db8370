"""Tenants get service by their weights, whoever asks more often, longer or after a pause."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.events import Fault, FaultKind, Finish, Trace, TurnEnd, Usage
from pool.stimuli import Lease
from pool.worker_state import WorkerId
from scheduler.backlog import Backlog, Place
from scheduler.effect import Start
from scheduler.model import SHARES, Priority, QueuePolicy
from scheduler.profile_queue import CREDIT_TURNS, ProfileQueue
from scheduler.state import SchedulerState
from scheduler.stimulus import ClientLeft, SeatsFreed, Submitted, TurnEnded
from tests.support.examples import trying
from tests.support.jobs import a_job


def queue(backlog: Backlog, tenant: str, tickets: range, *, weight: float = 1.0, cost: float = 10.0) -> None:
    for ticket in tickets:
        backlog.push(ticket, Place(tenant, weight=weight, cost=cost))


def popped(backlog: Backlog, count: int) -> list[int]:
    """Who goes next, as many as there are."""
    tickets: list[int] = []
    while len(tickets) < count and (ticket := backlog.head()) is not None:
        backlog.take(ticket)
        tickets.append(ticket)
    return tickets


def test_a_tenant_with_one_job_does_not_wait_for_the_fifty_of_another() -> None:
    backlog = Backlog()
    queue(backlog, "elephant", range(50))
    assert popped(backlog, 10) == list(range(10))
    queue(backlog, "mouse", range(100, 101))
    assert popped(backlog, 3) == [100, 10, 11]


def test_two_tenants_who_both_wait_take_turns_and_each_goes_in_order() -> None:
    backlog = Backlog()
    queue(backlog, "a", range(5))
    queue(backlog, "b", range(10, 15))
    assert popped(backlog, 10) == [0, 10, 1, 11, 2, 12, 3, 13, 4, 14]


def test_weights_are_shares() -> None:
    backlog = Backlog()
    queue(backlog, "heavy", range(300), weight=3.0)
    queue(backlog, "light", range(300, 600))
    served = Counter("heavy" if ticket < 300 else "light" for ticket in popped(backlog, 200))
    assert served == {"heavy": 150, "light": 50}


def test_dear_jobs_are_fewer_jobs() -> None:
    backlog = Backlog()
    queue(backlog, "long", range(300), cost=90.0)
    queue(backlog, "short", range(300, 600), cost=10.0)
    served = Counter("long" if ticket < 300 else "short" for ticket in popped(backlog, 100))
    assert served == {"long": 10, "short": 90}


def test_a_pause_saves_up_no_credit() -> None:
    backlog = Backlog()
    queue(backlog, "busy", range(200))
    popped(backlog, 100)
    queue(backlog, "rested", range(500, 520))
    assert popped(backlog, 6) == [500, 100, 501, 101, 502, 102]


def shared(credit: float, *names: str) -> Backlog:
    """One in which these tenants were seen, and have left their share since to `busy`, which always waits."""
    backlog = Backlog()
    backlog.credit = credit
    for number, name in enumerate(names):
        queue(backlog, name, range(number, number + 1), cost=0.0)
    queue(backlog, "busy", range(50, 300))
    popped(backlog, 100 + len(names))
    return backlog


def test_what_a_tenant_left_of_its_share_is_a_credit_for_a_few_jobs() -> None:
    backlog = shared(30.0, "rested")
    queue(backlog, "rested", range(500, 520))
    assert popped(backlog, 7) == [500, 501, 502, 503, 150, 504, 151]


def test_those_in_credit_are_served_in_the_order_in_which_their_jobs_came() -> None:
    backlog = shared(30.0, "a", "b")
    for number in range(500, 506):
        queue(backlog, "aabbab"[number - 500], range(number, number + 1))
    assert popped(backlog, 8) == [500, 501, 502, 503, 504, 505, 150, 151]


def test_when_the_first_job_of_one_in_credit_is_withdrawn_the_next_has_its_own_place() -> None:
    backlog = shared(30.0, "a", "b")
    queue(backlog, "a", range(500, 501))
    queue(backlog, "b", range(501, 502))
    queue(backlog, "a", range(502, 503))
    backlog.remove(500)
    assert popped(backlog, 3) == [501, 502, 150]


def test_what_turns_cost_less_than_was_guessed_is_no_credit_for_one_who_waits() -> None:
    backlog = shared(30.0, "rested")
    for _ in range(8):
        backlog.vacate(Place("busy", cost=10.0), -9.0)
    queue(backlog, "rested", range(500, 510))
    assert popped(backlog, 3) == [500, 501, 502]


def test_a_turn_that_cost_more_than_the_credit_is_the_last_on_it_and_no_debt_of_newcomers() -> None:
    backlog = shared(30.0, "rested")
    queue(backlog, "rested", range(500, 510))
    assert popped(backlog, 1) == [500]
    backlog.vacate(Place("rested", cost=10.0), 1000.0)
    assert popped(backlog, 1) == [150]
    queue(backlog, "new", range(600, 601))
    assert 600 in popped(backlog, 2)


def test_nobody_waits_for_more_than_a_credit_of_what_others_were_given_back() -> None:
    backlog = Backlog()
    backlog.credit = 30.0
    queue(backlog, "overrated", range(8), cost=1000.0)
    queue(backlog, "overrated", range(10, 100), cost=10.0)
    popped(backlog, 8)
    for _ in range(8):
        backlog.vacate(Place("overrated", cost=1000.0), -990.0)
    queue(backlog, "new", range(500, 510))
    assert popped(backlog, 6) == [10, 11, 12, 500, 13, 501]


def test_what_its_cap_kept_a_tenant_from_is_made_up_for_by_a_credit_at_most() -> None:
    backlog, place = Backlog(), Place("capped", cost=10.0, seats=1)
    backlog.credit = 30.0
    for ticket in range(50):
        backlog.push(ticket, place)
    queue(backlog, "busy", range(100, 300))
    popped(backlog, 101)
    backlog.vacate(place)
    queue(backlog, "new", range(500, 510))
    order = []
    for _ in range(8):
        order += popped(backlog, 1)
        if order[-1] < 50:
            backlog.vacate(place)
    assert order == [1, 2, 3, 500, 4, 200, 501, 5]


def test_who_has_credit_gains_no_earlier_place_by_a_job_of_another_class() -> None:
    backlog = shared(3000.0, "a", "b")
    backlog.push(500, Place("a", Priority.BATCH, cost=10.0))
    backlog.take(500)
    for ticket, tenant in ((501, "a"), (502, "b"), (503, "b")):
        backlog.push(ticket, Place(tenant, Priority.BATCH, cost=10.0))
    backlog.push(504, Place("a", Priority.INTERACTIVE, 8.0, 10.0))
    assert popped(backlog, 4) == [502, 503, 504, 501]


def test_who_was_never_seen_has_no_credit() -> None:
    backlog = shared(30.0)
    queue(backlog, "new", range(500, 520))
    assert popped(backlog, 4) == [500, 150, 501, 151]


def test_what_nobody_waited_for_is_nobodys_debt() -> None:
    backlog = Backlog()
    backlog.credit = 30.0
    queue(backlog, "rests", range(1), cost=0.0)
    popped(backlog, 1)
    for number in range(10, 20):
        queue(backlog, "alone", range(number, number + 1))
        popped(backlog, 1)
        backlog.vacate(Place("alone", cost=10.0))
    queue(backlog, "alone", range(100, 110))
    queue(backlog, "new", range(200, 210))
    queue(backlog, "rests", range(300, 310))
    assert popped(backlog, 9) == [300, 301, 302, 100, 200, 303, 101, 201, 304]


@given(st.integers(1, 20), st.sampled_from([0.0, 40.0, 80.0]))
@trying(0.5)
def test_who_pauses_again_and_again_gets_no_more_than_its_share_and_one_credit(burst: int, credit: float) -> None:
    backlog, served = Backlog(), Counter[str]()
    backlog.credit = credit
    numbers = iter(range(10**6))
    for _ in range(600):
        if not backlog.waiting("pauses"):
            queue(backlog, "pauses", range(start := next(numbers) * 100, start + burst))
        if not backlog.waiting("stays"):
            queue(backlog, "stays", range(start := next(numbers) * 100, start + 50))
        ticket = backlog.head()
        assert ticket is not None
        tenant = backlog._flows[ticket].tenant.name
        backlog.take(ticket)
        backlog.vacate(Place(tenant, cost=10.0))
        served[tenant] += 10
    assert served["pauses"] <= served["stays"] + 2 * 10 + credit


def test_a_debt_that_others_have_long_caught_up_with_is_no_credit_either() -> None:
    backlog = Backlog()
    queue(backlog, "other", range(100))
    queue(backlog, "owes", range(500, 501), cost=50.0)
    assert 500 in popped(backlog, 2)
    backlog.vacate(Place("owes"))
    popped(backlog, 60)
    queue(backlog, "owes", range(501, 505))
    served = popped(backlog, 6)
    assert sum(ticket > 500 for ticket in served) == 3, "they take turns"


def test_a_short_pause_pays_off_no_debt() -> None:
    backlog = Backlog()
    queue(backlog, "other", range(100))
    queue(backlog, "greedy", range(500, 501), cost=50.0)
    assert 500 in popped(backlog, 2)
    queue(backlog, "greedy", range(501, 502))
    assert 501 not in popped(backlog, 4)
    assert 501 in popped(backlog, 2)


def test_a_tenant_whose_jobs_were_all_taken_out_is_in_nobodys_way() -> None:
    backlog = Backlog()
    queue(backlog, "left", range(3))
    queue(backlog, "stays", range(10, 12))
    for ticket in range(3):
        backlog.remove(ticket)
    assert popped(backlog, 5) == [10, 11]
    queue(backlog, "left", range(3, 4))
    assert popped(backlog, 2) == [3]


@given(
    st.lists(st.tuples(st.booleans(), st.floats(1.0, 100.0)), min_size=10, max_size=60),
    st.sampled_from([(1.0, 1.0), (4.0, 1.0), (0.5, 2.0)]),
    st.lists(st.floats(-0.9, 3.0), min_size=1, max_size=10),
)
def test_two_tenants_who_always_wait_differ_by_two_jobs_at_most(
    jobs: list[tuple[bool, float]], weights: tuple[float, float], surprises: list[float]
) -> None:
    """Invariant 8. Also when a job turns out to cost up to four times what was guessed: the bound is that of the true
    costs."""
    backlog = Backlog()
    places: dict[int, Place] = {}
    for ticket, (is_first, cost) in enumerate([*jobs, *[(True, 100.0), (False, 100.0)] * len(jobs)]):
        places[ticket] = Place("ab"[not is_first], weight=weights[not is_first], cost=cost)
        backlog.push(ticket, places[ticket])
    served: dict[str, float] = defaultdict(float)
    bound = 2 * 4 * 100.0 / min(weights)
    for step in range(len(jobs)):
        (next_one,) = popped(backlog, 1)
        place = places[next_one]
        actual = place.cost * (1.0 + surprises[step % len(surprises)])
        backlog.vacate(place, actual - place.cost)
        served[place.tenant] += actual / place.weight
        assert abs(served["a"] - served["b"]) <= bound


habits = st.lists(
    st.tuples(
        st.sampled_from(["pauses", "trickles", "bursts", "abandons"]),
        st.sampled_from([(Priority.STANDARD,), (Priority.INTERACTIVE,), tuple(Priority)]),
        st.sampled_from([(1.0, 1.0), (1.0, 100.0), (100.0, 1.0), (100.0, 100.0)]),
        st.sampled_from([None, 1, 3]),
    ),
    min_size=1,
    max_size=3,
)


@given(habits, st.sampled_from([(1.0, 100.0), (100.0, 1.0)]), st.integers(1, 8), st.integers(0, 10**6))
@trying(0.5)
def test_whatever_others_do_they_gain_no_more_than_two_rounds_and_the_credit_on_one_who_always_waits(
    others: list[Any], own_costs: tuple[float, float], seats: int, seed: int
) -> None:
    """Invariant 8, of any span of time: costs are guessed far too low or high, takes undone, jobs withdrawn."""
    luck = random.Random(seed)  # noqa: S311 - habits, not secrets
    backlog = Backlog()
    backlog.credit = seats * 100.0
    bound = 2 * seats * 100.0 + backlog.credit
    tickets, running = 0, list[tuple[Place, float]]()
    served, least = defaultdict[str, float](float), defaultdict[str, float](float)
    kinds = {"stays": ("stays", (Priority.BATCH,), own_costs, None)}
    kinds |= {f"other-{number}": each for number, each in enumerate(others)}
    habit = {name: kind for name, (kind, _, _, _) in kinds.items()}
    true_costs = {name: costs[1] for name, (_, _, costs, _) in kinds.items()}
    for _ in range(150):
        for name, (_, classes, (guess, _), cap) in kinds.items():
            own = backlog.waiting(name)
            if luck.random() < 0.05 and name != "stays":
                habit[name] = luck.choice(["pauses", "trickles", "bursts", "abandons"])
            if habit[name] == "abandons" and own:
                backlog.remove(luck.choice([one for one, flow in backlog._flows.items() if flow.tenant.name == name]))
            wanted = {"stays": seats + 1, "trickles": 1, "bursts": 0 if own else 20}.get(habit[name], 0)
            for _ in range(wanted - own):
                tickets, priority = tickets + 1, luck.choice(classes)
                backlog.push(tickets, Place(name, priority, SHARES[priority], guess, cap))
        while len(running) < seats and (head := backlog.head()) is not None:
            place = backlog._flows[head].waiting[head]
            backlog.take(head)
            if luck.random() < 0.05:
                backlog.put_back(head, place)
            else:
                running.append((place, true_costs[place.tenant]))
        for _ in range(luck.choice([1, seats])):
            place, cost = running.pop(luck.randrange(len(running)))
            backlog.vacate(place, cost - place.cost)
            served[place.tenant] += cost / place.weight
        for name in kinds:
            gained = served[name] - served["stays"]
            least[name] = min(least[name], gained)
            assert gained - least[name] <= bound


# --- classes -----------------------------------------------------------------------------------------------------


def test_classes_of_one_tenant_share_eight_to_four_to_one() -> None:
    backlog = Backlog()
    for number, priority in enumerate(Priority):
        for ticket in range(1000 * number, 1000 * number + 300):
            backlog.push(ticket, Place("tenant", priority, SHARES[priority], 10.0))
    served = Counter(ticket // 1000 for ticket in popped(backlog, 260))
    assert served == {0: 160, 1: 80, 2: 20}


def test_a_key_with_twice_the_weight_has_twice_the_part_of_each_class() -> None:
    state = SchedulerState({"main": QueuePolicy(10_000, codel_target_s=0)})
    shapes = [(tenant, weight, priority) for tenant, weight in (("big", 2.0), ("small", 1.0)) for priority in Priority]
    for number in range(1200):
        for place, (tenant, weight, priority) in enumerate(shapes):
            state.handle(Submitted(number * 10 + place, a_job(tenant=tenant, weight=weight, priority=priority)), 0.0)
    started = [effect.ticket % 10 for effect in state.handle(SeatsFreed("main", 390), 1.0) if isinstance(effect, Start)]
    served = Counter(shapes[place] for place in started)
    assert [served[shape] for shape in shapes] == [160, 80, 20, 80, 40, 10]


def served_tokens(shapes: dict[str, list[tuple[Priority, float]]], turns: int) -> Counter[str]:
    """What tenants are given who always have jobs of these classes and costs waiting."""
    backlog = Backlog()
    places: list[Place] = []
    for tenant, kinds in shapes.items():
        for priority, cost in kinds:
            for _ in range(turns):
                places.append(Place(tenant, priority, SHARES[priority], cost))
                backlog.push(len(places) - 1, places[-1])
    served: Counter[str] = Counter()
    for ticket in popped(backlog, turns):
        served[places[ticket].tenant] += int(places[ticket].cost)
    return served


def test_who_sends_only_batch_gets_an_eighth_of_who_sends_only_interactive() -> None:
    served = served_tokens({"a": [(Priority.INTERACTIVE, 10.0)], "b": [(Priority.BATCH, 10.0)]}, 900)
    assert served == {"a": 8000, "b": 1000}


kinds = st.lists(st.tuples(st.sampled_from(Priority), st.integers(1, 100).map(float)), min_size=1, max_size=4)


@given(kinds, kinds)
def test_nobody_gains_by_labelling_a_part_of_the_jobs(mine: list[tuple[Priority, float]], others: Any) -> None:
    """Against any neighbour, beside one who sends everything in the same class: never more, but for one job."""
    highest = min((priority for priority, _ in mine), key=list(Priority).index)
    plain = [(highest, cost) for _, cost in mine]
    served = served_tokens({"mixes": mine, "plain": plain, "other": others}, 400)
    assert served["mixes"] <= served["plain"] + 2 * 100


# --- in the core -------------------------------------------------------------------------------------------------


def test_what_a_turn_really_cost_decides_who_goes_next() -> None:
    state = SchedulerState({"main": QueuePolicy(100, codel_target_s=0)})
    for number in range(10):
        state.handle(Submitted(number, a_job(tenant="talker")), 0.0)
        state.handle(Submitted(100 + number, a_job(tenant="listener")), 0.0)
    order = []
    for step in range(12):
        (start,) = state.handle(SeatsFreed("main", 1), float(step))
        assert isinstance(start, Start)
        state.started(start.ticket, Lease(step, WorkerId("main", 0, 1)), float(step))
        order.append("talker" if start.ticket < 100 else "listener")
        tokens = 5000 if start.ticket < 100 else 10
        end = TurnEnd(finish=Finish.STOP, usage=Usage(input_tokens=10, output_tokens=tokens))
        state.handle(TurnEnded(start.ticket, 1, end), step + 0.5)
        state.validate()
    assert Counter(order)["listener"] == 10, "all of them before the talker's second or third"
    assert order.count("talker") == 2


def seconds_of_seats(*, end_of_leaver: TurnEnd) -> Counter[str]:
    """Of one whose turns take a second and are counted, and one whose take ten and end like this; for 1000 s."""
    state = SchedulerState({"main": QueuePolicy(100, codel_target_s=0)})
    tickets, now, held = 0, 0.0, Counter[str]()
    counted = TurnEnd(finish=Finish.STOP, usage=Usage(output_tokens=200))
    while now < 1000.0:
        for tenant in ("pays", "leaves"):
            while state._queues["main"].backlog.waiting(tenant) < 3:
                tickets += 1
                state.handle(Submitted(tickets, a_job(tenant=tenant)), now)
        (start,) = state.handle(SeatsFreed("main", 1), now)
        assert isinstance(start, Start)
        state.started(start.ticket, Lease(start.ticket, WorkerId("main", 0, 1)), now)
        tenant = state._tickets[start.ticket].job.tenant
        hold_s = 10.0 if tenant == "leaves" else 1.0
        now, held[tenant] = now + hold_s, held[tenant] + int(hold_s)
        if tenant == "leaves":
            state.handle(ClientLeft(start.ticket), now)
        state.handle(TurnEnded(start.ticket, 1, end_of_leaver if tenant == "leaves" else counted), now)
        state.validate()
    return held


def test_who_hangs_up_before_the_tokens_are_counted_pays_for_the_time() -> None:
    held = seconds_of_seats(end_of_leaver=TurnEnd(finish=Finish.INTERRUPTED))
    assert 0.8 < held["leaves"] / held["pays"] < 1.25


def test_who_lost_the_time_to_a_bad_worker_does_not_pay_for_it() -> None:
    lost = TurnEnd(fault=Fault(FaultKind.WORKER_LOST, "gone"), trace=Trace.SPOKEN)
    held = seconds_of_seats(end_of_leaver=lost)
    assert held["leaves"] > 5 * held["pays"]


@pytest.mark.parametrize("priority", Priority)
def test_the_credit_is_of_as_many_turns_in_every_class(priority: Priority) -> None:
    queue = ProfileQueue("main", QueuePolicy(100))
    job = a_job(priority=priority)
    place = queue.place(job)
    for ticket in range(50):
        queue.push(ticket, place)
        queue.backlog.take(ticket)
        queue.began(0.0)
        end = TurnEnd(finish=Finish.STOP, usage=Usage(input_tokens=100, output_tokens=200))
        queue.ended(job, place, end, 1.0, 1.0, is_charged=True)
    assert queue.backlog.credit == pytest.approx(CREDIT_TURNS * 500.0 / place.weight, rel=0.01)


def test_a_turn_that_cannot_be_started_again_is_nobodys_credit() -> None:
    queue = ProfileQueue("main", QueuePolicy(100))
    place = queue.place(a_job(tenant="unlucky"))
    queue.push(1, place)
    queue.backlog.take(1)
    queue.backlog.vacate(place)
    level = queue.backlog._level
    for _ in range(10):
        queue.backlog.occupy(place)
        queue.began(0.0)
        queue.never_began(1, place, was_returned=True)
    assert queue.backlog._level == level
    assert queue.backlog.running("unlucky") == 0


def test_a_job_whose_seat_has_gone_is_not_charged_for_it() -> None:
    state = SchedulerState({"main": QueuePolicy(100)})
    state.handle(Submitted(1, a_job(tenant="a"), 1), 0.0)
    for ticket, tenant in ((2, "a"), (3, "b")):
        state.handle(Submitted(ticket, a_job(tenant=tenant)), 0.0)
    assert state.started(1, None, 0.0) == ()
    assert state.handle(SeatsFreed("main", 1), 1.0) == (Start(1, 1),)

"""What a crowd waits beside a flood, in virtual time: every turn takes as long, and a seat is never idle for long."""

from __future__ import annotations

import heapq
import random
import statistics

import pytest

from scheduler.backlog import Backlog, Place

SEATS = 8
TURN_S = 0.2
SHARE = SEATS / 10 / TURN_S
"""Turns a second of each of ten tenants."""
CREDIT = 64.0
FLOOD = 9
WARM_S = 10.0
"""The flood begins then, and waits count from then on."""
END_S = 250.0


def arrivals(tenant: int, rate: float, seed: int) -> list[tuple[float, int]]:
    rng = random.Random(f"{seed} {tenant}")  # noqa: S311 - arrivals, not secrets
    at, times = 0.0, []
    while (at := at + rng.expovariate(rate)) < END_S:
        times.append((at, tenant))
    return times


def p95_wait_s(seed: int, *, is_flooded: bool, credit: float = CREDIT) -> float:
    """Of nine tenants at nine tenths of their shares, perhaps beside a tenth that asks for twenty times its own."""
    coming = [each for tenant in range(FLOOD) for each in arrivals(tenant, 0.9 * SHARE, seed)]
    if is_flooded:
        coming += [each for each in arrivals(FLOOD, 20 * SHARE, seed) if each[0] > WARM_S]
    events = [(at, number, tenant) for number, (at, tenant) in enumerate(sorted(coming))]
    came_at = {number: at for at, number, _ in events}
    heapq.heapify(events)
    backlog, free, running, waits = Backlog(), SEATS, dict[int, Place](), list[float]()
    backlog.credit = credit
    places = [Place(f"tenant-{tenant}") for tenant in range(10)]
    while events:
        now, number, tenant = heapq.heappop(events)
        if number in running:
            backlog.vacate(running.pop(number))
            free += 1
        elif tenant != FLOOD or backlog.waiting(places[FLOOD].tenant) < 32:
            backlog.push(number, places[tenant])
        while free and (head := backlog.head()) is not None:
            running[head] = backlog._flows[head].waiting[head]
            backlog.take(head)
            free -= 1
            heapq.heappush(events, (now + TURN_S, head, 0))
            if running[head] is not places[FLOOD] and came_at[head] > WARM_S:
                waits.append(now - came_at[head])
    return statistics.quantiles(waits, n=20)[-1]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_crowd_waits_at_most_one_and_a_half_times_as_long_beside_a_flood(seed: int) -> None:
    alone, beside = p95_wait_s(seed, is_flooded=False), p95_wait_s(seed, is_flooded=True)
    assert 0.1 < alone < beside < 1.5 * alone


def test_without_credit_it_would_wait_much_longer() -> None:
    assert p95_wait_s(1, is_flooded=True, credit=0.0) > 3 * p95_wait_s(1, is_flooded=False, credit=0.0)

"""What one job costs the backlog: `python -m tests.scheduler.cost` prints microseconds for each number of tenants."""

from __future__ import annotations

import itertools
import timeit

from scheduler.backlog import Backlog, Place

ROUNDS = 100_000
WAITING = 5_000


def cost_us(tenants: int) -> float:
    """Microseconds to take one job out, let one in and put one charge right, with `WAITING` jobs waiting."""
    backlog = Backlog(2 * WAITING)
    numbers = itertools.count()
    places = [Place(1e9, str(number), 1.0, 10.0) for number in range(tenants)]

    def enter() -> None:
        number = next(numbers)
        backlog.push(number, places[number % tenants])

    def step() -> None:
        backlog.pop()
        enter()
        backlog.charge(places[0], 1.0)

    for _ in range(WAITING):
        enter()
    return timeit.timeit(step, number=ROUNDS) / ROUNDS * 1e6


if __name__ == "__main__":
    for tenants in (1, 10, 1000):
        print(f"{tenants} tenants: {cost_us(tenants):.1f} us")  # noqa: T201 - its purpose

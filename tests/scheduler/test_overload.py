"""What an overload does to waits, in virtual time: eight seats, turns of 1.2 s on average, so 6.7 answers a second."""

from __future__ import annotations

import asyncio
import random
from statistics import median

from scheduler.model import Ended, Expired, Job, Outcome, Priority, QueuePolicy, Rejected, Shed
from scheduler.observer import SchedulerObserver
from scheduler.scheduler import Scheduler
from tests.support.fake_seats import FakeSeats, FakeTurn
from tests.support.jobs import a_job
from tests.support.virtual_time import pass_time, run_virtual

SEATS = 8
HOLD_S = 1.2
CAPACITY = SEATS / HOLD_S
BUDGET_S = 10.0
TARGET_S = 0.5
HOUR_S = 3600.0


class Waits(SchedulerObserver):
    """How long those waited who were served, and those who were not."""

    def __init__(self) -> None:
        self.served: list[float] = []
        self.shed: list[float] = []
        self.expired: list[float] = []
        self.patient: list[float] = []
        """Of patient jobs that were served, also when the load was over."""
        self.is_over = False
        """What is served after the load has ended is no part of it."""

    def ticket_settled(self, job: Job, outcome: Outcome, waited_s: float, ran_s: float, attempts: int) -> None:
        match outcome:
            case Ended() if job.is_patient:
                self.patient.append(waited_s)
            case Ended() if not self.is_over:
                self.served.append(waited_s)
            case Shed():
                self.shed.append(waited_s)
            case Expired():
                self.expired.append(waited_s)


async def under_load(
    factor: float, seconds: float, *, codel_target_s: float, burst: int = 0, patient: int = 0
) -> Waits:
    """Jobs at `factor` times what the seats can do, and before them `burst` at once, and so many `patient` ones."""
    rng = random.Random(1)  # noqa: S311 - it has to repeat itself
    loop = asyncio.get_running_loop()
    waits, seats = Waits(), FakeSeats(main=SEATS)
    scheduler = Scheduler(seats, {"main": QueuePolicy(1000, codel_target_s=codel_target_s)}, waits)
    seats.on_freed = scheduler.seats_freed

    def work(turn: FakeTurn) -> None:
        loop.call_later(rng.uniform(0.5, 1.5) * HOLD_S, seats.finishes, turn.lease.id - 1)

    seats.at_start = work
    for number in range(burst):
        scheduler.submit(a_job(f"burst-{number}", budget_s=BUDGET_S))
    for number in range(patient):
        scheduler.submit(a_job(f"patient-{number}", budget_s=HOUR_S, is_patient=True, priority=Priority.BATCH))
    ends_at = loop.time() + seconds
    while loop.time() < ends_at:
        await pass_time(rng.expovariate(factor * CAPACITY))
        try:
            scheduler.submit(a_job(budget_s=BUDGET_S))
        except Rejected:
            continue
    waits.is_over = True
    await scheduler.idle()
    return waits


def test_a_long_overload_gives_short_waits_and_no_less_work_is_done() -> None:
    for factor in (1.3, 2.0):
        without = run_virtual(under_load(factor, 120.0, codel_target_s=0.0))
        with_it = run_virtual(under_load(factor, 120.0, codel_target_s=TARGET_S))
        assert median(without.served) > 0.6 * BUDGET_S, "everybody waits for nearly all of the budget"
        assert median(with_it.served) <= 2 * TARGET_S
        assert max(with_it.served[len(with_it.served) // 2 :]) < 0.7 * BUDGET_S
        assert len(with_it.served) > 0.98 * len(without.served)
        assert with_it.shed
        assert not with_it.expired
        assert min(with_it.shed) > 2 * TARGET_S


def test_a_short_burst_sheds_nobody() -> None:
    burst = int(CAPACITY * 2)  # worked off in four seconds beside half a load: within the interval of five
    waits = run_virtual(under_load(0.5, 30.0, codel_target_s=TARGET_S, burst=SEATS + burst))
    assert not waits.shed
    assert max(waits.served) > 3 * TARGET_S, "it was a burst"


def test_patient_jobs_of_a_lower_class_are_all_served_and_make_nobody_else_wait() -> None:
    borne = run_virtual(under_load(0.6, 120.0, codel_target_s=TARGET_S, patient=500))
    assert not borne.shed
    assert not borne.expired
    assert median(borne.served) < TARGET_S
    beside = run_virtual(under_load(2.0, 120.0, codel_target_s=TARGET_S, patient=500))
    alone = run_virtual(under_load(2.0, 120.0, codel_target_s=TARGET_S))
    assert median(beside.served) <= 2 * TARGET_S
    assert len(beside.served) > 0.75 * len(alone.served)
    for waits in (borne, beside):
        assert len(waits.patient) == 500
        assert max(waits.patient) > 10 * BUDGET_S


def test_a_load_that_can_be_borne_sheds_nobody() -> None:
    waits = run_virtual(under_load(0.6, 300.0, codel_target_s=TARGET_S))
    assert not waits.shed
    assert not waits.expired

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest

from pool.errors import IllegalTransition
from pool.events import Fault, FaultKind, Finish, Trace, TurnEnd
from pool.roster import Outlook
from pool.stimuli import Lease
from pool.worker_state import WorkerId
from scheduler.again import BASE_S
from scheduler.effect import Closed, Effect, Forget, Interrupt, Limited, Look, Return, Settle, Start
from scheduler.model import (
    Abandoned,
    CrashesWorker,
    CutOff,
    Draining,
    Ended,
    Expired,
    Job,
    NotReady,
    Outcome,
    Overdue,
    Overrun,
    Penalized,
    Priority,
    QueueFull,
    QueuePolicy,
    Rejected,
    Shed,
    TenantQueueFull,
    WaitTooLong,
)
from scheduler.penalty import fingerprint
from scheduler.profile_queue import FIRST_GUESS_S, SMOOTHING
from scheduler.record import TRANSITIONS, QueueSnapshot, TicketState
from scheduler.state import AVOID_S, QUARANTINED, REMEMBERED, SchedulerState
from scheduler.stimulus import (
    BufferFilled,
    ClientLeft,
    CutOffReached,
    LeasesDoubted,
    LimitSet,
    Looked,
    Reconfigured,
    SeatsFreed,
    Stimulus,
    Submitted,
    Ticked,
    TurnEnded,
)
from tests.support.jobs import a_job

NOW = 1000.0
UP = Outlook(1, 1, None)
END = TurnEnd(finish=Finish.STOP)
WORKERS = [WorkerId("main", slot, 1) for slot in range(4)]


def lost(kind: FaultKind = FaultKind.WORKER_LOST, trace: Trace = Trace.NONE) -> TurnEnd:
    return TurnEnd(fault=Fault(kind, "gone"), trace=trace)


CRASH = lost()


def outcomes(effects: tuple[Effect, ...]) -> list[tuple[int, Outcome]]:
    return [(effect.ticket, effect.outcome) for effect in effects if isinstance(effect, Settle)]


class Core:
    """A core whose starts are carried out on the worker that the test says, unless it is to be avoided."""

    def __init__(self, **policy: Any) -> None:
        rules = {"queue_max": 10, "codel_target_s": 0.0, **policy}
        self.state = SchedulerState({"main": QueuePolicy(**rules)})
        self.now = NOW
        self.worker = WORKERS[0]
        self.leases: dict[int, Lease] = {}
        """The latest of each ticket."""
        self.started: list[int] = []
        self.tries = 0

    def tell(self, stimulus: Stimulus) -> tuple[Effect, ...]:
        """All that comes of a stimulus but the starts, which are in `started`."""
        out: list[Effect] = []
        for effect in self.state.handle(stimulus, self.now):
            if isinstance(effect, Start):
                out += self.start(effect)
            else:
                out.append(effect)
        self.state.validate()
        return tuple(out)

    def start(self, effect: Start) -> tuple[Effect, ...]:
        if self.worker in self.state.avoided(effect.ticket, self.now):
            return self.state.started(effect.ticket, None, self.now)
        self.tries += 1
        self.leases[effect.ticket] = Lease(self.tries, self.worker)
        self.started.append(effect.ticket)
        return self.state.started(effect.ticket, self.leases[effect.ticket], self.now)

    def waits(self, *tickets: int, **job: Any) -> Core:
        for ticket in tickets:
            self.tell(Submitted(ticket, a_job(**job)))
        return self

    def runs(self, *tickets: int, **job: Any) -> Core:
        for ticket in tickets:
            self.tell(Submitted(ticket, a_job(**job), 1))
            assert self.started[-1] == ticket
        return self

    def frees(self, seats: int = 1, worker: WorkerId = WORKERS[0]) -> list[int]:
        """Who starts."""
        self.worker = worker
        before = len(self.started)
        self.tell(SeatsFreed("main", seats))
        return self.started[before:]

    def ends(self, ticket: int, end: TurnEnd = END, attempt: int = 1) -> tuple[Effect, ...]:
        return self.tell(TurnEnded(ticket, attempt, end))

    def row(self) -> QueueSnapshot:
        (row,) = self.state.snapshot(self.now)
        return row

    def refusal(
        self,
        job: Job,
        free: int = 0,
        outlook: Outlook = UP,
    ) -> tuple[str, type[Rejected]] | None:
        has_to_wait = self.state.has_to_wait(job, free)
        refusal = self.state.refusal(job, outlook if has_to_wait else None, self.now)
        return None if refusal is None else (refusal[0], type(refusal[1]))


# --- waiting and starting --------------------------------------------------------------------------------------


def test_a_job_starts_at_once_when_a_seat_is_free() -> None:
    row = Core().runs(1).row()
    assert (row.waiting, row.running) == (0, 1)


def test_those_who_wait_start_in_order_of_arrival_as_seats_come_free() -> None:
    core = Core().waits(1, 2, 3)
    assert [core.frees(2), core.frees(0), core.frees(5)] == [[1, 2], [], [3]]


def test_a_newcomer_does_not_overtake() -> None:
    core = Core().waits(1)
    core.tell(Submitted(2, a_job(), 1))
    assert core.started == [1]


def test_profiles_do_not_share_seats_or_places() -> None:
    state = SchedulerState({"a": QueuePolicy(1), "b": QueuePolicy(1)})
    state.handle(Submitted(1, a_job(profile="a")), NOW)
    assert state.refusal(a_job(profile="a"), UP, NOW) is not None
    assert state.refusal(a_job(profile="b"), UP, NOW) is None
    state.handle(Submitted(2, a_job(profile="b")), NOW)
    assert state.handle(SeatsFreed("b", 2), NOW) == (Start(2, 1),)


# --- the door --------------------------------------------------------------------------------------------------


def test_a_full_queue_takes_a_job_only_if_there_is_a_seat_for_it() -> None:
    core = Core(queue_max=2).waits(1)
    assert core.refusal(a_job()) is None
    core.waits(2)
    assert core.refusal(a_job()) == ("queue_full", QueueFull)
    assert core.refusal(a_job(tenant="other"), free=1) is None


def test_a_full_queue_takes_who_has_less_than_a_fair_part_of_it() -> None:
    core = Core(queue_max=6).waits(1, 2, 3, tenant="a").waits(4, 5, 6, tenant="b")
    for ticket in (7, 8):
        assert core.refusal(a_job(tenant="mouse")) is None
        core.waits(ticket, tenant="mouse")
    for tenant in ("a", "b", "mouse"):
        assert core.refusal(a_job(tenant=tenant)) == ("queue_full", QueueFull)


def test_a_full_queue_grows_with_the_logarithm_of_the_tenants() -> None:
    core, places, tickets = Core(queue_max=60), 60, itertools.count()
    for tenant in range(100):
        while core.refusal(a_job(tenant=str(tenant))) is None:
            core.waits(next(tickets), tenant=str(tenant))
    assert core.row().waiting < places * (1 + math.log(100)) + 100


def test_the_reasons_to_refuse_have_an_order() -> None:
    core = Core(queue_max=1).runs(1)
    core.ends(1, TurnEnd(finish=Finish.STOP))
    core.runs(2).waits(3)
    job, up, down = a_job(budget_s=0.0, queue_share=1), UP, Outlook(0, 1, 3.0)
    core.state._penalties.add(job.tenant, fingerprint(b"", job.tenant, job.turn), NOW + 1.0)
    core.tell(Reconfigured({"main": QueuePolicy(1)}, 0))
    core.state.is_draining = True
    assert core.refusal(job, 0, down) == ("draining", Draining)
    core.state.is_draining = False
    assert core.refusal(job, 0, down) == ("penalized", Penalized)
    core.now += 1.0
    assert core.refusal(job, 0, down) == ("not_ready", NotReady)
    assert core.refusal(job, 0, up) == ("tenant_queue_full", TenantQueueFull)
    job = a_job(budget_s=0.0, queue_share=2, size=1)
    assert core.refusal(job, 0, up) == ("queue_full", QueueFull)
    core.tell(Reconfigured({"main": QueuePolicy(2)}, 0))
    assert core.refusal(job, 0, up) == ("too_much_text", QueueFull)
    core.tell(Reconfigured({"main": QueuePolicy(2)}, None))
    assert core.refusal(job, 0, up) == ("wait_too_long", WaitTooLong)


def test_the_share_of_the_queue_is_the_tenants_own_and_of_all_its_classes() -> None:
    core = Core().waits(1, tenant="a").waits(2, tenant="a", priority=Priority.BATCH).waits(3, tenant="b")
    assert core.refusal(a_job(tenant="a", queue_share=2)) == ("tenant_queue_full", TenantQueueFull)
    assert core.refusal(a_job(tenant="b", queue_share=2)) is None
    assert core.refusal(a_job(tenant="a")) is None


def test_one_job_is_always_taken_however_much_text_it_holds() -> None:
    state = SchedulerState({"main": QueuePolicy(10)}, max_held=100)
    assert state.refusal(a_job(size=1000), UP, NOW) is None
    state.handle(Submitted(1, a_job(size=60)), NOW)
    assert state.refusal(a_job(size=40), UP, NOW) is None
    assert state.refusal(a_job(size=41), UP, NOW) is not None
    state.handle(ClientLeft(1), NOW)
    assert state.refusal(a_job(size=1000), UP, NOW) is None


def test_a_tenant_may_not_hold_more_text_than_there_is_room_for_others() -> None:
    """One may hold a half, two a third each, and so on: whoever comes next finds room."""
    state = SchedulerState({"main": QueuePolicy(100)}, max_held=120)
    tickets = itertools.count()
    held: Counter[str] = Counter()
    for tenant in ("a", "b", "c"):
        while (refusal := state.refusal(a_job(tenant=tenant, size=1, queue_share=100), UP, NOW)) is None:
            state.handle(Submitted(next(tickets), a_job(tenant=tenant, size=1, queue_share=100)), NOW)
            held[tenant] += 1
        assert (refusal[0], type(refusal[1])) == ("too_much_text", TenantQueueFull)
        state.validate()
    assert held == {"a": 60, "b": 30, "c": 15}


def test_a_profile_whose_workers_do_not_boot_says_when_the_next_is_tried() -> None:
    core = Core()
    refusal = core.state.refusal(a_job(), Outlook(0, 4, 3.5), NOW)
    assert refusal is not None
    assert refusal[1].retry_after_s == 3.5
    assert core.refusal(a_job(), 0, Outlook(0, 4, None)) is None, "its workers may be booting"


# --- what can be expected --------------------------------------------------------------------------------------


def seen(core: Core, hold_s: float) -> Core:
    """Turns have been seen to take so long."""
    queue = core.state._queues["main"]
    queue.hold_s, queue.has_held = hold_s, True
    return core


def refused(core: Core, job: Job, outlook: Outlook = Outlook(4, 4, None)) -> float | None:  # noqa: B008 - immutable
    """When a job that would wait too long is to come again; None: it would not."""
    refusal = core.state.refusal(job, outlook, core.now)
    if refusal is None:
        return None
    assert refusal[0] == "wait_too_long"
    return refusal[1].retry_after_s


def test_a_job_that_would_wait_longer_than_its_budget_is_told_so_at_the_door() -> None:
    core = seen(Core().runs(*range(1, 5)).waits(5, 6, 7), 8.0)
    assert refused(core, a_job(budget_s=8.0)) is None, "fourth of four seats' next turns of 8 s"
    assert refused(core, a_job(budget_s=7.5)) == 0.5
    assert refused(core, a_job(deadline_s=3.0)) == 5.0


def test_nobody_is_turned_away_on_a_guess() -> None:
    core = Core().runs(*range(1, 5)).waits(*range(5, 10))
    assert refused(core, a_job(budget_s=0.001)) is None
    core.ends(1)
    assert refused(core, a_job(budget_s=0.001)) is not None


def test_a_job_with_a_seat_is_not_asked_how_long_it_would_wait() -> None:
    assert seen(Core(), 100.0).refusal(a_job(budget_s=0.5), free=1) is None


def test_the_wait_is_that_of_the_jobs_own_share_and_not_of_the_whole_queue() -> None:
    core = seen(Core(queue_max=100), 1.0)
    core.waits(*range(1, 41), tenant="elephant")
    assert refused(core, a_job(tenant="elephant", budget_s=10.0), Outlook(1, 1, None)) is not None
    assert refused(core, a_job(tenant="mouse", budget_s=2.0), Outlook(1, 1, None)) is None
    batch = a_job(tenant="mouse", budget_s=2.0, priority=Priority.BATCH)
    assert refused(core, batch, Outlook(1, 1, None)) == 3.0, "one part of five"


def test_a_tenant_at_its_cap_waits_for_its_own_turns() -> None:
    core = seen(Core().runs(1, tenant="a", seats=1), 8.0)
    refusal = core.state.refusal(a_job(tenant="a", seats=1, budget_s=5.0), Outlook(4, 4, None), NOW)
    assert refusal is not None
    assert (refusal[0], type(refusal[1])) == ("tenant_queue_full", TenantQueueFull), "no reason to go elsewhere"
    assert refusal[1].retry_after_s == 3.0
    assert refused(core, a_job(tenant="b", seats=1, budget_s=5.0)) is None


def test_where_nobody_would_get_a_seat_in_time_it_is_not_for_the_tenants_cap() -> None:
    core = seen(Core().runs(1, tenant="a", seats=1), 8.0)
    assert refused(core, a_job(tenant="a", seats=1, budget_s=5.0), Outlook(1, 1, None)) == 3.0


def test_while_no_worker_is_up_the_wait_is_that_for_the_seats_there_will_be() -> None:
    core = seen(Core().waits(1), 8.0)
    assert refused(core, a_job(budget_s=4.0), Outlook(0, 4, None)) is None
    assert refused(core, a_job(budget_s=4.0), Outlook(1, 4, None)) == 12.0


def test_a_limit_counts_in_the_prediction() -> None:
    core = seen(Core(seats_limit=1).runs(1), 8.0)
    assert refused(core, a_job(budget_s=4.0)) == 4.0


def test_the_expected_wait_follows_how_long_turns_take() -> None:
    core = Core().runs(1)
    assert core.state.retry_after_s("main") == FIRST_GUESS_S
    core.now += 11.0
    core.ends(1)
    assert core.row().hold_s == FIRST_GUESS_S + SMOOTHING * (11.0 - FIRST_GUESS_S)
    core.state.see("main", Outlook(2, 2, None))
    core.waits(4, 5, 6)
    assert core.state.retry_after_s("main") == core.row().hold_s * 4 / 2


def test_the_hold_counts_from_the_start_and_not_from_the_submission() -> None:
    core = Core().waits(1)
    core.now += 9.0
    core.frees()
    core.now += FIRST_GUESS_S
    core.ends(1)
    assert core.row().hold_s == FIRST_GUESS_S


# --- caps of tenants -------------------------------------------------------------------------------------------


def test_a_tenant_at_its_cap_is_passed_over_and_goes_on_when_one_of_its_turns_ends() -> None:
    """Invariants 1 and 4."""
    core = Core().runs(1, tenant="a", seats=1)
    core.waits(2, 3, tenant="a", seats=1).waits(4, tenant="b")
    assert core.frees(3) == [4]
    assert Look("main") in core.ends(1)
    core.tell(Looked("main", 2))
    assert core.started == [1, 4, 2]


def test_a_new_job_of_a_tenant_at_its_cap_waits_though_seats_are_free() -> None:
    core = Core().runs(1, 2, tenant="a", seats=2)
    core.tell(Submitted(3, a_job(tenant="a", seats=2), 5))
    assert core.started == [1, 2]
    assert core.refusal(a_job(tenant="a", seats=2, queue_share=1), free=5) == ("tenant_queue_full", TenantQueueFull)


# --- deadlines -------------------------------------------------------------------------------------------------


def test_a_job_that_waited_too_long_is_told_when_to_come_again() -> None:
    core = Core().waits(1, budget_s=10.0)
    core.now += 9.999
    assert core.tell(Ticked()) == ()
    core.now = NOW + 10.0
    assert core.tell(Ticked()) == (Settle(1, Expired(10.0, FIRST_GUESS_S)), Forget(1))
    assert core.state.is_idle()


def test_a_job_waits_no_longer_than_its_deadline() -> None:
    core = Core().waits(1, budget_s=10.0, deadline_s=2.0)
    assert core.state.next_alarm() == NOW + 2.0
    core.now += 2.0
    ((_, outcome),) = outcomes(core.tell(Ticked()))
    assert isinstance(outcome, Expired)


def test_nobody_is_started_after_the_deadline_even_if_the_timer_is_late() -> None:
    """Invariant 9."""
    core = Core().waits(1, budget_s=10.0).waits(2, budget_s=60.0)
    core.now += 10.0
    assert core.frees(5) == [2]


def test_the_next_alarm_is_the_earliest_of_all() -> None:
    state = SchedulerState({"a": QueuePolicy(10), "b": QueuePolicy(10)})
    assert state.next_alarm() is None
    for ticket, profile, budget_s in ((1, "a", 10.0), (2, "b", 5.0), (3, "b", 1.0)):
        state.handle(Submitted(ticket, a_job(profile=profile, budget_s=budget_s)), NOW)
    assert state.next_alarm() == NOW + 1.0
    state.handle(ClientLeft(3), NOW)
    assert state.next_alarm() == NOW + 5.0
    state.handle(SeatsFreed("b", 1), NOW)
    assert state.next_alarm() == NOW + 10.0


def test_a_running_job_without_a_deadline_runs_as_long_as_it_takes() -> None:
    core = Core().runs(1)
    assert core.state.next_alarm() is None
    core.now += 3600.0
    assert core.tell(Ticked()) == ()


def test_a_running_job_whose_deadline_passes_is_settled_and_interrupted() -> None:
    core = Core().runs(1, deadline_s=30.0)
    core.now += 30.0
    assert core.tell(Ticked()) == (Settle(1, Overdue()), Interrupt(core.leases[1]))
    assert core.ends(1) == (Forget(1),)


# --- shedding --------------------------------------------------------------------------------------------------


def test_after_a_long_time_of_long_waits_those_who_waited_longest_are_shed() -> None:
    core = Core(codel_target_s=1.0, queue_max=100)
    core.state.see("main", Outlook(64, 64, None))
    core.waits(*range(20))
    for step in range(1, 12):
        core.now = NOW + step
        core.waits(100 + step)
        core.frees()
    assert core.started == list(range(11)), "long waits are borne for ten targets"
    core.now += 1.0
    assert core.row().is_overloaded
    shed = [ticket for ticket, outcome in outcomes(core.tell(SeatsFreed("main", 1))) if isinstance(outcome, Shed)]
    assert shed == [*range(11, 20), *range(101, 110)]
    assert core.started[11:] == [110], "which has waited for two targets, and no longer"


def test_a_patient_job_is_not_shed_when_those_around_it_are() -> None:
    core = Core(codel_target_s=1.0, queue_max=100)
    core.state.see("main", Outlook(64, 64, None))
    core.waits(*range(15)).waits(15, is_patient=True).waits(*range(16, 20))
    for step in range(1, 12):
        core.now = NOW + step
        core.frees()
    core.now += 1.0
    assert core.row().is_overloaded
    shed = [ticket for ticket, outcome in outcomes(core.tell(SeatsFreed("main", 1))) if isinstance(outcome, Shed)]
    assert shed == [11, 12, 13, 14], "all that were before it"
    assert core.started[11:] == [15]


def test_what_patient_jobs_wait_is_no_overload() -> None:
    core = Core(codel_target_s=1.0, queue_max=100)
    core.state.see("main", Outlook(64, 64, None))
    core.waits(*range(50), is_patient=True)
    for step in range(1, 40):
        core.now = NOW + step
        core.frees()
        assert not core.row().is_overloaded
    core.waits(50)
    core.now += 1.0
    assert core.frees(12) == [*range(39, 51)], "nor a reason to shed who has just come"


def test_a_patient_job_waits_for_all_of_its_budget_and_no_longer() -> None:
    core = Core(codel_target_s=1.0).runs(1).waits(2, is_patient=True, budget_s=500.0)
    core.now = NOW + 499.0
    assert core.tell(Ticked()) == ()
    core.now = NOW + 500.0
    (expired,) = outcomes(core.tell(Ticked()))
    assert expired[0] == 2
    assert isinstance(expired[1], Expired)
    assert core.refusal(a_job(is_patient=True, budget_s=500.0)) is None


def test_the_short_waits_of_one_tenant_do_not_hide_that_anothers_jobs_have_stood_for_long() -> None:
    core = Core(codel_target_s=1.0, queue_max=100)
    core.state.see("main", Outlook(64, 64, None))
    core.waits(*range(60), tenant="elephant")
    for step in range(1, 25):
        core.now = NOW + step
        core.waits(100 + step, tenant="mouse")
        core.frees(2)
        assert 100 + step in core.started
    assert core.row().waiting == 0, "the elephant's were shed"
    assert core.row().running < 24 + 14


def test_a_tenants_jobs_that_wait_for_its_own_turns_are_not_shed() -> None:
    core = Core(codel_target_s=1.0, queue_max=100)
    core.state.see("main", Outlook(64, 64, None))
    core.runs(1, tenant="a", seats=1).waits(*range(2, 30), tenant="a", seats=1)
    for ticket in range(1, 25):
        core.now += 2.0
        core.ends(ticket)
        assert core.frees(8) == [ticket + 1]


def test_a_job_that_lost_its_turn_is_not_shed_for_having_come_long_ago() -> None:
    core = Core(codel_target_s=1.0).runs(1)
    core.state.see("main", Outlook(64, 64, None))
    core.waits(2)
    core.state._queues["main"].backlog.sheds(2, NOW - 200.0, 1.0, NOW - 100.0)
    core.now += 60.0
    core.ends(1, CRASH)
    assert core.frees(1, WORKERS[1]) == [1]


# --- ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [END, lost(trace=Trace.SPOKEN), lost(FaultKind.BAD_REQUEST)])
def test_a_turn_that_ends_is_the_outcome_whatever_the_end(end: TurnEnd) -> None:
    core = Core().runs(1)
    assert core.ends(1, end) == (Settle(1, Ended(end)), Forget(1))
    assert core.state.is_idle()


@pytest.mark.parametrize(
    ("stimulus", "outcome"), [(ClientLeft(1), Abandoned()), (BufferFilled(1), Overrun()), (CutOffReached(), CutOff())]
)
def test_a_running_job_given_up_is_settled_now_and_over_when_its_turn_is(stimulus: Stimulus, outcome: Outcome) -> None:
    core = Core().runs(1)
    assert core.tell(stimulus) == (Settle(1, outcome), Interrupt(core.leases[1]))
    assert not core.state.is_idle()
    assert core.row().running == 1
    for again in (ClientLeft(1), BufferFilled(1), CutOffReached()):
        assert core.tell(again) == ()
    assert core.ends(1) == (Forget(1),)
    assert core.state.is_idle()


@pytest.mark.parametrize(("stimulus", "outcome"), [(ClientLeft(1), Abandoned()), (CutOffReached(), CutOff())])
def test_a_waiting_job_given_up_is_over_at_once(stimulus: Stimulus, outcome: Outcome) -> None:
    core = Core().waits(1)
    assert core.tell(stimulus) == (Settle(1, outcome), Forget(1))
    assert core.state.is_idle()
    assert core.frees() == []


def test_the_cut_off_settles_those_who_wait_and_those_who_run() -> None:
    core = Core().runs(1).waits(2)
    effects = core.tell(CutOffReached())
    assert outcomes(effects) == [(1, CutOff()), (2, CutOff())]
    assert [effect for effect in effects if isinstance(effect, Interrupt)] == [Interrupt(core.leases[1])]


def test_what_is_said_of_a_ticket_that_is_over_or_not_there_yet_changes_nothing() -> None:
    core = Core().waits(2)
    for stimulus in (TurnEnded(1, 1, END), ClientLeft(1), BufferFilled(1), TurnEnded(2, 1, END)):
        assert core.tell(stimulus) == ()


# --- a turn that was lost without a trace ------------------------------------------------------------------------


OF_WORKERS = [
    FaultKind.WORKER_LOST,
    FaultKind.WORKER_REPLACED,
    FaultKind.WORKER_OVERLOADED,
    FaultKind.START_TIMEOUT,
    FaultKind.FIRST_EVENT_TIMEOUT,
    FaultKind.IDLE_TIMEOUT,
    FaultKind.PROTOCOL,
]
OF_PROVIDERS = [FaultKind.OVERLOADED, FaultKind.UPSTREAM, FaultKind.UPSTREAM_UNREACHABLE]


@pytest.mark.parametrize("kind", FaultKind)
def test_a_fault_of_the_worker_is_worth_another_attempt_and_one_of_the_provider_after_a_rest(kind: FaultKind) -> None:
    core = Core().runs(1)
    effects = core.ends(1, lost(kind))
    returned = [effect for effect in effects if isinstance(effect, Return)]
    rests = {**dict.fromkeys(OF_WORKERS, 0.0), **dict.fromkeys(OF_PROVIDERS, BASE_S / 2)}
    assert returned == ([Return(1, str(kind), rests[kind])] if kind in rests else [])
    assert bool(outcomes(effects)) is (kind not in rests)


@pytest.mark.parametrize("trace", [Trace.SPOKEN, Trace.ACTED])
def test_a_turn_that_left_a_trace_is_not_run_again(trace: Trace) -> None:
    """Invariant 6."""
    core = Core().runs(1)
    assert outcomes(core.ends(1, lost(trace=trace))) == [(1, Ended(lost(trace=trace)))]


def test_a_client_that_was_told_something_gets_no_second_attempt() -> None:
    """Invariant 6."""
    core = Core().runs(1)
    core.state.spoke(1)
    assert outcomes(core.ends(1, CRASH)) == [(1, Ended(CRASH))]


def limited(retry_after_s: float | None) -> TurnEnd:
    """The provider's rate limit, and when it says to come back."""
    return TurnEnd(fault=Fault(FaultKind.RATE_LIMIT, "slow down", 429, retry_after_s), trace=Trace.NONE)


def test_who_rests_lets_others_go_first_and_then_goes_before_them() -> None:
    core = Core().runs(1).waits(2).waits(3)
    assert Return(1, "rate_limit_exceeded", 3.0) in core.ends(1, limited(3.0))
    assert core.frees(1) == [2]
    core.now += 3.0
    assert core.frees(1) == [1]
    assert core.state.avoided(1, core.now) == (), "no worker was to blame"


def test_the_end_of_a_rest_is_an_alarm_and_a_free_seat_is_looked_for() -> None:
    core = Core().runs(1)
    core.ends(1, limited(3.0))
    assert core.frees(1) == []
    assert core.state.next_alarm() == core.now + 3.0
    core.now += 3.0
    assert Look("main") in core.tell(Ticked())
    assert core.frees(1) == [1]


@pytest.mark.parametrize(
    ("end", "options"),
    [
        (limited(None), {}),
        (limited(10.1), {"budget_s": 10.0}),
        (limited(5.0), {"deadline_s": 5.0}),
        (lost(FaultKind.OVERLOADED), {"deadline_s": BASE_S / 2}),
        (lost(FaultKind.OVERLOADED, Trace.SPOKEN), {}),
        (lost(FaultKind.OVERLOADED, Trace.ACTED), {}),
    ],
)
def test_what_is_not_worth_a_rest_is_told_at_once(end: TurnEnd, options: dict[str, float]) -> None:
    core = Core().runs(1, **options)
    assert outcomes(core.ends(1, end)) == [(1, Ended(end))]


def test_a_job_whose_deadline_passes_after_its_rest_is_told_what_it_failed_with() -> None:
    core = Core().runs(1, deadline_s=4.0)
    core.ends(1, limited(3.0))
    core.now += 4.0
    assert outcomes(core.tell(Ticked())) == [(1, Ended(limited(3.0)))]


def test_who_has_rested_may_wait_for_a_seat_as_long_as_ever() -> None:
    core = Core().runs(1, budget_s=10.0)
    core.ends(1, limited(3.0))
    core.now += 12.9
    assert outcomes(core.tell(Ticked())) == []
    core.now += 0.1
    assert outcomes(core.tell(Ticked())) == [(1, Ended(limited(3.0)))]


def test_a_provider_that_fails_again_and_again_is_asked_as_often_as_configured() -> None:
    core = Core(attempts=3).runs(1)
    for tries in (1, 2):
        effects = core.ends(1, lost(FaultKind.OVERLOADED), tries)
        (returned,) = [each for each in effects if isinstance(each, Return)]
        assert returned.rest_s == BASE_S / 2 * 2 ** (tries - 1)
        core.now += returned.rest_s
        assert core.frees(1) == [1]
    assert outcomes(core.ends(1, lost(FaultKind.OVERLOADED), 3)) == [(1, Ended(lost(FaultKind.OVERLOADED)))]


def test_while_a_provider_is_down_turns_that_are_lost_with_their_workers_are_still_run_again() -> None:
    """Invariant 13, and half of the reserve."""
    core = Core(retry_reserve=4, retry_ratio=0.0)
    for number in range(1, 9):
        core.runs(number)
    for number, kind in enumerate([FaultKind.UPSTREAM] * 3 + [FaultKind.WORKER_REPLACED] * 3, start=1):
        end = lost(kind)
        returns = any(isinstance(effect, Return) for effect in core.ends(number, end))
        assert returns is (number in (1, 2, 4, 5))


def test_a_turn_that_the_provider_failed_is_charged_once_when_it_runs_again() -> None:
    core = Core().runs(1, size=400)
    (queue,) = core.state._queues.values()
    before = queue.backlog._tenants["tenant"].served
    core.ends(1, lost(FaultKind.OVERLOADED))
    assert queue.backlog._tenants["tenant"].served == before


def test_a_lost_job_goes_first_whatever_its_tenant_was_served() -> None:
    """Invariant 7."""
    core = Core().runs(1, tenant="a").waits(2, tenant="b").waits(3, tenant="a")
    core.ends(1, CRASH)
    assert core.frees(1, WORKERS[1]) == [1]
    assert core.frees(2, WORKERS[1]) == [2, 3]


def test_lost_jobs_come_back_in_the_order_in_which_they_came_first() -> None:
    core = Core().runs(1, 2, 3)
    for ticket in (2, 3, 1):
        core.ends(ticket, lost(FaultKind.WORKER_REPLACED))
    assert core.frees(3, WORKERS[1]) == [1, 2, 3]


def test_a_lost_job_asks_for_no_place_in_a_full_queue() -> None:
    core = Core(queue_max=1).runs(1).waits(2)
    core.ends(1, CRASH)
    assert core.row().waiting == 2


def test_attempts_are_counted() -> None:
    core = Core(attempts=3).runs(1)
    fault = lost(FaultKind.START_TIMEOUT)
    for attempt in (1, 2):
        core.ends(1, fault, attempt)
        assert core.frees(1, WORKERS[attempt]) == [1]
    assert outcomes(core.ends(1, fault, 3)) == [(1, Ended(fault))]


def test_the_retry_budget_bounds_all_jobs_together() -> None:
    """Invariant 13."""
    core = Core(retry_reserve=1, retry_ratio=0.5).runs(1, 2, 3, 4)
    fault = lost(FaultKind.IDLE_TIMEOUT)
    returned = [ticket for ticket in (1, 2, 3, 4) if not outcomes(core.ends(ticket, fault))]
    assert returned == [1, 2, 3], "the reserve of one, and half of four"


def test_a_deadline_that_has_passed_leaves_no_time_for_another_attempt() -> None:
    core = Core().runs(1, deadline_s=5.0)
    core.now += 5.0
    assert outcomes(core.ends(1, CRASH)) == [(1, Ended(CRASH))]


def test_a_lost_job_waits_one_more_budget_and_then_ends_with_what_it_was_lost_with() -> None:
    core = Core().runs(1, budget_s=10.0)
    core.now += 60.0
    core.ends(1, CRASH)
    core.now += 9.9
    assert core.tell(Ticked()) == (Look("main"),), "the second in which it waited for another worker is long over"
    core.now += 0.1
    assert core.tell(Ticked()) == (Settle(1, Ended(CRASH)), Forget(1))


def test_the_last_budget_ends_with_the_deadline() -> None:
    core = Core().runs(1, budget_s=10.0, deadline_s=12.0)
    core.now += 9.0
    core.ends(1, CRASH)
    core.now += 3.0
    assert outcomes(core.tell(Ticked())) == [(1, Ended(CRASH))]


def test_for_a_second_a_lost_job_keeps_off_the_worker_it_was_lost_on_and_others_pass_it() -> None:
    """Invariant 4: it cannot use that seat, and they can."""
    core = Core().runs(1).waits(2)
    core.ends(1, lost(FaultKind.WORKER_OVERLOADED))
    assert core.frees(1, WORKERS[0]) == []
    core.tell(Looked("main", 1))
    assert core.started == [1, 2]
    core.now += AVOID_S
    assert core.tell(Ticked()) == (Look("main"),)
    core.tell(Looked("main", 1))
    assert core.started == [1, 2, 1], "better the same worker than none"


def test_another_worker_is_taken_at_once() -> None:
    core = Core().runs(1)
    core.ends(1, lost(FaultKind.WORKER_OVERLOADED))
    assert core.frees(1, WORKERS[1]) == [1]


def test_every_worker_that_it_was_lost_on_is_avoided() -> None:
    core = Core(attempts=4).runs(1)
    for attempt in (1, 2):
        core.ends(1, lost(FaultKind.START_TIMEOUT), attempt)
        core.frees(1, WORKERS[attempt])
    core.ends(1, lost(FaultKind.START_TIMEOUT), 3)
    assert set(core.state.avoided(1, core.now)) == set(WORKERS[:3])


def test_a_lost_job_is_not_started_beyond_its_tenants_cap() -> None:
    """Invariant 1."""
    core = Core().runs(1, tenant="a", seats=2).runs(2, tenant="a", seats=2)
    core.ends(1, CRASH)
    core.tell(LeasesDoubted((core.leases[2],)))
    assert core.frees(2, WORKERS[1]) == [1], "the doubted turn still holds a seat"
    core.ends(2, INTERRUPTED)
    assert core.frees(1, WORKERS[1]) == [2]


INTERRUPTED = TurnEnd(finish=Finish.INTERRUPTED)


def test_a_client_that_leaves_while_its_lost_job_waits_is_forgotten() -> None:
    core = Core().runs(1)
    core.ends(1, CRASH)
    assert core.tell(ClientLeft(1)) == (Settle(1, Abandoned()), Forget(1))


def test_a_job_that_nobody_waits_for_is_not_run_again() -> None:
    core = Core().runs(1)
    core.tell(ClientLeft(1))
    assert core.ends(1, CRASH) == (Forget(1),)


# --- a worker that is doubted ------------------------------------------------------------------------------------


def test_a_doubted_turn_is_interrupted_and_its_job_waits_in_front() -> None:
    core = Core().runs(1).waits(2)
    assert core.tell(LeasesDoubted((core.leases[1],))) == (
        Return(1, "quarantined"),
        Interrupt(core.leases[1]),
        Look("main"),
    )
    assert (core.row().waiting, core.row().running) == (2, 1)
    assert core.frees(2, WORKERS[1]) == [1, 2]
    assert core.row().running == 3


def test_the_late_end_of_a_doubted_turn_reaches_nobody_and_frees_its_seat_once() -> None:
    """Invariant 11."""
    core = Core(seats_limit=2).runs(1)
    core.tell(LeasesDoubted((core.leases[1],)))
    core.frees(1, WORKERS[1])
    assert core.row().running == 2
    assert core.ends(1, END, attempt=1) == ()
    assert core.ends(1, END, attempt=1) == ()
    assert core.row().running == 1
    assert core.ends(1, END, attempt=2) == (Settle(1, Ended(END)), Forget(1))


def test_a_job_is_forgotten_only_when_its_doubted_turn_has_ended_too() -> None:
    core = Core().runs(1)
    core.tell(LeasesDoubted((core.leases[1],)))
    core.frees(1, WORKERS[1])
    assert core.ends(1, END, attempt=2) == (Settle(1, Ended(END)),)
    assert not core.state.is_idle()
    assert core.ends(1, CRASH, attempt=1) == (Forget(1),)


def test_a_job_given_up_while_its_doubted_turn_goes_on_is_forgotten_with_that() -> None:
    core = Core().runs(1)
    core.tell(LeasesDoubted((core.leases[1],)))
    assert core.tell(ClientLeft(1)) == (Settle(1, Abandoned()),)
    assert core.ends(1, END) == (Forget(1),)


def test_a_doubted_job_that_gets_no_other_seat_is_told_that_its_worker_was_replaced() -> None:
    core = Core().runs(1, budget_s=10.0)
    core.tell(LeasesDoubted((core.leases[1],)))
    core.now += 10.0
    assert outcomes(core.tell(Ticked())) == [(1, Ended(QUARANTINED))]


def test_a_doubted_turn_that_cannot_be_moved_is_left_alone() -> None:
    spoke = Core().runs(1)
    spoke.state.spoke(1)
    poor = Core(retry_reserve=0, retry_ratio=0.0).runs(1)
    once = Core(attempts=1).runs(1)
    gone = Core().runs(1)
    gone.tell(ClientLeft(1))
    for core in (spoke, poor, once, gone):
        assert core.tell(LeasesDoubted((core.leases[1],))) == ()


def test_a_lease_that_is_over_is_not_doubted() -> None:
    core = Core().runs(1)
    core.ends(1)
    assert core.tell(LeasesDoubted((core.leases[1], Lease(77, WORKERS[3])))) == ()


# --- requests that crash workers ---------------------------------------------------------------------------------


def crashed_twice(**policy: Any) -> Core:
    core = Core(**policy).runs(1)
    core.ends(1, CRASH)
    core.frees(1, WORKERS[1])
    core.tries = 2
    return core


def test_a_job_that_crashes_two_workers_is_at_fault_itself_and_not_taken_again() -> None:
    core = crashed_twice(penalty_s=600.0)
    assert core.row().marked == 1
    assert core.ends(1, CRASH, attempt=2) == (Settle(1, CrashesWorker()), Forget(1))
    assert core.refusal(a_job(), free=1) == ("penalized", Penalized)
    assert core.refusal(a_job("another"), free=1) is None
    assert core.refusal(a_job(tenant="other"), free=1) is None
    core.now += 600.0
    assert core.refusal(a_job(), free=1) is None


@pytest.mark.parametrize("is_first_to_end", [True, False])
@pytest.mark.parametrize("joins_first", [True, False])
def test_a_harmless_job_that_was_beside_two_crashes_is_not_the_one(*, joins_first: bool, is_first_to_end: bool) -> None:
    core = Core().runs(1, 2)
    core.worker = WORKERS[1]
    if joins_first:
        core.runs(3, tenant="attacker")
    core.worker = WORKERS[0]
    core.ends(1, CRASH)
    core.ends(2, END)
    assert core.frees(1, WORKERS[1]) == [1]
    if not joins_first:
        core.runs(3, tenant="attacker")
    order = [(1, 2), (3, 1)]
    ends = [core.ends(ticket, CRASH, attempt) for ticket, attempt in (order if is_first_to_end else reversed(order))]
    assert (1, Ended(CRASH)) in outcomes(ends[0 if is_first_to_end else 1]), "retryable"
    assert core.refusal(a_job(), free=1) is None


def test_who_has_spoken_or_ended_well_beside_it_is_no_other_suspect() -> None:
    core = Core().runs(1)
    core.worker = WORKERS[1]
    core.runs(2, 3, 4)
    core.state.spoke(2)
    core.worker = WORKERS[0]
    core.ends(1, CRASH)
    assert core.frees(1, WORKERS[1]) == [1]
    core.state.spoke(3)
    core.ends(4)
    assert outcomes(core.ends(1, CRASH, attempt=2)) == [(1, CrashesWorker())]


def test_without_a_penalty_it_is_taken_again() -> None:
    core = crashed_twice(penalty_s=0.0)
    assert outcomes(core.ends(1, CRASH, attempt=2)) == [(1, CrashesWorker())]
    assert core.refusal(a_job(), free=1) is None


def test_a_worker_that_was_taken_away_is_no_crash() -> None:
    core = Core().runs(1)
    core.ends(1, lost(FaultKind.WORKER_REPLACED))
    core.frees(1, WORKERS[1])
    assert outcomes(core.ends(1, CRASH, attempt=2)) == [(1, Ended(CRASH))]


def test_no_worker_gets_two_jobs_that_have_crashed_one() -> None:
    core = Core().runs(1, 2).runs(3)
    for ticket in (1, 2):
        core.ends(ticket, CRASH)
    assert core.frees(2, WORKERS[1]) == [1]
    core.now += AVOID_S
    core.tell(Ticked())
    assert core.frees(1, WORKERS[1]) == [], "however long it waits"
    core.tell(Submitted(4, a_job(), 1))
    assert core.started[-1] == 4, "others may share a worker with it"
    assert core.frees(1, WORKERS[2]) == [2]


def test_the_next_suspect_gets_its_worker_when_the_one_before_is_done() -> None:
    core = Core().runs(1, 2)
    for ticket in (1, 2):
        core.ends(ticket, CRASH)
    core.frees(2, WORKERS[1])
    assert Look("main") in core.ends(1, END, attempt=2)
    core.tell(Looked("main", 1))
    assert core.started[-1] == 2


# --- how many may run --------------------------------------------------------------------------------------------


def test_no_more_turns_run_than_the_limit_says_however_many_seats_are_free() -> None:
    """Invariant 1."""
    core = Core(seats_limit=2).waits(1, 2, 3)
    assert core.frees(5) == [1, 2]
    assert Look("main") in core.ends(1)
    core.tell(Looked("main", 4))
    assert core.started == [1, 2, 3]


def test_a_lower_limit_kills_nobody_and_a_higher_one_is_used_at_once() -> None:
    core = Core().runs(1, 2, 3).waits(4)
    assert core.tell(LimitSet("main", 1)) == (Limited("main", 1), Look("main"))
    for ticket in (1, 2):
        core.ends(ticket)
        assert core.frees(2) == []
    core.ends(3)
    assert core.frees(3) == [4]
    core.waits(5)
    assert core.tell(LimitSet("main", None)) == (Limited("main", None), Look("main"))
    core.tell(Looked("main", 2))
    assert core.started[-1] == 5


@pytest.mark.parametrize("kind", [FaultKind.WORKER_OVERLOADED, FaultKind.RATE_LIMIT, FaultKind.OVERLOADED])
def test_with_aimd_whoever_says_that_it_is_too_much_is_given_less(kind: FaultKind) -> None:
    core = Core(aimd=True, min_limit=2)
    core.state.see("main", Outlook(10, 10, None))
    core.runs(1)
    assert Limited("main", 7) in core.ends(1, lost(kind))
    assert core.row().limit == 7


# --- new rules ---------------------------------------------------------------------------------------------------


def test_new_rules_hold_at_once_and_a_new_profile_has_a_queue() -> None:
    core = Core(queue_max=1).waits(1)
    assert core.refusal(a_job()) is not None
    assert core.tell(Reconfigured({"main": QueuePolicy(5, seats_limit=0), "new": QueuePolicy(1)}, None)) == (
        Limited("main", 0),
        Look("main"),
    )
    assert core.refusal(a_job()) is None
    assert core.refusal(a_job(profile="new")) is None
    assert core.frees(5) == []


def test_a_limit_set_by_hand_outlives_rules_that_say_nothing_new_about_it() -> None:
    core = Core(seats_limit=5)
    core.tell(LimitSet("main", 2))
    core.tell(Reconfigured({"main": QueuePolicy(3, seats_limit=5)}, None))
    assert core.row().limit == 2
    core.tell(Reconfigured({"main": QueuePolicy(3, seats_limit=4)}, None))
    assert core.row().limit == 4


def test_the_queue_of_a_profile_that_is_removed_takes_nothing_and_goes_when_it_is_empty() -> None:
    core = Core().runs(1).waits(2)
    assert core.tell(Reconfigured({}, None)) == ()
    assert core.refusal(a_job(), free=1) == ("not_ready", NotReady)
    core.ends(1)
    assert core.frees() == [2]
    assert core.ends(2) == (Settle(2, Ended(END)), Forget(2), Closed("main"))
    assert core.state.profiles() == ()
    assert core.refusal(a_job()) == ("not_ready", NotReady)
    assert core.tell(SeatsFreed("main", 1)) == ()


def test_an_empty_queue_goes_at_once() -> None:
    assert Core().tell(Reconfigured({}, None)) == (Closed("main"),)


def test_a_profile_that_comes_back_before_its_queue_was_empty_goes_on() -> None:
    core = Core().runs(1)
    core.tell(Reconfigured({}, None))
    core.tell(Reconfigured({"main": QueuePolicy(5)}, None))
    assert core.refusal(a_job()) is None
    assert core.ends(1) == (Settle(1, Ended(END)), Forget(1))
    assert core.state.profiles() == ("main",)


# --- a seat that is gone when it is to be taken ----------------------------------------------------------------


def test_a_ticket_whose_seat_has_gone_waits_on_at_its_old_place() -> None:
    state = Core().waits(1, 2).state
    assert state.handle(SeatsFreed("main", 1), NOW) == (Start(1, 1),)
    assert state.started(1, None, NOW) == ()
    state.validate()
    assert state.handle(SeatsFreed("main", 2), NOW + 2.0) == (Start(1, 1), Start(2, 1))


def test_a_ticket_whose_seat_has_gone_keeps_its_deadline() -> None:
    state = SchedulerState({"main": QueuePolicy(1)})
    state.handle(Submitted(1, a_job(budget_s=5.0), 1), NOW)
    state.started(1, None, NOW)
    assert state.next_alarm() == NOW + 5.0
    assert outcomes(state.handle(Ticked(), NOW + 5.0)) == [(1, Expired(5.0, FIRST_GUESS_S))]
    assert state.is_idle()


# --- numbers -----------------------------------------------------------------------------------------------------


def test_the_numbers_tell_what_a_queue_is_like() -> None:
    core = Core(seats_limit=8, retry_ratio=0.25).runs(1)
    core.state.see("main", Outlook(4, 4, None))
    core.waits(2, priority=Priority.BATCH)
    core.now += 2.0
    core.waits(3)
    core.ends(1, CRASH)
    assert core.row() == QueueSnapshot(
        profile="main",
        waiting=3,
        running=0,
        hold_s=FIRST_GUESS_S + SMOOTHING,
        by_priority={Priority.INTERACTIVE: 0, Priority.STANDARD: 2, Priority.BATCH: 1},
        oldest_wait_s=2.0,
        limit=8,
        predicted_wait_s=((4 + 1) / 2 + 4) / 4 * 1.2 / 4 + 1.2 / 4,
        retry_tokens=16 + 0.75 - 1,
        is_overloaded=False,
        marked=1,
        marks=1,
    )


# --- the table -------------------------------------------------------------------------------------------------


def test_the_table_has_no_move_that_never_happens() -> None:
    seen: set[tuple[TicketState, TicketState]] = set()

    class Watched(SchedulerState):
        def _move(self, ticket: Any, target: TicketState, now: float) -> None:
            seen.add((ticket.state, target))
            super()._move(ticket, target, now)

    core = Core()
    core.state = Watched({"main": QueuePolicy(10)})
    core.waits(1, 2, 3, budget_s=1.0)
    core.frees(2)
    core.ends(1)
    core.tell(ClientLeft(2))
    core.ends(2)
    core.now += 1.0
    core.tell(Ticked())
    core.runs(4)
    core.tell(LeasesDoubted((core.leases[4],)))
    core.tell(ClientLeft(4))
    assert seen == TRANSITIONS


def test_a_move_that_is_not_in_the_table_is_our_bug_and_tells_the_story() -> None:
    state = Core().runs(1).state
    state._tickets[1].state = TicketState.OVER
    with pytest.raises(IllegalTransition, match=r"ticket 1: over -> ending(.|\n)*submitted"):
        state._move(state._tickets[1], TicketState.ENDING, NOW)


def told(core: Core, job: str) -> list[str]:
    story = core.state.story(job)
    assert story is not None
    return [line.what for line in story.lines]


def test_a_ticket_has_a_story_also_when_it_is_over() -> None:
    core = Core().runs(1, name="req_a")
    assert told(core, "req_a") == ["submitted", "running", "a seat on main/0.1"]
    core.ends(1)
    assert told(core, "req_a")[-2:] == ["ended: stop", "over"]
    story = core.state.story("req_a")
    assert story is not None
    assert (story.profile, story.state) == ("main", TicketState.OVER)
    assert core.state.story("req_b") is None


def test_a_story_tells_of_every_attempt_and_why_there_is_no_other() -> None:
    core = Core(attempts=2).runs(1, name="req_a")
    core.ends(1, CRASH)
    core.frees(worker=WORKERS[1])
    core.ends(1, lost(FaultKind.IDLE_TIMEOUT), attempt=2)
    assert told(core, "req_a") == [
        *("submitted", "running", "a seat on main/0.1", "waiting"),
        *("running", "a seat on main/1.1", "failed: idle_timeout", "over"),
    ]
    core.waits(2, name="req_b")
    core.tell(ClientLeft(2))
    assert told(core, "req_b") == ["submitted", "given up: abandoned", "over"]


def test_only_the_last_tickets_that_are_over_are_remembered() -> None:
    core = Core()
    for number in range(1, REMEMBERED + 2):
        core.runs(number, name=f"req_{number}").ends(number)
    assert core.state.story("req_1") is None
    assert core.state.story("req_2") is not None


def test_open_tickets_and_their_tenants_are_told_in_numbers() -> None:
    core = Core().runs(1, name="req_a", tenant="alice")
    core.now += 1.0
    core.waits(2, name="req_b", tenant="bob", priority=Priority.BATCH)
    core.now += 1.0
    core.waits(3, name="req_c", tenant="bob", priority=Priority.BATCH)
    rows = core.state.tickets(2, core.now)
    assert [(row.id, row.state, row.age_s, row.attempts, row.worker) for row in rows] == [
        ("req_a", TicketState.RUNNING, 2.0, 1, WORKERS[0]),
        ("req_b", TicketState.WAITING, 1.0, 0, None),
    ]
    assert core.state.tenants(core.now) == [
        ("main", "alice", Priority.STANDARD, 0, 1, 0.0),
        ("main", "bob", Priority.BATCH, 2, 0, 1.0),
    ]

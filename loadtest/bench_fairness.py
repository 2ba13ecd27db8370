"""What tenants that keep to their share wait beside one that asks for twenty times its own.

Waits come from the scheduler's own observer, turns last 200 ms each on fake app-servers, which add a few milliseconds,
and the tenants keep to their seeded arrivals whatever happens to them. A turn cannot be taken its seat from. Beside a
tenant that fills all seats for ever everybody therefore waits for a seat, and 1.5 times what a tenant waits alone can
only be kept where it often has to wait alone too. Two loads try it:

* a crowd: nine tenants, each at random moments and at nine tenths of its share of the seats, without and with a tenth
  that asks for twenty times its own from `WARM_S` on; waits count from there, too. Alone many of their turns have to
  wait, because of the others. Beside it a tenant whose jobs happen to come close together has the credit of what it
  left of its share before, which is why the crowd is let in first.
* bursts: one tenant sends four times as many jobs as there are seats at once, and that as often as takes up three
  fifths of its share, without and with a second tenant of equal weight that asks for twenty times its own. Alone its
  bursts have all seats, more than its share; beside the other they have half of them, and only the credit of what was
  left between them makes 1.5 possible. The third row is what fairness promises whatever a burst's length: they are
  about as fast as alone on the seats of their share.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import statistics
from dataclasses import replace
from typing import NamedTuple

from loadtest.desk import BUDGET_S, PROFILE, USUAL, is_answered, opened, settled
from loadtest.promises import Effort, Row
from pool.profile import Profile
from scheduler.model import Rejected
from scheduler.ticket import Ticket

TURN_S = 0.2
SEATS = 8
EIGHT_SEATS = replace(PROFILE, workers=2, slots=4)
QUEUE_SHARE = 32
"""What the service allows one key among several of a queue of 64."""
SEED = 20
GREED = 20.0
"""What the noisy neighbour asks for, in shares."""
ELEPHANT = "elephant"
MOST = 1.5
WARM_S = 10.0
"""How long the crowd is there before the other comes."""


class Load(NamedTuple):
    """When a tenant submits, in seconds from the start."""

    tenant: str
    at: list[float]


async def fairness(effort: Effort) -> list[Row]:
    """The waits of tenants that keep to their share, without and with one that does not."""
    share = SEATS / 10
    warm_s = min(WARM_S, effort.crowd_s)
    end_s = warm_s + effort.crowd_s
    crowd = [_random(f"tenant-{number}", 0.9 * share / TURN_S, end_s, number) for number in range(9)]
    elephant = _random(ELEPHANT, GREED * share / TURN_S, end_s, SEED)
    elephant = Load(ELEPHANT, [at for at in elephant.at if at >= warm_s])
    alone = await _waits(EIGHT_SEATS, crowd, since_s=warm_s)
    beside = await _waits(EIGHT_SEATS, [*crowd, elephant], since_s=warm_s)
    rows = [
        _ratio(
            "noisy_crowd",
            "p95 wait of a crowd beside a tenant at 20x its share, over alone",
            (alone, beside),
            f"nine tenants at 0.9 of their share of 8 seats, {effort.crowd_s:g} s with and without a tenth",
        )
    ]
    share = SEATS / 2
    period_s = 4 * SEATS * TURN_S / (0.6 * share)
    starts = [number * period_s for number in range(1 + int(effort.bursts_s / period_s))]
    bursts = [Load("bursts", [at for at in starts for _ in range(4 * SEATS)])]
    elephant = _random(ELEPHANT, GREED * share / TURN_S, starts[-1] + period_s, SEED)
    alone = await _waits(EIGHT_SEATS, bursts)
    partition = await _waits(replace(EIGHT_SEATS, workers=1), bursts)
    beside = await _waits(EIGHT_SEATS, [*bursts, elephant])
    how = f"{len(starts)} burst(s) of {4 * SEATS} jobs, 0.6 of a share of half of 8 seats"
    return [
        *rows,
        _ratio(
            "noisy_bursts",
            "p95 wait of bursts beside a tenant at 20x its share, over alone on all seats",
            (alone, beside),
            f"{how}; beyond the credit of a few turns it is 2 or more",
        ),
        _ratio(
            "noisy_bursts_share",
            "the same, over alone on the seats of its share",
            (partition, beside),
            f"{how}; alone on 4 seats",
        ),
    ]


def _random(tenant: str, rate: float, seconds: float, seed: int) -> Load:
    """Arrivals at random, `rate` a second, the same in every run."""
    rng = random.Random(seed)
    at, times = 0.0, []
    while (at := at + rng.expovariate(rate)) < seconds:
        times.append(at)
    return Load(tenant, times)


class Waits(NamedTuple):
    """The modest tenants' waits for a seat, in seconds; those refused count as having waited for as long as they might.

    `elephant` is how many turns the other tenant has had.
    """

    waits: list[float]
    refused: int
    elephant: int

    @property
    def p95(self) -> float:
        return _percentile(self.waits, 95)


async def _waits(profile: Profile, loads: list[Load], *, since_s: float = 0.0) -> Waits:
    """Let everybody submit at their moments, whatever happens; jobs count that come from `since_s` on."""
    arrivals = heapq.merge(*([(at, load.tenant) for at in load.at] for load in loads))
    async with opened(profile, USUAL) as desk:
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        modest: list[Ticket] = []
        others: list[Ticket] = []
        refused = 0
        for at, tenant in arrivals:
            if (early_s := began_at + at - loop.time()) > 0:
                await asyncio.sleep(early_s)
            try:
                ticket = desk.submit(tenant, QUEUE_SHARE, {"text": "done", "delay_s": TURN_S})
                (modest if tenant != ELEPHANT and at >= since_s else others).append(ticket)
            except Rejected:
                refused += tenant != ELEPHANT
        for ticket in modest:
            await settled(ticket)
        answered = [ticket for ticket in modest if is_answered(ticket.outcome)]
        refused += len(modest) - len(answered)
        waits = [desk.waits[ticket.job.id] for ticket in answered]
        turns = sum(ticket.job.tenant == ELEPHANT and is_answered(ticket.outcome) for ticket in others)
        return Waits(waits + refused * [BUDGET_S], refused, turns)


def _ratio(name: str, text: str, pair: tuple[Waits, Waits], how: str) -> Row:
    alone, beside = pair
    details = {
        "alone_p95_s": alone.p95,
        "beside_p95_s": beside.p95,
        "alone_p50_s": _percentile(alone.waits, 50),
        "beside_p50_s": _percentile(beside.waits, 50),
        "alone_refused": alone.refused,
        "beside_refused": beside.refused,
        "jobs": len(beside.waits),
        "elephant_turns": beside.elephant,
    }
    figures = (
        f"p95 {alone.p95 * 1e3:.0f} ms and {beside.p95 * 1e3:.0f} ms of {len(beside.waits)} jobs, {beside.refused} of"
        f" them refused; the other had {beside.elephant} turns; fake workers, turns of {TURN_S * 1e3:.0f} ms"
    )
    return Row(name, text, beside.p95 / max(alone.p95, 1e-3), "x", MOST, f"{figures}; {how}", details=details)


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]

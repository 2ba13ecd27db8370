from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.health import (
    FAILURES,
    NONSENSE_WITHIN_S,
    STRIKES_WITHIN_S,
    UNREAD_S,
    Belief,
    Clearance,
    Condemnation,
    Health,
    Probe,
    ProbeLimits,
    Suspicion,
)
from pool.worker_state import Verdict
from tests.support.examples import trying

LIMITS = ProbeLimits(idle_s=2.0, timeout_s=2.0, fast_s=1.0, hung_s=10.0)
TICK_S = 0.25
BOTH = frozenset(Probe)
NEITHER: frozenset[Probe] = frozenset()
ONLY_HEARS = frozenset({Probe.INITIALIZE})
ONLY_THREADS = frozenset({Probe.THREADS})

DEAF = "it answers no probe"
WEDGED = "it answers no question about its threads"
HUNG = Condemnation(Verdict.HUNG, DEAF)


class Bedside:
    """A worker that answers the probes it is told to answer, at once, and is looked at in ticks."""

    def __init__(self, limits: ProbeLimits = LIMITS) -> None:
        self.now = 1000.0
        self.health = Health(limits)
        self.health.heard(self.now)
        self.rounds: list[float] = []
        """When it was probed, in seconds from the beginning."""
        self.beliefs: list[tuple[float, Belief]] = []
        self._open: dict[Probe, float] = {}

    @property
    def said(self) -> list[Belief]:
        """What followed so far."""
        return [belief for _, belief in self.beliefs]

    def lives(
        self, seconds: float, answers: frozenset[Probe] = NEITHER, *, talks: bool = False, unread: int = 0
    ) -> list[Belief]:
        """So many seconds pass; what followed meanwhile."""
        before = len(self.beliefs)
        for _ in range(round(seconds / TICK_S)):
            self.now += TICK_S
            if talks:
                self.health.heard(self.now)
            for probe, deadline_at in list(self._open.items()):
                if deadline_at <= self.now:
                    del self._open[probe]
                    self.health.missed(probe, self.now)
            self.health.left_unread(unread, self.now)
            asked = self.health.due(self.now)
            if asked:
                assert set(asked) == BOTH
                self.rounds.append(self.now - 1000.0)
                self._open = dict.fromkeys(asked, self.now + self.health.limits.timeout_s)
            for probe in answers & self._open.keys():
                del self._open[probe]
                self.health.heard(self.now)
                self.health.answered(probe)
            self.noted()
        return self.said[before:]

    def noted(self) -> list[Belief]:
        """What follows now."""
        beliefs = self.health.take()
        self.beliefs += [(self.now - 1000.0, belief) for belief in beliefs]
        return list(beliefs)


# --- silence and probes ------------------------------------------------------------------------------------------


def test_a_worker_that_talks_is_not_probed() -> None:
    bed = Bedside()
    assert bed.lives(60.0, talks=True) == []
    assert bed.rounds == []


def test_a_silent_worker_is_asked_two_questions_and_again_when_it_has_been_silent_as_long() -> None:
    bed = Bedside()
    assert bed.lives(8.0, BOTH) == []
    assert bed.rounds == [2.0, 4.0, 6.0, 8.0]


def test_the_first_miss_makes_it_suspect_and_ten_seconds_of_it_hung_each_said_once() -> None:
    bed = Bedside()
    bed.lives(60.0)
    assert bed.beliefs == [(4.0, Suspicion(DEAF)), (14.0, HUNG)]
    assert bed.health.misses > 5


def test_no_second_round_is_asked_before_the_first_is_answered_or_missed() -> None:
    bed = Bedside()
    bed.lives(8.0)
    assert bed.rounds == [2.0, 4.0, 6.0, 8.0]


def test_a_suspect_that_answers_is_probed_fast_and_cleared_by_the_second_full_round() -> None:
    bed = Bedside()
    bed.lives(6.0)
    assert bed.lives(0.75, BOTH) == [], "one round is not enough"
    assert bed.lives(0.25, BOTH) == [Clearance()]
    assert bed.rounds == [2.0, 4.0, 6.0, 7.0]


def test_a_suspect_that_is_slow_to_answer_counts_only_full_rounds_in_a_row() -> None:
    bed = Bedside()
    bed.lives(4.0)
    assert bed.lives(0.75, BOTH) == [], "one round"
    assert bed.lives(2.25) == [], "and a miss"
    assert bed.lives(0.75, BOTH) == [], "one round"
    assert bed.lives(0.25, BOTH) == [Clearance()], "and another"


def test_a_cleared_worker_may_fall_under_suspicion_again_and_hang_in_the_end() -> None:
    bed = Bedside()
    bed.lives(6.0)
    bed.lives(2.0, BOTH)
    assert bed.lives(20.0) == [Suspicion(DEAF), HUNG]
    assert bed.said == [Suspicion(DEAF), Clearance(), Suspicion(DEAF), HUNG]


def test_a_worker_that_comes_back_after_its_verdict_can_be_condemned_again() -> None:
    bed = Bedside()
    assert bed.lives(16.0) == [Suspicion(DEAF), HUNG]
    assert bed.lives(4.0, BOTH) == [Clearance()]
    assert bed.lives(16.0) == [Suspicion(DEAF), HUNG]


def test_a_busy_worker_that_speaks_but_does_not_answer_is_not_deaf() -> None:
    bed = Bedside()
    bed.lives(2.0)
    assert bed.rounds == [2.0]
    assert bed.lives(60.0, talks=True) == []
    assert bed.health.misses == 0


def test_words_from_before_the_probe_are_no_sign_of_life() -> None:
    bed = Bedside()
    bed.lives(2.0)
    bed.health.heard(bed.now)
    assert bed.lives(2.0) == [Suspicion(DEAF)]


def test_one_word_after_the_probe_is() -> None:
    bed = Bedside()
    bed.lives(2.25)
    bed.health.heard(bed.now)
    assert bed.lives(1.75) == []
    assert bed.lives(4.0) == [Suspicion(DEAF)]


@pytest.mark.parametrize("talks", [False, True])
def test_a_worker_that_hears_but_cannot_answer_for_its_threads_is_suspect_even_while_it_talks(talks: bool) -> None:
    bed = Bedside()
    bed.lives(2.0, ONLY_HEARS)
    assert bed.lives(2.0, ONLY_HEARS, talks=talks) == [Suspicion(WEDGED)]
    (condemned,) = bed.lives(10.0, ONLY_HEARS, talks=talks)
    assert isinstance(condemned, Condemnation)
    assert condemned.verdict is Verdict.POISONED, "what runs on it may still end well"


def test_a_worker_that_answers_for_its_threads_only_is_deaf_unless_it_talks() -> None:
    bed = Bedside()
    bed.lives(2.0, ONLY_THREADS)
    assert bed.lives(60.0, ONLY_THREADS, talks=True) == []
    assert bed.lives(4.0, ONLY_THREADS) == [Suspicion(DEAF)]


def test_a_suspect_that_still_says_something_is_poisoned_and_not_hung() -> None:
    bed = Bedside()
    bed.lives(4.0)
    bed.lives(1.0, talks=True)
    (condemned,) = bed.lives(10.0)
    assert isinstance(condemned, Condemnation)
    assert condemned.verdict is Verdict.POISONED


def test_a_worker_is_mute_while_it_is_suspect_and_has_said_nothing_since() -> None:
    bed = Bedside()
    bed.lives(3.75)
    assert not bed.health.is_mute, "silent, and not yet suspect"
    bed.lives(0.25)
    assert bed.health.is_mute
    bed.health.heard(bed.now)
    assert not bed.health.is_mute
    bed.lives(4.0, BOTH)
    assert bed.said == [Suspicion(DEAF), Clearance()]
    assert not bed.health.is_mute


def test_an_answer_or_a_miss_of_a_round_that_is_over_changes_nothing() -> None:
    bed = Bedside()
    bed.lives(4.0)
    assert bed.said == [Suspicion(DEAF)]
    misses = bed.health.misses
    bed.lives(0.25, BOTH)
    for probe in Probe:
        bed.health.answered(probe)
        bed.health.missed(probe, bed.now)
    assert bed.noted() == []
    assert bed.health.misses == misses


def test_both_misses_of_one_round_count_once() -> None:
    bed = Bedside()
    bed.lives(4.0)
    assert bed.health.misses == 1


def test_other_limits_count_from_now_on() -> None:
    bed = Bedside()
    bed.health.limits = ProbeLimits(idle_s=5.0, timeout_s=1.0, fast_s=1.0, hung_s=3.0)
    bed.lives(60.0)
    assert bed.beliefs == [(6.0, Suspicion(DEAF)), (9.0, HUNG)]


# --- starts, nonsense, failures ----------------------------------------------------------------------------------


def test_two_strikes_within_a_minute_say_that_nothing_can_begin_on_it() -> None:
    bed = Bedside()
    bed.health.struck(bed.now)
    assert bed.noted() == []
    bed.health.struck(bed.now + STRIKES_WITHIN_S)
    assert bed.noted() == [Condemnation(Verdict.POISONED, "turns cannot begin on it")]


def test_strikes_that_are_far_apart_say_nothing_but_the_last_ones_count() -> None:
    bed = Bedside()
    bed.health.struck(bed.now)
    bed.health.struck(bed.now + STRIKES_WITHIN_S + 0.1)
    assert bed.noted() == []
    bed.health.struck(bed.now + STRIKES_WITHIN_S + 1.0)
    assert len(bed.noted()) == 1


def test_a_turn_that_begins_between_two_strikes_clears_it() -> None:
    bed = Bedside()
    for _ in range(5):
        bed.health.struck(bed.now)
        bed.health.began()
    assert bed.noted() == []


def test_nonsense_twice_within_a_minute_is_too_much() -> None:
    bed = Bedside()
    bed.health.spoke_nonsense(bed.now)
    bed.health.spoke_nonsense(bed.now + NONSENSE_WITHIN_S + 0.1)
    assert bed.noted() == []
    bed.health.spoke_nonsense(bed.now + 2 * NONSENSE_WITHIN_S)
    assert bed.noted() == [Condemnation(Verdict.ERRORS, "it talks nonsense")]


def test_so_many_failures_in_a_row_are_too_many_and_a_success_between_them_is_a_new_beginning() -> None:
    bed = Bedside()
    for _ in range(FAILURES - 1):
        bed.health.failed()
    bed.health.succeeded()
    for _ in range(FAILURES - 1):
        bed.health.failed()
    assert bed.noted() == []
    bed.health.failed()
    assert bed.noted() == [Condemnation(Verdict.ERRORS, "its turns fail")]


def test_one_that_is_condemned_is_not_condemned_for_more() -> None:
    bed = Bedside()
    for _ in range(2 * FAILURES):
        bed.health.failed()
        bed.health.struck(bed.now)
        bed.health.spoke_nonsense(bed.now)
    assert len(bed.noted()) == 1


def test_one_that_was_condemned_for_less_and_then_hangs_is_condemned_once_more() -> None:
    bed = Bedside()
    for _ in range(2):
        bed.health.struck(bed.now)
    assert bed.noted() == [Condemnation(Verdict.POISONED, "turns cannot begin on it")]
    assert bed.lives(60.0) == [Suspicion(DEAF), HUNG]


def test_failures_go_on_counting_after_a_verdict_that_was_not_carried_out() -> None:
    bed = Bedside()
    for _ in range(FAILURES):
        bed.health.failed()
    assert len(bed.noted()) == 1
    bed.lives(6.0)
    assert bed.lives(4.0, BOTH) == [Clearance()]
    bed.health.failed()
    assert bed.noted() == [Condemnation(Verdict.ERRORS, "its turns fail")]


# --- a full pipe -------------------------------------------------------------------------------------------------


def test_a_worker_that_does_not_read_is_suspect_after_five_seconds_and_hung_in_the_end() -> None:
    bed = Bedside()
    assert bed.lives(UNREAD_S, unread=1) == [Suspicion(DEAF)], "its silence is noticed before"
    other = Bedside()
    assert other.lives(UNREAD_S, talks=True, unread=1) == []
    assert other.lives(TICK_S, talks=True, unread=1) == [Suspicion("it does not read")]
    assert other.lives(9.75, unread=1) == []
    assert [type(belief) for belief in other.lives(0.25, unread=1)] == [Condemnation]


def test_a_pipe_that_is_emptied_in_time_is_fine_however_often_it_fills() -> None:
    bed = Bedside()
    for _ in range(10):
        assert bed.lives(UNREAD_S - TICK_S, talks=True, unread=1) == []
        assert bed.lives(TICK_S, talks=True) == []


def test_answers_do_not_clear_a_worker_that_still_does_not_read() -> None:
    bed = Bedside()
    bed.lives(UNREAD_S + TICK_S, talks=True, unread=1)
    assert bed.lives(5.0, BOTH, unread=1) == []
    assert bed.lives(3.0, BOTH) == [Clearance()]


def test_one_that_was_cleared_before_needs_two_rounds_again_once_it_reads() -> None:
    bed = Bedside()
    bed.lives(6.0)
    bed.lives(2.0, BOTH)
    bed.lives(UNREAD_S + TICK_S, talks=True, unread=1)
    assert bed.said == [Suspicion(DEAF), Clearance(), Suspicion("it does not read")]
    assert bed.lives(0.75, BOTH) == [], "one round"
    assert bed.lives(0.25, BOTH) == [Clearance()], "and another"


# --- stalls of ours ----------------------------------------------------------------------------------------------


def test_the_time_that_we_were_stopped_is_nobodys_silence() -> None:
    bed = Bedside()
    bed.lives(1.0)
    bed.now += 3600.0
    bed.health.postpone(3600.0, bed.now)
    assert bed.lives(1.0) == []
    assert bed.rounds == [3602.0]


def test_the_time_that_we_were_stopped_brings_no_probe_nearer() -> None:
    bed = Bedside()
    bed.lives(4.0)
    bed.lives(0.25, BOTH)
    bed.now += 3600.0
    bed.health.postpone(3600.0, bed.now)
    bed.lives(0.75)
    assert bed.rounds == [2.0, 4.0, 3605.0]


def test_the_time_that_we_were_stopped_counts_against_no_suspect() -> None:
    bed = Bedside()
    bed.lives(13.0)
    bed.now += 3600.0
    bed.health.postpone(3600.0, bed.now)
    assert bed.health.due(bed.now) == ()
    assert bed.noted() == []


def test_the_time_that_we_were_stopped_is_no_unread_time() -> None:
    bed = Bedside()
    bed.lives(4.0, talks=True, unread=1)
    bed.now += 3600.0
    bed.health.postpone(3600.0, bed.now)
    bed.health.heard(bed.now)
    assert bed.lives(1.0, talks=True, unread=1) == []
    assert bed.lives(0.25, talks=True, unread=1) == [Suspicion("it does not read")]


@given(st.floats(0.0, 1e6))
@trying(1)
def test_a_stall_makes_nothing_later_than_it_would_be_without_it(seconds: float) -> None:
    bed = Bedside()
    bed.health.heard(bed.now)
    bed.health.postpone(seconds, bed.now)
    bed.lives(14.0)
    assert bed.said == [Suspicion(DEAF), HUNG]


# --- any course of events ----------------------------------------------------------------------------------------

SPELLS = st.tuples(
    st.sampled_from([0.25, 1.0, 2.0, 5.0, 12.0]),
    st.sampled_from([NEITHER, ONLY_HEARS, ONLY_THREADS, BOTH]),
    st.booleans(),
    st.sampled_from([0, 0, 0, 1]),
)


@given(st.lists(SPELLS, max_size=20))
@trying(2)
def test_beliefs_come_in_an_order_that_makes_sense(spells: list[tuple[float, frozenset[Probe], bool, int]]) -> None:
    bed = Bedside()
    for seconds, answers, talks, unread in spells:
        bed.lives(seconds, answers, talks=talks, unread=unread)
    doubts = [belief for belief in bed.said if not isinstance(belief, Condemnation)]
    assert [type(belief) for belief in doubts] == [(Suspicion, Clearance)[number % 2] for number in range(len(doubts))]
    for before, belief in zip([None, *bed.said], bed.said, strict=False):
        if isinstance(belief, Condemnation):
            assert isinstance(before, Suspicion), "it was suspect for a while first"


@given(st.lists(SPELLS, max_size=10))
@trying(1)
def test_whatever_was_before_one_that_dies_is_condemned_and_one_that_lives_is_cleared(
    spells: list[tuple[float, frozenset[Probe], bool, int]],
) -> None:
    for answers, last in ((NEITHER, Condemnation), (BOTH, Clearance)):
        bed = Bedside()
        for seconds, some, talks, unread in spells:
            bed.lives(seconds, some, talks=talks, unread=unread)
        bed.lives(LIMITS.idle_s + 2 * LIMITS.timeout_s + LIMITS.hung_s + 1.0, answers)
        assert bed.said == [] or isinstance(bed.said[-1], last)
        assert answers or bed.said


@given(st.lists(st.tuples(st.floats(0.0, 1.25), st.booleans()), max_size=100))
@trying(1)
def test_a_worker_that_answers_at_the_next_look_is_never_suspect(looks: list[tuple[float, bool]]) -> None:
    health, now = Health(LIMITS), 1000.0
    health.heard(now)
    waiting: dict[Probe, float] = {}
    for gap_s, is_read_first in looks:
        now += gap_s
        for is_reading in (is_read_first, not is_read_first):
            if is_reading:
                for probe in waiting:
                    health.heard(now)
                    health.answered(probe)
                waiting = {}
            else:
                for probe in [probe for probe, deadline_at in waiting.items() if deadline_at <= now]:
                    health.missed(probe, now)
                asked = health.due(now)
                waiting |= dict.fromkeys(asked, now + LIMITS.timeout_s)
    assert health.take() == ()

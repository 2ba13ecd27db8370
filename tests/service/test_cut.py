"""Where an answer's text ends, however it is cut into deltas."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pool.events import Finish
from service.encode.cut import Cut


def shown(deltas: list[str], stop: tuple[str, ...] = (), max_chars: int | None = None) -> tuple[list[str], Cut]:
    cut = Cut(stop, max_chars)
    return [*(cut.feed(delta) for delta in deltas), cut.flush()], cut


def test_text_ends_before_the_stop_sequence_and_nothing_follows() -> None:
    texts, cut = shown(["one EN", "D two", " three"], ("END",))
    assert texts == ["one ", "", "", ""]
    assert cut.verdict is Finish.STOP


def test_what_only_begins_like_a_stop_sequence_is_held_until_that_is_known() -> None:
    assert shown(["one E", "N", "X two E"], ("END",))[0] == ["one ", "", "ENX two ", "E"]


def test_text_that_cannot_be_the_beginning_of_a_stop_sequence_is_not_held() -> None:
    assert shown(["EN?", "NDE?"], ("END",))[0] == ["EN?", "NDE?", ""]


def test_the_first_of_several_stop_sequences_counts() -> None:
    assert shown(["a STOP b END c"], ("END", "STOP"))[0] == ["a ", ""]


def test_text_ends_at_the_longest_length() -> None:
    texts, cut = shown(["one", "two", "three"], max_chars=5)
    assert texts == ["one", "tw", "", ""]
    assert cut.verdict is Finish.LENGTH


def test_text_of_exactly_the_longest_length_is_not_cut() -> None:
    texts, cut = shown(["one", "two"], max_chars=6)
    assert ("".join(texts), cut.verdict) == ("onetwo", None)


@pytest.mark.parametrize(("max_chars", "verdict"), [(3, Finish.STOP), (2, Finish.LENGTH)])
def test_of_both_ends_the_first_counts(max_chars: int, verdict: Finish) -> None:
    texts, cut = shown(["one", "END"], ("END",), max_chars)
    assert ("".join(texts), cut.verdict) == ("one"[:max_chars], verdict)


def test_what_is_held_counts_when_it_is_shown() -> None:
    texts, cut = shown(["one", "EN"], ("END",), 4)
    assert ("".join(texts), cut.verdict) == ("oneE", Finish.LENGTH)


FEW = "ab"
DELTAS = st.lists(st.text(FEW, max_size=6), max_size=12)
STOPS = st.lists(st.text(FEW, min_size=1, max_size=4), max_size=4).map(tuple)


@given(DELTAS, STOPS, st.none() | st.integers(1, 20))
@example(["aa", "ab"], ("aab",), None)
@example(["ab", "ab", "aa"], ("ababaa",), None)
def test_however_the_text_is_cut_into_deltas_it_ends_in_the_same_place(
    deltas: list[str], stop: tuple[str, ...], max_chars: int | None
) -> None:
    text = "".join(deltas)
    ends = [place for each in stop if (place := text.find(each)) >= 0]
    until = min(ends, default=len(text))
    verdict = Finish.STOP if ends else None
    if max_chars is not None and until > max_chars:
        until, verdict = max_chars, Finish.LENGTH
    texts, cut = shown(deltas, stop, max_chars)
    assert "".join(texts) == text[:until]
    assert cut.verdict is verdict


@given(DELTAS, STOPS)
def test_no_more_is_held_than_may_be_a_beginning(deltas: list[str], stop: tuple[str, ...]) -> None:
    cut = Cut(stop, None)
    said = fed = ""
    for delta in deltas:
        said, fed = said + cut.feed(delta), fed + delta
        if cut.verdict is not None:
            return
        held = fed.removeprefix(said)
        assert not held or any(each.startswith(held) for each in stop)

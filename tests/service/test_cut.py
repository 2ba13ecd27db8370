"""Where an answer's text ends, however it is cut into deltas."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pool.events import Finish
from service.encode.cut import Cut
from service.encode.tokens import vocabulary


def shown(deltas: list[str], stop: tuple[str, ...] = (), max_tokens: int | None = None) -> tuple[list[str], Cut]:
    cut = Cut(stop, max_tokens)
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


def test_text_ends_with_its_last_token() -> None:
    texts, cut = shown(["one two", " three"], max_tokens=2)
    assert ("".join(texts), cut.verdict, cut.tokens) == ("one two", Finish.LENGTH, 2)


def test_text_of_exactly_so_many_tokens_is_not_cut() -> None:
    texts, cut = shown(["one", " two"], max_tokens=2)
    assert ("".join(texts), cut.verdict, cut.tokens) == ("one two", None, 2)


@pytest.mark.parametrize(("max_tokens", "text", "verdict"), [(2, "one two", Finish.STOP), (1, "one", Finish.LENGTH)])
def test_of_both_ends_the_first_counts(max_tokens: int, text: str, verdict: Finish) -> None:
    texts, cut = shown(["one two", "END"], ("END",), max_tokens)
    assert ("".join(texts), cut.verdict) == (text, verdict)


def test_what_is_held_counts_when_it_is_shown() -> None:
    texts, cut = shown(["one", "EN"], ("END",), 1)
    assert ("".join(texts), cut.verdict) == ("one", Finish.LENGTH)


FEW = "ab"
DELTAS = st.lists(st.text(FEW, max_size=6), max_size=12)
STOPS = st.lists(st.text(FEW, min_size=1, max_size=4), max_size=4).map(tuple)


@given(DELTAS, STOPS, st.none() | st.integers(1, 20))
@example(["aa", "ab"], ("aab",), None)
@example(["ab", "ab", "aa"], ("ababaa",), None)
@example(["abb"], ("b", "abb"), None)
@example(["ab", "b"], ("b", "abb"), None)
def test_however_the_text_is_cut_into_deltas_it_ends_in_the_same_place(
    deltas: list[str], stop: tuple[str, ...], max_tokens: int | None
) -> None:
    text = "".join(deltas)
    ends = [(place + len(each), place) for each in stop if (place := text.find(each)) >= 0]
    until = text[: min(ends)[1]] if ends else text
    verdict = Finish.STOP if ends else None
    tokens = vocabulary().count(until)
    if max_tokens is not None and tokens > max_tokens:
        until, verdict = vocabulary().first(until, max_tokens), Finish.LENGTH
    texts, cut = shown(deltas, stop, max_tokens)
    assert "".join(texts) == until
    assert cut.verdict is verdict
    assert cut.tokens == min(tokens, max_tokens or tokens)


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

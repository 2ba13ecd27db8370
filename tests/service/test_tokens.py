"""How many tokens a text has, and where the first of them end, however it comes."""

from __future__ import annotations

import sys
import time
from itertools import cycle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.encode.tokens import BATCH_CHARS, MAX_WORD_CHARS, Guess, Meter, O200k, Vocabulary, vocabulary

HELLO = "Hello, wörld! 日本語。 I don't know: 12345\n\n\tfoo_bar(x) 😀👨‍👩‍👧"


VOCABULARIES = pytest.mark.parametrize("words", [vocabulary(), Guess()], ids=["o200k", "guess"])


def metered(deltas: list[str], limit: int | None, words: Vocabulary | None = None) -> tuple[str, bool, int]:
    meter = Meter(limit, words)
    text = "".join(meter.feed(delta) for delta in deltas) + meter.close()
    return text, meter.is_over, meter.used


def at_once(text: str, limit: int | None, words: Vocabulary) -> tuple[str, bool, int]:
    """What the whole text comes to."""
    tokens = words.count(text)
    return (text, False, tokens) if limit is None or tokens <= limit else (words.first(text, limit), True, limit)


def cut_up(text: str, sizes: list[int]) -> list[str]:
    """Deltas of these sizes, over and over."""
    deltas = []
    for size in cycle(sizes):
        if not text:
            break
        deltas.append(text[:size])
        text = text[size:]
    return deltas


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="rs-bpe has no wheels for it")
def test_the_vocabulary_is_o200k() -> None:
    """Source: the identifiers that tiktoken's o200k_base gives."""
    assert O200k()._tokenizer.encode("Hello <|endoftext|> wörld 日本 😀") == [
        13225, 464, 91, 419, 1440, 919, 91, 29, 286, 2877, 582, 17428, 88038
    ]  # fmt: skip


SIZES = st.lists(st.integers(1, 80) | st.just(1), min_size=1, max_size=5)
WORDS = st.lists(
    st.sampled_from(
        [
            "don't",
            "I'LL",
            " word",
            "HELLO",
            "\n",
            "\r\n",
            "    ",
            "x=1;",
            "日本",
            "。",
            "123456",
            "foo_bar(",
            "😀",
            "..",
            "'s",
            "é",
        ]
    ),
    max_size=40,
).map("".join)
ANYTHING = st.text(max_size=60) | st.text("aA1 '\n\t/-.é\u0301日。ि\u00a0\x1c", max_size=60)


@VOCABULARIES
@given(text=WORDS | ANYTHING, limit=st.none() | st.integers(1, 30), sizes=SIZES)
@example(text=HELLO, limit=7, sizes=[1])
@example(text="\r ि", limit=2, sizes=[3])
def test_however_text_comes_it_ends_with_the_last_token_that_it_may_have(
    text: str, limit: int | None, sizes: list[int], words: Vocabulary
) -> None:
    assert metered(cut_up(text, sizes), limit, words) == at_once(text, limit, words)


LONG = st.lists(st.sampled_from(["a" * 100, "x", "日" * 90, "é\u0301" * 50, " ", "\n", "."]), max_size=60).map("".join)


@VOCABULARIES
@given(text=LONG, limit=st.none() | st.integers(1, 400), sizes=SIZES)
def test_long_words_and_long_texts_end_in_the_same_place_however_they_come(
    text: str, limit: int | None, sizes: list[int], words: Vocabulary
) -> None:
    assert metered(cut_up(text, sizes), limit, words) == metered([text], limit, words)


def test_a_word_without_end_is_counted_to_within_one_token_of_each_part() -> None:
    text = "日本語" * 3000
    used, exact = metered(list(text), None)[2], vocabulary().count(text)
    assert exact <= used <= exact + len(text) / MAX_WORD_CHARS + 1


@given(WORDS | ANYTHING, st.integers(1, 30), SIZES)
def test_no_more_is_held_than_the_last_word_and_nothing_where_there_is_room(
    text: str, limit: int, sizes: list[int]
) -> None:
    meter, said, fed = Meter(limit), "", ""
    for delta in cut_up(text, sizes):
        said, fed = said + meter.feed(delta), fed + delta
        if meter.is_over:
            return
        held = fed.removeprefix(said)
        assert len(held) <= MAX_WORD_CHARS
        assert not held or len(fed.encode()) > limit


def test_without_the_package_a_token_is_four_characters_of_a_word() -> None:
    assert metered(["one", " two, thir", "teen"], 4, Guess()) == ("one two, thi", True, 4)


def test_far_from_its_limit_text_is_shown_as_it_comes() -> None:
    meter = Meter(1000)
    assert [meter.feed(delta) for delta in ("on", "e tw", "o")] == ["on", "e tw", "o"]


@pytest.mark.parametrize("word", ["a", "日", "a ", "\u0301"])
def test_the_cost_of_a_text_is_in_proportion_to_its_length(word: str) -> None:
    def cost_s(chars: int) -> float:
        deltas, best = [word] * chars, float("inf")
        for _ in range(3):
            began_at = time.process_time()
            metered(deltas, 10 * chars)
            best = min(best, time.process_time() - began_at)
        return best

    chars = 4 * BATCH_CHARS
    assert cost_s(16 * chars) < 16 * 4 * cost_s(chars)

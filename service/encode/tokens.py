"""How many tokens a text has, and where the first so many of them end, as text comes."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from functools import cache
from typing import Protocol

MAX_WORD_CHARS = 256
"""Text without a border for so long is counted in parts of this length: what is not known to be whole is kept."""
BATCH_CHARS = 1024
"""As much is counted at once, where nothing depends on it earlier: one count of it costs less than two of a word."""

_BORDER = re.compile(
    r"(?<=\S)(?= )|(?<=[^\W_])(?=[\s!-&(-/:-@\[-`{-~\u3001\u3002\uff01\uff08\uff09\uff0c\uff0e\uff1a\uff1b\uff1f])"
)
"""Where no token goes across, whatever is before and behind: in front of a space after anything else, and in front of
other white space or punctuation after a letter or a digit. The apostrophe is none: it may be part of a word.
Source: the pattern by which o200k splits text into words before it looks for tokens within them."""

_FOUR = re.compile(r"(?s).{1,4}")


class Vocabulary(Protocol):
    """What a token is. A text has as many as the words have that its borders make of it."""

    def count(self, text: str) -> int:
        """How many tokens it has."""

    def first(self, text: str, tokens: int) -> str:
        """As many whole characters as its first tokens have."""


class O200k:
    """The tokens of the provider's present models."""

    def __init__(self) -> None:
        self._tokenizer = importlib.import_module("rs_bpe.bpe").openai.o200k_base()
        self.count: Callable[[str], int] = self._tokenizer.count

    def first(self, text: str, tokens: int) -> str:
        """See `Vocabulary`."""
        whole: bytes = self._tokenizer.bpe().decode_tokens(self._tokenizer.encode(text)[:tokens])
        return whole.decode(errors="ignore")


class Guess:
    """Four characters of a word for a token, where that package is not to be had."""

    def count(self, text: str) -> int:
        """See `Vocabulary`."""
        return len(self._tokens(text))

    def first(self, text: str, tokens: int) -> str:
        """See `Vocabulary`."""
        return "".join(self._tokens(text)[:tokens])

    def _tokens(self, text: str) -> list[str]:
        return [token for word in _BORDER.split(text) for token in _FOUR.findall(word)]


@cache
def vocabulary() -> Vocabulary:
    """The best there is here. The first call takes 40 ms and 70 MB: make it before requests come."""
    try:
        return O200k()
    except ImportError:
        return Guess()


class Meter:
    """Give it the text as it comes with `feed`: it gives back what is within the first `limit` tokens; None: no limit.

    However the text is cut into pieces, it is counted and ends in the same place. What may lie beyond the limit is held
    back until that is known: never more than the last word, and nothing of that as long as each of its bytes may be a
    token. `is_over` as soon as there is text beyond the limit. `used` is right after a `close`.
    """

    __slots__ = ("_limit", "_open", "_shown", "_vocabulary", "is_over", "used")

    def __init__(self, limit: int | None, words: Vocabulary | None = None) -> None:
        self._limit = limit
        self._vocabulary = words or vocabulary()
        self._open = ""
        """What is not counted yet."""
        self._shown = 0
        """Characters of that."""
        self.used = 0
        self.is_over = False

    def feed(self, text: str) -> str:
        """What may be shown now that this has come."""
        if self.is_over or not text:
            return ""
        self._open += text
        shown = ""
        if len(self._open) > BATCH_CHARS or not self._fits():
            shown = self._count(self._whole())
        if self.is_over:
            return shown
        if not self._fits():
            self.is_over = self.used == self._limit
            return shown
        shown += self._open[self._shown :]
        self._shown = len(self._open)
        return shown

    def close(self) -> str:
        """What was held back: nothing joins what there is."""
        return "" if self.is_over else self._count([*self._whole(), len(self._open)])

    # --- inside ----------------------------------------------------------------------------------------------

    def _fits(self) -> bool:
        """What is open is within the limit, whatever its tokens are."""
        if self._limit is None:
            return True
        room = self._limit - self.used
        return 4 * len(self._open) <= room or len(self._open.encode()) <= room

    def _whole(self) -> list[int]:
        """Where the parts of what is open end that can be counted by themselves: whatever comes joins none of them."""
        ends: list[int] = []
        word = 0
        for place in (*(border.start() for border in _BORDER.finditer(self._open)), len(self._open)):
            while place - word > MAX_WORD_CHARS:
                word += MAX_WORD_CHARS
                ends.append(word)
            if place < len(self._open):
                word = place
        if word and word not in ends[-1:]:
            ends.append(word)
        return ends

    def _count(self, ends: list[int]) -> str:
        """What is to be shown of the parts that end there, and was not."""
        whole = 0
        for end in ends:
            part = self._open[whole:end]
            tokens = self._vocabulary.count(part)
            if self._limit is not None and self.used + tokens > self._limit:
                self.is_over = True
                text = self._open[:whole] + self._vocabulary.first(part, self._limit - self.used)
                self.used, self._open = self._limit, ""
                return text[self._shown :]
            self.used += tokens
            whole = end
        shown, self._open = self._open[self._shown : whole], self._open[whole:]
        self._shown = max(0, self._shown - whole)
        return shown

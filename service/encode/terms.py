"""What an answer is held to, whatever the route on which it was asked for."""

from __future__ import annotations

import msgspec

from service.api.output import Output
from service.api.question import Question
from service.api.tools import Tools


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What each choice of an answer must be, and where it ends.

    It ends before the first of `stop`, and after `max_tokens` at most. `keeps`: its text and calls are needed once more
    when it has ended. `prompt_chars` is what an estimate of tokens goes by.
    """

    tools: Tools = Tools()
    output: Output = Output()
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    keeps: bool = False
    prompt_chars: int = 0
    shows_reasoning: bool = False

    @classmethod
    def of(cls, question: Question, *, keeps: bool, shows_reasoning: bool = False) -> Terms:
        """What the answer to `question` is held to."""
        return cls(
            tools=question.tools,
            output=question.output,
            stop=question.stop,
            max_tokens=question.max_tokens,
            keeps=keeps,
            prompt_chars=question.prompt_chars,
            shows_reasoning=shows_reasoning,
        )

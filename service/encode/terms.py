"""What an answer is held to, whatever the route on which it was asked for."""

from __future__ import annotations

import msgspec

from service.api.output import Output
from service.api.question import Question
from service.api.tools import Tools
from service.toolcalls.controls import Controls
from service.toolcalls.mode import OutputMode


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What each choice of an answer must be, and where it ends.

    It ends before the first of `stop`, and after `max_tokens` at most. `keeps`: its text and calls are needed once more
    when it has ended. `prompt_chars` is what an estimate of tokens goes by. Reasoning is shown where `shows_reasoning`.
    `mode` (never AUTO) is in what form its calls are told, and `controls` how many of them.
    """

    tools: Tools = Tools()
    output: Output = Output()
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    keeps: bool = False
    prompt_chars: int = 0
    shows_reasoning: bool = False
    mode: OutputMode = OutputMode.OPENAI_JSON
    controls: Controls = Controls()

    @classmethod
    def of(
        cls,
        question: Question,
        *,
        keeps: bool,
        shows_reasoning: bool = False,
        mode: OutputMode = OutputMode.OPENAI_JSON,
        controls: Controls = Controls(),  # noqa: B008 - it is frozen
    ) -> Terms:
        """What the answer to `question` is held to."""
        return cls(
            tools=question.tools,
            output=question.output,
            stop=question.stop,
            max_tokens=question.max_tokens,
            keeps=keeps,
            prompt_chars=question.prompt_chars,
            shows_reasoning=shows_reasoning,
            mode=mode,
            controls=controls,
        )

    @property
    def writes_blocks(self) -> bool:
        """Each call is written into the text, too."""
        return self.mode is OutputMode.OBSIDIAN_XML

    @property
    def reads_blocks(self) -> bool:
        """Calls are looked for in the text."""
        return self.writes_blocks or bool(self.tools.specs)

    @property
    def names(self) -> frozenset[str] | None:
        """The functions that a block may call, None for any: who reads blocks has named them in words."""
        if self.writes_blocks:
            return None
        return self.tools.withheld.union(spec.name for spec in self.tools.specs)

"""How an operator sets what is done with calls."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from service.toolcalls.controls import Controls, StopMode
from service.toolcalls.mode import OutputMode, spelled


def _spelled(value: Any) -> Any:
    return spelled(value) if isinstance(value, str) else value


def _unescaped(value: Any) -> Any:
    """Source: the predecessor's delimiter, which an environment cannot hold as it is."""
    word = value.strip().lower() if isinstance(value, str) else value
    if word in (True, "true"):
        return "\n\n"
    if word in (False, "false"):
        return ""
    return value.replace("\\n", "\n").replace("\\t", "\t") if isinstance(value, str) else value


Mode = Annotated[Literal["auto", "obsidian-xml", "openai-json"], BeforeValidator(_spelled)]


class ToolSettings(BaseModel):
    """Calls: in what form they are told, and when an answer has enough of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output_mode: Mode = Field(
        "auto", description="How calls are told; `auto`: as blocks to Obsidian Copilot, as JSON to everybody else."
    )
    responses_output_mode: Mode = Field("auto", description="The same, on /v1/responses.")
    stop_after: bool = Field(default=False, description="End an answer after its calls.")
    stop_mode: Literal["burst", "first"] = Field(
        "burst", description="After so many as come together, or after the first; `first` needs no `stop_after`."
    )
    grace_s: float = Field(0.3, ge=0, le=60, description="How long a burst waits for another call.")
    suppress_tail: bool = Field(default=False, description="Drop the text after the last call.")
    max_calls: int = Field(
        0, ge=0, le=128, description="Most calls of one choice; with a limit, answers end after their calls. 0: none."
    )
    dedup: bool = Field(default=False, description="Drop a call that equals an earlier one of the same choice.")
    delimiter: Annotated[str, Field(max_length=64), BeforeValidator(_unescaped)] = Field(
        "", description="What is written between two blocks; `true` is an empty line, `\\n` a new line."
    )

    @cached_property
    def mode(self) -> OutputMode:
        """What answers are told as, unless a request says otherwise."""
        return OutputMode(self.output_mode)

    @cached_property
    def responses_mode(self) -> OutputMode:
        """The same, on /v1/responses."""
        return OutputMode(self.responses_output_mode)

    @cached_property
    def controls(self) -> Controls:
        """The same, as the core knows it."""
        return Controls(
            stops=self.stop_after,
            mode=StopMode(self.stop_mode),
            grace_s=self.grace_s,
            drops_tail=self.suppress_tail,
            max_calls=self.max_calls,
            drops_equal=self.dedup,
            delimiter=self.delimiter,
        )

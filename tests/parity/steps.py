"""The words in which scenarios are written: what is asked, and what happens meanwhile.

What the model does is written into the prompt (see `loadtest/script.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple, Self

Json = dict[str, Any]


class When(StrEnum):
    """The moment at which something happens to a request."""

    WAITING = "it waits for a seat"
    ASKED = "the model has it"
    SPOKEN = "the client has read the first text"


class Deed(StrEnum):
    """What happens."""

    LEAVE = "the client leaves"
    FREE = "who has the seat leaves"
    KILL = "its worker is killed"
    KILL_TWICE = "its worker is killed, and the next one that gets it"
    AGE = "what is stored grows older than anything may"
    CUT_OFF = "the service stops"
    DRAIN = "the service takes no new work"


class Meanwhile(NamedTuple):
    when: When
    deed: Deed


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One request, this one without a body. Ids are written as transcripts have them, `resp_<1>` for the first.

    `key` names one of the keys of the service. `beside` requests of the same key have a seat or wait for one all the
    while. It is repeated until `until` stands in its answer. What it began `goes_on` while the next one is made.
    """

    path: str
    method: str = "GET"
    model: str = "codex-5"
    headers: dict[str, str] = field(default_factory=dict)
    key: str = "default"
    meanwhile: Meanwhile | None = None
    beside: int = 0
    until: str = ""
    goes_on: bool = False

    speaks: ClassVar[bytes] = b'"content":'
    """What is in a stream as soon as there is text."""

    def body(self) -> Json | None:
        """The request's body."""
        return None

    def but(self, when: When, deed: Deed) -> Self:
        """The same, with this happening."""
        return replace(self, meanwhile=Meanwhile(when, deed))


@dataclass(frozen=True, slots=True)
class Ask(Visit):
    """One chat completion.

    `does` is the directive in the prompt, `before` and `after` are messages around it, `fields` are more fields of the
    request.
    """

    does: Json
    fields: Json = field(default_factory=dict)
    before: tuple[Json, ...] = ()
    after: tuple[Json, ...] = ()
    path: str = field(default="/v1/chat/completions", kw_only=True)
    method: str = field(default="POST", kw_only=True)

    def body(self) -> Json | None:
        """See above."""
        prompt = {"role": "user", "content": _prompt(self.does)}
        return {"model": self.model, "messages": [*self.before, prompt, *self.after]} | self.fields

    def streamed(self, **fields: Any) -> Self:
        """The same, as a stream."""
        return replace(self, fields=self.fields | {"stream": True} | fields)


@dataclass(frozen=True, slots=True)
class Respond(Ask):
    """One response, likewise. Where nothing is around it the prompt alone is the input, as a string."""

    path: str = field(default="/v1/responses", kw_only=True)

    speaks: ClassVar[bytes] = b"event: response.output_text.delta"

    def body(self) -> Json | None:
        """See above."""
        prompt = _prompt(self.does)
        items = [*self.before, {"role": "user", "content": prompt}, *self.after]
        return {"model": self.model, "input": items if len(items) > 1 else prompt} | self.fields


@dataclass(frozen=True, slots=True)
class Scenario:
    """One transcript. `settings` are what is set for it, by group."""

    name: str
    says: str
    steps: tuple[Visit | Deed, ...]
    settings: dict[str, Json] = field(default_factory=dict)


def _prompt(does: Json) -> str:
    return f"Go on. @@{json.dumps(does)}"


# --- what is said ------------------------------------------------------------------------------------------------

USAGE = {"input_tokens": 100, "cached_tokens": 40, "output_tokens": 20, "reasoning_tokens": 5}
HELLO = {"text": "Hello there, world.", "usage": USAGE}
HANG = {"text": "Some words and then", "hang": "middle"}
SOME_TEXT = {"text": "Some words."}
WEATHER = {"name": "weather", "arguments": '{"city": "Oslo"}', "call_id": "call_weather"}
COMMAND = {"name": "_exec_command", "arguments": '{"city":  "Rome é"}', "call_id": "call_command"}
ONE_CALL = {"tool_calls": [WEATHER], "usage": USAGE}
TWO_CALLS = {"tool_calls": [COMMAND, WEATHER], "usage": USAGE}
TALK_AND_CALL = {"text": "Let me look.", "tool_calls": [WEATHER], "usage": USAGE}

SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer"}},
    "required": ["answer"],
    "additionalProperties": False,
}


def function(name: str) -> Json:
    """A function of one argument."""
    return {
        "name": name,
        "description": f"Does {name}.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "minLength": 1}},
            "required": ["city"],
            "additionalProperties": False,
        },
    }


def fails(code: str, message: str = "The model failed.") -> Json:
    """The model's answer ends so."""
    return {"failed": {"code": code, "message": message}}


def refuses(status: int, code: str, message: str = "The provider refused.") -> Json:
    """There is none."""
    return {"status": status, "error": {"message": message, "code": code}}

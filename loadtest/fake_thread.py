"""One conversation of the fake app-server: what was said so far, as far as an answer depends on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadtest import fake_frames as frames
from loadtest.script import Script, ScriptError, read_prompt, texts_of

if TYPE_CHECKING:
    from loadtest.fake_frames import Json
    from loadtest.fake_turn import Turn


class Prompt:
    """The last user message of a thread, and what it asks for."""

    def __init__(self, text: str) -> None:
        self.error: str | None = None
        self.text = self.said = text
        self.script = Script()
        try:
            self.said, self.script = read_prompt(text)
        except ScriptError as error:
            self.error = str(error)


class Thread:
    """One conversation."""

    def __init__(self, thread_id: str, params: Json, tools: frozenset[str]) -> None:
        self.id = thread_id
        self.model: str = params.get("model") or "model-a"
        self.provider: str = params.get("modelProvider") or "upstream"
        self.raw_events = bool(params.get("experimentalRawEvents"))
        self.tools = tools
        self.prompt = Prompt("")
        self.outputs: list[str] = []
        """Tool outputs injected since the last user message."""
        self.input_chars = len(params.get("baseInstructions") or "") + len(params.get("developerInstructions") or "")
        self.injections = 0
        self.usage = dict(frames.NO_TOKENS)
        self.turn: Turn | None = None
        self.was_interrupted = False
        self.is_subscribed = True

    def hear(self, item: Json) -> None:
        """Takes an item of the history into account."""
        texts = texts_of(item.get("content")) or texts_of(item.get("output"))
        self.input_chars += sum(map(len, texts)) + len(item.get("arguments") or "")
        if item.get("role") == "user":
            self.prompt = Prompt("".join(texts))
            self.outputs = []
        elif item.get("type") == "function_call_output":
            self.outputs.append("".join(texts))

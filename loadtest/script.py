"""What an answer should look like, written into the prompt itself: `question @@{"text": "hi", "delay_s": 0.1}`.

Everything from the first `@@{` on is the directive; one space right before it belongs to it. Both programs of this
package (the stand-in model and the fake app-server) obey these fields, in any sensible combination:

| field | value | effect |
|---|---|---|
| `text` | string | the answer |
| `echo` | true | the answer is the text before the directive, exactly; with `text`, followed by it |
| `chunks` | list of strings | the answer, as exactly these deltas |
| `chunk_size` | integer | characters per delta; without it a delta is a word |
| `repeat` | integer | the answer's deltas, that many times |
| `messages` | list of strings | several assistant messages in one answer |
| `reasoning` | string | first a reasoning item with this summary |
| `tool_calls` | list of `{name, arguments?, call_id?}` | function calls, after the text if there is one (1) |
| `usage` | object | exact token counts (2) |
| `delay_s` | seconds | pause before the first event |
| `interval_s` | seconds | pause between two deltas |
| `hang` | `"headers"`, `"first"`, `"middle"` | silence: no HTTP headers, no event, nothing after the first delta |
| `disconnect` | `"first"`, `"middle"` | the model drops the connection there |
| `status` | 400 to 599 | an HTTP error instead of an answer |
| `error` | `{message?, code?, type?}` | what the HTTP error says |
| `retry_after` | seconds or string | the HTTP error's Retry-After |
| `failed` | code or `{code, message?}` | the stream ends in `response.failed`, after the text if there is one |
| `incomplete` | `"max_output_tokens"`, `"content_filter"` | the stream ends in `response.incomplete`, after the text |
| `fails` | a count | so many requests with this prompt meet its `status`, `failed` or `disconnect`, and no text (3) |

(1) `arguments` is an object or, verbatim, a string. Once the history holds the outputs, the answer quotes them instead.
(2) `{input_tokens?, cached_tokens?, output_tokens?, reasoning_tokens?}`; what is missing is estimated.
(3) After that they get the text and meet none of these. Without it all requests do, after the text if there is one.

Only the fake app-server has a process to break, with these fields. `at` says when those marked * happen: `"start"`
(before anything was sent for the turn), `"first"` (the turn has started), `"middle"` (after the first delta, which an
answer without text does not have; the default).

| field | value | effect |
|---|---|---|
| `exit` * | exit code | the process ends |
| `kill_self`, `stop_self` * | true | SIGKILL, SIGSTOP |
| `stdout_eof` * | true | stdout is closed, the process lives on |
| `half_line` * | true | half a line, then silence for ever |
| `big_line` * | bytes | one line of this length (an unknown notification), then the turn goes on |
| `garbage` * | true | a line which is not JSON, then the turn goes on |
| `late_frames` | true or a count | more deltas after the turn's end |
| `ignore_interrupt` | true | `turn/interrupt` is answered, and the turn goes on |
| `lose_reply` | RPC method | no reply to it, on this thread, once the prompt is known |
| `duplicate_reply` | RPC method | two replies, likewise |
| `overloaded` | RPC method | the error -32001, likewise |
| `server_request` | method of a server request | asks the client, waits for its answer and quotes it in the text |
| `stamp` | true | every delta begins with `<home#turn>`: whose it is, by the process's home and its turn |
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

MARK: Final = "@@{"
MAX_REPEAT: Final = 1_000_000
MAX_ANSWER_CHARS: Final = 64 * 1024 * 1024
MAX_TRIED: Final = 1000
PROCESS_FIELDS: Final = (
    "at",
    "big_line",
    "duplicate_reply",
    "exit",
    "garbage",
    "half_line",
    "ignore_interrupt",
    "kill_self",
    "late_frames",
    "lose_reply",
    "overloaded",
    "server_request",
    "stamp",
    "stdout_eof",
    "stop_self",
)

_WORD = re.compile(r"\s*\S+|\s+")
_DECODER = json.JSONDecoder()

Deltas = tuple[str, ...]


class ScriptError(ValueError):
    """The prompt holds a directive that cannot be obeyed; the message is meant for the client."""


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    arguments: str | dict[str, Any] = "{}"
    call_id: str | None = None

    @property
    def arguments_text(self) -> str:
        """The arguments as the model would write them: a JSON text, or whatever string the directive holds."""
        if isinstance(self.arguments, str):
            return self.arguments
        return msgspec.json.encode(self.arguments).decode()


class HttpError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    message: str = "The stand-in model was told to fail."
    code: str | None = None
    type: str | None = None


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    code: str
    message: str = "The stand-in model was told to fail."


class Usage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None


class Tokens(msgspec.Struct, frozen=True):
    """Token counts of one answer, all known."""

    input: int
    cached: int
    output: int
    reasoning: int

    @property
    def total(self) -> int:
        return self.input + self.output

    def as_upstream(self) -> dict[str, Any]:
        """The `usage` object of the Responses API."""
        return {
            "input_tokens": self.input,
            "input_tokens_details": {"cached_tokens": self.cached},
            "output_tokens": self.output,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": self.total,
        }


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One directive; the defaults are those of a prompt without any."""

    text: str | None = None
    echo: bool = False
    chunks: Deltas | None = None
    chunk_size: int | None = None
    repeat: int = 1
    messages: tuple[str, ...] = ()
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = Usage()

    delay_s: float = 0.0
    interval_s: float = 0.0
    hang: Literal["headers", "first", "middle"] | None = None
    disconnect: Literal["first", "middle"] | None = None
    status: int | None = None
    error: HttpError = HttpError()
    retry_after: float | str | None = None
    failed: str | Failure | None = None
    incomplete: Literal["max_output_tokens", "content_filter"] | None = None
    fails: int | None = None

    at: Literal["start", "first", "middle"] = "middle"
    exit: int | None = None
    kill_self: bool = False
    stop_self: bool = False
    stdout_eof: bool = False
    half_line: bool = False
    big_line: int = 0
    garbage: bool = False
    late_frames: bool | int = 0
    ignore_interrupt: bool = False
    lose_reply: str | None = None
    duplicate_reply: str | None = None
    overloaded: str | None = None
    server_request: Literal["item/commandExecution/requestApproval", "item/tool/call"] | None = None
    stamp: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.repeat <= MAX_REPEAT:
            raise ValueError(f"`repeat` must be between 1 and {MAX_REPEAT}")
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError("`chunk_size` must be at least 1")
        if self.delay_s < 0 or self.interval_s < 0:
            raise ValueError("`delay_s` and `interval_s` must not be negative")
        if self.status is not None and not 400 <= self.status <= 599:
            raise ValueError("`status` must be between 400 and 599")
        if not 0 <= self.big_line <= MAX_ANSWER_CHARS:
            raise ValueError(f"`big_line` must be between 0 and {MAX_ANSWER_CHARS}")

    @property
    def failure(self) -> Failure | None:
        """The `response.failed` asked for."""
        return Failure(self.failed) if isinstance(self.failed, str) else self.failed

    @property
    def late_deltas(self) -> int:
        return 3 if self.late_frames is True else int(self.late_frames)

    @property
    def says_what(self) -> bool:
        """Whether the directive holds the answer's words (else the program has a sentence of its own)."""
        return self.text is not None or self.chunks is not None or self.echo or bool(self.messages)


class Tries:
    """How often prompts were asked that fail for a while only: those of the last `MAX_TRIED`."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def obey(self, script: Script, prompt: str) -> Script:
        """The directive as it holds this time."""
        if script.fails is None:
            return script
        count = self._counts[prompt] = self._counts.pop(prompt, 0) + 1
        if len(self._counts) > MAX_TRIED:
            del self._counts[next(iter(self._counts))]
        if count <= script.fails:
            return replace(script, text=None, chunks=None, messages=(), echo=False)
        return replace(script, status=None, failed=None, disconnect=None)


def read_prompt(prompt: str) -> tuple[str, Script]:
    """The words before the directive, and the directive.

    Raises:
        ScriptError: not JSON, an unknown field, a value of the wrong type or out of range.
    """
    start = prompt.find(MARK)
    if start < 0:
        return prompt, _NO_SCRIPT
    try:
        fields, _end = _DECODER.raw_decode(prompt, start + 2)
        script = msgspec.convert(fields, Script)
    except (ValueError, RecursionError) as error:  # json's and msgspec's errors are ValueErrors
        raise ScriptError(f"the directive at character {start} cannot be obeyed: {error}") from error
    said = prompt[:start].removesuffix(" ")
    chars = sum(map(len, _words(script, said, ""))) * script.repeat
    if chars > MAX_ANSWER_CHARS:
        raise ScriptError(f"the directive asks for {chars} characters, over the limit of {MAX_ANSWER_CHARS}")
    return said, script


def answer(script: Script, said: str, default: str | Deltas) -> tuple[Deltas, ...]:
    """The deltas of every message of the answer, in order.

    `default` is what to say when the directive does not: a sentence, or its exact deltas. No message at all when the
    directive only asks for tool calls or for a failure.
    """
    silent = script.tool_calls or script.failed is not None
    if silent and not script.says_what:
        return ()
    if script.chunks is not None and not script.messages:
        return (script.chunks * script.repeat,)
    if isinstance(default, tuple):
        if not script.says_what and script.chunk_size is None:
            return (default * script.repeat,)
        default = "".join(default)
    return tuple(split(text, script.chunk_size) * script.repeat for text in _words(script, said, default))


def quote_outputs(outputs: list[str]) -> str:
    """What the stand-ins answer once the tools they called have answered."""
    return "The tools answered: " + " | ".join(outputs)


def split(text: str, chunk_size: int | None = None) -> Deltas:
    """`text` in pieces: words with the blanks before them, or `chunk_size` characters each."""
    if chunk_size is None:
        return tuple(_WORD.findall(text))
    return tuple(text[i : i + chunk_size] for i in range(0, len(text), chunk_size))


def count_tokens(script: Script, *, input_chars: int, output_chars: int) -> Tokens:
    """The counts to report; those the directive leaves open are estimated at four characters per token."""
    asked = script.usage
    reasoning = asked.reasoning_tokens
    if reasoning is None:
        reasoning = estimate(len(script.reasoning or ""))
    output = asked.output_tokens
    if output is None:
        output = estimate(output_chars) + reasoning
    return Tokens(
        input=estimate(input_chars) if asked.input_tokens is None else asked.input_tokens,
        cached=asked.cached_tokens or 0,
        output=output,
        reasoning=reasoning,
    )


def estimate(chars: int) -> int:
    """Tokens in a text of so many characters, roughly."""
    return (chars + 3) // 4


def texts_of(content: object) -> list[str]:
    """The texts of a message's content or of a tool output, which is a string or a list of typed parts."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        return []
    return [text for part in content if isinstance(part, dict) and isinstance(text := part.get("text"), str)]


def error_body(status: int, message: str, code: str | None, kind: str | None) -> bytes:
    """The JSON body of an HTTP error of the Responses API; without a `kind` the status decides."""
    kind = kind or ("server_error" if status >= 500 else "invalid_request_error")
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code}})


def _words(script: Script, said: str, default: str) -> tuple[str, ...]:
    if script.messages:
        return script.messages
    if script.chunks is not None:
        return script.chunks
    if script.text is not None:
        return (said + script.text,) if script.echo else (script.text,)
    return (said,) if script.echo else (default,)


_NO_SCRIPT = Script()

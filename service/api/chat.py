"""A chat completion request, checked.

The order of the checks, and the params, codes and messages of the errors, are the predecessor's: clients read them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import msgspec

from service.api.body import json_object
from service.api.errors import ApiError, invalid, model_not_found, unsupported
from service.api.history import Entry, count_chars, is_absent, read_history
from service.api.options import Options, read_options
from service.api.output import Output, count_schema_chars, read_output
from service.api.tools import Tools, count_tool_chars, read_tools

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""Source: OpenAI's ReasoningEffort."""

MAX_TOKENS = ("max_tokens", "max_completion_tokens", "maxOutputTokens")

READ = frozenset(
    {
        "model",
        "messages",
        "n",
        "stream",
        "stream_options",
        "include_usage",
        "logprobs",
        "top_logprobs",
        "response_format",
        "tools",
        "functions",
        "tool_choice",
        "function_call",
        "parallel_tool_calls",
        "reasoning",
        "reasoning_effort",
        "stop",
        "metadata",
        "modalities",
        "audio",
        "web_search_options",
        "moderation",
        *MAX_TOKENS,
    }
)
"""What is done as asked, or refused. Every other field of a request is named to its sender as ignored."""

MAX_IGNORED = 32


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asked, in our own words.

    `model` is the public name as the client wrote it; `effort` is None when the client did not say. `ignored` are the
    names of parameters without effect, safe for a header. `prompt_chars` is what an estimate of tokens goes by. Each of
    `n` answers ends before the first of `stop`, and after `max_tokens` at most.
    """

    model: str
    messages: tuple[Entry, ...]
    tools: Tools = Tools()
    output: Output = Output()
    n: int = 1
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    stream: bool = False
    include_usage: bool = False
    effort: str | None = None
    metadata: dict[str, str] | None = None
    ignored: tuple[str, ...] = ()
    prompt_chars: int = 0


class Model(Protocol):
    """What the checks have to know of a model."""

    @property
    def max_prompt_chars(self) -> int | None:
        """Longest prompt in characters, None for no limit."""


M = TypeVar("M", bound=Model)


def parse_chat(body: bytes, *, find: Callable[[str], M | None], max_choices: int) -> tuple[ChatRequest, M]:
    """The request in a body, and what `find` knows of its model.

    Raises:
        ApiError: a 4xx for the first check that fails. What is well formed but not done is refused last, so that a
            client with two mistakes hears of the real one first; only a part of a message is refused where it stands.
    """
    fields = json_object(body)
    model = _model(fields.get("model"))
    messages = _messages(fields.get("messages"))
    choices = _choices(fields.get("n"), max_choices)
    _check_logprobs(fields)
    output = read_output(fields.get("response_format"))
    _check_seed(fields.get("seed"))
    found = find(model)
    if found is None:
        raise model_not_found(model)
    prompt_chars = count_chars(messages) + count_tool_chars(fields) + count_schema_chars(fields.get("response_format"))
    if found.max_prompt_chars is not None and prompt_chars > found.max_prompt_chars:
        raise _too_long()
    _check_temperature(fields.get("temperature"))
    _check_top_p(fields.get("top_p"))
    max_tokens = _max_tokens(fields)
    tools, ignored_of_tools = read_tools(fields)
    history = read_history(messages)
    effort = _effort(fields)
    options = read_options(fields)
    if not options.stream and options.stream_options is not None:
        raise invalid("stream_options is only allowed when stream is true", "stream_options")
    _refuse_unsupported(fields, options)
    request = ChatRequest(
        model=model,
        messages=history.entries,
        tools=tools,
        output=output,
        n=choices,
        stop=_stop(options),
        max_tokens=max_tokens,
        stream=bool(options.stream),
        include_usage=_include_usage(options),
        effort=effort,
        metadata=options.metadata,
        ignored=_ignored(fields, options, history.ignored + ignored_of_tools),
        prompt_chars=prompt_chars,
    )
    return request, found


# --- what is not done --------------------------------------------------------------------------------------------


def _refuse_unsupported(fields: dict[str, Any], options: Options) -> None:
    """Whatever would change the answer, and is not done, is refused here and never ignored."""
    if options.modalities and options.modalities != ["text"]:
        raise unsupported("modalities", "modalities other than text are not supported")
    for name in ("audio", "web_search_options", "moderation"):
        if fields.get(name) is not None:
            raise unsupported(name)


_NOT_FOR_HEADERS = re.compile(r"[^A-Za-z0-9_.-]")


def _ignored(fields: dict[str, Any], options: Options, inside: tuple[str, ...]) -> tuple[str, ...]:
    names = [name for name, value in fields.items() if name not in READ and not is_absent(value)]
    if options.stream_options is not None:
        extra = dict(options.stream_options.model_extra or {})
        if options.stream_options.include_obfuscation:
            extra["include_obfuscation"] = True
        names += [f"stream_options.{name}" for name in extra]
    reasoning = fields.get("reasoning")
    if reasoning:
        names += [f"reasoning.{name}" for name, value in reasoning.items() if name != "effort" and value is not None]
    names += inside
    if len(names) > MAX_IGNORED:
        names[MAX_IGNORED - 1 :] = ["..."]
    return tuple(_NOT_FOR_HEADERS.sub("?", name[:64]) for name in names)


# --- the table, row by row ---------------------------------------------------------------------------------------


def _model(value: Any) -> str:
    if type(value) is not str or not value.strip():
        raise ApiError(
            status=400, message="model is required", type="invalid_request_error", param="model", code="model_required"
        )
    return value


def _messages(value: Any) -> list[Any]:
    if type(value) is not list or not value:
        raise invalid("messages[] required", "messages")
    return value


_DIGITS = re.compile(r"[0-9]{1,9}")


def _choices(value: Any, limit: int) -> int:
    number = value
    if value is None:
        number = 1
    elif (type(value) is str and _DIGITS.fullmatch(value.strip())) or _is_integer(value):
        number = int(value)
    if type(number) is not int or not 1 <= number <= limit:
        raise invalid(f"n must be an integer between 1 and {limit}; received {_shown(value)}", "n")
    return number


def _check_logprobs(fields: dict[str, Any]) -> None:
    if fields.get("logprobs"):
        raise invalid("logprobs is not supported for this model", "logprobs")
    if fields.get("top_logprobs") is not None:
        raise invalid("top_logprobs is not supported", "top_logprobs")


def _check_seed(value: Any) -> None:
    if value is not None and not _is_integer(value):
        raise invalid("seed must be an integer", "seed")


def _too_long() -> ApiError:
    return ApiError(
        status=403,
        message="context length exceeded",
        type="tokens_exceeded_error",
        param="messages",
        code="context_length_exceeded",
    )


def _check_temperature(value: Any) -> None:
    if value is None:
        return
    if not _is_number(value):
        raise invalid("temperature must be a finite number between 0 and 2", "temperature")
    if not 0 <= value <= 2:
        raise invalid("temperature must be between 0 and 2", "temperature")


def _check_top_p(value: Any) -> None:
    if value is None:
        return
    if not _is_number(value):
        raise invalid("top_p must be a finite number between 0 and 1", "top_p")
    if not 0 < value <= 1:
        raise invalid("top_p must be greater than 0 and at most 1", "top_p")


def _max_tokens(fields: dict[str, Any]) -> int | None:
    """The smallest of the limits: some clients send the old name and the new one."""
    limits = [value for name in MAX_TOKENS if (value := fields.get(name)) is not None]
    for value in limits:
        if not (_is_integer(value) and value > 0):
            raise invalid("max_tokens must be a positive integer", "max_tokens")
    return min(map(int, limits), default=None)


def _effort(fields: dict[str, Any]) -> str | None:
    reasoning = fields.get("reasoning")
    if reasoning is None:
        reasoning = {}
    elif type(reasoning) is not dict:
        raise invalid("reasoning must be an object when provided", "reasoning")
    wanted = [value for value in (fields.get("reasoning_effort"), reasoning.get("effort")) if value is not None]
    for value in wanted:
        if value not in EFFORTS:
            raise invalid(f"reasoning.effort must be one of: {', '.join(EFFORTS)}", "reasoning.effort")
    if len(set(wanted)) > 1:
        raise invalid("reasoning.effort and reasoning_effort must not differ", "reasoning.effort")
    return wanted[0] if wanted else None


def _stop(options: Options) -> tuple[str, ...]:
    stop = [options.stop] if isinstance(options.stop, str) else options.stop or []
    return tuple(each for each in stop if each)


def _include_usage(options: Options) -> bool:
    asked = options.stream_options.include_usage if options.stream_options is not None else None
    return bool(options.include_usage if asked is None else asked)


# --- values ------------------------------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _is_integer(value: Any) -> bool:
    """JSON knows no integers: 7.0 is one."""
    return type(value) is int or (type(value) is float and value.is_integer())


def _shown(value: Any) -> str:
    text = value if type(value) is str else json.dumps(value)
    return text[:100]

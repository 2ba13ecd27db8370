"""A chat completion request, checked.

The order of the checks, and the params, codes and messages of the errors, are the predecessor's: clients read them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from service.api.body import json_object
from service.api.errors import invalid, unsupported
from service.api.fields import (
    EFFORTS,
    M,
    check_temperature,
    check_top_p,
    for_header,
    found_model,
    is_integer,
    read_model,
)
from service.api.history import count_chars, is_absent, read_history
from service.api.options import Options, read_options
from service.api.output import count_schema_chars, read_output
from service.api.question import Question
from service.api.tools import count_tool_chars, read_tools

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
        "service_tier",
        "verbosity",
        "modalities",
        "audio",
        "web_search_options",
        "moderation",
        *MAX_TOKENS,
    }
)
"""What is done as asked, or refused. Every other field of a request is named to its sender as ignored."""


class ChatRequest(Question, frozen=True, kw_only=True):
    """A question that gets `n` answers, each of which is held to the same."""

    n: int = 1
    include_usage: bool = False


def parse_chat(body: bytes, *, find: Callable[[str], M | None], max_choices: int) -> tuple[ChatRequest, M]:
    """The request in a body, and what `find` knows of its model.

    Raises:
        ApiError: a 4xx for the first check that fails. What is well formed but not done is refused last, so that a
            client with two mistakes hears of the real one first; only a part of a message is refused where it stands.
    """
    fields = json_object(body)
    model = read_model(fields.get("model"))
    messages = _messages(fields.get("messages"))
    choices = _choices(fields.get("n"), max_choices)
    _check_logprobs(fields)
    output = read_output(fields.get("response_format"))
    _check_seed(fields.get("seed"))
    prompt_chars = count_chars(messages) + count_tool_chars(fields) + count_schema_chars(fields.get("response_format"))
    found = found_model(model, find, prompt_chars, "messages")
    check_temperature(fields.get("temperature"))
    check_top_p(fields.get("top_p"))
    max_tokens = _max_tokens(fields)
    tools, ignored_of_tools = read_tools(fields)
    history = read_history(messages)
    effort = _effort(fields)
    options = read_options(fields, Options)
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
        verbosity=options.verbosity,
        metadata=options.metadata,
        service_tier=options.service_tier,
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
    return for_header([*names, *inside])


# --- the table, row by row ---------------------------------------------------------------------------------------


def _messages(value: Any) -> list[Any]:
    if type(value) is not list or not value:
        raise invalid("messages[] required", "messages")
    return value


_DIGITS = re.compile(r"[0-9]{1,9}")


def _choices(value: Any, limit: int) -> int:
    number = value
    if value is None:
        number = 1
    elif (type(value) is str and _DIGITS.fullmatch(value.strip())) or is_integer(value):
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
    if value is not None and not is_integer(value):
        raise invalid("seed must be an integer", "seed")


def _max_tokens(fields: dict[str, Any]) -> int | None:
    """The smallest of the limits: some clients send the old name and the new one."""
    limits = [value for name in MAX_TOKENS if (value := fields.get(name)) is not None]
    for value in limits:
        if not (is_integer(value) and value > 0):
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


def _shown(value: Any) -> str:
    text = value if type(value) is str else json.dumps(value)
    return text[:100]

"""A request of the Responses API, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from pydantic import Field

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
from service.api.flat_tools import Alias, read_flat_tools
from service.api.history import Answered, Called, Entry, Said, Thought, is_absent
from service.api.items import Item, Lookup, bare_thoughts, read_items, references
from service.api.options import Checked, Metadata, StreamOptions, read_options
from service.api.output import read_format
from service.api.question import Question
from service.api.tools import read_switch

ENCRYPTED = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"
INCLUDES = (
    ENCRYPTED,
    LOGPROBS,
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)
"""Source: OpenAI's IncludeEnum."""

MOVED = {
    "messages": "input",
    "response_format": "text.format",
    "functions": "tools",
    "function_call": "tool_choice",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
}
"""Of chat requests, and where this API has them: whoever sends them would wonder why they have no effect."""
REFUSED = ("conversation", "prompt", "context_management", "moderation", "stop")
"""What would change the answer, and is not done."""

READ = frozenset(
    {
        *("model", "input", "instructions", "previous_response_id", "store", "background", "stream", "stream_options"),
        *("tools", "tool_choice", "parallel_tool_calls", "max_tool_calls", "text", "reasoning", "include", "n"),
        *("max_output_tokens", "metadata", "service_tier", "truncation", "top_logprobs", *REFUSED, *MOVED),
    }
)
"""What is done as asked, or refused. Every other field of a request is named to its sender as ignored."""

SUMMARIES = ("auto", "concise", "detailed")


class Options(Checked):
    """A null is an absent field. Each description ends the sentence "<name> ...".

    Source: OpenAI's CreateResponse.
    """

    instructions: str | None = Field(None, description="must be a string")
    previous_response_id: str | None = Field(None, description="must be a string")
    store: bool | None = Field(None, description="must be a boolean")
    background: bool | None = Field(None, description="must be a boolean")
    stream: bool | None = Field(None, description="must be a boolean")
    stream_options: StreamOptions | None = Field(
        None, description="must be an object with the boolean include_obfuscation"
    )
    include: Annotated[list[str], Field(max_length=64)] | None = Field(None, description="must be an array of strings")
    metadata: Metadata | None = Field(
        None,
        description="must be an object of at most 16 strings (keys of at most 64 characters, values of at most 512)",
    )
    truncation: Literal["auto", "disabled"] | None = Field(None, description='must be "auto" or "disabled"')
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None = Field(
        None, description="must be one of: auto, default, flex, scale, priority, fast, ultrafast"
    )
    user: str | None = Field(None, description="must be a string")
    safety_identifier: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="must be a string of at most 64 characters"
    )
    prompt_cache_key: str | None = Field(None, description="must be a string")
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = Field(
        None, description='must be "in_memory" or "24h"'
    )
    prompt_cache_options: dict[str, Any] | None = Field(None, description="must be an object")
    client_metadata: dict[str, Any] | None = Field(None, description="must be an object")


class Needs(NamedTuple):
    """What of earlier answers a request builds upon, and that has to be found before it is read.

    `thought_ids` are of reasoning that comes without its `encrypted_content`: it is left out where it is not found.
    """

    previous_response_id: str | None
    item_ids: tuple[str, ...]
    thought_ids: tuple[str, ...] = ()


class ResponsesRequest(Question, frozen=True, kw_only=True):
    """A question that gets a response object.

    `items` are the input items of this request alone, without what it builds upon and with references replaced; those
    of a string are the one message that it is. `echo` are the fields of the response object that repeat the request.
    `aliases` says how the caller calls the functions that the model calls otherwise. With `shows_encrypted` reasoning
    is shown as the client may send it back.
    """

    items: tuple[Item, ...] = ()
    aliases: dict[str, Alias] = msgspec.field(default_factory=dict)
    echo: dict[str, Any] = msgspec.field(default_factory=dict)
    previous_response_id: str | None = None
    store: bool = True
    background: bool = False
    shows_encrypted: bool = False


def needs(fields: dict[str, Any]) -> Needs:
    """What to find first, of a request that nobody has checked yet."""
    previous = fields.get("previous_response_id")
    previous = previous if type(previous) is str else None
    return Needs(previous, references(fields.get("input")), bare_thoughts(fields.get("input")))


def _nothing(_: str) -> None:
    return None


def parse_responses(
    fields: dict[str, Any],
    *,
    find: Callable[[str], M | None],
    before: Iterable[Item] = (),
    lookup: Lookup = _nothing,
) -> tuple[ResponsesRequest, M]:
    """The request in a JSON object, and what `find` knows of its model.

    `before` are the items that the previous response stands for: its own history, its input and its output. `lookup`
    finds an item by its id. Both are what `needs` asked for.

    Raises:
        ApiError: a 4xx for the first check that fails.
    """
    model = read_model(fields.get("model"))
    _refuse_moved(fields)
    options = read_options(fields, Options)
    if fields.get("input") is None and options.previous_response_id is None:
        raise invalid("input is required", "input")
    items = read_items(before, fields.get("input"), lookup)
    text, effort, summary = _text(fields.get("text")), *_reasoning(fields.get("reasoning"))
    output = read_format(text.get("format"))
    tools = read_flat_tools(fields, items.tools)
    max_tokens = _positive(fields, "max_output_tokens")
    max_tool_calls = _positive(fields, "max_tool_calls")
    check_temperature(fields.get("temperature"))
    check_top_p(fields.get("top_p"))
    _check_combinations(options)
    entries = items.entries
    if options.instructions:
        entries = (Said("system", (options.instructions,)), *entries)
    if not entries:
        raise invalid("input must not be empty", "input")
    prompt_chars = sum(map(_chars, entries)) + len(msgspec.json.encode((tools.echo, text.get("format"))))
    found = found_model(model, find, prompt_chars, "input")
    _refuse_unsupported(fields, options)
    request = ResponsesRequest(
        model=model,
        messages=entries,
        tools=tools.tools,
        output=output,
        effort=effort,
        summary=summary,
        verbosity=text.get("verbosity"),
        max_tokens=max_tokens,
        stream=bool(options.stream),
        metadata=options.metadata,
        service_tier=options.service_tier,
        ignored=_ignored(fields, options, [*items.ignored, *tools.ignored]),
        prompt_chars=prompt_chars,
        items=items.expanded[len(items.expanded) - _own(fields.get("input")) :],
        aliases=tools.aliases,
        echo=_echo(fields, options, text, tools.echo, (effort, summary, max_tokens, max_tool_calls)),
        previous_response_id=options.previous_response_id,
        store=options.store is not False,
        background=bool(options.background),
        shows_encrypted=ENCRYPTED in (options.include or ()),
    )
    return request, found


def _own(value: Any) -> int:
    """How many of all items are those of the request."""
    return len(value) if type(value) is list else value is not None


def _chars(entry: Entry) -> int:
    match entry:
        case Said():
            return sum(map(len, entry.texts))
        case Called():
            return len(entry.arguments)
        case Answered():
            return len(entry.output)
        case Thought():
            return len(entry.encrypted)


# --- what is not done --------------------------------------------------------------------------------------------


def _refuse_moved(fields: dict[str, Any]) -> None:
    for name, here in MOVED.items():
        if not is_absent(fields.get(name)):
            raise unsupported(name, f"{name} is a parameter of chat completions; it is {here} here")


def _refuse_unsupported(fields: dict[str, Any], options: Options) -> None:
    for name in REFUSED:
        if not is_absent(fields.get(name)):
            raise unsupported(name)
    if fields.get("n") not in (None, 1):
        raise unsupported("n", "a response is one answer: n must be 1")
    if fields.get("top_logprobs") not in (None, 0):
        raise unsupported("top_logprobs")
    include = options.include or []
    for index, name in enumerate(include):
        if name not in INCLUDES:
            raise invalid(f"include[{index}] must be one of: {', '.join(INCLUDES)}", f"include[{index}]")
    if LOGPROBS in include:
        raise unsupported("include", f"{LOGPROBS} is not supported")


def _check_combinations(options: Options) -> None:
    if not options.stream and options.stream_options is not None:
        raise invalid("stream_options is only allowed when stream is true", "stream_options")
    if options.background and options.store is False:
        raise invalid("background responses are stored: store must not be false", "store")


def _ignored(fields: dict[str, Any], options: Options, inside: list[str]) -> tuple[str, ...]:
    names = [name for name, value in fields.items() if name not in READ and not is_absent(value)]
    if options.truncation == "auto":
        names.append("truncation")
    names += [f"include.{name}" for name in options.include or () if name != ENCRYPTED]
    if options.stream_options is not None:
        extra = dict(options.stream_options.model_extra or {})
        if options.stream_options.include_obfuscation:
            extra["include_obfuscation"] = True
        names += [f"stream_options.{name}" for name in extra]
    read = {"text": ("format", "verbosity"), "reasoning": ("effort", "summary", "generate_summary")}
    for field, keys in read.items():
        inner = fields.get(field) or {}
        names += [f"{field}.{name}" for name in inner if name not in keys and not is_absent(inner[name])]
    return for_header([*names, *inside])


# --- values ------------------------------------------------------------------------------------------------------


def _text(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if type(value) is not dict:
        raise invalid("text must be an object", "text")
    if value.get("verbosity") not in (None, "low", "medium", "high"):
        raise invalid("text.verbosity must be one of: low, medium, high", "text.verbosity")
    return value


def _reasoning(value: Any) -> tuple[str | None, str | None]:
    """The effort and the kind of summary."""
    if value is None:
        return None, None
    if type(value) is not dict:
        raise invalid("reasoning must be an object", "reasoning")
    effort, summary = value.get("effort"), value.get("summary")
    if effort is not None and effort not in EFFORTS:
        raise invalid(f"reasoning.effort must be one of: {', '.join(EFFORTS)}", "reasoning.effort")
    if summary is None:
        summary = value.get("generate_summary")
    if summary is not None and summary not in SUMMARIES:
        raise invalid(f"reasoning.summary must be one of: {', '.join(SUMMARIES)}", "reasoning.summary")
    return effort, summary


def _positive(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not (is_integer(value) and value > 0):
        raise invalid(f"{name} must be a positive integer", name)
    return int(value)


def _echo(
    fields: dict[str, Any],
    options: Options,
    text: dict[str, Any],
    tools: tuple[dict[str, Any], ...],
    numbers: tuple[str | None, str | None, int | None, int | None],
) -> dict[str, Any]:
    """Source: OpenAI's Response. What has no effect is shown as what holds instead, or null."""
    effort, summary, max_tokens, max_tool_calls = numbers
    choice = fields.get("tool_choice")
    return {
        "background": bool(options.background),
        "conversation": None,
        "instructions": options.instructions,
        "max_output_tokens": max_tokens,
        "max_tool_calls": max_tool_calls,
        "metadata": options.metadata or {},
        "moderation": None,
        "parallel_tool_calls": read_switch(fields.get("parallel_tool_calls")),
        "previous_response_id": options.previous_response_id,
        "prompt_cache_key": options.prompt_cache_key,
        "reasoning": {"effort": effort, "summary": summary},
        "safety_identifier": options.safety_identifier,
        "service_tier": "default",
        "temperature": None,
        "text": {"format": _format(text.get("format")), "verbosity": text.get("verbosity") or "medium"},
        "tool_choice": "auto" if is_absent(choice) else choice,
        "tools": tools,
        "top_logprobs": 0,
        "top_p": None,
        "truncation": "disabled",
    } | ({} if options.user is None else {"user": options.user})


def _format(value: dict[str, Any] | None) -> dict[str, Any]:
    """Source: OpenAI's TextResponseFormatConfiguration."""
    known = ("type", "name", "description", "schema", "strict")
    return {key: value[key] for key in known if key in value} if value else {"type": "text"}

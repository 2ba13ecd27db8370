"""The thread/turn/item protocol ("v2") of CLI 0.158 and newer: the only module that knows its wire shapes.

Source: the vendor's app-server README; every shape here is checked against the vendor's generated models and against
the real CLI in tests/codex.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import msgspec

from pool.events import Fault, FaultKind, Finish, TurnRequest, Usage

MINIMUM_VERSION = (0, 158, 0)
"""Older CLIs keep finished threads loaded, or cannot run without tools of their own."""

OVERLOADED_CODE = -32001
INTERNAL_CODE = -32603

OPT_OUT = (
    "thread/started",
    "thread/status/changed",
    "thread/settings/updated",
    "turn/started",
    "item/started",
    "item/completed",
    "item/reasoning/summaryPartAdded",
    "account/rateLimits/updated",
    "warning",
    "configWarning",
    "remoteControl/status/changed",
)
"""Notifications that nothing here reads: without them a short turn is a third of its bytes."""


class Method(NamedTuple):
    """One request to make: its name and params."""

    name: str
    params: dict[str, Any]


def initialize(service_version: str) -> Method:
    """The handshake."""
    return Method(
        "initialize",
        {
            "clientInfo": {"name": "codex_completions", "title": "codex-completions", "version": service_version},
            "capabilities": {
                "experimentalApi": True,
                "requestAttestation": False,
                "optOutNotificationMethods": list(OPT_OUT),
            },
        },
    )


LOADED_THREADS = Method("thread/loaded/list", {})
"""A question that whoever keeps the threads has to answer."""
INITIALIZED: dict[str, Any] = {"method": "initialized"}


def thread_start(request: TurnRequest) -> Method:
    """A fresh ephemeral thread with the caller's instructions and tools and nothing else."""
    params: dict[str, Any] = {
        "model": request.model,
        "ephemeral": True,
        "environments": [],
        "baseInstructions": request.instructions,
    }
    if request.verbosity is not None:
        params["config"] = {"model_verbosity": request.verbosity}
    if request.tools or request.reasoning_items:
        params["experimentalRawEvents"] = True
    if request.tools:
        params["dynamicTools"] = [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "inputSchema": tool.input_schema,
            }
            for tool in request.tools
        ]
    return Method("thread/start", params)


def inject_items(thread_id: str, items: tuple[dict[str, Any], ...]) -> Method:
    """The whole history, roles kept."""
    return Method("thread/inject_items", {"threadId": thread_id, "items": items})


def turn_start(thread_id: str, request: TurnRequest) -> Method:
    """Run the model on the injected history."""
    params: dict[str, Any] = {"threadId": thread_id, "input": []}
    if request.effort is not None:
        params["effort"] = request.effort
    if request.summary is not None:
        params["summary"] = request.summary
    if request.output_schema is not None:
        params["outputSchema"] = request.output_schema
    return Method("turn/start", params)


def turn_interrupt(thread_id: str, turn_id: str) -> Method:
    """Ask for the end of one turn."""
    return Method("turn/interrupt", {"threadId": thread_id, "turnId": turn_id})


def thread_unsubscribe(thread_id: str) -> Method:
    """Let the app-server unload the thread."""
    return Method("thread/unsubscribe", {"threadId": thread_id})


# --- results -----------------------------------------------------------------------------------------------------


class InitializeResult(msgspec.Struct, rename="camel"):
    """The part of the handshake's answer that is read."""

    user_agent: str

    @property
    def version(self) -> tuple[int, int, int] | None:
        """The CLI's version, or None when the user agent does not tell."""
        found = re.match(r"^[^/]+/(\d+)\.(\d+)\.(\d+)", self.user_agent)
        return (int(found[1]), int(found[2]), int(found[3])) if found else None


class _Id(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(min_length=1)]


class ThreadStartResult(msgspec.Struct):
    """The part of thread/start's answer that is read."""

    thread: _Id


class TurnStartResult(msgspec.Struct):
    """The part of turn/start's answer that is read."""

    turn: _Id


initialize_result = msgspec.json.Decoder(InitializeResult).decode
thread_start_result = msgspec.json.Decoder(ThreadStartResult).decode
turn_start_result = msgspec.json.Decoder(TurnStartResult).decode


# --- notifications -----------------------------------------------------------------------------------------------


class _Note(msgspec.Struct, rename="camel", gc=False):
    thread_id: str
    turn_id: str = ""


class AgentMessageDelta(_Note, rename="camel"):
    """Text of the answer."""

    item_id: str = ""
    delta: str = ""


class ReasoningSummaryDelta(_Note, rename="camel"):
    """Text of the reasoning summary."""

    item_id: str = ""
    delta: str = ""
    summary_index: int = 0


class _Summary(msgspec.Struct):
    text: str = ""


class _RawItem(msgspec.Struct):
    type: str = ""
    id: str | None = None
    name: str = ""
    arguments: str = ""
    call_id: str = ""
    summary: list[_Summary] = []
    encrypted_content: str | None = None


ECHO_TURN = "auto-compact"
"""Turn ids with this beginning mark the echo of injected history, not the answer."""


class RawResponseItem(_Note, rename="camel"):
    """One item of the upstream's response, verbatim; sent for threads that ask for raw events."""

    item: _RawItem = msgspec.field(default_factory=_RawItem)


class RawResponseCompleted(_Note, rename="camel"):
    """The upstream's response is complete; nothing of it is still to come."""


class _TokenCounts(msgspec.Struct, rename="camel"):
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_output_tokens: int = 0


class _TokenUsage(msgspec.Struct):
    total: _TokenCounts


class TokenUsageUpdated(_Note, rename="camel", kw_only=True):
    """Tokens so far. `total` is read, not `last`: on a cut-off turn `last` is all zeros."""

    token_usage: _TokenUsage

    @property
    def usage(self) -> Usage:
        """The counts in our own words."""
        total = self.token_usage.total
        return Usage(
            total.input_tokens,
            total.cached_input_tokens,
            total.cache_write_input_tokens,
            total.output_tokens,
            total.reasoning_output_tokens,
        )


class TurnErrorInfo(msgspec.Struct, rename="camel"):
    """Why a turn failed, in the CLI's words; `codex_error_info` is an open set of strings and one-key objects."""

    message: str = ""
    codex_error_info: Any = None
    additional_details: str | None = None


class _Item(msgspec.Struct):
    type: str = ""
    id: str = ""
    text: str = ""


class _Turn(msgspec.Struct):
    id: str
    status: str
    error: TurnErrorInfo | None = None
    items: list[_Item] = []


class TurnCompleted(msgspec.Struct, rename="camel"):
    """The only end of a turn: `turn.status` is completed, interrupted or failed."""

    thread_id: str
    turn: _Turn


Notification = (
    AgentMessageDelta
    | ReasoningSummaryDelta
    | RawResponseItem
    | RawResponseCompleted
    | TokenUsageUpdated
    | TurnCompleted
)

NOTIFICATIONS: dict[str, type[Notification]] = {
    "item/agentMessage/delta": AgentMessageDelta,
    "item/reasoning/summaryTextDelta": ReasoningSummaryDelta,
    "rawResponseItem/completed": RawResponseItem,
    "rawResponse/completed": RawResponseCompleted,
    "thread/tokenUsage/updated": TokenUsageUpdated,
    "turn/completed": TurnCompleted,
}
"""Those that are read, and what is read of them."""

_DECODERS: dict[str, Callable[[msgspec.Raw], Notification]] = {
    method: msgspec.json.Decoder(kind).decode for method, kind in NOTIFICATIONS.items()
}

IGNORED = frozenset({*OPT_OUT, "thread/closed", "error", "item/reasoning/textDelta", "serverRequest/resolved"})
"""Known and not needed: `error` says what `turn/completed` repeats, and we keep the CLI from retrying."""


def notification(method: str, params: msgspec.Raw) -> Notification | None:
    """The decoded notification; None for one that nothing here reads.

    Raises:
        msgspec.MsgspecError: the params do not have the shape that this protocol promises.
    """
    decoder = _DECODERS.get(method)
    return decoder(params) if decoder is not None else None


class _TextLine(msgspec.Struct, gc=False):
    params: AgentMessageDelta


_TEXT_HEAD = b'{"method":"item/agentMessage/delta",'
_text_line = msgspec.json.Decoder(_TextLine).decode


def text_delta(line: bytes) -> AgentMessageDelta | None:
    """What nearly all lines are, as the CLI writes them, decoded in one step; None for any other line, and for one that
    is not what it looks like.
    """
    if not line.startswith(_TEXT_HEAD):
        return None
    try:
        return _text_line(line).params
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


_THREAD_ID = re.compile(rb'"threadId":"([0-9A-Za-z-]{1,64})"')


def thread_of(head: bytes) -> str | None:
    """Whose a line was that was too long to decode, from its beginning."""
    found = _THREAD_ID.search(head)
    return found[1].decode() if found else None


# --- failures ----------------------------------------------------------------------------------------------------

_BY_NAME = {
    "contextWindowExceeded": FaultKind.CONTEXT_LENGTH,
    "usageLimitExceeded": FaultKind.QUOTA,
    "sessionBudgetExceeded": FaultKind.QUOTA,
    "rateLimitExceeded": FaultKind.RATE_LIMIT,
    "serverOverloaded": FaultKind.OVERLOADED,
    "flexUnavailable": FaultKind.OVERLOADED,
    "policyCapacityUnavailable": FaultKind.OVERLOADED,
    "modelNotFound": FaultKind.MODEL_NOT_FOUND,
    "cyberPolicy": FaultKind.CONTENT_POLICY,
    "misalignmentPolicyViolation": FaultKind.CONTENT_POLICY,
    "unauthorized": FaultKind.CREDENTIALS,
    "badRequest": FaultKind.BAD_REQUEST,
}

_BY_STATUS = {
    400: FaultKind.BAD_REQUEST,
    401: FaultKind.CREDENTIALS,
    402: FaultKind.QUOTA,
    403: FaultKind.CREDENTIALS,
    404: FaultKind.MODEL_NOT_FOUND,
    413: FaultKind.BAD_REQUEST,
    429: FaultKind.RATE_LIMIT,
    503: FaultKind.OVERLOADED,
    529: FaultKind.OVERLOADED,
}


def _by_status(status: int, message: str) -> FaultKind:
    if status == 404 and "model" not in message.partition(", url:")[0]:
        return FaultKind.UPSTREAM  # the provider's address is wrong, not the client's model
    return _BY_STATUS.get(status, FaultKind.UPSTREAM)


_INCOMPLETE = re.compile(r"Incomplete response returned, reason: (\w+)")
_FINISH_BY_REASON = {"max_output_tokens": Finish.LENGTH, "content_filter": Finish.CONTENT_FILTER}


def incomplete(error: TurnErrorInfo) -> Finish | None:
    """How an answer that the upstream cut off ended; None when `error` is a real failure."""
    found = _INCOMPLETE.search(error.message)
    return _FINISH_BY_REASON.get(found[1]) if found else None


def fault(error: TurnErrorInfo) -> Fault:
    """The failure in our own words; what is not known is the upstream's fault."""
    info = error.codex_error_info
    if isinstance(info, str) and info in _BY_NAME:
        kind = _BY_NAME[info]
        hint_s = _hinted(error.message) if kind is FaultKind.RATE_LIMIT else None
        return Fault(kind, error.message, retry_after_s=hint_s)
    if isinstance(info, dict):
        for name, detail in info.items():
            status = detail.get("httpStatusCode") if isinstance(detail, dict) else None
            if isinstance(status, int):
                return Fault(_by_status(status, error.message), error.message, status)
            if name == "httpConnectionFailed":
                return Fault(FaultKind.UPSTREAM_UNREACHABLE, error.message)
    if error.message.startswith("Missing environment variable"):
        return Fault(FaultKind.CREDENTIALS, error.message)
    return _rejection(error.message) or Fault(FaultKind.UPSTREAM, error.message)


_TRY_AGAIN = re.compile(r"try again in (?:(\d{1,3})h)?(?:(\d{1,3})m(?!s))?(?:(\d{1,5}(?:\.\d{1,6})?)(ms|s))?")


def _hinted(message: str) -> float | None:
    """The wait in seconds that the upstream names ("1.5s", "20ms", "6m0s"), if it names one."""
    found = _TRY_AGAIN.search(message)
    if found is None:
        return None
    hours, minutes, seconds, unit = found.groups()
    tail_s = float(seconds or 0) * (0.001 if unit == "ms" else 1.0)
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + tail_s or None


_BY_CODE = {"context_length_exceeded": FaultKind.CONTEXT_LENGTH, "model_not_found": FaultKind.MODEL_NOT_FOUND}


def _rejection(message: str) -> Fault | None:
    """What the upstream said, when `message` is the JSON body of a 400: the CLI hands that over as it came."""
    try:
        error = msgspec.json.decode(message)["error"]
        text, code = error["message"], error.get("code")
    except (msgspec.MsgspecError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    return Fault(_BY_CODE.get(str(code), FaultKind.BAD_REQUEST), str(text), 400)


# --- what the app-server asks of us ------------------------------------------------------------------------------


REFUSALS: dict[str, dict[str, Any]] = {
    "item/commandExecution/requestApproval": {"decision": "decline"},
    "item/fileChange/requestApproval": {"decision": "decline"},
}
"""Approvals are never granted: a profile that wants an agent has to say so, and none can yet."""


def decline(method: str) -> dict[str, Any] | None:
    """The `result` that refuses a server request of this kind; None when an error answer is the refusal."""
    return REFUSALS.get(method)


TOOL_CALL_REQUEST = "item/tool/call"
"""The model calls one of the caller's functions: the client's business, not the worker's."""

"""What became of each of the predecessor's answers: kept, changed on purpose, or not there yet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from tests.parity.replay import Exchange
from tests.parity.story import OF_ANSWERS, UNCOMPARED, Story, differences


class Changed(NamedTuple):
    """What is answered now, in brief, and why."""

    now: str
    why: str


def _same(now: str, why: str, *ids: str) -> dict[str, Changed]:
    return dict.fromkeys(ids, Changed(now, why))


BODY_RULES = (
    "`param` is in every error, and `retryable` where it is known; answers have OpenAI's other fields besides.",
    "The arguments of a call are told in pieces to append; the predecessor repeated all of them in each.",
    "`usage` is null in the chunks of a stream only if a usage was asked for, and holds tokens and no timings.",
    "Only pages that use `/v1/` get CORS headers, and health, metrics and unknown routes have none.",
    "Without configuration the output mode is `auto`; all this was asked with the predecessor's, `obsidian-xml` for"
    " chat completions and `openai-json` for responses.",
    "Between the events of a response there are others, which OpenAI documents.",
    "Functions that the worker called are defined in the request: a model calls no others.",
)
"""What holds for all answers, and is no difference."""

LATE = "a failure before the first text has its own status, in a stream as well"
LOST = "a worker that is lost has one name, also when it was taken away: `worker_lost`"
HTML = "every error is JSON"
REAL_CHOICES = "each choice is a turn of its own, which was asked the same"
COMMENT = "the comment is after the finish, always"
AS_TEXT = "a block is a call only in obsidian-xml, or if functions are defined"
UNSEEN = "what a worker does is not shown"
EXACT = "text is passed on byte for byte"
WAITS = "a request waits for a seat"
NO_LOGIN = "a service that is not logged in is not the client's fault, and does not tell where to log in"
GONE = "was for the predecessor's tests"
LEGACY = "who defines `functions` gets a `function_call`"
REFUSAL = "a worker's refusal costs one request, and not the service; what it says stays inside"

TOGETHER = "the events of an item come together, and its text has an end only if there is one"
ITEMS = "a call is an item, `function_call`"
INCOMPLETE = "an incomplete response has an event of its own"
UNKNOWN_RESPONSE = "what is not known cannot be continued; the predecessor repeated its id"

STREAM = "200 role, text, finish stop, done"
WHOLE = "200 stop"

CHANGED: dict[str, Changed] = {
    "01.3": Changed("204", "credentials only go with origins that are named"),
    "03.3": Changed("200 role, text, text, finish stop, stop, usage, done", REAL_CHOICES),
    "04.5": Changed("200", "nothing has no content type"),
    "05.10": Changed("400 invalid_request_error", "a message without content is none"),
    "05.22": Changed(WHOLE, "null is as good as absent"),
    **_same("502 response_format_not_followed", "an answer that is no JSON is no answer", "05.41", "05.42"),
    "05.59": Changed(WHOLE, "the levels of today's models"),
    "05.60": Changed("400 invalid_request_error", "the levels of today's models are named"),
    "05.61": Changed("400 invalid_request_error", "parameters are checked: there is no such `service_tier`"),
    "05.62": Changed("400 invalid_request_error", "`stream` is a boolean"),
    **_same("400 invalid_json", "it says what is wrong with the body", "05.64", "05.65"),
    "05.66": Changed("415 unsupported_media_type", "what is called text is no JSON"),
    "05.69": Changed("405 method_not_allowed", "a wrong verb is told so, with the right ones"),
    **_same("404 unknown_url", HTML, "05.70", "05.72", "05.73"),
    "05.71": Changed("404 unknown_url", "there is nothing behind an unknown route to have a key for"),
    "23.1": Changed("200 role, call, arguments, text, finish tool_calls, comment, usage, done", "the limit is exact"),
    "23.3": Changed("200 role, call, arguments, finish tool_calls, comment, usage, done", "the limit is exact"),
    "24.1": Changed("200 role, call, arguments, text, finish tool_calls, comment, usage, done", COMMENT),
    "24.3": Changed("200 role, call, arguments, finish tool_calls, comment, usage, done", COMMENT),
    "25.2": Changed("200 tool_calls", "text after a block is kept, as in a stream"),
    **_same("200 role, text, finish stop, usage, done", AS_TEXT, "25.3", "25.10", "25.17", "26.3"),
    **_same(WHOLE, AS_TEXT, "25.4", "25.11", "25.18", "26.4"),
    "25.15": Changed("200 role, call, arguments, text, finish tool_calls, comment, usage, done", COMMENT),
    "26.1": Changed(
        "200 role, call, arguments, text, finish tool_calls, comment, usage, done",
        "a block that comes in pieces is one block, and no letter of it is lost",
    ),
    "27.1": Changed("200 role, text, finish stop, usage, done", "nothing comes after the finish"),
    "28.1": Changed(
        "200 role, call, arguments, text, call, arguments, text, finish tool_calls, tool_calls, comment, usage, done",
        REAL_CHOICES,
    ),
    "28.3": Changed(
        "200 role, call, arguments, call, arguments, finish tool_calls, tool_calls, comment, usage, done", REAL_CHOICES
    ),
    **_same("200 tool_calls, tool_calls", REAL_CHOICES, "28.2", "28.4", "28.6", "28.8"),
    "28.5": Changed(
        "200 role, call, arguments, text, call, arguments, text, finish tool_calls, tool_calls, comment, usage, done",
        REAL_CHOICES,
    ),
    "28.7": Changed(
        "200 role, call, arguments, call, arguments, finish tool_calls, tool_calls, comment, usage, done", REAL_CHOICES
    ),
    "29.1": Changed("200 role, function, text, finish function_call, comment, usage, done", LEGACY),
    "29.3": Changed("200 role, function, finish function_call, comment, usage, done", LEGACY),
    **_same("200 function_call", LEGACY, "29.2", "29.4"),
    **_same("200 tool_calls", "two calls are two, as in a stream", "29.9", "29.11"),
    **_same("200 role, finish content_filter, comment, usage, done", "an estimated usage is marked", "30.1", "30.3"),
    **_same("200 content_filter", "no text is empty text, whatever the finish", "30.2", "30.4"),
    "30.19": Changed(
        "200 role, call, arguments, finish length, comment, usage, done", "what was cut off may lack further calls"
    ),
    "30.20": Changed("200 length", "what was cut off may lack further calls"),
    "31.3": Changed("200 role, text, finish stop, usage, done", EXACT),
    "31.4": Changed(WHOLE, EXACT),
    "40.1": Changed("500 worker_error", REFUSAL),
    "40.2": Changed("500 worker_error", LATE),
    **_same("503 worker_lost", LOST, "40.4", "40.22"),
    "40.5": Changed("503 worker_lost", LATE),
    **_same("503 worker_not_ready", "nothing of the workers is in an error", "40.7", "40.27"),
    "40.8": Changed("504 request_timeout", "it says which of the waits was too long"),
    "40.9": Changed("504 request_timeout", LATE),
    "40.11": Changed("504 first_event_timeout", "it says which of the waits was too long"),
    "40.12": Changed("504 first_event_timeout", "the same wait has the same end in a stream"),
    "40.14": Changed("504 worker_request_timeout", LATE),
    **_same("503 worker_auth_required", NO_LOGIN, "40.16", "40.17", "40.19", "40.20"),
    "40.23": Changed("200 role, call, arguments, text, error worker_lost", "a lost worker is no finish"),
    "40.24": Changed("504 first_event_timeout", "there was no answer at all"),
    "40.25": Changed("504 first_event_timeout", "silence is no finish"),
    "42.4": Changed(STREAM, WAITS),
    **_same("404 unknown_url", GONE, "42.5", "42.6", "42.7", "42.8", "42.9"),
    "42.10": Changed(WHOLE, WAITS),
    "42.11": Changed(STREAM, WAITS),
    "44.1": Changed(STREAM, "a comment comes when nothing else has for so long"),
    "45.5": Changed("200", "the models are those that are configured; behind a key no cache may share them"),
    "45.6": Changed("200 text/plain", "from this host metrics need no key; from others one, and nothing forbids them"),
    "51.2": Changed("400 unsupported_image_media_type", "what is called an image is looked at"),
    **_same(STREAM, EXACT, "52.2", "52.3", "52.4", "52.5"),
    **_same(WHOLE, UNSEEN, "53.1", "53.2", "53.4"),
    **_same("200 role, finish stop, done", UNSEEN, "53.3", "53.5"),
    "54.1": Changed(STREAM, "nobody sees anything of another's turn"),
    "55.1": Changed(WHOLE, "who leaves takes no seat along"),
    "56.1": Changed("200 role, text, error idle_timeout", "the error is what happened, and nothing follows it"),
    "57.1": Changed(STREAM, "what runs is finished before the service stops"),
    "58.1": Changed(WHOLE, "all messages of a turn are the answer"),
    "58.2": Changed(STREAM, "all messages of a turn are the answer"),
    "59.1": Changed(WHOLE, "what the worker asks is answered"),
    **_same("500 worker_error", REFUSAL, "60.1", "60.2", "60.3", "60.4", "60.5", "60.6"),
    **_same("400 previous_response_not_found", UNKNOWN_RESPONSE, "07.2", "08.2", "51.3"),
    **_same("400 invalid_request_error", "it says what is missing by its name in this API", "07.3", "08.4"),
    **_same("400 unsupported_parameter", "a response is one answer", "07.5", "08.3"),
    "07.6": Changed("200 incomplete, text", "functions are defined as this API defines them"),
    "07.7": Changed("200 incomplete, text", "`max_output_tokens` counts"),
    **_same("404 response_not_found", HTML, "08.5", "08.6", "08.7"),
    **_same("200 created, in_progress, call, completed, done", TOGETHER, "20.5", "21.5", "29.5"),
    **_same("200 created, in_progress, call, text, completed, done", TOGETHER, "20.6", "21.6", "29.6"),
    **_same("200 created, in_progress, call, text, completed, done", TOGETHER, "25.6", "25.13", "26.6"),
    "22.5": Changed("200 created, in_progress, call, call, call, completed, done", TOGETHER),
    "22.6": Changed("200 created, in_progress, call, text, call, text, call, text, completed, done", TOGETHER),
    **_same("200 completed, call", ITEMS, "20.7", "21.7", "29.7"),
    "22.7": Changed("200 completed, call, call, call", ITEMS),
    **_same("200 created, in_progress, text, completed, done", AS_TEXT, "25.5", "25.12", "26.5"),
    **_same("200 completed, text", AS_TEXT, "25.7", "25.14", "26.7"),
    **_same("200 created, in_progress, incomplete, done", INCOMPLETE, "30.5", "30.6"),
    **_same("200 created, in_progress, text, incomplete, done", INCOMPLETE, "30.10", "30.11"),
    "30.7": Changed("200 incomplete", "no text is no item"),
    "40.3": Changed("500 worker_error", LATE),
    "40.6": Changed("503 worker_lost", LATE),
    "40.10": Changed("504 request_timeout", LATE),
    "40.15": Changed("504 worker_request_timeout", LATE),
    **_same("503 worker_auth_required", NO_LOGIN, "40.18", "40.21"),
    "40.26": Changed("504 first_event_timeout", "silence is no finish"),
    "40.28": Changed("200", "it only asks for the key, as on the other route"),
    "40.30": Changed("503 maintenance", "the switch does what it says, and not only to a metric"),
    "56.3": Changed(
        "200 created, in_progress, output_item.added, content_part.added, output_text.delta, failed",
        "a response that fails says so, and nothing follows",
    ),
}

REFUSED_AT_START = frozenset({"40.29", "41.6", "41.7", "41.8"})
"""`PROXY_USE_APP_SERVER=false`: there is no other backend, and the service does not start."""

CAPTURES: dict[str, str] = {
    "01": "models",
    "02": "a chat completion",
    "03": "its stream",
    "04": "keys",
    "05": "validation, bodies, routes",
    "06": "health",
    "07": "responses",
    "08": "their streams",
    "09": "usage",
    "10": "metrics",
    "20": "a call, in the structure and in the text",
    "21": "a call in the structure",
    "22": "three calls",
    "23": "one block at most",
    "24": "stop after the first call",
    "25": "text after a block",
    "26": "a block in pieces",
    "27": "a block that is cut off",
    "28": "calls in two choices",
    "29": "legacy calls",
    "30": "finish reasons",
    "31": "metadata in the text",
    "40": "failures of the worker",
    "41": "health in bad times",
    "42": "limits",
    "43": "the longest allowed beside a limit",
    "44": "keepalives",
    "45": "CORS",
    "51": "a worker that tells what it got",
    "52": "equal deltas",
    "53": "no text",
    "54": "streams of others",
    "55": "clients that left",
    "56": "silence in the midst",
    "57": "shutdown",
    "58": "several messages",
    "59": "requests of the worker",
    "60": "refusals of the worker",
}
"""What each recording is about. Number 50 has no HTTP in it: what the predecessor wrote to its worker is not kept."""


def verdict(exchange: Exchange) -> str:
    """`kept` or `changed`."""
    return "changed" if exchange.id in CHANGED or exchange.id in REFUSED_AT_START else "kept"


def comparable(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """Those that the service can be asked, and answers."""
    return [each for each in exchanges if each.id not in REFUSED_AT_START]


def wrong(exchange: Exchange, now: Story) -> list[str]:
    """In what this answer is not what the tables say; empty if it is."""
    lost = differences(exchange.answer, now) if exchange.answer is not None else ["there was no answer"]
    if verdict(exchange) == "kept":
        return lost
    expected = CHANGED[exchange.id].now
    if now.brief != expected:
        return [f"{expected} is now {now.brief}"]
    return [] if lost else ["it is kept, and the table says that it is not"]


def summary(exchanges: Sequence[Exchange]) -> str:
    """How many of each recording are kept or changed, as a table."""
    rows = ["| Recording | About | Kept | Changed |", "|---|---|---|---|"]
    for number, group in groupby(exchanges, key=lambda each: each.capture):
        verdicts = [verdict(each) for each in group]
        counts = " | ".join(str(verdicts.count(word) or "") for word in ("kept", "changed"))
        rows.append(f"| {number} | {CAPTURES[number]} | {counts} |")
    every = [verdict(each) for each in exchanges]
    rows.append("| | all | " + " | ".join(str(every.count(word)) for word in ("kept", "changed")) + " |")
    return "\n".join(rows)


def changes(exchanges: Sequence[Exchange]) -> str:
    """What was changed on purpose, and why, as a table."""
    rows = ["| What | Then | Now | Because |", "|---|---|---|---|"]
    for each in exchanges:
        if verdict(each) == "changed":
            now, why = CHANGED.get(each.id, Changed("the service does not start", "there is no other backend"))
            then = each.answer.brief if each.answer is not None else "no answer"
            rows.append(f"| {_cell(each.title)} | {_cell(then)} | {_cell(now)} | {why} |")
    return "\n".join(rows)


def rules() -> str:
    """What holds for all answers, and is no difference; and the headers that are not compared."""
    lines = [f"- {rule}" for rule in BODY_RULES]
    lines += ["", "| Header | Not compared, because it |", "|---|---|"]
    lines += [f"| `{name}` | {why} |" for name, why in sorted(UNCOMPARED.items())]
    lines += [f"| `{name}` | on errors: they are the same in every mode |" for name in sorted(OF_ANSWERS)]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")

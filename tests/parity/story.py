"""An answer in short: its status, the headers that the predecessor's clients know, and what its body says in order."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import groupby, pairwise
from typing import Any, NamedTuple

Json = dict[str, Any]

ANY = "*"
"""The value of a header that is another one each time."""

UNCOMPARED: dict[str, str] = {
    "access-control-expose-headers": "on answers that a page can read, and not on those to preflights",
    "connection": "HTTP/1.1 keeps connections by itself",
    "content-length": "the bodies say more",
    "content-security-policy": "came with an HTML page, and there is none any more",
    "date": "is another one each time",
    "etag": "nobody asked with one",
    "keep-alive": "HTTP/1.1 keeps connections by itself",
    "transfer-encoding": "is between the two ends of a connection",
    "vary": "names what the answer depends on, which is the origin",
    "x-conc-after": "was for the tests of the predecessor",
    "x-conc-before": "was for the tests of the predecessor",
    "x-conc-limit": "was for the tests of the predecessor",
    "x-content-type-options": "came with an HTML page, and there is none any more",
    "x-powered-by": "tells an attacker what to try",
    "x-proxy-trace-id": "was the request's id a second time",
}
"""The predecessor's headers that are not compared, and why."""

OF_ANSWERS = frozenset({"x-proxy-output-mode", "x-codex-stop-after-tools-mode"})
"""Not compared on errors, which look the same in every mode."""

FOR_PREFLIGHTS = frozenset({"access-control-allow-headers", "access-control-allow-methods", "access-control-max-age"})
"""Compared only where they mean something."""

USAGE = ("completion_tokens", "prompt_tokens", "total_tokens")
"""What is compared of a usage: the predecessor put timings into that of streams, too."""

_VARYING = frozenset({"x-request-id", "retry-after"})


class Story(NamedTuple):
    """`headers` have names in lower case; `says` is JSON."""

    status: int
    headers: dict[str, str]
    says: Any

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], raw: bytes) -> Story:
        """The story of an answer."""
        lower = {name.lower(): value for name, value in headers.items()}
        kind = lower.get("content-type", "").partition(";")[0]
        left_out = UNCOMPARED.keys() | (FOR_PREFLIGHTS if status != 204 else set())
        told = {name: ANY if name in _VARYING else value for name, value in lower.items() if name not in left_out}
        if kind:
            told["content-type"] = kind
        return cls(status, dict(sorted(told.items())), _says(kind, raw))

    @property
    def brief(self) -> str:
        """In a few words."""
        return f"{self.status} {_in_words(self.says)}".strip()


def differences(before: Story, now: Story) -> list[str]:
    """What of `before` is not in `now`; what is new is no difference."""
    found = [] if before.status == now.status else [f"status {before.status} is now {now.status}"]
    for name, value in before.headers.items():
        if name in OF_ANSWERS and before.status >= 400:
            continue
        if not _is_told(name, value, now.headers.get(name)):
            found.append(f"header {name}: {value} is now {now.headers.get(name, 'not there')}")
    return found + _lost(before.says, now.says, "body")


def _is_within(before: list[str], now: list[str]) -> bool:
    """All of `before` are there in their order, whatever is between them."""
    rest = iter(now)
    return all(event in rest for event in before)


def _is_told(name: str, value: str, now: str | None) -> bool:
    """A list of names may have become longer."""
    if now is not None and name in FOR_PREFLIGHTS:
        return _names(value) <= _names(now)
    return now == value


def _names(value: str) -> set[str]:
    return {part.strip().lower() for part in value.split(",")}


def _lost(before: Any, now: Any, place: str) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        gone = [f"{place}.{name} is gone" for name in before if name not in now]
        kept = [_lost(value, now[name], f"{place}.{name}") for name, value in before.items() if name in now]
        return gone + [each for part in kept for each in part]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now) and place.endswith("choices"):
        pairs = enumerate(zip(before, now, strict=True))
        return [each for number, (one, other) in pairs for each in _lost(one, other, f"{place}[{number}]")]
    if place == "body.events" and isinstance(now, list):
        return [] if _is_within(before, now) else [f"{place}: {', '.join(before)} is now {', '.join(now)}"]
    return [] if before == now else [f"{place}: {json.dumps(before)} is now {json.dumps(now)}"]


# --- bodies ------------------------------------------------------------------------------------------------------


def _says(kind: str, raw: bytes) -> Any:
    if not raw.strip():
        return None
    if kind == "text/event-stream" and b"\nevent: " in b"\n" + raw:
        return {"events": _typed(raw.decode())}
    if kind == "text/event-stream":
        return {"stream": _stream(raw.decode()), "chunk": _chunk(raw.decode())}
    if kind != "application/json":
        return {"page": kind}
    return _object(json.loads(raw))


def _object(value: Any) -> Any:
    """A JSON body: an error as it is, of anything else the names and what they stand for."""
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("error"), dict):
        return value
    match value.get("object"):
        case "chat.completion":
            return _completion(value)
        case "list":
            return value
    told = {name: value[name] for name in ("ok", "status", "model") if name in value}
    if isinstance(value.get("output"), list):
        told["output"] = [part for item in value["output"] for part in _output(item)]
    return dict.fromkeys(value, ANY) | told


def _completion(value: Json) -> Json:
    choices = []
    for choice in value["choices"]:
        message = dict(choice["message"])
        if "tool_calls" in message:
            message["tool_calls"] = [_call(call) for call in message["tool_calls"]]
        choices.append({"index": choice["index"], "message": message, "finish_reason": choice["finish_reason"]})
    names: Json = dict.fromkeys(value, ANY)
    return names | {
        "object": value["object"],
        "model": value["model"],
        "choices": choices,
        "usage": dict.fromkeys(value["usage"], ANY),
    }


def _output(item: Json) -> list[str]:
    """An item of a response, its parts one by one."""
    if item["type"] == "function_call":
        return [f"call {item['name']} {item['arguments']}"]
    return [f"text {part['text']}" if "text" in part else part["type"] for part in item.get("content", ())]


def _call(call: Json) -> Json:
    """Ids are the model's, so only that there is one counts."""
    return call | {"id": ANY} if "id" in call else call


def _stream(text: str) -> list[str]:
    """The events in order; pieces of one text or of one call's arguments that follow each other are one."""
    parts = [part for event in text.strip().split("\n\n") for part in _event(event)]
    told = []
    for head, group in groupby(parts, key=lambda part: part[0]):
        pieces = [piece for _, piece in group]
        told.append(f"{head} {_joined(head, pieces)}".strip())
    return told


def _typed(text: str) -> list[str]:
    """The events of a response in order; those of one type that follow each other are one."""
    told = []
    for event in text.strip().split("\n\n"):
        name, _, _ = event.partition("\n")
        if name.startswith("event: "):
            told.append(name.removeprefix("event: "))
        elif name.startswith("data: {"):
            told.append(f"error {json.loads(name.removeprefix('data: '))['error']['code']}")
        elif not event.startswith(":"):
            told.append("done")
    return [name for name, _ in groupby(told)]


def _chunk(text: str) -> Json:
    """What every chunk has; `usage` is null in those of a stream that was asked for one."""
    chunks = (json.loads(event.removeprefix("data: ")) for event in text.split("\n\n") if event.startswith("data: {"))
    first: Json = next((chunk for chunk in chunks if "choices" in chunk), {})
    return {name: value if name in ("object", "model") else ANY for name, value in first.items() if name != "usage"}


def _event(event: str) -> list[tuple[str, str]]:
    """Its kind and choice, and what it says."""
    if event.startswith(":"):
        return [("keepalive", "")] if event.startswith(": keepalive") else [("comment", event.removeprefix(": "))]
    data = event.removeprefix("data: ")
    if data == "[DONE]":
        return [("done", "")]
    chunk = json.loads(data)
    if "error" in chunk:
        return [("error", str(chunk["error"]["code"]))]
    if not chunk["choices"]:
        return [("usage", ", ".join(name for name in USAGE if name in chunk["usage"]))]
    if all(choice["finish_reason"] for choice in chunk["choices"]):
        return [("finish", ", ".join(choice["finish_reason"] for choice in chunk["choices"]))]
    if all("role" in choice["delta"] for choice in chunk["choices"]):
        return [("role", str(len(chunk["choices"])))]
    return [part for choice in chunk["choices"] for part in _delta(choice["index"], choice["delta"])]


def _delta(choice: int, delta: Json) -> list[tuple[str, str]]:
    if "content" in delta:
        return [(f"text[{choice}]", delta["content"])]
    parts = []
    for call in delta.get("tool_calls", ()):
        where = f"{choice}.{call['index']}"
        if "name" in call["function"]:
            parts.append((f"call[{where}]", call["function"]["name"]))
        if call["function"].get("arguments"):
            parts.append((f"arguments[{where}]", call["function"]["arguments"]))
    if "function_call" in delta:
        parts.append((f"function[{choice}]", delta["function_call"].get("name") or delta["function_call"]["arguments"]))
    return parts


def _joined(head: str, pieces: list[str]) -> str:
    """The whole; the predecessor repeated all arguments so far in every piece."""
    if head.startswith("arguments") and all(b.startswith(a) for a, b in pairwise(pieces)):
        return pieces[-1]
    if head in ("keepalive", "done"):
        return ""
    return json.dumps("".join(pieces), ensure_ascii=False) if head.startswith("text") else "".join(pieces)


def _in_words(says: Any) -> str:
    if not isinstance(says, dict):
        return ""
    if isinstance(says.get("error"), dict):
        return str(says["error"]["code"])
    if "stream" in says:
        return ", ".join(_word(event) for event in says["stream"])
    if "events" in says:
        return _ITEM.sub(_item_in_words, ", ".join(event.removeprefix("response.") for event in says["events"]))
    if "output" in says:
        return ", ".join([str(says["status"]), *(part.partition(" ")[0] for part in says["output"])])
    if says.get("object") == "chat.completion":
        return ", ".join(choice["finish_reason"] for choice in says["choices"])
    return str(says.get("page", ""))


def _item_in_words(events: re.Match[str]) -> str:
    return "call" if "function_call" in events[0] else "text"


_ITEM = re.compile(
    r"output_item\.added, (?:content_part|output_text|function_call_arguments|, |\.\w+)*output_item\.done"
)
"""The events of one item that come together."""


def _word(event: str) -> str:
    head, _, rest = event.partition(" ")
    return f"{head} {rest}" if head in ("finish", "error") else head.partition("[")[0]

"""The messages of a chat request as one flat history: who said what, what was called, what came back."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from service.api.errors import ApiError, invalid, unsupported
from service.api.pictures import Picture, read_picture

Role = Literal["system", "developer", "user", "assistant"]


class Said(msgspec.Struct, frozen=True):
    """One message, its text verbatim, in the parts it came in. Only a user shows pictures."""

    role: Role
    parts: tuple[str | Picture, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """Its parts that are text."""
        return tuple(part for part in self.parts if isinstance(part, str))


class Called(msgspec.Struct, frozen=True):
    """A function call that the model made earlier; `arguments` is its own JSON text."""

    call_id: str
    name: str
    arguments: str


class Answered(msgspec.Struct, frozen=True):
    """What a function call came to."""

    call_id: str
    output: str


class Thought(msgspec.Struct, frozen=True):
    """Reasoning of an earlier answer; only the provider can read `encrypted`."""

    summary: tuple[str, ...]
    encrypted: str


Entry = Said | Called | Answered | Thought


class History(NamedTuple):
    """`ignored` names the fields of messages that the model will not see."""

    entries: tuple[Entry, ...]
    ignored: tuple[str, ...]


def read_history(messages: list[Any]) -> History:
    """Every message with its role; every call has its answer, and every answer its call.

    Raises:
        ApiError: 400, with `messages[i]...` as its param.
    """
    reader = _Reader()
    for index, message in enumerate(messages):
        reader.read(index, message)
    reader.finish()
    return History(tuple(reader.entries), tuple(sorted(reader.ignored)))


def count_chars(messages: list[Any]) -> int:
    """Characters that the model will read; of messages nobody has checked yet, so nothing is taken for granted."""
    total = 0
    for message in messages:
        if type(message) is not dict:
            continue
        content = message.get("content")
        if type(content) is str:
            total += len(content)
        elif type(content) is list:
            for part in content:
                total += _length(part, "text")
        calls = message.get("tool_calls")
        if type(calls) is list:
            for call in calls:
                total += _length(call.get("function") if type(call) is dict else None, "arguments")
    return total


def _length(value: Any, key: str) -> int:
    text = value.get(key) if type(value) is dict else None
    return len(text) if type(text) is str else 0


_FIELDS: dict[str, frozenset[str]] = {
    "system": frozenset({"role", "content"}),
    "developer": frozenset({"role", "content"}),
    "user": frozenset({"role", "content"}),
    "assistant": frozenset({"role", "content", "refusal", "tool_calls", "function_call", "audio"}),
    "tool": frozenset({"role", "content", "tool_call_id"}),
    "function": frozenset({"role", "content", "name"}),
}
"""The roles, and what is read of each."""

_PART_FIELDS = frozenset({"type", "text", "refusal", "image_url"})
_PICTURE_FIELDS = frozenset({"url", "detail"})
_MEDIA = ("image_url", "input_audio", "file")
_ANSWERS_BY = {"tool": "tool_call_id", "function": "name"}


class _Reader:
    """Goes through the messages once.

    `pending` are the calls of the last assistant message that have no answer yet: how it will be recognised (role, and
    id or name) to the id of the call. Source: OpenAI's rule that a call is answered before anything else is said; the
    app-server would invent an answer, and would drop one that nobody asked for.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.ignored: set[str] = set()
        self.pending: dict[tuple[str, str], str] = {}
        self.asked_at = 0

    def read(self, index: int, message: Any) -> None:
        if type(message) is not dict:
            raise invalid(f"messages[{index}] must be an object", f"messages[{index}]")
        role: Any = message.get("role")
        fields = _FIELDS.get(role) if type(role) is str else None
        if fields is None:
            shown = role[:100] if type(role) is str else ""
            raise invalid(
                f'unsupported role "{shown}"; supported roles are: {", ".join(_FIELDS)}', f"messages[{index}].role"
            )
        if len(message) > 2:
            self._note_unread("messages", message, fields)
        if role in _ANSWERS_BY:
            self._read_answer(index, role, message)
            return
        self.finish()
        if role == "assistant":
            self._read_assistant(index, message)
        elif role == "user":
            self.entries.append(Said(role, self._parts(index, role, message)))
        else:
            self.entries.append(Said(role, self._texts(index, role, message)))

    def finish(self) -> None:
        """No answer is to come any more: every call must have had its own."""
        if not self.pending:
            return
        missing = ", ".join(name[:64] for _, name in self.pending)[:500]
        if any(role == "tool" for role, _ in self.pending):
            need = "an assistant message with tool_calls must be followed by tool messages for each tool_call_id"
        else:
            need = "an assistant message with a function_call must be followed by its function message"
        raise invalid(f"{need}; no answer to: {missing}", f"messages[{self.asked_at}]")

    def _read_assistant(self, index: int, message: dict[str, Any]) -> None:
        if message.get("audio") is not None:
            raise unsupported(f"messages[{index}].audio", "audio in messages is not supported")
        legacy, calls = message.get("function_call"), message.get("tool_calls")
        has_calls = legacy is not None or not is_absent(calls)
        refusal = message.get("refusal")
        if refusal is not None and type(refusal) is not str:
            raise invalid(f"messages[{index}].refusal must be a string", f"messages[{index}].refusal")
        parts: tuple[str, ...] = ()
        if not (is_absent(message.get("content")) and (has_calls or refusal)):
            parts = self._texts(index, "assistant", message)
        if refusal:
            parts = (*parts, refusal)
        self.asked_at = index
        if any(parts) or not has_calls:
            self.entries.append(Said("assistant", parts))
        if not is_absent(calls):
            self._read_calls(index, calls)
        if legacy is not None:
            where = f"messages[{index}].function_call"
            name, arguments = _call(legacy, where)
            self._expect(("function", name), f"function_call_{index}", where)
            self.entries.append(Called(f"function_call_{index}", name, arguments))

    def _read_calls(self, index: int, calls: Any) -> None:
        if type(calls) is not list:
            raise invalid(f"messages[{index}].tool_calls must be an array", f"messages[{index}].tool_calls")
        for position, call in enumerate(calls):
            where = f"messages[{index}].tool_calls[{position}]"
            if type(call) is not dict:
                raise invalid(f"{where} must be an object", where)
            if call.get("type") == "custom":
                raise unsupported(where, "custom tool calls are not supported")
            if call.get("type") != "function":
                raise invalid(f'{where}.type must be "function"', f"{where}.type")
            call_id = call.get("id")
            if type(call_id) is not str or not call_id:
                raise invalid(f"{where}.id must be a non-empty string", f"{where}.id")
            name, arguments = _call(call.get("function"), f"{where}.function")
            self._expect(("tool", call_id), call_id, f"{where}.id")
            self.entries.append(Called(call_id, name, arguments))

    def _expect(self, answer: tuple[str, str], call_id: str, where: str) -> None:
        if answer in self.pending:
            raise invalid(f"{where} is used twice in one message", where)
        self.pending[answer] = call_id

    def _read_answer(self, index: int, role: str, message: dict[str, Any]) -> None:
        field = _ANSWERS_BY[role]
        where = f"messages[{index}].{field}"
        name = message.get(field)
        if type(name) is not str or not name:
            raise invalid(f'messages with role "{role}" need a "{field}"', where)
        call_id = self.pending.pop((role, name), None)
        if call_id is None:
            asked = "tool_calls" if role == "tool" else "a function_call"
            raise invalid(f'messages with role "{role}" must answer a preceding message with {asked}', where)
        is_empty = role == "function" and message.get("content") is None
        self.entries.append(Answered(call_id, "" if is_empty else "".join(self._texts(index, role, message))))

    def _texts(self, index: int, role: str, message: dict[str, Any]) -> tuple[str, ...]:
        return tuple(part for part in self._parts(index, role, message) if isinstance(part, str))

    def _parts(self, index: int, role: str, message: dict[str, Any]) -> tuple[str | Picture, ...]:
        content = message.get("content")
        if type(content) is str:
            return (content,)
        where = f"messages[{index}].content"
        if type(content) is not list or not content:
            raise invalid(f"{where} must be a string or a non-empty array of content parts", where)
        parts: list[str | Picture] = []
        for position, part in enumerate(content):
            kind = part.get("type") if type(part) is dict else None
            if kind == "image_url" and role == "user":
                parts.append(self._picture(part.get(kind), f"{where}[{position}].{kind}"))
            else:
                text = part.get(kind) if kind == "text" or (kind == "refusal" and role == "assistant") else None
                if type(text) is not str:
                    raise _bad_part(f"{where}[{position}]", kind, part)
                parts.append(text)
            if len(part) > 2:
                self._note_unread("messages.content", part, _PART_FIELDS)
        return tuple(parts)

    def _picture(self, value: Any, where: str) -> Picture:
        if type(value) is not dict:
            raise invalid(f"{where} must be an object with the url of an image", where)
        self._note_unread("messages.content.image_url", value, _PICTURE_FIELDS)
        picture, is_ignored = read_picture(value.get("url"), value.get("detail"), f"{where}.url", f"{where}.detail")
        if is_ignored:
            self.ignored.add("messages.content.image_url.detail")
        return picture

    def _note_unread(self, where: str, value: dict[str, Any], fields: frozenset[str]) -> None:
        self.ignored.update(f"{where}.{key}" for key in value if key not in fields and not is_absent(value[key]))


def _bad_part(where: str, kind: Any, part: Any) -> ApiError:
    if type(part) is not dict:
        return invalid("content parts must be objects with a type", where)
    if kind in ("text", "refusal") and type(part.get(kind)) is not str:
        return invalid(f"{where}.{kind} must be a string", f"{where}.{kind}")
    if kind in _MEDIA:
        return unsupported(where, f"content parts of type {kind} are not supported here")
    shown = kind[:100] if type(kind) is str else ""
    return invalid(
        f'unsupported content part type "{shown}"; supported types are: text, image_url of the user,'
        " and refusal of the assistant",
        f"{where}.type",
    )


def _call(function: Any, where: str) -> tuple[str, str]:
    if type(function) is not dict:
        raise invalid(f"{where} must be an object", where)
    name, arguments = function.get("name"), function.get("arguments")
    if type(name) is not str or not name:
        raise invalid(f"{where}.name must be a non-empty string", f"{where}.name")
    if type(arguments) is not str:
        raise invalid(f"{where}.arguments must be a string", f"{where}.arguments")
    return name, arguments


def is_absent(value: Any) -> bool:
    """SDKs send null, or an empty array, for what their caller did not set."""
    return value is None or value == []

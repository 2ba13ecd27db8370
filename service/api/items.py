"""The input items of the Responses API as one flat history."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from service.api.errors import ApiError, invalid, unsupported
from service.api.flat_tools import alias_of, custom_arguments
from service.api.history import Answered, Called, Entry, Role, Said, Thought, is_absent
from service.api.pictures import Picture, read_picture

Item = dict[str, Any]
Lookup = Callable[[str], Item | None]
"""An item of an earlier answer by its id; None for one that there is not."""

MAX_ID_CHARS = 100

_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system", "developer": "developer"}
_TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
"""The types of a message's parts that are text, and where it is."""
_MEDIA = ("input_image", "input_file", "input_audio")

_SAME = frozenset({"id", "type", "status"})
_FIELDS: dict[str, frozenset[str]] = {
    "message": _SAME | {"role", "content"},
    "function_call": _SAME | {"call_id", "name", "namespace", "arguments"},
    "function_call_output": _SAME | {"call_id", "output"},
    "custom_tool_call": _SAME | {"call_id", "name", "namespace", "input"},
    "custom_tool_call_output": _SAME | {"call_id", "output"},
    "reasoning": _SAME | {"summary", "encrypted_content"},
    "additional_tools": _SAME | {"role", "tools"},
    "item_reference": _SAME,
}
"""The types that are understood, and the fields of each that are read, or say nothing to a model."""
_PICTURE_FIELDS = frozenset({"type", "image_url", "detail"})
_PART_FIELDS = frozenset({"type", "text", "refusal", "logprobs"})


class Items(NamedTuple):
    """`entries` are the history, `tools` the arrays of definitions among the items, each with its place. `ignored`
    names what the model will not see. `expanded` are the items with every reference replaced by what it refers to.
    """

    entries: tuple[Entry, ...]
    tools: tuple[tuple[str, Any], ...]
    ignored: tuple[str, ...]
    expanded: tuple[Item, ...]


def references(value: Any) -> tuple[str, ...]:
    """The ids of the items that an `input` nobody has checked yet refers to."""
    if type(value) is not list:
        return ()
    ids = [item["id"] for item in value if type(item) is dict and _kind(item) == "item_reference" and "id" in item]
    return tuple(dict.fromkeys(each for each in ids if type(each) is str))


def bare_thoughts(value: Any) -> tuple[str, ...]:
    """The ids of the reasoning in an unchecked `input` that came without what only the provider can read."""
    if type(value) is not list:
        return ()
    ids = [
        item["id"]
        for item in value
        if type(item) is dict and item.get("type") == "reasoning" and not item.get("encrypted_content") and "id" in item
    ]
    return tuple(dict.fromkeys(each for each in ids if type(each) is str))


def read_items(before: Iterable[Item], value: Any, lookup: Lookup) -> Items:
    """The history of the items `before` the request's `input`, and of that.

    Every call has its answer and every answer its call: the app-server would invent the one and drop the other.

    Raises:
        ApiError: 400, with `input[i]...` as its param, or `previous_response_id` for what came before.
    """
    reader = _Reader(lookup)
    for item in before:
        reader.read(item, "previous_response_id")
    if type(value) is str:
        reader.read({"type": "message", "role": "user", "content": value}, "input")
    elif type(value) is list:
        for index, item in enumerate(value):
            reader.read(item, f"input[{index}]")
    elif value is not None:
        raise invalid("input must be a string or an array of items", "input")
    reader.finish()
    return Items(tuple(reader.entries), tuple(reader.tools), tuple(sorted(reader.ignored)), tuple(reader.expanded))


def _kind(item: Item) -> Any:
    """The type of an item: messages and references may leave it out."""
    kind = item.get("type")
    if kind is None:
        return "message" if "role" in item else "item_reference"
    return kind


class _Reader:
    """Goes through the items once. `open` are the calls without an answer so far: their ids and where they stand."""

    def __init__(self, lookup: Lookup) -> None:
        self.entries: list[Entry] = []
        self.tools: list[tuple[str, Any]] = []
        self.ignored: set[str] = set()
        self.expanded: list[Item] = []
        self.open: dict[str, str] = {}
        self._lookup = lookup

    def read(self, item: Any, where: str, *, is_referred_to: bool = False) -> None:
        if type(item) is not dict:
            raise invalid(f"{where} must be an object", where)
        kind = _kind(item)
        fields = _FIELDS.get(kind) if type(kind) is str else None
        if fields is None or (is_referred_to and kind == "item_reference"):
            raise _bad_item(kind, where)
        if kind == "item_reference":
            self.read(self._referred(item, where), where, is_referred_to=True)
            return
        self.expanded.append(item)
        self._note_unread("input", item, fields)
        match kind:
            case "message":
                self._read_message(item, where)
            case "function_call" | "custom_tool_call":
                self._read_call(item, kind, where)
            case "function_call_output" | "custom_tool_call_output":
                self._read_answer(item, where)
            case "reasoning":
                self._read_reasoning(item, where)
            case _:
                self.tools.append((f"{where}.tools", item.get("tools")))

    def finish(self) -> None:
        """No answer is to come any more."""
        for call_id, where in self.open.items():
            raise invalid(f"No tool output found for function call {call_id[:64]}.", where.partition(".")[0])

    def _referred(self, item: Item, where: str) -> Item:
        item_id = item.get("id")
        if type(item_id) is not str or not item_id:
            raise invalid(f"{where}.id must be a non-empty string", f"{where}.id")
        found = self._lookup(item_id)
        if found is None:
            raise invalid(f"Item with id '{item_id[:MAX_ID_CHARS]}' not found.", f"{where}.id")
        return found

    def _read_message(self, item: Item, where: str) -> None:
        role: Any = item.get("role")
        known = _ROLES.get(role) if type(role) is str else None
        if known is None:
            shown = role[:100] if type(role) is str else ""
            raise invalid(f'unsupported role "{shown}"; supported roles are: {", ".join(_ROLES)}', f"{where}.role")
        content, place = item.get("content"), f"{where}.content"
        self.entries.append(
            Said(known, self._parts(content, place) if known == "user" else self._texts(content, place))
        )

    def _read_call(self, item: Item, kind: str, where: str) -> None:
        text_in = "arguments" if kind == "function_call" else "input"
        call_id, name = (_string(item, key, where) for key in ("call_id", "name"))
        namespace = item.get("namespace")
        if type(namespace) is not str and namespace is not None:
            raise invalid(f"{where}.namespace must be a string", f"{where}.namespace")
        text = item.get(text_in)
        if type(text) is not str:
            raise invalid(f"{where}.{text_in} must be a string", f"{where}.{text_in}")
        if call_id in self.open:
            raise invalid(f"{where}.call_id is used twice", f"{where}.call_id")
        self.open[call_id] = where
        arguments = text if kind == "function_call" else custom_arguments(text)
        self.entries.append(Called(call_id, alias_of(name, namespace), arguments))

    def _read_answer(self, item: Item, where: str) -> None:
        call_id = _string(item, "call_id", where)
        if self.open.pop(call_id, None) is None:
            raise invalid(
                f"No tool call found for function call output with call_id {call_id[:64]}.", f"{where}.call_id"
            )
        output = item.get("output")
        parts = () if output == [] else self._texts(output, f"{where}.output")
        self.entries.append(Answered(call_id, "".join(parts)))

    def _read_reasoning(self, item: Item, where: str) -> None:
        summary = item.get("summary")
        encrypted = item.get("encrypted_content")
        if type(summary) is not list and summary is not None:
            raise invalid(f"{where}.summary must be an array", f"{where}.summary")
        if type(encrypted) is not str and encrypted is not None:
            raise invalid(f"{where}.encrypted_content must be a string", f"{where}.encrypted_content")
        texts = []
        for index, part in enumerate(summary or ()):
            text = part.get("text") if type(part) is dict else None
            if type(text) is not str:
                raise invalid(f"{where}.summary[{index}].text must be a string", f"{where}.summary[{index}].text")
            texts.append(text)
        if not encrypted and type(item_id := item.get("id")) is str:
            known = self._lookup(item_id) or {}
            encrypted = known.get("encrypted_content") if known.get("type") == "reasoning" else None
        if encrypted:
            self.entries.append(Thought(tuple(texts), encrypted))
        else:
            self.ignored.add("input.reasoning")  # the provider takes none that it cannot read

    def _texts(self, content: Any, where: str) -> tuple[str, ...]:
        if type(content) is str:
            return (content,)
        return tuple(self._text(part, place) for part, place in _each(content, where))

    def _parts(self, content: Any, where: str) -> tuple[str | Picture, ...]:
        if type(content) is str:
            return (content,)
        return tuple(
            self._picture(part, place)
            if type(part) is dict and part.get("type") == "input_image"
            else self._text(part, place)
            for part, place in _each(content, where)
        )

    def _picture(self, part: Item, where: str) -> Picture:
        if part.get("file_id") is not None:
            raise unsupported(f"{where}.file_id")
        self._note_unread("input.content", part, _PICTURE_FIELDS)
        picture, is_ignored = read_picture(
            part.get("image_url"), part.get("detail"), f"{where}.image_url", f"{where}.detail"
        )
        if is_ignored:
            self.ignored.add("input.content.detail")
        return picture

    def _text(self, part: Any, where: str) -> str:
        kind = part.get("type") if type(part) is dict else None
        text_in = _TEXTS.get(kind) if type(kind) is str else None
        if text_in is None:
            raise _bad_part(part, kind, where)
        text = part.get(text_in)
        if type(text) is not str:
            raise invalid(f"{where}.{text_in} must be a string", f"{where}.{text_in}")
        self._note_unread("input.content", part, _PART_FIELDS)
        return text

    def _note_unread(self, where: str, value: Item, fields: frozenset[str]) -> None:
        self.ignored.update(f"{where}.{key}" for key in value if key not in fields and not is_absent(value[key]))


def _each(content: Any, where: str) -> list[tuple[Any, str]]:
    """The parts and where they stand."""
    if type(content) is not list or not content:
        raise invalid(f"{where} must be a string or a non-empty array of content parts", where)
    return [(part, f"{where}[{index}]") for index, part in enumerate(content)]


def _string(item: Item, key: str, where: str) -> str:
    value = item.get(key)
    if type(value) is not str or not value:
        raise invalid(f"{where}.{key} must be a non-empty string", f"{where}.{key}")
    return value


def _bad_item(kind: Any, where: str) -> ApiError:
    if type(kind) is str and kind:
        return unsupported(f"{where}.type", f'input items of type "{kind[:100]}" are not supported')
    return invalid(f"{where}.type must be the type of an input item", f"{where}.type")


def _bad_part(part: Any, kind: Any, where: str) -> ApiError:
    if type(part) is not dict:
        return invalid("content parts must be objects with a type", where)
    if kind in _MEDIA:
        return unsupported(where, f"content parts of type {kind} are not supported")
    shown = kind[:100] if type(kind) is str else ""
    return invalid(
        f'unsupported content part type "{shown}"; supported types are: {", ".join(_TEXTS)}', f"{where}.type"
    )

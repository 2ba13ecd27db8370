"""A call's arguments as JSON in canonical order, and a call as the text that Obsidian Copilot reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

CANON: Mapping[str, tuple[str, ...]] = {
    "localSearch": ("query", "salientTerms", "timeRange"),
    "webSearch": ("query", "chatHistory"),
    "getCurrentTime": ("timezoneOffset",),
    "convertTimeBetweenTimezones": ("time", "fromOffset", "toOffset"),
    "getTimeRangeMs": ("timeExpression",),
    "getTimeInfoByEpoch": ("epoch",),
    "readNote": ("notePath", "chunkIndex"),
    "getFileTree": (),
    "getTagList": ("includeInline", "maxEntries"),
    "writeToFile": ("path", "content"),
    "replaceInFile": ("path", "diff"),
    "updateMemory": ("statement",),
    "youtubeTranscription": (),
}
"""The tools of Obsidian Copilot, and their parameters in the order in which they are written."""

_VERBATIM = frozenset({("writeToFile", "content"), ("replaceInFile", "diff")})
"""What goes into a file: its white space counts, and it is text even if it looks like JSON."""

_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&#39;": "'"}
_ENTITY = re.compile("|".join(_ENTITIES))
_UNESCAPED = re.compile(f"[<>]|&(?!{'|'.join(entity[1:] for entity in _ENTITIES)})")
_SPECIAL = re.compile("[&<>\"']")
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;"}

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_string = msgspec.json.Decoder(str).decode
_is_json = msgspec.json.Decoder().decode


def read_object(text: str) -> dict[str, str] | None:
    """The members of a JSON object, each as its own JSON text; None if it is not one."""
    try:
        return {key: bytes(value).decode() for key, value in _decode_object(text).items()}
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None


def read_string(value: str | None) -> str | None:
    """The string that a JSON text stands for; None if it stands for something else."""
    return _decode_string(value) if value is not None and value.startswith('"') else None


def arguments_text(name: str, values: Mapping[str, str]) -> str:
    """A JSON object of `values` (JSON texts) in canonical order: unknown names follow the known ones, sorted.

    Source: the predecessor's wire, one space after each colon.
    """
    return "{" + ",".join(f"{_quoted(key)}: {values[key]}" for key in _in_order(name, values)) + "}"


def arguments_of(name: str, parameters: Iterable[tuple[str, str]]) -> str:
    """The arguments that a block's parameters stand for.

    A list or an object is one if it is written as JSON; everything else is a string, without the white space around
    it. A parameter that comes several times is a list. A lone `args` has all arguments as JSON; if it has not, its
    text is the arguments.
    """
    parameters = tuple(parameters)
    if len(parameters) == 1 and parameters[0][0] == "args":
        text = _unescaped(parameters[0][1]).strip()
        members = read_object(text)
        return text if members is None else arguments_text(name, members)
    found: dict[str, list[str]] = {}
    for key, text in parameters:
        found.setdefault(key, []).append(_value(name, key, text))
    return arguments_text(
        name, {key: few[0] if len(few) == 1 else "[" + ",".join(few) + "]" for key, few in found.items()}
    )


def to_obsidian_xml(name: str, arguments: str | Mapping[str, object]) -> str:
    """A call as a `<use_tool>` block: a line per parameter in canonical order, special characters escaped.

    Lists and objects are JSON text. Arguments that are no JSON object, or have names that are no tags, are one `args`.
    """
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    values = read_object(text) if text.strip() else {}
    lines = [f"  <name>{_escaped(name)}</name>"]
    if values is None or not all(_PARAMETER.fullmatch(key) for key in values):
        lines.append(f"  <args>{_escaped(text)}</args>")
    else:
        for key in _in_order(name, values):
            value = read_string(values[key])
            lines.append(f"  <{key}>{_escaped(values[key] if value is None else value)}</{key}>")
    return "\n".join(("<use_tool>", *lines, "</use_tool>"))


def _in_order(name: str, keys: Iterable[str]) -> list[str]:
    known = CANON.get(name, ())
    return sorted(keys, key=lambda key: (known.index(key) if key in known else len(known), key))


def _value(name: str, key: str, text: str) -> str:
    text = _unescaped(text)
    if (name, key) in _VERBATIM:
        return _quoted(text)
    text = text.strip()
    if text.startswith(("[", "{")):
        try:
            _is_json(text)
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            return _quoted(text)
        return text
    return _quoted(text)


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: _ESCAPES[found[0]], text)


def _unescaped(text: str) -> str:
    """Models seldom escape: a text in which anything is left to escape is taken as it is."""
    return text if _UNESCAPED.search(text) else _ENTITY.sub(lambda found: _ENTITIES[found[0]], text)

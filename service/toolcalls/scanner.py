"""Blocks in a text that comes piece by piece: what is one, what only looks like one, and what cannot be told yet."""

from __future__ import annotations

import re
from collections.abc import Collection, Generator, Iterable

import msgspec

from service.toolcalls.canon import arguments_of, arguments_text, read_object, read_string

USE_TOOL = "use_tool"
MAX_BLOCK_CHARS = 1 << 20
"""The longest block; it is held as a whole. No answer of a model is that long."""

_MAX_HEAD_CHARS = 512
"""From the beginning of a block to the end of its name. What fails within is looked at again, so it must be short."""
_MAX_TAG_CHARS = 128

_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_NAME_SO_FAR = re.compile(r"\s*[A-Za-z0-9_.:-]*\s*")
_HEAD = re.compile(r"""<[^\s>]+(?:\s+name\s*=\s*(?:"([^"]*)"|'([^']*)'))?\s*>""")
_PARAMETER = re.compile(r"<([A-Za-z_][A-Za-z0-9_.-]{0,63})\s*(/?)>")
_OUTSIDE, _INSIDE = re.compile(r'[{}\[\]"]'), re.compile(r'["\\]')

Steps = Generator[None, None, None]


class Block(msgspec.Struct, frozen=True):
    """A call that was written into the text: `arguments` is JSON in canonical order, `text` is the block as it came."""

    name: str
    arguments: str
    text: str


class Scanner:
    """Give it the text as it comes with `feed`, and ask for what it still holds with `flush`.

    It holds back what may be the beginning of a block, and nothing else; what it gives is in the order of the text, and
    does not depend on how the text was cut. Of anything but `names` (None: any) it takes no block for a call. Source of
    the grammar: the predecessor, docs/tool-calls.md.
    """

    __slots__ = ("_at", "_literal", "_max_chars", "_names", "_out", "_start", "_steps", "_tags", "_text")

    def __init__(
        self,
        tags: Iterable[str] = (USE_TOOL,),
        max_chars: int = MAX_BLOCK_CHARS,
        names: Collection[str] | None = None,
    ) -> None:
        self._tags = tuple(tags)
        self._max_chars = max_chars
        self._names = names
        self._reset()

    def _reset(self) -> None:
        self._text = ""
        self._start = self._at = 0
        self._out: list[str | Block] = []
        self._literal: list[str] = []
        self._steps = self._scan()
        next(self._steps)

    @property
    def held(self) -> str:
        """What may be the beginning of a block."""
        return self._text[self._start :]

    def feed(self, text: str) -> list[str | Block]:
        """What is sure now that this has come."""
        if not self._text and "<" not in text:
            return [text] if text else []
        so_far, self._text = self._text, ""
        so_far += text  # in place: nobody else knows it, so a long block costs no copy per piece
        self._text = so_far
        next(self._steps)
        self._settle()
        out, self._out = self._out, []
        return out

    def flush(self) -> str:
        """What was held back: no more text comes, or not before something else is shown. So it was no block."""
        held = self.held
        self._reset()
        return held

    # --- inside: each step stops where more text is needed ---------------------------------------------------

    def _settle(self) -> None:
        if literal := "".join(self._literal):
            self._out.append(literal)
        self._literal = []

    def _scan(self) -> Steps:
        while True:
            self._start = self._text.find("<", self._at)
            if self._start < 0:
                self._literal.append(self._text[self._at :])
                self._text, self._start, self._at = "", 0, 0
                yield
                continue
            self._literal.append(self._text[self._at : self._start])
            if self._start * 2 > len(self._text):  # so that what is done with goes, at no more than its own cost
                self._text, self._start = self._text[self._start :], 0
            self._at = self._start
            try:
                name, arguments = yield from self._block()
            except _NotABlockError as no:
                self._at = no.at
                self._literal.append(self._text[self._start : no.at])
            else:
                self._settle()
                self._out.append(Block(name, arguments, self._text[self._start : self._at]))

    def _block(self) -> Generator[None, None, tuple[str, str]]:
        limit = self._start + self._max_chars
        try:
            tag, name = yield from self._head(min(limit, self._start + _MAX_HEAD_CHARS))
        except _NotABlockError:
            raise _NotABlockError(self._start + 1) from None
        yield from self._run(_SPACE, limit)
        if self._text[self._at] == "{":
            body = yield from self._json(limit)
            call = _call_of(name, body)
            if call is None or not self._is_name(call[0]):
                raise _NotABlockError(self._at)
            yield from self._run(_SPACE, limit)
            yield from self._expect(f"</{tag}>", limit)
            return call
        parameters: list[tuple[str, str]] = []
        while (found := (yield from self._parameter(tag, limit))) is not None:
            parameters.append(found)
        assert name  # noqa: S101 - a head without a name ends before "{"
        return name, arguments_of(name, parameters)

    def _head(self, limit: int) -> Generator[None, None, tuple[str, str]]:
        """The tag and the name; the name is empty if it can only be in the JSON that follows."""
        tag = yield from self._opening(limit)
        end = yield from self._find(">", self._at, limit)
        head = _HEAD.fullmatch(self._text, self._start, end + 1)
        if head is None:
            raise _NotABlockError(limit)
        self._at = end + 1
        name = head[1] or head[2]
        if name is None:
            yield from self._run(_SPACE, limit)
            if self._text[self._at] == "{":
                return tag, ""
            yield from self._expect("<name>", limit)
            begin = self._at
            yield from self._run(_NAME_SO_FAR, limit)
            name = self._text[begin : self._at].strip()
            yield from self._expect("</name>", limit)
        if not self._is_name(name):
            raise _NotABlockError(limit)
        return tag, name

    def _is_name(self, name: str) -> bool:
        return _NAME.fullmatch(name) is not None and (self._names is None or name in self._names)

    def _opening(self, limit: int) -> Generator[None, None, str]:
        while True:
            begun = False
            for tag in self._tags:
                end = self._start + 1 + len(tag)
                seen = self._text[self._start + 1 : end]
                if not tag.startswith(seen):
                    continue
                if end >= min(len(self._text), limit):
                    begun = True
                elif self._text[end] == ">" or self._text[end].isspace():
                    self._at = end
                    return tag
            if not begun:
                raise _NotABlockError(limit)
            yield from self._more(limit)

    def _parameter(self, tag: str, limit: int) -> Generator[None, None, tuple[str, str] | None]:
        """The next one; None at the end of the block."""
        yield from self._run(_SPACE, limit)
        begin = self._at
        if self._text[begin] != "<":
            raise _NotABlockError(begin)
        try:
            end = yield from self._find(">", begin, min(limit, begin + _MAX_TAG_CHARS))
        except _NotABlockError:
            raise _NotABlockError(begin) from None
        self._at = end + 1
        if self._text[begin : end + 1] == f"</{tag}>":
            return None
        found = _PARAMETER.fullmatch(self._text, begin, end + 1)
        if found is None or found[1] in self._tags:
            raise _NotABlockError(begin)
        if found[2]:
            return found[1], ""
        closing = f"</{found[1]}>"
        close = yield from self._find(closing, end + 1, limit)
        self._at = close + len(closing)
        return found[1], self._text[end + 1 : close]

    def _json(self, limit: int) -> Generator[None, None, str]:
        """The text of an object, to the brace that closes it."""
        begin = at = self._at
        depth, is_string = 0, False
        while True:
            found = (_INSIDE if is_string else _OUTSIDE).search(self._text, at, limit)
            if found is None:
                at = max(at, min(len(self._text), limit))
                yield from self._more(limit)
                continue
            at = found.end()
            if found[0] == '"':
                is_string = not is_string
            elif found[0] == "\\":
                at += 1
            else:
                depth += 1 if found[0] in "{[" else -1
                if not depth:
                    self._at = at
                    return self._text[begin:at]

    def _find(self, needle: str, begin: int, limit: int) -> Generator[None, None, int]:
        searched = begin
        while (place := self._text.find(needle, searched, limit)) < 0:
            searched = max(begin, len(self._text) - len(needle) + 1)
            yield from self._more(limit)
        return place

    def _expect(self, literal: str, limit: int) -> Steps:
        begin = self._at
        while not self._text.startswith(literal, begin, limit):
            if not literal.startswith(self._text[begin : min(begin + len(literal), limit)]):
                raise _NotABlockError(begin)
            yield from self._more(limit)
        self._at = begin + len(literal)

    def _run(self, pattern: re.Pattern[str], limit: int) -> Steps:
        """Over everything that `pattern` takes, to the first character that it does not take."""
        begin = self._at
        while True:
            found = pattern.match(self._text, begin, limit)
            self._at = begin if found is None else found.end()
            if self._at < min(len(self._text), limit):
                return
            yield from self._more(limit)

    def _more(self, limit: int) -> Steps:
        if len(self._text) >= limit:
            raise _NotABlockError(limit)
        yield


class _NotABlockError(Exception):
    """It is text as far as `at`; what follows has yet to be looked at."""

    def __init__(self, at: int) -> None:
        self.at = at


def _call_of(name: str, body: str) -> tuple[str, str] | None:
    """A JSON body: the arguments of `name`, or an object with `name` and `arguments` (or `args`)."""
    members = read_object(body)
    if members is None:
        return None
    if name:
        return name, arguments_text(name, members)
    name = read_string(members.pop("name", None)) or ""
    if not _NAME.fullmatch(name):
        return None
    for key in ("arguments", "args"):
        if key in members:
            text = members[key]
            inner = read_string(text)
            values = read_object(text if inner is None else inner)
            if values is None:
                return None if inner is None else (name, inner)
            return name, arguments_text(name, values)
    return name, arguments_text(name, members)


class Extracted(msgspec.Struct, frozen=True):
    """A block, and where in the text it is: `text[start:end]`."""

    block: Block
    start: int
    end: int


def extract_use_tool_blocks(text: str, tags: Iterable[str] = (USE_TOOL,)) -> tuple[Extracted, ...]:
    """All blocks of a whole text, in order."""
    found: list[Extracted] = []
    at = 0
    for piece in Scanner(tags).feed(text):
        length = len(piece.text if isinstance(piece, Block) else piece)
        if isinstance(piece, Block):
            found.append(Extracted(piece, at, at + length))
        at += length
    return tuple(found)

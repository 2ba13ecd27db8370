"""The output of a response from the events that told of it, where nothing else is left of the work on it."""

from __future__ import annotations

from typing import Any

import msgspec

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_DATA = b"data: "


class Retold:
    """`take` the events of a stream, in their order and from the first one on; then `output` are its items, the last of
    which may be unfinished.
    """

    def __init__(self) -> None:
        self._output: list[dict[str, Any]] = []
        self._part: dict[str, Any] = {}
        self._texts: list[str] = []
        """Of the part that is open."""

    def take(self, body: bytes) -> None:
        """The next event, as it was sent."""
        event = _decode(body[body.index(_DATA) + len(_DATA) :])
        match event["type"].removeprefix("response."):
            case "output_item.added":
                self._output.append(event["item"])
            case "output_item.done":
                self._output[-1] = event["item"]
            case "content_part.added":
                self._begin(event["part"], "content")
            case "reasoning_summary_part.added":
                self._begin(event["part"], "summary")
            case "output_text.delta" | "reasoning_summary_text.delta":
                self._texts.append(event["delta"])

    def output(self) -> list[dict[str, Any]]:
        """The items so far; nothing more comes."""
        self._part["text"] = "".join(self._texts)
        if self._output and self._output[-1].get("status") == "in_progress":
            self._output[-1]["status"] = "incomplete"
        return self._output

    def _begin(self, part: dict[str, Any], where: str) -> None:
        self._part["text"] = "".join(self._texts)
        self._texts = []
        self._part = part
        self._output[-1][where].append(part)

"""From a chat request to a turn: roles and call ids kept, text verbatim."""

from __future__ import annotations

from typing import Any, assert_never

from pool.events import TurnRequest
from service.api.chat import ChatRequest
from service.api.history import Answered, Called, Entry, Said


def to_turn(request: ChatRequest, *, model: str, effort: str | None) -> TurnRequest:
    """The turn that answers `request` with `model`; `effort` is the route's, and the request's own wins.

    The system text in front becomes the instructions. Where nothing follows it, it is the history instead: a turn
    without any history is an empty request to the model.
    """
    instructions, rest = _split(request.messages)
    return TurnRequest(
        model=model,
        instructions="\n\n".join(instructions + _wishes(request)),
        items=tuple(_item(entry) for entry in rest),
        tools=request.tools.specs,
        output_schema=request.output.schema,
        effort=request.effort or effort,
    )


MUST_CALL = "Answer by calling a function, and with nothing else."


def _wishes(request: ChatRequest) -> list[str]:
    """What the CLI has no parameter for: the model is asked for it, and its answer is checked."""
    return [wish for wish in (MUST_CALL if request.tools.must_call else "", request.output.wish) if wish]


def _split(entries: tuple[Entry, ...]) -> tuple[list[str], tuple[Entry, ...]]:
    """The texts of the system messages in front, and what follows them."""
    texts: list[str] = []
    for position, entry in enumerate(entries):
        if not isinstance(entry, Said) or entry.role not in ("system", "developer"):
            return texts, entries[position:]
        texts.append("".join(entry.parts))
    return [], entries


def _item(entry: Entry) -> dict[str, Any]:
    """One input item of the Responses API. Source: OpenAI's InputItem; the CLI drops the role `system` silently."""
    match entry:
        case Said(role, parts):
            kind = "output_text" if role == "assistant" else "input_text"
            return {
                "type": "message",
                "role": "developer" if role == "system" else role,
                "content": [{"type": kind, "text": text} for text in parts],
            }
        case Called(call_id, name, arguments):
            return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}
        case Answered(call_id, output):
            return {"type": "function_call_output", "call_id": call_id, "output": output}
        case _:
            assert_never(entry)

"""From what a client asks to a turn: roles and call ids kept, text verbatim."""

from __future__ import annotations

from typing import Any, assert_never

from msgspec.structs import replace

from pool.events import TurnRequest
from service.api.history import Answered, Called, Entry, Said, Thought
from service.api.pictures import Picture
from service.api.question import Question


def to_turn(request: Question, *, model: str, effort: str | None, reasoning_items: bool = False) -> TurnRequest:
    """The turn that answers `request` with `model`; `effort` is the route's, and the request's own wins. With
    `reasoning_items` it tells its reasoning as the next request may send it back.

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
        summary=request.summary,
        verbosity=request.verbosity,
        reasoning_items=reasoning_items,
    )


def as_transcript(turn: TurnRequest) -> TurnRequest:
    """The same turn with its history as one text of the user: for a CLI that takes no history in parts.

    Whose words are whose is then only said, and a text can say so as well; reasoning is left out, images follow the
    text.
    """
    lines = [f"[system] {turn.instructions}"] if turn.instructions else []
    images: list[dict[str, Any]] = []
    for item in turn.items:
        if item["type"] == "message":
            role = "system" if item["role"] == "developer" else item["role"]
            lines.append(f"[{role}] " + "".join(part.get("text", "") for part in item["content"]))
            images += (part for part in item["content"] if part["type"] == "input_image")
        elif item["type"] == "function_call":
            lines.append(f"[assistant] {item['name']}({item['arguments']}) #{item['call_id']}")
        elif item["type"] == "function_call_output":
            lines.append(f"[tool] #{item['call_id']} {_text(item['output'])}")
    content = [{"type": "input_text", "text": "\n".join(lines)}, *images]
    return replace(turn, instructions="", items=({"type": "message", "role": "user", "content": content},))


def _text(output: Any) -> str:
    return output if isinstance(output, str) else "".join(part.get("text", "") for part in output)


MUST_CALL = "Answer by calling a function, and with nothing else."


def _wishes(request: Question) -> list[str]:
    """What the CLI has no parameter for: the model is asked for it, and its answer is checked."""
    return [wish for wish in (MUST_CALL if request.tools.must_call else "", request.output.wish) if wish]


def _split(entries: tuple[Entry, ...]) -> tuple[list[str], tuple[Entry, ...]]:
    """The texts of the system messages in front, and what follows them."""
    texts: list[str] = []
    for position, entry in enumerate(entries):
        if not isinstance(entry, Said) or entry.role not in ("system", "developer"):
            return texts, entries[position:]
        texts.append("".join(entry.texts))
    return [], entries


def _image(picture: Picture) -> dict[str, Any]:
    detail = {} if picture.detail is None else {"detail": picture.detail}
    return {"type": "input_image", "image_url": picture.url} | detail


def _item(entry: Entry) -> dict[str, Any]:
    """One input item of the Responses API. Source: OpenAI's InputItem; the CLI drops the role `system` silently."""
    match entry:
        case Said(role, parts):
            kind = "output_text" if role == "assistant" else "input_text"
            return {
                "type": "message",
                "role": "developer" if role == "system" else role,
                "content": [{"type": kind, "text": part} if isinstance(part, str) else _image(part) for part in parts],
            }
        case Called(call_id, name, arguments):
            return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}
        case Answered(call_id, output):
            return {"type": "function_call_output", "call_id": call_id, "output": output}
        case Thought(summary, encrypted):
            return {
                "type": "reasoning",
                "summary": [{"type": "summary_text", "text": text} for text in summary],
                "encrypted_content": encrypted,
            }
        case _:
            assert_never(entry)

"""The objects inside an app-server's frames, field for field as CLI 0.163.0 writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from loadtest.script import Tokens, ToolCall

Json = dict[str, Any]

CONTEXT_WINDOW: Final = 258_400
METHODS: Final = (
    "initialize",
    "server/diagnostics",
    "thread/start",
    "thread/unsubscribe",
    "thread/loaded/list",
    "thread/inject_items",
    "turn/start",
    "turn/interrupt",
)
ABORTED_NOTE: Final = (
    "<turn_aborted>\nThe user interrupted the previous turn on purpose. Any running unified exec processes may still be"
    " running in the background. If any tools/commands were aborted, they may have partially executed.\n</turn_aborted>"
)
READ_ONLY: Final = {"type": "readOnly", "networkAccess": False}
RATE_LIMITS: Final[Json] = {
    "rateLimits": {
        "limitId": "codex",
        "limitName": None,
        "normalModelSlug": None,
        "primary": None,
        "secondary": None,
        "credits": None,
        "individualLimit": None,
        "spendControlReached": None,
        "planType": None,
        "rateLimitReachedType": None,
    }
}
NO_TOKENS: Final[Json] = {
    "totalTokens": 0,
    "inputTokens": 0,
    "cachedInputTokens": 0,
    "cacheWriteInputTokens": 0,
    "outputTokens": 0,
    "reasoningOutputTokens": 0,
}


def thread_started(
    thread_id: str, *, model: str, provider: str, ephemeral: bool, cwd: str, version: str, client: str, now_s: int
) -> Json:
    """The result of `thread/start`; its `thread` is what `thread/started` announces."""
    thread: Json = {
        "id": thread_id,
        "environments": [],
        "extra": None,
        "sessionId": thread_id,
        "forkedFromId": None,
        "parentThreadId": None,
        "preview": "",
        "ephemeral": ephemeral,
        "section": None,
        "sectionEnteredAt": None,
        "projectId": None,
        "historyMode": "paginated",
        "modelProvider": provider,
        "model": model,
        "reasoningEffort": None,
        "createdAt": now_s,
        "updatedAt": now_s,
        "recencyAt": now_s,
        "status": {"type": "idle"},
        "path": None,
        "cwd": cwd,
        "cliVersion": version,
        "originator": client,
        "source": "vscode",
        "canAcceptDirectInput": True,
        "threadSource": None,
        "agentNickname": None,
        "agentRole": None,
        "gitInfo": None,
        "name": None,
        "daybreakEnabled": None,
        "turns": [],
    }
    return {
        "thread": thread,
        "model": model,
        "modelProvider": provider,
        "serviceTier": None,
        "disabledPluginIds": [],
        "cwd": cwd,
        "runtimeWorkspaceRoots": [],
        "instructionSources": [],
        "approvalPolicy": "never",
        "approvalsReviewer": "user",
        "sandbox": READ_ONLY,
        "activePermissionProfile": None,
        "reasoningEffort": None,
        "multiAgentMode": "explicitRequestOnly",
    }


def thread_settings(overrides: Json, *, model: str, provider: str, cwd: str) -> Json:
    """What `thread/settings/updated` says after a `turn/start` with overrides."""
    model = overrides.get("model") or model
    effort = overrides.get("effort")
    mode = {"model": model, "reasoning_effort": effort, "developer_instructions": None}
    return {
        "disabledPluginIds": [],
        "cwd": cwd,
        "approvalPolicy": "never",
        "approvalsReviewer": "user",
        "sandboxPolicy": READ_ONLY,
        "activePermissionProfile": None,
        "model": model,
        "modelProvider": provider,
        "serviceTier": overrides.get("serviceTier"),
        "effort": effort,
        "summary": overrides.get("summary"),
        "collaborationMode": {"mode": "default", "settings": mode},
        "multiAgentMode": "explicitRequestOnly",
        "personality": None,
    }


def turn(turn_id: str, status: str, **fields: object) -> Json:
    """A turn; `fields` replace what a turn in progress has."""
    return {
        "id": turn_id,
        "rootTurnId": turn_id,
        "items": [],
        "itemsView": "notLoaded",
        "status": status,
        "error": None,
        "startedAt": None,
        "completedAt": None,
        "durationMs": None,
        **fields,
    }


def turn_error(message: str, info: str | Json) -> Json:
    return {"message": message, "codexErrorInfo": info, "additionalDetails": None, "misalignment": None}


def agent_message(item_id: str, text: str) -> Json:
    return {
        "type": "agentMessage",
        "id": item_id,
        "text": text,
        "phase": None,
        "memoryCitation": None,
        "delivery": None,
        "questions": None,
    }


def user_message(item_id: str, inputs: list[Json]) -> Json:
    """The echo of `turn/start.input`."""
    content = [
        {"type": "text", "text": part.get("text", ""), "text_elements": []}
        if part.get("type") == "text"
        else {"detail": None, **part}
        for part in inputs
    ]
    return {"type": "userMessage", "id": item_id, "clientId": None, "content": content}


def tool_call(call_id: str, tool: str, arguments: object, answer: Json | None, status: str) -> Json:
    return {
        "type": "dynamicToolCall",
        "id": call_id,
        "namespace": None,
        "tool": tool,
        "arguments": arguments,
        "status": status,
        "contentItems": None if answer is None else answer["contentItems"],
        "success": None if answer is None else answer["success"],
        "durationMs": None if answer is None else 0,
    }


def command(item_id: str, cwd: str, status: str) -> Json:
    return {
        "type": "commandExecution",
        "id": item_id,
        "pluginId": None,
        "scriptPath": None,
        "command": "bash -lc true",
        "cwd": cwd,
        "processId": None,
        "source": "agent",
        "status": status,
        "commandActions": [{"type": "unknown", "command": "true"}],
        "aggregatedOutput": None,
        "exitCode": None,
        "durationMs": None if status == "inProgress" else 0,
    }


def raw_message(item_id: str, text: str, turn_id: str) -> Json:
    """An assistant message as the model sent it."""
    return {
        "type": "message",
        "status": "completed",
        "id": item_id,
        "role": "assistant",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
        **_passthrough(turn_id, kinds=["unknown"]),
    }


def raw_user_message(item_id: str, texts: list[str], turn_id: str, wall_s: float, kind: str) -> Json:
    return {
        "type": "message",
        "id": item_id,
        "role": "user",
        "content": [{"type": "input_text", "text": text} for text in texts],
        **_passthrough(turn_id, wall_s=wall_s, kinds=[kind] * len(texts)),
    }


def raw_reasoning(item_id: str, summary: str, turn_id: str) -> Json:
    return {
        "type": "reasoning",
        "id": item_id,
        "summary": [{"type": "summary_text", "text": summary}],
        "content": None,
        "encrypted_content": "c3RhbmQtaW4=",
        **_passthrough(turn_id),
    }


def raw_function_call(item_id: str, call: ToolCall, call_id: str, turn_id: str) -> Json:
    return {
        "type": "function_call",
        "status": "completed",
        "id": item_id,
        "name": call.name,
        "arguments": call.arguments_text,
        "call_id": call_id,
        **_passthrough(turn_id),
    }


def raw_output(item_id: str, call_id: str, output: str, turn_id: str, wall_s: float) -> Json:
    return {
        "type": "function_call_output",
        "id": item_id,
        "call_id": call_id,
        "output": output,
        **_passthrough(turn_id, wall_s=wall_s),
    }


_INJECTED: Final = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
}


def raw_injected(item: Json, fresh_id: str, turn_id: str, wall_s: float) -> Json:
    """The echo of one injected item: with an id, and a note of the pseudo turn that brought it."""
    kind = item.get("type", "message")
    prefix = _INJECTED.get(kind)
    if prefix is None:
        return {"type": "other"}
    rest = {key: value for key, value in item.items() if key not in ("type", "id")}
    if kind == "reasoning":
        rest = {"summary": rest.get("summary", []), "content": rest.get("content"), **rest}
    is_input = item.get("role") in ("user", "developer") or kind == "function_call_output"
    kinds = ["unknown"] * len(item.get("content") or ()) if kind == "message" else None
    note = _passthrough(turn_id, wall_s=wall_s if is_input else None, kinds=kinds)
    return {"type": kind, "id": item.get("id") or f"{prefix}_{fresh_id}", **rest, **note}


def usage(tokens: Tokens) -> Json:
    return {
        "totalTokens": tokens.total,
        "inputTokens": tokens.input,
        "cachedInputTokens": tokens.cached,
        "cacheWriteInputTokens": 0,
        "outputTokens": tokens.output,
        "reasoningOutputTokens": tokens.reasoning,
    }


def _passthrough(turn_id: str, *, wall_s: float | None = None, kinds: list[str] | None = None) -> Json:
    note: Json = {"turn_id": turn_id}
    if wall_s is not None:
        note["create_time"] = wall_s
    if kinds is not None:
        note["content_item_kinds"] = kinds
    return {"internal_chat_message_metadata_passthrough": note}

"""The model catalogue of the fake app-server: two invented models, with every field a bundled model has."""

from __future__ import annotations

from typing import Any


def catalogue() -> dict[str, Any]:
    """What `codex debug models --bundled` prints."""
    return {"models": [_model("model-a", "Model A", priority=1), _model("model-b", "Model B", priority=2)]}


def _model(slug: str, name: str, *, priority: int) -> dict[str, Any]:
    levels = [{"effort": effort, "description": f"{effort} effort"} for effort in ("low", "medium", "high")]
    return {
        "slug": slug,
        "display_name": name,
        "description": "An invented model.",
        "default_reasoning_level": "low",
        "supported_reasoning_levels": levels,
        "shell_type": "unified_exec",
        "visibility": "list",
        "supported_in_api": True,
        "priority": priority,
        "additional_speed_tiers": [],
        "service_tiers": [],
        "availability_nux": None,
        "upgrade": None,
        "model_messages": None,
        "include_skills_usage_instructions": False,
        "include_plugin_usage_instructions": False,
        "include_apps_usage_instructions": False,
        "default_reasoning_summary": "none",
        "support_verbosity": True,
        "default_verbosity": "low",
        "apply_patch_tool_type": "freeform",
        "web_search_tool_type": "text_and_image",
        "truncation_policy": {"mode": "tokens", "limit": 10000},
        "supports_image_detail_original": True,
        "context_window": 272000,
        "max_context_window": 272000,
        "comp_hash": "0",
        "effective_context_window_percent": 95,
        "experimental_supported_tools": ["clock"],
        "input_modalities": ["text", "image"],
        "supports_search_tool": True,
        "supports_experimental_context": False,
        "use_responses_lite": True,
        "supports_reasoning_effort_updates": True,
        "node_repl_auto_review_required": True,
        "node_repl_disabled": False,
        "tool_mode": "code_mode_only",
        "multi_agent_version": "v2",
        "multi_agent_reasoning_effort": "high",
        "base_instructions": "You are an invented agent.",
    }

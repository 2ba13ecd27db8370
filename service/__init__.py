"""The OpenAI-compatible HTTP front: the only layer that knows HTTP, OpenAI's shapes, keys and metrics."""

from importlib.metadata import version

__version__ = version("codex-completions")

"""OpenAI's service tiers: here they are classes of the queue, and nothing that costs more at the provider."""

from __future__ import annotations

from scheduler.model import Priority

WANTED = {
    "flex": Priority.BATCH,
    "priority": Priority.INTERACTIVE,
    "fast": Priority.INTERACTIVE,
    "ultrafast": Priority.INTERACTIVE,
}
"""The class that a tier asks for. The others (`auto`, `default`, `scale`) leave it to the route and the key."""

NAMES = {Priority.INTERACTIVE: "priority", Priority.STANDARD: "default", Priority.BATCH: "flex"}
"""What an answer of this class calls its tier. Source: OpenAI's ServiceTier: the one that was really used."""

"""What is to be written, as values: a store's shell makes them, its file carries them out in their order."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from service.store.protocol import Draft, Event, Item, Key, State

_OVERHEAD_BYTES = 512
"""What anything takes beside its bodies, roughly."""


class Create(NamedTuple):
    """Keep a response."""

    key: Key
    draft: Draft

    @property
    def size_bytes(self) -> int:
        """What it holds of memory, and takes of a store."""
        draft = self.draft
        items = (*draft.input_items, *draft.output_items)
        return _OVERHEAD_BYTES + len(draft.response) + len(draft.job or b"") + _size_of(items)


class Update(NamedTuple):
    """Replace what changes of a response."""

    key: Key
    state: State
    response: bytes
    output_items: tuple[Item, ...]

    @property
    def size_bytes(self) -> int:
        """As above."""
        return _OVERHEAD_BYTES + len(self.response) + _size_of(self.output_items)


class Append(NamedTuple):
    """Keep events of a response."""

    key: Key
    events: tuple[Event, ...]

    @property
    def size_bytes(self) -> int:
        """As above."""
        return _OVERHEAD_BYTES + _size_of(self.events)


class Delete(NamedTuple):
    """Forget a response."""

    key: Key

    @property
    def size_bytes(self) -> int:
        """As above."""
        return _OVERHEAD_BYTES


Operation: TypeAlias = Create | Update | Append | Delete


def _size_of(parts: tuple[Item, ...] | tuple[Event, ...]) -> int:
    return sum(len(part.body) + 64 for part in parts)

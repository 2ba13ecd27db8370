"""The pool's own errors; what the peer does wrong is a `Fault` (pool.events), not an exception."""

from __future__ import annotations


class PoolError(Exception):
    """Base of what the pool raises."""


class ConfigurationError(PoolError):
    """The profile cannot work as written (credentials missing, bad model). One plain line."""


class EnvironmentUnfit(PoolError):  # noqa: N818 - reads as a fact, and is shown to people
    """This machine lacks what the profile needs (no CLI, CLI too old, directory not writable). One plain line."""


class IllegalTransition(PoolError):  # noqa: N818 - names the bug
    """Our own bug: a state machine was asked for a move that its table does not have. Carries the object's story."""

    def __init__(self, what: str, source: str, target: str, story: str) -> None:
        super().__init__(f"{what}: {source} -> {target} is not in the table\n{story}")
        self.story = story

"""Disks for tests, which can be full."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

DISK_BYTES = 1024 * 1024
LIMIT_BYTES = 32 * 1024


class Disk(Protocol):
    """`path` is a directory on it."""

    path: Path

    def fill(self) -> None:
        """There is no space left."""

    def clear(self) -> None:
        """There is space again."""


class NoDiskError(Exception):
    """There can be none here; the message says why."""


class MountedDisk:
    """A real one, of a megabyte."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filling = path / "filling"

    def fill(self, but_bytes: int = 0) -> None:
        """See the protocol; also below. `but_bytes` are left."""
        self._filling.write_bytes(b"x" * (shutil.disk_usage(self.path).free - but_bytes))

    def clear(self) -> None:
        """By removing what filled it."""
        self._filling.unlink()


class LimitedDisk:
    """No disk of its own: full means that no file of this process may grow beyond its first pages."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self) -> None:
        """See the protocol; also below."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, self._before[1]))

    def clear(self) -> None:
        """By allowing what was allowed."""
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


@contextmanager
def mounted(path: Path) -> Iterator[MountedDisk]:
    """A disk that is mounted at `path`, which is made.

    Raises:
        NoDiskError: nothing may be mounted.
    """
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        raise NoDiskError("only root can mount")
    try:
        yield MountedDisk(path)
    finally:
        subprocess.run(["umount", str(path)], check=True)  # noqa: S607 - as it was mounted


@contextmanager
def limited(path: Path) -> Iterator[LimitedDisk]:
    """A directory at `path`, which is made."""
    path.mkdir()
    disk = LimitedDisk(path)
    try:
        yield disk
    finally:
        disk.clear()

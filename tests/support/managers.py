"""A service manager's ear: a real datagram socket, and what was said to it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Ear:
    """What a service told its manager, in the order in which it came."""

    def __init__(self, bound: socket.socket, address: str) -> None:
        self.address = address
        """As NOTIFY_SOCKET says it."""
        self.socket = bound
        self._heard: list[str] = []

    def heard(self) -> list[str]:
        """Everything up to now, line by line."""
        while True:
            try:
                self._heard += self.socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return self._heard

    def facts(self) -> list[str]:
        """Likewise, without what is said all the time, and without times."""
        return [line for line in self.heard() if line != "WATCHDOG=1" and not line.startswith("MONOTONIC_USEC=")]


@contextmanager
def listening(address: str) -> Iterator[Ear]:
    """An ear at a path, or at a name without a file (`@...`)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        bound.setblocking(False)
        yield Ear(bound, address)


@contextmanager
def listening_in(folder: Path) -> Iterator[Ear]:
    """An ear with a file in the folder."""
    with listening(str(folder / "notify")) as ear:
        yield ear

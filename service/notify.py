"""What the service manager (systemd) is told: that we serve, reload or stop, and that the loop still turns.

Source: sd_notify(3), "Well-known assignments"; sd_watchdog_enabled(3).
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

VARIABLES = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
"""How the manager says where it listens; for this process alone."""

SEND_TIMEOUT_S = 0.5
"""Nobody waits longer for a manager that does not read: its socket holds hundreds of lines."""


class ServiceManager:
    """Whoever started us, if it wants to be told; else, or when it is gone, every method does nothing."""

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address is not None and address.startswith("@") else address
        self._every_s = None if watchdog_s is None else watchdog_s / 2
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reloads = 0
        self._is_serving = False

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> ServiceManager:
        """The one that is named there. A watchdog that is meant for another process is none."""
        address, microseconds = environ.get("NOTIFY_SOCKET", ""), environ.get("WATCHDOG_USEC", "")
        is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog_s = int(microseconds) / 1e6 if is_ours and microseconds.isdecimal() else 0.0
        return cls(address if address[:1] in {"/", "@"} else None, watchdog_s or None)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Within the block it is told; the running loop keeps its watchdog quiet, twice in each of its periods."""
        if self._address is None:
            yield
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unbound:
            unbound.settimeout(SEND_TIMEOUT_S)
            self._socket = unbound
            self._beat()
            try:
                yield
            finally:
                self._socket = None
                if self._timer is not None:
                    self._timer.cancel()

    def serving(self) -> None:
        """Requests are taken."""
        self._is_serving = True
        self._tell("READY=1")

    def stopping(self) -> None:
        """We end; what is said of reloads from now on is of no interest."""
        self._is_serving = False
        self._tell("STOPPING=1")

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """The block is a reload. Of several at once the first begins and the last ends it."""
        self._reloads += 1
        if self._is_serving and self._reloads == 1:
            self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            self._reloads -= 1
            if self._is_serving and self._reloads == 0:
                self._tell("READY=1")

    def _beat(self) -> None:
        if self._every_s is not None:
            self._tell("WATCHDOG=1")
            self._timer = asyncio.get_running_loop().call_later(self._every_s, self._beat)

    def _tell(self, state: str) -> None:
        if self._socket is not None and self._address is not None:
            with suppress(OSError):  # nobody is there, or reads: the manager's own limits say what follows
                self._socket.sendto(state.encode(), self._address)

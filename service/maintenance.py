"""Maintenance: while it is on clients are told so instead of being served; what runs and what waits goes on.

It is on by the configuration, or by a file that exists: the admin API writes it, an operator may, and it survives a
restart. Processes that share a file share its maintenance, within `LOOK_EVERY_S`.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.fields import HomePath, Seconds

LOOK_EVERY_S = 1.0
MAX_FILE_BYTES = 64 * 1024

RoutePrefix = Annotated[str, Field(pattern=r"^/v1/[a-z/_]*[a-z_]$", max_length=100)]


class Notice(BaseModel):
    """What clients are told, and on which routes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    message: str = Field(
        "the service is under maintenance: try again later",
        min_length=1,
        max_length=1000,
        description="What clients are told.",
    )
    retry_after_s: Seconds = Field(60.0, description="When clients are to come again.")
    routes: tuple[RoutePrefix, ...] = Field(
        (), max_length=20, description="Only these and what is below them, such as `/v1/responses`; none: all of `/v1`."
    )

    def covers(self, route: str) -> bool:
        """Whether requests to a route (its pattern) are refused; health and metrics never are."""
        return any(route == each or route.startswith(f"{each}/") for each in self.routes or ("/v1",))


class MaintenanceSettings(Notice):
    """Maintenance by configuration, and what is said when it is switched on otherwise."""

    on: bool = Field(default=False, description="Refuse requests from the start; a file or an operator can, too.")
    file: HomePath | None = Field(
        None, description="While it exists, maintenance is on; unset: `maintenance.json` in `state_dir`."
    )


class _Order(Notice):
    """What the file says; what it leaves out is as configured. `by` is whoever switched it on."""

    by: str = Field("", max_length=100)


class State(NamedTuple):
    """`notice` is None while maintenance is off. `source` is `configuration`, `file` or "", `by` who switched it on, as
    far as that is known.
    """

    notice: Notice | None
    source: str = ""
    by: str = ""


OFF = State(None)
Tell = Callable[[State, str], None]
"""Told of every change, with why a file could not be understood, or ""."""


class Maintenance:
    """One for the service; `notice` is what holds for the next request. Create it inside the running loop."""

    def __init__(self, settings: MaintenanceSettings, path: Path, tell: Tell) -> None:
        self._settings = settings
        self._path = path
        self._tell = tell
        self._seen: tuple[int, ...] | None = None
        self._order: _Order | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.state = OFF
        self.notice: Notice | None = None
        self._watch()
        self._settle()

    def configure(self, settings: MaintenanceSettings) -> None:
        """Go by these settings from now on."""
        self._settings = settings
        self._settle()

    async def begin(self, by: str, **notice: object) -> bool:
        """Switch it on at once, and for what is left out as configured; whether it survives a restart, too.

        Raises:
            ValueError: the notice is wrong; one line for each mistake.
        """
        try:
            order = _Order.model_validate(notice | {"by": by})
        except ValidationError as error:
            raise ValueError(_mistakes(error)) from None
        self._order = order
        self._settle()
        try:
            await asyncio.to_thread(_write, self._path, order.model_dump_json(exclude_unset=True))
        except OSError:
            return False
        return True

    async def end(self) -> bool:
        """Switch it off, unless it is on by configuration; whether that survives a restart, too."""
        self._order = None
        self._settle()
        try:
            await asyncio.to_thread(_remove, self._path)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Look at the file no more."""
        if self._timer is not None:
            self._timer.cancel()

    # --- inside ----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        self._look()
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._watch)

    def _look(self) -> None:
        """Go by the file if it has come, gone or changed; what was ordered and could not be written stays in force."""
        try:
            try:
                status = self._path.stat()
                seen = status.st_mtime_ns, status.st_size, status.st_ino
            except FileNotFoundError:
                seen = None
            if seen != self._seen:
                self._order, trouble = _read(self._path) if seen is not None else (None, "")
                self._seen = seen
                self._settle(trouble)
        except OSError:
            return  # as before: it is looked at again

    def _settle(self, trouble: str = "") -> None:
        if self._order is not None:
            configured = {name: getattr(self._settings, name) for name in Notice.model_fields}
            ordered = {name: getattr(self._order, name) for name in self._order.model_fields_set}
            by = ordered.pop("by", "")
            state = State(Notice.model_construct(**configured | ordered), "file", by)
        elif self._settings.on:
            notice = {name: getattr(self._settings, name) for name in Notice.model_fields}
            state = State(Notice.model_construct(**notice), "configuration")
        else:
            state = OFF
        if state != self.state or trouble:
            self.state, self.notice = state, state.notice
            self._tell(state, trouble)


def _read(path: Path) -> tuple[_Order | None, str]:
    """What the file says, or why that cannot be understood: whoever wrote it wants maintenance all the same."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES)
    except FileNotFoundError:
        return None, ""
    try:
        return (_Order.model_validate_json(text) if text.strip() else _Order()), ""
    except ValidationError as error:
        return _Order(), _mistakes(error)


def _mistakes(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'the file'}: {each['msg']}" for each in found[:5])


def _write(path: Path, text: str) -> None:
    """All of it or nothing, and for good."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    if path.parent.is_dir():
        _sync(path.parent)


def _sync(directory: Path) -> None:
    number = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)

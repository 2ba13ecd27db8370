"""A new configuration while the service runs: read and checked aside, then taken at once or not at all.

Requests that are under way keep what they began with. A profile that is gone takes no new jobs from the moment of the
change, and its workers go when its queue is empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Generic, NamedTuple, Protocol, TypeVar

from pydantic import BaseModel

from pool.errors import ConfigurationError, EnvironmentUnfit
from pool.profile import Profile
from service.launch import profiles, queue_policies
from service.logs import configure_logging
from service.notify import ServiceManager
from service.settings import Settings, require_keys
from service.state import Configuration, Service
from service.store.settings import StoreSettings
from service.usage.settings import UsageSettings

S = TypeVar("S")

FIXED = frozenset(
    {
        "state_dir",
        "server.host",
        "server.port",
        "server.metrics_host",
        "server.metrics_port",
        "admin.host",
        "admin.port",
        "trace.path",
        "maintenance.file",
        *(f"store.{name}" for name in StoreSettings.model_fields),
        *(f"usage.{name}" for name in UsageSettings.model_fields),
    }
)
"""What only a restart can change."""


class Workers(Protocol[S]):
    """What a reload needs of the pool; what `specs` gives is the pool's own affair."""

    @property
    def launches(self) -> Mapping[str, S]:
        """What workers of each profile are started with."""

    def specs(self, profiles: Iterable[Profile], search_path: str | None = None) -> Mapping[str, S]:
        """What workers of these would be started with; blocks, and changes nothing.

        Raises:
            ConfigurationError: a credentials file is missing.
            EnvironmentUnfit: a CLI is missing or unusable.
        """

    def reconfigure(self, specs: Mapping[str, S]) -> Collection[str]:
        """Have these profiles from now on. Returns those whose workers are being replaced."""


class _Read(NamedTuple, Generic[S]):
    configuration: Configuration
    specs: Mapping[str, S]
    changed: tuple[str, ...]


class Reloaded(NamedTuple):
    """What came of a reload: the settings that changed and the profiles whose workers are being replaced; or, with
    nothing changed, the `refusal`.
    """

    changed: Collection[str] = ()
    replaced: Collection[str] = ()
    refusal: str | None = None


Change = Callable[[Settings], Settings]
"""From the settings in force to others, which have only been checked by themselves.

Raises:
    ConfigurationError: it cannot be.
"""


class Reloader(Generic[S]):
    """Owns the change from one configuration to the next; `load` gives the next one, and may block."""

    def __init__(
        self,
        service: Service,
        workers: Workers[S],
        load: Callable[[], Settings],
        environ: Mapping[str, str],
        manager: ServiceManager | None = None,
    ) -> None:
        self._service = service
        self._workers = workers
        self._load = load
        self._environ = environ
        self.manager = manager or ServiceManager()
        """Who is told of reloads."""
        self._asked = asyncio.Event()
        self._leaving: set[str] = set()
        self.generation = 1
        """Which configuration is in force."""
        self.by_hand: tuple[str, ...] = ()
        """What is not as configured."""
        service.scheduler.on_queue_closed = self._on_queue_closed

    def ask(self) -> None:
        """Reload, soon. Asking again before it has begun is the same wish; asking while it runs is another."""
        self._asked.set()

    async def run(self) -> None:
        """Reload whenever asked, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self.reload()

    async def reload(self, change: Change | None = None) -> Reloaded:
        """Take the new configuration, or that in force with a `change`, until the next reload; or say why not, and
        change nothing.
        """
        with self.manager.reloading():
            return await self._reload(change)

    async def _reload(self, change: Change | None) -> Reloaded:
        observability = self._service.observability
        try:
            while True:
                current = self._service.current
                read = await asyncio.to_thread(self._read, current, change)
                if self._service.current is current:  # else another reload was faster, and this one begins anew
                    break
            replaced = self._take(read)
        except (ConfigurationError, EnvironmentUnfit) as error:
            observability.configuration_refused(str(error))
            return Reloaded(refusal=str(error))
        except Exception as error:  # noqa: BLE001 - the boundary: a bug costs this reload and nothing else
            observability.reload_failed(error)
            return Reloaded(refusal="a bug of ours: the log has more")
        self.generation += 1
        self.by_hand = () if change is None else tuple(dict.fromkeys((*self.by_hand, *read.changed)))
        observability.configuration_reloaded(read.changed, replaced)
        return Reloaded(read.changed, replaced)

    def _read(self, current: Configuration, change: Change | None) -> _Read[S]:
        """What is configured now, or changed by hand; in a thread of its own."""
        new = self._load() if change is None else change(current.settings)
        changed = changes(current.settings, new)
        fixed = [name for name in changed if name in FIXED]
        if fixed:
            raise ConfigurationError(f"{', '.join(fixed)}: only a restart can change this")
        require_keys(new)
        specs = self._workers.specs(profiles(new, self._environ), self._environ.get("PATH"))
        return _Read(Configuration.of(new, current), specs, changed)

    def _take(self, read: _Read[S]) -> Collection[str]:
        """The change itself, in one step. The profiles whose workers are being replaced."""
        settings = read.configuration.settings
        leaving = {name: spec for name, spec in self._workers.launches.items() if name not in read.specs}
        self._leaving = set(leaving)
        replaced = self._workers.reconfigure({**leaving, **read.specs})
        self._service.scheduler.reconfigure(queue_policies(settings), settings.server.max_held_bytes)
        if settings.log != self._service.current.settings.log:
            configure_logging(settings.log.level)
        self._service.maintenance.configure(settings.maintenance)
        self._service.traces.settings = settings.trace
        self._service.current = read.configuration
        return replaced

    def _on_queue_closed(self, profile: str) -> None:
        """Nobody waits for this profile any more, or runs on it."""
        if profile in self._leaving:
            self._leaving.discard(profile)
            launches = self._workers.launches
            self._workers.reconfigure({name: spec for name, spec in launches.items() if name != profile})


def changes(old: Settings, new: Settings) -> tuple[str, ...]:
    """The names of the settings or tables that differ; never what is in them."""
    found: list[str] = []
    for section in Settings.model_fields:
        before, after = getattr(old, section), getattr(new, section)
        if isinstance(before, BaseModel):
            names = type(before).model_fields
            found += [f"{section}.{name}" for name in names if getattr(before, name) != getattr(after, name)]
        elif isinstance(before, dict):
            found += [f"{section}.{name}" for name in before | after if before.get(name) != after.get(name)]
        elif before != after:
            found.append(section)
    return tuple(found)

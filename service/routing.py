"""From a public model name to a profile and what to ask of it."""

from __future__ import annotations

from typing import NamedTuple

from service.settings import Settings


class Route(NamedTuple):
    """What a public model name stands for."""

    public: str
    profile: str
    model: str
    effort: str | None


class Routes:
    """The configured model names; upper and lower case are the same."""

    def __init__(self, settings: Settings) -> None:
        self._routes = {
            name.lower(): Route(
                name, route.profile, route.model or settings.profiles[route.profile].default_model, route.effort
            )
            for name, route in settings.models.items()
        }

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._routes

    def find(self, name: str) -> Route | None:
        """The route of this name, if there is one."""
        return self._routes.get(name.lower())

    def names(self) -> list[str]:
        """The public names, as configured."""
        return [route.public for route in self._routes.values()]

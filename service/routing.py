"""From a public model name to the profiles that may answer, in order.

Everything that can be worked out beforehand is: a request costs one lookup, and one draw where there is a choice.
"""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from scheduler.model import Priority

if TYPE_CHECKING:
    from service.settings import RouteSettings, Settings

EFFORT_SUFFIXES = ("minimal", "low", "medium", "high", "xhigh")

Draw = Callable[[], float]
"""A number in [0, 1)."""


class Target(NamedTuple):
    """A profile that may answer, and what it is asked for.

    `tenant_queue_max` is how many jobs of one key may wait there, None for no such limit. With `is_strict` a parameter
    that would have no effect is refused, with `as_transcript` a history goes there as one text.
    """

    profile: str
    model: str
    queue_budget_s: float
    tenant_queue_max: int | None
    is_strict: bool = False
    as_transcript: bool = False


Plan = tuple[Target, ...]
"""Who is asked first, and who after a refusal."""


class Route(NamedTuple):
    """What a public model name stands for.

    `model` is the name under which it is configured. `effort` is what is asked for when the request does not say,
    `efforts` what may be asked for; () for anything. `plans` are the choices, `edges` where in [0, 1) one ends and the
    next begins. `salt` is None, or what makes a key's choice here another than its choice elsewhere.
    """

    public: str
    model: str
    plans: tuple[Plan, ...]
    edges: tuple[float, ...]
    salt: str | None
    effort: str | None
    efforts: tuple[str, ...]
    priority: Priority | None
    deadline_s: float | None
    max_prompt_chars: int | None
    sees_images: bool

    def plan(self, tenant: str, draw: Draw) -> Plan:
        """Whom to ask for this tenant."""
        if not self.edges:
            return self.plans[0]
        point = draw() if self.salt is None else sticky_point(self.salt, tenant)
        return self.plans[bisect_right(self.edges, point)]


def sticky_point(salt: str, tenant: str) -> float:
    """A number in [0, 1] that is always the same for the same two, in every process and version."""
    digest = hashlib.blake2b(f"{salt}\0{tenant}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


class Routes:
    """The configured model names; upper and lower case are the same.

    Raises:
        ValueError: the models contradict each other, themselves or the profiles; one line that names the place.
    """

    def __init__(self, settings: Settings, draw: Draw = random.random) -> None:
        self._draw = draw
        self._routes: dict[str, Route] = {}
        self._owners: dict[str, str] = {}
        self._listed: list[str] = []
        for name, model in settings.models.items():
            route = _compiled(name, model, settings)
            self._add(name, route, is_listed=True)
            suffixed = {f"{name}-{level}": level for level in _suffixes(model)}
            for public, level in suffixed.items():
                self._add(name, route._replace(public=public, effort=level), is_listed=public in model.aliases)
            for alias in model.aliases:
                if alias not in suffixed:
                    self._add(name, route._replace(public=alias), is_listed=True)

    def find(self, name: str, models: Collection[str] | None = None) -> Route | None:
        """The route of this name, if there is one, and it is one of these `models`; None for any."""
        route = self._routes.get(name.lower())
        return None if models is not None and route is not None and route.model not in models else route

    def plan(self, route: Route, tenant: str) -> Plan:
        """Whom to ask for this tenant: the same for all its requests where the route is sticky, else by chance."""
        return route.plan(tenant, self._draw)

    def names(self, models: Collection[str] | None = None) -> list[str]:
        """The public names of these `models` that are listed: as configured, but for the effort suffixes."""
        return [name for name in self._listed if self.find(name, models) is not None]

    def targets(self) -> Iterator[Target]:
        """Everything that may be asked, again for each name that leads there."""
        return (target for route in self._routes.values() for plan in route.plans for target in plan)

    def led(self) -> Iterator[tuple[str, list[tuple[float, Target]], list[str]]]:
        """Each listed name, the shares of those who are asked first, and the profiles that are asked after them."""
        for name in self._listed:
            route = self._routes[name.lower()]
            starts, ends = (0.0, *route.edges), (*route.edges, 1.0)
            shares = [(end - start, plan[0]) for start, end, plan in zip(starts, ends, route.plans, strict=True)]
            yield name, shares, list(dict.fromkeys(target.profile for plan in route.plans for target in plan[1:]))

    def described(self) -> Iterator[str]:
        """Each listed name and where it leads, in a line."""
        for name, shares, others in self.led():
            first = ", ".join(f"{share:.4g} to {target.profile} ({target.model})" for share, target in shares)
            yield f"{name}: {first}" + (f", else {', '.join(others)}" if others else "")

    def _add(self, owner: str, route: Route, *, is_listed: bool) -> None:
        key = route.public.lower()
        other = self._owners.get(key)
        if other is not None:
            whose = "twice" if other == owner else f"also the name of models.{other}"
            raise ValueError(f"models.{owner}: {route.public!r} is {whose} (upper and lower case are the same)")
        self._owners[key] = owner
        self._routes[key] = route
        if is_listed:
            self._listed.append(route.public)


def _suffixes(model: RouteSettings) -> Iterator[str]:
    if model.effort_suffixes:
        yield from (level for level in EFFORT_SUFFIXES if not model.efforts or level in model.efforts)


def _compiled(name: str, model: RouteSettings, settings: Settings) -> Route:
    def refused(reason: str) -> ValueError:
        return ValueError(f"models.{name}: {reason}")

    def target(profile: str, wanted: str | None) -> Target:
        spec = settings.profiles.get(profile)
        if spec is None:
            raise refused(f"there is no profile {profile!r}")
        share = int(spec.queue_share * spec.queue_max)
        return Target(
            profile,
            wanted or model.model or spec.default_model,
            model.queue_budget_s or spec.queue_budget_s,
            max(1, share) if spec.queue_share < 1 and len(settings.key_hashes()) > 1 else None,
            is_strict=spec.reject_unsupported,
            as_transcript=spec.prompt == "transcript",
        )

    weighted = [(each.weight, target(each.profile, each.model)) for each in model.targets]
    weighted = weighted or [(1.0, target(model.profile, None))]
    if len({each for _, each in weighted}) != len(weighted):
        raise refused("two targets are the same")
    total = sum(weight for weight, _ in weighted)
    if not total:
        raise refused("the weights of all targets are zero")
    by_profile = {each.profile: each for _, each in weighted}
    if len(set(model.fallback)) != len(model.fallback):
        raise refused("fallback names a profile twice")
    fallback = [by_profile.get(profile) or target(profile, None) for profile in model.fallback]
    used = [(weight, each) for weight, each in weighted if weight]
    for each in fallback:
        if all(first.profile == each.profile for _, first in used):
            raise refused(f"fallback names the profile {each.profile!r}, which is always asked first")
    limits = [limit for limit in (model.max_prompt_chars, settings.server.max_prompt_chars) if limit is not None]
    return Route(
        public=name,
        model=name,
        plans=tuple((each, *(other for other in fallback if other.profile != each.profile)) for _, each in used),
        edges=tuple(edge / total for edge in accumulate(weight for weight, _ in used[:-1])),
        salt=name.lower() if model.sticky else None,
        effort=model.effort,
        efforts=model.efforts,
        priority=None if model.priority is None else Priority(model.priority),
        deadline_s=model.deadline_s,
        max_prompt_chars=min(limits, default=None),
        sees_images=model.images,
    )

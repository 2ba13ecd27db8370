"""Numbers, and the text in which Prometheus reads them.

They are plain Python numbers, each with the text that it is told in: counting costs a fifth of what the client library
takes, and a scrape of fifty profiles and fifty keys a thirtieth, which is time in which no stream moves
(docs/decisions/0022).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Generic, NamedTuple, TypeVar

PREFIX = "codex_completions_"

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "%": "%%"})


class About(NamedTuple):
    """What a metric counts, in what unit, and what it means when there is more of it; docs/metrics.md is made of it."""

    unit: str
    meaning: str
    rise: str = ""


class Count:
    """A number that only grows."""

    __slots__ = ("_template", "value")

    def __init__(self, template: bytes) -> None:
        self.value: float = 0
        self._template = template

    def inc(self, amount: float = 1) -> None:
        """So much more."""
        self.value += amount

    def text(self) -> bytes:
        """Its line."""
        return self._template % self.value


class Sums:
    """Several numbers that only grow, and that are counted together."""

    __slots__ = ("_template", "values")

    def __init__(self, template: bytes, count: int) -> None:
        self.values: list[float] = [0] * count
        self._template = template

    def add(self, *amounts: float) -> None:
        """So much more of each."""
        values = self.values
        for place, amount in enumerate(amounts):
            values[place] += amount

    def text(self) -> bytes:
        """Their lines."""
        return self._template % (*self.values,)


class Spread:
    """How many values were how large, by upper bounds."""

    __slots__ = ("_bounds", "_template", "counts", "total")

    def __init__(self, template: bytes, bounds: tuple[float, ...]) -> None:
        self.counts = [0] * (len(bounds) + 1)
        self.total: float = 0
        self._template = template
        self._bounds = bounds

    def observe(self, value: float) -> None:
        """One more value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def text(self) -> bytes:
        """Its lines."""
        counts = (*accumulate(self.counts),)
        return self._template % (*counts, self.total, counts[-1])


class Family(ABC):
    """One metric: its name, what it means, and the names of its labels."""

    kind = "untyped"

    def __init__(self, name: str, about: About, labels: tuple[str, ...]) -> None:
        self.name = PREFIX + name
        self.about = about
        self.labels = labels
        self._head = f"# HELP {self.name} {about.unit}: {about.meaning}\n# TYPE {self.name} {self.kind}\n".encode()

    def text(self) -> bytes:
        """What Prometheus is told of it."""
        return self._head + b"".join(self._samples())

    @abstractmethod
    def _samples(self) -> Iterable[bytes]:
        """A line for each of its numbers."""

    def _template(self, words: tuple[object, ...], suffix: str = "", more: str = "") -> bytes:
        """A sample's line, with a place for its value."""
        pairs = zip(self.labels, words, strict=not more)
        told = [f'{name}="{str(word).translate(_ESCAPES)}"' for name, word in pairs] + [more] * bool(more)
        return (f"{self.name}{suffix}" + (f"{{{','.join(told)}}}" if told else "") + " %r\n").encode()


T = TypeVar("T", Count, Sums, Spread)


class _Children(Family, Generic[T]):
    """A metric whose numbers are counted as things happen; without labels there is one from the start."""

    def __init__(
        self, name: str, about: About, labels: tuple[str, ...], make: Callable[[tuple[str, ...]], T], given: int
    ) -> None:
        super().__init__(name, about, labels)
        self._make: Callable[[tuple[str, ...]], T] = make
        self._given = given
        self._found: dict[tuple[object, ...], T] = {}
        self._children: dict[tuple[str, ...], T] = {}
        if not given:
            self()

    def __call__(self, *labels: object) -> T:
        """The number with these labels; they are not many, and what is found is remembered."""
        child = self._found.get(labels)
        return child if child is not None else self._first(labels)

    def _first(self, labels: tuple[object, ...]) -> T:
        """200 and "200" are one number."""
        assert len(labels) == self._given, self.name  # noqa: S101 - a bug of ours
        words = tuple(map(str, labels))
        child = self._children.get(words)
        if child is None:
            child = self._children[words] = self._make(words)
        self._found[labels] = child
        return child

    def _samples(self) -> Iterable[bytes]:
        return [child.text() for child in self._children.values()]


class Counter(_Children[Count]):
    """How often something happened, or how much there was of it."""

    kind = "counter"

    def __init__(self, name: str, about: About, labels: tuple[str, ...]) -> None:
        super().__init__(f"{name}_total", about, labels, lambda words: Count(self._template(words)), given=len(labels))


class Counters(_Children[Sums]):
    """How much there was of several things that come together; `words` is what the last label calls them."""

    kind = "counter"

    def __init__(self, name: str, about: About, labels: tuple[str, ...], words: tuple[str, ...]) -> None:
        def make(given: tuple[str, ...]) -> Sums:
            return Sums(b"".join(self._template((*given, word)) for word in words), len(words))

        super().__init__(f"{name}_total", about, labels, make, given=len(labels) - 1)


class Histogram(_Children[Spread]):
    """How large values were."""

    kind = "histogram"

    def __init__(self, name: str, about: About, labels: tuple[str, ...], bounds: tuple[float, ...]) -> None:
        ends = [f'le="{bound!r}"' for bound in bounds] + ['le="+Inf"']

        def make(words: tuple[str, ...]) -> Spread:
            buckets = [self._template(words, "_bucket", end) for end in ends]
            return Spread(b"".join((*buckets, self._template(words, "_sum"), self._template(words, "_count"))), bounds)

        super().__init__(name, about, labels, make, given=len(labels))


class Gauge(Family):
    """How much there is now."""

    kind = "gauge"

    def __init__(self, name: str, about: About, labels: tuple[str, ...]) -> None:
        super().__init__(name, about, labels)
        self._templates: dict[tuple[object, ...], bytes] = {}
        self._now: dict[tuple[object, ...], float] = {}

    def set(self, value: float, *labels: object) -> None:
        """It is so much now."""
        self._now[labels] = value

    def clear(self) -> None:
        """Nothing is known of it now."""
        self._now.clear()

    def _samples(self) -> Iterable[bytes]:
        if not self._templates.keys() >= self._now.keys():
            self._templates = {labels: self._template(labels) for labels in self._now}
        templates = self._templates
        return [templates[labels] % value for labels, value in self._now.items()]


class Metrics:
    """All metrics of a service. `read` is called before each scrape, to set what is read at that moment."""

    def __init__(self) -> None:
        self.families: list[Family] = []
        self.read: Callable[[], None] = lambda: None

    def counter(self, name: str, about: About, *labels: str) -> Counter:
        """A new one, `name` without its `_total`."""
        return self._with(Counter(name, about, labels))

    def counters(self, name: str, about: About, *labels: str, words: tuple[str, ...]) -> Counters:
        """A new one, `name` without its `_total`, whose last label says one of these words."""
        return self._with(Counters(name, about, labels, words))

    def histogram(self, name: str, about: About, *labels: str, bounds: tuple[float, ...]) -> Histogram:
        """A new one, with these upper bounds, in order."""
        return self._with(Histogram(name, about, labels, bounds))

    def gauge(self, name: str, about: About, *labels: str) -> Gauge:
        """A new one."""
        return self._with(Gauge(name, about, labels))

    def text(self) -> bytes:
        """Everything, as of now, in Prometheus' text format.

        Source: Prometheus, "Exposition formats", version 0.0.4.
        """
        self.read()
        return b"".join([family.text() for family in self.families])

    def _with(self, family: F) -> F:
        assert all(family.name != other.name for other in self.families)  # noqa: S101 - a bug of ours
        self.families.append(family)
        return family


F = TypeVar("F", bound=Family)

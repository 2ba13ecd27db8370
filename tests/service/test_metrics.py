"""Numbers come out as they went in, read by Prometheus' own parser."""

from __future__ import annotations

from math import inf

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import About, Metrics

ABOUT = About("things", "that are counted")

Sample = tuple[str, dict[str, str], float]


def samples(metrics: Metrics) -> list[Sample]:
    """What Prometheus reads."""
    families = text_string_to_metric_families(metrics.text().decode())
    return [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]


def test_a_counter_without_labels_is_there_before_anything_happens() -> None:
    metrics = Metrics()
    things = metrics.counter("things", ABOUT)
    assert samples(metrics) == [("codex_completions_things_total", {}, 0.0)]
    things().inc()
    things().inc(2.5)
    assert samples(metrics) == [("codex_completions_things_total", {}, 3.5)]


def test_a_metric_tells_what_it_is_even_without_a_number() -> None:
    metrics = Metrics()
    metrics.counter("things", ABOUT, "kind")
    metrics.gauge("level", ABOUT)
    assert metrics.text().decode().splitlines() == [
        "# HELP codex_completions_things_total things: that are counted",
        "# TYPE codex_completions_things_total counter",
        "# HELP codex_completions_level things: that are counted",
        "# TYPE codex_completions_level gauge",
    ]


def test_a_label_may_hold_anything() -> None:
    metrics = Metrics()
    things = metrics.counter("things", ABOUT, "name", "code")
    names = ['say "hi"', "back\\slash", "two\nlines", "a,b={}", "%d %%", "\N{SNOWMAN}"]
    for name in names:
        things(name, 200).inc()
    assert [labels["name"] for _, labels, _ in samples(metrics)] == names
    assert {labels["code"] for _, labels, _ in samples(metrics)} == {"200"}


def test_a_number_and_its_word_are_one_label() -> None:
    metrics = Metrics()
    things = metrics.counter("things", ABOUT, "status")
    things(200).inc()
    things("200").inc()
    assert samples(metrics) == [("codex_completions_things_total", {"status": "200"}, 2.0)]


def test_what_comes_together_is_counted_together() -> None:
    metrics = Metrics()
    tokens = metrics.counters("tokens", ABOUT, "model", "kind", words=("input", "output"))
    tokens("m").add(10, 5)
    tokens("m").add(1, 0)
    name = "codex_completions_tokens_total"
    assert samples(metrics) == [
        (name, {"model": "m", "kind": "input"}, 11.0),
        (name, {"model": "m", "kind": "output"}, 5.0),
    ]


def test_a_histogram_counts_up_to_and_with_its_bounds() -> None:
    metrics = Metrics()
    waits = metrics.histogram("wait_seconds", ABOUT, "profile", bounds=(0.1, 1.0))
    for value in (0.05, 0.1, 0.1000001, 1.0, 7.0):
        waits("main").observe(value)
    buckets = {
        float(labels["le"]): value for name, labels, value in samples(metrics) if name.endswith("_bucket") and labels
    }
    assert buckets == {0.1: 2, 1.0: 4, inf: 5}
    rest = [sample for sample in samples(metrics) if not sample[0].endswith("_bucket")]
    name = "codex_completions_wait_seconds"
    assert rest == [
        (f"{name}_sum", {"profile": "main"}, pytest.approx(8.2500001)),
        (f"{name}_count", {"profile": "main"}, 5.0),
    ]


def test_gauges_are_read_at_the_moment_of_the_scrape_and_forgotten_with_what_they_told_of() -> None:
    metrics = Metrics()
    level = metrics.gauge("level", ABOUT, "profile")
    there = {"a": 1, "b": 2}

    def read() -> None:
        level.clear()
        for profile, value in there.items():
            level.set(value, profile)

    metrics.read = read
    name = "codex_completions_level"
    assert samples(metrics) == [(name, {"profile": "a"}, 1.0), (name, {"profile": "b"}, 2.0)]
    there.pop("a")
    there["b"] = 7
    assert samples(metrics) == [(name, {"profile": "b"}, 7.0)]


def test_two_metrics_of_one_name_are_a_bug() -> None:
    metrics = Metrics()
    metrics.counter("things", ABOUT)
    with pytest.raises(AssertionError):
        metrics.counter("things", ABOUT)


def test_a_label_too_many_is_a_bug() -> None:
    metrics = Metrics()
    with pytest.raises(AssertionError):
        metrics.counter("things", ABOUT, "profile")("main", "other")

"""A public model name leads to weighted profiles, then to others in order; what contradicts itself is refused."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from pydantic import ValidationError

from scheduler.model import Priority
from service.routing import Route, Routes, sticky_point
from service.settings import Settings

CANARY = {"targets": [{"profile": "main", "weight": 95}, {"profile": "canary", "weight": 5}]}


def settings(models: dict[str, Any], *, keys: int = 1, **profiles: dict[str, Any]) -> Settings:
    """These models on the profiles main, canary and spare, of which `profiles` may say more."""
    named: dict[str, dict[str, Any]] = {
        name: {"default_model": f"{name}-model"} | profiles.get(name, {}) for name in ("main", "canary", "spare")
    }
    values: dict[str, Any] = {
        "models": models,
        "profiles": named,
        "keys": [{"name": f"key-{number}", "sha256": f"{number:064x}"} for number in range(keys)],
    }
    return Settings(**values)


def routes(models: dict[str, Any], seed: int = 1, **options: Any) -> Routes:
    return Routes(settings(models, **options), random.Random(seed).random)  # noqa: S311 - a lot, no secret


def route(routes: Routes, name: str) -> Route:
    found = routes.find(name)
    assert found is not None
    return found


def asked(routes: Routes, name: str = "m", tenant: str = "alice") -> list[tuple[str, str]]:
    """The profiles and models that are asked for one request, in order."""
    return [(target.profile, target.model) for target in routes.plan(route(routes, name), tenant)]


def refusal(models: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        settings(models)
    (error,) = caught.value.errors()
    return error["msg"].removeprefix("Value error, ")


# --- names -------------------------------------------------------------------------------------------------------


def test_names_are_the_same_in_any_case_and_keep_their_own() -> None:
    found = routes({"Big-One": {"profile": "main", "model": "big", "effort": "high"}, "plain": {"profile": "main"}})
    assert found.names() == ["Big-One", "plain"]
    for name in ("Big-One", "big-one", "BIG-ONE"):
        assert (route(found, name).public, route(found, name).effort) == ("Big-One", "high")
        assert asked(found, name) == [("main", "big")]
    assert asked(found, "plain") == [("main", "main-model")], "the profile's default"
    assert found.find("codex-5") is None, "the configured models replace the defaults"


def test_an_alias_is_a_listed_name_of_the_same_route() -> None:
    found = routes({"m": {"profile": "main", "aliases": ["gpt-4o", "Org/Big"], "effort": "low"}})
    assert found.names() == ["m", "gpt-4o", "Org/Big"]
    assert route(found, "ORG/BIG") == route(found, "m")._replace(public="Org/Big")


def test_an_effort_suffix_is_understood_and_not_listed() -> None:
    found = routes({"m": {"profile": "main", "effort": "low", "effort_suffixes": True}})
    assert found.names() == ["m"]
    for effort in ("minimal", "low", "medium", "high", "xhigh"):
        assert route(found, f"M-{effort}") == route(found, "m")._replace(public=f"m-{effort}", effort=effort)
    assert found.find("m-huge") is None
    assert routes({"m": {"profile": "main"}}).find("m-high") is None


def test_an_effort_suffix_that_is_an_alias_too_is_listed_and_keeps_its_effort() -> None:
    found = routes({"m": {"profile": "main", "effort_suffixes": True, "aliases": ["m-high", "other"]}})
    assert found.names() == ["m", "m-high", "other"]
    assert route(found, "m-high").effort == "high"
    assert route(found, "other").effort is None


@pytest.mark.parametrize(
    ("models", "place"),
    [
        ({"a": {"aliases": ["B"]}, "b": {}}, "models.b: 'b' is also the name of models.a"),
        ({"b": {}, "a": {"aliases": ["B"]}}, "models.a: 'B' is also the name of models.b"),
        ({"a": {"aliases": ["x"]}, "b": {"aliases": ["X"]}}, "models.b: 'X' is also the name of models.a"),
        ({"a": {"aliases": ["A"]}}, "models.a: 'A' is twice"),
        ({"a": {"aliases": ["x", "X"]}}, "models.a: 'X' is twice"),
        ({"a": {"effort_suffixes": True}, "A-High": {}}, "models.A-High: 'A-High' is also the name of models.a"),
        ({"a-low": {}, "a": {"effort_suffixes": True}}, "models.a: 'a-low' is also the name of models.a-low"),
        ({"a": {"effort_suffixes": True}, "b": {"aliases": ["A-low"]}}, "models.b: 'A-low' is also the name"),
    ],
)
def test_two_names_that_collide_are_refused(models: dict[str, Any], place: str) -> None:
    assert refusal({name: {"profile": "main"} | model for name, model in models.items()}).startswith(place)


# --- targets -----------------------------------------------------------------------------------------------------


def test_targets_share_the_requests_by_weight() -> None:
    found = routes({"m": CANARY})
    drawn = Counter(asked(found)[0][0] for _ in range(20_000))
    assert drawn.keys() == {"main", "canary"}
    assert drawn["canary"] / 20_000 == pytest.approx(0.05, abs=0.006)


def test_three_targets_have_their_shares_whatever_the_weights_add_up_to() -> None:
    weights = {"main": 0.5, "canary": 0.3, "spare": 0.2}
    found = routes({"m": {"targets": [{"profile": name, "weight": weight} for name, weight in weights.items()]}})
    drawn = Counter(asked(found)[0][0] for _ in range(20_000))
    assert {name: drawn[name] / 20_000 for name in weights} == pytest.approx(weights, abs=0.02)


@pytest.mark.parametrize("point", [0.0, 0.949999, 0.95, 0.999999999999])
def test_no_draw_falls_beside_the_targets(point: float) -> None:
    found = Routes(settings({"m": CANARY}), lambda: point)
    assert asked(found) == [("main", "main-model") if point < 0.95 else ("canary", "canary-model")]


def test_a_target_without_weight_gets_nothing() -> None:
    off = [{"profile": "main"}, {"profile": "canary", "weight": 0}]
    found = Routes(settings({"m": {"targets": off}}), lambda: 0.999999)
    assert asked(found) == [("main", "main-model")]


def test_one_target_needs_no_chance() -> None:
    def no_draw() -> float:
        raise AssertionError("there is nothing to draw")

    found = Routes(settings({"m": {"profile": "main"}, "n": {"targets": [{"profile": "canary"}]}}), no_draw)
    assert (asked(found, "m"), asked(found, "n")) == ([("main", "main-model")], [("canary", "canary-model")])


def test_a_target_asks_for_its_own_model_then_the_routes_then_the_profiles() -> None:
    targets = [{"profile": "main", "model": "mine", "weight": 1}, {"profile": "main", "weight": 1}]
    found = routes({"m": {"targets": targets, "model": "routed"}, "n": {"targets": [{"profile": "main"}]}})
    assert {asked(found)[0] for _ in range(100)} == {("main", "mine"), ("main", "routed")}
    assert asked(found, "n") == [("main", "main-model")]


def test_a_sticky_route_gives_a_key_always_the_same_target_and_each_its_share_of_keys() -> None:
    found = routes({"m": CANARY | {"sticky": True, "aliases": ["also-m"], "effort_suffixes": True}})
    first = {f"key-{number}": asked(found, "m", f"key-{number}")[0][0] for number in range(4000)}
    assert Counter(first.values())["canary"] / 4000 == pytest.approx(0.05, abs=0.01)
    another_run = routes({"m": CANARY | {"sticky": True, "aliases": ["also-m"], "effort_suffixes": True}}, seed=99)
    for tenant, profile in first.items():
        for name in ("m", "also-m", "M-high"):
            assert asked(another_run, name, tenant)[0][0] == profile


def test_stickiness_outlives_the_process_and_the_version() -> None:
    assert sticky_point("m", "alice") == pytest.approx(0.8669973945765952)
    assert sticky_point("m", "bob") != sticky_point("m", "alice") != sticky_point("n", "alice")


def test_a_larger_canary_keeps_the_keys_that_it_has() -> None:
    def keys_on_canary(weight: int) -> set[str]:
        targets = [{"profile": "main", "weight": 100 - weight}, {"profile": "canary", "weight": weight}]
        found = routes({"m": {"targets": targets, "sticky": True}})
        tenants = [f"key-{number}" for number in range(1000)]
        return {tenant for tenant in tenants if asked(found, "m", tenant)[0][0] == "canary"}

    shares = [keys_on_canary(weight) for weight in (1, 5, 20, 50)]
    assert all(smaller < larger for smaller, larger in pairwise(shares))


def test_two_models_have_canaries_of_different_keys() -> None:
    found = routes({"m": CANARY | {"sticky": True}, "n": CANARY | {"sticky": True}})
    tenants = [f"key-{number}" for number in range(2000)]
    on = {name: {tenant for tenant in tenants if asked(found, name, tenant)[0][0] == "canary"} for name in ("m", "n")}
    assert len(on["m"] & on["n"]) < 0.5 * len(on["m"])


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"targets": [{"profile": "main", "weight": 0}]}, "the weights of all targets are zero"),
        ({"targets": [{"profile": "absent"}]}, "there is no profile 'absent'"),
        ({"targets": [{"profile": "main"}, {"profile": "main"}]}, "two targets are the same"),
        ({"targets": [{"profile": "main"}, {"profile": "main", "model": "main-model"}]}, "two targets are the same"),
        ({"profile": "absent"}, "there is no profile 'absent'"),
        ({"profile": "main", "fallback": ["absent"]}, "there is no profile 'absent'"),
        ({"profile": "main", "fallback": ["spare", "spare"]}, "fallback names a profile twice"),
        ({"profile": "main", "fallback": ["main"]}, "fallback names the profile 'main', which is always asked first"),
        (
            {"targets": [{"profile": "main"}, {"profile": "canary", "weight": 0}], "fallback": ["main"]},
            "fallback names the profile 'main', which is always asked first",
        ),
    ],
)
def test_a_route_that_contradicts_itself_is_refused(model: dict[str, Any], reason: str) -> None:
    assert refusal({"m": model}) == f"models.m: {reason}"


# --- fallback ----------------------------------------------------------------------------------------------------


def test_others_are_asked_in_order_and_nobody_twice() -> None:
    found = routes({"m": {"profile": "main", "fallback": ["spare", "canary"]}})
    assert asked(found) == [("main", "main-model"), ("spare", "spare-model"), ("canary", "canary-model")]
    both = routes({"m": CANARY | {"fallback": ["main", "spare"]}})
    plans = {tuple(profile for profile, _ in asked(both)) for _ in range(1000)}
    assert plans == {("main", "spare"), ("canary", "main", "spare")}


def test_a_fallback_that_is_a_target_too_is_asked_for_that_targets_model() -> None:
    targets = [{"profile": "main", "model": "stable"}, {"profile": "canary", "model": "new"}]
    found = Routes(settings({"m": {"targets": targets, "fallback": ["main", "spare"], "model": "routed"}}), lambda: 0.9)
    assert asked(found) == [("canary", "new"), ("main", "stable"), ("spare", "routed")]


# --- limits ------------------------------------------------------------------------------------------------------


def test_a_route_has_defaults_and_limits_of_its_own() -> None:
    model = {"profile": "main", "priority": "batch", "deadline_s": 30, "queue_budget_s": 2, "fallback": ["spare"]}
    found = routes({"m": model, "n": {"profile": "main"}}, main={"queue_budget_s": 7})
    m, n = route(found, "m"), route(found, "n")
    assert (m.priority, m.deadline_s) == (Priority.BATCH, 30.0)
    assert [target.queue_budget_s for target in m.plans[0]] == [2.0, 2.0]
    assert (n.priority, n.deadline_s, n.plans[0][0].queue_budget_s) == (None, None, 7.0)


@pytest.mark.parametrize(
    ("server", "own", "limit"), [(None, None, None), (10, None, 10), (None, 5, 5), (10, 5, 5), (5, 10, 5)]
)
def test_the_smaller_limit_of_characters_holds(server: int | None, own: int | None, limit: int | None) -> None:
    values: dict[str, Any] = {"server": {"max_prompt_chars": server}, "models": {"m": {"max_prompt_chars": own}}}
    assert route(Routes(Settings(**values)), "m").max_prompt_chars == limit


@pytest.mark.parametrize(
    ("keys", "profile", "part"),
    [
        (1, {"queue_max": 10}, None),
        (2, {"queue_max": 10}, 5),
        (2, {"queue_max": 10, "queue_share": 0.25}, 2),
        (2, {"queue_max": 10, "queue_share": 1}, None),
        (2, {"queue_max": 1}, 1),
    ],
)
def test_one_of_several_keys_may_fill_its_part_of_a_queue(keys: int, profile: dict[str, Any], part: int | None) -> None:
    found = routes({"m": {"profile": "main"}}, keys=keys, main=profile)
    assert route(found, "m").plans[0][0].tenant_queue_max == part


def test_where_each_name_leads_can_be_read() -> None:
    found = routes({"m": CANARY | {"fallback": ["spare", "main"], "aliases": ["n"]}, "o": {"profile": "main"}})
    leads = "0.95 to main (main-model), 0.05 to canary (canary-model), else spare, main"
    assert list(found.described()) == [f"m: {leads}", f"n: {leads}", "o: 1 to main (main-model)"]

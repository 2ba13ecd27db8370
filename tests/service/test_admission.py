"""Keys are known by their hashes, compared all, and each is held to its own contract."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.model import Priority
from service.admission import Keyring, Tenant, charge, count, duration, told
from service.api.errors import ApiError
from service.settings import Settings
from tests.support.virtual_time import in_virtual_time, pass_time

ALICE, BOB, ENVIRONMENT = "alices-key-0123456789-abcdef", "bobs-key-0123456789-abcdefgh", "the-key-from-the-environment"


def keyring(**limits: int) -> Keyring:
    """Alice and Bob, held to `limits` by name, and one key from the environment."""
    return Keyring(_settings(**limits))


def _settings(**limits: int) -> Settings:
    keys = [
        {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "requests_per_minute": limits.get(name)}
        for name, key in (("alice", ALICE), ("bob", BOB))
    ]
    settings: dict[str, Any] = {"keys": keys, "api_key": ENVIRONMENT}
    return Settings(**settings)


def bearer(key: str) -> str:
    return f"Bearer {key}"


@pytest.mark.parametrize(("key", "tenant"), [(ALICE, "alice"), (BOB, "bob"), (ENVIRONMENT, "default")])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_key_is_known_by_the_name_of_who_is_charged(key: str, tenant: str, scheme: str) -> None:
    assert keyring().tenant(f"{scheme} {key}").name == tenant
    assert keyring().tenant(f"{scheme}   {key} ").name == tenant


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        " ",
        "Bearer",
        "Bearer ",
        ALICE,
        f"Basic {ALICE}",
        f"Bearer {ALICE[:-1]}",
        f"Bearer {ALICE}x",
        f"Bearer {ALICE.upper()}",
        f"Bearer {hashlib.sha256(ALICE.encode()).hexdigest()}",
        f"Bearer {ALICE} {BOB}",
        "Bearer \udcff\udcfe",
        "Bearer 钥匙",
        "Bearer " + "x" * 1_000_000,
    ],
)
def test_anything_else_is_refused_in_one_way(authorization: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        keyring().tenant(authorization)
    error = caught.value
    assert (error.status, error.type, error.code) == (401, "authentication_error", "invalid_api_key")
    assert error.message == "unauthorized"
    assert error.all_headers()["WWW-Authenticate"] == "Bearer realm=api"


def test_no_key_at_all_lets_nobody_in() -> None:
    with pytest.raises(ApiError):
        Keyring(Settings()).tenant("Bearer ")


def test_every_hash_is_compared_whichever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    genuine = hmac.compare_digest

    def compare(known: bytes, given: bytes) -> bool:
        compared.append(known)
        return genuine(known, given)

    ring = keyring()
    monkeypatch.setattr(hmac, "compare_digest", compare)
    for key in (ALICE, BOB, ENVIRONMENT):
        compared.clear()
        ring.tenant(bearer(key))
        assert len(compared) == 3


def test_a_key_has_the_weight_that_was_configured_and_one_from_the_environment_has_one() -> None:
    key = {"name": "alice", "sha256": hashlib.sha256(ALICE.encode()).hexdigest(), "weight": 4.0}
    settings: dict[str, Any] = {"keys": [key], "api_key": ENVIRONMENT}
    ring = Keyring(Settings(**settings))
    assert [ring.tenant(bearer(key)).weight for key in (ALICE, ENVIRONMENT)] == [4.0, 1.0]


def contract(**fields: Any) -> Tenant:
    """What was agreed with Alice."""
    settings: dict[str, Any] = {
        "keys": [{"name": "alice", "sha256": hashlib.sha256(ALICE.encode()).hexdigest()} | fields]
    }
    return Keyring(Settings(**settings)).tenant(bearer(ALICE))


def test_a_key_carries_what_was_agreed_with_it() -> None:
    tenant = contract(seats=3, queue_max=7, max_deadline_s=30)
    assert (tenant.seats, tenant.queue_max, tenant.max_deadline_s) == (3, 7, 30.0)
    plain = contract()
    assert (plain.seats, plain.queue_max, plain.max_deadline_s, plain.priority) == (None, None, None, Priority.STANDARD)


HIGH, MID, LOW = Priority.INTERACTIVE, Priority.STANDARD, Priority.BATCH


@pytest.mark.parametrize(
    ("fields", "given"),
    [
        ({}, {HIGH: MID, MID: MID, LOW: LOW}),
        ({"priority": "batch"}, {HIGH: LOW, MID: LOW, LOW: LOW}),
        ({"priority": "interactive"}, {HIGH: HIGH, MID: MID, LOW: LOW}),
        ({"priority": "batch", "max_priority": "standard"}, {HIGH: MID, MID: MID, LOW: LOW}),
        ({"max_priority": "interactive"}, {HIGH: HIGH, MID: MID, LOW: LOW}),
    ],
)
def test_a_class_above_the_highest_that_was_agreed_is_lowered_to_it(
    fields: dict[str, str], given: dict[Priority, Priority]
) -> None:
    tenant = contract(**fields)
    assert {wanted: tenant.allowed(wanted) for wanted in Priority} == given


def now() -> float:
    return asyncio.get_running_loop().time()


async def admit(ring: Keyring, key: str) -> str:
    """As a request is admitted: who it is, and one more on its contract."""
    tenant = ring.tenant(bearer(key))
    count(tenant, now())
    return tenant.name


async def refusal(ring: Keyring, key: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await admit(ring, key)
    return caught.value


@in_virtual_time
async def test_a_contract_is_so_many_requests_a_minute() -> None:
    ring = keyring(alice=3)
    for _ in range(3):
        assert await admit(ring, ALICE) == "alice"
    error = await refusal(ring, ALICE)
    assert (error.status, error.type, error.code) == (429, "rate_limit_error", "rate_limited")
    assert error.retryable is True
    assert error.retry_after_s == pytest.approx(20.0)


@in_virtual_time
async def test_the_promised_wait_is_long_enough() -> None:
    ring = keyring(alice=3)
    for _ in range(3):
        await admit(ring, ALICE)
    for _ in range(5):
        wait_s = (await refusal(ring, ALICE)).retry_after_s
        assert wait_s is not None
        await pass_time(wait_s)
        assert await admit(ring, ALICE) == "alice"


@in_virtual_time
async def test_who_has_waited_already_is_told_the_rest() -> None:
    ring = keyring(alice=1)
    await admit(ring, ALICE)
    await pass_time(59.0)
    assert (await refusal(ring, ALICE)).retry_after_s == pytest.approx(1.0)


@given(limit=st.integers(1, 300), pause_s=st.floats(0, 5))
def test_the_wait_that_is_told_is_the_wait_that_is_needed(limit: int, pause_s: float) -> None:
    @in_virtual_time
    async def world() -> None:
        ring = keyring(alice=limit)
        for _ in range(3):
            await pass_time(pause_s)
            while int(headers(ring)[1]):
                await admit(ring, ALICE)
            wait_s = (await refusal(ring, ALICE)).retry_after_s
            assert wait_s is not None
            await pass_time(max(0.0, wait_s - 0.002))
            if wait_s > 0.002:
                await refusal(ring, ALICE)
            await pass_time(min(0.002, wait_s))
            await admit(ring, ALICE)

    world()


@in_virtual_time
async def test_a_refused_request_costs_nothing() -> None:
    ring = keyring(alice=1)
    await admit(ring, ALICE)
    for _ in range(100):
        await refusal(ring, ALICE)
    await pass_time(60.0)
    assert await admit(ring, ALICE) == "alice"


@in_virtual_time
async def test_a_minute_of_rest_gives_the_whole_contract_back_and_no_more() -> None:
    ring = keyring(alice=3)
    await pass_time(600.0)
    for _ in range(2):
        assert [await admit(ring, ALICE) for _ in range(3)] == ["alice"] * 3
        assert (await refusal(ring, ALICE)).status == 429
        await pass_time(60.0)


@in_virtual_time
async def test_one_keys_contract_is_not_anothers() -> None:
    ring = keyring(alice=1, bob=2)
    await admit(ring, ALICE)
    await refusal(ring, ALICE)
    assert await admit(ring, BOB) == "bob"
    for _ in range(1000):
        assert await admit(ring, ENVIRONMENT) == "default"


@in_virtual_time
async def test_a_wrong_key_costs_nobody_anything() -> None:
    ring = keyring(alice=1)
    for key in (ALICE[:-1], "alice", ""):
        with pytest.raises(ApiError) as caught:
            await admit(ring, key)
        assert caught.value.status == 401
    assert headers(ring)[1] == "1"


@in_virtual_time
async def test_a_new_configuration_forgets_no_count_of_a_contract_that_is_the_same() -> None:
    ring = keyring(alice=1, bob=1)
    await admit(ring, ALICE)
    await admit(ring, BOB)
    after = Keyring(_settings(alice=1, bob=2), ring)
    await refusal(after, ALICE)
    assert await admit(after, BOB) == "bob"


@in_virtual_time
async def test_a_contract_goes_with_its_name_and_not_with_the_key() -> None:
    ring = keyring(alice=1)
    await admit(ring, ALICE)
    rotated = hashlib.sha256(ENVIRONMENT.encode()).hexdigest()
    values: dict[str, Any] = {"keys": [{"name": "alice", "sha256": rotated, "requests_per_minute": 1}]}
    after = Keyring(Settings(**values), ring)
    await refusal(after, ENVIRONMENT)
    with pytest.raises(ApiError):
        after.tenant(bearer(ALICE))


def headers(ring: Keyring, unit: str = "requests") -> tuple[str, ...]:
    """What Alice's headers say: of how many, how many at once, and when it is all of them."""
    found = told(ring.tenant(bearer(ALICE)), now())
    return tuple(found[f"x-ratelimit-{what}-{unit}"] for what in ("limit", "remaining", "reset"))


@in_virtual_time
async def test_what_is_left_of_a_contract_is_told() -> None:
    ring = keyring(alice=3)
    seen = [headers(ring)]
    for _ in range(3):
        await admit(ring, ALICE)
        seen.append(headers(ring))
    await refusal(ring, ALICE)
    seen.append(headers(ring))
    await pass_time(19.0)
    seen.append(headers(ring))
    await pass_time(1.5)
    seen.append(headers(ring))
    await pass_time(39.0)
    seen.append(headers(ring))
    await pass_time(1.0)
    seen.append(headers(ring))
    assert seen == [
        ("3", "3", "0s"),
        ("3", "2", "20s"),
        ("3", "1", "40s"),
        ("3", "0", "1m0s"),
        ("3", "0", "1m0s"),
        ("3", "0", "41s"),
        ("3", "1", "39.5s"),
        ("3", "2", "500ms"),
        ("3", "3", "0s"),
    ]


@given(limit=st.integers(1, 5000), pauses_s=st.lists(st.floats(0, 70), max_size=12))
def test_just_as_many_requests_as_were_told_are_admitted(limit: int, pauses_s: list[float]) -> None:
    @in_virtual_time
    async def world() -> None:
        ring = keyring(alice=limit)
        for pause_s in pauses_s:
            await pass_time(pause_s)
            remaining = int(headers(ring)[1])
            for left in range(min(remaining, 20), 0, -1):
                await admit(ring, ALICE)
                assert int(headers(ring)[1]) == remaining - min(remaining, 20) + left - 1
            if remaining <= 20:
                await refusal(ring, ALICE)

    world()


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0s"), (1, "1ms"), (999, "999ms"), (1000, "1s"), (8640, "8.64s"), (59_999, "59.999s"), (60_000, "1m0s")],
)
def test_a_duration_is_in_openais_words(ms: int, text: str) -> None:
    assert duration(ms) == text


# --- tokens ------------------------------------------------------------------------------------------------------


def tokens(limit: int, **fields: Any) -> Keyring:
    """Alice, who may have so many tokens a minute."""
    key = {"name": "alice", "sha256": hashlib.sha256(ALICE.encode()).hexdigest(), "tokens_per_minute": limit}
    values: dict[str, Any] = {"keys": [key | fields]}
    return Keyring(Settings(**values))


def too_much(tenant: Tenant, amount: int) -> float:
    """How long the refusal of so many tokens says to wait."""
    with pytest.raises(ApiError) as caught:
        charge(tenant, amount, now())
    error = caught.value
    assert (error.status, error.code, error.retryable) == (429, "rate_limited", True)
    assert error.retry_after_s is not None
    return error.retry_after_s


@in_virtual_time
async def test_tokens_are_counted_when_they_are_expected_and_corrected_when_they_are_known() -> None:
    ring = tokens(600)
    tenant = ring.tenant(bearer(ALICE))
    bill = charge(tenant, 500, now())
    assert headers(ring, "tokens") == ("600", "100", "50s")
    assert too_much(tenant, 101) == pytest.approx(0.1)
    bill.settle(200, now())
    assert headers(ring, "tokens") == ("600", "400", "20s")
    bill.settle(200, now())
    assert headers(ring, "tokens") == ("600", "400", "20s"), "said again is not counted again"
    bill.settle(0, now())
    assert headers(ring, "tokens") == ("600", "600", "0s")


@in_virtual_time
async def test_an_answer_that_was_longer_than_expected_is_paid_off_before_the_next() -> None:
    ring = tokens(600)
    tenant = ring.tenant(bearer(ALICE))
    charge(tenant, 10, now()).settle(1200, now())
    assert headers(ring, "tokens") == ("600", "0", "2m0s")
    wait_s = too_much(tenant, 10)
    assert wait_s == pytest.approx(61.0)
    await pass_time(wait_s)
    charge(tenant, 10, now())


@in_virtual_time
async def test_what_is_more_than_the_whole_contract_waits_until_all_of_it_is_there() -> None:
    ring = tokens(600)
    tenant = ring.tenant(bearer(ALICE))
    charge(tenant, 1, now())
    await pass_time(too_much(tenant, 5000))
    charge(tenant, 5000, now())
    assert too_much(tenant, 1) == pytest.approx((5000 - 599) / 10)


@in_virtual_time
async def test_a_request_that_is_refused_for_its_tokens_is_no_request() -> None:
    ring = tokens(600, requests_per_minute=5)
    charge(ring.tenant(bearer(ALICE)), 600, now())
    await admit(ring, ALICE)
    too_much(ring.tenant(bearer(ALICE)), 1)
    assert headers(ring)[1] == "5"


@given(limit=st.integers(1, 10**7), uses=st.lists(st.tuples(st.floats(0, 90), st.floats(0, 2), st.floats(0, 2))))
def test_who_takes_no_more_tokens_than_are_told_is_never_refused(
    limit: int, uses: list[tuple[float, float, float]]
) -> None:
    @in_virtual_time
    async def world() -> None:
        ring = tokens(limit)
        tenant = ring.tenant(bearer(ALICE))
        for pause_s, wanted, used in uses:
            await pass_time(pause_s)
            remaining = int(headers(ring, "tokens")[1])
            assert 0 <= remaining <= limit
            amount = min(remaining, int(wanted * limit))
            if remaining < limit:
                await pass_time(too_much(tenant, remaining + 1))
            bill = charge(tenant, amount, now())
            bill.settle(int(used * limit), now())

    world()


@in_virtual_time
async def test_a_minute_has_no_more_than_its_tokens_and_what_was_left_of_one_before() -> None:
    tenant = tokens(600).tenant(bearer(ALICE))
    await pass_time(1000.0)
    taken = 0
    for _ in range(600):
        await pass_time(0.1)
        while tenant.tokens is not None and tenant.tokens.remaining(now()) >= 7:
            charge(tenant, 7, now())
            taken += 7
    assert 1180 <= taken <= 1200


@in_virtual_time
async def test_a_changed_contract_counts_from_what_was_used() -> None:
    ring = tokens(600)
    bill = charge(ring.tenant(bearer(ALICE)), 500, now())
    key = {"name": "alice", "sha256": hashlib.sha256(ALICE.encode()).hexdigest(), "tokens_per_minute": 1000}
    values: dict[str, Any] = {"keys": [key]}
    after = Keyring(Settings(**values), ring)
    assert headers(after, "tokens")[:2] == ("1000", "500")
    bill.settle(100, now())
    assert headers(after, "tokens")[:2] == ("1000", "900"), "what was begun under the old one is settled, too"


# --- dates and models --------------------------------------------------------------------------------------------


def test_a_key_is_one_until_its_date_and_says_so_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    key = {"name": "alice", "sha256": hashlib.sha256(ALICE.encode()).hexdigest(), "expires": "2027-01-31T00:00:00Z"}
    values: dict[str, Any] = {"keys": [key]}
    ring = Keyring(Settings(**values))
    date = 1801353600.0
    monkeypatch.setattr("service.admission.time.time", lambda: date - 0.001)
    assert ring.tenant(bearer(ALICE)).name == "alice"
    monkeypatch.setattr("service.admission.time.time", lambda: date)
    with pytest.raises(ApiError) as caught:
        ring.tenant(bearer(ALICE))
    error = caught.value
    assert (error.status, error.type, error.code) == (401, "authentication_error", "expired_api_key")
    with pytest.raises(ApiError) as caught:
        ring.tenant(f"Basic {ALICE}")
    assert caught.value.code == "invalid_api_key"


def test_a_contract_that_says_nothing_of_models_is_for_all() -> None:
    assert contract().models is None
    assert contract(models=["codex-5"]).models == frozenset({"codex-5"})
    assert contract(models=[]).models == frozenset()

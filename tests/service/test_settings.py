"""One file and the environment, parsed once: what is wrong is refused in one line that names the place."""

from __future__ import annotations

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pool.errors import ConfigurationError
from pool.profile import Credentials
from pool.turn import TurnLimits
from scheduler.model import QueuePolicy
from service.launch import profiles, queue_policies
from service.settings import Settings, load, refuse_weak_key
from service.toolcalls.controls import Controls

KEY = "a-key-that-is-strong-enough-0123456789"
HASH = hashlib.sha256(KEY.encode()).hexdigest()

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A configuration file with this text."""

    def write_file(text: str) -> Path:
        path = tmp_path / "service.toml"
        path.write_text(text)
        return path

    return write_file


def refusal(path: Path | None, environ: dict[str, str]) -> str:
    """Why these settings are not taken: one line."""
    with pytest.raises(ConfigurationError) as caught:
        load(path, environ)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- sources -----------------------------------------------------------------------------------------------------


def test_without_a_file_and_an_environment_there_are_defaults() -> None:
    settings = load(None, {})
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 11435)
    assert settings.profiles.keys() == {"default"}
    assert settings.key_hashes() == {}


def test_the_environment_wins_over_the_file_name_by_name(write: Write) -> None:
    path = write("[server]\nport = 1000\nhost = '::1'\n[profiles.default]\nworkers = 3\nslots = 2\n")
    environ = {
        "CODEX_COMPLETIONS_SERVER__PORT": "2000",
        "CODEX_COMPLETIONS_PROFILES__DEFAULT__WORKERS": "5",
        "CODEX_COMPLETIONS_LOG__LEVEL": "debug",
        "PATH": "/bin",
        "CODEX_HOME": "/nowhere",
    }
    settings = load(path, environ)
    assert (settings.server.port, settings.server.host) == (2000, "::1")
    assert (settings.profiles["default"].workers, settings.profiles["default"].slots) == (5, 2)
    assert settings.log.level == "debug"


def test_a_mistake_in_the_environment_is_not_blamed_on_the_file(write: Write) -> None:
    path = write("[server]\nport = 1000\n")
    for environ in ({"PORT": "x"}, {"PROXY_API_KEY": "weak"}, {"CODEX_COMPLETIONS_PROFILES__DEFAULT__SLOTS": "99"}):
        with pytest.raises(ConfigurationError) as caught:
            load(path, environ)
        assert str(caught.value).startswith("environment: ")
    with pytest.raises(ConfigurationError) as caught:
        load(write("[server]\nport = 'x'\n"), {"CODEX_COMPLETIONS_SERVER__HOST": "::1"})
    assert str(caught.value).startswith(f"{path.parent}")


def test_a_list_in_the_environment_is_json() -> None:
    keys = json.dumps([{"name": "alice", "sha256": HASH, "requests_per_minute": 60}])
    settings = load(None, {"CODEX_COMPLETIONS_KEYS": keys})
    assert settings.key_hashes() == {"alice": bytes.fromhex(HASH)}
    assert settings.keys[0].requests_per_minute == 60


def test_nothing_is_read_from_the_process_behind_our_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEX_COMPLETIONS_SERVER__PORT", "2000")
    monkeypatch.setenv("CODEX_COMPLETIONS_API_KEY", "weak")
    assert load(None, {}).server.port == 11435


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("PORT", "2000", lambda settings: settings.server.port == 2000),
        ("PROXY_HOST", "0.0.0.0", lambda settings: settings.server.host == "0.0.0.0"),  # noqa: S104 - only parsed
        ("PROXY_PROTECT_MODELS", "true", lambda settings: settings.server.protect_models),
        (
            "CODEX_COMPLETIONS_SERVER__CORS_ORIGINS",
            '["https://a.example/"]',
            lambda settings: settings.server.cors_origins == ("https://a.example/",),
        ),
        ("PROXY_ENABLE_CORS", "false", lambda settings: not settings.server.cors),
        (
            "PROXY_CORS_ALLOWED_ORIGINS",
            "https://a.example, app://obsidian.md",
            lambda settings: settings.server.cors_origins == ("https://a.example", "app://obsidian.md"),
        ),
        ("PROXY_API_KEY", KEY, lambda settings: settings.key_hashes() == {"default": bytes.fromhex(HASH)}),
        ("PROXY_OUTPUT_MODE", "obsidian_xml", lambda settings: settings.tools.mode == "obsidian-xml"),
        ("PROXY_OUTPUT_MODE", "openai", lambda settings: settings.tools.mode == "openai-json"),
        ("PROXY_RESPONSES_OUTPUT_MODE", "obsidian", lambda settings: settings.tools.responses_mode == "obsidian-xml"),
        ("PROXY_STOP_AFTER_TOOLS", "true", lambda settings: settings.tools.controls.stops),
        ("PROXY_STOP_AFTER_TOOLS_MODE", "first", lambda settings: settings.tools.controls.mode == "first"),
        ("PROXY_STOP_AFTER_TOOLS_GRACE_MS", "250", lambda settings: settings.tools.controls.grace_s == 0.25),
        ("PROXY_SUPPRESS_TAIL_AFTER_TOOLS", "1", lambda settings: settings.tools.controls.drops_tail),
        ("PROXY_TOOL_BLOCK_MAX", "2", lambda settings: settings.tools.controls.max_calls == 2),
        ("PROXY_TOOL_BLOCK_DEDUP", "yes", lambda settings: settings.tools.controls.drops_equal),
        ("PROXY_TOOL_BLOCK_DELIMITER", "true", lambda settings: settings.tools.controls.delimiter == "\n\n"),
        ("PROXY_TOOL_BLOCK_DELIMITER", r"\n--\n", lambda settings: settings.tools.controls.delimiter == "\n--\n"),
        ("PROXY_TOOL_BLOCK_DELIMITER", "", lambda settings: settings.tools.controls == Controls()),
        ("PROXY_USE_APP_SERVER", "true", lambda settings: settings == load(None, {})),
        ("PROXY_RATE_LIMIT_ENABLED", "false", lambda settings: settings == load(None, {})),
        ("PROXY_USAGE_ALLOW_UNAUTH", "0", lambda settings: settings == load(None, {})),
    ],
)
def test_a_name_of_the_predecessor_means_what_it_meant(name: str, value: str, read: Callable[[Settings], bool]) -> None:
    assert read(load(None, {name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROXY_OUTPUT_MODE", "yaml"),
        ("PROXY_STOP_AFTER_TOOLS_MODE", "last"),
        ("PROXY_STOP_AFTER_TOOLS_GRACE_MS", "soon"),
        ("PROXY_STOP_AFTER_TOOLS_GRACE_MS", "-1"),
        ("PROXY_TOOL_BLOCK_MAX", "129"),
        ("PROXY_TOOL_BLOCK_DELIMITER", "-" * 65),
    ],
)
def test_a_value_that_the_predecessor_would_have_ignored_is_refused(name: str, value: str) -> None:
    assert refusal(None, {name: value}).startswith("environment: tools.")


def test_our_own_name_wins_over_the_predecessors() -> None:
    assert load(None, {"PORT": "2000", "CODEX_COMPLETIONS_SERVER__PORT": "3000"}).server.port == 3000


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("prot = 1", "prot: unknown setting"),
        ("[server]\nprot = 1", "server.prot: unknown setting"),
        ("[serve]\nport = 1", "serve: unknown setting"),
        ("[profiles.default]\nworker = 1", "profiles.default.worker: unknown setting"),
        ("[profiles.default.limits]\nidle = 1", "profiles.default.limits.idle: unknown setting"),
        ("[models.x]\nprofil = 'default'", "models.x.profil: unknown setting"),
        ("[[keys]]\nname = 'a'\nkey = 'b'", "keys.0.sha256"),
        ("[server]\nport = 70000", "server.port"),
        ("[server]\nport = 'x'", "server.port"),
        ("[server]\ndrain_timeout_s = 0", "server.drain_timeout_s"),
        ("[server]\nbody_timeout_s = inf", "server.body_timeout_s"),
        ("[server]\nbody_timeout_s = nan", "server.body_timeout_s"),
        ("[server]\nmax_body_bytes = 100000000", "server.max_body_bytes"),
        ("[log]\nlevel = 'loud'", "log.level"),
        ("[profiles.default]\nslots = 11", "profiles.default.slots"),
        ("[profiles.default]\nworkers = 0", "profiles.default.workers"),
        ("[profiles.default]\nbase_url = 'ftp://x'", "profiles.default.base_url"),
        ("[profiles.default]\nanonymous = true\nenv_key = 'X'", "profiles.default: set one of"),
        ("[profiles.'../x']\nanonymous = true", "profiles.../x"),
        ("profiles = {}", "profiles"),
        ("models = {}", "models"),
        ("[models.x]\nprofile = 'absent'", "models.x: there is no profile 'absent'"),
        ("[models.x]\neffort = 'huge'", "models.x.effort"),
        (
            f"[[keys]]\nname='a'\nsha256='{HASH}'\n[[keys]]\nname='b'\nsha256='{HASH}'",
            "keys: two of them are the same key",
        ),
        ("[models.Big]\n[models.big]", "models.big: 'big' is also the name of models.Big"),
        ("[models.x]\nprofile = 'default'\ntargets = [{profile = 'default'}]", "models.x: set profile or targets"),
        ("[models.x]\ntargets = [{profile = 'default', weight = -1}]", "models.x.targets.0.weight"),
        ("[models.x]\ntargets = [{profile = 'absent'}]", "models.x: there is no profile 'absent'"),
        ("[models.x]\nfallback = ['absent']", "models.x: there is no profile 'absent'"),
        ("[models.x]\npriority = 'urgent'", "models.x.priority"),
        ("[models.x]\ndeadline_s = 0", "models.x.deadline_s"),
        ("[profiles.default]\nqueue_share = 0", "profiles.default.queue_share"),
        ("[profiles.default]\nretry_ratio = 2", "profiles.default.retry_ratio"),
        (f"[[keys]]\nname='a'\nsha256='{HASH}'\nseats = 0", "keys.0.seats"),
        (
            f"[[keys]]\nname='a'\nsha256='{HASH}'\nmax_priority = 'batch'",
            "keys.0: max_priority 'batch' is below priority 'standard'",
        ),
        ("[[keys]]\nname = 'a'\nsha256 = 'abc'", "keys.0.sha256"),
        (f"[[keys]]\nname = 'a b'\nsha256 = '{HASH}'", "keys.0.name"),
        (f"[[keys]]\nname = 'a'\nsha256 = '{HASH}'\nrequests_per_minute = 0", "keys.0.requests_per_minute"),
        (
            f"[[keys]]\nname='a'\nsha256='{HASH}'\n[[keys]]\nname='a'\nsha256='{'0' * 64}'",
            "keys: every key needs a name",
        ),
        ("[server\nport = 1", "line 1"),
        ("port = 1\nport = 2", "Cannot overwrite a value"),
        (f"api_key = '{KEY}'", "api_key: no clear-text key in a file"),
        (f"[profiles.default]\napi_key = '{KEY}'", "profiles.default.api_key: unknown setting"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_file_and_place(write: Write, text: str, place: str) -> None:
    path = write(text)
    message = refusal(path, {})
    assert message.startswith(f"{path}: ")
    assert place in message
    assert KEY not in message


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"CODEX_COMPLETIONS_PROT": "1"}, "CODEX_COMPLETIONS_PROT: unknown setting"),
        ({"CODEX_COMPLETIONS_SERVER__PROT": "1"}, "server.prot: unknown setting"),
        ({"CODEX_COMPLETIONS_SERVER": "not JSON"}, "server"),
        ({"CODEX_COMPLETIONS_KEYS": "[{"}, "keys"),
        ({"CODEX_COMPLETIONS_SERVER__PORT": "http"}, "server.port"),
        ({"CODEX_COMPLETIONS_API_KEY": "weak"}, "api_key: the key is too weak"),
        ({"PROXY_API_KEY": "codex-local-secret"}, "api_key: the key is too weak"),
        ({"PORT": "http"}, "server.port"),
        ({"PROXY_CORS_ALLOWED_ORIGINS": "a.example"}, "an origin is scheme://host"),
        ({"PROXY_CORS_ALLOWED_ORIGINS": "https://*.example"}, "an origin is scheme://host"),
        ({"PROXY_CORS_ALLOWED_ORIGINS": "https://a.example/path"}, "an origin is scheme://host"),
        ({"PROXY_CORS_ALLOWED_ORIGINS": "null"}, "an origin is scheme://host"),
        ({"CODEX_COMPLETIONS_SERVER__CORS_ORIGINS": "[1"}, "server.cors_origins"),
        ({"PROXY_USE_APP_SERVER": "false"}, "PROXY_USE_APP_SERVER: the app-server is the only backend"),
        ({"PROXY_WORKER_COUNT": "4"}, "PROXY_WORKER_COUNT: set workers"),
        ({"PROXY_RATE_LIMIT_ENABLED": "1"}, "PROXY_RATE_LIMIT_ENABLED: a limit is a key's"),
        ({"PROXY_USAGE_ALLOW_UNAUTH": "true"}, "PROXY_USAGE_ALLOW_UNAUTH: usage is told to keys only"),
        ({"TOKEN_LOG_PATH": "usage.ndjson"}, "TOKEN_LOG_PATH: usage is kept"),
        ({"PROXY_LOG_PROTO": "1"}, "PROXY_LOG_PROTO: `codex proto` is gone"),
        ({"PROTO_LOG_PATH": "/tmp/x"}, "PROTO_LOG_PATH: `codex proto` is gone"),  # noqa: S108 - only a name
    ],
)
def test_a_mistake_in_the_environment_is_one_line_with_its_place(environ: dict[str, str], place: str) -> None:
    message = refusal(None, environ)
    assert place in message
    assert environ.get("PROXY_API_KEY", "a clear-text key") not in message


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent.toml", {}) == f"{tmp_path}/absent.toml: No such file or directory"
    assert "Is a directory" in refusal(tmp_path, {})


def test_a_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "service.toml"
    path.write_bytes(b"\xff\xfe\x00")
    assert refusal(path, {}).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("key", "is_strong"),
    [
        (KEY, True),
        ("abcdefghij" + "a" * 14, True),
        ("abcdefghij" + "a" * 13, False),
        ("abcdefghi" + "a" * 30, False),
        ("", False),
        ("codex-local-secret", False),
        ("x" * 1000, False),
    ],
)
def test_a_key_that_could_be_guessed_is_refused(key: str, is_strong: bool) -> None:
    if is_strong:
        refuse_weak_key(key)
        return
    with pytest.raises(ValueError, match="too weak"):
        refuse_weak_key(key)


@pytest.mark.parametrize("known", ["", "codex-local-secret", "changeme", "password", "sk-test"])
def test_the_hash_of_a_key_that_everybody_knows_is_refused(write: Write, known: str) -> None:
    digest = hashlib.sha256(known.encode()).hexdigest()
    assert "everybody knows" in refusal(write(f"[[keys]]\nname = 'a'\nsha256 = '{digest}'"), {})


def test_a_key_is_shown_nowhere() -> None:
    settings = load(None, {"CODEX_COMPLETIONS_API_KEY": KEY})
    assert KEY not in repr(settings)
    assert KEY not in settings.model_dump_json()


def test_settings_cannot_be_changed() -> None:
    settings = load(None, {})
    with pytest.raises(ValidationError):
        settings.server.port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.server = settings.server  # type: ignore[misc]


# --- the schema --------------------------------------------------------------------------------------------------

EXAMPLE = f"""
state_dir = "/tmp/x"

[server]
port = 0
keepalive_s = 0.5
max_prompt_chars = 100

[log]
level = "warning"

[[keys]]
name = "alice"
sha256 = "{HASH}"
requests_per_minute = 60
priority = "standard"
max_priority = "interactive"
seats = 4
queue_max = 8
max_deadline_s = 60

[[keys]]
name = "bob"
sha256 = "{"0" * 64}"

[profiles.default]
base_url = "http://localhost:1/v1"
anonymous = true
models = ["a", "b"]
codex_bin = "/bin/codex"
pass_env = ["HTTPS_PROXY"]

[profiles.default.limits]
idle_s = 10

[profiles."second.one"]
env_key = "SECOND_KEY"

[models.big]
targets = [{{ profile = "default", weight = 95 }}, {{ profile = "second.one", weight = 5, model = "bigger" }}]
sticky = true
aliases = ["Large"]
effort_suffixes = true
priority = "batch"
deadline_s = 60
queue_budget_s = 1.5
max_prompt_chars = 10
fallback = ["second.one"]

[models."org/Small"]
profile = "second.one"
model = "small"
effort = "xhigh"
"""


def test_the_schema_takes_what_load_takes(write: Write) -> None:
    load(write(EXAMPLE), {})
    schema = json.loads(json.dumps(Settings.model_json_schema()))
    assert violations(tomllib.loads(EXAMPLE), schema, schema) == []
    for name in ("server", "profiles", "models", "keys", "log"):
        assert name in schema["properties"]


@pytest.mark.parametrize(
    "text",
    [
        "prot = 1",
        "[server]\nprot = 1",
        "[server]\nport = 70000",
        "[server]\nport = 'x'",
        "[server]\ndrain_timeout_s = 0",
        "[profiles.default]\nslots = 11",
        "[log]\nlevel = 'loud'",
        "[[keys]]\nname = 'a'",
        "[[keys]]\nname = 'a'\nsha256 = 'abc'",
        "models = {}",
    ],
)
def test_the_schema_finds_the_usual_mistakes_too(write: Write, text: str) -> None:
    refusal(write(text), {})
    schema = Settings.model_json_schema()
    assert violations(tomllib.loads(text), schema, schema) != []


SECONDS = st.floats(0.001, 86400) | st.integers(1, 86400)
SERVER = st.fixed_dictionaries(
    {},
    optional={
        "host": st.sampled_from(["127.0.0.1", "::", "localhost"]),
        "port": st.integers(0, 65535),
        "max_body_bytes": st.integers(1024, 30 * 2**20),
        "body_timeout_s": SECONDS,
        "write_timeout_s": SECONDS,
        "protect_models": st.booleans(),
        "max_prompt_chars": st.none() | st.integers(1),
    },
)
PROFILE = st.fixed_dictionaries(
    {},
    optional={
        "workers": st.integers(1, 64),
        "slots": st.integers(1, 10),
        "queue_max": st.integers(1, 100_000),
        "queue_share": st.floats(0.001, 1),
        "seats_limit": st.none() | st.integers(1),
        "codel_target_s": st.floats(0, 86400),
        "models": st.lists(st.text(max_size=3), max_size=3),
        "anonymous": st.booleans(),
        "limits": st.fixed_dictionaries({}, optional={"idle_s": SECONDS, "total_s": SECONDS}),
    },
)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)


@given(server=SERVER, profile=PROFILE, names=st.sets(NAMES, max_size=3))
def test_the_schema_rejects_nothing_that_load_accepts(
    server: dict[str, Any], profile: dict[str, Any], names: set[str]
) -> None:
    values: dict[str, Any] = {"server": server, "profiles": dict.fromkeys([*names, "default"], profile)}
    Settings(**values)
    schema = Settings.model_json_schema()
    assert violations(values, schema, schema) == []


KNOWN_WORDS = {
    "title",
    "description",
    "default",
    "format",
    "writeOnly",
    "$defs",
    "type",
    "enum",
    "properties",
    "required",
}
KNOWN_WORDS |= {"additionalProperties", "patternProperties", "propertyNames", "items", "minProperties", "minLength"}
KNOWN_WORDS |= {"maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum"}

PYTHON_TYPES: dict[str | None, type | tuple[type, ...]] = {
    "string": str,
    "object": dict,
    "array": list,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
    None: object,
}


def violations(value: Any, schema: dict[str, Any], root: dict[str, Any], place: str = "$") -> list[str]:
    """Where `value` breaks the schema: as much of JSON Schema as ours uses."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    if "anyOf" in schema:
        branches = [violations(value, branch, root, place) for branch in schema["anyOf"]]
        return [] if [] in branches else branches[0]
    assert schema.keys() <= KNOWN_WORDS, schema.keys() - KNOWN_WORDS
    kind = schema.get("type")
    if not isinstance(value, PYTHON_TYPES[kind]) or (isinstance(value, bool) and kind in ("integer", "number")):
        return [f"{place}: no {kind}"]
    if value not in schema.get("enum", [value]):
        return [f"{place}: not one of {schema['enum']}"]
    match value:
        case dict():
            return _of_object(value, schema, root, place)
        case list():
            items = schema.get("items", {})
            return [found for item in value for found in violations(item, items, root, f"{place}[]")]
        case str():
            fits = re.search(schema.get("pattern", ""), value) is not None and len(value) >= schema.get("minLength", 0)
            return [] if fits and len(value) <= schema.get("maxLength", len(value)) else [f"{place}: pattern or length"]
        case int() | float():
            fits = value >= schema.get("minimum", value) and value > schema.get("exclusiveMinimum", -math.inf)
            return [] if fits and value <= schema.get("maximum", value) else [f"{place}: out of bounds"]
    return []


def _of_object(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], place: str) -> list[str]:
    found = [f"{place}.{name}: missing" for name in schema.get("required", ()) if name not in value]
    if len(value) < schema.get("minProperties", 0):
        found.append(f"{place}: too few")
    for name, item in value.items():
        found += violations(name, schema.get("propertyNames", {}), root, f"{place}.{name} (its name)")
        matching = (rule for pattern, rule in schema.get("patternProperties", {}).items() if re.search(pattern, name))
        rule = schema.get("properties", {}).get(name) or next(matching, schema.get("additionalProperties", {}))
        if rule is False:
            found.append(f"{place}.{name}: unknown")
        else:
            found += violations(item, {} if rule is True else rule, root, f"{place}.{name}")
    return found


# --- what becomes of them ----------------------------------------------------------------------------------------


def test_a_profile_is_what_the_file_says(write: Write, tmp_path: Path) -> None:
    text = """
    [profiles.default]
    base_url = "http://localhost:1/v1"
    default_model = "big"
    models = ["extra"]
    env_key = "UPSTREAM"
    codex_bin = "~/codex"
    workers = 3
    slots = 2
    pass_env = ["HTTPS_PROXY", "ABSENT"]
    init_timeout_s = 4
    upstream_idle_s = 5
    [profiles.default.limits]
    start_s = 1
    first_event_s = 2
    idle_s = 3
    total_s = 4
    interrupt_s = 5
    [models.one]
    model = "routed"
    [models.two]
    model = "extra"
    [models.three]
    targets = [{profile = "default", model = "canary"}, {profile = "default"}]
    """
    environ = {"UPSTREAM": "sk-up", "HTTPS_PROXY": "http://proxy", "OPENAI_API_KEY": "not this one"}
    (profile,) = profiles(load(write(text), environ), environ)
    assert (profile.name, profile.base_url, profile.default_model) == ("default", "http://localhost:1/v1", "big")
    assert profile.models == ("extra", "routed", "canary")
    assert profile.credentials == Credentials(api_key="sk-up")
    assert profile.codex_bin == Path.home() / "codex"
    assert (profile.workers, profile.slots) == (3, 2)
    assert profile.env == (("HTTPS_PROXY", "http://proxy"),)
    assert (profile.init_timeout_s, profile.upstream_idle_s) == (4, 5)
    assert profile.limits == TurnLimits(1, 2, 3, 4, 5)
    assert "sk-up" not in repr(profile)


def test_a_queues_rules_are_what_the_file_says(write: Write) -> None:
    text = """
    [profiles.default]
    workers = 3
    queue_max = 9
    seats_limit = 4
    aimd = true
    codel_target_s = 0
    retry_ratio = 0.5
    retry_reserve = 1
    attempts = 3
    penalty_s = 0
    """
    policy = queue_policies(load(write(text), {}))["default"]
    assert policy == QueuePolicy(9, 4, 0.0, 0.5, 1, 3, aimd=True, min_limit=3, penalty_s=0.0)


@pytest.mark.parametrize(("slots", "reserve"), [(1, 3), (2, 4), (8, 16)])
def test_the_reserve_of_retries_goes_by_the_seats_that_a_worker_takes_along(slots: int, reserve: int) -> None:
    values: dict[str, Any] = {"profiles": {"default": {"slots": slots}}}
    assert queue_policies(Settings(**values))["default"].retry_reserve == reserve


def credentials(text: str, environ: dict[str, str], write: Write) -> Credentials:
    (profile,) = profiles(load(write(f"[profiles.default]\n{text}"), {}), environ)
    return profile.credentials


def test_the_way_in_is_the_one_that_is_configured(write: Write, tmp_path: Path) -> None:
    login = tmp_path / "auth.json"
    login.write_text("{}")
    environ = {"OPENAI_API_KEY": "sk-usual", "SPECIAL": "sk-special", "CODEX_HOME": str(tmp_path)}
    assert credentials("anonymous = true", environ, write) == Credentials()
    assert credentials("env_key = 'SPECIAL'", environ, write) == Credentials(api_key="sk-special")
    assert credentials("auth_file = '/x/auth.json'", environ, write) == Credentials(auth_file=Path("/x/auth.json"))
    assert credentials("", environ, write) == Credentials(api_key="sk-usual")
    del environ["OPENAI_API_KEY"]
    assert credentials("", environ, write) == Credentials(auth_file=login)


@pytest.mark.parametrize(
    ("text", "environ", "hint"),
    [
        ("", {}, "set OPENAI_API_KEY, log in with `codex login`, or set env_key, auth_file or anonymous"),
        ("", {"OPENAI_API_KEY": ""}, "set OPENAI_API_KEY"),
        ("env_key = 'SPECIAL'", {"OPENAI_API_KEY": "sk-usual"}, "set SPECIAL"),
    ],
)
def test_missing_credentials_are_one_line_with_what_to_do(
    write: Write, tmp_path: Path, text: str, environ: dict[str, str], hint: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        credentials(text, environ | {"CODEX_HOME": str(tmp_path / "nowhere")}, write)
    message = str(caught.value)
    assert message.startswith("profile default: no credentials: ")
    assert message.endswith(hint) or hint in message
    assert "\n" not in message


# --- keys --------------------------------------------------------------------------------------------------------

OTHER = hashlib.sha256(b"another key of the same strength").hexdigest()


def keys_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    return path


def test_more_keys_may_be_in_a_file_of_their_own(write: Write, tmp_path: Path) -> None:
    more = keys_file(tmp_path, f"[[keys]]\nname = 'b'\nsha256 = '{OTHER}'\nmodels = ['codex-5']")
    path = write(f"keys_file = '{more}'\n[[keys]]\nname = 'a'\nsha256 = '{HASH}'")
    assert [key.name for key in load(path, {}).keys] == ["a", "b"]
    assert [key.name for key in load(None, {"CODEX_COMPLETIONS_KEYS_FILE": str(more)}).keys] == ["b"]
    assert load(write(f"keys_file = '{keys_file(tmp_path, '')}'"), {}).keys == ()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[keys", "keys.toml: "),
        ("port = 1", "keys.toml: port: only [[keys]] can be set here"),
        ("keys = 1", "keys.toml: keys: only [[keys]] can be set here"),
        ("[[keys]]\nname = 'b'", "keys.toml: keys.0.sha256: Field required"),
        (f"[[keys]]\nname = 'b'\nsha256 = '{OTHER}'\nexpires = 2027-01-01", "keys.toml: keys.0.expires: "),
        (f"[[keys]]\nname = 'b'\nsha256 = '{OTHER}'\ntokens_per_minute = 0", "keys.toml: keys.0.tokens_per_minute"),
        (f"[[keys]]\nname = 'a'\nsha256 = '{OTHER}'", "keys: every key needs a name of its own"),
        (
            f"[[keys]]\nname = 'b'\nsha256 = '{OTHER}'\nmodels = ['x']",
            "keys: b may use 'x', and there is no such model",
        ),
    ],
)
def test_what_is_wrong_in_the_file_of_keys_is_told_with_its_place(
    write: Write, tmp_path: Path, text: str, why: str
) -> None:
    more = keys_file(tmp_path, text)
    assert why in refusal(write(f"keys_file = '{more}'\n[[keys]]\nname = 'a'\nsha256 = '{HASH}'"), {})


def test_a_file_of_keys_that_is_not_there_is_told(write: Write, tmp_path: Path) -> None:
    assert refusal(write(f"keys_file = '{tmp_path}/none'"), {}) == f"{tmp_path}/none: No such file or directory"
    assert "keys_file" in refusal(write("keys_file = 1"), {})


def test_a_date_of_expiry_says_its_zone(write: Write) -> None:
    key = f"[[keys]]\nname = 'a'\nsha256 = '{HASH}'\nexpires = "
    (found,) = load(write(key + "2027-01-31T01:00:00+01:00"), {}).keys
    assert found.expires is not None
    assert found.expires.timestamp() == 1801353600
    assert "keys.0.expires" in refusal(write(key + "2027-01-31T00:00:00"), {})

"""Configuration: one TOML file and the environment, parsed once into frozen models.

The environment wins over the file: `CODEX_COMPLETIONS_SERVER__PORT=8080` sets `port` in `[server]`.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import from_json
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError
from pydantic_settings.sources import EnvSettingsSource

from pool.errors import ConfigurationError
from pool.home import OWN_VARIABLES
from pool.profile import MAX_SLOTS
from service.fields import HomePath, Seconds
from service.maintenance import MaintenanceSettings
from service.notify import VARIABLES
from service.routing import Routes
from service.store.settings import StoreSettings
from service.toolcalls.settings import ToolSettings
from service.traces.settings import TraceSettings
from service.usage.settings import UsageSettings

PREFIX = "CODEX_COMPLETIONS_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
"""Names the file; the one variable with our prefix that is no setting."""
MIN_KEY_CHARS = 24
MIN_KEY_ALPHABET = 10

ALIASES: dict[str, tuple[str, ...]] = {
    "PORT": ("server", "port"),
    "PROXY_HOST": ("server", "host"),
    "PROXY_API_KEY": ("api_key",),
    "PROXY_PROTECT_MODELS": ("server", "protect_models"),
    "PROXY_ENABLE_CORS": ("server", "cors"),
    "PROXY_CORS_ALLOWED_ORIGINS": ("server", "cors_origins"),
    "PROXY_MAINTENANCE_MODE": ("maintenance", "on"),
    "PROXY_OUTPUT_MODE": ("tools", "output_mode"),
    "PROXY_RESPONSES_OUTPUT_MODE": ("tools", "responses_output_mode"),
    "PROXY_STOP_AFTER_TOOLS": ("tools", "stop_after"),
    "PROXY_STOP_AFTER_TOOLS_MODE": ("tools", "stop_mode"),
    "PROXY_STOP_AFTER_TOOLS_GRACE_MS": ("tools", "grace_s"),
    "PROXY_SUPPRESS_TAIL_AFTER_TOOLS": ("tools", "suppress_tail"),
    "PROXY_TOOL_BLOCK_MAX": ("tools", "max_calls"),
    "PROXY_TOOL_BLOCK_DEDUP": ("tools", "dedup"),
    "PROXY_TOOL_BLOCK_DELIMITER": ("tools", "delimiter"),
}
"""Names of the predecessor that still mean what they meant; a name in milliseconds becomes a setting in seconds."""

_OUTLIVED = {
    "PROXY_USE_APP_SERVER": "the app-server is the only backend: unset it",
    "PROXY_WORKER_COUNT": "set workers in [profiles.NAME]",
    "PROXY_RATE_LIMIT_ENABLED": "a limit is a key's: set requests_per_minute in [[keys]]",
    "PROXY_USAGE_ALLOW_UNAUTH": "usage is told to keys only: unset it",
    "TOKEN_LOG_PATH": "usage is kept in a file of another format: set path in [usage]",
}
_HARMLESS = {"PROXY_USE_APP_SERVER": True, "PROXY_RATE_LIMIT_ENABLED": False, "PROXY_USAGE_ALLOW_UNAUTH": False}
"""With this value they say what is so anyway."""

_KNOWN_WEAK = frozenset(
    hashlib.sha256(text.encode()).hexdigest()
    for text in ("", "codex-local-secret", "changeme", "change-me", "secret", "password", "test", "sk-test", "sk-local")
)


def _listed(value: Any) -> Any:
    """A list as an environment says it: in JSON like every other, or as the predecessor's, with commas in between."""
    if not isinstance(value, str):
        return value
    return from_json(value) if value.startswith("[") else [part.strip() for part in value.split(",") if part.strip()]


def _origin(value: str) -> str:
    if not re.fullmatch(r"\*|[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@*\\]+/?", value):
        raise ValueError("an origin is scheme://host or scheme://host:port, and '*' is everybody")
    return value


def _is_no_common_key(value: str) -> str:
    if value in _KNOWN_WEAK:
        raise ValueError("this is the hash of a key that everybody knows")
    return value


Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$"), AfterValidator(_is_no_common_key)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_listed)]
Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
PriorityName = Literal["interactive", "standard", "batch"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerSettings(_Model):
    """The HTTP side."""

    host: str = Field("127.0.0.1", description="Address to listen on. Anything but loopback is your decision.")
    port: int = Field(11435, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    max_body_bytes: int = Field(16 * 1024 * 1024, ge=1024, le=30 * 1024 * 1024, description="Largest request body.")
    body_timeout_s: Seconds = Field(60.0, description="How long a client may take to send its body.")
    commit_delay_s: Seconds = Field(2.0, description="How long the status line is held back for a clean error.")
    keepalive_s: Seconds = Field(15.0, description="Between comments that keep idle streams open.")
    write_timeout_s: Seconds = Field(30.0, description="How long a client may take to read what was sent.")
    max_held_bytes: int = Field(
        256 * 1024 * 1024,
        ge=1024,
        description="Of all requests that wait or run, and of those being read; each takes about four times that.",
    )
    drain_timeout_s: Seconds = Field(20.0, description="How long running answers may go on after SIGTERM.")
    protect_models: bool = Field(default=False, description="Ask for a key on /v1/models too.")
    open_metrics: bool = Field(default=False, description="Serve /metrics without a key to other hosts than this one.")
    metrics_host: str = Field("127.0.0.1", description="Address of `metrics_port`; whoever reaches it needs no key.")
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="Serve /metrics here and not on `port`; 0 takes a free one. Unset: on `port`."
    )
    max_prompt_chars: int | None = Field(None, ge=1, description="Longest prompt in characters; unset: no limit.")
    cors: bool = Field(default=True, description="Let web pages use /v1: answer preflights, send the CORS headers.")
    cors_origins: Origins = Field(("*",), description="Whose pages: `scheme://host[:port]`; `*` is everybody's.")


class LogSettings(_Model):
    """What is logged; prompts and answers never are."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is logged.")


class ImageSettings(_Model):
    """Images in requests."""

    urls: Literal["off", "data", "https"] = Field(
        "https", description="Where images may come from: nowhere, within the request, or from public web servers too."
    )
    max_count: int = Field(50, ge=1, le=500, description="Images of one request.")
    max_bytes: int = Field(8 * 1024 * 1024, ge=1024, le=20 * 1024 * 1024, description="Largest image.")
    max_total_bytes: int = Field(
        16 * 1024 * 1024, ge=1024, le=20 * 1024 * 1024, description="All images of one request."
    )
    max_pixels: int = Field(
        25_000_000, ge=1, le=200_000_000, description="Largest image, unpacked: a worker takes about 8 bytes for each."
    )
    timeout_s: Seconds = Field(15.0, description="How long it may take to fetch all images of one request.")
    fetches_per_second: int = Field(
        50, ge=1, le=10_000, description="Images fetched, for all keys together; what is more waits, within that time."
    )
    trusted_hosts: Hosts = Field(
        (), description="`host` or `host:port` that may be fetched from wherever it is, over http too."
    )


class BackgroundSettings(_Model):
    """Responses that are worked on without a client."""

    max_jobs: int = Field(256, ge=1, le=100_000, description="Most at a time, queued ones included.")
    max_jobs_per_key: int = Field(64, ge=1, le=100_000, description="Most at a time of one key.")
    queue_budget_s: Seconds = Field(3600.0, description="How long one may wait for a seat, over a restart, too.")


class KeySettings(_Model):
    """One API key, as its hash: `codex-completions key` makes both."""

    name: Name = Field(description="Who is charged; appears in logs and metrics.")
    sha256: Digest = Field(description="SHA-256 of the key, in hexadecimal.")
    usage: Literal["own", "all"] = Field("own", description="Whose usage it may read at `/v1/usage`.")
    requests_per_minute: int | None = Field(None, ge=1, description="This key's contract; unset: no limit.")
    tokens_per_minute: int | None = Field(
        None, ge=1, description="Likewise, of prompts and answers together; unset: no limit."
    )
    expires: AwareDatetime | None = Field(
        None, description="When it is a key no more, as `2027-01-31T00:00:00Z`; unset: never."
    )
    models: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        None, description="What it may use, by the names of `[models.NAME]`; unset: everything."
    )
    weight: float = Field(1.0, ge=0.01, le=100, description="This key's share of a full service, beside others.")
    priority: PriorityName = Field("standard", description="The class of requests that ask for none.")
    max_priority: PriorityName | None = Field(
        None, description="The highest class that requests may ask for; unset: `priority`."
    )
    seats: int | None = Field(None, ge=1, description="Most turns at once in one profile; unset: no limit.")
    queue_max: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Most jobs that may wait in one profile; unset: the profile's `queue_share`.",
    )
    max_deadline_s: Seconds | None = Field(None, description="Longest whole request; unset: no limit.")

    @model_validator(mode="after")
    def _may_ask_for_its_own(self) -> Self:
        order = ("batch", "standard", "interactive")
        if self.max_priority is not None and order.index(self.max_priority) < order.index(self.priority):
            raise ValueError(f"max_priority {self.max_priority!r} is below priority {self.priority!r}")
        return self


class AdminKeySettings(_Model):
    """One operator's key, as its hash: `codex-completions key --admin` makes both."""

    name: Name = Field(description="Who acts; appears in the audit log.")
    sha256: Digest = Field(description="SHA-256 of the key, in hexadecimal.")


class AdminSettings(_Model):
    """The operators' side: off unless it has a port."""

    host: str = Field("127.0.0.1", description="Address to listen on, in plain HTTP: elsewhere, put TLS before it.")
    port: int | None = Field(None, ge=0, le=65535, description="Port to listen on; 0 takes a free one. Unset: off.")
    session_s: Seconds = Field(8 * 3600.0, description="How long a browser stays signed in.")
    keys: tuple[AdminKeySettings, ...] = ()

    @model_validator(mode="after")
    def _has_keys(self) -> Self:
        if self.port is not None and not self.keys:
            raise ValueError("it has a port and no keys: `codex-completions key --admin` makes one")
        if len({key.name for key in self.keys}) != len(self.keys):
            raise ValueError("keys: every key needs a name of its own")
        return self


class LimitSettings(_Model):
    """How long each part of a turn may take."""

    start_s: Seconds = Field(10.0, description="One answer of the worker while a turn begins or closes.")
    first_event_s: Seconds = Field(120.0, description="From the begun turn to its first event.")
    idle_s: Seconds = Field(120.0, description="Between two events.")
    total_s: Seconds = Field(600.0, description="The whole turn.")
    interrupt_s: Seconds = Field(5.0, description="From an interrupt to its effect, before the worker has to go.")


class ProbeSettings(_Model):
    """When a silent worker is asked whether it is there."""

    idle_s: Seconds = Field(2.0, description="Silence before a worker is probed.")
    timeout_s: Seconds = Field(2.0, description="How long a probe may go unanswered before new turns go elsewhere.")
    fast_s: Seconds = Field(1.0, description="Between probes of a worker that has missed one.")
    hung_s: Seconds = Field(10.0, description="From the first miss until the worker is given up.")


class RetireSettings(_Model):
    """When a worker is replaced though nothing is wrong with it; turns and age are jittered by up to a tenth."""

    max_turns: int = Field(2000, ge=1, description="Turns that one worker runs.")
    max_age_s: Seconds = Field(3600.0, description="How long one worker serves.")
    max_rss_bytes: int = Field(
        1536 * 1024 * 1024, ge=64 * 1024 * 1024, description="Its memory, shared parts included."
    )
    quarantine_s: Seconds = Field(60.0, description="How long turns may go on, on a worker that is condemned.")


class ProfileSettings(_Model):
    """A kind of worker."""

    base_url: str = Field("https://api.openai.com/v1", pattern="^https?://[^ ]+$", description="The model provider.")
    default_model: str = Field("gpt-5.2", min_length=1, description="The model when a route names none.")
    models: tuple[str, ...] = Field((), description="Further model ids that the CLI's own catalogue may lack.")
    env_key: str | None = Field(None, description="Variable of the service's environment with the provider's key.")
    auth_file: HomePath | None = Field(None, description="auth.json of a logged-in CLI.")
    anonymous: bool = Field(default=False, description="The provider wants no credentials.")
    codex_bin: HomePath | None = Field(None, description="The CLI; unset: the packaged one, then PATH.")
    workers: int = Field(2, ge=1, le=64, description="Processes.")
    slots: int = Field(8, ge=1, le=MAX_SLOTS, description="Turns that one process runs at once.")
    queue_max: int = Field(64, ge=1, le=100_000, description="Jobs that may wait for a seat.")
    queue_budget_s: Seconds = Field(10.0, description="How long a job may wait for a seat.")
    queue_share: float = Field(
        0.5, gt=0, le=1, description="Part of `queue_max` that one key may take, where there are several."
    )
    seats_limit: int | None = Field(None, ge=1, description="Most turns at once, over all workers; unset: all seats.")
    aimd: bool = Field(
        default=False, description="Lower that limit when the provider is overloaded, and raise it slowly."
    )
    codel_target_s: float = Field(
        0.5, ge=0, le=86400, description="Wait that may last; above it for long, waiting jobs are shed. 0: never."
    )
    attempts: int = Field(
        2, ge=1, le=10, description="How often a job may be started, if nothing is seen of it before."
    )
    retry_ratio: float = Field(0.1, ge=0, le=1, description="Of all jobs, how many may be started again.")
    retry_reserve: int | None = Field(
        None, ge=0, le=100_000, description="How many more may be at once; unset: twice `slots`, at least 3."
    )
    penalty_s: float = Field(
        600.0, ge=0, le=86400, description="How long a request that crashed two workers is refused. 0: not at all."
    )
    prompt: Literal["roles", "transcript"] = Field(
        "roles", description="How a history reaches the model: every message as what it is, or all as one text."
    )
    reject_unsupported: bool = Field(
        default=False, description="Refuse parameters that have no effect, instead of naming them in a header."
    )
    required: bool = Field(
        default=True, description="Without a worker of it the service is not ready; no for a canary."
    )
    pass_env: tuple[str, ...] = Field((), description="Variables that workers get as they are, such as HTTPS_PROXY.")
    spares: int = Field(0, ge=0, le=16, description="More processes that are booted and wait to take another's place.")
    probation_s: float = Field(10.0, ge=0, le=3600, description="A new worker gets two turns at most for so long.")
    surge: float = Field(0.25, gt=0, le=1, description="Share of workers that may be added while others are replaced.")
    eject_max: float = Field(0.34, gt=0, le=1, description="Share of workers that may be condemned at once.")
    init_timeout_s: Seconds = Field(10.0, description="From spawn to the answered handshake.")
    upstream_idle_s: Seconds = Field(300.0, description="Silence of the provider's stream before it counts as cut.")
    limits: LimitSettings = LimitSettings()
    probes: ProbeSettings = ProbeSettings()
    retire: RetireSettings = RetireSettings()

    @field_validator("pass_env")
    @classmethod
    def _keeps_the_walls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        ours = sorted((OWN_VARIABLES | VARIABLES).intersection(value))
        if ours:
            raise ValueError(f"{', '.join(ours)}: the service's own, not for it to pass on")
        return value

    @model_validator(mode="after")
    def _has_one_way_in(self) -> Self:
        if sum((self.env_key is not None, self.auth_file is not None, self.anonymous)) > 1:
            raise ValueError("set one of env_key, auth_file and anonymous, not several")
        return self


class TargetSettings(_Model):
    """One of several profiles that share a public model name."""

    profile: Name = Field(description="Whose workers answer.")
    weight: float = Field(1.0, ge=0, le=1_000_000, description="Its share of the requests, beside the others' weights.")
    model: str | None = Field(None, min_length=1, description="The provider's model id; unset: the route's.")


class RouteSettings(_Model):
    """What a public model name stands for."""

    profile: Name = Field("default", description="Whose workers answer.")
    model: str | None = Field(None, min_length=1, description="The provider's model id; unset: the profile's default.")
    targets: tuple[TargetSettings, ...] = ()
    sticky: bool = Field(default=False, description="A key always gets the same one of the targets.")
    fallback: tuple[Name, ...] = Field(
        (), description="Profiles to ask, in this order, when there is no room or no worker in time."
    )
    aliases: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="Further names, which are listed too."
    )
    effort: Effort | None = Field(None, description="Reasoning effort when the request names none.")
    efforts: tuple[Effort, ...] = Field((), description="Efforts that its models know; unset: whatever is asked for.")
    effort_suffixes: bool = Field(
        default=False, description="NAME-minimal, -low, -medium, -high and -xhigh are NAME with that effort."
    )
    priority: PriorityName | None = Field(
        None, description="The class of requests that ask for none; unset: the key's."
    )
    deadline_s: Seconds | None = Field(None, description="Longest whole request; unset: no limit.")
    queue_budget_s: Seconds | None = Field(
        None, description="How long a job may wait for a seat; unset: as the profile says."
    )
    max_prompt_chars: int | None = Field(
        None, ge=1, description="Longest prompt in characters, below the server's own limit."
    )
    images: bool = Field(default=True, description="Whether its models see images.")

    @model_validator(mode="after")
    def _leads_one_way(self) -> Self:
        if self.targets and "profile" in self.model_fields_set:
            raise ValueError("set profile or targets, not both")
        if self.efforts and self.effort is not None and self.effort not in self.efforts:
            raise ValueError("effort is not among efforts")
        return self


def _default_models() -> dict[str, RouteSettings]:
    """The predecessor's model ids and their meaning."""
    levels: dict[str, Effort] = {"low": "low", "medium": "medium", "high": "high"}
    letters: dict[str, Effort] = {"L": "low", "M": "medium", "H": "high", "XH": "xhigh"}
    routes = {"codex-5": RouteSettings()}
    routes |= {f"codex-5-{level}": RouteSettings(effort=effort) for level, effort in levels.items()}
    routes |= {f"gpt-5.2-codex-{x}": RouteSettings(model="gpt-5.2", effort=effort) for x, effort in letters.items()}
    routes["gpt-5.2-LOCAL"] = RouteSettings(model="gpt-5.2", effort="low")
    return routes


class Settings(BaseSettings):
    """Everything that can be configured."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__", case_sensitive=False
    )

    state_dir: HomePath = Field(
        Path("~/.local/state/codex-completions"),
        validate_default=True,
        description="Private directory for the workers' throw-away homes.",
    )
    server: ServerSettings = ServerSettings()
    log: LogSettings = LogSettings()
    tools: ToolSettings = ToolSettings()
    store: StoreSettings = StoreSettings()
    background: BackgroundSettings = BackgroundSettings()
    usage: UsageSettings = UsageSettings()
    trace: TraceSettings = TraceSettings()
    images: ImageSettings = ImageSettings()
    maintenance: MaintenanceSettings = MaintenanceSettings()
    admin: AdminSettings = AdminSettings()
    api_key: SecretStr | None = Field(None, description="One key, from the environment only; charged to `default`.")
    keys_file: HomePath | None = Field(
        None, description="A TOML file with more `[[keys]]`, and nothing else; it is read again at a reload."
    )
    keys: tuple[KeySettings, ...] = ()
    profiles: dict[Name, ProfileSettings] = Field(default_factory=lambda: {"default": ProfileSettings()}, min_length=1)
    models: dict[str, RouteSettings] = Field(default_factory=_default_models, min_length=1)

    @field_validator("api_key")
    @classmethod
    def _is_strong(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            refuse_weak_key(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        names = [key.name for key in self.keys] + (["default"] if self.api_key else [])
        if len(set(names)) != len(names):
            raise ValueError("keys: every key needs a name of its own ('default' is the one in api_key)")
        hashes = self.key_hashes().values()
        if len(set(hashes)) != len(hashes):
            raise ValueError("keys: two of them are the same key")
        for key in self.keys:
            for name in key.models or ():
                if name not in self.models:
                    raise ValueError(f"keys: {key.name} may use {name!r}, and there is no such model")
        if any(bytes.fromhex(key.sha256) in hashes for key in self.admin.keys):
            raise ValueError("admin.keys: a key of the API is no key of an operator")
        Routes(self)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the library's signature, here and below
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` hands over: nothing here reads the environment behind its back."""
        return (init_settings,)

    def key_hashes(self) -> dict[str, bytes]:
        """Each key's name and SHA-256 digest."""
        hashes = {key.name: bytes.fromhex(key.sha256) for key in self.keys}
        if self.api_key is not None:
            hashes["default"] = sha256(self.api_key.get_secret_value())
        return hashes


def sha256(key: str) -> bytes:
    """A key's digest, whatever bytes it is made of."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def refuse_weak_key(key: str) -> None:
    """Raise ValueError when a key could be guessed: short, or of few different characters."""
    if len(key) < MIN_KEY_CHARS or len(set(key)) < MIN_KEY_ALPHABET:
        raise ValueError(
            f"the key is too weak: at least {MIN_KEY_CHARS} characters, {MIN_KEY_ALPHABET} of them different;"
            " `codex-completions key` makes a good one"
        )


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings in the file at `path` (none: defaults) and in `environ`.

    Raises:
        ConfigurationError: unreadable, unknown, contradictory or weak; one line that names the place.
    """
    values = {} if path is None else _read(path)
    if "api_key" in values:
        raise ConfigurationError(f"{path}: api_key: no clear-text key in a file; use [[keys]] with its sha256")
    _refuse_outlived(environ)
    overlay = _overlay(environ)
    merged = _merge(values, overlay)
    keys_file, more = _more_keys(merged.get("keys_file"))
    own = merged.get("keys", [])
    if more and isinstance(own, list):
        merged["keys"] = own + more
    try:
        return Settings(**merged)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        source, loc = path or "settings", first["loc"]
        match loc:
            case ("keys", int(number), *rest) if more and number >= len(own):
                source, loc = keys_file, ("keys", number - len(own), *rest)
            case _ if _has(overlay, loc):
                source = "environment"
        raise ConfigurationError(f"{source}: {_line('.'.join(map(str, loc)), first['type'], first['msg'])}") from error


def _read(path: Path) -> dict[str, Any]:
    """What a TOML file says."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}") from error


def _more_keys(name: object) -> tuple[Path, list[Any]]:
    """The keys in the file of keys, if there is one."""
    if not isinstance(name, str):
        return Path(), []  # what is no path is refused with the other settings
    path = Path(name).expanduser()
    values = _read(path)
    keys = values.pop("keys", [])
    if values or not isinstance(keys, list):
        raise ConfigurationError(f"{path}: {next(iter(values), 'keys')}: only [[keys]] can be set here")
    return path, keys


def _overlay(environ: Mapping[str, str]) -> dict[str, Any]:
    """The settings that the environment makes, the predecessor's names among them."""
    merged = dict(environ)
    for name, place in ALIASES.items():
        if name in environ:
            value = f"{environ[name]}e-3" if name.endswith("_MS") else environ[name]
            merged.setdefault(PREFIX + "__".join(place).upper(), value)
    for name in merged:
        field = name.removeprefix(PREFIX).split("__")[0].lower()
        if name.startswith(PREFIX) and field not in Settings.model_fields:
            raise ConfigurationError(f"environment: {name}: unknown setting")
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): value for name, value in merged.items()}
    try:
        return source()
    except SettingsError as error:
        raise ConfigurationError(f"environment: {error}") from error


def _has(value: Any, place: tuple[int | str, ...]) -> bool:
    """`value` holds something at `place`."""
    for part in place:
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return bool(place)


def _merge(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {key: _merge(below.get(key), value) for key, value in above.items()}
    return above


def _refuse_outlived(environ: Mapping[str, str]) -> None:
    for name, advice in _OUTLIVED.items():
        if name in environ and _HARMLESS.get(name) is not _is_true(environ[name]):
            raise ConfigurationError(f"environment: {name}: {advice}")
    for name in environ:
        if re.match(r"^(PROXY|CODEX)_.*PROTO(_|$)|^PROTO_LOG_PATH$", name):
            raise ConfigurationError(f"environment: {name}: `codex proto` is gone: unset it")


def _is_true(value: str) -> bool:
    return value.strip().lower() in ("1", "true", "yes", "on")


def changed(settings: Settings, tables: Mapping[str, Any]) -> Settings:
    """The settings with these in place of theirs, checked like those of a file.

    Raises:
        ConfigurationError: wrong, or in contradiction to others; one line that names the place.
    """
    try:
        return Settings(**_merge(settings.model_dump(exclude_unset=True), tables))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise ConfigurationError(_line(".".join(map(str, first["loc"])), first["type"], first["msg"])) from error


def _line(place: str, kind: str, text: str) -> str:
    message = "unknown setting" if kind == "extra_forbidden" else text.removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def require_keys(settings: Settings) -> None:
    """Raise ConfigurationError when nobody could ask for anything."""
    if not settings.key_hashes():
        raise ConfigurationError("no API key is configured: `codex-completions key` makes one")

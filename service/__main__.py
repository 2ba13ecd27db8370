"""The command `codex-completions`; also `python -m service`."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import re
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import uvloop

from pool.binary import protocol_schema, resolve
from pool.errors import ConfigurationError, EnvironmentUnfit
from pool.protocol.drift import drift, pinned, used
from service import __version__
from service.lifecycle import check, serve
from service.logs import catch_strays, configure_logging
from service.routing import Routes
from service.settings import CONFIG_VARIABLE, Settings, load, require_keys

EXIT_CHANGED = 1
EXIT_CONFIGURATION = 2
EXIT_ENVIRONMENT = 3

VARIABLE = re.compile("[A-Z][A-Z0-9_]*")
"""A file with another name is a file, such as an `auth_file`."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 the CLI's protocol has changed, 2 the configuration is wrong, 3 this
    machine lacks something.
    """
    arguments = _parser().parse_args(argv)
    environ = dict(os.environ)  # noqa: TID251 - the one place that reads it
    path = arguments.config or environ.pop(CONFIG_VARIABLE, None)
    environ.pop(CONFIG_VARIABLE, None)
    try:
        environ = {**_handed_over(environ), **environ}
        arguments.run(arguments, Path(path) if path else None, environ)
    except ConfigurationError as error:
        _fail(error, EXIT_CONFIGURATION)
    except EnvironmentUnfit as error:
        _fail(error, EXIT_ENVIRONMENT)


def _handed_over(environ: Mapping[str, str]) -> dict[str, str]:
    """The credentials that the service manager hands over in files, by the names of the variables that they stand for.

    Raises:
        ConfigurationError: one cannot be read.

    Source: systemd.exec(5), `LoadCredential=`.
    """
    folder = environ.get("CREDENTIALS_DIRECTORY")
    try:
        paths = sorted(Path(folder).iterdir()) if folder else []
        return {path.name: path.read_text().strip() for path in paths if VARIABLE.fullmatch(path.name)}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"CREDENTIALS_DIRECTORY {folder} cannot be read: {error}") from error


def _fail(error: Exception, code: int) -> None:
    print(f"codex-completions: {error}", file=sys.stderr)  # noqa: T201 - the command's answer
    sys.exit(code)


def _serve(_arguments: argparse.Namespace, path: Path | None, environ: Mapping[str, str]) -> None:
    settings = load(path, environ)
    configure_logging(settings.log.level)
    catch_strays()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, environ, load=lambda: load(path, environ)))


def _check(arguments: argparse.Namespace, path: Path | None, environ: Mapping[str, str]) -> None:
    settings = load(path, environ)
    if arguments.schema is not None:
        chosen = (
            [arguments.schema]
            if arguments.schema != Path()
            else [profile.codex_bin for profile in settings.profiles.values()]
        )
        _check_schema(dict.fromkeys(resolve(binary, environ.get("PATH")) for binary in chosen))
        return
    require_keys(settings)
    for line in Routes(settings).described():
        _say(f"model {line}")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        boots = runner.run(check(settings, environ))
    for boot in boots:
        _say(f"profile {boot.profile}: " + (boot.failure or f"Codex CLI {boot.version} is ready"))
    failures = [boot.profile for boot in boots if boot.failure]
    if failures:
        raise EnvironmentUnfit(f"no worker came up for: {', '.join(failures)}")


def _check_schema(binaries: Iterable[Path]) -> None:
    changed = False
    for binary in binaries:
        try:
            lines = drift(pinned(), used(protocol_schema(binary)))
        except ValueError as error:
            raise EnvironmentUnfit(f"{binary}: {error}") from error
        _say(f"{binary}: of what is used of its protocol, {len(lines) or 'nothing'} has changed")
        for line in lines:
            _say(f"  {line}")
        changed = changed or bool(lines)
    if changed:
        sys.exit(EXIT_CHANGED)


def _schema(_arguments: argparse.Namespace, _path: Path | None, _environ: Mapping[str, str]) -> None:
    _say(json.dumps(Settings.model_json_schema(), indent=2))


def _key(arguments: argparse.Namespace, _path: Path | None, _environ: Mapping[str, str]) -> None:
    key = f"sk-{secrets.token_urlsafe(32)}"
    table = "admin.keys" if arguments.admin else "keys"
    _say(f"# the key, shown this once; give it to {arguments.name}:\n#   {key}\n[[{table}]]")
    _say(f'name = "{arguments.name}"\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"')


def _say(text: str) -> None:
    print(text)  # noqa: T201 - the command's answer


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="codex-completions", description="OpenAI-compatible service over Codex CLI.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--config", metavar="FILE", help=f"TOML file (or the variable {CONFIG_VARIABLE})")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("serve", _serve, "serve until SIGTERM"),
        ("check", _check, "say where each model leads, boot one worker of each profile and report"),
        ("schema", _schema, "print the configuration's JSON Schema"),
        ("key", _key, "make an API key and its hash"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        if name == "check":
            command.add_argument(
                "--schema",
                nargs="?",
                const=Path(),
                type=Path,
                metavar="CODEX",
                help="instead, say what has changed in the protocol of this CLI (default: of those configured)",
            )
        if name == "key":
            command.add_argument("--name", default="partner", help="who is charged, or who acts")
            command.add_argument(
                "--admin", action="store_true", help="for an operator, who may not use the API with it"
            )
    return parser


if __name__ == "__main__":
    main()

"""The Codex CLIs to compare: the packaged one, and the newest that a package registry has."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from pool.binary import resolve

CACHE = Path("~/.cache/codex-completions/cli").expanduser()
"""A folder per version; nothing in it is ever changed, all of it may be removed."""
ASK_S = 20.0
DOWNLOAD_S = 240.0

PYTHON_PACKAGE = "openai-codex-cli-bin"
NODE_PACKAGE = "@openai/codex"

Fetch = Callable[[str, Path], None]
"""Puts the program of a release into a folder, as `codex`."""


class NotToBeHadError(Exception):
    """There is no other CLI to compare with; the message says why."""


class Cli(NamedTuple):
    """An executable, and what it says its version is."""

    version: str
    path: Path


def packaged() -> Cli:
    """The one that is installed beside the service."""
    return Cli(version(PYTHON_PACKAGE), resolve(None))


def at(path: Path) -> Cli:
    """The one at `path`.

    Raises:
        NotToBeHadError: it cannot be run, or does not tell its version.
    """
    found = re.search(r"\d+\.\d+\.\d+\S*", _output([str(path), "--version"], ASK_S))
    if found is None:
        raise NotToBeHadError(f"{path} does not tell its version")
    return Cli(found[0], path.absolute())


def newest(cache: Path = CACHE) -> Cli:
    """The newest release of all registries that can be asked, downloaded once.

    Raises:
        NotToBeHadError: no registry can be asked or gives it, or it is the packaged one.
    """
    released = [(_released_for_python(), _fetch_for_python), (_released_for_node(), _fetch_for_node)]
    known = [(_numbers(release), release, fetch) for release, fetch in released if release is not None]
    if not known:
        raise NotToBeHadError("no package registry can be asked for its newest Codex CLI")
    numbers, release, fetch = max(known, key=lambda each: each[0])
    if numbers <= _numbers(packaged().version):
        raise NotToBeHadError(f"the packaged Codex CLI, {packaged().version}, is the newest")
    folder = cache / release
    try:
        if not (folder / "codex").exists():
            _download(folder, release, fetch)
    except OSError as error:
        raise NotToBeHadError(f"Codex CLI {release} cannot be kept in {folder}: {error}") from error
    return at(folder / "codex")


# --- registries --------------------------------------------------------------------------------------------------


def _released_for_python() -> str | None:
    ask = [*_PIP, "index", "versions", "--retries", "0", "--timeout", "5", PYTHON_PACKAGE]
    try:
        found = re.match(r"\S+ \((\d+\.\d+\.\d+)\)", _output(ask, ASK_S))
    except NotToBeHadError:
        return None
    return found[1] if found else None


def _released_for_node() -> str | None:
    if shutil.which("npm") is None or _NODE_PLATFORM is None:
        return None
    ask = ["npm", "view", "--json", "--fetch-retries=0", "--fetch-timeout=5000", NODE_PACKAGE, "dist-tags.latest"]
    try:
        release = json.loads(_output(ask, ASK_S))
    except (NotToBeHadError, ValueError):
        return None
    return release if isinstance(release, str) and re.fullmatch(r"\d+\.\d+\.\d+", release) else None


def _fetch_for_python(release: str, folder: Path) -> None:
    get = [*_PIP, "download", "--quiet", "--no-deps", "--only-binary=:all:", f"{PYTHON_PACKAGE}=={release}"]
    _output(get, DOWNLOAD_S, folder)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if _is_wanted(name):
                _keep(archive.open(name), folder / PurePosixPath(name).name)


def _fetch_for_node(release: str, folder: Path) -> None:
    _output(["npm", "pack", "--silent", f"{NODE_PACKAGE}@{release}-{_NODE_PLATFORM}"], DOWNLOAD_S, folder)
    (tarball,) = folder.glob("*.tgz")
    with tarfile.open(tarball) as archive:
        for member in archive:
            file = archive.extractfile(member) if _is_wanted(member.name) else None
            if file is not None:
                _keep(file, folder / PurePosixPath(member.name).name)


def _is_wanted(name: str) -> bool:
    """Only the program: what else is packed with it is for agents."""
    return PurePosixPath(name).parts[-2:] == ("bin", "codex")


def _keep(file: IO[bytes], path: Path) -> None:
    with file, path.open("wb") as kept:
        shutil.copyfileobj(file, kept)
    path.chmod(0o755)


def _download(folder: Path, release: str, fetch: Fetch) -> None:
    """Fill `folder` with the program, or leave it alone."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        fetch(release, Path(scratch))
        program = Path(scratch) / "codex"
        if not program.exists():
            raise NotToBeHadError(f"the package of Codex CLI {release} holds no program")
        program.replace(folder / "codex")


def _output(command: Sequence[str], bound_s: float, folder: Path | None = None) -> str:
    """What it prints.

    Raises:
        NotToBeHadError: it fails, or takes longer than `bound_s`.
    """
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=bound_s, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NotToBeHadError(f"{command[0]}: {error}") from error
    return done.stdout


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", release)[:3])


_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
_NODE_PLATFORM = {
    ("Linux", "x86_64"): "linux-x64",
    ("Linux", "aarch64"): "linux-arm64",
    ("Darwin", "x86_64"): "darwin-x64",
    ("Darwin", "arm64"): "darwin-arm64",
}.get((platform.system(), platform.machine()))

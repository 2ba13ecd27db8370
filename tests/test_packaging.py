"""What is installed is ours alone, and the lock files are what they promise."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = ["run.lock", "dev.lock", "litellm.lock"]


def pins(name: str) -> dict[str, str]:
    """Each locked package and its version."""
    text = (ROOT / "requirements" / name).read_text()
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^ \\\n]+)", text, flags=re.MULTILINE))


@pytest.mark.parametrize("package", ["service", "scheduler", "pool"])
def test_no_other_distribution_claims_our_packages(package: str) -> None:
    assert set(packages_distributions().get(package, ["codex-completions"])) == {"codex-completions"}


def test_the_three_packages_are_listed_explicitly() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["service", "scheduler", "pool"]
    (script,) = [entry for entry in distribution("codex-completions").entry_points if entry.group == "console_scripts"]
    assert (script.name, script.value) == ("codex-completions", "service.__main__:main")


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_hashes_and_no_address(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    assert "://" not in text
    entries = re.split(r"\n(?=[A-Za-z0-9])", text.strip())
    assert all("--hash=sha256:" in entry for entry in entries)
    assert len(entries) == len(pins(name))


def test_the_development_lock_has_the_same_versions_and_more() -> None:
    assert pins("run.lock").items() <= pins("dev.lock").items()


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    names = [
        re.split(r"[<>=\[ ]", requirement)[0]
        for requirement in [*project["dependencies"], *(entry for group in extras.values() for entry in group)]
    ]
    assert set(names) <= set(pins("dev.lock"))

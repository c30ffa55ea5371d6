"""What pip is told to install: bounds in pyproject.toml, versions in the lock, and their hashes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"].values()
DEPENDENCIES = [*PROJECT["dependencies"], *(name for extra in EXTRAS for name in extra)]


def same_name(name: str) -> str:
    """The name as package indexes compare it: `ruamel.yaml` is `ruamel-yaml`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if "==" in line)
    return {same_name(name): version for name, version in pairs}


def hashed() -> dict[str, tuple[str, int]]:
    """The version of each package of requirements.hashes.txt, and how many hashes it has."""
    text = (ROOT / "requirements.hashes.txt").read_text(encoding="utf-8")
    entries = re.findall(r"^([\w.-]+)==([^\s;]+)(.*(?:\n    .*)*)", text, re.MULTILINE)
    count = re.compile(r"--hash=sha256:[0-9a-f]{64}\b")
    return {same_name(n): (version, len(count.findall(rest))) for n, version, rest in entries}


@pytest.mark.parametrize("dependency", DEPENDENCIES)
def test_each_dependency_has_a_lower_bound_that_is_tested(dependency: str) -> None:
    match = re.match(r"([\w.-]+)(>=|==)(\d[\d.]*)", dependency)
    assert match, f"{dependency}: no lower bound; write >= and the minor version of the lock"
    name, bound = same_name(match[1]), tuple(map(int, match[3].split(".")))
    if name in locked():
        version = tuple(int(part) for part in locked()[name].split(".")[: len(bound)])
        assert version == bound


def test_each_package_of_the_lock_has_hashes_of_the_same_version() -> None:
    with_hashes = {name: version for name, (version, count) in hashed().items() if count}
    assert len(locked()) > 100
    assert {name: with_hashes.get(name) for name in locked()} == locked()


def test_the_hashes_are_of_the_index_that_everybody_uses() -> None:
    """An address or option would send who installs from it to a machine of ours."""
    text = (ROOT / "requirements.hashes.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^\s*--(?!hash=)", text, re.MULTILINE)

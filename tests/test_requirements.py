"""The hashed lists in requirements/ and docs/licences.md agree with constraints.txt and pyproject.toml, which people edit."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
FILES = ("torch", "run", "cuda", "dev", "lock")


def locked(*files: str) -> dict[str, tuple[str, list[str]]]:
    """Version and hashes by package."""
    found = {}
    for file in files:
        text = (REPOSITORY / "requirements" / f"{file}.txt").read_text()
        for name, version, rest in re.findall(r"^(\S+)==(\S+)(.*(?:\n .*)*)", text, re.MULTILINE):
            found[name] = (version, re.findall(r"--hash=sha256:([0-9a-f]{64})\b", rest))
    return found


def constraints() -> dict[str, Requirement]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in pins}


def needs(requirements: list[str]) -> set[str]:
    """Names of packages; those of an extra of our own are that extra's."""
    names: set[str] = set()
    for each in map(Requirement, requirements):
        if each.name == PROJECT["name"]:
            names |= {name for extra in each.extras for name in needs(PROJECT["optional-dependencies"][extra])}
        else:
            names.add(canonicalize_name(each.name))
    return names


@pytest.mark.parametrize("file", FILES)
def test_every_package_has_its_hashes_and_the_version_of_the_constraints(file: str) -> None:
    pins, packages = constraints(), locked(file)
    assert packages
    for name, (version, hashes) in packages.items():
        assert hashes, name
        assert pins[name].specifier.contains(version), f"{pins[name]}, but {version} is locked: run `make lock`"


def test_what_the_project_needs_is_locked() -> None:
    tools = {"pip", "setuptools"}  # they install the checkout
    assert needs(PROJECT["dependencies"]) | tools <= locked("torch", "run").keys(), "run `make lock`"
    assert needs(PROJECT["optional-dependencies"]["dev"]) <= locked("run", "dev").keys(), "run `make lock`"


def test_torch_is_locked_for_every_platform_that_the_project_names() -> None:
    _, hashes = locked("torch")["torch"]
    assert len(hashes) > 3 * 4  # three versions of Python; Linux on two processors, macOS and Windows


def test_the_licences_are_those_of_what_is_locked() -> None:
    text = (REPOSITORY / "docs/licences.md").read_text()
    rows = re.findall(r"^\| (\S+) \| (\d\S*) \| \S", text, re.MULTILINE)
    listed = {canonicalize_name(name): version for name, version in rows}
    assert listed == {name: version for name, (version, _) in locked("torch", "run", "cuda").items()}, (
        "run `make licences`"
    )

"""Examples in docstrings are run, of every module that has some."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import equinet

PACKAGE = Path(equinet.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if any(">>> " in line and "+SKIP" not in line for line in path.read_text().splitlines())
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings_give_what_they_show(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # for what examples write
    module = pytest.importorskip(
        name, reason=f"an optional library that {name} adapts is not installed", exc_type=ImportError
    )
    failed, attempted = doctest.testmod(module)
    assert failed == 0
    assert attempted > 0


def test_a_wrong_example_is_noticed():
    module = type(doctest)("wrong", ">>> 1 + 1\n3\n")
    assert doctest.testmod(module, report=False).failed == 1


def test_examples_are_found():
    assert "equinet.tables" in MODULES
    assert importlib.import_module("equinet.tables")

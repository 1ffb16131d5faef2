"""Documents point at what is there: files, headings, modules and names of equinet."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import equinet
from equinet.ops import protocols

REPOSITORY = Path(__file__).parent.parent
# Documents name files from the root, from the package, and in the sections on tensor products from `ops`.
ROOTS = (REPOSITORY, REPOSITORY / "equinet", REPOSITORY / "equinet" / "ops")
DOCUMENTS = [REPOSITORY / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")]
DOCUMENTS += sorted((REPOSITORY / "docs").rglob("*.md"))
IDS = [str(path.relative_to(REPOSITORY)) for path in DOCUMENTS]
# Groups of entry points, under which other packages offer their own: names that are no modules.
ENTRY_POINTS = {"equinet.tensor_products", "equinet.models"}

LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)|<img[^>]*\ssrc=\"([^\"]+)\"")
NAME = re.compile(r"\bequinet(?:\.[A-Za-z_]\w*)+")
PATH = re.compile(r"`([\w.-]+/[\w./-]*)`|\b(equinet/[\w./-]+\.py)\b")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*$", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def broken_links(text: str, folder: Path, own_anchors: set[str]) -> set[str]:
    """Relative links to files that are not there, or to headings that a document does not have."""
    broken = set()
    for link in (link or image for link, image in LINK.findall(FENCED.sub("", text))):
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = folder / path
        known = own_anchors if not path else anchors(target.read_text()) if target.is_file() and anchor else set()
        if not target.exists() or (anchor and anchor not in known):
            broken.add(link)
    return broken


def anchors(text: str) -> set[str]:
    """Anchors of headings as GitHub makes them: lower case, hyphens for spaces, no other punctuation."""
    titles = HEADING.findall(FENCED.sub("", text))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def missing_paths(text: str) -> set[str]:
    """Paths of Python files, or that begin with a folder of the repository, and are not there."""
    paths = {path or module for path, module in PATH.findall(FENCED.sub("", text))}
    ours = {
        path for path in paths if path.endswith(".py") or any((root / path.split("/")[0]).is_dir() for root in ROOTS)
    }
    return {path for path in ours if not path.startswith(".") and not any((root / path).exists() for root in ROOTS)}


def unknown_names(text: str) -> set[str]:
    """Dotted names below ``equinet`` that are neither a module nor an attribute of one."""
    return {name for name in NAME.findall(text) if name not in ENTRY_POINTS and not is_known(name)}


@cache
def is_known(name: str) -> bool:
    found, parts = importlib.import_module("equinet"), name.split(".")[1:]
    for n, part in enumerate(parts):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join(["equinet", *parts[: n + 1]]))
            except ImportError:
                return False
        found = getattr(found, part)
    return True


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_links_lead_to_files_and_headings(document):
    text = document.read_text()
    assert broken_links(text, document.parent, anchors(text)) == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_modules_and_paths_that_are_named_exist(document):
    text = document.read_text()
    assert missing_paths(text) == set()
    assert unknown_names(text) == set()


def test_stale_links_paths_and_names_are_noticed():
    text = "# Two words\n[a](README.md) [b](gone.md) ![c](gone.png) [d](#two-words) [e](#gone) [f](https://x.org/y)"
    assert broken_links(text, REPOSITORY, anchors(text)) == {"gone.md", "gone.png", "#gone"}
    assert broken_links("[a](README.md#gone)", REPOSITORY, set()) == {"README.md#gone"}
    assert missing_paths("`ops/layout.py` `ops/gone.py` `equinet/ops/` `run/` `elsewhere/gone.py`") == {
        "ops/gone.py",
        "elsewhere/gone.py",
    }
    assert unknown_names("`equinet.ops.layout.to_mul_ir` equinet.gone, equinet.ops.Gone.") == {
        "equinet.gone",
        "equinet.ops.Gone",
    }


def exported() -> dict[str, Any]:
    """Classes and functions of the public packages by their dotted name."""
    packages = [
        "equinet",
        *(f"equinet.{module.name}" for module in pkgutil.iter_modules(equinet.__path__) if module.name[0] != "_"),
    ]
    modules = [importlib.import_module(name) for name in packages]
    named = {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in modules
        for name in getattr(module, "__all__", [])
    }
    return {name: thing for name, thing in named.items() if inspect.isclass(thing) or inspect.isfunction(thing)}


def undocumented(name: str, thing: Any) -> list[str]:
    """The name itself and those of its methods that have no docstring, neither here nor where the method is declared."""
    parts = vars(thing).items() if inspect.isclass(thing) else ()
    kinds = (property, classmethod, staticmethod)
    methods = {part for part, value in parts if inspect.isfunction(value) or isinstance(value, kinds)}
    declared = {
        part for protocol in (protocols.Method, protocols.Convolution, protocols.ManyBody) for part in vars(protocol)
    }
    if thing.__module__ == protocols.__name__:
        declared = set()
    bare = [part for part in sorted(methods - declared) if not part.startswith("_") and not described(thing, part)]
    return [*([] if inspect.getdoc(thing) else [name]), *(f"{name}.{part}" for part in bare)]


def described(thing: type, part: str) -> bool:
    return any(inspect.getdoc(vars(base)[part]) for base in thing.__mro__ if part in vars(base))


def test_every_public_name_has_a_docstring():
    names = exported()
    assert len(names) > 80
    assert [bare for name, thing in names.items() for bare in undocumented(name, thing)] == []


def test_a_missing_docstring_is_noticed():
    class Bare:
        def method(self) -> None: ...

    assert undocumented("Bare", Bare) == ["Bare", "Bare.method"]

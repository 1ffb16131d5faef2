"""Which module may import which: read from the source, so that a forbidden import fails even where it would work."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "equinet"
SOURCES = sorted(PACKAGE.rglob("*.py"))
# room: the rooms it may import from. A room is a folder or a module of `equinet`; rooms stand in the order of the floors.
MAY_IMPORT: dict[str, set[str]] = {
    "ops": set(),
    "graph": set(),
    "nn": {"ops"},
    "models": {"nn", "ops", "graph"},
    "potential": {"datasets", "models", "nn", "ops", "graph"},
    "checkpoint": {"potential", "models", "nn", "ops", "graph"},
    "datasets": {"graph"},
    "accelerate": {"potential", "models", "nn", "ops", "graph"},
    "verify": {"checkpoint", "datasets", "potential", "models", "nn", "ops", "graph"},
    "convert": {"verify", "checkpoint", "datasets", "potential", "models", "nn", "ops", "graph"},
    "testing": {"verify", "checkpoint", "datasets", "potential", "models", "nn", "ops", "graph"},
    "train": {"verify", "accelerate", "checkpoint", "datasets", "potential", "models", "nn", "ops", "graph"},
    "md": {"verify", "accelerate", "checkpoint", "datasets", "potential", "models", "nn", "ops", "graph"},
    "": {"checkpoint", "convert", "potential"},  # equinet/__init__.py, lazily
}
# The ground floor, which every room stands on: tables as plain data, quotes, names of packages that are looked up late, what keeps long
# runs whole, and files of tensors.
GROUND = {"tables", "quotes", "lazy", "runs", "tensorfile"}
for rooms in MAY_IMPORT.values():
    rooms |= GROUND
MAY_IMPORT |= {name: set() for name in GROUND} | {"tensorfile": {"runs", "quotes"}}
MAY_IMPORT["bench"] = set(MAY_IMPORT) - {"", "testing"}
MAY_IMPORT["cli"] = MAY_IMPORT["bench"] | {"bench", "testing"}
MAY_IMPORT["__main__"] = {"cli"}

# library: the rooms, or the one module, that may know of it. What is not named here or below may be used anywhere.
MAY_USE: dict[str, set[str]] = {
    "ase": {"datasets", "graph.neighbors", "md", "verify", "bench"},
    "vesin": {"graph.search"},
    "safetensors": {"tensorfile"},
    "filelock": {"runs.lock"},
    "lmdb": {"datasets.store.database"},
    "torch_geometric": {"graph"},
    "cuequivariance": {"ops.external.cuequivariance", "bench.peers.cuequivariance"},
    "cuequivariance_torch": {"ops.external.cuequivariance", "bench.peers.cuequivariance"},
    "openequivariance": {"ops.external.openequivariance", "bench.peers.openequivariance"},
    "triton": {"ops.codegen.tiles"},
    "llvmlite": {"ops.codegen.llvm", "datasets.read.machine"},
    "h5py": {"datasets.read.hdf5"},
    "ase_db_backends": set(),
    "typer": {"cli"},
    "rich": {"cli"},
    "tblite": set(),
    "mace": {"bench.peers.mace_torch"},
    "torch_ema": {"bench.peers.mace_torch"},
}
# Imported by a function or for a type checker only, so that importing the room stays light.
LAZY = {
    ("potential", "graph"),
    ("potential", "ase"),
    ("graph", "ase"),
    ("accelerate", "ase"),
    ("train", "ase"),
    ("convert", "ase"),
    ("cli", "ase"),
    ("", "potential"),
    ("", "checkpoint"),
    ("", "convert"),
}
# Modules that import nothing but the standard library.
LIGHT = {"graph.elements", "tables", "quotes"}

# mace-torch reads the process-wide dtype; one context manager there sets it and puts it back.
MACE_FORCES_IT = {
    ("bench.peers.mace_torch.model", "set_default_dtype"),
    ("bench.peers.mace_torch.model", "get_default_dtype"),
}


def name_of(source: Path) -> str:
    """``ops.spec`` for ``equinet/ops/spec.py``; empty for ``equinet/__init__.py``."""
    parts = source.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(name: str) -> str:
    return name.split(".")[0]


def within(name: str, places: set[str]) -> bool:
    return any(name == place or name.startswith(place + ".") for place in places)


def imports_of(text: str, name: str, is_package: bool) -> list[tuple[str, int, bool]]:
    """Every import as (absolute module, line, whether it is lazy): inside a function or under TYPE_CHECKING."""
    found: list[tuple[str, int, bool]] = []
    package = ["equinet", *name.split(".")] if name else ["equinet"]
    if not is_package:
        package = package[:-1]

    def visit(node: ast.AST, lazy: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *(node.module.split(".") if node.module else [])])
            # `from equinet import graph` names a module; `from equinet.graph import AtomicGraph` does not
            names = [f"equinet.{alias.name}" for alias in node.names] if module == "equinet" else [module]
            found.extend((each, node.lineno, lazy) for each in names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, True)
            for child in node.orelse:
                visit(child, lazy)
        else:
            inner = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            for child in ast.iter_child_nodes(node):
                visit(child, inner)

    visit(ast.parse(text), False)
    return found


def complaints(text: str, name: str, is_package: bool = False) -> list[str]:
    """What one module imports although the table does not allow it."""
    found = []
    room = room_of(name)
    for module, line, lazy in imports_of(text, name, is_package):
        top, _, rest = module.partition(".")
        where = f"equinet/{name.replace('.', '/')}, line {line}: "
        if top in ("ops", "datasets", "train", "md", "nn", "models"):
            found.append(f"{where}write `from equinet.{module} import ...`, not `{module}`")
        elif top == "equinet" and rest:
            other = room_of(rest)
            if other.startswith("__"):
                continue
            if other != room and other not in MAY_IMPORT[room]:
                found.append(f"{where}{room} must not import {other}")
            elif (room, other) in LAZY and not lazy and rest not in LIGHT:
                found.append(f"{where}{room} may import {other} inside a function only")
        elif top in MAY_USE and not within(name, MAY_USE[top]):
            if (room, top) in LAZY and lazy:
                continue
            found.append(f"{where}{top} belongs to {', '.join(sorted(MAY_USE[top])) or 'nobody'}")
    return found


def test_there_is_something_to_read() -> None:
    assert {"ops", "nn", "models", "datasets", "potential", "checkpoint"} <= {room_of(name_of(s)) for s in SOURCES}


@pytest.mark.parametrize("source", SOURCES, ids=[name_of(s) or "equinet" for s in SOURCES])
def test_imports_go_down_only(source: Path) -> None:
    name = name_of(source)
    assert room_of(name) in MAY_IMPORT, f"{name} is in no table yet: say what it may import"
    assert complaints(source.read_text(), name, source.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ops.spec", "from equinet.nn import Readout"),
        ("ops.spec", "from ..nn.readout import Readout"),
        ("ops.spec", "def f():\n    import equinet.models"),
        ("nn.linear", "from equinet import models"),
        ("models.mace", "from equinet.potential import Potential"),
        ("potential", "from equinet.graph import AtomicGraph"),
        ("graph", "from ase import Atoms"),
        ("graph", "def f():\n    from .datasets import frames"),
        ("train.loop", "from equinet.md import simulate"),
        ("md.simulate", "from ..train import fit"),
        ("datasets.frames", "import safetensors.torch"),
        ("datasets.frames", "from ops import ClebschGordan"),
        ("datasets.frames", "import datasets"),
        ("md.simulate", "from vesin import NeighborList"),
        ("nn.linear", "import ase.io"),
        ("train.loss", "import safetensors"),
        ("train.loss", "from ase import Atoms"),
        ("__main__", "from equinet.train import fit"),
        ("ops.methods", "try:\n    import triton\nexcept ImportError:\n    pass"),
        ("bench.models.run", "from mace import modules"),
        ("bench.core.report", "from rich.table import Table"),
        ("train.loop", "from equinet.bench import model"),
    ],
)
def test_the_reader_finds_what_is_forbidden(name: str, text: str) -> None:
    assert len(complaints(text, name)) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ops.spec", "from .layout import channels_of\nfrom equinet.ops.layout import channels_of"),
        ("nn.linear", "from equinet.ops import SpeciesGroups\nimport math, torch"),
        ("potential", "def f():\n    from equinet.graph import displacements"),
        ("graph", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ase import Atoms"),
        ("tensorfile", "from safetensors import safe_open"),
        ("md.calculator", "from ase.calculators.calculator import Calculator\nfrom equinet import __version__"),
        ("ops.codegen.tiles", "import triton"),
    ],
)
def test_the_reader_lets_pass_what_is_allowed(name: str, text: str) -> None:
    assert complaints(text, name) == []


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)


def test_importing_the_package_is_light() -> None:
    heavy = [
        "ase",
        "triton",
        "cuequivariance",
        "cuequivariance_torch",
        "torch_geometric",
        "matplotlib",
        "typer",
        "torch",
    ]
    result = python(f"import sys, equinet; print([name for name in {heavy} if name in sys.modules])")
    assert result.stdout.strip() == "[]", result.stderr


def test_the_public_names_are_found_when_asked_for() -> None:
    result = python(
        "import equinet; print([getattr(equinet, name).__name__ for name in ('Potential', 'load', 'save')])"
    )
    assert result.stdout.strip() == "['Potential', 'load_potential', 'save_potential']", result.stderr


def test_the_potential_needs_no_structures_library() -> None:
    result = python(
        "import sys, torch, e3nn.o3; before = set(sys.modules);"  # a CUDA build of torch loads triton by itself
        "import equinet.potential, equinet.checkpoint;"
        "print([name for name in ('ase', 'torch_geometric', 'vesin', 'triton') if name in set(sys.modules) - before])"
    )
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("folder", ["ops", "datasets", "train", "md"])
def test_a_folder_refuses_to_be_imported_under_its_bare_name(folder: str) -> None:
    result = python(f"import sys; sys.path.insert(0, '.'); import {folder}")
    assert result.returncode == 1
    assert f"ImportError: import this folder as `equinet.{folder}`" in result.stderr


@pytest.mark.parametrize(
    "pattern",
    [
        r"set_default_dtype",
        r"torch\.jit",
        r"\b(import|from)\s+(pickle|cloudpickle|dill|joblib)\b",
        r"get_default_dtype",
        r"weights_only\s*=\s*False",
        r"\btorch\.load\(",
        r"allow_pickle\s*=\s*True",
    ],
)
def test_the_package_never_writes(pattern: str) -> None:
    lines = [
        f"{source.relative_to(REPOSITORY)}:{n}: {line.strip()}"
        for source in SOURCES
        for n, line in enumerate(source.read_text().splitlines(), start=1)
        if re.search(pattern, line) and (name_of(source), pattern) not in MACE_FORCES_IT
    ]
    assert lines == []

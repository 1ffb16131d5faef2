"""What is installed, what will run, and what is missing and why."""

from __future__ import annotations

import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import torch
from rich.console import Group
from rich.table import Table

from equinet.ops import ClebschGordan, ManyBodySpec, SpeciesGroups, TensorProductSpec, natural_irreps

REQUIRED = ("equinet", "torch", "e3nn", "torch-geometric", "ase", "vesin", "numpy", "safetensors", "pydantic")

# package -> (module to import, what it is for, how to get it)
OPTIONAL = {
    "cuequivariance-torch": (
        "cuequivariance_torch",
        "second oracle of the tests",
        "pip install 'equinet[cuequivariance]'",
    ),
    "cuequivariance-ops-torch-cu13": (
        "cuequivariance_ops_torch",
        "NVIDIA's CUDA kernels",
        "pip install 'equinet[cuda]'",
    ),
    "mace-torch": ("mace", "comparison with the reference", "see CONTRIBUTING.md, 'Comparing with mace-torch'"),
    "tblite": ("tblite", "remakes the sample data", "pip install 'equinet[sample]'"),
}


def report() -> Group:
    """Tables for the terminal: machine, packages, optional packages, and a self-test of every executor."""
    machine = Table(title="machine", show_header=False)
    for name, value in _machine().items():
        machine.add_row(name, value)
    packages = Table(title="packages")
    for title in ("package", "version", "for", "state"):
        packages.add_column(title)
    for name in REQUIRED:
        packages.add_row(name, version(name), "equinet itself", "[green]ok[/]")
    for name, (module, purpose, remedy) in OPTIONAL.items():
        packages.add_row(name, *_optional(name, module, purpose, remedy))
    tests = Table(title="self-test: executors against the formulas in float64")
    for title in ("product", "executor", "dtype", "largest relative error", "state"):
        tests.add_column(title)
    for product, executor, dtype, error in self_test():
        good = error < (1e-5 if dtype == "float32" else 1e-12)
        tests.add_row(product, executor, dtype, f"{error:.1e}", "[green]ok[/]" if good else "[bold red]WRONG[/]")
    return Group(machine, packages, tests)


def _machine() -> dict[str, str]:
    found = {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "CPU threads": str(torch.get_num_threads()),
    }
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            found[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        found['device="auto"'] = "cuda"
    else:
        built = (
            f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is a build without CUDA"
        )
        found["CUDA"] = f"none: {built}" + (", but no device answers" if torch.version.cuda else "")
        found['device="auto"'] = "cpu"
    return found


def _optional(name: str, module: str, purpose: str, remedy: str) -> tuple[str, str, str]:
    try:
        installed = version(name)
    except PackageNotFoundError:
        return "-", purpose, f"[yellow]not installed[/]: {remedy}".replace("[cu", r"\[cu").replace("[sa", r"\[sa")
    try:
        import_module(module)
    except Exception as error:  # a broken optional package may raise anything, and the reason is what the user needs
        return installed, purpose, f"[red]cannot be imported[/]: {type(error).__name__}: {error}"
    return installed, purpose, "[green]ok[/]"


def self_test() -> list[tuple[str, str, str, float]]:
    """(product, executor, dtype, largest relative error against the naive form in float64) for every executor."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    edges, nodes, channels = 40, 7, 8
    conv = TensorProductSpec(natural_irreps(2, channels), natural_irreps(3), natural_irreps(3))
    many = ManyBodySpec(natural_irreps(2, channels), natural_irreps(1, channels), 3, 2)
    index = torch.randint(nodes, (2, edges), generator=generator)
    groups = SpeciesGroups(torch.randint(2, (nodes,), generator=generator))
    x, y, w = random(nodes, 9, channels), random(edges, 16), random(edges, len(conv.paths), channels)
    fast, naive = ClebschGordan(), ClebschGordan(backend="naive")
    results = []
    conv_fast, conv_naive = fast.convolution(conv), naive.convolution(conv).double()  # type: ignore[attr-defined]
    many_fast, many_naive = fast.many_body(many), naive.many_body(many).double()  # type: ignore[attr-defined]
    v = random(2, many_naive.weight_numel, channels)
    conv_oracle, many_oracle = conv_naive(x, y, w, index), many_naive(x, v, groups)
    for dtype in (torch.float32, torch.float64):
        name = str(dtype).removeprefix("torch.")
        out = conv_fast.to(dtype)(x.to(dtype), y.to(dtype), w.to(dtype), index)  # type: ignore[attr-defined]
        results.append(("convolution, cg", type(conv_fast).__name__, name, _error(out, conv_oracle)))
        out = many_fast.to(dtype)(x.to(dtype), v.to(dtype), groups)  # type: ignore[attr-defined]
        results.append(("many_body, cg", type(many_fast).__name__, name, _error(out, many_oracle)))
    return results


def _error(value: torch.Tensor, oracle: torch.Tensor) -> float:
    return float((value.double() - oracle).abs().max() / oracle.abs().max())

"""Report on the installation: packages, kernels that run, and missing optional packages with the reason."""

from __future__ import annotations

import itertools
import math
import platform
import re
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.metadata import Distribution, PackageNotFoundError, distributions, version
from typing import Any, NamedTuple

import torch
from e3nn import o3

from equinet import __version__
from equinet.lazy import how_to_install
from equinet.models.base import DEFAULT, model_class, model_names
from equinet.ops import (
    METHODS,
    ClebschGordan,
    ManyBodySpec,
    SpeciesGroups,
    SphericalHarmonics,
    TensorProductSpec,
    method_from_config,
    natural_irreps,
)
from equinet.ops.codegen import tiles
from equinet.ops.codegen.llvm import processor, unavailable
from equinet.ops.methods.reference import offered_backends, reference_executor
from equinet.ops.methods.registry import BUILT_IN, load_plugins, methods_of_others, needed_arguments
from equinet.ops.methods.roles import executor_of
from equinet.tables import Cell, Column, Table, Text

OK = Text("ok", "good")

REQUIRED = ("torch", "e3nn", "torch-geometric", "ase", "vesin", "numpy", "scipy", "safetensors", "pydantic")

# package -> (module to import, what it is for, how to get it)
OPTIONAL = {
    "cuequivariance-torch": (
        "cuequivariance_torch",
        'ClebschGordan("cuequivariance"), second oracle of the tests',
        how_to_install("cuequivariance"),
    ),
    "cuequivariance-ops-torch-cu13": (
        "cuequivariance_ops_torch",
        "NVIDIA's CUDA kernels for it",
        how_to_install("cuda"),
    ),
    "openequivariance": (
        "openequivariance",
        'ClebschGordan("openequivariance"): CUDA and HIP kernels',
        how_to_install("openequivariance"),
    ),
    "mace-torch": ("mace", "comparison with the reference", "see CONTRIBUTING.md, 'Comparing with mace-torch'"),
    "tblite": ("tblite", "remakes the sample data", how_to_install("sample")),
}


def report() -> list[Table]:
    """Machine, packages, products of other packages if there are any, and a self-test of every executor."""
    machine = Table("machine", [Column("", tone="strong"), Column("", fold=True)], list(_machine().items()))
    rows: list[tuple[Cell, ...]] = [("equinet", __version__, "equinet itself", OK)]
    rows += [(name, version(name), "equinet itself", OK) for name in REQUIRED]
    rows += namesakes()
    rows += [(name, *_optional(name, module, purpose, remedy)) for name, (module, purpose, remedy) in OPTIONAL.items()]
    columns = [Column(title, fold=title in ("for", "state")) for title in ("package", "version", "for", "state")]
    packages = Table("packages", columns, rows)
    others = products_of_others() + models_of_others()
    columns = [Column("name"), Column("class", fold=True), Column("state", fold=True)]
    extensions = Table("tensor products and models of other packages", columns, others)
    titles = ("product", "on", "kernel", "float32", "float64", "state")
    columns = [Column(title, fold=title == "kernel", number=title.startswith("float")) for title in titles]
    tests = Table("self-test: errors of executors against the formulas in float64", columns, _rows_of(self_test()))
    return [machine, packages, *([extensions] if others else []), tests]


def _rows_of(tested: Sequence[Tested]) -> list[tuple[Cell, ...]]:
    """One row for each product, backend and device, with the errors in both precisions."""
    rows: list[tuple[Cell, ...]] = []
    for (product, backend, device), group in itertools.groupby(
        tested, lambda row: (row.product, row.backend, row.device)
    ):
        of = {row.dtype: row for row in group}
        errors = [f"{of[dtype].error:.0e}" if dtype in of else "-" for dtype in ("float32", "float64")]
        good = all(row.error < (1e-5 if dtype == "float32" else 1e-12) for dtype, row in of.items())
        kernel = re.sub(r"^generated \((.*)\)$", r"\1", next(iter(of.values())).kernel)
        name = product if backend in ("auto", "-") else f"{product}, {backend}"
        rows.append((name, device, kernel, *errors, OK if good else Text("WRONG", "bad")))
    return rows


def namesakes() -> list[tuple[Cell, ...]]:
    """A row for every installed distribution ``equinet`` that is another project's, with the remedy.

    That name on the public package index is not ours. Its modules lie in a folder ``equinet`` too: they hide this package's,
    or are mixed with them.
    """
    remedy = ": pip uninstall equinet, then install this equinet again from its checkout"
    return [
        ("equinet", each.version, each.metadata["Summary"] or "-", (Text("another project's package", "bad"), remedy))
        for each in distributions(name="equinet")
        if not _was_ours(each) and _has_a_package(each, "equinet")
    ]


def _was_ours(distribution: Distribution) -> bool:
    """True if it is this project, which was called ``equinet`` once; its ``equinet.egg-info`` may still lie in the checkout."""
    return any(entry.name == "equinet" and entry.value == "equinet.cli:app" for entry in distribution.entry_points)


def _has_a_package(distribution: Distribution, name: str) -> bool:
    """True if it put files into the folder ``name``, or lists no files at all."""
    files = distribution.files
    return files is None or any(file.parts[0] == name for file in files)


def products_of_others() -> list[tuple[str, str, str]]:
    """Name, class and state of every registered product of other people, those that cannot be loaded with the reason."""
    found = []
    for name, kind in methods_of_others().items():
        needed = needed_arguments(kind)
        state = f"not tested: it needs {', '.join(f'`{each}`' for each in needed)}" if needed else "ok"
        found.append((name, f"{kind.__module__}.{kind.__qualname__}", state))
    return found + [(name, "-", reason) for name, reason in load_plugins().items()]


def models_of_others() -> list[tuple[str, str, str]]:
    """Name, class and state of every registered architecture of other people, those that cannot be loaded with the reason."""
    found = []
    for name in model_names():
        if name == DEFAULT:
            continue
        try:
            kind = model_class(name)
            found.append((name, f"{kind.__module__}.{kind.__qualname__}", "ok"))
        except ValueError as error:
            found.append((name, "-", str(error)))
    return found


def _machine() -> dict[str, str]:
    found = {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "CPU threads": str(torch.get_num_threads()),
        "CPU kernels": unavailable() or f"machine code for {processor()}",
        "GPU kernels": tiles.unavailable() or f"Triton {version('triton')}",
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


def _optional(name: str, module: str, purpose: str, remedy: str) -> tuple[str, str, Cell]:
    try:
        installed = version(name)
    except PackageNotFoundError:
        return "-", purpose, (Text("not installed", "warning"), f": {remedy}")
    try:
        imported = import_module(module)
    except Exception as error:  # a broken optional package may raise anything, and the reason is what the user needs
        return installed, purpose, (Text("cannot be imported", "bad"), f": {type(error).__name__}: {error}")
    # openequivariance can be imported without the part in machine code that it could not make, and keeps the reason.
    if not getattr(imported, "BUILT_EXTENSION", True):
        return installed, purpose, (Text("cannot run", "bad"), f": {imported.BUILT_EXTENSION_ERROR}")
    return installed, purpose, OK


class Tested(NamedTuple):
    """A line of the self-test.

    Attributes:
        product: Role and name of the method.
        backend: The backend that was asked for; ``"-"`` for products of other people that have no such argument.
        executor: Class of the executor.
        kernel: Kernel that computed, and the reason if no generated one did.
        device, dtype: Device and precision of the test.
        error: Largest error relative to the largest number.
    """

    product: str
    backend: str
    executor: str
    kernel: str
    device: str
    dtype: str
    error: float


def self_test() -> list[Tested]:
    """Every method as it comes, and exact couplings with every backend that runs here, on the CPU and on a GPU if there is one."""
    results: list[Tested] = []
    for name, method in _methods():
        try:
            results += _tests(name, method)
        except (
            Exception
        ) as error:  # a product of other people may raise anything, and the reason is what the user needs
            if name in BUILT_IN:
                raise
            reason = f"{type(error).__name__}: {error}"
            results.append(Tested(name, "-", type(method).__name__, reason, "-", "-", math.nan))
    return results


def _tests(name: str, method: Any) -> list[Tested]:
    results = []
    for role, spec in (("conv.", _convolution_spec(name)), ("many-body", _many_body_spec(name))):
        if method.supports(spec):
            continue  # the bracket and the frame of an edge have one role each here
        expected = _run(reference_executor(method, spec), spec, torch.float64)
        for device, dtype in itertools.product(_devices(), (torch.float32, torch.float64)):
            try:
                results.append(_test(f"{name} {role}", method, spec, device, dtype, expected))
            except ValueError:  # a library that is broken, or has no form for this device
                if getattr(method, "backend", "auto") == "auto":
                    raise
    return results


def _test(
    product: str,
    method: Any,
    spec: TensorProductSpec | ManyBodySpec,
    device: str,
    dtype: torch.dtype,
    expected: torch.Tensor,
) -> Tested:
    executor: Any = executor_of(method, spec)
    error = _error(_run(executor, spec, dtype, device), expected)
    precision = str(dtype).removeprefix("torch.")
    kernel = getattr(executor, "kernel", type(executor).__name__).removeprefix(f"{device} {precision}: ")
    backend = getattr(method, "backend", "-")
    return Tested(product, backend, type(executor).__name__, kernel, device, precision, error)


def _devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _methods() -> list[tuple[str, Any]]:
    ours = [{"method": name, **({"rank": 36} if name == "cp" else {})} for name in METHODS if name in BUILT_IN]
    found: list[tuple[str, Any]] = [(str(config["method"]), method_from_config(config)) for config in ours]
    for backend in offered_backends(ClebschGordan()):
        if backend not in ("auto", "reference"):
            with suppress(ValueError):  # the library is not there; the table of packages says so
                found.append(("cg", ClebschGordan(backend)))  # type: ignore[arg-type]
    return found + [(name, kind()) for name, kind in methods_of_others().items() if not needed_arguments(kind)]


def _convolution_spec(name: str) -> TensorProductSpec:
    outputs = o3.Irreps("1e+2o") if name == "bracket" else natural_irreps(2)
    return TensorProductSpec(natural_irreps(1, 8), natural_irreps(2), outputs)


def _many_body_spec(name: str) -> ManyBodySpec:
    outputs = o3.Irreps("8x2o") if name == "bracket" else natural_irreps(1, 8)
    return ManyBodySpec(natural_irreps(2, 8), outputs, 3, 2)


def _run(
    executor: Any, spec: TensorProductSpec | ManyBodySpec, dtype: torch.dtype, device: str = "cpu"
) -> torch.Tensor:
    """The result for inputs that are always the same; those of a convolution have real directions."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    edges, nodes, channels = 40, 7, spec.channels
    executor = executor.to(device=device, dtype=dtype)
    if isinstance(spec, TensorProductSpec):
        directions = torch.nn.functional.normalize(random(edges, 3))
        harmonics = SphericalHarmonics(spec.irreps_in2.lmax).double()(directions)
        inputs = [random(nodes, spec.irreps_in1.dim // channels, channels), harmonics]
        inputs.append(random(edges, executor.weight_numel, channels))
        rest: Any = torch.randint(nodes, (2, edges), generator=generator).to(device)
    else:
        inputs = [random(nodes, spec.irreps_in.dim // channels, channels)]
        inputs.append(random(spec.species, executor.weight_numel, channels))
        rest = SpeciesGroups(torch.randint(spec.species, (nodes,), generator=generator).to(device))
    result: torch.Tensor = executor(*(value.to(device=device, dtype=dtype) for value in inputs), rest)
    return result.cpu()


def _error(value: torch.Tensor, oracle: torch.Tensor) -> float:
    return float((value.double() - oracle).abs().max() / oracle.abs().max())

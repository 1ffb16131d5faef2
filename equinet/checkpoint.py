"""Model files: weights, and in the header everything else that makes a potential of them."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import e3nn
import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from equinet import __version__
from equinet.graph.elements import SYMBOLS
from equinet.models import ModelConfig, build_model, model_config
from equinet.models.allocation import AllocationLimit
from equinet.models.base import problems
from equinet.nn import EnergyScale
from equinet.ops.methods.cp import factors_to_be_loaded
from equinet.potential import Potential, require_potential
from equinet.quotes import quoted, shortened
from equinet.tensorfile import read_tensors, save_tensors

FORMAT = 5  # since then with a checksum
UNITS = {"length": "Å", "energy": "eV", "forces": "eV/Å", "stress": "eV/Å^3, tension positive"}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
LARGEST_NUMBER = 1e9  # of weights and constants, which are near one; energies of atoms are below 1e7 eV

# What a model may allocate while it is built: a multiple of its weights, which the file holds, and tables of couplings.
ALLOCATIONS_PER_BYTE, ALLOCATIONS_OF_TABLES = 16, 2**26


def _known(counts: dict[str, int]) -> dict[str, int]:
    if unknown := [symbol for symbol in counts if symbol not in SYMBOLS[1:]]:
        raise ValueError(f"{shortened(unknown[0])} is no element")
    return counts


def _ascending(symbols: list[str]) -> list[str]:
    if unknown := [symbol for symbol in symbols if symbol not in SYMBOLS[1:]]:
        raise ValueError(f"{shortened(unknown[0])} is no element")
    numbers = [SYMBOLS.index(symbol) for symbol in symbols]
    if numbers != sorted(set(numbers)):
        raise ValueError("elements must be distinct and in the order of their atomic numbers")
    return symbols


class References(BaseModel):
    """Origin of the reference energies, and the compositions that determine them where they do not determine each."""

    model_config = ConfigDict(frozen=True, strict=True)

    origin: str = ""
    compositions: list[
        Annotated[dict[str, Annotated[int, Field(ge=1, le=1_000_000)]], Field(min_length=1), AfterValidator(_known)]
    ] = []


class PotentialHeader(BaseModel):
    """Everything that a model file says besides its weights; see :func:`save_potential`."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    kind: Literal["potential"]
    format: Annotated[int, Field(ge=1)]
    elements: Annotated[list[str], Field(min_length=1), AfterValidator(_ascending)]
    model: dict[str, Any]
    avg_num_neighbors: Annotated[float, Field(gt=0, le=1e6)]
    exact_isolated_atoms: bool
    dtype: Literal["float32", "float64"]
    units: dict[str, str] = {}
    versions: dict[str, str] = {}
    origin: dict[str, Any] = {}
    references: References = References()
    training: dict[str, Any] = {}

    @property
    def config(self) -> ModelConfig:
        """The architecture; before format 4 every model was a MACE.

        Raises:
            ValueError: If it is not registered here, or a key or value is not allowed.
        """
        model = dict(self.model)
        if self.format < 3:  # two switches stood for what are now names
            density, residual_first = model.pop("density_normalization", False), model.pop("residual_first", False)
            kinds = ("density", "density_residual") if density else ("plain", "residual")
            model |= {"first_interaction": kinds[bool(residual_first)], "interaction": kinds[1]}
        return model_config(model)


def save_potential(
    potential: Potential, path: str | os.PathLike[str], *, training: Mapping[str, Any] | None = None
) -> None:
    """Save a potential as one file.

    Args:
        potential: Potential to save.
        path: Usually ``*.eqn``.
        training: Anything JSON can hold that says where the model comes from: resolved config, hash of the data, errors.

    Raises:
        ValueError: If a weight is not finite or absurdly large, or the precision is neither float32 nor float64, or not one.
        TypeError: If JSON cannot hold ``training``.
        OSError: If the file cannot be written; names it and the remedy.
    """
    require_potential(potential)
    state = potential.state_dict()
    _refuse_absurd(state, "the potential")
    _refuse_out_of_bounds(potential, "the potential")
    dtype = str(potential.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ValueError(
            f"a model file holds weights in {' or '.join(DTYPES)}, and the potential is in {dtype}; convert it by `.float()`"
        )
    if other := [name for name, weight in potential.named_parameters() if weight.dtype != potential.dtype]:
        raise ValueError(
            f"a potential is in one precision, and this one is in {dtype} but for `{other[0]}`; convert all of it by `.float()`"
        )
    header = {
        "kind": "potential",
        "format": FORMAT,
        "elements": [SYMBOLS[z] for z in potential.elements],
        "model": potential.model.config.model_dump(mode="json"),
        "avg_num_neighbors": potential.model.avg_num_neighbors,
        "exact_isolated_atoms": potential.scale.exact_isolated_atoms,
        "dtype": dtype,
        "units": UNITS,
        "versions": versions(),
        "origin": potential.origin,
        "references": potential.references,
        "training": dict(training or {}),
    }
    save_tensors(path, state, header)


@torch.inference_mode(False)
def load_potential(
    path: str | os.PathLike[str], *, device: str | torch.device = "cpu", dtype: torch.dtype | str | None = None
) -> Potential:
    """Load a potential, ready for inference (``eval`` mode).

    Args:
        path: A file that :func:`save_potential` wrote.
        device: Device to put it on.
        dtype: ``"float32"`` or ``"float64"``, also as torch's own; by default as it was saved.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, of another kind, from a newer equinet, or does not fit its own description; names it.
            Also if ``dtype`` is none of the two.
    """
    wanted = DTYPES.get(str(dtype).removeprefix("torch."))
    if dtype is not None and wanted is None:
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {dtype!r}")
    tensors, header = _read(path)
    _refuse_absurd(tensors, str(path))
    if header.format == 1:
        tensors = {_name_since_format_2(name): tensor for name, tensor in tensors.items()}
    potential = _built(path, header, sum(tensor.nbytes for tensor in tensors.values()))
    if reason := _misfit(tensors, potential.state_dict()):
        raise ValueError(f"the weights in {path} do not fit the architecture it states: {reason}")
    potential.load_state_dict(tensors)
    _refuse_out_of_bounds(potential, str(path))
    potential.origin = dict(header.origin)
    potential.references = header.references.model_dump()
    return potential.to(device=device, dtype=wanted).eval()


def read_header(path: str | os.PathLike[str]) -> PotentialHeader:
    """Read the header of a model file: architecture, elements, units, versions, training.

    Raises:
        FileNotFoundError, ValueError: As :func:`load_potential`.
    """
    return _read(path)[1]


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return {
        "equinet": __version__,
        "torch": torch.__version__,
        "e3nn": e3nn.__version__,
        "python": platform.python_version(),
    }


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], PotentialHeader]:
    tensors, found = read_tensors(path)
    if found.get("kind") != "potential":
        raise ValueError(
            f"{path} holds a {shortened(str(found.get('kind', 'thing of unknown kind')))}, not a potential"
        )
    newer = found.get("format")
    if isinstance(newer, int) and newer > FORMAT:
        raise ValueError(f"{path} has format {quoted(newer)}, this equinet reads up to {FORMAT}; upgrade equinet")
    try:
        return tensors, PotentialHeader.model_validate(found)
    except ValidationError as error:
        raise ValueError(f"{path} is damaged: in its header {problems(error, 2)}") from error


def _built(path: str | os.PathLike[str], header: PotentialHeader, weight_bytes: int) -> Potential:
    """A potential as the header states it, with random weights; refuses one that needs far more memory than the file has weights."""
    elements = [SYMBOLS.index(symbol) for symbol in header.elements]
    limit = ALLOCATIONS_OF_TABLES + ALLOCATIONS_PER_BYTE * weight_bytes
    try:
        # The weights are drawn and then replaced; the caller's stream stays as it was.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"), factors_to_be_loaded(), AllocationLimit(limit):
            model = build_model(header.config, elements, header.avg_num_neighbors)
            zeros = [0.0] * len(elements)
            scale = EnergyScale(zeros, zeros, zeros, exact_isolated_atoms=header.exact_isolated_atoms)
            return Potential(model, scale).to(DTYPES[header.dtype])
    except MemoryError as error:
        raise ValueError(f"the weights in {path} do not fit the architecture it states: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path} states a model that cannot be built here: {error}") from error


def _misfit(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """In what the tensors of a file differ from the state of a model, each kind with a count and the first; empty if in nothing."""
    both = [name for name in tensors if name in state]
    shapes = {name: [tuple(each[name].shape) for each in (tensors, state)] for name in both}
    dtypes = {name: [str(each[name].dtype).removeprefix("torch.") for each in (tensors, state)] for name in both}
    kinds = {
        "missing": [f"`{name}`" for name in state if name not in tensors],
        "unexpected": [f"`{shortened(name)}`" for name in tensors if name not in state],
        "of another shape": [
            f"`{name}` with {have} instead of {want}" for name, (have, want) in shapes.items() if have != want
        ],
        "of another type": [
            f"`{name}` in {have} instead of {want}" for name, (have, want) in dtypes.items() if have != want
        ],
    }
    return "; ".join(f"{len(names)} {kind}, first {names[0]}" for kind, names in kinds.items() if names)


def _refuse_absurd(tensors: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        sizes = tensor.double().abs()
        if not bool((sizes <= LARGEST_NUMBER).all()):
            what = f"beyond {LARGEST_NUMBER:g}" if bool(sizes.isfinite().all()) else "that are not finite"
            raise ValueError(
                f"{where} holds numbers {what}, in `{shortened(name)}`; training diverged, or the file is damaged"
            )


def _refuse_out_of_bounds(potential: Potential, where: str) -> None:
    for name, module in potential.named_modules():
        check: Callable[[], str | None] = getattr(module, "out_of_bounds", lambda: None)
        if reason := check():
            raise ValueError(f"{where} has numbers in `{name}` with which nothing can be computed: {reason}")


def _name_since_format_2(name: str) -> str:
    """Format 1 named the weights of linear maps by degree, "1", where it is now the irrep, "1o"; all were true tensors."""
    stem, _, last = name.rpartition(".")
    if "linear" in stem and last.isdigit():
        return f"{stem}.{last}{'o' if int(last) % 2 else 'e'}"
    return name

"""Model files: weights as safetensors, everything else as JSON in its header. Never a pickle: reading runs no code."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import e3nn
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from equinet import __version__
from equinet.graph.elements import SYMBOLS
from equinet.models import ModelConfig, build_model, model_config
from equinet.nn import EnergyScale
from equinet.ops.methods.cp import factors_to_be_loaded
from equinet.potential import Potential

FORMAT = 4
UNITS = {"length": "Å", "energy": "eV", "forces": "eV/Å", "stress": "eV/Å^3, tension positive"}


def save_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header to one file, all or nothing: a crash leaves the old file whole."""
    path = Path(path)
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(save(flat, metadata={"equinet": json.dumps(dict(header))}))
    partial.replace(path)


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file that :func:`save_tensors` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a file, or is truncated.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "equinet" not in metadata:
                raise ValueError(f"{path} is a safetensors file, but equinet did not write it")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(metadata["equinet"])  # noqa: SIM118
    except SafetensorError as error:
        with path.open("rb") as file:
            if file.read(4) == b"PK\x03\x04":
                raise ValueError(
                    f"{path} is an archive as torch.save writes it, not an equinet file; a MACE model becomes one by "
                    f"`equinet convert-mace {path} OUT.eqn`"
                ) from error
        raise ValueError(
            f"{path} cannot be read: {error}. It is not an equinet file, or it was cut short while being copied; "
            f"it has {path.stat().st_size} bytes. Fetch it again or go back to another copy"
        ) from error


def save_potential(
    potential: Potential, path: str | os.PathLike[str], *, training: Mapping[str, Any] | None = None
) -> None:
    """Save a potential as one file.

    Args:
        potential: Potential to save.
        path: Usually ``*.eqn``.
        training: Anything JSON can hold that says where the model comes from: resolved config, hash of the data, errors.
    """
    header = {
        "kind": "potential",
        "format": FORMAT,
        "elements": [SYMBOLS[z] for z in potential.elements],
        "model": potential.model.config.model_dump(mode="json"),
        "avg_num_neighbors": potential.model.avg_num_neighbors,
        "exact_isolated_atoms": potential.scale.exact_isolated_atoms,
        "dtype": str(potential.dtype).removeprefix("torch."),
        "units": UNITS,
        "versions": versions(),
        "origin": potential.origin,
        "training": dict(training or {}),
    }
    save_tensors(path, potential.state_dict(), header)


def load_potential(
    path: str | os.PathLike[str], *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Potential:
    """Load a potential, ready for inference (``eval`` mode).

    Args:
        path: A file that :func:`save_potential` wrote.
        device: Device to put it on.
        dtype: ``torch.float32`` or ``torch.float64``; by default as it was saved.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, of another kind, from a newer equinet, or does not fit its own description.
    """
    tensors, header = read_tensors(path)
    if header.get("kind") != "potential":
        raise ValueError(f"{path} holds a {header.get('kind', 'thing of unknown kind')}, not a potential")
    if header["format"] > FORMAT:
        raise ValueError(f"{path} has format {header['format']}, this equinet reads up to {FORMAT}; upgrade equinet")
    elements = [SYMBOLS.index(symbol) for symbol in header["elements"]]
    config = config_of(header)
    # The weights are drawn and then replaced; the caller's stream stays as it was.
    with torch.random.fork_rng(devices=[]), factors_to_be_loaded():
        model = build_model(config, elements, header["avg_num_neighbors"])
    zeros = [0.0] * len(elements)
    scale = EnergyScale(zeros, zeros, zeros, exact_isolated_atoms=header["exact_isolated_atoms"])
    potential = Potential(model, scale).to(getattr(torch, header["dtype"]))
    if header["format"] == 1:
        tensors = {_name_since_format_2(name): tensor for name, tensor in tensors.items()}
    try:
        potential.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit the architecture it states: {error}") from error
    potential.origin = header.get("origin", {})
    return potential.to(device=device, dtype=dtype).eval()


def config_of(header: Mapping[str, Any]) -> ModelConfig:
    """The architecture that the header of a model file states; before format 4 every model was a MACE.

    Raises:
        ValueError: If the architecture is not registered here.
    """
    model = dict(header["model"])
    if header["format"] < 3:  # two switches stood for what are now names
        density, residual_first = model.pop("density_normalization", False), model.pop("residual_first", False)
        kinds = ("density", "density_residual") if density else ("plain", "residual")
        model |= {"first_interaction": kinds[residual_first], "interaction": kinds[1]}
    return model_config(model)


def _name_since_format_2(name: str) -> str:
    """Format 1 named the weights of linear maps by degree, "1", where it is now the irrep, "1o"; all were true tensors."""
    stem, _, last = name.rpartition(".")
    if "linear" in stem and last.isdigit():
        return f"{stem}.{last}{'o' if int(last) % 2 else 'e'}"
    return name


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the header of a model file: architecture, elements, units, versions, training."""
    return read_tensors(path)[1]


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return {
        "equinet": __version__,
        "torch": torch.__version__,
        "e3nn": e3nn.__version__,
        "python": platform.python_version(),
    }

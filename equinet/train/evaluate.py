"""Errors of a saved model on a file of frames."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

import torch

from equinet.checkpoint import load_potential
from equinet.datasets import GraphLoader, LabelKeys, read_frames, source, to_graphs
from equinet.datasets.composition import warn_if_undetermined
from equinet.datasets.names import offered
from equinet.datasets.properties import BUILT_IN
from equinet.ops.devices import choose_device
from equinet.ops.precision import Precision, matmul_precision, require_available
from equinet.verify.backends import require_backend_match, rounding

from .metrics import Errors, Predictions, errors, predict


def evaluate_file(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    keys: LabelKeys = LabelKeys(),  # noqa: B008
    *,
    dtype: str | None = None,
    device: str = "auto",
    batch_size: int = 32,
    matmul: Precision = "ieee",
    advance: Callable[[int, int], None] = lambda done, total: None,
    tell: Callable[[str], None] = lambda sentence: None,
) -> tuple[Predictions, Errors]:
    """Predict all frames of a file, isolated atoms included, and compare with their labels.

    First the potential is compared with its formulas on a few atoms (:func:`equinet.verify.backends.require_backend_match`).

    Args:
        model: Model file.
        data: Labelled frames.
        keys: Names of the labels in the file.
        dtype: "float32" or "float64"; by default as the model was saved.
        device: "auto", "cpu", "cuda", ...
        batch_size: Frames at a time.
        matmul: Arithmetic of matrix products, see :mod:`equinet.ops.precision`; other than "ieee", its error on the first frame is told.
        advance: Called with the numbers of batches done and in all.
        tell: Called with sentences for the user.

    Raises:
        BackendMismatchError: If the potential differs from its formulas.
        FileNotFoundError, ValueError: If a file is not there or damaged, a label is wrong, an element is unknown, or no frame
            has any label.
    """
    if dtype not in (None, "float32", "float64"):
        raise ValueError(f'`dtype` must be "float32" or "float64", got {dtype!r}')
    potential = load_potential(model, device=choose_device(device), dtype=getattr(torch, dtype) if dtype else None)
    require_available(matmul, potential.device, potential.dtype)
    potential.requires_grad_(False)
    frames = read_frames(data, keys)
    if not any(atoms.calc.results for atoms in frames):
        *others, last = (f"`{keys.of(name)}`" for name in BUILT_IN)
        names, arguments = f"{', '.join(others)} or {last}", ", ".join(f"`{name}_key`" for name in BUILT_IN)
        settings = [each.removeprefix("data.") for name in BUILT_IN for each in offered(frames[0], name, keys)]
        found = (
            f"; {source(frames[0])} looks as if it needed {', '.join(map(_as_argument, settings))}" if settings else ""
        )
        raise ValueError(
            f"{data}: no frame has a label called {names}; if they have other names, say so with {arguments} (of `keys`){found}"
        )
    warn_if_undetermined(frames, potential.references)
    if weightless := sum(atoms.info["weight"] == 0 for atoms in frames):
        tell(f"{weightless} of {len(frames)} frames have weight 0 and count in no error")
    graphs = to_graphs(frames, potential.cutoff, potential.elements)
    loader = GraphLoader(graphs, batch_size)
    stress = any("stress" in atoms.calc.results for atoms in frames)
    done = itertools.count(1)
    with matmul_precision(matmul):
        first = next((graph for graph in graphs if graph.num_edges), graphs[0])
        require_backend_match(potential, first)
        if matmul != "ieee":
            exact = load_potential(model, device=potential.device, dtype=torch.float64).requires_grad_(False)
            tell(f"matrix products in {matmul}: {rounding(potential, exact, first)}, on the first frame")
        predictions = predict(potential, loader, stress=stress, advance=lambda: advance(next(done), len(loader)))
    return predictions, errors(predictions)


def _as_argument(setting: str) -> str:
    """``energy_key = "REF_energy"`` as it is typed after a command."""
    argument, _, name = setting.partition(" = ")
    return f"`{argument}` {name}"

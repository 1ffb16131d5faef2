"""Errors of a saved model on a file of frames."""

from __future__ import annotations

import os

import torch
from rich.console import Console
from rich.progress import Progress

from equinet.checkpoint import load_potential
from equinet.datasets import GraphLoader, LabelKeys, read_frames, to_graphs
from equinet.potential import choose_device

from .metrics import Errors, Predictions, errors, predict


def evaluate_file(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    keys: LabelKeys = LabelKeys(),  # noqa: B008
    *,
    dtype: str | None = None,
    device: str = "auto",
    batch_size: int = 32,
    console: Console | None = None,
) -> tuple[Predictions, Errors]:
    """Predict all frames of a file, isolated atoms included, and compare with their labels.

    Args:
        model: Model file.
        data: Labelled frames.
        keys: Names of the labels in the file.
        dtype: "float32" or "float64"; by default as the model was saved.
        device: "auto", "cpu", "cuda", ...
        batch_size: Frames at a time.
        console: Where to show a progress bar; by default nowhere.

    Raises:
        FileNotFoundError, ValueError: If a file is not there or damaged, a label is wrong, an element is unknown, or no frame
            has any label.
    """
    if dtype not in (None, "float32", "float64"):
        raise ValueError(f'`dtype` must be "float32" or "float64", got {dtype!r}')
    potential = load_potential(model, device=choose_device(device), dtype=getattr(torch, dtype) if dtype else None)
    frames = read_frames(data, keys)
    if not any(atoms.calc.results for atoms in frames):
        raise ValueError(
            f"{data}: no frame has a label called `{keys.energy}`, `{keys.forces}` or `{keys.stress}`; if they have other names, give "
            "them with --energy-key, --forces-key, --stress-key"
        )
    graphs = to_graphs(frames, potential.cutoff, potential.elements)
    loader = GraphLoader(graphs, batch_size)
    stress = any("stress" in atoms.calc.results for atoms in frames)
    with Progress(console=console or Console(quiet=True), transient=True) as progress:
        task = progress.add_task("predicting", total=len(loader))
        predictions = predict(potential, loader, stress=stress, advance=lambda: progress.advance(task))
    return predictions, errors(predictions)

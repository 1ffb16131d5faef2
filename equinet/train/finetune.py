"""Training that begins with a model that is there: its architecture, and how far its energies are from the labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from equinet.checkpoint import read_header
from equinet.datasets import GraphLoader
from equinet.graph.atomic_graph import AtomicGraph
from equinet.potential import Potential

from .config import RunConfig

# Structures on which energies are compared; they decide one number per element, or only a sentence.
COMPARED = 256
BATCH = 16
# eV/atom. No model of the same level of theory is so far off, and other codes and functionals are by far more.
FAR = 0.5


def with_model_of_start(config: RunConfig) -> RunConfig:
    """``config`` with the architecture of the model that training starts from, if it starts from one.

    Raises:
        FileNotFoundError, ValueError: If there is no such model, or ``config`` asks for another architecture; says where.
    """
    if config.train.start_from is None:
        if config.train.start_e0s != "keep":
            raise ValueError("`train.start_e0s` is about the model to start from, but `train.start_from` is not set")
        return config
    found = read_header(config.train.start_from).config
    for key in sorted(config.model.model_fields_set):
        asked, there = (model.model_dump()[key] for model in (config.model, found))
        if asked != there:
            raise ValueError(
                f"`model.{key}` is {asked!r}, but the model to start from, {config.train.start_from}, has {there!r}; leave [model] empty "
                "to take its architecture"
            )
    return config.model_copy(update={"model": found})


@torch.no_grad()
def refit_references(potential: Potential, graphs: Sequence[AtomicGraph]) -> None:
    """Shift the reference energy of each element by least squares, so that energies meet the labels.

    Total energies of another code or functional differ by eV to thousands of eV per atom, and training would first spend its
    steps on that gap. Elements that do not occur keep theirs.

    Args:
        potential: Potential to change.
        graphs: Labelled structures; the first of those with an energy are taken, spread over all.
    """
    gaps, counts = _gaps(potential, graphs)
    if len(gaps):
        change, *_ = np.linalg.lstsq(counts, gaps, rcond=None)
        potential.scale.reference += torch.from_numpy(change).to(potential.device)


def mean_gap(potential: Potential, graphs: Sequence[AtomicGraph]) -> float:
    """Mean absolute difference between labels and energies in eV/atom; 0 if nothing has an energy."""
    gaps, counts = _gaps(potential, graphs)
    return float(np.mean(np.abs(gaps) / counts.sum(axis=1))) if len(gaps) else 0.0


def _gaps(potential: Potential, graphs: Sequence[AtomicGraph]) -> tuple[np.ndarray, np.ndarray]:
    """Labels less energies ``(graphs,)`` in eV, and numbers of atoms of each element ``(graphs, species)``."""
    labelled = [graph for graph in graphs if bool(graph.energy.isfinite().all())]
    taken = labelled[:: -(-len(labelled) // COMPARED)] if labelled else []
    gaps, counts = [np.empty(0)], [np.empty((0, len(potential.elements)))]
    was_training = potential.training
    potential.eval()
    for batch in GraphLoader(taken, BATCH):
        batch = batch.to(potential.device)
        gaps.append((batch.energy - potential(batch)["energy"]).cpu().numpy())
        species = torch.nn.functional.one_hot(potential.species(batch.atomic_numbers), len(potential.elements))
        of_graph = species.new_zeros(batch.graph_count, species.shape[1]).index_add(0, batch.graph_of_node, species)
        counts.append(of_graph.double().cpu().numpy())
    potential.train(was_training)
    return np.concatenate(gaps), np.concatenate(counts)

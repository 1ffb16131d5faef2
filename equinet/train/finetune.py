"""Training that begins with a model that is there: its architecture, and how far its energies are from the labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from equinet.checkpoint import read_header
from equinet.datasets import GraphLoader
from equinet.datasets.composition import fit_to_composition, spanning_compositions
from equinet.graph.atomic_graph import AtomicGraph
from equinet.potential import Potential

from .config import RunConfig
from .loss import label_weight

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
    """Shift the reference energy of each element by robust least squares, so that energies meet the labels.

    Total energies of another code or functional differ by eV to thousands of eV per atom, and training would first spend its
    steps on that gap. Elements that do not occur keep theirs. Where the compositions do not determine each shift, the potential remembers
    it in :attr:`equinet.Potential.references`.

    Args:
        potential: Potential to change.
        graphs: Labelled structures; the first of those with an energy are taken, spread over all.
    """
    gaps, counts, weights = _gaps(potential, graphs)
    if not len(gaps):
        return
    there: NDArray[np.bool_] = np.any(counts > 0, axis=0)
    change = np.zeros(len(there))
    change[there] = fit_to_composition(counts[:, there], gaps, weights)
    potential.scale.reference += torch.from_numpy(change).to(potential.device)
    elements = [z for z, occurs in zip(potential.elements, there.tolist()) if occurs]
    spanning = spanning_compositions(counts[:, there], elements)
    determined = len(spanning) == len(elements)
    potential.references = {"origin": "refit to the labels", "compositions": [] if determined else spanning}


def mean_gap(potential: Potential, graphs: Sequence[AtomicGraph]) -> float:
    """Mean absolute difference between labels and energies in eV/atom; 0 if nothing has an energy."""
    gaps, counts, _ = _gaps(potential, graphs)
    return float(np.mean(np.abs(gaps) / counts.sum(axis=1))) if len(gaps) else 0.0


def _gaps(
    potential: Potential, graphs: Sequence[AtomicGraph]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Labels less energies ``(graphs,)`` in eV, numbers of atoms of each element ``(graphs, species)``, and weights ``(graphs,)``."""
    labelled = [graph for graph in graphs if bool(graph.energy.isfinite().all())]
    taken = labelled[:: -(-len(labelled) // COMPARED)] if labelled else []
    gaps, counts, weights = [np.empty(0)], [np.empty((0, len(potential.elements)))], [np.empty(0)]
    was_training = potential.training
    potential.eval()
    for batch in GraphLoader(taken, BATCH):
        batch = batch.to(potential.device)
        weights.append(label_weight(batch, "energy").cpu().numpy())
        gaps.append((batch.energy - potential(batch)["energy"]).cpu().numpy())
        species = torch.nn.functional.one_hot(potential.species(batch.atomic_numbers), len(potential.elements))
        of_graph = species.new_zeros(batch.graph_count, species.shape[1]).index_add(0, batch.graph_of_node, species)
        counts.append(of_graph.double().cpu().numpy())
    potential.train(was_training)
    return np.concatenate(gaps), np.concatenate(counts), np.concatenate(weights)

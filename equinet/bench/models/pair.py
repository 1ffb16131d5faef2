"""Potentials to measure, with weights for which a comparison of results is meaningful."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from equinet.checkpoint import load_potential, save_potential
from equinet.convert.mace.load import load_mace
from equinet.graph.atomic_graph import collate, from_atoms
from equinet.models import MACEConfig, ModelConfig, build_model
from equinet.nn import EnergyScale
from equinet.potential import Potential

from .problems import Architecture

SEED = 0


def random_potential(
    config: ModelConfig, elements: Sequence[int], samples: Sequence[Atoms], avg_num_neighbors: float
) -> Potential:
    """A float64 potential with random weights, calibrated, with forces of 1 eV/Å (root mean square) on ``samples``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = build_model(config, elements, avg_num_neighbors)
    potential = Potential(model, _scale(config, len(elements))).double().eval()
    graph = collate([from_atoms(atoms, config.cutoff) for atoms in samples])
    potential.calibrate(graph)
    size = float(potential(graph)["forces"].square().mean().sqrt())
    potential.scale.scale.fill_(1 / size)
    return potential


def potential_like(mace: Any, config: MACEConfig) -> Potential:
    """A float64 potential that is the same function as a model of mace-torch, with the products of ``config``."""
    return _with_products(load_mace(mace, dtype=torch.float64), config.convolution, config.many_body)


def _with_products(potential: Potential, convolution: Any, many_body: Any) -> Potential:
    """A potential with the same weights; exact couplings, computed in whatever way."""
    config = potential.model.config.model_copy(update={"convolution": convolution, "many_body": many_body})
    with torch.random.fork_rng(devices=[]):
        model = build_model(config, potential.elements, potential.model.avg_num_neighbors)
    twin = Potential(model, copy.deepcopy(potential.scale)).to(potential.dtype)
    twin.load_state_dict(potential.state_dict())
    return twin.to(potential.device).eval()


def potential_of(
    architecture: Architecture, elements: Sequence[int], samples: Sequence[Atoms], avg_num_neighbors: float
) -> Potential:
    """Return the trained model, or one with random weights; float64."""
    if architecture.path is not None:
        return load_potential(architecture.path, dtype=torch.float64)
    return random_potential(architecture.config, elements, samples, avg_num_neighbors)


def sample_of(atoms: Atoms, largest: int = 64) -> Atoms:
    """The structure itself, or if it is large its atoms nearest to the first one, as an open cluster.

    For what is slow or not yet known to fit into memory.
    """
    if len(atoms) <= 2 * largest:
        return atoms
    near = np.argsort(atoms.get_distances(0, range(len(atoms)), mic=True), kind="stable")[:largest]
    cluster = atoms[near]
    cluster.positions = atoms.positions[0] + atoms.get_distances(0, near, mic=True, vector=True)
    cluster.set_pbc(False)
    cluster.set_cell(None)
    return cluster


def mean_neighbors(samples: Sequence[Atoms], cutoff: float) -> float:
    """Mean number of neighbours within the cutoff.

    Raises:
        ValueError: If no atom has a neighbour.
    """
    graphs = [from_atoms(atoms, cutoff) for atoms in samples]
    edges = sum(graph.edge_index.shape[1] for graph in graphs)
    if edges == 0:
        raise ValueError(f"no two atoms of the structures are within {cutoff:g} Å of each other; is it the right file?")
    return edges / sum(graph.num_nodes for graph in graphs)


def save(potential: Potential, folder: Path) -> Path:
    """The potential as a file, for contenders and for other processes."""
    path = folder / "model.eqn"
    save_potential(potential, path)
    return path


def _scale(config: ModelConfig, species: int) -> EnergyScale:
    zeros = [0.0] * species
    return EnergyScale(zeros, [1.0] * species, zeros, exact_isolated_atoms=config.exact_isolated_atoms)

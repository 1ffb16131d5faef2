"""From a configuration to what a run works on: graphs, statistics, a fresh potential."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from equinet.checkpoint import load_potential
from equinet.datasets import (
    Statistics,
    measure,
    random_split,
    read_frames,
    require_labels,
    split_isolated,
    to_graphs,
)
from equinet.datasets.properties import BUILT_IN, PROPERTIES
from equinet.graph.atomic_graph import AtomicGraph, collate
from equinet.models import build_model
from equinet.nn import EnergyScale
from equinet.ops.devices import choose_device
from equinet.potential import Potential
from equinet.tables import Block

from .config import RunConfig
from .examine import examine
from .finetune import refit_references
from .loss import Loss

if TYPE_CHECKING:
    from ase import Atoms

CALIBRATION_GRAPHS = 32


@dataclass(frozen=True)
class Prepared:
    """Graphs of a run and what the training frames say.

    Attributes:
        graphs: Graphs by part: train, valid and, if given, test.
        statistics: Statistics of the training frames.
        isolated: Isolated-atom frames in the training files; they set reference energies and are not trained on.
        digest: SHA-256 over the data files and the split.
        remarks: Lines about the data to show before the first step.
    """

    graphs: dict[str, list[AtomicGraph]]
    statistics: Statistics
    isolated: int
    digest: str
    remarks: tuple[Block, ...]


def prepare(config: RunConfig) -> Prepared:
    """Read, check and split the frames, measure the training set, build all graphs.

    Raises:
        FileNotFoundError, ValueError: With file, frame and remedy, if anything is wrong with the data.
    """
    data, loss = config.data, make_loss(config)
    keys = data.label_keys()
    frames, isolated = split_isolated(read_frames(data.train, keys))
    if not frames:
        raise ValueError(f"{data.train} holds isolated atoms only; there is nothing to train on")
    if isinstance(data.valid, str):
        parts = {"train": frames, "valid": read_frames(data.valid, keys)}
    else:
        rest, held = random_split(frames, data.valid, config.train.seed)
        parts = {"train": rest, "valid": held}
    if data.test is not None:
        parts["test"] = read_frames(data.test, keys)
    for part in ("train", "valid"):
        bonded = split_isolated(parts[part])[0]  # an isolated atom need not have forces or stress
        if not bonded:
            raise ValueError(f"there are no {part} frames besides isolated atoms; see `data.{part}`")
        require_labels(bonded, loss.terms, allow_missing=data.allow_missing)
    remarks = examine(data, parts, isolated)
    elements = sorted({int(z) for atoms in parts["train"] for z in atoms.numbers})
    graphs = {part: to_graphs(atoms, config.model.cutoff, elements) for part, atoms in parts.items()}
    statistics = measure(
        parts["train"], isolated, graphs["train"], e0s=data.e0s, per_element=data.scale_shift == "per_element"
    )
    return Prepared(graphs, statistics, len(isolated), _digest([*parts.values(), isolated]), remarks)


def make_loss(config: RunConfig) -> Loss:
    """The loss a configuration asks for."""
    weights = config.train
    return Loss(**{f"{name}": getattr(weights, f"{name}_weight") for name in BUILT_IN}, **weights.weights)


def make_potential(config: RunConfig, prepared: Prepared) -> Potential:
    """The potential to train: the one to start from, or a fresh one.

    A fresh one has weights drawn from the seed, and energies and densities at the level of the training data.

    Raises:
        ValueError: If the model to start from lacks an element of the training data.
    """
    statistics = prepared.statistics
    if config.train.start_from is not None:
        potential = load_potential(
            config.train.start_from, device=choose_device(config.train.device), dtype=getattr(torch, config.train.dtype)
        )
        potential.species(torch.tensor(statistics.elements, device=potential.device))  # refuses what it does not know
        if config.train.start_e0s == "refit":
            refit_references(potential, prepared.graphs["train"])
        return potential
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        model = build_model(config.model, statistics.elements, statistics.avg_num_neighbors)
    scale = EnergyScale(
        statistics.reference, statistics.scale, statistics.shift, exact_isolated_atoms=config.model.exact_isolated_atoms
    )
    potential = Potential(model, scale)
    potential.to(device=choose_device(config.train.device), dtype=getattr(torch, config.train.dtype))
    train = prepared.graphs["train"]
    potential.calibrate(collate(train[:: -(-len(train) // CALIBRATION_GRAPHS)]))
    return potential


def _digest(parts: Sequence[Sequence[Atoms]]) -> str:
    """SHA-256 over everything training sees of the frames, in order."""
    digest = hashlib.sha256()
    for frames in parts:
        for atoms in frames:
            digest.update(atoms.numbers.tobytes() + atoms.positions.tobytes() + atoms.cell[:].tobytes())
            digest.update(atoms.pbc.tobytes() + repr(atoms.info["weight"]).encode())
            for name in PROPERTIES:
                value = atoms.calc.results.get(name)
                if value is not None:
                    digest.update(np.asarray(value, dtype=np.float64).tobytes())
                elif name in BUILT_IN:
                    digest.update(name.encode())
        digest.update(b"|")
    return digest.hexdigest()

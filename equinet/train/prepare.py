"""From a configuration to what a run works on: graphs, statistics, a fresh potential."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
from equinet.datasets.digest import content_of
from equinet.datasets.properties import BUILT_IN
from equinet.datasets.store import is_store
from equinet.graph.atomic_graph import AtomicGraph, collate
from equinet.models import build_model
from equinet.nn import EnergyScale
from equinet.ops.devices import choose_device
from equinet.potential import Potential

from .config import RunConfig
from .finetune import refit_references
from .loss import Loss
from .stored import sizes_of, stored_parts

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
    """

    graphs: Mapping[str, Sequence[AtomicGraph]]
    statistics: Statistics
    isolated: int
    digest: str


def prepare(config: RunConfig) -> Prepared:
    """Read, check and split the frames, measure the training set, build all graphs.

    Raises:
        FileNotFoundError, ValueError: With file, frame and remedy, if anything is wrong with the data.
    """
    data, loss = config.data, make_loss(config)
    stored = stored_parts(config, loss.terms) if is_store(data.train) else None
    parts, isolated = (stored.looked_at, stored.isolated) if stored else _parts_in_memory(config)
    for part in ("train", "valid"):
        bonded = split_isolated(parts[part])[0]  # an isolated atom need not have forces or stress
        if not bonded:
            raise ValueError(f"there are no {part} frames besides isolated atoms; see `data.{part}`")
        if not stored:  # of which all frames have been looked at
            require_labels(bonded, loss.terms, allow_missing=data.allow_missing)
    elements = sorted({int(z) for atoms in parts["train"] for z in atoms.numbers})
    cutoff = config.model.cutoff
    in_memory = {} if stored else {part: to_graphs(atoms, cutoff, elements) for part, atoms in parts.items()}
    graphs = stored.graphs(elements) if stored else in_memory
    sizes = sizes_of(parts["train"], cutoff) if stored else in_memory["train"]
    statistics = measure(parts["train"], isolated, sizes, e0s=data.e0s, per_element=data.scale_shift == "per_element")
    return Prepared(
        graphs, statistics, len(isolated), stored.digest if stored else _digest([*parts.values(), isolated])
    )


def _parts_in_memory(config: RunConfig) -> tuple[dict[str, list[Atoms]], list[Atoms]]:
    """All frames by part, and the isolated atoms of the training files."""
    data, keys = config.data, config.data.label_keys()
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
    return parts, isolated


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
            for content in content_of(atoms):
                digest.update(content)
        digest.update(b"|")
    return digest.hexdigest()

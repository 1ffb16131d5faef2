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
from equinet.datasets.names import left_out, other_weights, second_labels, unknown_types
from equinet.datasets.properties import BUILT_IN
from equinet.datasets.store import is_store
from equinet.graph.atomic_graph import AtomicGraph, collate
from equinet.models import build_model
from equinet.nn import EnergyScale
from equinet.ops.devices import choose_device
from equinet.potential import Potential
from equinet.tables import Block, Text

from .config import RunConfig
from .examine import examine
from .finetune import refit_references
from .loss import Loss
from .published import PublishedFiles, find_published
from .stored import sizes_of, stored_parts

if TYPE_CHECKING:
    from ase import Atoms

    from equinet.datasets import LabelKeys

CALIBRATION_GRAPHS = 32


@dataclass(frozen=True)
class Prepared:
    """Graphs of a run and what the training frames say.

    Attributes:
        graphs: Graphs by part: train, valid and, if given, test.
        statistics: Statistics of the training frames.
        isolated: Isolated-atom frames in the training files; they set reference energies and are not trained on.
        digest: SHA-256 over the data files and the split.
        published: Published files that the configuration names.
        remarks: Lines about the data to show before the first step.
    """

    graphs: Mapping[str, Sequence[AtomicGraph]]
    statistics: Statistics
    isolated: int
    digest: str
    published: PublishedFiles
    remarks: tuple[Block, ...]


def prepare(config: RunConfig) -> Prepared:
    """Read, check and split the frames, measure the training set, build all graphs.

    Raises:
        FileNotFoundError, ValueError: With file, frame and remedy, if anything is wrong with the data.
    """
    published = find_published(config.data)
    config = config.model_copy(update={"data": published.data})
    data, loss = config.data, make_loss(config)
    keys = data.label_keys([name for name in BUILT_IN if name not in loss.terms])
    stored = stored_parts(config, keys, loss.terms) if is_store(data.train) else None
    parts, isolated = (stored.looked_at, stored.isolated) if stored else _parts_in_memory(config, keys)
    everything = [*isolated, *(atoms for part in parts.values() for atoms in part)]
    for complaint in (other_weights(everything, keys), unknown_types(everything, data.config_type_weights)):
        if complaint:
            raise ValueError(complaint)
    more = stored.extremes if stored else []  # which are to be judged, beside those that stand for all
    for part in ("train", "valid"):
        bonded = split_isolated(parts[part])[0]  # an isolated atom need not have forces or stress
        if not bonded:
            raise ValueError(f"there are no {part} frames besides isolated atoms; see `data.{part}`")
        if not stored:  # of which all frames have been looked at
            require_labels(bonded, loss.terms, allow_missing=data.allow_missing, keys=keys)
    remarks = examine(data, loss.terms, {**parts, "train": [*parts["train"], *more]}, isolated)
    elements = sorted({int(z) for atoms in parts["train"] for z in atoms.numbers})
    cutoff = config.model.cutoff
    in_memory = {} if stored else {part: to_graphs(atoms, cutoff, elements) for part, atoms in parts.items()}
    sizes = sizes_of(parts["train"], cutoff) if stored else in_memory["train"]
    statistics = measure(
        parts["train"], isolated, sizes, e0s=data.e0s, per_element=data.scale_shift == "per_element", accept=data.accept
    )
    if statistics.scale_origin == "forces all zero" and "forces" in loss.terms:
        raise ValueError(
            "all training forces are zero, and the loss gives them a weight. Where they are so by symmetry, as in curves of energy against volume, "
            "set `train.forces_weight = 0`, and the energies are trained on; else check `data.forces_key`"
        )
    notices = (*second_labels(everything, keys), *left_out(everything, keys))
    return Prepared(
        graphs=stored.graphs(elements) if stored else in_memory,
        statistics=statistics,
        isolated=len(isolated),
        digest=stored.digest if stored else _digest([*parts.values(), isolated]),
        published=published,
        remarks=(*remarks, *(Text(notice, "warning") for notice in notices)),
    )


def _parts_in_memory(config: RunConfig, keys: LabelKeys) -> tuple[dict[str, list[Atoms]], list[Atoms]]:
    """All frames by part, and the isolated atoms of the training files."""
    data = config.data
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
    potential.references = {
        "origin": statistics.reference_origin,
        "compositions": [dict(each) for each in statistics.compositions],
    }
    potential.to(device=choose_device(config.train.device), dtype=getattr(torch, config.train.dtype))
    train = [graph for graph in prepared.graphs["train"] if bool(graph.weight > 0)]
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

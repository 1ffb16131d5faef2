"""From frames to batches: labelled graphs, a reproducible order, and a loader that can start in mid-epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols

from equinet.graph.atomic_graph import AtomicGraph, collate, from_atoms

from .frames import has_volume, labels_of, require_elements, source
from .properties import PROPERTIES


def to_graph(atoms: Atoms, cutoff: float) -> AtomicGraph:
    """The graph of a frame with its labels; NaN where it has none.

    Raises:
        ValueError, MemoryError: As :func:`equinet.graph.from_atoms`, with the frame's origin in front.
    """
    try:
        graph = from_atoms(atoms, cutoff)
    except (ValueError, MemoryError) as error:
        raise type(error)(f"{source(atoms)}: {error}") from error
    found = labels_of(atoms)
    labels = {}
    for row in PROPERTIES.values():
        value = found.get(row.name)
        if row.needs_volume and not has_volume(atoms):
            value = None  # whatever a file says: molecules often come with zeros
        shape = (len(atoms), *row.shape) if row.per == "atom" else (1, *row.shape)
        labels[row.name] = torch.from_numpy(np.full(shape, np.nan) if value is None else value.reshape(shape).copy())
    return graph.update({**labels, "weight": torch.tensor([found.weight], dtype=torch.float64, device="cpu")})


def to_graphs(frames: Sequence[Atoms], cutoff: float, elements: Sequence[int] | None = None) -> list[AtomicGraph]:
    """Labelled graphs of all frames.

    Args:
        frames: Frames of :func:`equinet.datasets.read_frames`, or any ASE structures with labels.
        cutoff: Longest edge, in Å.
        elements: Atomic numbers the model knows; None accepts all.

    Raises:
        ValueError: If a frame holds an element that is not among ``elements``, an atom of no element, or no atoms.
    """
    for atoms in frames:
        if len(atoms) == 0:
            raise ValueError(f"{source(atoms)}: the frame has no atoms; remove it")
        require_elements(atoms)
        unknown = sorted(set(atoms.numbers.tolist()) - set(elements)) if elements is not None else []
        if unknown:
            raise ValueError(
                f"{source(atoms)}: holds {', '.join(chemical_symbols[z] for z in unknown)}, which the model does not know (it was "
                f"made for {', '.join(chemical_symbols[z] for z in elements or ())}); remove the frame or add such frames "
                "to the training set"
            )
    return [to_graph(atoms, cutoff) for atoms in frames]


class EpochOrder:
    """Batches of indices, shuffled anew every epoch in an order that only seed and epoch decide.

    Args:
        size: Number of graphs.
        batch_size: Graphs in a batch; the last batch of an epoch may be smaller.
        seed: Seed; None keeps the order of the data.
    """

    def __init__(self, size: int, batch_size: int, seed: int | None) -> None:
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be 1 or more, got {batch_size}")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.epoch = 0
        self.skip = 0

    def __len__(self) -> int:
        return -(-self.size // self.batch_size) - self.skip

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(self.size)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        for start in range(self.skip * self.batch_size, self.size, self.batch_size):
            yield order[start : start + self.batch_size].tolist()


class GraphLoader:
    """Batches of graphs.

    Args:
        graphs: Labelled graphs.
        batch_size: Graphs in a batch.
        seed: Shuffle each epoch with this seed; None keeps the order of the data.
    """

    def __init__(self, graphs: Sequence[AtomicGraph], batch_size: int, seed: int | None = None) -> None:
        self.graphs = list(graphs)
        self.order = EpochOrder(len(self.graphs), batch_size, seed)

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return -(-len(self.graphs) // self.order.batch_size)

    def __iter__(self) -> Iterator[AtomicGraph]:
        return (collate([self.graphs[n] for n in batch]) for batch in self.order)

    def epoch(self, number: int, skip: int = 0) -> Iterator[AtomicGraph]:
        """Batches of one epoch, without the first ``skip`` of them: how an interrupted epoch goes on."""
        self.order.epoch, self.order.skip = number, skip
        try:
            yield from self
        finally:
            self.order.skip = 0


def random_split(frames: Sequence[Atoms], fraction: float, seed: int) -> tuple[list[Atoms], list[Atoms]]:
    """(rest, held out): ``fraction`` of the frames, at least one, drawn at random with a seed.

    Raises:
        ValueError: If ``fraction`` is not between 0 and 1, or there are fewer than two frames.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the fraction to hold out must be between 0 and 1, got {fraction}")
    if len(frames) < 2:
        raise ValueError(f"cannot hold out a part of {len(frames)} frame(s)")
    order = np.random.default_rng(seed).permutation(len(frames))
    held = min(max(round(fraction * len(frames)), 1), len(frames) - 1)
    rest = sorted(order[: len(frames) - held].tolist())
    return [frames[n] for n in rest], [frames[n] for n in sorted(order[len(frames) - held :].tolist())]

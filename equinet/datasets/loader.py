"""From frames to batches: labelled graphs, a reproducible order, and a loader that can start in mid-epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from equinet.graph.atomic_graph import AtomicGraph, collate, from_atoms
from equinet.graph.neighbors import count_edges

from .batches import ByEdges, BySize
from .frames import SOURCE, find_labels, has_volume, require_elements, source
from .properties import PROPERTIES
from .workers import in_workers


def to_graph(atoms: Atoms, cutoff: float) -> AtomicGraph:
    """The graph of a frame with its labels and their weights; NaN where it has none, or one of weight 0, which is to touch nothing.

    Raises:
        ValueError, MemoryError: As :func:`equinet.graph.from_atoms`, with the frame's origin in front.
    """
    try:
        graph = from_atoms(atoms, cutoff)
    except (ValueError, MemoryError) as error:
        raise type(error)(f"{source(atoms)}: {error}") from error
    found = find_labels(atoms)
    labels = {"weight": torch.tensor([found.weight], dtype=torch.float64, device="cpu")}
    for row in PROPERTIES.values():
        value, weight = found.get(row.name), found.weights.get(row.name, 1.0)
        if found.weight * weight == 0 or (row.needs_volume and not has_volume(atoms)):
            value = None  # without volume whatever a file says: molecules often come with zeros
        shape = (len(atoms), *row.shape) if row.per == "atom" else (1, *row.shape)
        labels[row.name] = torch.from_numpy(np.full(shape, np.nan) if value is None else value.reshape(shape).copy())
        labels[f"{row.name}_weight"] = torch.tensor([weight], dtype=torch.float64, device="cpu")
    return graph.update(labels)


def edges_within(atoms: Atoms, cutoff: float) -> int:
    """Number of edges of :func:`to_graph` of a frame, without making the graph.

    Raises:
        ValueError, MemoryError: As :func:`to_graph`.
    """
    positions, cell = (np.ascontiguousarray(array, dtype=np.float64) for array in (atoms.positions, atoms.cell[:]))
    try:
        return count_edges(positions, cell, np.asarray(atoms.pbc, dtype=bool), cutoff)
    except (ValueError, MemoryError) as error:
        raise type(error)(f"{source(atoms)}: {error}") from error


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


class GraphLoader:
    """Batches of graphs.

    Args:
        graphs: Labelled graphs, a list or a sequence that makes each when it is asked for.
        batch_size: Graphs in a batch.
        seed: Shuffle each epoch with this seed; None keeps the order of the data.
        batch_edges: Most edges in a batch, in place of ``batch_size``: batches of nearly as many edges each (:class:`.batches.ByEdges`).
        workers: Processes that take graphs from the sequence and put batches together ahead of their use; the batches are the same.

    Raises:
        ValueError: If a size is not positive, or ``batch_size`` and ``batch_edges`` are given together or neither of them.
    """

    def __init__(
        self,
        graphs: Sequence[AtomicGraph],
        batch_size: int | None = None,
        seed: int | None = None,
        *,
        batch_edges: int | None = None,
        workers: int = 0,
    ) -> None:
        if (batch_size is None) == (batch_edges is None):
            raise ValueError("give one of `batch_size` and `batch_edges`")
        self.graphs, self.workers = graphs, workers
        self.order: BySize | ByEdges
        if batch_size is not None:
            self.order = BySize(len(graphs), batch_size, seed)
        elif batch_edges is not None:
            self.order = ByEdges(edges_of(graphs), batch_edges, seed)

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return len(self.order)

    def __iter__(self) -> Iterator[AtomicGraph]:
        return self.epoch(0)

    def epoch(self, number: int, skip: int = 0) -> Iterator[AtomicGraph]:
        """Batches of one epoch, without the first ``skip`` of them: how an interrupted epoch goes on."""
        return in_workers(_Collated(self.graphs), self.order.epoch(number)[skip:], self.workers)


class _Collated:
    """The batch of some graphs of a sequence; can be sent to another process."""

    def __init__(self, graphs: Sequence[AtomicGraph]) -> None:
        self.graphs = graphs

    def __call__(self, batch: Sequence[int]) -> AtomicGraph:
        return collate([self.graphs[n] for n in batch])


def label_counts(graphs: Sequence[AtomicGraph]) -> dict[str, int]:
    """Number of structures with a label (of a weight above 0), by property; as counted before (attribute ``label_counts``), or now."""
    known = getattr(graphs, "label_counts", None)
    if known is not None:
        return dict(known)
    return {name: sum(has_label(graph, name) for graph in graphs) for name in PROPERTIES}


def has_label(graph: AtomicGraph, name: str) -> bool:
    """True if a structure has a label, of which all numbers are there or none."""
    return name in graph and not np.isnan(graph[name].numpy().flat[0])


def edges_of(graphs: Sequence[AtomicGraph]) -> NDArray[np.int64]:
    """Number of edges of each graph, ``(graphs,)``; as counted before (attribute ``edges``), or now, graph by graph."""
    known = getattr(graphs, "edges", None)
    return np.array([graph.num_edges for graph in graphs], dtype=np.int64) if known is None else known


def random_split(frames: Sequence[Atoms], fraction: float, seed: int) -> tuple[list[Atoms], list[Atoms]]:
    """(rest, held out): ``fraction`` of the frames, at least one, drawn at random with a seed.

    Raises:
        ValueError: If ``fraction`` is not between 0 and 1, or there are fewer than two frames.
    """
    try:
        rest, held = split_numbers(len(frames), fraction, seed)
    except ValueError as error:
        file = f"{source(frames[0]).rsplit(', frame', 1)[0]}: " if frames and SOURCE in frames[0].info else ""
        raise ValueError(f"{file}{error}") from None
    return [frames[n] for n in rest], [frames[n] for n in held]


def split_numbers(count: int, fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the frames of both parts of :func:`random_split`, ascending."""
    if not 0 < fraction < 1:
        raise ValueError(f"the fraction to hold out must be between 0 and 1, got {fraction}")
    if count < 2:
        raise ValueError(
            f"cannot hold out a part of {count} frame(s), as `data.valid = {fraction:g}` asks; name a file with other frames there, or the "
            "training file itself to see whether a model can learn this frame"
        )
    order = np.random.default_rng(seed).permutation(count)
    held = min(max(round(fraction * count), 1), count - 1)
    return np.sort(order[: count - held]), np.sort(order[count - held :])

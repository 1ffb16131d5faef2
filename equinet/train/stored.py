"""Parts of a run whose frames are streamed from stores: which frames, and which of them are measured in place of all."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from equinet.datasets import LabelKeys, read_frames, require_labels, split_isolated, to_graph, to_graphs
from equinet.datasets.loader import split_numbers
from equinet.datasets.store import StoredFrames, StoredGraphs, Survey, is_store, survey
from equinet.graph.atomic_graph import AtomicGraph

from .config import RunConfig

if TYPE_CHECKING:
    from ase import Atoms

# Training frames of which the final errors and the picture are made, spread evenly; of frames in memory all.
TESTED = 10_000
MOST_WORKERS = 4

log = logging.getLogger("equinet")


@dataclass(frozen=True)
class StoredParts:
    """Frames of a run.

    Attributes:
        looked_at: Frames in memory that are checked and measured in place of all of their part.
        isolated: Isolated atoms of the training files.
        graphs: Function that gives the graphs of all parts, for the atomic numbers that the model knows.
        digest: SHA-256 over the frames of all files and the split.
        extremes: Frames with the largest forces of all that are trained or validated on, those looked at left out.
    """

    looked_at: dict[str, list[Atoms]]
    isolated: list[Atoms]
    graphs: Callable[[Sequence[int]], dict[str, Sequence[AtomicGraph]]]
    digest: str
    extremes: list[Atoms]


@dataclass
class _Part:
    frames: StoredFrames
    survey: Survey
    chosen: NDArray[np.int64]
    looked_at: list[Atoms] = field(default_factory=list)

    def look(self) -> list[Atoms]:
        """Frames that stand for all of the part, read once."""
        if not self.looked_at:
            self.looked_at = [self.frames[int(n)] for n in self.survey.measured(self.chosen)]
        return self.looked_at

    def graphs(self, cutoff: float, elements: Sequence[int]) -> StoredGraphs:
        unknown = self.survey.first_with_other(self.chosen, elements)
        if unknown is not None:
            to_graphs([self.frames[unknown]], cutoff, elements)  # which says what is wrong with it
        return StoredGraphs(self.frames, self.survey, cutoff, elements, self.chosen)

    def extremes(self) -> list[Atoms]:
        """Frames with the largest forces that are not among those looked at."""
        extremes = np.setdiff1d(self.survey.extremes(self.chosen), self.survey.measured(self.chosen))
        return [self.frames[int(n)] for n in extremes]

    def require_labels(self, wanted: Iterable[str], *, allow_missing: bool | Collection[str], keys: LabelKeys) -> None:
        """As :func:`equinet.datasets.require_labels` does of frames in memory: of all frames, by their survey."""
        bonded = self.chosen[~self.survey.isolated[self.chosen]]
        if not len(bonded):
            return
        for name in wanted:
            there = self.survey.labels[name][bonded]
            examples = [self.frames[int(bonded[np.argmax(there == has)])] for has in (False, True)]
            missing = int((~there).sum())
            counted = [examples[0]] * missing + [examples[1]] * (len(bonded) - missing)
            if missing:
                require_labels(counted, [name], allow_missing=allow_missing, keys=keys)


def stored_parts(config: RunConfig, keys: LabelKeys, wanted: Sequence[str]) -> StoredParts:
    """Look through the stores that a configuration names, once, and split the training frames.

    Args:
        config: Configuration whose training frames are in stores; those of validation and test may be in any file.
        keys: Names, units and weights of the labels.
        wanted: Names of the properties that the loss weighs.

    Raises:
        FileNotFoundError, ValueError: With file, frame and remedy, if anything is wrong with the data.
    """
    data = config.data
    everything = _part(data.train, keys, config)
    ordinary = np.flatnonzero(~everything.survey.isolated)
    if not len(ordinary):
        raise ValueError(f"{data.train} holds isolated atoms only; there is nothing to train on")
    isolated = [everything.frames[int(n)] for n in np.flatnonzero(everything.survey.isolated)]
    parts: dict[str, _Part | list[Atoms]] = {}
    digests = [everything.survey.digest]
    if isinstance(data.valid, str):
        parts = {
            "train": _Part(everything.frames, everything.survey, ordinary),
            "valid": _any(data.valid, keys, config),
        }
    else:
        rest, held = split_numbers(len(ordinary), data.valid, config.train.seed)
        parts = {
            part: _Part(everything.frames, everything.survey, ordinary[chosen])
            for part, chosen in (("train", rest), ("valid", held))
        }
        digests.append(f"{data.valid} {config.train.seed}")
    if data.test is not None:
        parts["test"] = _any(data.test, keys, config)
    extremes: list[Atoms] = []
    for name, part in parts.items():
        if isinstance(part, _Part):
            digests += [part.survey.digest] if part.frames is not everything.frames else []
            if name != "test":
                part.require_labels(wanted, allow_missing=data.allow_missing, keys=keys)
                extremes += part.extremes()
        elif name != "test":
            require_labels(split_isolated(part)[0], wanted, allow_missing=data.allow_missing, keys=keys)

    def graphs(elements: Sequence[int]) -> dict[str, Sequence[AtomicGraph]]:
        cutoff = config.model.cutoff
        return {
            name: part.graphs(cutoff, elements) if isinstance(part, _Part) else to_graphs(part, cutoff, elements)
            for name, part in parts.items()
        }

    looked_at = {name: part.look() if isinstance(part, _Part) else part for name, part in parts.items()}
    train = parts["train"]
    if isinstance(train, _Part) and len(train.look()) < len(train.chosen):
        log.info(
            f"E0s, shift, scale and neighbours are those of {len(train.look()):,} of {len(train.chosen):,} training frames, spread evenly, with all "
            "elements"
        )
    return StoredParts(looked_at, isolated, graphs, hashlib.sha256(" ".join(digests).encode()).hexdigest(), extremes)


def _any(path: str, keys: LabelKeys, config: RunConfig) -> _Part | list[Atoms]:
    return _part(path, keys, config) if is_store(path) else read_frames(path, keys)


def _part(paths: str | list[str], keys: LabelKeys, config: RunConfig) -> _Part:
    frames = StoredFrames(paths, keys)
    cutoff = config.model.cutoff if config.train.batch_edges is not None else None
    found = survey(frames, cutoff=cutoff, workers=workers_of(config, frames))
    return _Part(frames, found, np.arange(len(frames)))


def sizes_of(frames: Sequence[Atoms], cutoff: float) -> list[AtomicGraph]:
    """Graphs that have shapes and no content (tensors on torch's device "meta"): numbers of atoms and edges, for the statistics."""
    return [to_graph(atoms, cutoff).to("meta") for atoms in frames]


def workers_of(config: RunConfig, data: Sequence[Atoms] | Sequence[AtomicGraph]) -> int:
    """Number of processes that read ahead: as configured, else for stores one less than there are processors, one to four."""
    if config.data.workers is not None:
        return config.data.workers
    if not isinstance(data, (StoredFrames, StoredGraphs)):
        return 0
    return max(1, min(MOST_WORKERS, len(os.sched_getaffinity(0)) - 1 if hasattr(os, "sched_getaffinity") else 2))


def graphs_to_test(graphs: Sequence[AtomicGraph]) -> Sequence[AtomicGraph]:
    """Training graphs of which final errors are computed: all in memory, of a store up to :data:`TESTED`."""
    return graphs[:: -(-len(graphs) // TESTED)] if isinstance(graphs, StoredGraphs) else graphs

"""Graphs of stored frames as one sequence, each made when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from equinet.datasets.loader import to_graphs
from equinet.graph.atomic_graph import AtomicGraph

from .surveys import Survey


class StoredGraphs(Sequence[AtomicGraph]):
    """Labelled graphs of some of the frames of a store, in place of a list: nothing is kept, every graph is made anew.

    Args:
        frames: Frames, such as :class:`equinet.datasets.store.StoredFrames`.
        survey: Numbers of all of them.
        cutoff: Longest edge, in Å.
        elements: Atomic numbers the model knows.
        chosen: Numbers of the frames, ``(graphs,)``.

    Raises:
        ValueError, MemoryError: When a graph is asked for, as :func:`equinet.datasets.to_graphs`.
    """

    def __init__(
        self,
        frames: Sequence[Atoms],
        survey: Survey,
        cutoff: float,
        elements: Sequence[int],
        chosen: NDArray[np.int64],
    ) -> None:
        self.frames, self.survey, self.cutoff, self.elements = frames, survey, cutoff, tuple(elements)
        self.chosen = chosen

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, index: int) -> AtomicGraph: ...
    @overload
    def __getitem__(self, index: slice) -> StoredGraphs: ...

    def __getitem__(self, index: int | slice) -> AtomicGraph | StoredGraphs:
        if isinstance(index, slice):
            return self._of(self.chosen[index])
        return to_graphs([self.frames[int(self.chosen[index])]], self.cutoff, self.elements)[0]

    def __iter__(self) -> Iterator[AtomicGraph]:
        return (self[n] for n in range(len(self)))

    @property
    def edges(self) -> NDArray[np.int64] | None:
        """Number of edges of each graph ``(graphs,)``, if they have been counted."""
        return None if self.survey.edges is None else self.survey.edges[self.chosen]

    def largest(self, count: int) -> StoredGraphs:
        """The ``count`` graphs with the most edges or, if these have not been counted, with the most atoms."""
        sizes = self.survey.atoms[self.chosen] if self.edges is None else self.edges
        return self._of(self.chosen[np.argsort(sizes, kind="stable")[-count:]])

    @property
    def label_counts(self) -> dict[str, int]:
        """Number of frames with a label, by property."""
        return {name: int(there[self.chosen].sum()) for name, there in self.survey.labels.items()}

    def _of(self, chosen: NDArray[np.int64]) -> StoredGraphs:
        return StoredGraphs(self.frames, self.survey, self.cutoff, self.elements, chosen)

"""Composition of batches: a fixed number of graphs or of edges, in an order that only seed and epoch decide."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

# Graphs whose numbers of edges are this near take each other's place in a batch.
ALIKE = 2 ** (1 / 8)

log = logging.getLogger("equinet")


class Batches(Sequence[list[int]]):
    """Lists of numbers of graphs, cut out of one array.

    Args:
        order: Numbers of graphs, one batch after the other.
        ends: Where each batch ends in it, ``(batches,)``.
    """

    def __init__(self, order: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        self.order, self.ends = order, ends

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> Batches: ...

    def __getitem__(self, index: int | slice) -> list[int] | Batches:
        if isinstance(index, slice):
            start, _, step = index.indices(len(self))
            if step != 1:
                raise ValueError(f"batches are cut out one after the other; the step must be 1, got {step}")
            first = int(self.ends[start - 1]) if 0 < start <= len(self) else 0
            return Batches(self.order[first:], self.ends[index] - first)
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no batch {index} in {len(self)}")
        index %= len(self)
        start = int(self.ends[index - 1]) if index else 0
        return self.order[start : self.ends[index]].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self[n] for n in range(len(self)))


class BySize:
    """Batches of a fixed number of graphs.

    Args:
        size: Number of graphs in all.
        batch_size: Graphs in a batch; the last batch of an epoch may be smaller.
        seed: Seed of the order; None keeps that of the data.

    Raises:
        ValueError: If ``batch_size`` is not positive.
    """

    def __init__(self, size: int, batch_size: int, seed: int | None) -> None:
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be 1 or more, got {batch_size}")
        self.size, self.batch_size, self.seed = size, batch_size, seed

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def epoch(self, number: int) -> Batches:
        """All batches of an epoch."""
        order = np.arange(self.size)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, number]).permutation(self.size)
        return Batches(order, np.minimum(np.arange(1, len(self) + 1) * self.batch_size, self.size))


class ByEdges:
    """Batches of about as many edges each, never more than a limit; every epoch has as many batches.

    Graphs are sorted into levels of edges (9 % from one to the next) and dealt out from the largest to the smallest, each to the batch
    that has the fewest edges (longest processing time first). How many of which level are in a batch is thus the same in every epoch; which
    graphs of a level they are, and in which order batches come, is drawn anew. A graph beyond the limit is a batch of its own.

    Args:
        edges: Number of edges of each graph, ``(graphs,)``.
        batch_edges: Limit of the number of edges in a batch.
        seed: Seed of the order; None draws the same for every epoch.

    Raises:
        ValueError: If ``batch_edges`` is not positive.

    Source:
        Graham 1969, SIAM J. Appl. Math. 17, 416: the fullest batch has at most 4/3 of what the best division would give it.
    """

    def __init__(self, edges: NDArray[np.int64], batch_edges: int, seed: int | None) -> None:
        if batch_edges < 1:
            raise ValueError(f"`batch_edges` must be 1 or more, got {batch_edges}")
        self.seed, self.batch_edges = seed, batch_edges
        # A graph without edges has its atoms to compute, so it counts as one edge.
        self.level = np.ceil(np.log(np.maximum(edges, 1)) / np.log(ALIKE) - 1e-9).astype(np.int64)
        alone = np.maximum(edges, 1) > batch_edges
        self.level[alone] = np.iinfo(np.int64).max  # dealt out first
        beyond = int(alone.sum())
        if beyond:
            log.info(
                f"{beyond:,} of {len(edges):,} frames have more than {batch_edges:,} edges (train.batch_edges), up to {edges.max():,}; each is "
                "a batch of its own"
            )
        self.batch_of_place = _dealt_out(np.sort(self.level[~alone])[::-1], batch_edges, beyond)
        self.count = int(self.batch_of_place.max(initial=-1)) + 1

    def __len__(self) -> int:
        return self.count

    def epoch(self, number: int) -> Batches:
        """All batches of an epoch."""
        random = np.random.default_rng([0, 0] if self.seed is None else [self.seed, number])
        order = random.permutation(len(self.level))
        order = order[np.argsort(-self.level[order], kind="stable")]  # by level, within a level as drawn
        batch = random.permutation(self.count)[self.batch_of_place]
        return Batches(order[np.argsort(batch, kind="stable")], np.cumsum(np.bincount(batch, minlength=self.count)))


def _dealt_out(levels: NDArray[np.int64], limit: int, beyond: int) -> NDArray[np.int64]:
    """Batch of each graph ``(beyond + levels,)``: those beyond the limit alone, the others, from the largest on, in as few as it finds."""
    sizes = np.minimum(ALIKE**levels, limit)
    batches = max(int(np.ceil(sizes.sum() / limit)), 1)
    while True:
        loads = [(0.0, n) for n in range(batches)]
        dealt = np.empty(len(sizes), dtype=np.int64)
        for n, size in enumerate(sizes.tolist()):
            load, batch = loads[0]
            if load + size > limit:
                break
            heapq.heapreplace(loads, (load + size, batch))
            dealt[n] = batch
        else:
            return np.concatenate([np.arange(beyond), beyond + dealt])
        batches += batches // 50 + 1

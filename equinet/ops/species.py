"""Nodes grouped by species, so that what depends on the species is one matrix product per species."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from jaxtyping import Int
from torch import Tensor


class SpeciesGroups:
    """A permutation that sorts nodes by species, made once per forward pass and used by every layer.

    Args:
        species: Index of each node's species.

    Attributes:
        order: The nodes sorted by species.
        back: Where in ``order`` each node is.
        spans: For every species that is there: itself, and where its nodes begin and end in ``order``.
    """

    def __init__(self, species: Int[Tensor, " nodes"]) -> None:
        self.species = species
        ordered, self.order = torch.sort(species, stable=True)
        self.back = torch.argsort(self.order)
        present, counts = torch.unique_consecutive(ordered, return_counts=True)
        # Without nodes there is one empty group, so that every layer still returns tensors of the right shape.
        self._present: list[int] = present.tolist() or [0]
        self._counts: list[int] = counts.tolist() or [0]
        ends = list(accumulate(self._counts))
        self.spans = list(zip(self._present, [0, *ends], ends))

    def split(self, values: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Pairs of (species, its rows of ``values``) for every species that is there."""
        return zip(self._present, values.index_select(0, self.order).split(self._counts))

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The inverse of :meth:`split`: parts in the same order of species, back in the order of the nodes."""
        return torch.cat(list(parts)).index_select(0, self.back)

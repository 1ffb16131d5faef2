"""Nodes grouped by species, so that what depends on the species is one matrix product per species."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from jaxtyping import Int
from torch import Tensor

from .kernels.mix import Nodes


class SpeciesGroups:
    """A permutation that sorts nodes by species, made once per forward pass and used by every layer.

    Args:
        species: Index of each node's species.

    Attributes:
        order: The nodes sorted by species.
        nodes: The same as :mod:`equinet.ops.kernels` takes it.
    """

    def __init__(self, species: Int[Tensor, " nodes"]) -> None:
        self.species = species
        ordered, self.order = torch.sort(species, stable=True)
        self._back = torch.argsort(self.order)
        present, counts = torch.unique_consecutive(ordered, return_counts=True)
        # Without nodes there is one empty group, so that every layer still returns tensors of the right shape.
        self._present: list[int] = present.tolist() or [0]
        self._counts: list[int] = counts.tolist() or [0]
        ends = list(accumulate(self._counts))
        spans = [number for span in zip(self._present, [0, *ends], ends) for number in span]
        self.nodes = Nodes(self.order, torch.tensor([len(self._present), *spans]))

    def require_weights_for(self, species: int) -> None:
        """Refuse nodes of a species that weights do not know.

        Raises:
            IndexError: If there is one.
        """
        if not 0 <= self._present[0] <= self._present[-1] < species:
            wrong = self._present[0] if self._present[0] < 0 else self._present[-1]
            raise IndexError(f"a node has species {wrong}, but there are weights for {species}, numbered from 0")

    def split(self, values: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Pairs of (species, its rows of ``values``) for every species that is there."""
        return zip(self._present, values.index_select(0, self.order).split(self._counts))

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The inverse of :meth:`split`: parts in the same order of species, back in the order of the nodes."""
        return torch.cat(list(parts)).index_select(0, self._back)

"""Nodes grouped by species, so that what depends on the species is one matrix product per species."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from jaxtyping import Int
from torch import Tensor

from equinet.ops.kernels.linear.cpu import Nodes


class SpeciesGroups:
    """A permutation that sorts nodes by species, made once per forward pass and used by every layer.

    Its sizes are read from the device when it is made, and never after: a layer that has groups does not wait. So groups of
    nodes that stay the same, as those of a structure that moves, are best made once.

    Args:
        species: Index of each node's species.

    Attributes:
        order: The nodes sorted by species.
        spans: For every species that occurs its number, and where in ``order`` its nodes begin and end.
        nodes: The same as :mod:`equinet.ops.kernels` takes it, the spans on the CPU.
    """

    def __init__(self, species: Int[Tensor, " nodes"]) -> None:
        self.species = species
        ordered, self.order = torch.sort(species, stable=True)
        self._back = torch.argsort(self.order)
        found = torch.unique_consecutive(ordered, return_counts=True)
        present, counts = torch.stack(found).tolist()  # one wait for the device, not two
        # Without nodes there is one empty group, so that every layer still returns tensors of the right shape.
        self._present: list[int] = present or [0]
        self._counts: list[int] = counts or [0]
        ends = list(accumulate(self._counts))
        self.spans = list(zip(self._present, [0, *ends], ends))
        numbers = [number for span in self.spans for number in span]
        self.nodes = Nodes(self.order, torch.tensor([len(self._present), *numbers], device="cpu"))

    @classmethod
    def to_trace(
        cls, species: Int[Tensor, " nodes"], order: Int[Tensor, " nodes"], spans: Int[Tensor, " numbers"]
    ) -> SpeciesGroups:
        """Groups of any sizes, for what is recorded once and run on other nodes later; they cannot be split.

        Args:
            species: Species of each node.
            order: The nodes sorted by species.
            spans: Spans as in :class:`~equinet.ops.kernels.linear.cpu.Nodes`.
        """
        groups = cls.__new__(cls)
        groups.species, groups.order, groups.nodes = species, order, Nodes(order, spans)
        groups.spans, groups._present, groups._counts = [], [], []
        return groups

    def to(self, device: torch.device) -> SpeciesGroups:
        """The same groups of nodes on another device."""
        moved = copy.copy(self)
        moved.species, moved.order, moved._back = (each.to(device) for each in (self.species, self.order, self._back))
        moved.nodes = Nodes(moved.order, self.nodes.spans)
        return moved

    def require_weights_for(self, species: int) -> None:
        """Refuse nodes of a species that weights do not know; not while torch writes a graph that is to serve other nodes too.

        Raises:
            IndexError: If there is one.
        """
        if torch.compiler.is_compiling() or not self._present:
            return
        if not 0 <= self._present[0] <= self._present[-1] < species:
            wrong = self._present[0] if self._present[0] < 0 else self._present[-1]
            raise IndexError(f"a node has species {wrong}, but there are weights for {species}, numbered from 0")

    def split(self, values: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Pairs of (species, its rows of ``values``) for every species that is there.

        Raises:
            RuntimeError: If the groups are to be traced (:meth:`to_trace`), so that their sizes are not known.
        """
        if not self._present:
            raise RuntimeError(
                "how many nodes a species has is not known while a step is recorded for all batches, and this product asks for it; "
                "take one that does not: on a CPU ClebschGordan() as it comes, anywhere the products of the other methods"
            )
        return zip(self._present, values.index_select(0, self.order).split(self._counts))

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The inverse of :meth:`split`: parts in the same order of species, back in the order of the nodes."""
        return torch.cat(list(parts)).index_select(0, self._back)


def as_groups(species: SpeciesGroups | Int[Tensor, " nodes"]) -> SpeciesGroups:
    """``species``, or the groups that the index of each node's species makes."""
    return species if isinstance(species, SpeciesGroups) else SpeciesGroups(species)

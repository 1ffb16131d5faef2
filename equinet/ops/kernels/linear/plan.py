"""Linear maps of blocks of rows: which they are, and how plain torch computes them. :mod:`.maps` has the formula."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from equinet.ops.precision import matmul
from equinet.ops.species import SpeciesGroups

from . import cpu


class Block(NamedTuple):
    """Rows ``start`` to ``stop`` of x, which become the rows ``to_start`` to ``to_stop`` of y.

    Attributes:
        scale: s of the formula.
    """

    start: int
    stop: int
    to_start: int
    to_stop: int
    scale: float


class Plan(NamedTuple):
    """All blocks, and the number of rows of x and of y. Rows of y without a block are zero, as are gradients of x."""

    blocks: tuple[Block, ...]
    rows: int
    to_rows: int

    @property
    def reversed(self) -> Plan:
        """From y to x."""
        blocks = (Block(b.to_start, b.to_stop, b.start, b.stop, b.scale) for b in self.blocks)
        return Plan(tuple(blocks), self.to_rows, self.rows)

    def matrices(self, channels: int, to_channels: int) -> list[tuple[int, int]]:
        """Shape of the matrix of each block, between features of ``channels`` and of ``to_channels``."""
        shapes = []
        for b in self.blocks:
            vectors = min(b.stop - b.start, b.to_stop - b.to_start)
            depth, columns = (b.stop - b.start) * channels // vectors, (b.to_stop - b.to_start) * to_channels // vectors
            shapes.append((depth, columns))
        return shapes


@lru_cache(maxsize=512)
def maps_of(plan: Plan, shapes: tuple[torch.Size, ...], channels: int, to_channels: int) -> cpu.Maps:
    """The blocks as plain numbers, for machine code.

    Raises:
        ValueError: If the shape of a weight is not that of its block.
    """
    numbers, before = [], 0
    for block, shape in zip(plan.blocks, shapes):
        depth, columns = shape[-2:]
        components = min(block.stop - block.start, block.to_stop - block.to_start)
        sizes = (block.stop - block.start) * channels, (block.to_stop - block.to_start) * to_channels
        if (components * depth, components * columns) != sizes:
            raise ValueError(
                f"weights of shape {tuple(shape)} do not fit together with {block} and {channels} to {to_channels} channels"
            )
        numbers += [
            block.start * channels,
            block.to_start * to_channels,
            depth,
            columns,
            components,
            depth,
            columns,
            before,
        ]
        before += shape.numel()
    full = sum(block.to_stop - block.to_start for block in plan.blocks) == plan.to_rows
    scales = tuple(block.scale for block in plan.blocks)
    return cpu.Maps(tuple(numbers), scales, plan.rows * channels, plan.to_rows * to_channels, full)


def nodes_of(x: Tensor, groups: SpeciesGroups | None) -> cpu.Nodes:
    """The nodes as machine code takes them."""
    return cpu.all_alike(x.shape[0]) if groups is None else groups.nodes


def product_in_torch(
    x: Tensor, weights: list[Tensor], plan: Plan, groups: SpeciesGroups | None, channels: int
) -> Tensor:
    """Block by block, and species by species of nodes that are brought into order once for all blocks."""
    count, found, end = x.shape[0], [], 0
    x, spans = _in_order(x, groups)
    for block, weight in sorted(zip(plan.blocks, weights), key=lambda pair: pair[0].to_start):
        vectors, rows = _vectors(x, block.start, block.stop, weight.shape[-2]), block.to_stop - block.to_start
        each = vectors.shape[0] // max(count, 1)  # vectors of a node
        values = [
            matmul(vectors[each * a : each * b], block.scale * (weight if z is None else weight[z]))
            for z, a, b in spans
        ]
        if block.to_start > end:
            found.append(x.new_zeros(count, block.to_start - end, channels))
        found.append((values[0] if len(values) == 1 else torch.cat(values)).view(count, rows, channels))
        end = block.to_stop
    if end < plan.to_rows:
        found.append(x.new_zeros(count, plan.to_rows - end, channels))
    y = found[0] if len(found) == 1 else torch.cat(found, dim=1)
    return y if groups is None or len(spans) == 1 else torch.empty_like(y).index_copy_(0, groups.order, y)


def gradients_in_torch(
    x: Tensor, g: Tensor, shapes: list[torch.Size], plan: Plan, groups: SpeciesGroups | None
) -> tuple[Tensor, ...]:
    """Likewise: gradients of all weights for the gradients ``g`` of the result."""
    count, found = max(x.shape[0], 1), []
    (x, spans), (g, _) = _in_order(x, groups), _in_order(g, groups)
    for block, shape in zip(plan.blocks, shapes):
        left = _vectors(x, block.start, block.stop, shape[-2])
        right = block.scale * _vectors(g, block.to_start, block.to_stop, shape[-1])
        each = left.shape[0] // count
        values = [matmul(left[each * a : each * b].T, right[each * a : each * b]) for _, a, b in spans]
        if groups is None:
            found.append(values[0])
            continue
        gradient = x.new_zeros(shape)
        for (z, _, _), value in zip(spans, values):
            gradient[z] = value
        found.append(gradient)
    return tuple(found)


def _in_order(x: Tensor, groups: SpeciesGroups | None) -> tuple[Tensor, list[tuple[int | None, int, int]]]:
    """``x`` with the nodes of a species side by side, and where each species begins and ends."""
    if groups is None:
        return x, [(None, 0, x.shape[0])]
    spans = groups.spans or [tuple(span) for span in groups.nodes.spans[1:].view(-1, 3).tolist()]
    # Nodes of one species are in order as they are, as equal ones are left in their order.
    return x if len(spans) == 1 else x.index_select(0, groups.order), spans


def _vectors(x: Tensor, start: int, stop: int, columns: int) -> Tensor:
    """Rows ``start`` to ``stop`` of every node as vectors of ``columns`` numbers."""
    part = x[:, start:stop]
    return part.reshape(part.numel() // columns, columns)

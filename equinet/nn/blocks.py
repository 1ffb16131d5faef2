r"""One linear map for every block of rows, as a single differentiable operation.

.. math:: y^{l} = s_l \, x^{l} \, W^{l}

Rows of x that belong together are read as a matrix, multiplied, and written to their rows of y. Written with torch's slices and
concatenations this is one operation too, but each derivative of a slice is a tensor of zeros as large as the whole.

The map is linear in x and in the weights, so its derivatives are three operations of one kind, which are each other's derivatives:
forth (x to y), back (slopes of y to slopes of x) and outer (slopes of the weights).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from equinet.ops import SpeciesGroups
from equinet.ops.passes import wanted


class Block(NamedTuple):
    """Rows ``start`` to ``stop`` of x, which become the rows ``to_start`` to ``to_stop`` of y.

    Attributes:
        scale: s of the module's formula.
    """

    start: int
    stop: int
    to_start: int
    to_stop: int
    scale: float


class Plan(NamedTuple):
    """All blocks, and the number of rows of x and of y. Rows of y without a block are zero, as are slopes of x."""

    blocks: tuple[Block, ...]
    rows: int
    to_rows: int


def mix(
    x: Float[Tensor, "nodes rows in"], weights: list[Tensor], plan: Plan, groups: SpeciesGroups | None = None
) -> Float[Tensor, "nodes to_rows out"]:
    """The linear map.

    Args:
        x: Features; a block of R rows that becomes r rows is read as r vectors of R / r times ``in`` numbers.
        weights: For each block its matrix, or with ``groups`` one for each species, ``(species, depth, out)``.
        plan: The blocks.
        groups: The species of the nodes.
    """
    return _Forth.apply(plan, groups, x, *weights)


class _Forth(Function):
    @staticmethod
    def forward(ctx: Any, plan: Plan, groups: SpeciesGroups | None, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.plan, ctx.groups = plan, groups
        ctx.save_for_backward(x, *weights)
        x, spans = _sorted(x, groups)
        y = _room(x, plan.to_rows, weights[0].shape[-1], [(b.to_start, b.to_stop) for b in plan.blocks])
        for block, weight in zip(plan.blocks, weights):
            for z, first, last in spans:
                matrix = _matrix(x[first:last, block.start : block.stop], weight.shape[-2])
                part = y[first:last, block.to_start : block.to_stop]
                torch.mul((matrix @ _of(weight, z)).view(part.shape), block.scale, out=part)
        return _unsorted(y, groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (g,), (x, *weights) = grads, ctx.saved_tensors
        dx = _Back.apply(ctx.plan, ctx.groups, x.shape[2], g, *weights) if ctx.needs_input_grad[2] else None
        return None, None, dx, *_slopes_of_weights(ctx, ctx.needs_input_grad[3:], x, g, weights)


class _Back(Function):
    @staticmethod
    def forward(
        ctx: Any, plan: Plan, groups: SpeciesGroups | None, channels: int, g: Tensor, *weights: Tensor
    ) -> Tensor:
        ctx.plan, ctx.groups, ctx.channels = plan, groups, channels
        ctx.save_for_backward(g, *weights)
        g, spans = _sorted(g, groups)
        dx = _room(g, plan.rows, channels, [(b.start, b.stop) for b in plan.blocks])
        for block, weight in zip(plan.blocks, weights):
            for z, first, last in spans:
                matrix = _matrix(g[first:last, block.to_start : block.to_stop], weight.shape[-1])
                part = dx[first:last, block.start : block.stop]
                torch.mul((matrix @ _of(weight, z).T).view(part.shape), block.scale, out=part)
        return _unsorted(dx, groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (a,), (g, *weights) = grads, ctx.saved_tensors
        dg = _Forth.apply(ctx.plan, ctx.groups, a, *weights) if ctx.needs_input_grad[3] else None
        return None, None, None, dg, *_slopes_of_weights(ctx, ctx.needs_input_grad[4:], a, g, weights)


class _Outer(Function):
    @staticmethod
    def forward(
        ctx: Any, plan: Plan, groups: SpeciesGroups | None, shapes: list[torch.Size], x: Tensor, g: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.plan, ctx.groups, ctx.channels = plan, groups, x.shape[2]
        ctx.save_for_backward(x, g)
        (x, spans), (g, _) = _sorted(x, groups), _sorted(g, groups)
        slopes = []
        for block, shape in zip(plan.blocks, shapes):
            slope = x.new_zeros(shape) if groups is not None else x.new_empty(shape)
            for z, first, last in spans:
                left = _matrix(x[first:last, block.start : block.stop], shape[-2])
                right = _matrix(g[first:last, block.to_start : block.to_stop], shape[-1])
                torch.mm(left.T, right, out=slope if z is None else slope[z])
            slopes.append(slope.mul_(block.scale))
        return tuple(slopes)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, g = ctx.saved_tensors
        dx = _Back.apply(ctx.plan, ctx.groups, ctx.channels, g, *grads) if ctx.needs_input_grad[3] else None
        dg = _Forth.apply(ctx.plan, ctx.groups, x, *grads) if ctx.needs_input_grad[4] else None
        return None, None, None, dx, dg


def _slopes_of_weights(
    ctx: Any, needed: tuple[bool, ...], x: Tensor, g: Tensor, weights: list[Tensor]
) -> tuple[Tensor | None, ...]:
    if not any(needed) or not wanted("weights"):
        return (None,) * len(weights)
    return _Outer.apply(ctx.plan, ctx.groups, [weight.shape for weight in weights], x, g)


def _matrix(part: Tensor, columns: int) -> Tensor:
    return part.reshape(part.numel() // columns, columns)


def _of(weight: Tensor, species: int | None) -> Tensor:
    return weight if species is None else weight[species]


def _sorted(x: Tensor, groups: SpeciesGroups | None) -> tuple[Tensor, list[tuple[int | None, int, int]]]:
    """Nodes by species, and which species is where: (species, first, last)."""
    if groups is None:
        return x, [(None, 0, x.shape[0])]
    return x.index_select(0, groups.order), groups.spans


def _unsorted(x: Tensor, groups: SpeciesGroups | None) -> Tensor:
    return x if groups is None else x.index_select(0, groups.back)


def _room(like: Tensor, rows: int, channels: int, spans: list[tuple[int, int]]) -> Tensor:
    """Memory for a result; zeros if the blocks do not fill it."""
    full = sum(stop - start for start, stop in spans) == rows
    return (like.new_empty if full else like.new_zeros)(like.shape[0], rows, channels)

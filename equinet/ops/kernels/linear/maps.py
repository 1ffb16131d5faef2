r"""One linear map for every block of rows, as a single differentiable operation.

.. math:: y^{l} = s_l \, x^{l} \, W^{l}

Rows of x that belong together are read as a matrix, multiplied, and written to their rows of y. Written with torch's slices and
concatenations this is one operation too, but each derivative of a slice is a tensor of zeros as large as the whole.

The map is linear in x and in the weights, so its derivatives are of two kinds, which are each other's derivatives: the map there or
back, and the gradients of the weights, an outer product. The formulas are those of :mod:`.operator`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from equinet.ops.codegen import llvm
from equinet.ops.passes import is_needed
from equinet.ops.precision import chosen, matmul_precision
from equinet.ops.species import SpeciesGroups
from equinet.ops.tracing import is_traced

from . import cpu
from .operator import gradients_of_outer, gradients_of_product, traced_mix
from .plan import Block, Plan, gradients_in_torch, maps_of, nodes_of, product_in_torch

__all__ = ["Block", "Frozen", "Plan", "gradients", "gradients_in_torch", "mix", "product", "product_in_torch"]


class Matrices(NamedTuple):
    """Weights of a plan as machine code reads them: one after the other, what they multiply, and what every node has then."""

    flat: Tensor
    maps: cpu.Maps
    shape: tuple[int, int]


class Frozen:
    """Matrices of weights that need no gradients, there and back, for as long as they do not change (except through ``.data``)."""

    def __init__(self) -> None:
        self._weights: list[Tensor] = []  # held, so that no other tensor can come to lie at their addresses
        self._key: list[tuple[int, int, torch.dtype]] = []
        self._pair: tuple[Matrices, Matrices] | None = None

    def of(self, weights: list[Tensor], plan: Plan, channels: int) -> tuple[Matrices, Matrices]:
        """From features of ``channels`` and back to them."""
        key = [(weight.data_ptr(), weight._version, weight.dtype) for weight in weights]
        if self._pair is None or key != self._key:
            turned = [weight.transpose(-1, -2) for weight in weights]
            columns = weights[0].shape[-1]
            self._pair = (
                _matrices(weights, plan, channels, columns),
                _matrices(turned, plan.reversed, columns, channels),
            )
            self._weights, self._key = [weight.detach() for weight in weights], key
        return self._pair


def mix(
    x: Float[Tensor, "nodes rows in"],
    weights: list[Tensor],
    plan: Plan,
    groups: SpeciesGroups | None = None,
    frozen: Frozen | None = None,
) -> Float[Tensor, "nodes to_rows out"]:
    """The linear map.

    Args:
        x: Features; a block of R rows that becomes r rows is read as r vectors of R / r times ``in`` numbers.
        weights: For each block its matrix, or with ``groups`` one for each species, ``(species, depth, out)``.
        plan: The blocks.
        groups: The species of the nodes.
        frozen: Cache of the matrices while the weights need no gradients.

    Raises:
        IndexError: If a node has a species without weights.
        ValueError: If shapes or precisions do not fit together.
    """
    if is_traced(x):
        return traced_mix(x, weights, plan, groups)
    if groups is not None:
        groups.require_weights_for(weights[0].shape[0])
    moving = any(weight.requires_grad for weight in weights) or torch.is_inference_mode_enabled()
    if frozen is not None and not moving and _runs_on(x):
        return _Fixed.apply(x, *frozen.of(weights, plan, x.shape[2]), groups)
    return _Product.apply(plan, groups, False, weights[0].shape[-1], x, *weights)


class _Fixed(Function):
    """The map with weights that need no gradients; its derivative is the map back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Matrices, back: Matrices, groups: SpeciesGroups | None) -> Tensor:
        ctx.known = there, back, groups
        return cpu.mix(x, there.flat, nodes_of(x, groups), there.maps, there.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        there, back, groups = ctx.known
        return _Fixed.apply(grads[0], back, there, groups), None, None, None


class _Product(Function):
    """The map there, or with ``back`` from rows of y to rows of x."""

    @staticmethod
    def forward(
        ctx: Any, plan: Plan, groups: SpeciesGroups | None, back: bool, channels: int, x: Tensor, *weights: Tensor
    ) -> Tensor:
        # A GPU differentiates in another thread than that of the choice of precision.
        ctx.known, ctx.back, ctx.precision = (plan, groups), back, chosen()
        ctx.save_for_backward(x, *weights)
        if back:
            return product(x, [weight.transpose(-1, -2) for weight in weights], plan.reversed, groups, channels)
        return product(x, list(weights), plan, groups, channels)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (g,), (x, *weights) = grads, ctx.saved_tensors
        shapes = [weight.shape for weight in weights]
        needs = is_needed(ctx, 0), is_needed(ctx, *range(1, 1 + len(weights)))
        with matmul_precision(ctx.precision):
            dx, dw = gradients_of_product(
                lambda x, back, channels: _Product.apply(*ctx.known, back, channels, x, *weights),
                lambda x, g: _Outer.apply(*ctx.known, shapes, x, g),
                x,
                g,
                ctx.back,
                needs,
            )
        return None, None, None, None, dx, *(dw or [None] * len(weights))


class _Outer(Function):
    """Gradients of the weights."""

    @staticmethod
    def forward(
        ctx: Any, plan: Plan, groups: SpeciesGroups | None, shapes: list[torch.Size], x: Tensor, g: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.known, ctx.precision = (plan, groups), chosen()
        ctx.save_for_backward(x, g)
        return gradients(x, g, shapes, plan, groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, g = ctx.saved_tensors
        needs = is_needed(ctx, 0), is_needed(ctx, 1)
        with matmul_precision(ctx.precision):
            dx, dg = gradients_of_outer(
                lambda x, back, channels: _Product.apply(*ctx.known, back, channels, x, *grads), x, g, needs
            )
        return None, None, None, dx, dg


def _runs_on(x: Tensor) -> bool:
    """True if machine code can be called on ``x``, which must have storage and IEEE arithmetic."""
    return llvm.runs_on(x) and type(x) in (Tensor, torch.nn.Parameter) and chosen() == "ieee"


def product(x: Tensor, weights: list[Tensor], plan: Plan, groups: SpeciesGroups | None, channels: int) -> Tensor:
    """:func:`mix` to rows of ``channels`` without derivatives: in machine code where that can be, else in torch."""
    if not _runs_on(x):
        return product_in_torch(x, weights, plan, groups, channels)
    matrices = _matrices(weights, plan, x.shape[2], channels)
    return cpu.mix(x, matrices.flat, nodes_of(x, groups), matrices.maps, matrices.shape)


def _matrices(weights: list[Tensor], plan: Plan, channels: int, to_channels: int) -> Matrices:
    maps = maps_of(plan, tuple(weight.shape for weight in weights), channels, to_channels)
    return Matrices(torch.cat([weight.reshape(-1) for weight in weights]), maps, (plan.to_rows, to_channels))


def gradients(
    x: Tensor, g: Tensor, shapes: list[torch.Size], plan: Plan, groups: SpeciesGroups | None
) -> tuple[Tensor, ...]:
    """Gradients of all weights for the gradients ``g`` of the result, likewise."""
    if not _runs_on(x):
        return gradients_in_torch(x, g, shapes, plan, groups)
    sizes = [shape.numel() for shape in shapes]
    maps = maps_of(plan, tuple(shapes), x.shape[2], g.shape[2])
    flat = cpu.mix_gradients(x, g, nodes_of(x, groups), maps, sum(sizes))
    return tuple(part.view(shape) for part, shape in zip(flat.split(sizes), shapes))

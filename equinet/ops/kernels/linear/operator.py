"""The linear maps of :mod:`.maps` as torch operators, for graphs that torch writes down and compiles.

The map is linear in x and in the weights, so its derivatives are of two kinds (:func:`gradients_of_product`, :func:`gradients_of_outer`):
the map there or back, and the gradients of the weights. What runs at once does the same with two autograd functions in :mod:`.maps`:
operators of torch would take it twice as long, 0.36 ms instead of 0.21 ms for one small map and its gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from equinet.ops.codegen import llvm
from equinet.ops.codegen.operators import Operator, is_needed, register_family
from equinet.ops.precision import chosen
from equinet.ops.species import SpeciesGroups

from . import cpu
from .plan import Block, Plan, gradients_in_torch, maps_of, product_in_torch


def gradients_of_product(
    product: Callable[..., Any], outer: Callable[..., Any], x: Tensor, g: Tensor, back: bool, needs: tuple[bool, bool]
) -> tuple[Any, Any]:
    """Derivatives of the map, there or back: the other map of g, and the gradients of the weights.

    Args:
        product: ``(features, back, channels)`` to the map of features with the same weights, to rows of ``channels``.
        outer: ``(x, y)`` to the gradients of the weights, x on the side that the map starts from.
        x: Features that were mapped.
        g: Gradients of the result.
        back: True if they were mapped back.
        needs: True if gradients in x and in the weights are needed; the others are None.
    """
    dx = product(g, not back, x.shape[2]) if needs[0] else None
    return dx, outer(*((g, x) if back else (x, g))) if needs[1] else None


def gradients_of_outer(
    product: Callable[..., Any], x: Tensor, g: Tensor, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Derivatives, in x and g, of the gradients of the weights: the two maps with the cotangents for weights.

    Args:
        product: Product as in :func:`gradients_of_product`, with the cotangents as weights.
        x, g: Features, and gradients of the result.
        needs: True if gradients in x and in g are needed; the others are None.
    """
    return product(g, True, x.shape[2]) if needs[0] else None, product(x, False, g.shape[2]) if needs[1] else None


def traced_mix(x: Tensor, weights: list[Tensor], plan: Plan, groups: SpeciesGroups | None) -> Tensor:
    """:func:`equinet.ops.kernels.linear.maps.mix` as an operator.

    Raises:
        ValueError: If coarse products are chosen (:mod:`equinet.ops.precision`): what is written down multiplies float32.
    """
    if chosen() != "ieee":
        raise ValueError(f'`matmul` "{chosen()}" is not for what is compiled; take "ieee", or do without compiling')
    flat = torch.cat([weight.reshape(-1) for weight in weights])
    order, spans = (None, None) if groups is None else (groups.order, groups.nodes.spans)
    found: Tensor = product(x, flat, order, spans, *numbers_of(plan), False, weights[0].shape[-1])
    return found


def numbers_of(plan: Plan) -> tuple[list[int], list[float], int, int]:
    """A plan as the arguments ``blocks, scales, rows, to_rows`` of the operators."""
    blocks = [number for block in plan.blocks for number in block[:4]]
    return blocks, [block.scale for block in plan.blocks], plan.rows, plan.to_rows


def _plan(blocks: list[int], scales: list[float], rows: int, to_rows: int) -> Plan:
    each = zip(blocks[::4], blocks[1::4], blocks[2::4], blocks[3::4], scales)
    return Plan(tuple(Block(*numbers) for numbers in each), rows, to_rows)


def _shapes(plan: Plan, channels: tuple[int, int], numbers: int, grouped: bool) -> list[torch.Size]:
    """Shapes of the weights of all blocks, which are ``numbers`` numbers together."""
    matrices = plan.matrices(*channels)
    species = numbers // sum(depth * columns for depth, columns in matrices)
    return [torch.Size((species, *shape) if grouped else shape) for shape in matrices]


def _groups(order: Tensor | None, spans: Tensor | None) -> SpeciesGroups | None:
    return None if order is None or spans is None else SpeciesGroups.to_trace(order, order, spans)


def _nodes(x: Tensor, groups: SpeciesGroups | None) -> cpu.Nodes:
    return cpu.all_alike(x.shape[0]) if groups is None else groups.nodes


def _product(x: Tensor, w: Tensor, order: Tensor | None, spans: Tensor | None, *rest: Any) -> Tensor:
    *numbers, back, channels = rest
    plan, groups = _plan(*numbers), _groups(order, spans)
    there = (channels, x.shape[2]) if back else (x.shape[2], channels)
    shapes = _shapes(plan, there, w.numel(), groups is not None)
    weights = [part.view(shape) for part, shape in zip(w.split([shape.numel() for shape in shapes]), shapes)]
    if back:
        plan, weights = plan.reversed, [weight.transpose(-1, -2) for weight in weights]
    if not llvm.runs_on(x):
        return product_in_torch(x, weights, plan, groups, channels)
    if back:
        w = torch.cat([weight.reshape(-1) for weight in weights])
    maps = maps_of(plan, tuple(weight.shape for weight in weights), x.shape[2], channels)
    return cpu.mix(x, w, _nodes(x, groups), maps, (plan.to_rows, channels))


def _outer(x: Tensor, g: Tensor, order: Tensor | None, spans: Tensor | None, *rest: Any) -> Tensor:
    *numbers, count = rest
    plan, groups = _plan(*numbers), _groups(order, spans)
    shapes = _shapes(plan, (x.shape[2], g.shape[2]), count, groups is not None)
    if not llvm.runs_on(x):
        found = gradients_in_torch(x, g, shapes, plan, groups)
        return torch.cat([gradient.reshape(-1) for gradient in found])
    maps = maps_of(plan, tuple(shapes), x.shape[2], g.shape[2])
    return cpu.mix_gradients(x, g, _nodes(x, groups), maps, count)


def _like_product(x: Tensor, w: Tensor, *rest: Any) -> Tensor:
    rows, to_rows, back, channels = rest[-4:]
    return x.new_empty(x.shape[0], rows if back else to_rows, channels)


def _like_outer(x: Tensor, g: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(rest[-1])


def _there_or_back(w: Tensor, plan: tuple[Any, ...]) -> Callable[..., Tensor]:
    return lambda features, back, channels: product(features, w, *plan, back, channels)


def _differentiate_product(ctx: Any, cotangents: Sequence[Tensor], x: Tensor, w: Tensor, *rest: Any) -> Any:
    plan, back, (g,) = rest[:-2], rest[-2], cotangents
    gradients = partial(_gradients_of_weights, plan, w.numel())
    needs = is_needed(ctx, 0), is_needed(ctx, 1)
    return gradients_of_product(_there_or_back(w, plan), gradients, x, g, back, needs)


def _gradients_of_weights(plan: Any, count: int, x: Tensor, g: Tensor) -> Tensor:
    found: Tensor = outer(x, g, *plan, count)
    return found


def _differentiate_outer(ctx: Any, cotangents: Sequence[Tensor], x: Tensor, g: Tensor, *rest: Any) -> Any:
    needs, (changes,) = (is_needed(ctx, 0), is_needed(ctx, 1)), cotangents
    return gradients_of_outer(_there_or_back(changes, rest[:-1]), x, g, needs)


# Nodes in the order of species and the spans of species (None: all are alike), and the plan.
PLAN = "Tensor? order, Tensor? spans, int[] blocks, float[] scales, int rows, int to_rows"
product, outer = register_family(
    "linear",
    product=Operator(
        f"(Tensor x, Tensor w, {PLAN}, bool back, int channels) -> Tensor",
        _product,
        _like_product,
        _differentiate_product,
    ),
    outer=Operator(f"(Tensor x, Tensor g, {PLAN}, int numbers) -> Tensor", _outer, _like_outer, _differentiate_outer),
)

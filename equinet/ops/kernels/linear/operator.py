"""The linear maps of :mod:`.blocks` as torch operators, for graphs that torch writes down and compiles.

What runs at once goes through :mod:`.blocks`, which costs less per call. The two operators are closed under differentiation: the
gradients of ``mix`` are ``mix`` back and ``mix_gradients``, those of ``mix_gradients``, which is linear in x and in g, are ``mix`` both ways.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, library

from equinet.ops.codegen import llvm
from equinet.ops.precision import chosen
from equinet.ops.species import SpeciesGroups

from . import cpu
from .plan import Block, Plan, gradients_in_torch, maps_of, product_in_torch

# Nodes in the order of species and the spans of species (None: all are alike), and the plan.
PLAN = "Tensor? order, Tensor? spans, int[] blocks, float[] scales, int rows, int to_rows"
library.define("equinet::mix", f"(Tensor x, Tensor w, {PLAN}, int to_channels) -> Tensor")
library.define("equinet::mix_gradients", f"(Tensor x, Tensor g, {PLAN}, int numbers) -> Tensor")
mix, mix_gradients = torch.ops.equinet.mix.default, torch.ops.equinet.mix_gradients.default


def recorded_mix(x: Tensor, weights: list[Tensor], plan: Plan, groups: SpeciesGroups | None) -> Tensor:
    """:func:`equinet.ops.kernels.linear.maps.mix` as an operator.

    Raises:
        ValueError: If coarse products are chosen (:mod:`equinet.ops.precision`): what is written down multiplies float32.
    """
    if chosen() != "ieee":
        raise ValueError(f'`matmul` "{chosen()}" is not for what is compiled; take "ieee", or do without compiling')
    flat = torch.cat([weight.reshape(-1) for weight in weights])
    order, spans = (None, None) if groups is None else (groups.order, groups.nodes.spans)
    return mix(x, flat, order, spans, *_numbers(plan), weights[0].shape[-1])


def _numbers(plan: Plan) -> tuple[list[int], list[float], int, int]:
    blocks = [number for block in plan.blocks for number in block[:4]]
    return blocks, [block.scale for block in plan.blocks], plan.rows, plan.to_rows


def _plan(blocks: list[int], scales: list[float], rows: int, to_rows: int) -> Plan:
    each = zip(blocks[::4], blocks[1::4], blocks[2::4], blocks[3::4], scales)
    return Plan(tuple(Block(*numbers) for numbers in each), rows, to_rows)


def _shapes(plan: Plan, channels: int, to_channels: int, numbers: int, grouped: bool) -> list[torch.Size]:
    """Of the weights of all blocks, which are ``numbers`` numbers together."""
    matrices = plan.matrices(channels, to_channels)
    species = numbers // sum(depth * columns for depth, columns in matrices)
    return [torch.Size((species, *shape) if grouped else shape) for shape in matrices]


def _apart(flat: Tensor, shapes: list[torch.Size]) -> list[Tensor]:
    return [part.view(shape) for part, shape in zip(flat.split([shape.numel() for shape in shapes]), shapes)]


def _groups(x: Tensor, order: Tensor | None, spans: Tensor | None) -> SpeciesGroups | None:
    return None if order is None or spans is None else SpeciesGroups.to_trace(order, order, spans)


def _run_mix(x: Tensor, w: Tensor, order: Tensor | None, spans: Tensor | None, *numbers: Any) -> Tensor:
    plan, to_channels = _plan(*numbers[:4]), numbers[4]
    shapes = _shapes(plan, x.shape[2], to_channels, w.numel(), order is not None)
    groups = _groups(x, order, spans)
    if not llvm.runs_on(x):
        return product_in_torch(x, _apart(w, shapes), plan, groups, to_channels)
    maps = maps_of(plan, tuple(shapes), x.shape[2], to_channels)
    nodes = cpu.all_alike(x.shape[0]) if groups is None else groups.nodes
    return cpu.mix(x, w, nodes, maps, (plan.to_rows, to_channels))


def _run_gradients(x: Tensor, g: Tensor, order: Tensor | None, spans: Tensor | None, *numbers: Any) -> Tensor:
    plan, count = _plan(*numbers[:4]), numbers[4]
    shapes = _shapes(plan, x.shape[2], g.shape[2], count, order is not None)
    groups = _groups(x, order, spans)
    if not llvm.runs_on(x):
        found = gradients_in_torch(x, g, shapes, plan, groups)
        return torch.cat([gradient.reshape(-1) for gradient in found])
    maps = maps_of(plan, tuple(shapes), x.shape[2], g.shape[2])
    nodes = cpu.all_alike(x.shape[0]) if groups is None else groups.nodes
    return cpu.mix_gradients(x, g, nodes, maps, count)


for _device in ("CPU", "CUDA"):
    library.impl("equinet::mix", _device)(_run_mix)
    library.impl("equinet::mix_gradients", _device)(_run_gradients)


@library.register_fake("equinet::mix")
def _(
    x: Tensor, w: Tensor, order: Any, spans: Any, blocks: Any, scales: Any, rows: int, to_rows: int, to_channels: int
) -> Tensor:
    return x.new_empty(x.shape[0], to_rows, to_channels)


@library.register_fake("equinet::mix_gradients")
def _(
    x: Tensor, g: Tensor, order: Any, spans: Any, blocks: Any, scales: Any, rows: int, to_rows: int, numbers: int
) -> Tensor:
    return x.new_empty(numbers)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, other, order, spans, *numbers, ctx.last = inputs
    ctx.save_for_backward(x, other, *([] if order is None else [order, spans]))
    ctx.plan = _plan(*numbers)


def _saved(ctx: Any) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    x, other, *nodes = ctx.saved_tensors
    order, spans = nodes or (None, None)
    return x, other, order, spans


def _turned(flat: Tensor, shapes: list[torch.Size]) -> Tensor:
    return torch.cat([weight.transpose(-1, -2).reshape(-1) for weight in _apart(flat, shapes)])


def _differentiate_mix(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    x, w, order, spans = _saved(ctx)
    plan, dx, dw = ctx.plan, None, None
    if ctx.needs_input_grad[0]:
        shapes = _shapes(plan, x.shape[2], g.shape[2], w.numel(), order is not None)
        dx = mix(g, _turned(w, shapes), order, spans, *_numbers(plan.reversed), x.shape[2])
    if ctx.needs_input_grad[1]:
        dw = mix_gradients(x, g, order, spans, *_numbers(plan), w.numel())
    return dx, dw, *[None] * 7


def _differentiate_gradients(ctx: Any, c: Tensor) -> tuple[Any, ...]:
    x, g, order, spans = _saved(ctx)
    plan = ctx.plan
    shapes = _shapes(plan, x.shape[2], g.shape[2], c.numel(), order is not None)
    dx = mix(g, _turned(c, shapes), order, spans, *_numbers(plan.reversed), x.shape[2])
    return dx, mix(x, c.contiguous(), order, spans, *_numbers(plan), g.shape[2]), *[None] * 7


library.register_autograd("equinet::mix", _differentiate_mix, setup_context=_save)
library.register_autograd("equinet::mix_gradients", _differentiate_gradients, setup_context=_save)

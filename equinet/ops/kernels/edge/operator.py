"""The edge convolution as torch operators: machine code on a CPU, generated kernels on a GPU, closed under differentiation.

Four operators, one for each function of :mod:`edge_loops`. The product is linear in features x, harmonics y and weights w, so the
derivative of each is one or more of the four:

* gradients of ``forward`` in (x, y, w) are ``backward``;
* gradients of ``backward`` for cotangents (a, b, c): in g ``jvp``, in (x, y, w) ``double_backward``;
* gradients of ``jvp``: in (a, b, c) ``backward``, in (x, y, w) ``double_backward``;
* gradients of ``double_backward`` for cotangents u: in (a, b, c) ``double_backward`` along u. In (x, y, w) they are the second difference
  B(u + v) - B(u) - B(v) of ``backward`` B at v = (a, b, c), exact because B is quadratic; in g likewise that of ``jvp``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, library

from equinet.ops.codegen import tiles
from equinet.ops.codegen.llvm import compile_function
from equinet.ops.codegen.threads import require, run_in_parts
from equinet.ops.passes import wanted

from . import gpu
from .couplings import Couplings, couplings_of
from .cpu import EdgeLoops

Tensors = tuple[Tensor, ...]

# What every operator knows of the edges (see :class:`equinet.ops.edges.Edges`), and of the product.
EDGES = "Tensor index, Tensor pointers, Tensor senders, Tensor codes, bool mirrored, str product"
# Which gradients of inputs are wanted beside those of the weights; the others are empty.
WANTED = "bool features, bool harmonics"
library.define("equinet::edge_forward", f"(Tensor x, Tensor y, Tensor w, {EDGES}) -> Tensor")
library.define("equinet::edge_jvp", f"(Tensor x, Tensor y, Tensor w, Tensor a, Tensor b, Tensor c, {EDGES}) -> Tensor")
library.define(
    "equinet::edge_backward",
    f"(Tensor g, Tensor x, Tensor y, Tensor w, {EDGES}, {WANTED}) -> (Tensor, Tensor, Tensor)",
)
library.define(
    "equinet::edge_double_backward",
    f"(Tensor g, Tensor x, Tensor y, Tensor w, Tensor a, Tensor b, Tensor c, {EDGES}, {WANTED}) -> (Tensor, Tensor, Tensor)",
)
forward, jvp = torch.ops.equinet.edge_forward.default, torch.ops.equinet.edge_jvp.default
backward, double_backward = torch.ops.equinet.edge_backward.default, torch.ops.equinet.edge_double_backward.default


@cache
def code_for(
    function: str, product: str, dtype: torch.dtype, mirrored: bool, features: bool = True, harmonics: bool = True
) -> Any:
    """Machine code of one of the four functions."""
    loops = EdgeLoops(couplings_of(product), dtype, mirrored)
    if function in ("forward", "jvp"):
        return compile_function(loops.forward(jvp=function == "jvp"))
    return compile_function(
        loops.backward(double_backward=function == "double_backward", features=features, harmonics=harmonics)
    )


def _check(inputs: Tensors, changes: Tensors, index: Tensor, pointers: Tensor | None, c: Couplings) -> None:
    """Features, harmonics and weights fit each other, and their changes them."""
    x, y, w = inputs
    nodes, rows = x.shape[0], index.shape[1]
    require(
        (x.shape, y.shape, w.shape) == ((nodes, c.dim, c.channels), (rows, c.harmonics), (rows, c.weights, c.channels))
        and (pointers is None or len(pointers) == nodes + 1)
        and all(change.shape == each.shape for change, each in zip(changes, inputs)),
        *inputs,
        *changes,
    )


def _sum_on_nodes(function: str, inputs: Tensors, edges: Tensors, mirrored: bool, product: str) -> Tensor:
    index, pointers, senders, codes = edges
    x, c = inputs[0], couplings_of(product)
    _check(inputs[:3], inputs[3:], index, pointers, c)
    inputs = tuple(each.contiguous() for each in inputs)
    pointers, senders, codes = pointers.contiguous(), senders.contiguous(), codes.contiguous()
    if tiles.runs_on(x):
        return gpu.sum_on_nodes(function, inputs, pointers, senders, codes, mirrored, product)
    out = x.new_empty(x.shape[0], c.rows, c.channels)
    run_in_parts(code_for(function, product, x.dtype, mirrored), x.shape[0], [pointers, senders, codes, *inputs, out])
    return out


def _gradients(
    function: str, inputs: Tensors, edges: Tensors, mirrored: bool, product: str, features: bool, harmonics: bool
) -> Tensors:
    index, pointers, _, codes = edges
    g, x, y, w = inputs[:4]
    c = couplings_of(product)
    _check((x, y, w), inputs[4:], index, None, c)
    require(g.shape == (x.shape[0], c.rows, c.channels), g, x)
    inputs = tuple(each.contiguous() for each in inputs)
    found: tuple[Tensor | None, ...]
    if tiles.runs_on(x):
        found = gpu.gradients(
            function, inputs, index.contiguous(), pointers, codes, mirrored, product, features, harmonics
        )
    else:
        found = _gradients_in_machine_code(function, inputs, index.contiguous(), mirrored, product, features, harmonics)
    dx, dy, dw = (x.new_empty(0) if each is None else each for each in found)
    return dx, dy, dw


def _gradients_in_machine_code(
    function: str, inputs: Tensors, index: Tensor, mirrored: bool, product: str, features: bool, harmonics: bool
) -> tuple[Tensor | None, ...]:
    _, x, y, w = inputs[:4]
    dx = torch.zeros_like(x) if features else None
    dy = torch.empty_like(y) if harmonics else None
    dw = torch.empty_like(w)
    arrays = [*index, *inputs]
    results = [each for each in (dx, dy, dw) if each is not None]
    code = code_for(function, product, x.dtype, mirrored, features, harmonics)
    run_in_parts(code, index.shape[1], [*arrays, *results], added_to=len(arrays) if features else None)
    return dx, dy, dw


DEVICES = ("CPU", "CUDA")


@library.impl("equinet::edge_forward", DEVICES)
def _(x: Tensor, y: Tensor, w: Tensor, *rest: Any) -> Tensor:
    return _sum_on_nodes("forward", (x, y, w), rest[:4], *rest[4:])


@library.impl("equinet::edge_jvp", DEVICES)
def _(x: Tensor, y: Tensor, w: Tensor, a: Tensor, b: Tensor, c: Tensor, *rest: Any) -> Tensor:
    return _sum_on_nodes("jvp", (x, y, w, a, b, c), rest[:4], *rest[4:])


@library.impl("equinet::edge_backward", DEVICES)
def _(g: Tensor, x: Tensor, y: Tensor, w: Tensor, *rest: Any) -> Tensors:
    return _gradients("backward", (g, x, y, w), rest[:4], *rest[4:])


@library.impl("equinet::edge_double_backward", DEVICES)
def _(g: Tensor, x: Tensor, y: Tensor, w: Tensor, a: Tensor, b: Tensor, c: Tensor, *rest: Any) -> Tensors:
    return _gradients("double_backward", (g, x, y, w, a, b, c), rest[:4], *rest[4:])


@library.register_fake("equinet::edge_forward")
def _(x: Tensor, y: Tensor, w: Tensor, *rest: Any) -> Tensor:
    c = couplings_of(rest[5])
    return x.new_empty(x.shape[0], c.rows, c.channels)


@library.register_fake("equinet::edge_jvp")
def _(x: Tensor, y: Tensor, w: Tensor, a: Tensor, b: Tensor, c: Tensor, *rest: Any) -> Tensor:
    couplings = couplings_of(rest[5])
    return x.new_empty(x.shape[0], couplings.rows, couplings.channels)


def _like_inputs(x: Tensor, y: Tensor, w: Tensor, features: bool, harmonics: bool) -> Tensors:
    return x.new_empty(x.shape if features else 0), y.new_empty(y.shape if harmonics else 0), w.new_empty(w.shape)


@library.register_fake("equinet::edge_backward")
def _(g: Tensor, x: Tensor, y: Tensor, w: Tensor, *rest: Any) -> Tensors:
    return _like_inputs(x, y, w, *rest[6:])


@library.register_fake("equinet::edge_double_backward")
def _(g: Tensor, x: Tensor, y: Tensor, w: Tensor, a: Tensor, b: Tensor, c: Tensor, *rest: Any) -> Tensors:
    return _like_inputs(x, y, w, *rest[6:])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Keep the numbers apart from what says what to do with them: the six arguments of ``EDGES``, and those of ``WANTED``."""
    numbers = [each for each in inputs if isinstance(each, Tensor)]
    ctx.save_for_backward(*numbers)
    ctx.rest = inputs[len(numbers) :]  # mirrored, product, and for gradients which are wanted


def _saved(ctx: Any) -> tuple[Tensors, tuple[Any, ...]]:
    """The differentiable inputs, and the arguments of ``EDGES``."""
    numbers = ctx.saved_tensors
    return numbers[:-4], (*numbers[-4:], *ctx.rest[:2])


def _gradients_wanted(
    function: Any, inputs: Tensors, edges: tuple[Any, ...], features: bool
) -> tuple[Tensor | None, ...]:
    """Gradients in (x, y, w) by ``backward`` or ``double_backward``; None for x and y if nobody is going to ask for them."""
    harmonics = wanted("positions")
    dx, dy, dw = function(*inputs, *edges, features, harmonics)
    return dx if features else None, dy if harmonics else None, dw


def _differentiate_forward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    inputs, edges = _saved(ctx)
    return *_gradients_wanted(backward, (g, *inputs), edges, ctx.needs_input_grad[0]), *[None] * 6


def _differentiate_jvp(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    inputs, edges = _saved(ctx)
    needs = ctx.needs_input_grad
    of_inputs = _gradients_wanted(double_backward, (g, *inputs), edges, needs[0])
    return *of_inputs, *_gradients_wanted(backward, (g, *inputs[:3]), edges, needs[3]), *[None] * 6


def _cotangents(ctx: Any, inputs: Sequence[Tensor], cotangents: Tensors) -> Tensors:
    """Cotangents of (dx, dy, dw), zero for what was not wanted."""
    a, b, c = cotangents
    features, harmonics = ctx.rest[2:]
    return a if features else torch.zeros_like(inputs[0]), b if harmonics else torch.zeros_like(inputs[1]), c


def _differentiate_backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
    (g, *inputs), edges = _saved(ctx)
    changes = _cotangents(ctx, inputs, cotangents)
    of_inputs = _gradients_wanted(double_backward, (g, *inputs, *changes), edges, ctx.needs_input_grad[1])
    return jvp(*inputs, *changes, *edges), *of_inputs, *[None] * 8


def _differentiate_double_backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
    (g, *inputs), edges = _saved(ctx)
    z, v = inputs[:3], inputs[3:]
    u = _cotangents(ctx, z, cotangents)
    both, ahead = [p + q for p, q in zip(u, v)], [p + q for p, q in zip(z, u)]
    dg = jvp(*ahead, *v, *edges) - jvp(*z, *v, *edges) - jvp(*u, *v, *edges)
    parts = [backward(g, *at, *edges, True, True) for at in (both, u, v)]
    dz = [ours - first - second for ours, first, second in zip(*parts)]
    return dg, *dz, *double_backward(g, *z, *u, *edges, True, True), *[None] * 8


library.register_autograd("equinet::edge_forward", _differentiate_forward, setup_context=_save)
library.register_autograd("equinet::edge_jvp", _differentiate_jvp, setup_context=_save)
library.register_autograd("equinet::edge_backward", _differentiate_backward, setup_context=_save)
library.register_autograd("equinet::edge_double_backward", _differentiate_double_backward, setup_context=_save)

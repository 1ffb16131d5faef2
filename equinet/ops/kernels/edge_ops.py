"""The edge convolution as torch operators in machine code, closed under differentiation.

Four operators, one for each function of :mod:`edge_loops`. The product is linear in features x, harmonics y and weights w, so the
derivative of each is one or more of the four:

* slopes of ``forward`` in (x, y, w) are ``backward``;
* slopes of ``backward`` for cotangents (a, b, c): in g ``tangent``, in (x, y, w) ``bend``;
* slopes of ``tangent``: in (a, b, c) ``backward``, in (x, y, w) ``bend``;
* slopes of ``bend`` for cotangents u: in (a, b, c) ``bend`` along u. In (x, y, w) they are the second difference
  B(u + v) - B(u) - B(v) of ``backward`` B at v = (a, b, c), exact because B is quadratic; in g likewise that of ``tangent``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, library

from ..passes import wanted
from ..spec import TensorProductSpec
from .edge_loops import Couplings, EdgeLoops
from .llvm import compile_function
from .team import require, run_in_parts

Tensors = tuple[Tensor, ...]

# What every operator knows of the edges (see :class:`equinet.ops.edges.Edges`), and of the product.
EDGES = "Tensor index, Tensor pointers, Tensor senders, Tensor codes, bool mirrored, str product"
library.define("equinet::edge_forward", f"(Tensor x, Tensor y, Tensor w, {EDGES}) -> Tensor")
library.define(
    "equinet::edge_tangent", f"(Tensor x, Tensor y, Tensor w, Tensor a, Tensor b, Tensor c, {EDGES}) -> Tensor"
)
library.define(
    "equinet::edge_backward",
    f"(Tensor g, Tensor x, Tensor y, Tensor w, {EDGES}, bool harmonics) -> (Tensor, Tensor, Tensor)",
)
library.define(
    "equinet::edge_bend",
    f"(Tensor g, Tensor x, Tensor y, Tensor w, Tensor a, Tensor b, Tensor c, {EDGES}, bool harmonics) -> (Tensor, Tensor, Tensor)",
)
forward, tangent = torch.ops.equinet.edge_forward.default, torch.ops.equinet.edge_tangent.default
backward, bend = torch.ops.equinet.edge_backward.default, torch.ops.equinet.edge_bend.default


def name_of(spec: TensorProductSpec) -> str:
    """A spec as the argument ``product`` of the operators."""
    return " x ".join(map(str, (spec.irreps_in1, spec.irreps_in2, spec.outputs)))


@cache
def couplings_of(product: str) -> Couplings:
    return Couplings(TensorProductSpec(*product.split(" x ")))


@cache
def code_for(function: str, product: str, dtype: torch.dtype, mirrored: bool, harmonics: bool = True) -> Any:
    """Machine code of one of the four functions."""
    loops = EdgeLoops(couplings_of(product), dtype, mirrored)
    if function in ("forward", "tangent"):
        return compile_function(loops.forward(tangent=function == "tangent"))
    return compile_function(loops.backward(bend=function == "bend", harmonics=harmonics))


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
    out = x.new_empty(x.shape[0], c.rows, c.channels)
    arrays = [each.contiguous() for each in (pointers, senders, codes, *inputs)]
    run_in_parts(code_for(function, product, x.dtype, mirrored), x.shape[0], [*arrays, out])
    return out


def _slopes(function: str, inputs: Tensors, index: Tensor, mirrored: bool, product: str, harmonics: bool) -> Tensors:
    g, x, y, w = inputs[:4]
    c = couplings_of(product)
    _check((x, y, w), inputs[4:], index, None, c)
    require(g.shape == (x.shape[0], c.rows, c.channels), g, x)
    code = code_for(function, product, x.dtype, mirrored, harmonics)
    dy, dw = (
        torch.empty_like(y) if harmonics else y.new_empty(0),
        torch.empty_like(w, memory_format=torch.contiguous_format),
    )
    dx = torch.zeros_like(x, memory_format=torch.contiguous_format)
    arrays = [each.contiguous() for each in (*index, *inputs)]
    results = [dy.contiguous(), dw] if harmonics else [dw]
    run_in_parts(code, index.shape[1], [*arrays, dx, *results], added_to=len(arrays))
    return dx, (results[0] if harmonics else dy), dw


@library.impl("equinet::edge_forward", "CPU")
def _(
    x: Tensor,
    y: Tensor,
    w: Tensor,
    index: Tensor,
    pointers: Tensor,
    senders: Tensor,
    codes: Tensor,
    mirrored: bool,
    product: str,
) -> Tensor:
    return _sum_on_nodes("forward", (x, y, w), (index, pointers, senders, codes), mirrored, product)


@library.impl("equinet::edge_tangent", "CPU")
def _(x: Tensor, y: Tensor, w: Tensor, a: Tensor, b: Tensor, c: Tensor, *rest: Any) -> Tensor:
    return _sum_on_nodes("tangent", (x, y, w, a, b, c), rest[:4], *rest[4:])


@library.impl("equinet::edge_backward", "CPU")
def _(g: Tensor, x: Tensor, y: Tensor, w: Tensor, index: Tensor, *rest: Any) -> Tensors:
    return _slopes("backward", (g, x, y, w), index, *rest[3:])


@library.impl("equinet::edge_bend", "CPU")
def _(
    g: Tensor, x: Tensor, y: Tensor, w: Tensor, a: Tensor, b: Tensor, c: Tensor, index: Tensor, *rest: Any
) -> Tensors:
    return _slopes("bend", (g, x, y, w, a, b, c), index, *rest[3:])


@library.register_fake("equinet::edge_forward")
def _(x: Tensor, y: Tensor, w: Tensor, *rest: Any) -> Tensor:
    c = couplings_of(rest[5])
    return x.new_empty(x.shape[0], c.rows, c.channels)


@library.register_fake("equinet::edge_tangent")
def _(x: Tensor, y: Tensor, w: Tensor, a: Tensor, b: Tensor, c: Tensor, *rest: Any) -> Tensor:
    couplings = couplings_of(rest[5])
    return x.new_empty(x.shape[0], couplings.rows, couplings.channels)


def _like_inputs(x: Tensor, y: Tensor, w: Tensor, harmonics: bool) -> Tensors:
    return x.new_empty(x.shape), y.new_empty(y.shape if harmonics else 0), w.new_empty(w.shape)


@library.register_fake("equinet::edge_backward")
def _(g: Tensor, x: Tensor, y: Tensor, w: Tensor, *rest: Any) -> Tensors:
    return _like_inputs(x, y, w, rest[6])


@library.register_fake("equinet::edge_bend")
def _(g: Tensor, x: Tensor, y: Tensor, w: Tensor, a: Tensor, b: Tensor, c: Tensor, *rest: Any) -> Tensors:
    return _like_inputs(x, y, w, rest[6])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Keep the numbers apart from what says what to do with them: the six arguments of ``EDGES``, and ``harmonics``."""
    numbers = [each for each in inputs if isinstance(each, Tensor)]
    ctx.save_for_backward(*numbers)
    ctx.rest = inputs[len(numbers) :]  # mirrored, product, and for slopes harmonics


def _saved(ctx: Any) -> tuple[Tensors, tuple[Any, ...]]:
    """The differentiable inputs, and the arguments of ``EDGES``."""
    numbers = ctx.saved_tensors
    return numbers[:-4], (*numbers[-4:], *ctx.rest[:2])


def _slopes_wanted(function: Any, inputs: Tensors, edges: tuple[Any, ...]) -> tuple[Tensor | None, ...]:
    """Slopes in (x, y, w) by ``backward`` or ``bend``; None for y if nobody is going to ask for it."""
    harmonics = wanted("positions")
    dx, dy, dw = function(*inputs, *edges, harmonics)
    return dx, dy if harmonics else None, dw


def _differentiate_forward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    inputs, edges = _saved(ctx)
    return *_slopes_wanted(backward, (g, *inputs), edges), *[None] * 6


def _differentiate_tangent(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    inputs, edges = _saved(ctx)
    return *_slopes_wanted(bend, (g, *inputs), edges), *_slopes_wanted(backward, (g, *inputs[:3]), edges), *[None] * 6


def _differentiate_backward(ctx: Any, a: Tensor, b: Tensor, c: Tensor) -> tuple[Any, ...]:
    (g, *inputs), edges = _saved(ctx)
    b = b if ctx.rest[2] else torch.zeros_like(inputs[1])
    return tangent(*inputs, a, b, c, *edges), *_slopes_wanted(bend, (g, *inputs, a, b, c), edges), *[None] * 7


def _differentiate_bend(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
    (g, *inputs), edges = _saved(ctx)
    z, v, u = inputs[:3], inputs[3:], list(cotangents)
    if not ctx.rest[2]:
        u[1] = torch.zeros_like(z[1])
    both, ahead = [p + q for p, q in zip(u, v)], [p + q for p, q in zip(z, u)]
    dg = tangent(*ahead, *v, *edges) - tangent(*z, *v, *edges) - tangent(*u, *v, *edges)
    parts = [backward(g, *at, *edges, True) for at in (both, u, v)]
    dz = [ours - first - second for ours, first, second in zip(*parts)]
    return dg, *dz, *bend(g, *z, *u, *edges, True), *[None] * 7


library.register_autograd("equinet::edge_forward", _differentiate_forward, setup_context=_save)
library.register_autograd("equinet::edge_tangent", _differentiate_tangent, setup_context=_save)
library.register_autograd("equinet::edge_backward", _differentiate_backward, setup_context=_save)
library.register_autograd("equinet::edge_bend", _differentiate_bend, setup_context=_save)

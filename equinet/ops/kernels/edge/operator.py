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

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from equinet.ops.codegen import tiles
from equinet.ops.codegen.llvm import compile_function
from equinet.ops.codegen.once import once
from equinet.ops.codegen.operators import Operator, filled, register_family
from equinet.ops.codegen.threads import require, run_in_parts
from equinet.ops.passes import is_needed
from equinet.ops.progress import LONG

from . import gpu
from .couplings import Couplings, couplings_of
from .cpu import EdgeLoops, seconds_to_generate

logger = logging.getLogger("equinet")

Tensors = tuple[Tensor, ...]

# Arguments of every operator behind its inputs: the edges (see :class:`equinet.ops.edges.Edges`), and the product.
EDGES = "Tensor index, Tensor pointers, Tensor senders, Tensor codes, bool mirrored, str product"
# Which gradients of inputs are computed beside those of the weights; the others are left out (:func:`.operators.filled`).
NEEDED = "bool features, bool harmonics"


@once
def announce(product: str) -> None:
    """Say that a product's code takes long to make, before it is made; once for each product."""
    seconds = seconds_to_generate(couplings_of(product))
    if seconds > LONG:
        what = f"the convolution {product}" if " x " in product else "a convolution by its coupling tensor"
        logger.info(
            'making machine code for %s takes about %.0f s in all, once in a process; `backend="torch"` of the tensor product needs none',
            what,
            seconds,
        )


@once
def code_for(
    function: str, product: str, dtype: torch.dtype, mirrored: bool, features: bool = True, harmonics: bool = True
) -> Any:
    """Machine code of one of the four functions."""
    loops = EdgeLoops(couplings_of(product), dtype, mirrored)
    if function in ("forward", "jvp"):
        code = loops.forward(jvp=function == "jvp")
    else:
        code = loops.backward(double_backward=function == "double_backward", features=features, harmonics=harmonics)
    return compile_function(code, partial(announce, product))


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


def _sum_on_nodes(function: str, *arguments: Any) -> Tensor:
    """Kernel of ``forward`` and ``jvp``."""
    inputs, (index, pointers, senders, codes, mirrored, product) = arguments[:-6], arguments[-6:]
    x, c = inputs[0], couplings_of(product)
    _check(inputs[:3], inputs[3:], index, pointers, c)
    inputs = tuple(each.contiguous() for each in inputs)
    pointers, senders, codes = pointers.contiguous(), senders.contiguous(), codes.contiguous()
    if tiles.runs_on(x):
        return gpu.sum_on_nodes(function, inputs, pointers, senders, codes, mirrored, product)
    out = _like_sums(*arguments)
    run_in_parts(code_for(function, product, x.dtype, mirrored), x.shape[0], [pointers, senders, codes, *inputs, out])
    return out


def _like_sums(*arguments: Any) -> Tensor:
    x, c = arguments[0], couplings_of(arguments[-1])
    return x.new_empty(x.shape[0], c.rows, c.channels)


def _gradients(function: str, *arguments: Any) -> Tensors:
    """Kernel of ``backward`` and ``double_backward``."""
    inputs, (index, pointers, _, codes, mirrored, product, features, harmonics) = arguments[:-8], arguments[-8:]
    g, x, y, w = inputs[:4]
    c = couplings_of(product)
    _check((x, y, w), inputs[4:], index, None, c)
    require(g.shape == (x.shape[0], c.rows, c.channels), g, x)
    inputs, index = tuple(each.contiguous() for each in inputs), index.contiguous()
    found: tuple[Tensor | None, ...]
    if tiles.runs_on(x):
        found = gpu.gradients(function, inputs, index, pointers, codes, mirrored, product, features, harmonics)
    else:
        found = _gradients_in_machine_code(function, inputs, index, mirrored, product, features, harmonics)
    dx, dy, dw = (x.new_empty(0) if each is None else each for each in found)
    return dx, dy, dw


def _like_inputs(g: Tensor, x: Tensor, y: Tensor, w: Tensor, *rest: Any) -> Tensors:
    features, harmonics = rest[-2:]
    return x.new_empty(x.shape if features else 0), y.new_empty(y.shape if harmonics else 0), w.new_empty(w.shape)


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


def _gradients_needed(ctx: Any, first: int, function: Any, inputs: Sequence[Tensor], edges: Tensors) -> Any:
    """Gradients in (x, y, w), inputs ``first`` and following, by ``backward`` or ``double_backward``."""
    features, harmonics = is_needed(ctx, first), is_needed(ctx, first + 1)
    dx, dy, dw = function(*inputs, *edges, features, harmonics)
    return dx if features else None, dy if harmonics else None, dw


def _differentiate_forward(ctx: Any, cotangents: Tensors, *arguments: Any) -> Any:
    inputs, edges = arguments[:3], arguments[3:]
    return _gradients_needed(ctx, 0, backward, (*cotangents, *inputs), edges)


def _differentiate_jvp(ctx: Any, cotangents: Tensors, *arguments: Any) -> Any:
    inputs, edges = arguments[:6], arguments[6:]
    of_inputs = _gradients_needed(ctx, 0, double_backward, (*cotangents, *inputs), edges)
    return *of_inputs, *_gradients_needed(ctx, 3, backward, (*cotangents, *inputs[:3]), edges)


def _differentiate_backward(ctx: Any, cotangents: Tensors, g: Tensor, *arguments: Any) -> Any:
    inputs, edges = arguments[:3], arguments[3:-2]
    changes = filled(cotangents, inputs)
    of_inputs = _gradients_needed(ctx, 1, double_backward, (g, *inputs, *changes), edges)
    return jvp(*inputs, *changes, *edges), *of_inputs


def _differentiate_double_backward(ctx: Any, cotangents: Tensors, g: Tensor, *arguments: Any) -> Any:
    z, v, edges = arguments[:3], arguments[3:6], arguments[6:-2]
    u = filled(cotangents, z)
    both, ahead = [p + q for p, q in zip(u, v)], [p + q for p, q in zip(z, u)]
    dg = jvp(*ahead, *v, *edges) - jvp(*z, *v, *edges) - jvp(*u, *v, *edges)
    parts = [backward(g, *at, *edges, True, True) for at in (both, u, v)]
    dz = [ours - first - second for ours, first, second in zip(*parts)]
    return dg, *dz, *double_backward(g, *z, *u, *edges, True, True)


forward, jvp, backward, double_backward = register_family(
    "edge",
    forward=Operator(
        f"(Tensor x, Tensor y, Tensor w, {EDGES}) -> Tensor",
        partial(_sum_on_nodes, "forward"),
        _like_sums,
        _differentiate_forward,
    ),
    jvp=Operator(
        f"(Tensor x, Tensor y, Tensor w, Tensor a, Tensor b, Tensor c, {EDGES}) -> Tensor",
        partial(_sum_on_nodes, "jvp"),
        _like_sums,
        _differentiate_jvp,
    ),
    backward=Operator(
        f"(Tensor g, Tensor x, Tensor y, Tensor w, {EDGES}, {NEEDED}) -> (Tensor, Tensor, Tensor)",
        partial(_gradients, "backward"),
        _like_inputs,
        _differentiate_backward,
    ),
    double_backward=Operator(
        f"(Tensor g, Tensor x, Tensor y, Tensor w, Tensor a, Tensor b, Tensor c, {EDGES}, {NEEDED}) -> (Tensor, Tensor, Tensor)",
        partial(_gradients, "double_backward"),
        _like_inputs,
        _differentiate_double_backward,
    ),
)

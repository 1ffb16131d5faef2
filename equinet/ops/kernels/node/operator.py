"""The many-body product as torch operators: machine code on a CPU, generated kernels on a GPU.

Four operators, one for each function of :mod:`node_loops`. The gradients of ``value`` are ``gradient`` and ``weight_gradient``, those of
``gradient`` are ``double_backward``, and those of ``weight_gradient``, which is linear in K's place, are ``value`` and ``gradient`` again. ``double_backward`` is
differentiated, which no training needs, through the same sums in torch.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, library

from equinet.ops.codegen import tiles
from equinet.ops.codegen.llvm import compile_function
from equinet.ops.codegen.threads import require, run_in_parts
from equinet.ops.passes import wanted
from equinet.ops.spec import ManyBodySpec

from . import gpu
from .cpu import NodeLoops, Polynomials

Tensors = tuple[Tensor, ...]

# For which devices every operator has the same form, which asks what runs there.
DEVICES = ("CPU", "CUDA")

# The nodes sorted by species, the species of each node, and the product.
NODES = "Tensor order, Tensor species, str product"
library.define("equinet::node_value", f"(Tensor x, Tensor K, {NODES}) -> Tensor")
library.define("equinet::node_gradient", f"(Tensor g, Tensor x, Tensor K, {NODES}) -> Tensor")
library.define("equinet::node_weight_gradient", f"(Tensor g, Tensor x, Tensor K, {NODES}) -> Tensor")
library.define(
    "equinet::node_double_backward", f"(Tensor a, Tensor g, Tensor x, Tensor K, {NODES}) -> (Tensor, Tensor, Tensor)"
)
value, gradient = torch.ops.equinet.node_value.default, torch.ops.equinet.node_gradient.default
weight_gradient, double_backward = (
    torch.ops.equinet.node_weight_gradient.default,
    torch.ops.equinet.node_double_backward.default,
)


def name_of(spec: ManyBodySpec) -> str:
    """The exact couplings of a spec as the argument ``product`` of the operators."""
    return f"{spec.irreps_in} ^ {spec.correlation} -> {spec.irreps_out}"


_remembered: dict[str, Polynomials] = {}


def remember(polynomials: Polynomials) -> str:
    """Any polynomials as the argument ``product`` of the operators."""
    name = polynomials.name
    _remembered.setdefault(name, polynomials)
    return name


@cache
def polynomials_of(product: str) -> Polynomials:
    """What a name stands for."""
    if product in _remembered:
        return _remembered[product]
    irreps_in, rest = product.split(" ^ ")
    correlation, irreps_out = rest.split(" -> ")
    return Polynomials.of_paths(ManyBodySpec(irreps_in, irreps_out, int(correlation), 1))


@cache
def code_for(function: str, product: str, dtype: torch.dtype) -> tuple[Any, int]:
    """Machine code of one of the four functions, and the number of blocks of channels."""
    loops = NodeLoops(polynomials_of(product), dtype)
    return compile_function(getattr(loops, function)()), loops.blocks


def _run(function: str, inputs: Tensors, nodes: Tensors, product: str, results: Tensors) -> None:
    p, (order, species) = polynomials_of(product), nodes
    shapes = {"x": (p.variables, p.channels), "a": (p.variables, p.channels), "g": (p.outputs, p.channels)}
    shapes["K"] = (len(p.terms), p.channels)
    names = {"value": "xK", "gradient": "gxK", "weight_gradient": "gx", "double_backward": "agxK"}[function]
    fits = all(each.shape[1:] == shapes[name] for name, each in zip(names, inputs))
    require(fits and all(len(each) == len(order) for name, each in zip(names, inputs) if name != "K"), *inputs)
    inputs, order, species = tuple(each.contiguous() for each in inputs), order.contiguous(), species.contiguous()
    if tiles.runs_on(inputs[0]):
        gpu.run(function, inputs, order, species, p, results)
    else:
        _run_machine_code(function, inputs, order, species, product, results)


def _run_machine_code(
    function: str, inputs: Tensors, order: Tensor, species: Tensor, product: str, results: Tensors
) -> None:
    code, blocks = code_for(function, product, inputs[0].dtype)
    p, count = polynomials_of(product), torch.tensor([len(order)])
    arrays = [p.monomials, p.table, order, species, count, *inputs, *results]
    if function in ("value", "gradient"):
        run_in_parts(code, len(order), arrays)
    else:  # all nodes add to the gradients of K
        results[-1].zero_()
        run_in_parts(code, blocks, arrays, smallest=1)


@library.impl("equinet::node_value", DEVICES)
def _(x: Tensor, K: Tensor, order: Tensor, species: Tensor, product: str) -> Tensor:
    out = x.new_empty(x.shape[0], polynomials_of(product).outputs, x.shape[2])
    _run("value", (x, K), (order, species), product, (out,))
    return out


@library.impl("equinet::node_gradient", DEVICES)
def _(g: Tensor, x: Tensor, K: Tensor, order: Tensor, species: Tensor, product: str) -> Tensor:
    dx = x.new_empty(x.shape)
    _run("gradient", (g, x, K), (order, species), product, (dx,))
    return dx


@library.impl("equinet::node_weight_gradient", DEVICES)
def _(g: Tensor, x: Tensor, K: Tensor, order: Tensor, species: Tensor, product: str) -> Tensor:
    dK = K.new_empty(K.shape)
    _run("weight_gradient", (g, x), (order, species), product, (dK,))
    return dK


@library.impl("equinet::node_double_backward", DEVICES)
def _(a: Tensor, g: Tensor, x: Tensor, K: Tensor, order: Tensor, species: Tensor, product: str) -> Tensors:
    dg, dx, dK = g.new_empty(g.shape), x.new_empty(x.shape), K.new_empty(K.shape)
    _run("double_backward", (a, g, x, K), (order, species), product, (dg, dx, dK))
    return dg, dx, dK


@library.register_fake("equinet::node_value")
def _(x: Tensor, K: Tensor, order: Tensor, species: Tensor, product: str) -> Tensor:
    return x.new_empty(x.shape[0], polynomials_of(product).outputs, x.shape[2])


@library.register_fake("equinet::node_gradient")
def _(g: Tensor, x: Tensor, K: Tensor, order: Tensor, species: Tensor, product: str) -> Tensor:
    return x.new_empty(x.shape)


@library.register_fake("equinet::node_weight_gradient")
def _(g: Tensor, x: Tensor, K: Tensor, order: Tensor, species: Tensor, product: str) -> Tensor:
    return K.new_empty(K.shape)


@library.register_fake("equinet::node_double_backward")
def _(a: Tensor, g: Tensor, x: Tensor, K: Tensor, order: Tensor, species: Tensor, product: str) -> Tensors:
    return g.new_empty(g.shape), x.new_empty(x.shape), K.new_empty(K.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *numbers, ctx.product = inputs
    ctx.save_for_backward(*numbers)


def _differentiate_value(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    *inputs, order, species = ctx.saved_tensors
    rest = (order, species, ctx.product)
    dK = weight_gradient(g, *inputs, *rest) if wanted("weights") and ctx.needs_input_grad[1] else None
    return gradient(g, *inputs, *rest), dK, None, None, None


def _differentiate_gradient(ctx: Any, a: Tensor) -> tuple[Any, ...]:
    return *double_backward(a, *ctx.saved_tensors, ctx.product), None, None, None


def _differentiate_weight_gradient(ctx: Any, c: Tensor) -> tuple[Any, ...]:
    g, x, _, *nodes = ctx.saved_tensors
    return value(x, c, *nodes, ctx.product), gradient(g, x, c, *nodes, ctx.product), None, None, None, None


def _differentiate_double_backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
    *numbers, _, species = ctx.saved_tensors
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        a, g, x, K = (
            each.view_as(each) if again and each.requires_grad else each.detach().requires_grad_() for each in numbers
        )
        (first,) = torch.autograd.grad((value_in_torch(x, K, species, ctx.product) * g).sum(), x, create_graph=True)
        second = torch.autograd.grad((first * a).sum(), (g, x, K), create_graph=True)
        total = torch.stack([(each * cotangent).sum() for each, cotangent in zip(second, cotangents)]).sum()
        gradients = torch.autograd.grad(total, (a, g, x, K), create_graph=again, materialize_grads=True)
    return *gradients, None, None, None


def value_in_torch(x: Tensor, K: Tensor, species: Tensor, product: str) -> Tensor:
    """What ``value`` computes, by torch, term by term."""
    p = polynomials_of(product)
    powers = [torch.ones_like(x[:, 0]), *x.unbind(1)]
    for first, last in p.monomials.tolist():
        powers.append(powers[first] * powers[last])
    k, m, l = torch.tensor(p.terms.tolist(), device=x.device).unbind(1)
    terms = K[species] * torch.stack(powers, dim=1)[:, m] * x[:, l]
    return x.new_zeros(x.shape[0], p.outputs, x.shape[2]).index_add(1, k, terms)


library.register_autograd("equinet::node_value", _differentiate_value, setup_context=_save)
library.register_autograd("equinet::node_gradient", _differentiate_gradient, setup_context=_save)
library.register_autograd("equinet::node_weight_gradient", _differentiate_weight_gradient, setup_context=_save)
library.register_autograd("equinet::node_double_backward", _differentiate_double_backward, setup_context=_save)

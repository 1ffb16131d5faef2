"""The many-body product as torch operators: machine code on a CPU, generated kernels on a GPU.

Four operators, one for each function of :mod:`node_loops`. The gradients of ``value`` are ``gradient`` and ``weight_gradient``, those of
``gradient`` are ``double_backward``, and those of ``weight_gradient``, which is linear in K's place, are ``value`` and ``gradient`` again. ``double_backward`` is
differentiated, which no training needs, through the same sums in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from equinet.ops.codegen import tiles
from equinet.ops.codegen.llvm import compile_function
from equinet.ops.codegen.once import once
from equinet.ops.codegen.operators import Operator, register_family, through_torch
from equinet.ops.codegen.threads import require, run_in_parts
from equinet.ops.devices import made_on_cpu
from equinet.ops.passes import is_needed
from equinet.ops.spec import ManyBodySpec

from . import gpu
from .cpu import NodeLoops, Polynomials

Tensors = tuple[Tensor, ...]

# Arguments of every operator behind its inputs: the nodes sorted by species, the species of each node, and the product.
NODES = "Tensor order, Tensor species, str product"


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
@made_on_cpu
def polynomials_of(product: str) -> Polynomials:
    """Polynomials by the name that operators take."""
    if product in _remembered:
        return _remembered[product]
    irreps_in, rest = product.split(" ^ ")
    correlation, irreps_out = rest.split(" -> ")
    return Polynomials.of_paths(ManyBodySpec(irreps_in, irreps_out, int(correlation), 1))


@once
def code_for(function: str, product: str, dtype: torch.dtype) -> tuple[Any, int]:
    """Machine code of one of the four functions, and the number of blocks of channels."""
    loops = NodeLoops(polynomials_of(product), dtype)
    return compile_function(getattr(loops, function)()), loops.blocks


def _run(function: str, fake: Callable[..., Any], *arguments: Any) -> Any:
    """Kernel of an operator: fill in what ``fake`` makes."""
    *inputs, order, species, product = arguments
    p = polynomials_of(product)
    shapes = {"x": (p.variables, p.channels), "a": (p.variables, p.channels), "g": (p.outputs, p.channels)}
    shapes["K"] = (len(p.terms), p.channels)
    names = {"value": "xK", "gradient": "gxK", "weight_gradient": "gx", "double_backward": "agxK"}[function]
    inputs = inputs[: len(names)]
    fits = all(each.shape[1:] == shapes[name] for name, each in zip(names, inputs))
    require(fits and all(len(each) == len(order) for name, each in zip(names, inputs) if name != "K"), *inputs)
    found = fake(*arguments)
    results = (found,) if isinstance(found, Tensor) else found
    whole, order, species = tuple(each.contiguous() for each in inputs), order.contiguous(), species.contiguous()
    if tiles.runs_on(inputs[0]):
        gpu.run(function, whole, order, species, p, results)
    else:
        _run_machine_code(function, whole, order, species, product, results)
    return found


def _run_machine_code(
    function: str, inputs: Tensors, order: Tensor, species: Tensor, product: str, results: Tensors
) -> None:
    code, blocks = code_for(function, product, inputs[0].dtype)
    p, count = polynomials_of(product), torch.tensor([len(order)], device="cpu")
    arrays = [p.monomials, p.table, order, species, count, *inputs, *results]
    if function in ("value", "gradient"):
        run_in_parts(code, len(order), arrays)
    else:  # all nodes add to the gradients of K
        results[-1].zero_()
        run_in_parts(code, blocks, arrays, smallest=1)


def _like_value(x: Tensor, K: Tensor, order: Tensor, species: Tensor, product: str) -> Tensor:
    return x.new_empty(x.shape[0], polynomials_of(product).outputs, x.shape[2])


def _like_features(g: Tensor, x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(x.shape)


def _like_weights(g: Tensor, x: Tensor, K: Tensor, *rest: Any) -> Tensor:
    return K.new_empty(K.shape)


def _like_inputs(a: Tensor, g: Tensor, x: Tensor, K: Tensor, *rest: Any) -> Tensors:
    return g.new_empty(g.shape), x.new_empty(x.shape), K.new_empty(K.shape)


def _differentiate_value(ctx: Any, cotangents: Tensors, *arguments: Any) -> Any:
    dK = weight_gradient(*cotangents, *arguments) if is_needed(ctx, 1) else None
    return gradient(*cotangents, *arguments), dK


def _differentiate_gradient(ctx: Any, cotangents: Tensors, *arguments: Any) -> Any:
    return double_backward(*cotangents, *arguments)


def _differentiate_weight_gradient(ctx: Any, cotangents: Tensors, g: Tensor, x: Tensor, K: Tensor, *nodes: Any) -> Any:
    return value(x, *cotangents, *nodes), gradient(g, x, *cotangents, *nodes), None


def value_in_torch(x: Tensor, K: Tensor, species: Tensor, product: str) -> Tensor:
    """Reference form of ``value`` in torch, term by term."""
    p = polynomials_of(product)
    powers = [torch.ones_like(x[:, 0]), *x.unbind(1)]
    for first, last in p.monomials.tolist():
        powers.append(powers[first] * powers[last])
    k, m, l = torch.tensor(p.terms.tolist(), device=x.device).unbind(1)
    terms = K[species] * torch.stack(powers, dim=1)[:, m] * x[:, l]
    return x.new_zeros(x.shape[0], p.outputs, x.shape[2]).index_add(1, k, terms)


value, gradient, weight_gradient, double_backward = register_family(
    "node",
    value=Operator(
        f"(Tensor x, Tensor K, {NODES}) -> Tensor",
        partial(_run, "value", _like_value),
        _like_value,
        _differentiate_value,
    ),
    gradient=Operator(
        f"(Tensor g, Tensor x, Tensor K, {NODES}) -> Tensor",
        partial(_run, "gradient", _like_features),
        _like_features,
        _differentiate_gradient,
    ),
    weight_gradient=Operator(
        f"(Tensor g, Tensor x, Tensor K, {NODES}) -> Tensor",
        partial(_run, "weight_gradient", _like_weights),
        _like_weights,
        _differentiate_weight_gradient,
    ),
    double_backward=Operator(
        f"(Tensor a, Tensor g, Tensor x, Tensor K, {NODES}) -> (Tensor, Tensor, Tensor)",
        partial(_run, "double_backward", _like_inputs),
        _like_inputs,
        through_torch(lambda x, K, order, *rest: value_in_torch(x, K, *rest), changes=1, operands=2),
    ),
)

r"""Functions of the few numbers of a row as torch operators, for the processor and for GPUs: one sweep where torch makes dozens.

Rows are those of an array ``(rows, width)``; of a function of one number each number is a row, whatever the shape of the array. A
function goes by a name that operators of torch can hold: its family and, after a blank, what the family needs to know.

There are three operators: the gradients of ``value`` are ``gradient`` and those of ``gradient`` are ``double_backward``, which is
differentiated, as no training needs it, through the same steps in torch. They are registered for every number of results that
occurs, as lists of tensors, which would do for all, take torch twice as long.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equinet.ops.codegen import llvm, scalars, tiles
from equinet.ops.codegen.once import once
from equinet.ops.codegen.operators import Operator, one_or_all, register_family, tensors, through_torch
from equinet.ops.codegen.threads import require
from equinet.ops.devices import made_on_cpu
from equinet.ops.passes import is_needed
from equinet.ops.tracing import is_traced

from . import code
from .code import RowFunction

Tensors = tuple[Tensor, ...]

# Below so many numbers torch's own SiLU on a processor, three times differentiated, takes less time than calling operators of ours.
WORTHWHILE = 100_000

_families: dict[str, Callable[[str], RowFunction]] = {}


def family(name: str) -> Callable[[Callable[[str], RowFunction]], Callable[[str], RowFunction]]:
    """Make known what makes the functions whose names begin with ``name``, of what comes after it."""

    def remember(make: Callable[[str], RowFunction]) -> Callable[[str], RowFunction]:
        _families[name] = make
        return make

    return remember


@cache
@made_on_cpu
def function_of(name: str) -> RowFunction:
    """Row function by the name that operators take."""
    first, _, rest = name.partition(" ")
    return _families[first](rest)


def rows_run_on(x: Tensor) -> bool:
    """True if there is generated code for such tensors; not while torch traces, whose compiler fuses the formula itself."""
    return not is_traced(x) and (llvm.runs_on(x) or tiles.runs_on(x))


def row_value(x: Tensor, name: str) -> Tensors:
    """The results of a function, differentiable any number of times.

    Args:
        x: ``(rows, width)``.
        name: Name of the function.
    """
    found = operators(len(function_of(name).widths)).value(x, name)
    return (found,) if isinstance(found, Tensor) else found


@family("silu")
def _silu(_: str) -> RowFunction:
    return RowFunction(1, (1,), lambda x: [x[0] * scalars.sigmoid(x[0])])


def silu(z: Tensor) -> Tensor:
    """SiLU of every number, z / (1 + exp(-z)); torch's own where this has nothing to offer."""
    if not rows_run_on(z) or (z.device.type == "cpu" and z.numel() < WORTHWHILE):
        return torch.nn.functional.silu(z)
    return row_value(z, "silu")[0]


class Operators(NamedTuple):
    """Operators of functions with a given number of results; see the module."""

    value: Any
    gradient: Any
    double_backward: Any


@once
def operators(results: int) -> Operators:
    """Those of functions with ``results`` results.

    * ``value(x, function)``: the results.
    * ``gradient(*g, x, function)``: the gradient in x of the sum of results times g.
    * ``double_backward(a, *g, x, function, inputs)``: the gradients in every g of a times that and, if ``inputs``, in x; else the last is empty.
    """
    g = ", ".join(f"Tensor g{n}" for n in range(results))
    family = register_family(
        f"row{results}",
        value=Operator(f"(Tensor x, str function) -> {tensors(results)}", _value, _like_value, _differentiate_value),
        gradient=Operator(
            f"({g}, Tensor x, str function) -> Tensor", _gradient, _like_gradient, _differentiate_gradient
        ),
        double_backward=Operator(
            f"(Tensor a, {g}, Tensor x, str function, bool inputs) -> {tensors(results + 1)}",
            _double_backward,
            _like_double_backward,
            through_torch(_formula, changes=1, operands=1),
        ),
    )
    return Operators(*family)


def _shapes(x: Tensor, name: str) -> list[torch.Size]:
    """Shapes of the results."""
    f = function_of(name)
    return [x.shape] if f.of_one else [torch.Size((x.shape[0], width)) for width in f.widths]


def _like_results(x: Tensor, name: str) -> Tensors:
    return tuple(x.new_empty(shape) for shape in _shapes(x, name))


def _run(what: str, name: str, x: Tensor, changes: Tensors, g: Tensors, results: Tensors) -> None:
    f = function_of(name)
    fits = all(each.shape == x.shape for each in changes) and (f.of_one or x.shape[1:] == (f.width,))
    fits = fits and (not g or [each.shape for each in g] == _shapes(x, name))
    require(fits, *changes, *g, x)
    inputs = [each.contiguous() for each in (*changes, *g, x)]
    code.run(f, what, x.numel() // f.width, inputs, results, on_tiles=tiles.runs_on(x))


def _value(x: Tensor, function: str) -> Any:
    results = _like_results(x, function)
    _run("value", function, x, (), (), results)
    return one_or_all(results)


def _like_value(x: Tensor, function: str) -> Any:
    return one_or_all(_like_results(x, function))


def _gradient(*arguments: Any) -> Tensor:
    *g, x, function = arguments
    dx = x.new_empty(x.shape)
    _run("gradient", function, x, (), tuple(g), (dx,))
    return dx


def _like_gradient(*arguments: Any) -> Tensor:
    x: Tensor = arguments[-2]
    return x.new_empty(x.shape)


def _double_backward(*arguments: Any) -> Tensors:
    a, *g, x, function, inputs = arguments
    found = _like_double_backward(*arguments)
    what = "double_backward" if inputs else "double_backward_outputs"
    _run(what, function, x, (a,), tuple(g), found if inputs else found[:-1])
    return found


def _like_double_backward(*arguments: Any) -> Tensors:
    *_, x, function, inputs = arguments
    return *_like_results(x, function), x.new_empty(x.shape if inputs else 0)


def _formula(x: Tensor, function: str, inputs: bool) -> Any:
    return code.in_torch(function_of(function), x)


def _differentiate_value(ctx: Any, g: Tensors, *arguments: Any) -> Any:
    return (operators(len(g)).gradient(*g, *arguments),)


def _differentiate_gradient(ctx: Any, cotangents: Tensors, *arguments: Any) -> Any:
    results = len(arguments) - 2
    inputs = is_needed(ctx, results)
    *dg, dx = operators(results).double_backward(*cotangents, *arguments, inputs)
    return *dg, dx if inputs else None

r"""SiLU and its derivatives in one sweep each, where torch takes a dozen.

.. math:: s(z) = z \sigma(z), \qquad s' = \sigma (1 + z (1 - \sigma)), \qquad s'' = \sigma (1 - \sigma) (2 + z (1 - 2 \sigma))
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, library

from .llvm import VECTOR_BYTES, Function, compile_function, runs_on
from .team import run_in_parts

# Below so many numbers torch's dozen sweeps take less time than calling an operator of ours.
WORTHWHILE = 8192

library.define("equinet::silu", "(Tensor z) -> Tensor")
library.define("equinet::silu_slope", "(Tensor g, Tensor z) -> Tensor")
library.define("equinet::silu_bend", "(Tensor a, Tensor g, Tensor z) -> (Tensor, Tensor)")
value, slope = torch.ops.equinet.silu.default, torch.ops.equinet.silu_slope.default
bend = torch.ops.equinet.silu_bend.default


def silu(z: Tensor) -> Tensor:
    """SiLU of every number; torch's own where this has nothing to offer, as to a compiler that can fuse it."""
    if torch.compiler.is_compiling() or z.numel() < WORTHWHILE or not runs_on(z):
        return torch.nn.functional.silu(z)
    return value(z)


def _write(name: str, dtype: torch.dtype, lanes: int) -> Function:
    """``value``: s(z); ``slope``: g s'(z); ``bend``: a s'(z) and a g s''(z)."""
    results = {"silu": ("out",), "silu_slope": ("out",), "silu_bend": ("dg", "dz")}[name]
    inputs = {"silu": ("z",), "silu_slope": ("g", "z"), "silu_bend": ("a", "g", "z")}[name]
    f = Function(name, (*inputs, *results), dtype, lanes)
    one = f.splat(f.constant(1.0))
    with f.loop(f.begin, f.end) as block:
        n = f.at((block, lanes))
        z = f.load("z", n)
        sigma = f.divide(one, f.add(one, f.exponential(f.subtract(f.zero(), z))))
        rest = f.subtract(one, sigma)
        first = f.multiply(sigma, f.add(one, f.multiply(z, rest)))
        if name == "silu":
            f.store(f.multiply(z, sigma), "out", n)
        elif name == "silu_slope":
            f.store(f.multiply(f.load("g", n), first), "out", n)
        else:
            a = f.load("a", n)
            second = f.add(f.add(one, one), f.multiply(z, f.subtract(rest, sigma)))
            second = f.multiply(f.multiply(sigma, rest), second)
            f.store(f.multiply(a, first), "dg", n)
            f.store(f.multiply(f.multiply(a, f.load("g", n)), second), "dz", n)
    return f


@cache
def _code(name: str, dtype: torch.dtype, lanes: int) -> Any:
    return compile_function(_write(name, dtype, lanes))


def _run(name: str, inputs: tuple[Tensor, ...], results: tuple[Tensor, ...]) -> None:
    """Whole vectors first, then what is left, one by one."""
    arrays = [each.contiguous().view(-1) for each in inputs] + [each.view(-1) for each in results]
    lanes = VECTOR_BYTES // arrays[0].dtype.itemsize
    whole = arrays[0].numel() // lanes
    run_in_parts(_code(name, arrays[0].dtype, lanes), whole, arrays, smallest=1024)
    if left := arrays[0].numel() - whole * lanes:
        run_in_parts(_code(name, arrays[0].dtype, 1), left, [each[whole * lanes :] for each in arrays])


@library.impl("equinet::silu", "CPU")
def _(z: Tensor) -> Tensor:
    out = z.new_empty(z.shape)
    _run("silu", (z,), (out,))
    return out


@library.impl("equinet::silu_slope", "CPU")
def _(g: Tensor, z: Tensor) -> Tensor:
    out = z.new_empty(z.shape)
    _run("silu_slope", (g, z), (out,))
    return out


@library.impl("equinet::silu_bend", "CPU")
def _(a: Tensor, g: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    dg, dz = z.new_empty(z.shape), z.new_empty(z.shape)
    _run("silu_bend", (a, g, z), (dg, dz))
    return dg, dz


@library.register_fake("equinet::silu")
def _(z: Tensor) -> Tensor:
    return z.new_empty(z.shape)


@library.register_fake("equinet::silu_slope")
def _(g: Tensor, z: Tensor) -> Tensor:
    return z.new_empty(z.shape)


@library.register_fake("equinet::silu_bend")
def _(a: Tensor, g: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    return z.new_empty(z.shape), z.new_empty(z.shape)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_value(ctx: Any, g: Tensor) -> Tensor:
    return slope(g, *ctx.saved_tensors)


def _differentiate_slope(ctx: Any, a: Tensor) -> tuple[Tensor, Tensor]:
    return bend(a, *ctx.saved_tensors)


def _differentiate_bend(ctx: Any, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of u a s' + v a g s'', by torch: no training needs it."""
    a, g, z = ctx.saved_tensors
    sigma = torch.sigmoid(z)
    rest = 1 - sigma
    first, second = sigma * (1 + z * rest), sigma * rest * (2 + z * (rest - sigma))
    third = sigma * rest * (3 * (rest - sigma) + z * ((rest - sigma) ** 2 - 2 * sigma * rest))
    return u * first + v * g * second, v * a * second, u * a * second + v * a * g * third


library.register_autograd("equinet::silu", _differentiate_value, setup_context=_save)
library.register_autograd("equinet::silu_slope", _differentiate_slope, setup_context=_save)
library.register_autograd("equinet::silu_bend", _differentiate_bend, setup_context=_save)

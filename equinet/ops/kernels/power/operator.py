r"""Powers in a pointwise algebra as torch operators for GPUs.

Three operators, one for each function of :mod:`power_tiles`. The gradients of ``power_value`` are ``power_gradient`` and those of
``power_gradient`` are ``power_double_backward``; ``power_double_backward`` is differentiated, which no training needs, through the same sums in torch. The
table is constant: one that requires gradients is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, library

from equinet.ops.codegen import tiles
from equinet.ops.codegen.threads import require

from . import gpu
from .gpu import KINDS, Form, form_of, unfold

Tensors = list[Tensor]

# u, or u and v; the constants of all points; and str(form).
INPUTS = "Tensor[] fields, Tensor table, str form"
library.define("equinet::power_value", f"({INPUTS}) -> Tensor")
library.define("equinet::power_gradient", f"(Tensor g, {INPUTS}) -> Tensor[]")
library.define("equinet::power_double_backward", f"(Tensor[] changes, Tensor g, {INPUTS}) -> Tensor[]")
_value, gradient = torch.ops.equinet.power_value.default, torch.ops.equinet.power_gradient.default
double_backward = torch.ops.equinet.power_double_backward.default


def value(
    fields: Sequence[Float[Tensor, "nodes dim channels"]], table: Float[Tensor, "rows columns"], form: Form
) -> Float[Tensor, "nodes products out channels"]:
    """The products of 2, 3, ... ``form.highest`` factors, differentiable in ``fields`` any number of times.

    Args:
        fields: u, or u and v.
        table: From :func:`.power_tiles.fold`.
        form: Its form.
    """
    return _value(list(fields), table, str(form))


def value_in_torch(fields: Sequence[Tensor], table: Tensor, form: Form) -> Tensor:
    """What ``value`` computes, by torch."""
    sources, terms, further = KINDS[form.kind]
    *slots, out = unfold(table, form)
    x = [to_points @ fields["uv".index(source)] for source, to_points in zip(sources, slots)]
    product, results = torch.stack([x[s] * x[t] for s, t in terms]).sum(0), []
    for _ in range(2, form.highest + 1):
        results.append(out.T @ product)
        product = product * x[further]
    return torch.stack(results, dim=1)


def _shape(fields: Sequence[Tensor], form: Form) -> tuple[int, ...]:
    """Of the value."""
    return fields[0].shape[0], form.highest - 1, len(form.out), fields[0].shape[2]


def _run(
    function: str,
    inputs: Sequence[Tensor],
    fields: Sequence[Tensor],
    table: Tensor,
    text: str,
    shapes: Sequence[Sequence[int]],
) -> Tensors:
    """Results of the given shapes. ``inputs``: what comes before the fields, which is like them but for g at the end."""
    form = form_of(text)
    sizes = [(fields[0].shape[0], form.rows(name), fields[0].shape[2]) for name in "uv"[: len(fields)]]
    like = [*sizes, _shape(fields, form)] if len(inputs) > 1 else [_shape(fields, form)] * len(inputs)
    fits = len(fields) == (2 if "v" in KINDS[form.kind][0] else 1) and table.shape[1] == sum(form.columns)
    fits = fits and all(each.shape == size for each, size in zip((*fields, *inputs), (*sizes, *like)))
    require(fits and table.dtype in tiles.TYPES, *inputs, *fields, table)
    if not tiles.runs_on(table, *fields):
        raise RuntimeError(
            f"this operator is for GPUs, and was given tensors on {table.device} ({tiles.unavailable()})"
        )
    results = [table.new_empty(shape) for shape in shapes]
    changes, g = inputs[:-1], inputs[-1:]
    arrays = [each.contiguous() for each in (*changes, *fields, *g)]
    gpu.run(function, arrays, table.contiguous(), text, results)
    return results


@library.impl("equinet::power_value", ("CUDA", "CPU"))
def _(fields: Tensors, table: Tensor, form: str) -> Tensor:
    return _run("value", (), fields, table, form, [_shape(fields, form_of(form))])[0]


@library.impl("equinet::power_gradient", ("CUDA", "CPU"))
def _(g: Tensor, fields: Tensors, table: Tensor, form: str) -> Tensors:
    return _run("gradient", (g,), fields, table, form, [each.shape for each in fields])


@library.impl("equinet::power_double_backward", ("CUDA", "CPU"))
def _(changes: Tensors, g: Tensor, fields: Tensors, table: Tensor, form: str) -> Tensors:
    return _run("double_backward", (*changes, g), fields, table, form, [each.shape for each in (g, *fields)])


@library.register_fake("equinet::power_value")
def _(fields: Tensors, table: Tensor, form: str) -> Tensor:
    return table.new_empty(_shape(fields, form_of(form)))


@library.register_fake("equinet::power_gradient")
def _(g: Tensor, fields: Tensors, table: Tensor, form: str) -> Tensors:
    return [table.new_empty(each.shape) for each in fields]


@library.register_fake("equinet::power_double_backward")
def _(changes: Tensors, g: Tensor, fields: Tensors, table: Tensor, form: str) -> Tensors:
    return [table.new_empty(each.shape) for each in (g, *fields)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *numbers, table, ctx.form = inputs
    if table.requires_grad:
        raise RuntimeError("`table` requires gradients, and this operator has none in it; take the form in torch")
    flat = [each for group in numbers for each in (group if isinstance(group, (list, tuple)) else [group])]
    ctx.save_for_backward(*flat, table)


def _differentiate_value(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    *fields, table = ctx.saved_tensors
    return gradient(g, fields, table, ctx.form), None, None


def _differentiate_gradient(ctx: Any, changes: Sequence[Tensor | None]) -> tuple[Any, ...]:
    g, *fields, table = ctx.saved_tensors
    dg, *gradients = double_backward(_whole(changes, fields), g, fields, table, ctx.form)
    return dg, gradients, None, None


def _differentiate_double_backward(ctx: Any, cotangents: Sequence[Tensor | None]) -> tuple[Any, ...]:
    *numbers, table = ctx.saved_tensors
    form, number = form_of(ctx.form), len(numbers) // 2
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        numbers = [
            each.view_as(each) if again and each.requires_grad else each.detach().requires_grad_() for each in numbers
        ]
        changes, g, fields = numbers[:number], numbers[number], numbers[number + 1 :]
        first = torch.autograd.grad((value_in_torch(fields, table, form) * g).sum(), fields, create_graph=True)
        along = torch.stack([(each * change).sum() for each, change in zip(first, changes)]).sum()
        second = torch.autograd.grad(along, (g, *fields), create_graph=True)
        total = torch.stack([(each * c).sum() for each, c in zip(second, cotangents) if c is not None]).sum()
        gradients = torch.autograd.grad(total, numbers, create_graph=again, materialize_grads=True)
    return list(gradients[:number]), gradients[number], list(gradients[number + 1 :]), None, None


def _whole(some: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensors:
    """Zeros in place of gradients that nobody asked for."""
    return [torch.zeros_like(other) if each is None else each for each, other in zip(some, like)]


library.register_autograd("equinet::power_value", _differentiate_value, setup_context=_save)
library.register_autograd("equinet::power_gradient", _differentiate_gradient, setup_context=_save)
library.register_autograd("equinet::power_double_backward", _differentiate_double_backward, setup_context=_save)

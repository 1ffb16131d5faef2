r"""Powers in a pointwise algebra as torch operators for GPUs.

Three operators, one for each function of :mod:`.gpu`: the gradients of ``value`` are ``gradient`` and those of ``gradient`` are
``double_backward``, which is differentiated, as no training needs it, through the same sums in torch. The table is constant: one that
requires gradients is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from equinet.ops.codegen import tiles
from equinet.ops.codegen.operators import Operator, one_or_all, register_family, tensors, through_torch
from equinet.ops.codegen.threads import require

from . import gpu
from .gpu import KINDS, Form, form_of, unfold

Tensors = tuple[Tensor, ...]


def value(
    fields: Sequence[Float[Tensor, "nodes _dim channels"]], table: Float[Tensor, "rows columns"], form: Form
) -> Float[Tensor, "nodes products out channels"]:
    """The products of 2, 3, ... ``form.highest`` factors, differentiable in ``fields`` any number of times.

    Args:
        fields: u, or u and v.
        table: Result of :func:`equinet.ops.kernels.power.gpu.fold`.
        form: Its form.

    Raises:
        RuntimeError: If gradients in ``table`` would be needed, or the tensors are not on a GPU.
        ValueError: If shapes or precisions do not fit together.
    """
    if table.requires_grad and torch.is_grad_enabled():
        raise RuntimeError("`table` requires gradients, and this operator has none in it; take the form in torch")
    found: Tensor = OPERATORS[len(fields)].value(*fields, table, str(form))
    return found


def value_in_torch(fields: Sequence[Tensor], table: Tensor, form: Form) -> Tensor:
    """Reference form of ``value`` in torch."""
    sources, terms, further = KINDS[form.kind]
    *slots, out = unfold(table, form)
    x = [to_points @ fields["uv".index(source)] for source, to_points in zip(sources, slots)]
    product, results = torch.stack([x[s] * x[t] for s, t in terms]).sum(0), []
    for _ in range(2, form.highest + 1):
        results.append(out.T @ product)
        product = product * x[further]
    return torch.stack(results, dim=1)


def _shape(fields: Sequence[Tensor], form: Form) -> tuple[int, ...]:
    """Shape of the value."""
    return fields[0].shape[0], form.highest - 1, len(form.out), fields[0].shape[2]


def _run(
    function: str,
    inputs: Sequence[Tensor],
    fields: Sequence[Tensor],
    table: Tensor,
    text: str,
    shapes: Sequence[Sequence[int]],
) -> list[Tensor]:
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


class Operators(NamedTuple):
    """The family of operators on one number of fields."""

    value: Any
    gradient: Any
    double_backward: Any


def _family(fields: int) -> Operators:
    """Operators on one field, u, or two, u and v; on lists of tensors, which would do for both, torch takes twice as long.

    * ``value(*fields, table, form)``: the products.
    * ``gradient(g, *fields, table, form)``: the gradients in the fields of the sum of products times g.
    * ``double_backward(*changes, g, *fields, table, form)``: the gradients, in g and in the fields, of the changes times those.
    """
    names = "uv"[:fields]
    inputs = f"{', '.join(f'Tensor {name}' for name in names)}, Tensor table, str form"
    changes = ", ".join(f"Tensor a{name}" for name in names)
    family = register_family(
        f"power{fields}",
        value=Operator(f"({inputs}) -> Tensor", _value, _like_value, _differentiate_value),
        gradient=Operator(
            f"(Tensor g, {inputs}) -> {tensors(fields)}", _gradient, _like_gradient, _differentiate_gradient
        ),
        double_backward=Operator(
            f"({changes}, Tensor g, {inputs}) -> {tensors(fields + 1)}",
            _double_backward,
            _like_double_backward,
            through_torch(_formula, changes=fields, operands=fields),
        ),
    )
    return Operators(*family)


def _value(*arguments: Any) -> Tensor:
    *fields, table, form = arguments
    return _run("value", (), fields, table, form, [_shape(fields, form_of(form))])[0]


def _like_value(*arguments: Any) -> Tensor:
    *fields, table, form = arguments
    return table.new_empty(_shape(fields, form_of(form)))


def _gradient(g: Tensor, *arguments: Any) -> Any:
    *fields, table, form = arguments
    return one_or_all(_run("gradient", (g,), fields, table, form, [each.shape for each in fields]))


def _like_gradient(g: Tensor, *arguments: Any) -> Any:
    *fields, table, _ = arguments
    return one_or_all([table.new_empty(each.shape) for each in fields])


def _double_backward(*arguments: Any) -> Tensors:
    *inputs, table, form = arguments
    number = len(inputs) // 2
    fields = inputs[number + 1 :]
    shapes = [each.shape for each in inputs[number:]]
    return tuple(_run("double_backward", inputs[: number + 1], fields, table, form, shapes))


def _like_double_backward(*arguments: Any) -> Tensors:
    *inputs, table, _ = arguments
    return tuple(table.new_empty(each.shape) for each in inputs[len(inputs) // 2 :])


def _formula(*arguments: Any) -> Tensor:
    *fields, table, form = arguments
    return value_in_torch(fields, table, form_of(form))


def _differentiate_value(ctx: Any, cotangents: Tensors, *arguments: Any) -> Any:
    found = OPERATORS[len(arguments) - 2].gradient(*cotangents, *arguments)
    return (found,) if isinstance(found, Tensor) else found


def _differentiate_gradient(ctx: Any, cotangents: Tensors, *arguments: Any) -> Any:
    return OPERATORS[len(cotangents)].double_backward(*cotangents, *arguments)


# By the number of fields.
OPERATORS = {fields: _family(fields) for fields in (1, 2)}

"""Families of torch operators that are closed under differentiation: the derivative of each member is made of the members.

A member is described once, by :class:`Operator`; :func:`register_family` makes it known to torch for processors and GPUs, for tracing,
and for derivatives. The last member of a family, which no training differentiates, may get its derivative from torch
(:func:`through_torch`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, library

from equinet.ops.passes import is_needed

__all__ = ["Operator", "filled", "is_needed", "one_or_all", "register_family", "tensors", "through_torch"]

Derivative = Callable[..., Sequence[Tensor | None]]


class Operator(NamedTuple):
    """One member of a family.

    Attributes:
        schema: Arguments and results in the schema notation of torch operators; tensors come before everything else, and those
            that have gradients before the other tensors.
        kernel: Function that computes the results from the arguments, on a CPU and on a GPU.
        fake: Function that makes results of the right shapes and of any values.
        derivative: ``(ctx, cotangents, *arguments)`` to the gradients in the first tensors, None where :func:`.is_needed` says so.
    """

    schema: str
    kernel: Callable[..., Any]
    fake: Callable[..., Any]
    derivative: Derivative


def register_family(family: str, **members: Operator) -> tuple[Any, ...]:
    """Register ``equinet::{family}_{member}`` for every member.

    Returns:
        The operators, in the order of ``members``.

    Raises:
        ValueError: If an operator has a tensor behind other arguments.
    """
    return tuple(_register(f"equinet::{family}_{name}", member) for name, member in members.items())


def _register(name: str, member: Operator) -> Any:
    library.define(name, member.schema)
    operator = getattr(torch.ops.equinet, name.removeprefix("equinet::")).default
    is_tensor = [str(argument.type) in ("Tensor", "Optional[Tensor]") for argument in operator._schema.arguments]
    count, derivative = sum(is_tensor), member.derivative
    if not all(is_tensor[:count]):
        raise ValueError(f"{name} has a tensor behind other arguments; tensors come first")

    def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:count])
        ctx.rest = inputs[count:]

    def differentiate(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        gradients = derivative(ctx, cotangents, *ctx.saved_tensors, *ctx.rest)
        if any(ctx.needs_input_grad[len(gradients) :]):
            raise RuntimeError(
                f"{name} has gradients in its first {len(gradients)} arguments, and one in another is needed"
            )
        return *gradients, *[None] * (len(is_tensor) - len(gradients))

    library.impl(name, ("CPU", "CUDA"), member.kernel)
    library.register_fake(name, member.fake)
    library.register_autograd(name, differentiate, setup_context=save)
    return operator


def tensors(count: int) -> str:
    """Results of an operator in its schema."""
    return "Tensor" if count == 1 else f"({', '.join(['Tensor'] * count)})"


def one_or_all(results: Sequence[Tensor]) -> Any:
    """Results of an operator as torch hands them over: a single one by itself."""
    return results[0] if len(results) == 1 else tuple(results)


def filled(cotangents: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """Cotangents with zeros in place of those of results that were left out, which are empty arrays of one dimension."""
    return [each if each.shape == other.shape else torch.zeros_like(other) for each, other in zip(cotangents, like)]


def through_torch(value: Callable[..., Any], changes: int, operands: int) -> Derivative:
    """Differentiate a family's ``double_backward`` by torch's own derivatives of the formula of ``value``.

    The operator has the arguments ``(*a, *g, *x, *others)`` and the results dg and dx: the gradients in all g and x of the product of a
    with the gradient, in the first of the x, of the product of g with ``value(*x, *others)``.

    Args:
        value: The formula, ``(*x, *others)`` to one or more results, in operations of torch.
        changes: Number of the a, which is that of the x they belong to.
        operands: Number of the x.
    """

    def derivative(ctx: Any, cotangents: Sequence[Tensor], *arguments: Any) -> Sequence[Tensor]:
        count, begin = changes + len(cotangents), changes + len(cotangents) - operands
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            numbers = [
                each.view_as(each) if again and each.requires_grad else each.detach().requires_grad_()
                for each in arguments[:count]
            ]
            a, g, x = numbers[:changes], numbers[changes:begin], numbers[begin:]
            results = value(*x, *arguments[count:])
            results = [results] if isinstance(results, Tensor) else results
            first = torch.autograd.grad(_dot(results, g), x[:changes], create_graph=True)
            second = torch.autograd.grad(_dot(first, a), (*g, *x), create_graph=True, materialize_grads=True)
            total = _dot(second, filled(cotangents, second))
            return torch.autograd.grad(total, numbers, create_graph=again, materialize_grads=True)

    return derivative


def _dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(first, second)]).sum()

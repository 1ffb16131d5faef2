"""Families of operators closed under differentiation: a small one, x³ t, in every derivative."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, library

from equinet.ops.codegen.operators import Operator, filled, one_or_all, register_family, tensors, through_torch

CUBE = register_family(
    "test_cube",
    value=Operator(
        "(Tensor x, Tensor t, str name) -> Tensor",
        lambda x, t, name: x**3 * t,
        lambda x, t, name: x.new_empty(x.shape),
        lambda ctx, cotangents, *arguments: (CUBE[1](*cotangents, *arguments),),
    ),
    gradient=Operator(
        "(Tensor g, Tensor x, Tensor t, str name) -> Tensor",
        lambda g, x, t, name: 3 * g * x**2 * t,
        lambda g, x, t, name: x.new_empty(x.shape),
        lambda ctx, cotangents, *arguments: CUBE[2](*cotangents, *arguments),
    ),
    double_backward=Operator(
        f"(Tensor a, Tensor g, Tensor x, Tensor t, str name) -> {tensors(2)}",
        lambda a, g, x, t, name: (3 * a * x**2 * t, 6 * a * g * x * t),
        lambda a, g, x, t, name: (g.new_empty(g.shape), x.new_empty(x.shape)),
        through_torch(lambda x, t, name: x**3 * t, changes=1, operands=1),
    ),
)


def numbers(count: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(count)]


def test_four_derivatives_are_those_of_the_formula() -> None:
    (x,), t = numbers(1), torch.full((4,), 0.7, dtype=torch.float64)
    found = []
    for run in (lambda x: CUBE[0](x, t, "any"), lambda x: x**3 * t):
        value = run(x).pow(2).sum()
        for _ in range(4):
            (gradient,) = torch.autograd.grad(value, x, create_graph=True)
            value = gradient.pow(2).sum()
        found.append(gradient)
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("member", [0, 1, 2])
def test_every_member_keeps_what_torch_asks_of_operators(member: int) -> None:
    library.opcheck(CUBE[member], (*numbers(member + 1), torch.ones(4, dtype=torch.float64), "any"))


@pytest.mark.parametrize("member", [0, 1])
def test_a_gradient_that_no_member_has_is_refused_and_not_left_out(member: int) -> None:
    t = torch.ones(4, dtype=torch.float64, requires_grad=True)
    value = CUBE[member](*numbers(member + 1), t, "any").sum()
    with pytest.raises(RuntimeError, match=f"has gradients in its first {member + 1} arguments, and one in another is"):
        value.backward()


def test_tensors_come_first() -> None:
    def nothing(*arguments: Any) -> None:
        raise AssertionError

    with pytest.raises(ValueError, match="test_order_value has a tensor behind other arguments"):
        register_family("test_order", value=Operator("(str s, Tensor x) -> Tensor", nothing, nothing, nothing))


def test_results_that_were_left_out_have_cotangents_of_zero() -> None:
    x, y = torch.ones(2, 3), torch.ones(4)
    assert [each.tolist() for each in filled([x.new_ones(0), y], [x, y])] == [[[0.0] * 3] * 2, [1.0] * 4]


def test_a_single_result_stands_by_itself() -> None:
    x = torch.ones(2)
    assert one_or_all([x]) is x
    assert one_or_all([x, x]) == (x, x)
    assert (tensors(1), tensors(2)) == ("Tensor", "(Tensor, Tensor)")

"""SiLU in machine code: against torch, in every derivative."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, library

from equinet.ops.kernels.silu import WORTHWHILE, bend, silu, slope, value

SPECIAL = torch.tensor([0.0, -1e4, 1e4, -90.0, 90.0, -710.0, 710.0, float("nan"), float("inf")], dtype=torch.float64)


def numbers(count: int, dtype: torch.dtype) -> Tensor:
    torch.manual_seed(0)
    return 4 * torch.randn(count, dtype=dtype)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 3e-7), (torch.float64, 6e-16)], ids=str)
def test_values_are_right_to_rounding(dtype: torch.dtype, error: float) -> None:
    z = numbers(10007, dtype)  # a prime: what is left over from whole vectors counts too
    exact = torch.nn.functional.silu(z.double())
    assert ((value(z).double() - exact).abs() / exact.abs()).max() < error


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_is_huge_or_no_number_stays_so(dtype: torch.dtype) -> None:
    found = value(SPECIAL.to(dtype).repeat(3))
    expected = torch.nn.functional.silu(SPECIAL.to(dtype)).repeat(3)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-30, equal_nan=True)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 1000])
def test_four_derivatives_are_those_of_torch(count: int) -> None:
    def chain(function: Callable[[Tensor], Tensor]) -> list[Tensor]:
        z = numbers(count, torch.float64).requires_grad_()
        torch.manual_seed(1)
        found = [function(z)]
        for _ in range(4):
            mixed = (found[-1] * torch.randn_like(found[-1])).sum()
            found += torch.autograd.grad(mixed, z, create_graph=True)
        return found

    for ours, theirs in zip(chain(value), chain(torch.nn.functional.silu)):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_the_operators_keep_the_rules_of_torch() -> None:
    z, g, a = (torch.randn(3, 7, dtype=torch.float64, requires_grad=True) for _ in range(3))
    checks = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic")
    for operator, inputs in ((value, (z,)), (slope, (g, z)), (bend, (a, g, z))):
        library.opcheck(operator, inputs, test_utils=checks)


def test_arrays_need_not_be_contiguous() -> None:
    z, g = numbers(4000, torch.float64).view(40, 100), torch.ones((), dtype=torch.float64).expand(100, 40)
    assert torch.equal(value(z.T), value(z).T)
    assert torch.equal(slope(g, z.T), slope(g.contiguous(), z.T.contiguous()))


def test_few_numbers_and_other_precisions_go_to_torch() -> None:
    for z in (numbers(WORTHWHILE - 1, torch.float64), numbers(WORTHWHILE, torch.float64).bfloat16()):
        assert torch.equal(silu(z), torch.nn.functional.silu(z))
    z = numbers(WORTHWHILE, torch.float64)
    assert torch.equal(silu(z), value(z))

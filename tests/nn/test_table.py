"""Functions of the distance from a table: values and two derivatives, errors that shrink as the formula says, and the ends."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from equinet.nn.radial import BesselBasis, PolynomialEnvelope, RadialMLP
from equinet.nn.table import START, RadialTable, _tabulate

CUTOFF = 4.0
Function = Callable[[Tensor], Tensor]


def network(width: int = 7) -> Function:
    """What models tabulate: basis, envelope and perceptron."""
    torch.manual_seed(0)
    basis, envelope = BesselBasis(CUTOFF, 6).double(), PolynomialEnvelope(CUTOFF, 5)
    mlp = RadialMLP([6, 16, 16, width]).double().requires_grad_(False)
    return lambda r: mlp(basis(r) * envelope(r))


def polynomial(r: Tensor) -> Tensor:
    """Of degree five, which a table gives exactly."""
    return (CUTOFF - r) ** 3 * torch.cat([1 + 0 * r, r, r**2 - 3], dim=1)


def table_of_intervals(function: Function, intervals: int) -> RadialTable:
    table = RadialTable(_tabulate(function, START, CUTOFF, intervals, 1e-3), START, CUTOFF, 0, 0).double()
    table.value_error, table.gradient_error = table.errors(function)
    return table


def derivatives(function: Function, r: Tensor, order: int) -> list[Tensor]:
    """Value and derivatives of each component by itself, in reverse mode."""
    found = []
    r = r.clone().requires_grad_()
    for column in function(r).unbind(1):
        each = [column]
        for _ in range(order):
            each.append(torch.autograd.grad(each[-1].sum(), r, create_graph=True)[0].squeeze(1))
        found.append(torch.stack(each).detach())
    return list(torch.stack(found, dim=2))


@pytest.mark.parametrize("error", [1e-3, 1e-6, 1e-9])
def test_value_and_gradient_are_those_of_the_function_within_the_error_asked_for(error: float) -> None:
    function = network()
    table = RadialTable.of(function, CUTOFF, error).double()
    assert max(table.value_error, table.gradient_error) <= error
    r = torch.rand(5000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * (CUTOFF - START) + START
    bonded = r[:, 0] > 0.5
    for found, expected in zip(derivatives(table, r, 1), derivatives(function, r, 1)):
        assert (found - expected).abs().max() <= 1.01 * error * expected[bonded].abs().max()
    coarser = table_of_intervals(function, (table.knots - 1) // 2)
    assert max(coarser.value_error, coarser.gradient_error) > error or table.knots == 17


def test_a_polynomial_of_degree_five_is_exact_with_all_its_derivatives() -> None:
    table = RadialTable.of(polynomial, CUTOFF)
    assert table.knots == 17
    r = torch.linspace(0.3, CUTOFF - 0.01, 200, dtype=torch.float64)[:, None]
    for found, expected in zip(derivatives(table.double(), r, 3), derivatives(polynomial, r, 3)):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_errors_shrink_with_the_sixth_and_the_fifth_power_of_the_spacing() -> None:
    tables = [table_of_intervals(network(), n) for n in (128, 256, 512)]
    for coarse, fine in pairwise(tables):
        assert coarse.value_error / fine.value_error == pytest.approx(2**6, rel=0.3)
        assert coarse.gradient_error / fine.gradient_error == pytest.approx(2**5, rel=0.3)


def test_the_error_is_that_of_the_formula() -> None:
    """f = sin(k r) x (something slow) has a sixth derivative of about k^6."""

    def wave(r: Tensor) -> Tensor:
        return torch.sin(20 * r) * (1 - r / CUTOFF) ** 3

    table = table_of_intervals(wave, 128)
    bound = table.spacing**6 / 46080 * 20**6  # times the largest value, as errors are relative
    assert 0.5 * bound < table.value_error < 2 * bound


def test_knots_have_the_value_and_two_derivatives_of_the_function() -> None:
    function, table = network(), table_of_intervals(network(), 32)
    r = table.start + table.spacing * torch.arange(32, dtype=torch.float64)[:, None]
    for a, expected in enumerate(derivatives(function, r, 2)):
        found = math.factorial(a) * table.coefficients[:-1, a]
        torch.testing.assert_close(found, table.spacing**a * expected, rtol=1e-9, atol=1e-9)
    for found, expected in zip(derivatives(table, r + 1e-12, 2), derivatives(table, r[1:] - 1e-12, 2)):
        torch.testing.assert_close(found[1:], expected, rtol=0, atol=1e-6)  # from the right as from the left


def test_from_the_cutoff_on_it_is_exactly_zero_with_zero_derivatives() -> None:
    table = RadialTable.of(network(), CUTOFF)
    for dtype in (torch.float32, torch.float64):
        r = torch.tensor([[CUTOFF], [CUTOFF + 1e-3], [CUTOFF + 1], [50.0], [1e4]], dtype=dtype)
        for each in derivatives(table.to(dtype), r, 2):
            assert torch.equal(each, torch.zeros(5, 7, dtype=dtype))
        near = derivatives(table, torch.tensor([[CUTOFF - 1e-4]], dtype=dtype), 1)
        assert 0 < near[0].abs().max() < 1e-9
        assert 0 < near[1].abs().max() < 1e-5


def test_what_rounding_leaves_of_a_function_at_the_cutoff_is_no_part_of_the_table() -> None:
    table = RadialTable.of(lambda r: polynomial(r) + 1e-9, CUTOFF).double()
    assert torch.equal(table(torch.tensor([[CUTOFF], [4.1], [9.0]]).double()), torch.zeros(3, 3).double())


def test_below_the_first_knot_it_goes_on_as_the_function_does() -> None:
    function, table = network(), RadialTable.of(network(), CUTOFF, 1e-8).double()
    r = torch.tensor([[1e-4], [1e-3], [2e-3]], dtype=torch.float64)
    scale = function(torch.linspace(0.5, 4, 100).double()[:, None]).abs().max()
    assert (table(r) - function(r)).abs().max() < 1e-7 * scale
    assert table(torch.zeros(1, 1, dtype=torch.float64)).isfinite().all()


@pytest.mark.parametrize("intervals", [16, 64])
def test_derivatives_are_those_of_finite_differences(intervals: int) -> None:
    table = table_of_intervals(network(3), intervals)
    r = torch.tensor([[0.7], [1.31], [2.9], [3.99], [4.2]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(table, r)
    assert torch.autograd.gradgradcheck(table, r)


def test_a_force_can_be_differentiated_again() -> None:
    """As in training, though the table itself is not trained: through what it is multiplied with."""
    table = table_of_intervals(network(), 64)
    other = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    r = torch.tensor([[0.9], [1.5], [2.2], [3.1]], dtype=torch.float64, requires_grad=True)
    (force,) = torch.autograd.grad((table(r) * other).sum(), r, create_graph=True)
    (mixed,) = torch.autograd.grad(force.sum(), other)
    torch.testing.assert_close(mixed, derivatives(table, r.detach(), 1)[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_rows_make_no_rows(dtype: torch.dtype) -> None:
    table = table_of_intervals(network(), 16).to(dtype)
    r = torch.empty(0, 1, dtype=dtype, requires_grad=True)
    out = table(r)
    assert out.shape == (0, 7)
    assert out.dtype == dtype
    (gradient,) = torch.autograd.grad(out.sum(), r, create_graph=True)
    assert gradient.shape == (0, 1)
    assert torch.autograd.grad(gradient.sum(), r)[0].shape == (0, 1)


def test_a_distance_that_is_not_a_number_makes_no_number() -> None:
    out = table_of_intervals(network(), 16)(torch.tensor([[1.0], [math.nan], [2.0]], dtype=torch.float64))
    assert out[1].isnan().all()
    assert out[[0, 2]].isfinite().all()


def test_single_precision_errs_by_its_rounding_and_moves_lose_nothing() -> None:
    function, table = network(), RadialTable.of(network(), CUTOFF, 1e-9).double()
    r = torch.linspace(0.8, 3.9, 500, dtype=torch.float32)[:, None]
    exact, scale = function(r.double()), function(r.double()).abs().max()
    before = table(r.double())
    single = copy.deepcopy(table).float()
    assert single(r).dtype == torch.float32
    assert 0 < (single(r) - exact).abs().max() < 3e-6 * scale
    assert torch.equal(single.double()(r.double()), before)
    assert not list(table.parameters())
    assert not table.state_dict()


def test_it_comes_in_single_precision_whatever_the_default_and_has_lost_nothing(double_default: None) -> None:
    table = RadialTable.of(polynomial, CUTOFF)
    assert table.coefficients.dtype == torch.float32
    assert torch.equal(table.double().coefficients, RadialTable.of(polynomial, CUTOFF).double().coefficients)


def test_gradients_need_not_be_enabled_to_make_one() -> None:
    with torch.no_grad():
        assert RadialTable.of(network(), CUTOFF).gradient_error <= 1e-6


def test_a_table_says_how_good_it_is() -> None:
    table = RadialTable.of(network(), CUTOFF)
    assert repr(table).startswith(
        f"RadialTable(7 functions, {table.knots} knots up to 4 Å, error {table.value_error:.1e} in v"
    )


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (lambda r: torch.exp(-r), {}, "`function` must vanish at the cutoff with two derivatives"),
        (lambda r: CUTOFF - r, {}, "`function` must vanish at the cutoff with two derivatives"),
        (lambda r: (CUTOFF - r) ** 2, {}, "`function` must vanish at the cutoff with two derivatives"),
        (lambda r: polynomial(r) / (r - START), {}, "`function` must be finite from 0.001 to 4 Å"),
        (lambda r: polynomial(r).float(), {}, "and computed in float64"),
        (lambda r: polynomial(r) * torch.relu(r - 2), {}, "8192 intervals leave an error of .* is the function smooth"),
        (polynomial, {"error": 0.0}, "`error` must be positive"),
        (polynomial, {"start": 0.0}, "`start` and `cutoff` must be positive and ascending"),
        (polynomial, {"start": 5.0}, "`start` and `cutoff` must be positive and ascending"),
    ],
)
def test_what_cannot_be_tabulated_is_refused(function: Function, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RadialTable.of(function, CUTOFF, **arguments)


def test_gradients_in_single_precision_err_by_rounding_however_close_the_knots_are() -> None:
    function = network()
    r = torch.linspace(0.8, CUTOFF - 0.1, 997, dtype=torch.float64)[:, None]
    exact = derivatives(function, r, 1)[1]
    for error in (1e-5, 1e-7):
        table = RadialTable.of(function, CUTOFF, error).float()
        single = derivatives(table, r.float(), 1)[1].double()
        assert (single - exact).abs().max() < 3e-5 * exact.abs().max()

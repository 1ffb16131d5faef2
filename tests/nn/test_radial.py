"""Radial functions: smooth at the cutoff, equal to their formulas, and of unit size."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from equinet.nn import BesselBasis, PolynomialEnvelope, RadialMLP
from equinet.nn.radial import SILU_GAIN

CUTOFF = 3.7


def derivatives(function: torch.nn.Module, r: list[float], order: int) -> list[Tensor]:
    """Value and derivatives of every column at the distances ``r``, each ``(len(r), columns)``."""
    x = torch.tensor(r, dtype=torch.float64)[:, None].requires_grad_()
    columns = function(x).unbind(1)
    found = [torch.stack(columns, 1)]
    for _ in range(order):
        columns = [torch.autograd.grad(c.sum(), x, create_graph=True)[0][:, 0] for c in columns]
        found.append(torch.stack(columns, 1))
    return [f.detach() for f in found]


@pytest.mark.parametrize("power", [2, 3, 5, 8])
def test_the_envelope_and_its_first_two_derivatives_vanish_at_the_cutoff(power: int) -> None:
    for derivative in derivatives(PolynomialEnvelope(CUTOFF, power), [CUTOFF, CUTOFF * (1 - 1e-9)], 2):
        assert derivative.abs().max() < 1e-6
    third = derivatives(PolynomialEnvelope(CUTOFF, power), [CUTOFF * (1 - 1e-9)], 3)[3]
    expected = -power * (power + 1) * (power + 2) / CUTOFF**3  # the first one that does not
    torch.testing.assert_close(third, torch.full((1, 1), expected).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("power", [2, 5])
def test_beyond_the_cutoff_the_envelope_is_exactly_zero(power: int) -> None:
    for derivative in derivatives(PolynomialEnvelope(CUTOFF, power), [CUTOFF * 1.0001, CUTOFF + 1, 100.0], 2):
        assert torch.equal(derivative, torch.zeros_like(derivative))


def test_the_envelope_falls_from_one_to_zero() -> None:
    values = PolynomialEnvelope(CUTOFF, 5)(torch.linspace(0, CUTOFF, 200, dtype=torch.float64)[:, None])
    assert values[0] == 1
    assert (values.diff(dim=0) <= 1e-15).all()
    assert values.min() >= -1e-15


def test_the_envelope_is_its_formula() -> None:
    r = torch.linspace(0.1, 0.99 * CUTOFF, 50, dtype=torch.float64)
    for p in (2, 5, 7):
        x = r / CUTOFF
        expected = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
        torch.testing.assert_close(PolynomialEnvelope(CUTOFF, p)(r[:, None])[:, 0], expected, rtol=1e-12, atol=1e-12)


def test_the_envelope_may_be_differentiated_twice() -> None:
    r = torch.tensor([[0.4], [2.0], [3.5], [3.9]], dtype=torch.float64, requires_grad=True)
    envelope = PolynomialEnvelope(CUTOFF, 5)
    assert torch.autograd.gradcheck(envelope, r)
    assert torch.autograd.gradgradcheck(envelope, r)


def test_the_basis_is_its_formula() -> None:
    r = np.linspace(0.05, CUTOFF, 40)
    expected = np.stack([math.sqrt(2 / CUTOFF) * np.sin(n * math.pi * r / CUTOFF) / r for n in range(1, 9)], axis=1)
    basis = BesselBasis(CUTOFF, 8).double()(torch.from_numpy(r)[:, None])
    np.testing.assert_allclose(basis.numpy(), expected, rtol=0, atol=1e-13)


def test_the_basis_is_orthonormal_over_the_sphere_of_the_cutoff() -> None:
    nodes, weights = np.polynomial.legendre.leggauss(60)
    r, w = (nodes + 1) * CUTOFF / 2, weights * CUTOFF / 2
    values = BesselBasis(CUTOFF, 6).double()(torch.from_numpy(r)[:, None]).numpy()
    np.testing.assert_allclose(np.einsum("r,ra,rb->ab", w * r**2, values, values), np.eye(6), rtol=0, atol=1e-12)


def test_the_basis_vanishes_at_the_cutoff_and_may_be_differentiated_twice() -> None:
    basis = BesselBasis(CUTOFF, 5).double()
    assert basis(torch.tensor([[CUTOFF]], dtype=torch.float64)).abs().max() < 1e-12
    r = torch.tensor([[0.4], [2.0], [3.5]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(basis, r)
    assert torch.autograd.gradgradcheck(basis, r)


def test_the_gain_gives_activations_a_unit_second_moment() -> None:
    nodes, weights = np.polynomial.hermite_e.hermegauss(180)
    density = weights / math.sqrt(2 * math.pi)
    silu = nodes / (1 + np.exp(-nodes))
    assert pytest.approx((density @ silu**2) ** -0.5, abs=1e-12) == SILU_GAIN


def test_zero_goes_to_zero() -> None:
    assert torch.equal(RadialMLP([4, 16, 16, 7])(torch.zeros(3, 4)), torch.zeros(3, 7))


def test_the_network_is_its_formula() -> None:
    network = RadialMLP([2, 3, 4]).double()
    x = torch.randn(5, 2, dtype=torch.float64)
    first, second = network.weights
    hidden = x @ first / math.sqrt(2)
    hidden = SILU_GAIN * hidden * torch.sigmoid(hidden)
    torch.testing.assert_close(network(x), hidden @ second / math.sqrt(3))


def test_a_fresh_network_keeps_the_size_of_its_input() -> None:
    torch.manual_seed(0)
    out = torch.stack([RadialMLP([64, 64, 64, 64])(torch.randn(64, 64)) for _ in range(20)])
    assert out.square().mean().item() == pytest.approx(1, rel=0.15)


def test_without_edges_there_are_no_rows() -> None:
    none = torch.zeros(0, 1)
    assert BesselBasis(CUTOFF, 8)(none).shape == (0, 8)
    assert PolynomialEnvelope(CUTOFF, 5)(none).shape == (0, 1)
    assert RadialMLP([8, 4, 3])(torch.zeros(0, 8)).shape == (0, 3)


def test_each_says_what_it_is() -> None:
    assert "8 functions, cutoff 3.7 Å" in repr(BesselBasis(CUTOFF, 8))
    assert "p=5, cutoff 3.7 Å" in repr(PolynomialEnvelope(CUTOFF, 5))
    assert "8 → 16 → 3" in repr(RadialMLP([8, 16, 3]))

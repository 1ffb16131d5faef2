"""Spherical harmonics against e3nn, against their norm, and their derivatives against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from e3nn import o3
from torch import Tensor

from equinet.ops import SphericalHarmonics, natural_irreps
from equinet.ops.coupling.quadrature import gauss_legendre


@pytest.fixture
def directions() -> Tensor:
    """Random unit vectors and the six poles, where angles would be singular."""
    torch.manual_seed(0)
    random = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=1)
    poles = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    return torch.cat([random, poles])


@pytest.mark.parametrize("max_degree", range(12))
def test_harmonics_are_those_of_e3nn(max_degree: int, directions: Tensor) -> None:
    ours = SphericalHarmonics(max_degree).double()(directions)
    theirs = o3.spherical_harmonics(list(range(max_degree + 1)), directions, normalize=True, normalization="component")
    assert ours.shape == (len(directions), (max_degree + 1) ** 2)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def legendre_form(directions: Tensor, max_degree: int) -> Tensor:
    """Harmonics by angles: normalised associated Legendre functions of y times sines and cosines of the angle in the zx plane."""
    x, y, z = directions.unbind(1)
    sine, alpha = torch.hypot(x, z), torch.atan2(x, z)
    p: dict[tuple[int, int], Tensor] = {}
    for m in range(max_degree + 1):
        p[m, m] = math.sqrt((2 * m + 1) / (2 * m)) * sine * p[m - 1, m - 1] if m else torch.ones_like(y)
        for l in range(m + 1, max_degree + 1):
            a = math.sqrt((4 * l * l - 1) / (l * l - m * m))
            b = math.sqrt(((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1))
            p[l, m] = a * (y * p[l - 1, m] - b * p.get((l - 2, m), torch.zeros_like(y)))
    waves = {m: torch.sin(-m * alpha) if m < 0 else torch.cos(m * alpha) for m in range(-max_degree, max_degree + 1)}
    columns = [
        p[l, abs(m)] * waves[m] * (math.sqrt(2) if m else 1) for l in range(max_degree + 1) for m in range(-l, l + 1)
    ]
    return torch.stack(columns, dim=1)


def test_harmonics_up_to_degree_20_are_legendre_functions_of_angles(directions: Tensor) -> None:
    ours, theirs = SphericalHarmonics(20).double()(directions), legendre_form(directions, 20)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_harmonics_up_to_degree_20_are_orthonormal() -> None:
    rule = gauss_legendre(40)
    values = SphericalHarmonics(20).double()(torch.tensor(rule.points))
    gram = values.T @ (torch.tensor(rule.weights / (4 * math.pi)).unsqueeze(1) * values)
    torch.testing.assert_close(gram, torch.eye(441).double(), rtol=0, atol=1e-12)


def test_derivatives_of_degree_8_are_those_of_finite_differences() -> None:
    torch.manual_seed(3)
    vectors = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    harmonics = SphericalHarmonics(8).double()

    def highest(vectors: Tensor) -> Tensor:
        return harmonics(vectors / vectors.norm(dim=1, keepdim=True))[:, 64:]

    assert torch.autograd.gradcheck(highest, vectors)
    assert torch.autograd.gradgradcheck(highest, vectors)


def test_the_square_of_each_degree_sums_to_two_l_plus_one(directions: Tensor) -> None:
    for degree, values in enumerate(SphericalHarmonics(8).double()(directions).split(list(range(1, 18, 2)), dim=1)):
        expected = torch.full((len(directions),), 2.0 * degree + 1, dtype=torch.float64)
        torch.testing.assert_close(values.square().sum(1), expected, rtol=1e-12, atol=0)


def test_harmonics_turn_with_the_vectors_and_change_sign_as_their_parity_says(
    directions: Tensor, orthogonal: Tensor, representation: Callable[[o3.Irreps, Tensor], Tensor]
) -> None:
    harmonics = SphericalHarmonics(5).double()
    turned = harmonics(directions @ orthogonal.T)
    expected = harmonics(directions) @ representation(natural_irreps(5), orthogonal).T
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-10)  # e3nn goes through angles, by acos


def _of_any_vector(vectors: Tensor) -> Tensor:
    return SphericalHarmonics(4).double()(vectors / vectors.norm(dim=1, keepdim=True))


def test_first_derivatives_are_those_of_finite_differences() -> None:
    torch.manual_seed(1)
    vectors = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_of_any_vector, vectors)


def test_second_derivatives_are_those_of_finite_differences() -> None:
    torch.manual_seed(2)
    vectors = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(_of_any_vector, vectors)


def test_derivatives_are_finite_along_every_axis() -> None:
    vectors = torch.cat([torch.eye(3), -torch.eye(3)]).double().requires_grad_()
    (first,) = torch.autograd.grad(_of_any_vector(vectors).square().sum(0)[5:].sum(), vectors, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), vectors)
    assert first.isfinite().all()
    assert second.isfinite().all()


def test_single_precision_errs_by_rounding_only(directions: Tensor) -> None:
    exact = SphericalHarmonics(8).double()(directions)
    single = SphericalHarmonics(8)(directions.float())
    assert single.dtype == torch.float32
    assert (single.double() - exact).abs().max() < 1e-5


def test_no_edges_give_no_rows() -> None:
    assert SphericalHarmonics(3)(torch.zeros(0, 3)).shape == (0, 16)


def test_a_negative_degree_is_refused() -> None:
    with pytest.raises(ValueError, match="`max_degree` must be 0 or more, got -1"):
        SphericalHarmonics(-1)


def test_the_highest_degree_is_shown() -> None:
    assert "l <= 3" in repr(SphericalHarmonics(3))

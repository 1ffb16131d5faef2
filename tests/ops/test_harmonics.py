"""Spherical harmonics against e3nn, against their norm, and their derivatives against finite differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from e3nn import o3
from torch import Tensor

from equinet.ops import SphericalHarmonics, natural_irreps


@pytest.fixture
def directions() -> Tensor:
    """Random unit vectors and the six poles, where angles would be singular."""
    torch.manual_seed(0)
    random = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=1)
    poles = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    return torch.cat([random, poles])


@pytest.mark.parametrize("max_degree", range(9))
def test_harmonics_are_those_of_e3nn(max_degree: int, directions: Tensor) -> None:
    ours = SphericalHarmonics(max_degree).double()(directions)
    theirs = o3.spherical_harmonics(list(range(max_degree + 1)), directions, normalize=True, normalization="component")
    assert ours.shape == (len(directions), (max_degree + 1) ** 2)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


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

"""Coupling coefficients against cuequivariance, against rotations, and their refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from e3nn import o3
from torch import Tensor

from equinet.ops.coupling.clebsch_gordan import clebsch_gordan
from equinet.ops.coupling.quadrature import gauss_legendre
from equinet.ops.coupling.rotations import wigner_matrices
from equinet.ops.factorised.algebra import harmonics_at

TRIANGLES = [(l1, l2, l3) for l1 in range(5) for l2 in range(5) for l3 in range(abs(l1 - l2), min(l1 + l2, 4) + 1)]


def test_couplings_are_those_of_cuequivariance() -> None:
    cue = pytest.importorskip("cuequivariance", reason="the independent source of couplings is not installed")
    for l1, l2, l3 in TRIANGLES:
        (theirs,) = cue.clebsch_gordan(cue.O3(l1, (-1) ** l1), cue.O3(l2, (-1) ** l2), cue.O3(l3, (-1) ** (l1 + l2)))
        ours = clebsch_gordan(l1, l2, l3)
        # cuequivariance orders degree 1 as m = -1, 0, 1 too, which in e3nn's axes is x, y, z: nothing to permute.
        torch.testing.assert_close(ours, torch.from_numpy(theirs) / math.sqrt(2 * l3 + 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("l1", "l2", "l3"), TRIANGLES)
def test_a_coupling_is_unchanged_when_all_three_legs_turn(
    l1: int, l2: int, l3: int, representation: Callable[[str, Tensor], Tensor]
) -> None:
    torch.manual_seed(l1 + 5 * l2 + 25 * l3)
    matrix = o3.rand_matrix(dtype=torch.float64)
    turn = [representation(f"{l}e", matrix) for l in (l1, l2, l3)]
    coupling = clebsch_gordan(l1, l2, l3)
    turned = torch.einsum("ijk,ai,bj,ck->abc", coupling, *turn)
    torch.testing.assert_close(turned, coupling, rtol=0, atol=1e-10)  # e3nn goes through angles, by acos


@pytest.mark.parametrize(("l1", "l2", "l3"), TRIANGLES)
def test_outputs_of_a_coupling_are_orthogonal_and_share_a_unit_norm(l1: int, l2: int, l3: int) -> None:
    coupling = clebsch_gordan(l1, l2, l3)
    gram = torch.einsum("ijk,ijm->km", coupling, coupling)
    torch.testing.assert_close(gram, torch.eye(2 * l3 + 1).double() / (2 * l3 + 1), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("l1", "l2", "l3"), [(11, 11, 11), (11, 10, 10), (3, 11, 9), (11, 6, 5), (7, 8, 11)])
def test_couplings_up_to_degree_11_are_those_of_e3nn(l1: int, l2: int, l3: int) -> None:
    torch.testing.assert_close(
        clebsch_gordan(l1, l2, l3), o3.wigner_3j(l1, l2, l3, dtype=torch.float64), rtol=0, atol=1e-14
    )


HIGH = [(12, 12, 12), (20, 1, 19), (20, 20, 1), (13, 9, 20), (20, 20, 20), (17, 12, 6)]


@pytest.mark.parametrize(("l1", "l2", "l3"), HIGH)
def test_couplings_up_to_degree_20_are_unchanged_when_all_three_legs_turn(l1: int, l2: int, l3: int) -> None:
    turn = turns_by_quadrature(20)
    coupling = clebsch_gordan(l1, l2, l3)
    turned = torch.einsum("ijk,ai,bj,ck->abc", coupling, turn[l1], turn[l2], turn[l3])
    torch.testing.assert_close(turned, coupling, rtol=0, atol=1e-13)
    gram = torch.einsum("ijk,ijm->km", coupling, coupling) * (2 * l3 + 1)
    torch.testing.assert_close(gram, torch.eye(2 * l3 + 1).double(), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("l1", "l2", "l3"), [degrees for degrees in HIGH if sum(degrees) % 2 == 0])
def test_couplings_of_even_sums_are_integrals_of_three_harmonics_with_the_sign_plus(l1: int, l2: int, l3: int) -> None:
    rule = gauss_legendre(l1 + l2 + l3)
    y = harmonics_at(rule.points, 20)
    parts = [y[:, l * l : (l + 1) ** 2] for l in (l1, l2, l3)]
    integral = torch.einsum("g,gi,gj,gk->ijk", torch.tensor(rule.weights), *parts)
    torch.testing.assert_close(integral / integral.norm(), clebsch_gordan(l1, l2, l3), rtol=0, atol=1e-12)


def turns_by_quadrature(highest: int) -> list[Tensor]:
    """Wigner matrices of one rotation from what defines them, Y(R r) = D Y(r)."""
    rotation = torch.linalg.qr(torch.tensor([[1.0, 2, 3], [-1, 4, 1], [0, 1, -2]], dtype=torch.float64))[0]
    rotation = rotation * rotation.det()
    rule = gauss_legendre(2 * highest)
    before = harmonics_at(rule.points, highest) * torch.tensor(rule.weights / (4 * math.pi)).unsqueeze(1)
    after = harmonics_at(rule.points @ rotation.numpy().T, highest)
    return [after[:, l * l : (l + 1) ** 2].T @ before[:, l * l : (l + 1) ** 2] for l in range(highest + 1)]


@pytest.mark.parametrize("max_degree", [0, 1, 5, 20])
def test_wigner_matrices_are_those_that_turn_harmonics(max_degree: int) -> None:
    expected = turns_by_quadrature(max_degree)
    rotation = turns_by_quadrature(1)[1]
    found = wigner_matrices(rotation, max_degree)
    assert len(found) == max_degree + 1
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_wigner_matrices_of_a_product_are_products_and_of_none_are_none() -> None:
    torch.manual_seed(0)
    a, b = torch.linalg.qr(torch.randn(2, 3, 3, dtype=torch.float64))[0]
    a, b = a * a.det(), b * b.det()
    for of_a, of_b, of_both in zip(*(wigner_matrices(each, 6) for each in (a, b, a @ b))):
        torch.testing.assert_close(of_a @ of_b, of_both, rtol=0, atol=1e-12)
    assert wigner_matrices(torch.zeros(0, 3, 3), 2)[2].shape == (0, 5, 5)


def test_wigner_matrices_have_derivatives() -> None:
    rotation = turns_by_quadrature(1)[1].requires_grad_()
    assert torch.autograd.gradcheck(lambda r: wigner_matrices(r, 4)[4], rotation)
    assert torch.autograd.gradgradcheck(lambda r: wigner_matrices(r, 3)[3], rotation)


def test_a_negative_degree_has_no_wigner_matrices() -> None:
    with pytest.raises(ValueError, match="`max_degree` must be 0 or more, got -1"):
        wigner_matrices(torch.eye(3), -1)


def test_what_orders_forbid_is_exactly_zero() -> None:
    coupling = clebsch_gordan(6, 5, 7)
    orders = [torch.arange(-l, l + 1).abs() for l in (6, 5, 7)]
    m1, m2, m3 = torch.meshgrid(*orders, indexing="ij")
    allowed = (m3 == m1 + m2) | (m3 == (m1 - m2).abs())
    assert not coupling[~allowed].any()


def test_two_vectors_couple_to_their_scalar_and_their_cross_product() -> None:
    a, b = torch.tensor([[1.0, 2.0, 3.0], [-2.0, 0.5, 4.0]], dtype=torch.float64)
    scalar = torch.einsum("ijk,i,j->k", clebsch_gordan(1, 1, 0), a, b)
    vector = torch.einsum("ijk,i,j->k", clebsch_gordan(1, 1, 1), a, b)
    torch.testing.assert_close(scalar * math.sqrt(3), torch.dot(a, b)[None], rtol=1e-13, atol=0)
    torch.testing.assert_close(vector * math.sqrt(6), torch.linalg.cross(a, b), rtol=1e-13, atol=1e-13)


def test_the_caller_may_change_what_it_got() -> None:
    expected = clebsch_gordan(1, 1, 2).clone()
    clebsch_gordan(1, 1, 2).zero_()
    assert torch.equal(clebsch_gordan(1, 1, 2), expected)


def test_coefficients_are_double_whatever_the_default_is() -> None:
    assert clebsch_gordan(2, 2, 2).dtype == torch.float64


@pytest.mark.parametrize(("l3", "message"), [(3, "degrees 1 and 1 couple to 0..2, not to 3"), (-1, "not to -1")])
def test_degrees_that_do_not_form_a_triangle_are_refused(l3: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clebsch_gordan(1, 1, l3)

"""Coupling coefficients against cuequivariance, against rotations, and their refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from e3nn import o3
from torch import Tensor

from equinet.ops.coupling.clebsch_gordan import clebsch_gordan

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

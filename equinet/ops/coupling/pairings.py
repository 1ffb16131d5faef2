r"""Couplings of a product of two inputs and their strengths: the tensor behind every method.

Whatever a method does on a grid, a torus or with matrices, what it computes of two inputs is

.. math:: z^{l_3}_k = \sum_{l_1 l_2} t(l_1, l_2, l_3) \sum_{ij} C^{l_1 l_2 l_3}_{ijk} \, x^{l_1}_i y^{l_2}_j

with C of unit Frobenius norm, because an equivariant map from :math:`l_1 \otimes l_2` to :math:`l_3` is C times a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor

from equinet.ops.layout import one_of_each
from equinet.ops.spec import TensorProductSpec

from .clebsch_gordan import clebsch_gordan
from .wigner import six_j, three_j

# Degrees of two inputs and of the output -> t.
Pairing = Callable[[int, int, int], float]


def gaunt(l1: int, l2: int, l3: int) -> float:
    r"""Pointwise product of functions on the sphere, with harmonics normalised to :math:`\int Y^2 = 4\pi` ("component").

    .. math:: \gamma = \sqrt{(2l_1+1)(2l_2+1)(2l_3+1)} \; \lvert (l_1\,l_2\,l_3;\,0\,0\,0) \rvert

    Zero for odd :math:`l_1+l_2+l_3`.

    Source:
        Gaunt 1929; Luo et al. 2024, arXiv 2401.10216, eq. 5; the sign is + in e3nn's convention.
    """
    return math.sqrt((2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1)) * abs(three_j(l1, l2, l3, 0, 0, 0))


def bracket(l1: int, l2: int, l3: int) -> float:
    r"""Surface bracket :math:`\hat r \cdot (\nabla F \times \nabla G)` with gradients scaled by :math:`1/\sqrt{l(l+1)}`.

    .. math:: \kappa = \sqrt{(2l_1+1)(2l_2+1)(2l_3+1)} \; \lvert (l_1\,l_2\,l_3;\,1\,{-1}\,0) \rvert

    for odd :math:`l_1+l_2+l_3` and zero for even, so that it has exactly the couplings that :func:`gaunt` lacks.

    Source:
        The vector-signal product of Xie et al. 2025, arXiv 2506.13523, for the gradients of two scalar signals; closed form
        as for spin-weighted harmonics, Varshalovich et al. 1988, section 5.9.
    """
    if (l1 + l2 + l3) % 2 == 0:
        return 0.0
    return math.sqrt((2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1)) * abs(three_j(l1, l2, l3, 1, -1, 0))


def matrix(degree: int) -> Pairing:
    r"""Product of square matrices of size 2 degree + 1 that hold every irrep up to twice the degree.

    .. math:: (-1)^{l_3} \sqrt{(2\tilde l+1)(2l_1+1)(2l_2+1)(2l_3+1)} \;
              \{l_1\,l_2\,l_3;\,\tilde l\,\tilde l\,\tilde l\}

    so that 1 times x is x. Even sums come from the anticommutator and odd ones from the commutator; a
    few 6j symbols vanish by accident.

    Source:
        Unke and Maennel 2024 (e3x), arXiv 2401.07595.
    """

    def strength(l1: int, l2: int, l3: int) -> float:
        found = six_j(l1, l2, l3, degree, degree, degree)
        return (-1) ** l3 * math.sqrt((2 * l1 + 1) * (2 * l2 + 1) * (2 * l3 + 1) * (2 * degree + 1)) * found

    return strength


def uniform(l1: int, l2: int, l3: int) -> float:
    """Every coupling with the same strength: the tensor that a CP decomposition approximates."""
    return 1.0 if abs(l1 - l2) <= l3 <= l1 + l2 else 0.0


def dense_tensor(
    irreps1: o3.Irreps, irreps2: o3.Irreps, irreps_out: o3.Irreps, pairing: Pairing
) -> Float[Tensor, "dim1 dim2 dim_out"]:
    """The tensor of a pairing between one copy of each irrep, couplings that parity allows only, float64."""
    irreps1, irreps2, irreps_out = one_of_each(irreps1), one_of_each(irreps2), one_of_each(irreps_out)
    tensor = torch.zeros(irreps1.dim, irreps2.dim, irreps_out.dim, dtype=torch.float64)
    for s1, (_, ir1) in zip(irreps1.slices(), irreps1):
        for s2, (_, ir2) in zip(irreps2.slices(), irreps2):
            for s3, (_, out) in zip(irreps_out.slices(), irreps_out):
                if out in ir1 * ir2:
                    tensor[s1, s2, s3] = pairing(ir1.l, ir2.l, out.l) * clebsch_gordan(ir1.l, ir2.l, out.l)
    return tensor


def reached_outputs(spec: TensorProductSpec, pairing: Pairing) -> o3.Irreps:
    """The outputs of ``spec`` that some path with non-zero strength ends in, one of each, in order."""
    reached = {path.out for path, t in zip(spec.paths, _strengths(spec, pairing)) if t != 0}
    return o3.Irreps([(1, out) for out in spec.paths_per_output if out in reached])


def output_scales(spec: TensorProductSpec, pairing: Pairing) -> Float[Tensor, " dim_out"]:
    """Factors for the components of a pairing's result by which unit-variance inputs give unit variance.

    Rows are those of :func:`reached_outputs`. A path of strength t adds t^2 / (2 l + 1) to the variance of a component.
    """
    squares = {out: 0.0 for _, out in reached_outputs(spec, pairing)}
    for path, t in zip(spec.paths, _strengths(spec, pairing)):
        if path.out in squares:
            squares[path.out] += t * t
    scales = [math.sqrt(out.dim / square) for out, square in squares.items() for _ in range(out.dim)]
    return torch.tensor(scales, dtype=torch.float64)


def _strengths(spec: TensorProductSpec, pairing: Pairing) -> list[float]:
    return [pairing(spec.irreps_in1[path.i1].ir.l, spec.irreps_in2[path.i2].ir.l, path.out.l) for path in spec.paths]


def first_unreached(spec: TensorProductSpec, *pairings: Pairing) -> str | None:
    """The first path of ``spec`` that none of the pairings has, in words, e.g. ``1o x 1o -> 1e``; None if all are there."""
    for n, path in enumerate(spec.paths):
        if all(_strengths(spec, pairing)[n] == 0 for pairing in pairings):
            return f"{spec.irreps_in1[path.i1].ir} x {spec.irreps_in2[path.i2].ir} -> {path.out}"
    return None

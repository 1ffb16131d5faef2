"""Bases of equivariant polynomials: every way to multiply nu copies of one feature vector into an irrep."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cache

import numpy as np
from e3nn import o3
from numpy.typing import NDArray

from .clebsch_gordan import clebsch_gordan

# Relative size below which a candidate is counted as a combination of those before it. Candidates are sums of a few
# products of coupling coefficients, so true combinations leave about 1e-15 and new ones more than 1e-2.
INDEPENDENT = 1e-7


@dataclass(frozen=True)
class Covariants:
    r"""Polynomials of one degree nu with values in one irrep.

    .. math:: P^\eta_k(x) = \sum_M \mathrm{coefficients}[\eta, k, M] \prod_{i \in \mathrm{monomials}[M]} x_i

    Attributes:
        coefficients: ``(polynomials, 2l + 1, monomials)``, float64.
        contents: For each polynomial the degrees of its factors, ascending, e.g. ``(1, 1, 2)``.
    """

    coefficients: NDArray[np.float64]
    contents: tuple[tuple[int, ...], ...]


def monomials(variables: int, degree: int) -> NDArray[np.int64]:
    """All products of ``degree`` variables: ascending index tuples, ``(monomials, degree)``, in lexicographic order."""
    tuples = list(itertools.combinations_with_replacement(range(variables), degree))
    return np.array(tuples, dtype=np.int64).reshape(len(tuples), degree)


def multiplicities(variables: int, degree: int) -> NDArray[np.float64]:
    """For each monomial the number of ordered tuples it stands for, e.g. 2 for x0 x1 and 1 for x0 x0."""
    return np.array(
        [
            math.factorial(degree) / math.prod(math.factorial(row.count(i)) for i in set(row))
            for row in map(tuple, monomials(variables, degree).tolist())
        ]
    )


@cache
def covariants(irreps_in: o3.Irreps, degree: int, max_l: int) -> dict[o3.Irrep, Covariants]:
    r"""Orthonormal bases of the equivariant homogeneous polynomials of ``degree``, by output irrep up to ``max_l``.

    Degree nu is made by coupling each covariant of degree nu - 1 with one more factor, of a degree not below those
    already there, and dropping what is a combination of earlier ones (Gram-Schmidt in a fixed order, so that the basis
    is the same on every machine and may be named by saved weights). Polynomials commute, so symmetry under exchange of
    the factors comes by itself.

    The norm is chosen so that independent unit-variance inputs give :math:`\sum_k \mathrm{Var}\,P_k = 2 l + 1` when no
    factor is contracted with another: the symmetric tensor of a polynomial has Frobenius norm
    :math:`\sqrt{(2 l + 1) / \nu!}`.

    Args:
        irreps_in: Irreps of the variables, each once, in order; multiplicities are ignored.
        degree: nu, 1 or more.
        max_l: Highest output degree l wanted.

    Source:
        ACE, Drautz 2019 and Dusson et al. 2022 (arXiv 1911.03550), sec. 3.3; here reduced to a basis.
    """
    irreps = o3.Irreps([(1, ir) for _, ir in irreps_in])
    if degree == 1:
        result = {}
        for part, (_, ir) in zip(irreps.slices(), irreps):
            coefficients = np.zeros((1, ir.dim, irreps.dim))
            coefficients[0, :, part] = np.eye(ir.dim)
            result[ir] = Covariants(coefficients, ((ir.l,),))
        return {ir: basis for ir, basis in result.items() if ir.l <= max_l}

    candidates: dict[o3.Irrep, list[tuple[tuple[int, ...], NDArray[np.float64]]]] = defaultdict(list)
    index_of = {row: n for n, row in enumerate(map(tuple, monomials(irreps.dim, degree).tolist()))}
    lower = monomials(irreps.dim, degree - 1).tolist()
    # product[M, i]: the monomial that monomial M of the lower degree becomes when multiplied by variable i
    product = np.array([[index_of[tuple(sorted([*row, i]))] for i in range(irreps.dim)] for row in lower])
    reachable = max_l + irreps.lmax  # an intermediate above this cannot come back down with one more factor
    for ir1, covariant in sorted(covariants(irreps, degree - 1, reachable).items()):
        for coefficients, content in zip(covariant.coefficients, covariant.contents):
            for part, (_, ir2) in zip(irreps.slices(), irreps):
                if ir2.l < content[-1]:
                    continue
                for ir in (ir for ir in ir1 * ir2 if ir.l <= max_l):
                    coupling = clebsch_gordan(ir1.l, ir2.l, ir.l).numpy()
                    values = np.zeros((ir.dim, len(index_of)))
                    for b, target in enumerate(product[:, part].T):  # one variable takes monomials to distinct ones
                        values[:, target] += coupling[:, b].T @ coefficients
                    candidates[ir].append(((*content, ir2.l), values))

    weight = 1 / np.sqrt(multiplicities(irreps.dim, degree))  # monomial coefficients -> symmetric tensor's norm
    return {ir: basis for ir, found in sorted(candidates.items()) if (basis := _orthonormal(found, weight, ir, degree))}


def _orthonormal(
    candidates: list[tuple[tuple[int, ...], NDArray[np.float64]]],
    weight: NDArray[np.float64],
    ir: o3.Irrep,
    degree: int,
) -> Covariants | None:
    """Gram-Schmidt within each content (different contents share no monomial and are orthogonal already)."""
    kept: list[tuple[tuple[int, ...], NDArray[np.float64]]] = []
    for content, values in candidates:
        vector = (values * weight).ravel()
        size = np.linalg.norm(vector)
        if size < INDEPENDENT:
            continue
        vector /= size
        peers = [other for other_content, other in kept if other_content == content]
        for _ in range(2):  # twice is enough for orthogonality to rounding (Kahan, Parlett)
            for other in peers:
                vector = vector - (other @ vector) * other
        size = np.linalg.norm(vector)
        if size > INDEPENDENT:
            kept.append((content, vector / size))
    if not kept:
        return None
    kept.sort(key=lambda item: item[0])
    scale = math.sqrt(ir.dim / math.factorial(degree))
    coefficients = np.stack([vector.reshape(ir.dim, -1) / weight * scale for _, vector in kept])
    return Covariants(coefficients, tuple(content for content, _ in kept))

"""The product of matrices that hold irreps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from e3nn import o3

from equinet.ops.coupling.pairings import Pairing, matrix
from equinet.ops.factorised.algebra import Algebra, Matrices
from equinet.ops.factorised.chains import AlgebraChain, Chain, DenseChain
from equinet.ops.layout import one_of_each
from equinet.ops.spec import ManyBodySpec

from .factorised import FactorisedMethod, Product


def matrix_degree(highest: int) -> int:
    """The degree whose square holds every irrep up to ``highest``; the matrices have twice that and one rows."""
    return math.ceil(highest / 2)


@dataclass(frozen=True, kw_only=True)
class MatrixProduct(FactorisedMethod):
    """Irreps as square matrices, multiplied as matrices (e3x's fused product).

    Degrees up to 2 n fill a matrix of 2 n + 1 rows. The anticommutator gives even and the commutator odd paths, with 6j
    symbols for strengths; a few of them vanish, and a spec that has such a path is refused.

    Args:
        copies, weights, backend: See :class:`equinet.ops.methods.factorised.FactorisedMethod`.

    Source:
        Unke and Maennel 2024 (e3x), arXiv 2401.07595.
    """

    def products(self) -> tuple[Product, ...]:
        return (OfMatrices(),)

    def why_not(self, path: str) -> str:
        return f"the 6j symbol of {path} vanishes at this size of matrix; ClebschGordan() has every path"


@dataclass(frozen=True)
class OfMatrices(Product):
    """Products of matrices of one size."""

    def commutes(self, spec: ManyBodySpec) -> bool:
        return False

    def pairing(self, highest: int) -> Pairing:
        return matrix(matrix_degree(highest))

    def algebra(self, irreps1: o3.Irreps, irreps2: o3.Irreps, irreps_out: o3.Irreps) -> Algebra:
        return Matrices(irreps1, irreps2, irreps_out)

    def chain(self, spec: ManyBodySpec) -> Chain:
        factor, out = one_of_each(spec.irreps_in), one_of_each(spec.irreps_out)
        return AlgebraChain(Matrices(factor, factor, out))

    def reference_chain(self, spec: ManyBodySpec) -> Chain:
        degree = matrix_degree(max(spec.irreps_in.lmax, spec.irreps_out.lmax))
        return DenseChain(spec, matrix(degree), keep=lambda ir: ir.l <= 2 * degree)

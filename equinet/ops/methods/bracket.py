"""The surface bracket of functions on the sphere, which has the paths that products value by value lack."""

from __future__ import annotations

from dataclasses import dataclass

from e3nn import o3

from equinet.ops.coupling.pairings import Pairing, bracket, gaunt
from equinet.ops.coupling.quadrature import smallest_rule, smallest_rule_in_pairs
from equinet.ops.factorised.algebra import Algebra
from equinet.ops.factorised.chains import Chain, DenseChain
from equinet.ops.factorised.sphere import BracketChain, bracket_algebra
from equinet.ops.layout import one_of_each
from equinet.ops.spec import ManyBodySpec

from .factorised import FactorisedMethod, Product


@dataclass(frozen=True, kw_only=True)
class Bracket(FactorisedMethod):
    r"""The surface bracket :math:`\hat r \cdot (\nabla F \times \nabla G)`: the paths with odd l1 + l2 + l3, and only those.

    The vector-signal product of Xie et al. in its cheapest form, for gradients of scalar signals. Of true tensors it makes
    pseudotensors: of two vectors the cross product. In the many-body product it is the bracket of the features in two
    different weightings, times further factors.

    Args:
        copies, weights, backend: See :class:`equinet.ops.methods.factorised.FactorisedMethod`.

    Source:
        Xie et al. 2025, arXiv 2506.13523.
    """

    def products(self) -> tuple[Product, ...]:
        return (OfGradients(),)

    def why_not(self, path: str) -> str:
        return (
            f"{path} has even l1 + l2 + l3, and the surface bracket has odd paths only; GauntGrid(bracket=True) "
            "(`bracket = true`) has both"
        )


@dataclass(frozen=True)
class OfGradients(Product):
    """Surface bracket on an exact quadrature rule; a gradient takes one degree off the integrand."""

    def commutes(self, spec: ManyBodySpec) -> bool:
        return False

    def pairing(self, highest: int) -> Pairing:
        return bracket

    def algebra(self, irreps1: o3.Irreps, irreps2: o3.Irreps, irreps_out: o3.Irreps) -> Algebra:
        rule = smallest_rule(max(irreps1.lmax + irreps2.lmax - 1, 0) + irreps_out.lmax)
        return bracket_algebra(irreps1, irreps2, irreps_out, rule)

    def chain(self, spec: ManyBodySpec) -> Chain:
        factor, out = one_of_each(spec.irreps_in), one_of_each(spec.irreps_out)
        return BracketChain(factor, out, smallest_rule(self._degree(spec)))

    def streamed_chain(self, spec: ManyBodySpec) -> Chain:
        factor, out = one_of_each(spec.irreps_in), one_of_each(spec.irreps_out)
        degree = self._degree(spec)
        return BracketChain(factor, out, smallest_rule(degree), smallest_rule_in_pairs(degree))

    def _degree(self, spec: ManyBodySpec) -> int:
        return max(spec.correlation * spec.irreps_in.lmax - 1, 0) + spec.irreps_out.lmax

    def reference_chain(self, spec: ManyBodySpec) -> Chain:
        return DenseChain(spec, bracket, gaunt)

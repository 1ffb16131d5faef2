"""Gaunt products: functions on the sphere multiplied value by value, on its points or on a torus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from e3nn import o3

from equinet.ops.coupling.pairings import Pairing, gaunt
from equinet.ops.coupling.quadrature import smallest_rule, smallest_rule_in_pairs
from equinet.ops.factorised.algebra import Algebra, Pointwise
from equinet.ops.factorised.chains import AlgebraChain, Chain, DenseChain, PointKernels
from equinet.ops.factorised.sphere import SeparableSphere, gaunt_algebra
from equinet.ops.factorised.torus import Torus
from equinet.ops.layout import one_of_each
from equinet.ops.spec import ManyBodySpec

from .arguments import require_one_of
from .bracket import OfGradients
from .factorised import FactorisedMethod, Product

# From this degree of the integrand on, transforming one angle after the other takes fewer operations.
SEPARABLE_FROM = 15


@dataclass(frozen=True, kw_only=True)
class GauntGrid(FactorisedMethod):
    """Gaunt product: pointwise, on the points of the smallest exact quadrature rule of the sphere.

    The rule integrates degree l1 + l2 + l3 (of nu factors nu l + l_out) exactly, so that the product is equivariant to
    rounding: 6, 12, 24, 32, 50 or 72 points up to degree 14, then Lebedev's rules. It has the paths with even l1 + l2 + l3, all
    there are between true tensors. A path's weight is a product of one number for each of its degrees, and with R copies
    a sum of R such products; two restore every path of MACE's second convolution (``weights="degrees"``).

    Args:
        bracket: Also multiply by the surface bracket, for the paths with odd l1 + l2 + l3, with weights of its own.
        transform: ``"dense"``: a matrix. ``"separable"``: latitudes and longitudes one after the other, on a Gauss-Legendre
            grid. ``"auto"``: separable from degree 15 of the integrand on, but for kernels on GPUs, which have no such form.
        copies, weights, backend: See :class:`equinet.ops.methods.factorised.FactorisedMethod`.

    Source:
        Xie et al. 2025, arXiv 2506.13523; Luo et al. 2024, arXiv 2401.10216.
    """

    bracket: bool = False
    transform: Literal["auto", "dense", "separable"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("transform", self.transform, ("auto", "dense", "separable"))
        if not isinstance(self.bracket, bool):
            raise ValueError(f"`bracket` must be true or false, got {self.bracket!r}")

    def products(self) -> tuple[Product, ...]:
        even = OnSphere(self.transform)
        return (even, OfGradients()) if self.bracket else (even,)

    def why_not(self, path: str) -> str:
        return ODD_PATH.format(path=path)


@dataclass(frozen=True, kw_only=True)
class GauntFourier(FactorisedMethod):
    """Gaunt product through the two-dimensional Fourier series of functions on the sphere, by fast Fourier transforms.

    The same function of the same weights as :class:`GauntGrid`; only the way differs.

    Args:
        copies, weights, backend: See :class:`equinet.ops.methods.factorised.FactorisedMethod`.

    Source:
        Luo et al. 2024, arXiv 2401.10216, section 3.2.
    """

    def products(self) -> tuple[Product, ...]:
        return (OnTorus(),)

    def why_not(self, path: str) -> str:
        return ODD_PATH.format(path=path)


ODD_PATH = (
    "{path} has odd l1 + l2 + l3, and pointwise products on the sphere have even paths only; GauntGrid(bracket=True) "
    "(`bracket = true`) has both"
)


@dataclass(frozen=True)
class OnSphere(Product):
    """Pointwise product on an exact quadrature rule."""

    transform: str

    def pairing(self, highest: int) -> Pairing:
        return gaunt

    def algebra(self, irreps1: o3.Irreps, irreps2: o3.Irreps, irreps_out: o3.Irreps) -> Algebra:
        return self._algebra(irreps1, irreps2, irreps_out, irreps1.lmax + irreps2.lmax + irreps_out.lmax)

    def chain(self, spec: ManyBodySpec) -> Chain:
        factor, out = one_of_each(spec.irreps_in), one_of_each(spec.irreps_out)
        return AlgebraChain(self._algebra(factor, factor, out, spec.correlation * factor.lmax + out.lmax))

    def streamed_chain(self, spec: ManyBodySpec) -> Chain:
        if self.transform == "separable":
            return self.chain(spec)
        factor, out = one_of_each(spec.irreps_in), one_of_each(spec.irreps_out)
        degree = spec.correlation * factor.lmax + out.lmax
        points = gaunt_algebra(factor, factor, out, smallest_rule_in_pairs(degree))
        return AlgebraChain(self._algebra(factor, factor, out, degree), PointKernels(points, factor, out))

    def _algebra(self, irreps1: o3.Irreps, irreps2: o3.Irreps, irreps_out: o3.Irreps, degree: int) -> Pointwise:
        if self.transform == "separable" or (self.transform == "auto" and degree >= SEPARABLE_FROM):
            return SeparableSphere(irreps1, irreps2, irreps_out, degree)
        return gaunt_algebra(irreps1, irreps2, irreps_out, smallest_rule(degree))

    def reference_chain(self, spec: ManyBodySpec) -> Chain:
        return DenseChain(spec, gaunt)


@dataclass(frozen=True)
class OnTorus(Product):
    """Pointwise product by fast Fourier transforms."""

    def pairing(self, highest: int) -> Pairing:
        return gaunt

    def algebra(self, irreps1: o3.Irreps, irreps2: o3.Irreps, irreps_out: o3.Irreps) -> Algebra:
        return Torus(irreps1, irreps2, irreps_out)

    def chain(self, spec: ManyBodySpec) -> Chain:
        factor, out = one_of_each(spec.irreps_in), one_of_each(spec.irreps_out)
        return AlgebraChain(Torus(factor, factor, out, spec.correlation))

    def reference_chain(self, spec: ManyBodySpec) -> Chain:
        return DenseChain(spec, gaunt)

    def calibration_chain(self, spec: ManyBodySpec) -> Chain:
        return OnSphere("auto").chain(spec)  # the same function, on many fewer points

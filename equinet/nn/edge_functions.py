"""Functions of an edge vector: spherical harmonics, length, radial basis, envelope."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn

from equinet.ops.codegen import scalars
from equinet.ops.codegen.scalars import Number
from equinet.ops.harmonics import SphericalHarmonics
from equinet.ops.kernels.row import operator as row
from equinet.ops.kernels.row.code import RowFunction

from .radial import BesselBasis, PolynomialEnvelope


class EdgeFunctions(nn.Module):
    r"""Fixed functions of every edge vector, in one sweep where there is code for it (:mod:`equinet.ops.kernels.row.operator`).

    Args:
        max_degree: Max degree of the harmonics.
        cutoff: Cutoff in Å.
        bessel: Number of Bessel functions.
        power: Power of the envelope.
        enveloped: True if the Bessel functions are multiplied by the envelope.
        of_length: True if the Bessel functions are those of the length; if not, there are none here.

    Attributes:
        name: Name of the functions, as operators take it.
    """

    def __init__(
        self, *, max_degree: int, cutoff: float, bessel: int, power: int, enveloped: bool, of_length: bool = True
    ) -> None:
        super().__init__()
        self.harmonics = SphericalHarmonics(max_degree)
        self.basis = BesselBasis(cutoff, bessel)
        self.envelope = PolynomialEnvelope(cutoff, power)
        self.enveloped, self.of_length = enveloped, of_length
        self.name = f"edge {max_degree} {bessel * of_length} {cutoff!r} {power} {int(enveloped)}"

    def forward(self, vectors: Float[Tensor, "rows 3"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Lengths ``(rows, 1)`` in Å, harmonics ``(rows, (max_degree + 1)²)``, Bessel functions, envelope ``(rows, 1)``.

        Args:
            vectors: Vectors in Å, none of length zero.
        """
        if row.rows_run_on(vectors):
            lengths, attrs, feats, envelope = row.row_value(vectors, self.name)
        else:
            lengths, attrs, feats, envelope = self.formula(vectors)
        return lengths, attrs, feats, envelope

    def formula(self, vectors: Float[Tensor, "rows 3"]) -> list[Tensor]:
        """The same in torch."""
        lengths = vectors.norm(dim=1, keepdim=True)
        envelope = self.envelope(lengths)
        feats = self.radial(lengths, envelope) if self.of_length else lengths[:, :0]
        return [lengths, self.harmonics(vectors / lengths), feats, envelope]

    def radial(
        self, lengths: Float[Tensor, "rows 1"], envelope: Float[Tensor, "rows 1"]
    ) -> Float[Tensor, "rows bessel"]:
        """Bessel functions of ``lengths``, or of what stands for them, times the envelope if that belongs to them."""
        return self.basis(lengths) * envelope if self.enveloped else self.basis(lengths)


@row.family("edge")
def _function_of(name: str) -> RowFunction:
    degree, bessel, cutoff, power, enveloped = (
        kind(word) for kind, word in zip((int, int, float, int, int), name.split())
    )

    couplings = _couplings(degree)  # now, as a function may be asked for first by who only follows shapes

    def define(vector: list[Number]) -> list[Number]:
        length = scalars.square_root(sum((c * c for c in vector[1:]), vector[0] * vector[0]))
        inverse = scalars.reciprocal(length)
        envelope = _envelope(length * (1 / cutoff), power)
        basis = _bessel_functions(length, inverse, cutoff, bessel)
        if enveloped:
            basis = [each * envelope for each in basis]
        return [length, *_harmonics([c * inverse for c in vector], couplings, degree), *basis, envelope]

    return RowFunction(3, (1, (degree + 1) ** 2, bessel, 1), define)


def _couplings(max_degree: int) -> list[list[list[float]]]:
    """Coefficients of the recursion of :class:`SphericalHarmonics` for the degrees from 2 on, by component."""
    module = SphericalHarmonics(max_degree).double()
    return [getattr(module, f"coupling_{degree}").T.tolist() for degree in range(2, max_degree + 1)]


def _harmonics(unit: list[Number], couplings: list[list[list[float]]], max_degree: int) -> list[Number]:
    """The recursion of :class:`SphericalHarmonics`, without the zeros of its couplings."""
    found = [unit[0].program.constant(1.0)]
    of_degree = [c * math.sqrt(3) for c in unit]
    for degree in range(1, max_degree + 1):
        if degree > 1:
            products = [y * c for y in of_degree for c in unit]
            of_degree = [_combined(column, products) for column in couplings[degree - 2]]
        found += of_degree
    return found


def _combined(coefficients: list[float], numbers: list[Number]) -> Number:
    terms = [number * c for c, number in zip(coefficients, numbers) if abs(c) > 1e-12]
    return sum(terms[1:], terms[0])


def _bessel_functions(length: Number, inverse: Number, cutoff: float, count: int) -> list[Number]:
    """Sines of multiples of an angle, each from the one before: an n-th is as exact as n roundings."""
    if not count:
        return []
    program, angle = length.program, length * (math.pi / cutoff)
    sine, cosine = scalars.sine(angle), scalars.cosine(angle)
    sines, cosines = [sine], [cosine]
    for n in range(2, count + 1):
        sines.append(sines[-1] * cosine + cosines[-1] * sine)
        cosines.append(cosines[-1] * cosine - sines[-2] * sine)
        program.declare(sines[-1], angle, cosines[-1] * n)
        program.declare(cosines[-1], angle, sines[-1] * -n)
    return [each * (inverse * math.sqrt(2 / cutoff)) for each in sines]


def _envelope(x: Number, power: int) -> Number:
    """As in :func:`.radial.envelope`."""
    x = scalars.at_most_one(x)
    rest = x.program.constant(0.0)
    for k in reversed(range(power)):
        rest = rest * x + (k + 1) * (k + 2) / 2
    return (1 - x) ** 3 * rest

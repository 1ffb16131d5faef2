r"""Quadrature on the unit sphere: few points, positive weights, exact for polynomials up to a known degree.

A product of signals on the sphere is a sum over points,

.. math:: \int_{S^2} f \, d\Omega = \sum_g w_g \, f(\hat r_g), \qquad \deg f \le d,

and it is equivariant only if the rule is exact: degree :math:`l_1 + l_2 + l_3` for two signals and a harmonic of the
output. A rule one step too small does not lose a digit, it loses the symmetry.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np
from jaxtyping import Float64

Points = Float64[np.ndarray, "points 3"]
Matrices = Float64[np.ndarray, "elements 3 3"]
GOLDEN = (1 + math.sqrt(5)) / 2


@dataclass(frozen=True, eq=False)
class SphereRule:
    """Points and weights on the unit sphere. A rule is equal to itself only; its arrays are shared and read-only."""

    name: str
    """What the rule is called, e.g. ``"octahedron"``, ``"Lebedev 11"``, ``"Gauss-Legendre 5 x 9"``."""
    degree: int
    """Every polynomial up to this degree is integrated exactly; of degree ``degree + 1``, some are not."""
    points: Float64[np.ndarray, "points 3"] = field(repr=False)
    """Unit vectors, one per row, components x, y, z."""
    weights: Float64[np.ndarray, " points"] = field(repr=False)
    """Positive; their sum is the area of the sphere, 4 pi."""

    @property
    def in_pairs(self) -> bool:
        """True if every point has an opposite one with the same weight."""
        from scipy.spatial import KDTree

        distance, opposite = KDTree(self.points).query(-self.points)
        return bool(distance.max() < 1e-12 and np.allclose(self.weights[opposite], self.weights, rtol=1e-12, atol=0))


def smallest_rule(degree: int) -> SphereRule:
    """The rule of this ladder with the fewest points that is exact up to ``degree``; all weights are positive.

    ======================  ==============================  ============================
    exact to degree         rule                            points
    ======================  ==============================  ============================
    1                       antipodes                       2
    2                       tetrahedron (o)                 4
    3                       octahedron                      6
    5                       icosahedron                     12
    7                       twisted snub cube (o)           24
    9                       icosahedron and dodecahedron    32
    11                      Lebedev                         50
    14                      McLaren (o)                     72
    15, 17, 19, 21, 23      Lebedev                         86, 110, 146, 170, 194
    29, 31, 35, ..., 131    Lebedev                         302, 350, 434, ..., 5810
    any more                Gauss-Legendre                  ``(degree // 2 + 1) * (degree + 1)``
    ======================  ==============================  ============================

    A degree between two rows takes the lower row. Where no (o) stands, to degree 131, the points come in antipodal
    pairs of equal weight, and every odd degree vanishes by symmetry. Lebedev 13, 25 and 27 have negative weights and
    are not used; nor is an equiangular grid, which needs twice the latitudes.

    Args:
        degree: Highest degree of the integrand; for the Gaunt product of two signals, ``l1 + l2 + l3``.

    Returns:
        The rule; its ``degree`` may be higher than asked. The same object whenever the same rule answers.

    Raises:
        ValueError: If ``degree`` is negative.

    Source:
        24 points: Hardin and Sloane, Discrete Comput. Geom. 15, 429 (1996). 32 and 72 points: McLaren, Math. Comp. 17,
        361 (1963); Stroud, *Approximate Calculation of Multiple Integrals* (1971), formulas U3: 9-1 and 14-1.
        Lebedev and Laikov, Doklady Math. 59, 477 (1999), as in ``scipy.integrate.lebedev_rule``.

    >>> smallest_rule(8)
    SphereRule(name='icosahedron and dodecahedron', degree=9)
    """
    _check(degree)
    for exact_to, build in _LADDER:
        if exact_to >= degree:
            return build()
    return gauss_legendre(degree)


@cache
def smallest_rule_in_pairs(degree: int) -> SphereRule:
    """The rule with the fewest points that is exact up to ``degree`` and has with every point the one opposite.

    Functions that are even or odd under inversion need be known at half of them.

    Args:
        degree: Highest degree of the integrand.

    Returns:
        That of :func:`smallest_rule` or, where that is marked (o), the one of the next row.

    Raises:
        ValueError: If ``degree`` is negative.

    >>> smallest_rule_in_pairs(6)
    SphereRule(name='icosahedron and dodecahedron', degree=9)
    """
    _check(degree)
    for exact_to, build in _LADDER:
        if exact_to >= degree and (rule := build()).in_pairs:
            return rule
    return gauss_legendre(degree | 1)  # an even number of longitudes


def next_smaller_rule(degree: int) -> SphereRule | None:
    """The largest rule of :func:`smallest_rule` that is not exact up to ``degree``: what a product must not use.

    Args:
        degree: Highest degree of the integrand.

    Returns:
        A rule with fewer points than ``smallest_rule(degree)`` and a lower degree than asked; ``None`` below degree 2.

    Raises:
        ValueError: If ``degree`` is negative.
    """
    _check(degree)
    smaller = (smallest_rule(below) for below in range(degree - 1, -1, -1))
    return next((rule for rule in smaller if rule.degree < degree), None)


@cache
def gauss_legendre(degree: int) -> SphereRule:
    r"""The product rule: Gauss-Legendre in :math:`\cos\beta`, uniform in :math:`\alpha`, the fewest of either.

    The points are :math:`(\sin\beta \sin\alpha, \cos\beta, \sin\beta \cos\alpha)`, polar axis y as in e3nn, with
    ``degree // 2 + 1`` latitudes and ``degree + 1`` longitudes. Larger than :func:`smallest_rule`, but a harmonic on it
    is a function of latitude times one of longitude.

    Args:
        degree: Highest degree of the integrand.

    Returns:
        The rule, latitude slow and longitude fast: ``points.reshape(latitudes, longitudes, 3)``; y grows with the
        latitude's index, and the first longitude lies at x = 0, z > 0.

    Raises:
        ValueError: If ``degree`` is negative.

    Source:
        Atkinson, J. Austral. Math. Soc. B 23, 332 (1982).
    """
    _check(degree)
    latitudes, longitudes = degree // 2 + 1, degree + 1
    y, latitude_weights = np.polynomial.legendre.leggauss(latitudes)
    alpha = 2 * math.pi / longitudes * np.arange(longitudes)
    radius = np.sqrt((1 - y) * (1 + y))
    points = np.stack(
        [np.outer(radius, np.sin(alpha)), np.outer(y, np.ones(longitudes)), np.outer(radius, np.cos(alpha))], axis=2
    )
    weights = np.repeat(latitude_weights, longitudes)
    return _rule(f"Gauss-Legendre {latitudes} x {longitudes}", degree, points.reshape(-1, 3), weights)


def _check(degree: int) -> None:
    if degree < 0:
        raise ValueError(
            f"`degree` must be 0 or more, got {degree}; give the highest degree of the integrand, "
            "for a product of two signals l1 + l2 + l3"
        )


def _rule(name: str, degree: int, points: Points, weights: Float64[np.ndarray, " points"]) -> SphereRule:
    """Points brought to length one, weights to the area of the sphere."""
    points = points / np.linalg.norm(points, axis=1, keepdims=True)
    weights = weights * (4 * math.pi / math.fsum(weights))
    points.flags.writeable = weights.flags.writeable = False  # every caller gets the same arrays
    return SphereRule(name, degree, points, weights)


def _orbits(name: str, degree: int, *orbits: tuple[float, Points]) -> SphereRule:
    """A rule of several sets of points, each with the weight of one of its points, in any unit."""
    weights = np.concatenate([np.full(len(points), float(weight)) for weight, points in orbits])
    return _rule(name, degree, np.concatenate([points for _, points in orbits]), weights)


def _signed_permutations(permutations: Iterable[tuple[int, ...]]) -> Matrices:
    """The rotations among the given permutations of x, y, z with any signs."""
    signs = itertools.product([1.0, -1.0], repeat=3)
    matrices = np.stack([np.diag(s)[list(p)] for p, s in itertools.product(permutations, signs)])
    return matrices[np.linalg.det(matrices) > 0]


def _icosahedral_rotations() -> Matrices:
    """The 12 rotations of a tetrahedron times the 5 about a vertex of the icosahedron."""
    tetrahedral = _signed_permutations([(0, 1, 2), (1, 2, 0), (2, 0, 1)])
    # A fifth of a turn about (0, 1, GOLDEN).
    turn = np.array([[1 / GOLDEN, -GOLDEN, 1], [GOLDEN, 1, 1 / GOLDEN], [-1, 1 / GOLDEN, GOLDEN]]) / 2
    turns = np.stack([np.linalg.matrix_power(turn, n) for n in range(5)])
    return (tetrahedral[:, None] @ turns).reshape(-1, 3, 3)  # (60, 3, 3)


def _cyclic(b: float, c: float) -> Points:
    """The 12 cyclic permutations of (0, +-b, +-c); the icosahedron is (0, +-1, +-GOLDEN)."""
    return np.array([np.roll([0.0, s * b, t * c], n) for n in range(3) for s in (1, -1) for t in (1, -1)])


def _cube() -> Points:
    return np.array(list(itertools.product([1.0, -1.0], repeat=3)))


@cache
def _antipodes() -> SphereRule:
    return _orbits("antipodes", 1, (1, np.array([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])))


@cache
def _tetrahedron() -> SphereRule:
    cube = _cube()
    return _orbits("tetrahedron", 2, (1, cube[cube.prod(axis=1) > 0]))


@cache
def _octahedron() -> SphereRule:
    return _orbits("octahedron", 3, (1, np.concatenate([np.eye(3), -np.eye(3)])))


@cache
def _icosahedron() -> SphereRule:
    return _orbits("icosahedron", 5, (1, _cyclic(1, GOLDEN)))


@cache
def _twisted_snub_cube() -> SphereRule:
    rotations = _signed_permutations(itertools.permutations(range(3)))  # (24, 3, 3)
    # The squares are the roots of t^3 - t^2 + t/5 - 1/105: x^4 + y^4 + z^4 is 3/5 and x^2 y^2 z^2 is 1/105, their means.
    start = np.array([0.8662468181078205914, 0.4225186537611115291, 0.2666354015167047203])
    return _orbits("twisted snub cube", 7, (1, rotations @ start))


@cache
def _icosahedron_and_dodecahedron() -> SphereRule:
    dodecahedron = np.concatenate([_cube(), _cyclic(GOLDEN, 1 / GOLDEN)])
    return _orbits("icosahedron and dodecahedron", 9, (5 / 168, _cyclic(1, GOLDEN)), (9 / 280, dodecahedron))


@cache
def _mclaren() -> SphereRule:
    # Solved in 50 digits: with these weights, the icosahedral invariants of degree 6, 10 and 12 have their means.
    start = np.array([-0.1511082746645615755, 0.1552406000253160753, 0.9762513228834464698])
    orbit = _icosahedral_rotations() @ start
    return _orbits("McLaren", 14, (125 / 10080, _cyclic(1, GOLDEN)), (143 / 10080, orbit))


@cache
def _lebedev(degree: int) -> SphereRule:
    from scipy.integrate import lebedev_rule

    points, weights = lebedev_rule(degree)
    return _rule(f"Lebedev {degree}", degree, points.T, weights)


# Degree and number of points grow together, so the first rule that is exact is the smallest.
_LADDER: list[tuple[int, Callable[[], SphereRule]]] = [
    (1, _antipodes),
    (2, _tetrahedron),
    (3, _octahedron),
    (5, _icosahedron),
    (7, _twisted_snub_cube),
    (9, _icosahedron_and_dodecahedron),
    (11, partial(_lebedev, 11)),
    (14, _mclaren),
    *((degree, partial(_lebedev, degree)) for degree in (15, 17, 19, 21, 23, 29, 31, *range(35, 132, 6))),
]

"""Rules on the sphere against integrals known in closed form: moments, harmonics, and products of two harmonics."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from jaxtyping import Float64

from equinet.ops import SphericalHarmonics
from equinet.ops.coupling.quadrature import SphereRule, gauss_legendre, next_smaller_rule, smallest_rule

# Degree and points of every rule in use up to degree 35.
LADDER = {
    **{1: 2, 2: 4, 3: 6, 5: 12, 7: 24, 9: 32, 11: 50, 14: 72},
    **{15: 86, 17: 110, 19: 146, 21: 170, 23: 194, 29: 302, 31: 350, 35: 434},
}
WITHOUT_INVERSION = {2, 7, 14}
PRODUCT_DEGREES = [0, 1, 2, 3, 8, 9, 20]

RULES = [
    *(pytest.param(smallest_rule(degree), id=f"smallest-{degree}") for degree in LADDER),
    *(pytest.param(gauss_legendre(degree), id=f"product-{degree}") for degree in PRODUCT_DEGREES),
]


def harmonics(max_degree: int, rule: SphereRule) -> Float64[np.ndarray, "points harmonics"]:
    """Orthonormal on the sphere, by the recursion of the fully normalised Legendre functions; polar axis y."""
    x, y, z = rule.points.T
    sine, alpha = np.hypot(x, z), np.arctan2(x, z)
    columns: dict[tuple[int, int], np.ndarray] = {}
    diagonal = np.full(len(y), 1 / math.sqrt(4 * math.pi))
    for m in range(max_degree + 1):
        if m > 0:
            diagonal = diagonal * sine * math.sqrt((2 * m + 1) / (2 * m))
        below, now = np.zeros_like(y), diagonal
        for l in range(m, max_degree + 1):
            if l > m:
                a = math.sqrt((4 * l * l - 1) / (l * l - m * m))
                b = math.sqrt(((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1))
                below, now = now, a * (y * now - b * below)
            columns[l, m] = now * (math.sqrt(2) * np.cos(m * alpha) if m else 1)
            columns[l, -m] = now * (math.sqrt(2) * np.sin(m * alpha) if m else 1)
    return np.stack([columns[l, m] for l in range(max_degree + 1) for m in range(-l, l + 1)], axis=1)


def integrals(rule: SphereRule, max_degree: int) -> list[float]:
    """The largest integral among the harmonics of each degree; all but the first should vanish."""
    values = np.abs(rule.weights @ harmonics(max_degree, rule))
    return [float(values[l * l : (l + 1) ** 2].max()) for l in range(max_degree + 1)]


def moment(a: int, b: int, c: int) -> float:
    """The integral of x^a y^b z^c over the sphere."""
    if a % 2 or b % 2 or c % 2:
        return 0.0
    odd_factors = [math.prod(range(n - 1, 0, -2)) for n in (a, b, c)]
    return 4 * math.pi * math.prod(odd_factors) / math.prod(range(a + b + c + 1, 0, -2))


def test_the_harmonics_used_here_are_those_of_the_package() -> None:
    rule = smallest_rule(14)
    ours = SphericalHarmonics(8).double()(torch.tensor(rule.points)).numpy() / math.sqrt(4 * math.pi)
    np.testing.assert_allclose(harmonics(8, rule), ours, rtol=0, atol=1e-13)


@pytest.mark.parametrize("rule", RULES)
def test_the_points_lie_on_the_sphere_and_no_two_coincide(rule: SphereRule) -> None:
    assert rule.points.shape == (len(rule.weights), 3)
    np.testing.assert_allclose(np.linalg.norm(rule.points, axis=1), 1, rtol=0, atol=3e-16)
    cosines = rule.points @ rule.points.T - 2 * np.eye(len(rule.points))
    assert cosines.max() < 0.999


@pytest.mark.parametrize("rule", RULES)
def test_the_weights_are_positive_and_sum_to_the_area_of_the_sphere(rule: SphereRule) -> None:
    assert rule.weights.min() > 0
    assert math.fsum(rule.weights) == pytest.approx(4 * math.pi, rel=1e-15)


@pytest.mark.parametrize("rule", RULES)
def test_every_monomial_up_to_the_degree_has_its_integral(rule: SphereRule) -> None:
    powers = rule.points[:, :, None] ** np.arange(rule.degree + 1)  # (points, 3, power)
    for a, b in itertools.product(range(rule.degree + 1), repeat=2):
        for c in range(rule.degree + 1 - a - b):
            value = rule.weights @ (powers[:, 0, a] * powers[:, 1, b] * powers[:, 2, c])
            assert value == pytest.approx(moment(a, b, c), rel=0, abs=1e-13), f"x^{a} y^{b} z^{c}"


@pytest.mark.parametrize("rule", RULES)
def test_every_harmonic_up_to_the_degree_integrates_to_zero(rule: SphereRule) -> None:
    assert max(integrals(rule, rule.degree)[1:], default=0.0) < 1e-13


@pytest.mark.parametrize("rule", RULES)
def test_harmonics_are_orthonormal_while_their_degrees_add_up_to_that_of_the_rule(rule: SphereRule) -> None:
    l1 = rule.degree // 2
    l2 = rule.degree - l1
    overlap = harmonics(l1, rule).T @ (rule.weights[:, None] * harmonics(l2, rule))
    np.testing.assert_allclose(overlap, np.eye((l1 + 1) ** 2, (l2 + 1) ** 2), rtol=0, atol=1e-13)


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_is_exact_beyond_the_degree_it_names(rule: SphereRule) -> None:
    assert integrals(rule, rule.degree + 1)[-1] > 0.01


@pytest.mark.parametrize(("degree", "points"), LADDER.items())
def test_the_smallest_rule_has_the_points_of_the_table(degree: int, points: int) -> None:
    rule = smallest_rule(degree)
    assert rule.degree == degree
    assert len(rule.points) == points


def test_a_degree_between_two_rules_takes_the_upper_one() -> None:
    for degree in range(36):
        assert smallest_rule(degree).degree == min(above for above in LADDER if above >= degree)


def test_no_other_rule_has_fewer_points() -> None:
    degrees = range(1, 141)
    sizes = [len(smallest_rule(degree).points) for degree in degrees]
    assert sizes == sorted(sizes)
    assert all(smallest_rule(degree).degree >= degree for degree in degrees)
    assert all(size <= (degree // 2 + 1) * (degree + 1) for degree, size in zip(degrees, sizes))


def test_beyond_lebedev_the_product_rule_answers() -> None:
    assert smallest_rule(131).name == "Lebedev 131"
    assert smallest_rule(132) is gauss_legendre(132)
    assert smallest_rule(132).name == "Gauss-Legendre 67 x 133"


@pytest.mark.parametrize("degree", LADDER)
def test_points_come_in_antipodal_pairs_of_equal_weight_except_where_the_table_says(degree: int) -> None:
    rule = smallest_rule(degree)
    distances = np.linalg.norm(rule.points[:, None] + rule.points, axis=2)
    opposite = distances.argmin(axis=1)
    paired = distances.min(axis=1).max() < 1e-15 and bool((rule.weights[opposite] == rule.weights).all())
    assert paired == (degree not in WITHOUT_INVERSION)


@pytest.mark.parametrize("degree", range(2, 37))
def test_the_next_smaller_rule_is_smaller_and_is_not_exact(degree: int) -> None:
    smaller = next_smaller_rule(degree)
    assert smaller is not None
    assert smaller.degree < degree
    assert len(smaller.points) < len(smallest_rule(degree).points)
    assert max(integrals(smaller, degree)[1:]) > 0.01


def test_the_next_smaller_rule_is_the_one_just_below() -> None:
    assert next_smaller_rule(9) is smallest_rule(7)
    assert next_smaller_rule(8) is smallest_rule(7)  # the rule of degree 9 would be exact
    assert next_smaller_rule(133) is smallest_rule(132)
    assert next_smaller_rule(0) is next_smaller_rule(1) is None


@pytest.mark.parametrize("degree", [1, 2, 3, 8, 9, 20])
def test_the_product_rule_needs_each_of_its_latitudes_and_longitudes(degree: int) -> None:
    latitudes, longitudes = degree // 2 + 1, degree + 1
    assert len(gauss_legendre(degree).points) == latitudes * longitudes

    def product(latitudes: int, longitudes: int) -> SphereRule:
        tall, wide = gauss_legendre(2 * latitudes - 1), gauss_legendre(longitudes - 1)
        y = tall.points.reshape(latitudes, -1, 3)[:, 0, 1]
        weight = tall.weights.reshape(latitudes, -1)[:, 0] * tall.weights.size / latitudes / longitudes
        circle = wide.points.reshape(-1, longitudes, 3)[0][:, [0, 2]]
        circle /= np.linalg.norm(circle, axis=1, keepdims=True)
        ring = np.sqrt(1 - y * y)[:, None, None] * circle
        points = np.stack([ring[..., 0], np.repeat(y[:, None], longitudes, 1), ring[..., 1]], axis=2).reshape(-1, 3)
        return SphereRule("a product", degree, points, np.repeat(weight, longitudes))

    assert max(integrals(product(latitudes, longitudes), degree)[1:]) < 1e-13
    assert max(integrals(product(latitudes, longitudes - 1), degree)[1:]) > 0.01
    if latitudes > 1:
        assert max(integrals(product(latitudes - 1, longitudes), degree)[1:]) > 0.01


def test_the_product_rule_runs_through_longitudes_first() -> None:
    points = gauss_legendre(4).points.reshape(3, 5, 3)
    y, weights = np.polynomial.legendre.leggauss(3)
    np.testing.assert_allclose(points[:, :, 1], np.repeat(y[:, None], 5, axis=1), rtol=0, atol=1e-15)
    np.testing.assert_allclose(
        np.arctan2(points[..., 0], points[..., 2]) % (2 * math.pi),
        np.tile(2 * math.pi / 5 * np.arange(5), (3, 1)),
        rtol=0,
        atol=1e-15,
    )
    np.testing.assert_allclose(gauss_legendre(4).weights, np.repeat(weights * 2 * math.pi / 5, 5), rtol=1e-14)


def test_a_rule_is_made_once_and_cannot_be_changed() -> None:
    rule = smallest_rule(8)
    assert rule is smallest_rule(9)
    with pytest.raises(ValueError, match="read-only"):
        rule.points[0, 0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        rule.weights *= 2


def test_a_rule_prints_what_it_is() -> None:
    assert repr(smallest_rule(6)) == "SphereRule(name='twisted snub cube', degree=7)"
    assert gauss_legendre(8).name == "Gauss-Legendre 5 x 9"


@pytest.mark.parametrize("make", [smallest_rule, next_smaller_rule, gauss_legendre])
def test_a_negative_degree_is_refused(make: type) -> None:
    with pytest.raises(
        ValueError, match=r"`degree` must be 0 or more, got -1; give the highest degree of the integrand"
    ):
        make(-1)

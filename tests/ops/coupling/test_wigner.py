"""3j and 6j symbols: known values, sum rules, symmetries, and e3nn's real couplings."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from e3nn import o3

from equinet.ops.coupling.wigner import six_j, three_j


def triangles(highest: int) -> list[tuple[int, int, int]]:
    degrees = range(highest + 1)
    return [(a, b, c) for a in degrees for b in degrees for c in degrees if abs(a - b) <= c <= a + b]


@pytest.mark.parametrize(
    ("degrees", "orders", "value"),
    [  # Varshalovich et al. 1988, tables 8.1 to 8.9
        ((0, 0, 0), (0, 0, 0), 1),
        ((1, 1, 0), (0, 0, 0), -1 / math.sqrt(3)),
        ((1, 1, 1), (1, -1, 0), 1 / math.sqrt(6)),
        ((1, 1, 1), (1, 0, -1), -1 / math.sqrt(6)),
        ((2, 1, 1), (0, 0, 0), math.sqrt(2 / 15)),
        ((2, 1, 1), (2, -1, -1), 1 / math.sqrt(5)),
        ((2, 2, 2), (0, 0, 0), -math.sqrt(2 / 35)),
        ((3, 2, 1), (0, 0, 0), -math.sqrt(3 / 35)),
        ((2, 2, 1), (1, -1, 0), -1 / math.sqrt(30)),
    ],
)
def test_three_j_symbols_are_those_of_the_tables(
    degrees: tuple[int, int, int], orders: tuple[int, int, int], value: float
) -> None:
    assert three_j(*degrees, *orders) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(("l1", "l2", "l3"), [*triangles(3), (4, 4, 4), (6, 5, 4), (8, 8, 8)])
def test_the_real_couplings_of_e3nn_have_the_sizes_of_three_j_symbols(l1: int, l2: int, l3: int) -> None:
    """In the real basis m and -m mix, and the sum of squares over signs of the orders does not."""
    squares = o3.wigner_3j(l1, l2, l3, dtype=torch.float64).square()
    for m1, m2, m3 in itertools.product(range(l1 + 1), range(l2 + 1), range(l3 + 1)):
        ours, theirs = 0.0, 0.0
        for a, b, c in itertools.product({m1, -m1}, {m2, -m2}, {m3, -m3}):
            ours += three_j(l1, l2, l3, a, b, c) ** 2
            theirs += squares[l1 + a, l2 + b, l3 + c].item()
        assert ours == pytest.approx(theirs, abs=1e-14)


@pytest.mark.parametrize(("l1", "l2"), [(1, 1), (2, 3), (4, 2), (11, 11)])
def test_three_j_symbols_are_orthogonal(l1: int, l2: int) -> None:
    for l3, other in itertools.product(range(abs(l1 - l2), l1 + l2 + 1), repeat=2):
        for m3 in (0, 1, min(l3, other)):
            if m3 > min(l3, other):
                continue
            total = sum(
                three_j(l1, l2, l3, m1, m3 - m1, -m3) * three_j(l1, l2, other, m1, m3 - m1, -m3)
                for m1 in range(-l1, l1 + 1)
            )
            assert (2 * l3 + 1) * total == pytest.approx(float(l3 == other), abs=1e-13)


@pytest.mark.parametrize("degrees", [(1, 1, 1), (2, 1, 1), (3, 2, 2), (4, 3, 2)])
def test_exchanging_two_columns_or_all_signs_multiplies_a_three_j_symbol_by_a_sign(
    degrees: tuple[int, int, int],
) -> None:
    l1, l2, l3 = degrees
    sign = (-1) ** sum(degrees)
    for m1, m2 in itertools.product(range(-l1, l1 + 1), range(-l2, l2 + 1)):
        value = three_j(l1, l2, l3, m1, m2, -m1 - m2)
        assert three_j(l2, l1, l3, m2, m1, -m1 - m2) == pytest.approx(sign * value, abs=1e-15)
        assert three_j(l2, l3, l1, m2, -m1 - m2, m1) == pytest.approx(value, abs=1e-15)
        assert three_j(l1, l2, l3, -m1, -m2, m1 + m2) == pytest.approx(sign * value, abs=1e-15)


@pytest.mark.parametrize(
    "arguments",
    [(1, 1, 3, 0, 0, 0), (3, 1, 1, 0, 0, 0), (1, 1, 2, 1, 1, 1), (1, 1, 2, 2, -2, 0), (2, 2, 1, 0, 0, 0)],
)
def test_selection_rules_make_three_j_symbols_zero(arguments: tuple[int, ...]) -> None:
    assert three_j(*arguments) == 0


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ((0, 0, 0, 0, 0, 0), 1),
        ((1, 1, 0, 1, 1, 0), 1 / 3),
        ((1, 1, 1, 1, 1, 1), 1 / 6),
        ((1, 1, 2, 1, 1, 1), 1 / 6),
        ((1, 1, 2, 1, 1, 2), 1 / 30),
        ((2, 2, 2, 2, 2, 2), -3 / 70),
        ((1, 1, 0, 2, 2, 1), 1 / math.sqrt(15)),
        ((1, 1, 0, 2, 2, 2), -1 / math.sqrt(15)),
        ((3, 5, 5, 3, 3, 3), 0),
        ((1, 1, 3, 1, 1, 1), 0),
        ((1, 1, 1, 3, 1, 1), 0),
    ],
)
def test_six_j_symbols_are_those_of_the_tables(arguments: tuple[int, ...], value: float) -> None:
    assert six_j(*arguments) == pytest.approx(value, rel=1e-15, abs=1e-16)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_six_j_symbols_are_four_couplings_contracted(degree: int) -> None:
    for a, b, c in triangles(2 * degree):
        coupling = o3.wigner_3j(a, b, c, dtype=torch.float64)
        others = (o3.wigner_3j(l, degree, degree, dtype=torch.float64) for l in (a, b, c))
        contracted = torch.einsum("abc,aef,bfd,cde->", coupling, *others).item()
        assert abs(six_j(a, b, c, degree, degree, degree)) == pytest.approx(abs(contracted), abs=1e-14)


@pytest.mark.parametrize("arguments", [(1, 1, 2, 2), (2, 3, 2, 1), (3, 3, 3, 3), (5, 4, 4, 5)])
def test_six_j_symbols_are_orthogonal_and_obey_racahs_sum_rule(arguments: tuple[int, int, int, int]) -> None:
    a, b, c, d = arguments
    every = range(a + b + c + d + 1)
    for p, q in itertools.product(every, repeat=2):
        total = sum((2 * x + 1) * (2 * p + 1) * six_j(a, b, x, c, d, p) * six_j(a, b, x, c, d, q) for x in every)
        couples = max(abs(a - d), abs(b - c)) <= p <= min(a + d, b + c)
        assert total == pytest.approx(float(p == q and couples), abs=1e-13)
        signed = sum(
            (-1) ** (p + q + x) * (2 * x + 1) * six_j(a, b, x, c, d, p) * six_j(c, d, x, b, a, q) for x in every
        )
        assert signed == pytest.approx(six_j(c, a, q, d, b, p), abs=1e-13)


@pytest.mark.parametrize(
    ("degrees", "orders"),
    [((12, 7, 9), (3, -5, 2)), ((20, 20, 20), (7, -11, 4)), ((20, 15, 12), (-20, 15, 5)), ((16, 16, 20), (0, 0, 0))],
)
def test_three_j_symbols_of_high_degrees_are_those_of_sympy(
    degrees: tuple[int, int, int], orders: tuple[int, int, int]
) -> None:
    wigner = pytest.importorskip("sympy.physics.wigner", reason="the independent source of symbols is not installed")
    assert three_j(*degrees, *orders) == pytest.approx(float(wigner.wigner_3j(*degrees, *orders).evalf(30)), rel=1e-14)

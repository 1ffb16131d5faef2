"""Wigner's 3j and 6j symbols and Clebsch-Gordan coefficients of integer degrees, from exact integers: any degree, to rounding."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from math import comb, factorial


def _triangle(a: int, b: int, c: int) -> Fraction:
    return Fraction(factorial(a + b - c) * factorial(a - b + c) * factorial(-a + b + c), factorial(a + b + c + 1))


def _is_triangle(a: int, b: int, c: int) -> bool:
    return abs(a - b) <= c <= a + b


def complex_coupling(l1: int, l2: int, l3: int, m1: int, m2: int) -> float:
    r"""Clebsch-Gordan coefficient :math:`\langle l_1 m_1 l_2 m_2 | l_3\, m_1{+}m_2 \rangle` of a triangle of degrees.

    With a, b, c = l1 + l2 - l3, l1 - l2 + l3, -l1 + l2 + l3 it is a whole number times one square root,

    .. math:: \sum_t (-1)^t \binom{a}{t} \binom{b}{l_1 - m_1 - t} \binom{c}{l_2 + m_2 - t}
              \sqrt{\frac{(2 l_3 + 1) \prod_i (l_i + m_i)! \, (l_i - m_i)!}{a! \, b! \, c! \, (l_1 + l_2 + l_3 + 1)!}},

    so nothing cancels in floating point, whatever the degrees.

    Source:
        van der Waerden's form, Varshalovich et al. 1988, section 8.2.1, eq. 2.
    """
    m3 = m1 + m2
    if abs(m3) > l3:
        return 0.0
    a, b, c = l1 + l2 - l3, l1 - l2 + l3, -l1 + l2 + l3
    first, last = max(0, l1 - m1 - b, l2 + m2 - c), min(a, l1 - m1, l2 + m2)
    total = sum((-1) ** t * comb(a, t) * comb(b, l1 - m1 - t) * comb(c, l2 + m2 - t) for t in range(first, last + 1))
    over = (2 * l3 + 1) * math.prod(factorial(l + m) * factorial(l - m) for l, m in ((l1, m1), (l2, m2), (l3, m3)))
    under = factorial(a) * factorial(b) * factorial(c) * factorial(a + b + c + 1)
    return math.copysign(math.sqrt(total * total * over / under), total)  # a quotient of integers is rounded once


@cache
def three_j(l1: int, l2: int, l3: int, m1: int, m2: int, m3: int) -> float:
    """The 3j symbol (l1 l2 l3; m1 m2 m3) of complex harmonics; zero where a selection rule says so.

    Source:
        Varshalovich et al. 1988, section 8.1.2, eq. 11.
    """
    if m1 + m2 + m3 != 0 or not _is_triangle(l1, l2, l3) or any(abs(m) > l for l, m in ((l1, m1), (l2, m2), (l3, m3))):
        return 0.0
    return (-1) ** (l1 - l2 - m3) * complex_coupling(l1, l2, l3, m1, m2) / math.sqrt(2 * l3 + 1)


@cache
def six_j(a: int, b: int, c: int, d: int, e: int, f: int) -> float:
    """The 6j symbol {a b c; d e f}; zero where a selection rule says so.

    Source: Racah 1942; Varshalovich et al. 1988, section 9.2.1, eq. 1.
    """
    triads = ((a, b, c), (a, e, f), (d, b, f), (d, e, c))
    if not all(_is_triangle(*triad) for triad in triads):
        return 0.0
    sums = [sum(triad) for triad in triads]
    pairs = [a + b + d + e, b + c + e + f, a + c + d + f]
    total = Fraction(0)
    for t in range(max(sums), min(pairs) + 1):
        denominator = math.prod(factorial(t - s) for s in sums) * math.prod(factorial(p - t) for p in pairs)
        total += Fraction((-1) ** t * factorial(t + 1), denominator)
    return float(total) * math.sqrt(math.prod(_triangle(*triad) for triad in triads))

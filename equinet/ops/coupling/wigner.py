"""Wigner's 3j and 6j symbols of integer degrees, from exact integers."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from math import factorial


def _triangle(a: int, b: int, c: int) -> Fraction:
    return Fraction(factorial(a + b - c) * factorial(a - b + c) * factorial(-a + b + c), factorial(a + b + c + 1))


def _is_triangle(a: int, b: int, c: int) -> bool:
    return abs(a - b) <= c <= a + b


@cache
def three_j(l1: int, l2: int, l3: int, m1: int, m2: int, m3: int) -> float:
    """The 3j symbol (l1 l2 l3; m1 m2 m3) of complex harmonics; zero where a selection rule says so.

    Source: Racah 1942; Varshalovich et al. 1988, section 8.2.1, eq. 3.
    """
    if m1 + m2 + m3 != 0 or not _is_triangle(l1, l2, l3) or any(abs(m) > l for l, m in ((l1, m1), (l2, m2), (l3, m3))):
        return 0.0
    total = Fraction(0)
    for t in range(max(0, l2 - l3 - m1, l1 - l3 + m2), min(l1 + l2 - l3, l1 - m1, l2 + m2) + 1):
        denominator = (
            factorial(t)
            * factorial(l3 - l2 + t + m1)
            * factorial(l3 - l1 + t - m2)
            * factorial(l1 + l2 - l3 - t)
            * factorial(l1 - t - m1)
            * factorial(l2 - t + m2)
        )
        total += Fraction((-1) ** t, denominator)
    under_root = _triangle(l1, l2, l3) * math.prod(
        factorial(l + m) * factorial(l - m) for l, m in ((l1, m1), (l2, m2), (l3, m3))
    )
    return (-1) ** (l1 - l2 - m3) * float(total) * math.sqrt(under_root)


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

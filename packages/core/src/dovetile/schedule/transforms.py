"""Matrices with which the results of a sliding window need fewer products.

The m results of a window of r are the transpose of a product of polynomials of degree m - 1 and
r - 1, which its values at m + r - 1 points determine (Toom and Cook; Winograd, 1980).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

Matrix = tuple[tuple[Fraction, ...], ...]
# Few have small factors, so that little is rounded away (the order is that of Barabasz et al.,
# 2020); infinity is one more.
_POINTS = tuple(Fraction(p) for p in ("0", "1", "-1", "2", "-1/2", "-2", "1/2"))
MOST_POINTS = len(_POINTS) + 1


@dataclass(frozen=True)
class Transforms:
    """results = of_results @ ((of_weights @ weights) * (of_data @ data))."""

    of_data: Matrix
    of_weights: Matrix
    of_results: Matrix


@lru_cache
def transforms(m: int, r: int) -> Transforms:
    """The matrices for m results of a window of r (Toom and Cook's, transposed): polynomials of
    degree m - 1 and r - 1 are evaluated at the points and at infinity; their product is
    interpolated."""
    n = m + r - 1
    points = list(_POINTS[: n - 1])
    infinity = [Fraction(0)] * (n - 1) + [Fraction(1)]
    of_results = [[p**i for p in points] + [Fraction(i == m - 1)] for i in range(m)]
    scales = [math.prod(p - q for q in points if q != p) for p in points]
    of_weights = [[p**j / s for j in range(r)] for p, s in zip(points, scales)]
    of_weights.append([Fraction(j == r - 1) for j in range(r)])
    of_data = []
    for p in points:
        of_data.append([*_product_of_roots([q for q in points if q != p]), Fraction(0)])
    infinity = _product_of_roots(points)
    of_data.append(infinity)
    return Transforms(_frozen(of_data), _frozen(of_weights), _frozen(of_results))


def _product_of_roots(roots: Sequence[Fraction]) -> list[Fraction]:
    """The coefficients of prod(x - root), that of 1 first."""
    found = [Fraction(1)]
    for root in roots:
        found = [
            (found[i - 1] if i else 0) - root * (found[i] if i < len(found) else 0)
            for i in range(len(found) + 1)
        ]
    return found


def _frozen(rows: Sequence[Sequence[Fraction]]) -> Matrix:
    return tuple(tuple(Fraction(x) for x in row) for row in rows)

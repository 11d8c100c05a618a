"""Polynomials for functions that cannot be composed of exp2, log2 and sin without cancellation.

The coefficients are Chebyshev fits of our own; the tests check the functions against `math`.
"""

from __future__ import annotations

from collections.abc import Sequence

from dovetile import dtypes
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.tensor.nodes import constant

LOG2_E = 1.4426950408889634
LN_2 = 0.6931471805599453

# tanh(x) / x in x * x, |x| <= 0.625: relative error 4e-9.
TANH_SINGLE = (
    0.9999999960227217, -0.33333259862947523, 0.13331114055689722, -0.05372010765662614,
    0.02058819145457923, -0.005657135184373766,
)  # fmt: skip
# The same for float64: 6e-18.
TANH_DOUBLE = (
    1.0, -0.33333333333333304, 0.13333333333328876, -0.053968253965732335, 0.021869488461885925,
    -0.00886323422471307, 0.003592113263696813, -0.001455721811612689, 0.0005894360841645331,
    -0.00023697189507276123, 9.149387098416183e-05, -3.012677445937249e-05, 6.017575850862913e-06,
)  # fmt: skip
# erf(x) / x in x * x, |x| <= 1: relative error 2e-9.
ERF_SINGLE = (
    1.1283791658483509, -0.3761262666672033, 0.11283594715160215, -0.02685421201062633,
    0.005189087423433832, -0.0008016864287164737, 7.87587506268201e-05,
)  # fmt: skip
# The same for float64: 3e-17.
ERF_DOUBLE = (
    1.1283791670955126, -0.37612638903183754, 0.1128379167095512, -0.02686617064512984,
    0.0052239776254232985, -0.000854832702193483, 0.00012055332902888736, -1.4925647567519332e-05,
    1.6462045441468418e-06, -1.6364642158167608e-07, 1.4792401209404742e-08,
    -1.2164560057283045e-09, 8.70904512905176e-11, -4.2309458242933425e-12,
)  # fmt: skip
# (1 - erf(x)) * exp(x * x) * x in 1 / x, 1 <= x <= 4: relative error 6e-8.
ERFC_SINGLE = (
    0.563970239911938, 0.003287933180544746, -0.2994974103698971, 0.019586078791402017,
    0.6150348566569139, -0.9732889067094643, 0.75465179300718, -0.31026411336220694,
    0.05410312726537809,
)  # fmt: skip
# The same for float64, 1 <= x <= 6: 3e-14.
ERFC_DOUBLE = (
    0.5641899239806737, -1.8117303073889054e-05, -0.28164511036061124, -0.00691431525253331,
    0.4968738145112336, -0.5778523610118355, 2.3781883238407535, -15.74057160880088,
    59.337582579934576, -149.6389991034649, 279.138344575417, -403.7795594399326,
    462.5638504125908, -422.3771595971856, 306.295660608606, -174.18261151924875,
    75.91568591325785, -24.42073530871242, 5.442590544419855, -0.7463796643746239,
    0.04706302524486181,
)  # fmt: skip
# -(1 + log2(Phi(-x))) / x, Phi the normal distribution function, in x from 0 to where Phi(-x) is no
# normal float32 any more; beyond, the powers of 2 vanish too. Relative error of Phi, up to x = 4:
# 6e-8, and for results that are rounded to small floats 8e-6. The further out, the greater.
NORMAL_SINGLE = (
    1.151106207, 0.459207262, 0.05246569332, -0.006950535246, -3.298082955e-05, 0.0003210241935,
    -0.0001005444424, 1.903948079e-05, -2.505546112e-06, 2.341471925e-07, -1.526547719e-08,
    6.599741734e-10, -1.698455538e-11, 1.96678856e-13,
)  # fmt: skip
NORMAL_SMALL = (
    1.151291564, 0.4581938118, 0.05440766448, -0.008834929816, 0.001054880061, -8.745901575e-05,
    4.692587494e-06, -1.448419112e-07, 1.934887182e-09,
)  # fmt: skip


def polynomial(x: UOp, coefficients: Sequence[float]) -> UOp:
    """Sum of coefficients[i] * x**i, by Horner's rule."""
    result = constant(coefficients[-1], x.dtype, x.shape)
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + coefficient
    return result


def exponential(x: UOp) -> UOp:
    """e**x. Written as EXP2(x * log2(e)), which lowering knows and keeps accurate for large x."""
    return (x * LOG2_E).alu(Op.EXP2)


def absolute(x: UOp) -> UOp:
    return (x < 0).where(x * -1, x)


def tanh(x: UOp) -> UOp:
    """tanh(x): a polynomial near 0, where 1 - 2 / (e**2x + 1) would cancel."""
    coefficients = TANH_DOUBLE if x.dtype is dtypes.float64 else TANH_SINGLE
    near = x * polynomial(x * x, coefficients)
    # e**-2|x| never overflows, so that the gradient holds for large x too.
    decay = exponential(absolute(x) * -2)
    far = (decay * -2) / (decay + 1) + 1
    return (absolute(x) < 0.625).where(near, (x < 0).where(far * -1, far))


def erf(x: UOp) -> UOp:
    """The error function, relative error below 1e-7 (float32) or 1e-14 (float64)."""
    double = x.dtype is dtypes.float64
    near = x * polynomial(x * x, ERF_DOUBLE if double else ERF_SINGLE)
    # Beyond the limit erf rounds to 1. Both branches are computed: keep 1 / x finite near 0.
    limit = 6.0 if double else 4.0
    magnitude = absolute(x)
    size = (magnitude < limit).where(magnitude, limit)
    size = (size < 0.5).where(constant(0.5, size.dtype, x.shape), size)
    inverse = constant(1.0, size.dtype, x.shape) / size
    tail = exponential(size * size * -1) * inverse
    far = tail * polynomial(inverse, ERFC_DOUBLE if double else ERFC_SINGLE) * -1 + 1
    far = (magnitude.ne(magnitude)).where(x, (x < 0).where(far * -1, far))
    return (magnitude < 1).where(near, far)


def normal_distribution(x: UOp, small: bool) -> UOp:
    """Phi(x) of a float32: the probability of less than x. small: whether the result will be
    rounded to a small float."""
    magnitude = absolute(x)
    power = magnitude * polynomial(magnitude, NORMAL_SMALL if small else NORMAL_SINGLE) + 1
    tail = (power * -1).alu(Op.EXP2)
    return (x < 0).where(tail, tail * -1 + 1)

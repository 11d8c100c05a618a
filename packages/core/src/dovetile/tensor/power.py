"""Powers: by repeated multiplication where exponents are whole, through logarithms elsewhere."""

from __future__ import annotations

import math

from dovetile.gradient.composed import compose
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.tensor.nodes import constant


def whole_power(x: UOp, exponent: int) -> UOp:
    """x ** exponent by squaring, correct for every sign of x."""
    if exponent == 0:
        return constant(x.dtype.convert(1), x.dtype, x.shape)
    result, square, rest = None, x, abs(exponent)
    while rest:
        if rest & 1:
            result = square if result is None else result * square
        rest >>= 1
        if rest:
            square = square * square
    assert result is not None
    if exponent > 0:
        return result
    return constant(1.0, x.dtype, x.shape) / result


def integer_power(x: UOp, exponent: UOp) -> UOp:
    """x ** exponent for integer tensors, by squaring; wraps. Below 0: 0 unless |x| = 1."""
    one = constant(1, x.dtype, x.shape)
    zero = constant(0, x.dtype, x.shape)
    result, square = one, x
    signed = x.dtype.kind == "i"
    for bit in range(x.dtype.bits - signed):
        result = ((exponent >> bit) & 1).ne(0).where(result * square, result)
        square = square * square
    if not signed:
        return result
    odd = (exponent & 1).ne(0)
    inverse = x.eq(1).where(one, x.eq(-1).where(odd.where(x, one), zero))
    return (exponent < 0).where(inverse, result)


def real_power(x: UOp, exponent: UOp) -> UOp:
    """x ** exponent as IEEE pow: NaN for negative x and fractional exponents, 1 for exponent 0."""
    magnitude = (x < 0).where(x * -1, x)
    size = (exponent * magnitude.alu(Op.LOG2)).alu(Op.EXP2)
    half = exponent * 0.5
    whole = exponent.alu(Op.TRUNC).eq(exponent)
    odd = whole & half.alu(Op.TRUNC).ne(half)
    signed = odd.where(size * -1, size)
    nan = constant(math.nan, x.dtype, x.shape)
    finite = magnitude.ne(math.inf)
    negative = (whole | finite.logical_not()).where(signed, nan)
    result = (x < 0).where(negative, size)
    result = (exponent.eq(0) | x.eq(1)).where(constant(1.0, x.dtype, x.shape), result)
    return compose(result, (x, exponent), _real_power_gradient)


def _real_power_gradient(
    result: UOp, inputs: tuple[UOp, ...], gradient: UOp
) -> tuple[UOp | None, ...]:
    x, exponent = inputs
    zero = constant(0.0, x.dtype, x.shape)
    slope = exponent * real_power(x, exponent + -1)
    by_x = gradient * exponent.eq(0).where(zero, slope)
    if exponent.op is Op.EXPAND and exponent.src[0].op is Op.CONST:
        return (by_x, None)
    safe = (zero < x).where(x, constant(1.0, x.dtype, x.shape))
    by_exponent = gradient * result * (safe.alu(Op.LOG2) * math.log(2))
    return (by_x, by_exponent)

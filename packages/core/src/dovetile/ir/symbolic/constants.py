"""Constant folding for every elementwise operation, and the identities that hold for every type."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from dovetile import dtypes
from dovetile.dtypes import DType, Scalar
from dovetile.ir.ops import BINARY, COMMUTATIVE, TERNARY, UNARY, Op
from dovetile.ir.pattern import Pat, Rule, RuleSet
from dovetile.ir.uop import UOp

# -- Folding ---------------------------------------------------------------------------------------


def _float_divide(a: float, b: float) -> float:
    if b:
        return a / b
    return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * _sign(b)


def _sign(x: float) -> float:
    return math.copysign(1.0, x)


def _extreme(pick: Callable) -> Callable[[Scalar, Scalar], Scalar]:
    def either(a: Scalar, b: Scalar) -> Scalar:
        return math.nan if a != a or b != b else pick(a, b)

    return either


def _numpy(function: Callable) -> Callable[[float], float]:
    def apply(x: float) -> float:
        with np.errstate(all="ignore"):
            return float(function(np.float64(x)))

    return apply


_FOLD: dict[Op, Callable[..., Scalar]] = {
    Op.EXP2: _numpy(np.exp2),
    Op.LOG2: _numpy(np.log2),
    Op.SIN: _numpy(np.sin),
    Op.SQRT: _numpy(np.sqrt),
    Op.TRUNC: _numpy(np.trunc),
    Op.ADD: lambda a, b: a + b,
    Op.SUB: lambda a, b: a - b,
    Op.MUL: lambda a, b: a * b,
    Op.DIV: _float_divide,
    Op.FLOORDIV: lambda a, b: a // b if b else 0,
    Op.FLOORMOD: lambda a, b: a % b if b else 0,
    Op.MAX: _extreme(max),
    Op.MIN: _extreme(min),
    Op.LT: lambda a, b: a < b,
    Op.NE: lambda a, b: a != b,
    Op.AND: lambda a, b: a & b,
    Op.OR: lambda a, b: a | b,
    Op.XOR: lambda a, b: a ^ b,
    Op.WHERE: lambda c, a, b: a if c else b,
}


def evaluate(op: Op, dtype: DType, arguments: Sequence[Scalar], source: DType) -> Scalar | None:
    """The value of `op` on numbers, as hardware computes it in `dtype`; None where undefined.

    source: type of the first argument. Arithmetic in float64 (or in unbounded integers) rounded
    once to the type is exact for + - * / and sqrt, since float64 has over twice the digits.
    """
    if op is Op.CAST:
        return _cast(dtype, arguments[0])
    if op is Op.BITCAST:
        return _bitcast(dtype, source, arguments[0])
    if op in (Op.SHL, Op.SHR):
        return dtype.convert(_shift(op, dtype, int(arguments[0]), int(arguments[1])))
    if op is Op.MULACC:
        product, addend = arguments[0] * arguments[1], arguments[2]
        return dtype.convert(product + addend) if dtype.kind != "f" else None
    return dtype.convert(_FOLD[op](*arguments))


def _cast(dtype: DType, value: Scalar) -> Scalar | None:
    if isinstance(value, float) and dtype.is_integer:
        # What a float outside the integer type becomes differs between machines.
        if not (math.isfinite(value) and dtype.minimum <= math.trunc(value) <= dtype.maximum):
            return None
    return dtype.convert(value)


def _bitcast(dtype: DType, source: DType, value: Scalar) -> Scalar | None:
    if dtypes.index in (dtype, source) or dtype.itemsize != source.itemsize:
        return None
    bits = np.asarray(value).astype(dtypes.to_numpy(source))
    return bits.view(dtypes.to_numpy(dtype)).item()


def _shift(op: Op, dtype: DType, value: int, count: int) -> int:
    if not 0 <= count < dtype.bits:
        return -1 if op is Op.SHR and value < 0 else 0
    return value << count if op is Op.SHL else value >> count


def _fold(node: UOp) -> UOp | None:
    numbers = [s.constant for s in node.src if s.constant is not None]
    value = evaluate(node.op, node.dtype.scalar, numbers, node.src[0].dtype)
    return None if value is None else node.const_like(value)


# -- Casts -----------------------------------------------------------------------------------------

_DIGITS = {
    "float8_e4m3fn": (4, 4), "float8_e5m2": (3, 5), "float16": (11, 5), "bfloat16": (8, 8),
    "float32": (24, 8), "float64": (53, 11),
}  # fmt: skip
_POWERS = {"float8_e4m3fn": 5, "float8_e5m2": 12, "float16": 12, "float64": 1000}


def holds(wide: DType, narrow: DType) -> bool:
    """Whether every value of `narrow` is a value of `wide`."""
    if wide is narrow or narrow.kind == "b":
        return True
    if wide.kind == "f":
        if narrow.kind == "f":
            a, b = _DIGITS[wide.name], _DIGITS[narrow.name]
            return a[0] >= b[0] and a[1] >= b[1]
        return narrow.bits - (narrow.kind == "i") <= _DIGITS[wide.name][0]
    if narrow.kind == "f" or wide.kind == "b":
        return False
    return wide.minimum <= narrow.minimum and wide.maximum >= narrow.maximum


def _cast_of_cast(x: UOp, inner: UOp, outer: UOp) -> UOp | None:
    start, middle, end = x.dtype.scalar, inner.dtype.scalar, outer.dtype.scalar
    integers = start.is_integer and middle.is_integer
    lossless = holds(middle, start)
    if integers and not lossless:
        low, high = x.bounds
        lossless = middle.minimum <= low and high <= middle.maximum
    # Wrapping to 32 and then to 8 bits is wrapping to 8 bits. `index` does not wrap.
    narrows = integers and end.is_integer and end.bits <= middle.bits and end is not dtypes.index
    return x.cast(outer.dtype) if lossless or narrows else None


def _cast_of_where(c: UOp, x: UOp, y: UOp, cast: UOp) -> UOp | None:
    if x.constant is None or y.constant is None:
        return None
    return c.where(x.cast(cast.dtype), y.cast(cast.dtype))


# -- Identities ------------------------------------------------------------------------------------


def _merge_constants(op: Op) -> Rule:
    """(x op c) op d = x op (c op d), for integers, which wrap, and for MAX and MIN of any type."""
    x, c, d = Pat.var("x"), Pat.constant("c"), Pat.constant("d")
    kinds = "biuf" if op in (Op.MAX, Op.MIN) else "biu"
    return (
        Pat(op, (Pat(op, (x, c)), d), kind=kinds),
        lambda x, c, d: None if x.constant is not None else x.alu(op, c.alu(op, d)),
    )


def _constant_last(node: UOp, x: UOp) -> UOp | None:
    return None if x.constant is not None else node.replace(src=(x, node.src[0]))


def _add_negative_zero(x: UOp, c: UOp) -> UOp | None:
    # x + 0.0 is not x where x is -0.0.
    return x if c.constant is not None and _sign(float(c.constant)) < 0 else None


def _divide_by_power(x: UOp, c: UOp) -> UOp | None:
    """x / 2^k is x * 2^-k, exactly, as long as 2^-k is a normal number."""
    value = float(c.constant or 0.0)
    if value == 0 or not math.isfinite(value) or abs(math.frexp(value)[0]) != 0.5:
        return None
    if abs(math.frexp(value)[1]) > _POWERS.get(x.dtype.name, 120):
        return None
    return x * (1.0 / value)


x, y, z, w = Pat.var("x"), Pat.var("y"), Pat.var("z"), Pat.var("w")
flag, flag_y = Pat.var("x", kind="b"), Pat.var("y", kind="b")
zero = Pat.constant(value=0)
integers = "biu"
true, false = Pat.constant(value=True, kind="b"), Pat.constant(value=False, kind="b")
negation = Pat(Op.XOR, (flag, true))

_number = Pat.constant()
fold_constants = RuleSet(
    [
        (Pat(UNARY, (_number,), name="node"), _fold),
        (Pat(BINARY, (_number, _number), name="node", ordered=True), _fold),
        (Pat(TERNARY, (_number, _number, _number), name="node"), _fold),
    ],
    "fold_constants",
    remember=True,
)

identities = RuleSet(
    [
        (Pat(COMMUTATIVE, (Pat.constant(), x), name="node", ordered=True), _constant_last),
        # arithmetic
        (Pat(Op.ADD, (x, zero), kind=integers), lambda x: x),
        (Pat(Op.ADD, (x, Pat.constant("c", 0.0, kind="f"))), _add_negative_zero),
        (Pat(Op.SUB, (x, zero), kind=integers), lambda x: x),
        (Pat(Op.MUL, (x, Pat.constant(value=1))), lambda x: x),
        (Pat(Op.MUL, (x, zero), kind=integers), lambda x: x.const_like(0)),
        (Pat(Op.DIV, (x, Pat.constant(value=1))), lambda x: x),
        (Pat(Op.DIV, (x, Pat.constant("c"))), _divide_by_power),
        (
            Pat(Op.MUL, (Pat(Op.MUL, (x, Pat.constant(value=-1))), Pat.constant(value=-1))),
            lambda x: x,
        ),
        (Pat(Op.FLOORDIV, (x, Pat.constant(value=1))), lambda x: x),
        (Pat(Op.FLOORDIV, (x, Pat.constant(value=-1)), kind="i"), lambda x: x * -1),
        (Pat((Op.FLOORDIV, Op.FLOORMOD), (x, zero)), lambda x: x.const_like(0)),
        (Pat((Op.FLOORDIV, Op.FLOORMOD), (Pat.constant("c", 0), x)), lambda c, x: c),
        (Pat(Op.FLOORMOD, (x, Pat.constant(value=1))), lambda x: x.const_like(0)),
        *[_merge_constants(op) for op in (Op.ADD, Op.MUL, Op.MAX, Op.MIN, Op.AND, Op.OR, Op.XOR)],
        # the same operand twice
        (Pat((Op.MAX, Op.MIN, Op.AND, Op.OR), (x, x)), lambda x: x),
        (Pat(Op.XOR, (x, x)), lambda x: x.const_like(0)),
        (Pat(Op.LT, (x, x), name="node"), lambda node: node.const_like(False)),
        (
            Pat(Op.NE, (Pat.var("x", kind="biu"), Pat.var("x")), name="node"),
            lambda node: node.const_like(False),  # a float differs from itself where it is NaN
        ),
        # bits
        (Pat(Op.AND, (x, zero)), lambda x: x.const_like(0)),
        (Pat((Op.OR, Op.XOR, Op.SHL, Op.SHR), (x, zero), ordered=True), lambda x: x),
        (Pat((Op.OR, Op.XOR), (zero, x), ordered=True), lambda x: x),
        (Pat((Op.SHL, Op.SHR), (Pat.constant("c", 0), x)), lambda c, x: c),
        (Pat(Op.AND, (x, Pat.constant("c")), kind="biu"), lambda x, c: _full_mask(x, c)),
        (Pat(Op.OR, (x, Pat.constant("c")), kind="biu"), lambda x, c: _full_set(x, c)),
        # bool: arithmetic is logic
        (Pat((Op.ADD, Op.MAX), (flag, flag_y)), lambda x, y: x | y),
        (Pat((Op.MUL, Op.MIN), (flag, flag_y)), lambda x, y: x & y),
        (Pat(Op.NE, (flag, flag_y)), lambda x, y: x ^ y),
        (Pat(Op.LT, (flag, flag_y)), lambda x, y: x.logical_not() & y),
        (Pat(Op.AND, (flag, negation)), lambda x: x.const_like(False)),
        (Pat(Op.OR, (flag, negation)), lambda x: x.const_like(True)),
        (Pat(Op.NE, (Pat(Op.CAST, (flag,), kind="iuf"), zero)), lambda x: x),
        # choices
        (Pat(Op.WHERE, (Pat.constant("c"), x, y)), lambda c, x, y: x if c.constant else y),
        (Pat(Op.WHERE, (Pat.var("z"), x, x)), lambda x: x),
        (Pat(Op.WHERE, (flag, true, false)), lambda x: x),
        (Pat(Op.WHERE, (flag, false, true)), lambda x: x.logical_not()),
        (Pat(Op.WHERE, (flag, flag_y, false)), lambda x, y: x & y),
        (Pat(Op.WHERE, (flag, true, flag_y)), lambda x, y: x | y),
        (Pat(Op.WHERE, (negation, y, z)), lambda x, y, z: x.where(z, y)),
        (Pat(Op.WHERE, (flag, Pat(Op.WHERE, (flag, y, z)), w)), lambda x, y, w: x.where(y, w)),
        (Pat(Op.WHERE, (flag, y, Pat(Op.WHERE, (flag, z, w)))), lambda x, y, w: x.where(y, w)),
        # casts
        (Pat(Op.CAST, (x,), name="cast"), lambda x, cast: x if x.dtype is cast.dtype else None),
        (Pat(Op.CAST, (Pat(Op.CAST, (x,), name="inner"),), name="outer"), _cast_of_cast),
        (Pat(Op.CAST, (Pat(Op.WHERE, (Pat.var("c"), x, y)),), name="cast"), _cast_of_where),
        (Pat(Op.BITCAST, (x,), name="cast"), lambda x, cast: x if x.dtype is cast.dtype else None),
        (
            Pat(Op.BITCAST, (Pat(Op.BITCAST, (x,)),), name="cast"),
            lambda x, cast: x.bitcast(cast.dtype),
        ),
        (Pat(Op.TRUNC, (Pat(Op.TRUNC, name="inner"),)), lambda inner: inner),
    ],
    "identities",
    remember=True,
)


def _full_mask(x: UOp, c: UOp) -> UOp | None:
    """x & (all ones) is x."""
    return x if c.constant == x.dtype.convert(-1) else None


def _full_set(x: UOp, c: UOp) -> UOp | None:
    """x | (all ones) is all ones."""
    return c if c.constant == x.dtype.convert(-1) else None


simplify_constants = fold_constants + identities

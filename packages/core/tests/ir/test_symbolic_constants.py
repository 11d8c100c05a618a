"""Constant folding against NumPy, and the identities, bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dovetile import dtypes
from dovetile.ir import Op, UOp, rewrite
from dovetile.ir.symbolic import simplify_constants
from dovetile.ir.symbolic.constants import holds


def simplify(node: UOp) -> UOp:
    return rewrite(node, simplify_constants)


FLOATS = [0.0, -0.0, 1.0, -1.5, 3.25, 1e-8, 6.0e4, math.inf, -math.inf, math.nan]
BINARY = {
    Op.ADD: np.add, Op.SUB: np.subtract, Op.MUL: np.multiply, Op.MAX: np.maximum,
    Op.MIN: np.minimum, Op.LT: np.less, Op.NE: np.not_equal,
}  # fmt: skip
INTEGER = BINARY | {
    Op.AND: np.bitwise_and, Op.OR: np.bitwise_or, Op.XOR: np.bitwise_xor,
    Op.FLOORDIV: np.floor_divide, Op.FLOORMOD: np.remainder,
    Op.SHL: np.left_shift, Op.SHR: np.right_shift,
}  # fmt: skip
INTEGERS = [d for d in dtypes.TENSOR_DTYPES if d.is_integer]
FLOAT_TYPES = [d for d in dtypes.TENSOR_DTYPES if d.is_float]


def same(value, expected) -> bool:
    """Equal, telling zeros apart and taking NaNs as equal."""
    if isinstance(value, float):
        expected = float(expected)
        nan = math.isnan(value) and math.isnan(expected)
        signs = math.copysign(1, value) == math.copysign(1, expected)
        return nan or (value == expected and signs)
    return value == expected


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda d: d.name)
def test_integers_fold_as_numpy_computes(dtype):
    numbers = sorted({dtype.convert(v) for v in (0, 1, 2, 3, 7, -1, -2, -7, 100, 255)}
                     | {dtype.minimum, dtype.maximum})  # fmt: skip
    kind = dtypes.to_numpy(dtype)
    with np.errstate(all="ignore"):
        for op, function in INTEGER.items():
            for a in numbers:
                for b in numbers:
                    folded = simplify(UOp.const(a, dtype).alu(op, UOp.const(b, dtype)))
                    expected = function(np.asarray(a, kind), np.asarray(b, kind))
                    assert folded.op is Op.CONST
                    assert folded.arg == expected, (op, a, b)


@pytest.mark.parametrize("dtype", FLOAT_TYPES, ids=lambda d: d.name)
def test_floats_fold_as_numpy_computes(dtype):
    kind = dtypes.to_numpy(dtype)
    with np.errstate(all="ignore"):
        for op, function in (BINARY | {Op.DIV: np.divide}).items():
            for a in FLOATS:
                for b in FLOATS:
                    x, y = np.asarray(a).astype(kind), np.asarray(b).astype(kind)
                    folded = simplify(UOp.const(a, dtype).alu(op, UOp.const(b, dtype)))
                    assert folded.op is Op.CONST
                    if op in (Op.MAX, Op.MIN) and x == y == 0:
                        continue  # which zero wins is open
                    assert same(folded.arg, function(x, y)), (op, a, b)


def test_functions_fold():
    for x in (0.0, 0.5, 2.0, 5.0, -1.0, math.inf, math.nan):
        with np.errstate(all="ignore"):
            for op, function in {Op.EXP2: np.exp2, Op.SQRT: np.sqrt, Op.SIN: np.sin,
                                 Op.LOG2: np.log2, Op.TRUNC: np.trunc}.items():  # fmt: skip
                node = UOp(op, dtypes.float32, (UOp.const(x, dtypes.float32),))
                assert same(simplify(node).arg, np.float32(function(np.float64(x))))


def test_casts_fold_where_they_are_defined():
    def cast(value, start, end):
        return simplify(UOp.const(value, start).cast(end))

    assert cast(300, dtypes.int32, dtypes.uint8).arg == 44
    assert cast(-1.9, dtypes.float32, dtypes.int32).arg == -1
    assert cast(0.5, dtypes.float32, dtypes.bool).arg is True
    assert cast(16777217, dtypes.int32, dtypes.float32).arg == 16777216.0
    assert cast(1e20, dtypes.float32, dtypes.int32).op is Op.CAST
    assert cast(math.nan, dtypes.float32, dtypes.int32).op is Op.CAST
    assert simplify(UOp.const(1.0, dtypes.float32).bitcast(dtypes.int32)).arg == 0x3F800000


@pytest.mark.parametrize("start", dtypes.TENSOR_DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("middle", dtypes.TENSOR_DTYPES, ids=lambda d: d.name)
def test_casts_merge_only_where_nothing_is_lost(start, middle):
    x = UOp.variable("x", 0, 1).replace(dtype=start)
    x = UOp(Op.LOAD, start, (UOp.buffer(4, start, slot=0).index(0),))
    values = [v for v in FLOATS if math.isfinite(v)] if start.is_float else []
    if not start.is_float:
        values = [start.minimum, start.maximum, start.convert(1), start.convert(-3)]
    through = [start.convert(v) for v in values]
    kept = all(same(start.convert(middle.convert(v)), v) for v in through)
    if holds(middle, start):
        assert kept
    for end in dtypes.TENSOR_DTYPES:
        before = x.cast(middle).cast(end)
        after = simplify(before)
        if after is before or start.is_float and end.is_integer:
            continue
        for v in through:
            direct = end.convert(v) if after.op is Op.CAST else v
            if not (isinstance(v, float) and middle.is_integer):
                assert same(end.convert(middle.convert(v)), direct), (v, end)


X = UOp(Op.LOAD, dtypes.float32, (UOp.buffer(4, dtypes.float32, slot=0).index(0),))
N = UOp(Op.LOAD, dtypes.int32, (UOp.buffer(4, dtypes.int32, slot=1).index(0),))
B = UOp(Op.LOAD, dtypes.bool, (UOp.buffer(4, dtypes.bool, slot=2).index(0),))
C = UOp(Op.LOAD, dtypes.bool, (UOp.buffer(4, dtypes.bool, slot=2).index(1),))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (N + 0, N),
        (0 + N, N),
        (X + -0.0, X),
        (X * 1, X),
        (1 * X, X),
        (N * 0, UOp.const(0, dtypes.int32)),
        ((X * -1) * -1, X),
        ((N + 3) + 4, N + 7),
        ((N * 3) * 4, N * 12),
        (X / 4.0, X * 0.25),
        (N // 1, N),
        (N // -1, N * -1),
        (N % 1, UOp.const(0, dtypes.int32)),
        (N & N, N),
        (N & -1, N),
        (N | -1, UOp.const(-1, dtypes.int32)),
        (N ^ N, UOp.const(0, dtypes.int32)),
        (N < N, UOp.const(False, dtypes.bool)),
        (N.ne(N), UOp.const(False, dtypes.bool)),
        (X < X, UOp.const(False, dtypes.bool)),
        (B.logical_not().logical_not(), B),
        (B & B.logical_not(), UOp.const(False, dtypes.bool)),
        (B.logical_not() | B, UOp.const(True, dtypes.bool)),
        (B + C, B | C),
        (B * C, B & C),
        (B.ne(C), B ^ C),
        (B.cast(dtypes.int32).ne(0), B),
        (B.where(X, X), X),
        (B.logical_not().where(X, X + 1), B.where(X + 1, X)),
        (B.where(B.where(X, X + 1), X + 2), B.where(X, X + 2)),
        (B.where(X + 1, B.where(X + 2, X)), B.where(X + 1, X)),
        (UOp.const(True, dtypes.bool).where(X, X + 1), X),
        (X.maximum_with(1.0).maximum_with(2.0), X.maximum_with(2.0)),
        (N << 0, N),
    ],
)
def test_identities(before: UOp, after: UOp):
    assert simplify(before) is after


@pytest.mark.parametrize(
    "node",
    [
        X + 0.0,  # -0.0 + 0.0 is 0.0
        X * 0.0,  # NaN, inf and the sign
        X.ne(X),  # true for NaN
        (X + 1.0) + 2.0,  # rounds twice
        X / 3.0,  # 1/3 is rounded
        X / 2.0**-127,  # its reciprocal overflows soon
        N.cast(dtypes.float32).cast(dtypes.int32),  # float32 does not hold every int32
    ],
)
def test_what_floats_do_not_allow_stays(node: UOp):
    assert simplify(node) is node


def test_vectors_and_tensors_use_the_same_identities():
    wide = UOp(Op.VECTOR, dtypes.float32.vec(4), (X,))
    assert simplify(wide * 1.0) is wide
    assert simplify(wide.const_like(2.0) * 3.0) is wide.const_like(6.0)
    tensor = UOp.buffer(8, dtypes.int32, "CPU", slot=3).reshape((2, 4))
    assert simplify(tensor * 1 + 0) is tensor
    assert simplify(tensor.const_like(2) + 3) is tensor.const_like(5)

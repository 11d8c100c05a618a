"""Every operation, type and number of lanes, through every compiler, against NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from linear_kernels import CAPABILITIES, COMPILERS, call, linear

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.ir import Op, UOp
from dovetile.lower.decompose import decompositions

COUNT = 64


def bits_of(dtype: DType) -> DType:
    return getattr(dtypes, f"uint{dtype.bits}")


# name: (kinds, function of UOps, function of arrays); operands a, b, c of one type, flag of bool
CASES: dict[str, tuple[str, Callable, Callable]] = {
    "add": ("buif", lambda a, b, c, f: a + b, lambda a, b, c, f: a + b),
    "sub": ("uif", lambda a, b, c, f: a - b, lambda a, b, c, f: a - b),
    "mul": ("buif", lambda a, b, c, f: a * b, lambda a, b, c, f: a * b),
    "div": ("f", lambda a, b, c, f: a / b, lambda a, b, c, f: a / b),
    "floordiv": ("ui", lambda a, b, c, f: a // b, lambda a, b, c, f: a // b),
    "floordiv7": ("ui", lambda a, b, c, f: a // 7, lambda a, b, c, f: a // a.dtype.type(7)),
    "mod": ("ui", lambda a, b, c, f: a % b, lambda a, b, c, f: a % b),
    "mod7": ("ui", lambda a, b, c, f: a % 7, lambda a, b, c, f: a % a.dtype.type(7)),
    "max": ("buif", lambda a, b, c, f: a.maximum_with(b), lambda a, b, c, f: np.maximum(a, b)),
    "min": ("buif", lambda a, b, c, f: a.minimum_with(b), lambda a, b, c, f: np.minimum(a, b)),
    "lt": ("buif", lambda a, b, c, f: a < b, lambda a, b, c, f: a < b),
    "ne": ("buif", lambda a, b, c, f: a.ne(b), lambda a, b, c, f: a != b),
    "and": ("bui", lambda a, b, c, f: a & b, lambda a, b, c, f: a & b),
    "or": ("bui", lambda a, b, c, f: a | b, lambda a, b, c, f: a | b),
    "xor": ("bui", lambda a, b, c, f: a ^ b, lambda a, b, c, f: a ^ b),
    "not": ("b", lambda a, b, c, f: a.logical_not(), lambda a, b, c, f: ~a),
    "shl": ("ui", lambda a, b, c, f: a << b, lambda a, b, c, f: np.left_shift(a, b)),
    "shr": ("ui", lambda a, b, c, f: a >> b, lambda a, b, c, f: np.right_shift(a, b)),
    "where": ("buif", lambda a, b, c, f: f.where(a, b), lambda a, b, c, f: np.where(f, a, b)),
    "both": (
        "buif",
        lambda a, b, c, f: (f & (a < b)).where(a, c),
        lambda a, b, c, f: np.where(f & (a < b), a, c),
    ),
    "sqrt": ("f", lambda a, b, c, f: a.alu(Op.SQRT), lambda a, b, c, f: np.sqrt(a)),
    "trunc": ("f", lambda a, b, c, f: a.alu(Op.TRUNC), lambda a, b, c, f: np.trunc(a)),
    "bits": (
        "uif",
        lambda a, b, c, f: a.bitcast(bits_of(a.dtype)),
        lambda a, b, c, f: a.view(f"u{a.itemsize}"),
    ),
    **{
        f"to {target.name}": (
            "bui",
            lambda a, b, c, f, target=target: a.cast(target),
            lambda a, b, c, f, target=target: a.astype(dtypes.to_numpy(target)),
        )
        for target in dtypes.TENSOR_DTYPES
    },
}


def operands_of(dtype: DType) -> list[np.ndarray]:
    """Three operands with every edge, and a flag."""
    random = np.random.default_rng(7)
    host = dtypes.to_numpy(dtype)
    if dtype.kind == "b":
        arrays = [random.integers(0, 2, COUNT).astype(bool) for _ in range(3)]
    elif dtype.kind == "f":
        a, b, c = (random.standard_normal(COUNT) * 4 for _ in range(3))
        a[:7] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -0.5]
        b[1:9] = [np.nan, -1.0, 2.0, np.nan, np.inf, 1.0, 0.0, -3.0]
        arrays = [x.astype(host) for x in (a, b, c)]
    else:
        low, high = int(dtype.minimum), int(dtype.maximum)
        a, b, c = (random.integers(low, high, COUNT, host, endpoint=True) for _ in range(3))
        a[:6] = [low, high, 0, low, 5, low]
        b[:6] = [high, low, 0, 3, 0, -1 if low else 1]
        b[8:40] = random.integers(1, 9, 32)
        if low:
            b[24:40] *= -1
        arrays = [a, b, c]
    return [*arrays, random.integers(0, 2, COUNT).astype(bool)]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("lanes", [1, 4, 16])
@pytest.mark.parametrize("dtype", dtypes.TENSOR_DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_elementwise(compiler, dtype: DType, lanes: int) -> None:
    arrays = operands_of(dtype)
    cases = {name: case for name, case in CASES.items() if dtype.kind in case[0]}
    loop = UOp.range(COUNT // lanes, id=0)
    position = loop * lanes
    operands = [
        UOp.buffer(COUNT, t, slot=slot).index(position).load(dtype=t.vec(lanes))
        for slot, t in enumerate([dtype, dtype, dtype, dtypes.bool_])
    ]
    stores, expected = [], []
    for slot, (_, build, reference) in enumerate(cases.values(), 4):
        value = build(*operands)
        target = UOp.buffer(COUNT, value.dtype.scalar, slot=slot).index(position)
        stores.append(target.store(value))
        expected.append(reference(*arrays))
    kernel = linear(UOp.group(*stores).end(loop), rules=decompositions(CAPABILITIES))
    results = [np.zeros_like(e) for e in expected]
    call(compiler, kernel, *arrays, *results)
    for name, result, right in zip(cases, results, expected):
        if result.dtype.kind in "bui":
            np.testing.assert_array_equal(result, right, err_msg=name)
        else:  # MAX and MIN leave the order of -0 and 0 open
            np.testing.assert_array_equal(
                result.astype(np.float64), right.astype(np.float64), err_msg=name
            )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("lanes", [1, 16])
@pytest.mark.parametrize(
    "dtype", [d for d in dtypes.TENSOR_DTYPES if d.is_float], ids=lambda d: d.name
)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_casts_from_float(compiler, dtype: DType, lanes: int) -> None:
    """Values in range of the target; small and unsigned targets wrap what int32 or int64 holds."""
    host = dtypes.to_numpy(dtype)
    value = np.linspace(-120, 120, COUNT).astype(host)
    value[:4] = [0.0, -0.0, 0.99, -0.99]
    loop = UOp.range(COUNT // lanes, id=0)
    source = UOp.buffer(COUNT, dtype, slot=0).index(loop * lanes).load(dtype=dtype.vec(lanes))
    stores = [
        UOp.buffer(COUNT, t, slot=slot).index(loop * lanes).store(source.cast(t))
        for slot, t in enumerate(dtypes.TENSOR_DTYPES, 1)
    ]
    kernel = linear(UOp.group(*stores).end(loop), rules=decompositions(CAPABILITIES))
    results = [np.zeros(COUNT, dtypes.to_numpy(t)) for t in dtypes.TENSOR_DTYPES]
    call(compiler, kernel, value, *results)
    for target, result in zip(dtypes.TENSOR_DTYPES, results):
        wide = value.astype(np.float64)
        if target.is_integer:
            right = wide.astype(np.int64).astype(result.dtype)
        else:
            right = wide.astype(result.dtype)
        np.testing.assert_array_equal(
            result.astype(np.float64), right.astype(np.float64), err_msg=target.name
        )


@pytest.mark.parametrize("lanes", [1, 16])
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.float64], ids=lambda d: d.name)
def test_multiply_add_rounds_once(compiler, dtype: DType, lanes: int) -> None:
    host = dtypes.to_numpy(dtype)
    a = (1 + np.arange(COUNT) * np.finfo(host).eps).astype(host)
    c = -(a * a)
    out = np.zeros(COUNT, host)
    loop = UOp.range(COUNT // lanes, id=0)
    x, z = (
        UOp.buffer(COUNT, dtype, slot=slot).index(loop * lanes).load(dtype=dtype.vec(lanes))
        for slot in (0, 1)
    )
    store = UOp.buffer(COUNT, dtype, slot=2).index(loop * lanes).store(x * x + z)
    kernel = linear(store.end(loop), rules=decompositions(CAPABILITIES))
    assert any(n.op is Op.MULACC for n in kernel.uops)
    call(compiler, kernel, a, c, out)
    steps = np.arange(COUNT).astype(np.longdouble) * np.finfo(host).eps
    exact = (2 * steps + steps * steps) + (c.astype(np.longdouble) + 1)
    np.testing.assert_array_equal(out, exact.astype(host))
    assert np.any(out != 0)

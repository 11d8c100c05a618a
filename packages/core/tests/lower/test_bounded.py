"""Sums leave out what a mask made zero, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from interpreter import run
from loop_kernels import WIDE

from dovetile import dtypes
from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.uop import UOp
from dovetile.lower import lower
from dovetile.optimize.opts import Bind, Split, Stage, apply_opts

N, WIDTH = 24, 8
PLAIN = replace(WIDE, local_bytes=1 << 16)


def masked_product(transposed: bool) -> UOp:
    """out[i, n] = sum(a[i, k] * b[k, n]) or sum(a[k, i] * b[k, n]), where a[row, column] is zero
    for columns beyond the row."""
    out, a, b = (
        UOp.buffer(size, dtypes.float32, slot=slot)
        for slot, size in enumerate((N * WIDTH, N * N, N * WIDTH))
    )
    i, n, k = (
        UOp.range(size, kind, number)
        for number, (size, kind) in enumerate(
            ((N, AxisKind.LOOP), (WIDTH, AxisKind.LOOP), (N, AxisKind.REDUCE))
        )
    )
    row, column = (k, i) if transposed else (i, k)
    zero = UOp.const(0.0, dtypes.float32)
    left = a.index(row * N + column).load(zero, column < row + 1).replace(arg="held")
    total = UOp(Op.REDUCE, left.dtype, (left * b.index(k * WIDTH + n).load(), k), Op.ADD)
    return UOp.sink(out.index(i * WIDTH + n).store(total).end(i, n))


def result(kernel: UOp, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    out = np.zeros(N * WIDTH, np.float32)
    run(lower(kernel, PLAIN), [out, left.reshape(-1).copy(), right.reshape(-1).copy()])
    return out.reshape(N, WIDTH)


def operands() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    left = np.tril(random.standard_normal((N, N), np.float32))
    return left, random.standard_normal((N, WIDTH), np.float32)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    "opts",
    [
        (),
        (Split(2, 4), Bind(2, AxisKind.UNROLL)),
        (Split(2, 4), Bind(2, AxisKind.UNROLL), Stage(0, (0, 3, 2))),
        (Split(0, 6), Bind(0, AxisKind.UNROLL), Bind(1, AxisKind.VECTOR)),
        (Split(0, 6), Bind(0, AxisKind.UNROLL), Stage(0, (2, 0)), Bind(1, AxisKind.VECTOR)),
        (Split(0, 7), Bind(0, AxisKind.UNROLL), Split(2, 3), Bind(2, AxisKind.UNROLL)),
    ],
    ids=["plain", "steps", "panel", "rows", "panel of rows", "overlapping"],
)
def test_the_sum_is_the_same(transposed: bool, opts: tuple):
    left, right = operands()
    kernel = apply_opts(masked_product(transposed), opts)
    expected = (left.T if transposed else left) @ right
    np.testing.assert_allclose(result(kernel, left, right), expected, 1e-5, 1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_zeros_are_not_read(transposed: bool):
    """Were they, the sums would be no numbers."""
    left, right = operands()
    expected = (left.T if transposed else left) @ right
    left[np.triu_indices(N, 1)] = np.nan
    found = result(masked_product(transposed), left, right)
    np.testing.assert_allclose(found, expected, 1e-5, 1e-5)


def test_copies_of_the_loop_go_on_together():
    """Rows 0 to 5 all read on to column 5, and no further."""
    left, right = operands()
    left[np.triu_indices(N, 6)] = np.nan
    opts = (Split(0, 6), Bind(0, AxisKind.UNROLL))
    found = result(apply_opts(masked_product(False), opts), left, right)
    np.testing.assert_allclose(found, np.nan_to_num(left) @ right, 1e-5, 1e-5)


def weighed_products(gated: bool) -> UOp:
    """out[i, n] = w[i, n] * sum(a[i, k] * b[k, n]); w is zero for columns beyond the row, and a
    WHERE says so, or (gated) the memory holds zeros."""
    out, a, b, w = (UOp.buffer(N * N, dtypes.float32, slot=slot) for slot in range(4))
    kinds = (AxisKind.LOOP, AxisKind.LOOP, AxisKind.REDUCE)
    i, n, k = (UOp.range(N, kind, number) for number, kind in enumerate(kinds))
    term = a.index(i * N + k).load() * b.index(k * N + n).load()
    total = UOp(Op.REDUCE, term.dtype, (term, k), Op.ADD)
    zero, seen = UOp.const(0.0, dtypes.float32), n < i + 1
    if gated:
        value = total * w.index(i * N + n).load(zero, seen).replace(arg="held")
    else:
        value = seen.where(total * w.index(i * N + n).load(), zero)
    return UOp.sink(out.index(i * N + n).store(value).end(i, n))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(
    "opts",
    [
        (),
        (Split(2, 4), Bind(2, AxisKind.UNROLL)),
        (Split(0, 7), Bind(0, AxisKind.UNROLL), Split(1, 8), Bind(1, AxisKind.VECTOR)),
    ],
    ids=["plain", "steps", "tiles"],
)
def test_sums_that_a_mask_replaces_have_no_steps(gated: bool, opts: tuple):
    random = np.random.default_rng(1)
    a, b, w = (random.standard_normal((N, N), np.float32) for _ in range(3))
    w = np.tril(w)
    out = np.zeros(N * N, np.float32)
    kernel = apply_opts(weighed_products(gated), opts)
    program = lower(kernel, PLAIN)
    lengths = [n.src[0] for n in program.uops if n.op is Op.RANGE]
    assert sum(not length.is_const for length in lengths) == 1
    run(program, [out, a.reshape(-1).copy(), b.reshape(-1).copy(), w.reshape(-1).copy()])
    np.testing.assert_allclose(out.reshape(N, N), w * (a @ b), 1e-5, 1e-5)


def test_zeros_of_a_mask_are_not_multiplied():
    """Were they, they would be no numbers."""
    a, b, w = np.ones((N, N), np.float32), np.ones((N, N), np.float32), np.tri(N, dtype=np.float32)
    b[:, 9] = np.nan
    out = np.zeros(N * N, np.float32)
    run(lower(weighed_products(True), PLAIN), [out, *(x.reshape(-1).copy() for x in (a, b, w))])
    column = out.reshape(N, N)[:, 9]
    assert (column[:9] == 0).all() and np.isnan(column[9:]).all()

"""REDUCE becomes a loop over a register."""

from __future__ import annotations

import subprocess
import sys

import loop_kernels as kernels
import numpy as np
import pytest

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.ir.identity import identity
from dovetile.ir.ops import AddressSpace, AxisKind, Op
from dovetile.ir.uop import UOp, toposort
from dovetile.lower.reductions import constant, lower_reductions


def registers(kernel: UOp) -> list[UOp]:
    return [n for n in toposort(kernel) if n.op is Op.BUFFER and n.arg.space is AddressSpace.REG]


def loops(kernel: UOp) -> list[UOp]:
    return [n for n in toposort(kernel) if n.op is Op.END]


@pytest.mark.parametrize("op", [Op.ADD, Op.MUL, Op.MAX, Op.MIN])
@pytest.mark.parametrize("dtype", dtypes.TENSOR_DTYPES, ids=lambda d: d.name)
def test_identities_change_nothing(op: Op, dtype: DType):
    host = dtypes.to_numpy(dtype)
    start = np.asarray(identity(op, dtype)).astype(host)
    function = {Op.ADD: np.add, Op.MUL: np.multiply, Op.MAX: np.maximum, Op.MIN: np.minimum}[op]
    values = kernels.numbers(9, dtype, 1)
    if dtype.kind == "f":
        values[0], values[1] = np.inf, -np.inf
    with np.errstate(all="ignore"):
        found = function(start, values).astype(host)
    if dtype.kind == "f":  # in float64, where NaN is known
        found, values = found.astype(np.float64), values.astype(np.float64)
    np.testing.assert_array_equal(found, values)


def test_constants_fill_the_lanes():
    assert constant(0, dtypes.float32) is UOp.const(0.0, dtypes.float32)
    assert constant(1, dtypes.float32.vec(4)).constant == 1.0


def test_no_reduction_no_change():
    kernel = kernels.elementwise(4).kernel
    assert lower_reductions(kernel) is kernel


def test_a_register_is_initialised_updated_and_read():
    lowered = lower_reductions(kernels.row_sums(3, 5).kernel)
    (register,) = registers(lowered)
    stores = [n for n in toposort(lowered) if n.op is Op.STORE and register in toposort(n.src[0])]
    assert len(stores) == 2
    first, update = stores
    assert first.src[1].constant == 0.0
    assert [r.src[0].arg for r in first.ranges] == [3]  # once per row
    assert sorted(r.src[0].arg for r in update.ranges) == [3, 5]
    assert not [n for n in toposort(lowered) if n.op is Op.REDUCE]


def pair(shared: bool) -> kernels.Case:
    """The sum and the maximum of each row, over one loop or over two."""
    r, a, b = UOp.range(3, id=0), UOp.range(5, AxisKind.REDUCE, 1), UOp.range(5, AxisKind.REDUCE, 2)
    b = a if shared else b
    x = UOp.buffer(15, dtypes.float32, slot=1)
    total = UOp(Op.REDUCE, dtypes.float32, (x.index(r * 5 + a).load(), a), Op.ADD)
    most = UOp(Op.REDUCE, dtypes.float32, (x.index(r * 5 + b).load(), b), Op.MAX)
    out = UOp.buffer(3, dtypes.float32, slot=0)
    kernel = UOp.sink(out.index(r).store(total + most).end(r))
    data = kernels.numbers(15, dtypes.float32, 0).reshape(3, 5)
    arrays = (np.zeros(3, np.float32), data.reshape(-1))
    return kernels.Case("sum and maximum", kernel, arrays, {0: data.sum(1) + data.max(1)})


@pytest.mark.parametrize("shared", [True, False])
def test_reductions_over_the_same_ranges_share_a_loop(shared: bool):
    case = pair(shared)
    lowered = lower_reductions(case.kernel)
    assert len(registers(lowered)) == 2
    assert len(loops(lowered)) == (2 if shared else 3)
    case.compare(case.results(case.kernel))


def test_a_dependent_reduction_gets_a_loop_of_its_own():
    """Both reduce the same RANGE; the second needs the result of the first."""
    case = kernels.normalized(3, 6)
    lowered = lower_reductions(case.kernel)
    ends = loops(lowered)
    closed = [r for e in ends for r in e.src[1:]]
    assert len(closed) == len(set(closed)) == 3
    case.compare(case.results(case.kernel))


def test_terms_of_a_group_are_added_one_after_the_other():
    r = UOp.range(4, AxisKind.REDUCE, 0)
    x = UOp.buffer(8, dtypes.float32, slot=1)
    terms = UOp(Op.GROUP, dtypes.float32, (x.index(r).load(), x.index(r + 4).load()))
    value = UOp(Op.REDUCE, dtypes.float32, (terms, r), Op.ADD)
    kernel = UOp.sink(UOp.buffer(1, dtypes.float32, slot=0).index(0).store(value))
    data = kernels.numbers(8, dtypes.float32, 0)
    case = kernels.Case("group", kernel, (np.zeros(1, np.float32), data), {0: data.sum()[None]})
    assert len(registers(lower_reductions(kernel))) == 1
    case.compare(case.results(kernel))


def test_an_empty_loop_gives_the_identity():
    """A loop whose length is only known inside another may be empty."""
    r = UOp.range(4, id=0)
    k = UOp.range(r, AxisKind.REDUCE, 1)
    x = UOp.buffer(4, dtypes.float32, slot=1)
    value = UOp(Op.REDUCE, dtypes.float32, (x.index(k).load(), k), Op.ADD)
    kernel = UOp.sink(UOp.buffer(4, dtypes.float32, slot=0).index(r).store(value).end(r))
    data = kernels.numbers(4, dtypes.float32, 0)
    expected = np.concatenate([[0], data.cumsum()[:-1]]).astype(np.float32)
    case = kernels.Case("triangle", kernel, (np.ones(4, np.float32), data), {0: expected})
    case.compare(case.results(kernel))


def test_new_loops_are_none_of_a_canonical_kernel():
    """In a fresh process as well, where no loop has been made before."""
    code = "from dovetile.ir.uop import UOp; print(UOp.range(5) is UOp.range(5, id=0))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert result.stdout.split() == [b"False"]

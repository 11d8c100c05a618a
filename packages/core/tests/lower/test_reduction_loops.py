"""Reductions as loops over accumulators."""

from __future__ import annotations

from dovetile import dtypes
from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.uop import UOp, toposort
from dovetile.lower.linearize import linearize
from dovetile.lower.reductions import lower_reductions


def dependent(r: UOp) -> UOp:
    """sum(x - max(x)), both over the same loop."""
    x, out = (UOp.buffer(n, dtypes.float32, slot=i) for i, n in enumerate((8, 1)))
    value = x.index(r).load()
    greatest = UOp(Op.REDUCE, value.dtype, (value, r), Op.MAX)
    total = UOp(Op.REDUCE, value.dtype, (value - greatest, r), Op.ADD)
    return UOp.sink(out.index(0).store(total))


def test_dependent_reductions_get_loops_of_their_own() -> None:
    program = linearize(lower_reductions(dependent(UOp.range(8, AxisKind.REDUCE))))
    ends = [n for n in program if n.op is Op.END]
    assert len({n.src[1] for n in ends}) == len(ends) == 2


def test_a_new_loop_is_none_of_the_kernel() -> None:
    """Also where the kernel uses the number that the next new range of the process would get."""
    following = UOp.range(2).arg.id + 1
    lowered = lower_reductions(dependent(UOp.range(8, AxisKind.REDUCE, following)))
    assert len([n for n in linearize(lowered) if n.op is Op.RANGE]) == 2


def test_lowering_is_the_same_every_time() -> None:
    kernel = dependent(UOp.range(8, AxisKind.REDUCE, 0))
    first = lower_reductions(kernel)
    UOp.range(3)
    assert lower_reductions(kernel) is first


def test_reductions_that_do_not_need_each_other_share_a_loop() -> None:
    x, out = (UOp.buffer(n, dtypes.float32, slot=i) for i, n in enumerate((8, 2)))
    r = UOp.range(8, AxisKind.REDUCE)
    value = x.index(r).load()
    stores = [
        out.index(i).store(UOp(Op.REDUCE, value.dtype, (value, r), op))
        for i, op in enumerate((Op.MAX, Op.ADD))
    ]
    lowered = lower_reductions(UOp.sink(UOp.group(*stores)))
    assert len([n for n in toposort(lowered) if n.op is Op.END]) == 1

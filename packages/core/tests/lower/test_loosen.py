"""Quotients and powers of which only small floats come."""

from __future__ import annotations

import pytest

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.uop import UOp, toposort
from dovetile.lower.loosen import loosen

SMALL = (dtypes.float16, dtypes.bfloat16)


def value(dtype: DType = dtypes.float32, slot: int = 1) -> UOp:
    return UOp.buffer(8, dtype, slot=slot).index(UOp.const(0)).load()


def stored(result: UOp) -> UOp:
    return UOp.sink(UOp.buffer(8, result.dtype, slot=0).index(UOp.const(0)).store(result))


def marks(result: UOp) -> list[str | None]:
    """What stands at every quotient and power that is stored, sources first."""
    found = toposort(loosen(stored(result)))
    return [n.arg for n in found if n.op in (Op.DIV, Op.EXP2)]


@pytest.mark.parametrize("small", SMALL)
def test_what_becomes_a_small_float_is_marked(small: DType):
    quotient = value() / (value(slot=2).alu(Op.EXP2) + 1.0)
    assert marks((quotient * 0.5).cast(small)) == ["approximate", "approximate"]
    assert marks(value(small) / value(small, 2)) == ["approximate"]


def test_sums_pass_it_on():
    axis = UOp.range(8, AxisKind.REDUCE, 0)
    power = UOp.buffer(8, dtypes.float32, slot=1).index(axis).load().alu(Op.EXP2)
    total = UOp(Op.REDUCE, dtypes.float32, (power, axis), Op.ADD)
    assert marks(total.cast(dtypes.bfloat16)) == ["approximate"]


def test_what_is_stored_or_compared_as_it_is_stays_exact():
    quotient = value() / value(slot=2)
    assert marks(quotient) == [None]
    assert marks((quotient < 1.0).where(quotient, 1.0).cast(dtypes.float16)) == [None]
    assert marks(quotient.alu(Op.SQRT).cast(dtypes.float16)) == [None]


def test_doubles_stay_exact():
    assert marks((value(dtypes.float64) / 3.0).cast(dtypes.float16)) == [None]

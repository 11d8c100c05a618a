"""Movement operations as arithmetic on indices, compared with NumPy's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from reference import evaluate

from dovetile import dtypes
from dovetile.errors import GraphError
from dovetile.ir.ops import Op
from dovetile.ir.rewrite import rewrite, substitute_ranges
from dovetile.ir.symbolic import simplify_constants, simplify_index
from dovetile.ir.uop import UOp, toposort
from dovetile.schedule.ranges import RangeBuilder

_simplify = simplify_constants + simplify_index


def element(value: UOp, position: tuple[int, ...]) -> int | None:
    """The flat place in the only BUFFER where one element is read; None where it is zero."""
    built = RangeBuilder({}).value(value, tuple(UOp.const(i) for i in position))
    built = rewrite(built, _simplify)
    if built.op is Op.CONST:
        return None
    assert built.op is Op.LOAD and all(s.op is Op.CONST for s in built.src[1:]), built
    if len(built.src) == 3 and not built.src[2].arg:
        return None
    return built.src[0].src[1].arg


def check(value: UOp) -> None:
    """Every element of a movement chain over one BUFFER of 1, 2, 3, ..."""
    (memory,) = [n for n in toposort(value) if n.op is Op.BUFFER]
    expected = evaluate(value, {memory: np.arange(1, memory.arg.size + 1, dtype=np.int32)})
    for position in np.ndindex(*expected.shape):
        found = element(value, position)
        assert (0 if found is None else found + 1) == expected[position]


def ints(*shape: int) -> UOp:
    return UOp.buffer(math.prod(shape), dtypes.int32).reshape(shape)


@pytest.mark.parametrize(
    "value",
    [
        ints(4, 6).reshape((3, 8)),
        ints(4, 6).reshape((2, 2, 3, 2)),
        ints(4, 6).permute((1, 0)).reshape((3, 8)),
        ints(2, 3, 4).permute((2, 0, 1)),
        ints(5).expand((3,)).permute((1, 0)),
        ints(5, 4).flip((0,)).flip((1,)),
        ints(5, 4).shrink(((1, 4), (2, 4))).flip((1,)),
        ints(3, 4).pad(((1, 2), (0, 1))),
        ints(3, 4).pad(((1, 2), (0, 1))).flip((0,)).permute((1, 0)),
        ints(3).pad(((2, 2),)).shrink(((1, 6),)).reshape((5, 1)),
        ints(1, 6, 1).reshape((6,)).reshape((2, 1, 3)),
        ints().expand((2, 2)),
        UOp(Op.INDEX, dtypes.int32, (ints(4, 3), UOp(Op.IOTA, dtypes.index, (), 6) % 4)),
    ],
    ids=lambda v: v.op.name,
)
def test_movement(value: UOp) -> None:
    check(value)


def test_loops_stay_symbolic() -> None:
    i, j = UOp.range(4), UOp.range(6)
    load = RangeBuilder({}).value(ints(4, 6).permute((1, 0)), (j, i))
    assert load.src[0].src[1].ranges == {i, j}
    at = substitute_ranges(load.src[0].src[1], {i: UOp.const(2), j: UOp.const(5)})
    assert rewrite(at, simplify_index).arg == 2 * 6 + 5


def test_padding_gates_the_load() -> None:
    i = UOp.range(10)
    value = RangeBuilder({}).value(ints(6).pad(((2, 2),)), (i,))
    (load,) = [n for n in toposort(value) if n.op is Op.LOAD]
    assert len(load.src) == 3 and load.src[2].dtype is dtypes.bool_
    for k in range(10):
        gate = rewrite(substitute_ranges(load.src[2], {i: UOp.const(k)}), _simplify)
        assert gate.arg == (2 <= k < 8)


def test_what_is_shrunk_to_the_inside_of_a_pad_needs_no_gate() -> None:
    i = UOp.range(6)
    value = RangeBuilder({}).value(ints(6).pad(((2, 2),)).shrink(((2, 8),)), (i,))
    assert value.op is Op.LOAD and len(value.src) == 1


def test_reductions_over_one_shape_share_their_loops() -> None:
    x, i = ints(4, 6), UOp.range(4)
    both = x.reduce(Op.ADD, 1) * x.reduce(Op.MAX, 1)
    value = RangeBuilder({}).value(both, (i,))
    first, second = (n for n in toposort(value) if n.op is Op.REDUCE)
    assert first.src[1:] == second.src[1:]


def test_an_unknown_index_is_checked_and_gated() -> None:
    x, positions = ints(4, 3), UOp.buffer(5, dtypes.int64)
    i, j = UOp.range(5), UOp.range(3)
    gathered = UOp(Op.INDEX, x.dtype, (x, positions.cast(dtypes.index)), "[test] bad")
    builder = RangeBuilder({})
    value = builder.value(gathered, (i, j))
    (check,) = builder.checks
    assert check.text == "[test] bad" and check.holds.dtype is dtypes.bool_
    assert value.op is Op.LOAD and len(value.src) == 3


def test_only_views_of_memory_can_be_written() -> None:
    with pytest.raises(GraphError, match=r"\[STORE\] to ADD; it must be a view of memory"):
        RangeBuilder({}).address(ints(3) + 1, (UOp.const(0),))


def test_depth_is_no_recursion() -> None:
    value = ints(4)
    for _ in range(20_000):
        value = value + 1
    assert RangeBuilder({}).value(value, (UOp.range(4),)).op is Op.ADD

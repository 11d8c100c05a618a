"""Rewrites of the tensor graph: what they make, and that values stay the same."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import buffer
from reference import evaluate

from dovetile import dtypes
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp, toposort
from dovetile.schedule.simplify import simplify_tensors


def simplified(value: UOp) -> UOp:
    """The simplified value, after checking that it is the same."""
    new = simplify_tensors(UOp.sink(value)).src[0]
    buffers = [n for n in toposort([value, new]) if n.op is Op.BUFFER]
    rng = np.random.default_rng(0)
    arrays = {b: rng.integers(-3, 4, b.arg.size).astype(np.int32) for b in buffers}
    np.testing.assert_array_equal(evaluate(new, dict(arrays)), evaluate(value, dict(arrays)))
    return new


def reductions(value: UOp) -> list[UOp]:
    return [n for n in toposort(value) if n.op is Op.REDUCE]


def ints(*shape: int) -> UOp:
    return buffer(shape, dtypes.int32)


@pytest.mark.parametrize("op", [Op.ADD, Op.MAX, Op.MIN])
def test_nested_reductions_of_one_kind_are_one(op: Op) -> None:
    (only,) = reductions(simplified(ints(3, 4, 5).reduce(op, 1).reduce(op, 1)))
    assert only.arg == (op, 2)


def test_nested_reductions_of_two_kinds_stay() -> None:
    assert len(reductions(simplified(ints(3, 4, 5).reduce(Op.ADD, 1).reduce(Op.MAX, 1)))) == 2


@pytest.mark.parametrize(
    "move",
    [
        lambda x: x.permute((1, 0)),
        lambda x: x.reshape((6, 2)),
        lambda x: x.pad(((1, 0), (0, 2))),
        lambda x: x.shrink(((0, 3), (1, 3))),
    ],
)
def test_sum_of_a_moved_sum_is_one(move) -> None:
    (only,) = reductions(simplified(move(ints(3, 4, 5).reduce(Op.ADD, 1)).reduce(Op.ADD, 1)))
    assert only.arg[0] is Op.ADD


def test_sum_of_a_gathered_sum_is_one() -> None:
    rows = UOp(Op.IOTA, dtypes.index, (), 4) % 3
    sums = ints(3, 4, 5).reduce(Op.ADD, 1)
    assert (
        len(reductions(simplified(UOp(Op.INDEX, sums.dtype, (sums, rows)).reduce(Op.ADD, 1)))) == 1
    )


def test_a_movement_that_repeats_sums_stays() -> None:
    sums = ints(3, 50).reduce(Op.ADD, 1)
    rows = UOp(Op.IOTA, dtypes.index, (), 30) % 3
    repeated = UOp(Op.INDEX, sums.dtype, (sums, rows)).reduce(Op.ADD, 1)
    assert len(reductions(simplified(repeated))) == 2


def test_maximum_of_padded_maximum_stays() -> None:
    moved = (ints(3, 4) * 1 - 9).reduce(Op.MAX, 1).pad(((1, 0),))
    assert len(reductions(simplified(moved.reduce(Op.MAX, 1)))) == 2


@pytest.mark.parametrize("size", [1 << 14, 30_000, 3 * 5 * 7 * 11 * 13 * 2])
def test_long_sums_are_done_in_parts(size: int) -> None:
    new = simplified(ints(size).reduce(Op.ADD, 1))
    stages = [n for n in toposort(new) if n.op is Op.STAGE]
    assert len(stages) == 1 and 1 < stages[0].size <= size // 8
    assert len(reductions(new)) == 2


def test_a_long_sum_of_a_prime_length_stays() -> None:
    assert len(reductions(simplified(ints(20011).reduce(Op.ADD, 1)))) == 1


def test_short_sums_stay() -> None:
    assert len(reductions(simplified(ints((1 << 14) - 1).reduce(Op.ADD, 1)))) == 1


def test_sums_in_sums_are_split_once_each() -> None:
    long = ints(1 << 15)
    total = long.reduce(Op.ADD, 1)
    new = simplified((long + total.expand((1 << 15,))).reduce(Op.ADD, 1))
    assert len([n for n in toposort(new) if n.op is Op.STAGE]) == 2


@pytest.mark.parametrize("move", [lambda x: x, lambda x: x.permute((1, 0))])
def test_a_sum_that_others_need_too_is_not_summed_again(move) -> None:
    inner = ints(3, 4, 5).reduce(Op.ADD, 1)
    outer = move(inner).reduce(Op.ADD, 1)
    new = simplify_tensors(UOp.sink(inner, outer))
    assert [n.arg[1] for n in reductions(new)] == [1, 1]


def test_what_is_cut_off_a_sum_is_not_computed() -> None:
    sums = ints(6, 4, 5).reduce(Op.ADD, 1).permute((1, 0)).shrink(((1, 3), (0, 6)))
    (only,) = reductions(simplified(sums))
    assert only.src[0].shape == (2, 6, 5)


def test_a_part_of_a_sum_that_others_need_is_a_part() -> None:
    inner = ints(6, 4).reduce(Op.ADD, 1)
    new = simplify_tensors(UOp.sink(inner, inner.shrink(((1, 3),)) * 2))
    assert len(reductions(new)) == 1


def test_columns_are_summed_in_parts_of_like_lengths() -> None:
    columns = ints(1 << 16, 32).permute((1, 0)).reduce(Op.ADD, 1)
    assert [n.src[0].shape[-1] for n in reductions(simplified(columns))] == [256, 256]

"""Long reductions in parts, on targets of workgroups. (Those of workers: test_simplify.)"""

from __future__ import annotations

from dataclasses import replace

import pytest
from loop_kernels import GROUPS

from dovetile import dtypes
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp, toposort
from dovetile.schedule.simplify import simplify_tensors

TARGET = replace(
    GROUPS, threads=128, warp=32, vector_bytes=16, bytes_per_second=4e12, launch_seconds=2e-6
)


def tensor(*shape: int) -> UOp:
    size = 1
    for n in shape:
        size *= n
    return UOp.buffer(size, dtypes.float32, "HOST").reshape(shape)


def parts(value: UOp) -> int:
    """How many parts a reduction is done in."""
    (sink,) = simplify_tensors(UOp.sink(value), TARGET).src
    stages = [n for n in toposort(sink) if n.op is Op.STAGE]
    return stages[0].size // max(value.size, 1) if stages else 1


@pytest.mark.parametrize("op", [Op.ADD, Op.MAX, Op.MUL])
def test_all_workgroups_have_work(op: Op):
    assert parts(tensor(1 << 26).reduce(op, 1)) == 1024


def test_columns_need_fewer_parts_the_more_there_are():
    def columns(rows: int, count: int) -> int:
        return parts(tensor(rows, count).permute((1, 0)).reduce(Op.ADD, 1))

    assert columns(1 << 16, 128) == 1024
    assert columns(1 << 14, 8192) == 16
    assert columns(64, 1 << 20) == 1


def test_rows_need_parts_only_where_they_are_few():
    assert parts(tensor(8, 1 << 22).reduce(Op.ADD, 1)) == 128
    assert parts(tensor(1 << 12, 1 << 14).reduce(Op.ADD, 1)) == 1


def test_what_is_read_in_no_time_stays():
    assert parts(tensor(1 << 14).reduce(Op.ADD, 1)) == 1


def test_several_axes_are_cut_from_the_first_on():
    sums = tensor(8, 64, 1 << 12, 64).permute((1, 0, 2, 3)).reduce(Op.ADD, 3)
    assert parts(sums) == 16


def test_lengths_that_cannot_be_cut_stay():
    assert parts(tensor(16777259).reduce(Op.ADD, 1)) == 1

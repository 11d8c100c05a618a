"""STAGE becomes a buffer and the nest that fills it."""

from __future__ import annotations

from dataclasses import replace

import loop_kernels as kernels
import pytest

from dovetile import dtypes
from dovetile.errors import GraphError
from dovetile.ir.ops import AddressSpace, AxisKind, Op
from dovetile.ir.uop import UOp, toposort
from dovetile.lower import lower
from dovetile.lower.stages import local_bytes, lower_stages, position
from dovetile.optimize.opts import Accumulate, Bind, GroupReduce, Split, Stage, apply_opts


def buffers(kernel: UOp, space: AddressSpace) -> list[UOp]:
    return [n for n in toposort(kernel) if n.op is Op.BUFFER and n.arg.space is space]


def test_kernels_without_stages_stay_as_they_are():
    kernel = kernels.matmul(3, 4, 5).kernel
    assert lower_stages(kernel) is kernel


def test_a_panel_is_filled_once_for_all_its_points():
    case = kernels.matmul(3, 4, 5)
    staged = Stage(1, (2, 1)).apply(case.kernel)
    lowered = lower_stages(staged)
    assert local_bytes(lowered) == 128  # 4 x 5 float32, in whole cache lines
    (panel,) = buffers(lowered, AddressSpace.LOCAL)
    assert (panel.arg.size, panel.arg.slot) == (20, 0)
    assert not [n for n in toposort(lowered) if n.op is Op.STAGE]
    (fill,) = [n for n in toposort(lowered) if n.op is Op.END and n is not lowered.src[0]]
    # B's panel is all of B: one loop copies it.
    assert [r.src[0].arg for r in fill.src[1:]] == [20]
    # The loops that fill are not those that read.
    assert not set(fill.src[1:]) & set(lowered.src[0].src[1:])
    case.compare(case.results(staged))


def test_copies_take_ranges_as_one_only_where_source_and_buffer_do():
    case = kernels.matmul(4, 8, 6)
    for opts, loops in (
        ([Split(2, 4), Stage(0, (0, 3, 2))], [32]),  # rows of A follow each other
        ([Split(2, 4), Stage(0, (3, 0, 2))], [2, 4, 4]),
        ([Split(1, 3), Stage(1, (3, 2, 1))], [2, 8, 3]),
    ):
        staged = apply_opts(case.kernel, opts)
        lowered = lower_stages(staged)
        (fill,) = [n for n in toposort(lowered) if n.op is Op.END and n is not lowered.src[0]]
        assert sorted(r.src[0].arg for r in fill.src[1:]) == sorted(loops)
        case.compare(case.results(staged))


def test_panels_of_several_operands_do_not_overlap():
    case = kernels.matmul(3, 4, 5)
    staged = apply_opts(case.kernel, [Stage(0, (2,)), Stage(1, (2,))])
    lowered = lower_stages(staged)
    first, second = sorted(buffers(lowered, AddressSpace.LOCAL), key=lambda b: b.arg.slot)
    assert first.arg.slot + first.arg.size * 4 <= second.arg.slot
    assert second.arg.slot % 64 == 0 and local_bytes(lowered) == 128


def test_panels_come_behind_what_is_in_local_memory_already():
    case = kernels.matmul(3, 4, 5)
    before = lower_stages(Stage(0, (2,)).apply(case.kernel))
    lowered = lower_stages(Stage(1, (2,)).apply(before))
    assert sorted(b.arg.slot for b in buffers(lowered, AddressSpace.LOCAL)) == [0, 64]
    assert local_bytes(lowered) == 128
    case.compare(case.results(lowered))


def test_registers_take_no_local_memory():
    case = kernels.matmul(3, 4, 5)
    staged = Stage(1, (2,), AddressSpace.REG).apply(case.kernel)
    lowered = lower_stages(staged)
    assert local_bytes(lowered) == 0
    assert [b.arg.size for b in buffers(lowered, AddressSpace.REG)] == [4]


def test_kinds_of_axes_are_kept():
    case = kernels.matmul(3, 4, 8)
    opts = [Split(1, 4), Bind(1, AxisKind.VECTOR), Stage(1, (2, 1))]
    lowered = lower_stages(apply_opts(case.kernel, opts))
    (fill,) = [n for n in toposort(lowered) if n.op is Op.END and n is not lowered.src[0]]
    assert [r.arg.kind for r in fill.src[1:]] == [AxisKind.REDUCE, AxisKind.VECTOR]


def test_a_stage_inside_a_stage():
    """The value of one is made from another: both get their place."""
    r, s = UOp.range(4, id=0), UOp.range(6, AxisKind.REDUCE, 1)
    x = UOp.buffer(24, dtypes.float32, slot=1).index(r * 6 + s).load()
    inner = (x + 1.0).stage(s, space=AddressSpace.LOCAL)
    outer = (inner * 2.0).stage(s, space=AddressSpace.LOCAL)
    out = UOp.buffer(4, dtypes.float32, slot=0).index(r)
    kernel = UOp.sink(out.store(UOp(Op.REDUCE, dtypes.float32, (outer, s), Op.ADD)).end(r))
    data = kernels.numbers(24, dtypes.float32, 0)
    expected = ((data.reshape(4, 6) + 1) * 2).sum(1)
    case = kernels.Case("nested", kernel, (data[:4].copy(), data), {0: expected})
    lowered = lower_stages(kernel)
    assert local_bytes(lowered) == 128 and len(buffers(lowered, AddressSpace.LOCAL)) == 2
    case.compare(case.results(kernel))


@pytest.mark.parametrize(
    ("sizes", "strides"), [([5], [1]), ([2, 5], [5, 1]), ([3, 2, 5], [10, 5, 1])]
)
def test_positions_are_row_major(sizes: list[int], strides: list[int]):
    from dovetile.ir.symbolic import linear_form

    ranges = tuple(UOp.range(n, id=i) for i, n in enumerate(sizes))
    terms, constant = linear_form(position(ranges))
    assert constant == 0 and [terms[r] for r in ranges] == strides


def test_position_of_nothing_is_zero():
    assert position(()) is UOp.const(0)


def test_more_than_the_target_has_is_refused():
    case = kernels.matmul(3, 4, 5)
    staged = Stage(1, (2, 1)).apply(case.kernel)
    with pytest.raises(GraphError, match="80 bytes in LOCAL memory; small has 64"):
        lower(staged, replace(kernels.WIDE, architecture="small", local_bytes=64))


def test_a_stage_of_a_sum_holds_its_accumulators():
    """The loop over the parts of the sum stands around the output's loops."""
    case = kernels.matmul(3, 8, 5)
    opts = [Split(2, 4), GroupReduce((3,)), Accumulate((0, 1))]
    lowered = lower_stages(apply_opts(case.kernel, opts))
    assert local_bytes(lowered) == 64  # 3 x 5 float32, in whole cache lines
    ends = [n for n in toposort(lowered) if n.op is Op.END]
    assert [[r.src[0].arg for r in n.src[1:]] for n in ends] == [[3, 5], [2, 3, 5], [3, 5]]
    case.run(opts)

"""Axes bound to workgroups and threads, and what threads exchange."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import loop_kernels as kernels
import numpy as np
import pytest
from loop_kernels import GROUPS, Case

from dovetile import dtypes
from dovetile.errors import GraphError
from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.uop import UOp
from dovetile.lower import LinearKernel, lower
from dovetile.lower.workgroups import thread_strides, threads_of
from dovetile.optimize.opts import Bind, GroupReduce, Opt, OptError, Order, Split, Stage, apply_opts

GROUP, LOCAL, UNROLL, VECTOR = (
    AxisKind.GROUP, AxisKind.LOCAL, AxisKind.UNROLL, AxisKind.VECTOR,
)  # fmt: skip


def run(case: Case, opts: Sequence[Opt]) -> LinearKernel:
    """The kernel under Opts, after it gave the right results."""
    kernel = apply_opts(case.kernel, opts)
    case.compare(case.results(kernel, GROUPS))
    return lower(kernel, GROUPS)


def ops(program: LinearKernel, op: Op) -> int:
    return sum(node.op is op for node in program.uops)


def test_axes_of_the_grid_and_of_threads():
    program = run(
        kernels.elementwise(6, 16),
        [Split(0, 4), Split(1, 8, "masked"), Bind(2, GROUP), Bind(1, LOCAL), Bind(0, VECTOR)],
    )
    assert (program.parts, program.threads) == (3, 8)
    assert ops(program, Op.BARRIER) == 0


def test_threads_of_a_warp_exchange_by_shuffles():
    program = run(kernels.row_sums(3, 8), [Bind(0, GROUP), Bind(1, LOCAL)])
    assert (program.parts, program.threads) == (3, 8)
    assert (ops(program, Op.SHUFFLE), ops(program, Op.BARRIER)) == (3, 0)


def test_warps_exchange_through_memory():
    program = run(kernels.row_sums(3, 64), [Bind(0, GROUP), Bind(1, LOCAL)])
    assert program.threads == 64
    assert (ops(program, Op.SHUFFLE), ops(program, Op.BARRIER)) == (3, 1)
    assert program.local_bytes == 32  # a float of each of 8 warps


@pytest.mark.parametrize("columns", [8, 64])
def test_a_value_that_all_threads_share_is_combined_too(columns: int):
    value = UOp.const(0.5, dtypes.float32).expand((3, columns)).reduce(Op.ADD, 1)
    case = kernels.case("sums of a constant", value, [], lambda: np.full(3, columns / 2, "f"))
    run(case, [Bind(0, GROUP), Bind(1, LOCAL)])


def test_in_a_loop_memory_is_not_written_before_all_have_read_it():
    program = run(kernels.row_sums(3, 64), [Bind(1, LOCAL)])
    assert (program.parts, ops(program, Op.BARRIER)) == (1, 2)


def test_the_nearest_elements_belong_to_neighbouring_threads():
    case = kernels.column_maxima(8, 16)
    kernel = apply_opts(case.kernel, [Bind(0, LOCAL), Bind(1, LOCAL)])
    strides = {r.arg.id: stride for r, stride in thread_strides(kernel).items()}
    assert strides == {0: 1, 1: 16}
    program = run(case, [Bind(0, LOCAL), Bind(1, LOCAL)])
    assert (program.threads, ops(program, Op.SHUFFLE), ops(program, Op.BARRIER)) == (128, 0, 1)


def test_threads_that_reduce_a_row_also_write_it():
    """Axes: 0 rows, 1 columns, 2 columns in the sum. Rows are other threads than both."""
    case = kernels.centered(6, 24)
    opts = [
        Split(2, 8), Split(1, 8), Split(0, 2, "masked"), GroupReduce((2,)), Bind(2, LOCAL),
        Order((5, 4, 0, 1)), Bind(1, LOCAL), Bind(0, LOCAL), Bind(5, GROUP),
    ]  # fmt: skip
    strides = thread_strides(apply_opts(case.kernel, opts))
    assert {r.arg.id: stride for r, stride in strides.items()} == {0: 8, 1: 1, 2: 1}
    assert threads_of(strides) == 16
    assert run(case, opts).threads == 16


def test_lanes_and_copies_are_combined_before_threads_exchange():
    program = run(
        kernels.row_sums(2, 64),
        [
            Split(1, 4),
            Split(2, 8),
            Bind(0, GROUP),
            Bind(1, VECTOR),
            Bind(2, LOCAL),
            Bind(3, UNROLL),
        ],
    )
    shuffles = [n for n in program.uops if n.op is Op.SHUFFLE]
    assert len(shuffles) == 3 and all(n.dtype.lanes == 1 for n in shuffles)


def test_all_threads_fill_local_memory():
    opts = [
        Split(0, 4), Split(1, 4), Split(2, 4), Order((3, 4, 1, 0)), Bind(3, GROUP), Bind(4, GROUP),
        Bind(0, LOCAL), Bind(1, LOCAL), Stage(1, (1, 2)), Stage(0, (0, 2)),
    ]  # fmt: skip
    program = run(kernels.matmul(8, 8, 8), opts)
    assert (program.parts, program.threads) == (4, 16)
    # Before the panels are filled again, and when both are full.
    assert ops(program, Op.BARRIER) == 3


def test_what_is_wrong():
    with pytest.raises(OptError, match="threads; a power of two is right"):
        apply_opts(kernels.elementwise(3, 5).kernel, [Bind(0, LOCAL)])
    with pytest.raises(OptError, match="parts are not independent"):
        apply_opts(kernels.row_sums(3, 8).kernel, [Bind(1, GROUP)])
    case = kernels.matmul(64, 64, 64)
    with pytest.raises(GraphError, match="bytes in LOCAL memory"):
        panels = apply_opts(case.kernel, [Stage(1, (1, 2)), Stage(0, (0, 2))])
        lower(panels, replace(GROUPS, local_bytes=1 << 10))

"""The heuristics give legal and right kernels for whatever shape comes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import loop_kernels as kernels
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loop_kernels import GROUPS, SCALAR, WIDE, Case

from dovetile import dtypes
from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.uop import UOp, toposort
from dovetile.lower import lower
from dovetile.optimize.bounds_check import prove
from dovetile.optimize.heuristic import heuristic, thread_opts
from dovetile.optimize.opts import Bind, Stage, Stream, apply_opts, output_axes
from dovetile.plugins import Capabilities
from dovetile.runtime import Device

small = st.integers(2, 19)
few = st.integers(1, 6)
cases = st.one_of(
    st.builds(kernels.elementwise, few, small),
    st.builds(kernels.transpose, small, few),
    st.builds(kernels.transpose, few, few, few),
    st.builds(kernels.row_sums, few, st.integers(2, 80)),
    st.builds(kernels.column_maxima, small, small),
    st.builds(kernels.total, st.integers(2, 200)),
    st.builds(kernels.padded, small, few, few),
    st.builds(kernels.normalized, few, small),
    st.builds(kernels.centered, few, small),
    st.builds(kernels.accumulated, small),
    st.builds(kernels.matmul, few, few, small),
    st.builds(kernels.convolution, st.just(1), few, few, st.integers(3, 5), st.integers(2, 3)),
)
targets = st.sampled_from(
    [SCALAR, WIDE, replace(WIDE, vector_bytes=64, vector_registers=32), GROUPS]
)


@settings(max_examples=60)
@given(cases, targets)
def test_small_kernels(case: Case, capabilities):
    opts = heuristic(case.kernel, capabilities)
    kernel = apply_opts(case.kernel, opts)
    assert prove(kernel) is None
    case.compare(case.results(kernel, capabilities))


middle = st.integers(17, 70)
large_cases = st.one_of(
    st.builds(kernels.matmul, middle, middle, middle),
    st.builds(kernels.matmul, st.just(1), st.integers(100, 400), st.integers(100, 400)),
    st.builds(
        kernels.convolution, st.integers(1, 5), st.integers(1, 9), st.integers(1, 20),
        st.integers(6, 15), st.integers(2, 5),
    ),
    st.builds(kernels.elementwise, st.integers(200, 400), st.integers(300, 600)),
    st.builds(kernels.transpose, st.integers(200, 400), st.integers(300, 600)),
    st.builds(kernels.row_sums, st.integers(1, 400), st.integers(300, 600)),
    st.builds(kernels.column_maxima, st.integers(300, 600), st.integers(1, 400)),
    st.builds(kernels.normalized, st.integers(300, 600), st.integers(200, 400)),
    st.builds(kernels.accumulated, st.integers(100_000, 300_000)),
)  # fmt: skip


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=large_cases)
def test_kernels_that_are_worth_threads_and_panels(device: Device, case: Case):
    kernel = apply_opts(case.kernel, heuristic(case.kernel, device.capabilities))
    assert prove(kernel) is None
    case.run_on(device, kernel)


@settings(max_examples=60)
@given(
    case=st.one_of(large_cases, st.builds(kernels.centered, st.integers(1, 99), middle)),
    most=st.sampled_from([64, 1024]),
)
def test_kernels_that_fill_workgroups(case: Case, most: int):
    capabilities = replace(GROUPS, group_threads=most, warp=32)
    kernel = apply_opts(case.kernel, heuristic(case.kernel, capabilities))
    assert prove(kernel) is None
    program = lower(kernel, capabilities)
    assert program.threads <= most


def test_products_of_matrices_get_a_register_tile():
    kernel = kernels.matmul(64, 64, 64).kernel
    opts = heuristic(kernel, WIDE)
    kinds = [o.kind for o in opts if isinstance(o, Bind)]
    # The vectors of a panel, the column, and steps of the sum.
    assert kinds.count(AxisKind.VECTOR) == 1 and kinds.count(AxisKind.UNROLL) == 3
    optimized = apply_opts(kernel, opts)
    accumulators = 1
    for axis in output_axes(optimized):
        if axis.arg.kind is AxisKind.UNROLL:
            accumulators *= axis.src[0].arg
    assert 6 <= accumulators <= WIDE.vector_registers


def test_strided_operands_are_packed():
    """The columns of both operands are far apart: no axis makes vectors of neighbours."""
    a, b = kernels.tensor(64, 96), kernels.tensor(80, 96)
    left = a.expand((80,)).permute((0, 2, 1))
    right = b.expand((64,)).permute((2, 0, 1))
    value = (left * right).reduce(Op.ADD, 1)
    case = kernels.case("product of rows", value, [a, b], lambda a, b: a @ b.T)
    opts = heuristic(case.kernel, WIDE)
    assert any(isinstance(o, Stage) for o in opts)


@pytest.mark.parametrize("threads", [1, 2, 16])
def test_work_is_shared_only_where_there_is_much(threads: int):
    capabilities = replace(WIDE, threads=threads)

    def parts(case: Case) -> bool:
        opts = heuristic(case.kernel, capabilities)
        return any(isinstance(o, Bind) and o.kind is AxisKind.THREAD for o in opts)

    assert not parts(kernels.elementwise(20, 20))
    assert parts(kernels.elementwise(1000, 1000)) == (threads > 1)


def test_results_that_no_cache_can_keep_stream():
    case = kernels.elementwise(100, 1000)
    bytes_touched = sum(a.nbytes for a in case.arrays)

    def streams(cache: int, able: bool = True) -> bool:
        target = replace(WIDE, cache_bytes=(1024, 2 * cache), streaming_stores=able)
        return Stream() in heuristic(case.kernel, target)

    assert streams(bytes_touched - 1)
    assert not streams(bytes_touched)
    assert not streams(bytes_touched - 1, able=False)


@pytest.mark.parametrize(("columns", "copies"), [(2048, 16), (16 * 24, 12), (64, 2)])
def test_sums_of_columns_read_long_stretches_of_rows(columns: int, copies: int):
    """As many vectors side by side as accumulators fit registers, and as leave work for all."""
    target = replace(WIDE, vector_bytes=64, vector_registers=32)
    case = kernels.column_maxima(300, columns)
    optimized = apply_opts(case.kernel, heuristic(case.kernel, target))
    unrolled = [
        n.src[0].arg
        for n in toposort(optimized)
        if n.op is Op.RANGE and n.arg.kind is AxisKind.UNROLL
    ]
    assert unrolled == [copies]


def test_filling_memory_is_work():
    target = UOp.buffer(1 << 20, dtypes.float32, slot=0)
    i = UOp.range(1 << 20, id=0)
    zeros = UOp.sink(target.index(i).store(UOp.const(0.0, dtypes.float32)).end(i))
    assert any(isinstance(o, Bind) and o.kind is AxisKind.THREAD for o in heuristic(zeros, WIDE))


def test_parts_of_lines_do_not_stream():
    for columns, streams in [(64, True), (60, False)]:
        case = kernels.column_maxima(3, columns)
        target = replace(WIDE, cache_bytes=(64, 128), streaming_stores=True)
        assert (Stream() in heuristic(case.kernel, target)) is streams


def rows_at_a_time(case: Case, target: Capabilities) -> int:
    """How many sums the kernel of a case does together; its results are compared."""
    kernel = apply_opts(case.kernel, heuristic(case.kernel, target))
    case.compare(case.results(kernel))
    copies = [r.src[0].arg for r in kernel.src[0].src[1:] if r.arg.kind is AxisKind.UNROLL]
    return math.prod(copies)


def test_rows_that_share_a_vector_are_summed_together():
    assert rows_at_a_time(kernels.matmul(64, 256, 1), WIDE) == 4


@pytest.mark.parametrize(
    ("rows", "columns", "changes", "together"),
    [
        (64, 1024, {}, 8),
        (64, 1000, {}, 1),  # less than a page
        (64, 1024, {"cache_bytes": (1 << 14, 1 << 20)}, 1),  # found in a cache
        (64, 1024, {"threads": 16}, 1),  # each worker's rows
        (64, 1024, {"vector_registers": 8}, 1),  # sums in registers
    ],
)
def test_memory_is_waited_for_in_several_rows(
    rows: int, columns: int, changes: dict[str, Any], together: int
):
    target = replace(WIDE, vector_registers=32, cache_bytes=(1 << 12, 1 << 16))
    x = kernels.tensor(rows, columns)
    case = kernels.case("rows", x.reduce(Op.ADD, 1), [x], lambda x: x.sum(1))
    assert rows_at_a_time(case, replace(target, **changes)) == together


def test_what_takes_long_to_compute_is_done_row_by_row():
    target = replace(WIDE, vector_registers=32, cache_bytes=(1 << 12, 1 << 16))
    x = kernels.tensor(64, 1024)
    value = (x * x).alu(Op.EXP2).reduce(Op.ADD, 1)
    case = kernels.case("powers", value, [x], lambda x: np.exp2(x * x).sum(1))
    assert rows_at_a_time(case, target) == 1


@pytest.mark.parametrize(("columns", "shared"), [(8, False), (40_000, True)])
def test_workers_repeat_what_is_small(columns: int, shared: bool):
    """A sum that all elements need keeps the workers together, unless it is soon done again."""
    v, w = kernels.tensor(64), kernels.tensor(columns)
    scale = v.reduce(Op.ADD, 1)
    value = w * scale.expand((columns,))
    case = kernels.case("scaled", value, [v, w], lambda v, w: w * v.sum())
    opts = thread_opts(case.kernel, WIDE)
    assert bool(opts) is shared
    case.compare(case.results(apply_opts(case.kernel, opts)))


@pytest.mark.parametrize("case", [kernels.elementwise(64, 64), kernels.matmul(32, 32, 32)])
def test_how_much_is_worth_sharing_is_the_targets_word(case: Case):
    def is_shared(work: int) -> bool:
        opts = heuristic(case.kernel, replace(WIDE, shared_work=work))
        return any(isinstance(opt, Bind) and opt.kind is AxisKind.THREAD for opt in opts)

    assert is_shared(100)
    assert not is_shared(1_000_000)

"""Values that are computed twice are kept, where that is possible and pays."""

from __future__ import annotations

from dataclasses import replace

import loop_kernels as kernels
import numpy as np
import pytest
from loop_kernels import WIDE, Case

from dovetile.ir.ops import AddressSpace, AxisKind, Op
from dovetile.ir.uop import toposort
from dovetile.lower import lower
from dovetile.optimize.heuristic import heuristic
from dovetile.optimize.keep import Keep, candidates, keep_opts
from dovetile.optimize.opts import Bind, GroupReduce, OptError, Split, apply_opts

VECTOR = AxisKind.VECTOR


def softmax(rows: int, columns: int) -> Case:
    """Axes: 0 rows, 1 columns, 2 the columns that are reduced."""
    x = kernels.tensor(rows, columns)

    def row(value):
        return value.expand((columns,))

    grown = (x + row(x.reduce(Op.MAX, 1)) * -1.0).alu(Op.EXP2)
    value = grown * row((grown.reduce(Op.ADD, 1) * 1.0).alu(Op.SQRT))

    def expected(x):
        e = np.exp2(x - x.max(1, keepdims=True))
        return e * np.sqrt(e.sum(1, keepdims=True))

    return kernels.case("softmax", value, [x], expected)


@pytest.fixture(scope="module")
def rows() -> Case:
    return softmax(6, 20)


@pytest.mark.parametrize(
    "opts",
    [
        [Keep(2, 1)],
        [Keep(2, 1), Split(1, 4), Bind(1, VECTOR)],
        [Keep(2, 1), Split(3, 8), Bind(3, VECTOR), Split(0, 4, "short")],
        [Keep(2, 1), Split(2, 4), GroupReduce((2,)), Bind(2, VECTOR), Bind(0, AxisKind.THREAD)],
    ],
)
def test_results_stay(rows: Case, opts):
    rows.run(opts)


def test_the_function_is_computed_in_one_place(rows: Case):
    def functions(kernel) -> int:
        return sum(n.op is Op.EXP2 for n in toposort(kernel))

    kept = Keep(2, 1).apply(rows.kernel)
    assert (functions(rows.kernel), functions(kept)) == (2, 1)
    (buffer,) = (
        n for n in toposort(kept) if n.op is Op.BUFFER and n.arg.space is AddressSpace.LOCAL
    )
    assert buffer.arg.size == 20
    assert lower(kept, WIDE).local_bytes == 80


@pytest.mark.parametrize("opt", [Keep(1, 2), Keep(2, 0), Keep(0, 1)])
def test_other_axes_are_refused(rows: Case, opt: Keep):
    with pytest.raises(OptError, match="nothing that costs much"):
        opt.apply(rows.kernel)


def test_cheap_values_are_computed_again():
    x = kernels.tensor(6, 20)
    value = x * x * (x * x).reduce(Op.ADD, 1).expand((20,))

    def expected(x):
        return x * x * (x * x).sum(1, keepdims=True)

    case = kernels.case("squares", value, [x], expected)
    assert list(candidates(case.kernel))
    assert not keep_opts(case.kernel, WIDE)


def test_nothing_outside_of_a_fill_becomes_lanes(rows: Case):
    kernel = Keep(2, 1).apply(rows.kernel)
    with pytest.raises(OptError, match="outside of what LOCAL"):
        apply_opts(kernel, [Split(0, 2), Bind(0, VECTOR)])


def test_the_row_must_fit_the_second_cache(rows: Case):
    for second, kept in ((320, True), (319, False)):
        target = replace(WIDE, cache_bytes=(64, second, 1 << 20))
        opts = heuristic(rows.kernel, target)
        assert (Keep(2, 1) in opts) == kept
        rows.run(opts)

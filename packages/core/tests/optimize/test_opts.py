"""Every Opt alone: the same results as without it, and errors where it would be wrong."""

from __future__ import annotations

import loop_kernels as kernels
import pytest
from loop_kernels import Case

from dovetile.ir.ops import AddressSpace, AxisKind, Op
from dovetile.ir.uop import UOp, toposort
from dovetile.optimize.opts import (
    Bind,
    GroupReduce,
    Opt,
    OptError,
    Order,
    ReduceOrder,
    Split,
    Stage,
    Stream,
    Tail,
    apply_opts,
    axis,
    contracted_product,
    describe,
    is_idempotent,
    output_axes,
)

THREAD, UNROLL, VECTOR = AxisKind.THREAD, AxisKind.UNROLL, AxisKind.VECTOR


@pytest.fixture(scope="module")
def matmul() -> Case:
    """Axes: 0 rows (6), 1 columns (10), 2 reduced (8)."""
    return kernels.matmul(6, 8, 10)


@pytest.fixture(scope="module")
def sums() -> Case:
    """Axes: 0 rows (5), 1 reduced (21)."""
    return kernels.row_sums(5, 21)


@pytest.mark.parametrize(
    "case",
    [
        kernels.matmul(3, 4, 5), kernels.elementwise(4, 9), kernels.transpose(3, 4, 5),
        kernels.row_sums(3, 11), kernels.column_maxima(3, 7), kernels.total(3, 5),
        kernels.padded(7, 2, 3), kernels.normalized(4, 6), kernels.accumulated(9),
        kernels.convolution(1, 2, 3, 5, 3),
    ],
    ids=lambda case: case.name,
)  # fmt: skip
def test_kernels_without_opts(case: Case):
    case.run((), kernels.SCALAR)


@pytest.mark.parametrize(
    "opts",
    [
        [Split(1, 5)],
        [Split(1, 10)],
        [Split(1, 1)],
        [Split(0, 4)],  # 6 rows in blocks of 4: two of them are computed twice
        [Split(0, 4, "short")],
        [Split(0, 4, "short"), Split(1, 3, "short")],
        [Split(2, 4)],  # reduced
        [Split(2, 3, "short")],
        [Split(0, 3), Split(0, 2)],  # blocks of 3 split into blocks of 2 that overlap
        [Bind(0, UNROLL)],
        [Bind(2, UNROLL)],
        [Bind(0, UNROLL), Bind(2, UNROLL)],
        [Bind(0, THREAD)],
        [Split(0, 4), Bind(3, THREAD)],
        [Split(0, 4, "short"), Bind(3, THREAD)],
        [Split(1, 8), Bind(1, VECTOR)],
        [Split(1, 2), Bind(3, UNROLL), Bind(1, VECTOR)],
        [Bind(2, VECTOR)],
        [Split(2, 4), Bind(2, VECTOR)],
        [Split(2, 4), GroupReduce((2,)), Bind(2, VECTOR)],
        [Split(2, 2), GroupReduce((3,))],
        [Split(2, 2), GroupReduce((2,)), Bind(2, UNROLL)],
        [Split(2, 2), ReduceOrder((2, 3))],
        [Order((1, 0))],
        [Split(0, 3), Order((1, 0, 3)), Bind(0, UNROLL)],
        [Tail(2, 3)],
        [Tail(2, 3), Split(2, 3), Bind(2, UNROLL)],
        [Stage(0, (2,))],
        [Stage(1, (2,))],
        [Stage(0, (0, 2))],
        [Stage(1, (2, 1))],
        [Stage(0, (2,)), Stage(1, (2,))],
        [Stage(1, (2,), AddressSpace.LOCAL, 1), Bind(0, THREAD)],
        [Split(1, 4), Bind(1, VECTOR), Stage(1, (2, 1))],
        [Split(1, 8), Split(1, 4), Bind(1, VECTOR), Bind(4, UNROLL), Stage(1, (2, 4, 1))],
    ],
    ids=describe,
)
def test_result_is_the_same(matmul: Case, opts: list[Opt]):
    matmul.run(opts)


@pytest.mark.parametrize(
    "opts",
    [
        [Tail(1, 8)],
        [Tail(1, 8), Split(1, 4), GroupReduce((1,)), Bind(1, VECTOR)],
        [Tail(1, 20)],
        [Tail(1, 10), Split(1, 5), Bind(1, UNROLL)],
        [Split(1, 7), ReduceOrder((1, 2))],
        [Split(0, 4), Bind(0, VECTOR)],
    ],
    ids=describe,
)
def test_reductions_with_ragged_axes(sums: Case, opts: list[Opt]):
    sums.run(opts)


def test_dependent_reductions_keep_their_order():
    case = kernels.normalized(6, 16)
    (inner, outer) = [n for n in toposort(case.kernel) if n.op is Op.REDUCE]
    for node in (inner, outer):
        case.run([Split(node.src[1].arg.id, 8), Bind(node.src[1].arg.id, VECTOR)])
    case.run([Bind(0, UNROLL)])


def test_gated_access_stays_gated():
    case = kernels.padded(13, 4, 6)
    for opts in ([Split(0, 8), Bind(0, VECTOR)], [Split(0, 5), Bind(0, UNROLL)], [Split(0, 5)]):
        case.run(opts)


def test_split_numbers_the_outer_axis(matmul: Case):
    kernel = Split(1, 5).apply(matmul.kernel)
    assert [(r.arg.id, r.src[0].arg) for r in output_axes(kernel)] == [(0, 6), (3, 2), (1, 5)]


def test_order_changes_loops_only(matmul: Case):
    kernel = Order((1, 0)).apply(matmul.kernel)
    assert [r.arg.id for r in output_axes(kernel)] == [1, 0]
    assert kernel.src[0].src[0] is matmul.kernel.src[0].src[0]


def test_stage_holds_the_operand(matmul: Case):
    kernel = Stage(1, (2,), AddressSpace.LOCAL, 2).apply(matmul.kernel)
    (stage,) = [n for n in toposort(kernel) if n.op is Op.STAGE]
    assert stage.arg == (AddressSpace.LOCAL, 2)
    assert stage.src[1:] == (axis(matmul.kernel, 2),)
    product = contracted_product(kernel)
    assert product is not None and product.src[1] is stage


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ([Split(7, 2)], "no axis 7"),
        ([Split(1, 11)], "size 11 of axis 1, which has 10"),
        ([Split(1, 0)], "size 0"),
        ([Split(2, 3)], "count elements twice"),
        ([Split(0, 4, "short"), Split(0, 2)], "no constant size"),
        ([Bind(0, UNROLL), Split(0, 2)], "split before binding"),
        ([Bind(2, THREAD)], "is reduced"),
        ([Bind(1, VECTOR)], "10 lanes; a power of two"),
        ([Bind(0, UNROLL), Bind(0, UNROLL)], "UNROLL already"),
        ([Bind(0, THREAD), Bind(1, THREAD)], "a THREAD axis already"),
        ([Split(1, 2), Bind(1, VECTOR), Bind(2, VECTOR)], "a VECTOR axis already"),
        ([Split(0, 4, "short"), Bind(0, UNROLL)], "no constant size"),
        ([Split(0, 4, "short"), Order((0, 3, 1))], "depends on \\[3\\]"),
        ([Order((0,))], "does not order the axes"),
        ([Order((0, 0))], "does not order the axes"),
        ([ReduceOrder((0, 1))], "no reduction is over"),
        ([Split(2, 3, "short"), ReduceOrder((2, 3))], "depends on \\[3\\]"),
        ([GroupReduce((2,))], "no reduction is over"),
        ([Tail(2, 4)], "no rest"),
        ([Tail(2, 9)], "no rest"),
        ([Tail(1, 3)], "is not reduced"),
        ([Stage(2, (2,))], "a product has 0 and 1"),
        ([Stage(0, (1,))], "does not depend on axes \\[1\\]"),
        ([Stage(0, (2,)), Stage(0, (2,))], "does not depend on axes"),
        ([Bind(0, UNROLL), Stage(0, (2,))], "hold those too"),
        ([Stage(0, (2,)), Bind(0, UNROLL)], "outside of what LOCAL"),
        ([Stream(), Stream()], "or streams"),
    ],
)
def test_illegal_use(matmul: Case, opts: list[Opt], message: str):
    with pytest.raises(OptError, match=message):
        apply_opts(matmul.kernel, opts)


def test_what_is_read_does_not_stream():
    case = kernels.elementwise(40)
    kernel = Stream().apply(case.kernel)
    assert [n.arg for n in toposort(kernel) if n.op is Op.STORE] == ["streaming"]
    case.run([Split(0, 8), Bind(0, VECTOR), Stream()])
    with pytest.raises(OptError, match="is read by it"):
        Stream().apply(kernels.accumulated(11).kernel)


def test_stage_needs_a_product():
    with pytest.raises(OptError, match="sums up no product"):
        Stage(0, (0,)).apply(kernels.elementwise(4).kernel)


def test_nothing_is_accumulated_twice():
    case = kernels.accumulated(11)
    assert not is_idempotent(case.kernel)
    with pytest.raises(OptError, match="reads what it overwrites"):
        Split(0, 4).apply(case.kernel)
    case.run([Split(0, 4, "short")])
    case.run([Split(0, 4, "short"), Bind(1, THREAD)])


def test_writes_in_order_stay_in_order():
    """Several writes to one element: the last one counts."""
    r, s = UOp.range(4, AxisKind.REDUCE, 0), UOp.range(4, AxisKind.REDUCE, 1)
    out = kernels.tensor(4)
    kernel = UOp.sink(out.index(s).store(UOp.const(1.0, out.dtype)).end(r, s))
    for opts in ([Order((1, 0))], [Bind(0, THREAD)], [Bind(1, VECTOR)], [Bind(0, UNROLL)]):
        with pytest.raises(OptError):
            apply_opts(kernel, opts)

"""Reductions that need each other, closed together in one loop."""

from __future__ import annotations

from dataclasses import replace

import loop_kernels as kernels
import pytest
from loop_kernels import WIDE, Case

from dovetile.ir.ops import AddressSpace, AxisKind, Op
from dovetile.ir.rewrite import substitute
from dovetile.ir.uop import nodes_of
from dovetile.optimize.bounds_check import prove
from dovetile.optimize.closed_nests import closable
from dovetile.optimize.heuristic import heuristic
from dovetile.optimize.online import Online
from dovetile.optimize.opts import Bind, OptError, Split, apply_opts, output_axes
from dovetile.optimize.rescale import closing

LOCAL = AddressSpace.LOCAL


@pytest.fixture(scope="module")
def plain() -> Case:
    return kernels.attention(20, 28)


@pytest.fixture(scope="module")
def causal() -> Case:
    return kernels.attention(20, 28, causal=True)


def test_the_rule_is_derived_from_the_terms(plain: Case):
    found = closing(plain.kernel)
    assert found is not None
    assert found.top.arg is Op.MAX
    # The sum of the weights, and that of the weighted values: both shrink by 2 ** (old - new).
    assert [k for _, k in found.sums] == [-1.0, -1.0]
    assert found.rows == frozenset(output_axes(found.kernel)[:2])


@pytest.mark.parametrize("causal", [False, True])
def test_the_kernel_is_right_without_opts(causal: bool):
    kernels.attention(8, 36, causal=causal).run()


@pytest.mark.parametrize("size", [7, 10, 28])
def test_blocks_of_any_size(plain: Case, causal: Case, size: int):
    """28 = 4 * 7; of blocks of 10 the last one overlaps; 28 is the whole axis."""
    plain.run([Online(1, size)])
    causal.run([Online(1, size)])
    for case in (plain, causal):
        assert prove(apply_opts(case.kernel, [Online(1, size)])) is None


def test_rows_in_blocks(causal: Case):
    causal.run([Split(1, 8), Online(1, 4)])
    causal.run([Split(1, 8), Online(1, 4), Bind(0, AxisKind.THREAD)])


def test_nothing_as_large_as_the_scores_is_held(plain: Case):
    kernel = apply_opts(plain.kernel, [Split(1, 4), Online(1, 7)])
    held = [n.arg.size for n in nodes_of(kernel) if n.op is Op.BUFFER and n.arg.space is LOCAL]
    # A tile of scores and one of weights; sums of values; maxima, sums, corrections.
    assert sorted(held) == [4, 4, 4, 4, 28, 28, 32]


def test_masked_blocks_are_skipped(causal: Case):
    """Of 28 keys in blocks of 4, rows 0 to 3 see one block, rows 16 to 19 see five."""
    kernel = apply_opts(causal.kernel, [Split(1, 4), Online(1, 4)])
    (loop,) = [
        n
        for n in nodes_of(kernel)
        if n.op is Op.RANGE and n.arg.kind is AxisKind.REDUCE and not n.src[0].is_const
    ]
    blocks = next(r for r in output_axes(kernel) if r in loop.src[0].ranges)
    assert loop.src[0].bounds == (1, 5)
    assert blocks.src[0].arg == 5


@pytest.mark.parametrize(
    "sizes", [(20, 28, (8, 8)), (33, 40, (5, 12)), (8, 130, (8, 7)), (40, 36, (2, 9))], ids=str
)
@pytest.mark.parametrize("causal", [False, True])
def test_heuristics(sizes: tuple, causal: bool):
    case = kernels.attention(*sizes, causal=causal)
    opts = heuristic(case.kernel, WIDE)
    assert any(isinstance(o, Online) for o in opts)
    case.run(opts)
    assert prove(apply_opts(case.kernel, opts)) is None


def test_too_few_rows_stay_apart(plain: Case):
    assert closable(plain.kernel, WIDE) is not None
    # Twenty rows are too few for the lanes of such vectors.
    assert closable(plain.kernel, replace(WIDE, vector_bytes=128)) is None
    assert closable(plain.kernel, replace(WIDE, vector_bytes=0)) is None


def test_workers_share_the_heads():
    case = kernels.attention(64, 96, heads=8)
    opts = heuristic(case.kernel, WIDE)
    assert opts[-1] == Bind(0, AxisKind.THREAD)


def test_other_reductions_do_not_close():
    assert closing(kernels.matmul(16, 32, 24).kernel) is None
    assert closing(kernels.row_sums(16, 32).kernel) is None


def test_terms_that_are_no_exponentials_of_the_score_do_not_close(plain: Case):
    found = closing(plain.kernel)
    assert found is not None
    (grown,) = [n for n in nodes_of(found.kernel) if n.op is Op.EXP2]
    difference = grown.src[0]
    for other in (grown * found.score, difference.alu(Op.SQRT), (difference * -1.0).alu(Op.EXP2)):
        assert closing(substitute(found.kernel, {grown: other})) is None
    assert closing(substitute(found.kernel, {grown: (difference * 0.5).alu(Op.EXP2)})) is not None


def test_bad_opts(plain: Case):
    with pytest.raises(OptError, match="no reductions"):
        Online(0, 4).apply(kernels.matmul(16, 32, 24).kernel)
    with pytest.raises(OptError, match="no axis of the maximum"):
        Online(2, 4).apply(plain.kernel)
    with pytest.raises(OptError, match="the axis has 28"):
        Online(1, 29).apply(plain.kernel)

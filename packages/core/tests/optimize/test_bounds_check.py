from __future__ import annotations

import itertools

import loop_kernels as kernels
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetile import dtypes
from dovetile.errors import GraphError
from dovetile.ir.uop import UOp
from dovetile.optimize.bounds_check import index_bounds, prove, require_in_bounds
from dovetile.optimize.opts import Split, apply_opts


def writes(size: int, index: UOp, *ranges: UOp, gate: tuple[UOp, ...] = ()) -> UOp:
    out = UOp.buffer(size, dtypes.float32, slot=0)
    return UOp.sink(out.index(index).store(UOp.const(1.0, dtypes.float32), *gate).end(*ranges))


def test_accepts_what_stays_inside():
    r = UOp.range(8, id=0)
    assert prove(writes(8, r, r)) is None
    assert prove(writes(22, r * 3, r)) is None


@pytest.mark.parametrize("shift", [-1, 1])
def test_names_what_leaves_its_buffer(shift: int):
    r = UOp.range(8, id=0)
    kernel = writes(8, r + shift, r)
    assert prove(kernel) == f"STORE of elements {shift} to {7 + shift} of buffer 0, which has 8"
    with pytest.raises(GraphError, match=r"\[optimize\] mine: STORE of elements"):
        require_in_bounds(kernel, "mine")


def test_loads_are_checked_too():
    r = UOp.range(8, id=0)
    value = UOp.buffer(7, dtypes.float32, slot=1).index(r).load()
    out = UOp.buffer(8, dtypes.float32, slot=0)
    reason = prove(UOp.sink(out.index(r).store(value).end(r)))
    assert reason is not None and reason.startswith("LOAD of elements 0 to 7 of buffer 1")


def test_gated_access_is_the_gates_matter():
    r = UOp.range(8, id=0)
    assert prove(writes(5, r, r, gate=(r < 5,))) is None


@given(st.integers(2, 40), st.data())
def test_every_split_is_proved(n: int, data: st.DataObject):
    sizes = [data.draw(st.integers(1, n)) for _ in range(2)]
    ragged = data.draw(st.sampled_from(["overlap", "short"]))
    r = UOp.range(n, id=0)
    kernel = apply_opts(writes(n, r, r), [Split(0, sizes[0], ragged)])
    assert prove(kernel) is None
    kernel = apply_opts(kernel, [Split(1, min(sizes[1], -(-n // sizes[0])), "overlap")])
    assert prove(kernel) is None


@given(st.integers(1, 9), st.integers(1, 6), st.integers(-3, 3), st.integers(-3, 3))
def test_bounds_hold_and_are_tight_for_short_blocks(n: int, size: int, a: int, b: int):
    outer = UOp.range(-(-n // size), id=0)
    inner = UOp.range((outer * -size + n).minimum_with(size), id=1)
    seen = [
        o * a + i * b
        for o, i in itertools.product(range(-(-n // size)), range(size))
        if i < min(size, n - o * size)
    ]
    low, high = index_bounds(outer * a + inner * b)
    assert low <= min(seen) and high >= max(seen)
    whole = index_bounds(outer * size + inner)
    assert whole == (0, n - 1)


@given(st.integers(2, 60), st.data())
def test_blocks_of_short_blocks_are_proved(n: int, data: st.DataObject):
    case = kernels.elementwise(n)
    first = data.draw(st.integers(1, n))
    opts = [Split(0, first, "short"), Split(0, data.draw(st.integers(1, first)), "short")]
    kernel = apply_opts(case.kernel, opts)
    assert prove(kernel) is None
    case.compare(case.results(kernel))


def test_quotients_in_short_blocks_are_proved():
    """Rows of 9 x 64 read as 64 x 9, in blocks of 64 of which the last share has fewer."""
    x = kernels.tensor(2, 9, 64)
    value = x.permute((0, 2, 1)).reshape((2, 576)) + 1
    case = kernels.case("turned", value, [x], lambda x: x.transpose(0, 2, 1).reshape(2, 576) + 1)
    opts = [Split(1, 64), Split(1, 16), Split(2, 5, "short")]
    kernel = apply_opts(case.kernel, opts)
    assert prove(kernel) is None
    case.compare(case.results(kernel))


def test_kernels_of_the_scheduler_are_proved():
    for case in (kernels.padded(9, 2, 3), kernels.convolution(1, 2, 2, 5, 3)):
        assert prove(case.kernel) is None, case.name

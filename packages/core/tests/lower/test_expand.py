"""UNROLL axes become copies, VECTOR axes become lanes."""

from __future__ import annotations

import loop_kernels as kernels
import numpy as np
import pytest

from dovetile import dtypes
from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.rewrite import rewrite, substitute
from dovetile.ir.symbolic import linear_form, simplify_index
from dovetile.ir.uop import UOp, toposort
from dovetile.lower.expand import broadcast, expand, lane_pattern, lanes_of
from dovetile.optimize.opts import Bind, Split, apply_opts

UNROLL, VECTOR = AxisKind.UNROLL, AxisKind.VECTOR
A = UOp.buffer(64, dtypes.float32, slot=1)
OUT = UOp.buffer(64, dtypes.float32, slot=0)


def nodes(kernel: UOp, op: Op) -> list[UOp]:
    return [n for n in toposort(kernel) if n.op is op]


def loop(size: int, kind: AxisKind = AxisKind.LOOP, id: int = 0) -> UOp:
    return UOp.range(size, kind, id)


def test_nothing_to_expand():
    kernel = kernels.matmul(2, 3, 4).kernel
    assert expand(kernel) is kernel


def test_copies_share_a_base_and_differ_by_a_constant():
    r, u = loop(5), loop(3, UNROLL, 1)
    kernel = UOp.sink(OUT.index(r * 3 + u).store(A.index(r * 6 + u * 2).load()).end(r, u))
    expanded = expand(kernel)
    assert [linear_form(n.src[0].src[1])[1] for n in nodes(expanded, Op.LOAD)] == [0, 2, 4]
    assert [linear_form(n.src[0].src[1])[1] for n in nodes(expanded, Op.STORE)] == [0, 1, 2]
    (end,) = nodes(expanded, Op.END)
    assert end.src[1:] == (r,) and end.src[0].op is Op.GROUP


def test_what_does_not_depend_on_a_copy_is_not_copied():
    r, u = loop(5), loop(4, UNROLL, 1)
    value = A.index(r).load() * 2.0
    expanded = expand(UOp.sink(OUT.index(r * 4 + u).store(value).end(r, u)))
    assert len(nodes(expanded, Op.LOAD)) == len(nodes(expanded, Op.MUL)) - 1 == 1
    assert len(nodes(expanded, Op.STORE)) == 4


def test_neighbours_become_one_access():
    r, v = loop(4), loop(8, VECTOR, 1)
    i = r * 8 + v
    expanded = expand(UOp.sink(OUT.index(i).store(A.index(i).load() * 2.0).end(r, v)))
    (load,), (store,) = nodes(expanded, Op.LOAD), nodes(expanded, Op.STORE)
    assert load.dtype == dtypes.float32.vec(8)
    assert load.src[0].src[1].dtype.lanes == 1  # one address: the lanes are neighbours
    assert store.src[1].dtype.lanes == 8
    assert not [n for n in toposort(expanded) if n.op is Op.RANGE and n is not r]


def test_near_strides_become_one_load_and_lanes_of_it():
    r, v = loop(2), loop(4, VECTOR, 1)
    expanded = expand(UOp.sink(OUT.index(r * 4 + v).store(A.index(v * 3 + r).load()).end(r, v)))
    (load,), (extract,) = nodes(expanded, Op.LOAD), nodes(expanded, Op.EXTRACT)
    assert load.dtype.lanes == 10  # from the first lane to the last, and not beyond
    assert extract.arg == (0, 3, 6, 9)


def test_far_strides_become_a_vector_of_addresses():
    r, v = loop(2), loop(4, VECTOR, 1)
    expanded = expand(UOp.sink(OUT.index(r * 4 + v).store(A.index(v * 20 + r).load()).end(r, v)))
    (load,) = nodes(expanded, Op.LOAD)
    assert load.src[0].src[1].dtype.lanes == 4


def test_reversed_neighbours():
    r, v = loop(2), loop(8, VECTOR, 1)
    kernel = UOp.sink(OUT.index(r * 8 + v).store(A.index(v * -1 + r + 7).load()).end(r, v))
    data, old = kernels.numbers(64, dtypes.float32, 3), kernels.numbers(64, dtypes.float32, 4)
    expected = np.concatenate([data[7::-1], data[8:0:-1], old[16:]])
    case = kernels.Case("reversed", kernel, (old, data), {0: expected})
    case.compare(case.results(kernel))


@pytest.mark.parametrize("op", [Op.FLOORDIV, Op.FLOORMOD])
@pytest.mark.parametrize(("stride", "scale", "divisor"), [(12, 1, 3), (12, 2, 4), (6, -1, 6)])
def test_quotients_and_remainders_have_known_lanes(op: Op, stride: int, scale: int, divisor: int):
    r, v = loop(5), loop(8, VECTOR, 1)
    index = (r * stride + v * scale + 8).alu(op, divisor)
    pattern = lane_pattern(index)
    assert pattern is not None
    start, steps = pattern
    for i in range(5):
        first = rewrite(substitute(start, {r: UOp.const(i)}), simplify_index).arg
        for lane in range(8):
            whole = i * stride + lane * scale + 8
            right = whole // divisor if op is Op.FLOORDIV else whole % divisor
            assert first + steps[lane] == right


def test_lanes_that_depend_on_other_loops_have_no_pattern():
    r, v = loop(5), loop(8, VECTOR, 1)
    assert lane_pattern((r * 5 + v).alu(Op.FLOORDIV, 3)) is None
    assert lane_pattern(v.alu(Op.MIN, 3)) is None


def test_one_element_is_loaded_once_and_repeated():
    r, v = loop(4), loop(8, VECTOR, 1)
    value = A.index(r * 8 + v).load() * A.index(r).load()
    expanded = expand(UOp.sink(OUT.index(r * 8 + v).store(value).end(r, v)))
    assert sorted(n.dtype.lanes for n in nodes(expanded, Op.LOAD)) == [1, 8]


@pytest.mark.parametrize("kind", [UNROLL, VECTOR])
def test_indices_that_are_not_linear(kind: AxisKind):
    v = loop(8, kind, 1)
    i = v.alu(Op.FLOORMOD, 3)
    kernel = UOp.sink(OUT.index(v).store(A.index(i).load()).end(v))
    data = kernels.numbers(64, dtypes.float32, 3)
    old = kernels.numbers(64, dtypes.float32, 4)
    expected = old.copy()
    expected[:8] = data[[0, 1, 2, 0, 1, 2, 0, 1]]
    case = kernels.Case("modulo", kernel, (old, data), {0: expected})
    case.compare(case.results(kernel))
    assert len(nodes(expand(kernel), Op.LOAD)) == (8 if kind is UNROLL else 1)


def test_the_counter_itself_as_value():
    for kind in (UNROLL, VECTOR):
        v = loop(8, kind, 1)
        out = UOp.buffer(8, dtypes.int32, slot=0)
        kernel = UOp.sink(out.index(v).store((v * 3 + 1).cast(dtypes.int32)).end(v))
        old = kernels.numbers(8, dtypes.int32, 0)
        expected = np.arange(8, dtype=np.int32) * 3 + 1
        case = kernels.Case("counter", kernel, (old,), {0: expected})
        case.compare(case.results(kernel))


def test_copies_of_a_reduced_axis_are_terms_of_one_sum():
    case = kernels.row_sums(3, 12)
    kernel = apply_opts(case.kernel, [Split(1, 4), Bind(1, UNROLL)])
    (reduction,) = nodes(expand(kernel), Op.REDUCE)
    assert reduction.src[0].op is Op.GROUP and len(reduction.src[0].src) == 4
    assert [r.src[0].arg for r in reduction.src[1:]] == [3]


def test_a_reduction_without_loops_is_a_balanced_tree():
    case = kernels.row_sums(3, 8)
    expanded = expand(Bind(1, UNROLL).apply(case.kernel))
    assert not nodes(expanded, Op.REDUCE)
    depth: dict[UOp, int] = {}
    for n in toposort(expanded):
        is_sum = n.op is Op.ADD and n.dtype == dtypes.float32
        depth[n] = max((depth[s] for s in n.src), default=0) + is_sum
    assert max(depth.values()) == 3


def test_lanes_of_a_reduction_are_combined_after_its_loops():
    case = kernels.row_sums(3, 16)
    expanded = expand(apply_opts(case.kernel, [Split(1, 4), Bind(1, VECTOR)]))
    (reduction,) = nodes(expanded, Op.REDUCE)
    assert reduction.dtype.lanes == 4
    assert [n.arg for n in nodes(expanded, Op.EXTRACT)] == [(0, 1), (2, 3), (0,), (1,)]


def test_gates_get_lanes_too():
    case = kernels.padded(10, 3, 3)
    case.run([Bind(0, VECTOR)])
    case.run([Split(0, 4), Bind(1, UNROLL), Bind(0, VECTOR)])


def test_helpers():
    v = loop(4, VECTOR, 9)
    assert lanes_of(v + 1) == 4 and lanes_of(loop(4)) == 1
    one = UOp.const(1.0, dtypes.float32)
    assert broadcast(one, 4).dtype.lanes == 4 and broadcast(one, 1) is one
    assert broadcast(broadcast(one, 4), 4) is broadcast(one, 4)

"""The specs: legal graphs pass, and each kind of mistake is named."""

from __future__ import annotations

import re

import pytest

from dovetile import dtypes
from dovetile.errors import ArgumentError, GraphError
from dovetile.ir import AddressSpace, AxisKind, Op, UOp
from dovetile.ir.spec import verify

F, INT, B = dtypes.float32, dtypes.int32, dtypes.bool
X = UOp.buffer(24, F, "CPU", slot=0)
Y = UOp.buffer(24, F, "CPU", slot=1)
R = UOp.range(24, id=0)
ONE, TWO = UOp.const(1.0, F), UOp.const(2.0, F)
INTEGER = UOp.const(1, INT)
TRUE = UOp.const(True, B)


def tensor_graph() -> UOp:
    rows = X.reshape((4, 6)).permute((1, 0)).pad(((0, 1), (0, 0))).flip((0,))
    total = (rows * rows.const_like(2.0)).reduce(Op.ADD, 1)
    picked = UOp(Op.INDEX, F, (total, UOp(Op.IOTA, dtypes.index, (), 3)))
    store = Y.reshape((4, 6)).shrink(((0, 1), (0, 3))).reshape((3,)).store(picked, arg=Op.ADD)
    moved = UOp(Op.COPY, F, (Y.after(store),), "CPU:1")
    return UOp.sink(moved, total.stage())


def loop_graph() -> UOp:
    k = UOp.range(6, AxisKind.REDUCE, id=1)
    row = UOp.range(4, AxisKind.THREAD, id=2)
    element = X.index(row * 6 + k).load(UOp.const(0.0, F), row < 3)
    total = UOp(Op.REDUCE, F, (element, k), Op.ADD)
    held = total.stage(row, space=AddressSpace.LOCAL)
    return UOp.sink(Y.index(row).store(held).end(row))


def program() -> list[UOp]:
    r = UOp.range(6, AxisKind.LOOP, id=3)
    four = F.vec(4)
    value = X.index(r * 4).load(dtype=four)
    twice = UOp(Op.MULACC, four, (value, value, UOp(Op.VECTOR, four, (ONE,))))
    store = Y.index(r * 4).store(twice)
    return UOp.sink(store.end(r)).toposort()


def test_legal_graphs_pass():
    verify(tensor_graph(), "tensor")
    verify(loop_graph(), "loop")
    verify(program(), "program")


def node(op, dtype, *src, arg=None) -> UOp:
    return UOp(op, dtype, src, arg)


ANYWHERE = [
    (node(Op.ADD, F, ONE, INTEGER), "of the node's type"),
    (node(Op.ADD, F, ONE), "1 sources"),
    (node(Op.ADD, INT, ONE, TWO), "of the node's type"),
    (node(Op.AND, F, ONE, TWO), "kind b or u or i"),
    (node(Op.DIV, INT, INTEGER, INTEGER), "kind f"),
    (node(Op.FLOORDIV, F, ONE, TWO), "kind u or i"),
    (node(Op.EXP2, INT, INTEGER), "kind f"),
    (node(Op.LT, F, ONE, TWO), "right is dtypes.bool"),
    (node(Op.LT, B, ONE, INTEGER), "two of one type"),
    (node(Op.WHERE, F, ONE, ONE, TWO), "right are (bool, x, y)"),
    (node(Op.WHERE, F, TRUE, ONE, INTEGER), "right are (bool, x, y)"),
    (node(Op.BITCAST, dtypes.float64, ONE), "types of one size"),
    (node(Op.CAST, F.vec(4), ONE), "as many lanes"),
    (node(Op.CONST, F, arg=1), "no value of"),
    (node(Op.CONST, dtypes.uint8, arg=300), "holds 44"),
    (node(Op.CONST, F, arg=0.1), "UOp.const converts"),
    (node(Op.CONST, F, ONE, arg=1.0), "a constant has none"),
]
TENSOR_ONLY = [
    (X + UOp(Op.EXPAND, F, (ONE,), (23,)), "one shape for all"),
    (node(Op.RESHAPE, F, X, arg=(5, 5)), "as many elements"),
    (node(Op.RESHAPE, F, X, arg=(-4, -6)), "sizes >= 0"),
    (node(Op.PERMUTE, F, X, arg=(1,)), "every axis once"),
    (node(Op.PERMUTE, F, X, arg=()), "every axis once"),
    (node(Op.PAD, F, X, arg=((-1, 0),)), "both >= 0"),
    (node(Op.SHRINK, F, X, arg=((3, 25),)), "start <= stop <= size"),
    (node(Op.FLIP, F, X, arg=(0, 0)), "at most once"),
    (node(Op.FLIP, F, X, arg=(1,)), "at most once"),
    (node(Op.EXPAND, F, X, arg=(-2,)), "sizes >= 0"),
    (node(Op.REDUCE, F, X, arg=(Op.ADD, 2)), "1 to 1 axes"),
    (node(Op.REDUCE, F, X, arg=(Op.DIV, 1)), "ADD, MUL, MAX or MIN"),
    (node(Op.INDEX, F, X, INTEGER), "index-dtype"),
    (node(Op.INDEX, F, X, UOp.const(0), UOp.const(0)), "at most one for an axis"),
    (node(Op.STORE, dtypes.void, X, ONE), "one type and one shape"),
    (node(Op.STORE, dtypes.void, X + X, X), "a view of a BUFFER"),
    (node(Op.STORE, dtypes.void, X, X, arg=Op.DIV), "None or a reduce op"),
    (node(Op.IOTA, F, arg=3), "an integer type"),
    (node(Op.COPY, F, X, arg=1), "a device name"),
    (node(Op.STAGE, F, X, arg=(AddressSpace.GLOBAL, 0)), "depth >= 1"),
    (node(Op.AFTER, F, X, Y), "right are STORE"),
    (node(Op.BUFFER, F, arg=3), "BufferArg"),
    (R, "does not have this operation"),
    (node(Op.SUB, F, ONE, TWO), "does not have this operation"),
]
KERNEL = [
    (node(Op.INDEX, F, X, INTEGER), "right is index"),
    (node(Op.INDEX, F, ONE, R), "(memory, flat index)"),
    (node(Op.INDEX, INT, X, R), "type of the elements"),
    (node(Op.LOAD, F, X), "right is an INDEX"),
    (node(Op.LOAD, INT, X.index(R)), "right is one type"),
    (node(Op.LOAD, F, X.index(R), ONE), "(INDEX, alternative, gate)"),
    (node(Op.LOAD, F, X.index(R), INTEGER, TRUE), "alternative"),
    (node(Op.LOAD, F, X.index(R), ONE, ONE), "right is bool"),
    (node(Op.STORE, dtypes.void, X.index(R), INTEGER), "right is one type"),
    (node(Op.STORE, F, X.index(R), ONE), "right is (INDEX, x)"),
    (node(Op.BARRIER, dtypes.void, arg="world"), "workgroup"),
    (node(Op.END, dtypes.void, X.index(R).store(ONE), ONE), "right are RANGEs"),
    (node(Op.END, dtypes.void, ONE, R), "(effect, *ranges)"),
    (node(Op.VECTOR, F.vec(4), ONE, TWO), "one for each of 4 lanes"),
    (node(Op.VECTOR, F.vec(2), ONE, INTEGER), "dtypes.float32"),
    (node(Op.EXTRACT, F, node(Op.VECTOR, F.vec(4), ONE), arg=(4,)), "tuple of lanes"),
    (node(Op.EXTRACT, F, node(Op.VECTOR, F.vec(4), ONE), arg=(1, 2)), "right is"),
    (X.reshape((4, 6)), "does not have this operation"),
]
LOOP_ONLY = [
    (node(Op.REDUCE, F, ONE, R, arg=(Op.ADD, 1)), "ADD, MUL, MAX or MIN"),
    (node(Op.REDUCE, F, ONE, arg=Op.ADD), "(x, *ranges)"),
    (node(Op.REDUCE, F, ONE, TWO, arg=Op.ADD), "right are RANGEs"),
    (node(Op.RANGE, dtypes.index, INTEGER, arg=R.arg), "of type index"),
    (node(Op.RANGE, dtypes.index, UOp.const(3), arg=3), "RangeArg"),
]
PROGRAM_ONLY = [
    (UOp.range(4, AxisKind.VECTOR), "other kinds have been lowered"),
    (ONE.stage(R), "does not have this operation"),
    (node(Op.REDUCE, F, ONE, R, arg=Op.ADD), "does not have this operation"),
    (X.index(R).store(ONE).end(R, UOp.range(4)), "one loop for each END"),
]
CASES = [
    (level, *case)
    for levels, cases in [
        (("tensor", "loop", "program"), ANYWHERE),
        (("tensor",), TENSOR_ONLY),
        (("loop", "program"), KERNEL),
        (("loop",), LOOP_ONLY),
        (("program",), PROGRAM_ONLY),
    ]
    for level in levels
    for case in cases
]


@pytest.mark.parametrize(("level", "wrong", "text"), CASES)
def test_mistakes_are_named(level: str, wrong: UOp, text: str):
    with pytest.raises(GraphError, match=re.escape(text)) as caught:
        verify(wrong, level)
    assert str(caught.value).startswith(f"[verify] {wrong.op.name}")
    assert level in str(caught.value)


def test_unknown_level():
    with pytest.raises(ArgumentError, match="valid are tensor, loop, program"):
        verify(ONE, "kernel")


def test_program_order():
    nodes = program()
    with pytest.raises(GraphError, match="before its source"):
        verify(nodes[1:], "program")
    with pytest.raises(GraphError, match="never closed"):
        verify(nodes[:-2], "program")
    with pytest.raises(GraphError, match="twice"):
        verify([*nodes, nodes[-1]], "program")


def test_a_value_stays_in_its_loop():
    r = UOp.range(6, id=3)
    inside = X.index(r).load()
    end = Y.index(r).store(inside).end(r)
    outside = Y.index(0).store(inside)
    with pytest.raises(GraphError, match="stays in its loop"):
        verify([*end.toposort(), *[n for n in outside.toposort() if n not in end.toposort()]],
               "program")  # fmt: skip


def test_loops_close_in_reverse_order():
    a, b = UOp.range(2, id=4), UOp.range(3, id=5)
    store = X.index(a + b).store(ONE)
    order = [*store.toposort(), store.end(a), store.end(b)]
    with pytest.raises(GraphError, match="reverse order"):
        verify(order, "program")

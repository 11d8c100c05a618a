"""Text of graphs: reads back to the same nodes, and refuses anything else."""

from __future__ import annotations

import doctest
import math

import pytest

from dovetile import dtypes
from dovetile.errors import FileFormatError
from dovetile.ir import AddressSpace, AxisKind, Op, UOp, printer
from dovetile.ir.printer import expression, format_graph, parse_graph


def kernel() -> UOp:
    a = UOp.buffer(64, dtypes.float32, "CPU", slot=0)
    b = UOp.buffer(64, dtypes.bfloat16, slot=1, space=AddressSpace.LOCAL)
    r = UOp.range(64, AxisKind.THREAD, id=3)
    n = UOp.variable("n", 1, 8)
    value = a.index(r).load() * -0.5 + b.index(r % n).load().cast(dtypes.float32)
    wide = UOp(Op.VECTOR, dtypes.float32.vec(4), (value,))
    store = a.index(r).store(UOp(Op.EXTRACT, dtypes.float32, (wide,), (1,)), r < 5)
    return UOp.sink(store.end(r), value.stage(r, depth=2))


def tensor() -> UOp:
    x = UOp.buffer(24, dtypes.int8, "CPU:1").reshape((4, 6)).permute((1, 0))
    return x.pad(((0, 1), (2, 0))).flip((0,)).shrink(((1, 3), (0, 2))).reduce(Op.ADD, 1)


@pytest.mark.parametrize("make", [kernel, tensor])
def test_a_listing_reads_back_to_the_same_node(make):
    root = make()
    assert parse_graph(format_graph(root)) is root


@pytest.mark.parametrize("value", [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, 3, -3, True])
def test_constants_read_back(value):
    kind = {bool: dtypes.bool, int: dtypes.int64, float: dtypes.float64}[type(value)]
    root = UOp.const(value, kind)
    assert parse_graph(format_graph(root)) is root


def test_every_dtype_reads_back():
    for dtype in (*dtypes.TENSOR_DTYPES, dtypes.index):
        for lanes in (1, 4, 16):
            node = UOp(Op.BUFFER, dtype.vec(lanes), (), UOp.buffer(1, dtype).arg)
            assert parse_graph(format_graph(node)) is node


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0 = CONST() index __import__('os')",
        "0 = CONST() index print(1)",
        "0 = CONST() index [x for x in ()]",
        "0 = NOTHING() index 1",
        "0 = CONST() float3 1.0",
        "0 = MUL(1, 2) index",
        "hello",
        "0 = RANGE() index RangeArg(who=1)",
        "0 = CONST() index (",
    ],
)
def test_other_text_is_refused(text: str):
    with pytest.raises(FileFormatError, match="parse_graph"):
        parse_graph(text)


def test_expressions_are_compact():
    a, b = UOp.range(4, id=0), UOp.range(8, id=1)
    assert expression(a * 512 + b // 4) == "r0*512 + r1//4"
    assert expression((a + b) * 2 % 3 - 1) == "(r0 + r1)*2%3 - 1"
    assert expression(a - b) == "r0 - r1"
    assert expression(a - (b + 1)) == "r0 - (r1 + 1)"
    assert expression((a < 3) & (b >= 2)) == "(r0 < 3) & (r1 >= 2)"
    assert expression(a // (b * 2)) == "r0//(r1*2)"
    buffer = UOp.buffer(32, dtypes.float32, slot=7)
    assert expression(buffer.index(a * 8 + b).load() + 1) == "global7[r0*8 + r1] + 1.0"


def test_shared_nodes_do_not_make_expressions_explode():
    x = UOp.range(4, id=0)
    for _ in range(200):
        x = x * x
    assert len(expression(x)) < 1000
    assert len(format_graph(x).splitlines()) == 202


def test_deep_graphs_print():
    x = UOp.range(4, id=0)
    for i in range(20_000):
        x = (x + i) // 2
    assert parse_graph(format_graph(x)) is x


def test_examples():
    assert doctest.testmod(printer).failed == 0

"""The order of a program, and what is read off it."""

from __future__ import annotations

import loop_kernels as kernels
import pytest

from dovetile import dtypes
from dovetile.errors import GraphError
from dovetile.ir.ops import AddressSpace, AxisKind, Op
from dovetile.ir.spec.verify import verify
from dovetile.ir.uop import UOp
from dovetile.lower import bind_parts, lower
from dovetile.lower.linear import LinearKernel, buffer_of, known_divisor
from dovetile.lower.linearize import linearize
from dovetile.optimize.opts import Bind, Split, Stage, apply_opts

A = UOp.buffer(64, dtypes.float32, slot=1)
OUT = UOp.buffer(64, dtypes.float32, slot=0)


def loop_depth(program: list[UOp]) -> dict[UOp, int]:
    """In how many loops each node stands."""
    depth, found = 0, {}
    for node in program:
        depth -= node.op is Op.END
        found[node] = depth
        depth += node.op is Op.RANGE
    return found


def test_values_stand_outside_of_loops_they_do_not_depend_on():
    r, s = UOp.range(4, id=0), UOp.range(16, id=1)
    value = A.index(r).load() * 2.0
    program = linearize(UOp.sink(OUT.index(r * 16 + s).store(value).end(r, s)))
    depth = loop_depth(program)
    assert depth[value] == 1
    (store,) = [n for n in program if n.op is Op.STORE]
    assert depth[store] == 2
    assert depth[UOp.const(2.0, dtypes.float32)] == 0
    verify(program, "program")


def test_every_loop_is_closed_once_in_reverse_order():
    r, s, t = (UOp.range(2, id=i) for i in range(3))
    program = linearize(
        UOp.sink(OUT.index(r * 4 + s * 2 + t).store(A.index(t).load()).end(r, s, t))
    )
    order = [n.src[1] if n.op is Op.END else n for n in program if n.op in (Op.RANGE, Op.END)]
    assert order == [r, s, t, t, s, r]


def test_effects_keep_their_order():
    """A buffer is filled before it is read, although nothing else says so."""
    r, s = UOp.range(4, id=0), UOp.range(4, id=1)
    panel = UOp.buffer(4, dtypes.float32, slot=0, space=AddressSpace.LOCAL)
    filled = panel.after(panel.index(r).store(A.index(r).load()).end(r))
    program = linearize(UOp.sink(OUT.index(s).store(filled.index(s).load()).end(s)))
    assert [n for n in program if n.op is Op.RANGE] == [r, s]
    verify(program, "program")


def test_a_loop_closed_twice_is_refused():
    r = UOp.range(4, id=0)
    first, second = OUT.index(r).store(A.index(r).load()), A.index(r).store(OUT.index(r).load())
    with pytest.raises(GraphError, match="closed by two ENDs"):
        linearize(UOp.sink(first.end(r), second.end(r)))


@pytest.mark.parametrize(
    "opts",
    [
        [],
        [Bind(0, AxisKind.THREAD)],
        [Split(1, 4), Bind(1, AxisKind.VECTOR), Stage(1, (2, 1))],
        [Split(0, 2, "short"), Bind(3, AxisKind.THREAD)],
        [Bind(2, AxisKind.UNROLL), Stage(0, (2,))],
    ],
)
def test_programs_obey_their_spec(opts: list):
    kernel = apply_opts(kernels.matmul(5, 4, 8).kernel, opts)
    verify(lower(kernel, kernels.WIDE).uops, "program")


def test_what_is_read_off_a_program():
    opts = [Split(0, 2, "short"), Bind(3, AxisKind.THREAD), Stage(1, (2, 1))]
    program = lower(apply_opts(kernels.matmul(5, 4, 8).kernel, opts), kernels.WIDE, "mine")
    assert program.name == "mine"
    assert program.parts == 3
    assert [b.arg.slot for b in program.buffers] == [0, 1, 2]
    assert program.written == {0}
    assert program.local_bytes == 4 * 8 * 4
    assert program.variables == ()


def test_variables_come_in_the_order_of_their_names():
    r = UOp.range(4, id=0)
    b, a = UOp.variable("b", 0, 7), UOp.variable("a", 0, 7)
    kernel = UOp.sink(OUT.index(r + b).store(A.index(r + a).load()).end(r))
    assert LinearKernel.of("k", linearize(kernel)).variables == (a, b)


def test_parts_become_the_launch_index():
    kernel = kernels.elementwise(4, 9).kernel
    assert bind_parts(kernel) is kernel
    bound = bind_parts(Bind(0, AxisKind.THREAD).apply(kernel))
    (special,) = [n for n in bound.toposort() if n.op is Op.SPECIAL]
    assert special.arg == "part" and special.src[0].arg == 36
    assert not bound.ranges


def test_parts_do_not_depend_on_each_other():
    """Whatever the order in which workers run them."""
    import interpreter

    case = kernels.matmul(5, 4, 8)
    opts = [Split(0, 2, "short"), Bind(3, AxisKind.THREAD), Stage(1, (2, 1))]
    program = lower(apply_opts(case.kernel, opts), kernels.WIDE)
    arrays = [a.copy() for a in case.arrays]
    interpreter.run(program, arrays, parts=[2, 0, 1])
    case.compare(arrays)


def test_the_buffer_behind_an_address():
    address = OUT.after(OUT.index(0).store(UOp.const(1.0, dtypes.float32))).index(3)
    assert buffer_of(address) is OUT


def test_known_divisors():
    r = UOp.range(9, id=0)
    for index, divisor in [
        (r * 16 + 32, 16), (r * 16 + 8, 8), (r * 3, 1), (r * 6, 2), (UOp.const(0), 64),
        (UOp.const(48), 16), (r << 5, 32), (r * 4 * 8, 32), (r, 1), (r * 1024, 64),
    ]:  # fmt: skip
        found = known_divisor(index, {})
        assert found == divisor or (index.is_const and index.arg % found == 0), index

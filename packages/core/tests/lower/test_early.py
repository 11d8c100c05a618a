"""What a launch does before it awaits those ahead of it."""

from __future__ import annotations

from dovetile import dtypes
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.lower.early import await_launches
from dovetile.lower.linear import LinearKernel
from dovetile.lower.linearize import linearize


def product(steady: frozenset[int], room: int = 64) -> LinearKernel:
    """out[i] = weights[i] * x[i] for the thread i: buffers 0, 1 and 2."""
    out, weights, x = (UOp.buffer(64, dtypes.float32, slot=slot) for slot in range(3))
    i = UOp(Op.SPECIAL, dtypes.index, (UOp.const(64),), "local")
    value = weights.index(i).load() * x.index(i).load()
    sink = UOp.sink(out.index(i).store(value))
    return await_launches(LinearKernel.of("product", linearize(sink), steady), room)


def before(kernel: LinearKernel) -> list[int]:
    """The slots of what is loaded before the barrier."""
    barriers = [n for n, u in enumerate(kernel.uops) if u.op is Op.BARRIER and u.arg == "launch"]
    assert len(barriers) == 1
    early = kernel.uops[: barriers[0]]
    assert all(node.op not in (Op.STORE, Op.END) for node in early)
    return [node.src[0].src[0].arg.slot for node in early if node.op is Op.LOAD]


def test_only_what_nobody_writes_is_loaded_early():
    assert before(product(frozenset({1}))) == [1]
    assert before(product(frozenset())) == []


def test_the_rest_is_told_to_change():
    assert product(frozenset({1})).changing == {2}
    assert product(frozenset({1, 2})).changing == frozenset()


def test_registers_bound_what_is_loaded_early():
    assert before(product(frozenset({1, 2}), 4)) == [1]


def test_sources_still_come_first():
    uops = product(frozenset({1})).uops
    place = {node: number for number, node in enumerate(uops)}
    assert len(place) == len(uops)
    assert all(place[source] < place[node] for node in uops for source in node.src)


def test_loops_stay_behind_the_barrier():
    out, x = (UOp.buffer(64, dtypes.float32, slot=slot) for slot in range(2))
    r = UOp.range(64)
    sink = UOp.sink(out.index(r).store(x.index(r).load()).end(r))
    kernel = LinearKernel.of("copy", linearize(sink), frozenset({1}))
    assert before(await_launches(kernel, 64)) == []

"""Loops made canonical: equal kernels are one node."""

from __future__ import annotations

import pytest
from graphs import buffer, plan_kernels

from dovetile import dtypes
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp, toposort
from dovetile.schedule.loops import canonical


def kernel(root: UOp) -> UOp:
    (found,) = plan_kernels(root)
    assert found.ast is not None
    return canonical(found.ast)[0]


def axes(root: UOp) -> list[int]:
    """Sizes of the output's loops."""
    end = kernel(root).src[0]
    return [r.src[0].arg for r in end.src[1:]] if end.op is Op.END else []


def test_equal_kernels_are_one_node() -> None:
    def make() -> UOp:
        x, y = buffer((8, 9)), buffer((8, 9))
        return (x * y + 1.0).reduce(Op.ADD, 1)

    assert kernel(make()) is kernel(make())


def test_names_of_buffers_and_loops_do_not_matter_but_their_roles_do() -> None:
    x, y = buffer((8,)), buffer((8,))
    assert kernel(x - y) is kernel(y - x)
    assert kernel(x - y) is not kernel(x - x * 2.0)


def test_buffers_come_in_the_order_of_the_slots_also_where_the_form_is_remembered() -> None:
    def doubled(source: UOp, target: UOp) -> UOp:
        loop = UOp.range(24)
        return UOp.sink(target.index(loop).store(source.index(loop).load() * 2.0).end(loop))

    a, b, c = (UOp.buffer(24, dtypes.float32) for _ in range(3))
    made, buffers = canonical(doubled(a, b))
    assert sorted(buffers, key=[a, b].index) == [a, b]
    roles = {a: b, b: c}
    again, others = canonical(doubled(roles[a], roles[b]))
    assert again is made and others == tuple(roles[x] for x in buffers)


@pytest.mark.parametrize("shape", [(24,), (2, 12), (2, 3, 4), (4, 1, 6)])
def test_contiguous_axes_are_one(shape: tuple[int, ...]) -> None:
    assert axes(buffer(shape) + 1.0) == [24]
    assert kernel(buffer(shape) + 1.0) is kernel(buffer((24,)) + 1.0)


def test_a_transposed_operand_keeps_two_axes() -> None:
    assert sorted(axes(buffer((4, 6)).permute((1, 0)) + buffer((6, 4)))) == [4, 6]


def test_axes_that_move_together_are_one() -> None:
    moved = buffer((2, 3, 5)).permute((2, 0, 1))
    assert sorted(axes(moved + 1.0)) == [5, 6]


def test_a_repeated_operand_keeps_its_axis() -> None:
    assert axes(buffer((4, 6)) + buffer((4,)).expand((6,))) == [4, 6]


def test_quotients_become_axes() -> None:
    """Reading (32, 48) transposed, as one axis: it splits where the quotients need it."""
    flat = buffer((32, 48)).permute((1, 0)).reshape((32 * 48,))
    root = kernel(flat + 1.0)
    assert not [n for n in toposort(root) if n.op in (Op.FLOORDIV, Op.FLOORMOD)]
    assert sorted(axes(flat + 1.0)) == [32, 48]


def test_reduced_axes_merge_too() -> None:
    root = kernel(buffer((5, 4, 6)).reduce(Op.ADD, 2))
    (reduce,) = [n for n in toposort(root) if n.op is Op.REDUCE]
    assert [r.src[0].arg for r in reduce.src[1:]] == [24]


def test_slots_are_counted_by_appearance_and_name_the_buffers() -> None:
    x, y = buffer((8,)), buffer((8,), dtypes.int32)
    (found,) = plan_kernels(x + y.cast(dtypes.float32))
    assert found.ast is not None
    root, buffers = canonical(found.ast)
    slots = [n for n in toposort(root) if n.op is Op.BUFFER]
    assert sorted(n.arg.slot for n in slots) == list(range(3))
    assert all(n.arg.device is None for n in slots)
    for node in slots:
        assert buffers[node.arg.slot].dtype is node.dtype


def test_canonical_twice_is_canonical() -> None:
    once = kernel((buffer((7, 5)) * 2.0).reduce(Op.MAX, 1))
    assert canonical(once)[0] is once

"""Which values of a graph are held in memory."""

from __future__ import annotations

import functools

import pytest
from graphs import buffer

from dovetile import dtypes
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.plugins import Capabilities
from dovetile.schedule.place import epilogue, is_memory, kernels_of, place, storage

TARGET = Capabilities(
    architecture="test", bytes_per_second=16e9, operations_per_second=320e9, launch_seconds=3e-6
)


def matmul(a: UOp, b: UOp) -> UOp:
    """(m, k) @ (k, n)"""
    m, n = a.shape[0], b.shape[1]
    left = a.expand((n,)).permute((0, 2, 1))
    right = b.permute((1, 0)).expand((m,)).permute((2, 0, 1))
    return (left * right).reduce(Op.ADD, 1)


def held(*roots: UOp) -> set[UOp]:
    return set(place(UOp.sink(*roots), TARGET).held)


def total(x: UOp) -> UOp:
    return x.reduce(Op.ADD, 1)


x = buffer((64, 64))
y = buffer((64, 64))


def exp(value: UOp) -> UOp:
    return value.alu(Op.EXP2)


product = matmul(x, y)
again = matmul(exp(x) + 1, y)
row_sum = total(x)
cheap = x + y
dear = functools.reduce(lambda value, _: exp(value), range(4000), x + y)

# name: (roots, held besides the roots, not held)
CASES: dict[str, tuple[list[UOp], list[UOp], list[UOp]]] = {
    "elementwise is computed where it is used": ([exp(x + 1) * 2], [], [exp(x + 1)]),
    "the sum of a row stays inside": ([x + row_sum.expand((64,))], [], [row_sum]),
    "an epilogue is held, not the product before it": (
        [exp(product) + 3, ],
        [],
        [product, exp(product)],
    ),
    "operands of a product come from memory": ([again], [exp(x) + 1], [exp(x)]),
    "a cheap value is computed in both kernels": (
        [total(cheap), cheap.permute((1, 0)).reduce(Op.MAX, 2)],
        [],
        [cheap],
    ),
    "a dear value is held for both kernels": (
        [total(dear), dear.permute((1, 0)).reduce(Op.MAX, 2)],
        [dear],
        [exp(x + y), dear.src[0]],
    ),
    "a sum that two kernels need is held": (
        [row_sum + 1, row_sum.expand((3,)) * 2],
        [row_sum],
        [],
    ),
    "where two products meet, one is held: the other's loops do not suit it": (
        [matmul(y, x) + exp(product)],
        [matmul(y, x)],
        [exp(product), product],
    ),
    "what is asked for is held": ([x + y, (x + y) * 2], [], []),
    "a stage is held": ([(x + 1).stage() * 2], [(x + 1).stage()], [x + 1]),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_held(name: str) -> None:
    roots, inside, outside = CASES[name]
    found = held(*roots)
    assert set(roots) <= found
    assert set(inside) <= found
    assert not found & set(outside)


def test_copies_hold_their_source() -> None:
    value = x + 1
    copy = UOp(Op.COPY, value.dtype, (value,), "CPU:1")
    assert held(copy) == {value, copy}
    plain = UOp(Op.COPY, x.dtype, (x,), "CPU:1")
    assert held(plain) == {plain}


def test_what_is_stored_is_not_held_as_well() -> None:
    state = x.src[0].after(x.store(x + y))
    assert held(state) == set()


def test_memory_is_not_held() -> None:
    state = x.src[0].after(x.store(x + y))
    for node, expected in [(x, True), (state.reshape((64, 64)), True), (x.permute((1, 0)), False),
                           (x + 1, False)]:  # fmt: skip
        assert is_memory(node) is expected
    assert held(x) == set()


def test_storage_is_below_movement_and_casts() -> None:
    value = x + y
    moved = value.cast(dtypes.float16).permute((1, 0)).flip((0,)).reshape((64 * 64,))
    assert storage(moved) is value


def test_epilogue_ends_where_the_value_is_shared() -> None:
    first = product + 1
    second, third = exp(first), first * 2
    placement = place(UOp.sink(second.permute((1, 0)).reduce(Op.MAX, 1), third), TARGET)
    placement.held.clear()
    assert epilogue(product, placement, set()) == (product, first)


def test_kernels_of_names_every_kernel_a_value_is_computed_in() -> None:
    a, b = x + 1, x * 2
    shared = x.permute((1, 0))
    roots = [shared + a.permute((1, 0)), shared * b]
    needs = kernels_of(place(UOp.sink(*roots), TARGET))
    assert needs[shared] == set(roots)
    assert needs[a] == {roots[0]} and needs[b] == {roots[1]}

"""Writes in place and what reads before, after and around them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("dovetile_cpu")

from graphs import expect, place

from dovetile import Tensor, dtypes, schedule
from dovetile.ir.held import realized
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.schedule.realization import buffer_of


def numbers(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def tensor(*shape: int) -> Tensor:
    return Tensor(numbers(*shape))


# -- graphs of STORE and AFTER ---------------------------------------------------------------------


def memory(*shape: int) -> tuple[UOp, UOp]:
    """(BUFFER, view) holding 0, 1, 2, ..."""
    view = place(numbers(*shape))
    return view if view.op is Op.BUFFER else view.src[0], view


def written(state: UOp, view: UOp, value: UOp, op: Op | None = None) -> UOp:
    return state.after(view.store(value, arg=op))


def test_a_value_may_read_the_old_and_the_new_state() -> None:
    b, x = memory(40)
    new = written(b, x, x * 2 + 1)
    expect(new.reshape((40,)) + x.flip((0,)))


def test_chain_of_writes_on_one_buffer() -> None:
    b, x = memory(30)
    state = b
    for _ in range(5):
        state = written(state, state.reshape((30,)), state.reshape((30,)) + 1)
    expect(state, x * 10)


def test_swap_of_two_buffers() -> None:
    a, x = memory(25)
    b, y = memory(25)
    y = y if y.op is not Op.BUFFER else b
    first = written(a, x, b.reshape((25,)) + 100)
    second = written(b, y, a.reshape((25,)) * -1)
    expect(first, second)


def test_rotation_of_three_buffers() -> None:
    buffers = [memory(9)[0] for _ in range(3)]
    shifted = [*buffers[1:], buffers[0]]
    expect(*(written(b, b, s + i) for i, (b, s) in enumerate(zip(buffers, shifted))))


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000])
def test_flip_in_place(size: int) -> None:
    b, x = memory(size)
    expect(written(b, x, x.flip((0,))))


def test_the_value_is_part_of_the_target() -> None:
    b, x = memory(4, 4)
    expect(written(b, x.permute((1, 0)), x))
    b, x = memory(4, 4)
    turned = x.permute((1, 0))
    expect(written(b, turned.flip((0,)), turned))


def test_a_result_is_part_of_the_target() -> None:
    b, x = memory(4, 4)
    turned = x.permute((1, 0))
    expect(turned, written(b, turned, turned + 1))


def test_transpose_in_place() -> None:
    b, x = memory(17, 17)
    state = written(b, x, x.permute((1, 0)))
    expect(state)


@pytest.mark.parametrize(("start", "source"), [(0, 3), (3, 0), (2, 5), (5, 2)])
def test_overlapping_shrinks(start: int, source: int) -> None:
    b, x = memory(50)
    target = x.shrink(((start, start + 40),))
    expect(written(b, target, x.shrink(((source, source + 40),))))


def test_writes_to_parts_leave_the_rest() -> None:
    b, x = memory(6, 8)
    state = written(b, x.shrink(((1, 3), (2, 5))), UOp.const(-1.0, dtypes.float32).expand((2, 3)))
    view = state.reshape((6, 8))
    state = written(
        state,
        view.permute((1, 0)).shrink(((0, 8), (5, 6))),
        x.shrink(((0, 1), (0, 8))).reshape((8, 1)),
    )
    expect(state)


@pytest.mark.parametrize("op", [None, Op.ADD, Op.MUL, Op.MAX, Op.MIN])
def test_scatter(op: Op | None) -> None:
    b, x = memory(10)
    places = place(np.array([3, 3, 9, 0, 3, 9], np.int64)).cast(dtypes.index)
    target = UOp(Op.INDEX, x.dtype, (x, places), "[scatter] out of bounds")
    values = place(np.array([1, 2, 3, 4, 5, 6], np.float32))
    expect(written(b, target, values, op))


@pytest.mark.parametrize("op", [Op.ADD, Op.MUL, Op.MAX, Op.MIN])
def test_store_that_combines(op: Op) -> None:
    b, x = memory(100)
    expect(written(b, x, x.flip((0,)) + 2, op))


def test_reduction_of_the_buffer_it_writes() -> None:
    b, x = memory(20, 20)
    mean = x.reduce(Op.ADD, 1).expand((20,))
    expect(written(b, x, x - mean))


def test_two_readers_of_different_states_share_a_kernel_shape() -> None:
    b, x = memory(64)
    before = x.reduce(Op.ADD, 1)
    state = written(b, x, x + 1)
    after = state.reshape((64,)).reduce(Op.ADD, 1)
    state = written(state, state.reshape((64,)), state.reshape((64,)) * 2)
    expect(before, after, state.reshape((64,)).reduce(Op.ADD, 1))


def test_a_write_keeps_the_memory() -> None:
    b, x = memory(12)
    held = buffer_of(b)
    state = written(b, x, x + 1)
    schedule.realize([state])
    assert schedule.buffer_of(realized(state)) is held
    np.testing.assert_array_equal(held.to_numpy().reshape(-1), numbers(12) + 1)


# -- Tensors ---------------------------------------------------------------------------------------


def test_assign_chain() -> None:
    x = tensor(33)
    for _ in range(4):
        x.assign(x * 2 + 1)
    np.testing.assert_array_equal(x.numpy(), numbers(33) * 16 + 15)


def test_assign_in_a_loop_with_realize() -> None:
    x = tensor(33)
    for i in range(4):
        x.assign(x + i).realize()
    np.testing.assert_array_equal(x.numpy(), numbers(33) + 6)


def test_pending_reader_sees_the_old_content() -> None:
    x = tensor(50)
    before = x * 3
    x.assign(x + 1)
    x.realize()
    np.testing.assert_array_equal(before.numpy(), numbers(50) * 3)
    np.testing.assert_array_equal(x.numpy(), numbers(50) + 1)


def test_readers_between_two_assigns() -> None:
    x = tensor(50)
    x.assign(x + 1)
    between = x * 10
    x.assign(x + 1)
    x.realize()
    np.testing.assert_array_equal(between.numpy(), (numbers(50) + 1) * 10)
    np.testing.assert_array_equal(x.numpy(), numbers(50) + 2)


def test_assign_twice_before_realize() -> None:
    x = tensor(8)
    x.assign(Tensor(numbers(8) * 5))
    x.assign(Tensor(numbers(8) * 7))
    np.testing.assert_array_equal(x.numpy(), numbers(8) * 7)


def test_swap_of_tensors() -> None:
    a, b = tensor(40), Tensor(numbers(40) + 100)
    old_a, old_b = a + 0, b + 0
    a.assign(old_b)
    b.assign(old_a)
    a.realize(b)
    np.testing.assert_array_equal(a.numpy(), numbers(40) + 100)
    np.testing.assert_array_equal(b.numpy(), numbers(40))


def test_views_share_memory() -> None:
    x = tensor(4, 6)
    row, flat = x[1], x.reshape(-1)
    x[1] = 9.0
    flat[0] = -1.0
    expected = numbers(4, 6)
    expected[1] = 9
    expected[0, 0] = -1
    np.testing.assert_array_equal(x.numpy(), expected)
    np.testing.assert_array_equal(row.numpy(), expected[1])
    np.testing.assert_array_equal(flat.numpy(), expected.reshape(-1))


@pytest.mark.parametrize("same", [lambda x: x * 1, lambda x: x + 0, lambda x: x.maximum(x)])
def test_a_result_equal_to_its_input_is_its_own(same) -> None:
    x = tensor(20)
    y = same(x)
    y.realize()
    x.assign(x + 1)
    x.realize()
    np.testing.assert_array_equal(y.numpy(), numbers(20))
    np.testing.assert_array_equal(x.numpy(), numbers(20) + 1)


def test_equal_expressions_around_an_assign_differ() -> None:
    x = tensor(20)
    before = (x + 5).realize()
    x.assign(x * 2)
    after = (x + 5).realize()
    np.testing.assert_array_equal(before.numpy(), numbers(20) + 5)
    np.testing.assert_array_equal(after.numpy(), numbers(20) * 2 + 5)


def test_assign_to_a_computed_tensor_leaves_equal_expressions_alone() -> None:
    x = tensor(20)
    first = (x + 5).realize()
    first.assign(first * 0)
    first.realize()
    np.testing.assert_array_equal((x + 5).numpy(), numbers(20) + 5)


def test_zero_copy_input_is_written_in_place() -> None:
    array = numbers(32)
    x = Tensor.from_numpy(array)
    x.assign(x + 1)
    x.realize()
    np.testing.assert_array_equal(x.numpy(), numbers(32) + 1)

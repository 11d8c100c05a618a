"""Indices that only kernels see: out of range is an exception, and later work goes on."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("dovetile_cpu")

from graphs import DEVICE, place, run

from dovetile import Tensor, counters, dtypes, schedule
from dovetile.errors import IndexOutOfRangeError
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.runtime import get_device
from dovetile.tensor.base import realize_all


def rows(x: UOp, positions: list[int], text: str) -> UOp:
    indices = place(np.array(positions, np.int64)).cast(dtypes.index)
    return UOp(Op.INDEX, x.dtype, (x, indices), text)


def memory() -> UOp:
    return place(np.arange(12, dtype=np.float32).reshape(4, 3))


@pytest.mark.parametrize("bad", [[0, 4], [-1, 2], [2**40, 0], [-(2**62), 1]])
def test_reading(bad: list[int]) -> None:
    text = f"[test] {bad} read out of bounds"
    schedule.realize([rows(memory(), bad, text) * 2])
    with pytest.raises(IndexOutOfRangeError, match=r"read out of bounds"):
        get_device(DEVICE).synchronize()
    get_device(DEVICE).synchronize()  # reported once


def test_the_text_is_that_of_the_operation() -> None:
    schedule.realize([rows(memory(), [9, 9], "[test] the one that fails")])
    with pytest.raises(IndexOutOfRangeError, match=r"^\[test\] the one that fails"):
        get_device(DEVICE).synchronize()


@pytest.mark.parametrize("op", [None, Op.ADD, Op.MAX])
def test_writing_leaves_other_memory_alone(op: Op | None) -> None:
    x = memory()
    target = rows(x, [1, 4], "[test] write out of bounds")
    value = UOp.const(100.0, dtypes.float32).expand((2, 3))
    schedule.realize([x.src[0].after(target.store(value, arg=op))])
    with pytest.raises(IndexOutOfRangeError, match="write out of bounds"):
        get_device(DEVICE).synchronize()
    (found,) = run(x + 0)
    expected = np.arange(12, dtype=np.float32).reshape(4, 3)
    expected[1] = 100 + (expected[1] if op is Op.ADD else 0)
    np.testing.assert_array_equal(found, expected)


def test_later_work_goes_on() -> None:
    x = Tensor(np.arange(5, dtype=np.float32))
    index = Tensor(np.array([1, 7]))
    with pytest.raises(IndexOutOfRangeError):
        x[index].numpy()
    np.testing.assert_array_equal((x * 2).numpy(), [0, 2, 4, 6, 8])
    np.testing.assert_array_equal(x[Tensor(np.array([1, 4]))].numpy(), [1, 4])


def test_outside_of_a_padded_region_nothing_is_read() -> None:
    """The index is bad only where padding makes the value zero: no fault."""
    x = memory()
    gathered = rows(x, [3, 1], "[test] never")
    (found,) = run(gathered.pad(((1, 1), (0, 0))))
    get_device(DEVICE).synchronize()
    expected = np.zeros((4, 3), np.float32)
    expected[1:3] = np.arange(12).reshape(4, 3)[[3, 1]]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("position", [3, 4, -5])
def test_writes_at_one_position_share_a_kernel(position: int) -> None:
    at = Tensor(np.array([position])).realize()
    old = np.arange(12, dtype=np.float32).reshape(4, 3)
    x, y = Tensor(old).realize(), Tensor(old + 100).realize()
    new = Tensor(np.array([[1.0, 2.0, 3.0]], np.float32)).realize()
    before = counters()
    x[at], y[at] = new * 2, new + 1
    realize_all([x, y])
    if position == 3:
        get_device(DEVICE).synchronize()
        old[3] = [2, 4, 6]
        np.testing.assert_array_equal(x.numpy(), old)
        np.testing.assert_array_equal(y.numpy()[3], [2, 3, 4])
    else:
        with pytest.raises(IndexOutOfRangeError):
            get_device(DEVICE).synchronize()
        np.testing.assert_array_equal(x.numpy(), old)
    np.testing.assert_array_equal(y.numpy()[:3], old[:3] + 100)
    assert (counters() - before).kernels == 1


def test_writes_at_several_positions_stay_in_order() -> None:
    at = Tensor(np.array([1, 1])).realize()
    x, y = Tensor(np.zeros(3, np.float32)).realize(), Tensor(np.zeros(3, np.float32)).realize()
    new = Tensor(np.array([5.0, 6.0], np.float32)).realize()
    x[at], y[at] = new, new * 2
    realize_all([x, y])
    assert x.tolist() == [0, 6, 0] and y.tolist() == [0, 12, 0]

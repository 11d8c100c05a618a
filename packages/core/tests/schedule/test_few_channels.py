"""Convolutions of few channels: what is rewritten for units of several threads, and that it is
right."""

from __future__ import annotations

import numpy as np
import pytest
from group_units import target, unit

from dovetile import Tensor, dtypes
from dovetile.dtypes import DType
from dovetile.environment import context
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp, toposort
from dovetile.schedule.few_channels import with_runs_of_taps
from dovetile.schedule.simplify import simplify_tensors

generator = np.random.default_rng(0)


def rewritten(value: Tensor, dtype: DType) -> tuple[UOp, UOp]:
    sink = simplify_tensors(UOp.sink(value.uop))
    return sink, with_runs_of_taps(sink, target("", unit(64, dtype)))


def numbers(*shape: int) -> Tensor:
    """Small integers: sums of their products are exact in every order."""
    values = generator.integers(-3, 4, shape).astype(np.float16)
    return Tensor(values).realize()


@pytest.mark.parametrize(
    ("batch", "channels", "size", "window", "stride", "padding"),
    [(1, 3, (33, 41), (7, 7), 2, 3), (2, 3, (33, 41), (7, 7), 2, 3),
     (3, 3, (32, 32), (3, 3), 1, 1), (8, 3, (29, 30), (5, 5), 1, 0),
     (2, 6, (40, 37), (4, 3), (1, 3), (0, 2))],
)  # fmt: skip
def test_results(batch, channels, size, window, stride, padding, monkeypatch):
    monkeypatch.setattr("dovetile.schedule.few_channels._LEAST_TERMS", 1)
    x, w = numbers(batch, channels, *size), numbers(5, channels, *window)
    value = x.conv2d(w, stride=stride, padding=padding)
    before, after = rewritten(value, dtypes.float16)
    assert before is not after
    copies = [n for n in toposort(after) if n.op is Op.STAGE]
    assert len(copies) == 2
    for copy in copies:  # rows are whole pieces
        assert copy.shape[-1] * copy.shape[-2] * 2 % 16 == 0
    expected = value.numpy()
    found = value._wrap(after.src[0]).numpy()
    np.testing.assert_array_equal(found, expected)


def test_where_it_is_left_alone(monkeypatch):
    monkeypatch.setattr("dovetile.schedule.few_channels._LEAST_TERMS", 1)

    def changed(value: Tensor, dtype: DType = dtypes.float16) -> bool:
        before, after = rewritten(value, dtype)
        return before is not after

    three, eight = numbers(2, 3, 16, 16), numbers(2, 8, 16, 16)
    assert changed(three.conv2d(numbers(4, 3, 3, 3)))
    assert not changed(eight.conv2d(numbers(4, 8, 3, 3)))  # whole pieces
    assert not changed(three.conv2d(numbers(4, 3, 1, 1)))  # no windows
    patches = numbers(2, 3, 64, 64).conv2d(numbers(4, 3, 16, 16), stride=16)
    assert not changed(patches)  # their rows are whole pieces
    assert not changed(three.conv2d(numbers(4, 3, 3, 3)), dtypes.bfloat16)
    single = three.float().realize().conv2d(numbers(4, 3, 3, 3).float().realize())
    assert not changed(single, dtypes.float32)
    with context(MATMUL_PRECISION="high"):
        assert changed(single, dtypes.float32)

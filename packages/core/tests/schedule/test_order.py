"""In which order held values lie in memory."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("dovetile_cpu")

from graphs import CAPABILITIES, buffer, expect, plan_kernels

from dovetile import Tensor
from dovetile.ir.ops import Op
from dovetile.ir.uop import nodes_of
from dovetile.optimize.analysis import access, size
from dovetile.schedule.dependencies import Kernel
from dovetile.schedule.order import as_read

LANES = CAPABILITIES.vector_bytes // 4


def images(*shape: int) -> Tensor:
    return Tensor(np.zeros(shape, np.float32))


def written(kernel: Kernel) -> list[tuple[int, int]]:
    """(size, stride) of every axis of what a kernel writes, outermost first."""
    assert kernel.ast is not None
    (store,) = (access(n) for n in nodes_of(kernel.ast) if n.op is Op.STORE)
    found = [(size(r), store.strides[r]) for r in store.strides]
    return sorted(found, key=lambda pair: -pair[1])


def test_between_convolutions_channels_come_last() -> None:
    x = images(2, 3, 12, 10).conv2d(images(12, 3, 3, 3)).relu()
    first, second = plan_kernels(x.conv2d(images(8, 12, 3, 3)).uop)
    assert written(first) == [(2, 10 * 8 * 12), (10, 8 * 12), (8, 12), (12, 1)]
    # The result is seen by others.
    assert written(second) == [(2, 8 * 8 * 6), (8, 8 * 6), (8, 6), (6, 1)]


def test_what_is_computed_from_them_follows() -> None:
    x = images(2, 3, 12, 10).conv2d(images(16, 3, 3, 3)).relu()
    _, pooled, _ = plan_kernels(x.max_pool2d(2).conv2d(images(8, 16, 3, 3)).uop)
    assert written(pooled) == [(2, 5 * 4 * 16), (5, 4 * 16), (4, 16), (16, 1)]


def test_channels_that_fill_no_vector_stay_where_they_are() -> None:
    x = images(2, 3, 12, 10).conv2d(images(LANES - 1, 3, 3, 3)).relu()
    first, _ = plan_kernels(x.conv2d(images(8, LANES - 1, 3, 3)).uop)
    assert written(first)[-1] == (8, 1)


def test_a_sum_runs_along_what_it_reads() -> None:
    x = images(2, 3, 12, 10).conv2d(images(12, 3, 3, 3)).relu()
    _, second = plan_kernels(x.conv2d(images(8, 12, 3, 3)).uop)
    assert second.ast is not None
    (total,) = (n for n in nodes_of(second.ast) if n.op is Op.REDUCE)
    assert [size(r) for r in total.src[1:]] == [3, 3, 12]


def test_matrices_stay_row_major() -> None:
    a, b = images(64, 32), images(32, 48)
    first, second = plan_kernels(((a @ b).relu() @ images(48, 16)).uop)
    assert written(first) == [(64, 48), (48, 1)] and written(second) == [(64, 16), (16, 1)]


def test_heads_lie_side_by_side_where_only_that_is_read() -> None:
    heads = images(2, 4, 32, 32) @ images(2, 4, 32, 16)
    first, _ = plan_kernels((heads.transpose(1, 2).reshape(64, 64) @ images(64, 32)).uop)
    assert sorted(written(first), key=lambda pair: pair[0]) == [
        (2, 32 * 4 * 16), (4, 16), (16, 1), (32, 4 * 16),
    ]  # fmt: skip


def test_users_that_read_rows_in_one_order() -> None:
    x = buffer((2, 3, 4))
    swapped, turned = x.permute((1, 0, 2)), x.permute((2, 1, 0))
    assert as_read([swapped]) == (1, 0, 2)
    assert as_read([]) is None
    assert as_read([turned]) is None  # rows would be scattered
    assert as_read([swapped, x + 1]) is None
    assert as_read([x.permute((0, 1, 2))]) is None


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("stride", [1, 2])
def test_values(padding: int, stride: int) -> None:
    rng = np.random.default_rng(0)

    def some(*shape: int) -> Tensor:
        return Tensor(rng.integers(-2, 3, shape).astype(np.float32))

    x = some(2, 3, 13, 11)
    hidden = x.conv2d(some(16, 3, 3, 3), padding=padding).relu()
    pooled = (hidden + hidden.mean((0, 2, 3), keepdim=True).trunc()).max_pool2d(2)
    result = pooled.conv2d(some(24, 16, 3, 3), stride=stride, padding=padding)
    sums = hidden.sum((0, 2, 3))
    expect(result.uop, sums.uop, pooled.flatten(1).uop, exact=False)


def test_values_of_gradients() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, (2, 3, 9, 8)).astype(np.float32)
    w, v = (rng.integers(-2, 3, s).astype(np.float32) for s in ((16, 3, 3, 3), (8, 16, 2, 2)))
    leaves = [Tensor(a, requires_grad=True) for a in (x, w, v)]
    result = leaves[0].conv2d(leaves[1], padding=1).relu().max_pool2d(2).conv2d(leaves[2])
    loss = (result * result).sum()
    expect(*(g.uop for g in loss.gradient(*leaves)), exact=False)

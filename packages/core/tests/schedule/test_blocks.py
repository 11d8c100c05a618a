"""Which held values lie in blocks, and that what is computed from them is right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from dovetile import Tensor
from dovetile.ir.uop import UOp
from dovetile.plugins import Capabilities
from dovetile.schedule.blocks import choose
from dovetile.schedule.layout import Layout
from dovetile.schedule.place import Placement, place
from dovetile.schedule.simplify import simplify_tensors

TARGET = Capabilities(
    architecture="test", bytes_per_second=16e9, operations_per_second=320e9, launch_seconds=3e-6
)
VECTOR_BYTES = 64
generator = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return generator.standard_normal(shape).astype(np.float32)


def tensor(*shape: int) -> Tensor:
    return Tensor(numbers(*shape)).realize()


def laid_out(*results: Tensor) -> Placement:
    sink = simplify_tensors(UOp.sink(*(r.uop for r in results)))
    placement = place(sink, TARGET)
    choose(placement, VECTOR_BYTES)
    return placement


def blocks(*results: Tensor) -> list[tuple[int, ...]]:
    """The shapes in memory of all values in blocks, in order."""
    found = laid_out(*results).layouts
    return [layout.in_memory(layout.parts(node.shape)) for node, layout in found.items()]


def conv(x: Tensor, outputs: int, window: int = 3, **options: int) -> Tensor:
    channels = x.shape[1] // options.get("groups", 1)
    return x.conv2d(tensor(outputs, channels, window, window), tensor(outputs), **options).relu()


def test_channels_between_convolutions_lie_in_blocks_of_two_vectors():
    x = tensor(2, 3, 18, 18)
    first = conv(x, 64)
    second = conv(first, 48, stride=2)
    third = conv(second, 32)
    assert blocks(third) == [(2, 2, 16, 16, 32), (2, 3, 7, 7, 16)]


def test_a_residual_sum_and_a_mean_follow_the_blocks():
    x = conv(tensor(1, 8, 10, 10), 32)
    y = conv(conv(x, 32, padding=1), 32, padding=1) + x
    assert blocks(y.mean((2, 3))) == [(1, 1, 8, 8, 32)] * 3


def test_weights_are_read_through_copies_in_blocks():
    x = tensor(2, 3, 18, 18)
    weights = tensor(64, 3, 3, 3)
    placement = laid_out(conv(x.conv2d(weights), 32))
    (((source, found),),) = (copies.items() for copies in placement.relaid.values())
    assert (source.shape, found) == ((64, 3, 3, 3), Layout.blocks(4, 0, 32))
    assert found.applied(source).shape == (2, 3, 3, 3, 32)


def test_products_of_matrices_have_their_outputs_last_by_themselves():
    x, a, b = tensor(64, 64), tensor(64, 64), tensor(64, 64)
    assert blocks((x @ a).relu() @ b) == []
    assert blocks(a @ (b @ x).relu()) != []


ROW_MAJOR: dict[str, Callable[[], list[Tensor]]] = {
    "results": lambda: [conv(tensor(2, 3, 18, 18), 64)],
    "results that others read": lambda: [first := conv(tensor(2, 3, 9, 9), 64), conv(first, 32)],
    "channels that fill no vector": lambda: [conv(conv(tensor(2, 3, 18, 18), 20), 32)],
    "groups": lambda: [conv(conv(tensor(2, 32, 18, 18), 32, groups=2), 32)],
    "computed weights": lambda: [
        conv(tensor(2, 32, 9, 9).conv2d(tensor(64, 32, 3, 3) * 2), 32)
    ],
}  # fmt: skip


@pytest.mark.parametrize("make", ROW_MAJOR.values(), ids=ROW_MAJOR)
def test_these_stay_row_major(make: Callable[[], list[Tensor]]):
    assert blocks(*make()) == []


def test_what_a_gradient_of_weights_reads_stays_row_major():
    x = conv(tensor(2, 8, 12, 12), 32)
    weights = Tensor(numbers(32, 32, 3, 3), requires_grad=True)
    x.conv2d(weights).square().sum().backward()
    assert weights.grad is not None
    assert blocks(weights.grad) == []


def correlation(x: np.ndarray, weight: np.ndarray, stride: int, padding: int) -> np.ndarray:
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(x, weight.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("bchwij,ocij->bohw", windows, weight)


@pytest.mark.parametrize("batch, size", [(1, 7), (3, 10)])
@pytest.mark.parametrize("stride, padding", [(1, 1), (2, 0), (2, 1)])
@pytest.mark.parametrize("channels", [16, 48, 64])
def test_networks_of_blocked_values_are_right(
    batch: int, size: int, stride: int, padding: int, channels: int
):
    x = numbers(batch, 5, size, size)
    w1, w2, w3 = numbers(channels, 5, 3, 3), numbers(32, channels, 3, 3), numbers(32, 32, 1, 1)
    first = Tensor(x).conv2d(Tensor(w1), padding=1).relu()
    second = first.conv2d(Tensor(w2), stride=stride, padding=padding)
    third = second.conv2d(Tensor(w3)) + second
    result = (third - third.mean(1, keepdim=True)).numpy()
    w1, w2, w3 = (w.astype(np.float64) for w in (w1, w2, w3))
    value = np.maximum(correlation(x.astype(np.float64), w1, 1, 1), 0)
    value = correlation(value, w2, stride, padding)
    value = correlation(value, w3, 1, 0) + value
    expected = value - value.mean(1, keepdims=True)
    assert np.abs(result - expected).max() < 1e-6 * np.abs(expected).max()

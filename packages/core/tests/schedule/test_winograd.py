"""Convolutions with fewer products: what is found, when it is worth it, and that it is right."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from dovetile import Tensor, dtypes
from dovetile.dtypes import DType
from dovetile.environment import context
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp, toposort
from dovetile.plugins import Capabilities
from dovetile.schedule import winograd
from dovetile.schedule.convolutions import Convolution, convolution_of
from dovetile.schedule.simplify import simplify_tensors
from dovetile.schedule.transforms import transforms

TARGET = Capabilities(
    architecture="test", bytes_per_second=16e9, operations_per_second=320e9, launch_seconds=3e-6,
    vector_bytes=64,
)  # fmt: skip
generator = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return generator.standard_normal(shape).astype(np.float32)


def sums(*results: Tensor, target: Capabilities | None = None) -> list[UOp]:
    sink = simplify_tensors(UOp.sink(*(r.uop for r in results)), target)
    return [n for n in toposort(sink) if n.op is Op.REDUCE]


def conv(x: np.ndarray, weights: np.ndarray, padding: int) -> np.ndarray:
    """In float64."""
    sides = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    windows = sliding_window_view(np.pad(x.astype("float64"), sides), weights.shape[2:], (2, 3))
    return np.einsum("bchwij,ocij->bohw", windows, weights.astype("float64"), optimize=True)


@pytest.mark.parametrize(("m", "r"), [(2, 3), (4, 3), (2, 5), (4, 5), (3, 1), (1, 4), (6, 3)])
def test_the_matrices_give_the_results_of_a_window(m: int, r: int):
    t = transforms(m, r)
    data, weights = [generator.integers(-9, 9, n) for n in (m + r - 1, r)]
    # In fractions, so exactly.
    product = (np.array(t.of_weights) @ weights) * (np.array(t.of_data) @ data)
    assert list(np.array(t.of_results) @ product) == list(sliding_window_view(data, r) @ weights)


def found(*results: Tensor) -> list[Convolution]:
    return [c for n in sums(*results) if (c := convolution_of(n)) is not None]


def test_a_convolution_is_read_off_its_loops():
    x, weights = (Tensor(numbers(*s)).realize() for s in ((2, 4, 9, 8), (6, 4, 3, 3)))
    (c,) = found(x.conv2d(weights, padding=1))
    assert [(w.places, w.length, w.first, w.backwards) for w in c.windows] == [
        (9, 3, -1, False),
        (8, 3, -1, False),
    ]
    assert (len(c.batch), len(c.channels), len(c.outputs)) == (1, 1, 1)


def test_the_gradient_by_the_input_reads_the_weights_from_the_end():
    x, weights = (Tensor(numbers(*s)).realize() for s in ((2, 4, 9, 8), (6, 4, 3, 3)))
    x.requires_grad = True
    gradient = (x.conv2d(weights) * Tensor(numbers(2, 6, 7, 6)).realize()).sum().gradient(x)
    (c,) = found(*gradient)
    assert [(w.places, w.first, w.backwards) for w in c.windows] == [(9, -2, True), (8, -2, True)]


@pytest.mark.parametrize("options", [{"dilation": 2}, {"groups": 2}])
def test_these_are_none(options: dict[str, int]):
    x = Tensor(numbers(1, 8, 12, 12)).realize()
    weights = Tensor(numbers(8, 8 // options.get("groups", 1), 3, 3)).realize()
    assert not found(x.conv2d(weights, **options))


def test_windows_may_go_on_by_several_elements():
    x, weights = (Tensor(numbers(*s)).realize() for s in ((1, 4, 12, 12), (4, 4, 3, 3)))
    (c,) = found(x.conv2d(weights, stride=(2, 3)))
    assert [w.step for w in c.windows] == [2, 3]
    assert not transformed(stride=2)


def test_products_of_rounded_numbers_stay_plain():
    x, weights = (Tensor(numbers(*s)).realize() for s in ((1, 4, 8, 8), (4, 4, 3, 3)))
    (c,) = found(x.bfloat16().conv2d(weights.bfloat16()))
    assert {c.data.dtype, c.weights.dtype} == {dtypes.bfloat16}
    assert not transformed(dtype=dtypes.bfloat16)


def transformed(
    target: Capabilities = TARGET, size: int = 28, window: int = 3, stride: int = 1,
    dtype: DType = dtypes.float32,
) -> bool:  # fmt: skip
    x = Tensor(numbers(2, 64, size, size)).cast(dtype).realize()
    weights = Tensor(numbers(64, 64, window, window)).cast(dtype).realize()
    value = x.conv2d(weights, stride=stride)
    before, after = (sums(value, target=t) for t in (None, target))
    return before != after


def test_it_is_done_where_it_is_faster():
    assert transformed()
    assert not transformed(size=5)
    assert not transformed(window=1)
    assert not transformed(dataclasses.replace(TARGET, bytes_per_second=1e9))
    assert not transformed(dataclasses.replace(TARGET, vector_bytes=0))
    with context(WINOGRAD=False):
        assert not transformed()


# Sizes that the tiles divide and do not; many tiles in an image and few.
@pytest.mark.parametrize(
    ("batch", "size", "window", "padding", "tile"),
    [(1, 16, 3, 1, 4), (2, 18, 3, 0, 2), (8, 7, 3, 1, 4), (2, 24, 5, 0, 4), (3, 9, 5, 3, 2)],
)
def test_results_and_gradients(
    batch: int, size: int, window: int, padding: int, tile: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(winograd, "_best", lambda found, *_: (tile,) * len(found.windows))
    x, weights = numbers(batch, 64, size, size), numbers(32, 64, window, window)
    x0, w0 = (Tensor(a).realize() for a in (x, weights))
    x0.requires_grad = w0.requires_grad = True
    y = x0.conv2d(w0, padding=padding)
    g = numbers(*y.shape)
    (dx,) = (y * Tensor(g).realize()).sum().gradient(x0)

    def close(actual: Tensor, expected: np.ndarray) -> None:
        error = np.abs(actual.numpy() - expected).max()
        assert error < 1e-4 * expected.std()

    close(y.relu() * 2 + 1, np.maximum(conv(x, weights, padding), 0) * 2 + 1)
    turned = weights.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
    close(dx, conv(g, turned, window - 1 - padding))


def test_a_chain_of_layers():
    x, first, last = numbers(1, 32, 28, 28), numbers(64, 32, 3, 3) / 17, numbers(64, 64, 3, 3) / 24
    hidden = Tensor(x).realize().conv2d(Tensor(first).realize(), padding=1).relu()
    result = (hidden.conv2d(Tensor(last).realize(), padding=1) + hidden).mean((2, 3))
    expected = np.maximum(conv(x, first, 1), 0)
    expected = (conv(expected.astype("float32"), last, 1) + expected).mean((2, 3))
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4, atol=1e-5)

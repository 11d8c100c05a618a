"""Convolution and pooling, with gradients, against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from comparison import compare, normal
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dovetile import Tensor
from dovetile.errors import ArgumentError, ShapeError
from dovetile.ir.ops import Op
from dovetile.ir.uop import toposort

pytestmark = pytest.mark.usefixtures("reference")

OPTIONS = [
    {}, {"padding": 1}, {"stride": 2, "padding": 1}, {"dilation": 2}, {"stride": (2, 3)},
    {"padding": (2, 0), "dilation": (1, 2)}, {"groups": 2}, {"groups": 4, "stride": 2},
    {"padding": "same"}, {"padding": "valid"}, {"stride": 3}, {"stride": 4},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_conv2d(options: dict) -> None:
    torch = pytest.importorskip("torch")
    weight = normal(8, 4 // options.get("groups", 1), 3, 3, seed=1)
    compare(
        lambda x, w, b: x.conv2d(w, b, **options), normal(2, 4, 9, 10), weight, normal(8, seed=2),
        torch_function=lambda x, w, b: torch.nn.functional.conv2d(x, w, b, **options),
    )  # fmt: skip


def test_other_ranks() -> None:
    functional = pytest.importorskip("torch").nn.functional
    compare(lambda x, w: x.conv1d(w, stride=2, padding=1), normal(2, 3, 8), normal(4, 3, 3),
            torch_function=lambda x, w: functional.conv1d(x, w, stride=2, padding=1))  # fmt: skip
    compare(lambda x, w: x.conv3d(w, padding=1), normal(1, 2, 4, 4, 4), normal(3, 2, 2, 2, 2),
            torch_function=lambda x, w: functional.conv3d(x, w, padding=1))  # fmt: skip
    compare(lambda x, w: x.conv2d(w), normal(3, 5, 5), normal(4, 3, 1, 1),
            torch_function=functional.conv2d)  # fmt: skip
    compare(lambda x, w: x.conv2d(w), normal(2, 3, 5, 7), normal(4, 3, 1, 3),
            torch_function=functional.conv2d)  # fmt: skip


@given(
    size=st.integers(1, 12), kernel=st.integers(1, 4), stride=st.integers(1, 4),
    dilation=st.integers(1, 3), padding=st.integers(0, 3),
)  # fmt: skip
@settings(max_examples=40)
def test_any_geometry(size: int, kernel: int, stride: int, dilation: int, padding: int) -> None:
    torch = pytest.importorskip("torch")
    assume(size + 2 * padding >= dilation * (kernel - 1) + 1)
    options = {"stride": stride, "dilation": dilation, "padding": padding}
    compare(
        lambda x, w: x.conv1d(w, **options), normal(1, 2, size), normal(2, 2, kernel, seed=1),
        torch_function=lambda x, w: torch.nn.functional.conv1d(x, w, **options),
    )  # fmt: skip


@pytest.mark.parametrize("options", [
    {}, {"stride": 2}, {"stride": 2, "padding": 1, "output_padding": 1}, {"dilation": 2},
    {"groups": 2}, {"padding": 2}, {"stride": 3, "groups": 2, "padding": 1},
], ids=str)  # fmt: skip
def test_transposed(options: dict) -> None:
    torch = pytest.importorskip("torch")
    compare(
        lambda x, w, b: x.conv_transpose2d(w, b, **options), normal(2, 4, 5, 6),
        normal(4, 3, 3, 3, seed=1), normal(3 * options.get("groups", 1), seed=2),
        torch_function=lambda x, w, b: torch.nn.functional.conv_transpose2d(x, w, b, **options),
    )  # fmt: skip


POOLS = [(2, {}), (3, {"stride": 2}), (3, {"stride": 1, "padding": 1}), (2, {"stride": 3}),
         ((2, 3), {}), (3, {"stride": 2, "ceil_mode": True}), (2, {"ceil_mode": True})]  # fmt: skip


@pytest.mark.parametrize(("kernel", "options"), POOLS, ids=str)
def test_pooling(kernel, options: dict) -> None:
    functional = pytest.importorskip("torch").nn.functional
    x = normal(2, 3, 7, 8)
    compare(lambda x: x.max_pool2d(kernel, **options), x,
            torch_function=lambda x: functional.max_pool2d(x, kernel, **options))  # fmt: skip
    compare(lambda x: x.avg_pool2d(kernel, **options), x,
            torch_function=lambda x: functional.avg_pool2d(x, kernel, **options))  # fmt: skip


def test_pooling_variants() -> None:
    functional = pytest.importorskip("torch").nn.functional
    x = normal(2, 3, 8, 8)
    compare(lambda x: x.max_pool2d(2, dilation=2, stride=1), x,
            torch_function=lambda x: functional.max_pool2d(x, 2, dilation=2, stride=1))  # fmt: skip
    compare(lambda x: x.avg_pool2d(3, 2, 1, count_include_pad=False), x,
            torch_function=lambda x: functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False))  # fmt: skip # noqa: E501
    compare(lambda x: x.adaptive_avg_pool2d((2, 4)), x,
            torch_function=lambda x: functional.adaptive_avg_pool2d(x, (2, 4)))  # fmt: skip
    compare(lambda x: x.max_pool1d(2), normal(2, 3, 6),
            torch_function=lambda x: functional.max_pool1d(x, 2))  # fmt: skip


def test_ties_in_a_window_share_the_gradient() -> None:
    x = Tensor(np.zeros((1, 1, 2, 2)), requires_grad=True)
    x.max_pool2d(2).sum().backward()
    assert x.grad.tolist() == [[[[0.25, 0.25], [0.25, 0.25]]]]


def test_windows_side_by_side_are_only_reshaped() -> None:
    nodes = toposort(Tensor.zeros(2, 3, 8, 8).max_pool2d(2).uop)
    assert all(node.op is not Op.INDEX for node in nodes)


def test_gradients_of_windows_scatter_nothing() -> None:
    x = Tensor(normal(1, 2, 8, 8), requires_grad=True)
    x.conv2d(Tensor(normal(2, 2, 3, 3)), stride=2).sum().backward()
    assert not any(n.op is Op.STORE for n in toposort(x.grad.uop))


def test_second_order() -> None:
    torch = pytest.importorskip("torch")
    x, w = normal(1, 2, 5, 5), normal(2, 2, 3, 3, seed=1)
    ours = Tensor(x, requires_grad=True)
    (first,) = ours.conv2d(Tensor(w)).tanh().sum().gradient(ours)
    (second,) = (first * first).sum().gradient(ours)
    theirs = torch.tensor(x, requires_grad=True)
    value = torch.nn.functional.conv2d(theirs, torch.tensor(w)).tanh().sum()
    (expected,) = torch.autograd.grad(value, theirs, create_graph=True)
    (expected,) = torch.autograd.grad((expected * expected).sum(), theirs)
    np.testing.assert_allclose(second.numpy(), expected.numpy(), rtol=1e-9, atol=1e-12)


def test_errors() -> None:
    x = Tensor.ones(2, 4, 8, 8)
    with pytest.raises(ShapeError, match=r"\[conv2d\] input \(2, 4, 8, 8\), weight \(8, 3, 3, 3\)"):
        x.conv2d(Tensor.ones(8, 3, 3, 3))
    with pytest.raises(ShapeError, match="must fit"):
        x.conv2d(Tensor.ones(8, 4, 9, 9))
    with pytest.raises(ArgumentError, match="stride"):
        x.conv2d(Tensor.ones(8, 4, 3, 3), stride=0)
    with pytest.raises(ArgumentError, match="'same' with stride"):
        x.conv2d(Tensor.ones(8, 4, 3, 3), stride=2, padding="same")
    with pytest.raises(ArgumentError, match=r"\[max_pool2d\] padding"):
        x.max_pool2d(2, padding=2)
    with pytest.raises(ShapeError, match=r"\[max_pool2d\] shape"):
        Tensor.ones(4).max_pool2d(2)

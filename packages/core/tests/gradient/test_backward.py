"""The reverse pass: against PyTorch, second order, long chains, and numerical differences."""

from __future__ import annotations

import numpy as np
import pytest
from comparison import compare, normal
from hypothesis import given, settings
from hypothesis import strategies as st

import dovetile
from dovetile import Tensor, dtypes
from dovetile.errors import GradientError
from dovetile.ir.uop import toposort

pytestmark = pytest.mark.usefixtures("reference")


def test_gradient_of_several_targets() -> None:
    x, y = Tensor([2.0], requires_grad=True), Tensor([3.0], requires_grad=True)
    z = x * y
    loss = (z * z).sum()
    by_x, by_z, by_none = loss.gradient(x, z, Tensor([1.0]))
    assert by_x.tolist() == [36.0] and by_z.tolist() == [12.0] and by_none.tolist() == [0.0]
    assert x.grad is None
    assert dovetile.grad(loss, y).tolist() == [24.0]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x * x * x).sum(), lambda x: x.exp().sum(), lambda x: x.tanh().sum(),
        lambda x: x.sigmoid().log().sum(), lambda x: x.softmax(0).square().sum(),
        lambda x: x.log_softmax(0)[1], lambda x: (x.sin() / (x.abs() + 2)).sum(),
        lambda x: x.cos().sum(), lambda x: x.erf().sum(), lambda x: x.square().sum().sqrt(),
        lambda x: (x @ x.reshape(5, 1)).sum(), lambda x: (x[[0, 0, 1]] ** 3).sum(),
        lambda x: x.cumsum(0).square().sum(),
    ],
)  # fmt: skip
def test_second_order(function) -> None:
    torch = pytest.importorskip("torch")
    array = normal(5)
    x = Tensor(array, requires_grad=True)
    (first,) = function(x).gradient(x)
    (second,) = first.sin().sum().gradient(x)
    theirs = torch.tensor(array, requires_grad=True)
    (expected,) = torch.autograd.grad(function(theirs), theirs, create_graph=True)
    np.testing.assert_allclose(first.numpy(), expected.detach().numpy(), rtol=1e-9, atol=1e-12)
    (expected,) = torch.autograd.grad(expected.sin().sum(), theirs)
    np.testing.assert_allclose(second.numpy(), expected.numpy(), rtol=1e-9, atol=1e-12)


def test_long_chains_need_no_recursion() -> None:
    x = Tensor([1.0], requires_grad=True)
    y = x
    for _ in range(20_000):
        y = y + 1.0
    y.backward()
    assert x.grad.tolist() == [1.0]


def test_shared_parts_are_visited_once() -> None:
    x = Tensor(np.array([1.0]), requires_grad=True)
    y = x
    for _ in range(60):  # 2**60 paths
        y = (y + y) * 0.5
    y.backward()
    assert x.grad.tolist() == [1.0]
    assert len(toposort(x.grad.uop)) < 1000


OPERATIONS = [
    lambda x: x * 1.5, lambda x: x.tanh(), lambda x: x.transpose(0, 1), lambda x: x.flip(0),
    lambda x: x + x.sum(0, keepdim=True), lambda x: x / (x.square() + 1), lambda x: x[1:],
    lambda x: x @ x.mT @ x, lambda x: x.softmax(-1), lambda x: x.amax(0, keepdim=True) - x,
    lambda x: dovetile.cat([x, x * 2], 0) if isinstance(x, Tensor) else _cat(x),
]  # fmt: skip


def _cat(x):
    torch = pytest.importorskip("torch")
    return torch.cat([x, x * 2], 0)


@given(st.lists(st.integers(0, len(OPERATIONS) - 1), min_size=1, max_size=5))
@settings(max_examples=40)
def test_random_chains(steps: list[int]) -> None:
    def function(x):
        for step in steps:
            if min(x.shape) > 1 or step != 6:
                x = OPERATIONS[step](x)
        return x

    compare(function, normal(3, 2), rtol=1e-7, atol=1e-7)


def test_products_of_small_floats_are_not_rounded_before_they_are_summed() -> None:
    """Each product is 1.0039, which rounds to 1; the sum rounds to 386."""
    x = Tensor(np.full((384, 1), 1 + 1 / 128, np.float32)).bfloat16()
    w = Tensor.ones(1, 2, dtype=dtypes.bfloat16, requires_grad=True)
    upstream = Tensor(np.full((384, 2), 1 - 1 / 256, np.float32)).bfloat16()
    (gradient,) = (x @ w).gradient(w, gradient=upstream)
    assert gradient.float().tolist() == [[386.0, 386.0]]


def test_half_precision() -> None:
    x = Tensor.ones(3000, dtype=dtypes.float16, requires_grad=True)
    y = Tensor.ones(1, dtype=dtypes.float16, requires_grad=True)
    (x * y).sum().backward()
    assert x.grad.dtype is dtypes.float16 and y.grad.tolist() == [3000.0]


def test_gradients_through_devices() -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    (x.to("OTHER") * 3).sum().backward()
    assert x.grad.tolist() == [3.0, 3.0] and x.grad.device == x.device


def test_writes_without_a_gradient() -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = (x * 1).scatter(0, Tensor([0, 0]), x, "amax")
    with pytest.raises(GradientError, match="MAX"):
        y.sum().backward()

"""Reductions against PyTorch, with empty axes, ties, NaN and half precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
from comparison import compare, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetile import Tensor, dtypes
from dovetile.errors import ArgumentError, DTypeError, IndexOutOfRangeError, ShapeError

pytestmark = pytest.mark.usefixtures("reference")

DIMS = [None, 0, 1, -1, (0, 2), (0, 1, 2)]


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("name", ["sum", "mean", "amax", "amin", "var", "std", "logsumexp"])
def test_reductions(name: str, dim, keepdim: bool) -> None:
    if name == "logsumexp" and dim is None:
        dim = (0, 1, 2)
    if dim is None and name in ("amax", "amin"):
        dim = (0, 1, 2)
    compare(lambda x: getattr(x, name)(dim=dim, keepdim=keepdim), normal(3, 4, 5))


def test_products_with_zeros() -> None:
    array = np.array([[2.0, 3.0, 4.0], [0.0, 3.0, 4.0], [0.0, 3.0, 0.0]])
    compare(lambda x: x.prod(1), array)
    compare(lambda x: x.prod(0), array)
    compare(lambda x: x.prod(), array)


def test_result_dtypes_follow_torch() -> None:
    torch = pytest.importorskip("torch")
    for name in ("bool", "uint8", "int32", "int64", "float16", "float32"):
        array = np.array([[1, 0], [1, 1]]).astype(name)
        ours, theirs = Tensor(array), torch.tensor(array)
        for method in ("sum", "prod", "argmax", "amax", "all", "any", "count_nonzero"):
            if name == "bool" and method == "argmax":
                continue
            a, b = getattr(ours, method)(), getattr(theirs, method)()
            expected = str(b.dtype).removeprefix("torch.")
            if method in ("all", "any") and name == "uint8":  # PyTorch's exception for uint8
                expected = "bool"
            assert a.dtype.name == expected
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    with pytest.raises(DTypeError, match=r"\[mean\] dtype int64"):
        Tensor([1, 2]).mean()


def test_half_precision_adds_up_in_float32() -> None:
    assert Tensor.ones(5000, dtype=dtypes.float16).sum().item() == 5000
    assert Tensor.ones(3, 300, dtype=dtypes.bfloat16).sum(1).tolist() == [300.0] * 3


def test_empty_axes() -> None:
    empty = Tensor.zeros(0, 3)
    assert empty.sum(0).tolist() == [0.0] * 3 and empty.prod(0).tolist() == [1.0] * 3
    assert np.isnan(empty.mean(0).numpy()).all() and np.isnan(empty.mean().numpy())
    assert empty.sum(1).shape == (0,) and empty.all().item() and not empty.any().item()
    with pytest.raises(ShapeError, match=r"\[amax\]"):
        empty.amax(0)
    with pytest.raises(ShapeError, match=r"\[argmin\]"):
        empty.argmin(0)
    assert empty.amax(1).shape == (0,)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_positions(name: str) -> None:
    array = np.array([[1.0, 5.0, 5.0, 0.0, 0.0], [2.0, math.nan, 9.0, -1.0, math.nan]])
    for dim in (None, 0, 1):
        compare(lambda x, d=dim: getattr(x, name)(d), array, gradients=False)
    compare(lambda x: getattr(x, name)(1, keepdim=True), array, gradients=False)


def test_max_along_an_axis_gives_values_and_indices() -> None:
    values, indices = Tensor([[1.0, 3.0], [4.0, 2.0]]).max(1)
    assert values.tolist() == [3.0, 4.0] and indices.tolist() == [1, 0]
    assert Tensor([[1.0, 3.0]]).min().item() == 1.0


def test_extremes_propagate_nan() -> None:
    assert math.isnan(Tensor([1.0, math.nan, 3.0]).amax().item())


def test_ties_share_the_gradient() -> None:
    compare(lambda x: x.amax(1), np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]))


@pytest.mark.parametrize("p", [0, 1, 2, 3, 0.5, math.inf, -math.inf])
def test_norms(p: float) -> None:
    torch = pytest.importorskip("torch")
    compare(
        lambda x: x.norm(p, 1), normal(3, 4),
        torch_function=lambda x: torch.linalg.vector_norm(x, p, 1), gradients=p not in (0,),
    )  # fmt: skip


def test_logsumexp_of_large_values() -> None:
    array = np.array([[1000.0, 1000.0], [-math.inf, -math.inf], [-1000.0, 0.0], [math.inf, 0.0]])
    compare(lambda x: x.logsumexp(1), array, gradients=False)


@given(st.integers(0, 300), st.integers(0, 2))
@settings(max_examples=30)
def test_cumulative_sums(size: int, axis: int) -> None:
    shape = [2, 2, 2]
    shape[axis] = size
    array = normal(*shape)
    np.testing.assert_allclose(
        Tensor(array).cumsum(axis).numpy(), np.cumsum(array, axis), rtol=1e-9, atol=1e-12
    )


def test_cumulative_sum_gradient() -> None:
    compare(lambda x: x.cumsum(1), normal(2, 70))
    assert Tensor([1, 2, 3]).cumsum(0).tolist() == [1, 3, 6]


def test_errors() -> None:
    x = Tensor.ones(2, 3)
    with pytest.raises(IndexOutOfRangeError, match=r"\[sum\] dim 2"):
        x.sum(2)
    with pytest.raises(ShapeError, match="twice"):
        x.sum((0, -2))
    with pytest.raises(ArgumentError, match=r"\[norm\]"):
        x.norm("nuc")

"""Tensors of no elements and of no dims, NaN and infinity: the same as in NumPy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from dovetile import Tensor

BOTH = {
    "arithmetic": lambda x: x * 2 + 1,
    "sum": lambda x: x.sum(),
    "prod": lambda x: x.prod(),
    "mean": lambda x: x.mean(),
    "any": lambda x: x.any(),
    "flat": lambda x: x.reshape(-1),
    "new dim": lambda x: x[..., None],
}
OF_NOTHING = {
    "cumsum": (lambda x: x.cumsum(-1), lambda x: x.cumsum(-1)),
    "softmax": (lambda x: x.softmax(-1), lambda x: x),
    "cat": (lambda x: Tensor.cat([x, x]), lambda x: np.concatenate([x, x])),
    "pad": (lambda x: x.pad((1, 1)), lambda x: np.pad(x, ((0, 0),) * (x.ndim - 1) + ((1, 1),))),
    "product": (lambda x: x @ x.mT, lambda x: x @ x.swapaxes(-1, -2)),
    "inner": (lambda x: x.mT @ x, lambda x: x.swapaxes(-1, -2) @ x),
    "sort": (lambda x: x.sort(-1)[0], lambda x: np.sort(x, -1)),
    "nonzero": (lambda x: x.nonzero(), lambda x: np.argwhere(x)),
    "clone": (lambda x: x.clone(), lambda x: x),
    "assign": (lambda x: x.clone().assign(x + 1), lambda x: x + 1),
    "random": (lambda x: Tensor.rand(*x.shape), lambda x: x),
}


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3)])
@pytest.mark.parametrize("name", BOTH)
def test_shapes_of_nothing_and_no_dims(name, shape):
    x = np.zeros(shape, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.asarray(BOTH[name](x))
    result = BOTH[name](Tensor(x)).numpy()
    assert result.shape == expected.shape
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (2, 0, 3), (2, 3, 0)])
@pytest.mark.parametrize("name", OF_NOTHING)
def test_operations_on_nothing(name, shape):
    compute, reference = OF_NOTHING[name]
    x = np.zeros(shape, np.float32)
    result, expected = compute(Tensor(x)).numpy(), reference(x)
    assert result.shape == expected.shape
    np.testing.assert_array_equal(result, expected)


def test_nothing_beside_something():
    empty, full = np.zeros((0, 4), np.float32), np.arange(8, dtype=np.float32).reshape(2, 4)
    joined = Tensor.cat([(Tensor(empty) * 2).reshape(4, 0).permute(1, 0), Tensor(full)])
    np.testing.assert_array_equal(joined.numpy(), full)
    np.testing.assert_array_equal(Tensor(full)[Tensor(full).sum(1) > 99].numpy(), empty)
    x = Tensor(full)
    x[1:1] = 7
    x[x > 99] = 7
    np.testing.assert_array_equal(x.numpy(), full)


def test_gradients_of_nothing():
    x = Tensor(np.zeros((2, 0, 3), np.float32), requires_grad=True)
    (x * 3).sum().backward()
    assert x.grad is not None and x.grad.numpy().shape == (2, 0, 3)


SPECIAL = {
    "arithmetic": lambda m, x: x * 2 - 1,
    "order": lambda m, x: x < x[::-1] if m is np else x < x.flip(0),
    "equal": lambda m, x: x == x,
    "divide": lambda m, x: x / x,
    "exp": lambda m, x: m.exp(x),
    "log": lambda m, x: m.log(x),
    "sqrt": lambda m, x: m.sqrt(x),
    "tanh": lambda m, x: m.tanh(x),
    "sum": lambda m, x: x.sum(),
    "isnan": lambda m, x: m.isnan(x),
    "isinf": lambda m, x: m.isinf(x),
    "abs": lambda m, x: m.abs(x),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("name", SPECIAL)
def test_special_values(name, dtype):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, np.finfo(dtype).max], dtype)
    with np.errstate(all="ignore"):
        expected = SPECIAL[name](np, x)
    np.testing.assert_allclose(SPECIAL[name](Tensor, Tensor(x)).numpy(), expected, rtol=1e-3)
